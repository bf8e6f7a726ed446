"""Operators without weights that take several values to one."""

import numpy as np

from edgeqrl.network.fixed_point import quantize_multiplier
from edgeqrl.network.ir import Layer
from edgeqrl.network.layers import Pool, Reduce, Window
from edgeqrl.network.operators.linear import fused_range, window_of
from edgeqrl.network.operators.operand import (
    INTEGER_RULES,
    Operator,
    Support,
    has_clamping_activation,
    keeps_quantization,
    quantization,
)


def has_pooling_window(op: Operator) -> bool:
    """Sizes [n, h, w, c] follow from filter, strides and padding; filters span at most 64 or 4 inputs."""
    return _window(op) is not None


def keeps_channels(op: Operator) -> bool:
    """Output has the channels of the input."""
    return op.source.shape[3] == op.target.shape[3]


def has_constant_axes(op: Operator) -> bool:
    """Axes are a constant INT32 of one or more numbers, each an axis of the input."""
    axes = op.operand(1)
    if axes is None or axes.dtype != "INT32" or not axes.is_constant or len(axes.shape) > 1:
        return False
    rank = len(op.source.shape)
    return axes.size > 0 and all(-rank <= axis < rank for axis in _given(op))


def has_reduced_shape(op: Operator) -> bool:
    """Output has the input's shape without these axes, or with 1 in their place where they are kept."""
    shape, axes = op.source.shape, _axes(op)
    if op.info.options["keep_dims"]:
        return op.target.shape == tuple(1 if i in axes else n for i, n in enumerate(shape))
    return op.target.shape == tuple(n for i, n in enumerate(shape) if i not in axes)


def lower_pool(op: Operator) -> tuple[Layer, ...]:
    """Lower MAX_POOL_2D and AVERAGE_POOL_2D."""
    window = _window(op)
    if window is None:
        raise ValueError(f"the sizes of '{op.target.name}' do not follow from its padding")
    names = (op.target.name, op.info.name, op.source.name, op.target.name)
    return (Pool(*names, window, *fused_range(op)),)


def lower_reduce(op: Operator) -> tuple[Layer, ...]:
    """Lower MEAN, SUM, REDUCE_MAX and REDUCE_MIN."""
    names = (op.target.name, op.info.name, op.source.name, op.target.name)
    axes = _axes(op)
    multiplier, shift = 0, 0
    if op.info.name in ("MEAN", "SUM"):
        (scale_in, _), (scale_out, _) = quantization(op.source), quantization(op.target)
        multiplier, shift = quantize_multiplier(scale_in / scale_out)
    if op.info.name == "MEAN":
        count = int(np.prod([op.source.shape[axis] for axis in axes], dtype=np.int64))
        multiplier, shift = _divided(multiplier, shift, count)
    return (Reduce(*names, op.source.shape, axes, multiplier, shift),)


def _divided(multiplier: int, shift: int, count: int) -> tuple[int, int]:
    """Divide a multiplier by a count, rounding towards zero, as the kernels' `QuantizedMeanOrSum` does."""
    left = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << left) // count, shift - left


def _given(op: Operator) -> list[int]:
    axes = op.operand(1)
    assert axes is not None
    return [int(axis) for axis in np.asarray(axes.values(), np.int64).ravel()]


def _axes(op: Operator) -> tuple[int, ...]:
    rank = len(op.source.shape)
    return tuple(sorted({axis % rank for axis in _given(op)}))


def _window(op: Operator) -> Window | None:
    if len(op.source.shape) != 4 or len(op.target.shape) != 4:
        return None
    (n, h, w, c), (out_n, out_h, out_w, out_c) = op.source.shape, op.target.shape
    kernel = (op.info.number("filter_height"), op.info.number("filter_width"))
    return window_of(op, (n, h, w, c), (out_n, out_h, out_w, out_c), kernel)


_BOTH = "tflm, tflite-runtime"
_SUM = "tflite-runtime has other sums, some of which wrap around; TFLite Micro decides"
_EXTREME = "TFLite Micro has it for int8 only"
_POOL = (*INTEGER_RULES, has_pooling_window, keeps_channels, keeps_quantization, has_clamping_activation)
_REDUCE = (*INTEGER_RULES, has_constant_axes, has_reduced_shape)
_EXTREMES = Support(
    (*_REDUCE, keeps_quantization), lower_reduce, note=_EXTREME, oracle_int16="tflite-runtime"
)

SUPPORT = {
    "AVERAGE_POOL_2D": Support(_POOL, lower_pool, oracle_int16=_BOTH),
    "MAX_POOL_2D": Support(_POOL, lower_pool, oracle_int16=_BOTH),
    "MEAN": Support(_REDUCE, lower_reduce, oracle_int16=_BOTH),
    "REDUCE_MAX": _EXTREMES,
    "REDUCE_MIN": _EXTREMES,
    "SUM": Support(_REDUCE, lower_reduce, note=_SUM, oracle="tflm", oracle_int16="tflm"),
}
