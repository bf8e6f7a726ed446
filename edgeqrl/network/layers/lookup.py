"""Elementwise functions of one tensor: tables for int8, and for int16 what C can do without large ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.fixed_point import INT32_MAX, requantize
from edgeqrl.network.functions import Factor, scaled_rsqrt
from edgeqrl.network.functions_float import NUM_KNOTS
from edgeqrl.network.ir import Array, Tensor
from edgeqrl.network.layers.unary import Unary


@dataclass(frozen=True, eq=False)
class Lookup(Unary):
    """Any elementwise int8 function, TANH, LOGISTIC, RELU or QUANTIZE: q_out = table[q_in + 128]."""

    table: NDArray[np.int8]  # [256]

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check sizes and the table."""
        _require_same_size(self.name, tensors[self.input], tensors[self.output], ("int8", "int8"))
        if self.table.shape != (256,) or self.table.dtype != np.int8:
            raise ValueError(f"{self.name}: the table must be 256 int8 values")

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        (values,) = inputs
        return np.take(self.table, values.astype(np.int16) + 128).reshape(-1, *tensors[self.output].shape)


@dataclass(frozen=True)
class Rescale(Unary):
    """Straight lines through zero: QUANTIZE with an int16 side, and RELU*, LEAKY_RELU, ABS, NEG in int16.

    x = q_in - zp_in
    m, s = (positive) where x >= 0, else (negative)
    y = x << s where s > 0, else x            fits int32: construction proves it
    h = (y * m + 2**30) >> 31                 64-bit product, arithmetic shift: halves up
    r = h / 2**-s, halves away from zero, where s < 0, else h      (`rounding_shift_right`)
    q_out = min(max(r + zp_out, output_min), output_max)
    """

    positive: Factor  # of x >= 0; a multiplier below 0 negates
    negative: Factor  # of x < 0
    output_min: int
    output_max: int

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check sizes and ranges, and that nothing overflows."""
        source, target = tensors[self.input], tensors[self.output]
        _require_same_size(self.name, source, target, (source.dtype, target.dtype))
        lowest, highest = target.range
        if not lowest <= self.output_min <= self.output_max <= highest:
            raise ValueError(f"{self.name}: activation range must lie in {target.dtype}")
        farthest = max(abs(bound - source.zero_point) for bound in source.range)
        for factor in (self.positive, self.negative):
            require_no_overflow(self.operator, self.name, farthest, factor)

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        (values,) = inputs
        target = tensors[self.output]
        x = values.astype(np.int64) - tensors[self.input].zero_point
        above, below = (requantize(x, f.multiplier, f.shift) for f in (self.positive, self.negative))
        scaled = np.where(x >= 0, above, below) + target.zero_point
        clamped = np.clip(scaled, self.output_min, self.output_max)
        return np.asarray(clamped, target.dtype).reshape(-1, *target.shape)


@dataclass(frozen=True, eq=False)
class Interpolation(Unary):
    """Any elementwise int16 function by straight lines between 513 knots, 128 inputs apart.

    i = 256 + (q >> 7)            arithmetic shift: 0 .. 511
    q_out = knots[i] + (((knots[i + 1] - knots[i]) * (q & 127) + 64) >> 7)        all fits int32
    """

    knots: NDArray[np.int16]  # [513]

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check sizes and the table; a step that leaves int16 would wrap in the interpreters."""
        _require_same_size(self.name, tensors[self.input], tensors[self.output], ("int16", "int16"))
        if self.knots.shape != (NUM_KNOTS,) or self.knots.dtype != np.int16:
            raise ValueError(f"{self.name}: the table must be {NUM_KNOTS} int16 values")
        if np.any(np.abs(np.diff(self.knots.astype(np.int64))) > np.iinfo(np.int16).max):
            raise UnsupportedOperatorError(
                f"{self.operator} at '{self.name}' is not supported: its output jumps by more than half of "
                "its range from one knot of its table to the next. Use an output scale that fits the input's."
            )

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        (values,) = inputs
        target = tensors[self.output]
        return interpolated(self.knots, values).astype(target.dtype).reshape(-1, *target.shape)


@dataclass(frozen=True, eq=False)
class Sigmoid(Unary):
    """TANH and LOGISTIC in int16, between 256 values of the logistic function at i / 24, in 0.16.

    x = (q * multiplier + (1 << (shift - 1) where shift > 0, else 0)) >> shift       arithmetic; fits int32
    a = |x|;  k = 9 for LOGISTIC, 8 for TANH;  i = a >> k;  f = a & ((1 << k) - 1)
    y = (table[i] << k) + f * (table[i + 1] - table[i]) where i < 255, else the limit:
        0x7FFF << 10 for LOGISTIC, 0xFFFF << 8 for TANH
    LOGISTIC: q_out = (y + 512 where x >= 0, else (1 << 25) - y + 511) >> 10
    TANH:     q_out = (y - (1 << 23) + 128 where x >= 0, else -y + (1 << 23) + 127) >> 8
    """

    multiplier: int  # in [1, 32767]
    shift: int  # to the right, in [0, 31]
    table: NDArray[np.uint16]  # [256]

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check sizes, the table and that nothing overflows."""
        _require_same_size(self.name, tensors[self.input], tensors[self.output], ("int16", "int16"))
        if self.table.shape != (256,) or self.table.dtype != np.uint16:
            raise ValueError(f"{self.name}: the table must be 256 uint16 values")
        if not (0 < self.multiplier <= 2**15 - 1 and 0 <= self.shift <= 31):
            raise ValueError(f"{self.name}: multiplier {self.multiplier} and shift {self.shift} overflow")

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        (values,) = inputs
        half = 1 << (self.shift - 1) if self.shift else 0
        x = (values.astype(np.int64) * self.multiplier + half) >> self.shift
        bits, limit = (9, 0x7FFF << 10) if self.function == "LOGISTIC" else (8, 0xFFFF << 8)
        index, fraction = np.abs(x) >> bits, np.abs(x) & ((1 << bits) - 1)
        table = self.table.astype(np.int64)
        low = np.minimum(index, 254)
        between = (table[low] << bits) + fraction * (table[low + 1] - table[low])
        y = np.where(index >= 255, limit, between)
        if self.function == "LOGISTIC":
            result = np.where(x >= 0, y + 512, (1 << 25) - y + 511) >> 10
        else:
            result = np.where(x >= 0, y - (1 << 23) + 128, (1 << 23) - y + 127) >> 8
        return result.astype(np.int16).reshape(-1, *tensors[self.output].shape)


@dataclass(frozen=True)
class InverseRoot:
    """RSQRT in int16, with the fixed recipe of `functions_fixed.inverse_root`.

    m, s = inverse_root(q)                           1 / sqrt(q) ~ m * 2**(s - 31)
    r = requantize(1, m, s + 20)                     at most 2**20; s + 20 in [9, 20]
    y = requantize(r, multiplier, shift)             as in Rescale; construction proves that it fits
    q_out = min(y, 32767) where q > 0, else 32767    interpreters stop with an error below 0
    """

    name: str
    input: str
    output: str
    factor: Factor  # 1 / (sqrt(input scale) * output scale), of which `shift` is 20 more than used above
    operator: str = "RSQRT"
    num_macs = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the one activation that is read."""
        return (self.input,)

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check sizes, and that nothing overflows."""
        _require_same_size(self.name, tensors[self.input], tensors[self.output], ("int16", "int16"))
        used = Factor(self.factor.multiplier, self.factor.shift - 20)
        require_no_overflow(self.operator, self.name, 2**20, used)

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        (values,) = inputs
        centred = values.astype(np.int64)
        scaled = np.minimum(scaled_rsqrt(centred, self.factor), 2**15 - 1)
        result = np.where(centred > 0, scaled, 2**15 - 1)
        return result.astype(np.int16).reshape(-1, *tensors[self.output].shape)


def interpolated(knots: NDArray[np.int16], values: Array) -> NDArray[np.int64]:
    """Return the function of 513 knots at int16 values."""
    q, table = values.astype(np.int64), knots.astype(np.int64)
    index = 256 + (q >> 7)
    return np.asarray(table[index] + (((table[index + 1] - table[index]) * (q & 127) + 64) >> 7))


def require_no_overflow(operator: str, name: str, farthest: int, factor: Factor) -> None:
    """Raise where |value| <= farthest, shifted left by a factor, could leave int32."""
    if factor.shift < -31 or farthest << max(factor.shift, 0) > INT32_MAX:
        raise UnsupportedOperatorError(
            f"{operator} at '{name}' is not supported: its scales are so far apart that it could overflow 32 "
            "bits. Quantize with scales nearer to each other."
        )


def _require_same_size(name: str, source: Tensor, target: Tensor, dtypes: tuple[str, str]) -> None:
    if source.size != target.size or (source.dtype, target.dtype) != dtypes:
        raise ValueError(f"{name}: {source.size} {source.dtype} in, {target.size} {target.dtype} out")
