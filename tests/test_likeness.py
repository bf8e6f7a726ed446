"""Likeness of two policies: each measure by hand, what it must not depend on, then whole rollouts."""

import json
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeqrl.errors import AgentError
from edgeqrl.interfaces import ScoringPolicy
from edgeqrl.rollout import RandomPolicy, Rollout, rollout
from edgeqrl.validate.agreement import Agreement, AgreementCounter, ShadowedPolicy, Spread
from edgeqrl.validate.likeness import (
    MAX_FEATURES,
    Divergence,
    Regret,
    divergence_of,
    kl_divergence,
    likeness,
    regret_of,
    visitation_of,
)
from tests.toys import BoxChaosEnv, ChaosEnv, FixedPolicy, TargetEnv, TargetPolicy

SEEDS = st.integers(0, 2**32 - 1)


def rows(*values: Any) -> np.ndarray:
    return np.array(values, np.float32)


# Regret.


@pytest.mark.parametrize(
    ("wanted", "found", "regret"),
    [
        (rows([1, 3, 2]), rows([0, 9, 0]), Regret(0, 0, 0, 1)),
        (rows([1, 3, 2]), rows([9, 0, 0]), Regret(2, 2, 2, 1)),
        (rows([1, 3, 2]), rows([0, 0, 9]), Regret(1, 1, 1, 1)),
        (rows([1, 3, 2]), rows([5, 5, 5]), Regret(2, 2, 2, 1)),  # the lowest index wins a tie
        (rows([3, 3, 2]), rows([0, 1, 0]), Regret(0, 0, 0, 0)),  # as good is no regret
        (
            rows([0, 1], [0, 1], [0, 4], [0, 9]),
            rows([1, 0], [0, 1], [0, 1], [0, 1]),
            Regret(0.25, pytest.approx(0.85), 1, 2.5),
        ),
        (rows([7], [8]), rows([0], [0]), Regret(0, 0, 0, 0)),
    ],
)
def test_regret_by_hand(wanted: Any, found: Any, regret: Regret) -> None:
    assert regret_of(wanted, found) == regret


def test_regret_of_close_float32_outputs_is_their_difference() -> None:
    wanted = rows([99.75, 100.0])
    assert regret_of(wanted, rows([1, 0])).mean == 0.25


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 20), st.integers(1, 6))
def test_regret_is_never_negative_and_0_for_equal_choices(seed: int, count: int, actions: int) -> None:
    rng = np.random.default_rng(seed)
    wanted, found = rng.normal(0.0, 3.0, (2, count, actions)).astype(np.float32)
    regret = regret_of(wanted, found)
    largest = float((wanted.max(axis=1) - wanted.min(axis=1)).max())
    assert 0.0 <= regret.mean <= regret.max <= largest + 1e-6
    assert 0.0 <= regret.p95 <= regret.max
    assert regret.gap >= 0.0
    monotone = np.exp(wanted) + rng.normal(0.0, 100.0, (count, 1))
    same = regret_of(wanted.astype(np.float64), monotone)
    assert (same.mean, same.max, same.gap) == (0.0, 0.0, regret.gap)
    order = rng.permutation(actions)
    assert regret_of(wanted[:, order], found[:, order]) == regret  # no ties: drawn from a continuum


def test_regret_of_several_choices_is_their_sum() -> None:
    wanted, found = rows([1, 3, 2, 0, 5]), rows([9, 0, 0, 1, 0])
    regret = regret_of(wanted, found, (3, 2))
    assert (regret.mean, regret.gap) == (2.0 + 5.0, 1.0)


@pytest.mark.parametrize(
    ("space", "size"), [(MultiDiscrete([2, 3, 4]), 9), (MultiBinary(3), 3), (Discrete(4), 4)], ids=str
)
def test_outputs_of_every_discrete_space_are_compared_choice_by_choice(space: Any, size: int) -> None:
    played = rollout(
        RandomPolicy(space), lambda: choosing(space), range(4), keep_observations=True, keep_actions=True
    )
    agreement = Agreement(1.0, None, 1)
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(3, size))

    def outputs(observations: Any) -> Any:
        return (observations @ weights).astype(np.float32)

    same = likeness(played, played, agreement, space, float_outputs=outputs, quantized_outputs=outputs)
    assert same.regret is not None
    assert same.kl is not None
    assert (same.regret.max, same.regret.gap > 0.0) == (0.0, True)
    assert same.kl.max < 1e-9
    opposite = likeness(
        played, played, agreement, space, float_outputs=outputs, quantized_outputs=lambda o: -outputs(o)
    )
    assert opposite.regret is not None
    assert opposite.kl is not None
    assert opposite.regret.mean >= opposite.regret.gap
    assert opposite.kl.mean > 0.01
    assert opposite.chatter is not None
    other = likeness(
        played, played, agreement, space, float_outputs=lambda o: outputs(o)[:, :1], quantized_outputs=outputs
    )
    assert (other.regret, other.kl) == ((None, None) if size != 1 else (same.regret, same.kl))


def choosing(space: Any) -> Any:
    """The chaos with another action space."""
    env = ChaosEnv()
    env.action_space = space
    step = env.step
    env.step = lambda action: step(int(np.sum(action)))  # type: ignore[method-assign]
    return env


def test_switches_are_compared_as_choices_of_two() -> None:
    space = MultiBinary(2)
    played = rollout(
        RandomPolicy(space), lambda: choosing(space), [1], keep_observations=True, keep_actions=True
    )
    found = likeness(
        played,
        played,
        Agreement(1.0, None, 1),
        space,
        float_outputs=lambda o: np.tile(rows([1.5, -2.0]), (len(o), 1)),
        quantized_outputs=lambda o: np.tile(rows([-1.0, -1.0]), (len(o), 1)),
    )
    assert found.regret == Regret(1.5, 1.5, 1.5, 1.5)


def test_parts_that_are_visited_are_compared_one_after_another() -> None:
    episodes = [{"a": np.zeros((5, 2), np.float32), "b": np.arange(5, dtype=np.int32)}] * 2
    moved = [{"a": np.zeros((4, 2), np.float32), "b": np.arange(4, dtype=np.int32) + 10}] * 2
    shifts = visitation_of(episodes, moved)
    assert [shift.index for shift in shifts] == [2, 0, 1]
    assert shifts[0].distance > 5.0
    assert shifts[1].distance == 0.0


# KL.

LOG = np.log


@pytest.mark.parametrize(
    ("wanted", "found", "nats"),
    [
        (rows([0, 0]), rows([0, 0]), 0.0),
        (rows([5, 5]), rows([-3, -3]), 0.0),
        (rows([0, LOG(3)]), rows([0, 0]), 0.25 * LOG(0.5) + 0.75 * LOG(1.5)),
        (rows([0, 0]), rows([LOG(3), 0]), 0.5 * LOG(2 / 3) + 0.5 * LOG(2)),
        (rows([0.25, 0.75]), rows([0, 0]), 0.25 * LOG(0.5) + 0.75 * LOG(1.5)),  # probabilities against logits
        (rows([0.25, 0.75]), rows([0.5, 0.5]), 0.25 * LOG(0.5) + 0.75 * LOG(1.5)),
        (rows([0.25, 0.75]), rows([0.25, 0.75]), 0.0),
        (rows([0.25, 0.75]), rows([64 / 256, 191 / 256]), None),  # an int8 softmax ends at 255/256
        (rows([0, 1]), rows([0, 0]), LOG(2)),
        (rows([0.5, 0.5]), rows([0, 1]), 0.5 * LOG(1.5 / 2) + 0.5 * LOG(1.5)),  # 0 counts as 1/2: 1/3, 2/3
        (rows([3]), rows([9]), 0.0),
        (rows([0, 1000]), rows([1000, 0]), 1000.0),
    ],
)
def test_kl_by_hand(wanted: Any, found: Any, nats: float | None) -> None:
    (answer,) = kl_divergence(wanted, found)
    if nats is None:
        assert 0.0 < answer < 1e-5
    else:
        assert answer == pytest.approx(nats, abs=1e-6)


def test_one_row_that_is_no_distribution_makes_all_logits() -> None:
    wanted = rows([0.25, 0.75], [0.25, 0.5])
    first, _ = kl_divergence(wanted, rows([0.25, 0.75], [0.25, 0.5]))
    assert first == 0.0
    first, _ = kl_divergence(wanted, rows([0.0, 0.5], [0.25, 0.5]))
    assert first == pytest.approx(0.0, abs=1e-7)  # logits: the same but for a shift


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 20), st.integers(1, 6), st.floats(0.01, 30.0))
def test_kl_is_never_negative_and_knows_no_shift(seed: int, count: int, actions: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    wanted, found = rng.normal(0.0, size, (2, count, actions))
    wanted[0] -= 5.0 * size + 1.0  # never a distribution by chance
    nats = kl_divergence(wanted, found)
    assert nats.shape == (count,)
    assert np.isfinite(nats).all()
    assert (nats >= 0.0).all()
    shifted = kl_divergence(
        wanted - 7.0 * np.abs(rng.normal(0.0, 1.0, (count, 1))), found + rng.normal(0.0, 5.0, (count, 1))
    )
    np.testing.assert_allclose(shifted, nats, atol=1e-9 * size, rtol=1e-6)
    assert kl_divergence(wanted, wanted - 3.0).max() < 1e-9
    order = rng.permutation(actions)
    np.testing.assert_allclose(kl_divergence(wanted[:, order], found[:, order]), nats, rtol=1e-9, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(2, 6), st.floats(0.01, 3.0))
def test_probabilities_and_their_logits_are_the_same_policy(seed: int, actions: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    logits, others = rng.normal(0.0, size, (2, 10, actions))
    centred = others - others.mean(axis=1, keepdims=True)
    probabilities, other_probabilities = (
        np.exp(values) / np.exp(values).sum(axis=1, keepdims=True) for values in (logits, others)
    )
    nats = kl_divergence(logits - 50.0, others)
    np.testing.assert_allclose(kl_divergence(probabilities, centred), nats, atol=1e-9)
    np.testing.assert_allclose(kl_divergence(probabilities, other_probabilities), nats, atol=1e-9)
    on_grid = np.clip(np.rint(other_probabilities * 256), 0, 255) / 256
    assert np.isfinite(kl_divergence(probabilities, on_grid)).all()


# Divergence.


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([None, None], Divergence(1.0, None)),
        ([0, None], Divergence(0.5, 0.0)),
        ([3, 10, None, 4], Divergence(0.25, 4.0)),
        ([3, 10], Divergence(0.0, 6.5)),
    ],
)
def test_divergence_by_hand(steps: list[int | None], expected: Divergence) -> None:
    assert divergence_of(steps) == expected


# Visitation.


def test_visitation_by_hand() -> None:
    ours = [rows([0, 5, 1], [2, 5, 1]), rows([2, 5, 1], [4, 5, 1])]  # std 2 ** 0.5, 0, 0
    theirs = [rows([1, 5, 1]), rows([3, 5, 4], [5, 5, 1])]
    first, second, third = visitation_of(ours, theirs)
    # Feature 2 never moves in float: 1 1 1 1 against 1 4 1 is a third of 3, in units of all seven's std.
    assert (first.index, second.index, third.index) == (2, 0, 1)
    assert first.distance == pytest.approx(1.0 / np.std([1, 1, 1, 1, 1, 4, 1]))
    # The quantiles of 0 2 2 4 and of 1 3 5, in twelfths.
    quantiles = np.abs(np.repeat([0, 2, 2, 4], 3) - np.repeat([1, 3, 5], 4)).mean()
    assert second.distance == pytest.approx(quantiles / 2**0.5)
    assert second.noise == pytest.approx(2.0 / 2**0.5)  # 0 2 against 2 4
    assert (third.distance, third.noise) == (0.0, 0.0)


def test_one_episode_has_no_noise_to_compare_with() -> None:
    (shift,) = visitation_of([rows([0], [1])], [rows([0], [1])])
    assert (shift.distance, shift.noise) == (0.0, None)


def test_a_constant_of_rounded_mean_is_constant() -> None:
    ours, theirs = np.full((1000, 1), 0.1, np.float32), np.full((1000, 1), 0.1, np.float32)
    theirs[0] = np.nextafter(np.float32(0.1), np.float32(1))
    (shift,) = visitation_of([ours], [theirs])
    assert shift.distance < 0.1


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 4), st.floats(0.01, 100.0), st.floats(-50.0, 50.0))
def test_visitation_has_no_units_and_no_order(seed: int, size: int, scale: float, offset: float) -> None:
    rng = np.random.default_rng(seed)

    def episodes() -> list[np.ndarray]:
        return [rng.normal(0.0, 1.0, (length, size)) for length in rng.integers(1, 9, 4)]

    ours, theirs = episodes(), episodes()
    found = visitation_of(ours, theirs)
    assert [shift.distance for shift in found] == sorted((s.distance for s in found), reverse=True)
    assert sorted(shift.index for shift in found) == list(range(size))
    moved = visitation_of([e * scale + offset for e in ours], [e * scale + offset for e in theirs])
    by_index = {shift.index: shift for shift in moved}
    for shift in found:
        assert shift.distance >= 0.0
        assert by_index[shift.index].distance == pytest.approx(shift.distance, rel=1e-6, abs=1e-9)
        assert by_index[shift.index].noise == pytest.approx(shift.noise, rel=1e-6, abs=1e-9)
    shuffled = visitation_of(ours, [rng.permutation(episode) for episode in theirs][::-1])
    assert [s.distance for s in shuffled] == pytest.approx([s.distance for s in found])
    assert all(shift.distance == 0.0 for shift in visitation_of(ours, ours))


def test_a_shift_of_one_standard_deviation_is_1_and_noise_far_below() -> None:
    rng = np.random.default_rng(0)
    ours = [rng.normal(3.0, 0.2, (100, 1)).astype(np.float32) for _ in range(20)]
    (shift,) = visitation_of(ours, [episode + np.float32(0.2) for episode in ours])
    assert shift.distance == pytest.approx(1.0, abs=0.03)
    assert shift.noise is not None
    assert shift.noise < 0.2


def test_of_many_features_the_most_different_are_told() -> None:
    rng = np.random.default_rng(0)
    ours = [rng.normal(0.0, 1.0, (200, 10, 20)).astype(np.float32) for _ in range(2)]
    theirs = [episode.copy() for episode in ours]
    for index in range(0, 200, 4):
        for episode in theirs:
            episode.reshape(200, 200)[:, index] += 1.0 + index / 100
    found = visitation_of(ours, theirs)
    assert len(found) == MAX_FEATURES
    assert {shift.index for shift in found[:50]} == set(range(0, 200, 4))
    by_index = {shift.index: shift.distance for shift in found}
    for index in range(0, 200, 4):
        assert by_index[index] == pytest.approx(1.0 + index / 100, rel=0.15)
    assert found[-1].distance == 0.0


# Whole episodes.


class Scores:
    """Outputs whose best is the observed target; `wrong` of four targets are mistaken."""

    def __init__(self, wrong: int = 0) -> None:
        self.wrong = wrong

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        target = observations[:, 0].astype(np.int64)
        chosen = np.where(target < self.wrong, (target + 1) % 4, target)
        return (np.eye(4)[chosen] * 3.0).astype(np.float32)


def played(policy: Any, make_env: Any, count: int = 6) -> Rollout:
    return rollout(policy, make_env, range(count), keep_observations=True, keep_actions=True)


def shadowed(leader: Any, follower: Any, make_env: Any, count: int = 6) -> Agreement:
    counter = AgreementCounter(make_env().action_space)
    rollout(ShadowedPolicy(leader, follower, counter), make_env, range(count))
    return counter.result()


def test_likeness_of_discrete_policies() -> None:
    space = TargetEnv.action_space
    ours, theirs = TargetPolicy("keras"), TargetPolicy("host-c", 5)
    found = likeness(
        played(ours, TargetEnv),
        played(theirs, TargetEnv),
        shadowed(ours, theirs, TargetEnv),
        space,
        float_outputs=Scores(),
        quantized_outputs=Scores(wrong=1),
    )
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (data["num_episodes"], data["num_steps"]) == (6, 120)
    assert (data["action_agreement"], data["action_error"]) == (0.8, None)
    assert data["action_error_by_dimension"] is None
    assert data["divergence"] == {"never": 0.0, "median_step": 4.0}
    share = float(np.mean(np.concatenate(played(ours, TargetEnv).observations or ()) == 0.0))
    assert 0.1 < share < 0.4
    assert data["regret"] == {"mean": pytest.approx(3 * share), "p95": 3.0, "max": 3.0, "gap": 3.0}
    assert data["kl"]["max"] == pytest.approx(3.0 * (np.exp(3.0) - 1) / (np.exp(3.0) + 3))
    assert data["kl"]["mean"] == pytest.approx(share * data["kl"]["max"])
    assert data["chatter"]["float"]["rate"] == pytest.approx(0.75, abs=0.15)
    assert data["chatter"]["float"]["sign_flips"] is None
    assert [shift["index"] for shift in data["visitation"]] == [0]
    assert data["visitation"][0]["distance"] == 0.0  # the targets do not depend on actions


@pytest.mark.parametrize(("ours", "theirs"), [(None, None), (Scores(), None), (None, Scores())])
def test_without_both_policies_outputs_there_is_no_regret(ours: Any, theirs: Any) -> None:
    policy = TargetPolicy("keras")
    episodes = played(policy, TargetEnv)
    found = likeness(
        episodes,
        episodes,
        shadowed(policy, policy, TargetEnv),
        TargetEnv.action_space,
        float_outputs=ours,
        quantized_outputs=theirs,
    )
    assert (found.regret, found.kl) == (None, None)
    assert found.divergence == Divergence(1.0, None)
    assert found.chatter is not None
    assert found.chatter["float"] == found.chatter["quantized"]


def test_likeness_of_continuous_policies() -> None:
    space = BoxChaosEnv().action_space
    ours, theirs = FixedPolicy([0.5, -2.0]), RandomPolicy(space)
    found = likeness(
        played(ours, BoxChaosEnv),
        played(theirs, BoxChaosEnv),
        shadowed(ours, theirs, BoxChaosEnv),
        space,
        float_outputs=lambda observations: pytest.fail("only discrete choices have a regret"),
        quantized_outputs=lambda observations: pytest.fail("only discrete choices have a regret"),
    )
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (data["regret"], data["kl"]) == (None, None)
    assert data["chatter"]["float"] == {"rate": 0.0, "jerk": 0.0, "sign_flips": 0.0}
    assert 0.2 < data["chatter"]["quantized"]["rate"] < 0.45  # two uniform draws are 1/3 apart
    first, second = data["action_error_by_dimension"]
    assert (first["mean"] + second["mean"]) / 2 == pytest.approx(data["action_error"])
    assert first["max"] <= 2.5 < second["max"] <= 4.0
    assert first["mean"] < first["p95"] <= first["max"]
    assert len(data["visitation"]) == 3
    assert all(shift["distance"] > 0.0 < shift["noise"] for shift in data["visitation"])


def test_actions_without_bounds_have_no_chatter() -> None:
    policy = FixedPolicy([0.5, -2.0])
    episodes = played(policy, BoxChaosEnv)
    agreement = shadowed(policy, policy, BoxChaosEnv)
    found = likeness(episodes, episodes, agreement, Box(-np.inf, np.inf, (2,)))
    assert found.chatter is None
    assert found.to_json()["chatter"] is None


def test_episodes_of_other_seeds_are_no_pairs() -> None:
    policy = TargetPolicy("keras")
    agreement = shadowed(policy, policy, TargetEnv)
    with pytest.raises(ValueError, match="not paired"):
        likeness(played(policy, TargetEnv, 3), played(policy, TargetEnv, 4), agreement, Discrete(4))


def test_outputs_that_are_not_finite_are_refused() -> None:
    policy = TargetPolicy("keras")
    episodes = played(policy, TargetEnv)
    agreement = shadowed(policy, policy, TargetEnv)
    with pytest.raises(AgentError, match="not finite"):
        likeness(
            episodes,
            episodes,
            agreement,
            Discrete(4),
            float_outputs=lambda rows: np.full((len(rows), 4), np.nan, np.float32),
            quantized_outputs=Scores(),
        )


def test_errors_are_counted_by_dimension() -> None:
    counter = AgreementCounter(Box(-1.0, 1.0, (2, 1), np.float32))
    counter.add(np.zeros((3, 2, 1)), np.array([[[0.5], [0]], [[-0.25], [0]], [[0], [0]]]))
    counter.add(np.zeros((1, 2, 1)), np.array([[[0.25], [1.0]]]))
    first, second = counter.result().error_by_dimension or ()
    assert first == Spread(0.25, pytest.approx(0.4625), 0.5)
    assert second == Spread(0.25, pytest.approx(0.85), 1.0)


def test_a_policy_that_tells_its_outputs_is_a_scoring_policy() -> None:
    class Telling(FixedPolicy):
        def outputs(self, observations: Any) -> Any:
            return np.zeros((len(observations), 2), np.float32)

    assert isinstance(Telling(0), ScoringPolicy)
    assert not isinstance(FixedPolicy(0), ScoringPolicy)
