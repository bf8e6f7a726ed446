"""What is exported: a policy as integers from float32 observation to action, or a network alone."""

from dataclasses import dataclass

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.edges import ActionEdge, AffineEdge, ArgmaxEdge, ObservationEdge
from edgeqrl.network.ir import IntegerNetwork


@dataclass(frozen=True, eq=False)
class IntegerPolicy:
    """A whole policy: encode the observation, infer, decode the action."""

    name: str  # a C identifier; prefix of every exported symbol
    observation: ObservationEdge
    network: IntegerNetwork  # its first input is the observation, its first output decides the action
    action: ActionEdge

    def __post_init__(self) -> None:
        if not self.network.inputs:
            raise ValueError("a policy has an observation input")
        source = self.network.tensors[self.network.inputs[0]]
        target = self.network.tensors[self.network.outputs[0]]
        expected = (source.size, source.scale, source.zero_point, source.dtype)
        edge = self.observation
        if (edge.size, edge.scale, edge.zero_point, edge.dtype) != expected:
            raise ValueError(f"the observation edge does not fit input '{source.name}'")
        is_typed = not isinstance(self.action, AffineEdge) or self.action.dtype == target.dtype
        if num_outputs(self.action) != target.size or not is_typed:
            raise ValueError(f"the action edge does not fit output '{target.name}'")


@dataclass(frozen=True, eq=False)
class BareNetwork:
    """A network exported alone: integers in, integers out, nothing known of observations and actions."""

    name: str  # as of IntegerPolicy
    network: IntegerNetwork

    def __post_init__(self) -> None:
        written = {*self.network.inputs, *(layer.output for layer in self.network.layers)}
        if not self.network.inputs or not written.issuperset(self.network.outputs):
            raise UnsupportedOperatorError(
                "The network has an output that no input reaches, so there is nothing to export."
            )


def num_outputs(action: ActionEdge) -> int:
    """Count the network outputs that an action edge reads."""
    if isinstance(action, ArgmaxEdge):
        return action.num_actions
    assert isinstance(action, AffineEdge)
    return len(action.gain)
