"""Elementwise operators of one activation: a table in int8; lines, knots or a recipe in int16."""

import math

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.functions import (
    Factor,
    Table,
    activation_range,
    hard_swish_table,
    logistic_table,
    rescale_table,
    rsqrt_factor,
    rsqrt_table,
    tanh_table,
)
from edgeqrl.network.functions_float import FUNCTIONS, float_table, knot_table
from edgeqrl.network.ir import Layer
from edgeqrl.network.layers.lookup import Interpolation, InverseRoot, Lookup, Rescale, Sigmoid
from edgeqrl.network.layers.pairs import Pair
from edgeqrl.network.operators.operand import (
    INTEGER_RULES,
    Operator,
    Support,
    has_int8_activations,
    has_static_operands,
    is_activation,
    keeps_size,
    quantization,
)
from edgeqrl.network.tflite_model import shown

_CLAMPS = ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")
# The logistic function at i / 24 in 0.16: rounded to nearest, but one more at these.
_SIGMOID_ONE_MORE = (4, 8, 12, 14, 15, 16, 17, 19, 20, 21, 22, 25, 27, 28, 29, 30, 31, 33, 34, 35, 37, 39, 40,
                     41, 43, 44, 45, 46, 49, 50, 54, 62, 63, 64, 66, 82, 86, 93, 100, 103, 112, 116, 135,
                     255)  # fmt: skip


def has_near_scales(op: Operator) -> bool:
    """Input scale / output scale is below 2^22 (from int16: 2^15), so that nothing but saturation is lost."""
    most = 2.0**22 if op.source.dtype == "INT8" else 2.0**15
    return quantization(op.source)[0] / quantization(op.target)[0] < most


def has_integer_types(op: Operator) -> bool:
    """Input and output are each INT8, or INT16 with zero point 0, with one scale and no empty axis."""
    return is_activation(op.source) and is_activation(op.target)


def has_bounded_input(op: Operator) -> bool:
    """Input scale is above 2^-27 and below 8 in int8 (TFLite Micro takes 0 for -infinity), 2.66 in int16."""
    return 2.0**-27 < quantization(op.source)[0] < (8.0 if op.source.dtype == "INT8" else 2.66)


def has_clamp_scale(op: Operator) -> bool:
    """Output scale is above 2^-28."""
    return quantization(op.target)[0] > 2.0**-28


def has_root_scales(op: Operator) -> bool:
    """1 / (square root of the input scale x output scale) lies between 2^-11 and 2^29."""
    product = math.sqrt(quantization(op.source)[0]) * quantization(op.target)[0]
    return 2.0**-29 < product < 2.0**11


def has_tanh_output(op: Operator) -> bool:
    """Output scale is 1/128 in int8, 1/32768 in int16, and its zero point 0."""
    return quantization(op.target) == (1 / 128 if op.target.dtype == "INT8" else 1 / 32768, 0)


def has_logistic_output(op: Operator) -> bool:
    """Output scale is 1/256 and its zero point -128 in int8; 1/32768 and 0 in int16."""
    return quantization(op.target) == ((1 / 256, -128) if op.target.dtype == "INT8" else (1 / 32768, 0))


def has_positive_alpha(op: Operator) -> bool:
    """Alpha is not negative, and input scale x alpha / output scale below 2^22 (from int16: 2^15)."""
    alpha = _alpha(op)
    most = 2.0**22 if op.source.dtype == "INT8" else 2.0**15
    return alpha >= 0.0 and alpha * quantization(op.source)[0] / quantization(op.target)[0] < most


def has_swish_scales(op: Operator) -> bool:
    """In int8, input scale / output scale lies between 2^-8 and 127, the input scale from 2^-21 to 2^20."""
    scale = quantization(op.source)[0]
    ratio = scale / quantization(op.target)[0]
    return op.source.dtype != "INT8" or (2.0**-8 < ratio < 127.0 and 2.0**-21 < scale < 2.0**20)


def lower_elementwise(op: Operator) -> tuple[Layer, ...]:
    """Lower TANH, LOGISTIC, RSQRT, HARD_SWISH and the functions of functions_float."""
    name, function, source = op.target.name, op.info.name, op.source.name
    if op.source.dtype == "INT8":
        return (Lookup(name, function, source, name, _table(op)),)
    scale, _ = quantization(op.source)
    if function in ("TANH", "LOGISTIC"):
        multiplier, shift = _sigmoid_scaling(function, scale)
        return (Sigmoid(name, function, source, name, multiplier, shift, _sigmoid_table()),)
    scale_out, _ = quantization(op.target)
    if function == "RSQRT":
        return (InverseRoot(name, source, name, rsqrt_factor(scale, scale_out)),)
    ends = np.array([-(2**15), 2**15 - 1], np.float32)
    from_, to = ends * np.float32(scale), ends * np.float32(scale_out)
    knots = knot_table(FUNCTIONS[_function(op)], (from_[0], from_[1]), (to[0], to[1]))
    return (Interpolation(name, function, source, name, knots),)


def lower_lines(op: Operator) -> tuple[Layer, ...]:
    """Lower what is a line on both sides of zero: QUANTIZE, RELU*, LEAKY_RELU, ABS and NEG."""
    name, function = op.target.name, op.info.name
    (_, zero_point), (scale_out, zero_point_out) = quantization(op.source), quantization(op.target)
    positive, negative = _line_factors(op)
    clamp = function if function in _CLAMPS else "NONE"
    bounds = activation_range(clamp, scale_out, zero_point_out, op.target.dtype.lower())
    if (op.source.dtype, op.target.dtype) == ("INT8", "INT8"):
        table = rescale_table((positive, negative), (zero_point, zero_point_out), bounds)
        return (Lookup(name, function, op.source.name, name, table),)
    return (Rescale(name, function, op.source.name, name, positive, negative, *bounds),)


def lower_square(op: Operator) -> tuple[Layer, ...]:
    """Lower SQUARE to a MUL of the input by itself."""
    (scale, _), (scale_out, zero_point) = quantization(op.source), quantization(op.target)
    lowest, highest = activation_range("NONE", scale_out, zero_point, op.target.dtype.lower())
    name, source, shape = op.target.name, op.source.name, (op.target.size,)
    factor = Factor.of(_quotient(op, scale * scale / scale_out))
    return (Pair(name, "MUL", (source, source), name, shape, (1,), (1,), lowest, highest, factor=factor),)


def _quotient(op: Operator, real: float) -> float:
    if not math.isfinite(real) or real == 0.0:
        raise ValueError(f"the scales of '{shown(op.target.name)}' are out of range")
    return real


def _line_factors(op: Operator) -> tuple[Factor, Factor]:
    """Return the factors of values >= 0 and below, from the quotient of scales that the kernel computes."""
    name = op.info.name
    (scale, _), (scale_out, _) = quantization(op.source), quantization(op.target)
    effective = scale / scale_out
    if name in ("RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"):
        # tflite-runtime decides on them, and divides in float32.
        effective = float(np.float32(scale) / np.float32(scale_out))
    factor = Factor.of(_quotient(op, effective))
    minus = Factor(-factor.multiplier, factor.shift)
    if name == "LEAKY_RELU":
        return factor, Factor.of(scale * _alpha(op) / scale_out)
    if name == "ABS":
        return factor, minus
    return (minus, minus) if name == "NEG" else (factor, factor)


def _table(op: Operator) -> Table:
    (scale, zero_point), (scale_out, zero_point_out) = quantization(op.source), quantization(op.target)
    name = op.info.name
    if name == "TANH":
        return tanh_table(scale, zero_point)
    if name == "LOGISTIC":
        return logistic_table(scale, zero_point)
    if name == "RSQRT":
        return rsqrt_table(scale, zero_point, scale_out, zero_point_out)
    if name == "HARD_SWISH":
        return hard_swish_table(scale, zero_point, scale_out, zero_point_out)
    return float_table(FUNCTIONS[_function(op)], scale, zero_point, scale_out, zero_point_out)


def _function(op: Operator) -> str:
    is_approximate = op.info.name == "GELU" and op.info.options["approximate"]
    return f"{op.info.name} approximate" if is_approximate else op.info.name


def _alpha(op: Operator) -> float:
    alpha = op.info.options["alpha"]
    assert isinstance(alpha, float | int)
    return float(alpha)


def _sigmoid_scaling(function: str, scale: float) -> tuple[int, int]:
    """Return the multiplier and the shift to the right that bring an input to steps of 1 / 12288."""
    # The kernel takes for a power of two what is one within 0.07 %.
    log = np.float32(math.log(np.float32(scale))) * (np.float32(1) / np.float32(math.log(2.0)))
    exponent = int(math.copysign(math.floor(abs(float(log)) + 0.5), float(log)))
    left = 12 + exponent
    if abs(float(log) - exponent) < 1e-3 and left in ((0, 1) if function == "TANH" else (0,)):
        return 3 << left, 0
    real, shift = scale * 4096.0 * 3.0, 0
    while real <= 32767.0 / 2.0 and shift <= 30:
        real, shift = real * 2.0, shift + 1
    return int(real), shift


def _sigmoid_table() -> NDArray[np.uint16]:
    exact = [65536.0 / (1.0 + math.exp(-i / 24.0)) for i in range(256)]
    return np.array([round(v) + (i in _SIGMOID_ONE_MORE) for i, v in enumerate(exact)]).astype(np.uint16)


_BOTH = "tflm, tflite-runtime"
_RULES = (*INTEGER_RULES, keeps_size)
_LINE_RULES = (*_RULES, has_near_scales)
_CLAMP_RULES = (*_LINE_RULES, has_clamp_scale)
_FLOAT = "The table is computed in float32; its last bit could depend on the C library."
_OWN = "No interpreter has it for these types"
_LOGISTIC = (
    "int8: tflite-runtime tabulates the real function and is one unit away, rarely; up to 5 for input scales "
    "from 4, where TFLite Micro saturates."
)
_QUOTIENT = "tflite-runtime divides the scales in float32 and is one unit away, rarely."
_SATURATES = f"{_FLOAT} What leaves int32 saturates, as on Arm; on x86 tflite-runtime wraps."
_ELU = f"{_FLOAT} What leaves int32 saturates, as on Arm; on x86 TFLite Micro wraps. int16: {_OWN}."
_INT8_RULES = (has_static_operands, has_int8_activations, keeps_size)

SUPPORT = {
    "ABS": Support(_LINE_RULES, lower_lines, note=_QUOTIENT, oracle_int16=_BOTH),
    "COS": Support(_INT8_RULES, lower_elementwise, note=f"{_OWN}.", oracle="reference"),
    "ELU": Support(
        _RULES,
        lower_elementwise,
        note=_ELU,
        oracle="tflm",
        oracle_int16="reference",
    ),
    "EXP": Support(
        _RULES, lower_elementwise, note=_SATURATES, oracle="tflite-runtime", oracle_int16="tflite-runtime"
    ),
    "GELU": Support(
        _RULES, lower_elementwise, note=_SATURATES, oracle="tflite-runtime", oracle_int16="litert"
    ),
    "HARD_SWISH": Support(
        (*_RULES, has_swish_scales),
        lower_elementwise,
        note=f"int16: {_OWN}.",
        oracle_int16="reference",
    ),
    "LEAKY_RELU": Support(
        (*_LINE_RULES, has_positive_alpha), lower_lines, note=_QUOTIENT, oracle_int16=_BOTH
    ),
    "LOG": Support(
        _INT8_RULES,
        lower_elementwise,
        note=f"{_FLOAT} Without a logarithm: the least output.",
        oracle="litert",
    ),
    "LOGISTIC": Support(
        (*_RULES, has_bounded_input, has_logistic_output),
        lower_elementwise,
        note=_LOGISTIC,
        oracle_int16=_BOTH,
    ),
    "NEG": Support(_LINE_RULES, lower_lines, note=f"{_OWN}.", oracle="reference", oracle_int16="reference"),
    "QUANTIZE": Support(
        (has_static_operands, has_integer_types, keeps_size, has_near_scales),
        lower_lines,
        oracle_int16=_BOTH,
    ),
    "RELU": Support(_LINE_RULES, lower_lines, note=_QUOTIENT, oracle_int16=_BOTH),
    "RELU6": Support(
        _CLAMP_RULES,
        lower_lines,
        note="Where input and output differ in scale, as tflite-runtime: TFLite Micro does not rescale.",
        oracle_int16=_BOTH,
    ),
    "RELU_0_TO_1": Support(_CLAMP_RULES, lower_lines, oracle="tflite-runtime", oracle_int16="reference"),
    "RELU_N1_TO_1": Support(_CLAMP_RULES, lower_lines, oracle="tflite-runtime", oracle_int16="reference"),
    "RSQRT": Support((*_RULES, has_root_scales), lower_elementwise, oracle_int16="tflm"),
    "SIN": Support(_INT8_RULES, lower_elementwise, note=f"{_OWN}.", oracle="reference"),
    "SQRT": Support(
        _INT8_RULES,
        lower_elementwise,
        note="Rounded to nearest; LiteRT's own is up to one unit away.",
        oracle="reference",
    ),
    "SQUARE": Support(
        _RULES,
        lower_square,
        note="As MUL of the input by itself.",
        oracle="reference",
        oracle_int16="reference",
    ),
    "TANH": Support((*_RULES, has_bounded_input, has_tanh_output), lower_elementwise, oracle_int16=_BOTH),
}
