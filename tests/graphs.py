"""Frozen graphs of small Keras models, for tests of rewrites."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.heads import Head
from edgeqrl.agents.tensorflow_runtime import import_tensorflow
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.frozen import FrozenGraph, freeze


def graph_of(model: Any, head: Head, value_names: tuple[str, ...] = ()) -> FrozenGraph:
    """Freeze a model of one input that a head reads."""
    preprocessing = Preprocessing.plain(model.inputs[0].shape[1:])
    agent = Agent("agent", model, head, preprocessing, "0" * 64, ends_in_tanh=False, value_names=value_names)
    return freeze(agent)


def run(graph: FrozenGraph, shape: tuple[int, ...], output: int = 0, count: int = 120) -> NDArray[np.float32]:
    """Compute one of the graph's outputs for `count` random inputs, one at a time."""
    tensorflow = import_tensorflow()
    wrapped = tensorflow.compat.v1.wrap_function(
        lambda: tensorflow.graph_util.import_graph_def(graph.graph_def, name=""), []
    )
    function = wrapped.prune(graph.input_names[0], graph.output_names[output])
    rows = np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)
    return np.stack([function(tensorflow.constant(row[np.newaxis])).numpy()[0] for row in rows])


def live_operators(graph: FrozenGraph) -> list[str]:
    """Return the operators that the outputs are computed by."""
    part = import_tensorflow().compat.v1.graph_util.extract_sub_graph(
        graph.graph_def, [name.split(":")[0] for name in graph.output_names]
    )
    return [node.op for node in part.node]
