"""Elementwise functions of two activations, with broadcasting."""

from dataclasses import dataclass

import numpy as np

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.fixed_point import requantize
from edgeqrl.network.functions import Factor
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers.pairs import Pair
from firmware_export.emit.kernels.lookup import require_clampable
from firmware_export.emit.packing import Kernel, LayerCode, Rows, unpack_words, words

_MAX_AXES = 6  # EQRL_MAX_LOOPS in runtime/eqrl_internal.h
# function -> kernel, whether it is the kernel's other function (None where it has one alone)
_KERNELS: dict[str, tuple[Kernel, int | None]] = {
    "ADD": (Kernel.ADD, 0),
    "SUB": (Kernel.ADD, 1),
    "MUL": (Kernel.MUL, None),
    "SQUARED_DIFFERENCE": (Kernel.SQUARED_DIFFERENCE, None),
    "PRELU": (Kernel.PRELU, None),
    "MAXIMUM": (Kernel.MAXIMUM, 0),
    "MINIMUM": (Kernel.MAXIMUM, 1),
}


@dataclass(frozen=True)
class PackedPair:
    """What a block of any of these kernels holds; 0 where it has no such number."""

    zero_points: tuple[int, int, int] = (0, 0, 0)  # of a, b and the output
    output_min: int = -128
    output_max: int = 127
    factors: tuple[Factor, ...] = ()  # in the block's order
    left_shift: int = 0


def pair_code(layer: Pair, network: IntegerNetwork) -> LayerCode:
    """Return the call of ADD, SUB, MUL, MAXIMUM, MINIMUM, SQUARED_DIFFERENCE and PRELU."""
    if len(layer.shape) > _MAX_AXES:
        raise UnsupportedOperatorError(
            f"{layer.operator} at '{layer.name}' is not supported: its operands broadcast along "
            f"{len(layer.shape)} axes, at most {_MAX_AXES} can be. Reshape or broadcast one of them before."
        )
    kernel, other = _KERNELS[layer.function]
    a, b = (network.tensors[name] for name in layer.inputs)
    axes = Rows("eqrl_loop", tuple(zip(layer.shape, layer.strides_a, layer.strides_b, strict=True)))
    more = (other,) if other is not None else ()
    if layer.function == "PRELU":
        more = (int(np.dtype(b.dtype).itemsize),)
    suffix = {"int8": "s8", "int16": "s16"}[a.dtype]
    return LayerCode(
        kernel=kernel,
        function=f"eqrl_{kernel.name.lower()}_{suffix}",
        block=pack_pair(layer, network),
        arguments=(axes, len(layer.shape), *more),
        source="eqrl_pairs.c",
    )


def pack_pair(layer: Pair, network: IntegerNetwork) -> bytes:
    """Pack a layer's numbers in the order of its kernel."""
    a, b = (network.tensors[name] for name in layer.inputs)
    target = network.tensors[layer.output]
    if layer.function in ("MAXIMUM", "MINIMUM"):
        return words(layer.output_min, layer.output_max)
    for farthest, factor in _last_factors(layer, a, b):
        require_clampable(layer.operator, layer.name, farthest, factor)
    zero_points = (a.zero_point, b.zero_point, target.zero_point)
    bounds = (layer.output_min - target.zero_point, layer.output_max - target.zero_point)
    factors = [number for factor in _factors(layer) for number in (factor.multiplier, factor.shift)]
    assert all(factor.multiplier >= 0 for factor in _factors(layer)), "only Rescale negates"
    left = (layer.left_shift,) if len(factors) == 6 else ()
    return words(*zero_points, *bounds, *factors, *left)


def unpack_pair(block: bytes) -> PackedPair:
    """Invert `pack_pair`."""
    numbers = unpack_words(block)
    if len(numbers) == 2:
        return PackedPair(output_min=numbers[0], output_max=numbers[1])
    zero_points, (low, high) = numbers[:3], numbers[3:5]
    factors = tuple(Factor(*numbers[i : i + 2]) for i in range(5, len(numbers) - 1, 2))
    left_shift = numbers[11] if len(numbers) == 12 else 0
    zero_point = zero_points[2]
    return PackedPair(
        (zero_points[0], zero_points[1], zero_point), low + zero_point, high + zero_point, factors, left_shift
    )


def _factors(layer: Pair) -> tuple[Factor, ...]:
    if layer.function == "MUL":
        return (layer.factor,)
    if layer.function == "PRELU":
        return (layer.factor_a, layer.factor_b)
    return (layer.factor_a, layer.factor_b, layer.factor)


def _last_factors(layer: Pair, a: Tensor, b: Tensor) -> list[tuple[int, Factor]]:
    """Return what reaches the clamp: at most how far, and rescaled by what."""
    x, y = (max(abs(bound - t.zero_point) for bound in t.range) for t in (a, b))
    if layer.function == "MUL":
        return [(x * y, layer.factor)]
    if layer.function == "PRELU":
        return [(x, layer.factor_a), (x * y, layer.factor_b)]
    shifted = ((x << layer.left_shift, layer.factor_a), (y << layer.left_shift, layer.factor_b))
    total = sum(int(requantize(np.array(value), f.multiplier, f.shift)) for value, f in shifted)
    return [(total**2 if layer.function == "SQUARED_DIFFERENCE" else total, layer.factor)]
