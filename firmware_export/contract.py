"""PolicyContract: what goes in and out of an exported policy, how often, and what happens when it cannot.

`docs/contract.md` says what each fact means, `docs/policy_contract.schema.json` how it is written. This
file knows nothing of environments and nothing of C.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, prod
from typing import Any, Self

import numpy as np

from edgeqrl.errors import DataError, UsageError
from edgeqrl.files import from_json_bytes, sha256, to_json_bytes

SCHEMA = "edgeqrl-contract-1"
CONTRACT_FILE = "policy_contract.json"
FAIL_SAFE_FORMS = "value:A[,B...] (a fixed action), hold:N (the last action, N steps at most), or disable"
PERIODS = (1e-6, 3600.0)  # of control, in seconds; a timeout may be as long as this, too
MOST_FEATURES = 256  # of which each has a name, bounds and a saturation counter of its own
MOST_HELD_STEPS = 65535
_LONGEST_NAME = 64
_ORDER = "C order: the last axis is the fastest"


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
        if not all(_is_number(value) for value in bounds):
            raise ValueError(f"the bounds of '{self.name}' must be finite float32 numbers, or left out")
        if len(bounds) == 2 and bounds[0] > bounds[1]:
            raise ValueError(f"the bounds of '{self.name}' are not in order")

    def to_json(self) -> dict[str, Any]:
        """Return the feature as plain JSON values."""
        return {"name": self.name, "unit": self.unit, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class FailSafe:
    """What stands in for an action that may not be driven."""

    kind: str  # "value", "hold" or "disable"
    action: tuple[float, ...] = ()  # of kind value
    hold_steps: int = 0  # of kind hold

    def __post_init__(self) -> None:
        is_sound = {
            "value": len(self.action) > 0 and self.hold_steps == 0 and all(map(_is_number, self.action)),
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
    features: tuple[Feature, ...] | None = None  # `num_features` of the observation's shape
    actions: tuple[Feature, ...] | None = None  # one a discrete action, or one a number of the action
    fail_safe: FailSafe | None = None
    sources: Mapping[str, str] = field(default_factory=dict)  # where each fact came from

    def __post_init__(self) -> None:
        for name in ("control_period_s", "observation_timeout_s"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and PERIODS[0] <= value <= PERIODS[1]):
                raise ValueError(f"{name} must be {PERIODS[0]:g} to {PERIODS[1]:g} s, got {value}")
        if self.env_id is not None and not isinstance(self.env_id, str):
            raise ValueError(f"env_id must be text, got {self.env_id!r}")
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


@dataclass(frozen=True)
class PolicyContract:
    """Every fact, checked; the same facts give the same bytes."""

    name: str  # of the policy: the prefix of its C
    model_sha256: str | None  # of policy.tflite; None where there is none
    params_contract: str  # SHA-256 that the params blob carries
    observation_shape: tuple[int, ...]
    scale: float
    zero_point: int
    network_dtype: str
    is_masked: bool
    action_kind: str  # "discrete" or "continuous"
    action_shape: tuple[int, ...]
    action_start: int
    facts: ContractFacts  # features and actions are there

    def __post_init__(self) -> None:
        facts = self.facts
        sizes = (*self.observation_shape, *self.action_shape)
        is_sound = (
            isinstance(self.name, str)
            and all(type(size) is int and size > 0 for size in sizes)
            and _is_number(self.scale)
            and type(self.zero_point) is int
            and self.network_dtype in ("int8", "int16")
            and type(self.is_masked) is bool
            and type(self.action_start) is int
        )
        if not is_sound:
            raise ValueError("a contract states the numbers of its policy")
        if facts.features is None or len(facts.features) != num_features(self.observation_shape):
            raise ValueError(f"a contract names {num_features(self.observation_shape)} features")
        is_discrete = self.action_kind == "discrete"
        if self.action_kind not in ("discrete", "continuous") or (is_discrete and self.action_shape):
            raise ValueError(f"there is no such action: {self.action_kind} {self.action_shape}")
        if not facts.actions or (not is_discrete and len(facts.actions) != prod(self.action_shape)):
            raise ValueError("a contract names every action")
        for hashed in (self.model_sha256, self.params_contract):
            if hashed is not None and len(bytes.fromhex(hashed)) != 32:
                raise ValueError("a SHA-256 has 32 bytes")
        if facts.fail_safe is not None:
            require_fail_safe_fits(facts.fail_safe, self.action_kind, facts.actions, self.action_start)

    @property
    def features(self) -> tuple[Feature, ...]:
        """Return the features; element i of an observation is feature i modulo their number."""
        assert self.facts.features is not None
        return self.facts.features

    @property
    def actions(self) -> tuple[Feature, ...]:
        """Return the discrete actions, or the numbers of a continuous one."""
        assert self.facts.actions is not None
        return self.facts.actions

    @property
    def fail_safe(self) -> FailSafe | None:
        """Return the fail-safe; without one a device never drives its outputs."""
        return self.facts.fail_safe

    @property
    def control_period_s(self) -> float | None:
        """Return the time from one step to the next."""
        return self.facts.control_period_s

    @property
    def observation_timeout_s(self) -> float | None:
        """Return after how long an observation counts as lost."""
        if self.facts.observation_timeout_s is not None or self.control_period_s is None:
            return self.facts.observation_timeout_s
        return float(f"{2 * self.control_period_s:.9g}")

    @property
    def per(self) -> str:
        """Say what a feature is: an element of the observation, its last axis, or all of it."""
        return feature_unit(self.observation_shape)

    @property
    def sha256(self) -> str:
        """Return the hash of `to_bytes`."""
        return sha256(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return policy_contract.json."""
        return to_json_bytes(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the contract as plain JSON values."""
        is_discrete = self.action_kind == "discrete"
        facts, fail_safe = self.facts, self.fail_safe
        values = [self.action_start + i if is_discrete else None for i in range(len(self.actions))]
        return {
            "schema": SCHEMA,
            "name": self.name,
            "model_sha256": self.model_sha256,
            "params_contract": self.params_contract,
            "env_id": facts.env_id,
            "control_period_s": facts.control_period_s,
            "observation_timeout_s": self.observation_timeout_s,
            "observation": {
                "shape": list(self.observation_shape),
                "dtype": "float32",
                "order": _ORDER,
                "per": self.per,
                "network_dtype": self.network_dtype,
                "scale": self.scale,
                "zero_point": self.zero_point,
                "features": [{"index": i, **f.to_json()} for i, f in enumerate(self.features)],
            },
            "action": {
                "kind": self.action_kind,
                "shape": list(self.action_shape),
                "dtype": "int32" if is_discrete else "float32",
                "start": self.action_start if is_discrete else None,
                "is_masked": self.is_masked,
                "meanings": [
                    {"index": i, "value": value, **action.to_json()}
                    for i, (value, action) in enumerate(zip(values, self.actions, strict=True))
                ],
            },
            "fail_safe": None if fail_safe is None else fail_safe.to_json(),
            "saturation_counters": {"count": len(self.features), "per": self.per},
            "sources": dict(sorted(facts.sources.items())),
        }

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> Self:
        """Invert `to_bytes`; raise DataError, which names `place`, for anything else."""
        try:
            found = cls.from_json(from_json_bytes(data))
            if found.to_bytes() != data:
                raise ValueError("it does not say what its own facts say")
        except (AttributeError, KeyError, TypeError, ValueError, UsageError) as error:
            raise DataError(f"'{place}' is no contract of this version: {error!r}. Export again.") from error
        return found

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Invert `to_json`; raise KeyError, TypeError or ValueError for anything else."""
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema is {data['schema']!r}, not {SCHEMA!r}")
        observation, action = data["observation"], data["action"]
        facts = ContractFacts(
            env_id=data["env_id"],
            control_period_s=data["control_period_s"],
            observation_timeout_s=data["observation_timeout_s"],
            features=tuple(_feature(entry) for entry in observation["features"]),
            actions=tuple(_feature(entry) for entry in action["meanings"]),
            fail_safe=None if data["fail_safe"] is None else FailSafe.from_json(data["fail_safe"]),
            sources=data["sources"],
        )
        return cls(
            name=data["name"],
            model_sha256=data["model_sha256"],
            params_contract=data["params_contract"],
            observation_shape=tuple(observation["shape"]),
            scale=observation["scale"],
            zero_point=observation["zero_point"],
            network_dtype=observation["network_dtype"],
            is_masked=action["is_masked"],
            action_kind=action["kind"],
            action_shape=tuple(action["shape"]),
            action_start=action["start"] or 0,
            facts=facts,
        )


def num_features(shape: tuple[int, ...]) -> int:
    """Count the features of an observation: each has a name, bounds and a saturation counter."""
    return {"element": prod(shape), "last axis": shape[-1] if shape else 1, "all": 1}[feature_unit(shape)]


def feature_unit(shape: tuple[int, ...]) -> str:
    """Say what a feature is: an element, else of the last axis, else all elements are one."""
    if prod(shape) <= MOST_FEATURES:
        return "element"
    return "last axis" if shape[-1] <= MOST_FEATURES else "all"


def default_features(shape: tuple[int, ...]) -> tuple[Feature, ...]:
    """Return features of which nothing is known."""
    return tuple(Feature(f"obs_{i}") for i in range(num_features(shape)))


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


def counted(number: int, noun: str) -> str:
    """Return `number` and its noun: "1 table", "2 tables"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value) and abs(value) < 3.5e38


def _feature(entry: Mapping[str, Any]) -> Feature:
    return Feature(entry["name"], entry["unit"], entry["low"], entry["high"])


def _list_or_none(features: tuple[Feature, ...] | None) -> list[dict[str, Any]] | None:
    return None if features is None else [feature.to_json() for feature in features]
