"""What the layers of a network have to do in a step, in numbers that instructions grow with.

Bits and order of weights and the precision of activations are part of it: the kernel of a layer decides.
"""

from dataclasses import astuple, dataclass, replace

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
from firmware_export.emit.orders import ANY, ORDERS, ROWS, TILE, groups_of, has_usual_scales, variant_of
from firmware_export.emit.params import executed_layers, orders_of, weight_bits_of
from firmware_export.emit.weights import UNITS, UNPACKED

_PAIR = 2  # channels that share each load of a value, where weights are not packed


@dataclass(frozen=True)
class Work:
    """What one layer does in one inference, in a kernel of some `kind`: a row of the rates."""

    kind: str
    calls: int = 1
    macs: int = 0  # of all channels that the kernel computes: it has no half pair and no part of a unit
    outputs: int = 0  # elements that are rescaled or looked up
    runs: int = 0  # calls of the inner loop; of an order, runs of inputs that are copied to a column
    padded: int = 0  # weights of a channel pair or unit that meet padding; inputs that are copied by bytes
    summed: int = 0  # inputs that are summed, as fields of packed weights have no sign, or made a column
    positions: int = 0  # of a window, whose place is found first
    searched: int = 0  # of these, where an order looks for what lies inside the input

    @property
    def counts(self) -> tuple[int, ...]:
        """Return the numbers in the order of a row of rates."""
        return astuple(self)[1:]


def workload(policy: IntegerPolicy) -> tuple[Work, ...]:
    """Return what a whole step does: the edges, then each layer with its weights as they lie in flash."""
    network, layers = policy.network, executed_layers(policy)
    seen = sum(part.size // 3 if part.image else part.size for part in policy.parts)
    acted = sum(network.tensors[name].size for name in policy.network.outputs)
    of_layers = zip(layers, weight_bits_of(policy), orders_of(policy), strict=True)
    works = (work_of(layer, network, bits, order) for layer, bits, order in of_layers)
    return (Work("edge", outputs=seen + acted), *works)


def work_of(layer: Layer, network: IntegerNetwork, bits: int = UNPACKED, order: str = ROWS) -> Work:
    """Return what `layer` does with weights of so many bits in flash, in an order of `orders.ORDERS`."""
    dtype = network.tensors[layer.inputs[0]].dtype
    suffix = "s16" if dtype == "int16" else "s8"
    outputs = network.tensors[layer.output].size
    if order != ROWS:
        assert isinstance(layer, Dense | Conv2D)
        return _ordered(layer, network, order)
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


def _ordered(layer: Dense | Conv2D, network: IntegerNetwork, order: str) -> Work:
    """Count whole tiles and columns: what is padded is computed, too."""
    name, source = order.removesuffix(ANY), network.tensors[layer.input]
    variant, groups = variant_of(layer, source, order), groups_of(layer)
    tiles = groups * -(-len(layer.weights) // groups // TILE)
    columns = ORDERS[name].columns_of(int(layer.weights[0].size))
    if isinstance(layer, Dense):
        work = Work(f"dense {name}{variant} s8", summed=layer.rows * columns)
        return _with_tiles(work, layer.rows * tiles, columns)
    window, depth = layer.window, layer.weights.shape[3]
    places, (taps, rows) = window.num_positions, _taps(window)
    is_whole = window.dilation[1] == 1 and groups == 1
    is_searched = rows < places * window.kernel[0] or taps < rows * window.kernel[1]
    steps = (window.input_shape[3] * window.stride[1], window.input_shape[2] * window.input_shape[3])
    run = depth * window.kernel[1] if is_whole else depth
    by_words = not is_searched and not any(size % 4 for size in (*steps, run))
    by_two = ORDERS[name].windows == 2 and groups == 1 and len(layer.weights) % TILE == 0
    by_two = by_two and window.output_shape[2] > 1 and has_usual_scales(layer, source)
    work = Work(
        f"conv {name}{variant}{' by two' * by_two} s8",
        runs=(rows if is_whole else taps) * groups,
        padded=0 if by_words else places * columns * groups,
        summed=places * groups * columns,
        positions=places,
        searched=places * is_searched,
    )
    return _with_tiles(work, places * tiles, columns)


def _with_tiles(work: Work, tiles: int, columns: int) -> Work:
    return replace(work, macs=tiles * TILE * columns, outputs=tiles * TILE)


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
