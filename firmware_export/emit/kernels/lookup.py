"""Elementwise functions of one activation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.functions import Factor
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers.lookup import Interpolation, InverseRoot, Lookup, Rescale, Sigmoid
from firmware_export.emit.packing import Kernel, LayerCode, pad, unpack_words, words

NUM_KNOTS = 513
# What the clamps after a rescaling may subtract: zero points and bounds of int16.
_LARGEST_SCALED = 2**31 - 1 - 2**17


@dataclass(frozen=True)
class PackedRescale:
    """What a RESCALE block holds."""

    input_zero_point: int
    positive: Factor
    negative: Factor
    output_min: int
    output_max: int
    output_zero_point: int


def lookup_code(layer: Lookup, network: IntegerNetwork) -> LayerCode:
    """Return the call of any elementwise int8 function."""
    return _elementwise(Kernel.LOOKUP_S8, "eqrl_lookup_s8", layer.table.tobytes(), layer, network)


def interpolation_code(layer: Interpolation, network: IntegerNetwork) -> LayerCode:
    """Return the call of any elementwise int16 function."""
    block = pack_int16(layer.knots)
    return _elementwise(Kernel.INTERPOLATE_S16, "eqrl_interpolate_s16", block, layer, network)


def sigmoid_code(layer: Sigmoid, network: IntegerNetwork) -> LayerCode:
    """Return the call of TANH and LOGISTIC in int16."""
    block = pack_sigmoid(layer)
    is_tanh = int(layer.function == "TANH")
    return _elementwise(Kernel.SIGMOID_S16, "eqrl_sigmoid_s16", block, layer, network, is_tanh)


def rsqrt_code(layer: InverseRoot, network: IntegerNetwork) -> LayerCode:
    """Return the call of RSQRT in int16."""
    block = pack_rsqrt(layer.factor)
    return _elementwise(Kernel.RSQRT_S16, "eqrl_rsqrt_s16", block, layer, network)


def rescale_code(layer: Rescale, network: IntegerNetwork) -> LayerCode:
    """Return the call of straight lines."""
    source, target = network.tensors[layer.input], network.tensors[layer.output]
    sizes = (np.dtype(t.dtype).itemsize for t in (source, target))
    return LayerCode(
        kernel=Kernel.RESCALE,
        function="eqrl_rescale",
        block=pack_rescale(layer, source, target),
        arguments=(*sizes, target.size),
        source="eqrl_rescale.c",
    )


def unpack_lookup(block: bytes) -> NDArray[np.int8]:
    """Return the table of a block."""
    return np.frombuffer(block, np.int8, 256).copy()


def pack_int16(values: NDArray[Any]) -> bytes:
    """Pack int16 or uint16 numbers."""
    return pad(values.astype(values.dtype.newbyteorder("<")).tobytes())


def unpack_knots(block: bytes) -> NDArray[np.int16]:
    """Invert `pack_int16` of knots."""
    return np.frombuffer(block, "<i2", NUM_KNOTS).astype(np.int16)


def pack_sigmoid(layer: Sigmoid) -> bytes:
    """Pack TANH or LOGISTIC in int16."""
    return words(layer.multiplier, layer.shift) + pack_int16(layer.table)


def unpack_sigmoid(block: bytes) -> tuple[int, int, NDArray[np.uint16]]:
    """Return multiplier, shift and table."""
    multiplier, shift = unpack_words(block[:8])
    return multiplier, shift, np.frombuffer(block, "<u2", 256, 8).astype(np.uint16)


def pack_rsqrt(factor: Factor) -> bytes:
    """Pack RSQRT in int16; its fixed recipe has 20 fraction bits between."""
    return words(factor.multiplier, factor.shift - 20)


def unpack_rsqrt(block: bytes) -> Factor:
    """Invert `pack_rsqrt`."""
    multiplier, shift = unpack_words(block)
    return Factor(multiplier, shift + 20)


def pack_rescale(layer: Rescale, source: Tensor, target: Tensor) -> bytes:
    """Pack straight lines; the kernel multiplies by magnitudes, and negates before where a line falls."""
    farthest = max(abs(bound - source.zero_point) for bound in source.range)
    for factor in (layer.positive, layer.negative):
        require_clampable(layer.operator, layer.name, farthest, factor)
    zero_point = target.zero_point
    return words(
        source.zero_point,
        *_signed(layer.positive),
        *_signed(layer.negative),
        layer.output_min - zero_point,
        layer.output_max - zero_point,
        zero_point,
    )


def unpack_rescale(block: bytes) -> PackedRescale:
    """Invert `pack_rescale`."""
    numbers = unpack_words(block)
    above, below = (Factor(-m if sign else m, shift) for m, shift, sign in (numbers[1:4], numbers[4:7]))
    low, high, zero_point = numbers[7:]
    return PackedRescale(numbers[0], above, below, low + zero_point, high + zero_point, zero_point)


def require_clampable(operator: str, name: str, farthest: int, factor: Factor) -> None:
    """Prove that the clamp after |value| <= farthest was rescaled stays inside int32."""
    if farthest << max(factor.shift, 0) > _LARGEST_SCALED:
        raise UnsupportedOperatorError(
            f"{operator} at '{name}' is not supported: its scales are so far apart that it could overflow 32 "
            "bits. Quantize with scales nearer to each other."
        )


def _signed(factor: Factor) -> tuple[int, int, int]:
    return abs(factor.multiplier), factor.shift, -1 if factor.multiplier < 0 else 0


def _elementwise(
    kernel: Kernel,
    function: str,
    block: bytes,
    layer: Lookup | Interpolation | Sigmoid | InverseRoot,
    network: IntegerNetwork,
    *more: int,
) -> LayerCode:
    return LayerCode(
        kernel=kernel,
        function=function,
        block=block,
        arguments=(network.tensors[layer.output].size, *more),
        source="eqrl_rescale.c" if kernel == Kernel.RSQRT_S16 else "eqrl_lookup.c",
    )
