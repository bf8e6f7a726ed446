"""The float edges against exact fractions, on every class of float32."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeqrl.network.edges import (
    NOT_FINITE,
    SATURATED,
    AffineEdge,
    ArgmaxEdge,
    ObservationEdge,
    decode_actions,
    limits,
    make_affine_edge,
    quantize_observations,
)

INF, NAN = float("inf"), float("nan")
BITS = st.integers(0, 2**32 - 1)
SCALES = st.one_of(
    st.floats(2.0**-20, 2.0**20),
    st.floats(2.0**-99, 2.0**99),
    st.integers(-90, 90).map(lambda power: 2.0**power),
)
ZERO_POINTS = st.integers(-128, 127)


def quantize(edge: ObservationEdge, *values: float) -> tuple[list[int], int]:
    quantized, flags = quantize_observations(edge, np.array([values], np.float32))
    assert (quantized.dtype, flags.dtype) == (np.int8, np.uint8)
    return quantized[0].tolist(), int(flags[0])


def from_bits(*bits: int) -> np.ndarray:
    return np.array([bits], np.uint32).view(np.float32)


def as_documented(edge: ObservationEdge, x: float) -> tuple[int, bool]:
    """Compute what the module's docstring says, with fractions; x is finite. Returns (q, saturated)."""
    inverse = 1 / Fraction(edge.scale)
    unit = Fraction(1)
    while inverse / unit >= 2**32:
        unit *= 2
    while inverse / unit < 2**31:
        unit /= 2
    inverse = (inverse / unit + Fraction(1, 2)) // 1 * unit
    magnitude = (abs(Fraction(x)) * inverse + Fraction(1, 2)) // 1
    unclamped = edge.zero_point + int(magnitude if x >= 0 else -magnitude)
    lowest, highest = limits(edge.dtype)
    return min(highest, max(lowest, unclamped)), not lowest <= unclamped <= highest


@pytest.mark.parametrize(
    ("scale", "zero_point", "x", "expected", "flags"),
    [
        (0.5, 3, 0.0, 3, 0),
        (0.5, 3, -0.0, 3, 0),
        (0.5, 0, 0.25, 1, 0),  # halves away from zero
        (0.5, 0, -0.25, -1, 0),
        (0.5, 0, 0.75, 2, 0),
        (0.5, 0, 0.24999999, 0, 0),
        (1.0, 0, 127.49999, 127, 0),
        (1.0, 0, 127.5, 127, SATURATED),
        (1.0, 0, -128.5, -128, SATURATED),
        (1.0, 0, -128.49998, -128, 0),
        (1.0, -128, 255.0, 127, 0),
        (1.0, 127, -255.0, -128, 0),
        (1.0, 5, NAN, 5, NOT_FINITE),
        (1.0, 5, -NAN, 5, NOT_FINITE),
        (1.0, 5, INF, 127, NOT_FINITE | SATURATED),
        (1.0, 5, -INF, -128, NOT_FINITE | SATURATED),
        (1.0, 5, 3.4028235e38, 127, SATURATED),
        (1.0, 5, -3.4028235e38, -128, SATURATED),
        (2.0**-99, 5, 2.0**-99, 6, 0),
        (2.0**99, 5, 3.0 * 2.0**98, 7, 0),
    ],
)
def test_observations_by_hand(scale: float, zero_point: int, x: float, expected: int, flags: int) -> None:
    assert quantize(ObservationEdge.of((1,), scale, zero_point), x) == ([expected], flags)


@pytest.mark.parametrize("bits", [1, 0x7FFFFF, 0x80000001, 0x807FFFFF])
def test_denormals_count_as_zero(bits: int) -> None:
    quantized, flags = quantize_observations(ObservationEdge.of((1,), 2.0**-99, -7), from_bits(bits))
    assert (quantized.tolist(), flags.tolist()) == ([[-7]], [0])


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF])
def test_every_nan_gives_the_zero_point_and_its_flag(bits: int) -> None:
    quantized, flags = quantize_observations(ObservationEdge.of((1,), 0.1, 9), from_bits(bits))
    assert (quantized.tolist(), flags.tolist()) == ([[9]], [NOT_FINITE])


def test_flags_belong_to_their_row() -> None:
    rows = np.array([[0, 0], [INF, 0], [0, NAN], [1e9, 1]], np.float32)
    quantized, flags = quantize_observations(ObservationEdge.of((2,), 1.0, 0), rows)
    assert flags.tolist() == [0, NOT_FINITE | SATURATED, NOT_FINITE, SATURATED]
    assert quantized.tolist() == [[0, 0], [127, 0], [0, 0], [127, 1]]


@given(SCALES)
@example(1.0)
@example(float(np.float32(0.1)))
@example(1.0 + 2.0**-52)  # its inverse rounds up to a power of two
def test_inverse_is_one_over_scale_to_32_bits(scale: float) -> None:
    multiplier, bias = ObservationEdge.of((1,), scale, 0).inverse
    assert 2**31 <= multiplier < 2**32
    value = Fraction(multiplier) * Fraction(2) ** (126 - bias)
    assert abs(value - 1 / Fraction(scale)) <= Fraction(2) ** (125 - bias)


@settings(max_examples=500)
@given(BITS, SCALES, ZERO_POINTS, st.sampled_from(["int8", "int16"]))
def test_any_float32_is_quantized_as_documented(bits: int, scale: float, zero_point: int, dtype: str) -> None:
    edge = ObservationEdge.of((1,), scale, zero_point, dtype)
    x = from_bits(bits)
    quantized, flags = quantize_observations(edge, x)
    if not np.isfinite(x[0, 0]):
        assert flags[0] & NOT_FINITE
        return
    is_denormal = 0 < abs(float(x[0, 0])) < 2.0**-126
    expected, saturated = as_documented(edge, 0.0 if is_denormal else float(x[0, 0]))
    assert (int(quantized[0, 0]), int(flags[0])) == (expected, SATURATED * saturated)


@settings(max_examples=500)
@given(
    st.one_of(st.floats(-300.0, 300.0), st.floats(-40_000.0, 40_000.0)),
    st.floats(2.0**-60, 2.0**60),
    ZERO_POINTS,
    st.integers(-3, 3),
    st.sampled_from(["int8", "int16"]),
)
def test_values_next_to_a_half_are_quantized_as_documented(
    steps: float, scale: float, zero_point: int, ulps: int, dtype: str
) -> None:
    x = np.float32((np.floor(steps) + 0.5) * scale)
    x = np.array([[x]], np.float32).view(np.int32) + np.int32(ulps)
    x = x.view(np.float32)
    edge = ObservationEdge.of((1,), scale, zero_point, dtype)
    quantized, flags = quantize_observations(edge, x)
    expected, saturated = as_documented(edge, float(x[0, 0]))
    assert (int(quantized[0, 0]), int(flags[0])) == (expected, SATURATED * saturated)


@given(st.floats(-127.0, 127.0, width=32), st.floats(2.0**-30, 2.0**30))
def test_quantizing_is_to_nearest_but_for_the_inverses_last_bit(steps: float, scale: float) -> None:
    x = np.float32(steps * scale)
    (q,), _ = quantize(ObservationEdge.of((1,), scale, 0), float(x))
    assert abs(q - Fraction(float(x)) / Fraction(scale)) <= Fraction(1, 2) + Fraction(128, 2**32)


@settings(max_examples=50)
@given(st.lists(BITS, min_size=2, max_size=30), SCALES, ZERO_POINTS)
def test_a_larger_observation_is_never_quantized_smaller(
    bits: list[int], scale: float, zero_point: int
) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    values = np.sort(values[~np.isnan(values)])
    edge = ObservationEdge.of((1,), scale, zero_point)
    quantized, _ = quantize_observations(edge, values.reshape(-1, 1))
    assert np.all(np.diff(quantized[:, 0].astype(int)) >= 0)


@pytest.mark.parametrize("scale", [0.0, -1.0, NAN, INF, 2.0**100, 2.0**-100])
def test_scales_out_of_range_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale is out of range"):
        ObservationEdge.of((1,), scale, 0)


@pytest.mark.parametrize(
    ("outputs", "mask", "expected"),
    [
        ([1, 3, 2], None, 1),
        ([3, 3, 2], None, 0),  # the lowest index wins a tie
        ([-128, -128, -128], None, 0),
        ([1, 3, 2], [True, False, True], 2),
        ([-128, 127, -128], [False, False, True], 2),  # the smallest output, and the only one allowed
        ([1, 3, 2], [False, False, False], 1),  # nothing allowed: the mask is ignored
    ],
)
def test_argmax_by_hand(outputs: list[int], mask: list[bool] | None, expected: int) -> None:
    masks = None if mask is None else np.array([mask])
    edge = ArgmaxEdge(3, start=0, is_masked=mask is not None)
    assert decode_actions(edge, np.array([outputs], np.int8), masks).tolist() == [expected]
    shifted = ArgmaxEdge(3, start=-5, is_masked=mask is not None)
    actions = decode_actions(shifted, np.array([outputs], np.int8), masks)
    assert (actions.tolist(), actions.dtype) == ([expected - 5], np.int64)


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=9), st.data())
def test_a_masked_action_is_allowed_and_largest(outputs: list[int], data: st.DataObject) -> None:
    mask = data.draw(st.lists(st.booleans(), min_size=len(outputs), max_size=len(outputs)))
    edge = ArgmaxEdge(len(outputs), is_masked=True)
    (action,) = decode_actions(edge, np.array([outputs], np.int8), np.array([mask])).tolist()
    allowed = [i for i, is_allowed in enumerate(mask) if is_allowed] or range(len(outputs))
    assert action == min(allowed, key=lambda i: (-outputs[i], i))


def float32_nearest(value: Fraction) -> Fraction:
    """Round to float32 by integer arithmetic, halves to even; normal numbers only."""
    if value == 0:
        return value
    unit = Fraction(1)
    while abs(value) / unit >= 2**24:
        unit *= 2
    while abs(value) / unit < 2**23:
        unit /= 2
    return round(value / unit) * unit  # Python's round() takes halves to even


@settings(max_examples=300)
@given(
    st.integers(-(2**22), 2**22),
    st.integers(-(2**29), 2**29),
    st.integers(-(2**31) + 1, 2**31 - 1),
    st.integers(-(2**31) + 1, 2**31 - 1),
    st.integers(-60, 60),
    st.integers(-128, 127),
)
def test_affine_actions_are_exact_then_rounded_once(
    gain: int, offset: int, one: int, other: int, bits: int, q: int
) -> None:
    low, high = sorted((one, other))
    edge = AffineEdge((gain,), (offset,), (low,), (high,), (bits,), (1,))
    action = decode_actions(edge, np.array([[q]], np.int8))
    assert (action.dtype, action.shape) == (np.float32, (1, 1))
    exact = Fraction(min(high, max(low, q * gain + offset))) / Fraction(2) ** bits
    assert Fraction(float(action[0, 0])) == float32_nearest(exact)


def affine(
    scale: float,
    zero_point: int,
    gain: Sequence[float],
    offset: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    dtype: str = "int8",
) -> AffineEdge:
    return make_affine_edge(
        scale=scale,
        zero_point=zero_point,
        gain=np.array(gain),
        offset=np.array(offset),
        low=np.array(low, np.float32),
        high=np.array(high, np.float32),
        dtype=dtype,
    )


def test_a_tanh_head_reaches_its_bounds_and_its_middle() -> None:
    edge = affine(1 / 128, 0, [2.0, 0.5], [0.0, 1.0], [-2.0, 0.5], [2.0, 1.5])
    actions = decode_actions(edge, np.array([[-128, -128], [0, 0], [64, 127]], np.int8))
    np.testing.assert_allclose(actions, [[-2.0, 0.5], [0.0, 1.0], [1.0, 1.49609375]], atol=1e-6)


@settings(max_examples=300)
@given(
    st.floats(1e-5, 10.0),
    ZERO_POINTS,
    st.floats(-100.0, 100.0),
    st.floats(-100.0, 100.0),
    st.floats(-1000.0, 1000.0, width=32),
    st.floats(-1000.0, 1000.0, width=32),
    st.booleans(),
)
def test_an_affine_edge_is_close_to_the_real_action_and_inside_its_bounds(
    scale: float, zero_point: int, gain: float, offset: float, one: float, other: float, is_bounded: bool
) -> None:
    low, high = sorted((one, other)) if is_bounded else (-INF, INF)
    edge = affine(scale, zero_point, [gain], [offset], [low], [high])
    outputs = np.arange(-128, 128).astype(np.int8).reshape(-1, 1)
    actions = decode_actions(edge, outputs)[:, 0].astype(np.float64)
    real = gain * scale * (outputs[:, 0].astype(np.float64) - zero_point) + offset
    largest = max(np.max(np.abs(real)), abs(low) if is_bounded else 0.0, abs(high) if is_bounded else 0.0)
    assert np.max(np.abs(actions - np.clip(real, low, high))) <= 2.0**-22 * largest + 2.0**-50
    if high - low > 2.0**-20 * largest:
        assert np.all((low <= actions) & (actions <= high))


def test_an_affine_edge_of_int16_outputs_is_close_to_the_real_action() -> None:
    outputs = np.arange(-(2**15), 2**15).astype(np.int16).reshape(-1, 1)
    edge = affine(1 / 2**15, 0, [2.0], [0.5], [-1.0], [INF], "int16")
    actions = decode_actions(edge, outputs)[:, 0].astype(np.float64)
    real = np.maximum(2.0 * outputs[:, 0] / 2**15 + 0.5, -1.0)
    assert np.max(np.abs(actions - real)) <= 2.0**-16 * 2.5
    with pytest.raises(ValueError, match="overflow"):
        AffineEdge((2**17,), (0,), (0,), (1,), (0,), (1,), "int16")


def test_equal_bounds_give_that_action() -> None:
    # 0.99999 is no multiple of the unit that this gain leaves.
    edge = affine(2.0, 0, [4.0], [0.0], [0.99999], [0.99999])
    actions = decode_actions(edge, np.array([[-128], [0], [127]], np.int8))
    assert len(np.unique(actions)) == 1
    np.testing.assert_allclose(actions, 0.99999, atol=2.0**-20)


def test_several_action_dimensions_keep_their_shape() -> None:
    edge = affine(0.1, 0, [1.0] * 4, [0.0] * 4, [-1.0] * 4, [1.0] * 4)
    edge = AffineEdge(edge.gain, edge.offset, edge.low, edge.high, edge.fraction_bits, (2, 2))
    assert decode_actions(edge, np.zeros((5, 4), np.int8)).shape == (5, 2, 2)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (((2**25,), (0,), (0,), (1,), (0,), (1,)), "overflow int32"),
        (((1,), (0,), (2,), (1,), (0,), (1,)), "low <= high"),
        (((1,), (0,), (0,), (1,), (61,), (1,)), "fit int32"),
        (((1, 2), (0,), (0,), (1,), (0,), (1,)), "one gain"),
    ],
)
def test_an_affine_edge_that_could_go_wrong_is_refused(fields: tuple, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        AffineEdge(*fields)
