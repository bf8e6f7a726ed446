"""Keras agents trained in wrappers act on the raw environment as they did in the wrapped one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers as w

from edgeqrl.agents.options import PreprocessingOptions
from edgeqrl.backends.keras import KerasPolicy
from edgeqrl.rollout import rollout
from edgeqrl.sources import Source, open_source

MEAN, VAR = np.array([0.1, -0.2, 0.0, 0.3], np.float32), np.array([0.5, 0.3, 0.02, 1.5], np.float32)


def normalized(env: Any) -> Any:
    frozen = w.NormalizeObservation(env)
    frozen.obs_rms.mean, frozen.obs_rms.var, frozen.obs_rms.count = MEAN, VAR, 1e4
    frozen.update_running_mean = False
    return frozen


def cartpole(wrap: Callable[[Any], Any]) -> Callable[[], Any]:
    return lambda: wrap(gymnasium.make("CartPole-v1"))


WRAPPED: dict[str, Callable[[], Any]] = {
    "stack": cartpole(lambda env: w.FlattenObservation(w.FrameStackObservation(env, 3))),
    "normalize, stack": cartpole(
        lambda env: w.FlattenObservation(w.FrameStackObservation(normalized(env), 2))
    ),
    "one-hot": lambda: w.FlattenObservation(gymnasium.make("FrozenLake-v1", is_slippery=True)),
    "rescale": lambda: w.RescaleObservation(gymnasium.make("Acrobot-v1", max_episode_steps=80), 0.0, 1.0),
    "actions": lambda: w.ClipAction(
        w.RescaleAction(gymnasium.make("Pendulum-v1", max_episode_steps=40), np.float32(-1), np.float32(1))
    ),
    "both": lambda: w.FrameStackObservation(
        w.RescaleAction(gymnasium.make("Pendulum-v1", max_episode_steps=40), np.float32(0), np.float32(3)), 2
    ),
}


def model_for(env: Any) -> Any:
    import keras

    keras.utils.set_random_seed(3)
    space = env.action_space
    num_outputs = int(space.n) if isinstance(space, gymnasium.spaces.Discrete) else space.shape[0]
    layers: list[Any] = [keras.Input(env.observation_space.shape), keras.layers.Flatten()]
    layers += [keras.layers.Dense(16, "tanh"), keras.layers.Dense(num_outputs)]
    env.close()
    return keras.Sequential(layers)


class Bare:
    """The model as its author calls it, in the wrapped environment."""

    name = "bare"

    def __init__(self, model: Any, action_space: Any) -> None:
        self.model, self.space = model, action_space

    def act(self, observations: Any, state: Any, **_: Any) -> Any:
        outputs = np.asarray(self.model(np.asarray(observations, np.float32), training=False))
        if isinstance(self.space, gymnasium.spaces.Discrete):
            return outputs.argmax(axis=1), ()
        return np.clip(outputs, self.space.low, self.space.high), ()


@pytest.mark.parametrize("name", WRAPPED)
def test_agent_acts_on_the_raw_environment_as_in_the_wrapped_one(name: str) -> None:
    make_env = WRAPPED[name]
    model, wrapped = model_for(make_env()), make_env()
    source = Source(model, make_env)
    agent, _ = open_source(source, None)
    assert source.make_env is not None
    kept: Any = {"keep_actions": True}
    # FlattenObservation hides the classes from us here, so rollout() of the wrapped one gets numbers.
    theirs = rollout(Bare(model, wrapped.action_space), make_env, range(8), **kept)
    ours = rollout(KerasPolicy(agent), source.make_env, range(8), **kept)
    wrapped.close()
    assert np.array_equal(ours.episode_lengths, theirs.episode_lengths)
    assert np.allclose(ours.episode_returns, theirs.episode_returns, rtol=1e-4)
    assert ours.actions is not None
    assert theirs.actions is not None
    if isinstance(wrapped.action_space, gymnasium.spaces.Discrete):
        for one, other in zip(ours.actions, theirs.actions, strict=True):
            assert np.array_equal(one, other)


def test_statistics_of_a_file_take_the_place_of_the_wrappers_own(tmp_path: Path) -> None:
    path = tmp_path / "statistics.npz"
    np.savez(path, mean=MEAN, var=VAR)
    make_env = cartpole(normalized)
    model = model_for(make_env())
    running = cartpole(w.NormalizeObservation)
    agent, _ = open_source(
        Source(model, running, preprocessing=PreprocessingOptions(normalization=path)), None
    )
    ours = rollout(KerasPolicy(agent), gymnasium_cartpole, range(8))
    theirs = rollout(Bare(model, gymnasium.spaces.Discrete(2)), make_env, range(8))
    assert np.array_equal(ours.episode_returns, theirs.episode_returns)


def gymnasium_cartpole() -> Any:
    return gymnasium.make("CartPole-v1")
