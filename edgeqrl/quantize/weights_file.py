"""Weights of an integer `.tflite`: read as what they stand for, and written back with other values.

    layers = read_weights(tflite)                       # by the name of the tensor that each operator writes
    coarse = replace(layers["dense"], weights=..., scales=...)
    tflite = write_weights(tflite, {"dense": coarse})

The file stays what it was: only weights, their scales and zero points, and biases change; a layer may get
the bias that it does not have.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.tflite_constants import (
    Constant,
    Quantization,
    with_constants,
    with_own_operands,
    with_quantization,
)
from edgeqrl.network.tflite_model import (
    OperatorInfo,
    TFLiteModel,
    parse_tflite,
    replace_buffers,
    tensors_sharing,
    with_unique_names,
)

Floats = NDArray[np.float64]

_WEIGHTS = 1  # which input has them, of all operators here


@dataclass(frozen=True)
class Role:
    """Where an operator has its operands, and which axis of its weights are the output channels."""

    source: int = 0
    bias: int = 2
    axis: int = 0


ROLES = {
    "FULLY_CONNECTED": Role(),
    "CONV_2D": Role(),
    "DEPTHWISE_CONV_2D": Role(axis=3),
    "TRANSPOSE_CONV": Role(source=2, bias=3),
}
_MAY_GET_BIAS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """What one operator multiplies with and adds: real = scale * (q - zero_point), by output channel."""

    operator: str  # a key of ROLES
    weights: NDArray[np.int8]  # as the file has them
    scales: NDArray[np.float32]  # [1] or [channels]
    zero_points: NDArray[np.int64]  # as many; 0 but for asymmetric weights
    bias: NDArray[np.int64] | None  # [channels], in steps of input scale * weight scale; None: it has none
    bias_dtype: str | None  # "INT32" or "INT64"
    input_scale: float
    is_tied: bool = False  # another operator reads the same weights

    @property
    def axis(self) -> int:
        """Return the axis of the output channels."""
        return ROLES[self.operator].axis

    @property
    def may_have_bias(self) -> bool:
        """Tell whether the layer has a bias, or can get one."""
        return self.bias is not None or self.operator in _MAY_GET_BIAS

    @property
    def num_channels(self) -> int:
        """Count the output channels."""
        return self.weights.shape[self.axis]

    @property
    def bias_scales(self) -> Floats:
        """Return the real value of one step of the sums, [channels]."""
        return np.asarray(self.input_scale * self.by_channel(self.scales.astype(np.float64)))

    def by_channel(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return scales or zero points as [channels]."""
        return np.broadcast_to(values, (self.num_channels,))

    def rows(self, values: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return weights, or what lies as they do, as [channels, terms]."""
        array = self.weights if values is None else values
        return np.moveaxis(array, self.axis, 0).reshape(self.num_channels, -1)

    def from_rows(self, rows: NDArray[Any]) -> NDArray[np.int8]:
        """Invert `rows`."""
        shape = list(self.weights.shape)
        shape.insert(0, shape.pop(self.axis))
        whole = np.moveaxis(rows.reshape(shape), 0, self.axis)
        return np.ascontiguousarray(whole, np.int8)


def read_weights(tflite: bytes) -> dict[str, LayerWeights]:
    """Return the weights of every operator that has constant int8 ones, by the tensor that it writes.

    Names are unique, as `with_unique_names` makes them and IntegerNetwork has them.
    """
    model = with_unique_names(parse_tflite(tflite))
    found = {}
    for op in model.operators:
        layer = _read(model, op) if op.name in ROLES else None
        if layer is not None:
            found[model.tensors[op.outputs[0]].name] = layer
    return found


def write_weights(tflite: bytes, layers: Mapping[str, LayerWeights]) -> bytes:
    """Return the file with these weights, scales, zero points and biases, by the tensor that is written.

    Shapes stay; the scale of a bias follows from the others, and a bias is made where there was none. What an
    operator shares with another that is not given the same becomes its own. Raises KeyError for a name that
    `read_weights` does not give, ValueError for values that do not fit.
    """
    old = read_weights(tflite)
    missing = {name: layer for name, layer in layers.items() if _lacks_bias(old[name], layer)}
    if missing:
        tflite = _with_biases(tflite, missing)
        old = read_weights(tflite)
    model = with_unique_names(parse_tflite(tflite))
    positions = {model.tensors[op.outputs[0]].name: i for i, op in enumerate(model.operators)}
    wanted: dict[tuple[int, int], _Constant] = {}
    for name, layer in layers.items():
        _require_fit(name, layer, old[name])
        at = positions[name]
        quantization = Quantization(layer.scales, layer.zero_points, layer.axis)
        wanted[at, _WEIGHTS] = _Constant(layer.weights.tobytes(), quantization)
        before = old[name].bias
        if layer.bias is not None and before is not None and (np.any(layer.bias) or np.any(before)):
            wanted[at, ROLES[layer.operator].bias] = _bias(layer)
    shared = sorted(place for place in wanted if not _is_free(model, place, wanted))
    tflite = with_own_operands(tflite, shared)
    model = parse_tflite(tflite)
    tensors = {model.operators[at].inputs[i]: constant for (at, i), constant in wanted.items()}
    tflite = replace_buffers(tflite, {i: constant.data for i, constant in tensors.items()})
    return with_quantization(tflite, {i: constant.quantization for i, constant in tensors.items()})


def _lacks_bias(old: LayerWeights, new: LayerWeights) -> bool:
    return old.bias is None and new.bias is not None and old.operator in _MAY_GET_BIAS


def _with_biases(tflite: bytes, layers: Mapping[str, LayerWeights]) -> bytes:
    """Return the file with a bias of zeros for layers without one."""
    model = with_unique_names(parse_tflite(tflite))
    positions = {model.tensors[op.outputs[0]].name: i for i, op in enumerate(model.operators)}
    operands = []
    for name, layer in layers.items():
        bias = _bias(replace(layer, bias=np.zeros(layer.num_channels, np.int64)))
        shape, dtype = (layer.num_channels,), str(layer.bias_dtype)
        constant = Constant(f"{name}_bias", dtype, shape, bias.data, bias.quantization)
        operands.append(((positions[name], ROLES[layer.operator].bias), constant))
    return with_constants(tflite, operands)


@dataclass(frozen=True, eq=False)
class _Constant:
    data: bytes
    quantization: Quantization

    def equals(self, other: "_Constant | None") -> bool:
        if other is None:
            return False
        ours, theirs = self.quantization, other.quantization
        return (
            self.data == other.data
            and ours.axis == theirs.axis
            and np.array_equal(ours.scales, theirs.scales)
            and np.array_equal(ours.zero_points, theirs.zero_points)
        )


def _read(model: TFLiteModel, op: OperatorInfo) -> LayerWeights | None:
    role = ROLES[op.name]
    tensors = [None if i < 0 else model.tensors[i] for i in op.inputs]
    weights, source = tensors[_WEIGHTS], tensors[role.source]
    bias = tensors[role.bias] if len(tensors) > role.bias else None
    if weights is None or source is None or weights.span is None or weights.dtype != "INT8":
        return None
    is_plain = len(weights.shape) == (2 if op.name == "FULLY_CONNECTED" else 4) and not weights.is_sparse
    if not is_plain or len(weights.scales) == 0 or len(source.scales) != 1:
        return None
    if bias is not None and (bias.span is None or bias.dtype not in ("INT32", "INT64")):
        return None
    return LayerWeights(
        operator=op.name,
        weights=np.asarray(weights.values(), np.int8),
        scales=weights.scales,
        zero_points=weights.zero_points,
        bias=None if bias is None else np.asarray(bias.values(), np.int64).ravel(),
        bias_dtype=None if bias is None else bias.dtype,
        input_scale=float(source.scales[0]),
        is_tied=sum(other.inputs.count(op.inputs[_WEIGHTS]) for other in model.operators) > 1,
    )


def _bias(layer: LayerWeights) -> _Constant:
    assert layer.bias is not None
    dtype = {"INT32": "<i4", "INT64": "<i8"}[str(layer.bias_dtype)]
    scales = (np.float32(layer.input_scale) * layer.scales).astype(np.float32)
    zeros = np.zeros(len(scales), np.int64)
    return _Constant(layer.bias.astype(dtype).tobytes(), Quantization(scales, zeros))


def _is_free(model: TFLiteModel, place: tuple[int, int], wanted: Mapping[tuple[int, int], _Constant]) -> bool:
    """Tell whether all that reads a constant's tensor, and all tensors with its bytes, get the same."""
    index = model.operators[place[0]].inputs[place[1]]
    readers = [
        (at, i) for at, op in enumerate(model.operators) for i, used in enumerate(op.inputs) if used == index
    ]
    return (
        all(wanted[place].equals(wanted.get(reader)) for reader in readers)
        and not tensors_sharing(model, index)
        and index not in model.outputs
    )


def _require_fit(name: str, layer: LayerWeights, old: LayerWeights) -> None:
    weights, bias = layer.weights, layer.bias
    if weights.shape != old.weights.shape or weights.dtype != np.int8:
        raise ValueError(
            f"'{name}' has int8 weights {old.weights.shape}, got {weights.dtype} {weights.shape}"
        )
    if layer.scales.shape not in ((1,), (old.num_channels,)) or layer.zero_points.shape != layer.scales.shape:
        raise ValueError(f"'{name}' has one scale and zero point, or {old.num_channels} of each")
    if not np.all(np.isfinite(layer.scales) & (layer.scales > 0.0)):
        raise ValueError(f"scales of '{name}' must be positive")
    if (bias is None) != (old.bias is None) or layer.bias_dtype != old.bias_dtype:
        raise ValueError(f"'{name}' keeps its bias, and its type")
    if bias is not None and old.bias is not None:
        info = np.iinfo(str(old.bias_dtype).lower())
        if bias.shape != old.bias.shape or np.any(bias < info.min) or np.any(bias > info.max):
            raise ValueError(f"the bias of '{name}' must be {old.bias.shape} and fit {old.bias_dtype}")
