"""Elementwise operators of two tensors, activations or constants, with broadcasting."""

import numpy as np

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.fixed_point import quantize_multiplier
from edgeqrl.network.functions import Factor, activation_range
from edgeqrl.network.ir import Layer, Tensor
from edgeqrl.network.layers.pairs import Pair, broadcast_strides
from edgeqrl.network.operators.operand import (
    Operator,
    Support,
    has_clamping_activation,
    is_activation,
    quantization,
)
from edgeqrl.network.tflite_model import TensorInfo, shown

# Bits that operands are shifted left by, so that scaling them down loses nothing.
_LEFT_SHIFTS = {
    ("ADD", "INT8"): 20,
    ("ADD", "INT16"): 15,
    ("SUB", "INT8"): 20,
    ("SUB", "INT16"): 15,
    ("SQUARED_DIFFERENCE", "INT8"): 7,
    ("SQUARED_DIFFERENCE", "INT16"): 0,
}


def has_two_operands(op: Operator) -> bool:
    """It has two operands, at least one of them computed, and one output."""
    operands = op.operand(0), op.operand(1)
    if None in operands or len(op.inputs) != 2 or len(op.outputs) != 1:
        return False
    return not all(t is not None and t.is_constant for t in operands) and not op.target.is_constant


def has_same_type(op: Operator) -> bool:
    """Operands and output are all INT8, or all INT16 with zero point 0, with one scale and no empty axis."""
    a, b = _operands(op)
    return a.dtype == b.dtype == op.target.dtype and all(is_activation(t) for t in (a, b, op.target))


def has_alpha(op: Operator) -> bool:
    """Input and output are INT8 or INT16; alpha is a constant, INT8 or of the input's type."""
    x, alpha = _operands(op)
    types_fit = x.dtype == op.target.dtype and alpha.dtype in ("INT8", x.dtype)
    return alpha.is_constant and types_fit and all(is_activation(t) for t in (x, alpha, op.target))


def has_broadcast_shapes(op: Operator) -> bool:
    """Output has the shape to which the operands broadcast."""
    a, b = _operands(op)
    try:
        return np.broadcast_shapes(a.shape, b.shape) == op.target.shape
    except ValueError:
        return False


def has_one_quantization(op: Operator) -> bool:
    """Operands and output have the same scale and zero point."""
    return len({quantization(t) for t in (*_operands(op), op.target)}) == 1


def has_sum_scales(op: Operator) -> bool:
    """Output scale is above the greater input scale x 2^-19 in int8, x 2^-14 in int16."""
    try:
        _, _, factor = _sum_factors(op)
    except ValueError:
        return False
    return factor.shift <= 0


def fits_32_bits(op: Operator) -> bool:
    """No value could overflow 32 bits: operand scales too large for the output scale are refused."""
    a, b = (Tensor(t.name, t.shape, *quantization(t), t.dtype.lower()) for t in _operands(op))
    try:
        (layer,) = lower_product(op) if op.info.name == "MUL" else lower_sum(op)
        layer.require_no_overflow(a, b)
    except (ValueError, UnsupportedOperatorError):
        return False
    return True


def lower_sum(op: Operator) -> tuple[Pair, ...]:
    """Lower ADD, SUB and SQUARED_DIFFERENCE."""
    factor_a, factor_b, factor = _sum_factors(op)
    left_shift = _LEFT_SHIFTS[op.info.name, op.target.dtype]
    return (_pair(op, left_shift=left_shift, factor_a=factor_a, factor_b=factor_b, factor=factor),)


def lower_product(op: Operator) -> tuple[Pair, ...]:
    """Lower MUL."""
    (scale_a, _), (scale_b, _) = (quantization(t) for t in _operands(op))
    return (_pair(op, factor=_factor(op, scale_a * scale_b / quantization(op.target)[0])),)


def lower_extreme(op: Operator) -> tuple[Layer, ...]:
    """Lower MAXIMUM and MINIMUM."""
    return (_pair(op),)


def lower_prelu(op: Operator) -> tuple[Layer, ...]:
    """Lower PRELU."""
    (scale, _), (scale_alpha, _) = (quantization(t) for t in _operands(op))
    scale_out, _ = quantization(op.target)
    identity = _factor(op, scale / scale_out)
    return (_pair(op, factor_a=identity, factor_b=_factor(op, scale * scale_alpha / scale_out)),)


def _pair(op: Operator, left_shift: int = 0, **factors: Factor) -> Pair:
    a, b = _operands(op)
    shape, strides_a, strides_b = broadcast_strides(a.shape, b.shape, op.target.shape)
    scale, zero_point = quantization(op.target)
    lowest, highest = activation_range(op.info.fused_activation, scale, zero_point, op.target.dtype.lower())
    return Pair(
        name=op.target.name,
        function=op.info.name,
        inputs=(a.name, b.name),
        output=op.target.name,
        shape=shape,
        strides_a=strides_a,
        strides_b=strides_b,
        output_min=lowest,
        output_max=highest,
        left_shift=left_shift,
        **factors,
    )


def _operands(op: Operator) -> tuple[TensorInfo, TensorInfo]:
    a, b = op.operand(0), op.operand(1)
    assert a is not None
    assert b is not None
    return a, b


def _sum_factors(op: Operator) -> tuple[Factor, Factor, Factor]:
    """Return the factors of a, of b and of their sum, difference or its square."""
    scale_a, scale_b, scale_out = (quantization(t)[0] for t in (*_operands(op), op.target))
    unit = 2.0 * max(scale_a, scale_b)
    shift = _LEFT_SHIFTS[op.info.name, op.target.dtype]
    if op.info.name == "SQUARED_DIFFERENCE":
        last = unit * unit / (2.0 ** (2 * shift) * scale_out)
    else:
        last = unit / (2.0**shift * scale_out)
    return _factor(op, scale_a / unit), _factor(op, scale_b / unit), _factor(op, last)


def _factor(op: Operator, real: float) -> Factor:
    if not (np.isfinite(real) and real > 0.0):
        raise ValueError(f"the scales of '{shown(op.target.name)}' are out of range")
    return Factor(*quantize_multiplier(real))


_BOTH = "tflm, tflite-runtime"
_FLOAT32 = "tflite-runtime computes the factor in float32 and is one unit away, rarely."
_POT = "int16: TFLite Micro ignores pot_scale_int16, tflite-runtime then shifts; converters do not set it."
_RULES = (has_two_operands, has_same_type, has_broadcast_shapes)

SUPPORT = {
    "ADD": Support(
        (*_RULES, has_clamping_activation, has_sum_scales),
        lower_sum,
        note=_POT,
        oracle_int16=_BOTH,
    ),
    "MAXIMUM": Support((*_RULES, has_one_quantization), lower_extreme, oracle_int16=_BOTH),
    "MINIMUM": Support((*_RULES, has_one_quantization), lower_extreme, oracle_int16=_BOTH),
    "MUL": Support(
        (*_RULES, has_clamping_activation, fits_32_bits),
        lower_product,
        note=_FLOAT32,
        oracle_int16=_BOTH,
    ),
    "PRELU": Support(
        (has_two_operands, has_alpha, has_broadcast_shapes),
        lower_prelu,
        note=f"{_FLOAT32} int16 with INT16 alpha: by the formula for INT8 alpha.",
        oracle_int16="tflm",
    ),
    "SQUARED_DIFFERENCE": Support((*_RULES, fits_32_bits), lower_sum, oracle_int16="tflm"),
    "SUB": Support(
        (*_RULES, has_clamping_activation, has_sum_scales),
        lower_sum,
        note=_POT,
        oracle_int16=_BOTH,
    ),
}
