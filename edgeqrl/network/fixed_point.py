"""Integer rescaling, bit for bit as TFLite Micro and tflite-runtime's reference kernels do it.

Two roundings, after gemmlowp: a doubling high multiply, then a rounding shift right. LiteRT 2.x
rounds once. All functions take and return int64 arrays that hold int32 values, so that NumPy never
wraps silently; where the kernels saturate, so does this.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64Array = NDArray[np.int64]

INT32_MIN = -(2**31)
INT32_MAX = 2**31 - 1


def quantize_multiplier(real: float) -> tuple[int, int]:
    """Split a positive real into `(multiplier, shift)`: real ~ multiplier * 2**(shift - 31).

    `multiplier` is Q0.31, in [2**30, 2**31); `shift` > 0 shifts left. A real below 2**-32 gives (0, 0),
    as in the kernels.
    """
    if not (real > 0.0 and math.isfinite(real)):
        raise ValueError(f"expected a finite positive multiplier, got {real!r}")
    mantissa, shift = math.frexp(real)
    # C's round() takes halves away from zero; Python's would take them to even.
    multiplier = math.floor(mantissa * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift + 1
    return (0, 0) if shift < -31 else (multiplier, shift)


def requantize(accumulator: ArrayLike, multiplier: ArrayLike, shift: ArrayLike) -> Int64Array:
    """Rescale int32 values by multiplier * 2**(shift - 31), rounding twice; arguments broadcast.

    `accumulator` shifted left by `shift` must fit int32: IntegerNetwork proves it for its layers.
    """
    values, shifts = np.asarray(accumulator, np.int64), np.asarray(shift, np.int64)
    high = high_multiply(values << np.maximum(shifts, 0), multiplier)
    return rounding_shift_right(high, np.maximum(-shifts, 0))


def requantize_int64(accumulator: ArrayLike, multiplier: ArrayLike, shift: ArrayLike) -> Int64Array:
    """Rescale sums of 64 bits by about multiplier * 2**(shift - 31), rounding once, halves up.

    What the kernels of int16 activations do (`MultiplyByQuantizedMultiplier` of an int64): the multiplier
    is first rounded to 16 bits, (multiplier + 2**15) >> 16, at most 2**15 - 1; then the product is shifted
    right by 15 - shift, plus one half. Sums lie within 47 bits, `shift` in [-31, 7] and results in int32:
    IntegerNetwork proves it for its layers.
    """
    values, shifts = np.asarray(accumulator, np.int64), np.asarray(shift, np.int64)
    total = 15 - shifts
    return np.asarray((values * reduced_multiplier(multiplier) + (np.int64(1) << (total - 1))) >> total)


def reduced_multiplier(multiplier: ArrayLike) -> Int64Array:
    """Round a Q0.31 multiplier to Q0.15, as `requantize_int64` uses it; saturates."""
    return np.minimum((np.asarray(multiplier, np.int64) + 2**15) >> 16, 2**15 - 1)


def high_multiply(a: ArrayLike, b: ArrayLike) -> Int64Array:
    """Return a * b / 2**31 of int32 values to nearest, halves up; saturates -2**31 * -2**31."""
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    # gemmlowp adds 2**30 or 1 - 2**30 and truncates towards zero, which is halves up for both signs.
    return np.minimum((product + 2**30) >> 31, INT32_MAX)


def rounding_shift_right(value: ArrayLike, exponent: ArrayLike) -> Int64Array:
    """Divide by 2**exponent, to nearest, halves away from zero; exponent in [0, 31]."""
    values, exponents = np.asarray(value, np.int64), np.asarray(exponent, np.int64)
    mask = (np.int64(1) << exponents) - 1
    threshold = (mask >> 1) + (values < 0)
    return np.asarray((values >> exponents) + ((values & mask) > threshold), np.int64)


def saturating_shift_left(value: ArrayLike, exponent: int) -> Int64Array:
    """Multiply by 2**exponent, saturating to int32."""
    return np.clip(np.asarray(value, np.int64) << exponent, INT32_MIN, INT32_MAX)
