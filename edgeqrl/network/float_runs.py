"""Float functions between a DEQUANTIZE and a QUANTIZE: of one int8 tensor they are a table.

The converter leaves functions that it cannot quantize in float32, such as ELU, or the NEG of a
LayerNormalization. Where nothing but such functions of one value lie between int8 and int8, 256 answers
say all. What is found becomes one operator DEQUANTIZE whose option "functions" names them in order, as in
"NEG LEAKY_RELU:0.25".
"""

from dataclasses import replace

from edgeqrl.network.tflite_model import OperatorInfo, TFLiteModel

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
    shape = model.tensors[last.outputs[0]].shape
    if model.tensors[last.outputs[0]].dtype != "INT8":
        return None
    names: list[str] = []
    index = last.inputs[0]
    while len(names) <= _MAX_FUNCTIONS and index >= 0:
        op = writers.get(index)
        tensor = model.tensors[index]
        is_step = op is not None and len(op.inputs) == len(op.outputs) == 1
        if op is None or not is_step or (tensor.dtype, tensor.shape) != ("FLOAT32", shape):
            return None
        if op.name == "DEQUANTIZE":
            if model.tensors[op.inputs[0]].dtype != "INT8":
                return None
            return OperatorInfo(
                "DEQUANTIZE", op.inputs, last.outputs, {"functions": " ".join(reversed(names))}
            )
        if op.name not in FLOAT_FUNCTIONS:
            return None
        names.append(f"{op.name}:{op.options['alpha']}" if op.name == "LEAKY_RELU" else op.name)
        index = op.inputs[0]
    return None
