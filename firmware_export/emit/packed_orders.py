"""Weights of 4, 3 and 2 bits in tiles: fields of lanes or of bytes, as `runtime/eqrl_lanes_packed.c` and
`runtime/eqrl_vectors_packed.c` say.

Tiles are weights [tiles, 4 channels, columns], padded with zeros.
"""

import numpy as np
from numpy.typing import NDArray

Tiles = NDArray[np.int64]
_HALVES = 16 * np.arange(2)  # the lanes of a word
_FIVE = 1 + 3 * np.arange(5)[:, None] + _HALVES  # fields of 3 bits


def pack_lane_fields(bits: int, tiles: Tiles) -> NDArray[np.generic]:
    """Return words [tiles, words] of two lanes, for the columns as a core's column has them: 0, 2, 1, 3."""
    fields = _in_lane_order(tiles) + 2 ** (bits - 1)
    if bits == 4:  # [tiles, channels, steps, halves]
        steps = fields.reshape(*fields.shape[:2], -1, 2)
        places = 4 * np.arange(4)[:, None, None] + _HALVES
        return _summed(steps << places, (1, 3))
    if bits == 2:  # [tiles, channels, steps, pairs, halves]
        steps = fields.reshape(*fields.shape[:2], -1, 2, 2)
        places = 2 * np.arange(4)[:, None, None, None] + 8 * np.arange(2)[:, None] + _HALVES
        return _summed(steps << places, (1, 3, 4))
    # [tiles, steps, pairs and channels, halves]
    steps = (
        fields.reshape(*fields.shape[:2], -1, 4, 2).transpose(0, 2, 3, 1, 4).reshape(len(tiles), -1, 16, 2)
    )
    five = steps[:, :, :15].reshape(*steps.shape[:2], 3, 5, 2)
    last = steps[:, :, 15:] >> np.arange(3)[:, None] & 1  # a bit a word
    return _summed(five << _FIVE, (3, 4)) | _summed(last << _HALVES, (3,))


def unpack_lane_fields(bits: int, data: NDArray[np.uint8], columns: int) -> Tiles:
    """Invert `pack_lane_fields`, of the bytes [tiles, bytes] of tiles of so many columns."""
    words = data.view("<u4").astype(np.int64)
    if bits == 4:
        places = 4 * np.arange(4)[:, None, None] + _HALVES
        fields = words[:, None, :, None] >> places
    elif bits == 2:
        places = 2 * np.arange(4)[:, None, None, None] + 8 * np.arange(2)[:, None] + _HALVES
        fields = words[:, None, :, None, None] >> places
    else:
        words = words.reshape(len(words), -1, 3)[..., None]
        last = ((words >> _HALVES & 1) << np.arange(3)[:, None]).sum(axis=2, keepdims=True)
        five = words[..., None] >> _FIVE & 7
        sixteen = np.concatenate([five.reshape(*last.shape[:2], 15, 2), last], axis=2)
        fields = sixteen.reshape(len(words), -1, 4, 4, 2).transpose(0, 3, 1, 2, 4)
    weights: Tiles = (fields & (2**bits - 1)) - 2 ** (bits - 1)
    return _in_lane_order(weights.reshape(len(data), 4, columns))  # its own inverse


def pack_byte_fields(bits: int, tiles: Tiles) -> NDArray[np.generic]:
    """Return bytes [tiles, bytes] in vectors of 16."""
    if bits == 3:
        return _pack_three(tiles)
    in_byte = 8 // bits
    fields = tiles + 2 ** (bits - 1)
    fields[:, in_byte - 1 :: in_byte] = tiles[:, in_byte - 1 :: in_byte] & (2**bits - 1)
    # [tiles, vectors of a step, fields, steps, 16]
    fields = fields.reshape(len(tiles), 4 // in_byte, in_byte, -1, 16)
    packed: Tiles = (fields << (bits * np.arange(in_byte))[:, None, None]).sum(axis=2)
    return packed.transpose(0, 2, 1, 3).astype(np.uint8)


def unpack_byte_fields(bits: int, data: NDArray[np.uint8], columns: int) -> Tiles:
    """Invert `pack_byte_fields`, of the bytes [tiles, bytes] of tiles of so many columns."""
    if bits == 3:
        return _unpack_three(data, columns)
    in_byte, end = 8 // bits, 2 ** (bits - 1)
    vectors = data.reshape(len(data), columns // 16, -1, 1, 16).astype(np.int64)
    fields = vectors >> (bits * np.arange(in_byte))[:, None] & (2**bits - 1)
    fields[:, :, :, -1] ^= end
    weights: Tiles = (fields - end).transpose(0, 2, 3, 1, 4)
    return weights.reshape(len(data), 4, columns)


def _pack_three(tiles: Tiles) -> NDArray[np.generic]:
    # [tiles, steps, halves of 16 columns, 16] of each channel; a last step may have one half
    columns = tiles.shape[2]
    whole = np.pad(tiles, ((0, 0), (0, 0), (0, -columns % 32)))
    first, second, third, fourth = np.moveaxis(whole.reshape(len(tiles), 4, -1, 2, 16), 1, 0)
    upper = (first + 4) | (second + 4) << 3 | (third >> 1 & 3) << 6
    lower = (third & 1) | (fourth + 4) << 1
    vectors = [upper[:, :, 0], lower[:, :, 0] | lower[:, :, 1] << 4, upper[:, :, 1]]
    packed: Tiles = np.stack(vectors, axis=2).astype(np.uint8).reshape(len(tiles), -1)
    return packed[:, : packed.shape[1] - columns % 32]


def _unpack_three(data: NDArray[np.uint8], columns: int) -> Tiles:
    vectors = np.pad(data, ((0, 0), (0, columns % 32))).reshape(len(data), -1, 3, 16).astype(np.int64)
    upper = vectors[:, :, ::2]
    lower = vectors[:, :, 1:2] >> np.array([0, 4])[:, None] & 15
    third = ((upper >> 6 ^ 2) - 2) * 2 + (lower & 1)
    channels = [(upper & 7) - 4, (upper >> 3 & 7) - 4, third, (lower >> 1) - 4]
    weights: Tiles = np.stack(channels, axis=1).reshape(len(data), 4, -1)
    return weights[:, :, :columns]


def _in_lane_order(values: Tiles) -> Tiles:
    """Swap the middle two of each four of the last axis."""
    ordered = values.copy()
    ordered[..., 1::4], ordered[..., 2::4] = values[..., 2::4], values[..., 1::4]
    return ordered


def _summed(fields: Tiles, axes: tuple[int, ...]) -> NDArray[np.uint32]:
    words: NDArray[np.uint32] = fields.sum(axis=axes).astype("<u4")
    return words
