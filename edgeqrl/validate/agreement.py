"""How often two policies choose the same action on the same observations.

Reported, never decided on: action errors mislead, returns do not.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import AgentError, DataError
from edgeqrl.interfaces import Policy, State

if TYPE_CHECKING:
    import gymnasium

RELATIVE_TOLERANCE = 0.01  # of an action dimension's range


@dataclass(frozen=True)
class Agreement:
    """What `AgreementCounter` counted."""

    action_agreement: float  # fraction of steps, in [0, 1]
    action_error: float | None  # mean |difference| in action units; None for discrete actions
    num_steps: int


class AgreementCounter:
    """Count over batches of actions.

    Integer actions agree when they are equal. Real ones agree when in every dimension they differ by at
    most 1 % of the action space's range; without finite bounds, of the larger of 1 and |float action|.
    """

    def __init__(self, action_space: "gymnasium.Space[Any] | None" = None) -> None:
        low, high = (getattr(action_space, bound, None) for bound in ("low", "high"))
        self._range: NDArray[np.float64] | None = None
        if low is not None and high is not None:
            self._range = np.asarray(high, np.float64) - np.asarray(low, np.float64)
        self._num_steps = self._num_equal = 0
        self._error = 0.0
        self._is_discrete = True

    def add(self, float_actions: NDArray[Any], quantized_actions: NDArray[Any]) -> None:
        """Count one batch of actions [N, *action_shape]."""
        if float_actions.shape != quantized_actions.shape:
            raise DataError(
                f"The policies' actions have different shapes, {float_actions.shape} and "
                f"{quantized_actions.shape}; both must come from one agent."
            )
        rows = len(float_actions)
        self._num_steps += rows
        if float_actions.dtype.kind in "iu" and quantized_actions.dtype.kind in "iu":
            same = (float_actions == quantized_actions).reshape(rows, -1).all(axis=1)
        else:
            self._is_discrete = False
            wanted = float_actions.astype(np.float64)
            difference = np.abs(quantized_actions.astype(np.float64) - wanted)
            if not np.isfinite(difference).all():
                raise AgentError("One of the two compared policies returned an action that is not finite.")
            scale = np.maximum(np.abs(wanted), 1.0)
            if self._range is not None:
                scale = np.where(np.isinf(self._range), scale, self._range)
            same = (difference <= RELATIVE_TOLERANCE * scale).reshape(rows, -1).all(axis=1)
            self._error += float(difference.reshape(rows, -1).mean(axis=1).sum())
        self._num_equal += int(same.sum())

    def result(self) -> Agreement:
        """Return what was counted; at least one batch must have been."""
        if self._num_steps == 0:
            raise ValueError("nothing was counted")
        error = None if self._is_discrete else self._error / self._num_steps
        return Agreement(self._num_equal / self._num_steps, error, self._num_steps)


class ShadowedPolicy:
    """Act as `leader` does, while `follower` is asked on the same observations and only counted.

    One pass compares the two on the leader's episodes, with masks and memory, and stores no observation.
    """

    def __init__(self, leader: Policy, follower: Policy, counter: AgreementCounter) -> None:
        self.name = leader.name
        self._leader, self._follower, self._counter = leader, follower, counter
        self._num_leader_arrays = 0
        self._twins: dict[np.random.Generator, np.random.Generator] = {}

    def act(
        self,
        observations: NDArray[Any],
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Return the leader's actions and the states of both."""
        split = self._num_leader_arrays
        own, other = (None, None) if state is None else (state[:split], state[split:])
        twins = None if rng is None else self._twins_of(rng, episode_start)
        actions, own = self._leader.act(
            observations, own, episode_start=episode_start, action_masks=action_masks, rng=rng
        )
        answers, other = self._follower.act(
            observations, other, episode_start=episode_start, action_masks=action_masks, rng=twins
        )
        self._counter.add(np.asarray(actions), np.asarray(answers))
        self._num_leader_arrays = len(own)
        return actions, (*own, *other)

    def _twins_of(
        self, rng: Sequence[np.random.Generator], episode_start: NDArray[np.bool_]
    ) -> list[np.random.Generator]:
        # The follower draws the same numbers from a copy, so that it does not disturb the leader.
        if episode_start.any():
            self._twins = {
                generator: copy.deepcopy(generator) if is_start else self._twins[generator]
                for generator, is_start in zip(rng, episode_start, strict=True)
            }
        return [self._twins[generator] for generator in rng]
