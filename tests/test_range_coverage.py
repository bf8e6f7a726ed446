"""The section `coverage` of a report: what is counted while a policy plays, and that nothing else changes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.cli.coverage_view import coverage_notes
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Lookup
from edgeqrl.network.policy_step import step_policy
from edgeqrl.network.reference import Reference
from edgeqrl.stages.ranges import WatchedPolicy
from tests.test_coverage import policy
from tests.whole_policies import KINDS, random_part_rows, whole_policy

SCHEMA = json.loads((Path(__file__).parent.parent / "docs/report.schema.json").read_text())


def playing(watched: IntegerPolicy) -> WatchedPolicy:
    return WatchedPolicy(NetworkPolicy(Reference(watched.network), watched, "reference"), watched)


def shown(player: WatchedPolicy, rows: Any) -> dict[str, Any]:
    """Show the rows one at a time, as one episode."""
    state = None
    for at, row in enumerate(rows):
        _, state = player.act(np.array([[row]], np.float32), state, episode_start=np.array([at == 0]))
    found = player.coverage()
    require_valid(found)
    return found


def require_valid(found: dict[str, Any]) -> None:
    described = SCHEMA["properties"]["coverage"]
    errors = list(Draft202012Validator(described).iter_errors(json.loads(json.dumps(found))))
    assert not errors, errors


@pytest.mark.parametrize(
    ("values", "saturated", "range_used"),
    [
        ([0.0, 1.0, 2.0, 3.0], 0.0, 3 / 255),
        ([-128.4, 127.4], 0.0, 1.0),
        ([-129.0, 0.0, 0.0, 0.0], 0.25, 128 / 255),
        ([5.0, 5.0], 0.0, 0.0),
    ],
)
def test_an_observation_by_hand(values: list[float], saturated: float, range_used: float) -> None:
    found = shown(playing(policy(scale=1.0)), values)
    row = found["tensors"][0]
    assert (found["num_states"], row["name"], row["operator"], row["bits"]) == (len(values), "in", "INPUT", 8)
    assert row["range"] == [-128.0, 127.0]
    assert (row["saturated"], row["range_used"]) == pytest.approx((saturated, range_used))


def test_layers_count_what_piles_up_at_an_end_and_moves_are_left_out() -> None:
    table = np.clip(np.arange(-128, 128) * 2, -128, 127)
    found = shown(
        playing(policy(scale=1.0, table=table)), np.r_[np.full(25, 100.0), np.linspace(-40, 40, 75)]
    )
    assert [row["name"] for row in found["tensors"]] == ["in", "out"]
    out = found["tensors"][1]
    assert (out["operator"], out["saturated"]) == ("ABS", pytest.approx(0.25))
    assert out["range_used"] == pytest.approx((127 + 80) / 255)


def test_what_tanh_alone_reads_may_be_clipped() -> None:
    made = policy(scale=1.0, table=np.clip(np.arange(-128, 128) * 2, -128, 127))
    network = made.network
    tanh = Lookup("t", "TANH", "out", "end", np.arange(-128, 128).astype(np.int8))
    longer = IntegerNetwork(
        {**network.tensors, "end": Tensor("end", (1, 1), 1 / 128, 0)},
        network.inputs,
        ("end",),
        (*network.layers, tanh),
    )
    states = np.r_[np.full(25, 100.0), np.linspace(-40, 40, 75)]
    rows = shown(playing(replace(made, network=longer)), states)["tensors"]
    assert {row["name"]: row["saturated"] for row in rows} == {"in": 0.0, "out": 0.0, "end": 0.0}


def test_a_policy_that_never_acted_has_no_rows() -> None:
    found = playing(policy()).coverage()
    require_valid(found)
    assert found == {"num_states": 0, "tensors": []}


@pytest.mark.parametrize("kind", KINDS)
def test_a_watched_policy_of_any_kind_plays_as_it_does_alone(kind: str) -> None:
    """With parts, frames, states and draws; what is counted is what the policy computed."""
    whole = whole_policy(np.random.default_rng(3), kind)
    alone, player = NetworkPolicy(Reference(whole.network), whole, "reference"), playing(whole)
    rng = np.random.default_rng(4)
    states: list[Any] = [None, None]
    for step in range(6):
        parts = {edge.part.name: random_part_rows(rng, edge, 2) for edge in whole.observations}
        starts = np.full(2, step in (0, 4))
        answers = []
        for at, acting in enumerate((alone, player)):
            draws = [np.random.default_rng([step, row]) for row in range(2)]
            action, states[at] = acting.act(parts, states[at], episode_start=starts, rng=draws)
            answers.append(action)
        np.testing.assert_array_equal(*answers)
        for one, other in zip(*states, strict=True):
            np.testing.assert_array_equal(one, other)
    found = player.coverage()
    require_valid(found)
    assert found["num_states"] == 12
    names = [row["name"] for row in found["tensors"]]
    assert names[: len(whole.network.inputs)] == list(whole.network.inputs)
    assert player.has_memory == whole.has_memory, "what else it has is still there"


def test_states_are_counted_with_the_memory_that_they_had() -> None:
    whole = whole_policy(np.random.default_rng(3), next(kind for kind in KINDS if "recurrent" in kind))
    player, rng = playing(whole), np.random.default_rng(4)
    memory, state = whole.fresh_memory(1), None
    reference = Reference(whole.network)
    given = whole.recurrent[0].input
    met: list[int] = []

    def run(inputs: Any) -> Any:
        met.extend(inputs[given].ravel().tolist())
        return reference.run(inputs)

    for step in range(20):
        parts = {edge.part.name: random_part_rows(rng, edge, 1) for edge in whole.observations}
        draws = [np.random.default_rng(step)]
        _, state = player.act(parts, state, episode_start=np.array([step == 0]), rng=draws)
        memory = step_policy(whole, run, parts, memory).memory
    row = next(row for row in player.coverage()["tensors"] if row["name"] == given)
    assert row["range_used"] == pytest.approx((max(met) - min(met)) / 255)


def test_long_validations_cost_as_much_as_short_ones() -> None:
    player = playing(policy(scale=1.0))
    for step in range(9000):
        player.act(np.full((8, 1), step / 100, np.float32), None, episode_start=np.full(8, step == 0))
    found = player.coverage()
    assert 1024 <= found["num_states"] <= 2048
    assert found["tensors"][0]["range_used"] == pytest.approx(90 / 255, abs=0.01), "the last are among them"


def test_every_episode_of_a_batch_has_its_turn() -> None:
    """A row of the batch is one episode, and another one may go where the first never does."""
    player = playing(policy(scale=1.0))
    for step in range(64):
        rows = np.arange(64, dtype=np.float32)[:, None]
        player.act(rows, None, episode_start=np.full(64, step == 0))
    assert player.coverage()["tensors"][0]["range_used"] == pytest.approx(63 / 255)


def row(name: str, saturated: float, used: float) -> dict[str, Any]:
    return {"name": name, "saturated": saturated, "range_used": used}


def test_notes_name_what_saturates_most_and_what_hardly_uses_its_range() -> None:
    assert coverage_notes({}) == coverage_notes({"coverage": {"num_states": 0, "tensors": []}}) == []
    fine = [row("observation", 0.0, 0.9), row("model/dense_1/MatMul;model/dense_1/Relu", 0.0, 0.5)]
    assert coverage_notes({"coverage": {"tensors": fine}}) == ["none of 2 tensors leaves its range"]
    cut = [
        row("observation", 0.0125, 1.0),
        row("model/dense_1/MatMul;x/Relu", 0.2, 1.0),
        row("c", 0.001, 0.1),
    ]
    assert coverage_notes({"coverage": {"tensors": cut}}) == [
        "3 of 3 tensors leave their range, most: dense_1 20 %, observation 1.2 %",
        "little of its range used: c 10 %",
    ]


def test_notes_tell_tensors_of_one_layer_apart() -> None:
    name = "model/dense_1/MatMul;model/dense_1/BiasAdd"
    notes = coverage_notes({"coverage": {"tensors": [row(name, 0.2, 0.5), row(f"{name}#4", 0.1, 0.5)]}})
    assert notes == ["2 of 2 tensors leave their range: dense_1/BiasAdd 20 %, dense_1/BiasAdd#4 10 %"]
    alone = coverage_notes({"coverage": {"tensors": [row(name, 0.2, 0.5), row("c", 0.0, 0.5)]}})
    assert alone == ["1 of 2 tensors leaves its range: dense_1 20 %"]
