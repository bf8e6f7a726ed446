"""What is known of a policy's world: from its environment, the known ones, a contract file and options."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from math import isfinite, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeqrl.errors import DataError, UsageError
from firmware_export.contract import (
    FAIL_SAFE_FORMS,
    PERIODS,
    ContractFacts,
    FailSafe,
    Feature,
    counted,
    default_features,
    feature_unit,
    float32,
    num_features,
    require_fail_safe_fits,
)

if TYPE_CHECKING:
    from edgeqrl.agents.heads import Head
    from edgeqrl.environments import MakeEnv

_FILE_KEYS = {"control_period_s", "observation_timeout_s", "fail_safe", "observation", "action"}
# Wrappers through which observations and actions pass as they are.
_TRANSPARENT = {
    "Autoreset",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "RecordEpisodeStatistics",
    "RecordVideo",
    "TimeLimit",
}
_SKIPS = ("_skip", "skip", "frame_skip", "_frame_skip")  # how wrappers call the times an action is repeated


@dataclass(frozen=True)
class ContractOptions:
    """What a user states: --contract, --control-period and --fail-safe; checked when it is made."""

    file: str | Path | None = None
    control_period_s: float | None = None
    fail_safe: str | FailSafe | None = None

    def __post_init__(self) -> None:
        if self.control_period_s is not None:
            _seconds(self.control_period_s, "--control-period")
        if isinstance(self.fail_safe, str):
            FailSafe.parse(self.fail_safe)

    def __bool__(self) -> bool:
        """Tell whether anything is stated."""
        return self != ContractOptions()


def contract_facts(
    make_env: "MakeEnv | None",
    options: ContractOptions,
    *,
    observation_shape: Sequence[int] | None = None,
    head: "Head | None" = None,
) -> ContractFacts:
    """Gather what is known; raise UsageError where options or the file do not fit.

    Without a head and a shape, both are those of the environment, so that faults are found before an agent
    is loaded.
    """
    if make_env is None:
        actions = None if head is None else _actions_of_head(head)
        features = None if observation_shape is None else default_features(tuple(observation_shape))
        return _overridden(ContractFacts(features=features), options, actions)
    from edgeqrl.environments import open_environment

    env = open_environment(make_env)
    try:
        facts, actions = _environment_facts(env)
    finally:
        env.close()
    return _overridden(facts, options, actions)


def override(facts: ContractFacts, options: ContractOptions, head: "Head") -> ContractFacts:
    """Return `facts` with what `options` state in their place; raise UsageError where it does not fit."""
    actions = _actions_of_head(head)
    return _overridden(facts, options, replace(actions, features=facts.actions or actions.features))


def require_fail_safe(facts: ContractFacts) -> None:
    """Raise UsageError without a fail-safe and a time after which it acts: firmware drives actuators."""
    if facts.fail_safe is None:
        known = f"; of '{facts.env_id}' none is known" if facts.env_id else ""
        raise UsageError(
            "Firmware drives actuators, so it needs a fail-safe for when observations stop, come later than "
            f"the timeout or make no sense{known}. Say it with --fail-safe {FAIL_SAFE_FORMS}."
        )
    if facts.control_period_s is None and facts.observation_timeout_s is None:
        raise UsageError(
            f"The fail-safe {facts.fail_safe} needs to know when an observation is overdue: say how often "
            "the step runs with --control-period SECONDS, or observation_timeout_s in a contract file."
        )


@dataclass(frozen=True)
class _Actions:
    kind: str
    start: int
    features: tuple[Feature, ...]


def _environment_facts(env: Any) -> tuple[ContractFacts, _Actions | None]:
    """Return what an open environment says of itself, and what is known of it by its name."""
    from edgeqrl.environments import environment_name

    name = environment_name(env)
    features = _space_features(env.observation_space)
    actions = _actions_of_space(env.action_space)
    sources = {} if features is None else {"observation": "observation space"}
    if actions is not None:
        sources["action"] = "action space"
    fail_safe = None
    known = None if actions is None else _known(name, actions.kind)
    if known is not None and actions is not None and _is_transparent(env):
        if features is not None and len(features) == len(known["observation"]):
            features = _named(features, known["observation"])
            sources["observation"] = f"observation space, names of {name}"
        if len(actions.features) == len(known["action"]):
            actions = replace(actions, features=_named(actions.features, known["action"]))
            fail_safe = FailSafe.parse(known["fail_safe"])
            sources["action"] = f"action space, names of {name}"
            sources["fail_safe"] = f"known of {name}"
    period, source = _control_period(env)
    if period is not None:
        sources["control_period_s"] = source
    facts = ContractFacts(
        env_id=name,
        control_period_s=period,
        features=features,
        actions=None if actions is None else actions.features,
        fail_safe=fail_safe,
        sources=sources,
    )
    return facts, actions


def _control_period(env: Any) -> tuple[float | None, str]:
    """Return the seconds of one step and where they come from."""
    metadata = getattr(env.unwrapped, "metadata", None) or {}
    rate: Any = metadata.get("render_fps") if isinstance(metadata, Mapping) else None
    candidates = [(_attribute(env.unwrapped, name), f"env.unwrapped.{name}") for name in ("tau", "dt")]
    candidates.append((1 / rate if _is_positive(rate) else None, "1 / metadata['render_fps']"))
    skip = _skipped_frames(env)
    for value, source in candidates:
        if _is_positive(value) and PERIODS[0] <= value * skip <= PERIODS[1]:
            seconds = float(f"{float(value) * skip:.9g}")
            return seconds, source if skip == 1 else f"{source}, times {skip} frames a step"
    return None, ""


def _attribute(env: Any, name: str) -> Any:
    try:
        return getattr(env, name, None)
    except Exception:  # a property of somebody's environment may raise anything
        return None


def _skipped_frames(env: Any) -> int:
    """Return how often wrappers repeat an action; what the environment itself repeats, its period counts."""
    frames = 1
    while env is not env.unwrapped:
        found = [vars(env)[name] for name in _SKIPS if name in vars(env)]
        if found and type(found[0]) is int and 1 <= found[0] <= 1000:
            frames *= found[0]
        env = env.env
    return frames


def _is_positive(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isfinite(float(value)) and float(value) > 0
    except (TypeError, ValueError, OverflowError):
        return False


def _is_transparent(env: Any) -> bool:
    while env is not env.unwrapped:
        if type(env).__name__ not in _TRANSPARENT or not type(env).__module__.startswith("gymnasium."):
            return False
        env = env.env
    return True


@cache
def known_environments() -> tuple[Mapping[str, Any], ...]:
    """Return the entries of known_environments.toml."""
    text = (files("edgeqrl") / "known_environments.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["environment"])


def _known(name: str, kind: str) -> Mapping[str, Any] | None:
    return next((e for e in known_environments() if name in e["ids"] and e["kind"] == kind), None)


def _named(features: tuple[Feature, ...], rows: Sequence[Sequence[str]]) -> tuple[Feature, ...]:
    return tuple(
        replace(feature, name=row[0], unit=row[1] if len(row) > 1 else None)
        for feature, row in zip(features, rows, strict=True)
    )


def _space_features(space: Any) -> tuple[Feature, ...] | None:
    """Return unnamed features with the bounds of an observation space; of the least and greatest in each."""
    import numpy as np

    shape = space.shape
    if shape is None or prod(shape) == 0:
        return None
    unnamed = default_features(tuple(shape))
    if not hasattr(space, "low"):
        return unnamed
    columns = len(unnamed)
    low, high = (
        np.broadcast_to(bound, shape).astype(np.float64).reshape(-1, columns)
        for bound in (space.low, space.high)
    )
    pairs = zip(unnamed, low.min(axis=0).tolist(), high.max(axis=0).tolist(), strict=True)
    return tuple(replace(feature, low=_bound(a), high=_bound(b)) for feature, a, b in pairs)


def _bound(value: float) -> float | None:
    """Return a bound as float32; None where it is none, or so large that it is meant as none."""
    return float32(value) if abs(value) < 3e38 else None


def _actions_of_space(space: Any) -> _Actions | None:
    kind = type(space).__name__
    if kind == "Discrete":
        return _discrete(int(space.n), int(getattr(space, "start", 0)))
    if kind != "Box" or prod(space.shape) == 0:
        return None
    return _continuous(space.low.ravel().tolist(), space.high.ravel().tolist())


def _actions_of_head(head: "Head") -> _Actions:
    from edgeqrl.agents.heads import DiscreteHead

    if isinstance(head, DiscreteHead):
        return _discrete(head.num_actions, head.start)
    return _continuous(head.low, head.high)


def _discrete(count: int, start: int) -> _Actions:
    return _Actions("discrete", start, tuple(Feature(f"action_{i}") for i in range(count)))


def _continuous(low: Sequence[float], high: Sequence[float]) -> _Actions:
    bounds = enumerate(zip(low, high, strict=True))
    features = (Feature(f"action_{i}", None, _bound(a), _bound(b)) for i, (a, b) in bounds)
    return _Actions("continuous", 0, tuple(features))


def _overridden(facts: ContractFacts, options: ContractOptions, actions: _Actions | None) -> ContractFacts:
    """Put the file's facts over what is known, and the options over both; then check what they say."""
    sources, place = dict(facts.sources), "--fail-safe"
    changes: dict[str, Any] = {}
    if options.file is not None:
        path = Path(options.file)
        stated = _read_file(path)
        where = f"contract file {path.name}"
        for name in ("control_period_s", "observation_timeout_s"):
            if name in stated:
                changes[name] = _seconds(stated[name], f"{name} in '{path}'")
                sources[name] = where
        if "fail_safe" in stated:
            changes["fail_safe"] = _fail_safe(stated["fail_safe"], path)
            sources["fail_safe"], place = where, f"fail_safe in '{path}':"
        if "observation" in stated:
            changes["features"] = _stated_features(stated["observation"], facts.features, "observation", path)
            sources["observation"] = where
        if "action" in stated:
            known = None if actions is None else actions.features
            changes["actions"] = _stated_features(stated["action"], known, "action", path)
            sources["action"] = where
    if options.control_period_s is not None:
        changes["control_period_s"], sources["control_period_s"] = (
            options.control_period_s,
            "--control-period",
        )
    if options.fail_safe is not None:
        text = options.fail_safe
        changes["fail_safe"] = FailSafe.parse(text) if isinstance(text, str) else text
        sources["fail_safe"] = place = "--fail-safe"
    if actions is not None:
        changes.setdefault("actions", actions.features)
    found = replace(facts, **changes, sources=sources)
    if found.fail_safe is not None and actions is not None:
        require_fail_safe_fits(found.fail_safe, actions.kind, changes["actions"], actions.start, place)
    _require_later(found)
    return found


def _require_later(facts: ContractFacts) -> None:
    """Raise UsageError where every observation would come too late."""
    period, timeout, sources = facts.control_period_s, facts.observation_timeout_s, facts.sources
    if period is not None and timeout is not None and timeout <= period:
        raise UsageError(
            f"observation_timeout_s of {timeout:g} s ({sources.get('observation_timeout_s', 'stated')}) "
            f"must be longer than the control period of {period:g} s "
            f"({sources.get('control_period_s', 'stated')}): every observation would count as lost."
        )


def _read_file(path: Path) -> dict[str, Any]:
    try:
        stated = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"Cannot read the contract file '{path}': {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"The contract file '{path}' is no TOML: {error}.") from error
    unknown = sorted(set(stated) - _FILE_KEYS)
    if unknown:
        keys = ", ".join(sorted(_FILE_KEYS))
        raise UsageError(f"The contract file '{path}' has a key '{unknown[0]}'; there are: {keys}.")
    return stated


def _stated_features(
    rows: Any, known: tuple[Feature, ...] | None, word: str, path: Path
) -> tuple[Feature, ...]:
    """Return features as the file's [[observation]] or [[action]] tables state them, over the known ones."""
    keys = {"name", "unit", "low", "high"} if word == "observation" else {"name", "unit"}
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"In '{path}', '{word}' must be tables [[{word}]], one for each.")
    if known is not None and len(rows) != len(known):
        raise UsageError(
            f"'{path}' has {counted(len(rows), 'table')} [[{word}]], but the policy has {len(known)}."
        )
    found = []
    for i, row in enumerate(rows):
        if set(row) - keys:
            reason = "; bounds of actions are the policy's own" if word == "action" else ""
            raise UsageError(
                f"[[{word}]] {i} in '{path}' has a key '{min(set(row) - keys)}'; there are: "
                f"{', '.join(sorted(keys))}{reason}."
            )
        before = Feature(f"{word}_{i}") if known is None else known[i]
        try:
            values: dict[str, Any] = dict(row)
            values |= {key: _stated_bound(row[key]) for key in ("low", "high") if key in row}
            found.append(replace(before, **values))
        except (TypeError, ValueError) as error:
            raise UsageError(f"[[{word}]] {i} in '{path}' is wrong: {error}.") from None
    _require_different(rows, found, word, path)
    return tuple(found)


def _require_different(rows: list[Any], found: list[Feature], word: str, path: Path) -> None:
    """Raise UsageError where a stated name is another one's, too: copied, and not changed."""
    first: dict[str, int] = {}
    for i, feature in enumerate(found):
        before = first.setdefault(feature.name, i)
        if before != i and ("name" in rows[i] or "name" in rows[before]):
            raise UsageError(f"[[{word}]] {before} and {i} in '{path}' are both called '{feature.name}'.")


def _stated_bound(value: Any) -> float | None:
    if type(value) not in (int, float) or value != value:
        raise ValueError(f"a bound must be a number, got {value!r}")
    return None if abs(value) == float("inf") else float32(value)


def _fail_safe(text: Any, path: Path) -> FailSafe:
    if not isinstance(text, str):
        raise UsageError(f"fail_safe in '{path}' must be text: {FAIL_SAFE_FORMS}.")
    return FailSafe.parse(text, f"fail_safe in '{path}':")


def _seconds(value: Any, what: str) -> float:
    if type(value) not in (int, float) or not PERIODS[0] <= value <= PERIODS[1]:
        raise UsageError(f"{what} must be {PERIODS[0]:g} to {PERIODS[1]:g} seconds, got {value!r}.")
    return float(value)


def require_shape(facts: ContractFacts, observation_shape: Sequence[int]) -> ContractFacts:
    """Return `facts` if its features are those of an observation; else raise UsageError."""
    shape = tuple(observation_shape)
    if facts.features is not None and len(facts.features) != num_features(shape):
        raise UsageError(
            f"The contract names {len(facts.features)} features, but observations of shape {list(shape)} "
            f"have {num_features(shape)} (per {feature_unit(shape)})."
        )
    return facts
