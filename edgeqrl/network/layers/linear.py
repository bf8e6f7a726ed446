"""Layers with weights: sums of products, requantized. Sums are exact, whatever their order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.fixed_point import INT32_MAX, Int64Array, requantize, requantize_int64
from edgeqrl.network.ir import Array, Tensor
from edgeqrl.network.layers.window import Window

Float64Array = NDArray[np.float64]

_INT64_SUM_MAX = 2**47 - 1  # what requantize_int64 takes
_ELEMENTS_AT_ONCE = 2**21  # bounds the float64 copies of activations


def _symmetric() -> NDArray[np.int32]:
    return np.zeros(1, np.int32)


@dataclass(frozen=True, eq=False)
class Linear:
    """What all of them have: q_out = clamp(zp_out + requantize(bias + sum((q_in - zp_in) * (w - zp_w)))).

    zp_w is 0 for symmetric weights, which are all that TensorFlow Lite makes.

    Padding adds nothing to the sum: it is a q_in of zp_in. The clamp is to [output_min, output_max], and
    requantize is, channel by channel and with left = max(shift, 0), right = max(-shift, 0):

    - not is_wide: the sum fits int32, shifted left by `left` too. high = (sum << left) * multiplier
      / 2**31 to nearest, halves up (the product in 64 bits, plus 2**30, arithmetic shift right by 31); then
      high / 2**right to nearest, halves away from zero. So in `fixed_point.requantize`.
    - is_wide: the sum needs up to 47 bits besides its sign. m = min((multiplier + 2**15) >> 16, 2**15 - 1);
      the result is (sum * m + 2**(14 - shift)) >> (15 - shift), in 64 bits, shift in [-31, 7].
      So in `fixed_point.requantize_int64`.

    Either way the result with zp_out added fits int32.
    """

    name: str
    input: str
    output: str
    weights: NDArray[np.int8]  # axis 0: output channels
    bias: NDArray[np.int64]  # [channels], scale = input scale * weight scale
    multiplier: NDArray[np.int32]  # [channels], Q0.31, in [2**30, 2**31), or 0: too small for any shift
    shift: NDArray[np.int32]  # [channels], > 0 shifts left
    output_min: int  # fused activation, in quantized units
    output_max: int
    is_wide: bool = field(default=False, kw_only=True)  # int16 inputs summed in 64 bits: no INT32 bias
    weight_zero_points: NDArray[np.int32] = field(
        kw_only=True, default_factory=_symmetric
    )  # [channels] or [1]

    @property
    def operator(self) -> str:
        """Return LiteRT's builtin name."""
        raise NotImplementedError

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the one activation that is read."""
        return (self.input,)

    @property
    def is_symmetric(self) -> bool:
        """Tell whether the zero point of all weights is 0."""
        return not np.any(self.weight_zero_points)

    @property
    def centred_weights(self) -> NDArray[np.int16]:
        """Return weight - zero point, shaped as the weights."""
        zero_points = self.weight_zero_points.astype(np.int16)
        return self.weights - zero_points.reshape(-1, *(1,) * (self.weights.ndim - 1))

    def run(self, inputs: Sequence[Array], tensors: Mapping[str, Tensor]) -> Array:
        """Return the output [N, *shape]."""
        (values,) = inputs
        target = tensors[self.output]
        result = np.empty((len(values), *target.shape), target.dtype)
        rescale = requantize_int64 if self.is_wide else requantize
        for some in self._chunks(len(values), tensors):
            sums = self.accumulators(values[some], tensors)
            scaled = rescale(sums, self.multiplier, self.shift) + target.zero_point
            result[some] = np.clip(scaled, self.output_min, self.output_max).reshape(-1, *target.shape)
        return result

    def accumulators(self, values: Array, tensors: Mapping[str, Tensor]) -> Int64Array:
        """Return bias + sum((q_in - zp_in) * (w - zp_w)), [..., channels], for an input [N, *shape]."""
        zero_point = tensors[self.input].zero_point
        # float64 sums of integer products are exact below 2**53, and BLAS is fast at them.
        parts = [
            self._sums(values[some].astype(np.float64) - zero_point).astype(np.int64)
            for some in self._chunks(len(values), tensors)
        ]
        return np.concatenate(parts) + self.bias

    def require_safe(self, source: Tensor, target: Tensor) -> None:
        """Check the parts that all have; raise where a sum could leave its bits."""
        channels = len(self.weights)
        for values, dtype in ((self.bias, np.int64), (self.multiplier, np.int32), (self.shift, np.int32)):
            if values.shape != (channels,) or values.dtype != dtype:
                raise ValueError(f"{self.name}: bias, multiplier and shift must be [{channels}]")
        if self.weight_zero_points.shape not in ((1,), (channels,)):
            raise ValueError(f"{self.name}: weights have one zero point, or [{channels}]")
        lowest, highest = target.range
        if not lowest <= self.output_min <= self.output_max <= highest:
            raise ValueError(f"{self.name}: activation range must lie in {target.dtype}")
        if source.dtype != target.dtype or source.dtype not in ("int8", "int16"):
            raise ValueError(f"{self.name}: {source.dtype} in, {target.dtype} out")
        if self.is_wide and source.dtype != "int16":
            raise ValueError(f"{self.name}: only int16 inputs are summed in 64 bits")
        if np.any(self.shift < -31) or np.any(self.shift > (7 if self.is_wide else 30)):
            raise UnsupportedOperatorError(
                f"{self.operator} at '{self.name}' is not supported: its scales differ by more than "
                f"2^{7 if self.is_wide else 31}. Retrain or rescale the layer."
            )
        is_unsafe = self._could_overflow(source, target)
        if np.any(is_unsafe):
            raise UnsupportedOperatorError(
                f"{self.operator} at '{self.name}' is not supported: output {int(np.argmax(is_unsafe))} "
                f"could overflow its {47 if self.is_wide else 32}-bit accumulator. Use fewer inputs or "
                "smaller biases."
            )

    def _could_overflow(self, source: Tensor, target: Tensor) -> NDArray[np.bool_]:
        bound = accumulator_bound(self, source.zero_point, source.range)
        left = np.maximum(self.shift, 0).astype(np.int64)
        limit = _INT64_SUM_MAX if self.is_wide else INT32_MAX >> left
        rescale = requantize_int64 if self.is_wide else requantize
        largest = rescale(np.minimum(bound, limit), self.multiplier, self.shift)
        return np.asarray((bound > limit) | (largest + abs(target.zero_point) > INT32_MAX))

    def _chunks(self, count: int, tensors: Mapping[str, Tensor]) -> Iterator[slice]:
        step = max(_ELEMENTS_AT_ONCE // self._workspace(tensors), 1)
        return (slice(start, start + step) for start in range(0, max(count, 1), step))

    def _workspace(self, tensors: Mapping[str, Tensor]) -> int:
        """Count the elements of the largest array that `_sums` makes of one sample."""
        return max(tensors[self.input].size, tensors[self.output].size)

    def _sums(self, centred: Float64Array) -> Float64Array:
        """Return sum((q_in - zp_in) * (w - zp_w)) for centred inputs [N, *shape]."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Dense(Linear):
    """FULLY_CONNECTED: weights [out, in]; an input of more than `in` elements is so many rows."""

    rows: int = field(default=1, kw_only=True)  # of one inference: input [rows, in], output [rows, out]

    @property
    def operator(self) -> str:
        """Return LiteRT's builtin name."""
        return "FULLY_CONNECTED"

    @property
    def num_macs(self) -> int:
        """Count the multiply-accumulates of one inference."""
        return self.rows * self.weights.size

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check shapes and ranges, and that no accumulator can overflow."""
        source, target = tensors[self.input], tensors[self.output]
        out, columns = self.weights.shape
        if (source.size, target.size) != (self.rows * columns, self.rows * out):
            raise ValueError(f"{self.name}: weights {self.weights.shape} do not fit its tensors")
        self.require_safe(source, target)

    def _sums(self, centred: Float64Array) -> Float64Array:
        return np.asarray(centred.reshape(-1, self.weights.shape[1]) @ self._transposed)

    @cached_property
    def _transposed(self) -> Float64Array:
        return np.ascontiguousarray(self.centred_weights.T.astype(np.float64))


@dataclass(frozen=True, eq=False)
class _Windowed(Linear):
    """A Linear whose inputs lie in a window."""

    window: Window

    def require_consistent(self, tensors: Mapping[str, Tensor]) -> None:
        """Check shapes and ranges, and that no accumulator can overflow."""
        source, target = tensors[self.input], tensors[self.output]
        self.window.require_consistent(self.name)
        sizes = [int(np.prod(s)) for s in (self.window.input_shape, self.window.output_shape)]
        if sizes != [source.size, target.size] or not self._fits():
            raise ValueError(
                f"{self.name}: weights {self.weights.shape} do not fit {self.window} or its tensors"
            )
        self.require_safe(source, target)

    def _fits(self) -> bool:
        """Tell whether the weights have the window's kernel and channels."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Conv2D(_Windowed):
    """CONV_2D: weights [out_c, kernel h, kernel w, in_c // groups].

    Output channel c sums over the input channels of its group, c // (out_c // groups); they are
    group * (in_c // groups) and those that follow.
    """

    @property
    def operator(self) -> str:
        """Return LiteRT's builtin name."""
        return "CONV_2D"

    @property
    def groups(self) -> int:
        """Count the groups; 1 for a plain convolution."""
        return self.window.input_shape[3] // self.weights.shape[3]

    @property
    def num_macs(self) -> int:
        """Count the multiply-accumulates of one inference, those on padding too."""
        return self.window.num_positions * self.weights.size

    def _fits(self) -> bool:
        out, *kernel, depth = self.weights.shape
        (*_, channels), (*_, out_channels) = self.window.input_shape, self.window.output_shape
        is_whole = channels % depth == 0 and out % (channels // depth) == 0
        return out == out_channels and tuple(kernel) == self.window.kernel and is_whole

    def _workspace(self, tensors: Mapping[str, Tensor]) -> int:
        patches = self.window.num_positions * int(self.weights[0].size) * self.groups
        return max(patches, tensors[self.output].size)

    def _sums(self, centred: Float64Array) -> Float64Array:
        window, depth = self.window, self.weights.shape[3]
        patches = window.patches(centred.reshape(-1, *window.input_shape[1:]), 0.0)
        shape = (*patches.shape[:3], -1)
        parts = [
            patches[..., i * depth : (i + 1) * depth].reshape(-1, len(columns)) @ columns
            for i, columns in enumerate(self._columns)
        ]
        return np.asarray(np.concatenate(parts, axis=1).reshape(shape))

    @cached_property
    def _columns(self) -> list[Float64Array]:
        groups = np.split(self.centred_weights.astype(np.float64), self.groups)
        return [np.ascontiguousarray(group.reshape(len(group), -1).T) for group in groups]


@dataclass(frozen=True, eq=False)
class DepthwiseConv2D(_Windowed):
    """DEPTHWISE_CONV_2D: weights [out_c, kernel h, kernel w], which the file stores with out_c last.

    Output channel c sees the input channel c // depth_multiplier.
    """

    @property
    def operator(self) -> str:
        """Return LiteRT's builtin name."""
        return "DEPTHWISE_CONV_2D"

    @property
    def depth_multiplier(self) -> int:
        """Count the output channels of one input channel."""
        return self.window.output_shape[3] // self.window.input_shape[3]

    @property
    def num_macs(self) -> int:
        """Count the multiply-accumulates of one inference, those on padding too."""
        return self.window.num_positions * self.weights.size

    def _fits(self) -> bool:
        out, *kernel = self.weights.shape
        (*_, channels), (*_, out_channels) = self.window.input_shape, self.window.output_shape
        return out == out_channels and out % channels == 0 and tuple(kernel) == self.window.kernel

    def _sums(self, centred: Float64Array) -> Float64Array:
        window, (_, kernel_h, kernel_w) = self.window, self.weights.shape
        patches = window.patches(centred.reshape(-1, *window.input_shape[1:]), 0.0)
        channels = window.input_shape[3]
        shape = (channels, self.depth_multiplier, kernel_h, kernel_w)
        factors = self.centred_weights.astype(np.float64).reshape(shape)
        sums = np.zeros((*patches.shape[:3], channels, self.depth_multiplier))
        for y in range(kernel_h):
            for x in range(kernel_w):
                sums += patches[:, :, :, y, x, :, None] * factors[:, :, y, x]
        return sums.reshape(*patches.shape[:3], -1)


@dataclass(frozen=True, eq=False)
class TransposeConv(_Windowed):
    """TRANSPOSE_CONV: weights [out_c, kernel h, kernel w, in_c]; inputs scatter, as `Window` says.

    As a sum per output: (y, x) gets (q_in[iy, ix] - zp_in) * w[ky, kx] from every ky, kx where
    y + padding - ky is stride * iy for an iy inside the input, and so for x. Padding follows from the
    output's size, as if it were the input of a CONV_2D. Dilation is 1.
    """

    @property
    def operator(self) -> str:
        """Return LiteRT's builtin name."""
        return "TRANSPOSE_CONV"

    @property
    def num_macs(self) -> int:
        """Count the multiply-accumulates of one inference, those that fall outside too."""
        n, h, w, _ = self.window.input_shape
        return n * h * w * self.weights.size

    def _fits(self) -> bool:
        out, *kernel, depth = self.weights.shape
        channels = (self.window.input_shape[3], self.window.output_shape[3])
        is_plain = self.window.dilation == (1, 1) and tuple(kernel) == self.window.kernel
        return (depth, out) == channels and is_plain

    def _workspace(self, tensors: Mapping[str, Tensor]) -> int:
        n, h, w, _ = self.window.input_shape
        return max(n * h * w * self.weights[..., 0].size, 2 * tensors[self.output].size)

    def _sums(self, centred: Float64Array) -> Float64Array:
        window, (out, kernel_h, kernel_w, depth) = self.window, self.weights.shape
        _, height, width, _ = window.input_shape
        values = centred.reshape(-1, depth)
        products = (values @ self._columns).reshape(-1, height, width, kernel_h, kernel_w, out)
        (step_y, step_x), (top, left) = window.stride, window.padding
        _, out_h, out_w, _ = window.output_shape
        span_y, span_x = (height - 1) * step_y + 1, (width - 1) * step_x + 1
        full = (max(span_y + kernel_h - 1, top + out_h), max(span_x + kernel_w - 1, left + out_w))
        sums = np.zeros((len(products), *full, out))
        for y in range(kernel_h):
            for x in range(kernel_w):
                sums[:, y : y + span_y : step_y, x : x + span_x : step_x] += products[:, :, :, y, x]
        return sums[:, top : top + out_h, left : left + out_w]

    @cached_property
    def _columns(self) -> Float64Array:
        rows = np.moveaxis(self.centred_weights, 0, 2).astype(np.float64)  # [kernel h, kernel w, out_c, in_c]
        return np.ascontiguousarray(rows.reshape(-1, rows.shape[3]).T)


def accumulator_bound(
    layer: Linear, zero_point: int, input_range: tuple[int, int] = (-128, 127)
) -> NDArray[np.int64]:
    """Bound |accumulator| per output channel, over every input and every order of summation."""
    farthest = max(input_range[1] - zero_point, zero_point - input_range[0])
    weights = layer.centred_weights.reshape(len(layer.weights), -1).astype(np.int64)
    bias = np.abs(np.clip(layer.bias, -(2**62), 2**62))  # far beyond what is safe, without wrapping
    return np.asarray(np.abs(weights).sum(axis=1) * farthest + bias)
