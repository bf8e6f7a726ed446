"""The states that are learned on: what a policy's network is given in episodes that are played.

A student drifts to states that its teacher never meets. So it plays, too, and its states are added, with what
the teacher would have done there (DAgger: Ross et al., arXiv:1011.0686).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends.float_policy import WholeFloatPolicy
from edgeqrl.backends.network_policy import NetworkPolicy, begin_episodes, dequantize_outputs
from edgeqrl.environments import MakeEnv
from edgeqrl.interfaces import CalibratingPolicy, State
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.reference import Reference
from edgeqrl.network.tflite_model import parse_tflite, with_unique_names
from edgeqrl.rollout import rollout

if TYPE_CHECKING:
    from edgeqrl.quantize.policy import QuantizedPolicy

Floats = NDArray[np.float32]

_MOST_ROWS = 50_000  # that are kept of one round of playing
_MOST_NUMBERS = 2**25


class Teacher:
    """The float network: what it answers to inputs [N, size] by position, and the policy around it."""

    def __init__(self, policy: "QuantizedPolicy") -> None:
        """Raises UnsupportedOperatorError where NumPy cannot compute it."""
        self._network = FloatReference(policy.float_tflite)
        model = with_unique_names(parse_tflite(policy.float_tflite))
        self._outputs = [model.tensors[i].name for i in model.outputs]  # one may stand there twice
        self.policy = WholeFloatPolicy(
            "float", self.outputs, policy.head, policy.preprocessing, policy.states, policy.value_names
        )

    def outputs(self, inputs: Sequence[Floats]) -> list[Floats]:
        """Return every output [N, size], by position, for inputs [N, ...]."""
        shapes = self._network.inputs.items()
        named = {
            name: values.reshape(len(values), *shape)
            for (name, shape), values in zip(shapes, inputs, strict=True)
        }
        given = self._network.run(named)
        return [given[name].reshape(len(inputs[0]), -1) for name in self._outputs]


class Student:
    """The integer policy, acting by the NumPy reference and telling what its network is given."""

    name = "student"

    def __init__(self, policy: "QuantizedPolicy", teacher: Teacher) -> None:
        """Lower the policy; its float twin does what lies before the network."""
        self._policy = policy.integer_policy(is_masked=policy.head.takes_masks)
        self._network = NetworkPolicy(Reference(self._policy.network), self._policy, self.name)
        self._preprocessing = policy.preprocessing
        self._num_frames = len(policy.preprocessing.initial_memory(0))
        self._twin = teacher.policy

    def act(
        self,
        observations: Any,
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Act as `interfaces.Policy` says; the state is memory, frames, and real recurrent states."""
        memory = begin_episodes(self._policy, state, episode_start, rng)
        frames = None if state is None or not self._num_frames else state[1 : 1 + self._num_frames]
        _, frames = self._preprocessing.inputs(observations, frames, episode_start)
        answer = self._network.step(observations, memory, action_masks)
        tensors = self._policy.network.tensors
        following = tuple(
            dequantize_outputs(tensors[spec.output], answer.outputs[spec.output])
            for spec in self._policy.recurrent
        )
        return answer.actions, (answer.memory, *frames, *following)

    def network_inputs(
        self, observations: Any, state: State | None, *, episode_start: NDArray[np.bool_]
    ) -> dict[str, Floats]:
        """Return what the network is given, before it is rounded."""
        twin = None if state is None else state[1:]
        return self._twin.network_inputs(observations, twin, episode_start=episode_start)


def visited(
    policy: CalibratingPolicy, make_env: MakeEnv, seeds: Sequence[int], rng: np.random.Generator
) -> tuple[list[Floats], NDArray[np.bool_] | None]:
    """Play one episode a seed; return the network's inputs [N, size] by position, of many rows some.

    With them come the actions that were allowed, [N, num_actions], of an environment that says so.
    """
    played = rollout(policy, make_env, seeds, keep_inputs=True, keep_masks=True)
    assert played.inputs is not None
    masks = None if played.masks is None else np.concatenate(played.masks)
    joined = [
        np.concatenate([episode[name].reshape(len(episode[name]), -1) for episode in played.inputs])
        for name in played.inputs[0]
    ]
    most = min(_MOST_ROWS, max(_MOST_NUMBERS // sum(values.shape[1] for values in joined), 1))
    count = len(joined[0])
    if count <= most:
        return joined, masks
    rows = np.sort(rng.choice(count, most, replace=False))
    return [values[rows] for values in joined], None if masks is None else masks[rows]
