"""QuantizedPolicy: a policy as standard `.tflite` files, and how it becomes integers from end to end."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeqrl.agents.heads import Head, Scale, value_edge
from edgeqrl.errors import DataError, UnsupportedOperatorError
from edgeqrl.network.edges import AffineEdge, ObservationEdge
from edgeqrl.network.integer_policy import IntegerPolicy, ValueOutput
from edgeqrl.network.ir import Tensor
from edgeqrl.network.memory import Recurrent
from edgeqrl.network.read_tflite import read_with_edges
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.scheme import Scheme

if TYPE_CHECKING:
    from edgeqrl.agents.agent import StateSpec

_FINE_BITS = 6  # of a normalisation: beyond rounding, up to 1/32 of a step is off


@dataclass(frozen=True, eq=False)
class QuantizedPolicy:
    """A policy as standard `.tflite` files, with what turns observations and outputs into theirs.

    Both files take the observation's parts, then the states; they give what the head reads, then the
    values, then the next states.
    """

    tflite: bytes  # integers in and out
    float_tflite: bytes  # the same network in float32; acts as the agent does
    head: Head
    scheme: Scheme
    preprocessing: Preprocessing
    name: str  # a C identifier
    calibration_sha256: str
    agent_sha256: str
    applied_rewrites: tuple[str, ...] = ()  # names from `rewrites.REWRITES`
    states: "tuple[StateSpec, ...]" = ()
    value_names: tuple[str, ...] = ()
    input_gains: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # in `preprocessing` already
    weight_bits: tuple[int, ...] | None = None  # as of IntegerPolicy
    order: str | tuple[str, ...] = "rows"  # as of IntegerPolicy

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Return the raw observation's shape; only a policy of one part has it."""
        (part,) = self.preprocessing.parts
        return part.shape

    def integer_policy(self, is_masked: bool = False) -> IntegerPolicy:
        """Lower the policy to integers from observation to action.

        is_masked  the step takes a mask of allowed actions; only for discrete heads
        """
        read_file = read_with_edges(self.tflite)
        network = read_file.network
        inputs, outputs = ([edge.tensor for edge in edges] for edges in (read_file.inputs, read_file.outputs))
        self._require_fit([network.tensors[name] for name in inputs], [network.tensors[n] for n in outputs])
        parts, first = self.preprocessing.parts, len(self.head.output_sizes)
        read = [network.tensors[name] for name in outputs[:first]]
        fed_back = outputs[len(outputs) - len(self.states) :]
        try:
            observations = [
                ObservationEdge(part, tensor.scale, tensor.zero_point, tensor.dtype)
                for part, tensor in zip(parts, map(network.tensors.__getitem__, inputs), strict=False)
            ]
            _warn_of_coarse(observations)
            return IntegerPolicy(
                name=self.name,
                observation=observations[0],
                network=network,
                action=self._action_edge(read, is_masked),
                more_observations=tuple(observations[1:]),
                frames=self.preprocessing.frames,
                recurrent=tuple(
                    _recurrent(network.tensors[taken], given, spec)
                    for spec, taken, given in zip(self.states, inputs[len(parts) :], fed_back, strict=True)
                ),
                values=tuple(
                    ValueOutput(value, name, _value_edge(network.tensors[name]))
                    for value, name in zip(self.value_names, outputs[first:], strict=False)
                ),
                weight_bits=self.weight_bits,
                order=self.order,
            )
        except ValueError as error:
            raise UnsupportedOperatorError(
                f"The policy '{self.name}' has no integer form: {error}. Scale its observations or actions."
            ) from error

    def _action_edge(self, read: Sequence[Tensor], is_masked: bool) -> Any:
        return self.head.edge(*map(_scale, read), is_masked=is_masked)

    def _require_fit(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Raise DataError unless the file takes and gives what the policy does."""
        shapes = [*self.preprocessing.network_shapes, *(spec.shape for spec in self.states)]
        taken = [prod(shape) for shape in shapes]
        states = taken[len(taken) - len(self.states) :]
        given: list[int | None] = [*self.head.output_sizes, *(None for _ in self.value_names), *states]
        sources, targets = ([tensor.size for tensor in tensors] for tensors in (inputs, outputs))
        fits = len(targets) == len(given) and all(
            wanted in (None, size) for wanted, size in zip(given, targets, strict=True)
        )
        if sources != taken or not fits:
            raise DataError(
                f"The .tflite file takes {_listed(sources)} numbers and returns {_listed(targets)}, and the "
                f"policy '{self.name}' has {_listed(taken)} and {_listed(given)}."
            )


def _warn_of_coarse(observations: Sequence[ObservationEdge]) -> None:
    for edge in observations:
        if edge.is_affine and edge.fraction_bits < _FINE_BITS:
            warnings.warn(
                f"The offset of observation '{edge.part.name}' is large for its scale: the device normalises "
                f"with {edge.fraction_bits} bits below a step of the network's input, so that a result may "
                "be the next step. Take the offset off where the sensor is read, and train with that.",
                stacklevel=1,
            )


def _recurrent(state: Tensor, output: str, spec: "StateSpec") -> Recurrent:
    lowest, highest = state.range
    initial = int(np.clip(np.rint(spec.initial / state.scale) + state.zero_point, lowest, highest))
    return Recurrent(state.name, output, initial)


def _value_edge(tensor: Tensor) -> AffineEdge:
    return value_edge(_scale(tensor), tensor.size)


def _scale(tensor: Tensor) -> Scale:
    return Scale(tensor.scale, tensor.zero_point, tensor.dtype)


def _listed(sizes: Sequence[int | None]) -> str:
    return ", ".join("any" if size is None else str(size) for size in sizes)
