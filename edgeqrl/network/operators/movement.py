"""Operators that only move values: each output is a list of strided copies."""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, product

import numpy as np

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.ir import Layer
from edgeqrl.network.layers import Move, Piece, Reshape
from edgeqrl.network.operators.operand import Operator, Rule, Support, is_activation, quantization
from edgeqrl.network.operators.strided import View, pieces, repeated_runs, runs, whole
from edgeqrl.network.shapes import inferred_shapes
from edgeqrl.network.slicing import Axis, normal_axis, plain_slice, strided_slice
from edgeqrl.network.tflite_model import TensorInfo, shown

_MAX_PIECES = 256
_MAX_INDICES = 4096

Copy = tuple[int, View, View]  # from a view of input i to one of the output
Copies = Iterator[Copy]


def has_moved_activations(op: Operator) -> bool:
    """Activations are all INT8 or all INT16 (zero point 0), one quantization for all, no empty axis."""
    tensors = [*(op.operand(i) for i in data_inputs(op)), *op.outputs]
    if not op.outputs or any(t is None or not is_activation(t) for t in tensors):
        return False
    return len({(t.dtype, quantization(t)) for t in tensors if t is not None}) == 1


def has_same_values(op: Operator) -> bool:
    """Activations are INT8, INT16 or plain INT32 numbers, output of the input's type, scale, zero point."""
    if not op.inputs or op.inputs[0] is None or len(op.outputs) != 1:
        return False
    if op.source.dtype == op.target.dtype == "INT32" and not (len(op.source.scales) or len(op.target.scales)):
        return op.source.size == op.target.size > 0
    return has_moved_activations(op) and op.source.size == op.target.size


def has_constant_numbers(op: Operator) -> bool:
    """Axes, shapes, sizes, indices and paddings are known in the file, not computed."""
    numbers = [t for i, t in enumerate(op.inputs) if i not in data_inputs(op)]
    if op.info.name == "PADV2":
        numbers = numbers[:1]
    return all(t is not None and t.is_constant and t.dtype in ("INT32", "INT64") for t in numbers)


def has_int8_values(op: Operator) -> bool:
    """Activations are INT8: no runtime has an int16 kernel to compare with."""
    return bool(op.outputs) and op.target.dtype == "INT8"


def has_no_activation(op: Operator) -> bool:
    """Fused activation is NONE."""
    return op.info.fused_activation == "NONE"


def has_one_output(op: Operator) -> bool:
    """It has one output."""
    return len(op.outputs) == 1


def has_no_offset(op: Operator) -> bool:
    """`end` is an index, not an offset from `begin`."""
    return not op.info.options["offset"]


def has_no_batch_dims(op: Operator) -> bool:
    """`batch_dims` is 0."""
    return op.info.options["batch_dims"] == 0


def has_pad_value(op: Operator) -> bool:
    """The value to pad with is one constant with the output's type, scale and zero point."""
    value = op.operand(2)
    if value is None or not value.is_constant or value.dtype != op.target.dtype or value.size != 1:
        return False
    return len(value.scales) == 1 and quantization(value) == quantization(op.target)


def data_inputs(op: Operator) -> range:
    """Return which inputs are activations."""
    if op.info.name in ("CONCATENATION", "PACK"):
        return range(len(op.inputs))
    return range(1, 2) if op.info.name == "SPLIT" else range(1)


def lower_reshape(op: Operator) -> tuple[Layer, ...]:
    """Lower what keeps the order of all values."""
    _require_told_shape(op)
    return (Reshape(op.target.name, op.source.name, op.target.name, op.info.name),)


def _lowered(copies: Callable[[Operator], Copies]) -> Callable[[Operator], tuple[Layer, ...]]:
    """Return the lowering of an operator with one output, from what it copies."""

    def lower(op: Operator) -> tuple[Layer, ...]:
        return (_layer(op, op.target, copies(op), None),)

    return lower


def _layer(op: Operator, target: TensorInfo, copies: Copies, fill: int | None) -> Layer:
    data = [op.operand(i) for i in data_inputs(op)]
    names = [t.name for t in data if t is not None]
    unique = list(dict.fromkeys(names))
    found: list[Piece] = []
    for i, source, part in copies:
        found += pieces(unique.index(names[i]), source, part, _MAX_PIECES)
        if len(found) > _MAX_PIECES:
            raise UnsupportedOperatorError(
                f"{op.info.name} at '{shown(target.name)}' is not supported: it takes more than "
                f"{_MAX_PIECES} strided copies. Rearrange the layer's values in a more regular order."
            )
    if len(found) == 1 and len(unique) == 1:
        (piece,) = found
        is_all = piece.size == target.size == next(t.size for t in data if t is not None)
        if is_all and (piece.input_strides, piece.output_strides) == ((1,), (1,)):
            return Reshape(target.name, unique[0], target.name, op.info.name)
    return Move(target.name, op.info.name, tuple(unique), target.name, tuple(found), fill)


def _numbers(op: Operator, index: int) -> list[int]:
    tensor = op.operand(index)
    if tensor is None or tensor.size > _MAX_INDICES:
        raise ValueError(f"'{shown(op.target.name)}' has no axes, sizes or indices")
    return [int(v) for v in tensor.values().ravel()]


def _number(op: Operator, index: int) -> int:
    numbers = _numbers(op, index)
    if len(numbers) != 1:
        raise ValueError(f"'{shown(op.target.name)}' takes one number, got {len(numbers)}")
    return numbers[0]


def _require_shape(op: Operator, shape: Sequence[int]) -> None:
    if op.target.shape != tuple(shape):
        raise ValueError(f"'{shown(op.target.name)}' is {op.target.shape} and should be {tuple(shape)}")


def _require_told_shape(op: Operator) -> None:
    """Require the shape that operands and options say, where they say one."""
    if op.info.name == "RESHAPE" and len(op.inputs) < 2 and not op.info.options["new_shape"]:
        return
    shapes = inferred_shapes(op.info, op.inputs, 1)
    if shapes is None:
        raise ValueError(f"'{shown(op.target.name)}' is told a shape that does not fit its input")
    _require_shape(op, shapes[0])


def _require_count(op: Operator, option: str, count: int) -> None:
    if op.info.options[option] != count:
        raise ValueError(
            f"'{shown(op.target.name)}' is said to have {op.info.options[option]} parts of {count}"
        )


def _concatenation(op: Operator) -> Copies:
    shapes = [t.shape for t in op.inputs if t is not None]
    axis = normal_axis(op.info.number("axis"), len(op.target.shape))
    start = 0
    for i, shape in enumerate(shapes):
        if len(shape) != len(op.target.shape):
            raise ValueError(f"'{shown(op.target.name)}' joins tensors of different ranks")
        yield i, whole(shape), whole(op.target.shape).part(axis, start, shape[axis])
        start += shape[axis]


def _pack(op: Operator) -> Copies:
    _require_count(op, "values_count", len(op.inputs))
    axis = normal_axis(op.info.number("axis"), len(op.target.shape))
    for i, tensor in enumerate(op.inputs):
        assert tensor is not None
        yield i, whole(tensor.shape).with_axis(axis), whole(op.target.shape).part(axis, i, 1)


def _lower_unpack(op: Operator) -> tuple[Layer, ...]:
    _require_count(op, "num", len(op.outputs))
    axis = normal_axis(op.info.number("axis"), len(op.source.shape))
    if len(op.outputs) != op.source.shape[axis]:
        raise ValueError(f"'{shown(op.target.name)}' is one of {len(op.outputs)} parts")
    layers = []
    for i, target in enumerate(op.outputs):
        part = whole(op.source.shape).part(axis, i, 1)
        copy = (0, part, whole(target.shape).with_axis(axis))
        layers.append(_layer(op, target, iter((copy,)), None))
    return tuple(layers)


def _lower_split(op: Operator) -> tuple[Layer, ...]:
    _require_count(op, "num_splits", len(op.outputs))
    source = op.operand(1)
    assert source is not None
    axis = normal_axis(_number(op, 0), len(source.shape))
    if source.shape[axis] % len(op.outputs):
        raise ValueError(f"'{shown(op.target.name)}' is one of {len(op.outputs)} parts")
    size = source.shape[axis] // len(op.outputs)
    return _parts(op, source, axis, [size] * len(op.outputs))


def _lower_split_v(op: Operator) -> tuple[Layer, ...]:
    _require_count(op, "num_splits", len(op.outputs))
    axis, sizes = normal_axis(_number(op, 2), len(op.source.shape)), _numbers(op, 1)
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = op.source.shape[axis] - sum(sizes) - 1
    if min(sizes, default=0) < 1 or sum(sizes) != op.source.shape[axis] or len(sizes) != len(op.outputs):
        raise ValueError(f"'{shown(op.target.name)}' is part of a split into {sizes}")
    return _parts(op, op.source, axis, sizes)


def _parts(op: Operator, source: TensorInfo, axis: int, sizes: Sequence[int]) -> tuple[Layer, ...]:
    starts = accumulate(sizes, initial=0)
    layers = []
    for target, start, size in zip(op.outputs, starts, sizes, strict=False):
        copy = (0, whole(source.shape).part(axis, start, size), whole(target.shape))
        layers.append(_layer(op, target, iter((copy,)), None))
    return tuple(layers)


def _slice(op: Operator) -> Copies:
    axes = plain_slice(op.source.shape, _numbers(op, 1), _numbers(op, 2))
    yield 0, whole(op.source.shape).sliced(axes), whole(op.target.shape)


def _strided_slice(op: Operator) -> Copies:
    begin, end, strides = (_numbers(op, i) for i in (1, 2, 3))
    axes, shape = strided_slice(op.source.shape, begin, end, strides, op.info.options)
    _require_shape(op, shape)
    yield 0, whole(op.source.shape).sliced(axes), whole(tuple(axis.count for axis in axes))


def _transpose(op: Operator) -> Copies:
    order = [normal_axis(axis, len(op.source.shape)) for axis in _numbers(op, 1)]
    yield 0, whole(op.source.shape).transposed(order), whole(op.target.shape)


def _reverse(op: Operator) -> Copies:
    rank = len(op.source.shape)
    reversed_axes = {normal_axis(axis, rank) for axis in _numbers(op, 1)}
    axes = [
        Axis(n - 1, -1, n) if i in reversed_axes else Axis(0, 1, n) for i, n in enumerate(op.source.shape)
    ]
    yield 0, whole(op.source.shape).sliced(axes), whole(op.target.shape)


def _broadcast_to(op: Operator) -> Copies:
    _require_told_shape(op)
    yield 0, whole(op.source.shape).broadcast(op.target.shape), whole(op.target.shape)


def _tile(op: Operator) -> Copies:
    times = _numbers(op, 1)
    if len(times) != len(op.source.shape) or min(times, default=1) < 1:
        raise ValueError(f"'{shown(op.target.name)}' is repeated {times} times")
    _require_shape(op, [n * m for n, m in zip(op.source.shape, times, strict=True)])
    source = whole(op.source.shape)
    for axis in reversed(range(len(times))):
        source = source.with_axis(axis, times[axis])
    yield 0, source, whole(source.shape)


def _depth_to_space(op: Operator) -> Copies:
    yield 0, *_blocks(op, op.source, op.target)


def _space_to_depth(op: Operator) -> Copies:
    depth, space = _blocks(op, op.target, op.source)
    yield 0, space, depth


def _blocks(op: Operator, deep: TensorInfo, wide: TensorInfo) -> tuple[View, View]:
    """Return both tensors as [n, h, block, w, block, c]."""
    block = op.info.number("block_size")
    if block < 1 or len(deep.shape) != 4 or len(wide.shape) != 4:
        raise ValueError(f"'{shown(op.target.name)}' has blocks of {block}")
    n, h, w, _ = deep.shape
    c = wide.shape[3]
    if (deep.shape, wide.shape) != ((n, h, w, block * block * c), (n, h * block, w * block, c)):
        raise ValueError(f"'{shown(op.target.name)}' has blocks of {block}")
    return whole((n, h, w, block, block, c)).transposed((0, 1, 3, 2, 4, 5)), whole((n, h, block, w, block, c))


def _gather(op: Operator) -> Copies:
    axis = normal_axis(op.info.number("axis"), len(op.source.shape))
    indices = _numbers(op, 1)
    if any(not 0 <= i < op.source.shape[axis] for i in indices):
        raise ValueError(f"'{shown(op.target.name)}' gathers elements that do not exist")
    shape = op.source.shape
    kept = op.operand(1)
    assert kept is not None
    _require_shape(op, (*shape[:axis], *kept.shape, *shape[axis + 1 :]))
    flat = whole((*shape[:axis], len(indices), *shape[axis + 1 :]))
    for start, taken in runs(indices):
        axes = [Axis(0, 1, n) for n in shape]
        axes[axis] = taken
        yield 0, whole(shape).sliced(axes), flat.part(axis, start, taken.count)


def _resize_nearest(op: Operator) -> Copies:
    if len(op.source.shape) != 4 or len(op.target.shape) != 4:
        raise ValueError(f"'{shown(op.target.name)}' is {op.target.shape} of {op.source.shape}")
    (n, *sizes, c), (m, *new_sizes, d) = op.source.shape, op.target.shape
    if (n, c) != (m, d) or _numbers(op, 1) != new_sizes:
        raise ValueError(f"'{shown(op.target.name)}' is {op.target.shape}")
    if max(new_sizes) > _MAX_INDICES:
        raise ValueError(f"'{shown(op.target.name)}' is larger than {_MAX_INDICES}")
    rows, columns = (
        tuple(repeated_runs(_nearest(size, new, op))) for size, new in zip(sizes, new_sizes, strict=True)
    )
    source, target = whole(op.source.shape), whole(op.target.shape)
    for (y, ys, tall), (x, xs, broad) in product(rows, columns):
        shape = (n, ys.count, tall, xs.count, broad, c)
        (batch, down, right, _), (batch_out, down_out, right_out, _) = source.strides, target.strides
        yield (
            0,
            View(
                shape, ys.start * down + xs.start * right, (batch, ys.step * down, 0, xs.step * right, 0, 1)
            ),
            View(
                shape,
                y * down_out + x * right_out,
                (batch_out, tall * down_out, down_out, broad * right_out, right_out, 1),
            ),
        )


def _nearest(size: int, new: int, op: Operator) -> list[int]:
    """Return the source index of each output index, in float32 as the kernels."""
    is_aligned, is_centred = op.info.options["align_corners"], op.info.options["half_pixel_centers"]
    ratio = (size - 1, new - 1) if is_aligned and new > 1 else (size, new)
    scale = np.float32(ratio[0]) / np.float32(ratio[1])
    places = (np.arange(new, dtype=np.float32) + np.float32(0.5 if is_centred else 0.0)) * scale
    rounded = np.floor(places.astype(np.float64) + 0.5) if is_aligned else np.floor(places)
    return [int(i) for i in np.clip(rounded, 0, size - 1)]


def _lower_pad(op: Operator) -> tuple[Layer, ...]:
    value = op.operand(2) if op.info.name == "PADV2" else None
    fill = quantization(op.target)[1] if value is None else int(value.values().reshape(()))
    before = [low for low, _ in _paddings(op)]
    view = whole(op.target.shape).sliced(
        [Axis(start, 1, n) for start, n in zip(before, op.source.shape, strict=True)]
    )
    return (_layer(op, op.target, iter(((0, whole(op.source.shape), view),)), fill),)


def _mirror_pad(op: Operator) -> Copies:
    edge = 1 if op.info.options["mode"] == "REFLECT" else 0
    parts: list[list[tuple[Axis, Axis]]] = []  # an axis: what is taken, and where it goes
    for (low, high), n in zip(_paddings(op), op.source.shape, strict=True):
        if max(low, high) > n - edge:
            raise ValueError(f"'{shown(op.target.name)}' mirrors more than there is")
        candidates = [
            (Axis(low - 1 + edge, -1, low), Axis(0, 1, low)),
            (Axis(0, 1, n), Axis(low, 1, n)),
            (Axis(n - 1 - edge, -1, high), Axis(low + n, 1, high)),
        ]
        parts.append([c for c in candidates if c[0].count])
    for combination in product(*parts):
        taken, placed = zip(*combination, strict=True)
        yield 0, whole(op.source.shape).sliced(taken), whole(op.target.shape).sliced(placed)


def _paddings(op: Operator) -> list[tuple[int, int]]:
    numbers = _numbers(op, 1)
    if len(numbers) != 2 * len(op.source.shape) or min(numbers, default=0) < 0:
        raise ValueError(f"'{shown(op.target.name)}' has the paddings {numbers}")
    found = list(zip(numbers[::2], numbers[1::2], strict=True))
    _require_shape(op, [low + n + high for (low, high), n in zip(found, op.source.shape, strict=True)])
    return found


_ONE = (has_one_output, has_moved_activations, has_constant_numbers)
_MANY = (has_moved_activations, has_constant_numbers)
_ONE_INT8 = (has_one_output, has_int8_values, has_moved_activations, has_constant_numbers)
_BOTH = "tflm, tflite-runtime"
_RANK_NOTE = "Neither runs more than 5 axes: beyond, the reference decides."
_RESHAPE = Support((has_same_values, has_constant_numbers), lower_reshape, oracle_int16=_BOTH)


def _moves(
    rules: tuple[Rule, ...],
    lower: Callable[[Operator], tuple[Layer, ...]],
    note: str = "",
    oracle: str = _BOTH,
    oracle_int16: str = _BOTH,
) -> Support:
    return Support(rules, lower, note, oracle, oracle_int16)


SUPPORT = {
    "RESHAPE": _RESHAPE,
    "SQUEEZE": _RESHAPE,
    "EXPAND_DIMS": _RESHAPE,
    "CONCATENATION": _moves((*_ONE, has_no_activation), _lowered(_concatenation)),
    "PACK": _moves(_ONE, _lowered(_pack)),
    "UNPACK": _moves(_MANY, _lower_unpack),
    "SPLIT": _moves(_MANY, _lower_split),
    "SPLIT_V": _moves(_MANY, _lower_split_v),
    "SLICE": _moves(_ONE, _lowered(_slice), _RANK_NOTE),
    "STRIDED_SLICE": _moves(
        (*_ONE, has_no_offset),
        _lowered(_strided_slice),
        "TFLite Micro lacks ellipsis, new axes and more than 4 axes: tflite-runtime decides.",
    ),
    "PAD": _moves(_ONE, _lower_pad, "Neither runs more than 5 axes: the reference decides."),
    "PADV2": _moves(
        (*_ONE, has_pad_value), _lower_pad, "Neither runs more than 5 axes: the reference decides."
    ),
    "MIRROR_PAD": _moves(
        _ONE,
        _lowered(_mirror_pad),
        "TFLite Micro has no int16 kernel: tflite-runtime decides.",
        oracle_int16="tflite-runtime",
    ),
    "TRANSPOSE": _moves(
        _ONE,
        _lowered(_transpose),
        "TFLite Micro runs at most 5 axes and no negative ones: there tflite-runtime decides.",
    ),
    "REVERSE_V2": _moves(
        _ONE, _lowered(_reverse), "tflite-runtime reverses only one of several axes: TFLite Micro decides."
    ),
    "BROADCAST_TO": _moves(_ONE, _lowered(_broadcast_to)),
    "TILE": _moves(
        _ONE_INT8, _lowered(_tile), "TFLite Micro lacks it.", oracle="tflite-runtime", oracle_int16=""
    ),
    "GATHER": _moves(
        (*_ONE, has_no_batch_dims),
        _lowered(_gather),
        "TFLite Micro has no int16 kernel: tflite-runtime decides.",
        oracle_int16="tflite-runtime",
    ),
    "DEPTH_TO_SPACE": _moves(_ONE_INT8, _lowered(_depth_to_space), oracle_int16=""),
    "SPACE_TO_DEPTH": _moves(_ONE_INT8, _lowered(_space_to_depth), oracle_int16=""),
    "RESIZE_NEAREST_NEIGHBOR": _moves(_ONE, _lowered(_resize_nearest)),
}
