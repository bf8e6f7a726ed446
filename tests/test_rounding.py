"""Weights rounded by output are nearer in what the layer gives, never farther, and always on their grid."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.network.layers import Conv2D, Dense, DepthwiseConv2D, Linear, TransposeConv
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import random_inputs
from edgeqrl.quantize.correction import correct
from edgeqrl.quantize.grids import apply_weight_grids
from edgeqrl.quantize.matching import float_twins
from edgeqrl.quantize.rounding import MOST_TERMS, Part, is_roundable, parts_of, round_rows
from edgeqrl.quantize.scheme import GRANULARITIES, SYMMETRIES, Scheme
from edgeqrl.quantize.weights_file import read_weights
from tests.network_pairs import NAMES, NetworkPair, network_pair
from tests.oracles import require_equal
from tests.random_linear import random_case
from tests.test_weights_file import twin_towers
from tests.tflite_writer import TFLiteWriter


@pytest.fixture(scope="module", params=["INT8", "INT16"])
def pair(request: pytest.FixtureRequest) -> NetworkPair:
    return network_pair(np.random.default_rng(4), request.param, count=600)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_outputs_come_nearer_on_fresh_inputs(pair: NetworkPair, bits: int) -> None:
    scheme = Scheme(weight_bits=bits)
    coarse = apply_weight_grids(pair.integer, pair.exact, scheme)
    plain = correct(coarse, pair.exact, pair.samples, replace(scheme, rounding="nearest"))
    done = correct(coarse, pair.exact, pair.samples, scheme)
    assert done.rounding == "adaround"
    is_int8 = bits == 8 and "int8" in {t.dtype for t in read_tflite(pair.integer).tensors.values()}
    assert bool(done.rounded) != is_int8, "where 8 bits of activations decide, the nearest stay"
    limit = 0.8 if bits < 8 else 1.05
    assert pair.error(done.tflite) < limit * pair.error(plain.tflite)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_each_weight_stays_on_its_grid_within_a_step_of_the_nearest(
    pair: NetworkPair, bits: int, symmetry: str, granularity: str
) -> None:
    scheme = Scheme(weight_bits=bits, symmetry=symmetry, granularity=granularity, group_size=4)
    coarse = apply_weight_grids(pair.integer, pair.exact, scheme)
    done = correct(coarse, pair.exact, pair.samples, scheme)
    before, after = read_weights(coarse), read_weights(done.tflite)
    half = 2 ** (bits - 1)
    assert set(done.rounded) <= set(NAMES)
    assert done.rounded or bits == 8
    for name in NAMES:
        old, new = before[name].weights.astype(int), after[name].weights.astype(int)
        assert np.abs(new - old).max() <= 1
        assert new.min() >= (-half if symmetry == "asymmetric" else 1 - half)
        assert new.max() <= half - 1
        assert np.any(new != old) == (name in done.rounded)
        np.testing.assert_array_equal(after[name].scales, before[name].scales)
        np.testing.assert_array_equal(after[name].zero_points, before[name].zero_points)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_grid_that_is_not_symmetric_may_have_its_zero_point_at_zero(bits: int) -> None:
    """Of 2^bits integers the one below the symmetric grid is used there, and none beyond them."""
    half = 2 ** (bits - 1)
    scheme = Scheme(weight_bits=bits, granularity="per_tensor", symmetry="asymmetric")
    seen = set()
    for seed in range(6):
        pair = network_pair(np.random.default_rng(seed))
        coarse = apply_weight_grids(pair.integer, pair.exact, scheme)
        after = read_weights(correct(coarse, pair.exact, pair.samples, scheme).tflite)
        for layer in after.values():
            assert layer.weights.min() >= -half
            assert layer.weights.max() <= half - 1
            if not np.any(layer.zero_points):
                seen.add(int(layer.weights.min()))
    assert -half in seen, "the test could not fail"


def test_layers_with_bits_of_their_own_stay_on_their_grids(pair: NetworkPair) -> None:
    scheme = Scheme(weight_bits=4, layer_bits=(("layer_3", 2), ("layer_4", 8)))
    coarse = apply_weight_grids(pair.integer, pair.exact, scheme)
    after = read_weights(correct(coarse, pair.exact, pair.samples, scheme).tflite)
    limits = {name: int(np.abs(after[name].weights.astype(int)).max()) for name in NAMES}
    assert limits == {"layer_0": 7, "layer_1": 7, "layer_3": 1, "layer_4": 127}


def test_weights_are_rounded_without_touching_biases(pair: NetworkPair) -> None:
    scheme = Scheme(weight_bits=3, bias_correction=False)
    coarse = apply_weight_grids(pair.integer, pair.exact, scheme)
    done = correct(coarse, pair.exact, pair.samples, scheme)
    assert done.corrected == ()
    before, after = read_weights(coarse), read_weights(done.tflite)
    for name in NAMES:
        np.testing.assert_array_equal(before[name].bias, after[name].bias)
    assert pair.error(done.tflite) < 0.8 * pair.error(coarse)


def test_the_same_samples_give_the_same_bytes_and_run_on_the_interpreters(pair: NetworkPair) -> None:
    scheme = Scheme(weight_bits=4)
    coarse = apply_weight_grids(pair.integer, pair.exact, scheme)
    done = correct(coarse, pair.exact, pair.samples, scheme)
    assert correct(coarse, pair.exact, pair.samples, scheme).tflite == done.tflite
    given = list(random_inputs(read_tflite(done.tflite), np.random.default_rng(0), 30).values())
    for runtime in ("tflm", "tflite-runtime"):
        assert require_equal(runtime, [(done.tflite, given)]) == 90


def test_no_channel_is_worse_on_samples_held_out(pair: NetworkPair) -> None:
    """Inputs that say nothing about the float network's outputs: rounding by them must not be kept."""
    scheme = Scheme(weight_bits=4, bias_correction=False)
    coarse = apply_weight_grids(pair.integer, pair.exact, scheme)
    rng = np.random.default_rng(1)
    few = pair.samples[:64] * rng.choice([0.0, 1.0], (64, 1, 1, 1), p=[0.9, 0.1]).astype(np.float32)
    done = correct(coarse, pair.exact, few, scheme)
    held_out = few[3::4]
    errors = [first_layer_errors(pair, x, held_out) for x in (coarse, done.tflite)]
    assert np.all(errors[1] <= errors[0])


def first_layer_errors(pair: NetworkPair, tflite: bytes, values: NDArray[np.float32]) -> NDArray[np.float64]:
    network, file = read_tflite(tflite), read_weights(tflite)["layer_0"]
    source = network.tensors[network.inputs[0]]
    steps = np.rint(values.astype(np.float64) / source.scale) + source.zero_point
    layer = network.layers[0]
    assert isinstance(layer, Conv2D)
    sums = layer.accumulators(np.clip(steps, *source.range).astype(source.dtype), network.tensors)
    twin = float_twins(tflite, pair.exact)["layer_0"]
    assert twin.bias is not None
    patches = layer.window.patches(values, 0.0).reshape(-1, 18)
    wanted = patches @ twin.weights.reshape(6, -1).T + twin.bias
    return np.asarray(((sums.reshape(-1, 6) * file.bias_scales - wanted) ** 2).mean(axis=0))


def test_too_few_samples_leave_the_weights(pair: NetworkPair) -> None:
    done = correct(pair.integer, pair.exact, pair.samples[:40], Scheme())
    assert (done.tried, done.rounded, done.rounding) == ((), (), "nearest")
    assert done.corrected == NAMES


@pytest.mark.parametrize("is_tied", [True, False])
def test_tied_weights_stay(is_tied: bool) -> None:
    """A layer that has its weights alone is rounded by its output."""
    tflite = twin_towers(is_tied=is_tied)
    values = (read_weights(tflite)["out0"].weights * 0.02 + 0.007).astype(np.float32)
    writer = TFLiteWriter()
    sources = [writer.tensor(f"in{i}", (1, 4), "FLOAT32") for i in range(2)]
    weights = writer.tensor("w", (3, 4), "FLOAT32", data=values)
    biases = [writer.tensor(f"b{i}", (3,), "FLOAT32", data=np.ones(3, np.float32)) for i in range(2)]
    targets = [writer.tensor(f"out{i}", (1, 3), "FLOAT32") for i in range(2)]
    for source, bias, target in zip(sources, biases, targets, strict=True):
        writer.operator("FULLY_CONNECTED", [source, weights, bias], [target])
    exact = writer.finish(sources, targets)
    mixing = np.random.default_rng(1).normal(size=(2, 2, 4))  # two numbers behind four features
    samples = list((np.random.default_rng(0).normal(size=(2, 200, 2)) @ mixing).astype(np.float32))
    scheme = Scheme(weight_bits=3)
    coarse = apply_weight_grids(tflite, exact, scheme)
    done = correct(coarse, exact, samples, scheme)
    assert set(done.corrected) == {"out0", "out1"}
    assert bool(done.rounded) != is_tied
    before, after = read_weights(coarse), read_weights(done.tflite)
    for name, layer in after.items():
        assert layer.is_tied == is_tied
        assert np.array_equal(layer.weights, before[name].weights) == (name not in done.rounded)


def test_a_row_by_hand() -> None:
    """Two equal inputs: what one weight loses the other gains."""
    moments = np.array([[4.0, 4.0], [4.0, 4.0]]) + np.eye(2) * 1e-3
    exact = np.array([[0.4, 0.4]])
    part = Part(slice(0, 1), moments, moments @ exact.T)
    limits = np.full((1, 1), -7.0), np.full((1, 1), 7.0)
    assert round_rows(exact, part, limits).sum() == 1.0
    assert np.rint(exact).sum() == 0.0


def test_what_the_targets_ask_for_wins_over_the_weights() -> None:
    moments = np.diag([100.0, 100.0])
    exact = np.array([[1.2, -1.2]])
    part = Part(slice(0, 1), moments, moments @ np.array([[1.9], [-1.2]]))
    limits = np.full((1, 1), -7.0), np.full((1, 1), 7.0)
    assert round_rows(exact, part, limits).tolist() == [[2.0, -1.0]]
    far = Part(slice(0, 1), moments, moments @ np.array([[6.0], [-1.2]]))
    assert round_rows(exact, far, limits).tolist() == [[2.0, -1.0]], "within a step of the nearest"
    narrow = np.full((1, 1), -1.0), np.full((1, 1), 1.0)
    assert round_rows(exact, far, narrow).tolist() == [[1.0, -1.0]], "on its grid"


def test_inputs_that_never_differ_leave_the_nearest() -> None:
    part = Part(slice(0, 1), np.zeros((2, 2)), np.zeros((2, 1)))
    exact = np.array([[0.4, 0.6]])
    assert round_rows(exact, part, (np.full((1, 1), -1.0), np.full((1, 1), 1.0))).tolist() == [[0.0, 1.0]]


def test_blocks_of_columns_give_what_single_columns_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 8)) @ rng.normal(size=(8, 100)) + rng.normal(size=(300, 100)) * 0.1
    exact = rng.normal(size=(5, 100)) * 2
    part = Part(slice(0, 5), inputs.T @ inputs, inputs.T @ inputs @ exact.T)
    limits = np.full((5, 1), -7.0), np.full((5, 1), 7.0)
    found = round_rows(exact, part, limits)
    monkeypatch.setattr("edgeqrl.quantize.rounding._BLOCK", 1)
    np.testing.assert_array_equal(round_rows(exact, part, limits), found)

    def loss(rows: NDArray[np.float64]) -> float:
        return float((((rows - exact) @ inputs.T) ** 2).sum())

    assert loss(found) < 0.3 * loss(np.rint(exact))


@pytest.mark.parametrize("is_free", [False, True])
@pytest.mark.parametrize("name", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
def test_moments_are_those_of_what_each_channel_sums(
    name: str, is_free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeqrl.quantize.rounding._ELEMENTS_AT_ONCE", 1)
    rng = np.random.default_rng(3)
    for _ in range(8):
        tflite, (values,) = random_case(rng, name, "INT8", samples=6, bias="INT32")
        network = read_tflite(tflite)
        *_, layer = network.layers
        assert isinstance(layer, Linear)
        source = network.tensors[layer.input]
        given = values.reshape(-1, *source.shape)
        sums = layer.accumulators(given, network.tensors) - layer.bias
        wanted = sums.reshape(-1, sums.shape[-1]).astype(np.float64)
        channels = []
        for part in parts_of(layer, given.astype(np.float64) - source.zero_point, wanted, is_free=is_free):
            rows = layer.centred_weights[part.channels].reshape(part.targets.shape[1], -1).astype(np.float64)
            np.testing.assert_allclose(part.moments @ rows.T, part.targets, atol=1e-3, rtol=1e-9)
            channels += list(range(len(layer.weights)))[part.channels]
        assert channels == list(range(len(layer.weights)))


def test_which_layers_can_be_rounded() -> None:
    rng = np.random.default_rng(0)
    for name, expected in (("FULLY_CONNECTED", True), ("CONV_2D", True), ("TRANSPOSE_CONV", False)):
        *_, layer = read_tflite(random_case(rng, name, "INT8")[0]).layers
        assert isinstance(layer, Dense | Conv2D | DepthwiseConv2D | TransposeConv)
        assert is_roundable(layer) == expected
    *_, dense = read_tflite(random_case(rng, "FULLY_CONNECTED", "INT8")[0]).layers
    assert isinstance(dense, Dense)
    assert not is_roundable(replace(dense, weights=np.zeros((1, MOST_TERMS + 1), np.int8)))
