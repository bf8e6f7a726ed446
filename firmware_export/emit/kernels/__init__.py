"""How each kind of layer becomes a call of a kernel and a block of params: one module a family."""

from collections.abc import Callable
from typing import Any

from edgeqrl.network.ir import IntegerNetwork, Layer
from edgeqrl.network.layers import (
    ArgExtreme,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Interpolation,
    InverseRoot,
    LogSoftmax,
    Lookup,
    Move,
    Pair,
    Pool,
    Reduce,
    Rescale,
    Sigmoid,
    Softmax,
    Softmax16,
    TransposeConv,
)
from firmware_export.emit.kernels import linear, lookup, movement, pairs, pooling, softmax
from firmware_export.emit.orders import ROWS
from firmware_export.emit.packing import LayerCode
from firmware_export.emit.weights import UNPACKED

LAYER_CODES: dict[type, Callable[[Any, IntegerNetwork], LayerCode]] = {
    Dense: linear.dense_code,
    Conv2D: linear.conv_code,
    DepthwiseConv2D: linear.depthwise_code,
    TransposeConv: linear.transpose_conv_code,
    Pool: pooling.pool_code,
    Reduce: pooling.reduce_code,
    Lookup: lookup.lookup_code,
    Interpolation: lookup.interpolation_code,
    Rescale: lookup.rescale_code,
    Sigmoid: lookup.sigmoid_code,
    InverseRoot: lookup.rsqrt_code,
    Pair: pairs.pair_code,
    Softmax: softmax.softmax_code,
    Softmax16: softmax.softmax_s16_code,
    LogSoftmax: softmax.log_softmax_code,
    ArgExtreme: softmax.arg_extreme_code,
    Move: movement.move_code,
}

ORDERED_CODES: dict[type, Callable[[Any, IntegerNetwork, str], LayerCode]] = {
    Dense: linear.ordered_dense_code,
    Conv2D: linear.ordered_conv_code,
}
PACKED_CODES: dict[type, Callable[[Any, IntegerNetwork, int], LayerCode]] = {
    Dense: linear.dense_code,
    Conv2D: linear.conv_code,
}


def layer_code(layer: Layer, network: IntegerNetwork, bits: int = UNPACKED, order: str = ROWS) -> LayerCode:
    """Return the call and the block of a layer that computes something; a Reshape does not.

    bits   of weights in the block, for the layers that `weights.choose_bits` chooses them for
    order  of weights in the block, as `orders.order_for` proves it for these bits
    """
    if order != ROWS:
        return ORDERED_CODES[type(layer)](layer, network, order)
    if bits != UNPACKED:
        return PACKED_CODES[type(layer)](layer, network, bits)
    return LAYER_CODES[type(layer)](layer, network)
