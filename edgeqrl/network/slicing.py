"""What STRIDED_SLICE, SLICE, PAD and their kin say about the axes of a tensor, in plain numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """The elements start, start + step ... of one axis, `count` of them."""

    start: int
    step: int
    count: int

    def as_slice(self) -> slice:
        """Return the same for NumPy."""
        stop = self.start + self.step * self.count
        return slice(self.start, None if stop < 0 else stop, self.step)


@dataclass(frozen=True)
class _Masks:
    begin: int
    end: int
    ellipsis: int
    new_axis: int
    shrink_axis: int


def strided_slice(
    shape: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    strides: Sequence[int],
    options: Mapping[str, object],
) -> tuple[tuple[Axis, ...], tuple[int, ...]]:
    """Return what is taken of each axis of the input, and the output's shape.

    Raises ValueError where the numbers make no slice of a tensor of that shape.
    """
    if not len(begin) == len(end) == len(strides) <= 16:
        raise ValueError("begin, end and strides of a slice differ in length")
    masks = _Masks(
        *(_mask(options, name) for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis"))
    )
    if masks.ellipsis & (masks.ellipsis - 1):
        raise ValueError("a slice has more than one ellipsis")
    is_new = [bool(masks.new_axis >> i & 1 and not masks.ellipsis >> i & 1) for i in range(len(begin))]
    taken = sum(not new for new in is_new) - bool(masks.ellipsis & ((1 << len(begin)) - 1))
    axes: list[Axis] = []
    result: list[int] = []
    for i, new in enumerate(is_new):
        if masks.ellipsis >> i & 1:
            for n in shape[len(axes) : len(axes) + len(shape) - taken]:
                axes.append(Axis(0, 1, n))
                result.append(n)
        elif new:
            result.append(1)
        elif len(axes) >= len(shape):
            raise ValueError("a slice has more axes than its tensor")
        else:
            n = shape[len(axes)]
            axes.append(_axis(n, begin[i], end[i], strides[i], masks, i))
            if not masks.shrink_axis >> i & 1:
                result.append(axes[-1].count)
    for n in shape[len(axes) :]:
        axes.append(Axis(0, 1, n))
        result.append(n)
    return tuple(axes), tuple(result)


def plain_slice(shape: Sequence[int], begin: Sequence[int], size: Sequence[int]) -> tuple[Axis, ...]:
    """Return what SLICE takes of each axis; a size of -1 is all that is left. Raises ValueError."""
    if not len(shape) == len(begin) == len(size):
        raise ValueError("a slice has other axes than its tensor")
    axes = []
    for n, start, count in zip(shape, begin, size, strict=True):
        length = n - start if count == -1 else count
        if start < 0 or length < 0 or start + length > n:
            raise ValueError("a slice leaves its tensor")
        axes.append(Axis(start, 1, length))
    return tuple(axes)


def normal_axis(axis: int, rank: int) -> int:
    """Return an axis counted from the front; ValueError where it does not exist."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} does not exist in {rank} axes")
    return axis % rank


def _mask(options: Mapping[str, object], name: str) -> int:
    value = options[f"{name}_mask"]
    assert isinstance(value, int)
    return value & 0xFFFF


def _axis(n: int, begin: int, end: int, step: int, masks: _Masks, i: int) -> Axis:
    if step == 0:
        raise ValueError("a slice has a stride of 0")
    if masks.shrink_axis >> i & 1:
        index = begin + n if begin < 0 else begin
        if masks.begin >> i & 1:
            index = 0 if step > 0 else n - 1
        if not 0 <= index < n:
            raise ValueError("a slice takes an element that does not exist")
        return Axis(index, 1, 1)
    lowest, highest = (0, n) if step > 0 else (-1, n - 1)
    start = min(max(begin + n if begin < 0 else begin, lowest), highest)
    stop = min(max(end + n if end < 0 else end, lowest), highest)
    if masks.begin >> i & 1:
        start = lowest if step > 0 else highest
    if masks.end >> i & 1:
        stop = highest if step > 0 else lowest
    count = max(0, -((start - stop) // step) if step > 0 else -((stop - start) // -step))
    return Axis(start, step, count)
