"""Operators with weights, and pooling: sums of products over rows or windows, in float32."""

from typing import Any

import numpy as np

from edgeqrl.network.float_operators.operand import (
    Floats,
    Make,
    Operands,
    Operator,
    Step,
    float_constant,
    operand,
)
from edgeqrl.network.layers.window import Window, place_window, shape4
from edgeqrl.network.tflite_model import TensorInfo

_WIDEST = 64  # of a window, where 4 times its input is less


def _dense(op: Operator) -> Step:
    weights = op.operand(1)
    if weights is None or len(weights.shape) != 2 or op.info.options["weights_format"] != "DEFAULT":
        raise ValueError("its weights have an unknown form")
    (out, columns), shape = weights.shape, op.target.shape
    if op.source.size * out != op.target.size * columns or 0 in weights.shape:
        raise ValueError("its sizes do not fit")
    _require_constant_bias(op, 2)

    def step(operands: Operands) -> list[Floats]:
        values, matrix = operand(operands, 0), operand(operands, 1)
        if len(matrix) == 1:  # one product for all samples
            sums = values.reshape(-1, columns) @ matrix[0].T
        else:
            sums = values.reshape(len(values), -1, columns) @ matrix.swapaxes(1, 2)
        return [_with_bias(sums, operands, 2).reshape(-1, *shape)]

    return step


def _batch_matmul(op: Operator) -> Step:
    is_turned = [bool(op.info.options[name]) for name in ("adj_x", "adj_y")]
    ranks = [len(tensor.shape) for tensor in op.inputs if tensor is not None]
    if len(ranks) != 2 or min(ranks) < 2:
        raise ValueError("its operands have an unknown form")

    turned = [
        t.shape[::-1][:2] if adj else t.shape[-2:] for t, adj in zip(op.inputs, is_turned, strict=True) if t
    ]
    lead = np.broadcast_shapes(*(tensor.shape[:-2] for tensor in op.inputs if tensor))
    if (*lead, turned[0][0], turned[1][1]) != op.target.shape or turned[0][1] != turned[1][0]:
        raise ValueError("its sizes do not fit")

    def step(operands: Operands) -> list[Floats]:
        factors = []
        for i in (0, 1):
            values = operand(operands, i)
            values = values.swapaxes(-1, -2) if is_turned[i] else values
            missing = max(ranks) - ranks[i]
            factors.append(values.reshape(len(values), *(1,) * missing, *values.shape[1:]))
        return [factors[0] @ factors[1]]

    return step


def _convolution(op: Operator) -> Step:
    weights = _kernel(op)
    window, shape = _window(op, op.source, op.target, weights.shape[1:3]), op.target.shape
    groups = op.source.shape[3] // weights.shape[3]
    if groups * weights.shape[3] != op.source.shape[3] or weights.shape[0] % groups:
        raise ValueError("its channels do not fit")
    _require_constant_bias(op, 2)

    def step(operands: Operands) -> list[Floats]:
        values, kernels = _images(operand(operands, 0)), np.split(operand(operands, 1)[0], groups)
        parts = np.split(values, groups, axis=3)
        sums = []
        for part, kernel in zip(parts, kernels, strict=True):
            patches = window.patches(part, 0.0)
            rows = patches.reshape(-1, kernel[0].size)
            sums.append(rows @ kernel.reshape(len(kernel), -1).T)
        return [_with_bias(np.concatenate(sums, axis=1), operands, 2).reshape(-1, *shape)]

    return step


def _depthwise(op: Operator) -> Step:
    weights = _kernel(op)
    window, shape = _window(op, op.source, op.target, weights.shape[1:3]), op.target.shape
    channels = op.source.shape[3]
    if weights.shape[0] != 1 or weights.shape[3] % channels:
        raise ValueError("its channels do not fit")
    _require_constant_bias(op, 2)

    def step(operands: Operands) -> list[Floats]:
        patches = window.patches(_images(operand(operands, 0)), 0.0)
        kernel = operand(operands, 1)[0, 0]
        kernel = kernel.reshape(*kernel.shape[:2], channels, -1)  # [h, w, c, multiplier]
        sums = np.zeros((*patches.shape[:3], *kernel.shape[2:]), np.float32)
        for y, x in np.ndindex(*window.kernel):
            sums += patches[:, :, :, y, x, :, None] * kernel[y, x]
        return [_with_bias(sums.reshape(-1, shape[3]), operands, 2).reshape(-1, *shape)]

    return step


def _transposed(op: Operator) -> Step:
    weights, source = _kernel(op), op.operand(2)
    if source is None:
        raise ValueError("it has no input")
    window, shape = _window(op, op.target, source, weights.shape[1:3]), op.target.shape
    (top, left), (step_y, step_x), (height, width) = window.padding, window.stride, window.kernel
    _require_constant_bias(op, 3)

    def step(operands: Operands) -> list[Floats]:
        values, kernel = _images(operand(operands, 2)), operand(operands, 1)[0]
        n, h, w, depth = values.shape
        products = values.reshape(-1, depth) @ kernel.reshape(-1, depth).T
        products = products.reshape(n, h, w, *kernel.shape[:3])
        spread = [
            max((h - 1) * step_y + height, top + shape[1]),
            max((w - 1) * step_x + width, left + shape[2]),
        ]
        full = np.zeros((n, *spread, len(kernel)), np.float32)
        for y, x in np.ndindex(height, width):
            place = full[:, y : y + (h - 1) * step_y + 1 : step_y, x : x + (w - 1) * step_x + 1 : step_x]
            place += products[..., y, x]
        sums = full[:, top : top + shape[1], left : left + shape[2]]
        return [_with_bias(sums.reshape(-1, shape[3]), operands, 3).reshape(-1, *shape)]

    return step


def _pool(op: Operator) -> Step:
    kernel = (op.info.number("filter_height"), op.info.number("filter_width"))
    window, shape = _window(op, op.source, op.target, kernel), op.target.shape
    is_max = op.info.name == "MAX_POOL_2D"
    counts = window.counts().astype(np.float32)[:, :, None]

    def step(operands: Operands) -> list[Floats]:
        patches = window.patches(_images(operand(operands, 0)), -np.inf if is_max else 0.0)
        result: Any = patches.max(axis=(3, 4)) if is_max else patches.sum(axis=(3, 4)) / counts
        return [result.reshape(-1, *shape)]

    return step


def _kernel(op: Operator) -> TensorInfo:
    weights = op.operand(1)
    if weights is None or not weights.is_constant or len(weights.shape) != 4:
        raise ValueError("its weights have an unknown form")
    return weights


def _images(values: Floats) -> Floats:
    """Return [B, n, h, w, c] as [B * n, h, w, c]."""
    return values.reshape(-1, *values.shape[2:])


def _require_constant_bias(op: Operator, index: int) -> None:
    """Raise ValueError where a bias is no float32 constant: `_with_bias` has one for all samples."""
    if op.operand(index) is not None:
        float_constant(op, index)


def _with_bias(sums: Floats, operands: Operands, index: int) -> Floats:
    bias = operands[index] if index < len(operands) else None
    return sums if bias is None else sums + bias.reshape(-1)


def _window(op: Operator, large: TensorInfo, small: TensorInfo, kernel: tuple[int, ...]) -> Window:
    """Return the window that takes `large` [n, h, w, c] to `small`; ValueError where there is none."""
    if len(large.shape) != 4 or len(small.shape) != 4 or large.shape[0] != small.shape[0]:
        raise ValueError("its sizes have an unknown form")
    options, padding = op.info.options, str(op.info.options["padding"])
    stride = (op.info.number("stride_h"), op.info.number("stride_w"))
    dilation = (1, 1)
    if "dilation_h_factor" in options:
        dilation = (op.info.number("dilation_h_factor"), op.info.number("dilation_w_factor"))
    sizes = (kernel[0], kernel[1])
    if min(*sizes, *stride, *dilation) < 1:
        raise ValueError("its strides or sizes are not positive")
    if any((sizes[i] - 1) * dilation[i] >= max(_WIDEST, 4 * large.shape[1 + i]) for i in (0, 1)):
        raise ValueError("almost all of its window lies outside of the input")
    places = [place_window(padding, large.shape[1 + i], sizes[i], stride[i], dilation[i]) for i in (0, 1)]
    if padding not in ("SAME", "VALID") or (places[0][0], places[1][0]) != small.shape[1:3]:
        raise ValueError("its sizes do not follow from its padding")
    shapes = shape4(large.shape), shape4(small.shape)
    return Window(*shapes, sizes, stride, dilation, (places[0][1], places[1][1]))


MAKE: dict[str, Make] = {
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), _pool),
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "TRANSPOSE_CONV": _transposed,
}
