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
from edgeqrl.quantize.weights_file import ROLES, read_weights, write_weights
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


Source = tuple[int, float]  # a tensor of a file that is being written, and its scale


def linear(
    writer: TFLiteWriter,
    rng: np.random.Generator,
    source: Source,
    kernel: tuple[int, ...],
    output: int,
    operator: str,
    **options: Any,
) -> None:
    """Write an operator with random weights and biases."""
    role = ROLES[operator]
    channels, zeros = kernel[role.axis], np.zeros(kernel[role.axis], np.int64)
    scales = rng.uniform(0.005, 0.02, channels)
    weights = rng.integers(-127, 128, kernel, np.int8)
    bias = rng.integers(-500, 500, channels).astype(np.int32)
    name = writer.tensors[output].name
    operands = [
        source[0],
        writer.tensor(f"{name}/w", kernel, scale=scales, zero_point=zeros, axis=role.axis, data=weights),
        writer.tensor(
            f"{name}/b", (channels,), "INT32", scale=source[1] * scales, zero_point=zeros, data=bias
        ),
    ]
    if operator == "TRANSPOSE_CONV":
        shape = np.array(writer.tensors[output].shape, np.int32)
        image, weights_at, bias_at = operands
        operands = [writer.tensor(f"{name}/shape", (4,), "INT32", data=shape), weights_at, image, bias_at]
    writer.operator(operator, operands, [output], **options)


def conv_network(rng: np.random.Generator) -> bytes:
    """Return a convolution, a depthwise one with strides, a mean and a dense layer with tanh."""
    writer = TFLiteWriter()
    image = writer.tensor("image", (1, 7, 6, 3), scale=0.02, zero_point=-5)
    same = {"padding": "SAME", "fused_activation": "RELU"}
    conv = writer.tensor("conv", (1, 7, 6, 4), scale=0.06, zero_point=-128)
    linear(writer, rng, (image, 0.02), (4, 3, 3, 3), conv, "CONV_2D", **same)
    strided = {**same, "stride_h": 2, "stride_w": 1, "depth_multiplier": 2}
    depth = writer.tensor("depth", (1, 4, 6, 8), scale=0.05, zero_point=-128)
    linear(writer, rng, (conv, 0.06), (1, 3, 3, 8), depth, "DEPTHWISE_CONV_2D", **strided)
    axes = writer.tensor("axes", (2,), "INT32", data=np.array([1, 2], np.int32))
    mean = writer.tensor("mean", (1, 8), scale=0.03, zero_point=-120)
    writer.operator("MEAN", [depth, axes], [mean], keep_dims=False)
    dense = writer.tensor("dense", (1, 3), scale=0.04, zero_point=7)
    linear(writer, rng, (mean, 0.03), (3, 8), dense, "FULLY_CONNECTED")
    scale, zero_point = TABLE_OUTPUTS["TANH"]
    action = writer.tensor("action", (1, 3), scale=scale, zero_point=zero_point)
    writer.operator("TANH", [dense], [action])
    return writer.finish([image], [action])


def convolution(operator: str, kernel: tuple[int, ...], shape: tuple[int, ...], **options: Any) -> bytes:
    """Return one convolution of an image of 9 x 8 pixels and 4 channels."""
    writer, rng = TFLiteWriter(), np.random.default_rng(4)
    image = writer.tensor("image", (1, 9, 8, 4), scale=0.02, zero_point=-5)
    output = writer.tensor("conv", shape, scale=0.2, zero_point=9)
    linear(writer, rng, (image, 0.02), kernel, output, operator, **options)
    return writer.finish([image], [output])


def with_a_plain_number(rng: np.random.Generator) -> bytes:
    """Return 1 - a dense layer's output; the 1 is a constant without axes, as of a Keras GRU."""
    writer = TFLiteWriter()
    x = writer.tensor("x", (1, 5), scale=0.05, zero_point=3)
    dense = writer.tensor("dense", (1, 3), scale=0.08, zero_point=-9)
    linear(writer, rng, (x, 0.05), (3, 5), dense, "FULLY_CONNECTED")
    one = writer.tensor("one", (), scale=1 / 255, zero_point=-128, data=np.array(127, np.int8))
    rest = writer.tensor("rest", (1, 3), scale=0.09, zero_point=2)
    writer.operator("SUB", [one, dense], [rest])
    return writer.finish([x], [rest])


def dilation(height: int, width: int) -> dict[str, int]:
    return {"dilation_h_factor": height, "dilation_w_factor": width}


NETWORKS = {
    "dense": lambda: random_dense_tflite(np.random.default_rng(1), [5, 16, 9, 3], ["RELU", "RELU6", "NONE"]),
    "conv": lambda: conv_network(np.random.default_rng(2)),
    "gru": lambda: gru_step(np.random.default_rng(3)),
    "number": lambda: with_a_plain_number(np.random.default_rng(1)),
    "dilated": lambda: convolution("CONV_2D", (3, 3, 2, 4), (1, 5, 6, 3), padding="VALID", **dilation(2, 2)),
    "dilated in height": lambda: convolution(
        "CONV_2D", (3, 2, 3, 4), (1, 9, 8, 3), padding="SAME", **dilation(3, 1)
    ),
    "grouped": lambda: convolution("CONV_2D", (6, 3, 3, 2), (1, 5, 8, 6), padding="SAME", stride_h=2),
    "grouped and dilated": lambda: convolution(
        "CONV_2D", (4, 2, 2, 1), (1, 9, 8, 4), padding="SAME", **dilation(2, 3)
    ),
    "depthwise dilated": lambda: convolution(
        "DEPTHWISE_CONV_2D", (1, 3, 2, 8), (1, 5, 5, 8), padding="VALID", depth_multiplier=2, **dilation(2, 3)
    ),
    "transposed, cut at both ends": lambda: convolution(
        "TRANSPOSE_CONV", (3, 4, 2, 4), (1, 18, 8, 3), padding="SAME", stride_h=2
    ),
    "transposed, with gaps": lambda: convolution(
        "TRANSPOSE_CONV", (3, 2, 1, 4), (1, 27, 16, 3), padding="SAME", stride_h=3, stride_w=2
    ),
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


@pytest.mark.parametrize("name", NETWORKS)
def test_a_twin_runs_and_its_gradients_reach_all_weights(name: str) -> None:
    """Compiled, as learning does it: TensorFlow has no gradients of some convolutions."""
    import tensorflow as tf

    tflite = NETWORKS[name]()
    structure = structure_of(tflite, num_states=int(name == "gru"))
    twin, learned, network = Twin(structure), start(structure), structure.network
    integers = random_inputs(network, np.random.default_rng(1), 16)
    rows = []
    for tensor, values in zip((network.tensors[n] for n in structure.inputs), integers.values(), strict=True):
        flat = values.reshape(len(values), -1).astype(np.float32)
        rows.append((flat - np.float32(tensor.zero_point)) * np.float32(tensor.scale))

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def outputs_and_gradients(given: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(given)
            outputs = twin.run(given, rows)
            total = sum(tf.reduce_sum(tf.square(values)) for values in outputs)
        return outputs, tape.gradient(total, given)

    outputs, gradients = outputs_and_gradients({k: tf.constant(v) for k, v in learned.items()})
    wanted = Reference(network).run(integers)
    for output, values in zip(structure.outputs, outputs, strict=True):
        tensor = network.tensors[output]
        steps = np.asarray(values) / tensor.scale + tensor.zero_point
        exact = wanted[output].reshape(len(steps), -1)
        assert np.mean(np.abs(steps - exact)) < 0.5, "a rounding that goes the other way here and there"
    for layer in structure.grids:
        for kind in ("weights", "bias", "step"):
            found = np.asarray(gradients[f"{kind}/{layer}"])
            assert np.all(np.isfinite(found))
            assert np.any(found), f"{kind} of {layer}"


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
