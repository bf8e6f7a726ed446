"""IntegerPolicy: the whole policy as integers, from float32 observation to the environment's action."""

from dataclasses import dataclass

from edgeqrl.network.edges import ActionEdge, AffineEdge, ArgmaxEdge, ObservationEdge
from edgeqrl.network.ir import IntegerNetwork


@dataclass(frozen=True, eq=False)
class IntegerPolicy:
    """What is exported: encode the observation, infer, decode the action."""

    name: str  # a C identifier; prefix of every exported symbol
    observation: ObservationEdge
    network: IntegerNetwork  # one input, one output
    action: ActionEdge

    def __post_init__(self) -> None:
        if len(self.network.inputs) != 1 or len(self.network.outputs) != 1:
            raise ValueError("a policy has one observation input and one output")
        source = self.network.tensors[self.network.inputs[0]]
        target = self.network.tensors[self.network.outputs[0]]
        expected = (source.size, source.scale, source.zero_point)
        edge = self.observation
        if (edge.size, edge.scale, edge.zero_point) != expected:
            raise ValueError(f"the observation edge does not fit input '{source.name}'")
        if num_outputs(self.action) != target.size:
            raise ValueError(f"the action edge does not fit output '{target.name}'")


def num_outputs(action: ActionEdge) -> int:
    """Count the network outputs that an action edge reads."""
    if isinstance(action, ArgmaxEdge):
        return action.num_actions
    assert isinstance(action, AffineEdge)
    return len(action.gain)
