"""What a contract says of its policy's own numbers: parts of an observation, memory, action and values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from edgeqrl.network.memory import FrameStack
from edgeqrl.network.parts import COLUMNS, ObservationPart
from firmware_export.contract_facts import feature_unit, is_number, num_features

ACTION_KINDS = ("discrete", "continuous", "multi_discrete", "multi_binary", "value")
_FLOATS = ("continuous", "value")
_RESET = "no frames, recurrent tensors at their initial values; the generator goes on"
_SEED = "two uint32 words, low and high; the draws of an episode follow from them alone"


@dataclass(frozen=True)
class ContractPart:
    """One part of an observation: a field of NAME_observation, and the network input that it becomes."""

    part: ObservationPart
    at: int  # of the field, in bytes
    network_dtype: str
    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        is_sound = (
            type(self.at) is int
            and self.at >= 0
            and self.network_dtype in ("int8", "int16")
            and is_number(self.scale)
            and type(self.zero_point) is int
        )
        if not is_sound:
            raise ValueError(f"not a part of an observation: {self!r}")

    @property
    def num_features(self) -> int:
        """Count its features."""
        return num_features(self.part.shape)

    def to_json(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the part with its features as plain JSON values."""
        part = self.part
        stated = part.to_json()
        image = {"image": stated["image"]} if part.image else {}
        return {
            "name": part.name,
            "at": self.at,
            "shape": stated["shape"],
            "dtype": part.source,
            "per": feature_unit(part.shape),
            **image,
            "normalization": {name: stated[name] for name in COLUMNS} if part.is_affine else None,
            "one_hot": stated["one_hot"],
            "network_shape": list(part.network_shape),
            "network_dtype": self.network_dtype,
            "scale": self.scale,
            "zero_point": self.zero_point,
            "features": list(features),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Invert `to_json`, but for the features."""
        columns = data["normalization"] or dict.fromkeys(COLUMNS)
        part = ObservationPart.from_json({**data, **columns, "source": data["dtype"], "key": ""})
        if part.name != data["name"] or [list(part.shape), list(part.network_shape)] != [
            data["shape"],
            data["network_shape"],
        ]:
            raise ValueError(f"not a part of an observation: {data!r}")
        return cls(part, data["at"], data["network_dtype"], data["scale"], data["zero_point"])


@dataclass(frozen=True)
class ContractState:
    """A recurrent tensor: an input of the network that is fed back from an output."""

    name: str  # of the field of NAME_memory
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int
    initial: int  # the integer at an episode's start


@dataclass(frozen=True)
class ContractMemory:
    """What survives a step: NAME_memory."""

    num_bytes: int
    fields: tuple[tuple[str, int, int], ...]  # name, place and bytes of each
    frames: FrameStack | None = None  # of the first part
    recurrent: tuple[ContractState, ...] = ()
    is_seeded: bool = False  # a generator is in it

    def __post_init__(self) -> None:
        numbers = (self.num_bytes, *(n for _, at, size in self.fields for n in (at, size)))
        if not all(type(number) is int and number >= 0 for number in numbers) or not self.num_bytes:
            raise ValueError(f"not a memory: {self!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the memory as plain JSON values."""
        fields = [{"name": name, "at": at, "bytes": size} for name, at, size in self.fields]
        states = [{**vars(state), "shape": list(state.shape)} for state in self.recurrent]
        return {
            "bytes": self.num_bytes,
            "fields": fields,
            "frames": None if self.frames is None else dict(vars(self.frames)),
            "recurrent": states,
            "reset": _RESET,
            "seed": _SEED if self.is_seeded else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Invert `to_json`."""
        frames = data["frames"]
        states = tuple(
            ContractState(**{**state, "shape": tuple(state["shape"])}) for state in data["recurrent"]
        )
        fields = tuple((field["name"], field["at"], field["bytes"]) for field in data["fields"])
        return cls(
            num_bytes=data["bytes"],
            fields=fields,
            frames=None if frames is None else FrameStack.from_json(frames),
            recurrent=states,
            is_seeded=data["seed"] is not None,
        )


@dataclass(frozen=True)
class ContractAction:
    """What the step gives; its meanings are among the facts."""

    kind: str  # of ACTION_KINDS
    shape: tuple[int, ...] = ()  # () for a discrete one
    start: int = 0  # the first of the discrete actions
    is_sampled: bool = False  # drawn, instead of the best one
    mask: tuple[int, int] | None = None  # place and bytes of the mask of allowed actions in NAME_observation

    def __post_init__(self) -> None:
        is_sound = (
            self.kind in ACTION_KINDS
            and _are_sizes(self.shape)
            and (self.kind == "discrete") == (self.shape == () and self.kind not in _FLOATS)
            and type(self.start) is int
            and type(self.is_sampled) is bool
            and (self.mask is None or all(type(number) is int and number > 0 for number in self.mask))
        )
        if not is_sound:
            raise ValueError(f"there is no such action: {self!r}")

    @property
    def is_discrete(self) -> bool:
        """Tell whether it is one of a list."""
        return self.kind == "discrete"

    @property
    def is_integer(self) -> bool:
        """Tell whether it consists of int32s; else of float32s."""
        return self.kind not in _FLOATS

    def to_json(self, meanings: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the action with its meanings as plain JSON values."""
        mask = None if self.mask is None else {"at": self.mask[0], "bytes": self.mask[1]}
        return {
            "kind": self.kind,
            "shape": list(self.shape),
            "dtype": "int32" if self.is_integer else "float32",
            "start": self.start if self.is_discrete else None,
            "is_masked": self.mask is not None,
            "mask": mask,
            "is_sampled": self.is_sampled,
            "meanings": list(meanings),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Invert `to_json`, but for the meanings."""
        mask = data["mask"]
        return cls(
            kind=data["kind"],
            shape=tuple(data["shape"]),
            start=data["start"] or 0,
            is_sampled=data["is_sampled"],
            mask=None if mask is None else (mask["at"], mask["bytes"]),
        )


@dataclass(frozen=True)
class ContractValue:
    """A float32 that the step gives beside the action."""

    name: str
    scale: float  # of one step of the network's output: its resolution
    low: float | None  # what can come out
    high: float | None
    unit: str | None = None

    def __post_init__(self) -> None:
        bounds = [value for value in (self.low, self.high) if value is not None]
        is_named = isinstance(self.name, str) and (self.unit is None or isinstance(self.unit, str))
        if not is_named or not all(map(is_number, (self.scale, *bounds))):
            raise ValueError(f"not a value: {self!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the value as plain JSON values."""
        return {
            "name": self.name,
            "unit": self.unit,
            "dtype": "float32",
            "scale": self.scale,
            "low": self.low,
            "high": self.high,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Invert `to_json`."""
        return cls(data["name"], data["scale"], data["low"], data["high"], data["unit"])


def _are_sizes(sizes: Sequence[Any]) -> bool:
    return all(type(size) is int and size > 0 for size in sizes)
