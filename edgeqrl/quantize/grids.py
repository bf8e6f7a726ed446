"""Weights on the grid that a scheme names: 8 to 2 bits, symmetric or not, a scale a channel, group or tensor.

A symmetric grid of k bits holds q in [-(2^(k-1) - 1), 2^(k-1) - 1], and a weight is scale * q; 2 bits are
{-1, 0, 1}. An asymmetric one is the textbook's:

    step = (max - min) / (2^k - 1),  q = clamp(round((x - min) / step), 0, 2^k - 1),  x' = q * step + min

with min moved to the nearest multiple of the step, so that 0 stays 0 and min is a whole zero point. It is
stored as int8 too, as q - 2^(k-1). All files stay `.tflite`, but of asymmetric weights the interpreters know
only dense layers with a single scale; the reference and the exported C know all.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeqrl.quantize.matching import Twin, float_twins
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.quantize.weights_file import LayerWeights, read_weights, write_weights

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_LARGEST_BIAS = 2**30  # leaves as much room for the products
_TRIED = np.linspace(0.05, 1.0, 96)  # of the scale that the largest weight needs


def apply_weight_grids(integer_tflite: bytes, float_tflite: bytes, scheme: Scheme) -> bytes:
    """Return the integer network with its weights quantized anew from the float network's.

    float_tflite  the network that the integer one was made from. A layer that it does not have is taken
                  from the integer network itself.

    Layers of 8 bits that stand as the scheme wants them stay to the bit. Others have scales of their own:
    at 8 bits and on asymmetric grids such that the largest weight fits, below 8 bits those of the least
    mean square error.
    """
    twins = float_twins(integer_tflite, float_tflite)
    changed = {}
    for name, layer in read_weights(integer_tflite).items():
        twin = twins.get(name) or _from_integers(name, layer)
        bits = scheme.bits_of(twin.name)
        group = _group_size(scheme, layer)
        is_plain = bits == 8 and group == 1 and scheme.symmetry == "symmetric"
        if not is_plain or len(layer.scales) != layer.num_channels:
            changed[name] = on_grid(layer, twin, bits, group, is_symmetric=scheme.symmetry == "symmetric")
    return write_weights(integer_tflite, changed)


def on_grid(layer: LayerWeights, exact: Twin, bits: int, group: int, *, is_symmetric: bool) -> LayerWeights:
    """Return a layer with the weights and the bias of its float twin, to nearest, on a grid of `bits` bits.

    group  how many output channels, that follow each other, share a scale
    """
    rows = np.asarray(layer.rows(exact.weights), np.float64)
    starts = np.arange(0, layer.num_channels, group)
    old = np.maximum.reduceat(layer.by_channel(layer.scales).astype(np.float64), starts)
    bias = layer.bias_scales * layer.bias if layer.bias is not None else np.zeros(layer.num_channels)
    if exact.bias is not None and layer.bias is not None:
        bias = exact.bias.astype(np.float64)
    floor = np.maximum.reduceat(np.abs(bias), starts) / (layer.input_scale * _LARGEST_BIAS)
    zero_points = np.zeros(len(starts), np.int64)
    if is_symmetric:
        scales = _symmetric_scales(rows, starts, bits)
    else:
        low = np.minimum(np.minimum.reduceat(rows.min(axis=1), starts), 0.0)
        high = np.maximum(np.maximum.reduceat(rows.max(axis=1), starts), 0.0)
        scales = (high - low) / (2**bits - 1)
    scales = np.where(scales > 0.0, scales, old)
    scales = np.maximum(scales, floor).astype(np.float32).astype(np.float64)
    if not is_symmetric:
        zero_points = np.rint(-low / scales).astype(np.int64) - 2 ** (bits - 1)
    sizes = np.diff([*starts, layer.num_channels])
    by_row = np.repeat(scales, sizes)[:, None]
    lowest, highest = grid_limits(bits, is_symmetric=is_symmetric)
    steps = np.rint(rows / by_row) + np.repeat(zero_points, sizes)[:, None]
    is_single = group == layer.num_channels
    new = replace(
        layer,
        weights=layer.from_rows(np.clip(steps, lowest, highest)),
        scales=(scales if is_single else by_row[:, 0]).astype(np.float32),
        zero_points=zero_points if is_single else np.repeat(zero_points, sizes),
    )
    return new if layer.bias is None else replace(new, bias=_rounded_bias(new, bias))


def grid_limits(bits: int, *, is_symmetric: bool) -> tuple[int, int]:
    """Return the least and the greatest stored value of a grid."""
    half = 2 ** (bits - 1)
    return (1 - half, half - 1) if is_symmetric else (-half, half - 1)


def weight_limits(scheme: Scheme, layer: str) -> tuple[int, int]:
    """Return the limits of the grid that a scheme says of a layer, named as in the float network."""
    return grid_limits(scheme.bits_of(layer), is_symmetric=scheme.symmetry == "symmetric")


def least_error_scales(rows: Floats, starts: Integers, limit: int) -> Floats:
    """Return the scale of least squared error of each group of rows [channels, terms], on [-limit, limit].

    starts  the first row of each group. The scale of one that is all zeros is 0.
    """
    whole = _largest(rows, starts) / limit
    sizes = np.diff([*starts, len(rows)])
    best, least = whole, np.full(len(starts), np.inf)
    for share in _TRIED:
        scales = np.where(whole > 0.0, whole * share, 1.0)
        by_row = np.repeat(scales, sizes)[:, None]
        errors = np.clip(np.rint(rows / by_row), -limit, limit) * by_row - rows
        total = np.add.reduceat((errors**2).sum(axis=1), starts)
        best, least = np.where(total < least, whole * share, best), np.minimum(total, least)
    return np.asarray(best)


def _symmetric_scales(rows: Floats, starts: Integers, bits: int) -> Floats:
    """Return a scale for each group of rows [channels, terms]."""
    limit = 2 ** (bits - 1) - 1
    return _largest(rows, starts) / limit if bits == 8 else least_error_scales(rows, starts, limit)


def _largest(rows: Floats, starts: Integers) -> Floats:
    return np.asarray(np.maximum.reduceat(np.abs(rows).max(axis=1), starts))


def _group_size(scheme: Scheme, layer: LayerWeights) -> int:
    sizes = {"per_channel": 1, "per_group": scheme.group_size, "per_tensor": layer.num_channels}
    return sizes[scheme.granularity]


def _rounded_bias(layer: LayerWeights, bias: Floats) -> Integers:
    limit = 2**31 - 1 if layer.bias_dtype == "INT32" else 2**46
    return np.asarray(np.clip(np.rint(bias / layer.bias_scales), -limit, limit), np.int64)


def _from_integers(name: str, layer: LayerWeights) -> Twin:
    centred = layer.rows() - layer.by_channel(layer.zero_points)[:, None]
    rows = centred * layer.by_channel(layer.scales)[:, None]
    shape = list(layer.weights.shape)
    shape.insert(0, shape.pop(layer.axis))
    return Twin(name, np.moveaxis(rows.reshape(shape), 0, layer.axis).astype(np.float32), None)
