"""The only environment loop: many episodes side by side, each decided by its seed alone."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.action_checks import ActionChecks
from edgeqrl.environments import (
    MakeEnv,
    MaskReader,
    environment_name,
    mask_reader,
    open_environment,
)
from edgeqrl.errors import EdgeQRLError, EnvironmentFailure, UsageError, named_line
from edgeqrl.interfaces import Policy, State
from edgeqrl.random_policy import RandomPolicy as RandomPolicy
from edgeqrl.spaces import (
    NotFiniteError,
    is_one_array,
    observation_parts,
    part_array,
    part_at,
)

if TYPE_CHECKING:
    import gymnasium

    from edgeqrl.network.parts import ObservationPart

MAX_EPISODE_STEPS = 1_000_000  # an episode as long as this will not end by itself
_CHECK_LENGTH_EVERY = 1024  # steps


@dataclass(frozen=True, eq=False)
class Rollout:
    """Episodes played, in the order of their seeds. `E` counts episodes, `T` the steps of one."""

    seeds: tuple[int, ...]
    episode_returns: NDArray[np.float64]  # [E], undiscounted
    episode_lengths: NDArray[np.int64]  # [E]
    is_truncated: NDArray[np.bool_]  # [E], True where a time limit and nothing else ended the episode
    observations: tuple[Any, ...] | None  # one [T, *shape] an episode: what the policy saw; or one a part
    actions: tuple[NDArray[Any], ...] | None  # one [T, *action_shape] an episode: what it did
    inputs: tuple[dict[str, NDArray[np.float32]], ...] | None = None  # its network's, [T, *shape] by name
    masks: tuple[NDArray[np.bool_], ...] | None = None  # [T, num_actions], where the environment gives them


def rollout(
    policy: Policy,
    make_env: MakeEnv,
    seeds: Sequence[int],
    *,
    num_envs: int = 64,
    keep_observations: bool = False,
    keep_actions: bool = False,
    keep_inputs: bool = False,
    keep_masks: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Rollout:
    """Play one episode per seed, up to `num_envs` at a time, and return them in the order of `seeds`.

    An episode gets a fresh environment, because some (BipedalWalker-v3) play differently when reused.
    Its seed seeds `reset`, the action space and the generator that the policy gets, so it is the same
    episode whatever its neighbours are. A policy that says `most_envs` gets no more at a time. `keep_inputs`
    needs a `CalibratingPolicy`. `progress` is called with (episodes done, episodes in all).

    Raises UsageError for no seeds, EnvironmentFailure when the environment fails or returns what
    Gymnasium does not allow, AgentError when the policy's actions do not fit the action space.
    """
    checked = _checked_seeds(seeds)
    if num_envs < 1:
        raise UsageError(f"num_envs must be at least 1, got {num_envs}.")
    kept = _Kept(keep_observations, keep_actions, keep_inputs, keep_masks)
    loop = _Loop(policy, make_env, checked, kept, progress)
    try:
        loop.run(min(num_envs, int(getattr(policy, "most_envs", num_envs))))
    finally:
        loop.close()
    return Rollout(
        checked,
        np.array([done.episode_return for done in loop.done], np.float64),
        np.array([done.length for done in loop.done], np.int64),
        np.array([done.is_truncated for done in loop.done], np.bool_),
        tuple(done.observations for done in loop.done) if keep_observations else None,
        tuple(done.actions for done in loop.done) if keep_actions else None,
        tuple(done.inputs for done in loop.done) if keep_inputs else None,
        tuple(done.masks for done in loop.done) if keep_masks and loop.has_masks else None,
    )


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
    observations: list[tuple[NDArray[Any], ...]] = field(default_factory=list)  # a step's parts
    actions: list[Any] = field(default_factory=list)
    inputs: list[dict[str, NDArray[np.float32]]] = field(default_factory=list)
    masks: list[NDArray[np.bool_]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Done:
    episode_return: float
    length: int
    is_truncated: bool
    observations: Any
    actions: NDArray[Any]
    inputs: dict[str, NDArray[np.float32]]
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class _Kept:
    """What of the steps is kept."""

    observations: bool
    actions: bool
    inputs: bool
    masks: bool


class _Loop:
    """The state of one call of `rollout`."""

    def __init__(
        self,
        policy: Policy,
        make_env: MakeEnv,
        seeds: tuple[int, ...],
        kept: _Kept,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._policy, self._make_env, self._seeds = policy, make_env, seeds
        self._kept, self._progress = kept, progress
        self._name = "?"
        self._checks: ActionChecks  # from the first environment on
        self._parts: tuple[ObservationPart, ...] = ()
        self._is_one_array = True
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

    @property
    def has_masks(self) -> bool:
        """Tell whether the environment gives masks."""
        return self._read_mask is not None

    def run(self, num_envs: int) -> None:
        """Play every episode."""
        while len(self._live) < min(num_envs, len(self._seeds)):
            self._live.append(self._begin())
        state: State | None = None
        is_start = np.ones(len(self._live), np.bool_)
        generators = [episode.rng for episode in self._live]
        while self._live:
            observations = self._observations()
            self._keep_what_is_seen(observations, state, is_start)
            actions, state = self._policy.act(
                self._given(observations),
                state,
                episode_start=is_start,
                action_masks=self._masks(),
                rng=generators,
            )
            checked, kept = self._checks.actions(actions, [episode.seed for episode in self._live])
            if self._kept.actions:
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
                self._checks = ActionChecks(env.action_space, self._policy.name, self._name)
                self._parts = observation_parts(env.observation_space)
                self._is_one_array = is_one_array(env.observation_space)
            try:
                env.action_space.seed(seed)
                observation, info = env.reset(seed=seed)
                if index == 0:
                    self._read_mask = mask_reader(env, info)
                mask = None if self._read_mask is None else self._read_mask(env, info)
            except EdgeQRLError:
                raise
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

    def _observations(self) -> dict[str, NDArray[Any]]:
        """Return the latest observations, one array [N, *shape] a part."""
        return {part.name: self._part(part) for part in self._parts}

    def _part(self, part: "ObservationPart") -> NDArray[Any]:
        what = f" as part '{part.key}'" if part.key else ""
        try:
            return part_array(part, [part_at(episode.observation, part.key) for episode in self._live])
        except NotFiniteError as error:
            episode = self._live[error.row]
            raise EnvironmentFailure(
                f"Environment '{self._name}' returned an observation that is not finite in float32{what}, in "
                f"step {self._num_steps - episode.first_step} of the episode with seed {episode.seed}."
            ) from None
        except ValueError as error:
            raise EnvironmentFailure(
                f"Environment '{self._name}' returned observations {error}{what}."
            ) from None
        except (KeyError, IndexError, TypeError):
            raise EnvironmentFailure(
                f"Environment '{self._name}' returned an observation without the part '{part.key}' of its "
                "observation space."
            ) from None

    def _keep_what_is_seen(
        self, observations: dict[str, NDArray[Any]], state: State | None, is_start: NDArray[np.bool_]
    ) -> None:
        if self._kept.observations:
            columns = [batch.copy() for batch in observations.values()]
            for episode, *parts in zip(self._live, *columns, strict=True):
                episode.observations.append(tuple(parts))
        if self._kept.inputs:
            policy: Any = self._policy
            inputs = policy.network_inputs(self._given(observations), state, episode_start=is_start)
            copies = {name: np.array(batch, np.float32) for name, batch in inputs.items()}
            for row, episode in enumerate(self._live):
                episode.inputs.append({name: batch[row] for name, batch in copies.items()})

    def _given(self, observations: dict[str, NDArray[Any]]) -> Any:
        """Return what a policy gets: an array for a plain space."""
        return observations[self._parts[0].name] if self._is_one_array else observations

    def _joined(self, steps: list[tuple[NDArray[Any], ...]]) -> Any:
        """Return an episode's observations: one array [T, *shape], or one a part."""
        dtypes = (part.source for part in self._parts)
        columns = zip(*steps, strict=True) if steps else ((),) * len(self._parts)
        joined = {
            part.name: np.array(column, dtype)
            for part, column, dtype in zip(self._parts, columns, dtypes, strict=True)
        }
        return self._given(joined)

    def _masks(self) -> NDArray[np.bool_] | None:
        if self._read_mask is None:
            return None
        masks = self._checks.masks([episode.mask for episode in self._live])
        if self._kept.masks:
            for episode, row in zip(self._live, masks, strict=True):
                episode.masks.append(row)
        return masks

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
            self._joined(episode.observations),
            np.array(episode.actions),
            {
                name: np.array([inputs[name] for inputs in episode.inputs], np.float32)
                for name in (episode.inputs[0] if episode.inputs else ())
            },
            np.array(episode.masks, np.bool_),
        )
        self._num_done += 1
        if self._progress is not None:
            self._progress(self._num_done, len(self._seeds))

    def _failure(self, where: str, seed: int, error: Exception) -> EnvironmentFailure:
        return EnvironmentFailure(
            f"Environment '{self._name}' failed in {where}, in the episode with seed {seed}: "
            f"{named_line(error)}; gymnasium.utils.env_checker.check_env tells more."
        )


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    checked = tuple(int(seed) for seed in seeds)
    if not checked:
        raise UsageError("No episodes to play: give at least one seed.")
    if min(checked) < 0:
        raise UsageError(f"Seeds must not be negative, got {min(checked)}.")
    return checked
