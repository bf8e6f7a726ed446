"""Agents trained with fake quantization become the integer network that they were trained as."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.agents.from_keras import agent_from_model
from edgeqrl.backends.float_litert import FloatPolicy, open_float_network
from edgeqrl.backends.keras import KerasPolicy
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.diagnose.simulated import NetworkPair, SimulatedPolicy
from edgeqrl.errors import AgentError, UsageError
from edgeqrl.network.edges import quantize_observations
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.memory import FrameStack
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.quantize import QuantizedPolicy, quantize
from edgeqrl.quantize.scheme import SCHEMES, Scheme
from edgeqrl.quantize.tflite import Converter
from edgeqrl.quantize.trained import is_fake_quantized, require_trained_scheme, trained_scheme
from edgeqrl.quantize.weights_file import read_weights
from tests.oracles import many_answers, require_module

require_module("tensorflow")

import gymnasium as gym  # noqa: E402
import keras  # noqa: E402

from edgeqrl.fake_quant import fake_quantize  # noqa: E402
from edgeqrl.fake_quant.quantizers import fixed_grid  # noqa: E402

RNG = np.random.default_rng(11)
ROWS = (RNG.normal(size=(300, 5)) * np.geomspace(0.1, 5.0, 5)).astype(np.float32)
IMAGES = RNG.uniform(0, 1, (40, 8, 8, 2)).astype(np.float32)
BOX, CHOICE = gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Discrete(3)


def dense(last: str | None = "tanh", units: int = 2) -> Any:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(24, activation="relu", name="first", bias_initializer="glorot_normal"),
            keras.layers.Dense(24, activation="tanh", name="second", bias_initializer="random_normal"),
            keras.layers.Dense(units, activation=last, name="last", use_bias=False),
        ]
    )


def image() -> Any:
    keras.utils.set_random_seed(4)
    given = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(given)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu6", name="depthwise")(x)
    x = keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(x))
    return keras.Model(given, keras.layers.Dense(3, name="head")(x))


# name -> (model, observations, action space, options of fake_quantize)
CASES: Mapping[str, tuple[Any, NDArray[np.float32], Any, dict[str, Any]]] = {
    "3 bits": (dense, ROWS, BOX, {"weight_bits": 3, "inputs": "per_feature"}),
    "2 bits": (lambda: dense("linear"), ROWS, BOX, {"weight_bits": 2, "layer_bits": {"last": 4}}),
    "16 bits": (dense, ROWS, BOX, {"weight_bits": 4, "activation_bits": 16}),
    "wide input": (dense, ROWS, BOX, {"weight_bits": 4, "input_bits": 16, "inputs": "per_feature"}),
    "choice": (lambda: dense("softmax", 3), ROWS, CHOICE, {"weight_bits": 3, "inputs": "per_feature"}),
    "image": (image, IMAGES, CHOICE, {"weight_bits": 4}),
}


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    with Converter() as running:
        yield running


def make_agent(model: Any, observations: NDArray[np.float32], actions: Any) -> Any:
    space = gym.spaces.Box(-100.0, 100.0, observations.shape[1:])
    return agent_from_model(model, space, actions)


def calibration(observations: NDArray[np.float32]) -> CalibrationSet:
    return CalibrationSet(observations, "recorded", (), (), len(observations))


@pytest.fixture(scope="module")
def made(converter: Converter) -> dict[str, tuple[Any, Any, QuantizedPolicy]]:
    found = {}
    for name, (build, observations, actions, options) in CASES.items():
        model = fake_quantize(build(), samples=observations, **options)
        agent = make_agent(model, observations, actions)
        found[name] = (model, agent, quantize(agent, calibration(observations), converter=converter))
    return found


def real(values: NDArray[Any], tensor: Any) -> NDArray[np.float32]:
    return ((values.astype(np.float64) - tensor.zero_point) * tensor.scale).astype(np.float32)


def of_keras(layer: Any, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a fake-quantized layer gives, but for the function that TensorFlow Lite computes apart."""
    kind = layer.activation_name
    whole = np.asarray(layer(inputs))
    if kind not in ("tanh", "softmax"):
        return whole
    plain = keras.models.clone_model(keras.Sequential([keras.Input(inputs.shape[1:]), layer])).layers[0]
    plain.set_weights(layer.get_weights())
    plain.activation, plain.activation_name = keras.activations.linear, "linear"
    return np.asarray(plain(inputs))


@pytest.mark.parametrize("name", CASES)
def test_each_layer_gives_what_it_was_trained_to_but_for_one_step(made: Any, name: str) -> None:
    model, _, policy = made[name]
    observations = CASES[name][1]
    network, integer = read_tflite(policy.tflite), policy.integer_policy()
    source = network.tensors[network.inputs[0]]
    steps = quantize_observations(integer.observation, observations)[0]
    values = {network.inputs[0]: steps.reshape(len(steps), *source.shape)}
    entrance = np.asarray(model.get_layer("input_quantizer")(observations)).reshape(steps.shape)
    assert np.abs(real(steps, source) - entrance).max() <= 1.01 * source.scale
    trained = [layer for layer in model.layers if hasattr(layer, "quantizer")]
    compared = 0
    for layer in network.layers:
        target, taken = (network.tensors[n] for n in (layer.output, layer.inputs[0]))
        values[layer.output] = layer.run([values[n] for n in layer.inputs], network.tensors)
        inputs = real(values[layer.inputs[0]], taken)
        if hasattr(layer, "weights"):
            keras_layer = trained[compared]
            wide = network.tensors[layer.output].dtype == "int16" and keras_layer.quantizer.bits == 8
            rank = 2 if type(keras_layer).__name__ == "FakeQuantDense" else 4
            exact = of_keras(keras_layer, inputs.reshape(len(inputs), -1) if rank == 2 else inputs)
            compared += 1
            step = keras_layer.quantizer.step
            if not wide:  # of a wide input the sums have 16 bits before they have 8
                assert target.scale == pytest.approx(step, rel=1e-6)
                assert target.zero_point == (
                    0 if target.dtype == "int16" else -128 - keras_layer.quantizer.levels.low
                )
        elif target.scale in (2.0**-7, 2.0**-15):
            exact = np.asarray(fixed_grid(np.tanh(inputs), "tanh", keras_layer.quantizer.bits))
            step = target.scale * (3 if target.dtype == "int16" else 1)  # TensorFlow Lite's own tanh errs so
        else:
            continue
        found = real(values[layer.output], target).reshape(exact.shape)
        assert np.abs(found - exact).max() <= 1.01 * step, layer
    assert compared == len(trained)


@pytest.mark.parametrize("name", CASES)
def test_weights_are_the_trained_integers(made: Any, name: str) -> None:
    model, _, policy = made[name]
    trained = [layer.integers() for layer in model.layers if hasattr(layer, "quantizer")]
    for (integers, steps), layer in zip(trained, read_weights(policy.tflite).values(), strict=True):
        rows = integers.reshape(-1, steps.size).T
        np.testing.assert_array_equal(layer.rows(), rows)
        np.testing.assert_array_equal(layer.scales, steps.ravel())


@pytest.mark.parametrize("name", CASES)
def test_the_float_network_rounds_as_the_agent_does(made: Any, name: str) -> None:
    _, agent, policy = made[name]
    observations = CASES[name][1]
    (inputs,) = policy.preprocessing.inputs(observations)[0]
    reference = FloatReference(policy.float_tflite)
    (given,) = reference.run({next(iter(reference.inputs)): inputs}).values()
    with open_float_network(policy.float_tflite) as network:
        (by_runtime,) = network.run({next(iter(network.inputs)): inputs}).values()
    exact = np.asarray(agent.model(observations)).reshape(given.shape)
    span = np.ptp(exact)
    for found in (given, by_runtime.reshape(given.shape)):  # a sum on the edge of two steps goes either way
        assert (np.abs(found - exact) > 1e-4 * span).mean() < 0.02
        assert np.abs(found - exact).max() < 0.15 * span


def test_actions_are_those_of_the_agent(made: Any) -> None:
    for name, (_, observations, _, _) in CASES.items():
        _, agent, policy = made[name]
        start = np.ones(len(observations), np.bool_)
        wanted, _ = KerasPolicy(agent).act(observations, None, episode_start=start)
        with open_float_network(policy.float_tflite) as network:
            twin = FloatPolicy(network, policy.head, policy.preprocessing)
            found, _ = twin.act(observations, None, episode_start=start)
        assert np.mean(np.isclose(found, wanted, atol=1e-4)) > 0.97


def test_the_oracle_computes_the_same(made: Any) -> None:
    names = ("3 bits", "2 bits", "image")
    files = [made[name][2].tflite for name in names]
    cases = []
    for data in files:
        tensor = read_tflite(data).tensors[read_tflite(data).inputs[0]]
        cases.append((data, [RNG.integers(-128, 128, (50, *tensor.shape)).astype(np.int8)]))
    for (data, inputs), theirs in zip(cases, many_answers("tflm", cases), strict=True):
        network = read_tflite(data)
        (ours,) = Reference(network).run({network.inputs[0]: inputs[0]}).values()
        np.testing.assert_array_equal(ours, np.asarray(theirs[0]).reshape(ours.shape))


def test_the_scheme_says_what_was_trained(made: Any) -> None:
    labels = {name: policy.scheme.label for name, (_, _, policy) in made.items()}
    assert labels["3 bits"] == labels["choice"] == "w3a8 learned"
    assert labels["2 bits"].startswith("w2a8 ")
    assert labels["2 bits"].endswith(":w4 learned")
    assert (labels["16 bits"], labels["wide input"]) == ("w4a16 learned", "w4a8 wide=input learned")
    assert all(policy.applied_rewrites == () for _, _, policy in made.values())
    assert trained_scheme(made["3 bits"][1]) == made["3 bits"][2].scheme
    plain = make_agent(dense(), ROWS, BOX)
    assert not is_fake_quantized(plain)
    assert trained_scheme(plain) is None


def test_another_scheme_is_refused_and_its_own_is_not(made: Any, converter: Converter) -> None:
    for name in ("2 bits", "3 bits"):
        _, agent, policy = made[name]
        again = quantize(agent, calibration(ROWS), scheme=policy.scheme, converter=converter)
        assert again.tflite == policy.tflite
    stated = Scheme(layer_bits=(("first", 4),))
    for scheme in (SCHEMES["w4a8"], SCHEMES["int16x8"], Scheme(), Scheme(learned=True), stated):
        with pytest.raises(UsageError, match=r"trained with fake quantization as w3a8.*Leave out --scheme"):
            quantize(agent, calibration(ROWS), scheme=scheme, converter=converter)
        if scheme != stated:  # whose layers are known in the network alone
            with pytest.raises(UsageError, match="Leave out --scheme"):
                require_trained_scheme(agent, scheme)
    require_trained_scheme(agent, policy.scheme)


def test_what_has_no_trained_grid_is_refused(converter: Converter) -> None:
    unset = make_agent(fake_quantize(dense()), ROWS, BOX)
    with pytest.raises(AgentError, match="range was never set: call the model with training=True"):
        quantize(unset, calibration(ROWS), converter=converter)
    twin = fake_quantize(dense(), samples=ROWS)
    mixed = keras.Sequential([*twin.layers[:-1], keras.layers.Dense(2, name="plain")])
    mixed(ROWS)
    with pytest.raises(AgentError, match="layer 'plain' of 'policy' is not fake-quantized"):
        quantize(make_agent(mixed, ROWS, BOX), calibration(ROWS), converter=converter)
    bare = keras.Sequential([keras.Input((5,)), *twin.layers[1:]])
    with pytest.raises(AgentError, match="needs one FakeQuantInput"):
        quantize(make_agent(bare, ROWS, BOX), calibration(ROWS), converter=converter)
    diverged = fake_quantize(dense(), samples=ROWS)
    diverged.get_layer("first").quantizer.log_step.assign(60.0)
    with pytest.raises(AgentError, match=r"layer 'first': its step of .* training diverged"):
        quantize(make_agent(diverged, ROWS, BOX), calibration(ROWS), converter=converter)


def test_stacked_frames_take_one_range_only(made: Any, converter: Converter) -> None:
    _, agent, _ = made["3 bits"]
    frames = Preprocessing(Preprocessing.plain((1,)).parts, FrameStack(5, axis=-1, is_new_axis=False))
    stacked = replace(agent, preprocessing=frames)
    inputs = {"observation": ROWS}
    recorded = replace(calibration(ROWS[:, :1]), inputs=inputs)
    with pytest.raises(AgentError, match="Train it with inputs='per_tensor'"):
        quantize(stacked, recorded, converter=converter)


def test_diagnosis_finds_the_twins(made: Any) -> None:
    for name in ("3 bits", "2 bits", "choice"):
        _, _, policy = made[name]
        pair = NetworkPair(policy.float_tflite, policy.tflite, policy.preprocessing.parts[0])
        assert [part.operator for part in pair.parts[1:]] == ["FULLY_CONNECTED"] * 3
        simulated = SimulatedPolicy(pair, policy.head).outputs(ROWS)
        network = read_tflite(policy.tflite)
        steps = quantize_observations(policy.integer_policy().observation, ROWS)[0]
        shape = network.tensors[network.inputs[0]].shape
        (outputs,) = Reference(network).run({network.inputs[0]: steps.reshape(-1, *shape)}).values()
        tensor = network.tensors[network.outputs[0]]
        np.testing.assert_allclose(simulated, real(outputs, tensor).reshape(simulated.shape), atol=1e-6)
