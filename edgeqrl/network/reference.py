"""The NumPy reference: TFLite Micro's answers, bit for bit, and every tensor on the way."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.fixed_point import requantize
from edgeqrl.network.ir import Dense, IntegerNetwork, Layer, Lookup

_ROWS_AT_ONCE = 1024  # keeps float64 copies of a batch small


class Reference:
    """A Network that runs an IntegerNetwork in NumPy; batched, and a row's answer is its own."""

    name = "reference"

    def __init__(self, network: IntegerNetwork) -> None:
        """Keep the network; its construction has proved that int32 suffices."""
        self.network = network
        # float64 sums of int8 products are exact below 2**53, and BLAS is fast at them.
        self._weights = {
            layer.name: np.ascontiguousarray(layer.weights.T.astype(np.float64))
            for layer in network.layers
            if isinstance(layer, Dense)
        }

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return every network output [N, *shape], int8, for int8 inputs [N, *shape]."""
        tensors = self.run_all(inputs)
        return {name: tensors[name] for name in self.network.outputs}

    def run_all(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.int8]]:
        """Return every tensor [N, *shape] of the network, inputs included."""
        tensors = require_inputs(self.network, inputs)
        for layer in self.network.layers:
            tensors[layer.output] = self._run_layer(layer, tensors[layer.input])
        return tensors

    def accumulators(self, layer: Dense, values: NDArray[np.int8]) -> NDArray[np.int32]:
        """Return bias + sum((q_in - zero_point) * w), int32 [N, out], for a layer's input [N, *shape]."""
        zero_point = self.network.tensors[layer.input].zero_point
        flat = values.reshape(len(values), layer.weights.shape[1])
        sums = np.empty((len(flat), len(layer.bias)), np.int32)
        for start in range(0, len(flat), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            centred = flat[rows].astype(np.float64) - zero_point
            sums[rows] = centred @ self._weights[layer.name] + layer.bias
        return sums

    def _run_layer(self, layer: Layer, values: NDArray[np.int8]) -> NDArray[np.int8]:
        target = self.network.tensors[layer.output]
        shape = (len(values), *target.shape)
        if isinstance(layer, Dense):
            sums = self.accumulators(layer, values)
            scaled = requantize(sums, layer.multiplier, layer.shift) + target.zero_point
            return np.clip(scaled, layer.output_min, layer.output_max).astype(np.int8).reshape(shape)
        if isinstance(layer, Lookup):
            return np.take(layer.table, values.astype(np.int16) + 128).reshape(shape)
        return values.reshape(shape)


def require_inputs(
    network: IntegerNetwork, inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[np.int8]]:
    """Return the inputs by name as int8 [N, *shape] with one N, or raise ValueError."""
    if set(inputs) != set(network.inputs):
        raise ValueError(f"the network's inputs are {list(network.inputs)}, got {sorted(inputs)}")
    arrays = {name: np.asarray(inputs[name]) for name in network.inputs}
    for name, values in arrays.items():
        shape = network.tensors[name].shape
        if values.dtype != np.int8 or values.shape[1:] != shape or values.ndim != len(shape) + 1:
            raise ValueError(f"'{name}' must be int8 [N, {shape}], got {values.dtype} {values.shape}")
    if len({len(values) for values in arrays.values()}) > 1:
        raise ValueError("all inputs must have the same number of samples")
    return arrays
