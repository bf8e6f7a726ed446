"""Pooling and reductions. Divisions become multiplications, exact for every sum that can occur."""

import numpy as np

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Pool, Reduce
from firmware_export.emit.kernels.linear import window_rows
from firmware_export.emit.packing import Kernel, LayerCode, Rows, words

_MAX_LOOPS = 6  # EQRL_MAX_LOOPS in runtime/eqrl_internal.h
_SUFFIX = {"int8": "s8", "int16": "s16"}


def pool_code(layer: Pool, network: IntegerNetwork) -> LayerCode:
    """Return the call of MAX_POOL_2D and AVERAGE_POOL_2D."""
    source = network.tensors[layer.input]
    arguments, name = [window_rows(layer.window)], "max"
    if layer.function == "AVERAGE_POOL_2D":
        largest = -source.range[0]
        rows = tuple(divisor(count, largest) for count in np.unique(layer.window.counts()).tolist())
        arguments, name = [*arguments, Rows("eqrl_divisor", rows)], "average"
    return LayerCode(
        kernel=Kernel.POOL,
        function=f"eqrl_{name}_pool_{_SUFFIX[source.dtype]}",
        block=pack_pool(layer),
        arguments=tuple(arguments),
        source="eqrl_pool.c",
    )


def reduce_code(layer: Reduce, network: IntegerNetwork) -> LayerCode:
    """Return the call of MEAN, SUM, REDUCE_MAX and REDUCE_MIN."""
    source, target = network.tensors[layer.input], network.tensors[layer.output]
    kept, reduced = (_loops(layer, axes) for axes in (layer.kept, layer.reduced))
    arguments: tuple[int | Rows, ...] = (kept, len(kept.rows), reduced, len(reduced.rows))
    is_sum = layer.function in ("MEAN", "SUM")
    if not is_sum:
        arguments = (*arguments, int(layer.function == "REDUCE_MIN"))
    return LayerCode(
        kernel=Kernel.REDUCE_SUM if is_sum else Kernel.REDUCE_MAX,
        function=f"eqrl_reduce_{'sum' if is_sum else 'max'}_{_SUFFIX[source.dtype]}",
        block=pack_reduce(layer, source, target) if is_sum else b"",
        arguments=arguments,
        source="eqrl_reduce.c",
    )


def divisor(count: int, largest: int) -> tuple[int, int, int]:
    """Return an eqrl_divisor {count, multiplier, shift} for sums of `count` values of at most `largest`.

    n // count == (2 * n * multiplier // 2**32) >> shift for all n that the kernel divides.
    """
    shift = (count - 1).bit_length()
    power = 2 ** (31 + shift)
    multiplier = -(-power // count)
    excess = multiplier * count - power
    numerator = largest * count + count // 2
    # n * multiplier / power exceeds n / count by n * excess / (count * power): less than a step of 1 / count.
    assert max(2 * numerator, multiplier) < 2**32
    assert numerator * excess < power
    return count, multiplier, shift


def pack_pool(layer: Pool) -> bytes:
    """Pack the fused activation's range."""
    return words(layer.output_min, layer.output_max)


def pack_reduce(layer: Reduce, source: Tensor, target: Tensor) -> bytes:
    """Pack MEAN and SUM: what to begin with, the scale, the output's zero point."""
    return words(-layer.count * source.zero_point, layer.multiplier, layer.shift, target.zero_point)


def _loops(layer: Reduce, axes: tuple[tuple[int, int], ...]) -> Rows:
    """Return axes as (size, stride) loops, a single step if there are none."""
    if len(axes) > _MAX_LOOPS:
        raise UnsupportedOperatorError(
            f"{layer.operator} at '{layer.name}' is not supported: its axes take more than {_MAX_LOOPS} "
            "nested loops. Reduce neighbouring axes, or reshape the input to fewer."
        )
    return Rows("eqrl_loop", tuple((size, stride, 0) for size, stride in axes) or ((1, 0, 0),))
