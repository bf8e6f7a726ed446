"""FrozenGraph: a policy's float arithmetic with its weights as constants, apart from the live model."""

from dataclasses import dataclass
from typing import Any

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.from_keras import concrete_function
from edgeqrl.errors import ConverterError


@dataclass(frozen=True, eq=False)
class FrozenGraph:
    """A TensorFlow GraphDef with one input [1, *observation_shape] and one output, without variables.

    Edits make copies: the user's model and the graph before the edit stay as they are.
    """

    graph_def: Any
    input_name: str  # of a tensor, "node:0"
    output_name: str


def freeze(agent: Agent) -> FrozenGraph:
    """Trace the agent's model for one observation and turn its variables into constants."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        function = convert_variables_to_constants_v2(
            concrete_function(agent.model, agent.observation_shape, 1)
        )
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        raise ConverterError(f"TensorFlow cannot freeze the weights of '{agent.name}': {message}") from None
    (source,), (target,) = function.inputs, function.outputs
    return FrozenGraph(function.graph.as_graph_def(), source.name, target.name)
