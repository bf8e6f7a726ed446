"""The estimate of what quantization costs ranks edits as the integer network does."""

import tracemalloc

import numpy as np
import pytest

from edgeqrl.network.float_reference import FloatReference
from edgeqrl.quantize.error_estimate import ErrorEstimate, rounded_weights
from tests.tflite_writer import random_float_tflite

RNG = np.random.default_rng(3)
SAMPLES = {"observation": RNG.uniform(-1, 1, (700, 6)).astype(np.float32)}
TFLITE = random_float_tflite(RNG, [6, 32, 32, 3], ["RELU", "TANH", "NONE"])


def estimate(unmet: float | None = None, **options: int) -> ErrorEstimate:
    rows = None if unmet is None else {"observation": np.full((2, 6), unmet, np.float32)}
    return ErrorEstimate(FloatReference(TFLITE), SAMPLES, rows, **options)


def test_fewer_bits_and_coarser_scales_cost_more() -> None:
    fine = estimate(activation_bits=16).of()
    plain = estimate().of()
    assert 0.0 < fine < plain < 0.01
    assert estimate(weight_bits=2).of() > 4.0 * plain
    assert estimate(weight_bits=2, is_per_tensor=True).of() > estimate(weight_bits=2).of()


def test_room_for_what_was_not_met_costs_resolution() -> None:
    assert estimate(unmet=8.0).of() > 2.0 * estimate(unmet=0.5).of()
    assert estimate(unmet=0.5).of() == estimate().of()


def test_other_weights_and_gains_that_cancel_change_no_answer_but_the_error() -> None:
    tried = estimate()
    gains = np.float32([1, 1, 1, 2.0**-8, 1, 1])
    weights = FloatReference(TFLITE).weights["weights_0"] / gains
    both = tried.of(weights={"weights_0": weights}, gains={"observation": gains})
    assert both > 5.0 * tried.of(), "one feature has one step left"
    assert tried.of(weights={"weights_0": weights}) > 100.0 * tried.of(), "that is another network"
    assert tried.of() == estimate().of(), "nothing is kept"


def test_maxima_are_those_of_every_sample() -> None:
    """Extremes count although only some samples are computed with."""
    samples = {"observation": SAMPLES["observation"].copy()}
    samples["observation"][123, 2] = -9.0
    found = ErrorEstimate(FloatReference(TFLITE), samples).maxima
    assert found["observation"][2] == 9.0
    assert found["dense_0"].shape == (32,)


def test_a_large_layer_is_tried_on_fewer_samples() -> None:
    tflite = random_float_tflite(np.random.default_rng(0), [1, 30_000, 1], ["RELU", "NONE"])
    samples = {"observation": np.ones((2000, 1), np.float32)}
    tracemalloc.start()
    try:
        ErrorEstimate(FloatReference(tflite), samples)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3.5 * 4 * 2**24, "all rows of one layer alone take 240 MB"


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_lie_on_a_symmetric_grid(bits: int) -> None:
    weights = RNG.normal(size=(5, 40)).astype(np.float32)
    weights[2] = 0.0
    limit = 2 ** (bits - 1) - 1
    for axis in (0, 1, None):
        rounded = rounded_weights(weights, axis, bits)
        axes = None if axis is None else 1 - axis
        step = np.abs(weights).max(axis=axes, keepdims=True) / limit
        steps = rounded / np.where(step > 0.0, step, 1.0)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
        assert np.abs(steps).max() <= limit + 1e-4
        assert np.abs(rounded - weights).max() <= 0.5001 * step.max()
