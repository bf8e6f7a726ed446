"""Several arrays side by side as rows of bytes: how networks cross into C."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.ir import Tensor


def differing_rows(found: NDArray[Any], expected: NDArray[Any]) -> list[int]:
    """List the rows of two arrays [N, ...] of one type that differ in any bit: 0.0 and -0.0 do."""
    return [row for row in range(len(found)) if found[row].tobytes() != expected[row].tobytes()]


class RowLayout:
    """Where each tensor of a group lies in a row of `num_bytes` bytes."""

    def __init__(self, tensors: Sequence[Tensor], *, alignment: int = 1) -> None:
        """Lay `tensors` out one after another, each at a multiple of `alignment` bytes."""
        self.tensors = tuple(tensors)
        offsets, end = [], 0
        for tensor in tensors:
            start = -(-end // alignment) * alignment
            offsets.append(start)
            end = start + tensor.num_bytes
        self.offsets = tuple(offsets)
        self.num_bytes = end

    def pack(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
        """Return rows [N, num_bytes] of arrays [N, *shape] by tensor name."""
        count = len(arrays[self.tensors[0].name])
        rows = np.zeros((count, self.num_bytes), np.uint8)
        for tensor, offset in zip(self.tensors, self.offsets, strict=True):
            values = np.ascontiguousarray(arrays[tensor.name], np.dtype(tensor.dtype).newbyteorder("<"))
            rows[:, offset : offset + tensor.num_bytes] = values.reshape(count, tensor.size).view(np.uint8)
        return rows

    def unpack(self, rows: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Invert `pack`."""
        arrays = {}
        for tensor, offset in zip(self.tensors, self.offsets, strict=True):
            part = np.ascontiguousarray(rows[:, offset : offset + tensor.num_bytes])
            values = part.view(np.dtype(tensor.dtype).newbyteorder("<")).astype(tensor.dtype, copy=False)
            arrays[tensor.name] = values.reshape(len(rows), *tensor.shape)
        return arrays
