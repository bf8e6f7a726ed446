"""Where a two-dimensional window lies on its input: convolutions and pooling."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.ir import Array

Shape4 = tuple[int, int, int, int]
Pair2 = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Element (ky, kx) of the window at output (y, x) is the input at stride * y + dilation * ky - padding.

    That is of the height; the width goes alike. What lies outside the input counts as zero in a
    convolution and is left out in pooling. In a TRANSPOSE_CONV the two sides change places: input (y, x)
    adds to the output at stride * y + ky - padding, and what falls outside the output is dropped.
    """

    input_shape: Shape4  # n, h, w, c
    output_shape: Shape4  # n, h, w, c
    kernel: Pair2  # h, w
    stride: Pair2
    dilation: Pair2
    padding: Pair2  # top, left; what is needed at the bottom and right follows

    @property
    def num_positions(self) -> int:
        """Count the windows of one channel, batch included."""
        n, h, w, _ = self.output_shape
        return n * h * w

    @property
    def reach(self) -> Pair2:
        """Return how far the last window reaches along height and width, from the padding's beginning."""
        return self._reach(0), self._reach(1)

    @property
    def end_padding(self) -> Pair2:
        """Return the padding at the bottom and right."""
        return self._end_padding(0), self._end_padding(1)

    def require_consistent(self, name: str) -> None:
        """Check sizes; every window must overlap the input."""
        sizes = (*self.input_shape, *self.output_shape, *self.kernel, *self.stride, *self.dilation)
        if min(sizes) < 1 or min(self.padding) < 0 or self.input_shape[0] != self.output_shape[0]:
            raise ValueError(f"{name}: {self} is not a window")

    def counts(self) -> NDArray[np.int64]:
        """Return how many elements of each window [h, w] lie inside the input."""
        return np.asarray(np.multiply.outer(self.counts_along(0), self.counts_along(1)))

    def counts_along(self, axis: int) -> NDArray[np.int64]:
        """Return how many places of each window of one axis, 0 height or 1 width, lie inside the input."""
        return np.asarray(self._inside(axis).sum(axis=1))

    def along(self, values: Array, axis: int, fill: float) -> Array:
        """Return [N, h, w, c] as windows of one axis, 0 height or 1 width, the window's axis put first.

        It is [kernel, N, h, w, c] with the output's size along that axis, a copy.
        """
        kernel, stride, dilation = self.kernel[axis], self.stride[axis], self.dilation[axis]
        count = self.output_shape[1 + axis]
        padded = self._padded(values, axis, fill)
        span = (count - 1) * stride + 1
        views = [
            padded.take(range(k * dilation, k * dilation + span, stride), axis=1 + axis)
            for k in range(kernel)
        ]
        return np.stack(views)

    def patches(self, values: Array, fill: float) -> Array:
        """Return the windows of [N, h, w, c] as a read-only view [N, h, w, kernel h, kernel w, c]."""
        padded = np.ascontiguousarray(self._padded(self._padded(values, 0, fill), 1, fill))
        n, _, _, channels = padded.shape
        (_, height, width, _), (by_n, by_y, by_x, by_c) = self.output_shape, padded.strides
        (step_y, step_x), (gap_y, gap_x) = self.stride, self.dilation
        return np.lib.stride_tricks.as_strided(
            padded,
            (n, height, width, *self.kernel, channels),
            (by_n, by_y * step_y, by_x * step_x, by_y * gap_y, by_x * gap_x, by_c),
            writeable=False,
        )

    def _padded(self, values: Array, axis: int, fill: float) -> Array:
        before, after = self.padding[axis], self._end_padding(axis)
        widths = [(0, 0)] * values.ndim
        widths[1 + axis] = (before, after)
        return np.pad(values, widths, constant_values=fill) if before or after else values

    def _reach(self, axis: int) -> int:
        first = (self.output_shape[1 + axis] - 1) * self.stride[axis]
        return first + (self.kernel[axis] - 1) * self.dilation[axis] + 1

    def _end_padding(self, axis: int) -> int:
        return max(self._reach(axis) - self.padding[axis] - self.input_shape[1 + axis], 0)

    def _inside(self, axis: int) -> NDArray[np.bool_]:
        starts = np.arange(self.output_shape[1 + axis]) * self.stride[axis] - self.padding[axis]
        places = starts[:, None] + np.arange(self.kernel[axis]) * self.dilation[axis]
        return np.asarray((places >= 0) & (places < self.input_shape[1 + axis]))


def place_window(padding: str, size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return (output size, padding before) of one axis; SAME puts the odd one of the padding at the end.

    The output size is not positive where a VALID window does not fit.
    """
    reach = (kernel - 1) * dilation + 1
    count = -(-size // stride) if padding == "SAME" else (size - reach) // stride + 1
    return count, max((count - 1) * stride + reach - size, 0) // 2


def shape4(shape: tuple[int, ...]) -> Shape4:
    """Return the shape of an array of four axes."""
    n, h, w, c = shape
    return n, h, w, c
