"""PolicyContract: what goes in and out of an exported policy, how often, and what happens when it cannot.

`docs/contract.md` says what each fact means, `docs/policy_contract.schema.json` how it is written. This
file knows nothing of environments and nothing of C.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, Self

from edgeqrl.errors import DataError, UsageError
from edgeqrl.files import from_json_bytes, sha256, to_json_bytes
from firmware_export.contract_facts import (
    FAIL_SAFE_FORMS,
    MOST_FEATURES,
    PERIODS,
    ContractFacts,
    FailSafe,
    Feature,
    counted,
    default_features,
    feature_unit,
    float32,
    num_features,
    part_features,
    require_fail_safe_fits,
)
from firmware_export.contract_parts import ContractAction, ContractMemory, ContractPart, ContractValue

__all__ = [
    "CONTRACT_FILE",
    "FAIL_SAFE_FORMS",
    "MOST_FEATURES",
    "PERIODS",
    "SCHEMA",
    "ContractFacts",
    "FailSafe",
    "Feature",
    "PolicyContract",
    "counted",
    "default_features",
    "feature_unit",
    "float32",
    "num_features",
    "part_features",
    "require_fail_safe_fits",
]

SCHEMA = "edgeqrl-contract-2"
CONTRACT_FILE = "policy_contract.json"
_ORDER = "C order: the last axis is the fastest"


@dataclass(frozen=True)
class PolicyContract:
    """Every fact, checked; the same facts give the same bytes."""

    name: str  # of the policy: the prefix of its C
    model_sha256: str | None  # of policy.tflite; None where there is none
    params_contract: str  # SHA-256 that the params blob carries
    observation_bytes: int  # of NAME_observation
    parts: tuple[ContractPart, ...]  # of an observation
    action: ContractAction
    facts: ContractFacts  # features and actions are there
    memory: ContractMemory | None = None
    values: tuple[ContractValue, ...] = ()

    def __post_init__(self) -> None:
        facts, action = self.facts, self.action
        if not isinstance(self.name, str) or type(self.observation_bytes) is not int or not self.parts:
            raise ValueError("a contract states the numbers of its policy")
        expected = sum(part.num_features for part in self.parts)
        if facts.features is None or len(facts.features) != expected:
            raise ValueError(f"a contract names {expected} features")
        num_actions = 0 if facts.actions is None else len(facts.actions)
        if num_actions == 0 or (not action.is_discrete and num_actions != prod(action.shape)):
            raise ValueError("a contract names every action")
        for hashed in (self.model_sha256, self.params_contract):
            if hashed is not None and len(bytes.fromhex(hashed)) != 32:
                raise ValueError("a SHA-256 has 32 bytes")
        if facts.fail_safe is not None:
            assert facts.actions is not None
            require_fail_safe_fits(facts.fail_safe, action.kind, facts.actions, action.start)

    @property
    def features(self) -> tuple[Feature, ...]:
        """Return the features, part after part; element i of a part is its feature i modulo their number."""
        assert self.facts.features is not None
        return self.facts.features

    @property
    def features_of_parts(self) -> tuple[tuple[Feature, ...], ...]:
        """Return the features of each part."""
        found, first = [], 0
        for part in self.parts:
            found.append(self.features[first : first + part.num_features])
            first += part.num_features
        return tuple(found)

    @property
    def actions(self) -> tuple[Feature, ...]:
        """Return the discrete actions, or the numbers of another one."""
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
    def sha256(self) -> str:
        """Return the hash of `to_bytes`."""
        return sha256(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return policy_contract.json."""
        return to_json_bytes(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the contract as plain JSON values."""
        facts, fail_safe, action = self.facts, self.fail_safe, self.action
        values = [action.start + i if action.is_discrete else None for i in range(len(self.actions))]
        indexed = [{"index": i, **feature.to_json()} for i, feature in enumerate(self.features)]
        parts, first = [], 0
        for part in self.parts:
            parts.append(part.to_json(indexed[first : first + part.num_features]))
            first += part.num_features
        return {
            "schema": SCHEMA,
            "name": self.name,
            "model_sha256": self.model_sha256,
            "params_contract": self.params_contract,
            "env_id": facts.env_id,
            "control_period_s": facts.control_period_s,
            "observation_timeout_s": self.observation_timeout_s,
            "observation": {"bytes": self.observation_bytes, "order": _ORDER, "parts": parts},
            "memory": None if self.memory is None else self.memory.to_json(),
            "action": action.to_json(
                [
                    {"index": i, "value": value, **meaning.to_json()}
                    for i, (value, meaning) in enumerate(zip(values, self.actions, strict=True))
                ]
            ),
            "values": [value.to_json() for value in self.values],
            "fail_safe": None if fail_safe is None else fail_safe.to_json(),
            "saturation_counters": len(self.features),
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
        parts, memory = data["observation"]["parts"], data["memory"]
        facts = ContractFacts(
            env_id=data["env_id"],
            control_period_s=data["control_period_s"],
            observation_timeout_s=data["observation_timeout_s"],
            features=tuple(Feature.from_json(entry) for part in parts for entry in part["features"]),
            actions=tuple(Feature.from_json(entry) for entry in data["action"]["meanings"]),
            fail_safe=None if data["fail_safe"] is None else FailSafe.from_json(data["fail_safe"]),
            sources=data["sources"],
            is_value=data["action"]["kind"] == "value",
        )
        return cls(
            name=data["name"],
            model_sha256=data["model_sha256"],
            params_contract=data["params_contract"],
            observation_bytes=data["observation"]["bytes"],
            parts=tuple(ContractPart.from_json(part) for part in parts),
            action=ContractAction.from_json(data["action"]),
            facts=facts,
            memory=None if memory is None else ContractMemory.from_json(memory),
            values=tuple(ContractValue.from_json(value) for value in data["values"]),
        )
