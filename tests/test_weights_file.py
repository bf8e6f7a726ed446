"""Weights are read as they stand, and written such that every runtime computes with what was asked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.network.layers import Linear
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import random_inputs
from edgeqrl.network.tflite_model import parse_tflite
from edgeqrl.quantize.weights_file import LayerWeights, read_weights, write_weights
from tests.network_pairs import LAYERS, NAMES, network_pair
from tests.oracles import Case, require_equal
from tests.random_linear import random_case
from tests.tflite_writer import TFLiteWriter

DATA = Path(__file__).parent / "data"
FILES = ("a_cartpole", "e_minatar", "litert_quantizer_depthwise_16x8", "litert_quantizer_gru_int8")


def changed(layer: LayerWeights, rng: np.random.Generator, *, is_single: bool = False) -> LayerWeights:
    """Return a layer with other weights, scales and biases, that saturates no more than it did."""
    scales = layer.scales * rng.uniform(0.5, 2.0, len(layer.scales)).astype(np.float32)
    if is_single:
        scales = scales.max(keepdims=True)
    weights = np.clip(layer.weights + rng.integers(-3, 4, layer.weights.shape), -127, 127).astype(np.int8)
    bias = None if layer.bias is None else layer.bias // 2 + rng.integers(-9, 10, layer.bias.shape)
    zero_points = np.zeros(len(scales), np.int64)
    return replace(layer, weights=weights, scales=scales, zero_points=zero_points, bias=bias)


def case_of(tflite: bytes) -> Case:
    network = read_tflite(tflite)
    return tflite, list(random_inputs(network, np.random.default_rng(1), 20).values())


@pytest.mark.parametrize("name", FILES)
def test_what_is_read_and_written_back_is_the_same_file(name: str) -> None:
    tflite = (DATA / f"{name}.tflite").read_bytes()
    layers = read_weights(tflite)
    assert layers.keys() == {x.output for x in read_tflite(tflite).layers if isinstance(x, Linear)}
    assert write_weights(tflite, layers) == tflite


@pytest.mark.parametrize("is_single", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_the_interpreters_compute_with_what_was_written(name: str, is_single: bool) -> None:
    tflite = (DATA / f"{name}.tflite").read_bytes()
    rng = np.random.default_rng(2)
    wanted = {
        name: changed(layer, rng, is_single=is_single and layer.operator != "FULLY_CONNECTED")
        for name, layer in read_weights(tflite).items()
    }
    written = write_weights(tflite, wanted)
    found = read_weights(written)
    for name, layer in wanted.items():
        np.testing.assert_array_equal(found[name].weights, layer.weights)
        np.testing.assert_array_equal(found[name].scales, layer.scales)
        np.testing.assert_array_equal(found[name].bias, layer.bias)
    for layer in (x for x in read_tflite(written).layers if isinstance(x, Linear)):
        rows = wanted[layer.output].rows()
        np.testing.assert_array_equal(layer.weights.reshape(rows.shape), rows)
    assert require_equal("tflm", [case_of(written)]) > 0
    if all(layer.bias is not None for layer in wanted.values()):  # else it sums 16x8 in 32 bits
        assert require_equal("tflite-runtime", [case_of(written)]) > 0
    assert write_weights(tflite, read_weights(tflite) | wanted) == written


def test_rows_are_output_channels_whatever_the_operator() -> None:
    layers = read_weights(network_pair(np.random.default_rng(0)).integer)
    assert tuple(layers) == NAMES
    for layer, operator in zip(layers.values(), LAYERS, strict=True):
        assert layer.operator == operator
        assert layer.rows().shape == (layer.num_channels, layer.weights.size // layer.num_channels)
        np.testing.assert_array_equal(layer.from_rows(layer.rows()), layer.weights)
    assert layers["layer_1"].rows()[2].tolist() == layers["layer_1"].weights[0, :, :, 2].ravel().tolist()


def twin_towers(*, is_tied: bool = False, one_bias: bool = False, same_bytes: bool = False) -> bytes:
    """Two dense layers on two inputs that may share tensors, or bytes."""
    rng = np.random.default_rng(3)
    writer = TFLiteWriter()
    sources = [writer.tensor(f"in{i}", (1, 4), scale=0.1, zero_point=1) for i in range(2)]
    weights, biases = [], []
    values = rng.integers(-127, 128, (3, 4), np.int8)
    for i in range(2):
        scales: dict[str, Any] = {"scale": np.full(3, 0.02), "zero_point": np.zeros(3, np.int64)}
        share = weights[0] if same_bytes and i else None
        if not (is_tied and i):
            weights.append(writer.tensor(f"w{i}", (3, 4), data=values, **scales, share_buffer_of=share))
        if not (one_bias and i):
            scales["scale"] = np.full(3, np.float32(0.1) * np.float32(0.02))
            biases.append(writer.tensor(f"b{i}", (3,), "INT32", data=np.zeros(3, np.int32), **scales))
    targets = [writer.tensor(f"out{i}", (1, 3), scale=0.2, zero_point=2) for i in range(2)]
    for i in range(2):
        operands = [sources[i], weights[i % len(weights)], biases[i % len(biases)]]
        writer.operator("FULLY_CONNECTED", operands, [targets[i]])
    return writer.finish(sources, targets)


@pytest.mark.parametrize("what", ["is_tied", "one_bias", "same_bytes"])
def test_what_layers_share_becomes_their_own_where_it_differs(what: str) -> None:
    tflite = twin_towers(**{what: True})
    layers = read_weights(tflite)
    assert [layer.is_tied for layer in layers.values()] == [what == "is_tied"] * 2
    new = changed(replace(layers["out1"], bias=np.array([5, 6, 7])), np.random.default_rng(4))
    written = write_weights(tflite, {"out1": new})
    found = read_weights(written)
    np.testing.assert_array_equal(found["out1"].weights, new.weights)
    np.testing.assert_array_equal(found["out1"].bias, new.bias)
    np.testing.assert_array_equal(found["out0"].weights, layers["out0"].weights)
    np.testing.assert_array_equal(found["out0"].bias, layers["out0"].bias)
    np.testing.assert_array_equal(found["out0"].scales, layers["out0"].scales)
    for runtime in ("tflm", "tflite-runtime"):
        assert require_equal(runtime, [case_of(written)]) == 120
    again = write_weights(written, {"out0": new})
    assert read_weights(again)["out0"].bias is not None


def test_tied_weights_that_both_get_stay_tied() -> None:
    tflite = twin_towers(is_tied=True)
    layers = read_weights(tflite)
    new = changed(layers["out0"], np.random.default_rng(5))
    both = {name: replace(layer, weights=new.weights, scales=new.scales) for name, layer in layers.items()}
    written = write_weights(tflite, both)
    assert len(written) == len(tflite)
    assert len(parse_tflite(written).tensors) == len(parse_tflite(tflite).tensors)
    assert all(np.array_equal(x.weights, new.weights) for x in read_weights(written).values())


def test_a_bias_of_zeros_that_layers_share_is_left_alone() -> None:
    tflite = twin_towers(one_bias=True)
    layers = read_weights(tflite)
    halved = {name: replace(layer, scales=layer.scales / 2) for name, layer in layers.items()}
    assert len(write_weights(tflite, halved)) == len(tflite)


def test_only_layers_that_can_take_one_get_a_bias() -> None:
    rng = np.random.default_rng(0)
    for operator in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"):
        tflite, given = random_case(rng, operator, "INT8", bias=None)
        ((name, layer),) = read_weights(tflite).items()
        bias = rng.integers(-500, 500, layer.num_channels)
        new = {name: replace(layer, bias=bias, bias_dtype="INT32")}
        assert layer.may_have_bias == (operator != "TRANSPOSE_CONV")
        if not layer.may_have_bias:
            with pytest.raises(ValueError, match="keeps its bias"):
                write_weights(tflite, new)
            continue
        written = write_weights(tflite, new)
        found = read_weights(written)[name]
        np.testing.assert_array_equal(found.bias, bias)
        np.testing.assert_array_equal(found.weights, layer.weights)
        # Of dense layers with several rows tflite-runtime gives another answer, whatever the bias.
        for runtime in ("tflm", "tflite-runtime")[: 1 if operator == "FULLY_CONNECTED" else 2]:
            assert require_equal(runtime, [(written, list(given))]) > 0
        assert write_weights(written, read_weights(written)) == written


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"weights": np.zeros((3, 5), np.int8)}, "int8 weights"),
    ({"weights": np.zeros((3, 4), np.int16)}, "int8 weights"),
    ({"scales": np.ones(2, np.float32)}, "one scale"),
    ({"zero_points": np.zeros(1, np.int64)}, "one scale"),
    ({"scales": np.array([1.0, 0.0, 1.0], np.float32)}, "positive"),
    ({"scales": np.array([1.0, np.inf, 1.0], np.float32)}, "positive"),
    ({"bias": None}, "keeps its bias"),
    ({"bias": np.zeros(4, np.int64)}, "must be"),
    ({"bias": np.full(3, 2**31)}, "fit INT32"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG)
def test_what_does_not_fit_is_refused(wrong: dict[str, NDArray[Any]], why: str) -> None:
    tflite = twin_towers()
    layer = read_weights(tflite)["out0"]
    with pytest.raises(ValueError, match=why):
        write_weights(tflite, {"out0": replace(layer, **wrong)})
    with pytest.raises(KeyError):
        write_weights(tflite, {"nowhere": layer})
