"""Agent -> CalibrationSet: observations that the trained policy really meets.

The converter's ranges are running minima and maxima, so what matters is that every feature's extremes
are in the set: leaving them to chance costs whole tasks. Nothing is ever clipped by percentile.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.environments import MakeEnv, one_line
from edgeqrl.errors import DataError, UsageError
from edgeqrl.files import write_atomically
from edgeqrl.interfaces import Policy
from edgeqrl.rollout import rollout

FORMAT = "edgeqrl-calibration-set"
FORMAT_VERSION = 1
DEFAULT_SEED = 10_000
RECORDED = "recorded"  # env_id of observations that came without an environment
_MAX_BYTES = 2**31  # unpacked; larger files are taken for damaged or hostile


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """The representative dataset, and where it came from. `N` counts observations."""

    observations: NDArray[np.float32]  # [N, *observation_shape], as the policy receives them
    env_id: str
    seeds: tuple[int, ...]  # one an episode, in rollout order; () if recorded
    episode_returns: tuple[float, ...]  # one an episode
    num_rolled_out: int  # observations that these were chosen from
    agent_sha256: str | None = None  # of the agent that acted, where known

    def __post_init__(self) -> None:
        values = self.observations
        if values.dtype != np.float32 or values.ndim < 1 or values.size < 1:
            raise DataError("A calibration set needs at least one observation, in float32.")
        _require_finite(values, "The calibration set")
        if len(self.seeds) != len(self.episode_returns):
            raise DataError("A calibration set needs one return for each of its episodes.")
        if self.num_rolled_out < len(values):
            raise DataError("A calibration set cannot hold more observations than were rolled out.")

    @property
    def sha256(self) -> str:
        """Hash the contents: the same whatever wrote or compressed the file."""
        digest = hashlib.sha256(self._header().encode())
        digest.update(np.ascontiguousarray(self.observations, "<f4").tobytes())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """Return the set as an `.npz` file; equal sets give equal files."""
        buffer = io.BytesIO()
        header = np.frombuffer(self._header().encode(), np.uint8)
        # NumPy's zip members carry a fixed date.
        np.savez_compressed(
            buffer, header=header, observations=np.ascontiguousarray(self.observations, "<f4")
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, path: Path | str) -> "CalibrationSet":
        """Invert `to_bytes`; `path` is for messages. Raises DataError for anything else."""
        arrays = _read_arrays(data, f"The calibration set '{path}'")
        if set(arrays) != {"header", "observations"}:
            raise DataError(f"'{path}' is not a calibration set; 'edgeqrl calibrate' makes one.")
        header = _parsed_header(arrays["header"], path)
        try:
            made = cls(
                arrays["observations"],
                str(header["env_id"]),
                tuple(int(seed) for seed in header["seeds"]),
                tuple(float(value) for value in header["episode_returns"]),
                int(header["num_rolled_out"]),
                None if header["agent_sha256"] is None else str(header["agent_sha256"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"The calibration set '{path}' is damaged: {one_line(error)}.") from None
        if made._header() != json.dumps(header, sort_keys=True):
            raise DataError(f"The calibration set '{path}' is damaged: its header does not fit it.")
        return made

    def save(self, path: Path | str) -> None:
        """Write the set to `path` (`.npz`); the old file stays until the new one is complete."""
        write_atomically(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: Path | str) -> "CalibrationSet":
        """Read what `save` wrote. Raises DataError if the file is missing, damaged or of another kind."""
        return cls.from_bytes(_read_file(Path(path), "calibration set"), path)

    def _header(self) -> str:
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "env_id": self.env_id,
            "shape": list(self.observations.shape),
            "seeds": list(self.seeds),
            "episode_returns": list(self.episode_returns),
            "num_rolled_out": self.num_rolled_out,
            "agent_sha256": self.agent_sha256,
        }
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
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationSet:
    """Play whole episodes with `policy` on seeds `seed` ... and choose about `num_states` observations.

    Kept always, even beyond `num_states`: the first observation of each episode, and for every feature
    an observation with its minimum and one with its maximum. The rest are drawn without replacement by
    a generator seeded with `seed`; all stay in the order in which they were met.
    """
    if num_episodes < 1:
        raise UsageError(f"Calibration needs at least one episode, got {num_episodes}.")
    _require_states(num_states)
    seeds = range(seed, seed + num_episodes)
    played = rollout(policy, make_env, seeds, keep_observations=True, progress=progress)
    assert played.observations is not None
    everything = np.concatenate(played.observations)
    starts = np.concatenate([[0], np.cumsum(played.episode_lengths)[:-1]])
    chosen = _choose(everything, starts, num_states, seed)
    returns = tuple(played.episode_returns.tolist())
    return CalibrationSet(everything[chosen], env_id, played.seeds, returns, len(everything), agent_sha256)


def from_recorded(
    source: Path | str | NDArray[Any],
    *,
    num_states: int = 2000,
    seed: int = DEFAULT_SEED,
    observation_shape: Sequence[int] | None = None,
) -> CalibrationSet:
    """Make a calibration set of recorded observations, chosen by the rule of `calibrate`.

    `source` is what `read_recorded` takes. Where episodes began is unknown, so of the starts only the
    first row is kept always.
    """
    _require_states(num_states)
    observations = read_recorded(source)
    if observation_shape is not None and observations.shape[1:] != tuple(observation_shape):
        raise DataError(
            f"{_recording_name(source)} has observations of shape {observations.shape[1:]}, but the agent "
            f"takes {tuple(observation_shape)}."
        )
    chosen = _choose(observations, np.array([0]), num_states, seed)
    return CalibrationSet(observations[chosen], RECORDED, (), (), len(observations))


def read_recorded(source: Path | str | NDArray[Any]) -> NDArray[np.float32]:
    """Return recorded observations [N, *shape] from an array, an `.npy`, or an `.npz`.

    An `.npz` holds them as `observations`, or as its only array. Raises DataError unless they are
    numbers, at least one row of at least one feature, and finite in float32.
    """
    name = _recording_name(source)
    recorded = _find_recorded(Path(source), name) if isinstance(source, str | Path) else np.asarray(source)
    if recorded.dtype.kind not in "fiub":
        raise DataError(f"{name} must hold numbers, not {recorded.dtype}.")
    if recorded.ndim < 2 or recorded.size < 1:
        raise DataError(
            f"{name} must be an array of at least one row, a row an observation, but its shape is "
            f"{recorded.shape}."
        )
    with np.errstate(over="ignore"):  # beyond float32 becomes inf, which is refused
        observations = np.asarray(recorded, np.float32)
    _require_finite(observations, name)
    return observations


def _choose(
    observations: NDArray[np.float32], starts: NDArray[Any], num_states: int, seed: int
) -> NDArray[np.int64]:
    """Return the rows to keep, ascending."""
    flat = observations.reshape(len(observations), -1)
    always = np.unique(np.concatenate([starts, flat.argmin(axis=0), flat.argmax(axis=0)]))
    others = np.setdiff1d(np.arange(len(flat)), always, assume_unique=True)
    count = min(max(num_states - len(always), 0), len(others))
    drawn = np.random.default_rng(seed).choice(others, size=count, replace=False)
    return np.sort(np.concatenate([always, drawn])).astype(np.int64)


def _require_states(num_states: int) -> None:
    if num_states < 1:
        raise UsageError(f"Calibration needs at least one state, got {num_states}.")


def _require_finite(observations: NDArray[np.float32], what: str) -> None:
    is_finite = np.isfinite(observations)
    if not is_finite.all():
        row, *feature = (int(i) for i in np.argwhere(~is_finite)[0])
        place = f", feature {feature[0] if len(feature) == 1 else tuple(feature)}" if feature else ""
        raise DataError(f"{what} is not finite in float32 at observation {row}{place}; remove such rows.")


def _recording_name(source: Path | str | NDArray[Any]) -> str:
    return f"The recording '{source}'" if isinstance(source, str | Path) else "The recording"


def _find_recorded(path: Path, name: str) -> NDArray[Any]:
    data = _read_file(path, "recording")
    if not data.startswith((b"PK", b"\x93NUMPY")):
        raise DataError(
            f"{name} is no .npz or .npy file. Save it with numpy.savez('log.npz', observations=array)."
        )
    arrays = _read_arrays(data, name)
    if "observations" in arrays:
        return arrays["observations"]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    names = ", ".join(sorted(arrays)) or "none"
    raise DataError(f"{name} has no array 'observations'; its arrays: {names}.")


def _read_file(path: Path, kind: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"There is no {kind} at '{path}'.") from None
    except OSError as error:
        raise DataError(f"The {kind} '{path}' cannot be read: {error.strerror or error}.") from None


def _read_arrays(data: bytes, name: str) -> dict[str, NDArray[Any]]:
    """Read every array of an `.npz`, or the one of an `.npy`; nothing is unpickled."""
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                num_bytes = sum(member.file_size for member in archive.infolist())
            if num_bytes > _MAX_BYTES:
                raise DataError(f"{name} unpacks to more than {_MAX_BYTES} bytes.")
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"observations": loaded}
        with loaded:
            return {key: np.asarray(loaded[key]) for key in loaded.files}
    except DataError:
        raise
    except Exception as error:  # a damaged zip or header can fail in any way at all
        raise DataError(f"{name} cannot be read as .npz: {one_line(error)}.") from None


def _parsed_header(raw: NDArray[Any], path: Path | str) -> dict[str, Any]:
    try:
        header = json.loads(raw.tobytes().decode())
        is_known = header["format"] == FORMAT
        version = header["version"]
    except (ValueError, KeyError, TypeError):
        is_known, version, header = False, None, {}
    if not is_known:
        raise DataError(f"'{path}' is not a calibration set; 'edgeqrl calibrate' makes one.")
    if version != FORMAT_VERSION:
        raise DataError(
            f"The calibration set '{path}' has format version {version}, and this edgeqrl reads "
            f"{FORMAT_VERSION}; make it anew with 'edgeqrl calibrate'."
        )
    return dict(header)
