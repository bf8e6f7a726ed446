"""Minari data sets on this disk: their observations, read without running anything that they bring along.

A data set is a folder `data` with `metadata.json` and `main_data.hdf5`, in which every group `episode_N` has
its `observations`: one array, or a group of them for Dict and Tuple spaces. It is read with h5py alone:
Minari itself would make the environment that the metadata names. Links out of the file are refused, and
nothing is downloaded.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError, MissingToolError, UsageError, named_line
from edgeqrl.files import from_json_bytes
from edgeqrl.recordings import Recorded, Recording, read_file, read_recorded
from edgeqrl.spaces import field_name

PREFIX = "minari:"

_ROOT_VARIABLE = "MINARI_DATASETS_PATH"  # as Minari has it
_MAIN_FILE, _METADATA = "main_data.hdf5", "metadata.json"
_ID = re.compile(r"[\w.-]+(/[\w.-]+)*-v\d+", re.ASCII)  # namespaces/name-vN
_EPISODE = re.compile(r"episode_(\d+)", re.ASCII)
_MOST_BYTES = 2**31  # of observations
_MOST_PARTS = 256  # of an observation, groups among them


def read_minari(source: str | Path) -> Recording:
    """Return the observations of a data set: `minari:NAME-vN` below Minari's root, or its folder.

    The root is $MINARI_DATASETS_PATH, or ~/.minari/datasets. The last observation of an episode, on which
    nothing acted, is left out. Raises UsageError where there is no such data set, MissingToolError without
    h5py, and DataError for data that are damaged, in another format than HDF5, or no numbers.
    """
    folder = _folder_of(source)
    name = f"The Minari data set '{source}'"
    metadata = _metadata(folder, name)
    if metadata.get("data_format", "hdf5") != "hdf5":
        raise DataError(
            f"{name} is stored as {metadata['data_format']!s:.40}, and only hdf5 is read; make it anew with "
            "data_format='hdf5'."
        )
    episodes = _read_episodes(folder / _MAIN_FILE, name)
    starts = np.cumsum([0, *(_length(episode) for episode in episodes[:-1])]).astype(np.int64)
    joined = _joined(episodes, name)
    try:
        return Recording(read_recorded(joined), starts, name, "minari")
    except DataError as error:
        raise DataError(str(error).replace("The recording", name, 1)) from None


def is_minari(source: str | Path) -> bool:
    """Tell whether a source is a Minari data set by its name, or is a folder."""
    return str(source).startswith(PREFIX) or (str(source) != "" and Path(source).is_dir())


def _folder_of(source: str | Path) -> Path:
    """Return the folder with the data, of a name or of any folder from there up to the data set's own."""
    text = str(source)
    if text.startswith(PREFIX):
        dataset = text.removeprefix(PREFIX)
        if not _ID.fullmatch(dataset) or ".." in dataset:
            raise UsageError(
                f"'{text}' names no Minari data set; a name is minari:NAME-vN, "
                "as in minari:mujoco/hopper/expert-v0."
            )
        stated = os.environ.get(_ROOT_VARIABLE)
        root = Path(stated) if stated else Path.home() / ".minari" / "datasets"
        place = root / dataset
        cure = f"Nothing is downloaded here: run `minari download {dataset}` first."
    else:
        place, cure = Path(text), f"Give the folder with {_METADATA} and {_MAIN_FILE}, or the one above."
    for folder in (place, place / "data"):
        if (folder / _METADATA).is_file() or (folder / _MAIN_FILE).is_file():
            return folder
    raise UsageError(f"There is no Minari data set at '{place}'. {cure}")


def _metadata(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / _METADATA).exists():
        return {}
    try:
        found = from_json_bytes(read_file(folder / _METADATA, "metadata of a Minari data set"))
    except ValueError as error:
        raise DataError(f"{name} is damaged: {_METADATA} is no JSON ({error}).") from None
    if not isinstance(found, dict):
        raise DataError(f"{name} is damaged: {_METADATA} is no JSON object.")
    return found


def _read_episodes(path: Path, name: str) -> list[dict[str, NDArray[Any]]]:
    """Return the observations of every episode in their order, one array [T, *shape] a part."""
    try:
        import h5py
    except ImportError:
        raise MissingToolError(
            f"{name} is read with h5py, which is not installed; get it with `pip install 'edgeqrl[minari]'`."
        ) from None
    try:
        with h5py.File(path, "r") as file:
            groups = sorted(
                (int(found[1]), key) for key in file if (found := _EPISODE.fullmatch(key)) is not None
            )
            left = _Budget(_MOST_BYTES)
            return [_episode(file, key, left, name) for _, key in groups]
    except (DataError, UsageError):
        raise
    except FileNotFoundError:
        raise DataError(f"{name} is damaged: '{path}' is missing.") from None
    except Exception as error:  # a damaged file can fail in any way at all
        raise DataError(f"{name} cannot be read as HDF5: {named_line(error)}.") from None


class _Budget:
    """What may still be read."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes

    def take(self, num_bytes: int, name: str) -> None:
        """Raise DataError where it is used up."""
        self._left -= num_bytes
        if self._left < 0:
            raise DataError(
                f"{name} holds more than {_MOST_BYTES / 2**30:.0f} GiB of observations: save some of its "
                "episodes as a data set of their own."
            )


def _episode(file: Any, key: str, left: _Budget, name: str) -> dict[str, NDArray[Any]]:
    group = _member(file, key, name)
    count = _num_actions(group, name)
    found: dict[str, NDArray[Any]] = {}
    for path, dataset in _leaves(group, name):
        left.take(dataset.nbytes, name)
        found[field_name(path)] = dataset[:count]
    if not found or {len(values) for values in found.values()} != {count}:
        raise DataError(f"{name} is damaged: '{key}' has fewer observations than steps.")
    return found


def _num_actions(group: Any, name: str) -> int:
    """Return how many steps an episode has: observations hold one more."""
    rewards = _member(group, "rewards", name)
    if getattr(rewards, "shape", None) is None or len(rewards.shape) != 1 or rewards.shape[0] < 1:
        raise DataError(f"{name} is damaged: the rewards of '{group.name}' are no row of numbers.")
    return int(rewards.shape[0])


def _leaves(group: Any, name: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give the arrays of the observations, and where they lie in the observation space."""
    open_ones: list[tuple[tuple[str, ...], Any]] = [((), _member(group, "observations", name))]
    for _ in range(_MOST_PARTS):  # hard links may go round in a circle
        if not open_ones:
            return
        path, found = open_ones.pop(0)
        if hasattr(found, "keys"):
            inner = [((*path, key.removeprefix("_index_")), _member(found, key, name)) for key in found]
            open_ones = inner + open_ones
            continue
        if found.dtype.kind not in "fiub":
            jpeg = " (images as JPEG? collect with jpeg_encoding=False)" if found.dtype.kind == "O" else ""
            raise DataError(f"{name} has observations that are no numbers but {found.dtype}{jpeg}.")
        yield path, found
    raise DataError(f"{name} has observations of more than {_MOST_PARTS} parts.")


def _member(group: Any, key: str, name: str) -> Any:
    """Return what lies in the file itself at a key: no link to elsewhere is followed."""
    import h5py

    link = group.get(key, getlink=True)
    if link is None:
        raise DataError(f"{name} is damaged: '{group.name}' has no '{key}'.")
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{name} links to elsewhere at '{key}'; such files are not read.")
    found = group[key]
    if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
        raise DataError(f"{name} keeps '{key}' in other files; such files are not read.")
    if not isinstance(found, h5py.Dataset | h5py.Group):
        raise DataError(f"{name} is damaged: '{key}' is no array.")
    return found


def _joined(episodes: list[dict[str, NDArray[Any]]], name: str) -> Recorded:
    """Return all episodes one after another: an array for a plain observation space."""
    if not episodes:
        raise DataError(f"{name} holds no episodes.")
    shapes = {tuple((part, values.shape[1:]) for part, values in episode.items()) for episode in episodes}
    if len(shapes) != 1:
        raise DataError(f"{name} is damaged: its episodes have observations of different shapes.")
    joined = {part: np.concatenate([episode[part] for episode in episodes]) for part in episodes[0]}
    if list(joined) != [field_name(())]:
        return joined
    (plain,) = joined.values()
    column: NDArray[Any] = plain[:, None] if plain.ndim == 1 else plain
    return column


def _length(episode: dict[str, NDArray[Any]]) -> int:
    return len(next(iter(episode.values())))
