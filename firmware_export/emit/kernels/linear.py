"""Layers with weights: dense layers and convolutions, int8 or int16 activations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import (
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Linear,
    TransposeConv,
    Window,
    accumulator_bound,
)
from firmware_export.emit.packing import Kernel, LayerCode, Rows, pad, padded, words

# The clamp after the last rounding subtracts int8 ranges and zero points from the scaled accumulator.
_LARGEST_SCALED = 2**31 - 1 - 512
_KERNELS = {
    (Dense, "int8"): Kernel.DENSE_S8,
    (Dense, "int16"): Kernel.DENSE_S16,
    (Conv2D, "int8"): Kernel.CONV_S8,
    (Conv2D, "int16"): Kernel.CONV_S16,
    (DepthwiseConv2D, "int8"): Kernel.DEPTHWISE_S8,
    (DepthwiseConv2D, "int16"): Kernel.DEPTHWISE_S16,
    (TransposeConv, "int8"): Kernel.TRANSPOSE_CONV_S8,
    (TransposeConv, "int16"): Kernel.TRANSPOSE_CONV_S16,
}
_S16 = (Kernel.DENSE_S16, Kernel.CONV_S16, Kernel.DEPTHWISE_S16, Kernel.TRANSPOSE_CONV_S16)
_CHANNELS_LAST = (Kernel.DEPTHWISE_S8, Kernel.DEPTHWISE_S16)


@dataclass(frozen=True, eq=False)
class PackedLinear:
    """What the block of a layer with weights holds, weights and bias as the network has them."""

    weights: NDArray[np.int8]  # axis 0: output channels
    bias: NDArray[np.int64]  # [channels]
    multiplier: NDArray[np.int32]  # [channels]
    shift: NDArray[np.int32]  # [channels]
    input_zero_point: int
    output_zero_point: int
    output_min: int
    output_max: int
    is_wide: bool


def dense_code(layer: Dense, network: IntegerNetwork) -> LayerCode:
    """Return the call of FULLY_CONNECTED."""
    num_outputs, num_inputs = layer.weights.shape
    return _code(layer, network, (layer.rows, num_inputs, num_outputs))


def conv_code(layer: Conv2D, network: IntegerNetwork) -> LayerCode:
    """Return the call of CONV_2D."""
    out, *_, depth = layer.weights.shape
    return _code(layer, network, (window_rows(layer.window), depth, out // layer.groups))


def depthwise_code(layer: DepthwiseConv2D, network: IntegerNetwork) -> LayerCode:
    """Return the call of DEPTHWISE_CONV_2D."""
    return _code(layer, network, (window_rows(layer.window), layer.depth_multiplier))


def transpose_conv_code(layer: TransposeConv, network: IntegerNetwork) -> LayerCode:
    """Return the call of TRANSPOSE_CONV."""
    return _code(layer, network, (window_rows(layer.window),))


def window_rows(window: Window) -> Rows:
    """Return an eqrl_window: images, channels, then sizes and steps of the height and of the width."""
    (images, *large, channels), (_, *small, out_channels) = window.input_shape, window.output_shape
    sizes = (large, small, window.kernel, window.stride, window.dilation, window.padding)
    axes = (tuple(size[axis] for size in sizes) for axis in (0, 1))
    return Rows("eqrl_window", ((images, channels, out_channels, *axes),))


def pack_linear(layer: Linear, source: Tensor, target: Tensor) -> bytes:
    """Pack a layer with weights, as `eqrl_dense_s8` and `eqrl_dense_s16` describe it."""
    kernel = _KERNELS[type(layer), source.dtype]
    weights = layer.weights
    if kernel in _CHANNELS_LAST:
        weights = np.moveaxis(weights, 0, -1)
    parts = (
        layer.multiplier.astype("<i4").tobytes(),
        pad(layer.shift.astype(np.int8).tobytes()),
        pad(np.ascontiguousarray(weights, np.int8).tobytes()),
    )
    return (_head_s16(layer) if kernel in _S16 else _head_s8(layer, source, target)) + b"".join(parts)


def unpack_linear(block: bytes, kernel: Kernel, shape: Sequence[int]) -> PackedLinear:
    """Invert `pack_linear`; `shape` is that of the weights."""
    channels, is_s16 = shape[0], kernel in _S16
    place = (8 + 8 * channels) if is_s16 else (4 + 4 * channels)
    multiplier = np.frombuffer(block, "<i4", channels, place)
    shift = np.frombuffer(block, np.int8, channels, place + 4 * channels)
    place += 4 * channels + padded(channels)
    weights = np.frombuffer(block, np.int8, int(np.prod(shape)), place)
    if kernel in _CHANNELS_LAST:
        weights = np.moveaxis(weights.reshape(*shape[1:], channels), -1, 0)
    weights = np.ascontiguousarray(weights.reshape(shape))
    if is_s16:
        ranges = [0, 0, *np.frombuffer(block, "<i2", 2).tolist()]
        is_wide = bool(np.frombuffer(block, "<u4", 1, 4)[0])
        bias = np.frombuffer(block, "<i8", channels, 8).astype(np.int64)
    else:
        ranges, is_wide = np.frombuffer(block, np.int8, 4).tolist(), False
        bias = np.frombuffer(block, "<i4", channels, 4) + _folded(kernel, weights, ranges[0])
    zero_in, zero_out, low, high = ranges
    scales = (multiplier.astype(np.int32), shift.astype(np.int32))
    return PackedLinear(weights, bias, *scales, zero_in, zero_out, low, high, is_wide)


def require_clampable(layer: Linear, source: Tensor) -> None:
    """Prove that the clamp of an int8 layer after the last rounding stays inside int32."""
    left = np.maximum(layer.shift, 0).astype(np.int64)
    right = np.maximum(-layer.shift, 0).astype(np.int64)
    scaled = (accumulator_bound(layer, source.zero_point) << left) >> right
    if np.any(scaled > _LARGEST_SCALED):
        raise UnsupportedOperatorError(
            f"{layer.operator} at '{layer.name}' is not supported: output {int(np.argmax(scaled))} could "
            "overflow 32 bits when it is rescaled. Use fewer inputs or smaller biases."
        )


def _code(layer: Linear, network: IntegerNetwork, arguments: tuple[int | Rows, ...]) -> LayerCode:
    source, target = network.tensors[layer.input], network.tensors[layer.output]
    kernel = _KERNELS[type(layer), source.dtype]
    bound = int(accumulator_bound(layer, source.zero_point, source.range).max())
    bits = 64 if layer.is_wide else 32
    return LayerCode(
        kernel=kernel,
        function=f"eqrl_{kernel.name.lower()}",
        block=pack_linear(layer, source, target),
        arguments=arguments,
        source=f"eqrl_{kernel.name.lower().rpartition('_')[0]}.c",
        reason=f"no |accumulator| above {bound}, so int{bits} is enough",
    )


def _head_s8(layer: Linear, source: Tensor, target: Tensor) -> bytes:
    require_clampable(layer, source)
    kernel = _KERNELS[type(layer), source.dtype]
    folded = layer.bias - _folded(kernel, layer.weights, source.zero_point)
    # |folded| is within accumulator_bound, and so are all partial sums: |zero_point| <= farthest input.
    assert np.all(np.abs(folded) < 2**31)
    ranges = (source.zero_point, target.zero_point, layer.output_min, layer.output_max)
    return np.array(ranges, np.int8).tobytes() + folded.astype("<i4").tobytes()


def _head_s16(layer: Linear) -> bytes:
    # What eqrl_requantize_wide takes; its result fits int32, which the layer has proved.
    assert np.all(np.abs(layer.bias) < (2**47 if layer.is_wide else 2**31))
    ranges = np.array((layer.output_min, layer.output_max), "<i2").tobytes()
    return ranges + words(int(layer.is_wide)) + layer.bias.astype("<i8").tobytes()


def _folded(kernel: Kernel, weights: NDArray[np.int8], zero_point: int) -> NDArray[np.int64]:
    """Return what the input's zero point takes from the bias: nothing is left to add to an input.

    A TRANSPOSE_CONV sums other weights at other places, so its bias stays as it is.
    """
    if kernel is Kernel.TRANSPOSE_CONV_S8:
        return np.zeros(len(weights), np.int64)
    return np.asarray(weights.reshape(len(weights), -1).astype(np.int64).sum(axis=1) * zero_point)
