"""Operators with weights."""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.fixed_point import quantize_multiplier
from edgeqrl.network.functions import activation_range
from edgeqrl.network.ir import Layer
from edgeqrl.network.layers import Conv2D, Dense, DepthwiseConv2D, TransposeConv, Window
from edgeqrl.network.layers.window import Shape4, place_window, shape4
from edgeqrl.network.operators.operand import (
    INTEGER_RULES,
    Operator,
    Support,
    has_clamping_activation,
    is_activation,
    quantization,
)
from edgeqrl.network.tflite_model import TensorInfo

_WIDEST = 64  # of a window, where 4 times its input is less


@dataclass(frozen=True)
class _Role:
    """Where an operator has its operands, and how its weights lie."""

    source: int = 0
    bias: int = 2
    axis: int = 0  # of the weights: output channels
    rank: int = 4
    takes_int32_bias: bool = True  # with int16 activations; INT64 they take all


_ROLES = {
    "FULLY_CONNECTED": _Role(rank=2),
    "CONV_2D": _Role(),
    "DEPTHWISE_CONV_2D": _Role(axis=3, takes_int32_bias=False),
    "TRANSPOSE_CONV": _Role(source=2, bias=3, takes_int32_bias=False),
}


def has_constant_shape(op: Operator) -> bool:
    """It has one activation in and one out, and the output's shape as a constant [4] that is true."""
    shape, source = op.operand(0), op.operand(2)
    if source is None or source.is_constant or len(op.outputs) != 1 or op.target.is_constant:
        return False
    if shape is None or not shape.is_constant or shape.dtype != "INT32" or shape.shape != (4,):
        return False
    return tuple(np.asarray(shape.values()).tolist()) == op.target.shape


def has_transposed_activations(op: Operator) -> bool:
    """Input and output are both INT8, or both INT16 with zero point 0, with one scale each."""
    source = _source(op)
    return source.dtype == op.target.dtype and is_activation(source) and is_activation(op.target)


def has_int8_weights(op: Operator) -> bool:
    """Weights are constant INT8 [out, in], dense, row-major, with zero points that fit INT8."""
    return _has_plain_weights(op) and op.info.options["weights_format"] == "DEFAULT"


def has_int8_kernel(op: Operator) -> bool:
    """Weights are constant INT8 of four axes, dense, with zero points that fit INT8."""
    return _has_plain_weights(op)


def has_weight_scales(op: Operator) -> bool:
    """Weights have one finite positive scale, or one for each output channel."""
    weights, axis = _weights(op), _ROLES[op.info.name].axis
    if not np.all(np.isfinite(weights.scales) & (weights.scales > 0.0)):
        return False
    count = len(weights.scales)
    return count == 1 or (count == weights.shape[axis] and weights.quantized_axis == axis)


def has_matching_sizes(op: Operator) -> bool:
    """Input, flattened, is rows as long as the weights' columns; output is as many, [..., out]."""
    out, columns = _weights(op).shape
    rows, rest = divmod(op.source.size, columns)
    return rest == 0 and op.target.size == rows * out and op.target.shape[-1:] == (out,)


def has_matching_channels(op: Operator) -> bool:
    """Weights are [out, h, w, in]; `in` splits the input's channels into groups, and `out` into as many."""
    (out, _, _, depth), channels = _weights(op).shape, shape4(op.source.shape)[3]
    is_whole = channels % depth == 0 and out % (channels // depth) == 0
    return is_whole and shape4(op.target.shape)[3] == out


def has_matching_multiplier(op: Operator) -> bool:
    """Weights are [1, h, w, out], where `out` is the input's channels times the depth multiplier."""
    first, _, _, out = _weights(op).shape
    expected = shape4(op.source.shape)[3] * op.info.number("depth_multiplier")
    return first == 1 and out == expected == shape4(op.target.shape)[3]


def has_matching_depth(op: Operator) -> bool:
    """Weights are [out, h, w, in] with the channels of input and output."""
    out, _, _, depth = _weights(op).shape
    return (depth, out) == (shape4(_source(op).shape)[3], shape4(op.target.shape)[3])


def has_window(op: Operator) -> bool:
    """Sizes [n, h, w, c] follow from strides, dilations and padding; windows span at most 64 or 4 inputs."""
    return _window(op) is not None


def has_transposed_window(op: Operator) -> bool:
    """Sizes [n, h, w, c] are such that a convolution with these strides and padding would undo it."""
    return _window(op) is not None


def has_bias(op: Operator) -> bool:
    """Bias is absent, or constant [out] INT32, in 16x8 also INT64, of scale = input x weight scale."""
    return _has_plain_bias(op)


def has_wide_bias(op: Operator) -> bool:
    """Bias is absent, or constant [out] INT32, in 16x8 INT64, of scale = input x weight scale."""
    return _has_plain_bias(op)


def lower_dense(op: Operator) -> tuple[Layer, ...]:
    """Lower FULLY_CONNECTED."""
    rows = op.source.size // _weights(op).shape[1]
    return (Dense(*_parts(op), **_how(op), rows=rows),)


def lower_convolution(op: Operator) -> tuple[Layer, ...]:
    """Lower CONV_2D, DEPTHWISE_CONV_2D and TRANSPOSE_CONV."""
    window = _window(op)
    if window is None:
        raise ValueError(f"the sizes of '{op.target.name}' do not follow from its padding")
    if op.info.name == "CONV_2D":
        return (Conv2D(*_parts(op), window, **_how(op)),)
    if op.info.name == "DEPTHWISE_CONV_2D":
        return (DepthwiseConv2D(*_parts(op), window, **_how(op)),)
    return (TransposeConv(*_parts(op), window, **_how(op)),)


def is_wide(op: Operator) -> bool:
    """Tell whether TFLite Micro sums in 64 bits: int16 activations without an INT32 bias."""
    if op.target.dtype != "INT16":
        return False
    bias = op.operand(_ROLES[op.info.name].bias)
    if bias is not None:
        return bias.dtype == "INT64"
    # TRANSPOSE_CONV has the option too, but TFLite Micro does not ask it.
    return op.info.name == "TRANSPOSE_CONV" or op.info.options.get("quantized_bias_type") != "INT32"


def fused_range(op: Operator) -> tuple[int, int]:
    """Return what the fused activation allows: (output_min, output_max)."""
    return activation_range(op.info.fused_activation, *quantization(op.target), op.target.dtype.lower())


class _How(TypedDict):
    is_wide: bool
    weight_zero_points: NDArray[np.int32]


_Arrays = tuple[NDArray[np.int8], NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]


def _parts(op: Operator) -> tuple[str, str, str, *_Arrays, int, int]:
    """Return what every `Linear` has, in its order: name, input, output, weights ... output_max."""
    names = (op.target.name, _source(op).name, op.target.name)
    return *names, *_arrays(op), *fused_range(op)


def _how(op: Operator) -> _How:
    """Return what every `Linear` has and not always needs, by name."""
    return {"is_wide": is_wide(op), "weight_zero_points": _weights(op).zero_points.astype(np.int32)}


def _arrays(op: Operator) -> _Arrays:
    """Return weights, bias, multiplier and shift as `Linear` wants them."""
    weights, role = _weights(op), _ROLES[op.info.name]
    channels = weights.shape[role.axis]
    bias = op.operand(role.bias)
    values = np.zeros(channels, np.int64)
    if bias is not None:
        values = np.asarray(bias.values(), np.int64).reshape(channels)
    kernel = np.asarray(weights.values(), np.int8)
    if role.axis == 3:
        kernel = np.ascontiguousarray(np.moveaxis(kernel[0], -1, 0))
    pairs = [quantize_multiplier(scale) for scale in _effective_scales(op).tolist()]
    multiplier, shift = np.array(pairs, np.int32).reshape(channels, 2).T
    return kernel, values, np.ascontiguousarray(multiplier), np.ascontiguousarray(shift)


def _effective_scales(op: Operator) -> NDArray[np.float64]:
    """Return input scale x weight scale / output scale of each channel."""
    weights = _weights(op)
    (scale_in, _), (scale_out, _) = quantization(_source(op)), quantization(op.target)
    # All in double precision, as TFLite Micro; in FULLY_CONNECTED tflite-runtime multiplies a single weight
    # scale with the input's in float32 and so differs by one, rarely.
    scales = scale_in * weights.scales.astype(np.float64) / scale_out
    return np.broadcast_to(scales, (weights.shape[_ROLES[op.info.name].axis],))


def _source(op: Operator) -> TensorInfo:
    source = op.operand(_ROLES[op.info.name].source)
    assert source is not None
    return source


def _weights(op: Operator) -> TensorInfo:
    weights = op.operand(1)
    assert weights is not None
    return weights


def _has_plain_weights(op: Operator) -> bool:
    weights = op.operand(1)
    if weights is None or weights.dtype != "INT8" or not weights.is_constant or weights.is_sparse:
        return False
    is_plain = len(weights.shape) == _ROLES[op.info.name].rank and 0 not in weights.shape
    fits = np.all((weights.zero_points >= -128) & (weights.zero_points <= 127))
    return is_plain and len(weights.scales) > 0 and bool(fits)


def _has_plain_bias(op: Operator) -> bool:
    role, weights = _ROLES[op.info.name], _weights(op)
    bias = op.operand(role.bias)
    if bias is None:
        return True
    dtypes = ["INT64"] if op.target.dtype == "INT16" else ["INT32"]
    if role.takes_int32_bias:
        dtypes.append("INT32")
    if bias.dtype not in dtypes or not bias.is_constant or bias.size != weights.shape[role.axis]:
        return False
    if not np.any(bias.values()):
        return True  # converters share zeros among layers, whatever their scales
    expected = float(_source(op).scales[0]) * weights.scales.astype(np.float64)
    if len(bias.scales) != len(expected) or np.any(bias.zero_points) or not np.all(np.isfinite(bias.scales)):
        return False
    return bool(np.all(np.abs(bias.scales - expected) <= 1e-3 * expected))


def _window(op: Operator) -> Window | None:
    """Return where the kernel lies, or None where the file's sizes do not follow from its options."""
    if len(_source(op).shape) != 4 or len(op.target.shape) != 4:
        return None
    kernel = _weights(op).shape[1:3]
    large, small = shape4(_source(op).shape), shape4(op.target.shape)
    if op.info.name == "TRANSPOSE_CONV":
        large, small = small, large
    found = window_of(op, large, small, (kernel[0], kernel[1]))
    if found is None or op.info.name != "TRANSPOSE_CONV":
        return found
    return Window(small, large, found.kernel, found.stride, found.dilation, found.padding)


def window_of(op: Operator, large: Shape4, small: Shape4, kernel: tuple[int, int]) -> Window | None:
    """Return the window of `kernel` that takes [n, h, w, c] `large` to `small`, or None where none does."""
    options, padding = op.info.options, str(op.info.options["padding"])
    stride = (op.info.number("stride_h"), op.info.number("stride_w"))
    dilation = (1, 1)
    if "dilation_h_factor" in options:
        dilation = (op.info.number("dilation_h_factor"), op.info.number("dilation_w_factor"))
    is_known = padding in ("SAME", "VALID") and min(*stride, *dilation, *kernel) >= 1
    if not is_known or large[0] != small[0]:
        return None
    if any((kernel[i] - 1) * dilation[i] >= max(_WIDEST, 4 * large[1 + i]) for i in (0, 1)):
        return None  # almost all of it lies outside, and would cost memory
    places = [place_window(padding, large[1 + i], kernel[i], stride[i], dilation[i]) for i in (0, 1)]
    if (places[0][0], places[1][0]) != small[1:3]:
        return None
    return Window(large, small, kernel, stride, dilation, (places[0][1], places[1][1]))


_CONVOLUTION = (*INTEGER_RULES, has_int8_kernel, has_window)
_BOTH = "tflm, tflite-runtime"
_ASYMMETRIC = "a weight zero point other than 0 is our own formula: the interpreters ignore or refuse it"
_NO_BIAS = f"tflite-runtime refuses a missing bias; {_ASYMMETRIC}"
_NO_DEPTHWISE_BIAS = (
    "without a bias only the form with two inputs is confirmed: a third of -1 crashes TFLite Micro, and the "
    f"others refuse it; {_ASYMMETRIC}"
)
_DENSE = (
    "TFLite Micro decides: with several weight scales tflite-runtime takes the output's first two axes for "
    "rows and channels, a single one it rounds to float32, and without a bias it sums 16x8 in 32 bits; "
    "weight zero points other than 0 both know where there is a single one, several are our own formula"
)
_SHORT = (
    "without a bias tflite-runtime sums 16x8 in 32 bits and so differs by one; TFLite Micro decides; "
    f"{_ASYMMETRIC}"
)

SUPPORT = {
    "CONV_2D": Support(
        (*_CONVOLUTION, has_matching_channels, has_weight_scales, has_bias, has_clamping_activation),
        lower_convolution,
        note=_NO_BIAS,
        oracle_int16=_BOTH,
    ),
    "DEPTHWISE_CONV_2D": Support(
        (*_CONVOLUTION, has_matching_multiplier, has_weight_scales, has_wide_bias, has_clamping_activation),
        lower_convolution,
        note=_NO_DEPTHWISE_BIAS,
        oracle_int16=_BOTH,
    ),
    "FULLY_CONNECTED": Support(
        (
            *INTEGER_RULES,
            has_int8_weights,
            has_weight_scales,
            has_matching_sizes,
            has_bias,
            has_clamping_activation,
        ),
        lower_dense,
        note=_DENSE,
        oracle_int16=_BOTH,
    ),
    "TRANSPOSE_CONV": Support(
        (
            has_constant_shape,
            has_transposed_activations,
            has_int8_kernel,
            has_transposed_window,
            has_matching_depth,
            has_weight_scales,
            has_wide_bias,
            has_clamping_activation,
        ),
        lower_convolution,
        note=_SHORT,
        oracle_int16=_BOTH,
    ),
}
