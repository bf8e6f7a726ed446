"""Layers with weights: dense layers and convolutions, int8 or int16 activations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
from firmware_export.emit.orders import ANY, ORDERS, TILE, groups_of, pack_tiles, tile_reason, variant_of
from firmware_export.emit.packing import Kernel, LayerCode, Rows, pad, padded, words
from firmware_export.emit.weights import UNITS, UNPACKED, pack_weights, unpack_weights, why
from firmware_export.emit.wide import WIDE, pack_wide, wide_behind, wide_scratch_bytes

# The clamp after the last rounding subtracts int8 ranges and zero points from the scaled accumulator.
_LARGEST_SCALED = 2**31 - 1 - 512
_FAMILIES = {Dense: "dense", Conv2D: "conv", DepthwiseConv2D: "depthwise", TransposeConv: "transpose_conv"}
_SUFFIXES = {"int8": "s8", "int16": "s16"}


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
    weight_zero_points: NDArray[np.int32]  # [channels]


def dense_code(layer: Dense, network: IntegerNetwork, bits: int = UNPACKED) -> LayerCode:
    """Return the call of FULLY_CONNECTED, with weights of so many bits in the block."""
    num_outputs, num_inputs = layer.weights.shape
    return _code(layer, network, (layer.rows, num_inputs, num_outputs), bits)


def conv_code(layer: Conv2D, network: IntegerNetwork, bits: int = UNPACKED) -> LayerCode:
    """Return the call of CONV_2D, with weights of so many bits in the block."""
    out, *_, depth = layer.weights.shape
    return _code(layer, network, (window_rows(layer.window), depth, out // layer.groups), bits)


def ordered_dense_code(layer: Dense, network: IntegerNetwork, order: str) -> LayerCode:
    """Return the call of FULLY_CONNECTED with weights in the order of a core."""
    num_outputs, num_inputs = layer.weights.shape
    return _ordered_code(layer, network, order, (layer.rows, num_inputs, num_outputs))


def ordered_conv_code(layer: Conv2D, network: IntegerNetwork, order: str) -> LayerCode:
    """Return the call of CONV_2D with weights in the order of a core."""
    out, *_, depth = layer.weights.shape
    return _ordered_code(layer, network, order, (window_rows(layer.window), depth, out // layer.groups))


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


def pack_linear(layer: Linear, source: Tensor, target: Tensor, bits: int = UNPACKED) -> bytes:
    """Pack a layer with weights, as `eqrl_dense_s8` and `eqrl_dense_s16` describe it."""
    weights = layer.weights
    if isinstance(layer, DepthwiseConv2D):
        weights = np.moveaxis(weights, 0, -1)
    stored = np.ascontiguousarray(weights, np.int8).tobytes()
    if bits != UNPACKED:
        stored = pack_weights(weights, bits, groups_of(layer))
    zero_points = b"" if layer.is_symmetric else pad(_zero_points(layer).astype(np.int8).tobytes())
    parts = (
        layer.multiplier.astype("<i4").tobytes(),
        pad(layer.shift.astype(np.int8).tobytes()),
        zero_points,
        pad(stored),
    )
    head = _head_s16(layer) if source.dtype == "int16" else _head_s8(layer, source, target)
    return head + b"".join(parts)


def unpack_linear(
    block: bytes, kernel: Kernel, shape: Sequence[int], *, groups: int = 1, has_zero_points: bool = False
) -> PackedLinear:
    """Invert `pack_linear`; `shape` is that of the weights."""
    channels, is_s16, family = shape[0], kernel.name.endswith("_S16"), kernel.name.rpartition("_")[0]
    place = (8 + 8 * channels) if is_s16 else (4 + 4 * channels)
    multiplier = np.frombuffer(block, "<i4", channels, place)
    shift = np.frombuffer(block, np.int8, channels, place + 4 * channels)
    place += 4 * channels + padded(channels)
    zero_points = np.zeros(channels, np.int32)
    if has_zero_points:
        zero_points = np.frombuffer(block, np.int8, channels, place).astype(np.int32)
        place += padded(channels)
    bits = packed_bits(kernel)
    if bits != UNPACKED:
        weights = unpack_weights(block[place:], shape, bits, groups)
    elif family.startswith("DEPTHWISE"):
        stored = np.frombuffer(block, np.int8, int(np.prod(shape)), place)
        weights = np.ascontiguousarray(np.moveaxis(stored.reshape(*shape[1:], channels), -1, 0))
    else:
        weights = np.frombuffer(block, np.int8, int(np.prod(shape)), place).reshape(shape)
    if is_s16:
        ranges = [0, 0, *np.frombuffer(block, "<i2", 2).tolist()]
        is_wide = bool(np.frombuffer(block, "<u4", 1, 4)[0])
        bias = np.frombuffer(block, "<i8", channels, 8).astype(np.int64)
    else:
        ranges, is_wide = np.frombuffer(block, np.int8, 4).tolist(), False
        bias = np.frombuffer(block, "<i4", channels, 4).astype(np.int64)
        if not family.startswith("TRANSPOSE"):
            bias = bias + _folded(weights, zero_points, ranges[0])
    zero_in, zero_out, low, high = ranges
    scales = (multiplier.astype(np.int32), shift.astype(np.int32))
    return PackedLinear(weights, bias, *scales, zero_in, zero_out, low, high, is_wide, zero_points)


def packed_bits(kernel: Kernel) -> int:
    """Return the bits of the weights in a kernel's block; 8 where they are not packed, or none are there."""
    return next((bits for bits in UNITS if f"_P{bits}_" in kernel.name), UNPACKED)


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


def _code(
    layer: Linear, network: IntegerNetwork, arguments: tuple[int | Rows, ...], bits: int = UNPACKED
) -> LayerCode:
    source, target = network.tensors[layer.input], network.tensors[layer.output]
    bound = int(accumulator_bound(layer, source.zero_point, source.range).max())
    reasons = [
        why(layer, bits),
        "" if layer.is_symmetric else "weights have zero points",
        f"no |accumulator| above {bound}, so int{64 if layer.is_wide else 32} is enough",
    ]
    family, suffix = _FAMILIES[type(layer)], _SUFFIXES[source.dtype]
    variant, file = "", family
    if bits != UNPACKED:
        variant, file = f"p{bits}_", f"{family}_packed"
        arguments = (*arguments, int(not layer.is_symmetric))
    elif not layer.is_symmetric:
        variant = "asymmetric_"
    name = f"{family}_{variant}{suffix}"
    return LayerCode(
        kernel=Kernel[name.upper()],
        function=f"eqrl_{name}",
        block=pack_linear(layer, source, target, bits),
        arguments=arguments,
        source=f"eqrl_{file}.c",
        reason="; ".join(reason for reason in reasons if reason),
    )


def _ordered_code(
    layer: Linear, network: IntegerNetwork, order: str, arguments: tuple[int | Rows, ...]
) -> LayerCode:
    if order == WIDE:
        return _wide_code(layer, network, arguments)
    source, target = network.tensors[layer.input], network.tensors[layer.output]
    require_clampable(layer, source)
    order, variant = order.removesuffix(ANY), variant_of(layer, source, order)
    name = f"{_FAMILIES[type(layer)]}_{order}{variant}_s8"
    folded = layer.bias - _folded(layer.weights, _zero_points(layer), source.zero_point)
    bound = int(accumulator_bound(layer, source.zero_point, source.range).max())
    reasons = (why(layer, ORDERS[order].bits, order), tile_reason(layer, source, order))
    return LayerCode(
        kernel=Kernel[name.upper()],
        function=f"eqrl_{name}",
        block=pack_tiles(layer, source, target, folded, order + variant),
        arguments=arguments,
        source=ORDERS[order].source,
        reason="; ".join(filter(None, (*reasons, f"no |accumulator| above {bound}, so int32 is enough"))),
        scratch_bytes=ORDERS[order].scratch_bytes(
            int(layer.weights[0].size), is_window=isinstance(layer, Conv2D)
        ),
        behind_output=-(len(layer.weights) // groups_of(layer)) % TILE,
    )


def _wide_code(layer: Linear, network: IntegerNetwork, arguments: tuple[int | Rows, ...]) -> LayerCode:
    source, target = network.tensors[layer.input], network.tensors[layer.output]
    require_clampable(layer, source)
    folded = layer.bias - _folded(layer.weights, _zero_points(layer), source.zero_point)
    bound = int(accumulator_bound(layer, source.zero_point, source.range).max())
    name, groups = f"{_FAMILIES[type(layer)]}_wide_s8", groups_of(layer)
    reasons = (why(layer, UNPACKED), f"no |accumulator| above {bound}, so int32 is enough")
    return LayerCode(
        kernel=Kernel[name.upper()],
        function=f"eqrl_{name}",
        block=pack_wide(layer, source, target, folded, groups),
        arguments=arguments,
        source="eqrl_wide.c",
        reason="; ".join(filter(None, reasons)),
        scratch_bytes=wide_scratch_bytes(layer, groups),
        behind_output=wide_behind(layer, groups),
    )


def _head_s8(layer: Linear, source: Tensor, target: Tensor) -> bytes:
    require_clampable(layer, source)
    folded = layer.bias
    if not isinstance(layer, TransposeConv):  # which sums other weights at other places
        folded = layer.bias - _folded(layer.weights, _zero_points(layer), source.zero_point)
    # |folded| is within accumulator_bound, and so are all partial sums: |zero_point| <= farthest input.
    assert np.all(np.abs(folded) < 2**31)
    if not layer.is_symmetric:
        _require_partial_sums(layer, folded)
    ranges = (source.zero_point, target.zero_point, layer.output_min, layer.output_max)
    return np.array(ranges, np.int8).tobytes() + folded.astype("<i4").tobytes()


def _require_partial_sums(layer: Linear, folded: NDArray[np.int64]) -> None:
    """Prove that sums stay inside int32 before products and what zero points take cancel each other."""
    weights = layer.weights.reshape(len(layer.weights), -1).astype(np.int64)
    zero_points = weights.shape[1] * np.abs(_zero_points(layer))
    largest = np.abs(folded) + 255 * (np.abs(weights).sum(axis=1) + zero_points)
    if np.any(largest >= 2**31):
        raise UnsupportedOperatorError(
            f"{layer.operator} at '{layer.name}' is not supported: as its weights have zero points, the "
            f"sum of output {int(np.argmax(largest))} could overflow 32 bits. Use fewer inputs or "
            "symmetric weights."
        )


def _head_s16(layer: Linear) -> bytes:
    # What eqrl_requantize_wide takes; its result fits int32, which the layer has proved.
    assert np.all(np.abs(layer.bias) < (2**47 if layer.is_wide else 2**31))
    ranges = np.array((layer.output_min, layer.output_max), "<i2").tobytes()
    return ranges + words(int(layer.is_wide)) + layer.bias.astype("<i8").tobytes()


def _zero_points(layer: Linear) -> NDArray[np.int64]:
    return np.broadcast_to(layer.weight_zero_points.astype(np.int64), len(layer.weights))


def _folded(weights: NDArray[np.int8], zero_points: NDArray[Any], zero_point: int) -> NDArray[np.int64]:
    """Return what the input's zero point takes from the bias: nothing is left to add to an input."""
    rows = weights.reshape(len(weights), -1).astype(np.int64)
    return np.asarray((rows.sum(axis=1) - rows.shape[1] * zero_points.astype(np.int64)) * zero_point)
