"""Operators that only move values: each output is a list of places in the inputs, found once.

The places are what the operator makes of 0, 1, 2 ... in its inputs' shapes, mostly by `fold`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.float_operators.operand import (
    Floats,
    Make,
    Operands,
    Operator,
    Step,
    float_constant,
    numbers,
    operand,
)
from edgeqrl.network.fold import MOVES, fold
from edgeqrl.network.slicing import normal_axis
from edgeqrl.network.tflite_model import TensorInfo


def _moved(op: Operator) -> Step:
    """Take the places from the operator on constants."""
    data = [i for i, tensor in enumerate(op.inputs) if tensor is not None and tensor.dtype == "FLOAT32"]
    inputs = list(op.inputs)
    first = 0
    for i in data:
        tensor = op.operand(i)
        assert tensor is not None
        inputs[i] = _counting(tensor, first)
        first += tensor.size
    options = {**op.info.options}
    if "fused_activation_function" in options:
        options["fused_activation_function"] = "NONE"  # it is applied to what is moved
    outputs = [replace(tensor, dtype="INT32") for tensor in op.outputs]
    places = fold(replace(op.info, options=options), inputs, outputs)
    if places is None:
        raise ValueError("its axes, sizes or indices are computed or of an unknown form")
    return _taking(data, places, size=first)


def _padded(op: Operator) -> Step:
    fill = float_constant(op, 2).ravel() if op.info.name == "PADV2" else np.zeros(1, np.float32)
    mode = {"REFLECT": "reflect", "SYMMETRIC": "symmetric"}[str(op.info.options.get("mode", "REFLECT"))]
    widths = np.reshape(numbers(op, 1), (-1, 2)).tolist()
    expected = tuple(low + n + high for n, (low, high) in zip(op.source.shape, widths, strict=True))
    if expected != op.target.shape or min(map(min, widths), default=0) < 0:
        raise ValueError("its sizes do not follow from its padding")
    places = _places(op.source) + 1
    how: Any = {"mode": mode} if op.info.name == "MIRROR_PAD" else {"constant_values": 0}
    return _taking([0], [np.pad(places, widths, **how)], size=op.source.size, fill=fill)


def _split(op: Operator) -> Step:
    sizes, (axis,) = numbers(op, 1), numbers(op, 2)
    where = normal_axis(axis, len(op.source.shape))
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = op.source.shape[where] - sum(sizes) - 1
    return _taking([0], np.split(_places(op.source), np.cumsum(sizes)[:-1], where), size=op.source.size)


def _blocks(op: Operator) -> Step:
    block, (n, h, w, c) = op.info.number("block_size"), op.source.shape
    places = _places(op.source)
    if op.info.name == "SPACE_TO_DEPTH":
        grid = places.reshape(n, h // block, block, w // block, block, c).transpose(0, 1, 3, 2, 4, 5)
    else:
        grid = places.reshape(n, h, w, block, block, c // block**2).transpose(0, 1, 3, 2, 4, 5)
    return _taking([0], [grid.reshape(op.target.shape)], size=op.source.size)


def _taking(
    data: Sequence[int], places: Sequence[NDArray[Any]], *, size: int, fill: Floats | None = None
) -> Step:
    """Return the step that takes places of the operands `data`, put behind each other and behind `fill`.

    size  how many elements the operands have, without `fill`
    """
    indices = [np.asarray(p, np.int64).ravel() for p in places]
    is_same = [fill is None and np.array_equal(index, np.arange(size)) for index in indices]

    def step(operands: Operands) -> list[Floats]:
        flat = [operand(operands, i) for i in data]
        flat = [values.reshape(len(values), -1) for values in flat]
        flat = flat if fill is None else [fill.reshape(1, 1), *flat]
        count = max(len(values) for values in flat)
        joined = flat[0]
        if len(flat) > 1:
            joined = np.concatenate([np.broadcast_to(f, (count, f.shape[1])) for f in flat], axis=1)
        return [
            (joined if same else joined[:, index]).reshape(count, *p.shape)
            for same, index, p in zip(is_same, indices, places, strict=True)
        ]

    return step


def _places(tensor: TensorInfo) -> NDArray[np.int64]:
    return np.arange(tensor.size).reshape(tensor.shape)


def _counting(tensor: TensorInfo, first: int) -> TensorInfo:
    """Return a constant of the same shape with the values first, first + 1 ..."""
    values = np.arange(first, first + tensor.size, dtype="<i4")
    return replace(tensor, dtype="INT32", data=memoryview(values.tobytes()), is_sparse=False)


MAKE: dict[str, Make] = {
    **dict.fromkeys(MOVES.keys() - {"FILL"}, _moved),  # which has constants alone, and is folded
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _padded),
    **dict.fromkeys(("DEPTH_TO_SPACE", "SPACE_TO_DEPTH"), _blocks),
    "SPLIT_V": _split,
}
