"""A Policy from any integer Network: the float edges in NumPy around it."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.interfaces import Network, State
from edgeqrl.network.edges import ActionEdge, ObservationEdge, decode_actions, quantize_observations
from edgeqrl.network.ir import Tensor


class NetworkPolicy:
    """Quantize the observation, run the network, decode the action; no state between steps."""

    def __init__(
        self,
        network: Network,
        observation: ObservationEdge,
        action: ActionEdge,
        name: str,
        *,
        input_name: str | None = None,
        output: Tensor | None = None,
    ) -> None:
        """Join them.

        input_name   of the network's one input; needed where `network` has no attribute `network`
                     that is its IntegerNetwork
        output       the network's one output, for `outputs`; needed in the same case
        """
        self.name = name
        self._network = network
        self._observation = observation
        self._action = action
        lowered: Any = getattr(network, "network", None)
        if input_name is None and lowered is None:
            raise ValueError(f"'{network.name}' does not tell its inputs: state input_name")
        self._input = lowered.inputs[0] if input_name is None else input_name
        if output is None and lowered is not None:
            output = lowered.tensors[lowered.outputs[0]]
        self._output = output

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def act(
        self,
        observations: NDArray[Any],
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Act as `interfaces.Policy` says."""
        return decode_actions(self._action, self._integer_outputs(observations), action_masks), ()

    def outputs(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Return the dequantized outputs [N, num_outputs] for observations [N, *observation_shape]."""
        if self._output is None:
            raise ValueError(f"'{self._network.name}' does not tell its output's scale: state output")
        return dequantize_outputs(self._output, self._integer_outputs(observations))

    def close(self) -> None:
        """End what the network runs in, where it needs that."""
        close_network(self._network)

    def _integer_outputs(self, observations: NDArray[Any]) -> NDArray[Any]:
        quantized, _ = quantize_observations(self._observation, np.asarray(observations, np.float32))
        (outputs,) = self._network.run({self._input: quantized}).values()
        return outputs


def dequantize_outputs(tensor: Tensor, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return scale * (q - zero_point) [N, size], rounded once, for the integers q [N, *shape] of `tensor`."""
    wide = values.reshape(len(values), tensor.size).astype(np.float64)
    return np.asarray((wide - tensor.zero_point) * tensor.scale, np.float32)


def close_network(network: Network) -> None:
    """Close a network that has something to close."""
    close = getattr(network, "close", None)
    if close is not None:
        close()
