"""Disturbances are what they say, the same for both policies, and touch nothing but the observation."""

import json
from collections import defaultdict
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeqrl.diagnose.robustness import (
    Delay,
    DisturbedPolicy,
    DroppedObservations,
    SensorNoise,
    disturbances,
    robustness,
)
from edgeqrl.errors import UsageError
from edgeqrl.rollout import RandomPolicy, rollout
from tests.toys import (
    BoxChaosEnv,
    ChaosEnv,
    InfoMaskEnv,
    IntegerPolicy,
    RecurrentPolicy,
    TargetEnv,
    TargetPolicy,
)

CALIBRATION = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
EVERY = disturbances(CALIBRATION)
NAMES = [f"{found.condition}-{found.level}" for found in EVERY]


class ClockEnv(gymnasium.Env[Any, Any]):
    """Observes [step, 100 * step, 7] whatever one does; an episode lasts `length` steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(5)

    def __init__(self, length: int = 12) -> None:
        self.length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), {}

    def step(self, action: int) -> Any:
        self.count += 1
        return self.observe(), 1.0, self.count == self.length, False, {}

    def observe(self) -> Any:
        return np.array([self.count, 100 * self.count, 7], np.float32)


class Witness:
    """Acts as another policy does, and notes what it saw and drew, an episode's seed for a key."""

    name = "witness"

    def __init__(self, policy: Any = None, *, draws: int = 0) -> None:
        self.policy, self.draws = policy or IntegerPolicy(3, 5), draws
        self.saw: dict[int, list[Any]] = defaultdict(list)
        self.drew: dict[int, list[Any]] = defaultdict(list)

    def act(self, observations: Any, state: Any, *, rng: Any, **others: Any) -> Any:
        for row, generator in zip(observations, rng, strict=True):
            key = generator.bit_generator.seed_seq.entropy
            self.saw[key].append(row.copy())
            self.drew[key].append(generator.random(self.draws).tolist())
            if self.draws:
                self.drew[key].append(generator.spawn(1)[0].random())
        answer = self.policy.act(observations, state, rng=rng, **others)
        observations[:] = 9e9  # what a policy does to its input is nobody's business
        return answer


def seen(disturbance: Any, seeds: Any = (3,), *, length: int = 12, num_envs: int = 4) -> dict[int, Any]:
    """Return what is seen of ClockEnv: [T, 3] by seed."""
    witness = Witness()
    rollout(DisturbedPolicy(witness, disturbance), lambda: ClockEnv(length), seeds, num_envs=num_envs)
    return {seed: np.array(rows) for seed, rows in witness.saw.items()}


@pytest.mark.parametrize(
    ("disturbance", "steps"),
    [
        (Delay(1), [0, 0, 1, 2, 3, 4]),
        (Delay(2), [0, 0, 0, 1, 2, 3]),
        (Delay(3), [0, 0, 0, 0, 1, 2]),
        (Delay(9), [0, 0, 0, 0, 0, 0]),
        (DroppedObservations(1.0), [0, 0, 0, 0, 0, 0]),
        (DroppedObservations(0.0), [0, 1, 2, 3, 4, 5]),
    ],
    ids=["delay-1", "delay-2", "delay-3", "delay-9", "all-lost", "none-lost"],
)
def test_step_of_the_observation_that_is_seen(disturbance: Any, steps: list[int]) -> None:
    # Five episodes in two rows: an episode sees nothing of the one that played in its row before.
    for rows in seen(disturbance, range(5), length=6, num_envs=2).values():
        assert rows[:, 0].tolist() == steps
        assert rows[:, 1].tolist() == [100 * step for step in steps]


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_observations_are_lost_as_often_as_said_and_the_last_received_is_held(level: float) -> None:
    episodes = seen(DroppedObservations(level), range(8), length=1000)
    steps = np.arange(1000)
    lost = []
    for rows in episodes.values():
        is_lost = rows[:, 0] != steps
        last_received = np.maximum.accumulate(np.where(is_lost, 0, steps))
        assert rows[:, 0].tolist() == last_received.tolist()
        assert not is_lost[0]
        lost.append(is_lost)
    assert np.mean(lost) == pytest.approx(level, abs=0.02)
    assert len({is_lost.tobytes() for is_lost in lost}) == len(episodes)


@pytest.mark.parametrize("level", [0.01, 0.1])
def test_noise_has_the_deviation_said_in_units_of_each_features_own(level: float) -> None:
    deviation = np.array([2.0, 50.0, 0.0])
    clean = seen(DroppedObservations(0.0), range(4), length=1000)
    noisy = seen(SensorNoise(level, deviation), range(4), length=1000)
    noise = np.concatenate([noisy[seed].astype(np.float64) - clean[seed] for seed in clean])
    assert noise.std(axis=0) == pytest.approx(level * deviation, rel=0.05)
    assert (np.abs(noise.mean(axis=0)) <= 0.1 * level * deviation).all()
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.05
    assert abs(np.corrcoef(noise[1:, 0], noise[:-1, 0])[0, 1]) < 0.05
    assert noise[0, 0] != noise[1000, 0]


def test_noise_is_scaled_by_the_calibration_observations() -> None:
    calibration = np.array([[0, 5, 7], [2, 5, 7], [4, 5, 7]], np.float32)
    noise = next(found for found in disturbances(calibration) if found.level == 0.1)
    by_hand = SensorNoise(0.1, np.array([np.sqrt(8 / 3), 0, 0]))
    assert np.array_equal(seen(noise)[3], seen(by_hand)[3])
    assert seen(noise)[3][:, 2].tolist() == [7.0] * 12


@pytest.mark.parametrize("disturbance", EVERY, ids=NAMES)
def test_two_policies_that_act_and_draw_differently_meet_the_same_disturbance(disturbance: Any) -> None:
    one, other = Witness(IntegerPolicy(3, 5)), Witness(RecurrentPolicy(), draws=3)
    for witness, num_envs in ((one, 64), (other, 2)):
        rollout(DisturbedPolicy(witness, disturbance), ClockEnv, range(5), num_envs=num_envs)
    assert {seed: np.array(rows).tolist() for seed, rows in one.saw.items()} == {
        seed: np.array(rows).tolist() for seed, rows in other.saw.items()
    }


@pytest.mark.parametrize("disturbance", EVERY, ids=NAMES)
def test_draws_of_the_inner_policy_are_those_of_the_undisturbed(disturbance: Any) -> None:
    alone, disturbed = Witness(draws=2), Witness(draws=2)
    rollout(alone, ClockEnv, range(4))
    rollout(DisturbedPolicy(disturbed, disturbance), ClockEnv, range(4), num_envs=3)
    assert alone.drew == disturbed.drew


def test_noise_repeats_neither_the_draws_of_the_environment_nor_those_of_the_policy() -> None:
    noise = seen(SensorNoise(1.0, np.ones(3)))[3][:, 2] - np.float32(7)
    for key in ((), (1,)):
        theirs = np.random.default_rng(np.random.SeedSequence(3, spawn_key=key)).standard_normal(1000)
        assert np.abs(noise[:, None] - theirs).min() > 1e-6


@pytest.mark.parametrize("disturbance", EVERY, ids=NAMES)
@pytest.mark.parametrize(
    ("make_env", "policy"),
    [
        (ChaosEnv, IntegerPolicy(3, 5)),
        (ChaosEnv, RecurrentPolicy()),
        (InfoMaskEnv, IntegerPolicy(3, 5)),  # refuses an action that is forbidden in the present step
        (BoxChaosEnv, RandomPolicy(BoxChaosEnv().action_space)),
    ],
    ids=["integer", "recurrent", "masks", "box"],
)
@settings(max_examples=5, deadline=None)
@given(seeds=st.lists(st.integers(0, 40), min_size=1, max_size=9), num_envs=st.integers(1, 5))
def test_disturbed_episode_depends_on_its_seed_alone(
    disturbance: Any, make_env: Any, policy: Any, seeds: list[int], num_envs: int
) -> None:
    together = rollout(DisturbedPolicy(policy, disturbance), make_env, seeds, num_envs=num_envs)
    alone = [rollout(DisturbedPolicy(policy, disturbance), make_env, [seed]) for seed in seeds]
    assert together.episode_returns.tolist() == [played.episode_returns[0] for played in alone]


@pytest.mark.parametrize("nothing", [SensorNoise(0.0, np.ones(3)), DroppedObservations(0.0)])
def test_disturbance_of_no_strength_leaves_episodes_with_memory_as_they_were(nothing: Any) -> None:
    plain = rollout(RecurrentPolicy(), ChaosEnv, range(12), num_envs=5)
    wrapped = rollout(DisturbedPolicy(RecurrentPolicy(), nothing), ChaosEnv, range(12), num_envs=5)
    assert plain.episode_returns.tolist() == wrapped.episode_returns.tolist()


@pytest.mark.parametrize("disturbance", EVERY, ids=NAMES)
def test_state_of_the_inner_policy_and_masks_are_handed_on(disturbance: Any) -> None:
    class Inner:
        name = "inner"

        def act(self, observations: Any, state: Any, **others: Any) -> Any:
            calls.append((state, others))
            return np.zeros(len(observations), np.int64), (np.full((len(observations), 2), len(calls)),)

    calls: list[Any] = []
    policy = DisturbedPolicy(Inner(), disturbance)
    others = {
        "episode_start": np.array([True, True]),
        "action_masks": np.array([[True, False], [False, True]]),
        "rng": [np.random.default_rng(seed) for seed in (1, 2)],
    }
    _, state = policy.act(np.zeros((2, 3), np.float32), None, **others)  # type: ignore[arg-type]
    others["episode_start"] = np.array([False, False])
    policy.act(np.zeros((2, 3), np.float32), state, **others)  # type: ignore[arg-type]
    assert policy.name == "inner"
    assert calls[0][0] is None
    assert [part.tolist() for part in calls[1][0]] == [[[1, 1], [1, 1]]]
    assert all(calls[1][1][name] is value for name, value in others.items())


@pytest.mark.parametrize("shape", [(), (1,), (5, 4, 2)], ids=["scalar", "one", "image"])
def test_observations_may_have_any_shape(shape: tuple[int, ...]) -> None:
    for disturbance in disturbances(np.random.default_rng(0).random((9, *shape), np.float32)):
        witness = Witness(RandomPolicy(ClockEnv.action_space))
        policy, state = DisturbedPolicy(witness, disturbance), None
        rng = [np.random.default_rng(seed) for seed in range(3)]
        for step in range(6):
            batch = np.full((3, *shape), step, np.float32)
            start = np.array([step == 0] * 3)
            _, state = policy.act(batch, state, episode_start=start, rng=rng)
        (rows, *_) = witness.saw.values()
        assert np.array(rows).shape == (6, *shape)
        assert np.array(rows).dtype == np.float32


def test_wrapped_policy_needs_generators() -> None:
    with pytest.raises(ValueError, match="needs a generator for each row"):
        DisturbedPolicy(IntegerPolicy(3, 5), Delay(1)).act(
            np.zeros((1, 3), np.float32), None, episode_start=np.array([True])
        )


# The table.

TARGETS = np.arange(4, dtype=np.float32)[:, None]


def test_table_has_the_undisturbed_first_then_every_level() -> None:
    calls: list[tuple[int, int]] = []
    found = robustness(
        TargetPolicy("float"),
        TargetPolicy("quantized", wrong_every=4),
        TargetEnv,
        TARGETS,
        seeds=range(50, 60),
        progress=lambda *call: calls.append(call),
    )
    assert [(row.condition, row.level) for row in found.rows] == [
        ("undisturbed", 0),
        ("sensor_noise", 0.01),
        ("sensor_noise", 0.03),
        ("sensor_noise", 0.1),
        ("dropped_observations", 0.05),
        ("dropped_observations", 0.2),
        ("delay", 1),
        ("delay", 2),
        ("delay", 3),
    ]
    assert calls == [(done, 180) for done in range(1, 181)]
    assert found.episodes == 10
    clean, by_name = found.rows[0], {(row.condition, row.level): row for row in found.rows}
    # Of 20 targets the float policy names each, the quantized one three of four.
    assert (clean.return_drop.mean, clean.return_drop.low, clean.return_drop.high) == pytest.approx((5, 5, 5))
    assert clean.float_return.mean == pytest.approx(20, abs=1.5)
    # A late target is right by chance alone, for both.
    late = by_name["delay", 2]
    assert late.float_return.mean == pytest.approx(5, abs=2)
    assert late.quantized_return.mean == pytest.approx(5, abs=2)
    assert by_name["dropped_observations", 0.2].float_return.mean == pytest.approx(20 - 0.2 * 15, abs=2)


def test_rows_are_those_of_paired_rollouts() -> None:
    policies = IntegerPolicy(3, 5), RecurrentPolicy()
    found = robustness(*policies, ChaosEnv, CALIBRATION, seeds=range(7))
    for row, disturbance in zip(found.rows[1:], EVERY, strict=True):
        in_float, quantized = (
            rollout(DisturbedPolicy(policy, disturbance), ChaosEnv, range(7)).episode_returns
            for policy in policies
        )
        assert row.float_return.mean == pytest.approx(in_float.mean())
        assert row.quantized_return.mean == pytest.approx(quantized.mean())
        assert row.return_drop.mean == pytest.approx((in_float - quantized).mean())
        assert row.return_drop.low <= row.return_drop.mean <= row.return_drop.high


def test_a_policy_loses_nothing_against_itself_and_the_same_table_comes_twice() -> None:
    first, again = (
        robustness(RecurrentPolicy(), RecurrentPolicy(), ChaosEnv, CALIBRATION, seeds=range(6))
        for _ in range(2)
    )
    assert first == again
    assert all((row.return_drop.low, row.return_drop.high) == (0, 0) for row in first.rows)


def test_table_as_json() -> None:
    found = robustness(IntegerPolicy(3, 5), RecurrentPolicy(), ChaosEnv, CALIBRATION, seeds=range(3))
    document = json.loads(json.dumps(found.to_json()))
    assert document["episodes"] == 3
    assert len(document["rows"]) == len(found.rows)
    row = found.rows[-1]
    assert document["rows"][-1] == {
        "condition": "delay",
        "level": 3,
        "float_return": row.float_return.to_json(),
        "quantized_return": row.quantized_return.to_json(),
        "return_drop": row.return_drop.to_json(),
    }


def test_one_episode_makes_no_interval() -> None:
    with pytest.raises(UsageError, match="needs at least 2 episodes, got 1"):
        robustness(IntegerPolicy(3, 5), RecurrentPolicy(), ChaosEnv, CALIBRATION, seeds=[1])
