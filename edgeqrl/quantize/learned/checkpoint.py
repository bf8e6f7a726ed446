"""A folder from which learning goes on where it was killed, to the same result.

`states_R.npz` holds the states of round R, written once; `steps.npz` what changes from step to step. Plain
arrays, no pickles.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError
from edgeqrl.files import write_atomically, writing
from edgeqrl.quantize.learned.training import Moments
from edgeqrl.quantize.learned.twin import Arrays
from edgeqrl.recordings import read_arrays, read_file

Floats = NDArray[np.float32]

_GROUPS = ("learned", "first", "second", "best")


@dataclass(eq=False)
class States:
    """Rows that are learned on."""

    inputs: list[Floats]  # [N, size] by position
    is_held: NDArray[np.bool_]  # [N], rows that only judge
    is_allowed: NDArray[np.bool_]  # [N, num_actions], of heads that take masks; of others [N, 0]


@dataclass(eq=False)
class Standing:
    """Where learning stands: in which round, after how many chunks, with what."""

    round: int
    chunk: int
    moments: Moments
    best: Arrays  # the best so far, by the states held back
    best_loss: float
    rate: float  # what the learning rate of weights is multiplied by


class Checkpoint:
    """One folder, for one learning; None keeps nothing."""

    def __init__(self, folder: Path | None, key: str) -> None:
        """`key` tells learnings apart: what another one left is not gone on with."""
        self._folder, self._key = folder, key
        if folder is not None:
            with writing(folder, "--learn-checkpoint"):
                folder.mkdir(parents=True, exist_ok=True)

    def keep_states(self, round_: int, states: States) -> None:
        """Write the states of a round."""
        arrays = {f"input_{at}": values for at, values in enumerate(states.inputs)}
        flags = {"is_held": states.is_held, "is_allowed": states.is_allowed}
        self._write(f"states_{round_}.npz", {**arrays, **flags}, {})

    def keep(self, standing: Standing) -> None:
        """Write where learning stands."""
        moments = standing.moments
        groups = zip(_GROUPS, (moments.learned, moments.first, moments.second, standing.best), strict=True)
        arrays = {f"{group}:{name}": v for group, values in groups for name, v in values.items()}
        numbers = {name: getattr(standing, name) for name in ("round", "chunk", "best_loss", "rate")}
        self._write("steps.npz", arrays, {**numbers, "steps": moments.steps})

    def load(self) -> tuple[Standing, States] | None:
        """Return what was kept of this very learning, or None."""
        found = self._read("steps.npz")
        if found is None:
            return None
        arrays, numbers = found
        groups: dict[str, Arrays] = {name: {} for name in _GROUPS}
        for name, values in arrays.items():
            group, _, own = name.partition(":")
            groups[group][own] = cast(Floats, values)
        kept = self._read(f"states_{numbers['round']}.npz")
        if kept is None:
            return None
        inputs = [cast(Floats, kept[0][f"input_{at}"]) for at in range(len(kept[0]) - 2)]
        moments = Moments(groups["learned"], groups["first"], groups["second"], int(numbers["steps"]))
        standing = Standing(
            int(numbers["round"]),
            int(numbers["chunk"]),
            moments,
            groups["best"],
            float(numbers["best_loss"]),
            float(numbers["rate"]),
        )
        is_held, is_allowed = (np.asarray(kept[0][name], np.bool_) for name in ("is_held", "is_allowed"))
        return standing, States(inputs, is_held, is_allowed)

    def _write(self, name: str, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, float]) -> None:
        if self._folder is None:
            return
        header = json.dumps({"key": self._key, **numbers}).encode()
        buffer = io.BytesIO()
        given: Any = {**arrays, "header": np.frombuffer(header, np.uint8)}
        np.savez(buffer, **given)
        write_atomically(self._folder / name, buffer.getvalue())

    def _read(self, name: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        """Return arrays and numbers of a file; None where it is missing, damaged or another learning's."""
        path = None if self._folder is None else self._folder / name
        if path is None or not path.is_file():
            return None
        try:
            arrays = read_arrays(read_file(path, "checkpoint"), f"The checkpoint '{path}'")
            numbers = json.loads(arrays.pop("header").tobytes().decode())
        except (DataError, ValueError, KeyError, RecursionError):
            return None
        is_own = isinstance(numbers, dict) and numbers.get("key") == self._key
        return (arrays, numbers) if is_own else None
