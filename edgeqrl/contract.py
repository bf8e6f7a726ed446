"""What is known of a policy's world: from its environment, the known ones, a contract file and options."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeqrl.contract_sources import (
    Actions,
    actions_of_head,
    environment_facts,
    known_environments,
)
from edgeqrl.errors import DataError, UsageError
from edgeqrl.network.parts import ObservationPart
from firmware_export.contract import (
    FAIL_SAFE_FORMS,
    PERIODS,
    ContractFacts,
    FailSafe,
    Feature,
    counted,
    feature_unit,
    float32,
    num_features,
    part_features,
    require_fail_safe_fits,
)

if TYPE_CHECKING:
    from edgeqrl.agents.heads import Head
    from edgeqrl.environments import MakeEnv

__all__ = [
    "ContractOptions",
    "contract_facts",
    "known_environments",
    "override",
    "require_fail_safe",
    "require_parts",
]

_FILE_KEYS = {"control_period_s", "observation_timeout_s", "fail_safe", "observation", "action"}


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
    parts: Sequence[ObservationPart] | None = None,
    head: "Head | None" = None,
) -> ContractFacts:
    """Gather what is known; raise UsageError where options or the file do not fit.

    Without a head, or without the parts of its observation, they are those of the environment, so that
    faults are found before an agent is loaded.
    """
    actions = None if head is None else actions_of_head(head)
    if make_env is None:
        features = None if parts is None else part_features(parts)
        facts = ContractFacts(features=features)
    else:
        from edgeqrl.environments import open_environment

        env = open_environment(make_env)
        try:
            facts, found = environment_facts(env, parts)
        finally:
            env.close()
        if actions is None or (found is not None and actions.fits(found)):
            actions = found
        else:  # the head acts otherwise than the space: what is known of actions is of no use
            kept = {name: said for name, said in facts.sources.items() if name not in ("action", "fail_safe")}
            facts = replace(facts, fail_safe=None, sources=kept)
    facts = replace(facts, is_value=actions is not None and actions.kind == "value")
    return _overridden(facts, options, actions)


def override(facts: ContractFacts, options: ContractOptions, head: "Head") -> ContractFacts:
    """Return `facts` with what `options` state in their place; raise UsageError where it does not fit."""
    actions = actions_of_head(head)
    return _overridden(facts, options, replace(actions, features=facts.actions or actions.features))


def require_fail_safe(facts: ContractFacts) -> None:
    """Raise UsageError without a fail-safe and a time after which it acts: firmware drives actuators.

    A value network has nothing to drive, and needs neither.
    """
    if facts.is_value:
        return
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


def _overridden(facts: ContractFacts, options: ContractOptions, actions: Actions | None) -> ContractFacts:
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


def require_parts(facts: ContractFacts, parts: Sequence[ObservationPart]) -> ContractFacts:
    """Return `facts` if its features are those of the parts of an observation; else raise UsageError."""
    shapes = [tuple(part.shape) for part in parts]
    expected = sum(map(num_features, shapes))
    if facts.features is None or len(facts.features) == expected:
        return facts
    if len(shapes) == 1:
        what = f"observations of shape {list(shapes[0])} have {expected} (per {feature_unit(shapes[0])})"
    else:
        what = f"the {len(shapes)} parts of an observation have {expected}"
    raise UsageError(f"The contract names {len(facts.features)} features, but {what}.")
