"""Recurrent agents in normal form: one step, the states as inputs and outputs."""

from typing import Any

import gymnasium
import numpy as np

from edgeqrl.agents.agent import Agent, StateSpec
from edgeqrl.agents.heads import BoxHead, DiscreteHead, Head
from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.preprocessing import Preprocessing

HEADS: dict[str, Head] = {
    "argmax": DiscreteHead.single(3),
    "categorical": DiscreteHead.single(3, is_stochastic=True),
    "box": BoxHead((2,), (-2.0, -2.0), (2.0, 2.0), (1.0, 1.0), (0.0, 0.0)),
}


def make_cell(kind: str, units: int) -> Any:
    """Return a Keras cell of the kind gru, gru_before, lstm or rnn."""
    layers = import_keras().layers
    if kind == "lstm":
        return layers.LSTMCell(units)
    if kind == "rnn":
        return layers.SimpleRNNCell(units)
    return layers.GRUCell(units, reset_after=kind == "gru")


def step_agent(
    kind: str, *, num_layers: int = 1, head: str = "argmax", with_value: bool = True, units: int = 8
) -> Agent:
    """Return an agent with random weights; observations have four features."""
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(3)
    observation = keras.Input((4,), name="observation")
    values, states, following = layers.Dense(8, "relu")(observation), [], []
    for i in range(num_layers):
        taken = [keras.Input((units,), name=f"state_{i}_{j}") for j in range(1 + (kind == "lstm"))]
        values, given = make_cell(kind, units)(values, taken)
        states += taken
        following += list(given) if isinstance(given, list | tuple) else [given]
    outputs = [layers.Dense(HEADS[head].num_outputs)(values)]
    if with_value:
        outputs.append(layers.Dense(1)(values))
    return Agent(
        "policy",
        keras.Model([observation, *states], [*outputs, *following]),
        HEADS[head],
        Preprocessing.plain((4,)),
        "0" * 64,
        ends_in_tanh=False,
        states=tuple(StateSpec(tensor.name, (units,)) for tensor in states),
        value_names=("value",) if with_value else (),
    )


def latch_agent(hold: float) -> Agent:
    """Return a GRU that remembers the sign of a cue, told by hand.

    hold  0: what it remembers is drawn to -1 or 1, step by step; else the bias of the update gate, which
          keeps what is there as sigmoid(hold) says, and draws it nowhere
    """
    keras = import_keras()
    cell = keras.layers.GRUCell(1, reset_after=True)
    observation, state = keras.Input((2,), name="observation"), keras.Input((1,), name="state")
    values, following = cell(observation, [state])
    action = keras.layers.Dense(2)
    (following,) = following if isinstance(following, list | tuple) else (following,)
    model = keras.Model([observation, state], [action(values), following])
    # Columns: update gate, reset gate, candidate. The second feature is 1 where the first is a cue.
    pull = 3.0 if hold == 0.0 else 0.01
    kernel = np.array([[0.0, 0.01, 3.0], [-12.0 - hold, 0.0, 0.0]])
    bias = np.array([[hold, 8.0, 0.0], [0.0, 0.0, 0.0]])
    cell.set_weights([kernel, np.array([[0.01, 0.01, pull]]), bias])
    action.set_weights([np.array([[-1.0, 1.0]]), np.zeros(2)])
    return Agent(
        "latch",
        model,
        DiscreteHead.single(2),
        Preprocessing.plain((2,)),
        "0" * 64,
        ends_in_tanh=False,
        states=(StateSpec("state", (1,)),),
    )


class CueEnv(gymnasium.Env[Any, Any]):
    """A cue of -1 or 1 in the first step, then noise; each step pays 1 for the action that it named."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length: int) -> None:
        self.length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.cue = 2 * int(self.np_random.integers(2)) - 1
        self.count = 0
        return np.array([self.cue, 1.0], np.float32), {}

    def step(self, action: int) -> Any:
        self.count += 1
        reward = float(int(action) == (self.cue > 0))
        noise = self.np_random.uniform(-0.5, 0.5)
        return np.array([noise, 0.0], np.float32), reward, False, self.count == self.length, {}
