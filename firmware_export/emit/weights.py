"""Weights of fewer than 8 bits: which layers have them, what they save, and how they lie in the params.

Where a core has an order for them, they lie in tiles, as `orders` says; else in units. A *unit* holds one
weight each of some neighbouring output channels, for one input, as `runtime/eqrl_packed.h` says. How many
bits a layer needs is read from its weights, so that is proof enough that they fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.ir import IntegerNetwork, Layer, Tensor
from edgeqrl.network.layers import Conv2D, Dense, DepthwiseConv2D, Linear, TransposeConv
from firmware_export.emit.orders import ORDERS, ROWS, groups_of, order_for

UNPACKED = 8  # bits


@dataclass(frozen=True)
class Unit:
    """How many output channels share a unit, and its size."""

    channels: int
    dtype: str


UNITS: Mapping[int, Unit] = {4: Unit(8, "<u4"), 3: Unit(10, "<u4"), 2: Unit(8, "<u2")}
_ALL_BITS = (UNPACKED, *UNITS)

# Flash of the kernels by (layer, activations), in bytes: int8, and packed with one number of bits. Measured
# on the Cortex-M4 with clang and GCC at -O2, the larger of both; a few bytes more or less decide nothing.
_CODE: Mapping[tuple[type, str], tuple[int, int]] = {
    (Dense, "int8"): (670, 1500),
    (Dense, "int16"): (980, 1900),
    (Conv2D, "int8"): (2200, 2760),
    (Conv2D, "int16"): (2000, 3090),
}
# The same with weights in the order of a core, which int8 activations alone have; on the Cortex-M4 and M55.
_ORDERED_CODE: Mapping[tuple[type, str], tuple[int, int]] = {
    (Dense, "lanes"): (680, 830),
    (Conv2D, "lanes"): (1560, 1780),
    (Dense, "vectors"): (480, 620),
    (Conv2D, "vectors"): (1940, 1460),
}


def fewest_bits(weights: NDArray[np.int8]) -> int:
    """Return the fewest bits that a kernel has and that hold all weights in two's complement."""
    low, high = int(weights.min()), int(weights.max())
    return next(
        (bits for bits in sorted(UNITS) if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1)), UNPACKED
    )


def weight_bytes(layer: Linear, bits: int, order: str = ROWS) -> int:
    """Count the bytes of a layer's weights in flash, in an order as `orders.ORDERS` has it."""
    if order != ROWS:
        return ORDERS[order].weight_bytes(len(layer.weights), int(layer.weights[0].size), groups_of(layer))
    if bits == UNPACKED:
        return int(layer.weights.size)
    unit, groups = UNITS[bits], groups_of(layer)
    out, terms = len(layer.weights), int(layer.weights[0].size)
    return groups * -(-out // groups // unit.channels) * terms * np.dtype(unit.dtype).itemsize


def choose_bits(layers: Sequence[Layer], network: IntegerNetwork, order: str = ROWS) -> tuple[int, ...]:
    """Return the bits of each layer's weights in flash, 8 where it has none or nothing is saved.

    order  of the core, as `orders.order_of` returns it

    The fewest bytes of weights and code together win: a kernel's code is paid once, so a layer of 2 bits may
    share that of 4.
    """
    bits = [UNPACKED] * len(layers)
    kinds: dict[tuple[type, str, str], dict[int, Linear]] = {}
    for i, layer in enumerate(layers):
        if isinstance(layer, Dense | Conv2D):
            source = network.tensors[layer.input]
            of_packed = order if order_for(layer, source, order, min(UNITS)) != ROWS else ROWS
            kinds.setdefault((type(layer), source.dtype, of_packed), {})[i] = layer
    for (kind, dtype, of_packed), of_kind in kinds.items():
        code = _CODE[kind, dtype] if of_packed == ROWS else _ORDERED_CODE[kind, of_packed]
        sizes = [_sizes(layer, network.tensors[layer.input], of_packed) for layer in of_kind.values()]
        for i, chosen in zip(of_kind, _fewest_bytes(sizes, *code), strict=True):
            bits[i] = chosen
    return tuple(bits)


def _sizes(layer: Linear, source: Tensor, order: str) -> dict[int, int]:
    """Return the bytes of a layer's weights for all bits that hold them."""
    fewest = fewest_bits(layer.weights)
    orders = {bits: order_for(layer, source, order, bits) for bits in _ALL_BITS if bits >= fewest}
    return {bits: weight_bytes(layer, bits, found) for bits, found in orders.items()}


def why(layer: Linear, bits: int, order: str = ROWS) -> str:
    """Say for a comment why a layer's weights have these bits in flash; nothing where that is plain."""
    low, high, fewest = int(layer.weights.min()), int(layer.weights.max()), fewest_bits(layer.weights)
    stored, plain = weight_bytes(layer, bits, order), layer.weights.size
    if bits != UNPACKED:
        unit = UNITS[bits]
        where = f"{unit.channels} channels in {8 * np.dtype(unit.dtype).itemsize} bits"
        if order != ROWS:
            where = f"in {order.partition('_')[0]}"
        return f"no weight outside [{low}, {high}], so {bits} bits, {where}: {stored:,} bytes" + (
            f" and not {plain:,}" if stored < plain else ", and no kernel for int8"
        )
    if fewest == UNPACKED:
        return ""
    if isinstance(layer, DepthwiseConv2D | TransposeConv):
        kept = f"{layer.operator} has too few to pay for code that unpacks them"
    else:
        kept = "packed they would save less than the code costs, or packing is off"
    return f"weights of {fewest} bits stay int8: {kept}"


def pack_weights(weights: NDArray[np.int8], bits: int, groups: int = 1) -> bytes:
    """Pack weights [out, ...] into units [group][channels][...], not padded."""
    unit = UNITS[bits]
    out, terms = len(weights) // groups, int(weights[0].size)
    fields = np.zeros((groups, -(-out // unit.channels) * unit.channels, terms), np.uint32)
    fields[:, :out] = weights.reshape(groups, out, terms).astype(np.int64) + 2 ** (bits - 1)
    fields = fields.reshape(groups, -1, unit.channels, terms) << _places(bits)
    return bytes(fields.sum(axis=2, dtype=np.uint32).astype(unit.dtype).tobytes())


def unpack_weights(data: bytes, shape: Sequence[int], bits: int, groups: int = 1) -> NDArray[np.int8]:
    """Invert `pack_weights`; `shape` is that of the weights."""
    unit = UNITS[bits]
    out, terms = shape[0] // groups, int(np.prod(shape[1:]))
    chunks = -(-out // unit.channels)
    units = np.frombuffer(data, unit.dtype, groups * chunks * terms).astype(np.uint32)
    fields = units.reshape(groups, chunks, 1, terms) >> _places(bits) & (2**bits - 1)
    weights = fields.reshape(groups, -1, terms)[:, :out].astype(np.int64) - 2 ** (bits - 1)
    return np.ascontiguousarray(weights.reshape(shape).astype(np.int8))


def _places(bits: int) -> NDArray[np.uint32]:
    """Return the lowest bit of each channel's field [1, 1, channels, 1], in halves."""
    unit = UNITS[bits]
    half, width = unit.channels // 2, 4 * np.dtype(unit.dtype).itemsize
    places = np.arange(unit.channels) % half * bits + np.arange(unit.channels) // half * width
    return places.astype(np.uint32).reshape(1, 1, -1, 1)


def _fewest_bytes(sizes: Sequence[Mapping[int, int]], plain_code: int, packed_code: int) -> list[int]:
    """Choose among all sets of kernels for layers of one kind, from the bytes of each for some bits."""
    found: list[tuple[int, list[int]]] = []
    for count in range(1, len(_ALL_BITS) + 1):
        for kernels in combinations(_ALL_BITS, count):
            options = [{bits: some[bits] for bits in kernels if bits in some} for some in sizes]
            if not all(options):
                continue
            chosen = [min(some, key=some.__getitem__) for some in options]
            code = sum(plain_code if bits == UNPACKED else packed_code for bits in set(chosen))
            stored = sum(some[bits] for some, bits in zip(sizes, chosen, strict=True))
            found.append((code + stored, chosen))
    return min(found, key=lambda option: option[0])[1]
