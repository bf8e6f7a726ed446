"""The converter's process: float files out of graphs, integer files out of float ones, with stated ranges."""

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
from edgeqrl.agents.tensorflow_runtime import import_keras, import_tensorflow
from edgeqrl.backends.worker import Worker
from edgeqrl.errors import ConverterError
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.read_tflite import parse_tflite, read_tflite
from edgeqrl.quantize import tflite
from edgeqrl.quantize.frozen import freeze
from edgeqrl.quantize.tflite import Converter
from tests.step_models import step_agent
from tests.tflite_writer import random_float_tflite

ROWS = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    with Converter() as running:
        yield running


def agent_of(*layers: Any) -> Agent:
    keras = import_keras()
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), *layers])
    space = gymnasium.spaces.Box(-3.0, 3.0, (4,))
    return agent_from_model(model, space, gymnasium.spaces.Discrete(2))


def plain_tflite(agent: Agent, activations: str) -> bytes:
    """Return what TensorFlow Lite makes by itself, calibration included."""
    tensorflow = import_tensorflow()
    converter = tensorflow.lite.TFLiteConverter.from_keras_model(agent.model)
    converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in ROWS)
    sets = tensorflow.lite.OpsSet
    chosen, dtype = sets.TFLITE_BUILTINS_INT8, tensorflow.int8
    if activations == "int16":
        chosen = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        dtype = tensorflow.int16
    converter.target_spec.supported_ops = [chosen]
    converter.inference_input_type = converter.inference_output_type = dtype
    return bytes(converter.convert())


@pytest.mark.parametrize("activations", ["int8", "int16"])
def test_with_tensorflow_lites_own_ranges_the_file_is_tensorflow_lites_own(
    activations: str, converter: Converter
) -> None:
    layers = import_keras().layers
    agent = agent_of(layers.Dense(8, "relu"), layers.Dense(8, "tanh"), layers.Dense(2))
    exact = converter.to_float(freeze(agent))
    found = converter.quantize(exact, converter.observe(exact, [ROWS]), activations=activations)
    ours, theirs = (parse_tflite(data) for data in (found, plain_tflite(agent, activations)))
    assert [op.name for op in ours.operators] == [op.name for op in theirs.operators]
    for a, b in zip(ours.operators, theirs.operators, strict=True):
        for i, j in zip((*a.inputs, *a.outputs), (*b.inputs, *b.outputs), strict=True):
            left, right = ours.tensors[i], theirs.tensors[j]
            np.testing.assert_array_equal(left.scales, right.scales)
            np.testing.assert_array_equal(left.zero_points, right.zero_points)
            if left.is_constant:
                np.testing.assert_array_equal(left.values(), right.values())


def test_every_activation_gets_the_range_that_is_stated(converter: Converter) -> None:
    """Also in a file that no converter wrote."""
    exact = random_float_tflite(np.random.default_rng(0), [4, 8, 2], ["RELU", "NONE"])
    names = [*FloatReference(exact).inputs, *(layer.name for layer in FloatReference(exact).layers)]
    stated = dict(zip(names, [(-2.0, 3.1), (0.0, 25.5), (-12.7, 12.7)], strict=True))
    network = read_tflite(converter.quantize(exact, stated))
    found = [network.tensors[name] for name in (*network.inputs, *(layer.output for layer in network.layers))]
    for tensor, (low, high) in zip(found, stated.values(), strict=True):
        assert tensor.scale == pytest.approx((high - low) / 255, rel=1e-6)
        assert tensor.zero_point == round(-128 - low / tensor.scale)
    wide = read_tflite(converter.quantize(exact, stated, activations="int16"))
    for name, (low, high) in zip(
        (*wide.inputs, *(x.output for x in wide.layers)), stated.values(), strict=True
    ):
        assert wide.tensors[name].scale == pytest.approx(max(-low, high) / 32767, rel=1e-6)
        assert wide.tensors[name].zero_point == 0


@pytest.mark.parametrize("activations", ["int8", "int16"])
def test_a_state_and_what_is_fed_back_to_it_share_the_hull_of_both_ranges(
    activations: str, converter: Converter
) -> None:
    agent = step_agent("gru", num_layers=1)
    graph = freeze(agent)
    exact = converter.to_float(graph)
    rng = np.random.default_rng(1)
    samples = [rng.normal(size=(20, *shape)) for shape in agent.input_shapes]
    ranges = converter.observe(exact, samples)
    model = parse_tflite(exact)
    state, following = (model.tensors[at[-1]].name for at in (model.inputs, model.outputs))
    ranges |= {state: (-3.0, 1.0), following: (-1.0, 5.0)}
    network = read_tflite(converter.quantize(exact, ranges, activations=activations, num_states=1))
    taken, given = network.tensors[network.inputs[-1]], network.tensors[network.outputs[-1]]
    assert (taken.scale, taken.zero_point) == (given.scale, given.zero_point)
    assert taken.scale == pytest.approx(8.0 / 255 if activations == "int8" else 5.0 / 32767, rel=1e-6)


def test_a_range_of_no_tensor_is_an_error_of_the_caller(converter: Converter) -> None:
    exact = random_float_tflite(np.random.default_rng(0), [4, 2], ["NONE"])
    with pytest.raises(ValueError, match="no tensor 'nothing'"):
        converter.quantize(exact, {"nothing": (0.0, 1.0)})
    with pytest.raises(ConverterError, match="at least one observation"):
        converter.observe(exact, [ROWS[:0]])
    with pytest.raises(ValueError, match="one row of every input"):
        converter.observe(exact, [ROWS, ROWS[:1]])


def test_a_graph_that_cannot_be_converted_is_one_sentence(converter: Converter) -> None:
    layers = import_keras().layers
    graph = freeze(agent_of(layers.Dense(8, "relu"), layers.Dense(2)))
    node = next(node for node in graph.graph_def.node if node.op == "Relu")
    node.op = "NoSuchOperator"
    with pytest.raises(ConverterError, match="NoSuchOperator") as caught:
        converter.to_float(graph)
    assert "\n" not in str(caught.value)


def test_a_dead_converter_is_one_sentence_and_closing_a_busy_one_is_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tflite, "Worker", Worker)  # a process of its own
    exact = random_float_tflite(np.random.default_rng(0), [4, 2], ["NONE"])
    with Converter() as dead:
        os.kill(dead._worker._process.pid, signal.SIGSEGV)
        with pytest.raises(ConverterError, match="by signal SIGSEGV"):
            dead.observe(exact, [ROWS])
    busy = Converter()  # still importing
    started = time.monotonic()
    busy.close()
    assert time.monotonic() - started < 1.0
    with pytest.raises(ConverterError, match="closed"):
        busy.observe(exact, [ROWS])
