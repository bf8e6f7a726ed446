"""One small agent of every kind, with an environment that gives and takes what it needs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from edgeqrl.agents.options import AgentOptions, PreprocessingOptions
from edgeqrl.agents.tensorflow_runtime import import_keras


class NoiseEnv(gymnasium.Env[Any, Any]):
    """Twelve steps of random observations; an action that is larger pays more."""

    def __init__(self, observation_space: Any, action_space: Any, *, num_masks: int = 0) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.num_masks = num_masks

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), self.info()

    def step(self, action: Any) -> Any:
        if self.num_masks:
            assert self.mask[action], "a forbidden action"
        self.count += 1
        reward = float(np.sum(np.asarray(action, np.float64) > 0.3))
        return self.observe(), reward, False, self.count == 12, self.info()

    def observe(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def info(self) -> dict[str, Any]:
        if not self.num_masks:
            return {}
        self.mask = self.np_random.integers(0, 2, self.num_masks).astype(np.int8)
        self.mask[self.np_random.integers(self.num_masks)] = 1
        return {"action_mask": self.mask}


@dataclass(frozen=True)
class Kind:
    """A model, its environment, and the options that `convert` gets."""

    make_model: Callable[[], Any]
    make_env: Callable[[], NoiseEnv]
    options: dict[str, Any] = field(default_factory=dict)
    scheme: str = "int8"


def box(*shape: int) -> Any:
    return spaces.Box(-1.0, 1.0, shape, np.float32)


def dense(size: int, **outputs: int) -> Callable[[], Any]:
    def make() -> Any:
        keras = import_keras()
        x = keras.Input((size,))
        hidden = keras.layers.Dense(16, "relu")(x)
        heads = [keras.layers.Dense(count, name=name)(hidden) for name, count in outputs.items()]
        return keras.Model(x, heads if len(heads) > 1 else heads[0])

    return make


def recurrent(layer: str, num_layers: int = 1) -> Callable[[], Any]:
    def make() -> Any:
        keras = import_keras()
        x = hidden = keras.Input((None, 4))
        for i in range(num_layers):
            make_layer = getattr(keras.layers, layer)
            hidden = make_layer(8, return_sequences=i < num_layers - 1)(hidden)
        return keras.Model(x, keras.layers.Dense(3)(hidden))

    return make


def joined(*sizes: int, names: tuple[str, ...] = ()) -> Callable[[], Any]:
    def make() -> Any:
        keras = import_keras()
        parts = [keras.Input((size,), name=name) for size, name in zip(sizes, names, strict=True)]
        hidden = keras.layers.Dense(8, "relu")(keras.layers.Concatenate()(parts))
        return keras.Model(dict(zip(names, parts, strict=True)), keras.layers.Dense(3)(hidden))

    return make


def convolutional() -> Any:
    keras = import_keras()
    layers = keras.layers
    hidden = [layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(8, "relu")]
    return keras.Sequential([keras.Input((6, 6, 2)), *hidden, layers.Dense(3)])


def env(observation: Any, action: Any, **options: Any) -> Callable[[], NoiseEnv]:
    return lambda: NoiseEnv(observation, action, **options)


THREE = spaces.Discrete(3)
SAMPLED = {"options": AgentOptions(stochastic=True)}
WITH_VALUE = {"options": AgentOptions(outputs="policy,value")}
VALUE_ALONE = {"options": AgentOptions(outputs="value")}
LAST_THREE = {"preprocessing": PreprocessingOptions(frame_stack="3")}
PARTS = spaces.Dict({"joints": box(3), "contacts": spaces.Box(0, 255, (2,), np.uint8)})
KINDS = {
    "plain": Kind(dense(4, q=3), env(box(4), THREE)),
    "gru": Kind(recurrent("GRU"), env(box(4), THREE)),
    "gru_int16": Kind(recurrent("GRU"), env(box(4), THREE), scheme="int16x8"),
    "stacked_lstm": Kind(recurrent("LSTM", 2), env(box(4), THREE)),
    "simple_rnn": Kind(recurrent("SimpleRNN"), env(box(4), THREE)),
    "sampled_gru": Kind(recurrent("GRU"), env(box(4), THREE), SAMPLED),
    "two_headed": Kind(dense(4, policy=3, value=1), env(box(4), THREE), WITH_VALUE),
    "value": Kind(dense(4, policy=3, value=1), env(box(4), THREE), VALUE_ALONE),
    "dict": Kind(joined(3, 2, names=("joints", "contacts")), env(PARTS, THREE)),
    "frames": Kind(dense(12, q=3), env(box(4), THREE), LAST_THREE),
    "sampled": Kind(dense(4, logits=3), env(box(4), THREE), SAMPLED),
    "multi_discrete": Kind(dense(4, q=7), env(box(4), spaces.MultiDiscrete([3, 4]))),
    "sampled_multi_discrete": Kind(dense(4, q=7), env(box(4), spaces.MultiDiscrete([3, 4])), SAMPLED),
    "multi_binary": Kind(dense(4, q=5), env(box(4), spaces.MultiBinary(5))),
    "masked": Kind(dense(4, q=3), env(box(4), THREE, num_masks=3)),
    "sampled_masked": Kind(dense(4, q=3), env(box(4), THREE, num_masks=3), SAMPLED),
    "gaussian": Kind(dense(4, mean=2, log_std=2), env(box(4), box(2)), SAMPLED),
    "convolutional": Kind(convolutional, env(spaces.MultiBinary((6, 6, 2)), THREE)),
}
