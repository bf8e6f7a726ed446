"""The float policy as Keras computes it: what all others are compared with."""

from typing import Any

import numpy as np

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.from_keras import concrete_function
from edgeqrl.backends.float_policy import Floats, WholeFloatPolicy

# Float sums depend on the batch size in their last digit. So every call computes a batch of this size,
# and a row's answer depends on that row alone.
_BATCH_SIZE = 64


class KerasPolicy(WholeFloatPolicy):
    """An agent acting in float32."""

    def __init__(self, agent: Agent) -> None:
        self._function = concrete_function(agent, _BATCH_SIZE)
        self._padded = [np.zeros((_BATCH_SIZE, *shape), np.float32) for shape in agent.input_shapes]
        super().__init__(
            "keras", self._batches, agent.head, agent.preprocessing, agent.states, agent.value_names
        )

    def _batches(self, inputs: list[Floats]) -> list[Floats]:
        count = len(inputs[0])
        parts = [
            self._padded_outputs([values[first : first + _BATCH_SIZE] for values in inputs])
            for first in range(0, max(count, 1), _BATCH_SIZE)
        ]
        return parts[0] if len(parts) == 1 else [np.concatenate(rows) for rows in zip(*parts, strict=True)]

    def _padded_outputs(self, inputs: list[Floats]) -> list[Floats]:
        from tensorflow import convert_to_tensor

        count = len(inputs[0])
        for padded, values in zip(self._padded, inputs, strict=True):
            padded[:count] = values.reshape(count, *padded.shape[1:])
            padded[count:] = 0.0
        # A copy: on the CPU TensorFlow may take the array's memory as its own.
        results: Any = self._function(*(convert_to_tensor(padded.copy()) for padded in self._padded))
        listed = results if isinstance(results, list | tuple) else [results]
        return [np.asarray(result.numpy(), np.float32)[:count] for result in listed]
