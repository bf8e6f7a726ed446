"""Blame names the part that was made too coarse; nobody where nothing is lost or nobody alone mends it."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.agents.heads import DiscreteHead
from edgeqrl.diagnose.blame import Blame, _judged, blame
from edgeqrl.diagnose.simulated import NetworkPair
from edgeqrl.errors import UsageError
from tests.tflite_writer import TFLiteWriter
from tests.toys import TargetEnv

FINE = {"observation": 3 / 255, "hidden": 6 / 255, "outputs": 20 / 255}
COARSE = {"observation": 10.0, "hidden": 14.0, "outputs": 40.0}  # all becomes 0, and the action with it
RETURN_LOST = 15.0  # of 20 steps, about: one target of four is named by chance
# outputs[j] = 2 * j * target - j^2, greatest where j is the target: through `hidden`, twice the target
WEIGHTS = {"hidden": np.full((4, 1), 2.0), "outputs": np.diag([0.0, 1.0, 2.0, 3.0])}
BIASES = {"hidden": np.zeros(4), "outputs": -np.array([0.0, 1.0, 4.0, 9.0])}
SIZES = {"observation": 1, "hidden": 4, "outputs": 4}


def float_file() -> bytes:
    writer = TFLiteWriter()
    tensors = {name: writer.tensor(name, (1, size), "FLOAT32") for name, size in SIZES.items()}
    source = tensors["observation"]
    for name in ("hidden", "outputs"):
        constants = {"weights": WEIGHTS[name], "bias": BIASES[name]}
        operands = [
            writer.tensor(f"{name} {what}", values.shape, "FLOAT32", data=values.astype(np.float32))
            for what, values in constants.items()
        ]
        writer.operator("FULLY_CONNECTED", [source, *operands], [tensors[name]])
        source = tensors[name]
    return writer.finish([tensors["observation"]], [tensors["outputs"]])


def int8_file(scales: dict[str, float], *, weight_scale: float = 6 / 127) -> bytes:
    writer = TFLiteWriter()
    zero_points = {"observation": -128, "hidden": -128, "outputs": 0}
    tensors = {
        name: writer.tensor(name, (1, size), scale=scales[name], zero_point=zero_points[name])
        for name, size in SIZES.items()
    }
    source = "observation"
    for name in ("hidden", "outputs"):
        weights = np.clip(np.rint(WEIGHTS[name] / weight_scale), -127, 127).astype(np.int8)
        bias_scale = float(np.float32(scales[source]) * np.float32(weight_scale))
        bias = np.rint(BIASES[name] / bias_scale).astype(np.int32)
        operands = [
            writer.tensor(f"{name} weights", weights.shape, data=weights, scale=weight_scale, zero_point=0),
            writer.tensor(f"{name} bias", bias.shape, "INT32", data=bias, scale=bias_scale, zero_point=0),
        ]
        writer.operator("FULLY_CONNECTED", [tensors[source], *operands], [tensors[name]])
        source = name
    return writer.finish([tensors["observation"]], [tensors["outputs"]])


def blamed(*coarse: str, episodes: int = 12, weight_scale: float = 6 / 127) -> Blame:
    scales = FINE | {name: COARSE[name] for name in coarse}
    pair = NetworkPair(float_file(), int8_file(scales, weight_scale=weight_scale))
    return blame(pair, DiscreteHead.single(4), TargetEnv, seeds=range(100, 100 + episodes))


def named(found: Blame) -> dict[str, Any]:
    return {row.name: row for row in found.rows}


@pytest.mark.parametrize("coarse", sorted(FINE))
def test_the_coarse_part_is_named(coarse: str) -> None:
    found = blamed(coarse)
    assert found.suspects == (coarse,)
    assert found.float_return.mean == pytest.approx(20.0, abs=1.0)
    assert found.loss.mean == pytest.approx(RETURN_LOST, abs=1.5)
    assert found.loss.mean == pytest.approx(found.float_return.mean - found.quantized_return.mean)
    for name, row in named(found).items():
        mends = name in (coarse, "activations")
        assert row.share == pytest.approx(float(mends), abs=1e-6), name
        assert row.share_low <= row.share <= row.share_high
        assert (row.recovered.low > 0.0) == mends


def test_rows_are_in_order() -> None:
    rows = blamed("hidden").rows
    assert [(row.kind, row.name, row.operator) for row in rows] == [
        ("observation", "observation", None),
        ("layer", "hidden", "FULLY_CONNECTED"),
        ("layer", "outputs", "FULLY_CONNECTED"),
        ("weights", "weights", None),
        ("activations", "activations", None),
    ]


def test_coarse_weights_are_the_weights_and_no_activation() -> None:
    found = named(blamed(weight_scale=5.0))
    assert found["weights"].share == pytest.approx(1.0)
    assert found["activations"].share == pytest.approx(0.0, abs=0.2)


def test_nobody_is_named_where_nothing_is_lost() -> None:
    found = blamed()
    assert found.suspects == ()
    assert found.loss.mean == 0.0
    assert {row.share for row in found.rows} == {None}


def test_nobody_is_named_where_two_are_to_blame() -> None:
    found = blamed("hidden", "outputs")
    assert found.loss.low > 10.0
    assert found.suspects == ()
    rows = named(found)
    assert max(rows[name].share for name in SIZES) == pytest.approx(0.0, abs=1e-6)
    assert rows["activations"].share == pytest.approx(1.0)


def test_few_episodes_name_nobody() -> None:
    assert blamed("hidden", episodes=7).suspects == ()
    with pytest.raises(UsageError, match="at least 2"):
        blamed(episodes=1)


def test_chance_names_nobody() -> None:
    """Returns that differ by noise alone, a real loss that nobody mends, and one that somebody does."""
    rng = np.random.default_rng(5)
    named_by_chance = 0
    for seed in range(12):
        base = rng.normal(0.0, 30.0, 32)
        named_by_chance += judged(base, base + 40.0, [], rng, seed).suspects != ()
        noise = rng.normal(0.0, 10.0, 32)
        named_by_chance += judged(base, base + noise, [], rng, seed).suspects != ()
        assert judged(base, base + 40.0, ["b"], rng, seed).suspects == ("b",)
    assert named_by_chance <= 1


def test_all_who_recover_as_much_are_suspects() -> None:
    rng = np.random.default_rng(5)
    base = rng.normal(0.0, 30.0, 32)
    found = judged(base, base + 40.0, ["a", "c"], rng, 1)
    assert sorted(found.suspects) == ["a", "c"]


def judged(
    quantized: NDArray[np.float64],
    exact: NDArray[np.float64],
    mending: list[str],
    rng: np.random.Generator,
    seed: int,
) -> Blame:
    returns = {("float", ""): exact, ("quantized", ""): quantized}
    for name in "abc":
        gain = 20.0 if name in mending else 0.0
        returns["layer", name] = quantized + gain + rng.normal(0.0, 10.0, len(quantized))
    found = _judged(returns, {}, 0, seed=seed)
    assert found.confidence == pytest.approx(1 - 0.05 / 3)
    return found


def test_json_and_progress() -> None:
    calls: list[tuple[int, int]] = []
    pair = NetworkPair(float_file(), int8_file(FINE | {"outputs": COARSE["outputs"]}))
    found = blame(
        pair, DiscreteHead.single(4), TargetEnv, seeds=range(8), progress=lambda *done: calls.append(done)
    )
    assert calls == [(i + 1, 56) for i in range(56)]
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["suspects"] == ["outputs"]
    assert plain["loss"]["low"] == found.loss.low
    assert plain["rows"][2]["recovered"]["mean"] == found.rows[2].recovered.mean
    assert plain["num_episodes"] == 8
    again = blame(pair, DiscreteHead.single(4), TargetEnv, seeds=range(8))
    assert again.to_json() == found.to_json()
