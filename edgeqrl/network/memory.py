"""What survives a step: generator, frames and recurrent state, as the bytes of NAME_memory [N, memory_bytes].

Little endian, each field a multiple of 4 bytes, in this order, what a policy has not left out:

random          uint32[4], the generator; reset keeps it, a seed sets it
frames_next     uint32, the slot of the ring that the next frame takes
frames_filled   uint32, how many slots hold frames of this episode (or zero frames)
frames          the ring, one frame a slot
recurrent_0...  each recurrent tensor
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.draws import seed_words

Memory = NDArray[np.uint8]  # [N, memory_bytes]


@dataclass(frozen=True)
class FrameStack:
    """The last frames together as one network input, the oldest first."""

    num_frames: int
    axis: int  # of the stacked input; may be negative
    is_new_axis: bool = True  # else frames are joined along an axis that they have
    padding: str = "first"  # what stands before the first frame: itself, or "zero": the network input's 0

    def __post_init__(self) -> None:
        if not 1 <= self.num_frames <= 1024:
            raise ValueError(f"a stack has 1 to 1024 frames, not {self.num_frames}")
        if self.padding not in ("first", "zero"):
            raise ValueError(f"frames are padded by 'first' or 'zero', not '{self.padding}'")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `asdict` gave; raise TypeError or ValueError for anything else."""
        found = cls(**data)
        if [type(value) for value in vars(found).values()] != [int, int, bool, str]:
            raise TypeError(f"no stack of frames: {data}")
        return found

    def stacked_shape(self, frame: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the stack of frames of a shape."""
        axis = self._axis(frame)
        if self.is_new_axis:
            return (*frame[:axis], self.num_frames, *frame[axis:])
        return (*frame[:axis], self.num_frames * frame[axis], *frame[axis + 1 :])

    def stack(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Return frames [N, num_frames, *frame], the oldest first, as stacks [N, *stacked_shape]."""
        count, _, *shape = frames.shape
        outer, inner = self.loops(tuple(shape))
        stacked = frames.reshape(count, self.num_frames, outer, inner).swapaxes(1, 2)
        return np.ascontiguousarray(stacked).reshape(count, *self.stacked_shape(tuple(shape)))

    def loops(self, frame: tuple[int, ...]) -> tuple[int, int]:
        """Return `(outer, inner)`: a frame is [outer, inner], the stack [outer, num_frames, inner]."""
        axis = self._axis(frame)
        outer, inner = (int(np.prod(part, dtype=np.int64)) for part in (frame[:axis], frame[axis:]))
        return outer, inner

    def _axis(self, frame: tuple[int, ...]) -> int:
        axes = len(frame) + self.is_new_axis
        if not -axes <= self.axis < axes:
            raise ValueError(f"frames of shape {frame} cannot be stacked along axis {self.axis}")
        return self.axis % axes


@dataclass(frozen=True)
class Recurrent:
    """A network output that is an input of the next step; both have one scale, zero point and shape."""

    input: str  # tensor names of the network
    output: str
    initial: int = 0  # the integer that an episode begins with


@dataclass(frozen=True)
class MemoryField:
    """One array in the memory."""

    offset: int  # bytes
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Count the bytes without padding."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class MemoryLayout:
    """Where each field lies; a policy without memory has none."""

    fields: Mapping[str, MemoryField]
    num_bytes: int

    def read(self, memory: Memory, name: str) -> NDArray[Any]:
        """Return a copy of a field [N, *shape]."""
        field = self.fields[name]
        part = np.ascontiguousarray(memory[:, field.offset : field.offset + field.num_bytes])
        values = part.view(np.dtype(field.dtype).newbyteorder("<")).astype(field.dtype)
        return values.reshape(len(memory), *field.shape)

    def write(self, memory: Memory, name: str, values: NDArray[Any], rows: Any = slice(None)) -> None:
        """Set a field of some rows to values [K, *shape], or to one value."""
        field = self.fields[name]
        count = len(memory[rows])
        full = np.broadcast_to(np.asarray(values, field.dtype), (count, *field.shape))
        little = np.ascontiguousarray(full, np.dtype(field.dtype).newbyteorder("<"))
        flat = little.reshape(count, field.num_bytes // little.itemsize)
        memory[rows, field.offset : field.offset + field.num_bytes] = flat.view(np.uint8)


def plan_memory(
    *,
    is_stochastic: bool,
    frames: tuple[tuple[int, ...], str] | None,
    recurrent: tuple[tuple[tuple[int, ...], str], ...],
) -> MemoryLayout:
    """Lay the memory out; `frames` is ((num_frames, size), dtype), `recurrent` is (shape, dtype) each."""
    parts: dict[str, tuple[tuple[int, ...], str]] = {}
    if is_stochastic:
        parts["random"] = ((4,), "uint32")
    if frames is not None:
        parts |= {"frames_next": ((), "uint32"), "frames_filled": ((), "uint32"), "frames": frames}
    parts |= {f"recurrent_{i}": part for i, part in enumerate(recurrent)}
    fields, offset = {}, 0
    for name, (shape, dtype) in parts.items():
        fields[name] = MemoryField(offset, shape, dtype)
        offset += -(-fields[name].num_bytes // 4) * 4
    return MemoryLayout(fields, offset)


def seed_memory(
    layout: MemoryLayout, memory: Memory, seeds: NDArray[np.uint64], rows: Any = slice(None)
) -> None:
    """Set the generators of some rows by seeds [K], as NAME_seed does."""
    layout.write(memory, "random", seed_words(seeds), rows)


def push_frames(
    layout: MemoryLayout, memory: Memory, frames: NDArray[Any], stack: FrameStack, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Push frames [N, *shape] into the rings in `memory`, and return the stacks [N, *stacked_shape].

    A slot that holds no frame yet is read as the oldest that does.
    """
    count, rows = stack.num_frames, np.arange(len(memory))
    ring = layout.read(memory, "frames")
    last = layout.read(memory, "frames_next").astype(np.int64)
    last *= last < count  # in bytes that are not ours it may be any number
    ring[rows, last] = frames.reshape(len(memory), ring.shape[2])
    filled = np.minimum(layout.read(memory, "frames_filled").astype(np.int64) + 1, count)
    layout.write(memory, "frames", ring)
    layout.write(memory, "frames_next", (last + 1) % count)
    layout.write(memory, "frames_filled", filled)
    age = np.minimum(np.arange(count - 1, -1, -1), filled[:, None] - 1)
    ordered = ring[rows[:, None], (last[:, None] - age) % count]
    return stack.stack(ordered.reshape(len(memory), count, *shape))
