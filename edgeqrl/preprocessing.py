"""Preprocessing: from the raw observation of the environment to the model's float inputs.

This is the float reference of what the exported policy does before its network. Raw values may be float32,
bytes, or whole numbers that become one-hot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import AgentError
from edgeqrl.network.memory import FrameStack
from edgeqrl.network.parts import ObservationPart
from edgeqrl.spaces import observation_parts


@dataclass(frozen=True)
class Preprocessing:
    """All parts of the observation, and the frames that are stacked of the first one."""

    parts: tuple[ObservationPart, ...]
    frames: FrameStack | None = None

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"parts of an observation need names of their own: {names}")
        if self.frames is not None:
            self.frames.stacked_shape(self.parts[0].network_shape)  # raises ValueError where they do not fit

    @classmethod
    def plain(cls, shape: Sequence[int]) -> Self:
        """Return that of a model that takes float32 observations of this shape as they are."""
        return cls((ObservationPart("observation", tuple(int(n) for n in shape)),))

    @property
    def is_plain(self) -> bool:
        """Tell whether there is nothing to do: one float32 array as it is, and no dict of one."""
        part = self.parts[0]
        return self.frames is None and len(self.parts) == 1 and part.is_raw_float and not part.key

    @property
    def network_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the model's inputs, frames stacked, without the batch axis."""
        first, *others = (part.network_shape for part in self.parts)
        stacked = first if self.frames is None else self.frames.stacked_shape(first)
        return (stacked, *others)

    def initial_memory(self, count: int) -> tuple[NDArray[Any], ...]:
        """Return the memory of `count` episodes that have seen no frame; () without frames."""
        if self.frames is None:
            return ()
        shape = (count, self.frames.num_frames, *self.parts[0].network_shape)
        return (np.zeros(shape, np.float32), np.zeros(count, np.bool_))

    def inputs(
        self,
        raw: Mapping[str, NDArray[Any]] | NDArray[Any],
        memory: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
    ) -> tuple[list[NDArray[np.float32]], tuple[NDArray[Any], ...]]:
        """Return the model's inputs [N, *network_shape] for raw observations, and the memory after them.

        raw             an array [N, *shape] for a single part, or one for each part by name
        memory          what the previous call returned, its rows selected to match, or None at first
        episode_start   [N], True where the frames before are forgotten
        """
        values = [part.values(array) for part, array in zip(self.parts, self._arrays(raw), strict=True)]
        if self.frames is None:
            return values, ()
        count = len(values[0])
        frames, has_begun = self.initial_memory(count) if memory is None else memory
        frames = np.concatenate([frames[:, 1:], values[0][:, None]], axis=1)
        is_first = ~has_begun if episode_start is None else ~has_begun | episode_start
        if self.frames.padding == "first":
            frames[is_first] = values[0][is_first][:, None]
        else:
            frames[is_first, :-1] = 0.0
        return [self.frames.stack(frames), *values[1:]], (frames, np.ones(count, np.bool_))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values; infinite bounds become null."""
        frames = None if self.frames is None else asdict(self.frames)
        return {"parts": [part.to_json() for part in self.parts], "frames": frames}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Invert `to_json`; raise KeyError, TypeError or ValueError for anything else."""
        frames = None if data["frames"] is None else FrameStack.from_json(data["frames"])
        return cls(tuple(ObservationPart.from_json(part) for part in data["parts"]), frames)

    def _arrays(self, raw: Mapping[str, NDArray[Any]] | NDArray[Any]) -> list[NDArray[Any]]:
        if isinstance(raw, Mapping):
            return [np.asarray(raw[part.name]) for part in self.parts]
        if len(self.parts) != 1:
            raise ValueError("an observation of several parts is a mapping from their names")
        return [np.asarray(raw)]


def preprocessing_of(space: Any) -> Preprocessing:
    """Return what takes a Gymnasium observation space as it is, nested Dict and Tuple spaces in parts.

    Bytes and binaries stay bytes until the network; whole numbers become one-hot. Raises a user error where
    the space has no form of this kind.
    """
    parts = observation_parts(space)
    if not parts:
        raise AgentError("The environment's observation space is empty, so a policy has nothing to act on.")
    return Preprocessing(parts)
