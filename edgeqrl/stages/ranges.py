"""Report section `coverage`: what validation's states make of the ranges that calibration chose.

    watched = WatchedPolicy(policy_that_plays, integer_policy)
    ...                                  # play episodes with it
    report["coverage"] = watched.coverage()

Of the states that the policy is asked in, evenly spaced ones are kept, and the reference computes every
tensor of the network there. `edgeqrl diagnose` looks closer: by feature, and apart from the float policy's
states.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.diagnose.coverage import at_ends
from edgeqrl.interfaces import Policy, State
from edgeqrl.network.edges import saturated_inputs
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import Tensor
from edgeqrl.network.layers.movement import Move, Reshape
from edgeqrl.network.memory import Memory
from edgeqrl.network.policy_step import Arrays, encode_step, part_rows
from edgeqrl.network.reference import Reference

COVERAGE_SECTION = "coverage"

_MOST_STATES = 2048
_LEAST_STATES = 64
_MOST_MACS = 2**31  # that the states looked at may cost
_MOST_ELEMENTS = 2**23  # of observations that are kept
_ROWS_A_STEP = 16
_BATCH = 256
_INPUT = "INPUT"

_Kept = tuple[list[NDArray[Any]], Memory]  # the parts of one state's observation [1, *shape], and its memory


class WatchedPolicy:
    """A policy that plays as it does alone, and keeps some of the states that it is asked in."""

    def __init__(self, played: Policy, policy: IntegerPolicy) -> None:
        """Watch `played`, whose integers are those of `policy`."""
        self.name = played.name
        self._played, self._policy = played, policy
        numbers = sum(part.size for part in policy.parts) + policy.memory_bytes
        affordable = min(_MOST_MACS // max(policy.network.num_macs, 1), _MOST_ELEMENTS // numbers)
        self._most = int(np.clip(affordable, _LEAST_STATES, _MOST_STATES))
        self._kept: list[_Kept] = []
        self._stride, self._num_steps = 1, 0

    def __getattr__(self, name: str) -> Any:
        """Return whatever else the policy has."""
        return getattr(self._played, name)

    def act(
        self,
        observations: Any,
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Act as the watched policy."""
        if self._num_steps % self._stride == 0:
            self._keep(observations, state, episode_start)
        self._num_steps += 1
        return self._played.act(
            observations, state, episode_start=episode_start, action_masks=action_masks, rng=rng
        )

    def coverage(self) -> dict[str, Any]:
        """Return the section: how many states were looked at, and a row a tensor in order of execution."""
        if not self._kept:
            return {"num_states": 0, "tensors": []}
        policy, kept = self._policy, self._kept[:: -(-len(self._kept) // self._most)]
        network = policy.network
        computed = {x.output: x.operator for x in network.layers if not isinstance(x, Move | Reshape)}
        looked_at = [x for x in (*network.inputs, *computed) if network.tensors[x].dtype != "int32"]
        counts = {name: np.zeros(np.ptp(network.tensors[name].range) + 1, np.int64) for name in looked_at}
        clamped = np.zeros(len(policy.parts))
        reference = Reference(network)
        for first in range(0, len(kept), _BATCH):
            observations, memory = _joined(policy, kept[first : first + _BATCH])
            inputs, _, _ = encode_step(policy, observations, memory)
            for at, edge in enumerate(policy.observations):
                is_cut = saturated_inputs(edge, part_rows(policy, observations, at))
                clamped[at] += is_cut.mean() * len(memory)
            _count(reference, inputs, counts)
        # Of observations it is known exactly; a state was clipped where it was computed.
        cut = dict(zip(network.inputs, (clamped / len(kept)).tolist(), strict=False))
        fed_back = {state.input: state.output for state in policy.recurrent}
        for name in looked_at:
            if name not in cut:
                cut[name] = at_ends(network, fed_back.get(name, name), counts[name])
        rows = [
            _row(network.tensors[name], computed.get(name, _INPUT), counts[name], cut[name])
            for name in looked_at
        ]
        return {"num_states": len(kept), "tensors": rows}

    def _keep(self, observations: Any, state: State | None, episode_start: NDArray[np.bool_]) -> None:
        policy, count = self._policy, len(episode_start)
        memory = np.zeros((count, 0), np.uint8)
        if policy.has_memory:
            memory = policy.fresh_memory(count) if state is None else np.array(state[0], np.uint8)
            policy.reset_memory(memory, np.flatnonzero(episode_start), None)
        parts = [part_rows(policy, observations, at) for at in range(len(policy.parts))]
        rows = np.linspace(0, count, min(count, _ROWS_A_STEP), endpoint=False).astype(np.int64)
        for row in (rows + self._num_steps // self._stride) % count:  # in turn, as a row is an episode
            self._kept.append(([values[row : row + 1].copy() for values in parts], memory[row : row + 1]))
        if len(self._kept) > 2 * self._most:
            self._kept, self._stride = self._kept[::2], 2 * self._stride


def _joined(policy: IntegerPolicy, kept: Sequence[_Kept]) -> tuple[Mapping[str, NDArray[Any]], Memory]:
    columns = zip(*(parts for parts, _ in kept), strict=True)
    names = (part.name for part in policy.parts)
    observations = {name: np.concatenate(column) for name, column in zip(names, columns, strict=True)}
    return observations, np.concatenate([memory for _, memory in kept])


def _count(reference: Reference, inputs: Arrays, counts: Mapping[str, NDArray[np.int64]]) -> None:
    """Add how often each tensor takes each of its values."""
    values = reference.run_all(inputs)
    for name, found in counts.items():
        above = values[name].astype(np.int64).ravel() - reference.network.tensors[name].range[0]
        found += np.bincount(above, minlength=len(found))


def _row(tensor: Tensor, operator: str, counts: NDArray[np.int64], saturated: float) -> dict[str, Any]:
    occurring = np.flatnonzero(counts)
    low, high = (tensor.scale * (end - tensor.zero_point) for end in tensor.range)
    return {
        "name": tensor.name,
        "operator": operator,
        "bits": 8 * np.dtype(tensor.dtype).itemsize,
        "range": [low, high],
        "saturated": saturated,
        "range_used": float(occurring[-1] - occurring[0]) / (len(counts) - 1),
    }
