"""Output shapes from input shapes, for files that leave axes open.

A converter that does not know a size writes -1 into the tensor's shape signature and 1 into its shape.
Runtimes that resize compute the size when they load the file; so does this. TFLite Micro takes the 1.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from edgeqrl.network.slicing import normal_axis, plain_slice, strided_slice
from edgeqrl.network.tflite_model import OperatorInfo, TensorInfo

Shape = tuple[int, ...]
Inputs = Sequence[TensorInfo]

_MAX_ELEMENTS = 2**31 - 1
_MAX_RANK = 8


def has_open_axes(tensor: TensorInfo) -> bool:
    """Tell whether the file leaves a size of a tensor open."""
    return -1 in (tensor.shape_signature or ())


def inferred_shapes(op: OperatorInfo, inputs: Sequence[TensorInfo | None], count: int) -> list[Shape] | None:
    """Return the shapes of all `count` outputs, or None where they do not follow."""
    function = _FUNCTIONS.get(op.name)
    given = [tensor for tensor in inputs if tensor is not None]
    if function is None or not given:
        return None
    try:
        shapes = function(op, given, count)
    except (ValueError, IndexError, ZeroDivisionError):
        return None  # what is wrong with it is said where it is lowered
    for shape in shapes:
        if len(shape) > _MAX_RANK or min(shape, default=0) < 0 or math.prod(shape) > _MAX_ELEMENTS:
            return None
    return shapes if len(shapes) == count else None


def _same(_: OperatorInfo, inputs: Inputs, count: int) -> list[Shape]:
    return [inputs[0].shape] * count


def _broadcast(_: OperatorInfo, inputs: Inputs, __: int) -> list[Shape]:
    return [np.broadcast_shapes(*(tensor.shape for tensor in inputs))]


def _reshape(op: OperatorInfo, inputs: Inputs, _: int) -> list[Shape]:
    option = op.options["new_shape"]
    assert isinstance(option, tuple)
    shape = _numbers(inputs, 1) if len(inputs) > 1 else [] if option == (0,) else list(option)  # old scalars
    if shape.count(-1) == 1:
        rest = math.prod(n for n in shape if n != -1)
        shape[shape.index(-1)] = inputs[0].size // rest
    if math.prod(shape) != inputs[0].size:
        raise ValueError("other elements")
    return [tuple(shape)]


def _expand_dims(_: OperatorInfo, inputs: Inputs, __: int) -> list[Shape]:
    shape = inputs[0].shape
    axis = normal_axis(_numbers(inputs, 1)[0], len(shape) + 1)
    return [(*shape[:axis], 1, *shape[axis:])]


def _squeeze(op: OperatorInfo, inputs: Inputs, _: int) -> list[Shape]:
    shape, dims = inputs[0].shape, op.options["squeeze_dims"]
    assert isinstance(dims, tuple)
    axes = {normal_axis(d, len(shape)) for d in dims} or {i for i, n in enumerate(shape) if n == 1}
    return [tuple(n for i, n in enumerate(shape) if i not in axes)]


def _transpose(_: OperatorInfo, inputs: Inputs, __: int) -> list[Shape]:
    return [tuple(inputs[0].shape[i] for i in _numbers(inputs, 1))]


def _concatenation(op: OperatorInfo, inputs: Inputs, _: int) -> list[Shape]:
    shape = list(inputs[0].shape)
    axis = normal_axis(op.number("axis"), len(shape))
    shape[axis] = sum(tensor.shape[axis] for tensor in inputs)
    return [tuple(shape)]


def _pack(op: OperatorInfo, inputs: Inputs, _: int) -> list[Shape]:
    shape = inputs[0].shape
    axis = normal_axis(op.number("axis"), len(shape) + 1)
    return [(*shape[:axis], len(inputs), *shape[axis:])]


def _unpack(op: OperatorInfo, inputs: Inputs, count: int) -> list[Shape]:
    shape = inputs[0].shape
    axis = normal_axis(op.number("axis"), len(shape))
    return [(*shape[:axis], *shape[axis + 1 :])] * count


def _split(_: OperatorInfo, inputs: Inputs, count: int) -> list[Shape]:
    shape = list(inputs[1].shape)
    axis = normal_axis(_numbers(inputs, 0)[0], len(shape))
    shape[axis] //= count
    return [tuple(shape)] * count


def _slice(_: OperatorInfo, inputs: Inputs, __: int) -> list[Shape]:
    axes = plain_slice(inputs[0].shape, _numbers(inputs, 1), _numbers(inputs, 2))
    return [tuple(axis.count for axis in axes)]


def _strided_slice(op: OperatorInfo, inputs: Inputs, _: int) -> list[Shape]:
    begin, end, strides = (_numbers(inputs, i) for i in (1, 2, 3))
    return [strided_slice(inputs[0].shape, begin, end, strides, op.options)[1]]


def _pad(_: OperatorInfo, inputs: Inputs, __: int) -> list[Shape]:
    added = _numbers(inputs, 1)
    pairs = zip(inputs[0].shape, added[::2], added[1::2], strict=True)
    return [tuple(low + n + high for n, low, high in pairs)]


def _tile(_: OperatorInfo, inputs: Inputs, __: int) -> list[Shape]:
    return [tuple(n * m for n, m in zip(inputs[0].shape, _numbers(inputs, 1), strict=True))]


def _told(position: int) -> "_Function":
    """Return the inference of an operator whose input `position` is its output's shape."""

    def shapes(_: OperatorInfo, inputs: Inputs, __: int) -> list[Shape]:
        return [tuple(_numbers(inputs, position))]

    return shapes


def _gather(op: OperatorInfo, inputs: Inputs, _: int) -> list[Shape]:
    shape = inputs[0].shape
    axis = normal_axis(op.number("axis"), len(shape))
    return [(*shape[:axis], *inputs[1].shape, *shape[axis + 1 :])]


def _reduce(op: OperatorInfo, inputs: Inputs, _: int) -> list[Shape]:
    shape = inputs[0].shape
    axes = {normal_axis(axis, len(shape)) for axis in _numbers(inputs, 1)}
    if op.options["keep_dims"]:
        return [tuple(1 if i in axes else n for i, n in enumerate(shape))]
    return [tuple(n for i, n in enumerate(shape) if i not in axes)]


def _dense(op: OperatorInfo, inputs: Inputs, _: int) -> list[Shape]:
    columns = inputs[1].shape[1]
    lead = inputs[0].shape[:-1] if op.options["keep_num_dims"] else (inputs[0].size // columns,)
    return [(*lead, inputs[1].shape[0])]


def _convolution(op: OperatorInfo, inputs: Inputs, _: int) -> list[Shape]:
    (n, *sizes, _c), kernel = inputs[0].shape, inputs[1].shape
    channels = kernel[0] if op.name == "CONV_2D" else kernel[3]
    dilations = (op.number("dilation_h_factor"), op.number("dilation_w_factor"))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel[1:3], dilations, strict=True)]
    return [(n, *_windows(op, sizes, reach), channels)]


def _pool(op: OperatorInfo, inputs: Inputs, _: int) -> list[Shape]:
    n, *sizes, c = inputs[0].shape
    return [(n, *_windows(op, sizes, [op.number("filter_height"), op.number("filter_width")]), c)]


def _windows(op: OperatorInfo, sizes: Sequence[int], reach: Sequence[int]) -> list[int]:
    strides = (op.number("stride_h"), op.number("stride_w"))
    less = [0, 0] if op.options["padding"] == "SAME" else [r - 1 for r in reach]
    return [-((k - n) // s) for n, k, s in zip(sizes, less, strides, strict=True)]


def _blocks(op: OperatorInfo, inputs: Inputs, _: int) -> list[Shape]:
    (n, h, w, c), b = inputs[0].shape, op.number("block_size")
    if op.name == "DEPTH_TO_SPACE":
        return [(n, h * b, w * b, c // (b * b))]
    return [(n, h // b, w // b, c * b * b)]


def _resize(_: OperatorInfo, inputs: Inputs, __: int) -> list[Shape]:
    height, width = _numbers(inputs, 1)
    return [(inputs[0].shape[0], height, width, inputs[0].shape[3])]


def _extreme(_: OperatorInfo, inputs: Inputs, __: int) -> list[Shape]:
    shape = inputs[0].shape
    axis = normal_axis(_numbers(inputs, 1)[0], len(shape))
    return [(*shape[:axis], *shape[axis + 1 :])]


def _rank(_: OperatorInfo, inputs: Inputs, __: int) -> list[Shape]:
    return [(len(inputs[0].shape),)]


def _numbers(inputs: Inputs, position: int) -> list[int]:
    tensor = inputs[position]
    if not tensor.is_constant or tensor.dtype not in ("INT32", "INT64") or tensor.size > 2 * _MAX_RANK:
        raise ValueError("not known")
    return [int(v) for v in tensor.values().ravel()]


_Function = Callable[[OperatorInfo, Inputs, int], list[Shape]]
_ELEMENTWISE = """
    ABS CAST CEIL COS DEQUANTIZE ELU EXP FLOOR GELU HARD_SWISH LEAKY_RELU LOG LOG_SOFTMAX LOGISTIC NEG
    QUANTIZE RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 REVERSE_V2 ROUND RSQRT SIGN SIN SOFTMAX SQRT SQUARE TANH
    ZEROS_LIKE
"""
_PAIRS = "ADD DIV FLOOR_DIV FLOOR_MOD MAXIMUM MINIMUM MUL POW PRELU SQUARED_DIFFERENCE SUB"
_FUNCTIONS: dict[str, _Function] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _same),
    **dict.fromkeys(_PAIRS.split(), _broadcast),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), _reduce),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), _convolution),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), _pool),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _pad),
    **dict.fromkeys(("DEPTH_TO_SPACE", "SPACE_TO_DEPTH"), _blocks),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _resize),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN"), _extreme),
    "FULLY_CONNECTED": _dense,
    "TRANSPOSE_CONV": _told(0),
    "BROADCAST_TO": _told(1),
    "FILL": _told(0),
    "SHAPE": _rank,
    "RESHAPE": _reshape,
    "EXPAND_DIMS": _expand_dims,
    "SQUEEZE": _squeeze,
    "TRANSPOSE": _transpose,
    "CONCATENATION": _concatenation,
    "PACK": _pack,
    "UNPACK": _unpack,
    "SPLIT": _split,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "TILE": _tile,
    "GATHER": _gather,
}
