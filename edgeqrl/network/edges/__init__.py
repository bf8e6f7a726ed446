"""The edges of a policy in integer arithmetic, so that every machine agrees.

observation   numbers of a sensor -> integers of the network
action        what can stand behind the network, as data
make          how that is made from the real numbers of a head
decode        integers of the network -> action
"""

from edgeqrl.network.edges.action import (
    ActionEdge,
    AffineEdge,
    ArgmaxEdge,
    GaussianEdge,
    LogStd,
    MultiBinaryEdge,
    MultiDiscreteEdge,
    action_shape,
    action_size,
    is_integer,
    is_stochastic,
    limits,
    num_heads,
    num_masks,
    num_outputs,
    single_choice,
)
from edgeqrl.network.edges.decode import Actions, decode_actions, draw_actions
from edgeqrl.network.edges.make import (
    make_affine_edge,
    make_gaussian_edge,
    make_log_std,
    make_multi_binary_edge,
    make_multi_discrete_edge,
)
from edgeqrl.network.edges.observation import (
    NOT_FINITE,
    SATURATED,
    ObservationEdge,
    quantize_observations,
    saturated_inputs,
)

__all__ = [
    "NOT_FINITE",
    "SATURATED",
    "ActionEdge",
    "Actions",
    "AffineEdge",
    "ArgmaxEdge",
    "GaussianEdge",
    "LogStd",
    "MultiBinaryEdge",
    "MultiDiscreteEdge",
    "ObservationEdge",
    "action_shape",
    "action_size",
    "decode_actions",
    "draw_actions",
    "is_integer",
    "is_stochastic",
    "limits",
    "make_affine_edge",
    "make_gaussian_edge",
    "make_log_std",
    "make_multi_binary_edge",
    "make_multi_discrete_edge",
    "num_heads",
    "num_masks",
    "num_outputs",
    "quantize_observations",
    "saturated_inputs",
    "single_choice",
]
