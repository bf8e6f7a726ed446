"""Strided copies: one call for each input, a first one for what the pieces leave."""

from collections.abc import Sequence

import numpy as np

from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers.movement import Move, Piece
from firmware_export.emit.packing import BLOCK, Call, Kernel, LayerCode, Rows

_WORD = 4  # bytes; what lies as whole words is copied as words


def move_code(layer: Move, network: IntegerNetwork) -> LayerCode:
    """Return the calls of a Move."""
    target = network.tensors[layer.output]
    block = b"" if layer.fill is None else pack_fill(layer.fill, target)
    calls: list[Call] = []
    if layer.fill is not None:
        calls.append(_fill_call(target))
    for number in range(len(layer.inputs)):
        pieces = [piece for piece in layer.pieces if piece.input == number]
        if pieces:
            calls.append(_copy_call(number, pieces, target))
    return LayerCode(
        kernel=Kernel.MOVE,
        function="eqrl_move",
        block=block,
        arguments=(),
        source="eqrl_move.c",
        calls=tuple(calls),
    )


def pack_fill(value: int, target: Tensor) -> bytes:
    """Pack the value to fill with, repeated to a word."""
    one = np.array(value, np.dtype(target.dtype).newbyteorder("<")).tobytes()
    return one * (_WORD // len(one))


def unpack_fill(block: bytes, dtype: str) -> int:
    """Invert `pack_fill`."""
    return int(np.frombuffer(block, np.dtype(dtype).newbyteorder("<"), 1)[0])


def _fill_call(target: Tensor) -> Call:
    element_bytes = _element_bytes(target)
    unit = next(u for u in (_WORD, 2, 1) if u >= element_bytes and target.num_bytes % u == 0)
    everything = Piece(0, (target.num_bytes // unit,), 0, (0,), 0, (1,))
    return Call("eqrl_move", (BLOCK,), (unit, _rows([everything]), 1))


def _copy_call(operand: int, pieces: Sequence[Piece], target: Tensor) -> Call:
    """Copy units as large as all pieces allow."""
    element_bytes = _element_bytes(target)
    factors = (factor for factor in (4, 2, 1) if factor * element_bytes <= _WORD)
    factor = next(f for f in factors if all(_is_made_of(piece, f) for piece in pieces))
    rows = _rows([_in_units(piece, factor) for piece in pieces])
    return Call("eqrl_move", (operand,), (factor * element_bytes, rows, len(pieces)))


def _is_made_of(piece: Piece, factor: int) -> bool:
    """Tell whether a piece is runs of aligned groups of `factor` elements."""
    if factor == 1:
        return True
    if not piece.shape or (piece.input_strides[-1], piece.output_strides[-1]) != (1, 1):
        return False
    places = (piece.input_offset, piece.output_offset, piece.shape[-1])
    strides = (*piece.input_strides[:-1], *piece.output_strides[:-1])
    return all(number % factor == 0 for number in (*places, *strides))


def _in_units(piece: Piece, factor: int) -> Piece:
    if factor == 1:
        return piece

    def scaled(strides: tuple[int, ...]) -> tuple[int, ...]:
        return (*(stride // factor for stride in strides[:-1]), 1)

    return Piece(
        piece.input,
        (*piece.shape[:-1], piece.shape[-1] // factor),
        piece.input_offset // factor,
        scaled(piece.input_strides),
        piece.output_offset // factor,
        scaled(piece.output_strides),
    )


def _rows(pieces: Sequence[Piece]) -> Rows:
    rows: list[tuple[int, ...]] = []
    for piece in pieces:
        axes = list(zip(piece.shape, piece.input_strides, piece.output_strides, strict=True)) or [(1, 1, 1)]
        rows += [(len(axes), piece.input_offset, piece.output_offset), *axes]
    return Rows("eqrl_loop", tuple(rows))


def _element_bytes(target: Tensor) -> int:
    return int(np.dtype(target.dtype).itemsize)
