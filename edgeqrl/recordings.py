"""Recorded observations: arrays of a log, read without running anything that it brings along."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError, named_line
from edgeqrl.files import unpacked_bytes

Recorded = NDArray[np.float32] | dict[str, NDArray[np.float32]]  # [N, *shape], or that of each part by name
Source = Path | str | NDArray[Any] | Mapping[str, NDArray[Any]]

_MAX_BYTES = 2**31  # unpacked; larger files are taken for damaged or hostile
_PREFIX = "observations/"  # of the arrays of an observation in parts


def _one_episode() -> NDArray[np.int64]:
    return np.zeros(1, np.int64)


@dataclass(frozen=True, eq=False)
class Recording:
    """A log that has been read: observations in the order in which they were met."""

    observations: Recorded
    starts: NDArray[np.int64] = field(default_factory=_one_episode)  # rows at which episodes begin, ascending
    name: str = "The recording"  # in messages
    kind: str = "recorded"  # what a calibration set says of its source


def read_recorded(source: Source) -> Recorded:
    """Return recorded observations [N, *shape] from an array, an `.npy`, or an `.npz`.

    An `.npz` holds them as `observations`, or as its only array. Observations in parts are a mapping from
    their names, and in an `.npz` the arrays `observations/NAME`. Raises DataError unless they are numbers,
    at least one row of at least one feature, and finite in float32.
    """
    name = recording_name(source)
    found = _find_recorded(Path(source), name) if isinstance(source, str | Path) else source
    if not isinstance(found, Mapping):
        return _checked(np.asarray(found), name)
    parts = {
        part: _checked(np.asarray(values), f"{name}, part '{part}',", least_rank=1)
        for part, values in found.items()
    }
    if not parts or len({len(values) for values in parts.values()}) != 1:
        raise DataError(f"{name} must have as many rows of one part of the observation as of the others.")
    return parts


def _checked(recorded: NDArray[Any], name: str, least_rank: int = 2) -> NDArray[np.float32]:
    if recorded.dtype.kind not in "fiub":
        raise DataError(f"{name} must hold numbers, not {recorded.dtype}.")
    if recorded.ndim < least_rank or recorded.size < 1:
        raise DataError(
            f"{name} must be an array of at least one row, a row an observation, but its shape is "
            f"{recorded.shape}."
        )
    with np.errstate(over="ignore"):  # beyond float32 becomes inf, which is refused
        observations = np.asarray(recorded, np.float32)
    require_finite(observations, name)
    return observations


def require_finite(observations: NDArray[np.float32], what: str) -> None:
    """Raise DataError that names the first number of [N, *shape] that is not finite."""
    is_finite = np.isfinite(observations)
    if not is_finite.all():
        row, *feature = (int(i) for i in np.argwhere(~is_finite)[0])
        place = f", feature {feature[0] if len(feature) == 1 else tuple(feature)}" if feature else ""
        raise DataError(f"{what} is not finite in float32 at observation {row}{place}; remove such rows.")


def recording_name(source: Source) -> str:
    """Name a recording in messages."""
    return f"The recording '{source}'" if isinstance(source, str | Path) else "The recording"


def _find_recorded(path: Path, name: str) -> NDArray[Any] | dict[str, NDArray[Any]]:
    data = read_file(path, "recording")
    if not data.startswith((b"PK", b"\x93NUMPY")):
        raise DataError(
            f"{name} is no .npz or .npy file. Save it with numpy.savez('log.npz', observations=array)."
        )
    arrays = read_arrays(data, name)
    if "observations" in arrays:
        return arrays["observations"]
    if arrays and all(part.startswith(_PREFIX) for part in arrays):
        return {part.removeprefix(_PREFIX): values for part, values in arrays.items()}
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    names = ", ".join(sorted(arrays)) or "none"
    raise DataError(f"{name} has no array 'observations'; its arrays: {names}.")


def read_file(path: Path, kind: str) -> bytes:
    """Return a file's bytes; `kind` is for messages."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"There is no {kind} at '{path}'.") from None
    except OSError as error:
        raise DataError(f"The {kind} '{path}' cannot be read: {error.strerror or error}.") from None


def read_arrays(data: bytes, name: str) -> dict[str, NDArray[Any]]:
    """Read every array of an `.npz`, or the one of an `.npy`; nothing is unpickled."""
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                num_bytes = unpacked_bytes(archive)
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
        raise DataError(f"{name} cannot be read as .npz: {named_line(error)}.") from None
