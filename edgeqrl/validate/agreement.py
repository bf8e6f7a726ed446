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
class Spread:
    """Of many values that are not negative."""

    mean: float
    p95: float  # 95 % of the values lie at or below
    max: float


@dataclass(frozen=True)
class Agreement:
    """What `AgreementCounter` counted."""

    action_agreement: float  # fraction of steps, in [0, 1]
    action_error: float | None  # mean |difference| in action units; None for discrete actions
    num_steps: int
    error_by_dimension: tuple[Spread, ...] | None = None  # the same of each dimension, flattened


def spread(values: NDArray[Any]) -> Spread:
    """Summarize `values` [n >= 1]."""
    return Spread(float(values.mean()), float(np.percentile(values, 95.0)), float(values.max()))


def action_range(action_space: "gymnasium.Space[Any] | None") -> NDArray[np.float64] | None:
    """Return high - low [*action_shape] of a Box, infinite where a bound is; None for other spaces."""
    low, high = (getattr(action_space, bound, None) for bound in ("low", "high"))
    if low is None or high is None:
        return None
    return np.asarray(high, np.float64) - np.asarray(low, np.float64)


def actions_agree(
    float_actions: NDArray[Any], quantized_actions: NDArray[Any], span: NDArray[np.float64] | None = None
) -> NDArray[np.bool_]:
    """Return which rows [N] of two batches of actions [N, *action_shape] agree.

    Integer actions agree when they are equal. Real ones agree when in every dimension they differ by at
    most 1 % of the range `span` [*action_shape]; where it is not finite, of the larger of 1 and |float
    action|.
    """
    if float_actions.shape != quantized_actions.shape:
        raise DataError(
            f"The policies' actions have different shapes, {float_actions.shape} and "
            f"{quantized_actions.shape}; both must come from one agent."
        )
    rows = len(float_actions)
    if _are_integers(float_actions, quantized_actions):
        is_same = float_actions == quantized_actions
    else:
        wanted = float_actions.astype(np.float64)
        difference = np.abs(quantized_actions.astype(np.float64) - wanted)
        if not np.isfinite(difference).all():
            raise AgentError("One of the two compared policies returned an action that is not finite.")
        scale = np.maximum(np.abs(wanted), 1.0)
        if span is not None:
            scale = np.where(np.isinf(span), scale, span)
        is_same = difference <= RELATIVE_TOLERANCE * scale
    return np.asarray(is_same.reshape(rows, int(np.prod(is_same.shape[1:]))).all(axis=1))


class AgreementCounter:
    """Count over batches of actions; they agree as `actions_agree` says.

    Keeps the differences of real actions, in float32.
    """

    def __init__(self, action_space: "gymnasium.Space[Any] | None" = None) -> None:
        self._range = action_range(action_space)
        self._num_steps = self._num_equal = 0
        self._error = 0.0
        self._is_discrete = True
        self._differences: list[NDArray[np.float32]] = []  # [N, dimensions]

    def add(self, float_actions: NDArray[Any], quantized_actions: NDArray[Any]) -> None:
        """Count one batch of actions [N, *action_shape]."""
        same = actions_agree(float_actions, quantized_actions, self._range)
        rows = len(same)
        self._num_steps += rows
        if not _are_integers(float_actions, quantized_actions):
            self._is_discrete = False
            difference = np.abs(quantized_actions.astype(np.float64) - float_actions.astype(np.float64))
            flat = difference.reshape(rows, -1)
            self._error += float(flat.mean(axis=1).sum())
            self._differences.append(flat.astype(np.float32))
        self._num_equal += int(same.sum())

    def result(self) -> Agreement:
        """Return what was counted; at least one batch must have been."""
        if self._num_steps == 0:
            raise ValueError("nothing was counted")
        share = self._num_equal / self._num_steps
        if self._is_discrete:
            return Agreement(share, None, self._num_steps)
        columns = np.concatenate(self._differences).astype(np.float64).T
        return Agreement(
            share, self._error / self._num_steps, self._num_steps, tuple(spread(column) for column in columns)
        )


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


def _are_integers(*batches: NDArray[Any]) -> bool:
    return all(batch.dtype.kind in "iu" for batch in batches)
