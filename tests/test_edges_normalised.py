"""Observations that are normalised, clipped, bytes or indices, against real numbers."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeqrl.network.edges import (
    NOT_FINITE,
    SATURATED,
    ObservationEdge,
    limits,
    quantize_observations,
    saturated_inputs,
)

INF, NAN = float("inf"), float("nan")


def steps_of(edge: ObservationEdge, x: np.float32) -> Fraction:
    """Return clip(gain * x + offset, low, high) / scale + zero_point exactly, for an edge of one element."""
    (gain,), (offset,) = edge.part.gain or (1.0,), edge.part.offset or (0.0,)
    (low,), (high,) = edge.part.low or (-INF,), edge.part.high or (INF,)
    value = Fraction(gain) * Fraction(float(x)) + Fraction(offset)
    value = max(value, Fraction(low)) if np.isfinite(low) else value
    value = min(value, Fraction(high)) if np.isfinite(high) else value
    return value / Fraction(edge.scale) + edge.zero_point


@settings(max_examples=400)
@given(
    st.floats(-4.0, 4.0),
    st.integers(-40, 40).map(lambda power: 2.0**power),
    st.floats(-30.0, 30.0),
    st.floats(2.0**-20, 2.0**10),
    st.floats(0.5, 1.0),
    st.booleans(),
    st.sampled_from(["int8", "int16"]),
)
def test_an_affine_edge_is_within_a_thousandth_of_a_step_of_rounding(
    place: float, gain: float, offset: float, scale: float, odd: float, is_negative: bool, dtype: str
) -> None:
    """int8: less than 2**-10 steps before it is rounded; int16: less than 2**-7."""
    zero_point = 7 if dtype == "int8" else 0
    steps = limits(dtype)[1]
    gain = -gain * odd if is_negative else gain * odd
    shift = offset * scale
    edge = ObservationEdge.of((1,), scale, zero_point, dtype, gain=(gain,), offset=(shift,))
    x = np.float32((place / 2 * steps * scale - shift) / gain)
    quantized, flags = quantize_observations(edge, np.array([[x]]))
    exact = steps_of(edge, x)
    error = Fraction(1, 2**10) if dtype == "int8" else Fraction(1, 2**7)
    lowest, highest = limits(dtype)
    q = int(quantized[0, 0])
    if lowest < q < highest:
        assert abs(q - exact) <= Fraction(1, 2) + error
    else:
        assert min(max(exact, lowest), highest) - q <= Fraction(1, 2) + error
    if flags[0] & SATURATED:
        assert not lowest - Fraction(1, 2) + error < exact < highest + Fraction(1, 2) - error


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_a_large_offset_takes_bits_from_the_fixed_point_and_no_more(dtype: str) -> None:
    errors = {}
    for steps in (10, 10**5, 10**7, 10**8):
        edge = ObservationEdge.of((1,), 0.1, 0, dtype, gain=(1.0,), offset=(-0.1 * steps,))
        around = np.float32(0.1 * steps + np.linspace(-12.0, 12.0, 4001))
        quantized, _ = quantize_observations(edge, around[:, None])
        exact = (around.astype(np.float64) - 0.1 * steps) / 0.1
        errors[edge.fraction_bits] = np.abs(quantized[:, 0] - np.clip(exact, *limits(dtype))).max()
    most = {"int8": 12, "int16": 8}[dtype]
    assert list(errors) == sorted(errors, reverse=True)
    assert max(errors) == most
    assert errors[most] < 0.51
    assert all(error < 0.51 + 2.0 ** -(bits - 1) for bits, error in errors.items())
    with pytest.raises(ValueError, match="offset of an observation is too large"):
        ObservationEdge.of((1,), 0.1, 0, dtype, gain=(1.0,), offset=(1e8,))


@pytest.mark.parametrize(
    ("x", "expected", "flags"),
    [
        (0.0, 10, 0),
        (-0.0, 10, 0),
        (1e-42, 10, 0),
        (4.0, 50, 0),
        (4.00001, 50, 0),  # the policy's own clip
        (1e30, 50, 0),
        (-13.75, -127, 0),
        (-14.0, -128, SATURATED),  # beyond the range of the input; low is not that low
        (-1e30, -128, SATURATED),
        (INF, 50, NOT_FINITE),
        (-INF, -128, NOT_FINITE | SATURATED),
        (NAN, 0, NOT_FINITE),
        (-NAN, 0, NOT_FINITE),
    ],
)
def test_normalised_observations_by_hand(x: float, expected: int, flags: int) -> None:
    edge = ObservationEdge.of((1,), 0.1, 0, gain=(1.0,), offset=(1.0,), low=(-100.0,), high=(5.0,))
    quantized, flagged = quantize_observations(edge, np.array([[x]], np.float32))
    assert (quantized.tolist(), flagged.tolist()) == ([[expected]], [flags])
    counted = saturated_inputs(edge, np.array([[x]], np.float32))
    assert counted.tolist() == [[flags != 0]]


def test_a_feature_of_gain_0_is_its_offset_whatever_comes() -> None:
    edge = ObservationEdge.of((2,), 0.1, 0, gain=(0.0, 1.0), offset=(3.0, 0.0))
    rows = np.array([[1e38, 0], [INF, 0], [NAN, 0], [0, 1]], np.float32)
    quantized, flags = quantize_observations(edge, rows)
    assert quantized.tolist() == [[30, 0], [30, 0], [0, 0], [30, 10]]
    assert flags.tolist() == [0, NOT_FINITE, NOT_FINITE, 0]


def test_one_number_or_one_for_each_element_mean_the_same() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 5, (200, 2, 3)).astype(np.float32)
    one = ObservationEdge.of((2, 3), 0.05, 3, gain=(0.5,), offset=(0.25,), low=(-4.0,), high=(4.0,))
    many = ObservationEdge.of((2, 3), 0.05, 3, gain=(0.5,) * 6, offset=(0.25,), low=(-4.0,) * 3, high=(4.0,))
    assert (one.part.num_rows, many.part.num_rows) == (1, 6)
    for found, expected in zip(
        quantize_observations(one, rows), quantize_observations(many, rows), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    columns = ObservationEdge.of((2, 3), 0.05, 3, gain=(1.0, 2.0, 4.0))
    singles = [
        quantize_observations(ObservationEdge.of((2, 1), 0.05, 3, gain=(g,)), rows[:, :, i : i + 1])[0]
        for i, g in enumerate((1.0, 2.0, 4.0))
    ]
    np.testing.assert_array_equal(quantize_observations(columns, rows)[0], np.concatenate(singles, axis=2))


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_a_byte_becomes_what_exact_arithmetic_says(dtype: str) -> None:
    edge = ObservationEdge.of((256,), 0.013, -3 if dtype == "int8" else 0, dtype, source="uint8",
                           gain=(1 / 255,), offset=(-0.5,), low=(-0.4,), high=(0.45,))  # fmt: skip
    quantized, flags = quantize_observations(edge, np.arange(256, dtype=np.uint8)[None])
    for x, q in enumerate(quantized[0].tolist()):
        real = min(max(Fraction(1 / 255) * x + Fraction(-0.5), Fraction(-0.4)), Fraction(0.45))
        assert abs(q - edge.zero_point - real / Fraction(0.013)) <= Fraction(1, 2)
    assert flags.tolist() == [0]
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    shaped = ObservationEdge.of((2, 2, 3), 1 / 255, -128, source="uint8", gain=(1 / 255,))
    np.testing.assert_array_equal(quantize_observations(shaped, image)[0], image.astype(np.int16) - 128)


def test_indices_become_ones_and_strange_ones_take_the_nearest_class() -> None:
    edge = ObservationEdge.of((2,), 1 / 255, -128, source="int32", one_hot=((0, 2), (5, 3)))
    assert (edge.part.network_shape, edge.part.network_size) == ((5,), 5)
    rows = np.array([[0, 5], [1, 7], [2, 4], [-(2**31), 2**31 - 1]], np.int32)
    quantized, flags = quantize_observations(edge, rows)
    hot = (quantized.astype(int) + 128) // 255
    assert hot.tolist() == [[1, 0, 1, 0, 0], [0, 1, 0, 0, 1], [0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    assert flags.tolist() == [0, 0, SATURATED, SATURATED]
    assert saturated_inputs(edge, rows).sum(axis=0).tolist() == [2, 2]
    scalar = ObservationEdge.of((), 1 / 255, -128, source="int32", one_hot=((0, 4),))
    quantized, flags = quantize_observations(scalar, np.array([0, 3, 9], np.int32))
    assert quantized.shape == (3, 4)
    assert flags.tolist() == [0, 0, SATURATED]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"source": "float64"}, "is one of"),
        ({"source": "int32"}, "are one-hot"),
        ({"one_hot": ((0, 2), (0, 2))}, "are one-hot"),
        ({"source": "int32", "one_hot": ((0, 2),)}, "one start and number of classes an element"),
        ({"source": "int32", "one_hot": ((0, 2), (0, 0))}, "one start and number of classes an element"),
        ({"source": "int32", "one_hot": ((0, 2), (2**31 - 2, 2))}, "must fit int32"),
        ({"source": "int32", "one_hot": ((0, 2), (0, 2)), "gain": (1.0,)}, "not normalised"),
        ({"source": "uint8", "gain": (1.0, 2.0)}, "for all elements"),
        ({"gain": (1.0, 2.0, 3.0)}, "or one for each element"),
        ({"gain": ()}, "or one for each element"),
        ({"gain": (NAN,)}, "not finite"),
        ({"offset": (INF,)}, "not finite"),
        ({"low": (2.0,), "high": (1.0,)}, "not in order"),
        ({"low": (NAN,)}, "not in order"),
        ({"gain": (1e-40,)}, "gain of an observation is out of range"),
        ({"offset": (1e9,)}, "offset of an observation is too large"),
    ],
)
def test_an_observation_edge_that_means_nothing_is_refused(fields: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ObservationEdge.of((2,), 0.1, 0, **fields)


def test_floats_are_no_bytes() -> None:
    edge = ObservationEdge.of((2,), 1.0, 0, source="uint8")
    with pytest.raises(ValueError, match="must be uint8"):
        quantize_observations(edge, np.zeros((1, 2), np.float32))
