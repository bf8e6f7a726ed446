"""Probabilities are never taken for logits, wherever in the model they are made."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from edgeqrl.agents.from_keras import agent_from_model
from edgeqrl.agents.heads import BoxHead
from edgeqrl.agents.options import AgentOptions
from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.errors import AgentError

OBSERVATION = spaces.Box(-5.0, 5.0, (4,), np.float32)
CHOICE, CHOICES, SWITCHES = spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)
STATES = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)


def dense(size: int, activation: str | None = None) -> Any:
    return import_keras().layers.Dense(size, activation, bias_initializer="random_normal")


def model_of(make: Any) -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(3)
    x = keras.Input((4,))
    return keras.Model(x, make(x))


def joined(x: Any, activation: str) -> Any:
    return import_keras().layers.Concatenate()([dense(2, activation)(x), dense(3, activation)(x)])


def clipped(x: Any) -> Any:
    return import_keras().ops.clip(dense(3, "softmax")(x), 1e-3, 1.0)


def mixed_with_uniform(x: Any) -> Any:
    return 0.97 * dense(3, "softmax")(x) + 0.01


def divided(x: Any) -> Any:
    ops = import_keras().ops
    weights = ops.exp(dense(3)(x))
    return weights / ops.sum(weights, axis=1, keepdims=True)


@pytest.mark.parametrize("make", [clipped, mixed_with_uniform, divided])
def test_hidden_probabilities_of_a_choice_are_no_logits(make: Any) -> None:
    model = model_of(make)
    with pytest.raises(AgentError, match="look like probabilities"):
        agent_from_model(model, OBSERVATION, CHOICE, options=AgentOptions(stochastic=True))
    agent_from_model(model, OBSERVATION, CHOICE)  # whose greatest is the greatest logit's


def test_joined_probabilities_of_choices_are_no_logits() -> None:
    drawn = AgentOptions(stochastic=True)
    model = model_of(lambda x: joined(x, "softmax"))
    with pytest.raises(AgentError, match="look like probabilities"):
        agent_from_model(model, OBSERVATION, CHOICES, options=drawn)
    agent_from_model(model_of(lambda x: joined(x, "linear")), OBSERVATION, CHOICES, options=drawn)


@pytest.mark.parametrize("kind", ["hard_sigmoid", "clipped", "joined"])
def test_hidden_probabilities_of_switches_are_no_logits(kind: str) -> None:
    ops = import_keras().ops
    make = {
        "hard_sigmoid": dense(3, "hard_sigmoid"),
        "clipped": lambda x: ops.clip(dense(3, "sigmoid")(x), 0.01, 0.99),
        "joined": lambda x: joined(x, "sigmoid")[:, :3],
    }[kind]
    with pytest.raises(AgentError, match="look like probabilities"):
        agent_from_model(model_of(make), OBSERVATION, SWITCHES)
    agent_from_model(model_of(dense(3, "tanh")), OBSERVATION, SWITCHES)


def test_switches_of_an_untrained_model_are_taken() -> None:
    keras = import_keras()
    flat = keras.layers.Dense(3, kernel_initializer="zeros", bias_initializer="ones")
    agent_from_model(model_of(flat), OBSERVATION, SWITCHES)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_reshape_hides_no_activation(activation: str) -> None:
    layers = import_keras().layers
    last, space = dense(3, activation), CHOICE if activation == "softmax" else SWITCHES
    model = model_of(lambda x: layers.Flatten()(layers.Reshape((3, 1))(last(x))))
    agent = agent_from_model(model, OBSERVATION, space, options=AgentOptions(stochastic=True))
    logits = STATES @ np.asarray(last.kernel) + np.asarray(last.bias)
    found = np.asarray(agent.model(STATES, training=False)).reshape(logits.shape)
    np.testing.assert_allclose(found, logits, atol=1e-5)


@pytest.mark.parametrize("kind", ["reshaped", "flattened", "joined"])
def test_a_tanh_in_another_shape_is_scaled_to_the_bounds(kind: str) -> None:
    layers = import_keras().layers
    make = {
        "reshaped": lambda x: layers.Reshape((2, 2))(dense(4, "tanh")(x)),
        "flattened": lambda x: layers.Flatten()(dense(4, "tanh")(x)),
        "joined": lambda x: layers.Concatenate()([dense(3, "tanh")(x), dense(1, "tanh")(x)]),
    }[kind]
    torque = spaces.Box(-2.0, 2.0, (2, 2) if kind == "reshaped" else (4,), np.float32)
    head = agent_from_model(model_of(make), OBSERVATION, torque).head
    assert isinstance(head, BoxHead)
    assert head.gain == (2.0,) * 4


@pytest.mark.parametrize("kind", ["clipped", "flattened", "transposed", "logits"])
def test_atoms_are_weighted_by_their_probabilities_once(kind: str) -> None:
    """A second softmax would change the order of the Q-values, and nobody would see it."""
    keras = import_keras()
    layers, ops = keras.layers, keras.ops
    last = dense(15)
    makes = {
        "clipped": lambda x: ops.clip(layers.Softmax()(layers.Reshape((3, 5))(last(x))), 1e-3, 1.0),
        "flattened": lambda x: layers.Flatten()(layers.Softmax()(layers.Reshape((3, 5))(last(x)))),
        "transposed": lambda x: ops.clip(layers.Softmax(axis=1)(layers.Reshape((5, 3))(last(x))), 1e-3, 1.0),
        "logits": lambda x: layers.Reshape((3, 5))(last(x)),
    }
    model = model_of(makes[kind])
    options = AgentOptions(distribution="categorical", support=(-10.0, 10.0))
    agent = agent_from_model(model, OBSERVATION, CHOICE, options=options)
    given = np.asarray(model(STATES, training=False), np.float64)
    given = given.transpose(0, 2, 1) if kind == "transposed" else given.reshape(-1, 3, 5)
    if kind == "logits":
        given = np.exp(given) / np.exp(given).sum(axis=2, keepdims=True)
    found = np.asarray(agent.model(STATES, training=False))
    np.testing.assert_allclose(found, given @ np.linspace(-10, 10, 5), atol=1e-4)
