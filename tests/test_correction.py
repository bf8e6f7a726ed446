"""Bias correction takes out the mean error of every layer and touches nothing but biases."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeqrl.errors import ConverterError
from edgeqrl.network.edges import ObservationEdge, quantize_observations
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.layers import Dense
from edgeqrl.network.read_tflite import parse_tflite, read_tflite
from edgeqrl.network.reference import Reference
from edgeqrl.quantize.correction import correct_biases, dense_sums
from tests.tflite_writer import TFLiteWriter

SIZES = (5, 12, 9, 3)
LIMIT = {"RELU6": 6.0, "TANH": 1.0}


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
        dense, operators, dense_sums(FloatReference(exact), values).values(), strict=True
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
    expected = list(dense_sums(FloatReference(exact), fresh).values())[-1]

    def mean_square(tflite: bytes) -> float:
        network = read_tflite(tflite)
        source, target = network.tensors[network.inputs[0]], network.tensors[network.outputs[0]]
        edge = ObservationEdge.of(source.shape, source.scale, source.zero_point)
        outputs = Reference(network).run({source.name: quantize_observations(edge, fresh)[0]})[target.name]
        real = target.scale * (outputs.astype(np.float64) - target.zero_point)
        return float(np.mean((real - expected) ** 2))

    assert mean_square(corrected) < 0.7 * mean_square(coarse)


def test_bias_that_shares_its_bytes_stays() -> None:
    square, values = float_layers(4, (5, 5, 5, 5)), observations(4)
    exact = float_tflite(square, "RELU")
    shared = int8_tflite(square, "RELU", shared_bias=True)
    corrected = parse_tflite(correct_biases(shared, exact, values))
    by_name = {tensor.name: tensor for tensor in corrected.tensors}
    old = {tensor.name: tensor for tensor in parse_tflite(shared).tensors}
    assert by_name["b0"].data == old["b0"].data == by_name["b1"].data
    assert by_name["b2"].data != old["b2"].data


def test_layers_without_bias_stay() -> None:
    layers, values = float_layers(5), observations(5)
    bare = int8_tflite(layers, "RELU", has_bias=False)
    assert correct_biases(bare, float_tflite(layers, "RELU"), values) == bare


def test_networks_that_do_not_match_are_refused() -> None:
    layers, values = float_layers(6), observations(6)
    coarse = int8_tflite(layers, "RELU")
    with pytest.raises(ConverterError, match="differ in their layers"):
        correct_biases(coarse, float_tflite(layers[:2], "RELU"), values)
    writer = TFLiteWriter()
    source = writer.tensor("observation", (1, SIZES[0]), "FLOAT32")
    target = writer.tensor("elu", (1, SIZES[0]), "FLOAT32")
    writer.operator("ELU", [source], [target])
    with pytest.raises(ConverterError, match="differ in their layers"):
        correct_biases(coarse, writer.finish([source], [target]), values)
