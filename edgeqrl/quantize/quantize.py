"""Agent + CalibrationSet -> QuantizedPolicy: the stage that makes a policy integer."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.heads import Head
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.errors import DataError, UnsupportedOperatorError
from edgeqrl.network.edges import ObservationEdge
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.quantize.correction import correct_biases, is_correctable
from edgeqrl.quantize.frozen import freeze
from edgeqrl.quantize.rewrites import rewrite
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.quantize.tflite import Converter


@dataclass(frozen=True, eq=False)
class QuantizedPolicy:
    """A policy as standard `.tflite` files, with what turns their outputs into actions."""

    tflite: bytes  # int8 in and out
    float_tflite: bytes  # the same network in float32; acts as the agent does
    head: Head
    scheme: Scheme
    observation_shape: tuple[int, ...]
    name: str  # a C identifier
    calibration_sha256: str
    agent_sha256: str
    applied_rewrites: tuple[str, ...] = ()  # names from `rewrites.REWRITES`

    def integer_policy(self, is_masked: bool = False) -> IntegerPolicy:
        """Lower the policy to integers from observation to action.

        is_masked  the step takes a mask of allowed actions; only for discrete heads
        """
        network = read_tflite(self.tflite)
        if len(network.inputs) != 1 or len(network.outputs) != 1:
            raise DataError("The .tflite file has several inputs or outputs, and a policy has one of each.")
        source, target = network.tensors[network.inputs[0]], network.tensors[network.outputs[0]]
        if target.size != self.head.num_outputs or source.size != int(np.prod(self.observation_shape)):
            raise DataError(
                f"The .tflite file takes {source.size} numbers and returns {target.size}, and the policy "
                f"'{self.name}' has {int(np.prod(self.observation_shape))} and {self.head.num_outputs}."
            )
        try:
            return IntegerPolicy(
                name=self.name,
                observation=ObservationEdge(
                    self.observation_shape, source.scale, source.zero_point, source.dtype
                ),
                network=network,
                action=self.head.edge(
                    target.scale, target.zero_point, is_masked=is_masked, dtype=target.dtype
                ),
            )
        except ValueError as error:
            raise UnsupportedOperatorError(
                f"The policy '{self.name}' has no integer form: {error}. Scale its observations or actions."
            ) from error


def quantize(
    agent: Agent,
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
    observations = calibration.observations
    if observations.shape[1:] != agent.observation_shape:
        raise DataError(
            f"The calibration set holds observations of shape {observations.shape[1:]}, and '{agent.name}' "
            f"takes {agent.observation_shape}. Calibrate with this agent and its environment."
        )
    # Started before freezing: both take a while, in two processes.
    with nullcontext(converter) if converter is not None else Converter() as running:
        graph = freeze(agent)
        graph, applied = rewrite(graph, agent.head) if chosen.rewrites else (graph, ())
        tflite, float_tflite = running.convert(graph, observations)
    read_tflite(tflite)  # refuses what stayed float before anything is built on it
    if chosen.bias_correction and not is_correctable(float_tflite):
        chosen = replace(chosen, bias_correction=False)  # reports say what was done
    if chosen.bias_correction:
        tflite = correct_biases(tflite, float_tflite, observations)
    return QuantizedPolicy(
        tflite=tflite,
        float_tflite=float_tflite,
        head=agent.head,
        scheme=chosen,
        observation_shape=agent.observation_shape,
        name=agent.name,
        calibration_sha256=calibration.sha256,
        agent_sha256=agent.source_sha256,
        applied_rewrites=applied,
    )
