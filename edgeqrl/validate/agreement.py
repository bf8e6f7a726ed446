"""How often two policies choose the same action on the same observations.

Reported, never decided on: action errors mislead, returns do not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from sys import maxsize
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import AgentError, DataError
from edgeqrl.interfaces import Policy, State

if TYPE_CHECKING:
    import gymnasium

RELATIVE_TOLERANCE = 0.01  # of an action dimension's range
NO_BOUND = float(np.finfo(np.float32).max)  # what spaces write where there is none, but for infinity

_BATCH = 256


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
    bounds = [getattr(action_space, bound, None) for bound in ("low", "high")]
    if bounds[0] is None or bounds[1] is None:
        return None
    low, high = (np.clip(np.asarray(bound, np.float64), -NO_BOUND, NO_BOUND) for bound in bounds)
    return np.where((low > -NO_BOUND) & (high < NO_BOUND), high - low, np.inf)


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


class Counter(Protocol):
    """What is told the actions of two policies; `AgreementCounter` is one."""

    def add(self, float_actions: NDArray[Any], quantized_actions: NDArray[Any]) -> None:
        """Take one batch of actions [N, *action_shape] of each."""
        ...


class ShadowedPolicy:
    """Act as `leader` does, while `follower` is asked on the same observations and only counted.

    One pass compares the two on the leader's episodes, with masks and memory, and stores no observation.
    """

    def __init__(self, leader: Policy, follower: Policy, counter: Counter) -> None:
        self.name = leader.name
        self._leader, self._follower, self._counter = leader, follower, counter
        self.most_envs = min(int(getattr(policy, "most_envs", maxsize)) for policy in (leader, follower))
        self._num_leader_arrays = 0
        # The follower draws the same numbers from a copy, so that it does not disturb the leader.
        self._twins = DerivedGenerators(twin)

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
        twins = None if rng is None else self._twins.of(rng, episode_start)
        actions, own = self._leader.act(
            observations, own, episode_start=episode_start, action_masks=action_masks, rng=rng
        )
        answers, other = self._follower.act(
            observations, other, episode_start=episode_start, action_masks=action_masks, rng=twins
        )
        self._counter.add(np.asarray(actions), np.asarray(answers))
        self._num_leader_arrays = len(own)
        return actions, (*own, *other)


def ask_recorded(policy: Policy, observations: NDArray[Any] | Mapping[str, NDArray[Any]]) -> None:
    """Show a policy recorded observations [N, *shape], or their parts by name.

    Each is taken as the start of an episode; so a policy with memory shows only what it does at first.
    """
    arrays = observations if isinstance(observations, Mapping) else {"": observations}
    count = len(next(iter(arrays.values())))
    if count < 1:
        raise DataError("There are no recorded observations to compare the policies on.")
    for first in range(0, count, _BATCH):
        rows = {name: values[first : first + _BATCH] for name, values in arrays.items()}
        batch: Any = rows if isinstance(observations, Mapping) else rows[""]
        size = min(_BATCH, count - first)
        generators = [np.random.default_rng(first + row) for row in range(size)]
        policy.act(batch, None, episode_start=np.ones(size, np.bool_), rng=generators)


class DerivedGenerators:
    """A generator for each of a policy's, made from it where an episode starts, and kept until the next."""

    def __init__(self, derive: Callable[[np.random.Generator], np.random.Generator]) -> None:
        self._derive = derive
        self._derived: dict[np.random.Generator, np.random.Generator] = {}

    def of(
        self, rng: Sequence[np.random.Generator], is_start: NDArray[np.bool_]
    ) -> list[np.random.Generator]:
        """Return those of the generators of N rows."""
        if is_start.any():
            self._derived = {
                generator: self._derive(generator) if starts else self._derived[generator]
                for generator, starts in zip(rng, is_start, strict=True)
            }
        return [self._derived[generator] for generator in rng]


def twin(generator: np.random.Generator) -> np.random.Generator:
    """Return a copy that also knows its seed, which `deepcopy` forgets before NumPy 2."""
    source: Any = generator.bit_generator
    copied = type(source)(source.seed_seq)
    copied.state = source.state
    return np.random.Generator(copied)


def _are_integers(*batches: NDArray[Any]) -> bool:
    return all(batch.dtype.kind in "iu" for batch in batches)
