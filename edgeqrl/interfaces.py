"""The two narrow interfaces that every backend provides and every later stage uses."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Observations = NDArray[Any] | Mapping[str, NDArray[Any]]  # [N, *shape]; of several parts, one array each
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
        observations: Any,
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Act in N environments at once.

        observations   [N, *observation_shape], as the environment returned them; of a Dict or Tuple space a
                       mapping from the parts' names to such arrays (Observations)
        state          what the previous call returned, its rows selected to match, or None at first
        episode_start  [N], True where the row begins an episode: its state is reset before acting
        action_masks   [N, num_actions], True where the action is allowed, or None; of several choices one
                       after another
        rng            N generators, one an episode, for policies that draw; others ignore it

        Returns actions [N, *action_shape] for `env.step`, and the state [N, ...] after acting. A row's
        answer depends on that row alone.
        """
        ...


@runtime_checkable
class CalibratingPolicy(Policy, Protocol):
    """A policy that tells what its network would be given."""

    def network_inputs(
        self, observations: Any, state: State | None, *, episode_start: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float32]]:
        """Return every network input [N, *shape] by name: preprocessed, stacked, with recurrent states.

        Takes what `act` takes, and changes nothing.
        """
        ...


@runtime_checkable
class ScoringPolicy(Policy, Protocol):
    """A policy without memory that also tells what it decides by."""

    def outputs(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Return the network's first output [N, num_outputs], for observations [N, *observation_shape].

        In real units: those of the float model, up to what a discrete head's exact rewrites changed (a
        constant a row, logits instead of probabilities). Masks are not applied.
        """
        ...
