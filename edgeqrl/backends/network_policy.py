"""A Policy from any integer Network: the float edges in NumPy around it."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.interfaces import Network, State
from edgeqrl.network.edges import ActionEdge, ObservationEdge, decode_actions, quantize_observations


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
    ) -> None:
        """Join them.

        input_name   of the network's one input; needed where `network` has no attribute `network`
                     that is its IntegerNetwork
        """
        self.name = name
        self._network = network
        self._observation = observation
        self._action = action
        lowered: Any = getattr(network, "network", None)
        if input_name is None and lowered is None:
            raise ValueError(f"'{network.name}' does not tell its inputs: state input_name")
        self._input = lowered.inputs[0] if input_name is None else input_name

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
        quantized, _ = quantize_observations(self._observation, np.asarray(observations, np.float32))
        (outputs,) = self._network.run({self._input: quantized}).values()
        return decode_actions(self._action, outputs, action_masks), ()

    def close(self) -> None:
        """End what the network runs in, where it needs that."""
        close_network(self._network)


def close_network(network: Network) -> None:
    """Close a network that has something to close."""
    close = getattr(network, "close", None)
    if close is not None:
        close()
