"""Edits of the float file: its answers stay the same to the bit, and the integers come closer to them."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.backends.float_litert import open_float_network
from edgeqrl.network.edges import ObservationEdge, quantize_observations
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.graph import fold_constants
from edgeqrl.network.memory import FrameStack
from edgeqrl.network.parts import ObservationPart
from edgeqrl.network.read_tflite import parse_tflite
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.equalisation import pairs_of
from edgeqrl.quantize.error_estimate import ErrorEstimate
from edgeqrl.quantize.features import scalable_features
from edgeqrl.quantize.file_rewrites import (
    FileRewrite,
    rewrite_file,
    scaled_preprocessing,
    scaled_samples,
)
from edgeqrl.quantize.input_scales import readings_of
from tests.tflite_writer import TFLiteWriter

MIXED = np.float32([100.0, 1.0, 0.05, 7.0])  # the ranges of four features

Floats = NDArray[np.float32]


class Network:
    """Writes float networks: each method adds an operator and returns the tensor it makes."""

    def __init__(self, seed: int = 0) -> None:
        self.writer, self.rng = TFLiteWriter(), np.random.default_rng(seed)
        self.inputs: list[int] = []

    def input(self, name: str, *shape: int) -> int:
        self.inputs.append(self.activation(name, (1, *shape)))
        return self.inputs[-1]

    def activation(self, name: str, shape: Sequence[int]) -> int:
        return self.writer.tensor(name, shape, "FLOAT32")

    def constant(self, values: Any) -> int:
        array = np.asarray(values, np.float32)
        return self.writer.tensor(f"constant_{len(self.writer.tensors)}", array.shape, "FLOAT32", data=array)

    def dense(
        self, source: int, units: int, fused: str = "NONE", weights: int | None = None, levels: Any = 1.0
    ) -> int:
        """Add a dense layer; `levels` [units]: how large each channel becomes."""
        size = int(np.prod(self.writer.tensors[source].shape))
        if weights is None:
            weights = self.constant(
                np.outer(np.ones(units) * levels, np.ones(size)) * self.normal(units, size)
            )
        bias = self.constant(np.ones(units) * levels * self.normal(units))
        return self.operator("FULLY_CONNECTED", [source, weights, bias], (1, units), fused_activation=fused)

    def operator(self, name: str, sources: Sequence[int], shape: Sequence[int], **options: Any) -> int:
        made = self.activation(f"{name.lower()}_{len(self.writer.tensors)}", shape)
        self.writer.operator(name, sources, [made], **options)
        return made

    def normal(self, *shape: int) -> Floats:
        return np.asarray(self.rng.normal(size=shape) / np.sqrt(shape[-1]), np.float32)

    def finish(self, *outputs: int) -> bytes:
        return self.writer.finish(self.inputs, outputs)


def reshape(network: Network, source: int, *shape: int) -> int:
    wanted = network.writer.tensor("shape", (len(shape),), "INT32", data=np.array(shape, np.int32))
    return network.operator("RESHAPE", [source, wanted], shape, new_shape=shape)


def joined(network: Network, *sources: int) -> int:
    size = sum(network.writer.tensors[i].shape[1] for i in sources)
    return network.operator("CONCATENATION", list(sources), (1, size), axis=1)


def convolution(network: Network, source: int, kind: str, channels: int, levels: Any = 1.0) -> int:
    """Add a 3x3 convolution with relu, or a depthwise one of as many channels a channel."""
    _, height, width, depth = network.writer.tensors[source].shape
    if kind == "DEPTHWISE_CONV_2D":
        channels *= depth
        weights, more = network.normal(1, 3, 3, channels) * levels, {"depth_multiplier": channels // depth}
    else:
        weights, more = network.normal(channels, 3, 3, depth), {}
        weights = weights * np.reshape(levels * np.ones(channels), (-1, 1, 1, 1))
    constants = [
        network.constant(weights),
        network.constant(network.normal(channels) * np.minimum(levels, 1.0)),
    ]
    shape = (1, height - 2, width - 2, channels)
    return network.operator(
        kind, [source, *constants], shape, padding="VALID", fused_activation="RELU", **more
    )


def mixed_samples(seed: int = 1, count: int = 300) -> Floats:
    return np.asarray(np.random.default_rng(seed).uniform(-1, 1, (count, 4)) * MIXED, np.float32)


def answers(tflite: bytes, inputs: Sequence[Floats]) -> list[Floats]:
    reference = FloatReference(tflite)
    given = reference.run(dict(zip(reference.inputs, inputs, strict=True)))
    return list(given.values())


def estimate(tflite: bytes, inputs: Sequence[Floats]) -> float:
    reference = FloatReference(tflite)
    return ErrorEstimate(reference, dict(zip(reference.inputs, inputs, strict=True))).of()


def rewritten(
    tflite: bytes, samples: Mapping[str, Floats], names: Sequence[str], preprocessing: Preprocessing
) -> FileRewrite:
    """Rewrite a file, and require the same answers to the bit on the samples and far beyond them."""
    made = rewrite_file(tflite, samples, names=names, preprocessing=preprocessing)
    far = {name: values * np.float32(3.7) for name, values in samples.items()}
    for inputs in (samples, far):
        scaled = scaled_samples(inputs, made.input_gains, preprocessing)
        before, after = (
            answers(file, list(given.values())) for file, given in ((tflite, inputs), (made.tflite, scaled))
        )
        assert np.ptp(before[0]) > 0.1, "the test could not fail"
        for old, new in zip(before, after, strict=True):
            np.testing.assert_array_equal(old, new)
    return made


def reading(form: str) -> tuple[bytes, dict[str, Floats], Preprocessing]:
    """Return a network whose first weights make up for the ranges of its features, and samples of it."""
    network, preprocessing = Network(), Preprocessing.plain((4,))
    samples, fair = {"observation": mixed_samples()}, 1.0 / MIXED
    if form == "frames":
        preprocessing = Preprocessing(preprocessing.parts, FrameStack(3, axis=0))
        samples = {"observation": np.stack([mixed_samples(s) for s in range(3)], axis=1)}
        source = reshape(network, network.input("observation", 3, 4), 1, 12)
        fair = np.tile(fair, 3)
    else:
        source = network.input("observation", 4)
    if form == "flattened":
        source = reshape(network, reshape(network, source, 1, 2, 2), 1, 4)
    if form == "beside a state":
        samples["state"] = np.tanh(mixed_samples(5)[:, :3])
        source = joined(network, network.input("state", 3), source)
        fair = np.concatenate([np.ones(3, np.float32), fair])
    weights = network.constant(network.normal(16, len(fair)) * fair)
    if form == "no bias":
        hidden = network.operator("FULLY_CONNECTED", [source, weights, -1], (1, 16), fused_activation="RELU")
    else:
        hidden = network.dense(source, 16, "RELU", weights)
    outputs = [network.dense(hidden, 3)]
    if form == "two readers":
        outputs.append(network.dense(source, 1, weights=network.constant(network.normal(1, 4) * fair)))
    return network.finish(*outputs), samples, preprocessing


@pytest.mark.parametrize("form", ["dense", "two readers", "flattened", "frames", "beside a state", "no bias"])
def test_every_feature_gets_its_share_of_the_input(form: str) -> None:
    tflite, samples, preprocessing = reading(form)
    made = rewritten(tflite, samples, ("scale_inputs",), preprocessing)
    assert made.applied == ("scale_inputs",)
    (gains,) = made.input_gains.values()
    assert list(made.input_gains) == ["observation"]
    assert all(np.log2(gain) == round(np.log2(gain)) for gain in gains)
    reached = np.array(gains) * MIXED
    assert reached.max() / reached.min() <= 4.0, "each feature now reaches about as far"
    scaled = scaled_samples(samples, made.input_gains, preprocessing)
    assert estimate(made.tflite, list(scaled.values())) < 0.2 * estimate(tflite, list(samples.values()))


@pytest.mark.parametrize("form", ["shared weights", "own output", "other reader", "reused bytes", "no loss"])
def test_inputs_that_cannot_be_scaled_or_need_not_be_stay(form: str) -> None:
    network = Network()
    x = network.input("observation", 4)
    if form == "shared weights":  # the layer is used twice
        weights = network.constant(network.normal(4, 4))
        outputs = [network.dense(network.dense(x, 4, "RELU", weights), 4, weights=weights)]
    elif form == "reused bytes":  # two constants in the same bytes of the file
        weights = network.constant(network.normal(3, 4))
        twin = network.writer.tensor("twin", (3, 4), "FLOAT32", share_buffer_of=weights)
        outputs = [network.dense(x, 3, weights=weights), network.dense(x, 3, weights=twin)]
    else:
        outputs = [network.dense(x, 3)]
    if form == "own output":
        outputs.append(x)
    if form == "other reader":
        outputs.append(network.operator("TANH", [x], (1, 4)))
    samples = mixed_samples() / (MIXED if form == "no loss" else np.float32(1.0))
    tflite = network.finish(*outputs)
    made = rewritten(tflite, {"observation": samples}, ("scale_inputs",), Preprocessing.plain((4,)))
    assert made.tflite == tflite
    assert (made.input_gains, made.applied) == ({}, ())


def test_of_nothing_but_zeros_no_gains_follow() -> None:
    network = Network()
    tflite = network.finish(network.dense(network.input("observation", 4), 3))
    samples = {"observation": np.zeros((20, 4), np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = rewrite_file(tflite, samples, names=("scale_inputs",), preprocessing=Preprocessing.plain((4,)))
    assert (made.tflite, made.input_gains, made.applied) == (tflite, {}, ())


def test_only_rows_of_float_numbers_have_gains() -> None:
    parts = (
        ObservationPart("numbers", (3,), gain=(2.0,)),
        ObservationPart("bytes", (3,), source="uint8"),
        ObservationPart("classes", (1,), source="int32", one_hot=((0, 4),)),
        ObservationPart("picture", (4, 4)),
        ObservationPart("number", ()),
    )
    found = scalable_features(Preprocessing(parts))
    assert {name: values.tolist() for name, values in found.items()} == {"numbers": [0, 1, 2], "number": [0]}
    for axis, is_new, expected in [
        (0, True, [0, 1, 2, 0, 1, 2]),
        (-1, True, [0, 0, 1, 1, 2, 2]),
        (-1, False, [0, 1, 2, 0, 1, 2]),
    ]:
        stacked = Preprocessing(parts[:1], FrameStack(2, axis, is_new))
        assert scalable_features(stacked)["numbers"].tolist() == expected


def test_the_preprocessing_applies_the_gains_after_what_it_did() -> None:
    part = ObservationPart(
        "joints", (4,), gain=(0.5, 1.0, 2.0, 3.0), offset=(1.0,), low=(-10.0,), high=(10.0,), key="arm"
    )
    before = Preprocessing((part, ObservationPart("other", (2,))), FrameStack(2, 0))
    gains = {"joints": (0.25, 8.0, 1.0, 4.0)}
    after = scaled_preprocessing(before, gains)
    raw = {"joints": mixed_samples(), "other": mixed_samples()[:, :2]}
    (joints, other), (scaled, same) = before.inputs(raw)[0], after.inputs(raw)[0]
    np.testing.assert_array_equal(scaled, joints * np.float32(gains["joints"]))
    np.testing.assert_array_equal(other, same)
    both = scaled_samples({"joints": joints, "other": other}, gains, before)
    np.testing.assert_array_equal(both["joints"], scaled)
    assert after.parts[0].key == "arm"
    assert scaled_preprocessing(before, {}) is before


def test_the_edge_of_a_scaled_observation_is_as_fine_as_a_plain_one() -> None:
    """What the device computes in fixed point is the scaled feature to the nearest step."""
    gains = (2.0**-7, 1.0, 16.0, 0.125)
    plain = Preprocessing.plain((4,))
    (part,) = scaled_preprocessing(plain, {"observation": gains}).parts
    edge = ObservationEdge(part, scale=1.0 / 127, zero_point=-1)
    assert edge.is_affine
    assert edge.fraction_bits == 12
    raw = mixed_samples(count=2000)
    quantized, _ = quantize_observations(edge, raw)
    exact = np.clip(raw.astype(np.float64) * gains * 127 - 1, -128, 127)
    assert np.abs(quantized - exact).max() < 0.501


def test_equalising_levels_the_channels_between_layers() -> None:
    """Pairs through relu, leaky relu, flattening and pooling; the values stay the same to the bit."""
    levels = 2.0 ** np.arange(8) / 16
    network = Network()
    x = network.input("observation", 4)
    hidden = network.dense(x, 8, "RELU", levels=levels)
    weights = network.constant(network.normal(8, 8) / levels)
    hidden = network.operator("LEAKY_RELU", [network.dense(hidden, 8, weights=weights)], (1, 8), alpha=0.1)
    tflite = network.finish(network.dense(hidden, 3))
    samples = {"observation": mixed_samples() / MIXED}
    made = rewritten(tflite, samples, ("equalise",), Preprocessing.plain((4,)))
    assert made.applied == ("equalise",)
    assert not made.input_gains
    inputs = list(samples.values())
    assert estimate(made.tflite, inputs) < 0.5 * estimate(tflite, inputs)
    np.testing.assert_array_equal(*(run(made.tflite, samples), run(tflite, samples)))


def run(tflite: bytes, samples: Mapping[str, Floats]) -> Floats:
    """Compute the first output by LiteRT."""
    with open_float_network(tflite) as opened:
        given = opened.run(dict(zip(opened.inputs, samples.values(), strict=True)))
        return given[opened.output_names[0]]


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize("pool", ["MAX_POOL_2D", "AVERAGE_POOL_2D", None])
def test_equalising_convolutions(kind: str, pool: str | None) -> None:
    network = Network(3)
    x = network.input("observation", 12, 12, 2)
    levels = np.tile([0.05, 1.0, 20.0], 2)
    first = convolution(network, x, kind, 6 if kind == "CONV_2D" else 3, levels)
    source = first
    if pool is not None:
        window = {"stride_w": 2, "stride_h": 2, "filter_width": 2, "filter_height": 2, "padding": "VALID"}
        source = network.operator(pool, [first], (1, 5, 5, 6), **window)
    second = convolution(network, source, "DEPTHWISE_CONV_2D", 2, 1.0 / np.repeat(levels, 2))
    shape = network.writer.tensors[second].shape
    flat = reshape(network, second, 1, int(np.prod(shape)))
    tflite = network.finish(network.dense(flat, 3))
    model = fold_constants(parse_tflite(tflite))
    assert [(pair.first.name, pair.second.name, pair.num_channels) for pair in pairs_of(model)] == [
        (kind, "DEPTHWISE_CONV_2D", 6),
        ("DEPTHWISE_CONV_2D", "FULLY_CONNECTED", 12),
    ]
    samples = np.random.default_rng(0).uniform(0, 1, (40, 12, 12, 2)).astype(np.float32)
    preprocessing = Preprocessing.plain((12, 12, 2))
    made = rewritten(tflite, {"observation": samples}, ("scale_inputs", "equalise"), preprocessing)
    assert made.applied == ("equalise",)
    assert estimate(made.tflite, [samples]) < 0.8 * estimate(tflite, [samples])


@pytest.mark.parametrize("between", ["TANH", "RELU6", "shared", "two readers", "output"])
def test_what_is_not_homogeneous_or_not_alone_is_not_equalised(between: str) -> None:
    network = Network()
    x = network.input("observation", 4)
    fused = "RELU6" if between == "RELU6" else "RELU"
    weights = network.constant(network.normal(4, 4)) if between == "shared" else None
    hidden = network.dense(x, 4, fused if between != "TANH" else "NONE", weights, 2.0 ** np.arange(4))
    source = network.operator("TANH", [hidden], (1, 4)) if between == "TANH" else hidden
    outputs = [network.dense(source, 4, weights=weights)]
    if between == "two readers":
        outputs.append(network.dense(source, 2))
    if between == "output":
        outputs.append(source)
    tflite = network.finish(*outputs)
    assert list(pairs_of(fold_constants(parse_tflite(tflite)))) == []
    samples = {"observation": mixed_samples()}
    made = rewrite_file(tflite, samples, names=("equalise",), preprocessing=Preprocessing.plain((4,)))
    assert made.tflite == tflite


def test_a_name_that_is_not_allowed_is_not_applied_and_both_work_together() -> None:
    network = Network(2)
    x = network.input("observation", 4)
    weights = network.constant(network.normal(8, 4) / MIXED)
    hidden = network.dense(x, 8, "RELU", weights, 2.0 ** np.arange(8))
    tflite = network.finish(network.dense(hidden, 3))
    samples, preprocessing = {"observation": mixed_samples()}, Preprocessing.plain((4,))
    assert rewrite_file(tflite, samples, names=(), preprocessing=preprocessing).tflite == tflite
    made = rewritten(tflite, samples, ("equalise", "scale_inputs", "centre_head"), preprocessing)
    assert made.applied == ("scale_inputs", "equalise")
    wide = rewrite_file(tflite, samples, preprocessing=preprocessing, weight_bits=4, is_per_tensor=True)
    assert set(wide.applied) <= {"scale_inputs", "equalise"}


def test_a_network_that_numpy_does_not_know_stays_as_it_is() -> None:
    network = Network()
    x = network.input("observation", 4)
    tflite = network.finish(network.operator("CUMSUM", [x, 0], (1, 4)))
    samples = {"observation": mixed_samples()}
    made = rewrite_file(tflite, samples, preprocessing=Preprocessing.plain((4,)))
    assert made.tflite == tflite
    assert made.applied == ()


def test_readings_name_the_columns_that_an_input_has() -> None:
    network = Network()
    a, b = network.input("a", 2), network.input("b", 3)
    tflite = network.finish(network.dense(joined(network, b, a), 2), network.dense(a, 1))
    model = fold_constants(parse_tflite(tflite))
    columns = {name: [r.columns.tolist() for r in readings_of(model, name)] for name in ("a", "b")}
    assert sorted(columns["a"]) == [[0, 1], [3, 4]]
    assert columns["b"] == [[0, 1, 2]]
