"""What int8 covers of the visited states, counted by hand on networks of one table."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.diagnose.coverage import ENOUGH_STATES, FEW_LEVELS, MAX_FEATURES, Coverage, coverage
from edgeqrl.errors import DataError
from edgeqrl.network.edges import ArgmaxEdge, ObservationEdge
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Lookup, Reshape


def policy(
    size: int = 1,
    *,
    scale: float = 1.0,
    table: NDArray[np.int64] | None = None,
    operator: str = "ABS",
    zero_point: int = 0,
) -> IntegerPolicy:
    """One table between input and output; the identity if none is given."""
    values = np.arange(-128, 128) if table is None else table
    network = IntegerNetwork(
        tensors={
            "in": Tensor("in", (size,), scale, 0),
            "moved": Tensor("moved", (1, size), scale, 0),
            "out": Tensor("out", (1, size), 1.0, zero_point),
        },
        inputs=("in",),
        outputs=("out",),
        layers=(
            Reshape("reshape", "in", "moved"),
            Lookup("table", operator, "moved", "out", values.astype(np.int8)),
        ),
    )
    return IntegerPolicy("policy", ObservationEdge.of((size,), scale, 0), network, ArgmaxEdge(size))


def of(values: list[float], **options: object) -> Coverage:
    return coverage(policy(**options), np.array(values, np.float32)[:, None])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "saturated", "levels", "range_used"),
    [
        ([0.0, 1.0, 2.0, 3.0], 0.0, 4, 3 / 255),
        ([-128.0, 127.0], 0.0, 2, 1.0),
        ([-128.4, 127.4], 0.0, 2, 255.8 / 255),  # rounded to the ends, not clipped
        ([-129.0, 0.0, 0.0, 0.0], 0.25, 2, 129 / 255),
        ([200.0, 300.0], 1.0, 1, 100 / 255),
        ([5.0, 5.0], 0.0, 1, 0.0),
    ],
)
def test_feature_by_hand(values: list[float], saturated: float, levels: int, range_used: float) -> None:
    (feature,) = of(values).features
    assert (feature.saturated, feature.levels) == (saturated, levels)
    assert feature.range_used == pytest.approx(range_used, rel=1e-6)
    assert (feature.minimum, feature.maximum) == pytest.approx((min(values), max(values)))


def test_feature_is_coarse_only_where_values_are_merged() -> None:
    varied = np.linspace(0.0, 7.0, 2000, dtype=np.float32)  # 8 levels for 2000 values
    flag = np.tile(np.array([0.0, 1.0], np.float32), 1000)
    wide = np.linspace(-100.0, 100.0, 2000, dtype=np.float32)
    found = coverage(policy(3), np.stack([varied, flag, wide], axis=1))
    assert [feature.is_coarse for feature in found.features] == [True, False, False]
    assert [feature.levels for feature in found.features][:2] == [8, 2]
    assert found.num_coarse == 1
    assert found.features[0].levels < FEW_LEVELS


@pytest.mark.parametrize(
    ("num_states", "is_coarse"), [(200, False), (ENOUGH_STATES - 1, False), (ENOUGH_STATES, True)]
)
def test_few_levels_in_few_states_say_nothing(num_states: int, is_coarse: bool) -> None:
    (feature,) = of(np.linspace(0.0, 7.0, num_states).tolist()).features
    assert (feature.levels, feature.is_coarse) == (8, is_coarse)


def test_what_int8_holds_of_the_observation() -> None:
    (feature,) = of([1.0], scale=0.5).features
    assert feature.range == (-64.0, 63.5)


def test_states_of_the_float_policy_are_told_apart() -> None:
    quantized = np.full((10, 1), 1000.0, np.float32)
    in_float = np.array([[0.0], [1.0], [500.0], [3.0]], np.float32)
    found = coverage(policy(), quantized, in_float)
    assert (found.features[0].saturated, found.features[0].float_saturated) == (1.0, 0.25)
    (layer,) = found.layers
    assert (layer.saturated, layer.float_saturated) == (1.0, 0.25)
    assert coverage(policy(), quantized).features[0].float_saturated is None


@pytest.mark.parametrize(
    ("values", "table", "operator", "zero_point", "saturated"),
    [
        ([-5.0, 0.0, 5.0], None, "ABS", 0, 0.0),
        ([120.0, 125.0, 127.0, 127.0], None, "ABS", 0, 0.25),  # one more at the end than beside it
        ([120.0, 126.0, 126.0, 127.0], None, "ABS", 0, 0.0),
        ([-128.0, -128.0, -128.0, 127.0], None, "ABS", 0, 1.0),
        # The floor of a RELU is a true 0.
        ([-9.0, -8.0, -7.0, 3.0], np.maximum(np.arange(-128, 128), 0) - 128, "RELU", -128, 0.0),
        ([9.0, 8.0, 7.0, -3.0], np.minimum(np.arange(-128, 128), 0) + 127, "NEG", 127, 0.0),
        # The grid of TANH ends where the function does.
        ([-9.0, 9.0], np.where(np.arange(-128, 128) > 0, 127, -128), "TANH", 0, 0.0),
        ([-9.0, 9.0], np.where(np.arange(-128, 128) > 0, 127, -128), "ELU", 0, 1.0),
    ],
)
def test_layer_saturates_where_values_pile_up_at_an_end(
    values: list[float], table: NDArray[np.int64] | None, operator: str, zero_point: int, saturated: float
) -> None:
    (layer,) = of(values, table=table, operator=operator, zero_point=zero_point).layers
    assert layer.saturated == saturated


def test_layers_that_only_move_values_are_left_out() -> None:
    found = of([-3.0, 0.0, 5.0])
    assert [(layer.name, layer.levels) for layer in found.layers] == [("table", 3)]
    assert found.layers[0].range_used == pytest.approx(8 / 255)


def test_of_many_features_the_most_telling_are_listed() -> None:
    observations = np.zeros((3, 500), np.float32)
    observations[:, 321] = 1e6
    found = coverage(policy(500), observations)
    assert (found.num_features, found.num_saturated, len(found.features)) == (500, 1, MAX_FEATURES)
    indices = [feature.index for feature in found.features]
    assert 321 in indices
    assert indices == sorted(indices)


def test_of_many_states_evenly_spaced_ones_are_looked_at() -> None:
    observations = np.arange(20_000, dtype=np.float32)[:, None] / 200
    found = coverage(policy(), observations)
    assert found.num_states == 8192
    assert (found.features[0].minimum, found.features[0].levels) == (0.0, 101)


def test_json_is_plain_and_progress_ends_at_the_total() -> None:
    calls: list[tuple[int, int]] = []
    found = coverage(
        policy(2),
        np.zeros((300, 2), np.float32),
        np.zeros((10, 2), np.float32),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["num_states"] == 300
    assert calls == [(256, 310), (300, 310), (310, 310)]


def test_no_states_are_refused() -> None:
    with pytest.raises(DataError, match="no observations"):
        coverage(policy(), np.empty((0, 1), np.float32))
