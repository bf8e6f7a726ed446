"""Some activations at 16 bits among those of 8: which operators change, and that runtimes agree."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.from_keras import agent_from_model
from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.errors import ConverterError, UnsupportedOperatorError, UsageError
from edgeqrl.network.edges import ObservationEdge, quantize_observations
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.read_tflite import parse_tflite, read_tflite
from edgeqrl.network.reference import Reference
from edgeqrl.quantize.frozen import freeze
from edgeqrl.quantize.tflite import Converter
from edgeqrl.quantize.wide import widen
from tests.oracles import require_equal
from tests.step_models import step_agent

Versions = tuple[bytes, bytes, bytes, int]  # int8, 16x8, float; number of states


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    with Converter() as running:
        yield running


def agent_of(kind: str) -> Agent:
    if kind == "gru":
        return step_agent("gru", num_layers=1)
    keras = import_keras()
    keras.utils.set_random_seed(2)
    layers = keras.layers
    if kind == "convolution":
        shape: tuple[int, ...] = (6, 6, 2)
        hidden = [layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(8, "relu")]
        model = keras.Sequential([keras.Input(shape), *hidden, layers.Dense(2)])
    elif kind == "joined":
        shape = (5,)
        x = keras.Input(shape)
        parts = layers.Concatenate()([layers.Dense(3, "tanh", name="seen")(x), x])
        model = keras.Model(x, layers.Dense(2)(layers.Dense(8, "relu")(parts)))
    elif kind == "shared":  # one layer, twice: its two inputs have two scales
        shape = (5,)
        x = keras.Input(shape)
        first, twice, last = (
            layers.Dense(units, activation, bias_initializer="ones")
            for units, activation in ((6, "relu"), (6, "relu"), (2, None))
        )
        both = [twice(first(x)), twice(twice(first(x)))]
        model = keras.Model(x, last(layers.Concatenate()(both)))
    elif kind.startswith("elu"):
        shape = (5,)
        hidden = [layers.Dense(8, "elu", name="first"), layers.Dense(8, "relu", name="second")]
        model = keras.Sequential(
            [keras.Input(shape), *hidden, layers.Dense(2, "elu" if kind == "elu_last" else None)]
        )
    else:
        shape = (2, 3)
        hidden = [layers.Flatten(), layers.Dense(8, "relu", name="first"), layers.Dense(8, "relu")]
        model = keras.Sequential([keras.Input(shape), *hidden, layers.Dense(2, "tanh")])
    space = gymnasium.spaces.Box(-3.0, 3.0, shape)
    return agent_from_model(model, space, gymnasium.spaces.Box(-1.0, 1.0, (2,)))


@pytest.fixture(scope="module")
def versions(converter: Converter) -> dict[str, Versions]:
    return {kind: made(agent_of(kind), converter) for kind in ("chain", "convolution", "joined", "gru")}


def made(agent: Agent, converter: Converter, wide: str = "int16") -> Versions:
    graph = freeze(agent)
    exact = converter.to_float(graph)
    ranges = converter.observe(exact, samples_of(agent.input_shapes, 200))
    int8, int16 = (
        converter.quantize(exact, ranges, activations=bits, num_states=graph.num_states)
        for bits in ("int8", wide)
    )
    return int8, int16, exact, graph.num_states


def samples_of(shapes: Any, count: int) -> list[Any]:
    rng = np.random.default_rng(3)
    return [np.tanh(rng.normal(size=(count, *shape))).astype(np.float32) for shape in shapes]


def error(tflite: bytes, exact: bytes) -> float:
    """Return the mean distance of the first output from the float network's, on rows that it was made for."""
    reference, network = FloatReference(exact), read_tflite(tflite)
    samples = samples_of(reference.inputs.values(), 200)
    inputs = {}
    for name, values in zip(network.inputs, samples, strict=True):
        tensor = network.tensors[name]
        edge = ObservationEdge.of(tensor.shape, tensor.scale, tensor.zero_point, tensor.dtype)
        inputs[name], _ = quantize_observations(edge, values.reshape(200, *tensor.shape))
    found = Reference(network).run(inputs)[network.outputs[0]].astype(np.float64)
    tensor = network.tensors[network.outputs[0]]
    (wanted, *_) = reference.run(dict(zip(reference.inputs, samples, strict=True))).values()
    return float(np.abs((found - tensor.zero_point) * tensor.scale - wanted.reshape(found.shape)).mean())


def dtypes(tflite: bytes) -> tuple[str, str]:
    """Return the types of the inputs and outputs, "8" or "w" for wide each."""
    model = parse_tflite(tflite)
    inputs, outputs = (
        "".join({"INT8": "8", "INT16": "w"}[model.tensors[i].dtype] for i in at)
        for at in (model.inputs, model.outputs)
    )
    return inputs, outputs


def widths(tflite: bytes) -> list[str]:
    """Return each operator with the type of its output, in short."""
    model = parse_tflite(tflite)
    short = {"INT8": "8", "INT16": "w", "FLOAT32": "f"}
    return [f"{op.name}:{short[model.tensors[op.outputs[0]].dtype]}" for op in model.operators]


# Kind, names (the tracer counts layers' names on), types of inputs and of outputs, and whether tflite-runtime
# has every QUANTIZE of it: from 8 to 16 bits it has none.
CASES = [
    ("chain", ["input"], ("w", "8"), True),
    ("chain", ["output"], ("8", "w"), False),
    ("chain", ["first"], ("8", "8"), False),
    ("chain", ["input", "output"], ("w", "w"), False),
    ("convolution", ["input"], ("w", "8"), True),
    ("joined", ["input"], ("w", "8"), False),
    ("joined", ["seen"], ("8", "8"), False),
    ("gru", ["state"], ("8w", "88w"), False),
    ("gru", ["input"], ("w8", "888"), True),
    ("gru", ["input", "state", "output"], ("ww", "www"), False),
]


@pytest.mark.parametrize(("kind", "names", "types", "is_known_to_runtime"), CASES)
def test_a_mixed_network_is_read_equals_the_oracles_and_is_nearer_to_the_float_one(
    kind: str,
    names: list[str],
    types: tuple[str, str],
    is_known_to_runtime: bool,
    converter: Converter,
    versions: dict[str, Versions],
) -> None:
    int8, int16, exact, num_states = versions[kind]
    mixed = widen(converter, int8, int16, names, num_states=num_states)
    assert dtypes(mixed) == types
    network, rng = read_tflite(mixed), np.random.default_rng(1)
    inputs = []
    for tensor in (network.tensors[name] for name in network.inputs):
        info = np.iinfo(tensor.dtype)
        inputs.append(rng.integers(info.min + 1, info.max + 1, (200, *tensor.shape)).astype(tensor.dtype))
    assert require_equal("tflm", [(mixed, inputs)]) >= 400
    if is_known_to_runtime:
        assert require_equal("tflite-runtime", [(mixed, inputs)]) >= 400
    assert len(int8) * 0.8 < len(mixed) < len(int16) * 1.1
    assert error(int16, exact) < 1.02 * error(mixed, exact) < 1.05 * error(int8, exact)


NARROW_CASES = [
    ("elu", ["input"], ("w", "8")),
    ("elu", ["output"], ("8", "w")),
    ("elu", ["input", "output"], ("w", "w")),
    ("elu", ["first"], ("8", "8")),
    ("elu", ["second"], ("8", "8")),
    ("elu_last", ["input"], ("w", "8")),
    ("shared", ["input"], ("w", "8")),
    ("shared", ["output"], ("8", "w")),
    ("shared", ["shared_layer"], ("8", "8")),
]


@pytest.fixture(scope="module")
def partly_float(converter: Converter) -> dict[str, Versions]:
    """Return versions in which what has no 16-bit form is float in the second."""
    kinds = ("elu", "elu_last", "shared")
    return {kind: made(agent_of(kind), converter, "int16_or_float") for kind in kinds}


@pytest.mark.parametrize(("kind", "names", "types"), NARROW_CASES)
def test_what_has_no_wide_form_stays_narrow_and_the_rest_is_wide(
    kind: str,
    names: list[str],
    types: tuple[str, str],
    converter: Converter,
    partly_float: dict[str, Versions],
) -> None:
    int8, wide, exact, _ = partly_float[kind]
    names = [_shared(exact)] if names == ["shared_layer"] else names
    mixed = widen(converter, int8, wide, names)
    assert dtypes(mixed) == types
    assert "FULLY_CONNECTED:w" in widths(mixed)
    assert widths(mixed).count("ELU:f") == widths(int8).count("ELU:f")
    network, rng = read_tflite(mixed), np.random.default_rng(1)
    (tensor,) = (network.tensors[name] for name in network.inputs)
    info = np.iinfo(tensor.dtype)
    inputs = [rng.integers(info.min + 1, info.max + 1, (200, *tensor.shape)).astype(tensor.dtype)]
    assert require_equal("tflm", [(mixed, inputs)]) >= 400
    assert error(mixed, exact) < 1.05 * error(int8, exact)


def _shared(exact: bytes) -> str:
    model = parse_tflite(exact)
    return model.tensors[model.operators[1].outputs[0]].name


@pytest.mark.parametrize(("kind", "names"), [("chain", ["input", "output"]), ("gru", ["state"])])
def test_where_all_has_a_wide_form_none_is_left_narrow(
    kind: str, names: list[str], converter: Converter
) -> None:
    agent = agent_of(kind)
    made_twice = (made(agent, converter, wide) for wide in ("int16", "int16_or_float"))
    first, second = (widen(converter, *v[:2], names, num_states=v[3]) for v in made_twice)
    assert first == second


def test_what_cannot_be_wide_is_refused_by_name(
    converter: Converter, partly_float: dict[str, Versions]
) -> None:
    int8, wide, exact, _ = partly_float["elu_last"]
    with pytest.raises(UnsupportedOperatorError, match=r"'output' cannot have 16 bits: .* form of ELU at '"):
        widen(converter, int8, wide, ["output"])
    (name,) = (t.name for t in parse_tflite(exact).tensors if t.name.endswith("first/Elu"))
    with pytest.raises(UnsupportedOperatorError, match=f"form of ELU at '{name}'"):
        widen(converter, int8, wide, [name])
    with pytest.raises(ConverterError, match=r"no 16-bit form of ELU.* --scheme int8 --set wide=input"):
        converter.quantize(exact, _ones(exact), activations="int16")


def test_a_network_that_begins_without_a_wide_form_is_refused(converter: Converter) -> None:
    keras = import_keras()
    layers = [keras.Input((5,)), keras.layers.Activation("elu"), keras.layers.Dense(2)]
    space = gymnasium.spaces.Box(-3.0, 3.0, (5,))
    agent = agent_from_model(keras.Sequential(layers), space, gymnasium.spaces.Discrete(2))
    exact = converter.to_float(freeze(agent))
    with pytest.raises(ConverterError, match=r"what reads the network's input.* Leave out wide="):
        converter.quantize(exact, _ones(exact), activations="int16_or_float")


def _ones(exact: bytes) -> dict[str, tuple[float, float]]:
    model = parse_tflite(exact)
    written = {i for op in model.operators for i in op.outputs} | {*model.inputs}
    return {model.tensors[i].name: (-1.0, 1.0) for i in written}


def test_layers_that_share_a_bias_are_whole_at_sixteen_bits(
    converter: Converter, partly_float: dict[str, Versions]
) -> None:
    int8, wide, exact, _ = partly_float["shared"]
    assert error(wide, exact) < error(int8, exact)
    inputs = [np.random.default_rng(0).integers(-32767, 32768, (100, 5)).astype(np.int16)]
    for runtime in ("tflm", "tflite-runtime"):
        assert require_equal(runtime, [(wide, inputs)]) == 200


def test_only_operators_that_touch_a_wide_tensor_compute_in_sixteen_bits(
    converter: Converter, versions: dict[str, Versions]
) -> None:
    int8, int16, *_ = versions["chain"]
    dense = "FULLY_CONNECTED"
    assert widths(widen(converter, int8, int16, ["input"])) == [
        *("RESHAPE:w", f"{dense}:w", "QUANTIZE:8"),
        *(f"{dense}:8", f"{dense}:8", "TANH:8"),
    ]
    assert widths(widen(converter, int8, int16, ["output"])) == [
        *("RESHAPE:8", f"{dense}:8", f"{dense}:8"),
        *("QUANTIZE:w", f"{dense}:w", "TANH:w"),
    ]
    assert widths(widen(converter, int8, int16, ["first"])) == [
        *("RESHAPE:8", "QUANTIZE:w", f"{dense}:w", f"{dense}:w"),
        *("QUANTIZE:8", f"{dense}:8", "TANH:8"),
    ]


def test_a_wide_state_and_what_is_fed_back_to_it_have_one_scale(
    converter: Converter, versions: dict[str, Versions]
) -> None:
    int8, int16, _, num_states = versions["gru"]
    network = read_tflite(widen(converter, int8, int16, ["state"], num_states=num_states))
    taken, given = network.tensors[network.inputs[-1]], network.tensors[network.outputs[-1]]
    assert (taken.scale, taken.zero_point, taken.dtype) == (given.scale, given.zero_point, "int16")


def test_names_that_mean_nothing_and_networks_that_differ_are_refused(
    converter: Converter, versions: dict[str, Versions]
) -> None:
    int8, int16, *_ = versions["chain"]
    with pytest.raises(UsageError, match=r"no activation 'second' to be wide: it has .*first"):
        widen(converter, int8, int16, ["second"])
    with pytest.raises(UsageError, match="no activation 'state'"):
        widen(converter, int8, int16, ["state"])
    with pytest.raises(ConverterError, match="differ in their operators"):
        widen(converter, int8, versions["convolution"][1], ["input"])
