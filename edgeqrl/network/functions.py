"""Elementwise int8 functions as 256-entry tables: entry q + 128 is the output for input q.

TANH and LOGISTIC follow the kernels' fixed-point recipe (gemmlowp's): exp by a Taylor step around
-1/8 and a product of exp(-2**k), then one division by Newton-Raphson. Numbers with k integer bits are
int32 values scaled by 2**(31 - k); below, `q5` has 5 integer bits.
"""

import math

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.fixed_point import (
    INT32_MAX,
    Int64Array,
    high_multiply,
    quantize_multiplier,
    requantize,
    rounding_shift_right,
    saturating_shift_left,
)

Table = NDArray[np.int8]  # [256]

_INPUT_BITS = 4  # integer bits of TANH's and LOGISTIC's argument
_ALL_INT8 = np.arange(-128, 128, dtype=np.int64)

_EXP_MINUS_EIGHTH = 1895147668  # exp(-1/8) in q0
_ONE_THIRD = 715827883  # 1/3 in q0
# exp(-2**k) in q0 for k from -2
_EXP_POWERS = ((-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308), (2, 39332535),
               (3, 720401), (4, 242))  # fmt: skip
_48_OVER_17 = 1515870810  # in q2
_32_OVER_17 = 1010580540  # in q2
_ONE_Q2 = 2**29


def tanh_table(input_scale: float, input_zero_point: int) -> Table:
    """Tabulate TANH; its output has scale 1/128 and zero point 0."""
    argument, is_low, is_high = _rescaled_input(input_scale, input_zero_point)
    magnitude = _one_minus_over_one_plus(_exp_of_negative(-np.abs(argument), _INPUT_BITS + 1))
    real = np.where(argument == 0, 0, np.where(argument < 0, -magnitude, magnitude))
    return _finish(rounding_shift_right(real, 31 - 7), is_low, is_high)


def logistic_table(input_scale: float, input_zero_point: int) -> Table:
    """Tabulate LOGISTIC; its output has scale 1/256 and zero point -128."""
    argument, is_low, is_high = _rescaled_input(input_scale, input_zero_point)
    positive = _one_over_one_plus(_exp_of_negative(-np.abs(argument), _INPUT_BITS))
    real = np.where(argument == 0, 2**30, np.where(argument > 0, positive, INT32_MAX - positive))
    return _finish(rounding_shift_right(real, 31 - 8) - 128, is_low, is_high)


def requantize_table(
    effective_scale: float,
    input_zero_point: int,
    output_zero_point: int,
    output_min: int = -128,
    output_max: int = 127,
) -> Table:
    """Tabulate QUANTIZE and the RELU family: requantize by input scale / output scale, then clamp."""
    multiplier, shift = quantize_multiplier(effective_scale)
    # Beyond this shift everything but zero saturates, and the kernels' int32 would overflow.
    values = requantize(_ALL_INT8 - input_zero_point, multiplier, min(shift, 22))
    return np.clip(values + output_zero_point, output_min, output_max).astype(np.int8)


def activation_range(activation: str, scale: float, zero_point: int) -> tuple[int, int]:
    """Return what a clamping activation allows, in quantized units: (output_min, output_max).

    Bounds are divided by the scale in float32 and rounded, halves away from zero, as the kernels do.
    """
    low, high = {
        "NONE": (None, None),
        "RELU": (0.0, None),
        "RELU6": (0.0, 6.0),
        "RELU_N1_TO_1": (-1.0, 1.0),
    }[activation]
    lowest = -128 if low is None else max(-128, _quantized_bound(low, scale, zero_point))
    highest = 127 if high is None else min(127, _quantized_bound(high, scale, zero_point))
    return lowest, highest


def _quantized_bound(bound: float, scale: float, zero_point: int) -> int:
    quotient = float(np.float32(bound) / np.float32(scale))
    return zero_point + int(math.copysign(math.floor(abs(quotient) + 0.5), quotient))


def _rescaled_input(scale: float, zero_point: int) -> tuple[Int64Array, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return every input in q4, and where it is so far out that the function has its limit."""
    multiplier, shift = quantize_multiplier(scale * 2.0 ** (31 - _INPUT_BITS))
    radius = math.floor((2.0**_INPUT_BITS - 1) * 2.0 ** (31 - _INPUT_BITS - shift))
    centred = _ALL_INT8 - zero_point
    is_low, is_high = centred <= -radius, centred >= radius
    inside = np.where(is_low | is_high, 0, centred)
    return requantize(inside, multiplier, shift), is_low, is_high


def _finish(values: Int64Array, is_low: NDArray[np.bool_], is_high: NDArray[np.bool_]) -> Table:
    return np.where(is_low, -128, np.where(is_high, 127, np.clip(values, -128, 127))).astype(np.int8)


def _exp_of_negative(a: Int64Array, integer_bits: int) -> Int64Array:
    """Return exp(a) in q0 for a <= 0 with `integer_bits` integer bits."""
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    last_quarter = (a & (quarter - 1)) - quarter  # in [-1/4, 0)
    result = _exp_near_minus_eighth(saturating_shift_left(last_quarter, integer_bits))
    remainder = last_quarter - a  # a multiple of 1/4
    for power, factor in _EXP_POWERS:
        if power < integer_bits:
            has_bit = (remainder >> (fraction_bits + power)) & 1
            result = np.where(has_bit == 1, high_multiply(result, factor), result)
    return np.where(a == 0, INT32_MAX, result)


def _exp_near_minus_eighth(a: Int64Array) -> Int64Array:
    """Return exp(a) for a in [-1/4, 0), both in q0."""
    x = a + 2**28  # a + 1/8
    x2 = high_multiply(x, x)
    x3 = high_multiply(x2, x)
    x4 = high_multiply(x2, x2)
    tail = high_multiply(rounding_shift_right(x4, 2) + x3, _ONE_THIRD) + x2
    return _EXP_MINUS_EIGHTH + high_multiply(_EXP_MINUS_EIGHTH, x + rounding_shift_right(tail, 1))


def _reciprocal(a: Int64Array) -> Int64Array:
    """Return 2 / (1 + a) in q2 for a in [0, 1] in q0."""
    half_denominator = (a + INT32_MAX + 1) >> 1  # (1 + a) / 2, rounded
    x = _48_OVER_17 + high_multiply(half_denominator, -_32_OVER_17)
    for _ in range(3):
        error = _ONE_Q2 - high_multiply(half_denominator, x)
        x = x + saturating_shift_left(high_multiply(x, error), 2)
    return x


def _one_over_one_plus(a: Int64Array) -> Int64Array:
    """Return 1 / (1 + a) in q0 for a in [0, 1] in q0."""
    return saturating_shift_left(_reciprocal(a), 1)


def _one_minus_over_one_plus(a: Int64Array) -> Int64Array:
    """Return (1 - a) / (1 + a) in q0 for a in [0, 1] in q0."""
    return saturating_shift_left(_reciprocal(a) - _ONE_Q2, 2)
