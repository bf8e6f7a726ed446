"""Weights as computers read them: 16 channels in the lanes of vectors, as `runtime/eqrl_wide.c` says."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.ir import Tensor
from edgeqrl.network.layers import Conv2D, Linear
from firmware_export.emit.packing import in_tiles

WIDE = "wide"
_LANES, _FOUR = 16, 4  # as in eqrl_wide.c
_RANGES = 4  # bytes before the numbers


class WideBlock(NamedTuple):
    """What a block holds."""

    ranges: NDArray[np.int8]  # input zero point, output zero point, output_min, output_max
    bias: NDArray[np.int64]  # [out], for inputs as they are
    raised_bias: NDArray[np.int64]  # [out], for inputs 128 higher; modulo 2^32
    multiplier: NDArray[np.int64]  # [out]
    shift: NDArray[np.int64]  # [out]
    weights: NDArray[np.int8]  # as the layer's


def pack_wide(layer: Linear, source: Tensor, target: Tensor, folded: NDArray[np.int64], groups: int) -> bytes:
    """Pack a layer's block; `folded` are its biases with the input's zero point in them."""
    sums = layer.weights.reshape(len(folded), -1).sum(axis=1, dtype=np.int64)
    raised = folded - 128 * sums  # taken modulo 2^32: the last sum fits int32
    assert np.all(np.abs(folded) < 2**31)
    numbers = [
        in_tiles(np.asarray(n, np.int64), groups, _LANES)
        for n in (folded, raised, layer.multiplier, layer.shift)
    ]
    runs = _runs(layer).astype(np.int64)
    fours = np.pad(runs, ((0, 0), (0, 0), (0, -runs.shape[2] % _FOUR))).reshape(len(runs), -1, _FOUR)
    ranges = np.array((source.zero_point, target.zero_point, layer.output_min, layer.output_max), np.int8)
    return (
        ranges.tobytes()
        + (np.stack(numbers) % 2**32).astype("<u4").tobytes()
        + in_tiles(fours, groups, _LANES).swapaxes(1, 2).astype(np.int8).tobytes()
    )


def unpack_wide(block: bytes, layer: Linear, groups: int) -> WideBlock:
    """Return what `pack_wide` made of a layer of this one's shapes."""
    out, num_runs, size = _runs(layer).shape
    each = out // groups
    lanes = _rounded(each, _LANES)
    ends = _RANGES, _RANGES + 4 * 4 * groups * lanes
    words = np.frombuffer(block[ends[0] : ends[1]], "<i4").reshape(4, groups, lanes)
    tiles = np.frombuffer(block[ends[1] :], np.int8).reshape(
        groups, lanes // _LANES, num_runs, -1, _LANES, _FOUR
    )
    rows = tiles.transpose(0, 1, 4, 2, 3, 5).reshape(groups, lanes, num_runs, -1)
    bias, raised_bias, multiplier, shift = words[:, :, :each].reshape(4, out).astype(np.int64)
    return WideBlock(
        np.frombuffer(block[:_RANGES], np.int8),
        bias,
        raised_bias,
        multiplier,
        shift,
        rows[:, :each, :, :size].reshape(layer.weights.shape),
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
