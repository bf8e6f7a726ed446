"""Layers without weights in TensorFlow: what each computes in real numbers, before its output is rounded.

Activations are [N, size], flat; the order of their elements is that of the integer network.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from edgeqrl.agents.tensorflow_runtime import import_tensorflow
from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.ir import Layer, Tensor
from edgeqrl.network.layers import LogSoftmax, Move, Pair, Piece, Pool, Reduce, Reshape, Softmax, Softmax16
from edgeqrl.network.layers.unary import Unary
from edgeqrl.network.layers.window import Window
from edgeqrl.network.tflite_model import OperatorInfo, shown

Function = Callable[[Sequence[Any]], Any]  # real inputs [N, size] -> real output [N, size]


def function_of(layer: Layer, operator: OperatorInfo, tensors: Mapping[str, Tensor]) -> Function:
    """Return the real function of a layer without weights, its fused activation included.

    Raises UnsupportedOperatorError for what has no gradient to learn by.
    """
    fused = operator.fused_activation
    made: Function | None = None
    if isinstance(layer, Reshape):
        made = _first
    elif isinstance(layer, Move):
        made = _moved(layer, tensors)
    elif isinstance(layer, Pair):
        made = _pair(layer)
    elif isinstance(layer, Pool):
        made = _pool(layer)
    elif isinstance(layer, Reduce):
        made = _reduce(layer)
    elif isinstance(layer, Softmax | Softmax16 | LogSoftmax):
        made = _rows(layer, operator)
    elif isinstance(layer, Unary) or layer.operator == "RSQRT":
        made = _unary(layer.operator, operator)
    if made is None:
        raise UnsupportedOperatorError(
            f"{layer.operator} at '{shown(layer.name)}' cannot be learned through: it is no smooth function. "
            "Quantize with learned=false, or leave it to the head."
        )
    return activated(made, fused)


def activated(function: Function, fused: str) -> Function:
    """Return the function followed by a fused activation."""
    bounds = {"RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}.get(fused)
    if bounds is None:
        return function
    low, high = bounds

    def clamped(inputs: Sequence[Any]) -> Any:
        tf = import_tensorflow()
        return tf.clip_by_value(function(inputs), low, high)

    return clamped


def padded_images(window: Window, values: Any, *, fill: float = 0.0) -> Any:
    """Return values [N, size] as images [N, h, w, c] with their padding, cut where the windows end."""
    tf = import_tensorflow()
    (top, left), (bottom, right), reach = window.padding, window.end_padding, window.reach
    images = tf.reshape(values, (-1, *window.input_shape[1:]))
    images = tf.pad(images, [[0, 0], [top, bottom], [left, right], [0, 0]], constant_values=fill)
    return images[:, : reach[0], : reach[1]]


def _first(inputs: Sequence[Any]) -> Any:
    return inputs[0]


def _moved(layer: Move, tensors: Mapping[str, Tensor]) -> Function:
    """Return a gather from all inputs side by side, and what fills the rest behind them."""
    sizes = [tensors[name].size for name in layer.inputs]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    target = tensors[layer.output]
    index = np.full(target.size, starts[-1], np.int64)
    for piece in layer.pieces:
        index[_places(piece, of_output=True)] = starts[piece.input] + _places(piece, of_output=False)
    filled = 0.0 if layer.fill is None else target.scale * (layer.fill - target.zero_point)
    first, is_run = int(index[0]), bool(np.all(np.diff(index) == 1))
    has_fill = bool(np.any(index == starts[-1]))

    def run(inputs: Sequence[Any]) -> Any:
        tf = import_tensorflow()
        whole = inputs[0] if len(inputs) == 1 else tf.concat(inputs, axis=1)
        if is_run and not has_fill:
            return whole[:, first : first + target.size]
        if has_fill:
            whole = tf.concat([whole, tf.fill([tf.shape(whole)[0], 1], np.float32(filled))], axis=1)
        return tf.gather(whole, index, axis=1)

    return run


def _places(piece: Piece, *, of_output: bool) -> Any:
    offset = piece.output_offset if of_output else piece.input_offset
    strides = piece.output_strides if of_output else piece.input_strides
    return offset + _strided(piece.shape, strides)


def _strided(shape: Sequence[int], strides: Sequence[int]) -> Any:
    index = np.zeros((), np.int64)
    for size, stride in zip(shape, strides, strict=True):
        index = index[..., None] + np.arange(size) * stride
    return index.reshape(-1)


def _pair(layer: Pair) -> Function | None:
    tf = import_tensorflow()
    functions: dict[str, Callable[[Any, Any], Any]] = {
        "ADD": tf.add,
        "SUB": tf.subtract,
        "MUL": tf.multiply,
        "MAXIMUM": tf.maximum,
        "MINIMUM": tf.minimum,
        "SQUARED_DIFFERENCE": tf.math.squared_difference,
        "PRELU": lambda x, alpha: tf.where(x >= 0.0, x, x * alpha),
    }
    function = functions[layer.function]
    indices = [_strided(layer.shape, strides) for strides in (layer.strides_a, layer.strides_b)]
    size = prod(layer.shape)
    is_whole = [np.array_equal(index, np.arange(size)) for index in indices]

    def run(inputs: Sequence[Any]) -> Any:
        operands = []
        for values, index, as_is in zip(inputs, indices, is_whole, strict=True):
            is_ready = values.shape[1] == 1 or (as_is and values.shape[1] == size)
            operands.append(values if is_ready else tf.gather(values, index, axis=1))
        return function(*operands)

    return run


def _pool(layer: Pool) -> Function:
    window = layer.window
    is_max = layer.function == "MAX_POOL_2D"

    def run(inputs: Sequence[Any]) -> Any:
        tf = import_tensorflow()
        images = padded_images(window, inputs[0], fill=-1e30 if is_max else 0.0)
        pool = tf.nn.max_pool2d if is_max else tf.nn.avg_pool2d
        pooled = pool(images, window.kernel, window.stride, "VALID")
        if not is_max:  # padding is left out of the mean
            share = window.kernel[0] * window.kernel[1] / window.counts()
            pooled *= share[None, :, :, None].astype(np.float32)
        return tf.reshape(pooled, (-1, prod(window.output_shape[1:])))

    return run


def _reduce(layer: Reduce) -> Function:
    axes = [axis + 1 for axis in layer.axes]

    def run(inputs: Sequence[Any]) -> Any:
        tf = import_tensorflow()
        reduce = {
            "MEAN": tf.reduce_mean,
            "SUM": tf.reduce_sum,
            "REDUCE_MAX": tf.reduce_max,
            "REDUCE_MIN": tf.reduce_min,
        }[layer.function]
        full = tf.reshape(inputs[0], (-1, *layer.shape))
        return tf.reshape(reduce(full, axes), (-1, prod(layer.shape) // layer.count))

    return run


def _rows(layer: Any, operator: OperatorInfo) -> Function:
    beta = _real(operator, "beta", 1.0) if layer.operator == "SOFTMAX" else 1.0

    def run(inputs: Sequence[Any]) -> Any:
        tf = import_tensorflow()
        rows = tf.reshape(inputs[0], (-1, layer.rows, layer.depth)) * np.float32(beta)
        function = tf.nn.softmax if layer.operator == "SOFTMAX" else tf.nn.log_softmax
        return tf.reshape(function(rows), (-1, layer.rows * layer.depth))

    return run


def _real(operator: OperatorInfo, option: str, default: float) -> float:
    value = operator.options.get(option, default)
    return float(value) if isinstance(value, float | int) else default


def _unary(name: str, operator: OperatorInfo) -> Function | None:
    names = str(operator.options.get("functions", "")).split() if operator.name == "DEQUANTIZE" else [name]
    steps = [_step(word, operator) for word in names]
    if any(step is None for step in steps):
        return None

    def run(inputs: Sequence[Any]) -> Any:
        values = inputs[0]
        for step in steps:
            assert step is not None
            values = step(values)
        return values

    return run


def _step(word: str, operator: OperatorInfo) -> Callable[[Any], Any] | None:
    tf = import_tensorflow()
    name, _, given = word.partition(":")
    slope = float(given) if given else _real(operator, "alpha", 0.0)
    known: dict[str, Callable[[Any], Any]] = {
        "ABS": tf.abs,
        "COS": tf.cos,
        "ELU": tf.nn.elu,
        "EXP": tf.exp,
        "GELU": lambda x: tf.nn.gelu(x, approximate=bool(operator.options.get("approximate", False))),
        "HARD_SWISH": lambda x: x * tf.clip_by_value(x + 3.0, 0.0, 6.0) / 6.0,
        "LEAKY_RELU": lambda x: tf.where(x >= 0.0, x, x * slope),
        "LOGISTIC": tf.sigmoid,
        "NEG": tf.negative,
        "QUANTIZE": lambda x: x,
        "RELU": tf.nn.relu,
        "RELU6": tf.nn.relu6,
        "RELU_0_TO_1": lambda x: tf.clip_by_value(x, 0.0, 1.0),
        "RELU_N1_TO_1": lambda x: tf.clip_by_value(x, -1.0, 1.0),
        "RSQRT": lambda x: tf.math.rsqrt(tf.maximum(x, 1e-6)),
        "SIN": tf.sin,
        "SQRT": lambda x: tf.sqrt(tf.maximum(x, 1e-6)),
        "SQUARE": tf.square,
        "TANH": tf.tanh,
    }
    return known.get(name)
