"""Recurrent Keras models as single steps: the same numbers as Keras's own sequences."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from edgeqrl.agents.agent import Agent, StateSpec
from edgeqrl.agents.from_keras import agent_from_model, concrete_function, load_agent
from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.errors import AgentError

NUM_STEPS = 100
NUM_EPISODES = 3
OBSERVATION = gymnasium.spaces.Box(-5.0, 5.0, (4,), np.float32)
ACTION = gymnasium.spaces.Discrete(3)
IMAGE = gymnasium.spaces.Box(-1.0, 1.0, (6, 6, 2), np.float32)


def sequential(*layers: Any, shape: tuple[int | None, ...] = (None, 4), **options: Any) -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(11)
    model = keras.Sequential([keras.Input(shape, **options), *layers])
    for weight in model.weights:  # biases begin at 0, where mistakes hide
        if weight.dtype == "float32" and "variance" not in weight.path:
            weight.assign(weight + 0.1 * np.random.default_rng(5).normal(size=weight.shape))
    return model


def lstm() -> Any:
    layers = import_keras().layers
    return sequential(layers.LSTM(8), layers.Dense(3))


def gru_after() -> Any:
    layers = import_keras().layers
    return sequential(layers.Dense(6, "relu"), layers.GRU(8, return_sequences=True), layers.Dense(3))


def gru_before() -> Any:
    layers = import_keras().layers
    return sequential(layers.GRU(8, reset_after=False), layers.Dense(3))


def simple() -> Any:
    layers = import_keras().layers
    return sequential(layers.SimpleRNN(8, return_sequences=True), layers.Dense(3))


def stacked_layers() -> Any:
    layers = import_keras().layers
    return sequential(
        layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 3.0, 4.0]),
        layers.Rescaling(0.5, 0.1),
        layers.TimeDistributed(layers.Dense(6, "tanh")),
        layers.BatchNormalization(),
        layers.GRU(8, return_sequences=True),
        layers.LayerNormalization(),
        layers.Dropout(0.5),
        layers.LSTM(5, return_sequences=True, recurrent_activation="hard_sigmoid", use_bias=False),
        layers.Dense(3),
    )


def stacked_cells() -> Any:
    layers = import_keras().layers
    cells = [layers.LSTMCell(3), layers.GRUCell(4, reset_after=False), layers.SimpleRNNCell(2)]
    return sequential(layers.RNN(cells), layers.Dense(3))


def custom_cell() -> Any:
    keras = import_keras()

    class Leaky(keras.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        state_size = 4
        output_size = 4

        def call(self, inputs: Any, states: Any) -> Any:
            mixed = 0.9 * states[0] + 0.1 * inputs
            return mixed, [mixed]

        def get_initial_state(self, batch_size: int) -> Any:
            return [keras.ops.full((batch_size, 4), 0.25)]

    return sequential(keras.layers.RNN(Leaky()), keras.layers.Dense(3))


def branches() -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(3)
    x = keras.Input((None, 4), name="observation")
    hidden = keras.layers.LSTM(6, return_sequences=True)(x)
    both = keras.layers.Concatenate()([hidden, keras.ops.tanh(x) * 0.5])
    last = keras.layers.GRU(4, return_sequences=True)(both) + 0.25
    return keras.Model(x, keras.layers.Dense(3)(last[:, -1]))


def nested() -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(4)
    inner = keras.Sequential([keras.Input((None, 4)), keras.layers.GRU(5, return_sequences=True, name="gru")])
    outer = [inner, keras.layers.GRU(6, name="gru"), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((None, 4)), *outer])


@pytest.mark.parametrize(
    "make",
    [
        lstm,
        gru_after,
        gru_before,
        simple,
        stacked_layers,
        stacked_cells,
        custom_cell,
        branches,
        nested,
    ],
)
def test_steps_are_what_keras_computes_for_the_sequence(make: Callable[[], Any]) -> None:
    model = make()
    agent = agent_from_model(model, OBSERVATION, ACTION)
    assert agent.original is model
    observations = np.random.default_rng(0).normal(size=(NUM_EPISODES, NUM_STEPS, 4)).astype(np.float32)
    stepped = steps(agent, observations)
    for t in (1, NUM_STEPS - 1):
        expected = last_step(model, observations[:, : t + 1])
        np.testing.assert_allclose(stepped[:, t], expected, rtol=1e-5, atol=2e-6)


def test_images_are_seen_one_by_one() -> None:
    layers = import_keras().layers
    model = sequential(
        layers.TimeDistributed(layers.Conv2D(3, 3, activation="relu")),
        layers.TimeDistributed(layers.Flatten()),
        layers.LSTM(5),
        layers.Dense(3),
        shape=(None, 6, 6, 2),
    )
    observations = np.random.default_rng(0).normal(size=(NUM_EPISODES, 20, 6, 6, 2)).astype(np.float32)
    stepped = steps(agent_from_model(model, IMAGE, ACTION), observations)
    np.testing.assert_allclose(stepped[:, -1], last_step(model, observations), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("length", [None, 1])
def test_stateful_models_act_as_their_own_steps(length: int | None) -> None:
    keras = import_keras()
    layers = keras.layers
    model = sequential(
        layers.LSTM(8, stateful=True, return_sequences=True),
        layers.GRU(4, stateful=True),
        layers.Dense(3),
        shape=(length, 4),
        batch_size=NUM_EPISODES,
    )
    observations = np.random.default_rng(0).normal(size=(NUM_EPISODES, 20, 4)).astype(np.float32)
    agent = agent_from_model(model, OBSERVATION, ACTION)
    for layer in model.layers[:2]:
        layer.reset_state()
    expected = [np.asarray(model(observations[:, t : t + 1])) for t in range(20)]
    before = np.asarray(model.layers[0].states[0])
    np.testing.assert_allclose(steps(agent, observations), np.stack(expected, axis=1), rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(before, np.asarray(model.layers[0].states[0]))  # not its state was used


def step_form(*, with_time_axis: bool, names: bool) -> Any:
    """Build a model that takes and returns its LSTM's state."""
    keras = import_keras()
    keras.utils.set_random_seed(9)
    x = keras.Input((1, 4) if with_time_axis else (4,), name="observation")
    h, c = (keras.Input((8,), name=name) for name in ("h", "c"))
    sequence = x if with_time_axis else keras.layers.Reshape((1, 4))(x)
    out, next_h, next_c = keras.layers.LSTM(8, return_state=True)(sequence, initial_state=[h, c])
    logits = keras.layers.Dense(3, name="logits")(out)
    if names:
        return keras.Model([h, x, c], {"c_next": next_c, "logits": logits, "h_next": next_h})
    return keras.Model([x, h, c], [logits, next_h, next_c])


@pytest.mark.parametrize("with_time_axis", [True, False])
@pytest.mark.parametrize("names", [True, False])
def test_models_in_step_form_are_recognised(with_time_axis: bool, names: bool) -> None:
    keras = import_keras()
    model = step_form(with_time_axis=with_time_axis, names=names)
    agent = agent_from_model(model, OBSERVATION, ACTION)
    assert agent.states == (StateSpec("h", (8,)), StateSpec("c", (8,)))
    assert agent.input_names == ("observation", "h", "c")
    assert agent.output_names == ("action", "h_next", "c_next")
    whole = keras.Sequential([keras.Input((None, 4)), keras.layers.LSTM(8), keras.layers.Dense(3)])
    whole.set_weights(model.get_weights())
    observations = np.random.default_rng(0).normal(size=(NUM_EPISODES, NUM_STEPS, 4)).astype(np.float32)
    stepped = steps(agent, observations)
    np.testing.assert_allclose(stepped[:, -1], last_step(whole, observations), rtol=1e-5, atol=2e-6)


def cells_by_hand() -> Any:
    """Build a model of one step from a cell."""
    keras = import_keras()
    keras.utils.set_random_seed(9)
    x, state = keras.Input((4,), name="obs"), keras.Input((6,), name="memory")
    out, (following,) = keras.layers.GRUCell(6)(x, [state])
    return keras.Model([x, state], [keras.layers.Dense(3)(out), following])


def test_cells_called_by_hand_are_a_step_form_and_stay_one_in_a_saved_model(tmp_path: Any) -> None:
    model = cells_by_hand()
    agent = agent_from_model(model, OBSERVATION, ACTION)
    assert agent.states == (StateSpec("memory", (6,)),)
    observations = np.random.default_rng(0).normal(size=(2, 10, 4)).astype(np.float32)
    model.export(tmp_path / "policy", format="tf_saved_model", verbose=False)
    saved = load_agent(tmp_path / "policy", OBSERVATION, ACTION)
    assert saved.states == agent.states
    np.testing.assert_allclose(steps(saved, observations), steps(agent, observations), rtol=1e-5, atol=1e-6)


def test_loops_in_saved_models_are_told_the_way_that_works(tmp_path: Any) -> None:
    lstm().export(tmp_path / "policy", format="tf_saved_model", verbose=False)
    with pytest.raises(AgentError, match=r"runs a loop.*Save the model as \.keras instead"):
        load_agent(tmp_path / "policy", OBSERVATION, ACTION)


def test_states_are_named_after_their_layers_once_each() -> None:
    names = [state.name for state in agent_from_model(nested(), OBSERVATION, ACTION).states]
    assert names == ["gru_state", "gru_2_state"]
    (h, c) = agent_from_model(lstm(), OBSERVATION, ACTION).states
    assert (h.name.rpartition("_")[2], c.name.rpartition("_")[2], h.shape) == ("h", "c", (8,))
    (leaky,) = agent_from_model(custom_cell(), OBSERVATION, ACTION).states
    assert leaky.initial == 0.25


def test_windows_of_stacked_frames_are_unrolled_without_state() -> None:
    layers = import_keras().layers
    model = sequential(layers.GRU(6, return_sequences=True), layers.LSTM(5), layers.Dense(3), shape=(5, 4))
    space = gymnasium.spaces.Box(-5.0, 5.0, (5, 4), np.float32)
    agent = agent_from_model(model, space, ACTION)
    assert agent.states == ()
    windows = np.random.default_rng(0).normal(size=(7, 5, 4)).astype(np.float32)
    found = np.asarray(concrete_function(agent, 7)(import_tensor(windows)))
    np.testing.assert_allclose(found, np.asarray(model(windows)), rtol=1e-5, atol=2e-6)


def test_files_of_recurrent_models_load(tmp_path: Any) -> None:
    model = gru_after()
    model.save(tmp_path / "gru.keras")
    agent = load_agent(tmp_path / "gru.keras", OBSERVATION, ACTION)
    observations = np.random.default_rng(0).normal(size=(2, 10, 4)).astype(np.float32)
    np.testing.assert_allclose(
        steps(agent, observations)[:, -1], last_step(model, observations), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (lambda k: [k.layers.Bidirectional(k.layers.LSTM(4))], r"\(Bidirectional\) .*several steps"),
        (lambda k: [k.layers.LSTM(4, go_backwards=True)], r"\(LSTM\) reads the sequence from its end"),
        (
            lambda k: [k.layers.Conv1D(4, 3, padding="same"), k.layers.LSTM(4)],
            r"\(Conv1D\) may look at several",
        ),
        (
            lambda k: [k.layers.LSTM(4, return_sequences=True), k.layers.GlobalMaxPooling1D()],
            "GlobalMaxPooling1D",
        ),
        (lambda k: [k.layers.Masking(), k.layers.LSTM(4)], r"\(Masking\) leaves steps of a sequence out"),
    ],
    ids=["bidirectional", "backwards", "convolution", "pooling", "masking"],
)
def test_what_looks_at_several_steps_is_refused_by_layer(layers: Callable[[Any], Any], says: str) -> None:
    keras = import_keras()
    model = keras.Sequential([keras.Input((None, 4)), *layers(keras), keras.layers.Dense(3)])
    with pytest.raises(AgentError, match=says) as caught:
        agent_from_model(model, OBSERVATION, ACTION)
    assert "TimeDistributed" in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 1, 4), (5, 1)])
def test_constants_along_time_are_refused(shape: tuple[int, ...]) -> None:
    keras = import_keras()
    x = keras.Input(batch_shape=(1, 5, 4))
    scaled = keras.ops.multiply(x, np.ones(shape, np.float32))
    out = keras.layers.Dense(3)(keras.layers.LSTM(4, stateful=True)(scaled))
    with pytest.raises(AgentError, match=r"\(Multiply\) has numbers that differ from step to step"):
        agent_from_model(keras.Model(x, out), OBSERVATION, ACTION)


def test_subclassed_models_of_sequences_are_told_to_become_functional() -> None:
    keras = import_keras()

    class Remembering(keras.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = keras.layers.LSTM(4), keras.layers.Dense(3)

        def call(self, observation: Any) -> Any:
            return self.out(self.lstm(observation))

    model = Remembering()
    model(np.zeros((1, 5, 4), np.float32))
    with pytest.raises(AgentError, match="does not take observations of shape"):
        agent_from_model(model, OBSERVATION, ACTION)


def test_user_model_is_left_as_it_was() -> None:
    model = stacked_layers()
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    config, weights = model.to_json(), model.get_weights()
    agent_from_model(model, OBSERVATION, ACTION)
    assert nodes == [len(layer._inbound_nodes) for layer in model.layers]
    assert config == model.to_json()
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def import_tensor(values: Any) -> Any:
    from edgeqrl.agents.tensorflow_runtime import import_tensorflow

    return import_tensorflow().convert_to_tensor(values)


def steps(agent: Agent, observations: Any) -> Any:
    """Return the first output [N, T, n] of an agent that goes through observations [N, T, ...]."""
    count = len(observations)
    function = concrete_function(agent, count)
    states = [np.full((count, *state.shape), state.initial, np.float32) for state in agent.states]
    outputs = []
    for t in range(observations.shape[1]):
        output, *states = function(*map(import_tensor, (observations[:, t], *states)))
        outputs.append(np.asarray(output))
    return np.stack(outputs, axis=1)


def last_step(model: Any, observations: Any) -> Any:
    """Return what Keras computes for the last step of sequences [N, T, ...]."""
    result = np.asarray(model(observations))
    return result[:, -1] if result.ndim == 3 else result


def test_a_sequence_that_begins_with_another_layers_state_is_refused() -> None:
    """Keras begins the second layer's sequence with it once; a step cannot take it in every time."""
    keras = import_keras()
    layers = keras.layers
    sequence = keras.Input((None, 4))
    values, state = layers.GRU(5, return_sequences=True, return_state=True)(sequence)
    decoded = layers.GRU(5, name="decoder")(values, initial_state=state)
    model = keras.Model(sequence, layers.Dense(3)(decoded))
    with pytest.raises(AgentError, match=r"'decoder' .* begins its sequence with a state that is no input"):
        agent_from_model(model, OBSERVATION, ACTION)


def test_what_is_made_of_a_state_that_comes_in_may_begin_a_step() -> None:
    keras = import_keras()
    layers = keras.layers
    step, state = keras.Input((None, 4), name="observation"), keras.Input((5,), name="h")
    values, following = layers.GRU(5, return_state=True)(step, initial_state=state * 0.5)
    agent = agent_from_model(
        keras.Model([step, state], [layers.Dense(3)(values), following]), OBSERVATION, ACTION
    )
    assert agent.states == (StateSpec("h", (5,)),)
    rng = np.random.default_rng(0)
    observation, before = rng.normal(size=(2, 1, 4)), rng.normal(size=(2, 5))
    wanted = agent.original([observation, before], training=False)
    found = agent.model([observation[:, 0].astype(np.float32), before.astype(np.float32)], training=False)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
