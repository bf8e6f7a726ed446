"""The stage from agent to integers, with the real converter in its own process."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.from_keras import agent_from_model
from edgeqrl.agents.heads import DiscreteHead
from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.backends.keras import KerasPolicy
from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.backends.reference import open_network
from edgeqrl.calibrate import CalibrationSet, calibrate
from edgeqrl.errors import ConverterError, DataError, UnsupportedOperatorError, UsageError
from edgeqrl.network.edges import AffineEdge, ArgmaxEdge
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.read_tflite import parse_tflite
from edgeqrl.quantize.frozen import freeze
from edgeqrl.quantize.quantize import QuantizedPolicy, quantize
from edgeqrl.quantize.scheme import SCHEMES, Scheme, require_scheme
from edgeqrl.quantize.tflite import Converter
from edgeqrl.rollout import rollout
from tests.oracles import require_equal

BARE = Scheme(rewrites=False)


def make_cartpole() -> Any:
    return gymnasium.make("CartPole-v1")


def recorded(observations: Any) -> CalibrationSet:
    values = np.asarray(observations, np.float32)
    return CalibrationSet(values, "recorded", (), (), len(values))


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    with Converter() as running:
        yield running


@pytest.fixture(scope="module")
def value_agent() -> Agent:
    """A Q-network as DQN makes them: values near 95, and little between the two actions.

    Its hidden units see the pole falling left or right, and 14 random directions that only move the
    value that both actions share.
    """
    keras = import_keras()
    rng = np.random.default_rng(0)
    falling = np.array([0.1, 0.3, 1.0, 0.5])
    shared = rng.normal(size=(4, 14))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(2)])
    values = np.repeat(rng.normal(size=(14, 1)), 2, axis=1)
    advantage = np.array([[-0.25, 0.25], [0.25, -0.25]])
    model.layers[0].set_weights([np.column_stack([falling, -falling, shared]), rng.normal(0, 0.05, 16)])
    model.layers[0].bias.assign(np.r_[0.0, 0.0, rng.normal(0, 0.05, 14)])
    model.layers[1].set_weights([np.vstack([advantage, values]), np.full(2, 95.0)])
    env = make_cartpole()
    return agent_from_model(model, env.observation_space, env.action_space, name="value")


@pytest.fixture(scope="module")
def calibration(value_agent: Agent) -> CalibrationSet:
    policy = KerasPolicy(value_agent)
    return calibrate(policy, make_cartpole, env_id="CartPole-v1", num_episodes=8, num_states=500)


def mean_return(quantized: QuantizedPolicy) -> float:
    policy = quantized.integer_policy()
    network = open_network(quantized.tflite)
    played = NetworkPolicy(network, policy.observation, policy.action, "reference")
    return float(rollout(played, make_cartpole, range(20_000, 20_030)).episode_returns.mean())


def test_rewrites_and_correction_save_a_value_head_that_bare_int8_ruins(
    value_agent: Agent, calibration: CalibrationSet, converter: Converter
) -> None:
    assert calibration.episode_returns == (500.0,) * 8
    bare = mean_return(quantize(value_agent, calibration, scheme=BARE, converter=converter))
    full = mean_return(quantize(value_agent, calibration, converter=converter))
    assert bare < 400.0
    assert full == 500.0


def test_quantized_policy_is_standard_int8_and_names_what_it_came_from(
    value_agent: Agent, calibration: CalibrationSet, converter: Converter
) -> None:
    weights = [np.array(w) for w in value_agent.model.weights]
    quantized = quantize(value_agent, calibration, converter=converter)
    model = parse_tflite(quantized.tflite)
    source, target = model.tensors[model.inputs[0]], model.tensors[model.outputs[0]]
    assert (source.dtype, source.shape, target.dtype, target.shape) == ("INT8", (1, 4), "INT8", (1, 2))
    assert [op.name for op in model.operators] == ["FULLY_CONNECTED", "FULLY_CONNECTED"]
    assert len(model.tensors[model.operators[0].inputs[1]].scales) == 16, "per channel"
    assert quantized.applied_rewrites == ("centre_head",)
    assert quantized.name == "value"
    assert quantized.head == DiscreteHead(2)
    assert quantized.calibration_sha256 == calibration.sha256
    assert quantized.agent_sha256 == value_agent.source_sha256
    assert quantized.integer_policy().action == ArgmaxEdge(2)
    assert quantized.integer_policy(is_masked=True).action == ArgmaxEdge(2, is_masked=True)
    for old, new in zip(weights, value_agent.model.weights, strict=True):
        np.testing.assert_array_equal(old, np.array(new))


def test_the_same_input_gives_the_same_bytes(
    value_agent: Agent, calibration: CalibrationSet, converter: Converter
) -> None:
    first = quantize(value_agent, calibration, converter=converter)
    second = quantize(value_agent, calibration, converter=converter)
    assert (first.tflite, first.float_tflite) == (second.tflite, second.float_tflite)


def test_float_tflite_acts_as_the_agent(
    value_agent: Agent, calibration: CalibrationSet, converter: Converter
) -> None:
    quantized = quantize(value_agent, calibration, converter=converter)
    exact = KerasPolicy(value_agent).outputs(calibration.observations)
    reference = FloatReference(quantized.float_tflite)
    (name,) = reference.inputs
    (outputs,) = reference.run({name: calibration.observations}).values()
    np.testing.assert_allclose(outputs, exact - exact.mean(axis=1, keepdims=True), atol=2e-4)


def test_box_actions_come_out_in_the_units_of_the_space(converter: Converter) -> None:
    keras = import_keras()
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((2, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(8, "relu"),
            keras.layers.Dense(2, "tanh"),
        ]
    )
    space = gymnasium.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
    agent = agent_from_model(model, gymnasium.spaces.Box(-3, 3, (2, 3)), space)
    values = np.random.default_rng(0).uniform(-3, 3, (300, 2, 3)).astype(np.float32)
    quantized = quantize(agent, recorded(values), converter=converter)
    policy = quantized.integer_policy()
    assert isinstance(policy.action, AffineEdge)
    assert quantized.applied_rewrites == ()
    start = np.ones(300, bool)
    network = open_network(quantized.tflite)
    actions, _ = NetworkPolicy(network, policy.observation, policy.action, "reference").act(
        values, None, episode_start=start
    )
    exact, _ = KerasPolicy(agent).act(values, None, episode_start=start)
    assert np.abs((actions - exact) / np.array([4.0, 10.0])).mean() < 0.01


@pytest.mark.parametrize(("activation", "operator"), [("selu", "GREATER"), ("softsign", "DIV")])
def test_operators_left_over_are_refused_by_name(
    activation: str, operator: str, converter: Converter
) -> None:
    keras = import_keras()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation), keras.layers.Dense(2)])
    env = make_cartpole()
    agent = agent_from_model(model, env.observation_space, env.action_space)
    values = np.random.default_rng(0).normal(size=(50, 4))
    with pytest.raises(UnsupportedOperatorError, match=f"^{operator} at "):
        quantize(agent, recorded(values), converter=converter)


@pytest.mark.parametrize(
    "kind", ["elu", "silu", "layer_norm", "trailing", "normalized", "dueling", "middle_softmax"]
)
def test_what_the_converter_leaves_as_operators_of_their_own_equals_tflm(
    kind: str, converter: Converter
) -> None:
    keras = import_keras()
    layers = keras.layers
    x = keras.Input((4,))
    activation = {"middle_softmax": "softmax", "elu": "elu", "silu": "silu"}.get(kind, "relu")
    hidden = layers.Dense(8, activation)(x)
    if kind == "layer_norm":
        hidden = layers.LayerNormalization()(hidden)
    if kind == "normalized":
        hidden = layers.Dense(8, "relu")(layers.Normalization(mean=[1.0] * 8, variance=[4.0] * 8)(hidden))
    out = layers.Dense(2, "tanh" if kind == "trailing" else None)(hidden)
    if kind == "trailing":
        out = layers.Rescaling(2.0)(out)
    if kind == "dueling":
        out = layers.Dense(1)(hidden) + out - keras.ops.mean(out, axis=-1, keepdims=True)
    env = make_cartpole()
    agent = agent_from_model(keras.Model(x, out), env.observation_space, env.action_space)
    values = recorded(np.random.default_rng(0).normal(size=(50, 4)))
    tflite = quantize(agent, values, scheme=BARE, converter=converter).tflite
    assert len(parse_tflite(tflite).operators) > 2
    inputs = np.random.default_rng(1).integers(-128, 128, (200, 4)).astype(np.int8)
    assert require_equal("tflm", [(tflite, [inputs])]) == 400
    if kind == "normalized":
        quantized = quantize(agent, values, converter=converter)
        assert quantized.applied_rewrites == ("fold_normalization", "centre_head")
        assert [op.name for op in parse_tflite(quantized.tflite).operators] == ["FULLY_CONNECTED"] * 3


def test_biases_of_networks_that_are_no_chains_of_dense_layers_stay_as_they_are(converter: Converter) -> None:
    """And the scheme says so, since reports print it."""
    keras = import_keras()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "silu"), keras.layers.Dense(2)])
    env = make_cartpole()
    agent = agent_from_model(model, env.observation_space, env.action_space)
    quantized = quantize(agent, recorded(np.ones((9, 4))), converter=converter)
    assert str(quantized.scheme) == "int8 with rewrites"


def test_a_final_softmax_is_dropped_except_by_the_bare_converter(converter: Converter) -> None:
    keras = import_keras()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    env = make_cartpole()
    agent = agent_from_model(model, env.observation_space, env.action_space)
    values = recorded(np.random.default_rng(0).normal(size=(50, 4)))
    quantized = quantize(agent, values, converter=converter)
    assert quantized.applied_rewrites == ("drop_softmax", "centre_head")
    bare = quantize(agent, values, scheme=BARE, converter=converter)
    assert parse_tflite(bare.tflite).operators[-1].name == "SOFTMAX"


def test_calibration_of_another_agent_is_refused(value_agent: Agent, converter: Converter) -> None:
    with pytest.raises(DataError, match="takes \\(4,\\)"):
        quantize(value_agent, recorded(np.zeros((5, 8))), converter=converter)


def test_policy_that_does_not_fit_its_network_is_refused(
    value_agent: Agent, calibration: CalibrationSet, converter: Converter
) -> None:
    made = quantize(value_agent, calibration, converter=converter)
    wrong = QuantizedPolicy(made.tflite, made.float_tflite, DiscreteHead(5), made.scheme, (4,), "x", "", "")
    with pytest.raises(DataError, match="returns 2"):
        wrong.integer_policy()


def test_a_graph_that_cannot_be_converted_is_one_sentence(value_agent: Agent, converter: Converter) -> None:
    graph = freeze(value_agent)
    node = next(node for node in graph.graph_def.node if node.op == "Relu")
    node.op = "NoSuchOperator"
    with pytest.raises(ConverterError, match="NoSuchOperator") as caught:
        converter.convert(graph, np.zeros((1, 4), np.float32))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConverterError, match="at least one observation"):
        converter.convert(freeze(value_agent), np.zeros((0, 4), np.float32))


def test_a_dead_converter_is_one_sentence_and_closing_a_busy_one_is_quick(value_agent: Agent) -> None:
    graph = freeze(value_agent)
    with Converter() as dead:
        os.kill(dead._worker._process.pid, signal.SIGSEGV)
        with pytest.raises(ConverterError, match="by signal SIGSEGV"):
            dead.convert(graph, np.zeros((1, 4), np.float32))
    busy = Converter()  # still importing
    started = time.monotonic()
    busy.close()
    assert time.monotonic() - started < 1.0
    with pytest.raises(ConverterError, match="closed"):
        busy.convert(graph, np.zeros((1, 4), np.float32))


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_are_json_and_back(name: str) -> None:
    assert Scheme.from_json(require_scheme(name).to_json()) == require_scheme(name)
    assert str(require_scheme(name)).startswith("int8")


def test_bare_scheme_corrects_nothing() -> None:
    assert BARE == Scheme(rewrites=False, bias_correction=False) == SCHEMES["int8-bare"]
    assert str(SCHEMES["int8"]) == "int8 with rewrites and bias correction"


@pytest.mark.parametrize("data", [{}, {"rewrites": True}, {"rewrites": 1, "bias_correction": True}, []])
def test_damaged_schemes_are_refused(data: Any) -> None:
    with pytest.raises(DataError, match="no quantization scheme"):
        Scheme.from_json(data)


def test_unknown_scheme_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'int8-bare'"):
        require_scheme("int8-bar")
