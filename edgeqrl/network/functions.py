"""Elementwise int8 functions as 256-entry tables: entry q + 128 is the output for input q.

TANH, LOGISTIC, RSQRT and HARD_SWISH follow the kernels' fixed-point recipes; functions that the kernels
compute in float32 are in `functions_float`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.fixed_point import (
    INT32_MAX,
    Int64Array,
    quantize_multiplier,
    requantize,
    rounding_shift_right,
)
from edgeqrl.network.functions_fixed import (
    exp_of_negative,
    inverse_root,
    one_minus_over_one_plus,
    one_over_one_plus,
)

Table = NDArray[np.int8]  # [256]

_INPUT_BITS = 4  # integer bits of TANH's and LOGISTIC's argument
_ALL_INT8 = np.arange(-128, 128, dtype=np.int64)
_ROOT_SHIFT = 20  # RSQRT keeps so many fraction bits between its two products


@dataclass(frozen=True)
class Factor:
    """A real factor as `requantize` takes it: multiplier * 2**(shift - 31); negative ones negate."""

    multiplier: int
    shift: int

    @classmethod
    def of(cls, real: float) -> "Factor":
        """Round a real number; zero and what is too small for any shift become (0, 0)."""
        if real == 0.0:
            return cls(0, 0)
        multiplier, shift = quantize_multiplier(abs(real))
        return cls(multiplier if real > 0.0 else -multiplier, shift)


def tanh_table(input_scale: float, input_zero_point: int) -> Table:
    """Tabulate TANH; its output has scale 1/128 and zero point 0."""
    argument, is_low, is_high = _rescaled_input(input_scale, input_zero_point)
    magnitude = one_minus_over_one_plus(exp_of_negative(-np.abs(argument), _INPUT_BITS + 1))
    real = np.where(argument == 0, 0, np.where(argument < 0, -magnitude, magnitude))
    return _finish(rounding_shift_right(real, 31 - 7), is_low, is_high)


def logistic_table(input_scale: float, input_zero_point: int) -> Table:
    """Tabulate LOGISTIC; its output has scale 1/256 and zero point -128."""
    argument, is_low, is_high = _rescaled_input(input_scale, input_zero_point)
    positive = one_over_one_plus(exp_of_negative(-np.abs(argument), _INPUT_BITS))
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
    factor = Factor.of(effective_scale)
    return rescale_table((factor, factor), (input_zero_point, output_zero_point), (output_min, output_max))


def rescale_table(
    factors: tuple[Factor, Factor], zero_points: tuple[int, int], bounds: tuple[int, int]
) -> Table:
    """Tabulate clamp(zp_out + requantize(q - zp_in)).

    factors      of values >= 0, and of those below
    zero_points  of input and output
    """
    centred = _ALL_INT8 - zero_points[0]
    positive, negative = (_requantized(centred, factor) for factor in factors)
    values = np.where(centred >= 0, positive, negative) + zero_points[1]
    return np.asarray(np.clip(values, *bounds), np.int8)


def hard_swish_table(
    input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> Table:
    """Tabulate HARD_SWISH in the kernels' int16 arithmetic; input scale / output scale is below 128."""
    hires_scale = np.float32(1 / 128) * np.float32(input_scale)
    output, output_shift = _int16_factor(float(hires_scale / np.float32(output_scale)))
    reluish, reluish_shift = _int16_factor(float(hires_scale / (np.float32(3) / np.float32(32768))))
    assert output_shift <= 0, "input scale / output scale must be below 128"
    # x * 128 in int16, x to output units before their shift, and (x + 3) / 6 in [0, 1] in Q0.15.
    hires = (_ALL_INT8 - input_zero_point) << 7
    unshifted = _high_multiply_16(hires, output)
    gate = hires
    if reluish_shift > 0:
        gate = np.clip(gate << min(reluish_shift - 1, 32), -(2**15), 2**15 - 1)
    gate = _high_multiply_16(gate, reluish)
    if reluish_shift > 0:
        gate = np.clip(gate << 1, -(2**15), 2**15 - 1)
    gate = rounding_shift_right(gate, min(max(-reluish_shift, 0), 31))
    product = ((gate + 2**15) >> 1) * unshifted
    truncated = np.sign(product) * (np.abs(product) >> 15)
    values = rounding_shift_right(truncated, min(-output_shift, 31)) + output_zero_point
    return np.clip(values, -128, 127).astype(np.int8)


def rsqrt_table(
    input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> Table:
    """Tabulate RSQRT; 0 and what is below, where the kernels stop, have the greatest output."""
    centred = _ALL_INT8 - input_zero_point
    values = scaled_rsqrt(centred, rsqrt_factor(input_scale, output_scale)) + output_zero_point
    return np.where(centred > 0, np.clip(values, -128, 127), 127).astype(np.int8)


def rsqrt_factor(input_scale: float, output_scale: float) -> Factor:
    """Return the factor of RSQRT."""
    return Factor.of(1.0 / (math.sqrt(input_scale) * output_scale))


def scaled_rsqrt(centred: Int64Array, factor: Factor) -> Int64Array:
    """Return factor / sqrt(q - zp) for q - zp > 0, with 20 fraction bits between; saturates to int32."""
    multiplier, shift = inverse_root(np.maximum(centred, 1))
    root = requantize(1, multiplier, shift + _ROOT_SHIFT)
    return _requantized(root, Factor(factor.multiplier, factor.shift - _ROOT_SHIFT))


def activation_range(activation: str, scale: float, zero_point: int, dtype: str = "int8") -> tuple[int, int]:
    """Return what a clamping activation allows, in quantized units: (output_min, output_max).

    Bounds are divided by the scale in float32 and rounded, halves away from zero, as the kernels do.
    """
    low, high = {
        "NONE": (None, None),
        "RELU": (0.0, None),
        "RELU6": (0.0, 6.0),
        "RELU_N1_TO_1": (-1.0, 1.0),
        "RELU_0_TO_1": (0.0, 1.0),
    }[activation]
    lowest, highest = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    bounds = (
        lowest if low is None else _quantized_bound(low, scale, zero_point),
        highest if high is None else _quantized_bound(high, scale, zero_point),
    )
    return max(lowest, bounds[0]), min(highest, bounds[1])


def _quantized_bound(bound: float, scale: float, zero_point: int) -> int:
    quotient = float(np.float32(bound) / np.float32(scale))
    return zero_point + int(math.copysign(math.floor(abs(quotient) + 0.5), quotient))


def _requantized(values: Int64Array, factor: Factor) -> Int64Array:
    # Beyond what fits int32 everything saturates in the output anyway.
    shifted = np.clip(values << max(factor.shift, 0), -INT32_MAX, INT32_MAX)
    return requantize(shifted, factor.multiplier, np.clip(factor.shift, -31, 0))


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


def _int16_factor(real: float) -> tuple[int, int]:
    """Return a factor with its multiplier in Q0.15, and the shift of the Q0.31 one."""
    multiplier, shift = quantize_multiplier(real)
    return min((multiplier + 2**15) >> 16, 2**15 - 1), shift


def _high_multiply_16(a: Int64Array, b: int) -> Int64Array:
    """Return a * b / 2**15 of int16 values to nearest, halves up; saturates -2**15 * -2**15."""
    return np.minimum((a * b + 2**14) >> 15, 2**15 - 1)
