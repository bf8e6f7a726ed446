"""Layers without weights that take several values to one: pooling, and reductions over axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.fixed_point import INT32_MAX, requantize
from edgeqrl.network.ir import Array, Tensor
from edgeqrl.network.layers.unary import Unary
from edgeqrl.network.layers.window import Window

_ELEMENTS_AT_ONCE = 2**21


@dataclass(frozen=True)
class Pool(Unary):
    """MAX_POOL_2D and AVERAGE_POOL_2D: channel by channel over the elements of a window inside the input.

    q_out = clamp(largest q_in), or clamp(mean of the q_in): with sum of the n elements, at most kernel
    h * kernel w and fewer at the border, it is (|sum| + n // 2) // n with the sum's sign: to nearest,
    halves away from zero, n // 2 rounded down. Zero points play no part: input and output have the same
    one, and the same scale. The clamp is to [output_min, output_max].
    """

    window: Window
    output_min: int  # fused activation, in quantized units
    output_max: int

    @property
    def divisors(self) -> tuple[int, ...]:
        """Return the numbers of elements that windows have, ascending, each once."""
        return tuple(np.unique(self.window.counts()).tolist())

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check sizes and ranges, and that no sum can overflow."""
        source, target = tensors[self.input], tensors[self.output]
        window = self.window
        window.require_consistent(self.name)
        sizes = [int(np.prod(shape)) for shape in (window.input_shape, window.output_shape)]
        if sizes != [source.size, target.size] or window.input_shape[3] != window.output_shape[3]:
            raise ValueError(f"{self.name}: {window} does not fit its tensors")
        if window.dilation != (1, 1) or self.divisors[0] < 1:
            raise ValueError(f"{self.name}: {window} has a window without an element")
        if (source.dtype, source.zero_point) != (target.dtype, target.zero_point):
            raise ValueError(f"{self.name}: input and output are quantized differently")
        lowest, highest = target.range
        if not lowest <= self.output_min <= self.output_max <= highest:
            raise ValueError(f"{self.name}: activation range must lie in {target.dtype}")
        _require_room(self, -lowest, self.divisors[-1], spare=window.kernel[0] * window.kernel[1])

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        (values,) = inputs
        target, window = tensors[self.output], self.window
        result = np.empty((len(values), *target.shape), target.dtype)
        step = max(_ELEMENTS_AT_ONCE // (values[:1].size * max(window.kernel) or 1), 1)
        for start in range(0, len(values), step):
            some = slice(start, start + step)
            pooled = self._pooled(values[some].reshape(-1, *window.input_shape[1:]), target)
            result[some] = np.clip(pooled, self.output_min, self.output_max).reshape(-1, *target.shape)
        return result

    def _pooled(self, values: Array, target: Tensor) -> Array:
        # Both sums and maxima can be taken of columns first, then of rows.
        if self.function == "MAX_POOL_2D":
            columns = self.window.along(values, 0, target.range[0]).max(axis=0)
            return np.asarray(self.window.along(columns, 1, target.range[0]).max(axis=0))
        columns = self.window.along(values.astype(np.int64), 0, 0).sum(axis=0)
        sums = self.window.along(columns, 1, 0).sum(axis=0)
        counts = self.window.counts()[..., None]
        return np.asarray(np.sign(sums) * ((np.abs(sums) + counts // 2) // counts))


@dataclass(frozen=True)
class Reduce(Unary):
    """MEAN, SUM, REDUCE_MAX and REDUCE_MIN over any axes.

    MEAN and SUM: q_out = clamp(zp_out + requantize(sum of the `count` q_in - count * zp_in)), with
    requantize as in a `Linear` that is not wide, int16 included: (sum << left) * multiplier / 2**31 to
    nearest, halves up, then / 2**right to nearest, halves away from zero. The clamp is to the dtype. The
    multiplier of MEAN has the division in it and so may lie below 2**30.
    REDUCE_MAX, REDUCE_MIN: the largest or smallest q_in; input and output are quantized alike.
    """

    shape: tuple[int, ...]  # of the input, all axes of the file
    axes: tuple[int, ...]  # which vanish or become 1; ascending, none twice
    multiplier: int = 0  # of MEAN and SUM: Q0.31, in [0, 2**31)
    shift: int = 0  # > 0 shifts left

    @property
    def count(self) -> int:
        """Count the inputs of one output."""
        return int(np.prod([self.shape[axis] for axis in self.axes], dtype=np.int64))

    @property
    def kept(self) -> tuple[tuple[int, int], ...]:
        """Return (size, stride in the input) of each axis that stays, in order of the output, merged."""
        return self._axes(is_reduced=False)

    @property
    def reduced(self) -> tuple[tuple[int, int], ...]:
        """Return (size, stride in the input) of each axis that is reduced, merged."""
        return self._axes(is_reduced=True)

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check shapes and ranges, and that no sum can overflow."""
        source, target = tensors[self.input], tensors[self.output]
        if not self.axes or sorted(set(self.axes)) != list(self.axes) or self.axes[0] < 0:
            raise ValueError(f"{self.name}: {self.axes} are not axes")
        if self.axes[-1] >= len(self.shape) or int(np.prod(self.shape)) != source.size:
            raise ValueError(f"{self.name}: {self.shape} is not the shape of '{self.input}'")
        if source.size != target.size * self.count or source.dtype != target.dtype:
            raise ValueError(f"{self.name}: {source.size} elements in, {target.size} out")
        if self.function in ("REDUCE_MAX", "REDUCE_MIN"):
            if source.zero_point != target.zero_point:
                raise ValueError(f"{self.name}: input and output are quantized differently")
            return
        if not (0 <= self.multiplier < 2**31 and self.shift >= -31):
            raise ValueError(f"{self.name}: multiplier {self.multiplier} or shift {self.shift} is no Q0.31")
        lowest, highest = source.range
        farthest = max(-lowest, highest - source.zero_point, source.zero_point - lowest)
        _require_room(self, farthest << min(max(self.shift, 0), 32), self.count, spare=128)

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        (values,) = inputs
        source, target = tensors[self.input], tensors[self.output]
        full = values.reshape(-1, *self.shape)
        axes = tuple(axis + 1 for axis in self.axes)
        if self.function in ("REDUCE_MAX", "REDUCE_MIN"):
            result = full.max(axis=axes) if self.function == "REDUCE_MAX" else full.min(axis=axes)
        else:
            sums = full.sum(axis=axes, dtype=np.int64) - self.count * source.zero_point
            result = requantize(sums, self.multiplier, self.shift) + target.zero_point
            result = np.clip(result, *target.range)
        return np.asarray(result).astype(target.dtype).reshape(-1, *target.shape)

    def _axes(self, *, is_reduced: bool) -> tuple[tuple[int, int], ...]:
        merged: list[tuple[int, int]] = []
        stride = 1
        for axis in reversed(range(len(self.shape))):
            size = self.shape[axis]
            if (axis in self.axes) == is_reduced and size > 1:
                if merged and merged[0][0] * merged[0][1] == stride:
                    merged[0] = (size * merged[0][0], merged[0][1])
                else:
                    merged.insert(0, (size, stride))
            stride *= size
        return tuple(merged)


def _require_room(layer: Pool | Reduce, farthest: int, count: int, *, spare: int) -> None:
    if farthest * count + spare > INT32_MAX:
        raise UnsupportedOperatorError(
            f"{layer.operator} at '{layer.name}' is not supported: a sum of {count} values could overflow "
            "32 bits. Reduce fewer values at a time, or give the output a coarser scale."
        )
