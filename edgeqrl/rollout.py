"""The only environment loop: many episodes side by side, each decided by its seed alone."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.environments import (
    MakeEnv,
    MaskReader,
    environment_name,
    mask_reader,
    one_line,
    open_environment,
)
from edgeqrl.errors import AgentError, EnvironmentFailure, UsageError
from edgeqrl.interfaces import Policy, State

if TYPE_CHECKING:
    import gymnasium

MAX_EPISODE_STEPS = 1_000_000  # an episode as long as this will not end by itself
_CHECK_LENGTH_EVERY = 1024  # steps


@dataclass(frozen=True, eq=False)
class Rollout:
    """Episodes played, in the order of their seeds. `E` counts episodes, `T` the steps of one."""

    seeds: tuple[int, ...]
    episode_returns: NDArray[np.float64]  # [E], undiscounted
    episode_lengths: NDArray[np.int64]  # [E]
    is_truncated: NDArray[np.bool_]  # [E], True where a time limit and nothing else ended the episode
    observations: tuple[NDArray[np.float32], ...] | None  # one [T, *shape] an episode: what the policy saw
    actions: tuple[NDArray[Any], ...] | None  # one [T, *action_shape] an episode: what it did


def rollout(
    policy: Policy,
    make_env: MakeEnv,
    seeds: Sequence[int],
    *,
    num_envs: int = 64,
    keep_observations: bool = False,
    keep_actions: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Rollout:
    """Play one episode per seed, up to `num_envs` at a time, and return them in the order of `seeds`.

    An episode gets a fresh environment, because some (BipedalWalker-v3) play differently when reused.
    Its seed seeds `reset`, the action space and the generator that the policy gets, so it is the same
    episode whatever its neighbours are. `progress` is called with (episodes done, episodes in all).

    Raises UsageError for no seeds, EnvironmentFailure when the environment fails or returns what
    Gymnasium does not allow, AgentError when the policy's actions do not fit the action space.
    """
    checked = _checked_seeds(seeds)
    if num_envs < 1:
        raise UsageError(f"num_envs must be at least 1, got {num_envs}.")
    loop = _Loop(policy, make_env, checked, keep_observations, keep_actions, progress)
    try:
        loop.run(num_envs)
    finally:
        loop.close()
    return Rollout(
        checked,
        np.array([done.episode_return for done in loop.done], np.float64),
        np.array([done.length for done in loop.done], np.int64),
        np.array([done.is_truncated for done in loop.done], np.bool_),
        tuple(done.observations for done in loop.done) if keep_observations else None,
        tuple(done.actions for done in loop.done) if keep_actions else None,
    )


class RandomPolicy:
    """Draw actions as `action_space.sample()` does, from each episode's own generator."""

    name = "random"

    def __init__(self, action_space: "gymnasium.Space[Any]") -> None:
        import gymnasium

        if not isinstance(action_space, gymnasium.spaces.Discrete | gymnasium.spaces.Box):
            kind = type(action_space).__name__
            raise UsageError(f"Random actions are known for Discrete and Box action spaces, not for {kind}.")
        self._space: Any = action_space
        self._is_discrete = isinstance(action_space, gymnasium.spaces.Discrete)

    def act(
        self,
        observations: NDArray[Any],
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Draw one action a row, among the allowed ones where there are masks."""
        if rng is None:
            raise ValueError("RandomPolicy needs a generator for each row")
        if not self._is_discrete:
            return np.stack([self._draw_box(generator) for generator in rng]), ()
        count, start = int(self._space.n), int(self._space.start)
        if action_masks is None:
            return np.array([start + generator.integers(count) for generator in rng], np.int64), ()
        allowed = [np.flatnonzero(mask) if mask.any() else np.arange(count) for mask in action_masks]
        drawn = [start + generator.choice(some) for generator, some in zip(rng, allowed, strict=True)]
        return np.array(drawn, np.int64), ()

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


@dataclass(slots=True)
class _Episode:
    """An episode that is being played: one row of the batch."""

    index: int  # into the seeds
    seed: int
    env: "gymnasium.Env[Any, Any]"
    base: "gymnasium.Env[Any, Any]"  # without wrappers
    step: Callable[[Any], Any]
    first_step: int  # the loop's step count when it began
    rng: np.random.Generator
    observation: Any
    mask: Any
    episode_return: float = 0.0
    observations: list[NDArray[np.float32]] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Done:
    episode_return: float
    length: int
    is_truncated: bool
    observations: NDArray[np.float32]
    actions: NDArray[Any]


class _Loop:
    """The state of one call of `rollout`."""

    def __init__(
        self,
        policy: Policy,
        make_env: MakeEnv,
        seeds: tuple[int, ...],
        keep_observations: bool,
        keep_actions: bool,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._policy, self._make_env, self._seeds = policy, make_env, seeds
        self._keep_observations, self._keep_actions = keep_observations, keep_actions
        self._progress = progress
        self._name = "?"
        self._action_space: Any = None
        self._observation_shape: tuple[int, ...] = ()
        self._read_mask: MaskReader | None = None
        self._live: list[_Episode] = []
        self._num_begun = 0
        self._num_done = 0
        self._num_steps = 0  # of the whole batch
        self._results: list[_Done | None] = [None] * len(seeds)

    @property
    def done(self) -> list[_Done]:
        """Return the finished episodes, in the order of the seeds."""
        return [result for result in self._results if result is not None]

    def run(self, num_envs: int) -> None:
        """Play every episode."""
        while len(self._live) < min(num_envs, len(self._seeds)):
            self._live.append(self._begin())
        state: State | None = None
        is_start = np.ones(len(self._live), np.bool_)
        generators = [episode.rng for episode in self._live]
        while self._live:
            observations = self._observations()
            if self._keep_observations:
                for episode, row in zip(self._live, observations.copy(), strict=True):
                    episode.observations.append(row)
            actions, state = self._policy.act(
                observations,
                state,
                episode_start=is_start,
                action_masks=self._masks(),
                rng=generators,
            )
            checked, kept = self._checked_actions(actions)
            if self._keep_actions:
                for episode, row in zip(self._live, kept, strict=True):
                    episode.actions.append(row)
            ended = self._step(checked)
            is_start = np.zeros(len(self._live), np.bool_)
            if ended:
                state, is_start = self._replace(ended, state, is_start)
                generators = [episode.rng for episode in self._live]

    def close(self) -> None:
        """Close what an error or Ctrl-C left open."""
        for episode in self._live:
            with suppress(Exception):
                episode.env.close()

    def _begin(self) -> _Episode:
        index, seed = self._num_begun, self._seeds[self._num_begun]
        env = open_environment(self._make_env)
        try:
            self._require_fresh(env)
            if index == 0:
                self._name = environment_name(env)
                self._action_space = env.action_space
                self._observation_shape = tuple(env.observation_space.shape or ())
            try:
                env.action_space.seed(seed)
                observation, info = env.reset(seed=seed)
                if index == 0:
                    self._read_mask = mask_reader(env, info)
                mask = None if self._read_mask is None else self._read_mask(env, info)
            except Exception as error:
                raise self._failure("reset()", seed, error) from error
        except BaseException:
            with suppress(Exception):
                env.close()
            raise
        # The environment's own generator is default_rng(seed): with the same one here, a policy's draws
        # would repeat the environment's.
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(1,))))
        self._num_begun += 1
        return _Episode(index, seed, env, env.unwrapped, env.step, self._num_steps, rng, observation, mask)

    def _require_fresh(self, env: "gymnasium.Env[Any, Any]") -> None:
        base = env.unwrapped
        if any(base is episode.base for episode in self._live):
            raise UsageError(
                f"make_env returned the same {type(base).__name__} twice; it must make a new environment "
                "each time it is called."
            )

    def _observations(self) -> NDArray[np.float32]:
        expected = (len(self._live), *self._observation_shape)
        try:
            with np.errstate(over="ignore"):  # beyond float32 becomes inf, which is refused below
                batch = np.array([episode.observation for episode in self._live], np.float32)
        except (TypeError, ValueError):
            batch = np.empty(0, np.float32)
        if batch.shape != expected:
            found = sorted({str(np.shape(episode.observation)) for episode in self._live})
            raise EnvironmentFailure(
                f"Environment '{self._name}' returned observations of shape {', '.join(found)}, but its "
                f"observation space says {self._observation_shape}."
            )
        if not np.isfinite(batch).all():
            row = int(np.flatnonzero(~np.isfinite(batch).reshape(len(batch), -1).all(axis=1))[0])
            episode = self._live[row]
            raise EnvironmentFailure(
                f"Environment '{self._name}' returned an observation that is not finite in float32, in step "
                f"{self._num_steps - episode.first_step} of the episode with seed {episode.seed}."
            )
        return batch

    def _masks(self) -> NDArray[np.bool_] | None:
        if self._read_mask is None:
            return None
        expected = (len(self._live), int(self._action_space.n))
        try:
            masks = np.array([episode.mask for episode in self._live], np.bool_)
        except (TypeError, ValueError):
            masks = np.empty(0, np.bool_)
        if masks.shape != expected:
            raise EnvironmentFailure(
                f"Environment '{self._name}' gave an action mask that is not one value for each of its "
                f"{expected[1]} actions."
            )
        return masks

    def _checked_actions(self, actions: Any) -> tuple[list[Any], NDArray[Any]]:
        """Return what `env.step` gets, one a row, and a copy that no environment can change."""
        space = self._action_space
        values = np.asarray(actions)
        expected = (len(self._live), *space.shape)
        if values.shape != expected:
            raise AgentError(
                f"Policy '{self._policy.name}' returned actions of shape {values.shape}, but environment "
                f"'{self._name}' needs {expected}."
            )
        if np.issubdtype(space.dtype, np.integer):
            if values.dtype.kind not in "iu":
                raise AgentError(
                    f"Policy '{self._policy.name}' returned {values.dtype} actions, but environment "
                    f"'{self._name}' needs integers."
                )
        elif not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
            raise AgentError(
                f"Policy '{self._policy.name}' returned an action that is not finite, in the episode with "
                f"seed {self._live[row].seed}."
            )
        if not space.shape and hasattr(space, "n"):
            return self._checked_discrete(values), values.astype(np.int64)
        kept = values.astype(space.dtype)
        return list(kept.copy()), kept

    def _checked_discrete(self, values: NDArray[Any]) -> list[int]:
        start, count = int(self._action_space.start), int(self._action_space.n)
        checked: list[int] = values.tolist()  # Python integers: what every environment takes
        if min(checked) < start or max(checked) >= start + count:
            wrong = next(a for a in checked if not start <= a < start + count)
            raise AgentError(
                f"Policy '{self._policy.name}' chose action {wrong}, but environment '{self._name}' has "
                f"actions {start} to {start + count - 1}."
            )
        return checked

    def _step(self, actions: list[Any]) -> list[tuple[int, bool]]:
        """Step every environment; return `(row, is_truncated)` of the episodes that ended."""
        ended: list[tuple[int, bool]] = []
        read_mask = self._read_mask
        episode = self._live[0]
        try:
            for row, (episode, action) in enumerate(zip(self._live, actions, strict=True)):
                observation, reward, is_terminated, is_cut, info = episode.step(action)
                episode.episode_return += float(reward)  # NumPy 2 would go on in a float32 reward's type
                if is_terminated or is_cut:
                    ended.append((row, not is_terminated))
                    continue
                episode.observation = observation
                if read_mask is not None:
                    episode.mask = read_mask(episode.env, info)
        except Exception as error:
            raise self._failure("step()", episode.seed, error) from error
        self._num_steps += 1
        if self._num_steps % _CHECK_LENGTH_EVERY == 0:
            self._require_ending()
        return ended

    def _require_ending(self) -> None:
        for episode in self._live:
            if self._num_steps - episode.first_step > MAX_EPISODE_STEPS:
                raise EnvironmentFailure(
                    f"Environment '{self._name}' has not ended the episode with seed {episode.seed} after "
                    f"{MAX_EPISODE_STEPS} steps; give it a time limit (max_episode_steps)."
                )

    def _replace(
        self, ended: list[tuple[int, bool]], state: State, is_start: NDArray[np.bool_]
    ) -> tuple[State, NDArray[np.bool_]]:
        """Begin a new episode in each row that ended, or take the row out when no seed is left."""
        keep = np.ones(len(self._live), np.bool_)
        for row, is_truncated in ended:
            self._finish(self._live[row], is_truncated)
            if self._num_begun < len(self._seeds):
                self._live[row] = self._begin()
                is_start[row] = True
            else:
                keep[row] = False
        if keep.all():
            return state, is_start
        self._live = [episode for episode, stays in zip(self._live, keep, strict=True) if stays]
        return tuple(part[keep] for part in state), is_start[keep]

    def _finish(self, episode: _Episode, is_truncated: bool) -> None:
        if not np.isfinite(episode.episode_return):
            raise EnvironmentFailure(
                f"Environment '{self._name}' gave rewards that are not finite in the episode with seed "
                f"{episode.seed}."
            )
        try:
            episode.env.close()
        except Exception as error:
            raise self._failure("close()", episode.seed, error) from error
        self._results[episode.index] = _Done(
            episode.episode_return,
            self._num_steps - episode.first_step,
            is_truncated,
            np.array(episode.observations, np.float32),
            np.array(episode.actions),
        )
        self._num_done += 1
        if self._progress is not None:
            self._progress(self._num_done, len(self._seeds))

    def _failure(self, where: str, seed: int, error: Exception) -> EnvironmentFailure:
        return EnvironmentFailure(
            f"Environment '{self._name}' failed in {where}, in the episode with seed {seed}: "
            f"{one_line(error)}; gymnasium.utils.env_checker.check_env tells more."
        )


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    checked = tuple(int(seed) for seed in seeds)
    if not checked:
        raise UsageError("No episodes to play: give at least one seed.")
    if min(checked) < 0:
        raise UsageError(f"Seeds must not be negative, got {min(checked)}.")
    return checked
