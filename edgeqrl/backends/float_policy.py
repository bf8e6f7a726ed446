"""A whole float policy around any float function: preprocessing, states, draws, actions."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.heads import Head
from edgeqrl.interfaces import State
from edgeqrl.preprocessing import Preprocessing

if TYPE_CHECKING:
    from edgeqrl.agents.agent import StateSpec

Floats = NDArray[np.float32]
Run = Callable[
    [list[Floats]], list[Floats]
]  # inputs [N, *shape] -> outputs [N, *shape], in the model's order
Raw = Mapping[str, NDArray[Any]] | NDArray[Any]


class WholeFloatPolicy:
    """Acts in float32 as the exported policy does in integers: a Policy.

    Between steps its state is: the frames, the recurrent states [N, *shape], and of policies that draw the
    generators' words [N, 4].
    """

    def __init__(
        self,
        name: str,
        run: Run,
        head: Head,
        preprocessing: Preprocessing,
        states: "Sequence[StateSpec]" = (),
        value_names: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._run = run
        self._head = head
        self.preprocessing = preprocessing
        self._states = tuple(states)
        self._values = tuple(value_names)

    @property
    def has_memory(self) -> bool:
        """Tell whether anything survives a step."""
        return bool(self._states or self.preprocessing.frames is not None or self._head.is_stochastic)

    @property
    def has_states(self) -> bool:
        """Tell whether the network is recurrent."""
        return bool(self._states)

    def outputs(self, observations: Raw) -> Floats:
        """Return the network's first output [N, num_outputs] for observations that begin episodes."""
        count = _count(observations)
        inputs, _ = self._inputs(observations, None, np.ones(count, np.bool_))
        return self._ask(inputs)[0].reshape(count, self._head.output_sizes[0])

    def network_inputs(
        self, observations: Raw, state: State | None, *, episode_start: NDArray[np.bool_]
    ) -> dict[str, Floats]:
        """Return what the network is given in this step, states included, by name."""
        inputs, _ = self._inputs(observations, state, episode_start)
        names = [part.name for part in self.preprocessing.parts] + [spec.name for spec in self._states]
        return dict(zip(names, inputs, strict=True))

    def act(
        self,
        observations: Raw,
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Act as `interfaces.Policy` says."""
        inputs, frames = self._inputs(observations, state, episode_start)
        outputs = self._ask(inputs)
        following = tuple(outputs[len(outputs) - len(self._states) :])
        count = len(self._head.output_sizes)
        sizes = self._head.output_sizes
        rows = [
            values.reshape(len(values), size) for values, size in zip(outputs[:count], sizes, strict=True)
        ]
        read: Any = rows[0] if count == 1 else rows
        if not self._head.is_stochastic:
            return self._head.actions(read, action_masks), (*frames, *following)
        words = self._words(state, episode_start, rng)
        actions = self._head.actions(read, action_masks, words)
        return actions, (*frames, *following, words)

    def _inputs(
        self, observations: Raw, state: State | None, episode_start: NDArray[np.bool_]
    ) -> tuple[list[Floats], State]:
        """Return the model's inputs, states included, and the frames' memory after them."""
        num_frames = 0 if self.preprocessing.frames is None else len(self.preprocessing.initial_memory(0))
        frames = None if state is None or num_frames == 0 else state[:num_frames]
        inputs, frames = self.preprocessing.inputs(observations, frames, episode_start)
        for at, spec in enumerate(self._states):
            shape = (len(episode_start), *spec.shape)
            values = np.full(shape, spec.initial, np.float32)
            if state is not None:
                is_going_on = ~episode_start
                values[is_going_on] = state[num_frames + at].reshape(shape)[is_going_on]
            inputs.append(values)
        return inputs, frames

    def _ask(self, inputs: list[Floats]) -> list[Floats]:
        return self._run(inputs)

    def _words(
        self,
        state: State | None,
        episode_start: NDArray[np.bool_],
        rng: Sequence[np.random.Generator] | None,
    ) -> NDArray[np.uint32]:
        """Return the generators' words before this step; an episode seeds them with one number of its own."""
        from edgeqrl.network.draws import seed_words

        words = state[-1].copy() if state is not None else seed_words(np.zeros(len(episode_start), np.uint64))
        if episode_start.any():
            if rng is None:
                raise ValueError(f"'{self.name}' draws its actions and needs a generator for each row")
            rows = np.flatnonzero(episode_start)
            seeds = [rng[row].integers(2**64, dtype=np.uint64) for row in rows]
            words[rows] = seed_words(np.array(seeds, np.uint64))
        return words


def _count(observations: Raw) -> int:
    array = next(iter(observations.values())) if isinstance(observations, Mapping) else observations
    return len(array)
