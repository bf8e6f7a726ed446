"""Layers with weights in TensorFlow: sums of products in real numbers, in forms that gradients pass through.

TensorFlow has no gradients of dilated and of grouped convolutions on a CPU, nor of depthwise ones whose
strides differ. So a dilated kernel is spread with zeros, groups go one by one, and a depthwise convolution
is a sum over its kernel's places.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from edgeqrl.agents.tensorflow_runtime import import_tensorflow
from edgeqrl.network.layers import Conv2D, Dense, DepthwiseConv2D, Linear, TransposeConv
from edgeqrl.network.layers.window import Window
from edgeqrl.quantize.learned.functions import padded_images

Sums = Callable[[Any, Any, Any], Any]  # input [N, size], weights [channels, terms], bias -> output [N, size]


def sums_of(layer: Linear) -> Sums:
    """Return what a layer sums."""
    if isinstance(layer, Dense):
        return _dense(layer)
    if isinstance(layer, Conv2D):
        return _windowed(layer.window, _convolution(layer))
    if isinstance(layer, DepthwiseConv2D):
        return _windowed(layer.window, _depthwise(layer))
    assert isinstance(layer, TransposeConv)
    return _windowed(layer.window, _transposed(layer))


def _dense(layer: Dense) -> Sums:
    columns = layer.weights.shape[1]

    def run(values: Any, weights: Any, bias: Any) -> Any:
        tf = import_tensorflow()
        rows = tf.reshape(values, (-1, columns)) if layer.rows > 1 else values
        sums = tf.matmul(rows, weights, transpose_b=True) + bias
        return tf.reshape(sums, (-1, layer.rows * weights.shape[0])) if layer.rows > 1 else sums

    return run


def _windowed(window: Window, convolve: Callable[[Any, Any], Any]) -> Sums:
    """Add the bias of each channel to images [N, h, w, channels], and flatten them."""

    def run(values: Any, weights: Any, bias: Any) -> Any:
        return import_tensorflow().reshape(
            convolve(values, weights) + bias, (-1, prod(window.output_shape[1:]))
        )

    return run


def _convolution(layer: Conv2D) -> Callable[[Any, Any], Any]:
    window, depth, groups = layer.window, layer.weights.shape[3], layer.groups

    def run(values: Any, weights: Any) -> Any:
        tf = import_tensorflow()
        kernel = tf.transpose(tf.reshape(weights, (-1, *window.kernel, depth)), (1, 2, 3, 0))
        kernels = tf.split(_spread(kernel, window), groups, axis=3)
        images = tf.split(padded_images(window, values), groups, axis=3)
        parts = [
            tf.nn.conv2d(image, own, window.stride, "VALID")
            for image, own in zip(images, kernels, strict=True)
        ]
        return tf.concat(parts, axis=3)

    return run


def _spread(kernel: Any, window: Window) -> Any:
    """Return a kernel [h, w, in, out] with zeros where its dilation leaves elements out, exactly."""
    if window.dilation == (1, 1):
        return kernel
    rows, columns = (
        np.eye((count - 1) * gap + 1, dtype=np.float32)[::gap]
        for count, gap in zip(window.kernel, window.dilation, strict=True)
    )
    return import_tensorflow().einsum("hwio,hy,wx->yxio", kernel, rows, columns)


def _depthwise(layer: DepthwiseConv2D) -> Callable[[Any, Any], Any]:
    window = layer.window
    _, height, width, channels = window.output_shape
    (step_y, step_x), (gap_y, gap_x) = window.stride, window.dilation
    span_y, span_x = (height - 1) * step_y + 1, (width - 1) * step_x + 1
    shape = (window.input_shape[3], layer.depth_multiplier, *window.kernel)

    def run(values: Any, weights: Any) -> Any:
        tf = import_tensorflow()
        images, kernel = padded_images(window, values), tf.reshape(weights, shape)
        sums: Any = 0.0
        for y in range(window.kernel[0]):
            for x in range(window.kernel[1]):
                rows = images[:, y * gap_y : y * gap_y + span_y : step_y]
                part = rows[:, :, x * gap_x : x * gap_x + span_x : step_x]
                sums = sums + part[..., None] * kernel[:, :, y, x]
        return tf.reshape(sums, (-1, height, width, channels))

    return run


def _transposed(layer: TransposeConv) -> Callable[[Any, Any], Any]:
    """Scatter, then cut off what falls outside the output, or fill up what nothing reaches."""
    window, (channels, *_, depth) = layer.window, layer.weights.shape
    sizes = [
        (window.input_shape[1 + axis] - 1) * window.stride[axis] + window.kernel[axis] for axis in (0, 1)
    ]
    (top, left), (_, height, width, _) = window.padding, window.output_shape
    missing = [max(top + height - sizes[0], 0), max(left + width - sizes[1], 0)]

    def run(values: Any, weights: Any) -> Any:
        tf = import_tensorflow()
        images = tf.reshape(values, (-1, *window.input_shape[1:]))
        kernel = tf.transpose(tf.reshape(weights, (channels, *window.kernel, depth)), (1, 2, 0, 3))
        whole = (tf.shape(images)[0], *sizes, channels)
        sums = tf.nn.conv2d_transpose(images, kernel, whole, window.stride, "VALID")
        sums = tf.pad(sums, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])
        return sums[:, top : top + height, left : left + width]

    return run
