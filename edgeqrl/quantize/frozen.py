"""FrozenGraph: a policy's float arithmetic with its weights as constants, apart from the live model."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.from_keras import concrete_function
from edgeqrl.errors import ConverterError
from edgeqrl.quantize.layer_names import layer_names, rename, renamed, restored_names


@dataclass(frozen=True, eq=False)
class FrozenGraph:
    """A TensorFlow GraphDef for a batch of one, without variables.

    Edits make copies: the user's model and the graph before the edit stay as they are.
    """

    graph_def: Any
    input_names: tuple[str, ...]  # of tensors, "node:0": the observation's parts, then states
    output_names: tuple[str, ...]  # what the head reads, then values, then the next states
    num_states: int = 0  # the last inputs, which the last outputs are fed back to

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the inputs' names without the number of the output."""
        return tuple(name.split(":")[0] for name in self.input_names)

    @cached_property
    def shapes(self) -> dict[str, tuple[int | None, ...] | None]:
        """Return the shape of every tensor, "node:0", as TensorFlow infers it; None of unknown rank."""
        import tensorflow

        with tensorflow.Graph().as_default() as imported:
            tensorflow.graph_util.import_graph_def(self.graph_def, name="")
            tensors = [tensor for node in imported.get_operations() for tensor in node.outputs]
        return {t.name: None if t.shape.rank is None else tuple(t.shape) for t in tensors}


def freeze(agent: Agent) -> FrozenGraph:
    """Trace the agent's model for one observation and turn its variables into constants.

    Nodes lie in scopes that have the names of the model's layers.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        function = convert_variables_to_constants_v2(concrete_function(agent, 1))
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        raise ConverterError(f"TensorFlow cannot freeze the weights of '{agent.name}': {message}") from None
    inputs, outputs = ([tensor.name for tensor in found] for found in (function.inputs, function.outputs))
    graph_def = function.graph.as_graph_def()
    known = layer_names(agent.model if agent.original is None else agent.original)
    names = restored_names(graph_def.node, known, [name.split(":")[0] for name in outputs])
    rename(graph_def, names)
    return FrozenGraph(
        graph_def,
        tuple(renamed(name, names) for name in inputs),
        tuple(renamed(name, names) for name in outputs),
        len(agent.states),
    )
