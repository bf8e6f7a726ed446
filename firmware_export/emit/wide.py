"""Weights as computers read them: rows padded to whole vectors, as `runtime/eqrl_wide.c` says."""

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.ir import Tensor
from edgeqrl.network.layers import Conv2D, Linear

WIDE = "wide"
_COLUMNS, _ROWS, _LANES = 32, 2, 16  # as in eqrl_wide.c


def pack_wide(layer: Linear, source: Tensor, target: Tensor, folded: NDArray[np.int64], groups: int) -> bytes:
    """Pack a layer's block; `folded` are its biases with the input's zero point in them."""
    rows = layer.weights.reshape(len(folded), -1).astype(np.int64)
    raised = (
        folded - 128 * rows.sum(axis=1)
    ) % 2**32  # sums are taken modulo 2^32, and the last one fits int32
    assert np.all(np.abs(folded) < 2**31)
    numbers = [
        _in_groups(np.asarray(n, np.int64), groups, _LANES)
        for n in (folded, raised, layer.multiplier, layer.shift)
    ]
    columns = np.pad(rows, ((0, 0), (0, -rows.shape[1] % _COLUMNS)))
    ranges = np.array((source.zero_point, target.zero_point, layer.output_min, layer.output_max), np.int8)
    return (
        ranges.tobytes()
        + (np.stack(numbers) % 2**32).astype("<u4").tobytes()
        + _in_groups(columns, groups, _ROWS).astype(np.int8).tobytes()
    )


def wide_scratch_bytes(layer: Linear, groups: int) -> int:
    """Count the bytes of columns and sums of a row, or of a row of positions; there also of an image."""
    terms, each = int(layer.weights[0].size), len(layer.weights) // groups
    position = terms + -terms % _COLUMNS + 4 * groups * (each + -each % _LANES)
    if not isinstance(layer, Conv2D):
        return position
    return layer.window.output_shape[2] * position + int(np.prod(layer.window.input_shape[1:]))


def wide_behind(layer: Linear, groups: int) -> int:
    """Count the bytes that are written behind the output."""
    return -(len(layer.weights) // groups) % _LANES


def _in_groups(values: NDArray[np.int64], groups: int, multiple: int) -> NDArray[np.int64]:
    """Return values [out, ...], those of each group padded with zeros to a multiple."""
    each = len(values) // groups
    grouped = values.reshape(groups, each, *values.shape[1:])
    padding = ((0, 0), (0, -each % multiple), *((0, 0),) * (values.ndim - 1))
    return np.pad(grouped, padding).reshape(-1, *values.shape[1:])
