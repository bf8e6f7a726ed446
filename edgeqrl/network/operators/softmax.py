"""Operators on whole rows."""

import math

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.fixed_point import INT32_MAX, Int64Array, requantize, rounding_shift_right
from edgeqrl.network.functions import Factor
from edgeqrl.network.functions_fixed import exp_of_negative
from edgeqrl.network.functions_float import FUNCTIONS, knot_table
from edgeqrl.network.ir import Layer
from edgeqrl.network.layers.softmax import ArgExtreme, LogSoftmax, Softmax, Softmax16
from edgeqrl.network.operators.operand import (
    INTEGER_RULES,
    Operator,
    Support,
    has_int8_activations,
    has_static_operands,
    is_activation,
    quantization,
)

Knots = NDArray[np.int16]

_SCALED_BITS = 5  # integer bits of SOFTMAX's scaled differences


def keeps_shape(op: Operator) -> bool:
    """Output has the shape of the input."""
    return op.source.shape == op.target.shape and len(op.source.shape) > 0


def has_softmax_output(op: Operator) -> bool:
    """Output has scale 1/256 and zero point -128 in int8, scale 1/32768 in int16."""
    expected = (1 / 256, -128) if op.target.dtype == "INT8" else (1 / 32768, 0)
    return quantization(op.target) == expected


def has_log_softmax_output(op: Operator) -> bool:
    """Output has scale 1/16 and zero point 127."""
    return quantization(op.target) == (1 / 16, 127)


def has_softmax_scale(op: Operator) -> bool:
    """Input scale x beta is above 2^-25, and in int16 below 4."""
    real = quantization(op.source)[0] * _beta(op)
    return 2.0**-25 < real < (4.0 if op.source.dtype == "INT16" else math.inf)


def has_short_rows(op: Operator) -> bool:
    """The last axis has at most 511 elements in int8 (4095 for LOG_SOFTMAX), 32768 in int16."""
    most = 4095 if op.info.name == "LOG_SOFTMAX" else 511 if op.source.dtype == "INT8" else 2**15
    return op.source.shape[-1] <= most


def has_axis_and_indices(op: Operator) -> bool:
    """Input is INT8 or INT16, its axis constant, and the output INT32, or INT64 that fits INT32."""
    axis = op.operand(1)
    if axis is None or not axis.is_constant or axis.dtype not in ("INT32", "INT64") or axis.size != 1:
        return False
    rank = len(op.source.shape)
    in_range = -rank <= int(np.asarray(axis.values()).item()) < rank
    return is_activation(op.source) and in_range and op.target.dtype in ("INT32", "INT64")


def lower_softmax(op: Operator) -> tuple[Layer, ...]:
    """Lower SOFTMAX."""
    name, source, rows, depth = op.target.name, op.source.name, *_rows(op)
    real = quantization(op.source)[0] * _beta(op)
    if op.source.dtype == "INT16":
        # Differences in steps of 10 / 65535: exp(-10) does not count.
        factor = Factor.of(real / (10.0 / 65535.0))
        return (Softmax16(name, source, name, rows, depth, factor, *_softmax_knots()),)
    factor, limit = _scaling(real)
    return (Softmax(name, source, name, rows, depth, _exponentials(factor, limit).astype(np.int32)),)


def lower_log_softmax(op: Operator) -> tuple[Layer, ...]:
    """Lower LOG_SOFTMAX."""
    name, source, rows, depth = op.target.name, op.source.name, *_rows(op)
    factor, limit = _scaling(quantization(op.source)[0])
    reverse = Factor.of(2.0 ** (31 - factor.shift) / factor.multiplier)
    table = rounding_shift_right(_exponentials(factor, limit), 12).astype(np.int32)
    return (LogSoftmax(name, source, name, rows, depth, factor, reverse, limit, table),)


def lower_arg_extreme(op: Operator) -> tuple[Layer, ...]:
    """Lower ARG_MAX and ARG_MIN."""
    axis = op.operand(1)
    assert axis is not None
    shape = op.source.shape
    along = int(np.asarray(axis.values()).item()) % len(shape)
    outer, inner = math.prod(shape[:along]), math.prod(shape[along + 1 :])
    name = op.target.name
    return (ArgExtreme(name, op.info.name, op.source.name, name, outer, shape[along], inner),)


def _beta(op: Operator) -> float:
    return float(op.info.options["beta"]) if op.info.name == "SOFTMAX" else 1.0  # type: ignore[arg-type]


def _rows(op: Operator) -> tuple[int, int]:
    depth = op.source.shape[-1]
    return op.source.size // depth, depth


def _scaling(real: float) -> tuple[Factor, int]:
    """Return the factor from input units to q5, and the least difference that is too large for it."""
    factor = Factor.of(min(real * 2.0 ** (31 - _SCALED_BITS), 2.0**31 - 1.0))
    radius = math.floor(31.0 * 2.0 ** (31 - _SCALED_BITS) / 2.0**factor.shift)
    return factor, radius + 1


def _exponentials(factor: Factor, limit: int) -> Int64Array:
    """Return exp(-d) in q0 for every difference d, 0 from `limit` on."""
    differences = np.arange(256, dtype=np.int64)
    counted = np.where(differences < limit, differences, 0)
    scaled = requantize(-counted, factor.multiplier, factor.shift)
    exponentials = np.minimum(exp_of_negative(scaled, _SCALED_BITS), INT32_MAX)
    return np.where(differences < limit, exponentials, 0)


def _softmax_knots() -> tuple[Knots, Knots]:
    """Return exp over [-10, 0] and 1 / (1 + x) over [0, 1], both to [-1, 1]."""
    units = np.float32(2.0) / np.float32(65535), np.float32(10.0) / np.float32(65535)
    return (
        knot_table(FUNCTIONS["EXP"], (-65535 * units[1], 0.0), (-32768 * units[0], 32767 * units[0])),
        knot_table(
            lambda x: np.float32(1) / (np.float32(1) + x),
            (0.0, 65535 * (np.float32(1.0) / np.float32(65535))),
            (-32768 * units[0], 32767 * units[0]),
        ),
    )


_ARG_RULES = (has_static_operands, has_axis_and_indices)
_ARG_NOTE = "The first of equals. int64 indices, which TFLite Micro lacks, become int32."

SUPPORT = {
    "ARG_MAX": Support(_ARG_RULES, lower_arg_extreme, note=_ARG_NOTE, oracle_int16="reference"),
    "ARG_MIN": Support(_ARG_RULES, lower_arg_extreme, note=_ARG_NOTE, oracle_int16="reference"),
    "LOG_SOFTMAX": Support(
        (
            has_static_operands,
            has_int8_activations,
            keeps_shape,
            has_log_softmax_output,
            has_softmax_scale,
            has_short_rows,
        ),
        lower_log_softmax,
    ),
    "SOFTMAX": Support(
        (*INTEGER_RULES, keeps_shape, has_softmax_output, has_softmax_scale, has_short_rows),
        lower_softmax,
        note="int16: tflite-runtime's tables are of doubles and rarely one unit away.",
        oracle_int16="tflm, tflite-runtime",
    ),
}
