"""Weights lie on the grid that was asked for, as near to the float ones as it allows."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import random_inputs
from edgeqrl.network.tflite_model import parse_tflite, replace_buffers
from edgeqrl.quantize.grids import apply_weight_grids, grid_limits, weight_limits
from edgeqrl.quantize.matching import float_twins
from edgeqrl.quantize.scheme import Scheme, textbook
from edgeqrl.quantize.weights_file import LayerWeights, read_weights
from tests.network_pairs import NAMES, NetworkPair, network_pair
from tests.oracles import require_equal
from tests.tflite_writer import TFLiteWriter, random_dense_tflite, random_float_tflite

BITS = (2, 3, 4, 5, 6, 7, 8)


@pytest.fixture(scope="module")
def pair() -> NetworkPair:
    return network_pair(np.random.default_rng(0))


@pytest.fixture(scope="module")
def wide_pair() -> NetworkPair:
    return network_pair(np.random.default_rng(1), "INT16")


def real_rows(layer: LayerWeights) -> NDArray[np.float64]:
    centred = layer.rows() - layer.by_channel(layer.zero_points)[:, None]
    return np.asarray(centred * layer.by_channel(layer.scales)[:, None].astype(np.float64))


def float_rows(pair: NetworkPair) -> dict[str, NDArray[np.float64]]:
    layers = read_weights(pair.integer)
    twins = float_twins(pair.integer, pair.exact)
    return {name: layers[name].rows(twin.weights).astype(np.float64) for name, twin in twins.items()}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("granularity", "size"), [("per_channel", 1), ("per_group", 4), ("per_tensor", 99)])
def test_symmetric_weights_lie_on_their_grid(
    pair: NetworkPair, bits: int, granularity: str, size: int
) -> None:
    scheme = Scheme(weight_bits=bits, granularity=granularity, group_size=4)
    layers = read_weights(apply_weight_grids(pair.integer, pair.exact, scheme))
    assert tuple(layers) == NAMES
    limit = 2 ** (bits - 1) - 1
    for name, exact in float_rows(pair).items():
        layer = layers[name]
        assert np.abs(layer.weights).max() <= limit
        assert not np.any(layer.zero_points)
        assert len(layer.scales) == (1 if granularity == "per_tensor" else layer.num_channels)
        groups = np.arange(layer.num_channels) // size
        scales = layer.by_channel(layer.scales)
        assert all(len(set(scales[groups == group])) == 1 for group in set(groups))
        nearest = np.clip(np.rint(exact / scales[:, None]), -limit, limit)
        np.testing.assert_array_equal(layer.rows(), nearest)


def test_eight_bits_per_channel_stay_to_the_bit(pair: NetworkPair) -> None:
    assert apply_weight_grids(pair.integer, pair.exact, Scheme()) == pair.integer


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_low_bits_have_the_scale_of_the_least_square_error(pair: NetworkPair, bits: int) -> None:
    layers = read_weights(apply_weight_grids(pair.integer, pair.exact, Scheme(weight_bits=bits)))
    limit = 2 ** (bits - 1) - 1
    for name, exact in float_rows(pair).items():
        found = ((real_rows(layers[name]) - exact) ** 2).sum(axis=1)
        largest = np.abs(exact).max(axis=1, keepdims=True) / limit
        for share in (1.0, 0.8, 0.6, 0.4):
            scales = largest * share
            other = np.clip(np.rint(exact / scales), -limit, limit) * scales - exact
            assert np.all(found <= (other**2).sum(axis=1) * (1 + 1e-6))


@pytest.mark.parametrize("bits", BITS)
def test_the_textbook_form(pair: NetworkPair, bits: int) -> None:
    layers = read_weights(apply_weight_grids(pair.integer, pair.exact, textbook(bits)))
    for name, exact in float_rows(pair).items():
        low, high = exact.min(), exact.max()
        step = (high - low) / (2**bits - 1)
        moved = np.rint(low / step) * step  # so that 0 stays 0
        steps = np.clip(np.rint((exact - moved) / step), 0, 2**bits - 1)
        layer = layers[name]
        assert len(layer.scales) == len(layer.zero_points) == 1
        np.testing.assert_allclose(layer.scales, step, rtol=1e-6)
        np.testing.assert_array_equal(layer.rows() + 2 ** (bits - 1), steps)
        np.testing.assert_allclose(real_rows(layer), steps * step + moved, rtol=1e-5, atol=1e-6)
        assert np.abs(real_rows(layer) - exact).max() <= step * 1.001


def test_asymmetric_weights_use_the_whole_range(pair: NetworkPair) -> None:
    scheme = Scheme(weight_bits=3, symmetry="asymmetric")
    tflite = apply_weight_grids(pair.integer, pair.exact, scheme)
    for layer in read_weights(tflite).values():
        rows = layer.rows()
        assert np.all(rows.max(axis=1) - rows.min(axis=1) >= 6)
        assert rows.min() >= -4
        assert rows.max() <= 3
    network = read_tflite(tflite)
    assert any(np.any(layer.weight_zero_points) for layer in network.layers if hasattr(layer, "weights"))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("kind", ["pair", "wide_pair"])
def test_low_bit_files_run_alike_on_both_interpreters(
    kind: str, bits: int, request: pytest.FixtureRequest
) -> None:
    pair = request.getfixturevalue(kind)
    cases = []
    for granularity in ("per_channel", "per_group"):
        scheme = Scheme(weight_bits=bits, granularity=granularity)
        tflite = apply_weight_grids(pair.integer, pair.exact, scheme)
        cases.append(
            (tflite, list(random_inputs(read_tflite(tflite), np.random.default_rng(3), 30).values()))
        )
    for runtime in ("tflm", "tflite-runtime"):
        assert require_equal(runtime, cases) == 180


def test_dense_layers_of_the_textbook_form_run_on_tflite_micro() -> None:
    rng = np.random.default_rng(5)
    tflite = random_dense_tflite(rng, [6, 20, 4], ["RELU", "NONE"])
    exact = random_float_tflite(rng, [6, 20, 4], ["RELU", "NONE"])
    for bits in (2, 4, 8):
        made = apply_weight_grids(tflite, exact, textbook(bits))
        assert any(np.any(layer.zero_points) for layer in read_weights(made).values())
        given = list(random_inputs(read_tflite(made), rng, 100).values())
        assert require_equal("tflm", [(made, given)]) == 400


def test_bits_of_single_layers(pair: NetworkPair) -> None:
    scheme = Scheme(weight_bits=8, layer_bits=(("layer_3", 2),))
    layers = read_weights(apply_weight_grids(pair.integer, pair.exact, scheme))
    before = read_weights(pair.integer)
    assert set(np.unique(layers["layer_3"].weights)) == {-1, 0, 1}
    for name in set(NAMES) - {"layer_3"}:
        np.testing.assert_array_equal(layers[name].weights, before[name].weights)


def test_biases_are_quantized_anew_at_their_new_scale(pair: NetworkPair) -> None:
    layers = read_weights(apply_weight_grids(pair.integer, pair.exact, Scheme(weight_bits=2)))
    for name, twin in float_twins(pair.integer, pair.exact).items():
        assert twin.bias is not None
        assert layers[name].bias is not None
        np.testing.assert_allclose(
            layers[name].bias * layers[name].bias_scales, twin.bias, atol=layers[name].bias_scales.max()
        )


def test_a_layer_without_a_float_twin_is_made_from_its_integers(pair: NetworkPair) -> None:
    layers = read_weights(pair.integer)
    scheme = Scheme(weight_bits=4)
    alone = read_weights(apply_weight_grids(pair.integer, _elu(), scheme))
    twin = read_weights(apply_weight_grids(pair.integer, pair.exact, scheme))
    for name in NAMES:
        assert np.abs(alone[name].weights).max() == 7
        np.testing.assert_allclose(
            real_rows(alone[name]), real_rows(twin[name]), atol=twin[name].scales.max()
        )
        assert np.abs(real_rows(alone[name]) - real_rows(layers[name])).mean() < layers[name].scales.max() * 9


def test_a_channel_of_zeros_keeps_its_scale(pair: NetworkPair) -> None:
    model = parse_tflite(pair.exact)
    index = next(i for i, tensor in enumerate(model.tensors) if tensor.name == "w3")
    values = np.array(model.tensors[index].values(), np.float32)
    values[2] = 0.0
    exact = replace_buffers(pair.exact, {index: values.tobytes()})
    for scheme in (Scheme(weight_bits=3), Scheme(weight_bits=3, symmetry="asymmetric")):
        layer = read_weights(apply_weight_grids(pair.integer, exact, scheme))["layer_3"]
        assert layer.scales[2] == read_weights(pair.integer)["layer_3"].scales[2]
        assert not np.any(real_rows(layer)[2])


def test_tiny_weights_beside_a_large_bias_leave_room_for_it(pair: NetworkPair) -> None:
    model = parse_tflite(pair.exact)
    index = next(i for i, tensor in enumerate(model.tensors) if tensor.name == "w3")
    values = np.array(model.tensors[index].values(), np.float32)
    values[1] *= 1e-10
    exact = replace_buffers(pair.exact, {index: values.tobytes()})
    layer = read_weights(apply_weight_grids(pair.integer, exact, Scheme(weight_bits=4)))["layer_3"]
    twin = float_twins(pair.integer, exact)["layer_3"]
    assert layer.bias is not None
    assert twin.bias is not None
    assert layer.bias[1] * layer.bias_scales[1] == pytest.approx(twin.bias[1], rel=1e-5)


@pytest.mark.parametrize(
    ("bits", "is_symmetric", "expected"),
    [(8, True, (-127, 127)), (2, True, (-1, 1)), (8, False, (-128, 127)), (2, False, (-2, 1))],
)
def test_limits(bits: int, is_symmetric: bool, expected: tuple[int, int]) -> None:
    assert grid_limits(bits, is_symmetric=is_symmetric) == expected
    scheme = Scheme(
        symmetry="symmetric" if is_symmetric else "asymmetric", layer_bits=(("a", bits), ("b", 5))
    )
    assert weight_limits(scheme, "network/a/MatMul") == expected
    assert weight_limits(scheme, "network/b/MatMul") == grid_limits(5, is_symmetric=is_symmetric)


def test_twins_are_found_where_heads_stand_the_other_way_round(pair: NetworkPair) -> None:
    twins = float_twins(pair.integer, pair.exact)
    assert {name: twin.name for name, twin in twins.items()} == dict(zip(NAMES, NAMES, strict=True))


def _elu() -> bytes:
    """Return a float network that matches nothing."""
    writer = TFLiteWriter()
    tensors = [writer.tensor(name, (1, 3), "FLOAT32") for name in ("in", "out")]
    writer.operator("ELU", tensors[:1], tensors[1:])
    return writer.finish(tensors[:1], tensors[1:])
