"""Correction takes out the mean error of every layer, and of the rest what rounding can."""

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeqrl.network.edges import ObservationEdge, quantize_observations
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.layers import Dense, Linear
from edgeqrl.network.read_tflite import parse_tflite, read_tflite
from edgeqrl.network.reference import Reference
from edgeqrl.quantize.correction import correct, layer_sums
from edgeqrl.quantize.scheme import Scheme, require_scheme
from edgeqrl.quantize.weights_file import read_weights
from tests.network_pairs import NAMES, NetworkPair, network_pair
from tests.oracles import require_equal
from tests.tflite_writer import TFLiteWriter

SIZES = (5, 12, 9, 3)
NEAREST, BARE = Scheme(rounding="nearest"), require_scheme("int8-bare")
LIMIT = {"RELU6": 6.0, "TANH": 1.0}


def correct_biases(tflite: bytes, exact: bytes, values: NDArray[np.float32]) -> bytes:
    return correct(tflite, exact, values, NEAREST).tflite


def float_layers(
    seed: int, sizes: tuple[int, ...] = SIZES
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(0, n**-0.5, (m, n)).astype(np.float32), rng.normal(0, 0.3, m).astype(np.float32))
        for n, m in pairwise(sizes)
    ]


def observations(seed: int, count: int = 300) -> NDArray[np.float32]:
    return np.random.default_rng(seed + 1).uniform(-1.0, 2.0, (count, SIZES[0])).astype(np.float32)


def float_tflite(layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]], middle: str) -> bytes:
    writer = TFLiteWriter()
    current = first = writer.tensor("observation", (1, SIZES[0]), "FLOAT32")
    for i, (weights, bias) in enumerate(layers):
        operands = [
            current,
            writer.tensor(f"w{i}", weights.shape, "FLOAT32", data=weights),
            writer.tensor(f"b{i}", bias.shape, "FLOAT32", data=bias),
        ]
        current = writer.tensor(f"d{i}", (1, len(bias)), "FLOAT32")
        is_fused = middle != "TANH" and i < len(layers) - 1
        writer.operator(
            "FULLY_CONNECTED", operands, [current], fused_activation=middle if is_fused else "NONE"
        )
        if middle == "TANH" and i < len(layers) - 1:
            after = writer.tensor(f"t{i}", (1, len(bias)), "FLOAT32")
            writer.operator("TANH", [current], [after])
            current = after
    return writer.finish([first], [current])


def int8_tflite(
    layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
    middle: str,
    *,
    weight_levels: int = 7,
    shared_bias: bool = False,
    has_bias: bool = True,
) -> bytes:
    """Quantize coarsely, so that there is a mean error to correct."""
    writer = TFLiteWriter()
    scale, zero_point = 3.0 / 255, -43
    current = first = writer.tensor("observation", (1, SIZES[0]), scale=scale, zero_point=zero_point)
    biases: list[int] = []
    for i, (weights, bias) in enumerate(layers):
        scales = (np.abs(weights).max(axis=1) / weight_levels).astype(np.float32)
        zeros = np.zeros(len(scales), np.int64)
        quantized = np.rint(weights / scales[:, None]).astype(np.int8)
        w = writer.tensor(f"w{i}", weights.shape, data=quantized, scale=scales, zero_point=zeros)
        bias_scales = np.float32(scale) * scales
        data = np.rint(bias / bias_scales).astype(np.int32)
        share = biases[0] if shared_bias and i == 1 else None
        b = writer.tensor(
            f"b{i}",
            bias.shape,
            "INT32",
            data=data,
            scale=bias_scales,
            zero_point=zeros,
            share_buffer_of=share,
        )
        biases.append(b)
        is_last = i == len(layers) - 1
        scale, zero_point = (
            (8.0 / 255, 0) if is_last or middle == "TANH" else (LIMIT.get(middle, 5.0) / 255, -128)
        )
        current_out = writer.tensor(f"d{i}", (1, len(bias)), scale=scale, zero_point=zero_point)
        fused = "NONE" if is_last or middle == "TANH" else middle
        operands = [current, w, b] if has_bias else [current, w]
        writer.operator("FULLY_CONNECTED", operands, [current_out], fused_activation=fused)
        current = current_out
        if middle == "TANH" and not is_last:
            scale, zero_point = 1 / 128, 0
            after = writer.tensor(f"t{i}", (1, len(bias)), scale=scale, zero_point=zero_point)
            writer.operator("TANH", [current], [after])
            current = after
    return writer.finish([first], [current])


def mean_errors(tflite: bytes, exact: bytes, values: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """Return each dense layer's mean error before its activation, in steps of its bias."""
    network, model = read_tflite(tflite), parse_tflite(tflite)
    source = network.tensors[network.inputs[0]]
    edge = ObservationEdge.of(source.shape, source.scale, source.zero_point)
    reference = Reference(network)
    tensors = reference.run_all({network.inputs[0]: quantize_observations(edge, values)[0]})
    operators = [op for op in model.operators if op.name == "FULLY_CONNECTED"]
    dense = [layer for layer in network.layers if isinstance(layer, Dense)]
    errors = []
    for layer, operator, sums in zip(
        dense, operators, layer_sums(FloatReference(exact), [values]).values(), strict=True
    ):
        steps = model.tensors[operator.inputs[0]].scales[0] * model.tensors[operator.inputs[1]].scales
        integer = layer.accumulators(tensors[layer.input], network.tensors).mean(axis=0, dtype=np.float64)
        errors.append(sums.mean(axis=0, dtype=np.float64) / steps - integer)
    return errors


def changed_bytes(old: bytes, new: bytes) -> set[int]:
    assert len(old) == len(new)
    return {i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b}


@pytest.mark.parametrize("middle", ["RELU", "RELU6", "TANH"])
def test_mean_error_of_every_layer_falls_below_one_bias_step(middle: str) -> None:
    layers, values = float_layers(3), observations(3)
    exact, coarse = float_tflite(layers, middle), int8_tflite(layers, middle)
    corrected = correct_biases(coarse, exact, values)
    before = np.concatenate(mean_errors(coarse, exact, values))
    after = np.concatenate(mean_errors(corrected, exact, values))
    assert np.abs(before).max() > 20, "nothing to correct: the test could not fail"
    assert np.abs(after).max() <= 0.51


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 100), middle=st.sampled_from(["RELU", "RELU6", "TANH"]))
def test_correction_changes_bias_bytes_only_and_is_done_once(seed: int, middle: str) -> None:
    layers, values = float_layers(seed), observations(seed)
    exact, coarse = float_tflite(layers, middle), int8_tflite(layers, middle)
    corrected = correct_biases(coarse, exact, values)
    model = parse_tflite(coarse)
    spans = [tensor.span for tensor in model.tensors if tensor.name.startswith("b") and tensor.span]
    allowed = {i for start, length in spans for i in range(start, start + length)}
    assert changed_bytes(coarse, corrected) <= allowed
    again = mean_errors(correct_biases(corrected, exact, values), exact, values)
    assert max(np.abs(error).max() for error in again) <= 0.51


def test_correction_brings_outputs_nearer_to_float_on_fresh_observations() -> None:
    layers, fresh = float_layers(8), observations(99)
    exact, coarse = float_tflite(layers, "RELU"), int8_tflite(layers, "RELU")
    corrected = correct_biases(coarse, exact, observations(8))
    expected = list(layer_sums(FloatReference(exact), [fresh]).values())[-1]

    def mean_square(tflite: bytes) -> float:
        network = read_tflite(tflite)
        source, target = network.tensors[network.inputs[0]], network.tensors[network.outputs[0]]
        edge = ObservationEdge.of(source.shape, source.scale, source.zero_point)
        outputs = Reference(network).run({source.name: quantize_observations(edge, fresh)[0]})[target.name]
        real = target.scale * (outputs.astype(np.float64) - target.zero_point)
        return float(np.mean((real - expected) ** 2))

    assert mean_square(corrected) < 0.7 * mean_square(coarse)


def test_biases_that_share_their_bytes_become_their_own() -> None:
    square, values = float_layers(4, (5, 5, 5, 5)), observations(4)
    exact = float_tflite(square, "RELU")
    shared = int8_tflite(square, "RELU", shared_bias=True)
    corrected = correct_biases(shared, exact, values)
    new, old = read_weights(corrected), read_weights(shared)
    for name in ("d0", "d1", "d2"):
        assert not np.array_equal(new[name].bias, old[name].bias)
    assert max(np.abs(error).max() for error in mean_errors(corrected, exact, values)) <= 0.51
    inputs = np.random.default_rng(0).integers(-128, 128, (50, 5)).astype(np.int8)
    for runtime in ("tflm", "tflite-runtime"):
        assert require_equal(runtime, [(corrected, [inputs])]) == 250


@pytest.mark.parametrize("middle", ["RELU", "TANH"])
def test_layers_without_bias_get_one(middle: str) -> None:
    layers, values = float_layers(5), observations(5)
    bare = int8_tflite(layers, middle, has_bias=False)
    exact = float_tflite(layers, middle)
    done = correct(bare, exact, values, NEAREST)
    assert done.corrected == ("d0", "d1", "d2")
    assert done.bias_correction
    assert max(np.abs(error).max() for error in mean_errors(bare, exact, values)) > 20
    assert max(np.abs(error).max() for error in mean_errors(done.tflite, exact, values)) <= 0.51
    assert all(layer.bias_dtype == "INT32" for layer in read_weights(done.tflite).values())
    again = correct(done.tflite, exact, values, NEAREST)
    assert len(again.tflite) == len(done.tflite), "it is there, and is not made anew"
    inputs = np.random.default_rng(0).integers(-128, 128, (50, 5)).astype(np.int8)
    for runtime in ("tflm", "tflite-runtime"):
        assert require_equal(runtime, [(done.tflite, [inputs])]) == 150


def test_a_bias_of_zeros_is_not_made() -> None:
    weights = np.eye(5, dtype=np.float32)
    layers = [(weights, np.zeros(5, np.float32))]
    bare = int8_tflite(layers, "RELU", weight_levels=127, has_bias=False)
    values = (np.float32(3.0 / 255) * np.arange(-20, 20, dtype=np.float32))[:, None] * np.ones(5, np.float32)
    done = correct(bare, float_tflite(layers, "RELU"), values, NEAREST)
    assert done.tflite == bare
    assert done.corrected == ()
    assert not done.bias_correction


def elu_tflite() -> bytes:
    writer = TFLiteWriter()
    source = writer.tensor("observation", (1, SIZES[0]), "FLOAT32")
    target = writer.tensor("elu", (1, SIZES[0]), "FLOAT32")
    writer.operator("ELU", [source], [target])
    return writer.finish([source], [target])


def test_layers_that_nothing_matches_are_left_and_named() -> None:
    layers, values = float_layers(6), observations(6)
    coarse = int8_tflite(layers, "RELU")
    done = correct(coarse, elu_tflite(), values, Scheme())
    assert done.tflite == coarse
    assert (done.rounding, done.bias_correction) == ("nearest", False)
    assert set(done.left) == {"d0", "d1", "d2"}
    assert "matches" in done.left["d0"]


def test_a_float_network_that_the_reference_does_not_know_leaves_all() -> None:
    layers, values = float_layers(6), observations(6)
    writer = TFLiteWriter()
    tensors = [writer.tensor(f"t{i}", (1, SIZES[0]), "FLOAT32") for i in range(2)]
    writer.operator("COS", tensors[:1], tensors[1:])
    coarse = int8_tflite(layers, "RELU")
    done = correct(coarse, writer.finish(tensors[:1], tensors[1:]), values, Scheme())
    assert done.tflite == coarse
    assert len(done.left) == 3


def test_large_observations_take_little_memory() -> None:
    size = 8000
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(2, size)) / size).astype(np.float32)
    files = []
    for is_float in (True, False):
        writer = TFLiteWriter()
        grids: list[dict[str, Any]] = (
            [{}, {}, {}]
            if is_float
            else [
                {"scale": 3.0 / 255, "zero_point": -43},
                {"scale": np.full(2, 1e-5, np.float32), "zero_point": np.zeros(2, np.int64)},
                {"scale": 8.0 / 255, "zero_point": 0},
            ]
        )
        dtype = "FLOAT32" if is_float else "INT8"
        data = weights if is_float else np.clip(np.rint(weights / 1e-5), -127, 127).astype(np.int8)
        x = writer.tensor("x", (1, size), dtype, **grids[0])
        w = writer.tensor("w", weights.shape, dtype, data=data, **grids[1])
        y = writer.tensor("y", (1, 2), dtype, **grids[2])
        writer.operator("FULLY_CONNECTED", [x, w, -1], [y], fused_activation="NONE")
        files.append(writer.finish([x], [y]))
    values = rng.uniform(-1.0, 2.0, (1000, size)).astype(np.float32)
    tracemalloc.start()
    try:
        correct(files[1], files[0], values, NEAREST)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * values.nbytes


def test_nothing_asked_is_nothing_done() -> None:
    layers = float_layers(7)
    coarse = int8_tflite(layers, "RELU")
    done = correct(coarse, elu_tflite(), observations(7), BARE)
    assert done.tflite == coarse
    assert not done.left


@pytest.fixture(scope="module", params=["INT8", "INT16"])
def pair(request: pytest.FixtureRequest) -> NetworkPair:
    return network_pair(np.random.default_rng(2), request.param)


def test_convolutions_and_depthwise_layers_are_corrected_too(pair: NetworkPair) -> None:
    done = correct(pair.integer, pair.exact, pair.samples, NEAREST)
    assert done.corrected == NAMES
    assert done.rounded == ()
    before, after = read_weights(pair.integer), read_weights(done.tflite)
    for name in NAMES:
        np.testing.assert_array_equal(before[name].weights, after[name].weights)
        assert not np.array_equal(before[name].bias, after[name].bias)
    for error in pair_errors(pair, done.tflite):
        assert np.abs(error).max() <= 0.51
    assert max(np.abs(error).max() for error in pair_errors(pair, pair.integer)) > 2


def pair_errors(pair: NetworkPair, tflite: bytes) -> list[NDArray[np.float64]]:
    """Return each layer's mean error in steps of its bias."""
    network, files = read_tflite(tflite), read_weights(tflite)
    source = network.tensors[network.inputs[0]]
    edge = ObservationEdge.of(source.shape, source.scale, source.zero_point, source.dtype)
    tensors = Reference(network).run_all({source.name: quantize_observations(edge, pair.samples)[0]})
    exact = layer_sums(FloatReference(pair.exact), [pair.samples])
    errors = []
    for layer in network.layers:
        if isinstance(layer, Linear):
            sums = layer.accumulators(tensors[layer.input], network.tensors)
            mean = sums.reshape(-1, sums.shape[-1]).mean(axis=0, dtype=np.float64)
            wanted = exact[layer.output].mean(axis=0, dtype=np.float64)
            errors.append(wanted / files[layer.output].bias_scales - mean)
    return errors


def test_samples_come_by_name_by_position_or_bare(pair: NetworkPair) -> None:
    some = pair.samples[:80]
    made = [
        correct(pair.integer, pair.exact, given, Scheme()).tflite for given in (some, [some], {"obs": some})
    ]
    assert made[0] == made[1] == made[2]
