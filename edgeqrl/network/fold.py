"""Operators on constants, done once and for all: the shape arithmetic that exporters leave in a file.

A function here gets the operator, its constant inputs (None: not a constant) and the tensors that it
writes; it returns their values, or raises ValueError where it cannot. None allocates more than its outputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.slicing import normal_axis, plain_slice, strided_slice
from edgeqrl.network.tflite_model import OperatorInfo, TensorInfo
from edgeqrl.network.tflite_schema import DTYPES

Values = NDArray[Any]

_INTEGERS = ("INT32", "INT64")


def fold(
    op: OperatorInfo, inputs: Sequence[TensorInfo | None], outputs: Sequence[TensorInfo]
) -> list[Values] | None:
    """Return the values of all outputs of an operator on constants, or None where they are not constant."""
    function = _FUNCTIONS.get(op.name)
    if function is None or not outputs or any(t.dtype not in DTYPES for t in outputs):
        return None
    operands: list[Values | None] = [t.values() if t and t.is_constant else None for t in inputs]
    if op.name in _OF_SHAPES:
        operands = [np.broadcast_to(np.int8(0), t.shape) if t is not None else None for t in inputs]
    elif not operands or any(values is None for values in operands):
        return None
    try:
        with np.errstate(all="ignore"):
            results = function(op, [values for values in operands if values is not None], outputs)
    except (ValueError, IndexError, OverflowError):
        return None  # the operator stays, and is refused by its name
    if len(results) != len(outputs):
        return None
    for values, tensor in zip(results, outputs, strict=True):
        if values.shape != tensor.shape or (values.dtype != DTYPES[tensor.dtype] and op.name not in _CASTING):
            return None
    return [np.asarray(v, DTYPES[t.dtype]) for v, t in zip(results, outputs, strict=True)]


def is_moving(op: OperatorInfo) -> bool:
    """Tell whether an operator only moves values, so that quantized ones stay what they are."""
    return op.name in MOVES


def _shape(_: OperatorInfo, operands: Sequence[Values], __: Sequence[TensorInfo]) -> list[Values]:
    return [np.array(operands[0].shape, np.int64)]


def _rank(_: OperatorInfo, operands: Sequence[Values], __: Sequence[TensorInfo]) -> list[Values]:
    return [np.array(operands[0].ndim, np.int64)]


def _zeros_like(_: OperatorInfo, operands: Sequence[Values], __: Sequence[TensorInfo]) -> list[Values]:
    return [operands[0]]


def _reshape(op: OperatorInfo, operands: Sequence[Values], out: Sequence[TensorInfo]) -> list[Values]:
    return [operands[0].reshape(out[0].shape)]


def _transpose(_: OperatorInfo, operands: Sequence[Values], __: Sequence[TensorInfo]) -> list[Values]:
    return [operands[0].transpose(_list(operands[1]))]


def _reverse(_: OperatorInfo, operands: Sequence[Values], __: Sequence[TensorInfo]) -> list[Values]:
    return [np.flip(operands[0], tuple(_list(operands[1])))]


def _strided_slice(op: OperatorInfo, operands: Sequence[Values], _: Sequence[TensorInfo]) -> list[Values]:
    values, begin, end, strides = operands
    if op.options["offset"]:
        raise ValueError("offset")
    axes, shape = strided_slice(values.shape, _list(begin), _list(end), _list(strides), op.options)
    return [values[tuple(axis.as_slice() for axis in axes)].reshape(shape)]


def _slice(_: OperatorInfo, operands: Sequence[Values], __: Sequence[TensorInfo]) -> list[Values]:
    values, begin, size = operands
    return [values[tuple(a.as_slice() for a in plain_slice(values.shape, _list(begin), _list(size)))]]


def _pack(op: OperatorInfo, operands: Sequence[Values], out: Sequence[TensorInfo]) -> list[Values]:
    _require(sum(values.size for values in operands) == out[0].size)
    return [np.stack(operands, normal_axis(op.number("axis"), operands[0].ndim + 1))]


def _unpack(op: OperatorInfo, operands: Sequence[Values], _: Sequence[TensorInfo]) -> list[Values]:
    (values,) = operands
    return list(np.moveaxis(values, normal_axis(op.number("axis"), values.ndim), 0))


def _concatenation(op: OperatorInfo, operands: Sequence[Values], out: Sequence[TensorInfo]) -> list[Values]:
    _require(op.fused_activation == "NONE" and sum(values.size for values in operands) == out[0].size)
    return [np.concatenate(operands, normal_axis(op.number("axis"), operands[0].ndim))]


def _split(op: OperatorInfo, operands: Sequence[Values], out: Sequence[TensorInfo]) -> list[Values]:
    axis, values = operands
    where = normal_axis(_scalar(axis), values.ndim)
    _require(values.shape[where] % len(out) == 0)
    return np.split(values, len(out), where)


def _gather(op: OperatorInfo, operands: Sequence[Values], out: Sequence[TensorInfo]) -> list[Values]:
    values, indices = operands
    axis = normal_axis(op.number("axis"), values.ndim)
    _require(op.number("batch_dims") == 0)
    _require(indices.size * (values.size // max(1, values.shape[axis])) == out[0].size)
    _require(bool(np.all(indices >= 0)))
    return [np.take(values, indices.astype(np.int64), axis)]


def _cast(_: OperatorInfo, operands: Sequence[Values], out: Sequence[TensorInfo]) -> list[Values]:
    _require(operands[0].dtype.kind in "iub" and out[0].dtype in ("BOOL", *_INTEGERS))
    return [operands[0].astype(DTYPES[out[0].dtype])]


def _range(_: OperatorInfo, operands: Sequence[Values], out: Sequence[TensorInfo]) -> list[Values]:
    start, limit, delta = (_scalar(values) for values in operands)
    _require(delta != 0 and len(range(start, limit, delta)) == out[0].size)
    return [np.arange(start, limit, delta, np.int64)]


def _fill(_: OperatorInfo, operands: Sequence[Values], out: Sequence[TensorInfo]) -> list[Values]:
    shape, value = operands
    _require(tuple(_list(shape)) == out[0].shape and value.size == 1)
    return [np.broadcast_to(value.reshape(()), out[0].shape)]


def _broadcast_args(_: OperatorInfo, operands: Sequence[Values], __: Sequence[TensorInfo]) -> list[Values]:
    return [np.array(np.broadcast_shapes(*(tuple(_list(values)) for values in operands)), np.int64)]


def _broadcast_to(_: OperatorInfo, operands: Sequence[Values], out: Sequence[TensorInfo]) -> list[Values]:
    _require(tuple(_list(operands[1])) == out[0].shape)
    return [np.broadcast_to(operands[0], out[0].shape)]


def _tile(_: OperatorInfo, operands: Sequence[Values], out: Sequence[TensorInfo]) -> list[Values]:
    values, times = operands
    repeats = _list(times)
    _require(len(repeats) == values.ndim)
    _require(tuple(n * r for n, r in zip(values.shape, repeats, strict=True)) == out[0].shape)
    return [np.tile(values, repeats)]


def _pair(function: Callable[[Values, Values], Values]) -> "_Function":
    def folded(op: OperatorInfo, operands: Sequence[Values], out: Sequence[TensorInfo]) -> list[Values]:
        a, b = operands
        _require(op.fused_activation == "NONE" and np.broadcast_shapes(a.shape, b.shape) == out[0].shape)
        _require(a.dtype == b.dtype and a.dtype.kind == "i" and a.dtype.itemsize >= 4)
        _require(function not in (np.floor_divide, np.remainder) or bool(np.all(b != 0)))
        return [np.asarray(function(a, b))]

    return folded


def _reduced(function: Callable[..., Any]) -> "_Function":
    def folded(op: OperatorInfo, operands: Sequence[Values], _: Sequence[TensorInfo]) -> list[Values]:
        values, axes = operands
        _require(values.dtype.kind == "i" and values.dtype.itemsize >= 4)
        where = tuple({normal_axis(axis, values.ndim) for axis in _list(axes)})
        result = function(values, axis=where, keepdims=bool(op.options["keep_dims"]))
        return [np.asarray(result).astype(values.dtype)]

    return folded


def _quantize(_: OperatorInfo, operands: Sequence[Values], out: Sequence[TensorInfo]) -> list[Values]:
    """Quantize float32 constants, such as an initial state of zeros."""
    (values,), (target,) = operands, out
    _require(values.dtype == np.float32 and target.dtype in ("INT8", "INT16") and len(target.scales) == 1)
    _require(bool(np.all(np.isfinite(values))) and target.scales[0] > 0.0)
    quotient = values / target.scales[0]
    rounded = np.copysign(np.floor(np.abs(quotient.astype(np.float64)) + 0.5), quotient)
    limits = np.iinfo(np.dtype(DTYPES[target.dtype]))
    return [np.clip(rounded + int(target.zero_points[0]), limits.min, limits.max)]


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError("not foldable")


def _scalar(values: Values) -> int:
    if values.size != 1 or values.dtype.kind not in "iu":
        raise ValueError("not one integer")
    return int(values.reshape(()))


def _list(values: Values) -> list[int]:
    if values.dtype.kind not in "iu" or values.size > 16:
        raise ValueError("not a shape")
    return [int(v) for v in values.ravel()]


_Function = Callable[[OperatorInfo, Sequence[Values], Sequence[TensorInfo]], list[Values]]
_OF_SHAPES = {"SHAPE", "RANK", "ZEROS_LIKE"}  # their inputs need not be constants
_CASTING = {"SHAPE", "RANK", "ZEROS_LIKE", "RANGE", "BROADCAST_ARGS", "QUANTIZE"}  # int64 or float64 so far
MOVES: dict[str, _Function] = {
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
    "EXPAND_DIMS": _reshape,
    "TRANSPOSE": _transpose,
    "REVERSE_V2": _reverse,
    "STRIDED_SLICE": _strided_slice,
    "SLICE": _slice,
    "PACK": _pack,
    "UNPACK": _unpack,
    "CONCATENATION": _concatenation,
    "SPLIT": _split,
    "GATHER": _gather,
    "FILL": _fill,
    "BROADCAST_TO": _broadcast_to,
    "TILE": _tile,
}
_FUNCTIONS: dict[str, _Function] = {
    **MOVES,
    "SHAPE": _shape,
    "RANK": _rank,
    "ZEROS_LIKE": _zeros_like,
    "CAST": _cast,
    "RANGE": _range,
    "BROADCAST_ARGS": _broadcast_args,
    "ADD": _pair(np.add),
    "SUB": _pair(np.subtract),
    "MUL": _pair(np.multiply),
    "MAXIMUM": _pair(np.maximum),
    "MINIMUM": _pair(np.minimum),
    "FLOOR_DIV": _pair(np.floor_divide),
    "FLOOR_MOD": _pair(np.remainder),
    "SUM": _reduced(np.sum),
    "REDUCE_PROD": _reduced(np.prod),
    "REDUCE_MAX": _reduced(np.max),
    "REDUCE_MIN": _reduced(np.min),
    "QUANTIZE": _quantize,
}
