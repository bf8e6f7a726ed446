"""What a network is given on the rows of a calibration set, and what it answers there."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.calibrate import CalibrationSet
from edgeqrl.errors import DataError
from edgeqrl.network.edges import ObservationEdge, quantize_observations
from edgeqrl.network.read_tflite import read_with_edges
from edgeqrl.network.reference import Reference
from edgeqrl.quantize.file_rewrites import scaled_samples

if TYPE_CHECKING:
    from edgeqrl.agents.agent import Agent
    from edgeqrl.quantize.quantize import QuantizedPolicy

Floats = NDArray[np.float32]


def network_samples(agent: "Agent | QuantizedPolicy", calibration: CalibrationSet) -> dict[str, Floats]:
    """Return what the agent's model is given on each row of the set, [N, *shape] by input, states included.

    Raises DataError where the set is another agent's.
    """
    found = _preprocessed(agent, calibration) if calibration.inputs is None else dict(calibration.inputs)
    gains = getattr(agent, "input_gains", {})
    if calibration.inputs is not None and gains:  # they are those of the agent's own model
        found = scaled_samples(found, gains, agent.preprocessing)
    shapes = {name: values.shape[1:] for name, values in found.items()}
    wanted = input_shapes(agent)
    if shapes != wanted:
        raise DataError(
            f"The calibration set gives the network {_shown(shapes)}, and '{agent.name}' takes "
            f"{_shown(wanted)}. Calibrate with this agent and its environment."
        )
    return {name: np.asarray(found[name], np.float32) for name in wanted}


def input_shapes(agent: "Agent | QuantizedPolicy") -> dict[str, tuple[int, ...]]:
    """Return the shapes of the network's inputs by name: the observation's parts, then the states."""
    names = [part.name for part in agent.preprocessing.parts]
    shapes = dict(zip(names, agent.preprocessing.network_shapes, strict=True))
    return shapes | {spec.name: spec.shape for spec in agent.states}


def run_both(
    quantized: "QuantizedPolicy", samples: Mapping[str, Floats]
) -> tuple[dict[str, Floats], dict[str, NDArray[Any]]]:
    """Return what the float and the integer network give for the samples, [N, *shape].

    Both by the name of the integer network's output; the integers as they are.
    """
    from edgeqrl.backends.float_litert import open_float_network

    read = read_with_edges(quantized.tflite)
    network = read.network
    inputs = {}
    for edge, values in zip(read.inputs, samples.values(), strict=True):
        tensor = network.tensors[edge.tensor]
        plain = ObservationEdge.of(tensor.shape, tensor.scale, tensor.zero_point, tensor.dtype)
        inputs[edge.tensor], _ = quantize_observations(plain, values.reshape(len(values), *tensor.shape))
    with open_float_network(quantized.float_tflite) as opened:
        given = opened.run(dict(zip(opened.inputs, samples.values(), strict=True)))
        exact = [given[name] for name in opened.output_names]
    in_float = {edge.tensor: values for edge, values in zip(read.outputs, exact, strict=True)}
    return in_float, Reference(network).run(inputs)


def _preprocessed(agent: "Agent | QuantizedPolicy", calibration: CalibrationSet) -> dict[str, Floats]:
    raw, parts = calibration.observations, agent.preprocessing.parts
    arrays = dict(raw) if isinstance(raw, Mapping) else {parts[0].name: raw}
    fits = set(arrays) == {part.name for part in parts}
    if not fits or any(arrays[part.name][0].size != part.size for part in parts):
        shapes = {name: values.shape[1:] for name, values in arrays.items()}
        raise DataError(
            f"The calibration set holds observations of shape {_shown(shapes)}, and '{agent.name}' takes "
            f"{_shown({part.name: part.shape for part in parts})}. Calibrate with this agent and its "
            "environment."
        )
    if agent.states or agent.preprocessing.frames is not None:
        raise DataError(
            f"The calibration set was made without the memory that '{agent.name}' has, so it does not say "
            "what its network meets. Calibrate with this agent and its environment."
        )
    inputs, _ = agent.preprocessing.inputs(arrays)
    return dict(zip(input_shapes(agent), inputs, strict=True))


def _shown(shapes: Mapping[str, tuple[int, ...]]) -> str:
    if len(shapes) == 1:
        return str(next(iter(shapes.values())))
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
