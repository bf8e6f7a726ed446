"""What is known of a policy's world, and its fail-safe: facts that a PolicyContract joins to its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, prod
from typing import Any, Self

import numpy as np

from edgeqrl.errors import UsageError
from edgeqrl.network.parts import ObservationPart

FAIL_SAFE_FORMS = "value:A[,B...] (a fixed action), hold:N (the last action, N steps at most), or disable"
PERIODS = (1e-6, 3600.0)  # of control, in seconds; a timeout may be as long as this, too
MOST_FEATURES = 256  # of a part, of which each has a name, bounds and a saturation counter of its own
MOST_HELD_STEPS = 65535
_LONGEST_NAME = 64


@dataclass(frozen=True)
class Feature:
    """One number of an observation or action, or one discrete action; None is unknown or unbounded."""

    name: str
    unit: str | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        for text in (self.name, self.unit):
            if text is not None and not (
                isinstance(text, str) and 1 <= len(text) <= _LONGEST_NAME and text.isprintable()
            ):
                raise ValueError(f"a name or unit must be 1 to {_LONGEST_NAME} printable characters")
        bounds = [value for value in (self.low, self.high) if value is not None]
        if not all(is_number(value) for value in bounds):
            raise ValueError(f"the bounds of '{self.name}' must be finite float32 numbers, or left out")
        if len(bounds) == 2 and bounds[0] > bounds[1]:
            raise ValueError(f"the bounds of '{self.name}' are not in order")

    def to_json(self) -> dict[str, Any]:
        """Return the feature as plain JSON values."""
        return {"name": self.name, "unit": self.unit, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """Invert `to_json`; other keys are passed over."""
        return cls(entry["name"], entry["unit"], entry["low"], entry["high"])


@dataclass(frozen=True)
class FailSafe:
    """What stands in for an action that may not be driven."""

    kind: str  # "value", "hold" or "disable"
    action: tuple[float, ...] = ()  # of kind value
    hold_steps: int = 0  # of kind hold

    def __post_init__(self) -> None:
        is_sound = {
            "value": len(self.action) > 0 and self.hold_steps == 0 and all(map(is_number, self.action)),
            "hold": not self.action
            and type(self.hold_steps) is int
            and 1 <= self.hold_steps <= MOST_HELD_STEPS,
            "disable": not self.action and self.hold_steps == 0,
        }
        if not is_sound.get(self.kind, False):
            raise ValueError(f"not a fail-safe: {self!r}")

    def __str__(self) -> str:
        """Return what --fail-safe takes."""
        if self.kind == "value":
            return "value:" + ",".join(f"{value:g}" for value in self.action)
        return f"hold:{self.hold_steps}" if self.kind == "hold" else "disable"

    @classmethod
    def parse(cls, text: str, place: str = "--fail-safe") -> Self:
        """Read what --fail-safe takes; raise UsageError, which names the `place` where it stands."""
        kind, colon, rest = text.partition(":")
        try:
            if kind == "value" and colon:
                return cls("value", tuple(float32(float(value)) for value in rest.split(",")))
            if kind == "hold" and rest.isascii() and rest.isdecimal() and len(rest) < 6:
                return cls("hold", hold_steps=int(rest))
            if text == "disable":
                return cls("disable")
        except (ValueError, OverflowError):
            pass
        limit = f"; N is 1 to {MOST_HELD_STEPS}" if kind == "hold" else ""
        raise UsageError(f"{place} {text[:80]!r} is not one of its forms: {FAIL_SAFE_FORMS}{limit}.")

    def to_json(self) -> dict[str, Any]:
        """Return the fail-safe as plain JSON values."""
        return {
            "kind": self.kind,
            "action": list(self.action) or None,
            "hold_steps": self.hold_steps or None,
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Invert `to_json`; raise KeyError, TypeError or ValueError for anything else."""
        return cls(data["kind"], tuple(data["action"] or ()), data["hold_steps"] or 0)


@dataclass(frozen=True)
class ContractFacts:
    """What is known of a policy's world, before its network; None where nothing is."""

    env_id: str | None = None
    control_period_s: float | None = None
    observation_timeout_s: float | None = None  # by default twice the control period
    features: tuple[Feature, ...] | None = None  # `num_features` of each part's shape, part after part
    actions: tuple[Feature, ...] | None = None  # one a discrete action, or one a number of the action
    fail_safe: FailSafe | None = None
    sources: Mapping[str, str] = field(default_factory=dict)  # where each fact came from
    is_value: bool = False  # the policy gives a value to be read, and nothing to drive

    def __post_init__(self) -> None:
        for name in ("control_period_s", "observation_timeout_s"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and PERIODS[0] <= value <= PERIODS[1]):
                raise ValueError(f"{name} must be {PERIODS[0]:g} to {PERIODS[1]:g} s, got {value}")
        if self.env_id is not None and not isinstance(self.env_id, str):
            raise ValueError(f"env_id must be text, got {self.env_id!r}")
        if type(self.is_value) is not bool:
            raise ValueError("is_value is true or false")
        if not all(isinstance(part, str) for pair in self.sources.items() for part in pair):
            raise ValueError("sources must be text")

    def to_json(self) -> dict[str, Any]:
        """Return the facts as plain JSON values."""
        return {
            "env_id": self.env_id,
            "control_period_s": self.control_period_s,
            "observation_timeout_s": self.observation_timeout_s,
            "features": _list_or_none(self.features),
            "actions": _list_or_none(self.actions),
            "fail_safe": None if self.fail_safe is None else self.fail_safe.to_json(),
            "sources": dict(self.sources),
            "is_value": self.is_value,
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Invert `to_json`; raise AttributeError, KeyError, TypeError or ValueError for anything else."""
        values = dict(data)
        for name in ("features", "actions"):
            if values[name] is not None:
                values[name] = tuple(Feature(**entry) for entry in values[name])
        if values["fail_safe"] is not None:
            values["fail_safe"] = FailSafe.from_json(values["fail_safe"])
        return cls(**{**values, "sources": dict(values["sources"])})


def num_features(shape: tuple[int, ...]) -> int:
    """Count the features of an observation: each has a name, bounds and a saturation counter."""
    return {"element": prod(shape), "last axis": shape[-1] if shape else 1, "all": 1}[feature_unit(shape)]


def feature_unit(shape: tuple[int, ...]) -> str:
    """Say what a feature is: an element, else of the last axis, else all elements are one."""
    if prod(shape) <= MOST_FEATURES:
        return "element"
    return "last axis" if shape[-1] <= MOST_FEATURES else "all"


def default_features(shape: tuple[int, ...], prefix: str = "obs") -> tuple[Feature, ...]:
    """Return features of which nothing is known."""
    return tuple(Feature(f"{prefix}_{i}") for i in range(num_features(shape)))


def part_features(parts: Sequence[ObservationPart]) -> tuple[Feature, ...]:
    """Return features of parts of which nothing is known."""
    prefixes = ["obs"] if len(parts) == 1 else [part.name for part in parts]
    pairs = zip(parts, prefixes, strict=True)
    return tuple(feature for part, prefix in pairs for feature in default_features(part.shape, prefix))


def require_fail_safe_fits(
    fail_safe: FailSafe,
    action_kind: str,
    actions: tuple[Feature, ...],
    start: int,
    place: str = "--fail-safe",
) -> None:
    """Raise UsageError, which names `place`, unless the policy could take the fail-safe's action itself."""
    if fail_safe.kind != "value":
        return
    expected = 1 if action_kind == "discrete" else len(actions)
    if len(fail_safe.action) != expected:
        raise UsageError(
            f"{place} {fail_safe} states {counted(len(fail_safe.action), 'number')}, but an action has "
            f"{expected}."
        )
    if action_kind == "discrete":
        last = start + len(actions) - 1
        if not (fail_safe.action[0].is_integer() and start <= fail_safe.action[0] <= last):
            raise UsageError(f"{place} {fail_safe} is none of the actions {start} to {last}.")
        return
    if action_kind != "continuous" and not all(value.is_integer() for value in fail_safe.action):
        raise UsageError(f"{place} {fail_safe} must be whole numbers: the action is {action_kind}.")
    for value, action in zip(fail_safe.action, actions, strict=True):
        low = -np.inf if action.low is None else action.low
        high = np.inf if action.high is None else action.high
        if not low <= value <= high:
            raise UsageError(
                f"{place} {fail_safe} lies outside the action's bounds: '{action.name}' is {low:g} to "
                f"{high:g}."
            )


def float32(value: float) -> float:
    """Return the float32 nearest to a finite `value`, with the fewest digits; raise ValueError beyond it."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    if not np.isfinite(single):
        raise ValueError(f"{value} is no finite float32")
    return float(str(single))


def is_number(value: Any) -> bool:
    """Tell whether `value` is a finite number that a float32 can hold."""
    return type(value) in (int, float) and isfinite(value) and abs(value) < 3.5e38


def counted(number: int, noun: str) -> str:
    """Return `number` and its noun: "1 table", "2 tables"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _list_or_none(features: tuple[Feature, ...] | None) -> list[dict[str, Any]] | None:
    return None if features is None else [feature.to_json() for feature in features]
