"""FrozenGraph: a policy's float arithmetic with its weights as constants, apart from the live model."""

from dataclasses import dataclass
from typing import Any

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.from_keras import concrete_function
from edgeqrl.errors import ConverterError


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


def freeze(agent: Agent) -> FrozenGraph:
    """Trace the agent's model for one observation and turn its variables into constants."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        function = convert_variables_to_constants_v2(concrete_function(agent, 1))
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        raise ConverterError(f"TensorFlow cannot freeze the weights of '{agent.name}': {message}") from None
    return FrozenGraph(
        function.graph.as_graph_def(),
        tuple(tensor.name for tensor in function.inputs),
        tuple(tensor.name for tensor in function.outputs),
        len(agent.states),
    )
