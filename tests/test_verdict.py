"""The verdict: its rule as a table, then policies whose loss is known by construction."""

import json
from typing import Any

import gymnasium
import numpy as np
import pytest

from edgeqrl.errors import AgentError, DataError, UsageError
from edgeqrl.rollout import RandomPolicy, rollout
from edgeqrl.validate.agreement import AgreementCounter, ShadowedPolicy
from edgeqrl.validate.statistics import Interval
from edgeqrl.validate.verdict import (
    MIN_EPISODES_FOR_VERDICT,
    Verdict,
    agreement_on,
    decide,
    default_margin,
    parse_margin,
    require_disjoint,
    validate,
)
from tests.toys import (
    ChaosEnv,
    FixedPolicy,
    InfoMaskEnv,
    IntegerPolicy,
    RecurrentPolicy,
    TargetEnv,
    TargetPolicy,
)


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("float_low", "drop", "num_episodes", "expected"),
    [
        (100, (-1, 1), 200, Verdict.PASS),
        (100, (-1, 5), 200, Verdict.PASS),  # the margin itself is allowed
        (100, (0, 0), 10, Verdict.PASS),
        (100, (0, 0), 9, Verdict.INCONCLUSIVE),
        (100, (90, 99), 9, Verdict.INCONCLUSIVE),
        (100, (-1, 5.1), 200, Verdict.INCONCLUSIVE),
        (100, (5, 9), 200, Verdict.INCONCLUSIVE),
        (100, (5.1, 9), 200, Verdict.FAIL),
        (100, (-9, -7), 200, Verdict.PASS),
        (20, (0, 0), 200, Verdict.NOTHING_TO_PRESERVE),  # random is 20
        (19, (90, 99), 200, Verdict.NOTHING_TO_PRESERVE),
        (19, (90, 99), 2, Verdict.NOTHING_TO_PRESERVE),
        (20.1, (90, 99), 200, Verdict.FAIL),
    ],
)
def test_rule(float_low: float, drop: tuple[float, float], num_episodes: int, expected: Verdict) -> None:
    assert decide(interval(float_low, 110), 20.0, interval(*drop), 5.0, num_episodes) is expected


@pytest.mark.parametrize(
    ("float_mean", "random_mean", "expected"),
    [
        (500, 22, 23.9),
        (-150, -1195, 7.5),
        (250, -180, 12.5),
        (-80, -500, 4.0),
        (0, -5, 0.0),
    ],
)
def test_default_margin_is_5_percent_of_the_smaller_scale(
    float_mean: float, random_mean: float, expected: float
) -> None:
    assert default_margin(float_mean, random_mean) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        (None, 5.0),
        ("5%", 5.0),
        (" 10 % ", 10.0),
        ("0%", 0.0),
        ("7.5", 7.5),
        (12, 12.0),
        (0.0, 0.0),
        ("1e1", 10),
    ],
)
def test_margin_is_a_percentage_or_a_number(margin: Any, expected: float) -> None:
    assert parse_margin(margin)(100.0, 0.0) == pytest.approx(expected)


@pytest.mark.parametrize("margin", ["", "%", "five", "-1", -0.5, "nan", "inf%", "5%%", float("inf")])
def test_margin_that_cannot_be_is_refused_before_anything_is_played(margin: Any) -> None:
    with pytest.raises(UsageError, match="must be a number in return units or a percentage"):
        validate(FixedPolicy(0), FixedPolicy(0), no_environment, margin=margin)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_episodes": 0}, "at least 2 episodes, got 0"),
        ({"num_episodes": 1}, "at least 2 episodes, got 1"),
        ({"alpha": 0.0}, "alpha must lie between"),
        ({"alpha": 0.5}, "alpha must lie between"),
        ({"other_seeds": [9, 20_199]}, "Seed 20199 serves both validation and calibration or selection"),
        ({"other_seeds": [1_020_000]}, "Seed 1020000 serves both random baseline and"),
        ({"num_episodes": 1_000_001}, "Seed 1020000 serves both validation and random baseline"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_played(options: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        validate(FixedPolicy(0), FixedPolicy(0), no_environment, **options)


def no_environment() -> Any:
    pytest.fail("an environment was made")


def test_seeds_may_repeat_within_a_group_but_not_across() -> None:
    require_disjoint({"a": [1, 1, 2], "b": range(3, 5), "c": []})
    with pytest.raises(UsageError, match="Seed 2 serves both a and c"):
        require_disjoint({"a": [1, 2], "b": [3], "c": np.array([2])})


# TargetEnv pays 1 for each of 20 right answers: a policy that is wrong every k-th time loses 20 // k.


@pytest.mark.parametrize(
    ("wrong_every", "drop", "verdict"),
    [(0, 0.0, Verdict.PASS), (21, 0.0, Verdict.PASS), (20, 1.0, Verdict.FAIL), (2, 10.0, Verdict.FAIL)],
)
def test_known_loss_is_found_and_judged(wrong_every: int, drop: float, verdict: Verdict) -> None:
    report = validate(
        TargetPolicy("keras"), TargetPolicy("host-c", wrong_every), TargetEnv, num_episodes=30, margin=0.5
    )
    assert report.verdict is verdict
    assert report.return_drop.mean == pytest.approx(drop)
    assert report.agreement.action_agreement == pytest.approx(1 - drop / 20)
    assert report.agreement.action_error is None
    assert report.agreement.num_steps == 600
    assert report.correlation == pytest.approx(1.0)
    assert report.random_return.mean == pytest.approx(5.0, abs=1.5)
    assert str(report.sentence).startswith(f"{verdict}: over 30 paired episodes")


def test_pairing_removes_what_the_seeds_have_in_common() -> None:
    report = validate(TargetPolicy("keras"), TargetPolicy("host-c", 20), TargetEnv, num_episodes=30)
    assert report.return_drop.high - report.return_drop.low < 1e-6
    assert report.float_return.high - report.float_return.low > 0.3


def test_default_margin_decides_without_options() -> None:
    report = validate(TargetPolicy("keras"), TargetPolicy("host-c", 20), TargetEnv, num_episodes=30)
    assert report.margin == pytest.approx(0.75, abs=0.1)  # 5 % of 20 - 5
    assert report.verdict is Verdict.FAIL


class Erratic(TargetPolicy):
    """Right in most episodes, wrong in all of a few."""

    def act(self, observations: Any, state: Any, *, episode_start: Any, **others: Any) -> Any:
        rng = others["rng"]
        drawn = np.array([generator.random() < 0.1 for generator in rng])
        is_bad = drawn if state is None else np.where(episode_start, drawn, state[0])
        target = observations[:, 0].astype(np.int64)
        return np.where(is_bad, (target + 1) % 4, target), (is_bad,)


def test_few_catastrophes_do_not_decide() -> None:
    report = validate(TargetPolicy("keras"), Erratic("host-c"), TargetEnv, num_episodes=40, margin=2.0)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "play more episodes" in report.sentence
    worst = report.worst_pair
    assert worst["float_return"] - worst["quantized_return"] == pytest.approx(20.0)
    assert worst["seed"] in report.seeds


def test_float_policy_no_better_than_random_leaves_nothing_to_preserve() -> None:
    space = TargetEnv().action_space
    report = validate(RandomPolicy(space), RandomPolicy(space), TargetEnv, num_episodes=30)
    assert report.verdict is Verdict.NOTHING_TO_PRESERVE
    assert report.sentence.startswith("NOTHING TO PRESERVE: the float policy returns")
    assert report.agreement.action_agreement == 1.0  # both draw the same numbers


def test_few_episodes_never_pass() -> None:
    report = validate(TargetPolicy("keras"), TargetPolicy("host-c"), TargetEnv, num_episodes=9)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert f"play at least {MIN_EPISODES_FOR_VERDICT}" in report.sentence


@pytest.mark.parametrize(
    ("quantized", "sentence"),
    [
        (TargetPolicy("host-c"), "it loses nothing (95 % confidence), within the margin of 0.5."),
        (TargetPolicy("host-c", 20), "it loses at least 1 (95 % confidence), more than the margin of 0.5."),
    ],
)
def test_sentence_says_what_was_found(quantized: Any, sentence: str) -> None:
    report = validate(TargetPolicy("keras"), quantized, TargetEnv, num_episodes=30, margin=0.5)
    assert sentence in report.sentence


def test_report_has_the_glossarys_names_and_is_plain_json() -> None:
    report = validate(
        TargetPolicy("keras"), TargetPolicy("host-c", 5), TargetEnv, num_episodes=12, seed=700, alpha=0.1
    )
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["verdict"] == "FAIL"
    for name in ("float_return", "quantized_return", "random_return", "return_drop"):
        assert data[name]["low"] <= data[name]["mean"] <= data[name]["high"]
    assert data["return_drop"]["confidence"] == pytest.approx(0.8)
    assert data["float_return"]["confidence"] == 0.95
    assert (data["backend"], data["float_backend"]) == ("host-c", "keras")
    assert (data["episodes"], data["seeds"]) == (12, {"first": 700, "count": 12})
    assert data["action_agreement"] == pytest.approx(0.8)
    detail = data["episodes_detail"]
    assert detail["seed"] == list(range(700, 712))
    assert {len(column) for column in detail.values()} == {12}
    assert set(detail["float_length"]) == {20}
    drops = np.subtract(detail["float_return"], detail["quantized_return"])
    assert drops.mean() == pytest.approx(data["return_drop"]["mean"])
    assert data["alpha"] == 0.1


def test_validation_is_decided_by_its_seed() -> None:
    first, again = (
        validate(Erratic("keras"), Erratic("host-c"), TargetEnv, num_episodes=12).to_json() for _ in range(2)
    )
    assert first == again


def test_progress_runs_once_from_start_to_end() -> None:
    calls: list[tuple[int, int]] = []
    validate(
        TargetPolicy("keras"),
        TargetPolicy("host-c"),
        TargetEnv,
        num_episodes=12,
        progress=lambda *call: calls.append(call),
    )
    assert calls == [(done, 54) for done in range(1, 55)]


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
    assert data["action_agreement"] == 0.25
    assert data["observations"] == 600
    assert (data["backend"], data["float_backend"]) == ("fixed", "keras")
    assert data["sentence"].startswith("NO VERDICT: on 600 recorded observations")
    assert "no return was measured" in data["sentence"]
    assert "return_drop" not in data


def test_no_recorded_observations_are_refused() -> None:
    with pytest.raises(DataError, match="no recorded observations"):
        agreement_on(FixedPolicy(0), FixedPolicy(0), np.zeros((0, 3), np.float32))
