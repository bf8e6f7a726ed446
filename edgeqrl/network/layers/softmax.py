"""Functions of whole rows: SOFTMAX, LOG_SOFTMAX, ARG_MAX and ARG_MIN."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.fixed_point import Int64Array, high_multiply, requantize, rounding_shift_right
from edgeqrl.network.functions import Factor
from edgeqrl.network.functions_fixed import leading_zeros, log_of_sum, one_over_one_plus
from edgeqrl.network.functions_float import NUM_KNOTS
from edgeqrl.network.ir import Array, Tensor
from edgeqrl.network.layers.lookup import interpolated, require_no_overflow
from edgeqrl.network.layers.unary import Unary


@dataclass(frozen=True, eq=False)
class _Rows:
    name: str
    input: str
    output: str
    rows: int
    depth: int  # elements of a row: the last axis
    num_macs = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the one activation that is read."""
        return (self.input,)

    def _require_rows(self, tensors: Mapping[str, Tensor], dtype: str, most: int) -> None:
        source, target = tensors[self.input], tensors[self.output]
        if not source.size == target.size == self.rows * self.depth:
            raise ValueError(
                f"{self.name}: {source.size} in, {target.size} out, not {self.rows} x {self.depth}"
            )
        if (source.dtype, target.dtype) != (dtype, dtype) or not 0 < self.depth <= most:
            raise ValueError(f"{self.name}: {source.dtype} to {target.dtype} in rows of {self.depth}")

    def _below_greatest(self, values: Array) -> Int64Array:
        """Return max(row) - q, [rows, depth]."""
        rows = values.reshape(-1, self.depth).astype(np.int64)
        return np.asarray(rows.max(axis=1, keepdims=True) - rows)


@dataclass(frozen=True, eq=False)
class Softmax(_Rows):
    """SOFTMAX of int8. With d = max(row) - q and E = table[d], exp of the difference in q0:

    total = sum of E / 2**12, each halves away from zero            q12; rows are so short that it fits int32
    n = leading_zeros(total)                                        in [4, 12]
    r = one_over_one_plus((total << n) - 2**31)                     the shift drops the leading one
    y = (r * E + 2**30) >> 31                                       64-bit product, arithmetic shift
    q_out = min(y / 2**(35 - n), halves away from zero, - 128, 127)

    `leading_zeros` and `one_over_one_plus`: see functions_fixed; both have a fixed number of steps.
    """

    table: NDArray[np.int32]  # [256], 0 where the difference is too large to count
    operator = "SOFTMAX"

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check sizes and the table; beyond 511 equal inputs the last shift would be by 32."""
        self._require_rows(tensors, "int8", 511)
        if self.table.shape != (256,) or self.table.dtype != np.int32:
            raise ValueError(f"{self.name}: the table must be 256 int32 values")

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        (values,) = inputs
        exponentials = self.table.astype(np.int64)[self._below_greatest(values)]
        total = rounding_shift_right(exponentials, 12).sum(axis=1, keepdims=True)
        zeros = leading_zeros(total)
        reciprocal = one_over_one_plus((total << zeros) - 2**31)
        scaled = rounding_shift_right(high_multiply(reciprocal, exponentials), 35 - zeros)
        return _shaped(np.minimum(scaled - 128, 127), tensors[self.output])


@dataclass(frozen=True, eq=False)
class Softmax16(_Rows):
    """SOFTMAX of int16, with two functions of 513 knots as in Interpolation:

    d = requantize(q - max(row), factor)                            factor as in Rescale
    E = exp_knots(max(d + 32767, -32768))                           exp in 0.15, 0 .. 32767
    total = sum of E                                                below 2**31
    n = leading_zeros(total)
    t = ((total << (n - 1)) + 2**13) >> 14                          unsigned: it reaches 2**31
    r = reciprocal_knots(min(t - 98304, 32767))                     1 / (1 + x)
    q_out = min((E * r + (1 << (30 - n))) >> (31 - n), 32767)       fits int32
    """

    factor: Factor
    exp_knots: NDArray[np.int16]  # [513]
    reciprocal_knots: NDArray[np.int16]  # [513]
    operator = "SOFTMAX"

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check sizes and the tables, and that nothing overflows."""
        self._require_rows(tensors, "int16", 2**15)
        for knots in (self.exp_knots, self.reciprocal_knots):
            if knots.shape != (NUM_KNOTS,) or knots.dtype != np.int16:
                raise ValueError(f"{self.name}: the tables must be {NUM_KNOTS} int16 values")
        require_no_overflow(self.operator, self.name, 2**16 - 1, self.factor)

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        (values,) = inputs
        scaled = requantize(-self._below_greatest(values), self.factor.multiplier, self.factor.shift)
        exponentials = interpolated(self.exp_knots, np.maximum(scaled + 32767, -32768))
        total = exponentials.sum(axis=1, keepdims=True)
        zeros = leading_zeros(total)
        normalized = ((total << (zeros - 1)) + 2**13) >> 14
        reciprocal = interpolated(self.reciprocal_knots, np.minimum(normalized - 98304, 32767))
        result = (exponentials * reciprocal + (np.int64(1) << (30 - zeros))) >> (31 - zeros)
        return _shaped(np.minimum(result, 32767), tensors[self.output])


@dataclass(frozen=True, eq=False)
class LogSoftmax(_Rows):
    """LOG_SOFTMAX of int8; the output has scale 1/16 and zero point 127. With d = max(row) - q:

    total = sum of table[d]                                         exp in q12
    l = log_of_sum(total)                                           in q5, see functions_fixed
    m = min(limit, -requantize(l - 2**31, reverse))                 all as in Rescale
    y = requantize(-d, factor)                                      in q5
    q_out = min(max((y - l) / 2**22, halves away from zero, + 127, -128), 127) where d < m, else -128
    """

    factor: Factor  # input units to q5
    reverse: Factor  # q5 to input units; shifts right
    limit: int  # one more than the largest difference that counts
    table: NDArray[np.int32]  # [256], exp / 2**12, halves away from zero; 0 from `limit` on
    operator = "LOG_SOFTMAX"

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check sizes and the table, and that nothing overflows."""
        self._require_rows(tensors, "int8", 2**12 - 1)
        if self.table.shape != (256,) or self.table.dtype != np.int32:
            raise ValueError(f"{self.name}: the table must be 256 int32 values")
        require_no_overflow(self.operator, self.name, min(255, self.limit - 1), self.factor)
        if self.reverse.shift > 0:
            raise ValueError(f"{self.name}: the reverse factor must shift right")

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        (values,) = inputs
        below = self._below_greatest(values)
        log = log_of_sum(self.table.astype(np.int64)[below].sum(axis=1, keepdims=True))
        reach = -requantize(log - 2**31, self.reverse.multiplier, self.reverse.shift)
        counts = below < np.minimum(self.limit, reach)
        scaled = requantize(-np.where(counts, below, 0), self.factor.multiplier, self.factor.shift)
        result = np.clip(rounding_shift_right(scaled - log, 22) + 127, -128, 127)
        return _shaped(np.where(counts, result, -128), tensors[self.output])


@dataclass(frozen=True)
class ArgExtreme(Unary):
    """ARG_MAX and ARG_MIN over one axis of [outer, size, inner]: the index, int32; the first of equals."""

    outer: int
    size: int
    inner: int

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check sizes and types."""
        source, target = tensors[self.input], tensors[self.output]
        if source.size != self.outer * self.size * self.inner or target.size != self.outer * self.inner:
            raise ValueError(f"{self.name}: {source.size} in, {target.size} out")
        if source.dtype == "int32" or target.dtype != "int32":
            raise ValueError(f"{self.name}: {source.dtype} in, {target.dtype} out")

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        (values,) = inputs
        cubes = values.reshape(-1, self.outer, self.size, self.inner)
        found = (np.argmax if self.function == "ARG_MAX" else np.argmin)(cubes, axis=2)
        return _shaped(found, tensors[self.output])


def _shaped(values: Int64Array, target: Tensor) -> Array:
    return np.asarray(values).astype(target.dtype).reshape(-1, *target.shape)
