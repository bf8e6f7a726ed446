"""The worst states, with outputs written by hand and policies whose every step depends on the last."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.diagnose.states import MAX_LISTED, NUM_WORST, Steps, ask_both, play_both, worst_states
from edgeqrl.errors import DataError
from edgeqrl.rollout import rollout
from edgeqrl.validate.agreement import NO_BOUND
from tests.toys import (
    BoxChaosEnv,
    ChaosEnv,
    FixedPolicy,
    InfoMaskEnv,
    RecurrentPolicy,
    TargetEnv,
    TargetPolicy,
)
from tests.toys import IntegerPolicy as Toy


def steps_of(
    in_float: Any, quantized: Any, *, seeds: list[int] | None = None, masks: Any = None, size: int = 1
) -> Steps:
    count = len(in_float)
    return Steps(
        seeds=np.arange(count) if seeds is None else np.array(seeds),
        steps=np.arange(count) * 10,
        observations=np.repeat(np.arange(count, dtype=np.float32)[:, None], size, axis=1),
        float_actions=np.array(in_float),
        quantized_actions=np.array(quantized),
        action_masks=masks,
    )


def answers(rows: Any) -> Any:
    """Return outputs by the number that the observation is."""
    table = np.array(rows, np.float32)
    return lambda observations: table[observations[:, 0].astype(int)]


def test_regret_and_margin_by_hand() -> None:
    outputs = [[1.0, 4.0, 2.0], [0.0, 0.5, 9.0], [3.0, 1.0, 2.9]]
    found = worst_states(
        steps_of([1, 2, 0], [2, 2, 2]),
        float_outputs=answers(outputs),
        quantized_outputs=answers([[0, 0, 5], [0, 0, 9], [3, 1, 3]]),
        quantization_step=0.5,
    )
    assert (found.kind, found.num_states) == ("regret", 3)
    assert found.disagreeing == pytest.approx(2 / 3)
    first, second = found.worst
    assert (first["seed"], first["step"], first["float_action"], first["quantized_action"]) == (0, 0, 1, 2)
    assert (first["regret"], first["margin"], first["margin_in_steps"]) == (2.0, 2.0, 4.0)
    assert (first["float_outputs"], first["quantized_outputs"]) == ([1.0, 4.0, 2.0], [0.0, 0.0, 5.0])
    assert second["seed"] == 2
    assert second["regret"] == pytest.approx(0.1)
    assert found.margin_below_step == pytest.approx(1 / 3)
    assert found.disagreeing_below_step == 0.5
    assert found.median_margin_in_steps == 4.0


def test_actions_that_do_not_begin_at_0() -> None:
    found = worst_states(
        steps_of([6], [5]), float_outputs=answers([[1.0, 3.0]]), quantization_step=1.0, first_action=5
    )
    assert found.worst[0]["regret"] == 2.0


def test_forbidden_actions_have_no_part_in_regret_and_margin() -> None:
    masks = np.array([[True, False, True], [False, False, False]])
    found = worst_states(
        steps_of([0, 1], [2, 0], masks=masks),
        float_outputs=answers([[2.0, 99.0, 1.5], [1.0, 5.0, 0.0]]),
        quantization_step=1.0,
    )
    # Where a mask allows nothing it is ignored, as policies do.
    assert [(state["regret"], state["margin"]) for state in found.worst] == [(4.0, 4.0), (0.5, 0.5)]


@pytest.mark.parametrize("outputs", [[[1.0]], [[1.0], [2.0]]])
def test_single_action_has_no_margin(outputs: Any) -> None:
    count = len(outputs)
    found = worst_states(
        steps_of([0] * count, [0] * count), float_outputs=answers(outputs), quantization_step=1.0
    )
    assert (found.worst, found.margin_below_step, found.median_margin_in_steps) == ((), 0.0, None)
    assert found.disagreeing_below_step is None


def test_worst_are_one_an_episode_and_at_most_five() -> None:
    count = 30
    regrets = np.linspace(1.0, 2.0, count)
    outputs = np.stack([regrets, np.zeros(count)], axis=1)
    seeds = [number // 3 for number in range(count)]
    found = worst_states(
        steps_of([0] * count, [1] * count, seeds=seeds), float_outputs=answers(outputs), quantization_step=1.0
    )
    assert [state["seed"] for state in found.worst] == [9, 8, 7, 6, 5]
    assert [state["step"] for state in found.worst] == [290, 260, 230, 200, 170]
    assert len(found.worst) == NUM_WORST


def test_continuous_actions_are_ordered_by_error_as_a_share_of_the_range() -> None:
    found = worst_states(
        steps_of(
            np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]], np.float32),
            np.array([[0.5, 0.0], [0.0, 10.0], [1.0, 1.0]], np.float32),
        ),
        span=np.array([1.0, 100.0]),
    )
    assert (found.kind, found.margin_below_step) == ("action_error", None)
    assert found.disagreeing == pytest.approx(2 / 3)
    assert [(s["seed"], s["action_error"], s["error_of_range"]) for s in found.worst] == [
        (0, 0.5, 0.5),
        (1, 10.0, pytest.approx(0.1)),
    ]
    assert found.worst[1]["quantized_action"] == [0.0, 10.0]


def test_bound_that_is_none_gives_no_range() -> None:
    """Spaces write the greatest float32 for "no bound"; what is wrong by 100 must not agree."""
    actions = np.array([[0.0, 0.0]], np.float32), np.array([[100.0, 0.0]], np.float32)
    for span in (np.array([np.inf, 2.0]), np.array([2 * NO_BOUND, 2.0]), np.array([NO_BOUND, 2.0])):
        found = worst_states(steps_of(*actions), span=span)
        assert (found.disagreeing, found.worst[0]["error_of_range"]) == (1.0, 100.0)


def test_without_outputs_the_states_that_disagree_are_named() -> None:
    found = worst_states(steps_of([0, 1, 2], [0, 0, 0]))
    assert (found.kind, [state["seed"] for state in found.worst]) == ("disagreement", [1, 2])


def test_long_observations_are_found_again_by_seed_and_step() -> None:
    short, long = (
        worst_states(steps_of([0], [1], size=size)).worst[0]["observation"] for size in (2, MAX_LISTED + 1)
    )
    assert (short, long) == ([0.0, 0.0], None)


# Playing


def test_float_policy_plays_as_alone_and_steps_are_in_order() -> None:
    policy = RecurrentPolicy()
    seeds = range(100, 110)
    steps, played = play_both(policy, RecurrentPolicy(), ChaosEnv, seeds)
    alone = rollout(policy, ChaosEnv, seeds, keep_observations=True, keep_actions=True)
    assert alone.observations is not None
    assert alone.actions is not None
    assert played.episode_returns.tolist() == alone.episode_returns.tolist()
    assert (steps.observations == np.concatenate(alone.observations)).all()
    assert (steps.float_actions == np.concatenate(alone.actions)).all()
    assert (steps.quantized_actions == steps.float_actions).all()  # the same policy, with the same draws
    assert steps.seeds is not None
    assert steps.seeds.tolist() == np.repeat(np.array(seeds), alone.episode_lengths).tolist()
    assert steps.steps.tolist() == [k for length in alone.episode_lengths for k in range(length)]


def test_more_episodes_than_environments_keep_their_seeds() -> None:
    seeds = range(150)  # 64 are played side by side
    steps, _ = play_both(TargetPolicy("float"), TargetPolicy("int8", wrong_every=7), TargetEnv, seeds)
    assert steps.seeds is not None
    assert steps.seeds.tolist() == [seed for seed in seeds for _ in range(20)]
    is_wrong = steps.float_actions != steps.quantized_actions
    assert (np.flatnonzero(is_wrong) % 20).tolist() == [6, 13] * 150


def test_masks_are_noted() -> None:
    steps, _ = play_both(Toy(3, 5), Toy(3, 5), InfoMaskEnv, range(4))
    assert steps.action_masks is not None
    rows = np.arange(len(steps.float_actions))
    assert steps.action_masks[rows, steps.float_actions].all()


def test_continuous_actions_are_noted_before_the_environment_changes_them() -> None:
    steps, _ = play_both(
        FixedPolicy(np.float32([0.5, 1.0])), FixedPolicy(np.float32([0.5, 1.5])), BoxChaosEnv, range(3)
    )
    found = worst_states(steps, span=np.array([4.0, 4.0]))
    assert found.disagreeing == 1.0
    assert found.worst[0]["float_action"] == [0.5, 1.0]
    assert found.worst[0]["error_of_range"] == 0.125


def test_recorded_observations_are_named_by_their_row() -> None:
    observations: NDArray[np.float32] = np.arange(600, dtype=np.float32)[:, None] % 4
    steps = ask_both(TargetPolicy("float"), FixedPolicy(0), observations)
    found = worst_states(steps)
    assert steps.seeds is None
    assert found.disagreeing == 0.75
    assert [(state["seed"], state["step"]) for state in found.worst] == [(None, n) for n in (1, 2, 3, 5, 6)]
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["kind"] == "disagreement"
    with pytest.raises(DataError, match="no recorded observations"):
        ask_both(TargetPolicy("float"), FixedPolicy(0), observations[:0])
