"""What the layers of a network have to do in a step, in numbers that instructions grow with.

Bits of weights and the precision of activations are part of it: the kernel that a layer gets decides.
"""

from dataclasses import astuple, dataclass

import numpy as np

from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork, Layer
from edgeqrl.network.layers import (
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Interpolation,
    Lookup,
    TransposeConv,
)
from edgeqrl.network.layers.window import Window
from firmware_export.emit.params import executed_layers, weight_bits_of
from firmware_export.emit.weights import UNITS, UNPACKED, groups_of

_PAIR = 2  # channels that share each load of a value, where weights are not packed


@dataclass(frozen=True)
class Work:
    """What one layer does in one inference, in a kernel of some `kind`: a row of the rates."""

    kind: str
    calls: int = 1
    macs: int = 0  # of all channels that the kernel computes: it has no half pair and no part of a unit
    outputs: int = 0  # elements that are rescaled or looked up
    runs: int = 0  # calls of the inner loop
    padded: int = 0  # weights of a channel pair or unit that meet padding
    summed: int = 0  # inputs that packed weights want the sum of, as their fields have no sign
    positions: int = 0  # of a window, whose place is found first

    @property
    def counts(self) -> tuple[int, ...]:
        """Return the numbers in the order of a row of rates."""
        return astuple(self)[1:]


def workload(policy: IntegerPolicy) -> tuple[Work, ...]:
    """Return what a whole step does: the edges, then each layer with its weights as they lie in flash."""
    network, layers = policy.network, executed_layers(policy)
    seen = sum(part.size // 3 if part.image else part.size for part in policy.parts)
    acted = sum(network.tensors[name].size for name in policy.network.outputs)
    of_layers = zip(layers, weight_bits_of(policy), strict=True)
    return (Work("edge", outputs=seen + acted), *(work_of(layer, network, bits) for layer, bits in of_layers))


def work_of(layer: Layer, network: IntegerNetwork, bits: int = UNPACKED) -> Work:
    """Return what `layer` does with weights of so many bits in flash."""
    dtype = network.tensors[layer.inputs[0]].dtype
    suffix = "s16" if dtype == "int16" else "s8"
    outputs = network.tensors[layer.output].size
    if isinstance(layer, Lookup | Interpolation):
        return Work(f"table {suffix}", outputs=outputs)
    if isinstance(layer, Dense):
        return _dense(layer, f"dense w{bits} {suffix}", bits)
    if isinstance(layer, DepthwiseConv2D):
        return _depthwise(layer, f"depthwise {suffix}", adds_padding=suffix == "s8")
    if isinstance(layer, Conv2D):
        return _conv(layer, f"conv w{bits} {suffix}", bits, adds_padding=suffix == "s8")
    if isinstance(layer, TransposeConv):
        return _transpose_conv(layer, f"conv w{bits} {suffix}", outputs)
    return Work("other", outputs=outputs)


def _dense(layer: Dense, kind: str, bits: int) -> Work:
    out, terms = layer.weights.shape
    units = layer.rows * _units(out, bits)
    return Work(
        kind,
        macs=units * _channels(bits) * terms,
        outputs=layer.rows * out,
        runs=units,
        summed=0 if bits == UNPACKED else layer.rows * terms,
    )


def _conv(layer: Conv2D, kind: str, bits: int, *, adds_padding: bool) -> Work:
    window, depth, groups = layer.window, layer.weights.shape[3], groups_of(layer)
    units = groups * _units(len(layer.weights) // groups, bits)
    taps, rows = _taps(window)
    is_whole = window.dilation[1] == 1 and groups == 1
    outside = window.num_positions * int(np.prod(window.kernel)) - taps
    return Work(
        kind,
        macs=taps * depth * units * _channels(bits),
        outputs=window.num_positions * len(layer.weights),
        runs=(rows if is_whole else taps) * units,
        padded=outside * depth * units * adds_padding,
        summed=0 if bits == UNPACKED else taps * depth * groups,
        positions=window.num_positions,
    )


def _depthwise(layer: DepthwiseConv2D, kind: str, *, adds_padding: bool) -> Work:
    window, units = layer.window, _units(len(layer.weights), UNPACKED)
    taps, rows = _taps(window)
    outside = window.num_positions * int(np.prod(window.kernel)) - taps
    return Work(
        kind,
        macs=taps * units * _PAIR,
        outputs=window.num_positions * len(layer.weights),
        runs=rows * units,
        padded=outside * units * adds_padding,
        positions=window.num_positions,
    )


def _transpose_conv(layer: TransposeConv, kind: str, outputs: int) -> Work:
    out, *_, depth = layer.weights.shape
    units, taps = _units(out, UNPACKED), layer.num_macs // (out * depth)
    return Work(
        kind,
        macs=taps * depth * units * _PAIR,
        outputs=outputs,
        runs=taps * units,
        positions=layer.window.num_positions,
    )


def _taps(window: Window) -> tuple[int, int]:
    """Count over all positions the places of the window that lie inside the input, and its rows there."""
    rows, columns = (int(window.counts_along(axis).sum()) for axis in (0, 1))
    images, _, width, _ = window.output_shape
    return images * rows * columns, images * rows * width


def _units(channels: int, bits: int) -> int:
    return -(-channels // _channels(bits))


def _channels(bits: int) -> int:
    return UNITS[bits].channels if bits in UNITS else _PAIR
