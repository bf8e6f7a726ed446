"""Blocks of the params blob: what kernels of the runtime read, as `runtime/eqrl_kernels.h` documents it.

A block is little endian and a multiple of 4 bytes. Its size follows from the kernel and from shapes alone, so
code made for one network reads the params of any other network of the same shapes. The edges' blocks are
here, the layers' beside their kernels in `kernels/`.
"""

from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.edges import (
    ActionEdge,
    AffineEdge,
    ArgmaxEdge,
    GaussianEdge,
    MultiBinaryEdge,
    MultiDiscreteEdge,
    ObservationEdge,
    limits,
)

BLOCK = -1  # an operand of a Call: the layer's block


@unique
class Kernel(IntEnum):
    """Which layout a block has; the same numbers as EQRL_KERNEL_ in `runtime/eqrl.h`."""

    OBSERVATION_F32 = 1
    DENSE_S8 = 2
    LOOKUP_S8 = 3
    ARGMAX = 4
    ARGMAX_MASKED = 5
    AFFINE_F32 = 6
    CONSTANT = 7
    DENSE_S16 = 10
    CONV_S8 = 11
    CONV_S16 = 12
    DEPTHWISE_S8 = 13
    DEPTHWISE_S16 = 14
    TRANSPOSE_CONV_S8 = 15
    TRANSPOSE_CONV_S16 = 16
    POOL = 17
    REDUCE_SUM = 18
    REDUCE_MAX = 19
    DENSE_P4_S8 = 20
    DENSE_P3_S8 = 21
    DENSE_P2_S8 = 22
    DENSE_P4_S16 = 23
    DENSE_P3_S16 = 24
    DENSE_P2_S16 = 25
    CONV_P4_S8 = 26
    CONV_P3_S8 = 27
    CONV_P2_S8 = 28
    CONV_P4_S16 = 29
    CONV_P3_S16 = 30
    CONV_P2_S16 = 31
    DENSE_ASYMMETRIC_S8 = 32
    DENSE_ASYMMETRIC_S16 = 33
    CONV_ASYMMETRIC_S8 = 34
    CONV_ASYMMETRIC_S16 = 35
    DEPTHWISE_ASYMMETRIC_S8 = 36
    DEPTHWISE_ASYMMETRIC_S16 = 37
    TRANSPOSE_CONV_ASYMMETRIC_S8 = 38
    TRANSPOSE_CONV_ASYMMETRIC_S16 = 39
    RESCALE = 40
    INTERPOLATE_S16 = 41
    SIGMOID_S16 = 42
    RSQRT_S16 = 43
    ADD = 44
    SQUARED_DIFFERENCE = 45
    MUL = 46
    PRELU = 47
    MAXIMUM = 48
    SOFTMAX_S8 = 50
    SOFTMAX_S16 = 51
    LOG_SOFTMAX_S8 = 52
    ARG_EXTREME = 53
    MOVE = 60
    OBSERVATION_AFFINE_F32 = 70
    OBSERVATION_U8 = 71
    OBSERVATION_ONE_HOT = 72
    FILL = 73
    MULTI_ARGMAX = 74
    CATEGORICAL = 75
    MULTI_BINARY = 76
    BERNOULLI = 77
    GAUSSIAN_F32 = 78
    DENSE_QUADS_S8 = 80
    CONV_QUADS_S8 = 81
    DENSE_QUADS_ANY_S8 = 82
    CONV_QUADS_ANY_S8 = 83
    DENSE_BIASED_S8 = 84
    CONV_BIASED_S8 = 85
    DENSE_BIASED_ANY_S8 = 86
    CONV_BIASED_ANY_S8 = 87
    DENSE_LANES_S8 = 88
    CONV_LANES_S8 = 89
    DENSE_LANES_ANY_S8 = 90
    CONV_LANES_ANY_S8 = 91
    DENSE_VECTORS_S8 = 92
    CONV_VECTORS_S8 = 93
    DENSE_LANES_P4_S8 = 100
    CONV_LANES_P4_S8 = 101
    DENSE_LANES_P3_S8 = 102
    CONV_LANES_P3_S8 = 103
    DENSE_LANES_P2_S8 = 104
    CONV_LANES_P2_S8 = 105
    DENSE_VECTORS_P4_S8 = 106
    CONV_VECTORS_P4_S8 = 107
    DENSE_VECTORS_P3_S8 = 108
    CONV_VECTORS_P3_S8 = 109
    DENSE_VECTORS_P2_S8 = 110
    CONV_VECTORS_P2_S8 = 111
    DENSE_WIDE_S8 = 120
    CONV_WIDE_S8 = 121


@dataclass(frozen=True)
class Rows:
    """A constant array of C structs: what a kernel must know about shapes beyond a few numbers."""

    type: str  # of the runtime, e.g. "eqrl_window"
    rows: tuple[tuple[int | tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class Call:
    """One call of a kernel: function(operands..., output, arguments...)."""

    function: str
    operands: tuple[int, ...]  # places among the layer's inputs; BLOCK is its block
    arguments: tuple[int | Rows, ...]


@dataclass(frozen=True, eq=False)
class LayerCode:
    """One layer as a call: function(block, inputs..., output, arguments...), or as `calls` of their own."""

    kernel: Kernel
    function: str
    block: bytes  # everything that depends on weights
    arguments: tuple[int | Rows, ...]  # everything else; shapes alone decide it
    source: str  # the file of the runtime that has the function
    reason: str = ""  # why this kernel may be used, for a comment
    calls: tuple[Call, ...] = ()  # one after another, where `arguments` is not enough
    # What it needs of the arena beside its tensors: an argument behind the output, NULL where it is 0 bytes.
    scratch_bytes: int | None = None
    behind_output: int = 0  # bytes that it writes there

    def all_calls(self, num_inputs: int) -> tuple[Call, ...]:
        """Return the calls of a layer of so many inputs, in order."""
        operands = (*((BLOCK,) if self.block else ()), *range(num_inputs))
        return self.calls or (Call(self.function, operands, self.arguments),)


def observation_block(edge: ObservationEdge) -> tuple[Kernel, bytes]:
    """Return the kernel that reads a part of the observation, and its block."""
    if edge.part.source == "uint8":
        return Kernel.OBSERVATION_U8, pack_constant(edge.table)
    if edge.part.one_hot is not None:
        return Kernel.OBSERVATION_ONE_HOT, words(
            *edge.hot_and_cold, *(start for start, _ in edge.part.one_hot)
        )
    if edge.is_affine:
        return Kernel.OBSERVATION_AFFINE_F32, pack_affine_observation(edge)
    return Kernel.OBSERVATION_F32, pack_observation(edge)


def action_block(edge: ActionEdge) -> tuple[Kernel, bytes]:
    """Return the kernel that decides or draws the action, and its block."""
    if isinstance(edge, ArgmaxEdge):
        return Kernel.ARGMAX_MASKED if edge.is_masked else Kernel.ARGMAX, pack_argmax(edge)
    if isinstance(edge, AffineEdge):
        return Kernel.AFFINE_F32, pack_affine(edge)
    if isinstance(edge, GaussianEdge):
        return Kernel.GAUSSIAN_F32, pack_gaussian(edge)
    tables = words(*edge.exp_low, *edge.exp_high)
    if isinstance(edge, MultiBinaryEdge):
        kernel = Kernel.BERNOULLI if edge.exp_low else Kernel.MULTI_BINARY
        return kernel, words(*edge.thresholds) + tables
    assert isinstance(edge, MultiDiscreteEdge)
    kernel = Kernel.CATEGORICAL if edge.exp_low else Kernel.MULTI_ARGMAX
    return kernel, _starts(edge.starts, edge.counts) + tables


def pack_observation(edge: ObservationEdge) -> bytes:
    """Pack the numbers that quantize a float32 observation."""
    multiplier, bias = edge.inverse
    return words(multiplier, bias, edge.zero_point)


def pack_affine_observation(edge: ObservationEdge) -> bytes:
    """Pack the fixed point and a row of four words for each row of the edge."""
    lowest, highest = limits(edge.dtype)
    packed = [words(edge.fraction_bits, edge.zero_point)]
    for multiplier, bias, is_negative, offset, low, high in edge.affine_rows:
        shift = bias - edge.fraction_bits if multiplier else 2**20
        flags = is_negative + 2 * (low < lowest) + 4 * (high > highest)
        bounds = [min(max(bound, lowest), highest) & 0xFFFF for bound in (low, high)]
        packed.append(words(multiplier, shift * 8 + flags, offset, bounds[0] | bounds[1] << 16))
    return b"".join(packed)


def pack_argmax(edge: ArgmaxEdge) -> bytes:
    """Pack the first action's number."""
    return _starts((edge.start,), (edge.num_actions,))


def pack_affine(edge: AffineEdge) -> bytes:
    """Pack a row {gain, offset, low, high, fraction_bits} an action."""
    rows = zip(edge.gain, edge.offset, edge.low, edge.high, edge.fraction_bits, strict=True)
    return b"".join(words(*row) for row in rows)


def pack_gaussian(edge: GaussianEdge) -> bytes:
    """Pack a row of the edge's columns an action; then what log_std means, where the network tells it."""
    rows = b"".join(words(*row) for row in zip(*edge.columns, strict=True))
    spread = edge.log_std
    if spread is None:
        return rows
    return rows + words(spread.q_low, spread.q_high, *spread.exp_low, *spread.exp_high)


def pack_constant(values: NDArray[Any]) -> bytes:
    """Pack a constant that layers read like an activation."""
    return pad(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())


def unpack_words(block: bytes) -> tuple[int, ...]:
    """Return a block of int32 words, the inverse of the edges' packing."""
    return tuple(int.from_bytes(block[i : i + 4], "little", signed=True) for i in range(0, len(block), 4))


def words(*values: int) -> bytes:
    """Return int32 or uint32 numbers as little-endian words."""
    return b"".join((value & 0xFFFFFFFF).to_bytes(4, "little") for value in values)


def padded(size: int) -> int:
    """Round a size up to whole words."""
    return size + -size % 4


def pad(values: bytes) -> bytes:
    """Append zeros up to whole words."""
    return values + bytes(-len(values) % 4)


def in_tiles(values: NDArray[np.int64], groups: int, tile: int) -> NDArray[np.int64]:
    """Return values [out, ...] as [tiles, tile, ...], each group padded with zeros to whole tiles."""
    each = len(values) // groups
    grouped = values.reshape(groups, each, *values.shape[1:])
    padding = ((0, 0), (0, -each % tile), *((0, 0),) * (values.ndim - 1))
    return np.pad(grouped, padding).reshape(-1, tile, *values.shape[1:])


def _starts(starts: tuple[int, ...], counts: tuple[int, ...]) -> bytes:
    for start, count in zip(starts, counts, strict=True):
        if not -(2**31) <= start <= 2**31 - 1 - count:
            raise UnsupportedOperatorError(
                f"The action space starts at {start}, which does not fit int32. Renumber its actions."
            )
    return words(*starts)
