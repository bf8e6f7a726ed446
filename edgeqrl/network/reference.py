"""The reference: an IntegerNetwork in NumPy, equal to TFLite Micro bit for bit."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.ir import Array, IntegerNetwork


class Reference:
    """A Network whose answers the exported C must equal."""

    name = "reference"

    def __init__(self, network: IntegerNetwork) -> None:
        """Keep the network; its construction has proved that its sums fit."""
        self.network = network

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return every network output [N, *shape] for inputs [N, *shape]."""
        tensors = self.run_all(inputs)
        return {name: tensors[name] for name in self.network.outputs}

    def run_all(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Array]:
        """Return every activation [N, *shape] of the network, inputs included."""
        network = self.network
        values = require_inputs(network, inputs)
        constants = {name: constant[None] for name, constant in network.constants.items()}
        count = len(next(iter(values.values()))) if values else 1
        for layer in network.layers:
            operands = [values[name] if name in values else constants[name] for name in layer.inputs]
            result = layer.run(operands, network.tensors)
            values[layer.output] = result if len(result) == count else np.repeat(result, count, axis=0)
        for name in set(network.outputs) - set(values):
            values[name] = np.repeat(constants[name], count, axis=0)
        return values


def require_inputs(network: IntegerNetwork, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Array]:
    """Return the inputs by name as [N, *shape] with one N, or raise ValueError."""
    if set(inputs) != set(network.inputs):
        raise ValueError(f"the network's inputs are {list(network.inputs)}, got {sorted(inputs)}")
    arrays = {name: np.asarray(inputs[name]) for name in network.inputs}
    for name, values in arrays.items():
        shape, dtype = network.tensors[name].shape, network.tensors[name].dtype
        if values.dtype != np.dtype(dtype) or values.shape[1:] != shape or values.ndim != len(shape) + 1:
            raise ValueError(f"'{name}' must be {dtype} [N, {shape}], got {values.dtype} {values.shape}")
    if len({len(values) for values in arrays.values()}) > 1:
        raise ValueError("all inputs must have the same number of samples")
    return arrays


def random_inputs(network: IntegerNetwork, rng: np.random.Generator, count: int) -> dict[str, Array]:
    """Draw inputs [count, *shape], uniform over each dtype."""
    drawn = {}
    for name in network.inputs:
        tensor = network.tensors[name]
        low, high = tensor.range
        drawn[name] = rng.integers(low, high, (count, *tensor.shape), endpoint=True).astype(tensor.dtype)
    return drawn
