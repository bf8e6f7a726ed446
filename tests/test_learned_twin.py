"""The twin that is trained is the integer network: layer by layer, whatever its values are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference, random_inputs
from edgeqrl.quantize.learned.structure import Structure, read_structure
from edgeqrl.quantize.learned.twin import Arrays, Twin, start
from edgeqrl.quantize.learned.write import write_learned
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.quantize.weights_file import read_weights, write_weights
from tests.float_twins import float_twin
from tests.gru_network import gru_step
from tests.random_networks import random_network
from tests.tflite_writer import TABLE_OUTPUTS, TFLiteWriter, random_dense_tflite, single_operator

LEARNED = Scheme(learned=True)


def structure_of(tflite: bytes, scheme: Scheme = LEARNED, **options: Any) -> Structure:
    return read_structure(tflite, float_twin(tflite), scheme, **options)


def moved(learned: Arrays, seed: int) -> Arrays:
    """Return values as training might leave them."""
    rng = np.random.default_rng(seed)
    sizes = {"weights": 0.1, "bias": 0.1, "step": 0.2, "scale": 0.2, "zero": 0.5}
    return {
        name: (values + rng.normal(0, sizes[name.partition("/")[0]], values.shape)).astype(np.float32)
        for name, values in learned.items()
    }


def differences(tflite: bytes, twin: Twin, learned: Arrays, seed: int = 0) -> dict[str, float]:
    """Return by operator how far the twin's layers are from the file's, in steps, for the same integers."""
    network = read_tflite(tflite)
    values: dict[str, Any] = Reference(network).run_all(
        random_inputs(network, np.random.default_rng(seed), 64)
    )
    values |= {name: constant[None] for name, constant in network.constants.items()}
    found: dict[str, float] = {}
    for layer in network.layers:
        if network.tensors[layer.output].dtype == "int32":
            continue
        operands = []
        for name in layer.inputs:
            tensor = network.tensors[name]
            flat = values[name].reshape(len(values[name]), -1).astype(np.float32)
            operands.append((flat - np.float32(tensor.zero_point)) * np.float32(tensor.scale))
        target = network.tensors[layer.output]
        real = np.asarray(twin.run_layer(layer, learned, operands, twin.scales(learned)), np.float64)
        wanted = values[layer.output].reshape(len(values[layer.output]), -1)
        steps = np.rint(real / target.scale) + target.zero_point
        worst = float(np.abs(steps - wanted).max())
        found[layer.operator] = max(found.get(layer.operator, 0.0), worst)
    return found


def conv_network(rng: np.random.Generator) -> bytes:
    """Return a convolution, a depthwise one with strides, a mean and a dense layer with tanh."""
    writer = TFLiteWriter()

    def linear(name: str, source: tuple[int, float], kernel: tuple[int, ...], axis: int, out: Any) -> int:
        index, scale = source
        scales = rng.uniform(0.005, 0.02, kernel[axis])
        zeros = np.zeros(kernel[axis], np.int64)
        weights = rng.integers(-127, 128, kernel, np.int8)
        bias = rng.integers(-500, 500, kernel[axis]).astype(np.int32)
        operands = [
            index,
            writer.tensor(f"{name}/w", kernel, scale=scales, zero_point=zeros, axis=axis, data=weights),
            writer.tensor(
                f"{name}/b", bias.shape, "INT32", scale=scale * scales, zero_point=zeros, data=bias
            ),
        ]
        shape, operator, options, quantization = out
        result = writer.tensor(name, shape, scale=quantization[0], zero_point=quantization[1])
        writer.operator(operator, operands, [result], **options)
        return result

    image = writer.tensor("image", (1, 7, 6, 3), scale=0.02, zero_point=-5)
    same = {"padding": "SAME", "fused_activation": "RELU"}
    conv = linear("conv", (image, 0.02), (4, 3, 3, 3), 0, ((1, 7, 6, 4), "CONV_2D", {**same}, (0.06, -128)))
    strided = {**same, "stride_h": 2, "stride_w": 1, "depth_multiplier": 2}
    depth = linear(
        "depth", (conv, 0.06), (1, 3, 3, 8), 3, ((1, 4, 6, 8), "DEPTHWISE_CONV_2D", strided, (0.05, -128))
    )
    axes = writer.tensor("axes", (2,), "INT32", data=np.array([1, 2], np.int32))
    mean = writer.tensor("mean", (1, 8), scale=0.03, zero_point=-120)
    writer.operator("MEAN", [depth, axes], [mean], keep_dims=False)
    dense = linear("dense", (mean, 0.03), (3, 8), 0, ((1, 3), "FULLY_CONNECTED", {}, (0.04, 7)))
    scale, zero_point = TABLE_OUTPUTS["TANH"]
    action = writer.tensor("action", (1, 3), scale=scale, zero_point=zero_point)
    writer.operator("TANH", [dense], [action])
    return writer.finish([image], [action])


NETWORKS = {
    "dense": lambda: random_dense_tflite(np.random.default_rng(1), [5, 16, 9, 3], ["RELU", "RELU6", "NONE"]),
    "conv": lambda: conv_network(np.random.default_rng(2)),
    "gru": lambda: gru_step(np.random.default_rng(3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_twin_begins_as_the_integer_network(name: str) -> None:
    tflite = NETWORKS[name]()
    structure = structure_of(tflite)
    learned = start(structure)
    found = differences(tflite, Twin(structure), learned)
    assert max(found.values()) <= 1.0
    again = write_learned(tflite, Twin(structure), learned)
    before, after = read_weights(tflite), read_weights(again)
    for layer in before:
        np.testing.assert_array_equal(before[layer].weights, after[layer].weights)
        np.testing.assert_array_equal(before[layer].bias, after[layer].bias)


@pytest.mark.parametrize("bits", [8, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_written_is_the_twin_to_one_step_in_every_layer(name: str, bits: int) -> None:
    tflite = NETWORKS[name]()
    scheme = replace(LEARNED, weight_bits=bits)
    structure = structure_of(tflite, scheme, num_states=int(name == "gru"))
    twin = Twin(structure)
    learned = moved(start(structure), seed=5)
    written = write_learned(tflite, twin, learned)
    found = differences(written, twin, learned)
    assert max(found.values()) <= 1.0
    half = 2 ** (bits - 1)
    for layer in read_weights(written).values():
        assert np.abs(layer.weights.astype(int)).max() <= half - 1
    assert written != tflite


@pytest.mark.parametrize("dtype", ["INT8", "INT16"])
@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 40))]
)
def test_layers_of_all_kinds_are_matched(seed: int, dtype: str) -> None:
    tflite = random_network(np.random.default_rng(seed), dtype=dtype)
    structure = read_structure(tflite, tflite, LEARNED)
    found = differences(tflite, Twin(structure), start(structure))
    # In 16 bits the kernels take these from tables of straight lines.
    tabulated = ("TANH", "LOGISTIC", "SOFTMAX") if dtype == "INT16" else ()
    assert max(v for name, v in found.items() if name not in tabulated) <= 1.0
    assert all(found.get(name, 0.0) <= 4.0 for name in tabulated)


def test_a_state_and_what_is_fed_back_to_it_keep_one_scale() -> None:
    tflite = gru_step(np.random.default_rng(3))
    structure = structure_of(tflite, num_states=1)
    written = write_learned(tflite, Twin(structure), moved(start(structure), seed=1))
    old, new = read_tflite(tflite), read_tflite(written)
    state, following = (new.tensors[name] for name in (new.inputs[1], new.outputs[1]))
    assert (state.scale, state.zero_point) == (following.scale, following.zero_point)
    assert state.scale != old.tensors[old.inputs[1]].scale


def test_scales_that_are_fixed_stay() -> None:
    tflite = conv_network(np.random.default_rng(2))
    structure = structure_of(tflite, fixed_inputs=[0])
    written = read_tflite(write_learned(tflite, Twin(structure), moved(start(structure), seed=1)))
    old = read_tflite(tflite)
    for name in ("image", "action"):  # stated, and behind a tanh
        assert written.tensors[name] == old.tensors[name]
    assert written.tensors["conv"].scale != old.tensors["conv"].scale


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor", "per_group"])
def test_weights_keep_their_granularity(granularity: str) -> None:
    tflite = random_dense_tflite(np.random.default_rng(1), [5, 16, 3], ["RELU", "NONE"])
    scheme = replace(LEARNED, granularity=granularity, group_size=4)
    layers = read_weights(tflite)
    counts = {"per_channel": 16, "per_tensor": 1, "per_group": 4}
    shared = {}
    for name, layer in layers.items():
        scales = layer.by_channel(layer.scales)
        if granularity == "per_group":
            scales = np.repeat(scales[::4], 4)[: len(scales)]
        shared[name] = replace(
            layer,
            scales=scales[:1].copy() if granularity == "per_tensor" else scales,
            zero_points=np.zeros(1 if granularity == "per_tensor" else len(scales), np.int64),
        )
    tflite = write_weights(tflite, shared)
    structure = read_structure(tflite, tflite, scheme)
    written = read_weights(write_learned(tflite, Twin(structure), moved(start(structure), seed=1)))
    first = next(iter(written.values()))
    assert len(np.unique(first.scales)) == counts[granularity]


def test_asymmetric_weights_keep_their_zero_points() -> None:
    tflite = random_dense_tflite(np.random.default_rng(1), [5, 8, 3], ["RELU", "NONE"])
    rng = np.random.default_rng(0)
    shifted = {
        name: replace(layer, zero_points=rng.integers(-9, 9, len(layer.scales)))
        for name, layer in read_weights(tflite).items()
    }
    tflite = write_weights(tflite, shifted)
    structure = read_structure(tflite, tflite, replace(LEARNED, symmetry="asymmetric"))
    twin, learned = Twin(structure), moved(start(structure), seed=1)
    written = write_learned(tflite, twin, learned)
    assert max(differences(written, twin, learned).values()) <= 1.0
    for name, layer in read_weights(written).items():
        np.testing.assert_array_equal(layer.zero_points, shifted[name].zero_points)


def test_what_cannot_be_learned_is_refused_by_name() -> None:
    tensor = {"shape": (1, 4), "dtype": "INT8", "scale": 0.1, "zero_point": 3}
    axis = {"shape": (), "dtype": "INT32", "data": np.array(1, np.int32)}
    chosen = {"shape": (1,), "dtype": "INT32"}
    tflite = single_operator("ARG_MAX", [tensor, axis], [chosen], output_type="INT32")
    with pytest.raises(UnsupportedOperatorError, match=r"ARG_MAX at '.*' cannot be learned through"):
        Twin(read_structure(tflite, tflite, LEARNED))


def test_shared_weights_are_refused() -> None:
    writer = TFLiteWriter()
    x = writer.tensor("x", (1, 4), scale=0.1, zero_point=0)
    weights = np.ones((4, 4), np.int8)
    w = writer.tensor("w", (4, 4), scale=0.1, zero_point=0, data=weights)
    y = writer.tensor("y", (1, 4), scale=0.1, zero_point=0)
    z = writer.tensor("z", (1, 4), scale=0.1, zero_point=0)
    writer.operator("FULLY_CONNECTED", [x, w], [y])
    writer.operator("FULLY_CONNECTED", [y, w], [z])
    tflite = writer.finish([x], [z])
    with pytest.raises(UnsupportedOperatorError, match="shared with another layer"):
        read_structure(tflite, tflite, LEARNED)
