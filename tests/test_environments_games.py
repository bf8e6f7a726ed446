"""MinAtar and Atari roll out: planes and frames as bytes, the stack of frames left to the board.

Both libraries are only ever imported by Gymnasium, for whoever asks for their environments.
"""

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from edgeqrl.environments import EnvironmentSpec, spaces
from edgeqrl.preprocessing import preprocessing_of
from edgeqrl.rollout import RandomPolicy, rollout
from tests.oracles import require_module

MINATAR_GAMES = {"Asterix": 4, "Breakout": 4, "Freeway": 7, "Seaquest": 10, "SpaceInvaders": 6}
PONG = EnvironmentSpec(
    "ale_py:ALE/Pong-v5",
    {"frameskip": 1, "max_episode_steps": 160},
    ("gymnasium.wrappers:AtariPreprocessing", "tests.test_environments_games:four_frames"),
)


def four_frames(env: Any) -> Any:
    """The usual stack."""
    return FrameStackObservation(env, 4)


class Look:
    """Chooses by a checksum of the pixels that it sees: any other pixel is likely another action."""

    name = "look"

    def __init__(self, size: int, num_actions: int) -> None:
        self.weights = np.random.default_rng(2).integers(1, 1000, size)
        self.num_actions = num_actions

    def act(self, observations: Any, state: Any, **_: Any) -> Any:
        flat = np.asarray(observations).astype(np.int64).reshape(len(observations), -1)
        return (flat @ self.weights) % self.num_actions, ()


class LookThrough(Look):
    """The same after what the board does."""

    def __init__(self, size: int, num_actions: int, preprocessing: Any) -> None:
        super().__init__(size, num_actions)
        self.preprocessing = preprocessing

    def act(self, observations: Any, state: Any, *, episode_start: Any = None, **_: Any) -> Any:
        assert observations.dtype == np.uint8
        inputs, memory = self.preprocessing.inputs(observations, state or None, episode_start)
        return super().act(inputs[0], ())[0], memory


@pytest.mark.parametrize("game", MINATAR_GAMES)
def test_minatar_gives_planes_of_bytes_and_the_same_episode_for_a_seed(game: str) -> None:
    require_module("minatar")
    spec = EnvironmentSpec(f"MinAtar/{game}-v1", {"max_episode_steps": 60})
    known = spaces(spec.make)
    assert known.observation_space.shape == (10, 10, MINATAR_GAMES[game])
    assert preprocessing_of(known.observation_space).parts[0].source == "uint8"
    policy = RandomPolicy(known.action_space)
    together = rollout(policy, spec.make, range(6), num_envs=3, keep_observations=True)
    assert together.observations is not None
    assert {str(episode.dtype) for episode in together.observations} == {"uint8"}
    assert {int(value) for episode in together.observations for value in np.unique(episode)} == {0, 1}
    for index, seed in enumerate(range(6)):
        alone = rollout(policy, spec.make, [seed], keep_observations=True)
        assert alone.observations is not None
        assert alone.episode_returns[0] == together.episode_returns[index]
        assert np.array_equal(alone.observations[0], together.observations[index])


def test_minimal_actions_are_those_of_the_version() -> None:
    require_module("minatar")
    assert spaces(EnvironmentSpec("MinAtar/Breakout-v1").make).action_space == Discrete(3)


def test_pong_with_the_usual_wrappers_gives_frames_and_leaves_the_stack_to_the_board() -> None:
    require_module("ale_py")
    known = spaces(PONG.make)
    assert known.observation_space == Box(0, 255, (84, 84), np.uint8)
    assert known.absorbed.observation_space == Box(0, 255, (4, 84, 84), np.uint8)
    assert known.absorbed.wrappers == ("FrameStackObservation",)


def test_pong_plays_the_same_episodes_with_the_stack_on_the_board() -> None:
    require_module("ale_py")
    known = spaces(PONG.make)
    preprocessing = known.absorbed.preprocessing()

    def wrapped() -> Any:
        import ale_py
        import gymnasium

        gymnasium.register_envs(ale_py)
        return four_frames(AtariPreprocessing(gymnasium.make("ALE/Pong-v5", **PONG.kwargs)))

    kept = {"keep_actions": True, "num_envs": 2}
    theirs = rollout(Look(4 * 84 * 84, 6), wrapped, range(3), **kept)
    ours = rollout(LookThrough(4 * 84 * 84, 6, preprocessing), PONG.make, range(3), **kept)
    assert np.array_equal(theirs.episode_lengths, ours.episode_lengths)
    assert np.array_equal(theirs.episode_returns, ours.episode_returns)
    assert theirs.actions is not None
    assert ours.actions is not None
    for one, other in zip(theirs.actions, ours.actions, strict=True):
        assert np.array_equal(one, other)
        assert len(set(one.tolist())) > 1
