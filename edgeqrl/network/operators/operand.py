"""An operator with its operands, and the rules that many operators share.

A rule is a function whose docstring is its line in SUPPORTED_OPS.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeqrl.network.ir import Layer
from edgeqrl.network.tflite_model import OperatorInfo, TensorInfo


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator with its operands, uniquely named; None stands for an optional input left out."""

    info: OperatorInfo
    inputs: tuple[TensorInfo | None, ...]
    outputs: tuple[TensorInfo, ...]

    @property
    def source(self) -> TensorInfo:
        """Return the activation that comes in."""
        assert self.inputs[0] is not None
        return self.inputs[0]

    @property
    def target(self) -> TensorInfo:
        """Return the activation that goes out."""
        return self.outputs[0]

    def operand(self, index: int) -> TensorInfo | None:
        """Return an input, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None


Rule = Callable[[Operator], bool]


@dataclass(frozen=True)
class Support:
    """How one operator of LiteRT becomes layers."""

    rules: tuple[Rule, ...]  # all must hold
    lower: Callable[[Operator], tuple[Layer, ...]]  # raises ValueError where the file contradicts itself
    note: str = ""  # for SUPPORTED_OPS.md: where the oracles differ, and which decides
    oracle: str = "tflm, tflite-runtime"  # which confirm int8, the one that decides first; "" no int8
    oracle_int16: str = ""  # likewise for int16 activations (16x8); "" where they are not supported


def quantization(tensor: TensorInfo) -> tuple[float, int]:
    """Return the scale and the zero point of an activation."""
    return float(tensor.scales[0]), int(tensor.zero_points[0])


def is_int8_activation(tensor: TensorInfo) -> bool:
    """Tell whether a tensor is INT8 with one scale and zero point, and has no empty axis."""
    return tensor.dtype == "INT8" and is_activation(tensor)


def is_activation(tensor: TensorInfo) -> bool:
    """Tell whether a tensor is INT8, or INT16 with zero point 0, with one scale and no empty axis."""
    if tensor.dtype not in ("INT8", "INT16") or len(tensor.scales) != 1 or tensor.is_variable:
        return False
    scale, zero_point = quantization(tensor)
    fits = -128 <= zero_point <= 127 if tensor.dtype == "INT8" else zero_point == 0
    return bool(np.isfinite(scale)) and scale > 0.0 and fits and 0 not in tensor.shape


def has_static_operands(op: Operator) -> bool:
    """It has one activation in and one out; what comes out is not a constant of the file."""
    return bool(op.inputs) and op.inputs[0] is not None and len(op.outputs) == 1 and not op.target.is_constant


def has_int8_activations(op: Operator) -> bool:
    """Input and output are INT8 with one scale and zero point each and no empty axis."""
    return all(is_int8_activation(tensor) for tensor in (op.source, op.target))


def has_integer_activations(op: Operator) -> bool:
    """Input and output are both INT8, or both INT16 with zero point 0, with one scale and no empty axis."""
    return op.source.dtype == op.target.dtype and all(is_activation(t) for t in (op.source, op.target))


def has_batch_of_one(op: Operator) -> bool:
    """The first axis of input and output is the batch and is 1: export with the input shape (1, ...)."""
    return all(t.shape[:1] == (1,) and 0 not in t.shape for t in (op.source, op.target))


def keeps_size(op: Operator) -> bool:
    """Output has as many elements as input."""
    return op.source.size == op.target.size


def keeps_quantization(op: Operator) -> bool:
    """Output has the scale and zero point of the input."""
    return quantization(op.source) == quantization(op.target)


def has_clamping_activation(op: Operator) -> bool:
    """Fused activation is NONE, RELU, or at output scales above 2^-28 RELU6 or RELU_N1_TO_1."""
    if op.info.fused_activation in ("RELU6", "RELU_N1_TO_1"):
        return quantization(op.target)[0] > 2.0**-28
    return op.info.fused_activation in ("NONE", "RELU")


# Of an operator with one activation in and one out: int8 alone, or int8 and int16.
INTEGER_RULES: tuple[Rule, ...] = (has_static_operands, has_integer_activations)
ACTIVATION_RULES: tuple[Rule, ...] = (has_static_operands, has_int8_activations, has_batch_of_one)
