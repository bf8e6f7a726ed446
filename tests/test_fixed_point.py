"""Rescaling: numbers worked out by hand, then properties against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeqrl.network.fixed_point import (
    INT32_MAX,
    INT32_MIN,
    high_multiply,
    quantize_multiplier,
    requantize,
    rounding_shift_right,
    saturating_shift_left,
)

INT32 = st.integers(INT32_MIN, INT32_MAX)


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (0.5, (2**30, 0)),
        (1.0, (2**30, 1)),
        (0.75, (3 * 2**29, 0)),
        (3.0, (3 * 2**29, 2)),
        (1.0 - 2.0**-40, (2**30, 1)),  # the mantissa rounds up to 2**31
        (2.0**-32, (2**30, -31)),
        (2.0**-33, (0, 0)),  # too small for any shift
        (0.5 + 2.0**-32, (2**30 + 1, 0)),  # a half: away from zero
    ],
)
def test_quantize_multiplier_normalises_the_mantissa(real: float, expected: tuple[int, int]) -> None:
    assert quantize_multiplier(real) == expected


@pytest.mark.parametrize("real", [0.0, -1.0, float("inf"), float("nan")])
def test_quantize_multiplier_refuses_what_is_not_positive(real: float) -> None:
    with pytest.raises(ValueError, match="finite positive"):
        quantize_multiplier(real)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (5, 2**30, 3),  # 2.5 rounds up
        (-5, 2**30, -2),  # -2.5 rounds up too
        (4, 2**30, 2),
        (INT32_MAX, 2**30, 2**30),
        (INT32_MIN, INT32_MIN, INT32_MAX),  # the one product that saturates
        (INT32_MIN, INT32_MAX, -INT32_MAX),
    ],
)
def test_high_multiply_rounds_halves_up(a: int, b: int, expected: int) -> None:
    assert high_multiply(a, b) == expected


@pytest.mark.parametrize(
    ("value", "exponent", "expected"),
    [(5, 1, 3), (-5, 1, -3), (4, 1, 2), (-4, 2, -1), (7, 0, 7), (-1, 31, 0), (INT32_MIN, 31, -1), (6, 2, 2)],
)
def test_rounding_shift_right_takes_halves_away_from_zero(value: int, exponent: int, expected: int) -> None:
    assert rounding_shift_right(value, exponent) == expected


def test_saturating_shift_left_stops_at_int32() -> None:
    values = np.array([1, -1, 2**30, -(2**30) - 1, INT32_MAX])
    assert saturating_shift_left(values, 1).tolist() == [2, -2, INT32_MAX, INT32_MIN, INT32_MAX]


def test_requantize_rounds_twice() -> None:
    # 0.75 * 2**-1 of 1 is 0.375; the first rounding makes 0.75 a 1, the second makes 0.5 a 1.
    assert requantize(1, 3 * 2**29, -1) == 1


def test_requantize_takes_a_multiplier_for_each_column() -> None:
    result = requantize([[100, 100, 100]], [2**30, 2**30, 0], [1, -1, 0])
    assert result.tolist() == [[100, 25, 0]]


@given(st.floats(2.0**-31, 2.0**30, exclude_min=True))
def test_quantize_multiplier_is_within_half_a_unit(real: float) -> None:
    multiplier, shift = quantize_multiplier(real)
    assert 2**30 <= multiplier < 2**31
    assert abs(Fraction(multiplier) * Fraction(2) ** (shift - 31) - Fraction(real)) <= (
        Fraction(2) ** (shift - 32)
    )


@given(INT32, INT32)
def test_high_multiply_is_the_rounded_exact_product(a: int, b: int) -> None:
    exact = (Fraction(a * b, 2**31) + Fraction(1, 2)) // 1
    assert high_multiply(a, b) == min(exact, INT32_MAX)


@given(INT32, st.integers(0, 31))
def test_rounding_shift_right_is_the_rounded_exact_quotient(value: int, exponent: int) -> None:
    magnitude = (Fraction(abs(value), 2**exponent) + Fraction(1, 2)) // 1
    assert rounding_shift_right(value, exponent) == (magnitude if value >= 0 else -magnitude)


@given(st.integers(-(2**20), 2**20), st.floats(2.0**-20, 2.0**10))
def test_requantize_is_within_one_of_the_exact_product(accumulator: int, real: float) -> None:
    result = requantize(accumulator, *quantize_multiplier(real))
    assert abs(Fraction(int(result)) - accumulator * Fraction(real)) <= 1
