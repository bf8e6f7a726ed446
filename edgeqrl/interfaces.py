"""The two narrow interfaces that every backend provides and every later stage uses."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

State = tuple[NDArray[Any], ...]  # each array [N, ...]; () for a policy without memory


class Network(Protocol):
    """Integers in, integers out. In shapes, `N` counts samples."""

    name: str

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return every network output [N, *shape] for the inputs [N, *shape], by tensor name."""
        ...


class Policy(Protocol):
    """Observations of the environment in, actions of the environment out."""

    name: str

    def act(
        self,
        observations: NDArray[Any],
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Act in N environments at once.

        observations   [N, *observation_shape], as the environment returned them
        state          what the previous call returned, its rows selected to match, or None at first
        episode_start  [N], True where the row begins an episode: its state is reset before acting
        action_masks   [N, num_actions], True where the action is allowed, or None
        rng            N generators, one an episode, for policies that draw; others ignore it

        Returns actions [N, *action_shape] for `env.step`, and the state [N, ...] after acting. A row's
        answer depends on that row alone.
        """
        ...
