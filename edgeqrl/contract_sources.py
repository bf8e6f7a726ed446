"""What environments, the known ones among them, spaces and heads say for a contract."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from math import isfinite, prod
from typing import TYPE_CHECKING, Any

from edgeqrl.network.parts import ObservationPart
from firmware_export.contract import (
    PERIODS,
    ContractFacts,
    FailSafe,
    Feature,
    default_features,
    float32,
)

if TYPE_CHECKING:
    from edgeqrl.agents.heads import Head

_SKIPS = ("_skip", "skip", "frame_skip", "_frame_skip")  # how wrappers call the times an action is repeated


@dataclass(frozen=True)
class Actions:
    """Of a space or a head: the discrete actions, or the numbers of another one."""

    kind: str  # as of ContractAction
    start: int  # of a discrete one
    features: tuple[Feature, ...]

    def fits(self, other: "Actions") -> bool:
        """Tell whether these are of the same kind and number."""
        return (self.kind, len(self.features)) == (other.kind, len(other.features))


def environment_facts(
    env: Any, parts: Sequence[ObservationPart] | None = None
) -> tuple[ContractFacts, Actions | None]:
    """Return what an open environment says of itself, and what is known of it by its name.

    parts  of the observation that the policy takes; None: all that the space has
    """
    from edgeqrl.environments import environment_name

    name = environment_name(env)
    features = _space_features(env.observation_space, parts)
    actions = actions_of_space(env.action_space)
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
    """Tell whether observations and actions pass all wrappers, all of Gymnasium's own, as they are."""
    from edgeqrl.wrappers import NEUTRAL, treatment_of

    while env is not env.unwrapped:
        if not type(env).__module__.startswith("gymnasium.") or treatment_of(type(env)).kind != NEUTRAL:
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


def _space_features(space: Any, parts: Sequence[ObservationPart] | None) -> tuple[Feature, ...] | None:
    """Return unnamed features with the bounds of an observation space; of the least and greatest in each."""
    from edgeqrl.errors import UsageError
    from edgeqrl.spaces import observation_parts, part_bounds

    try:
        known = {part.name: part for part in observation_parts(space)}
    except UsageError:
        known = {}  # whoever loads the agent says what is wrong with it
    wanted: Sequence[ObservationPart] = list(known.values()) if parts is None else parts
    if not wanted or not known or any(prod(part.shape) == 0 for part in wanted):
        return None
    found: list[Feature] = []
    for part in wanted:
        unnamed = default_features(tuple(part.shape), "obs" if len(wanted) == 1 else part.name)
        raw = known.get(part.name)
        is_same = raw is not None and raw.shape == tuple(part.shape)
        found += _with_bounds(unnamed, *part_bounds(space)[part.name]) if is_same else unnamed
    return tuple(found)


def _with_bounds(unnamed: tuple[Feature, ...], *ends: Any) -> list[Feature]:
    columns = len(unnamed)
    low, high = (end.reshape(-1, columns) for end in ends)
    pairs = zip(unnamed, low.min(axis=0).tolist(), high.max(axis=0).tolist(), strict=True)
    return [replace(feature, low=_bound(a), high=_bound(b)) for feature, a, b in pairs]


def _bound(value: float) -> float | None:
    """Return a bound as float32; None where it is none, or so large that it is meant as none."""
    return float32(value) if abs(value) < 3e38 else None


def actions_of_space(space: Any) -> Actions | None:
    """Return what an action space says; None of a space whose actions no policy gives."""
    from edgeqrl.spaces import class_counts, class_starts

    kind = type(space).__name__
    if kind == "Discrete":
        return _discrete(int(space.n), int(getattr(space, "start", 0)))
    counts = class_counts(space)
    if counts:
        starts = [int(start) for start in class_starts(space)]
        return _several("multi_binary" if kind == "MultiBinary" else "multi_discrete", counts, starts)
    if kind != "Box" or prod(space.shape) == 0:
        return None
    return _continuous(space.low.ravel().tolist(), space.high.ravel().tolist())


def actions_of_head(head: "Head") -> Actions:
    """Return what a head says of its actions."""
    from edgeqrl.agents import heads

    if isinstance(head, heads.DiscreteHead):
        if head.is_single:
            return _discrete(head.counts[0], head.starts[0])
        return _several("multi_discrete", head.counts, head.starts)
    if isinstance(head, heads.MultiBinaryHead):
        return _several("multi_binary", (2,) * head.num_outputs, (0,) * head.num_outputs)
    if isinstance(head, heads.ValueHead):
        return Actions("value", 0, tuple(map(Feature, head.names)))
    assert isinstance(head, heads.BoxHead | heads.GaussianHead)
    return _continuous(head.low, head.high)


def _several(kind: str, counts: Sequence[int], starts: Sequence[int]) -> Actions:
    pairs = enumerate(zip(counts, starts, strict=True))
    features = (Feature(f"action_{i}", None, float(a), float(a + n - 1)) for i, (n, a) in pairs)
    return Actions(kind, 0, tuple(features))


def _discrete(count: int, start: int) -> Actions:
    return Actions("discrete", start, tuple(Feature(f"action_{i}") for i in range(count)))


def _continuous(low: Sequence[float], high: Sequence[float]) -> Actions:
    bounds = enumerate(zip(low, high, strict=True))
    features = (Feature(f"action_{i}", None, _bound(a), _bound(b)) for i, (a, b) in bounds)
    return Actions("continuous", 0, tuple(features))
