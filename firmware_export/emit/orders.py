"""Weights in the order in which a core eats them: tiles of output channels, as `runtime/eqrl_tiles.h` says.

An order is chosen for a core, and proved for a layer: where it does not hold, the layer has plain rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.ir import Tensor
from edgeqrl.network.layers import Linear, accumulator_bound
from firmware_export.emit.packed_orders import (
    pack_byte_fields,
    pack_lane_fields,
    unpack_byte_fields,
    unpack_lane_fields,
)
from firmware_export.emit.packing import Kernel, in_tiles
from firmware_export.emit.wide import WIDE

ROWS = "rows"  # plain: each output channel's weights side by side
ANY = "_any"  # behind the name of an order: kernels that take layers that are not usual, too
TILE = 4  # output channels
_LANE_RUN = 16  # columns: what the inner loop of lanes takes at once
_LARGEST_SUM, _LARGEST_RIGHT = 2**29, 24  # of a usual layer
_HIGHEST_SECOND = 2**23 - 1  # of the sums of second channels of lanes
_NO_RUN = 2**31

Tiles = NDArray[np.int64]  # weights [tiles, 4 channels, columns]


@dataclass(frozen=True)
class Order:
    """How the weights of a tile lie, and what its column costs."""

    name: str  # of the kernels, and their file
    columns: int  # inputs are rounded up to a multiple
    column_bytes: int  # of one input
    doubles_bias: bool  # of usual layers
    pack: Callable[[Tiles], NDArray[np.generic]]  # -> [tiles, ...]
    unpack: Callable[[NDArray[np.uint8], int], Tiles]  # [tiles, bytes], columns -> weights
    always_copies: bool = False  # its column is never the input itself
    windows: int = 1  # whose columns a convolution may have at once
    behind_column: int = 0  # bytes of the scratch
    has_any: bool = True  # kernels of its own for layers that are not usual
    bits: int = 8  # of a weight
    words: int = 1  # of a tile, for so many columns:
    per: int = 1
    last_words: int = 0  # for fewer at the end; 0: there are none

    def columns_of(self, terms: int) -> int:
        """Return the weights of a channel, those behind its inputs among them."""
        return terms + -terms % self.columns

    def tile_bytes(self, columns: int) -> int:
        """Count the bytes of a tile's weights."""
        whole, rest = divmod(columns, self.per)
        return 4 * (whole * self.words + (rest > 0) * self.last_words)

    def weight_bytes(self, out: int, terms: int, groups: int) -> int:
        """Count the bytes of a layer's weights, in whole tiles."""
        return groups * -(-out // groups // TILE) * self.tile_bytes(self.columns_of(terms))

    def scratch_bytes(self, terms: int, *, is_window: bool) -> int:
        """Count the bytes of the column that the layer needs beside its tensors."""
        if not (is_window or self.always_copies or terms % self.columns):
            return 0
        columns = self.windows if is_window else 1
        return columns * self.columns_of(terms) * self.column_bytes + self.behind_column

    def block_bytes(self, out: int, terms: int, groups: int) -> int:
        """Count the bytes of a layer's tiles."""
        return self.weight_bytes(out, terms, groups) + groups * -(-out // groups // TILE) * 9 * TILE

    @property
    def source(self) -> str:
        """Return the file of the runtime that has its kernels."""
        return f"eqrl_{self.name.partition('_')[0]}{'_packed' if self.bits < 8 else ''}.c"


def order_of(core: str) -> str:
    """Return the order for a core; for one that has none, plain rows."""
    return _OF_CORE.get(core, ROWS)


def cores_of(order: str) -> tuple[str, ...]:
    """Return the cores for which an order is made; of `wide`, computers."""
    return ("computers",) if order == WIDE else tuple(core for core, own in _OF_CORE.items() if own == order)


def order_of_kernel(kernel: Kernel) -> str:
    """Return the order that a kernel reads weights in, with `ANY` behind it if it takes unusual layers."""
    order = max((order for order in ALL_ORDERS if f"_{order.upper()}_" in kernel.name), key=len, default=ROWS)
    return order + ANY * kernel.name.endswith(f"{ANY.upper()}_S8")


def order_for(layer: Linear, source: Tensor, order: str, bits: int = 8) -> str:
    """Return the order in which a core of `order` reads weights of so many bits, rows where it has none."""
    if order == ROWS or source.dtype != "int8" or not layer.is_symmetric:
        return ROWS
    if order == WIDE:
        return WIDE if bits == 8 else ROWS
    if bits < 8:
        return packed if (packed := f"{order}_p{bits}") in ORDERS else ROWS
    if order == "lanes" and not _are_lanes(_tiled(layer.weights, groups_of(layer), ORDERS[order])):
        return ROWS
    return order


def variant_of(layer: Linear, source: Tensor, order: str) -> str:
    """Return which kernels of an order a layer needs: "" the usual ones, `ANY` those that take all layers."""
    if order.endswith(ANY):
        return ANY
    if order == WIDE:
        return ""
    return ANY if ORDERS[order].has_any and not _is_usual(layer, source, order) else ""


def groups_of(layer: Linear) -> int:
    """Count the groups of output channels that do not share inputs."""
    return int(getattr(layer, "groups", 1))


def pack_tiles(layer: Linear, source: Tensor, target: Tensor, folded: NDArray[np.int64], name: str) -> bytes:
    """Pack a layer's block; `folded` are its biases with the input's zero point in them."""
    is_any, name = name.endswith(ANY), name.removesuffix(ANY)
    order, groups = ORDERS[name], groups_of(layer)
    tiles = _tiled(layer.weights, groups, order)
    run = lane_run(tiles) if name == "lanes" else _NO_RUN
    is_usual = not is_any and _is_usual(layer, source, name)
    if name == "biased":
        folded = folded - 128 * layer.weights.reshape(len(folded), -1).astype(np.int64).sum(axis=1)
    assert np.all(np.abs(folded) < 2**31)
    bias = folded * 2 if is_usual and order.doubles_bias else folded
    parts = [np.ascontiguousarray(order.pack(tiles)).view(np.uint8).reshape(len(tiles), -1)]
    for values, dtype in ((bias, "<i4"), (layer.multiplier, "<i4"), (-1 - layer.shift, "i1")):
        channels = in_tiles(np.asarray(values, np.int64), groups, TILE)
        parts.append(channels.astype(dtype).view(np.uint8))
    ranges = (source.zero_point, target.zero_point, layer.output_min, layer.output_max)
    head = np.array(ranges, np.int8).tobytes() + np.array([is_usual, run], "<u4").tobytes()
    return head + bytes(np.concatenate(parts, axis=1).tobytes())


@dataclass(frozen=True, eq=False)
class UnpackedTiles:
    """What a block of tiles says."""

    weights: NDArray[np.int8]
    folded: NDArray[np.int64]
    multiplier: NDArray[np.int32]
    shift: NDArray[np.int32]
    ranges: tuple[int, ...]  # zero point of the input, of the output; output_min, output_max
    is_usual: bool
    run: int


def unpack_tiles(block: bytes, shape: Sequence[int], name: str, groups: int = 1) -> UnpackedTiles:
    """Invert `pack_tiles`; `shape` is that of the weights."""
    order, out, terms = ORDERS[name], shape[0], int(np.prod(shape[1:]))
    ranges = tuple(np.frombuffer(block, np.int8, 4).tolist())
    is_usual, run = np.frombuffer(block, "<u4", 2, 4).tolist()
    columns, each = order.columns_of(terms), out // groups
    rows = np.frombuffer(block, np.uint8, order.block_bytes(out, terms, groups), 12)
    rows = rows.reshape(groups * -(-each // TILE), -1)

    def channels(values: NDArray[np.generic]) -> NDArray[np.generic]:
        return values.reshape(groups, -1, *values.shape[2:])[:, :each].reshape(out, *values.shape[2:])

    end = order.tile_bytes(columns)
    tiles = order.unpack(np.ascontiguousarray(rows[:, :end]), columns)[:, :, :terms]
    words = np.ascontiguousarray(rows[:, end : end + 8 * TILE]).view("<i4").reshape(len(rows), 2, TILE)
    bias, multiplier = (channels(np.ascontiguousarray(words[:, i])) for i in (0, 1))
    right = channels(np.ascontiguousarray(rows[:, end + 8 * TILE :]).view(np.int8))
    folded = bias.astype(np.int64) // (2 if is_usual and order.doubles_bias else 1)
    weights = channels(tiles)
    if name == "biased":
        folded = folded + 128 * weights.sum(axis=1)
    return UnpackedTiles(
        np.ascontiguousarray(weights.reshape(shape).astype(np.int8)),
        folded,
        multiplier.astype(np.int32),
        -1 - right.astype(np.int32),
        ranges,
        bool(is_usual),
        run,
    )


def lane_run(tiles: Tiles) -> int:
    """Return the columns that a sum of lanes may have, a multiple of 16; as many as there are: no limit.

    What the second channel of a lane adds to a sum stays within 24 bits, whatever the inputs are: int8, so a
    weight adds 128 times itself at most. Columns after the last whole 16 belong to the last run.
    """
    farthest = 128 * np.abs(tiles[:, 1::2]).cumsum(axis=2)  # up to and with each column
    columns = tiles.shape[2]
    if farthest[..., -1].max(initial=0) <= _HIGHEST_SECOND:
        return _NO_RUN
    whole = columns // _LANE_RUN * _LANE_RUN
    for run in range(whole, 0, -_LANE_RUN):
        starts = list(range(0, whole, run))
        ends = [*starts[1:], columns]
        before = [farthest[..., start - 1] if start else 0 for start in starts]
        sums = [farthest[..., end - 1] - b for end, b in zip(ends, before, strict=True)]
        if max(int(s.max()) for s in sums) <= _HIGHEST_SECOND:
            return run
    raise AssertionError("16 and 15 columns cannot leave 24 bits")


def tile_reason(layer: Linear, source: Tensor, order: str) -> str:
    """Say for a comment why the layer has this order, and what of it is proved."""
    if order == ROWS:
        return ""
    usual = "all shifts are to the right, and the clamp is to int8"
    if not has_usual_scales(layer, source):
        usual = "shifts, sums or the clamp are unusual"
    if order != "lanes":
        return f"{usual}"
    run = lane_run(_tiled(layer.weights, groups_of(layer), ORDERS[order]))
    parted = "no sum of a second channel leaves 24 bits" if run == _NO_RUN else f"parted every {run} columns"
    return f"{usual}; no lane leaves int16, {parted}"


def _is_usual(layer: Linear, source: Tensor, order: str) -> bool:
    """Prove what the usual kernels of an order need."""
    if not has_usual_scales(layer, source):
        return False
    return order != "lanes" or lane_run(_tiled(layer.weights, groups_of(layer), ORDERS[order])) == _NO_RUN


def has_usual_scales(layer: Linear, source: Tensor) -> bool:
    """Prove what the short way of rescaling needs."""
    sums = accumulator_bound(layer, source.zero_point, source.range)
    is_right = (layer.shift <= -1) & (layer.shift >= -_LARGEST_RIGHT)
    return bool(
        np.all(is_right)
        and (layer.output_min, layer.output_max) == (-128, 127)
        # With the zero point folded into the bias, and before the products are added or after.
        and np.all(sums + 256 * 128 * layer.weights[0].size < _LARGEST_SUM)
    )


def _tiled(weights: NDArray[np.int8], groups: int, order: Order) -> Tiles:
    rows = weights.reshape(len(weights), -1).astype(np.int64)
    tiles = in_tiles(rows, groups, TILE)
    columns = rows.shape[1]
    return np.pad(tiles, ((0, 0), (0, 0), (0, order.columns_of(columns) - columns)))


def _are_lanes(tiles: Tiles) -> bool:
    lanes = 256 * tiles[:, 1::2] + tiles[:, ::2]
    return bool(lanes.min() >= -(2**15) and lanes.max() < 2**15)


def _pack_quads(tiles: Tiles) -> NDArray[np.generic]:
    return tiles.transpose(0, 2, 1).astype(np.int8)


def _unpack_quads(data: NDArray[np.uint8], columns: int) -> Tiles:
    return data.view(np.int8).reshape(-1, columns, TILE).transpose(0, 2, 1).astype(np.int64)


def _pack_biased(tiles: Tiles) -> NDArray[np.generic]:
    return (tiles.transpose(0, 2, 1) + 128).astype(np.uint8)


def _unpack_biased(data: NDArray[np.uint8], columns: int) -> Tiles:
    return data.reshape(-1, columns, TILE).transpose(0, 2, 1).astype(np.int64) - 128


def _pack_lanes(tiles: Tiles) -> NDArray[np.generic]:
    lanes = 256 * tiles[:, 1::2] + tiles[:, ::2]  # [tiles, 2 pairs, columns]
    four = lanes.reshape(len(tiles), 2, -1, 2, 2)  # columns 4i + 2 * half + odd
    return four.transpose(0, 2, 4, 1, 3).astype("<i2")  # [tiles, fours, odd, pair, half]


def _unpack_lanes(data: NDArray[np.uint8], columns: int) -> Tiles:
    four = data.view("<i2").reshape(-1, columns // 4, 2, 2, 2).astype(np.int64)
    lanes = four.transpose(0, 3, 1, 4, 2).reshape(-1, 2, columns)
    first = ((lanes & 0xFF) ^ 0x80) - 0x80
    return np.asarray(np.stack([first, (lanes - first) >> 8], axis=2).reshape(-1, TILE, columns))


def _pack_vectors(tiles: Tiles) -> NDArray[np.generic]:
    return tiles.reshape(len(tiles), TILE, -1, 16).transpose(0, 2, 1, 3).astype(np.int8)


def _unpack_vectors(data: NDArray[np.uint8], columns: int) -> Tiles:
    sixteens = data.view(np.int8).reshape(-1, columns // 16, TILE, 16)
    return sixteens.transpose(0, 2, 1, 3).reshape(-1, TILE, columns).astype(np.int64)


def _packed_lanes(bits: int, words: int, per: int) -> Order:
    pack, unpack = partial(pack_lane_fields, bits), partial(unpack_lane_fields, bits)
    more: dict[str, Any] = {"always_copies": True, "has_any": False, "words": words, "per": per}
    return Order(f"lanes_p{bits}", max(4, per), 2, True, pack, unpack, bits=bits, **more)


def _packed_vectors(bits: int, words: int, per: int) -> Order:
    pack, unpack = partial(pack_byte_fields, bits), partial(unpack_byte_fields, bits)
    more: dict[str, Any] = {"last_words": 8 if bits == 3 else 0, "has_any": False}
    return Order(f"vectors_p{bits}", 16, 1, False, pack, unpack, bits=bits, words=words, per=per, **more)


ORDERS: Mapping[str, Order] = {
    order.name: order
    for order in (
        Order("quads", 4, 1, True, _pack_quads, _unpack_quads),
        Order("biased", 4, 1, False, _pack_biased, _unpack_biased, always_copies=True, behind_column=4),
        Order("lanes", 4, 2, True, _pack_lanes, _unpack_lanes, always_copies=True),
        Order("vectors", 16, 1, False, _pack_vectors, _unpack_vectors, windows=2, has_any=False),
        *(_packed_lanes(bits, words, per) for bits, words, per in ((4, 1, 2), (3, 3, 8), (2, 1, 4))),
        *(_packed_vectors(bits, words, per) for bits, words, per in ((4, 8, 16), (3, 12, 32), (2, 4, 16))),
    )
}
ALL_ORDERS = (ROWS, WIDE, *ORDERS)
_OF_CORE: Mapping[str, str] = {
    "cortex-m0": "biased",
    "cortex-m0plus": "biased",
    "cortex-m3": "quads",
    "cortex-m4": "lanes",
    "cortex-m7": "lanes",
    "cortex-m33": "lanes",
    "cortex-m55": "vectors",
    "rv32imac": "quads",  # plain C there
    "rv32imc": "quads",
}
