"""The simulated policy: the integer network bit for bit, the float one, and what lies between them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.agents.heads import BoxHead, DiscreteHead
from edgeqrl.diagnose.simulated import OBSERVATION, NetworkPair, SimulatedPolicy, _Run
from edgeqrl.errors import DataError
from edgeqrl.network.edges import ObservationEdge, quantize_observations
from edgeqrl.network.reference import Reference
from tests.converted import converted
from tests.converter_models import BUILDERS, FLOAT_BUILDERS
from tests.test_correction import float_layers, float_tflite, int8_tflite
from tests.tflite_writer import TFLiteWriter, random_float_tflite

ROOT = Path(__file__).parent.parent
# int8 builder of `converter_models` -> the weighted layers of its network
TWINS = {
    "image": 3, "image 16x8": 3, "pools": 3, "dueling": 3, "activations": 7, "elu": 2, "gelu": 2,
    "layer norm": 2, "transposed": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    found = converted()
    names = [*TWINS, *(f"{name} float32" for name in TWINS if f"{name} float32" in FLOAT_BUILDERS)]
    names += ["two inputs", "two inputs float32"]
    assert set(names) <= {*BUILDERS, *FLOAT_BUILDERS}
    return {name: data for name in names if isinstance(data := found[name], bytes)}


def pair_of(files: dict[str, bytes], name: str) -> NetworkPair:
    return NetworkPair(files[f"{name.removesuffix(' 16x8')} float32"], files[name])


def head_of(pair: NetworkPair) -> BoxHead:
    ones = (1.0,) * pair.num_outputs
    lows, highs = (-np.inf,) * pair.num_outputs, (np.inf,) * pair.num_outputs
    return BoxHead((pair.num_outputs,), lows, highs, gain=ones, offset=(0.0,) * pair.num_outputs)


def observations(pair: NetworkPair, count: int = 100, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, *pair.input_shape)).astype(np.float32)


def integer_outputs(pair: NetworkPair, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what the int8 network gives, in real numbers [N, outputs]."""
    network = pair.network
    source, target = network.tensors[network.inputs[0]], network.tensors[network.outputs[0]]
    edge = ObservationEdge.of(source.shape, source.scale, source.zero_point, source.dtype)
    quantized = quantize_observations(edge, values.reshape(len(values), *source.shape))[0]
    steps = Reference(network).run({source.name: quantized})[target.name].astype(np.float64)
    real: NDArray[np.float64] = (steps.reshape(len(values), -1) - target.zero_point) * target.scale
    return real


def everything(pair: NetworkPair) -> frozenset[str]:
    return frozenset(part.name for part in pair.parts)


def output_step(pair: NetworkPair) -> float:
    return pair.grids[pair.output_name].scale


@pytest.mark.parametrize("name", sorted(TWINS))
def test_with_nothing_in_float_it_is_the_integer_network_bit_for_bit(
    files: dict[str, bytes], name: str
) -> None:
    pair = pair_of(files, name)
    values = observations(pair)
    ours = SimulatedPolicy(pair, head_of(pair)).outputs(values)
    np.testing.assert_array_equal(ours, integer_outputs(pair, values).astype(np.float32))
    assert len(np.unique(ours)) > 10, "outputs that hardly vary prove nothing"


@pytest.mark.parametrize("name", sorted(TWINS))
def test_with_everything_in_float_it_is_the_float_network(files: dict[str, bytes], name: str) -> None:
    pair = pair_of(files, name)
    values = observations(pair)
    (expected,) = pair.reference.run({pair.input_name: values}).values()
    policies = [
        SimulatedPolicy(pair, head_of(pair), in_float=everything(pair)),
        SimulatedPolicy(pair, head_of(pair), has_float_weights=True, has_float_activations=True),
    ]
    for policy in policies:
        np.testing.assert_array_equal(policy.outputs(values), expected.reshape(len(values), -1))


@pytest.mark.parametrize("name", sorted(TWINS))
def test_rounded_floats_alone_stay_near_the_integers(
    files: dict[str, bytes], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is computed behind a part in float: without the integers' help it is off by a step or two."""
    pair = pair_of(files, name)
    values = observations(pair)
    monkeypatch.setattr(_Run, "_computed", lambda self, name: None)
    ours = SimulatedPolicy(pair, head_of(pair)).outputs(values)
    off = np.abs(ours - integer_outputs(pair, values)) / output_step(pair)
    # int16 steps are so fine that the kernels' 16-bit multipliers and interpolated tables show
    assert off.max() <= (30.0 if "16x8" in name else 3.01)
    assert off.mean() <= (5.0 if "16x8" in name else 0.5)


@pytest.mark.parametrize("name", ["image", "activations", "pools"])
def test_each_part_in_float_changes_the_outputs(files: dict[str, bytes], name: str) -> None:
    pair = pair_of(files, name)
    values = observations(pair)
    quantized = SimulatedPolicy(pair, head_of(pair)).outputs(values)
    for part in pair.parts:
        changed = SimulatedPolicy(pair, head_of(pair), in_float=frozenset({part.name})).outputs(values)
        assert np.any(changed != quantized), part.name
        is_last = pair.output_name in part.tensors
        steps = changed / output_step(pair)
        assert np.allclose(steps, np.rint(steps), atol=1e-3) != is_last, "only the last part's are rounded"


@pytest.mark.parametrize("name", sorted(TWINS))
def test_parts_share_out_all_tensors(files: dict[str, bytes], name: str) -> None:
    pair = pair_of(files, name)
    assert pair.parts[0].name == OBSERVATION
    assert len(pair.parts) == 1 + TWINS[name]
    written = [tensor for part in pair.parts for tensor in part.tensors]
    outputs = [tensor for layer in pair.reference.layers for tensor in layer.outputs]
    assert sorted(written) == sorted([pair.input_name, *outputs])
    assert {name for part in pair.parts for name in part.constants} == {*pair.reference.weights}


@pytest.mark.parametrize("middle", ["RELU", "RELU6", "TANH"])
def test_coarse_networks_are_simulated_to_the_bit(middle: str) -> None:
    layers = float_layers(11)
    pair = NetworkPair(float_tflite(layers, middle), int8_tflite(layers, middle))
    values = np.random.default_rng(1).uniform(-1.0, 2.0, (500, 5)).astype(np.float32)
    ours = SimulatedPolicy(pair, DiscreteHead.single(3)).outputs(values)
    np.testing.assert_array_equal(ours, integer_outputs(pair, values).astype(np.float32))
    # The weights are that coarse, not the activations: halves of the quantization, told apart.
    exact = SimulatedPolicy(pair, DiscreteHead.single(3), in_float=everything(pair)).outputs(values)
    errors = {
        which: np.abs(
            SimulatedPolicy(pair, DiscreteHead.single(3), **{which: True}).outputs(values) - exact
        ).mean()
        for which in ("has_float_weights", "has_float_activations")
    }
    assert errors["has_float_weights"] < 0.5 * errors["has_float_activations"]


def branches(order: str, *, is_float: bool, name: str = "{}") -> bytes:
    """Return tanh of four dense layers of one shape, their operators in this order, joined as a, b, c, d."""
    writer = TFLiteWriter()
    kind = {"dtype": "FLOAT32"} if is_float else {"scale": 1 / 64, "zero_point": 0}
    first = writer.tensor("x", (1, 3), **kind)
    results = {}
    for branch in order:
        weights = np.random.default_rng(ord(branch)).integers(-127, 128, (2, 3)).astype(np.int8)
        constant = {"dtype": "FLOAT32", "data": (weights / 128).astype(np.float32)}
        if not is_float:
            constant = {"data": weights, "scale": 1 / 128, "zero_point": 0}
        matrix = writer.tensor(f"w_{branch}", (2, 3), **constant)
        dense = writer.tensor(f"dense_{branch}", (1, 2), **kind)
        writer.operator("FULLY_CONNECTED", [first, matrix], [dense])
        range_ = kind if is_float else {"scale": 1 / 128, "zero_point": 0}
        results[branch] = writer.tensor(name.format(f"tanh_{branch}"), (1, 2), **range_)
        writer.operator("TANH", [dense], [results[branch]])
    joined = writer.tensor("joined", (1, 2 * len(order)), **range_)
    writer.operator("CONCATENATION", [results[branch] for branch in sorted(order)], [joined], axis=1)
    return writer.finish([first], [joined])


@pytest.mark.parametrize("order", ["abcd", "dcba", "bdac"])
def test_branches_of_one_shape_are_told_apart_by_their_names(order: str) -> None:
    pair = NetworkPair(branches("abcd", is_float=True), branches(order, is_float=False))
    assert {name: twin for name, twin in pair.twins.items() if name != twin} == {}
    values = observations(pair)
    ours = SimulatedPolicy(pair, head_of(pair)).outputs(values)
    np.testing.assert_array_equal(ours, integer_outputs(pair, values).astype(np.float32))
    for layer in "abcd":
        alone = SimulatedPolicy(pair, head_of(pair), in_float=frozenset({f"dense_{layer}"})).outputs(values)
        columns = np.flatnonzero((alone != ours).any(axis=0))
        assert {*columns} == {2 * "abcd".index(layer), 2 * "abcd".index(layer) + 1}


def test_what_a_converter_renamed_is_matched_by_its_place_and_by_what_it_reads() -> None:
    exact = branches("abcd", is_float=True)
    pair = NetworkPair(exact, branches("abcd", is_float=False, name="renamed_{}"))
    assert {name: pair.twins[name] for name in ("tanh_a", "tanh_d", "dense_a")} == {
        "tanh_a": "renamed_tanh_a",
        "tanh_d": "renamed_tanh_d",
        "dense_a": "dense_a",
    }
    with pytest.raises(DataError, match="TANH of 'tanh_a' has no twin"):
        NetworkPair(exact, branches("dcba", is_float=False, name="renamed_{}"))


def test_it_acts_as_a_policy() -> None:
    layers = float_layers(11)
    pair = NetworkPair(float_tflite(layers, "RELU"), int8_tflite(layers, "RELU"))
    policy = SimulatedPolicy(pair, DiscreteHead.single(3, start=2))
    values = np.random.default_rng(1).uniform(-1.0, 2.0, (130, 5)).astype(np.float32)
    starts = np.zeros(130, np.bool_)
    actions, state = policy.act(values, None, episode_start=starts)
    np.testing.assert_array_equal(actions, 2 + policy.outputs(values).argmax(axis=1))
    assert state == ()
    masks = np.zeros((130, 3), np.bool_)
    masks[:, 1] = True
    masked, _ = policy.act(values, None, episode_start=starts, action_masks=masks)
    assert set(masked.tolist()) == {3}
    # A row's answer is its own, also where floats follow integers.
    mixed = SimulatedPolicy(pair, DiscreteHead.single(3), in_float=frozenset({"d1"}))
    whole, order = mixed.outputs(values), np.random.default_rng(2).permutation(130)
    np.testing.assert_array_equal(mixed.outputs(values[order]), whole[order])
    np.testing.assert_array_equal(mixed.outputs(values[:1]), whole[:1])
    assert policy.outputs(values[:0]).shape == (0, 3)


def test_what_does_not_fit_is_refused(files: dict[str, bytes]) -> None:
    layers = float_layers(11)
    exact, coarse = float_tflite(layers, "RELU"), int8_tflite(layers, "RELU")
    pair = NetworkPair(exact, coarse)
    with pytest.raises(ValueError, match="no parts"):
        SimulatedPolicy(pair, DiscreteHead.single(3), in_float=frozenset({"d7"}))
    with pytest.raises(DataError, match="head needs 4"):
        SimulatedPolicy(pair, DiscreteHead.single(4))
    wider = random_float_tflite(np.random.default_rng(0), (5, 12, 9, 4), ("RELU", "RELU", "NONE"))
    with pytest.raises(DataError, match="does not fit the float one"):
        NetworkPair(wider, coarse)
    shorter = random_float_tflite(np.random.default_rng(0), (5, 12, 3), ("RELU", "NONE"))
    with pytest.raises(DataError, match="no twin"):
        NetworkPair(shorter, coarse)
    with pytest.raises(DataError, match="several inputs"):
        NetworkPair(files["two inputs float32"], files["two inputs"])
