"""Where calibration gets its observations: what `--calibration SOURCE` says, and the set that comes of it.

policy         the trained policy acts (default)
noise=SIGMA    it acts with the noise of exploration: see random_policy.NoisyActor
random         random actions
space          no environment is played: observations drawn from its observation space
FILE.npz       a log, see recordings
minari:NAME    a Minari data set on this disk, or its folder, see minari_data

The first four may be mixed, as `policy+noise=0.2`: each gets an equal share of the episodes and of the
states.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.calibrate import CalibrationSet, calibrate, from_recorded
from edgeqrl.environments import MakeEnv, spaces
from edgeqrl.errors import UsageError
from edgeqrl.minari_data import is_minari, read_minari
from edgeqrl.random_policy import NoisyActor, RandomActor
from edgeqrl.recordings import Recording, read_recorded, recording_name
from edgeqrl.spaces import is_one_array, observation_parts, part_array, part_at, part_bounds

if TYPE_CHECKING:
    from edgeqrl.backends.float_policy import WholeFloatPolicy

DEFAULT = "policy"
DEFAULT_NOISE = 0.1

_PLAYED = ("policy", "noise", "random")
_WORD = re.compile(r"(policy|random|space|noise(=[^+]*)?)")
_UNBOUNDED = 1e30  # such a bound is a way to write that there is none
_SPACE_EPISODE = 64  # draws that policies with memory get as one episode
_SHOWN = 4  # features that a sentence lists

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CalibrationSource:
    """One source that makes its observations by itself."""

    kind: str  # "policy", "noise", "random" or "space"
    noise: float | None = None  # of "noise"

    def __str__(self) -> str:
        return self.kind if self.noise is None else f"{self.kind}={self.noise:g}"


@dataclass(frozen=True)
class Collecting:
    """What every source of a calibration set needs to know."""

    policy: "WholeFloatPolicy"
    make_env: MakeEnv
    env_id: str
    num_episodes: int = 20
    num_states: int = 2000
    seed: int = 10_000
    is_value: bool = False  # a value network, which chooses no action
    agent_sha256: str | None = None


def parse_sources(text: str) -> tuple[CalibrationSource, ...] | None:
    """Return the sources that are played or drawn, or None for those that are recorded.

    Raises UsageError for what is neither.
    """
    if is_recorded(text):
        return None
    return tuple(dict.fromkeys(_parsed(word) for word in text.split("+")))


def is_recorded(text: str) -> bool:
    """Tell whether a source is a log: a file, a folder or a Minari data set."""
    if not text or all(_WORD.fullmatch(word) for word in text.split("+")):
        return False
    if Path(text).exists():
        return True
    if "+" in text and all(_WORD.fullmatch(word) or is_recorded(word) for word in text.split("+")):
        return False  # a mixture with recordings, which `parse_sources` refuses
    return Path(text).suffix.lower() in (".npz", ".npy") or is_minari(text)


def chosen_recording(observations: Any, source: str) -> Recording | None:
    """Return the log that is stated, as observations or as the source of calibration; None if none is.

    Raises UsageError where both are stated.
    """
    if observations is not None and source != DEFAULT:
        raise UsageError(f"Observations are given, and calibration from '{source}': give one of them.")
    if observations is None and not is_recorded(source):
        return None
    return open_recording(source if observations is None else observations)


def open_recording(source: Any) -> Recording:
    """Read a recorded source: the text of one, a path, or arrays as `read_recorded` takes them."""
    if isinstance(source, str | Path) and is_minari(source):
        return read_minari(source)
    return Recording(read_recorded(source), name=recording_name(source))


def collect(source: str, how: Collecting, *, progress: Progress | None = None) -> CalibrationSet:
    """Make the calibration set of a source that is played or drawn.

    Each source of a mixture has episodes and seeds of its own, and keeps its own extremes; so the set keeps
    those of all. Raises UsageError for a source that the environment or the agent does not allow.
    """
    sources = parse_sources(source)
    if sources is None:
        raise UsageError(f"'{source}' is a recording; open_recording reads it.")
    played = [one for one in sources if one.kind in _PLAYED]
    episodes = dict(zip(played, _shares(how.num_episodes, len(played)), strict=True))
    states = _shares(how.num_states, len(sources))
    parts, seed = [], how.seed
    for one, num_states in zip(sources, states, strict=True):
        count = episodes.get(one, 0)
        told = None if progress is None else partial(_told, progress, seed - how.seed, how.num_episodes)
        parts.append(_collected(one, how, (seed, count, num_states), told))
        seed += count
    return parts[0] if len(parts) == 1 else _joined(parts)


def _parsed(word: str) -> CalibrationSource:
    kind, equals, amount = word.partition("=")
    if is_recorded(word):
        raise UsageError(
            f"'{word}' is a recording, which stands alone: only policy, noise=SIGMA, random and space mix."
        )
    if not _WORD.fullmatch(word):
        near = get_close_matches(kind, (*_PLAYED, "space"), n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else "nor is there such a file."
        raise UsageError(
            f"There is no calibration source '{word}'; {hint} A source is policy, noise=SIGMA, random, "
            "space, FILE.npz, minari:NAME or a folder of Minari data."
        )
    if kind != "noise":
        return CalibrationSource(kind)
    try:
        noise = float(amount) if equals else DEFAULT_NOISE
    except ValueError:
        noise = 0.0
    if not 0.0 < noise <= 1.0:
        raise UsageError(
            f"The noise of calibration is a number above 0 and up to 1, not '{amount}': the probability of a "
            "random action, or the standard deviation as a share of half the actions' range."
        )
    return CalibrationSource(kind, noise)


def _shares(total: int, count: int) -> list[int]:
    """Return `total` in `count` parts as equal as can be, none below 1."""
    return [max(1, (total + count - 1 - i) // count) for i in range(count)]


def _told(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(min(before + done, total), total)


def _collected(
    source: CalibrationSource, how: Collecting, share: tuple[int, int, int], progress: Progress | None
) -> CalibrationSet:
    """Return the set of one source; its share is (first seed, episodes, states)."""
    seed, num_episodes, num_states = share
    if source.kind == "space":
        return _drawn(how, num_states, seed)
    name = "random" if how.is_value and source.kind == "policy" else str(source)
    return calibrate(
        _actor(source, how),
        how.make_env,
        env_id=how.env_id,
        num_episodes=num_episodes,
        num_states=num_states,
        seed=seed,
        agent_sha256=how.agent_sha256,
        source=name,
        progress=progress,
    )


def _actor(source: CalibrationSource, how: Collecting) -> Any:
    if source.kind == "policy" and not how.is_value:
        return how.policy
    action_space = spaces(how.make_env).action_space
    if source.noise is None:
        return RandomActor(how.policy, action_space)
    if how.is_value:
        raise UsageError(
            "A value network chooses no action to which noise could be added; calibrate it with "
            "--calibration random, or on a log of the policy that it goes with."
        )
    return NoisyActor(how.policy, action_space, source.noise)


def _drawn(how: Collecting, num_states: int, seed: int) -> CalibrationSet:
    """Return a set of draws from the observation space; policies with memory see them as short episodes."""
    known = spaces(how.make_env)
    _require_bounded(known.observation_space, known.name)
    space = deepcopy(known.observation_space)
    space.seed(seed)
    draws = [space.sample() for _ in range(num_states)]
    arrays = {
        part.name: part_array(part, [part_at(draw, part.key) for draw in draws])
        for part in observation_parts(space)
    }
    observations: Any = next(iter(arrays.values())) if is_one_array(space) else arrays
    starts = np.arange(0, num_states, _SPACE_EPISODE, dtype=np.int64)
    recording = Recording(observations, starts, f"The observation space of '{known.name}'", "space")
    found = from_recorded(recording, num_states=num_states, seed=seed, policy=how.policy)
    return replace(found, env_id=how.env_id, agent_sha256=how.agent_sha256)


def _require_bounded(space: Any, name: str) -> None:
    """Raise UsageError where some number of an observation space has no bounds."""
    unbounded = [
        f"{f'{part} ' if part != 'observation' else ''}{index}"
        for part, (low, high) in part_bounds(space).items()
        for index in np.flatnonzero(~(np.maximum(np.abs(low), np.abs(high)) < _UNBOUNDED)).tolist()
    ]
    if unbounded:
        others = f" and {len(unbounded) - _SHOWN} more" if len(unbounded) > _SHOWN else ""
        raise UsageError(
            f"Nothing can be drawn from the observation space of '{name}': it has no bounds in feature "
            f"{', '.join(unbounded[:_SHOWN])}{others}. Calibrate with --calibration policy."
        )


def _joined(parts: Sequence[CalibrationSet]) -> CalibrationSet:
    """Return one set of several, in their order."""
    everything: Any = [part.observations for part in parts]
    inputs: Any = [part.inputs for part in parts]
    return CalibrationSet(
        _concatenated(everything),
        parts[0].env_id,
        tuple(seed for part in parts for seed in part.seeds),
        tuple(value for part in parts for value in part.episode_returns),
        sum(part.num_rolled_out for part in parts),
        parts[0].agent_sha256,
        None if inputs[0] is None else _concatenated(inputs),
        "+".join(part.source for part in parts),
    )


def _concatenated(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Mapping):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    joined: NDArray[Any] = np.concatenate(parts)
    return joined
