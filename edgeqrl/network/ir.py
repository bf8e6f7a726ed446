"""IntegerNetwork: what a fully-integer `.tflite` says, lowered to layers and proven safe.

real = scale * (q - zero_point), always with this sign. Shapes leave out a batch axis of 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # of a tensor's dtype

_DTYPES = ("int8", "int16", "int32")


@dataclass(frozen=True)
class Tensor:
    """An activation; per-tensor scale."""

    name: str  # unique in its network
    shape: tuple[int, ...]  # without a batch axis of 1
    scale: float  # real units per quantization step; 1.0 for plain numbers such as indices
    zero_point: int  # in the range of dtype; 0 for all but int8
    dtype: str = "int8"  # "int8", "int16", or "int32" for indices

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ValueError(f"{self.name}: an activation is int8, int16 or int32, not {self.dtype}")
        if not (np.isfinite(self.scale) and self.scale > 0.0):
            raise ValueError(f"{self.name}: scale must be positive, got {self.scale}")
        if self.dtype == "int8" and not -128 <= self.zero_point <= 127:
            raise ValueError(f"{self.name}: zero_point must fit int8, got {self.zero_point}")
        if self.dtype != "int8" and self.zero_point != 0:
            raise ValueError(f"{self.name}: zero_point must be 0 for {self.dtype}, got {self.zero_point}")
        if any(n < 1 for n in self.shape):
            raise ValueError(f"{self.name}: shape must be positive, got {self.shape}")

    @property
    def size(self) -> int:
        """Count the elements."""
        return int(math.prod(self.shape))

    @property
    def num_bytes(self) -> int:
        """Count the bytes of one sample."""
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def range(self) -> tuple[int, int]:
        """Return the least and the greatest value of the dtype."""
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)


class Layer(Protocol):
    """One step of a network: reads tensors, writes one. Layers are frozen; `layers/` has them by family."""

    @property
    def name(self) -> str:
        """Return a name for people; the output tensor's where nothing better is known."""

    @property
    def operator(self) -> str:
        """Return LiteRT's builtin name of what this layer came from, e.g. "CONV_2D"."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the tensors that are read: activations, or constants of the network."""

    @property
    def output(self) -> str:
        """Return the tensor that is written."""

    @property
    def num_macs(self) -> int:
        """Count the multiply-accumulates of one inference."""

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check shapes, dtypes and ranges, and prove that no accumulator overflows.

        Raises ValueError where the file contradicts itself, UnsupportedOperatorError where it is sound and
        yet could overflow.
        """

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape] for inputs [N, *shape] (constants: [1, *shape]), bit for bit."""


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A list of layers in order of execution. Construction proves that no accumulator overflows."""

    tensors: Mapping[str, Tensor]  # activations and constants
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    constants: Mapping[str, Array] = field(default_factory=dict)  # [*shape], read like activations

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "constants", MappingProxyType(dict(self.constants)))
        for name, values in self.constants.items():
            tensor = self.tensors[name]
            if values.shape != tensor.shape or values.dtype != np.dtype(tensor.dtype):
                raise ValueError(f"constant '{name}' is {values.dtype} {values.shape}, not as its tensor")
        known = {*self.inputs, *self.constants}
        for layer in self.layers:
            for name in layer.inputs:
                if name not in known:
                    raise ValueError(f"{layer.name} reads '{name}' before it is written")
            if layer.output in known:
                raise ValueError(f"{layer.name} writes '{layer.output}' a second time")
            known.add(layer.output)
            layer.require_consistent(self.tensors)
        missing = set(self.outputs) - known
        if missing or not self.outputs:
            raise ValueError(f"network outputs are never written: {sorted(missing)}")

    @property
    def num_macs(self) -> int:
        """Count the multiply-accumulates of one inference."""
        return sum(layer.num_macs for layer in self.layers)
