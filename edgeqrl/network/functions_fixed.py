"""exp, log, 1/(1+x) and 1/sqrt in integers, after gemmlowp's recipes, as TFLite Micro computes them.

Numbers with k integer bits ("in qk") are int32 values scaled by 2**(31 - k). All functions take and return
int64 arrays that hold int32 values. None branches on a value but through `where`, and every loop has a
fixed count, so that C can follow them step by step.
"""

import numpy as np
from numpy.typing import ArrayLike

from edgeqrl.network.fixed_point import (
    INT32_MAX,
    INT32_MIN,
    Int64Array,
    high_multiply,
    rounding_shift_right,
    saturating_shift_left,
)

_EXP_MINUS_EIGHTH = 1895147668  # exp(-1/8) in q0
_ONE_THIRD = 715827883  # 1/3 in q0
# exp(-2**k) in q0 for k from -2
_EXP_POWERS = ((-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308), (2, 39332535),
               (3, 720401), (4, 242))  # fmt: skip
_48_OVER_17 = 1515870810  # in q2
_32_OVER_17 = 1010580540  # in q2
_ONE_Q2 = 2**29
_LOG_2 = 1488522236  # in q0, as all that follow
_SQRT_HALF = 1518500250
_ROOT_4_HALF = 1805811301
# 11/240 r, r/20, 2/r - r and r/4 with r = 2**(1/4), in q0
_ALPHA_N, _ALPHA_D, _ALPHA_I, _ALPHA_F = 117049297, 127690142, 1057819769, 638450708
_ONE_Q3 = 2**28
_QUARTER_Q6 = 2**23


def exp_of_negative(a: Int64Array, integer_bits: int) -> Int64Array:
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


def one_over_one_plus(a: Int64Array) -> Int64Array:
    """Return 1 / (1 + a) in q0 for a in [0, 1] in q0.

    h = (a + 2**31) >> 1, x = 48/17 - 32/17 h (in q2); three times x += 4 x (1 - h x), where every product
    is a `high_multiply` and both left shifts saturate; the result is 2 x.
    """
    return saturating_shift_left(_reciprocal(a), 1)


def one_minus_over_one_plus(a: Int64Array) -> Int64Array:
    """Return (1 - a) / (1 + a) in q0 for a in [0, 1] in q0."""
    return saturating_shift_left(_reciprocal(a) - _ONE_Q2, 2)


def leading_zeros(a: ArrayLike) -> Int64Array:
    """Count the leading zeros of uint32 values by five fixed steps; 31 for 0 and 1, as 0 never occurs.

    n = 0; for s in 16, 8, 4, 2, 1: where a < 2**(32 - s): a <<= s, n += s.
    """
    values = np.asarray(a, np.int64).copy()
    count = np.zeros_like(values)
    for step in (16, 8, 4, 2, 1):
        is_small = values < 1 << (32 - step)
        values = np.where(is_small, values << step, values)
        count += np.where(is_small, step, 0)
    return count


def log_of_sum(total: Int64Array) -> Int64Array:
    """Return ln(total) in q5 for total >= 1 in q12; products are `high_multiply`, in this order.

    n = leading_zeros(total);          ra = 2 * ((total << (n - 1)) * sqrt(1/2)), saturating
    zb = total * sqrt(1/2);            m = leading_zeros(zb) - 1;  rb = total << m, saturating
    r = min(ra, rb) in q0;             e = max((12 - n) + 1/4, (12 - m) - 1/4) in q6
    p = (r + 2**(-1/4) + 1) >> 1;      q = 2 (r - 2**(-1/4))
    s = q q;                           num = q r + (q s) alpha_n
    den = p ((alpha_i + q) + alpha_d s) + alpha_f q
    result in q5 = 2 (e ln 2 + (num >> 6, rounded) one_over_one_plus(den)), saturating
    """
    zeros = leading_zeros(total)
    shifted = total << (zeros - 1)
    r_a = saturating_shift_left(high_multiply(shifted, _SQRT_HALF), 1)
    e_a = ((12 - zeros) << 25) + _QUARTER_Q6
    headroom = leading_zeros(high_multiply(total, _SQRT_HALF)) - 1
    r_b = np.clip(total << headroom, INT32_MIN, INT32_MAX)
    e_b = ((12 - headroom) << 25) - _QUARTER_Q6
    r, e = np.minimum(r_a, r_b), np.maximum(e_a, e_b)
    p = (r + _ROOT_4_HALF + 1) >> 1
    q = 2 * (r - _ROOT_4_HALF)
    squared = high_multiply(q, q)
    numerator = high_multiply(q, r) + high_multiply(high_multiply(q, squared), _ALPHA_N)
    inner = _ALPHA_I + q + high_multiply(_ALPHA_D, squared)
    denominator = high_multiply(p, inner) + high_multiply(_ALPHA_F, q)
    fraction = high_multiply(rounding_shift_right(numerator, 6), one_over_one_plus(denominator))
    return saturating_shift_left(high_multiply(e, _LOG_2) + fraction, 1)


def inverse_root(value: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return (m, s) with 1 / sqrt(value) ~ m * 2**(s - 31), for value in [1, 2**29).

    value 1: (2**31 - 1, 0). Else k = (leading_zeros(value) - 1) // 2 - 1 and v = value << 2k, in
    [2**27, 2**29); half = v / 4, halves up. x = 1 in q3, and five times x = 8 (1.5 x - half (64 x x x)),
    where products are `high_multiply` and both shifts saturate. m = x sqrt(1/2), s = k - 11.
    """
    pairs = (leading_zeros(value) - 1) // 2 - 1
    scaled = value << (2 * pairs)
    half = rounding_shift_right(scaled >> 1, 1)
    x = np.full_like(value, _ONE_Q3)
    for _ in range(5):
        cubed = saturating_shift_left(high_multiply(high_multiply(x, x), x), 6)
        x = saturating_shift_left(high_multiply(3 * 2**27, x) - high_multiply(half, cubed), 3)
    multiplier, shift = high_multiply(x, _SQRT_HALF), pairs - 11
    multiplier = np.where(shift > 0, multiplier << np.maximum(shift, 0), multiplier)
    is_one = value <= 1
    return np.where(is_one, INT32_MAX, multiplier), np.where(is_one, 0, np.minimum(shift, 0))


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
