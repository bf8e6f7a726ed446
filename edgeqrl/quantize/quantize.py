"""Agent + CalibrationSet -> QuantizedPolicy: the stage that makes a policy integer."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeqrl.agents.heads import Head, Scale, value_edge
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.errors import DataError, UnsupportedOperatorError
from edgeqrl.network.edges import AffineEdge, ObservationEdge
from edgeqrl.network.integer_policy import IntegerPolicy, ValueOutput
from edgeqrl.network.ir import Tensor
from edgeqrl.network.memory import Recurrent
from edgeqrl.network.read_tflite import read_tflite, read_with_edges
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.correction import correct_biases, is_correctable
from edgeqrl.quantize.frozen import freeze
from edgeqrl.quantize.rewrites import rewrite
from edgeqrl.quantize.samples import network_samples
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.quantize.tflite import Converter

if TYPE_CHECKING:
    from edgeqrl.agents.agent import Agent, StateSpec

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


def quantize(
    agent: "Agent",
    calibration: CalibrationSet,
    *,
    scheme: Scheme | None = None,
    converter: Converter | None = None,
) -> QuantizedPolicy:
    """Quantize an agent on its calibration set; the agent's model is only read.

    scheme     what to do; by default all that is known to help
    converter  a running one, which saves the seconds of its start

    Raises UnsupportedOperatorError, naming operator and layer, where anything is left that the integer
    engine cannot reproduce, and ConverterError where TensorFlow fails.
    """
    chosen = scheme if scheme is not None else Scheme()
    samples = network_samples(agent, calibration)
    # Started before freezing: both take a while, in two processes.
    with nullcontext(converter) if converter is not None else Converter() as running:
        graph = freeze(agent)
        graph, applied = rewrite(graph, agent.head) if chosen.rewrites else (graph, ())
        tflite, float_tflite = running.convert(
            graph, samples, activations=chosen.activations, ranges=_known_ranges(agent.preprocessing)
        )
    read_tflite(tflite)  # refuses what stayed float before anything is built on it
    if chosen.bias_correction and not is_correctable(float_tflite, is_recurrent=bool(agent.states)):
        chosen = replace(chosen, bias_correction=False)  # reports say what was done
    if chosen.bias_correction:
        tflite = correct_biases(tflite, float_tflite, list(samples.values()))
    return QuantizedPolicy(
        tflite=tflite,
        float_tflite=float_tflite,
        head=agent.head,
        scheme=chosen,
        preprocessing=agent.preprocessing,
        name=agent.name,
        calibration_sha256=calibration.sha256,
        agent_sha256=agent.source_sha256,
        applied_rewrites=applied,
        states=tuple(agent.states),
        value_names=tuple(agent.value_names),
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


def _known_ranges(preprocessing: Preprocessing) -> dict[str, tuple[float, float]]:
    """Return the ranges of inputs that no sample need show: what bytes and classes can become at all."""
    ranges: dict[str, tuple[float, float]] = {}
    for part in preprocessing.parts:
        if part.one_hot is not None:
            ranges[part.name] = 0.0, 1.0
        elif part.source == "uint8":
            extremes = np.array([[0] * part.size, [255] * part.size], np.uint8)
            values = part.values(extremes.reshape(2, *part.shape))
            ranges[part.name] = float(values.min()), float(values.max())
    return ranges


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
