"""Statistics of Stable-Baselines3's VecNormalize, read from its pickle without unpickling it.

What it does: clip((x - mean) / sqrt(var + epsilon), -clip_obs, clip_obs), in float64, element by element.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.safe_pickle import (
    MAX_BYTES,
    Made,
    PickleError,
    class_name,
    entries,
    read_pickle,
    to_array,
)
from edgeqrl.errors import AgentError, one_line
from edgeqrl.network.parts import ObservationPart
from edgeqrl.network.tflite_model import shown
from edgeqrl.preprocessing import Preprocessing

_SAVE = "Save it again with VecNormalize.save(FILE)."


@dataclass(frozen=True, eq=False)
class ObservationStatistics:
    """Running mean and variance of the observations: of each key of a Dict space, or under ""."""

    rows: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    epsilon: float
    clip: float


def read_vecnormalize(path: str | Path) -> ObservationStatistics:
    """Read a file that VecNormalize.save wrote, with NumPy 1 or 2; nothing in it is executed.

    A file whose observations were not normalised (norm_obs=False) has no rows. Raises AgentError, in one
    sentence, for what is missing, damaged or something else.
    """
    place = Path(path)
    try:
        if place.stat().st_size > MAX_BYTES:
            raise AgentError(f"{place} is larger than {MAX_BYTES >> 20} MiB and is not read.")
        data = place.read_bytes()
    except OSError as error:
        raise AgentError(f"{place} cannot be read: {error.strerror}.") from None
    if data[:4] == b"PK\x03\x04":
        raise AgentError(f"{place} holds no VecNormalize statistics: it is a zip. {_SAVE}")
    try:
        return _statistics(read_pickle(data))
    except PickleError as error:
        raise AgentError(f"{place} holds no VecNormalize statistics: {one_line(error)}. {_SAVE}") from None


def normalized(
    preprocessing: Preprocessing, statistics: ObservationStatistics, place: str | Path
) -> Preprocessing:
    """Return `preprocessing` followed by VecNormalize, before frames are stacked.

    Raises AgentError, naming `place`, where the statistics do not fit the observation.
    """
    by_key = {part.key: part for part in preprocessing.parts}
    strange = [key for key in statistics.rows if key not in by_key]
    if strange:
        have = "one array" if "" in by_key else f"the parts {', '.join(map(shown, by_key))}"
        want = f"a part '{shown(strange[0])}'" if strange[0] else "one array"
        raise AgentError(
            f"{place} normalizes {want}, and the environment's observation is {have}. "
            "Is it of this agent's environment?"
        )
    parts = tuple(
        _normalized_part(part, *statistics.rows[part.key], statistics, preprocessing, place)
        if part.key in statistics.rows
        else part
        for part in preprocessing.parts
    )
    return replace(preprocessing, parts=parts)


def followed_by(
    part: ObservationPart,
    gain: NDArray[np.float64],
    offset: NDArray[np.float64],
    low: float = -np.inf,
    high: float = np.inf,
) -> ObservationPart:
    """Return `part` with clip(gain * z + offset, low, high) after what it does; gains are positive."""
    one, zero = np.ones(1), np.zeros(1)
    old_gain = one if part.gain is None else np.array(part.gain)
    old_offset = zero if part.offset is None else np.array(part.offset)
    old_low = -np.inf * one if part.low is None else np.array(part.low)
    old_high = np.inf * one if part.high is None else np.array(part.high)
    new_low = np.clip(old_low * gain + offset, low, high)
    new_high = np.clip(old_high * gain + offset, low, high)
    return replace(
        part,
        gain=_row(old_gain * gain),
        offset=_row(old_offset * gain + offset),
        low=_row(new_low),
        high=_row(new_high),
    )


def _row(values: NDArray[np.float64]) -> tuple[float, ...] | None:
    row = values.ravel().tolist()
    if not np.isfinite(row).any():
        return None  # bounds that bound nothing
    return (row[0],) if len(set(row)) == 1 else tuple(row)


def _statistics(value: Any) -> ObservationStatistics:
    state = value.state if isinstance(value, Made) else None
    if not isinstance(state, dict) or not {"norm_obs", "clip_obs"} <= state.keys():
        raise PickleError(f"it holds a {shown(class_name(value))}")
    epsilon, clip = (_number(state.get(name), name) for name in ("epsilon", "clip_obs"))
    rows = {}
    if state["norm_obs"]:
        found = state.get("obs_rms")
        keys = state.get("norm_obs_keys")
        if isinstance(found, Made) and isinstance(found.state, dict):
            rows[""] = _mean_and_variance(found)
        else:
            by_key = entries(found)
            names = by_key if keys is None else keys
            if not all(isinstance(name, str) and name in by_key for name in names):
                raise PickleError("its keys are not those of its statistics")
            rows = {name: _mean_and_variance(by_key[name]) for name in names}
    return ObservationStatistics(rows, epsilon, clip)


def _mean_and_variance(value: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not (isinstance(value, Made) and isinstance(value.state, dict)):
        raise PickleError("its statistics are missing")
    mean, variance = (to_array(value.state.get(name)).astype(np.float64) for name in ("mean", "var"))
    if mean.shape != variance.shape or not np.isfinite([mean, variance]).all() or (variance < 0).any():
        raise PickleError("its mean and variance are not finite numbers of one shape")
    return mean, variance


def _number(value: Any, name: str) -> float:
    array = to_array(value)
    if array.size != 1 or not np.isfinite(array).all() or array <= 0:
        raise PickleError(f"its {name} is not a positive number")
    return float(array.ravel()[0])


def _normalized_part(
    part: ObservationPart,
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    statistics: ObservationStatistics,
    preprocessing: Preprocessing,
    place: str | Path,
) -> ObservationPart:
    if part.one_hot is not None:
        raise AgentError(f"{place} normalizes '{part.name}', which is a whole number that becomes one-hot.")
    size = prod(part.network_shape)
    if mean.shape != part.network_shape and mean.shape != (size,):
        is_stacked = preprocessing.frames is not None and mean.size % size == 0
        cure = (
            "Its statistics are of stacked frames: train with VecFrameStack outside of VecNormalize, so that "
            "frames are normalized before they are stacked."
            if is_stacked
            else "Is it of this agent's environment?"
        )
        raise AgentError(
            f"{place} normalizes observations of shape {mean.shape}, and the environment's have shape "
            f"{part.network_shape}. {cure}"
        )
    gain = 1.0 / np.sqrt(variance.ravel() + statistics.epsilon)
    found = followed_by(part, gain, -mean.ravel() * gain, -statistics.clip, statistics.clip)
    rows = (found.gain, found.offset, found.low, found.high)
    if part.source != "uint8" or all(row is None or len(row) == 1 for row in rows):
        return found
    if part.image:
        raise AgentError(
            f"{place} normalizes each pixel of '{part.name}' by numbers of its own, which a board does with "
            "no image that it makes grey or smaller. Train with images as they are: norm_obs=False."
        )
    return replace(found, source="float32")  # a table of bytes is one for all elements
