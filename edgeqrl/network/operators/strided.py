"""Views of row-major tensors by offset and strides, and the copies between them."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from edgeqrl.network.layers.movement import MAX_PIECE_AXES, Piece
from edgeqrl.network.slicing import Axis


@dataclass(frozen=True)
class View:
    """Some elements of a tensor, as a tensor of their own."""

    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]  # in elements

    @property
    def size(self) -> int:
        """Count the elements."""
        return math.prod(self.shape)

    def sliced(self, axes: Sequence[Axis]) -> "View":
        """Return the view of these elements of each axis."""
        taken = list(zip(axes, self.strides, strict=True))
        offset = self.offset + sum(axis.start * stride for axis, stride in taken)
        return View(tuple(axis.count for axis in axes), offset, tuple(a.step * stride for a, stride in taken))

    def part(self, axis: int, start: int, count: int) -> "View":
        """Return the view of a range of one axis."""
        axes = [Axis(0, 1, n) for n in self.shape]
        axes[axis] = Axis(start, 1, count)
        return self.sliced(axes)

    def transposed(self, order: Sequence[int]) -> "View":
        """Return the view with its axes in this order."""
        if sorted(order) != list(range(len(self.shape))):
            raise ValueError(f"{list(order)} is no order of {len(self.shape)} axes")
        shape, strides = (tuple(numbers[i] for i in order) for numbers in (self.shape, self.strides))
        return View(shape, self.offset, strides)

    def with_axis(self, position: int, count: int = 1) -> "View":
        """Return the view with one more axis along which it repeats."""
        return View(_inserted(self.shape, position, count), self.offset, _inserted(self.strides, position, 0))

    def broadcast(self, shape: Sequence[int]) -> "View":
        """Return the view repeated to a shape, as NumPy broadcasts."""
        view = self
        while len(view.shape) < len(shape):
            view = view.with_axis(0)
        if any(n not in (1, m) for n, m in zip(view.shape, shape, strict=True)):
            raise ValueError(f"{self.shape} does not broadcast to {tuple(shape)}")
        strides = (
            stride if n == m else 0 for n, m, stride in zip(view.shape, shape, view.strides, strict=True)
        )
        return View(tuple(shape), self.offset, tuple(strides))


def whole(shape: Sequence[int]) -> View:
    """Return the view of all of a row-major tensor."""
    strides = list(accumulate(reversed(tuple(shape)[1:]), lambda a, b: a * b, initial=1))
    return View(tuple(shape), 0, tuple(reversed(strides))[-len(shape) :] if shape else ())


def pieces(index: int, source: View, target: View, limit: int) -> tuple[Piece, ...]:
    """Return the copies from a view of input `index` to one of the output; ValueError where they differ.

    It is one copy, unless axes do not merge to the 6 that a copy can have; None are made beyond `limit`.
    """
    if source.shape != target.shape:
        raise ValueError(f"{source.shape} elements are copied to {target.shape}")
    axes = _merged(zip(source.shape, source.strides, target.strides, strict=True))
    if len(axes) > MAX_PIECE_AXES:
        found: list[Piece] = []
        for i in range(min(axes[0][0], limit + 1)):
            rest = [tuple(numbers) for numbers in zip(*axes[1:], strict=True)]
            part = View(rest[0], source.offset + i * axes[0][1], rest[1])
            found += pieces(index, part, View(rest[0], target.offset + i * axes[0][2], rest[2]), limit)
        return tuple(found[: limit + 1])
    shape, ins, outs = (tuple(numbers) for numbers in zip(*axes, strict=True))
    return (Piece(index, shape, source.offset, ins, target.offset, outs),)


def runs(indices: Sequence[int]) -> Iterator[tuple[int, Axis]]:
    """Split indices into runs with one step: (position, what is taken)."""
    position = 0
    while position < len(indices):
        end = position + 1
        step = indices[end] - indices[position] if end < len(indices) else 1
        while end < len(indices) and indices[end] - indices[end - 1] == step:
            end += 1
        yield position, Axis(indices[position], step, end - position)
        position = end


def repeated_runs(indices: Sequence[int]) -> Iterator[tuple[int, Axis, int]]:
    """Split indices into runs with one step, each index repeated as often: (position, taken, times)."""
    starts = [i for i in range(len(indices)) if i == 0 or indices[i] != indices[i - 1]]
    lengths = [end - start for start, end in zip(starts, [*starts[1:], len(indices)], strict=True)]
    first = 0
    while first < len(starts):
        last = first + 1
        while last < len(starts) and lengths[last] == lengths[first]:
            if last - first > 1 and indices[starts[last]] - indices[starts[last - 1]] != (
                indices[starts[first + 1]] - indices[starts[first]]
            ):
                break
            last += 1
        step = indices[starts[first + 1]] - indices[starts[first]] if last - first > 1 else 1
        yield starts[first], Axis(indices[starts[first]], step, last - first), lengths[first]
        first = last


def _merged(axes: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Merge (size, stride in, stride out) of neighbours that run on in both; drop axes of one element."""
    merged: list[tuple[int, int, int]] = []
    for size, stride_in, stride_out in axes:
        if size == 1:
            continue
        if merged:
            outer, outer_in, outer_out = merged[-1]
            if (outer_in, outer_out) == (size * stride_in, size * stride_out):
                merged[-1] = (outer * size, stride_in, stride_out)
                continue
        merged.append((size, stride_in, stride_out))
    return merged or [(1, 1, 1)]


def _inserted(numbers: tuple[int, ...], position: int, number: int) -> tuple[int, ...]:
    return (*numbers[:position], number, *numbers[position:])
