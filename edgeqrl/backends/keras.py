"""The float policy as Keras computes it: what all others are compared with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.from_keras import concrete_function
from edgeqrl.interfaces import State

# Float sums depend on the batch size in their last digit. So every call computes a batch of this size,
# and a row's answer depends on that row alone.
_BATCH_SIZE = 64


class KerasPolicy:
    """An agent acting in float32."""

    name = "keras"

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._function = concrete_function(agent.model, agent.observation_shape, _BATCH_SIZE)
        self._padded = np.zeros((_BATCH_SIZE, *agent.observation_shape), np.float32)

    def outputs(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Return the model's outputs [N, num_outputs] for observations [N, *observation_shape]."""
        parts = [
            self._padded_outputs(observations[start : start + _BATCH_SIZE])
            for start in range(0, len(observations), _BATCH_SIZE)
        ]
        if len(parts) == 1:
            return parts[0]
        width = self._agent.head.num_outputs
        return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)

    def act(
        self,
        observations: NDArray[Any],
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Act as `interfaces.Policy` says; a feed-forward policy has no state."""
        return self._agent.head.actions(self.outputs(observations), action_masks), ()

    def _padded_outputs(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        from tensorflow import convert_to_tensor

        count = len(observations)
        self._padded[:count] = observations
        self._padded[count:] = 0.0
        # A copy: on the CPU TensorFlow may take the array's memory as its own.
        result = self._function(convert_to_tensor(self._padded.copy()))
        return np.asarray(result.numpy(), np.float32).reshape(_BATCH_SIZE, -1)[:count]
