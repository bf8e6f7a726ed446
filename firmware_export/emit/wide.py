"""Weights as computers read them: 16 channels in the lanes of vectors, as `runtime/eqrl_wide.c` says."""

import math

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.ir import Tensor
from edgeqrl.network.layers import Conv2D, Linear

WIDE = "wide"
_LANES, _FOUR = 16, 4  # as in eqrl_wide.c


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
    runs = _runs(layer).astype(np.int64)
    fours = np.pad(runs, ((0, 0), (0, 0), (0, -runs.shape[2] % _FOUR))).reshape(len(rows), -1, _FOUR)
    lanes = _in_groups(fours, groups, _LANES)
    tiles = lanes.reshape(len(lanes) // _LANES, _LANES, -1, _FOUR).swapaxes(1, 2)
    ranges = np.array((source.zero_point, target.zero_point, layer.output_min, layer.output_max), np.int8)
    return (
        ranges.tobytes()
        + (np.stack(numbers) % 2**32).astype("<u4").tobytes()
        + tiles.astype(np.int8).tobytes()
    )


def wide_scratch_bytes(layer: Linear, groups: int) -> int:
    """Count the bytes of sums and inputs of a row, or of sums of a row of positions and of a padded image."""
    sums = 4 * groups * _rounded(len(layer.weights) // groups, _LANES)
    if not isinstance(layer, Conv2D):
        return sums + _rounded(int(layer.weights[0].size), _FOUR)
    window = layer.window
    image = math.prod(window.reach) * window.input_shape[3]
    return window.output_shape[2] * sums + image + _FOUR - 1  # a run's last four may reach over the end


def wide_behind(layer: Linear, groups: int) -> int:
    """Count the bytes that are written behind the output."""
    return -(len(layer.weights) // groups) % _LANES


def _in_groups(values: NDArray[np.int64], groups: int, multiple: int) -> NDArray[np.int64]:
    """Return values [out, ...], those of each group padded with zeros to a multiple."""
    each = len(values) // groups
    grouped = values.reshape(groups, each, *values.shape[1:])
    padding = ((0, 0), (0, -each % multiple), *((0, 0),) * (values.ndim - 1))
    return np.pad(grouped, padding).reshape(-1, *values.shape[1:])


def _runs(layer: Linear) -> NDArray[np.int8]:
    """Return weights [out, runs, inputs that lie side by side]."""
    weights = layer.weights
    if not isinstance(layer, Conv2D):
        return weights.reshape(len(weights), 1, -1)
    out, height, width, depth = weights.shape
    is_whole = layer.window.dilation[1] == 1 and depth == layer.window.input_shape[3]
    return weights.reshape((out, height, width * depth) if is_whole else (out, height * width, depth))


def _rounded(count: int, multiple: int) -> int:
    return count + -count % multiple
