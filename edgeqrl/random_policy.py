"""Random actions: what a policy must be better than, and noise: what else it may be calibrated on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.interfaces import State
from edgeqrl.spaces import class_counts, class_starts, require_actions

if TYPE_CHECKING:
    import gymnasium

    from edgeqrl.backends.float_policy import WholeFloatPolicy


class RandomPolicy:
    """Draw actions as `action_space.sample()` does, from each episode's own generator."""

    name = "random"

    def __init__(self, action_space: "gymnasium.Space[Any]") -> None:
        import gymnasium

        require_actions(action_space, "of random actions")
        self._space: Any = action_space
        self._counts = class_counts(action_space) or ()
        self._starts = class_starts(action_space)
        self._is_box = isinstance(action_space, gymnasium.spaces.Box)

    def act(
        self,
        observations: Any,
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Draw one action a row, among the allowed ones where there are masks."""
        if rng is None:
            raise ValueError("RandomPolicy needs a generator for each row")
        if self._is_box:
            return np.stack([self._draw_box(generator) for generator in rng]), ()
        masks = [None] * len(rng) if action_masks is None else action_masks
        drawn = [self._draw_classes(generator, mask) for generator, mask in zip(rng, masks, strict=True)]
        return np.array(drawn, np.int64).reshape(len(rng), *self._space.shape) + self._start, ()

    @property
    def _start(self) -> NDArray[np.int64]:
        return self._starts.reshape(self._space.shape)

    def _draw_classes(self, rng: np.random.Generator, mask: NDArray[np.bool_] | None) -> list[int]:
        """Draw one index a choice; where all actions of a choice are forbidden, any of them."""
        if mask is None:
            return [int(rng.integers(count)) for count in self._counts]
        drawn, first = [], 0
        for count in self._counts:
            part = mask[first : first + count]
            drawn.append(int(rng.choice(np.flatnonzero(part) if part.any() else np.arange(count))))
            first += count
        return drawn

    def _draw_box(self, rng: np.random.Generator) -> NDArray[Any]:
        space = self._space
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        has_low, has_high = np.isfinite(low), np.isfinite(high)
        # Both kinds are always drawn: how much of the stream a step takes then depends on the shape alone.
        inside, tail = rng.random(space.shape), rng.standard_exponential(space.shape)
        normal = rng.standard_normal(space.shape)
        with np.errstate(invalid="ignore"):
            bounded = low + inside * (high - low)
        drawn = np.select(
            [has_low & has_high, has_low, has_high], [bounded, low + tail, high - tail], default=normal
        )
        return np.asarray(np.clip(drawn, low, high).astype(space.dtype))


class _Beside:
    """Acts beside a float policy, whose network sees every step, and tells what that is given."""

    def __init__(self, policy: "WholeFloatPolicy", action_space: Any) -> None:
        self._policy, self._random = policy, RandomPolicy(action_space)
        self.preprocessing, self.has_states = policy.preprocessing, policy.has_states

    def network_inputs(
        self, observations: Any, state: State | None, *, episode_start: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float32]]:
        """Return what the policy's network is given in this step, by name."""
        return self._policy.network_inputs(observations, state, episode_start=episode_start)


class RandomActor(_Beside):
    """Acts at random: beside a value network, which chooses no action, or instead of a policy."""

    name = "random"

    def act(
        self,
        observations: Any,
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Return random actions, and the memory of a recurrent network after the step."""
        options: dict[str, Any] = {"episode_start": episode_start, "action_masks": action_masks, "rng": rng}
        actions, _ = self._random.act(observations, None, **options)
        if not self.has_states:
            return actions, ()
        _, state = self._policy.act(observations, state, **options)
        return actions, state


class NoisyActor(_Beside):
    """Acts as a policy does, with the noise of exploration, by each episode's own generator.

    Classes: each choice is drawn evenly among its actions, the allowed ones where there are masks, with the
    probability `noise`. Numbers: noise * half the width of their bounds, or * 1 where there are none, is the
    standard deviation of what is added; the sum is clipped to the bounds.
    """

    name = "noisy"

    def __init__(self, policy: "WholeFloatPolicy", action_space: Any, noise: float) -> None:
        import gymnasium

        super().__init__(policy, action_space)
        self._noise, self._space = noise, action_space
        self._is_box = isinstance(action_space, gymnasium.spaces.Box)

    def act(
        self,
        observations: Any,
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Return noisy actions, and the policy's memory after the step."""
        if rng is None:
            raise ValueError("NoisyActor needs a generator for each row")
        options: dict[str, Any] = {"episode_start": episode_start, "action_masks": action_masks, "rng": rng}
        actions, state = self._policy.act(observations, state, **options)
        if self._is_box:
            return self._disturbed(actions, rng), state
        others, _ = self._random.act(observations, None, **options)
        is_drawn = np.stack([generator.random(self._space.shape) for generator in rng]) < self._noise
        return np.where(is_drawn, others, actions), state

    def _disturbed(self, actions: NDArray[Any], rng: Sequence[np.random.Generator]) -> NDArray[Any]:
        low, high = (np.asarray(end, np.float64) for end in (self._space.low, self._space.high))
        width = high - low
        deviation = self._noise * np.where(np.isfinite(width), width / 2, 1.0)
        z = np.stack([generator.standard_normal(self._space.shape) for generator in rng])
        noisy = np.clip(np.asarray(actions, np.float64) + deviation * z, low, high)
        return np.asarray(noisy.astype(np.result_type(actions)))
