"""Float functions between a DEQUANTIZE and a QUANTIZE: of one int8 tensor they are a table.

The converter leaves functions that it cannot quantize in float32, such as ELU, or the NEG of a
LayerNormalization. Where nothing but such functions of one value lie between int8 and int8, 256 answers
say all. What is found becomes one operator DEQUANTIZE whose option "functions" names them in order, as in
"NEG LEAKY_RELU:0.25". Without a function, and with one scale and zero point, it is a RESHAPE.
"""

from dataclasses import replace

import numpy as np

from edgeqrl.network.tflite_model import OperatorInfo, TensorInfo, TFLiteModel

FLOAT_FUNCTIONS = (
    "ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "HARD_SWISH", "LEAKY_RELU", "NEG", "RELU", "RELU6", "ROUND",
    "SIN", "SQRT", "SQUARE",
)  # fmt: skip
_MAX_FUNCTIONS = 8


def with_float_runs(model: TFLiteModel) -> TFLiteModel:
    """Return the model with each run of float functions as one operator; what it leaves over is dead."""
    writers: dict[int, OperatorInfo | None] = {}
    for op in model.operators:
        for i in op.outputs:
            writers[i] = None if i in writers else op
    operators = tuple(_run(model, op, writers) or op for op in model.operators)
    return replace(model, operators=operators)


def _run(
    model: TFLiteModel, last: OperatorInfo, writers: dict[int, OperatorInfo | None]
) -> OperatorInfo | None:
    if last.name != "QUANTIZE" or len(last.inputs) != 1 or len(last.outputs) != 1:
        return None
    target = model.tensors[last.outputs[0]]
    names: list[str] = []
    index = last.inputs[0]
    while len(names) <= _MAX_FUNCTIONS and index >= 0:
        op = writers.get(index)
        tensor = model.tensors[index]
        is_step = op is not None and len(op.inputs) == len(op.outputs) == 1
        if op is None or not is_step or (tensor.dtype, tensor.shape) != ("FLOAT32", target.shape):
            return None
        if op.name == "DEQUANTIZE":
            if not names and _is_same(model.tensors[op.inputs[0]], target):
                return OperatorInfo("RESHAPE", op.inputs, last.outputs, {"new_shape": ()})
            if not model.tensors[op.inputs[0]].dtype == target.dtype == "INT8":
                return None
            functions = " ".join(reversed(names))
            return OperatorInfo("DEQUANTIZE", op.inputs, last.outputs, {"functions": functions})
        if op.name not in FLOAT_FUNCTIONS:
            return None
        names.append(f"{op.name}:{op.options['alpha']}" if op.name == "LEAKY_RELU" else op.name)
        index = op.inputs[0]
    return None


def _is_same(source: TensorInfo, target: TensorInfo) -> bool:
    """Tell whether both hold the same integers for the same float32 values, each of them its own."""
    if source.dtype != target.dtype or source.shape != target.shape or len(source.scales) != 1:
        return False
    if not np.array_equal(source.scales, target.scales):
        return False
    is_lossless = 2.0**-100 < float(source.scales[0]) < 2.0**100
    return is_lossless and np.array_equal(source.zero_points, target.zero_points)
