"""Elementwise tables: known values, shape of the functions, and equality with both witnesses."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeqrl.network.functions import activation_range, logistic_table, requantize_table, tanh_table
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


@pytest.mark.parametrize(
    ("name", "runtime"), [("TANH", "tflm"), ("TANH", "tflite-runtime"), ("LOGISTIC", "tflm")]
)
def test_tables_equal_the_witness_at_every_scale_and_input(name: str, runtime: str) -> None:
    _require_equal(_one_operator_at_many_scales(name), runtime)


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


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("QUANTIZE", "tflm"),
        ("QUANTIZE", "tflite-runtime"),
        ("RELU", "tflm"),
        ("RELU6", "tflm"),
        ("RELU6", "tflite-runtime"),
        ("RELU_N1_TO_1", "tflite-runtime"),  # TFLite Micro has no such operator
    ],
)
def test_rescaling_operators_equal_the_witness_on_ties_too(name: str, runtime: str) -> None:
    rng = np.random.default_rng(len(name))
    writer = TFLiteWriter()
    pairs = []
    for i in range(120):
        scale, zero_point = rng.uniform(0.001, 0.2), int(rng.integers(-128, 128))
        # Some input lands next to a half, where the precision of the multiplier decides.
        out_scale = scale * int(rng.integers(1, 127)) / (int(rng.integers(0, 100)) + 0.5)
        out_zero_point = int(rng.integers(-128, 128))
        if name == "RELU6":
            out_scale, out_zero_point = scale, zero_point
        source = writer.tensor(f"in_{i}", (1, 256), scale=scale, zero_point=zero_point)
        target = writer.tensor(f"out_{i}", (1, 256), scale=out_scale, zero_point=out_zero_point)
        writer.operator(name, [source], [target])
        pairs.append((source, target))
    _require_equal(writer.finish(*zip(*pairs, strict=True)), runtime)


def test_relu6_with_two_scales_is_why_the_rule_exists() -> None:
    writer = TFLiteWriter()
    source = writer.tensor("in", (1, 256), scale=0.1, zero_point=0)
    target = writer.tensor("out", (1, 256), scale=0.05, zero_point=0)
    writer.operator("RELU6", [source], [target])
    tflite = writer.finish([source], [target])
    micro, lite = (answers(runtime, tflite, all_int8())[0] for runtime in ("tflm", "tflite-runtime"))
    assert not np.array_equal(micro, lite)


def _require_equal(tflite: bytes, runtime: str) -> None:
    network = read_tflite(tflite)
    sample: NDArray[np.int8] = all_int8()
    ours = Reference(network).run(dict.fromkeys(network.inputs, sample))
    theirs = answers(runtime, tflite, *[sample] * len(network.inputs))
    for name, expected in zip(network.outputs, theirs, strict=True):
        np.testing.assert_array_equal(ours[name], expected, err_msg=name)
