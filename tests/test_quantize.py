"""The stage from agent to integers, with the real converter in its own process."""

import os
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.from_keras import agent_from_model
from edgeqrl.agents.heads import DiscreteHead
from edgeqrl.agents.options import AgentOptions
from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.backends.keras import KerasPolicy
from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.backends.reference import open_network
from edgeqrl.backends.worker import Worker
from edgeqrl.calibrate import CalibrationSet, calibrate
from edgeqrl.errors import ConverterError, DataError, UnsupportedOperatorError
from edgeqrl.network.edges import AffineEdge, ArgmaxEdge
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.parts import ObservationPart
from edgeqrl.network.read_tflite import parse_tflite
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize import tflite
from edgeqrl.quantize.error_estimate import ErrorEstimate
from edgeqrl.quantize.frozen import freeze
from edgeqrl.quantize.quantize import QuantizedPolicy, quantize
from edgeqrl.quantize.samples import network_samples, run_both
from edgeqrl.quantize.scheme import Scheme, require_scheme
from edgeqrl.quantize.tflite import Converter
from edgeqrl.quantize.weights_file import read_weights
from edgeqrl.rollout import rollout
from tests.oracles import require_equal

BARE = require_scheme("int8-bare")


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
    played = NetworkPolicy(network, policy, "reference")
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
    assert quantized.applied_rewrites[0] == "centre_head"
    assert quantized.name == "value"
    assert quantized.head == DiscreteHead.single(2)
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
    (given,), _ = quantized.preprocessing.inputs(calibration.observations)
    (outputs,) = reference.run({name: given}).values()
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
    start = np.ones(300, bool)
    network = open_network(quantized.tflite)
    actions, _ = NetworkPolicy(network, policy, "reference").act(values, None, episode_start=start)
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
        assert quantized.applied_rewrites[:2] == ("fold_normalization", "centre_head")
        assert [op.name for op in parse_tflite(quantized.tflite).operators] == ["FULLY_CONNECTED"] * 3


def test_a_network_that_is_no_chain_of_dense_layers_is_corrected_too(converter: Converter) -> None:
    keras = import_keras()
    dense = partial(keras.layers.Dense, bias_initializer="uniform")
    model = keras.Sequential([keras.Input((4,)), dense(8, "silu"), dense(2)])
    env = make_cartpole()
    agent = agent_from_model(model, env.observation_space, env.action_space)
    quantized = quantize(agent, recorded(np.random.default_rng(0).normal(size=(90, 4))), converter=converter)
    assert quantized.scheme.bias_correction


@pytest.mark.parametrize("activations", ["int8", "int16"])
def test_layers_without_a_bias_are_corrected_too(activations: str, converter: Converter) -> None:
    keras = import_keras()
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Conv2D(4, 3, use_bias=False),
        keras.layers.DepthwiseConv2D(2, use_bias=False, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(2, use_bias=False),
    ]
    space = gymnasium.spaces.Box(-3.0, 3.0, (6, 6, 2))
    model = keras.Sequential([keras.Input((6, 6, 2)), *layers])
    agent = agent_from_model(model, space, gymnasium.spaces.Discrete(2))
    values = np.random.default_rng(0).normal(size=(90, 6, 6, 2)).clip(-3, 3)
    made = quantize(
        agent, recorded(values), scheme=Scheme(weight_bits=3, activations=activations), converter=converter
    )
    assert made.scheme.bias_correction
    biases = [layer.bias for layer in read_weights(made.tflite).values()]
    assert len(biases) == 3
    assert all(bias is not None and np.any(bias) for bias in biases)
    kind = np.dtype(activations)
    inputs = np.random.default_rng(1).integers(-127, 128, (50, 72)).astype(kind)
    for runtime in ("tflm", "tflite-runtime"):
        assert require_equal(runtime, [(made.tflite, [inputs])]) == 100
    policy, starts = made.integer_policy(), np.ones(90, np.bool_)
    (in_c, _), (reference, _) = (
        opened.act(values.astype(np.float32), None, episode_start=starts)
        for opened in (
            HostCPolicy(policy),
            NetworkPolicy(open_network(made.tflite), policy, "reference"),
        )
    )
    np.testing.assert_array_equal(in_c, reference)


def test_the_scheme_says_what_was_not_done(converter: Converter) -> None:
    """Of four rows no rounding can be judged."""
    keras = import_keras()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
    env = make_cartpole()
    agent = agent_from_model(model, env.observation_space, env.action_space)
    scheme = quantize(agent, recorded(np.eye(4)), converter=converter).scheme
    assert scheme.rounding == "nearest"


@pytest.mark.parametrize(
    ("scheme", "bits", "is_per_tensor", "activation_bits"),
    [
        (Scheme(), 8, False, 8),
        (Scheme(weight_bits=3), 3, False, 8),
        (Scheme(granularity="per_tensor"), 8, True, 8),
        (Scheme(granularity="per_group", weight_bits=2), 2, False, 8),
        (Scheme(activations="int16"), 8, False, 16),
    ],
)
def test_rewrites_are_weighed_by_the_integers_that_follow(
    scheme: Scheme,
    bits: int,
    is_per_tensor: bool,
    activation_bits: int,
    value_agent: Agent,
    calibration: CalibrationSet,
    converter: Converter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weighed = []

    class Estimate(ErrorEstimate):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            weighed.append(options)
            super().__init__(*arguments, **options)

    monkeypatch.setattr("edgeqrl.quantize.file_rewrites.ErrorEstimate", Estimate)
    quantize(value_agent, calibration, scheme=scheme, converter=converter)
    expected = {"weight_bits": bits, "is_per_tensor": is_per_tensor, "activation_bits": activation_bits}
    assert weighed == [expected]


def test_a_final_softmax_is_dropped_except_by_the_bare_converter(converter: Converter) -> None:
    keras = import_keras()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    env = make_cartpole()
    agent = agent_from_model(model, env.observation_space, env.action_space)
    values = recorded(np.random.default_rng(0).normal(size=(50, 4)))
    quantized = quantize(agent, values, converter=converter)
    assert quantized.applied_rewrites[:2] == ("drop_softmax", "centre_head")
    bare = quantize(agent, values, scheme=BARE, converter=converter)
    assert parse_tflite(bare.tflite).operators[-1].name == "SOFTMAX"


def test_calibration_of_another_agent_is_refused(value_agent: Agent, converter: Converter) -> None:
    with pytest.raises(DataError, match="takes \\(4,\\)"):
        quantize(value_agent, recorded(np.zeros((5, 8))), converter=converter)


def test_policy_that_does_not_fit_its_network_is_refused(
    value_agent: Agent, calibration: CalibrationSet, converter: Converter
) -> None:
    made = quantize(value_agent, calibration, converter=converter)
    plain = Preprocessing.plain((4,))
    wrong = QuantizedPolicy(
        made.tflite, made.float_tflite, DiscreteHead.single(5), made.scheme, plain, "x", "", ""
    )
    with pytest.raises(DataError, match="returns 2"):
        wrong.integer_policy()


@pytest.mark.parametrize(("offset", "bits"), [(1e5, 12), (1e6, 9), (1e8, 2)])
def test_an_offset_that_leaves_few_bits_is_warned_of(
    offset: float, bits: int, value_agent: Agent, calibration: CalibrationSet, converter: Converter
) -> None:
    made = quantize(value_agent, calibration, converter=converter)
    scale = made.integer_policy().observation.scale
    part = ObservationPart("joints", (4,), gain=(1.0,), offset=(offset * scale,))
    policy = replace(made, preprocessing=Preprocessing((part,)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert policy.integer_policy().observation.fraction_bits == bits
    told = f"of observation 'joints' is large for its scale: the device normalises with {bits} bits"
    said = [warning for warning in caught if told in str(warning.message)]
    assert len(said) == int(bits < 6)


def test_a_graph_that_cannot_be_converted_is_one_sentence(value_agent: Agent, converter: Converter) -> None:
    graph = freeze(value_agent)
    node = next(node for node in graph.graph_def.node if node.op == "Relu")
    node.op = "NoSuchOperator"
    with pytest.raises(ConverterError, match="NoSuchOperator") as caught:
        converter.to_float(graph)
    assert "\n" not in str(caught.value)


def test_no_observation_is_one_sentence(value_agent: Agent, converter: Converter) -> None:
    exact = converter.to_float(freeze(value_agent))
    with pytest.raises(ConverterError, match="at least one observation"):
        converter.observe(exact, [np.zeros((0, 4), np.float32)])


def test_a_dead_converter_is_one_sentence_and_closing_a_busy_one_is_quick(
    value_agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tflite, "Worker", Worker)  # a process of its own
    graph = freeze(value_agent)
    with Converter() as dead:
        os.kill(dead._worker._process.pid, signal.SIGSEGV)
        with pytest.raises(ConverterError, match="by signal SIGSEGV"):
            dead.to_float(graph)
    busy = Converter()  # still importing
    started = time.monotonic()
    busy.close()
    assert time.monotonic() - started < 1.0
    with pytest.raises(ConverterError, match="closed"):
        busy.to_float(graph)


def shaped_model(kind: str) -> tuple[Any, tuple[int, ...], AgentOptions | None]:
    """Return a model, its observations' shape, and what is stated of it."""
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(4)
    if kind == "convolution":
        hidden = [layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(8, "relu")]
        return keras.Sequential([keras.Input((6, 6, 2)), *hidden, layers.Dense(2)]), (6, 6, 2), None
    x = keras.Input((4,))
    if kind == "categorical":  # C51: two actions of five atoms
        options = AgentOptions(distribution="categorical", support=(-10.0, 10.0))
        return keras.Model(x, layers.Dense(10)(layers.Dense(8, "relu")(x))), (4,), options
    if kind == "quantiles":
        options = AgentOptions(distribution="quantiles")
        return keras.Model(x, layers.Dense(10)(layers.Dense(8, "relu")(x))), (4,), options
    middle = layers.BatchNormalization() if kind == "batch_norm" else layers.LayerNormalization()
    model = keras.Model(x, layers.Dense(2)(layers.Activation("relu")(middle(layers.Dense(8)(x)))))
    rng = np.random.default_rng(2)
    middle.set_weights([rng.uniform(0.5, 2.0, 8) for _ in middle.get_weights()])
    return model, (4,), None


@pytest.mark.parametrize("kind", ["convolution", "categorical", "quantiles", "batch_norm", "layer_norm"])
def test_layers_of_usual_agents_become_integers_that_equal_tflm_and_choose_alike(
    kind: str, converter: Converter
) -> None:
    model, shape, options = shaped_model(kind)
    space = gymnasium.spaces.Box(-3.0, 3.0, shape)
    agent = agent_from_model(model, space, gymnasium.spaces.Discrete(2), options=options)
    values = np.random.default_rng(0).normal(size=(300, *shape)).astype(np.float32)
    quantized = quantize(agent, recorded(values), converter=converter)
    inputs = np.random.default_rng(1).integers(-128, 128, (100, int(np.prod(shape)))).astype(np.int8)
    assert require_equal("tflm", [(quantized.tflite, [inputs])]) == 200
    policy = quantized.integer_policy()
    starts = np.ones(300, np.bool_)
    found, _ = NetworkPolicy(open_network(quantized.tflite), policy, "reference").act(
        values, None, episode_start=starts
    )
    exact, _ = KerasPolicy(agent).act(values, None, episode_start=starts)
    assert (found == exact).mean() > 0.93


def test_a_tree_of_two_heads_is_corrected_and_its_value_is_not_centred(converter: Converter) -> None:
    keras = import_keras()
    keras.utils.set_random_seed(5)
    x = keras.Input((4,))
    dense = partial(keras.layers.Dense, bias_initializer="uniform")
    hidden = dense(16, "relu")(x)
    heads = [dense(3, name="policy")(hidden), dense(3, name="value")(hidden)]
    values = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    agent = Agent(
        "two",
        keras.Model(x, heads),
        DiscreteHead.single(3),
        Preprocessing.plain((4,)),
        "0" * 64,
        ends_in_tanh=False,
        value_names=("value",),
    )
    quantized = quantize(agent, recorded(values), converter=converter)
    assert quantized.applied_rewrites[0] == "centre_head"
    assert quantized.scheme == Scheme()
    in_float, integers = run_both(quantized, network_samples(quantized, recorded(values)))
    network = quantized.integer_policy().network
    for name, column in zip(network.outputs, agent.model(values, training=False), strict=True):
        tensor, exact = network.tensors[name], np.asarray(column)
        if name == network.outputs[0]:
            exact = exact - exact.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(in_float[name].reshape(exact.shape), exact, atol=1e-4)
        real = (integers[name].astype(np.float64) - tensor.zero_point) * tensor.scale
        assert np.abs((real - exact).mean(axis=0)).max() < 0.5 * tensor.scale, "a mean error is left"


def test_bytes_and_classes_have_the_range_that_they_can_have_whatever_was_met(converter: Converter) -> None:
    keras = import_keras()
    image, index = keras.Input((4,), name="image"), keras.Input((3,), name="index")
    model = keras.Model([image, index], keras.layers.Dense(2)(keras.layers.Concatenate()([image, index])))
    parts = (
        ObservationPart("image", (4,), "uint8", gain=(1 / 255,)),
        ObservationPart("index", (), "int32", one_hot=((0, 3),)),
    )
    agent = Agent("parts", model, DiscreteHead.single(2), Preprocessing(parts), "0" * 64, ends_in_tanh=False)
    rows = {"image": np.full((20, 4), 9, np.uint8), "index": np.zeros(20, np.int32)}
    calibration = CalibrationSet(rows, "recorded", (), (), 20)
    policy = quantize(agent, calibration, converter=converter).integer_policy()
    assert [edge.part.name for edge in policy.observations] == ["image", "index"]
    for edge in policy.observations:
        assert (edge.scale, edge.zero_point) == (pytest.approx(1 / 255, rel=1e-6), -128)
