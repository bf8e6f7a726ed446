"""IntegerNetwork: what a fully-integer `.tflite` says, lowered and proven safe in int32.

real = scale * (q - zero_point), always with this sign. Shapes leave out the batch axis.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Tensor:
    """An int8 activation; per-tensor scale."""

    name: str  # unique in its network
    shape: tuple[int, ...]  # without the batch axis
    scale: float  # real units per quantization step
    zero_point: int  # in [-128, 127]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale > 0.0):
            raise ValueError(f"{self.name}: scale must be positive, got {self.scale}")
        if not -128 <= self.zero_point <= 127:
            raise ValueError(f"{self.name}: zero_point must fit int8, got {self.zero_point}")
        if any(n < 1 for n in self.shape):
            raise ValueError(f"{self.name}: shape must be positive, got {self.shape}")

    @property
    def size(self) -> int:
        """Count the elements, without the batch axis."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Dense:
    """FULLY_CONNECTED: q_out = clamp(zp_out + requantize(bias + sum((q_in - zp_in) * w)))."""

    name: str
    input: str
    output: str
    weights: NDArray[np.int8]  # [out, in], zero point 0
    bias: NDArray[np.int32]  # [out], scale = input scale * weight scale
    multiplier: NDArray[np.int32]  # [out], Q0.31, in [2**30, 2**31), or 0: too small for any shift
    shift: NDArray[np.int32]  # [out], > 0 shifts left
    output_min: int  # fused activation, in quantized units
    output_max: int


@dataclass(frozen=True, eq=False)
class Lookup:
    """Any elementwise int8 function, TANH, LOGISTIC, RELU or QUANTIZE: q_out = table[q_in + 128]."""

    name: str
    function: str  # LiteRT builtin name, e.g. "TANH"
    input: str
    output: str
    table: NDArray[np.int8]  # [256]


@dataclass(frozen=True)
class Reshape:
    """The same bytes under another shape."""

    name: str
    input: str
    output: str


Layer = Dense | Lookup | Reshape


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A list of layers in order of execution. Construction proves that no accumulator overflows."""

    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        known = set(self.inputs)
        for layer in self.layers:
            if layer.input not in known:
                raise ValueError(f"{layer.name} reads '{layer.input}' before it is written")
            if layer.output in known:
                raise ValueError(f"{layer.name} writes '{layer.output}' a second time")
            known.add(layer.output)
            _require_consistent(layer, self.tensors[layer.input], self.tensors[layer.output])
        missing = set(self.outputs) - known
        if missing or not self.outputs:
            raise ValueError(f"network outputs are never written: {sorted(missing)}")

    @property
    def num_macs(self) -> int:
        """Count the multiply-accumulates of one inference."""
        return sum(layer.weights.size for layer in self.layers if isinstance(layer, Dense))


def accumulator_bound(layer: Dense, zero_point: int) -> NDArray[np.int64]:
    """Bound |accumulator| per output [out], over every int8 input and every order of summation."""
    farthest = max(127 - zero_point, zero_point + 128)
    magnitude = np.abs(layer.weights.astype(np.int64)).sum(axis=1) * farthest
    return np.asarray(magnitude + np.abs(layer.bias.astype(np.int64)))


def _require_consistent(layer: Layer, source: Tensor, target: Tensor) -> None:
    if isinstance(layer, Dense):
        _require_safe_dense(layer, source, target)
    elif source.size != target.size:
        raise ValueError(f"{layer.name}: {source.size} elements in, {target.size} out")
    if isinstance(layer, Lookup) and (layer.table.shape != (256,) or layer.table.dtype != np.int8):
        raise ValueError(f"{layer.name}: the table must be 256 int8 values")


def _require_safe_dense(layer: Dense, source: Tensor, target: Tensor) -> None:
    rows, columns = layer.weights.shape
    if source.size != columns or target.size != rows:
        raise ValueError(f"{layer.name}: weights {layer.weights.shape} do not fit its tensors")
    for values in (layer.bias, layer.multiplier, layer.shift):
        if values.shape != (rows,) or values.dtype != np.int32:
            raise ValueError(f"{layer.name}: bias, multiplier and shift must be int32 [{rows}]")
    if not -128 <= layer.output_min <= layer.output_max <= 127:
        raise ValueError(f"{layer.name}: activation range must lie in int8")
    if np.any(layer.shift < -31) or np.any(layer.shift > 30):
        raise UnsupportedOperatorError(
            f"FULLY_CONNECTED at '{layer.name}' is not supported: its scales differ by more than "
            "2^31. Retrain or rescale the layer."
        )
    bound = accumulator_bound(layer, source.zero_point)
    is_unsafe = bound > _INT32_MAX >> np.maximum(layer.shift, 0).astype(np.int64)
    if np.any(is_unsafe):
        raise UnsupportedOperatorError(
            f"FULLY_CONNECTED at '{layer.name}' is not supported: output "
            f"{int(np.argmax(is_unsafe))} could overflow its 32-bit accumulator. Use fewer inputs or "
            "smaller biases."
        )
