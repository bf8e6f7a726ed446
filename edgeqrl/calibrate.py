"""Agent -> CalibrationSet: observations that the trained policy really meets.

The converter's ranges are running minima and maxima, so what matters is that every feature's extremes
are in the set: leaving them to chance costs whole tasks. Nothing is ever clipped by percentile.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.environments import MakeEnv
from edgeqrl.errors import DataError, UsageError, named_line
from edgeqrl.files import write_atomically
from edgeqrl.interfaces import Policy
from edgeqrl.recordings import (
    Recorded,
    Recording,
    Source,
    read_arrays,
    read_file,
    read_recorded,
    recording_name,
    require_finite,
)
from edgeqrl.rollout import rollout

__all__ = ["CalibrationSet", "calibrate", "from_recorded", "read_recorded"]

FORMAT = "edgeqrl-calibration-set"
FORMAT_VERSION = 2  # and 1 of sets that are one float32 array
DEFAULT_SEED = 10_000
RECORDED = "recorded"  # env_id of observations that came without an environment

Arrays = dict[str, NDArray[Any]]
Raw = NDArray[Any] | Mapping[str, NDArray[Any]]

_DTYPES = ("float32", "uint8", "int32")
_OBSERVATION, _INPUT = "observations", "inputs/"  # names of arrays in the file
_SIDE_BY_SIDE = 64  # recorded episodes that a recurrent policy is shown at a time
_MOST_NUMBERS = 2**25  # of network inputs that are chosen; more takes minutes to convert


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """The representative dataset, and where it came from. `N` counts observations."""

    observations: Raw  # [N, *observation_shape], as the policy receives them; of parts one array by name
    env_id: str
    seeds: tuple[int, ...]  # one an episode, in rollout order; () if recorded
    episode_returns: tuple[float, ...]  # one an episode
    num_rolled_out: int  # observations that these were chosen from
    agent_sha256: str | None = None  # of the agent that acted, where known
    # [N, *shape] of each network input, where frames or states before the observation decide them
    inputs: Mapping[str, NDArray[np.float32]] | None = None
    source: str = "policy"  # whose states these are: see calibration_sources; or "recorded", "minari"

    def __post_init__(self) -> None:
        arrays = self._arrays()
        for name, values in arrays.items():
            least_rank = 1 if name == _OBSERVATION else 0
            if str(values.dtype) not in _DTYPES or values.ndim < max(least_rank, 1) or values.size < 1:
                raise DataError(
                    "A calibration set needs at least one observation, in float32, or in uint8 or int32."
                )
            if values.dtype == np.float32:
                require_finite(values, "The calibration set")
        if len({len(values) for values in arrays.values()}) != 1:
            raise DataError("A calibration set needs as many rows of each of its arrays.")
        if len(self.seeds) != len(self.episode_returns):
            raise DataError("A calibration set needs one return for each of its episodes.")
        if self.num_rolled_out < len(self):
            raise DataError("A calibration set cannot hold more observations than were rolled out.")

    def __len__(self) -> int:
        return len(next(iter(self._arrays().values())))

    @property
    def sha256(self) -> str:
        """Hash the contents: the same whatever wrote or compressed the file."""
        digest = hashlib.sha256(self._header().encode())
        for _, values in sorted(self._arrays().items()):
            digest.update(_little(values).tobytes())
        return digest.hexdigest()

    def rows(self, rows: Any) -> Raw:
        """Return some observations: `rows` is a slice, or indices."""
        return _rows(self.observations, rows)

    def to_bytes(self) -> bytes:
        """Return the set as an `.npz` file; equal sets give equal files."""
        buffer = io.BytesIO()
        header: Any = np.frombuffer(self._header().encode(), np.uint8)
        arrays: Any = {name: _little(values) for name, values in self._arrays().items()}
        np.savez_compressed(buffer, header=header, **arrays)  # NumPy's zip members carry a fixed date
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, path: Path | str) -> "CalibrationSet":
        """Invert `to_bytes`; `path` is for messages. Raises DataError for anything else."""
        arrays = read_arrays(data, f"The calibration set '{path}'")
        raw, arrays = arrays.get("header"), {k: v for k, v in arrays.items() if k != "header"}
        if raw is None or not any(name.startswith(_OBSERVATION) for name in arrays):
            raise DataError(f"'{path}' is not a calibration set; 'edgeqrl calibrate' makes one.")
        header = _parsed_header(raw, path)
        observations, inputs = _split(arrays)
        try:
            made = cls(
                observations,
                str(header["env_id"]),
                tuple(int(seed) for seed in header["seeds"]),
                tuple(float(value) for value in header["episode_returns"]),
                int(header["num_rolled_out"]),
                None if header["agent_sha256"] is None else str(header["agent_sha256"]),
                inputs or None,
                str(header.get("source", _unstated_source(str(header["env_id"])))),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"The calibration set '{path}' is damaged: {named_line(error)}.") from None
        if made._header() != json.dumps(header, sort_keys=True):
            raise DataError(f"The calibration set '{path}' is damaged: its header does not fit it.")
        return made

    def save(self, path: Path | str) -> None:
        """Write the set to `path` (`.npz`); the old file stays until the new one is complete."""
        write_atomically(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: Path | str) -> "CalibrationSet":
        """Read what `save` wrote. Raises DataError if the file is missing, damaged or of another kind."""
        return cls.from_bytes(read_file(Path(path), "calibration set"), path)

    def _arrays(self) -> Arrays:
        """Return every array by its name in the file."""
        arrays: Arrays = {}
        if isinstance(self.observations, Mapping):
            arrays |= {f"{_OBSERVATION}/{name}": values for name, values in self.observations.items()}
        else:
            arrays[_OBSERVATION] = self.observations
        return arrays | {f"{_INPUT}{name}": values for name, values in (self.inputs or {}).items()}

    def _header(self) -> str:
        header: dict[str, Any] = {
            "format": FORMAT,
            "env_id": self.env_id,
            "seeds": list(self.seeds),
            "episode_returns": list(self.episode_returns),
            "num_rolled_out": self.num_rolled_out,
            "agent_sha256": self.agent_sha256,
        }
        if self.source != _unstated_source(self.env_id):
            header["source"] = self.source
        if self.inputs is None and getattr(self.observations, "dtype", None) == np.float32:
            header |= {"version": 1, "shape": list(self._arrays()[_OBSERVATION].shape)}
        else:
            described = {name: [str(v.dtype), list(v.shape)] for name, v in self._arrays().items()}
            header |= {"version": 2, "arrays": described}
        return json.dumps(header, sort_keys=True)


def calibrate(
    policy: Policy,
    make_env: MakeEnv,
    *,
    env_id: str,
    num_episodes: int = 20,
    num_states: int = 2000,
    seed: int = DEFAULT_SEED,
    agent_sha256: str | None = None,
    source: str = "policy",
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationSet:
    """Play whole episodes with `policy` on seeds `seed` ... and choose about `num_states` observations.

    Kept always, even beyond `num_states`: the first observation of each episode, and for every feature
    an observation with its minimum and one with its maximum; recurrent states count as features, and
    images of bytes do not, since what a byte can be is known. The rest are drawn without replacement by
    a generator seeded with `seed`; all stay in the order in which they were met. Of large images fewer
    are kept. Policies with frames or states have the network inputs of these rows kept beside them.
    `source` says what `policy` is, where it is not the trained one.
    """
    if num_episodes < 1:
        raise UsageError(f"Calibration needs at least one episode, got {num_episodes}.")
    _require_states(num_states)
    seeds = range(seed, seed + num_episodes)
    is_recurrent = bool(getattr(policy, "has_states", False))
    options: dict[str, Any] = {"keep_inputs": True} if is_recurrent else {}
    played = rollout(policy, make_env, seeds, keep_observations=True, progress=progress, **options)
    assert played.observations is not None
    everything = _joined(played.observations)
    starts = np.concatenate([[0], np.cumsum(played.episode_lengths)[:-1]]).astype(np.int64)
    inputs = _joined(played.inputs) if is_recurrent and played.inputs is not None else None
    chosen, kept = _chosen(policy, everything, inputs, starts, num_states, seed)
    returns = tuple(played.episode_returns.tolist())
    return CalibrationSet(
        _rows(everything, chosen),
        env_id,
        played.seeds,
        returns,
        _count(everything),
        agent_sha256,
        kept,
        source,
    )


def from_recorded(
    source: Source | Recording,
    *,
    num_states: int = 2000,
    seed: int = DEFAULT_SEED,
    observation_shape: Sequence[int] | None = None,
    policy: Any = None,
) -> CalibrationSet:
    """Make a calibration set of recorded observations, chosen by the rule of `calibrate`.

    `source` is a `Recording`, or what `read_recorded` takes: then where episodes began is unknown, the rows
    are one in order, and of the starts only the first row is kept always. Of very many starts a quarter of
    the set is. A float `policy` with states is shown the episodes, so that the states are its own.
    """
    _require_states(num_states)
    recording = _recording(source)
    observations: Any = recording.observations
    if observation_shape is not None and (
        isinstance(observations, dict) or observations.shape[1:] != tuple(observation_shape)
    ):
        found = "in parts" if isinstance(observations, dict) else f"of shape {observations.shape[1:]}"
        raise DataError(
            f"{recording.name} has observations {found}, but the agent takes {tuple(observation_shape)}."
        )
    starts, inputs = recording.starts, None
    raw: Raw = observations
    if policy is not None:
        raw = as_sources(observations, policy.preprocessing, recording.name)
        inputs = _replayed(policy, raw, starts) if policy.has_states else None
    chosen, kept = _chosen(policy, raw, inputs, starts, num_states, seed, most_starts=num_states // 4 + 1)
    return CalibrationSet(
        _rows(raw, chosen), RECORDED, (), (), _count(raw), None, kept, source=recording.kind
    )


def as_sources(observations: Recorded, preprocessing: Any, name: str) -> Raw:
    """Return recorded float32 numbers in the element types of a policy's observation.

    Raises DataError where parts are missing, have another shape, or hold what their type cannot.
    """
    parts = preprocessing.parts
    found = observations if isinstance(observations, dict) else {parts[0].name: observations}
    if set(found) != {part.name for part in parts}:
        raise DataError(
            f"{name} holds the parts {', '.join(sorted(found))} of the observation, and the agent takes "
            f"{', '.join(part.name for part in parts)}."
        )
    raw = {}
    for part in parts:
        values = found[part.name]
        if values.size != len(values) * part.size:
            raise DataError(
                f"{name} has observations of shape {values.shape[1:]}, but the agent takes {part.shape}."
            )
        with np.errstate(invalid="ignore"):
            typed = values.astype(part.source).reshape(len(values), *part.shape)
        if not np.array_equal(typed.astype(np.float32).ravel(), values.ravel()):
            raise DataError(
                f"{name} holds numbers that are no {part.source}, which '{part.name}' is made of."
            )
        raw[part.name] = typed
    return raw if isinstance(observations, dict) else raw[parts[0].name]


def _chosen(
    policy: Any,
    everything: Raw,
    inputs: Arrays | None,
    starts: NDArray[np.int64],
    num_states: int,
    seed: int,
    *,
    most_starts: int | None = None,
) -> tuple[NDArray[np.int64], Arrays | None]:
    """Return the rows to keep, and what the network is given there, where the observation does not say it."""
    preprocessing = getattr(policy, "preprocessing", None)
    if preprocessing is not None:
        row = sum(int(np.prod(shape)) for shape in preprocessing.network_shapes)
        num_states = max(1, min(num_states, _MOST_NUMBERS // max(row, 1)))
    parts = () if preprocessing is None else tuple(part.name for part in preprocessing.parts)
    kept_starts = starts
    if most_starts is not None and len(starts) > most_starts:
        kept_starts = starts[np.linspace(0, len(starts) - 1, most_starts).round().astype(np.int64)]
    chosen = _choose(_features(everything, inputs, parts), kept_starts, num_states, seed)
    if inputs is not None:
        return chosen, {name: values[chosen] for name, values in inputs.items()}
    if preprocessing is not None and preprocessing.frames is not None:
        return chosen, _stacked(preprocessing, everything, starts, chosen)
    return chosen, None


def _features(everything: Raw, inputs: Arrays | None, parts: Sequence[str]) -> NDArray[np.float32]:
    """Return what the extremes are kept of, [N, features]: real numbers and recurrent states."""
    arrays = list(everything.values()) if isinstance(everything, Mapping) else [everything]
    rows = [values for values in arrays if values.dtype == np.float32]
    rows += [values for name, values in (inputs or {}).items() if name not in parts]
    if len(rows) == 1:
        return rows[0].reshape(len(rows[0]), -1)
    flat = [values.reshape(len(values), -1) for values in rows]
    return np.concatenate(flat, axis=1) if flat else np.zeros((_count(everything), 0), np.float32)


def _choose(flat: NDArray[np.float32], starts: NDArray[Any], num_states: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of [N, features] to keep, ascending."""
    always = np.unique(np.concatenate([starts, flat.argmin(axis=0), flat.argmax(axis=0)])).astype(np.int64)
    others = np.setdiff1d(np.arange(len(flat)), always, assume_unique=True)
    count = min(max(num_states - len(always), 0), len(others))
    drawn = np.random.default_rng(seed).choice(others, size=count, replace=False)
    return np.sort(np.concatenate([always, drawn])).astype(np.int64)


def _stacked(
    preprocessing: Any, everything: Raw, starts: NDArray[np.int64], chosen: NDArray[np.int64]
) -> Arrays:
    """Return the network inputs of the chosen rows: their frames are those before them in the episode."""
    begin = starts[np.searchsorted(starts, chosen, side="right") - 1]
    memory, inputs = None, []
    for back in reversed(range(preprocessing.frames.num_frames)):
        at = np.maximum(chosen - back, begin)
        inputs, memory = preprocessing.inputs(_rows(everything, at), memory, chosen - back <= begin)
    names = [part.name for part in preprocessing.parts]
    return dict(zip(names, inputs, strict=True))


def _replayed(policy: Any, raw: Raw, starts: NDArray[np.int64]) -> Arrays:
    """Show a float policy recorded episodes; return what its network is given in each row, by name."""
    count = _count(raw)
    lengths = np.diff([*starts, count])
    longest_first = np.argsort(-lengths, kind="stable")
    given: Arrays = {}
    for batch in range(0, len(starts), _SIDE_BY_SIDE):
        episodes = longest_first[batch : batch + _SIDE_BY_SIDE]
        rng, state = [np.random.default_rng(episode) for episode in episodes], None
        for step in range(lengths[episodes[0]]):
            going_on = episodes[lengths[episodes] > step]  # the first ones
            rows, is_start = starts[going_on] + step, np.full(len(going_on), step == 0)
            state = None if state is None else tuple(part[: len(rows)] for part in state)
            observation = _rows(raw, rows)
            for name, values in policy.network_inputs(observation, state, episode_start=is_start).items():
                given.setdefault(name, np.zeros((count, *values.shape[1:]), np.float32))[rows] = values
            _, state = policy.act(observation, state, episode_start=is_start, rng=rng[: len(rows)])
    return given


def _recording(source: Source | Recording) -> Recording:
    if isinstance(source, Recording):
        return source
    return Recording(read_recorded(source), name=recording_name(source))


def _unstated_source(env_id: str) -> str:
    """Return the source of sets that do not say it, as all of earlier versions."""
    return RECORDED if env_id == RECORDED else "policy"


def _joined(episodes: Sequence[Any]) -> Any:
    """Return episodes [T, ...], or mappings of such, one after another."""
    if isinstance(episodes[0], Mapping):
        return {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}
    return np.concatenate(episodes)


def _rows(observations: Raw, rows: Any) -> Raw:
    if isinstance(observations, Mapping):
        return {name: values[rows] for name, values in observations.items()}
    found: NDArray[Any] = observations[rows]
    return found


def _count(observations: Raw) -> int:
    arrays = observations.values() if isinstance(observations, Mapping) else [observations]
    return len(next(iter(arrays)))


def _split(arrays: Arrays) -> tuple[Any, Arrays]:
    """Return the observations, and the network inputs, of a file's arrays."""
    inputs = {name.removeprefix(_INPUT): v for name, v in arrays.items() if name.startswith(_INPUT)}
    if _OBSERVATION in arrays:
        return arrays[_OBSERVATION], inputs
    prefix = f"{_OBSERVATION}/"
    parts = {name.removeprefix(prefix): v for name, v in arrays.items() if name.startswith(prefix)}
    return parts, inputs


def _little(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))


def _require_states(num_states: int) -> None:
    if num_states < 1:
        raise UsageError(f"Calibration needs at least one state, got {num_states}.")


def _parsed_header(raw: NDArray[Any], path: Path | str) -> dict[str, Any]:
    try:
        header = json.loads(raw.tobytes().decode())
        is_known = header["format"] == FORMAT
        version = header["version"]
    except (ValueError, KeyError, TypeError):
        is_known, version, header = False, None, {}
    if not is_known:
        raise DataError(f"'{path}' is not a calibration set; 'edgeqrl calibrate' makes one.")
    if version not in (1, FORMAT_VERSION):
        raise DataError(
            f"The calibration set '{path}' has format version {version}, and this edgeqrl reads 1 and "
            f"{FORMAT_VERSION}; make it anew with 'edgeqrl calibrate'."
        )
    return dict(header)
