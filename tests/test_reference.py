"""The NumPy reference: by hand on a tiny network, and what callers may rely on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeqrl.network.fixed_point import quantize_multiplier
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Dense, Lookup, Reshape
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from tests.tflite_writer import random_dense_tflite


def tiny_network() -> IntegerNetwork:
    """Two inputs, two outputs, real multiplier 1/4 and 2, then a table and a reshape."""
    multiplier, shift = np.array([quantize_multiplier(0.25), quantize_multiplier(2.0)], np.int32).T
    dense = Dense(
        name="dense",
        input="in",
        output="hidden",
        weights=np.array([[1, 2], [-3, 4]], np.int8),
        bias=np.array([10, -20]),
        multiplier=np.ascontiguousarray(multiplier),
        shift=np.ascontiguousarray(shift),
        output_min=-100,
        output_max=100,
    )
    negate = Lookup("negate", "NEG", "hidden", "negated", np.arange(127, -129, -1).astype(np.int8))
    return IntegerNetwork(
        tensors={
            "in": Tensor("in", (2,), 0.5, -1),
            "hidden": Tensor("hidden", (2,), 1.0, 5),
            "negated": Tensor("negated", (2,), 1.0, 0),
            "out": Tensor("out", (1, 2), 1.0, 0),
        },
        inputs=("in",),
        outputs=("out", "hidden"),
        layers=(dense, negate, Reshape("reshape", "negated", "out")),
    )


@pytest.mark.parametrize(
    ("inputs", "accumulators", "hidden", "out"),
    [
        # centred (1, 2): 1 + 4 + 10 = 15, -3 + 8 - 20 = -15; / 4 and * 2, + 5
        ([0, 1], [15, -15], [9, -25], [-10, 24]),
        ([-1, -1], [10, -20], [8, -35], [-9, 34]),  # 2.5 rounds up to 3
        ([127, 127], [394, 108], [100, 100], [-101, -101]),  # both clamped
    ],
)
def test_a_tiny_network_by_hand(
    inputs: list[int], accumulators: list[int], hidden: list[int], out: list[int]
) -> None:
    reference = Reference(tiny_network())
    values = np.array([inputs], np.int8)
    tensors = reference.run_all({"in": values})
    assert reference.network.layers[0].accumulators(values, reference.network.tensors).tolist() == [
        accumulators
    ]
    assert tensors["hidden"].tolist() == [hidden]
    assert tensors["out"].tolist() == [[out]]
    assert set(tensors) == {"in", "hidden", "negated", "out"}
    assert set(reference.run({"in": values})) == {"out", "hidden"}


@pytest.mark.parametrize(
    "inputs",
    [
        {"other": np.zeros((1, 2), np.int8)},
        {"in": np.zeros((1, 2), np.int16)},
        {"in": np.zeros((1, 3), np.int8)},
        {"in": np.zeros(2, np.int8)},
        {},
    ],
    ids=["name", "dtype", "shape", "rank", "missing"],
)
def test_wrong_inputs_are_refused(inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"inputs are|must be int8"):
        Reference(tiny_network()).run(inputs)


def test_no_samples_give_no_outputs() -> None:
    assert Reference(tiny_network()).run({"in": np.zeros((0, 2), np.int8)})["out"].shape == (0, 1, 2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 20), min_size=2, max_size=4))
def test_a_rows_answer_is_its_own(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    network = read_tflite(random_dense_tflite(rng, sizes, ["RELU"] * (len(sizes) - 1)))
    reference = Reference(network)
    inputs = rng.integers(-128, 128, (2100, sizes[0]), np.int8)  # more than the reference takes at once
    order = rng.permutation(len(inputs))
    (whole,) = reference.run({"observation": inputs}).values()
    (shuffled,) = reference.run({"observation": inputs[order]}).values()
    (alone,) = reference.run({"observation": inputs[7:8]}).values()
    np.testing.assert_array_equal(whole[order], shuffled)
    np.testing.assert_array_equal(whole[7:8], alone)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_accumulators_are_exact_integer_sums(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = read_tflite(random_dense_tflite(rng, [300, 5], ["NONE"]))
    (layer,) = network.layers
    assert isinstance(layer, Dense)
    inputs = rng.choice(np.array([-128, 127], np.int8), (9, 300))
    centred = inputs.astype(object) - network.tensors["observation"].zero_point
    expected = centred @ layer.weights.astype(object).T + layer.bias.astype(object)
    np.testing.assert_array_equal(layer.accumulators(inputs, network.tensors), expected.astype(np.int64))
