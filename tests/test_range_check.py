"""The check warns where calibration does not fit what the policy meets, and is silent where it does."""

import json
from typing import Any

import gymnasium
import numpy as np
import pytest

from edgeqrl.calibrate import CalibrationSet, calibrate, from_recorded
from edgeqrl.range_check import CHECK_EPISODES, CHECK_SEED, MAX_FEATURES, check_ranges
from edgeqrl.recordings import Recording
from edgeqrl.rollout import rollout
from tests.test_calibration_sources import float_policy
from tests.toys import ChaosEnv, FixedPolicy

STAY = FixedPolicy(np.int64(0))


class UniformEnv(gymnasium.Env[Any, Any]):
    """100 steps of numbers that are uniform in [-1, 1], whatever is done."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), {}

    def step(self, action: int) -> Any:
        self.count += 1
        return self.observe(), 1.0, False, self.count == 100, {}

    def observe(self) -> Any:
        return self.np_random.uniform(-1.0, 1.0, 3).astype(np.float32)


def held(*ends: tuple[float, float], source: str = "recorded") -> CalibrationSet:
    """A set whose features have these ranges."""
    columns = np.array(ends, np.float32).T
    return from_recorded(Recording(columns, kind=source))


def test_a_set_of_the_same_states_is_silent() -> None:
    calibration = calibrate(STAY, UniformEnv, env_id="Uniform-v0")
    found = check_ranges(calibration, STAY, UniformEnv)
    assert found.warning is None
    assert (found.episodes, found.num_states, found.num_features) == (CHECK_EPISODES, 500, 3)
    assert (found.num_narrow, found.num_wide, found.features) == (0, 0, ())


def test_a_narrow_range_is_warned_of_with_its_share() -> None:
    found = check_ranges(held((-1, 1), (-0.5, 0.5), (-0.8, 1.0)), STAY, UniformEnv)
    assert [feature.name for feature in found.features] == ["1", "2"]
    assert (found.num_narrow, found.num_wide) == (2, 0)
    worst = found.features[0]
    assert worst.calibrated == (-0.5, 0.5)
    assert abs(worst.outside - 0.5) < 0.06
    assert abs(worst.missed - 0.5) < 0.02
    assert abs(worst.used - 2.0) < 0.02
    assert found.warning is not None
    assert found.warning.startswith(
        "The calibration set (recorded) does not hold what the trained policy meets: feature 1 lies outside "
        f"of its range in {100 * worst.outside:.0f} % of the states"
    )
    assert "where it may be clipped; 1 more feature leaves its range. " in found.warning
    assert found.warning.endswith("--calibration policy.")


def test_what_barely_leaves_its_range_is_no_reason_to_warn() -> None:
    found = check_ranges(held((-0.97, 0.97), (-1, 1), (-1, 1)), STAY, UniformEnv)
    assert found.warning is None
    played = rollout(STAY, UniformEnv, range(CHECK_SEED, CHECK_SEED + CHECK_EPISODES), keep_observations=True)
    assert played.observations is not None
    met = np.concatenate(played.observations)
    assert (np.abs(met[:, 0]) > 0.98).mean() > 0.01  # it often does


def test_a_rare_state_far_outside_is_warned_of() -> None:
    class Rare(UniformEnv):
        def observe(self) -> Any:
            observation = super().observe()
            observation[0] += 8.0 * (self.count == 50 and self.np_random.random() < 0.9)
            return observation

    found = check_ranges(held((-1, 1), (-1, 1), (-1, 1)), STAY, Rare)
    assert found.features[0].outside <= 0.01
    assert found.warning is not None
    assert "feature 0" in found.warning


def test_a_wide_range_is_warned_of_unless_another_is_narrow() -> None:
    wide = ((-60, 60), (-1, 1), (-12, 30))
    found = check_ranges(held(*wide, source="space"), STAY, UniformEnv)
    assert (found.num_narrow, found.num_wide) == (0, 2)
    assert [feature.name for feature in found.features] == ["0", "2"]
    assert found.warning is not None
    share = f"{100 * found.features[0].used:.1f} %"  # 2 of 120
    assert 0.015 < found.features[0].used < 0.017
    assert f"(space) is wider than what the trained policy meets: feature 0 uses {share}" in found.warning
    both = check_ranges(held((-60, 60), (0, 0.5), (-1, 1)), STAY, UniformEnv)
    assert both.warning is not None
    assert "feature 1 lies outside" in both.warning
    assert [feature.name for feature in both.features] == ["1", "0"]


def test_a_feature_that_stands_still_is_neither_narrow_nor_wide() -> None:
    class Still(UniformEnv):
        def observe(self) -> Any:
            return np.array([0.25, 0.25, 0.25], np.float32)

    found = check_ranges(held((0.25, 0.25), (-9, 9), (0, 0)), STAY, Still)
    assert [(feature.name, feature.outside, feature.missed) for feature in found.features] == [
        ("2", 1.0, 1.0)
    ]
    assert found.num_wide == 0
    json.dumps(found.to_json(), allow_nan=False)


def test_few_episodes_of_the_policy_are_cured_by_more() -> None:
    calibration = held((-1, 1), (-0.1, 0.1), (-1, 1), source="policy")
    found = check_ranges(calibration, STAY, UniformEnv)
    assert found.warning is not None
    assert found.warning.endswith("Play more episodes: --calibration-episodes 40.")


def test_recurrent_states_are_compared_too() -> None:
    policy = float_policy(is_recurrent=True)
    calibration = calibrate(policy, ChaosEnv, env_id="Chaos-v0", num_episodes=40)
    assert check_ranges(calibration, policy, ChaosEnv).num_features == 4
    assert calibration.inputs is not None
    small = {**calibration.inputs, "memory": calibration.inputs["memory"] * np.float32(0.2)}
    shrunk = CalibrationSet(
        calibration.observations, "Chaos-v0", (), (), calibration.num_rolled_out, inputs=small
    )
    found = check_ranges(shrunk, policy, ChaosEnv)
    assert found.warning is not None
    assert "feature memory 0" in found.warning


def test_of_very_many_features_the_worst_are_listed() -> None:
    class Many(UniformEnv):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (40,), np.float32)

        def observe(self) -> Any:
            return self.np_random.uniform(-1.0, 1.0, 40).astype(np.float32)

    ends = [(-1.0 + 0.02 * n, 1.0) for n in range(40)]
    found = check_ranges(held(*ends), STAY, Many)
    assert len(found.features) == MAX_FEATURES
    assert found.features[0].name == "39"
    assert found.num_narrow == found.to_json()["num_narrow"] > MAX_FEATURES
    assert "where it may be clipped; 33 more features leave theirs" in (found.warning or "")


def test_bytes_and_classes_are_not_compared() -> None:
    class Bytes(UniformEnv):
        observation_space = gymnasium.spaces.Box(0, 255, (3,), np.uint8)

        def observe(self) -> Any:
            return self.np_random.integers(0, 256, 3, np.uint8)

    calibration = CalibrationSet(np.zeros((2, 3), np.uint8), "Bytes-v0", (), (), 2)
    found = check_ranges(calibration, STAY, Bytes)
    assert (found.num_features, found.warning) == (0, None)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_check_is_decided_by_its_seeds(seed: int) -> None:
    calibration = held((-1, 1), (-0.5, 0.5), (-0.8, 1.0))
    first, again = (check_ranges(calibration, STAY, UniformEnv, seed=seed).to_json() for _ in range(2))
    assert first == again
    assert first != check_ranges(calibration, STAY, UniformEnv, seed=seed + 100).to_json()
