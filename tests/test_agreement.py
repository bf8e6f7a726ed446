"""Agreement: counted by hand, beside a leader whose episodes stay its own, and on recordings."""

import json
from typing import Any

import gymnasium
import numpy as np
import pytest

from edgeqrl.errors import AgentError, DataError
from edgeqrl.rollout import RandomPolicy, rollout
from edgeqrl.validate.agreement import AgreementCounter, ShadowedPolicy
from edgeqrl.validate.verdict import (
    agreement_on,
)
from tests.toys import (
    ChaosEnv,
    FixedPolicy,
    InfoMaskEnv,
    IntegerPolicy,
    RecurrentPolicy,
    TargetPolicy,
)

# Shadowing: what the follower would do, without touching the leader.


@pytest.mark.parametrize(
    ("leader", "follower", "agreement"),
    [
        (RecurrentPolicy(), RecurrentPolicy(), 1.0),
        (RecurrentPolicy(), IntegerPolicy(3, 5), None),
        (IntegerPolicy(3, 5), RecurrentPolicy(), None),
        (IntegerPolicy(3, 5), IntegerPolicy(3, 5), 1.0),
    ],
)
def test_shadowing_leaves_the_leaders_episodes_alone(leader: Any, follower: Any, agreement: Any) -> None:
    counter = AgreementCounter(ChaosEnv().action_space)
    shadowed = rollout(
        ShadowedPolicy(leader, follower, counter), ChaosEnv, range(11), num_envs=3, keep_actions=True
    )
    bare = rollout(leader, ChaosEnv, range(11), num_envs=3, keep_actions=True)
    assert shadowed.episode_returns.tolist() == bare.episode_returns.tolist()
    found = counter.result()
    assert found.num_steps == bare.episode_lengths.sum()
    assert found.action_agreement == agreement if agreement else 0.0 < found.action_agreement < 1.0


def test_follower_remembers_and_draws_as_if_it_had_been_there() -> None:
    def answers(num_envs: int) -> float:
        counter = AgreementCounter(ChaosEnv().action_space)
        policy = ShadowedPolicy(IntegerPolicy(3, 5), RecurrentPolicy(), counter)
        rollout(policy, ChaosEnv, range(11), num_envs=num_envs)
        return counter.result().action_agreement

    assert answers(1) == answers(4) == answers(11)


def test_follower_gets_the_masks() -> None:
    counter = AgreementCounter(ChaosEnv().action_space)
    space = ChaosEnv().action_space
    rollout(ShadowedPolicy(RandomPolicy(space), RandomPolicy(space), counter), InfoMaskEnv, range(5))
    assert counter.result().action_agreement == 1.0


BOX = gymnasium.spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32))


@pytest.mark.parametrize(
    ("space", "ours", "theirs", "agreement", "error"),
    [
        (None, [1, 2, 3, 4], [1, 2, 0, 4], 0.75, None),
        (gymnasium.spaces.Discrete(5), [1, 2], [2, 1], 0.0, None),
        (BOX, [[0.5, 0.0]], [[0.5, 0.0]], 1.0, 0.0),
        (BOX, [[0.5, 0.0]], [[0.519, 0.0]], 1.0, 0.0095),  # 1 % of the range 2 is 0.02
        (BOX, [[0.5, 0.0]], [[0.521, 0.0]], 0.0, 0.0105),
        (BOX, [[0.5, 50.0]], [[0.5, 50.4]], 1.0, 0.2),  # 1 % of 50 is 0.5
        (BOX, [[0.5, 50.0]], [[0.5, 50.6]], 0.0, 0.3),
        (BOX, [[0.5, 0.1]], [[0.5, 0.109]], 1.0, 0.0045),  # 1 % of 1 is 0.01
        (None, [[0.5, 0.1], [0.0, 0.0]], [[0.5, 0.109], [1.0, 0.0]], 0.5, 0.25225),
    ],
)
def test_agreement_by_hand(space: Any, ours: Any, theirs: Any, agreement: float, error: float | None) -> None:
    counter = AgreementCounter(space)
    counter.add(np.array(ours), np.array(theirs))
    found = counter.result()
    assert found.action_agreement == agreement
    assert found.action_error == (None if error is None else pytest.approx(error))


def test_actions_of_different_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="different shapes"):
        AgreementCounter().add(np.zeros((2, 1)), np.zeros(2))


def test_actions_that_are_not_finite_are_refused() -> None:
    with pytest.raises(AgentError, match="not finite"):
        AgreementCounter(BOX).add(np.zeros((1, 2)), np.array([[0.0, np.nan]]))


# Recorded observations.


def test_recorded_observations_give_agreement_and_no_verdict() -> None:
    observations = np.arange(600, dtype=np.float32)[:, None] % 4
    report = agreement_on(TargetPolicy("keras"), FixedPolicy(1), observations)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["verdict"] is None
    assert data["likeness"] == {"action_agreement": 0.25, "action_error": None, "num_steps": 600}
    assert (data["backend"], data["float_backend"]) == ("fixed", "keras")
    assert data["sentence"].startswith("NO VERDICT: on 600 recorded observations")
    assert "no return was measured" in data["sentence"]
    assert "return_drop" not in data


def test_no_recorded_observations_are_refused() -> None:
    with pytest.raises(DataError, match="no recorded observations"):
        agreement_on(FixedPolicy(0), FixedPolicy(0), np.zeros((0, 3), np.float32))
