"""Elementwise functions of two tensors, with broadcasting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.fixed_point import requantize
from edgeqrl.network.functions import Factor
from edgeqrl.network.ir import Array, Tensor
from edgeqrl.network.layers.lookup import require_no_overflow

_NONE = Factor(0, 0)
FUNCTIONS = ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "PRELU")


@dataclass(frozen=True)
class Pair:
    """q_out[i] = function(a[strides_a . i], b[strides_b . i]) for every index i of `shape`, row-major.

    With x = q_a - zp_a, y = q_b - zp_b, and requantize(v, factor) as in Rescale, where ADD, SUB and
    SQUARED_DIFFERENCE never shift x, y or a sum further to the left:

    ADD, SUB            r = requantize(u + v or u - v, factor)
    SQUARED_DIFFERENCE  r = requantize((u - v) * (u - v), factor)
                        with u = requantize(x << left_shift, factor_a)
                        and  v = requantize(y << left_shift, factor_b)
    MUL                 r = requantize(x * y, factor)
    PRELU               r = requantize(x, factor_a) where x >= 0, else requantize(x * y, factor_b)
    MAXIMUM, MINIMUM    q_out = the greater or the lesser of q_a and q_b; no factors, one quantization

    q_out = min(max(r + zp_out, output_min), output_max). All fits int32: construction proves it.
    """

    name: str
    function: str  # one of FUNCTIONS
    inputs: tuple[str, ...]  # (a, b)
    output: str
    shape: tuple[int, ...]  # of the output, axes merged where both inputs allow it
    strides_a: tuple[int, ...]  # elements per step of each axis of `shape`; 0 repeats
    strides_b: tuple[int, ...]
    output_min: int
    output_max: int
    left_shift: int = 0
    factor_a: Factor = _NONE
    factor_b: Factor = _NONE
    factor: Factor = _NONE
    num_macs = 0

    @property
    def operator(self) -> str:
        """Return LiteRT's builtin name."""
        return self.function

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check shapes and ranges, and that nothing overflows."""
        a, b, target = (tensors[name] for name in (*self.inputs, self.output))
        if (
            self.function not in FUNCTIONS
            or len({len(self.shape), len(self.strides_a), len(self.strides_b)}) > 1
        ):
            raise ValueError(f"{self.name}: {self.function} of {len(self.shape)} axes has other strides")
        if int(np.prod(self.shape, dtype=np.int64)) != target.size:
            raise ValueError(f"{self.name}: the shape {self.shape} is not that of its output")
        for tensor, strides in ((a, self.strides_a), (b, self.strides_b)):
            if sum((n - 1) * s for n, s in zip(self.shape, strides, strict=True)) != tensor.size - 1:
                raise ValueError(f"{self.name}: strides {strides} do not cover '{tensor.name}'")
        is_mixed = self.function == "PRELU" and b.dtype in ("int8", "int16")
        if a.dtype != target.dtype or not (is_mixed or b.dtype == a.dtype) or a.dtype == "int32":
            raise ValueError(f"{self.name}: {a.dtype} and {b.dtype} in, {target.dtype} out")
        lowest, highest = target.range
        if not lowest <= self.output_min <= self.output_max <= highest:
            raise ValueError(f"{self.name}: activation range must lie in {target.dtype}")
        self.require_no_overflow(a, b)

    def require_no_overflow(self, a: Tensor, b: Tensor) -> None:
        """Raise UnsupportedOperatorError where something that is computed of a and b could leave int32."""
        for bound, factor in self._bounds(a, b):
            require_no_overflow(self.function, self.name, bound, factor)

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        target = tensors[self.output]
        first, second = (
            values.reshape(len(values), -1)[:, self._indices(strides)].astype(np.int64)
            for values, strides in zip(inputs, (self.strides_a, self.strides_b), strict=True)
        )
        if self.function in ("MAXIMUM", "MINIMUM"):
            result = (np.maximum if self.function == "MAXIMUM" else np.minimum)(first, second)
        else:
            zero_points = [tensors[name].zero_point for name in self.inputs]
            result = self._scaled(first - zero_points[0], second - zero_points[1]) + target.zero_point
        clamped = np.clip(result, self.output_min, self.output_max)
        return clamped.astype(target.dtype).reshape(-1, *target.shape)

    def _scaled(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.function == "MUL":
            return _requantized(x * y, self.factor)
        if self.function == "PRELU":
            return np.where(x >= 0, _requantized(x, self.factor_a), _requantized(x * y, self.factor_b))
        u = _requantized(x << self.left_shift, self.factor_a)
        v = _requantized(y << self.left_shift, self.factor_b)
        if self.function == "ADD":
            return _requantized(u + v, self.factor)
        return _requantized(u - v if self.function == "SUB" else (u - v) * (u - v), self.factor)

    def _bounds(self, a: Tensor, b: Tensor) -> list[tuple[int, Factor]]:
        """Return what is requantized at most, and by which factor."""
        x, y = (max(abs(bound - t.zero_point) for bound in t.range) for t in (a, b))
        if self.function in ("MAXIMUM", "MINIMUM"):
            return []
        if self.function == "MUL":
            return [(x * y, self.factor)]
        if self.function == "PRELU":
            return [(x, self.factor_a), (x * y, self.factor_b)]
        shifted = (x << self.left_shift, self.factor_a), (y << self.left_shift, self.factor_b)
        u, v = (int(_requantized(np.array(value), factor)) for value, factor in shifted)
        last = (u + v) ** 2 if self.function == "SQUARED_DIFFERENCE" else u + v
        return [*shifted, (last, self.factor)]

    def _indices(self, strides: tuple[int, ...]) -> NDArray[np.int64]:
        """Return which element of an input each output element reads."""
        indices = np.zeros((), np.int64)
        for size, stride in zip(self.shape, strides, strict=True):
            indices = indices[..., None] + np.arange(size) * stride
        return indices.reshape(-1)


def broadcast_strides(
    a: tuple[int, ...], b: tuple[int, ...], output: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return (shape, strides of a, strides of b) of a broadcast, with as few axes as can be.

    Raises ValueError where the shapes do not broadcast to the output's.
    """
    if np.broadcast_shapes(a, b) != output:
        raise ValueError(f"the shapes {a} and {b} do not broadcast to {output}")
    axes: list[tuple[int, int, int]] = []  # (size, stride of a, stride of b), the last axis first
    steps = [1, 1]
    for axis in range(1, len(output) + 1):
        sizes = [shape[-axis] if axis <= len(shape) else 1 for shape in (a, b)]
        size = output[-axis]
        strides = [step if n > 1 else 0 for n, step in zip(sizes, steps, strict=True)]
        steps = [step * n for n, step in zip(sizes, steps, strict=True)]
        if size == 1:
            continue
        if axes and all(s == inner * axes[-1][0] for s, inner in zip(strides, axes[-1][1:], strict=True)):
            axes[-1] = (axes[-1][0] * size, *axes[-1][1:])
        else:
            axes.append((size, strides[0], strides[1]))
    if not axes:
        return (1,), (0,), (0,)
    shape, strides_a, strides_b = zip(*reversed(axes), strict=True)
    return tuple(shape), tuple(strides_a), tuple(strides_b)


def _requantized(values: NDArray[np.int64], factor: Factor) -> NDArray[np.int64]:
    return requantize(values, factor.multiplier, factor.shift)
