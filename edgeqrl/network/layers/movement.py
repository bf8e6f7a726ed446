"""Layers that only move values: any slice, concatenation, padding or transposition is a strided copy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from edgeqrl.network.ir import Array, Tensor

MAX_PIECE_AXES = 6


@dataclass(frozen=True)
class Reshape:
    """The same values under another shape: RESHAPE, SQUEEZE, EXPAND_DIMS. Costs nothing in C."""

    name: str
    input: str
    output: str
    operator: str = "RESHAPE"
    num_macs = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the one tensor that is read."""
        return (self.input,)

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check that nothing is gained or lost."""
        source, target = tensors[self.input], tensors[self.output]
        if (source.size, source.dtype) != (target.size, target.dtype):
            raise ValueError(f"{self.name}: {source.size} elements in, {target.size} out")

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        (values,) = inputs
        return values.reshape(-1, *tensors[self.output].shape)


@dataclass(frozen=True)
class Piece:
    """One strided copy; everything in elements of row-major tensors without their batch axis."""

    input: int  # index into the layer's inputs
    shape: tuple[int, ...]  # 1 to 6 axes; those that run on in input and output are merged
    input_offset: int
    input_strides: tuple[int, ...]  # may be negative, or 0 to repeat
    output_offset: int
    output_strides: tuple[int, ...]  # of the innermost axis last; positive

    @property
    def size(self) -> int:
        """Count the elements."""
        return math.prod(self.shape)

    @property
    def input_range(self) -> tuple[int, int]:
        """Return the first and the last element of the input that is read."""
        return _range(self.input_offset, self.shape, self.input_strides)

    @property
    def output_range(self) -> tuple[int, int]:
        """Return the first and the last element of the output that is written."""
        return _range(self.output_offset, self.shape, self.output_strides)


@dataclass(frozen=True)
class Move:
    """Strided copies that together write each element of the output once, but for what `fill` writes."""

    name: str
    operator: str  # LiteRT builtin name, e.g. "CONCATENATION"
    inputs: tuple[str, ...]  # each once
    output: str
    pieces: tuple[Piece, ...]
    fill: int | None  # what is elsewhere, in quantized units; None where the pieces write all
    num_macs = 0

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check that no copy leaves its tensors, and that the output is written."""
        target = tensors[self.output]
        if any(tensors[name].dtype != target.dtype for name in self.inputs):
            raise ValueError(f"{self.name}: inputs and output have different dtypes")
        for piece in self.pieces:
            if not 1 <= len(piece.shape) <= MAX_PIECE_AXES or min(piece.shape) < 1:
                raise ValueError(f"{self.name}: a copy has the shape {piece.shape}")
            ends = (*piece.input_range, *piece.output_range)
            sizes = (tensors[self.inputs[piece.input]].size, target.size)
            if not (ends[0] >= 0 and ends[1] < sizes[0] and ends[2] >= 0 and ends[3] < sizes[1]):
                raise ValueError(f"{self.name}: a copy leaves its tensors")
        written = sum(piece.size for piece in self.pieces)
        if written > target.size or (self.fill is None and written != target.size):
            raise ValueError(f"{self.name}: {written} elements are copied to {target.size}")
        if self.fill is not None and not target.range[0] <= self.fill <= target.range[1]:
            raise ValueError(f"{self.name}: {self.fill} does not fit {target.dtype}")

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        target = tensors[self.output]
        lengths = [len(values) for values in inputs]
        count = 0 if 0 in lengths else max(lengths)
        result = np.full((count, target.size), self.fill or 0, target.dtype)
        flat = [np.broadcast_to(v.reshape(len(v), -1), (count, v[0].size)) if count else v for v in inputs]
        for piece in self.pieces if count else ():
            source = _strided(flat[piece.input], piece.input_offset, piece.shape, piece.input_strides)
            copied = _strided(result, piece.output_offset, piece.shape, piece.output_strides)
            copied[...] = source
        return result.reshape(count, *target.shape)


def _strided(rows: Array, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    step = rows.strides[1] if rows.shape[1] > 1 else rows.itemsize
    inner = tuple(step * stride for stride in strides)
    return as_strided(rows[:, offset:], (len(rows), *shape), (rows.strides[0], *inner))


def _range(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    steps = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    return offset + sum(s for s in steps if s < 0), offset + sum(s for s in steps if s > 0)
