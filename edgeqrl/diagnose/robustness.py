"""Does quantization make a policy more fragile? Both policies act on the same disturbed observations.

The policy is wrapped, not the environment: only what it sees is disturbed. What disturbs the n-th step of
an episode depends on the episode's seed alone, so the float and the quantized policy meet the same noise
and the same losses, even after they part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeqrl.environments import MakeEnv
from edgeqrl.errors import UsageError
from edgeqrl.interfaces import Policy, State
from edgeqrl.rollout import rollout
from edgeqrl.validate.agreement import DerivedGenerators
from edgeqrl.validate.statistics import Interval, bootstrap_interval

NOISE_LEVELS = (0.01, 0.03, 0.1)  # of each feature's standard deviation over the calibration observations
DROP_LEVELS = (0.05, 0.2)  # share of observations lost
DELAY_LEVELS = (1, 2, 3)  # steps
UNDISTURBED = "undisturbed"

# Appended to the key of an episode's generator. `Generator.spawn` appends 0, 1, ... and never comes here.
_STREAM_KEY = 0x6E6F6973


class Disturbance(Protocol):
    """Changes what a policy sees. In shapes, `N` counts rows."""

    condition: str
    level: float
    num_remembered: int  # observations a row remembers, k below

    def disturb(
        self,
        observations: NDArray[np.float32],
        memory: NDArray[np.float32],
        streams: Sequence[np.random.Generator],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what is seen [N, *shape], an array of its own, and the memory for the next step.

        memory   [N, k, *shape], what the last step returned; in a first step, the present observation
                 k times
        streams  N generators, one an episode, from which each step must draw equally much
        """
        ...


class SensorNoise:
    """Gaussian noise of standard deviation `level * deviation` on every feature, anew in each step."""

    condition = "sensor_noise"
    num_remembered = 0

    def __init__(self, level: float, deviation: NDArray[Any]) -> None:
        self.level = level
        self._deviation = level * np.asarray(deviation, np.float64)

    def disturb(
        self,
        observations: NDArray[np.float32],
        memory: NDArray[np.float32],
        streams: Sequence[np.random.Generator],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Add the noise; nothing is clipped to the observation space."""
        drawn = np.stack([stream.standard_normal(self._deviation.shape) for stream in streams])
        return (observations + drawn * self._deviation).astype(np.float32), memory


class DroppedObservations:
    """Each observation is lost with probability `level`; the last one received is seen instead.

    The first of an episode always arrives.
    """

    condition = "dropped_observations"
    num_remembered = 1

    def __init__(self, level: float) -> None:
        self.level = level

    def disturb(
        self,
        observations: NDArray[np.float32],
        memory: NDArray[np.float32],
        streams: Sequence[np.random.Generator],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Hold the last observation where the present one is lost."""
        is_lost = np.array([stream.random() < self.level for stream in streams])
        seen = np.where(_as_rows(is_lost, observations), memory[:, 0], observations)
        return seen, seen[:, None].copy()


class Delay:
    """Observations arrive `level` steps late; until one does, the first is seen."""

    condition = "delay"

    def __init__(self, level: int) -> None:
        self.level: float = level
        self.num_remembered = level

    def disturb(
        self,
        observations: NDArray[np.float32],
        memory: NDArray[np.float32],
        streams: Sequence[np.random.Generator],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the oldest remembered, and remember the present."""
        return memory[:, 0].copy(), np.concatenate([memory[:, 1:], observations[:, None]], axis=1)


class DisturbedPolicy:
    """Acts as `policy` does on disturbed observations.

    Masks are those of the present step, even where the observation is of an earlier one: an environment
    refuses what it forbids now. The inner policy's generators are handed on untouched.
    """

    def __init__(self, policy: Policy, disturbance: Disturbance) -> None:
        self.name = policy.name
        self._policy, self._disturbance = policy, disturbance
        self._streams = DerivedGenerators(_derived)

    def act(
        self,
        observations: NDArray[Any],
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Act as `interfaces.Policy` says; the state is what is remembered, then the inner policy's."""
        if rng is None:
            raise ValueError("DisturbedPolicy needs a generator for each row")
        received = np.asarray(observations, np.float32)
        is_start = np.ones(len(received), np.bool_) if state is None else episode_start
        memory = np.repeat(received[:, None], self._disturbance.num_remembered, axis=1)
        if state is not None:
            memory = np.where(_as_rows(is_start, memory), memory, state[0])
        seen, memory = self._disturbance.disturb(received, memory, self._streams.of(rng, is_start))
        actions, inner = self._policy.act(
            seen,
            None if state is None else state[1:],
            episode_start=episode_start,
            action_masks=action_masks,
            rng=rng,
        )
        return actions, (memory, *inner)


@dataclass(frozen=True)
class RobustnessRow:
    """What both policies return under one disturbance."""

    condition: str
    level: float  # in the unit of the condition's levels; 0 if undisturbed
    float_return: Interval
    quantized_return: Interval
    return_drop: Interval  # float - quantized, both disturbed, by pairs of equal seeds

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain JSON values."""
        return {
            "condition": self.condition,
            "level": self.level,
            "float_return": self.float_return.to_json(),
            "quantized_return": self.quantized_return.to_json(),
            "return_drop": self.return_drop.to_json(),
        }


@dataclass(frozen=True)
class Robustness:
    """Rows of equal seeds, the undisturbed first."""

    rows: tuple[RobustnessRow, ...]
    episodes: int  # of each policy, in each row

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain JSON values."""
        return {"episodes": self.episodes, "rows": [row.to_json() for row in self.rows]}


def robustness(
    float_policy: Policy,
    quantized_policy: Policy,
    make_env: MakeEnv,
    observations: NDArray[np.float32],
    *,
    seeds: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Play an episode per seed with either policy, undisturbed and under each disturbance.

    `observations` [n, *shape] are those of the calibration; they say how much a feature varies. Intervals
    are BCa, 95 %, approximate. `progress` is called with (episodes done, episodes in all).

    Levels of one condition share their draws, so that a row differs from the next by the level alone.
    """
    if len(seeds) < 2:
        raise UsageError(f"Robustness needs at least 2 episodes, got {len(seeds)}.")
    conditions: list[Disturbance | None] = [None, *disturbances(observations)]
    total = 2 * len(conditions) * len(seeds)
    num_played = 0

    def returns(policy: Policy, disturbance: Disturbance | None) -> NDArray[np.float64]:
        nonlocal num_played
        before = num_played
        played = rollout(
            policy if disturbance is None else DisturbedPolicy(policy, disturbance),
            make_env,
            seeds,
            progress=None if progress is None else lambda done, _: progress(before + done, total),
        )
        num_played += len(seeds)
        return played.episode_returns

    rows = [
        _row(found, returns(float_policy, found), returns(quantized_policy, found), seeds[0])
        for found in conditions
    ]
    return Robustness(tuple(rows), len(seeds))


def disturbances(observations: NDArray[np.float32]) -> list[Disturbance]:
    """Return every disturbance at each of its levels, scaled for observations like these [n, *shape]."""
    deviation = observations.std(axis=0, dtype=np.float64)
    return [
        *(SensorNoise(level, deviation) for level in NOISE_LEVELS),
        *(DroppedObservations(level) for level in DROP_LEVELS),
        *(Delay(level) for level in DELAY_LEVELS),
    ]


def _row(
    disturbance: Disturbance | None,
    in_float: NDArray[np.float64],
    quantized: NDArray[np.float64],
    seed: int,
) -> RobustnessRow:
    return RobustnessRow(
        UNDISTURBED if disturbance is None else disturbance.condition,
        0 if disturbance is None else disturbance.level,
        bootstrap_interval(in_float, seed=seed),
        bootstrap_interval(quantized, seed=seed),
        bootstrap_interval(in_float - quantized, seed=seed),
    )


def _derived(generator: np.random.Generator) -> np.random.Generator:
    """Return a generator of the same origin, taking nothing from `generator`, not even a spawned child."""
    origin = generator.bit_generator.seed_seq
    assert isinstance(origin, np.random.SeedSequence)
    key = (*origin.spawn_key, _STREAM_KEY)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(origin.entropy, spawn_key=key)))


def _as_rows(flags: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return `flags` [N] in a shape that selects rows of `values` [N, ...]."""
    return flags.reshape(-1, *[1] * (values.ndim - 1))
