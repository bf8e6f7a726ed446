"""A Policy from any integer Network: edges, frames, recurrent state and draws in NumPy around it."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.interfaces import Network, State
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import Tensor
from edgeqrl.network.memory import Memory
from edgeqrl.network.policy_step import (
    PolicyStep,
    part_rows,
    policy_values,
    step_policy,
)

Observations = NDArray[Any] | Mapping[str, NDArray[Any]]


class NetworkPolicy:
    """A whole policy around a Network that runs `policy.network`; its state is the bytes of NAME_memory."""

    def __init__(self, network: Network, policy: IntegerPolicy, name: str) -> None:
        """Join them; `network` takes and gives arrays by the tensor names of `policy.network`."""
        self.name = name
        self.policy = policy
        self._network = network

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def has_memory(self) -> bool:
        """Tell whether anything survives a step."""
        return self.policy.has_memory

    def act(
        self,
        observations: Observations,
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Act as `interfaces.Policy` says; observations of several parts come by name.

        The state is `(memory,)`, uint8 [N, memory_bytes], or () without memory.
        """
        memory = begin_episodes(self.policy, state, episode_start, rng)
        answer = self._step(observations, memory, action_masks)
        return answer.actions, (answer.memory,) if self.policy.has_memory else ()

    def step(
        self, observations: Observations, memory: Memory, action_masks: NDArray[np.bool_] | None = None
    ) -> PolicyStep:
        """Return all that NAME_step answers, for memories [N, memory_bytes]."""
        return self._step(observations, memory, action_masks)

    def outputs(self, observations: Observations, memory: Memory | None = None) -> NDArray[np.float32]:
        """Return the dequantized first output [N, num_outputs] for observations [N, *observation_shape].

        A policy with memory answers from `memory`, or as at the start of an episode.
        """
        target = self.policy.network.tensors[self.policy.network.outputs[0]]
        return dequantize_outputs(target, self._answer(observations, memory).outputs[target.name])

    def values(
        self, observations: Observations, memory: Memory | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return the policy's value outputs by name [N, *shape]; memory as for `outputs`."""
        return policy_values(self.policy, self._answer(observations, memory).outputs)

    def close(self) -> None:
        """End what the network runs in, where it needs that."""
        close_network(self._network)

    def _answer(self, observations: Observations, memory: Memory | None) -> PolicyStep:
        if memory is None:
            memory = self.policy.fresh_memory(len(part_rows(self.policy, observations, 0)))
        return self._step(observations, memory, None)

    def _step(
        self, observations: Observations, memory: Memory, action_masks: NDArray[np.bool_] | None
    ) -> PolicyStep:
        return step_policy(self.policy, self._network.run, observations, memory, action_masks)


def begin_episodes(
    policy: IntegerPolicy,
    state: State | None,
    episode_start: NDArray[np.bool_],
    rng: Sequence[np.random.Generator] | None,
) -> Memory:
    """Return the memory [N, memory_bytes] to act with: of `state`, or fresh where an episode begins.

    A policy that draws is seeded by one draw of 64 bits from the row's generator, at its start.
    """
    count = len(episode_start)
    if not policy.has_memory:
        return np.zeros((count, 0), np.uint8)
    memory = policy.fresh_memory(count) if state is None else np.array(state[0], np.uint8)
    if memory.shape != (count, policy.memory_bytes):
        raise ValueError(f"the state must be [{count}, {policy.memory_bytes}], got {memory.shape}")
    rows = np.flatnonzero(episode_start)
    seeds = None
    if policy.is_stochastic and len(rows):
        if rng is None:
            raise ValueError(f"'{policy.name}' draws its actions: it needs rng, a generator an episode")
        seeds = np.array([rng[row].integers(2**64, dtype=np.uint64) for row in rows], np.uint64)
    policy.reset_memory(memory, rows, seeds)
    return memory


def dequantize_outputs(tensor: Tensor, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return scale * (q - zero_point) [N, size], rounded once, for the integers q [N, *shape] of `tensor`."""
    wide = values.reshape(len(values), tensor.size).astype(np.float64)
    return np.asarray((wide - tensor.zero_point) * tensor.scale, np.float32)


def close_network(network: Network) -> None:
    """Close a network that has something to close."""
    close = getattr(network, "close", None)
    if close is not None:
        close()
