"""Elementwise tables: known values, shape of the functions, and equality with both witnesses."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeqrl.network.functions import (
    Factor,
    activation_range,
    logistic_table,
    requantize_table,
    tanh_table,
)
from edgeqrl.network.functions_fixed import (
    exp_of_negative,
    inverse_root,
    leading_zeros,
    log_of_sum,
    one_minus_over_one_plus,
    one_over_one_plus,
)
from edgeqrl.network.functions_float import float_table, knot_table
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from tests.oracles import all_int8, answers
from tests.tflite_writer import TABLE_OUTPUTS, TFLiteWriter

SCALES = np.exp(np.linspace(math.log(1e-6), math.log(3.99), 120)).astype(np.float32)
Q = np.arange(-128, 128)


@pytest.mark.parametrize("scale", [1 / 128, 1 / 32, 1 / 8, 0.0123, 1.0])
@pytest.mark.parametrize("zero_point", [-128, 0, 37, 127])
def test_tanh_and_logistic_are_within_one_unit_of_the_function(scale: float, zero_point: int) -> None:
    x = scale * (Q - zero_point)
    expected = np.clip(np.round(np.tanh(x) * 128), -128, 127)
    assert np.max(np.abs(tanh_table(scale, zero_point) - expected)) <= 1
    expected = np.clip(np.round(256 / (1 + np.exp(-x))) - 128, -128, 127)
    assert np.max(np.abs(logistic_table(scale, zero_point) - expected)) <= 1


@settings(max_examples=50)
@given(st.floats(1e-6, 3.99), st.integers(-128, 127))
def test_tanh_and_logistic_rise_and_are_centred(scale: float, zero_point: int) -> None:
    for table, middle in ((tanh_table(scale, zero_point), 0), (logistic_table(scale, zero_point), 0)):
        assert np.all(np.diff(table.astype(int)) >= 0)
        assert table[zero_point + 128] == middle


@pytest.mark.parametrize(
    ("activation", "scale", "zero_point", "expected"),
    [
        ("NONE", 0.1, 5, (-128, 127)),
        ("RELU", 0.1, -20, (-20, 127)),
        ("RELU6", 0.1, -128, (-128, -68)),
        ("RELU6", 6 / 255, -128, (-128, 127)),
        ("RELU6", 0.01, 0, (0, 127)),
        ("RELU_N1_TO_1", 0.1, 3, (-7, 13)),
        ("RELU_N1_TO_1", 0.4, 0, (-3, 3)),  # 2.5 steps: halves away from zero
        ("RELU_N1_TO_1", 0.001, 0, (-128, 127)),
        ("RELU_0_TO_1", 0.1, 3, (3, 13)),
    ],
)
def test_activation_range_is_in_quantized_units(
    activation: str, scale: float, zero_point: int, expected: tuple[int, int]
) -> None:
    assert activation_range(activation, scale, zero_point) == expected


@pytest.mark.parametrize(
    ("effective", "zero_points", "inputs", "expected"),
    [
        (1.0, (0, 0), [-128, 0, 127], [-128, 0, 127]),
        (1.0, (-128, 0), [-128, 0, 127], [0, 127, 127]),
        (0.5, (0, 0), [3, -3, 127], [2, -1, 64]),  # halves up, then no further shift
        (2.0**21, (0, 5), [-1, 0, 1], [-128, 5, 127]),
    ],
)
def test_requantize_table_shifts_scales_and_saturates(
    effective: float, zero_points: tuple[int, int], inputs: list[int], expected: list[int]
) -> None:
    table = requantize_table(effective, *zero_points)
    assert [int(table[q + 128]) for q in inputs] == expected


def test_logistic_of_tflite_runtime_is_rarely_one_unit_away() -> None:
    # It tabulates the float function; TFLite Micro, and so this project, computes in fixed point.
    tflite = _one_operator_at_many_scales("LOGISTIC")
    network = read_tflite(tflite)
    inputs = [all_int8()] * len(network.inputs)
    ours = Reference(network).run(dict(zip(network.inputs, inputs, strict=True)))
    theirs = answers("tflite-runtime", tflite, *inputs)
    apart = np.abs(np.array([*ours.values()], np.int16) - np.array(theirs))
    assert np.max(apart) <= 1
    assert 0 < np.count_nonzero(apart) < apart.size / 1000


def _one_operator_at_many_scales(name: str) -> bytes:
    rng = np.random.default_rng(len(name))
    writer = TFLiteWriter()
    pairs = []
    out_scale, out_zero_point = TABLE_OUTPUTS[name]
    for i, scale in enumerate(SCALES):
        source = writer.tensor(f"in_{i}", (1, 256), scale=scale, zero_point=int(rng.integers(-128, 128)))
        target = writer.tensor(f"out_{i}", (1, 256), scale=out_scale, zero_point=out_zero_point)
        writer.operator(name, [source], [target])
        pairs.append((source, target))
    return writer.finish(*zip(*pairs, strict=True))


def test_leading_zeros_are_those_of_32_bits() -> None:
    values = [v for k in range(32) for v in (2**k, 2**k + 1, 2 ** (k + 1) - 1) if v < 2**32]
    assert leading_zeros(np.array(values)).tolist() == [32 - v.bit_length() for v in values]


UNIT = np.concatenate([np.linspace(0, 2**31 - 1, 10_001).astype(np.int64), [1, 2, 3]])


def test_reciprocals_exponentials_and_logarithms_are_near_the_reals() -> None:
    x = UNIT / 2**31
    assert np.max(np.abs(one_over_one_plus(UNIT) / 2**31 - 1 / (1 + x))) < 1e-8
    assert np.max(np.abs(one_minus_over_one_plus(UNIT) / 2**31 - (1 - x) / (1 + x))) < 1e-7
    assert np.max(np.abs(exp_of_negative(-UNIT, 5) / 2**31 - np.exp(-x * 32))) < 1e-6
    total = np.unique(
        np.concatenate([2**19 + UNIT // 1500, np.linspace(2**19, 2**31 - 1, 5000).astype(np.int64)])
    )
    assert np.max(np.abs(log_of_sum(total) / 2**26 - np.log(total / 2**19))) < 1e-6


def test_inverse_roots_are_near_the_reals() -> None:
    values = np.unique(np.concatenate([np.arange(1, 33000), 2 ** np.arange(29), 2 ** np.arange(1, 29) - 1]))
    multiplier, shift = inverse_root(values)
    assert np.all((multiplier > 0) & (multiplier < 2**31) & (shift <= 0))
    assert np.max(np.abs(multiplier * 2.0 ** (shift - 31) * np.sqrt(values) - 1)) < 1e-4


def test_a_float_table_rounds_halves_away_from_zero_and_saturates() -> None:
    halves = float_table(lambda x: x, 1.0, 0, 2.0, 0)
    assert [int(halves[q + 128]) for q in (-3, -2, -1, 0, 1, 2, 3)] == [-2, -1, -1, 0, 1, 1, 2]
    with np.errstate(all="ignore"):
        poles = float_table(lambda x: np.float32(1) / x, 1.0, 0, 1e-3, 0)
        roots = float_table(np.sqrt, 1.0, 0, 1.0, 5)
    assert [int(poles[q + 128]) for q in (-1, 0, 1)] == [-128, 127, 127]
    assert [int(roots[q + 128]) for q in (-1, 0, 4)] == [-128, 5, 7]


def test_a_knot_table_of_a_line_is_the_line() -> None:
    knots = knot_table(lambda x: x, (-32768.0, 32767.0), (-32768.0, 32767.0))
    expected = np.minimum(np.arange(513) * 128 - 32768, 32767)
    assert np.max(np.abs(knots - expected)) <= 1


@pytest.mark.parametrize(
    ("real", "expected"),
    [(1.0, (2**30, 1)), (-1.0, (-(2**30), 1)), (0.5, (2**30, 0)), (0.0, (0, 0)), (1e-30, (0, 0))],
)
def test_a_factor_is_a_multiplier_and_a_shift(real: float, expected: tuple[int, int]) -> None:
    factor = Factor.of(real)
    assert (factor.multiplier, factor.shift) == expected
