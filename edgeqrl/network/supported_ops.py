"""What the integer engine accepts: one rule a function, whose docstring is its line in SUPPORTED_OPS.md.

`python -m edgeqrl.network.supported_ops` prints that file. Where TFLite Micro and tflite-runtime's
reference kernels are known to disagree by more than rounding, the case is refused.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.tflite_model import OperatorInfo, TensorInfo, TFLiteModel, shown


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator with its operands; None stands for an optional input left out."""

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


Rule = Callable[[Operator], bool]


def has_static_operands(op: Operator) -> bool:
    """It has one activation in and one out; the activation is computed, not a constant."""
    is_activation = bool(op.inputs) and op.inputs[0] is not None and not op.inputs[0].is_constant
    return is_activation and len(op.outputs) == 1 and not op.outputs[0].is_constant


def has_int8_activations(op: Operator) -> bool:
    """Input and output are INT8 with one scale and zero point each: full-integer quantization."""
    return all(_is_int8_activation(tensor) for tensor in (op.source, op.target))


def has_batch_of_one(op: Operator) -> bool:
    """The first axis of input and output is the batch and is 1: export with the input shape (1, ...)."""
    return all(t.shape[:1] == (1,) and 0 not in t.shape for t in (op.source, op.target))


def keeps_size(op: Operator) -> bool:
    """Output has as many elements as input."""
    return op.source.size == op.target.size


def keeps_quantization(op: Operator) -> bool:
    """Output has the scale and zero point of the input."""
    return _quantization(op.source) == _quantization(op.target)


def has_near_scales(op: Operator) -> bool:
    """Input scale / output scale is below 2^22, so that nothing but saturation is lost."""
    return float(op.source.scales[0]) / float(op.target.scales[0]) < 2.0**22


def has_bounded_input(op: Operator) -> bool:
    """Input scale is below 4: beyond it TFLite Micro and tflite-runtime disagree."""
    return float(op.source.scales[0]) < 4.0


def has_tanh_output(op: Operator) -> bool:
    """Output scale is 1/128 and its zero point 0, as the int8 scheme says."""
    return _quantization(op.target) == (1 / 128, 0)


def has_logistic_output(op: Operator) -> bool:
    """Output scale is 1/256 and its zero point -128, as the int8 scheme says."""
    return _quantization(op.target) == (1 / 256, -128)


def has_int8_weights(op: Operator) -> bool:
    """Weights are constant INT8 [out, in], dense, row-major, with zero point 0."""
    weights = _operand(op, 1)
    if weights is None or weights.dtype != "INT8" or not weights.is_constant:
        return False
    is_plain = not weights.is_sparse and not op.info.is_shuffled and len(weights.shape) == 2
    return is_plain and len(weights.scales) > 0 and not np.any(weights.zero_points)


def has_weight_scales(op: Operator) -> bool:
    """Weights have one finite positive scale, or one for each output (axis 0)."""
    weights = _operand(op, 1)
    assert weights is not None
    if not np.all(np.isfinite(weights.scales) & (weights.scales > 0.0)):
        return False
    count = len(weights.scales)
    return count == 1 or (count == weights.shape[0] and weights.quantized_axis == 0)


def has_matching_sizes(op: Operator) -> bool:
    """Input, flattened, has one element for each column of the weights, output one for each row."""
    weights = _operand(op, 1)
    assert weights is not None
    return (op.target.size, op.source.size) == weights.shape


def has_int32_bias(op: Operator) -> bool:
    """Bias is absent, or constant INT32 [out] with scale = input scale x weight scale."""
    bias, weights = _operand(op, 2), _operand(op, 1)
    if bias is None:
        return True
    assert weights is not None
    if bias.dtype != "INT32" or not bias.is_constant or bias.size != weights.shape[0]:
        return False
    expected = float(op.source.scales[0]) * weights.scales.astype(np.float64)
    if len(bias.scales) != len(expected) or np.any(bias.zero_points) or not np.all(np.isfinite(bias.scales)):
        return False
    return bool(np.all(np.abs(bias.scales - expected) <= 1e-3 * expected))


def has_clamping_activation(op: Operator) -> bool:
    """Fused activation is NONE, RELU, RELU6 or RELU_N1_TO_1."""
    return op.info.fused_activation in ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")


def has_static_shape(op: Operator) -> bool:
    """The new shape is known in the file, not computed."""
    shape = _operand(op, 1)
    return shape is None or shape.is_constant


_ACTIVATION_RULES: tuple[Rule, ...] = (has_static_operands, has_int8_activations, has_batch_of_one)

RULES: dict[str, tuple[Rule, ...]] = {
    "FULLY_CONNECTED": (
        *_ACTIVATION_RULES,
        has_int8_weights,
        has_weight_scales,
        has_matching_sizes,
        has_int32_bias,
        has_clamping_activation,
    ),
    "LOGISTIC": (*_ACTIVATION_RULES, keeps_size, has_bounded_input, has_logistic_output),
    "QUANTIZE": (*_ACTIVATION_RULES, keeps_size, has_near_scales),
    "RELU": (*_ACTIVATION_RULES, keeps_size, has_near_scales),
    "RELU6": (*_ACTIVATION_RULES, keeps_size, keeps_quantization),  # TFLite Micro would not rescale
    "RELU_N1_TO_1": (*_ACTIVATION_RULES, keeps_size, has_near_scales),
    "RESHAPE": (*_ACTIVATION_RULES, keeps_size, keeps_quantization, has_static_shape),
    "TANH": (*_ACTIVATION_RULES, keeps_size, has_bounded_input, has_tanh_output),
}

_EDGES = ("QUANTIZE", "DEQUANTIZE")
_SHAPE_CURE = "Export the model with a fixed input shape whose batch is 1."
_CLIP_CURE = "Leave out the clipping: --head clip clips actions to their bounds."
_CHAIN_CURE = "Train a plain chain of Dense layers."
_CONVOLUTION_CURE = "Use Dense layers on the flattened observation, and train again."
_RECURRENT_CURE = "Recurrent layers are not supported yet: train a feed-forward model."
_CURES = {
    "ARG_MAX": "Drop the argmax: the exported step takes it itself.",
    "DEQUANTIZE": "Convert with INT8 input and output, and no float operator between them.",
    "QUANTIZE": "Convert with INT8 input and output, and no float operator between them.",
    "RELU6": "Fuse it into the Dense layer before it, or use relu.",
    "SHAPE": _SHAPE_CURE,
    "STRIDED_SLICE": _SHAPE_CURE,
    "PACK": _SHAPE_CURE,
    "CONCATENATION": _CHAIN_CURE,
    "SPLIT": _CHAIN_CURE,
    "CONV_2D": _CONVOLUTION_CURE,
    "DEPTHWISE_CONV_2D": _CONVOLUTION_CURE,
    "MAX_POOL_2D": _CONVOLUTION_CURE,
    "AVERAGE_POOL_2D": _CONVOLUTION_CURE,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _RECURRENT_CURE,
    "UNIDIRECTIONAL_SEQUENCE_RNN": _RECURRENT_CURE,
    "WHILE": _RECURRENT_CURE,
}
_DUELING_CURE = "Argmax does not need a dueling head's mean and value: export the advantage branch alone."
_FOLD_CURE = "Fold the normalization into the weights and bias of the next Dense layer."
_SCALING_CURE = "Leave out the last scaling layer and use --head scale; argmax needs neither."
_SLICE_CURE = "Keep only the weights and biases of the needed outputs in the last Dense layer."
_AFFINE = {"ADD", "DIV", "MUL", "SUB"}
_DUELING = {"ADD", "MEAN", "NEG", "REDUCE_MAX", "SUB"}
_UNKNOWN_CURE = "Replace its layer by Dense with relu, relu6, tanh or sigmoid, and train again."
_KNOWN_CURE = "Convert with full-integer quantization, INT8 input and output."


def require_supported(model: TFLiteModel) -> tuple[Operator, ...]:
    """Return the operators with their operands, or raise UnsupportedOperatorError for the worst one.

    Unknown operators come first, and what surrounds them comes last: DEQUANTIZE and QUANTIZE.
    """
    if model.num_subgraphs != 1:
        raise UnsupportedOperatorError(
            f"The network has {model.num_subgraphs} graphs, so it branches or loops: "
            "export one step without control flow."
        )
    operators = tuple(_with_operands(model, info) for info in model.operators)
    for op in sorted(operators, key=lambda op: (op.info.name in _EDGES, op.info.name in RULES)):
        broken = broken_rule(op)
        if broken is not None:
            others = {o.info.name: None for o in operators if o.info.name not in (*RULES, *_EDGES)}
            others.pop(op.info.name, None)
            if op.info.name not in RULES and others:
                broken += f", nor {_enumerated(list(others))}, which the network uses too"
            raise UnsupportedOperatorError(
                f"{op.info.name} at {_place(op)} is not supported: {broken}. {_cure(op, operators)}"
            )
    return operators


def broken_rule(op: Operator) -> str | None:
    """Return the first rule that an operator breaks, without the full stop, or None."""
    if op.info.name not in RULES:
        dtype = op.outputs[0].dtype if op.outputs else "no"
        is_float = "" if dtype == "INT8" else f" (its output is {dtype})"
        return f"the integer engine has no such operator{is_float}"
    for rule in RULES[op.info.name]:
        if not rule(op):
            return f"it breaks the rule '{_line(rule)}'"
    return None


def _cure(op: Operator, operators: tuple[Operator, ...]) -> str:
    """Say what to do about an unsupported operator, from where it stands in the network."""
    name = op.info.name
    if name in RULES:
        return _CURES.get(name, _KNOWN_CURE)
    unknown = {o.info.name for o in operators if o.info.name not in (*RULES, *_EDGES)}
    is_last = not _leads_to_dense(op, operators)
    is_scaling = name in _AFFINE and len(op.inputs) == 2 and any(t and t.is_constant for t in op.inputs)
    is_dueling = unknown <= _DUELING and not unknown.isdisjoint({"ADD", "SUB"})
    if is_last and is_dueling and not is_scaling:
        return _DUELING_CURE if len(unknown) > 1 else f"{_CHAIN_CURE} {_DUELING_CURE}"
    if name == "ADD" and not is_scaling and unknown == {"ADD"}:
        return _CHAIN_CURE
    if is_last and name in ("SLICE", "SPLIT", "STRIDED_SLICE") and "SHAPE" not in unknown:
        return _SLICE_CURE
    if is_scaling and unknown <= _AFFINE:
        return _SCALING_CURE if is_last else _FOLD_CURE
    if is_last and name in ("SOFTMAX", "LOG_SOFTMAX"):
        return "Drop the softmax: the largest output stays the largest."
    if is_last and name in ("MAXIMUM", "MINIMUM"):
        return _CLIP_CURE
    return _CURES.get(name, _UNKNOWN_CURE)


def _leads_to_dense(op: Operator, operators: tuple[Operator, ...]) -> bool:
    reached = set(op.info.outputs)
    for later in operators[operators.index(op) + 1 :]:
        if reached & set(later.info.inputs):
            if later.info.name == "FULLY_CONNECTED":
                return True
            reached |= set(later.info.outputs)
    return False


def _place(op: Operator) -> str:
    """Name the layer: without the wrappers that exporters put around it and what was fused into it."""
    if not op.outputs:
        return "an operator without output"
    name = op.outputs[0].name.split(";")[0]
    name = re.sub(r"^((Stateful)?PartitionedCall(_\d+)?/)+", "", name)
    name = re.sub(r"^((functional|sequential|model)(_\d+)*/)+", "", name)
    if re.fullmatch(r"(Identity|(Stateful)?PartitionedCall)(_\d+)?(:\d+)?", name):
        return "the network's output"
    return f"'{shown(name)}'"


def _enumerated(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def markdown() -> str:
    """Return SUPPORTED_OPS.md."""
    lines = [
        "# Supported operators",
        "",
        "Generated by `python -m edgeqrl.network.supported_ops`; do not edit. Names are LiteRT's builtin",
        "operators. Every operator here runs in C bit for bit as in TFLite Micro, except that",
        "RELU_N1_TO_1 as an operator of its own, which TFLite Micro lacks, follows tflite-runtime's",
        "reference kernel. A network has one graph; anything not listed is refused by name.",
    ]
    for name, rules in sorted(RULES.items()):
        lines += ["", f"## {name}", "", *(f"- {_line(rule)}." for rule in rules)]
    return "\n".join(lines) + "\n"


def _line(rule: Rule) -> str:
    return (rule.__doc__ or "").removesuffix(".")


def _with_operands(model: TFLiteModel, info: OperatorInfo) -> Operator:
    inputs = tuple(None if i < 0 else model.tensors[i] for i in info.inputs)
    return Operator(info, inputs, tuple(model.tensors[i] for i in info.outputs))


def _operand(op: Operator, index: int) -> TensorInfo | None:
    return op.inputs[index] if index < len(op.inputs) else None


def _is_int8_activation(tensor: TensorInfo) -> bool:
    if tensor.dtype != "INT8" or len(tensor.scales) != 1 or tensor.is_variable:
        return False
    scale, zero_point = _quantization(tensor)
    return np.isfinite(scale) and scale > 0.0 and -128 <= zero_point <= 127


def _quantization(tensor: TensorInfo) -> tuple[float, int]:
    return float(tensor.scales[0]), int(tensor.zero_points[0])


if __name__ == "__main__":
    sys.stdout.write(markdown())
