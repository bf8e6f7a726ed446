"""Blocks of the params blob: one layout a kernel, as `runtime/eqrl_internal.h` documents them.

A block is little endian and a multiple of 4 bytes. Its size follows from the kernel and two shapes
alone, so code made for one network reads the params of any other network of the same shapes.
A new kernel is a new number, a new `pack_` function and its inverse.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.edges import AffineEdge, ArgmaxEdge, ObservationEdge
from edgeqrl.network.ir import Dense, Lookup, Tensor, accumulator_bound

# The clamp after the last rounding subtracts int8 ranges and zero points from the scaled accumulator.
_LARGEST_SCALED = 2**31 - 1 - 512


class Kernel(IntEnum):
    """Which function reads a block; the same numbers as EQRL_KERNEL_ in `runtime/eqrl.h`."""

    OBSERVATION_F32 = 1
    DENSE_S8 = 2
    LOOKUP_S8 = 3
    ARGMAX = 4
    ARGMAX_MASKED = 5
    AFFINE_F32 = 6


@dataclass(frozen=True, eq=False)
class PackedDense:
    """What a DENSE_S8 block holds, with the bias as the network has it."""

    weights: NDArray[np.int8]  # [out, in]
    bias: NDArray[np.int32]  # [out]
    multiplier: NDArray[np.int32]  # [out]
    shift: NDArray[np.int32]  # [out]
    input_zero_point: int
    output_zero_point: int
    output_min: int
    output_max: int


def block_bytes(kernel: Kernel, num_inputs: int, num_outputs: int) -> int:
    """Return the size of a block from shapes alone."""
    sizes = {
        Kernel.OBSERVATION_F32: 12,
        Kernel.DENSE_S8: 4 + 8 * num_outputs + _padded(num_outputs) + _padded(num_outputs * num_inputs),
        Kernel.LOOKUP_S8: 256,
        Kernel.ARGMAX: 4,
        Kernel.ARGMAX_MASKED: 4,
        Kernel.AFFINE_F32: 20 * num_outputs,
    }
    return sizes[kernel]


def pack_dense(layer: Dense, source: Tensor, target: Tensor) -> bytes:
    """Pack FULLY_CONNECTED rows, zero point folded into the bias: nothing is left to add to an input."""
    _require_clampable(layer, source)
    row_sums = layer.weights.astype(np.int64).sum(axis=1)
    folded = layer.bias.astype(np.int64) - source.zero_point * row_sums
    # |folded| is within accumulator_bound, and so are all partial sums: |zero_point| <= farthest input.
    assert np.all(np.abs(folded) < 2**31)
    ranges = (source.zero_point, target.zero_point, layer.output_min, layer.output_max)
    return b"".join(
        (
            np.array(ranges, np.int8).tobytes(),
            folded.astype("<i4").tobytes(),
            layer.multiplier.astype("<i4").tobytes(),
            _pad(layer.shift.astype(np.int8).tobytes()),
            _pad(np.ascontiguousarray(layer.weights, np.int8).tobytes()),
        )
    )


def unpack_dense(block: bytes, num_inputs: int, num_outputs: int) -> PackedDense:
    """Invert `pack_dense`."""
    ranges = np.frombuffer(block, np.int8, 4)
    folded = np.frombuffer(block, "<i4", num_outputs, 4)
    multiplier = np.frombuffer(block, "<i4", num_outputs, 4 + 4 * num_outputs)
    place = 4 + 8 * num_outputs
    shift = np.frombuffer(block, np.int8, num_outputs, place)
    weights = np.frombuffer(block, np.int8, num_outputs * num_inputs, place + _padded(num_outputs))
    weights = weights.reshape(num_outputs, num_inputs)
    bias = folded.astype(np.int64) + int(ranges[0]) * weights.astype(np.int64).sum(axis=1)
    return PackedDense(
        weights,
        bias.astype(np.int32),
        multiplier.astype(np.int32),
        shift.astype(np.int32),
        *(int(v) for v in ranges),
    )


def pack_lookup(layer: Lookup) -> bytes:
    """Pack the table of an elementwise function."""
    return layer.table.tobytes()


def unpack_lookup(block: bytes) -> NDArray[np.int8]:
    """Invert `pack_lookup`."""
    return np.frombuffer(block, np.int8, 256).copy()


def pack_observation(edge: ObservationEdge) -> bytes:
    """Pack the numbers that quantize a float32 observation."""
    multiplier, bias = edge.inverse
    return _words(multiplier, bias, edge.zero_point)


def pack_argmax(edge: ArgmaxEdge) -> bytes:
    """Pack the first action's number."""
    if not -(2**31) <= edge.start <= 2**31 - 1 - edge.num_actions:
        raise UnsupportedOperatorError(
            f"The action space starts at {edge.start}, which does not fit int32. Renumber its actions."
        )
    return _words(edge.start)


def pack_affine(edge: AffineEdge) -> bytes:
    """Pack a row {gain, offset, low, high, fraction_bits} an action."""
    rows = zip(edge.gain, edge.offset, edge.low, edge.high, edge.fraction_bits, strict=True)
    return b"".join(_words(*row) for row in rows)


def unpack_words(block: bytes) -> tuple[int, ...]:
    """Return a block of int32 words, the inverse of the edges' packing."""
    return tuple(int(v) for v in np.frombuffer(block, "<i4"))


def _require_clampable(layer: Dense, source: Tensor) -> None:
    left = np.maximum(layer.shift, 0).astype(np.int64)
    right = np.maximum(-layer.shift, 0).astype(np.int64)
    scaled = (accumulator_bound(layer, source.zero_point) << left) >> right
    if np.any(scaled > _LARGEST_SCALED):
        raise UnsupportedOperatorError(
            f"FULLY_CONNECTED at '{layer.name}' is not supported: output {int(np.argmax(scaled))} could "
            "overflow 32 bits when it is rescaled. Use fewer inputs or smaller biases."
        )


def _words(*values: int) -> bytes:
    return b"".join((value & 0xFFFFFFFF).to_bytes(4, "little") for value in values)


def _padded(size: int) -> int:
    return size + -size % 4


def _pad(values: bytes) -> bytes:
    return values + bytes(-len(values) % 4)
