"""Moves of float32 values that are integers all the same: SPLIT, RESHAPE and their kin behind a DEQUANTIZE.

Converters leave some of them between a DEQUANTIZE and a QUANTIZE of the same scale and zero point, such as
the SPLIT of an unrolled LSTM. Moving and converting commute, so here the integers are moved:

    DEQUANTIZE(q) -> f, SPLIT(f) -> g, h     becomes     SPLIT(q) -> p, r, DEQUANTIZE(p) -> g, (r) -> h

Whatever follows the move then follows a DEQUANTIZE again. A RESHAPE between a float32 input and QUANTIZE is
left out: the order of the values is the same.
"""

from collections import Counter
from dataclasses import replace

from edgeqrl.network.tflite_model import OperatorInfo, TensorInfo, TFLiteModel

_SHAPES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
# Which input is the activation; those of joining operators are all activations. PAD's 0.0 is the zero point.
_MOVED = {
    **dict.fromkeys(_SHAPES, 0),
    **dict.fromkeys(("SLICE", "STRIDED_SLICE", "TRANSPOSE", "REVERSE_V2", "PAD", "UNPACK", "SPLIT_V"), 0),
    "SPLIT": 1,
}
_JOINING = ("CONCATENATION", "PACK")


def with_integer_moves(model: TFLiteModel) -> TFLiteModel:
    """Return the model with float moves as moves of integers; what it leaves over is dead."""
    model = _with_plain_inputs(model)
    tensors = list(model.tensors)
    names = {tensor.name for tensor in tensors}
    times = Counter(i for op in model.operators for i in op.outputs)
    integers: dict[int, int] = {}  # a float32 tensor -> the integer one that it is converted from
    operators: list[OperatorInfo] = []
    for op in model.operators:
        is_once = all(times[i] == 1 and not tensors[i].is_constant for i in op.outputs)
        if is_once and _is_conversion(op, tensors):
            integers[op.outputs[0]] = op.inputs[0]
        moved = _moved(op)
        if not is_once or not _is_integer_move(op, moved, tensors, integers):
            operators.append(op)
            continue
        like = tensors[integers[moved[0]]]
        results = []
        for i in op.outputs:
            # The integers take the name, under which messages and comparisons then have them.
            integers[i] = len(tensors)
            results.append(len(tensors))
            tensors.append(_integers_like(tensors[i], like))
            tensors[i] = replace(tensors[i], name=_new_name(tensors[i].name, names))
        inputs = tuple(integers[i] if i in moved else i for i in op.inputs)
        operators.append(replace(op, inputs=inputs, outputs=tuple(results)))
        operators += [OperatorInfo("DEQUANTIZE", (integers[i],), (i,)) for i in op.outputs]
    return replace(model, tensors=tuple(tensors), operators=tuple(operators))


def _with_plain_inputs(model: TFLiteModel) -> TFLiteModel:
    """Leave out what gives a float32 input another shape before it is quantized."""
    readers = Counter(i for op in model.operators for i in set(op.inputs))
    quantized = Counter(i for op in model.operators if op.name == "QUANTIZE" for i in set(op.inputs))
    inputs: dict[int, int] = {}  # a tensor -> the input with its values
    left = []
    for op in model.operators:
        i = op.inputs[0] if op.inputs else -1
        is_reshaped = op.name in _SHAPES and len(op.outputs) == 1 and i in model.inputs
        if is_reshaped and model.tensors[i].dtype == "FLOAT32" and _constant_beyond_first(op, model):
            (o,) = op.outputs
            is_same = model.tensors[i].size == model.tensors[o].size and o not in model.outputs
            if is_same and not model.tensors[o].is_constant and readers[o] == quantized[o] > 0:
                inputs[o] = i
                continue
        left.append(op)
    written = Counter(i for op in model.operators for i in op.outputs)
    if not inputs or any(written[i] > 1 for i in inputs):
        return model
    operators = tuple(replace(op, inputs=tuple(inputs.get(i, i) for i in op.inputs)) for op in left)
    return replace(model, operators=operators)


def _constant_beyond_first(op: OperatorInfo, model: TFLiteModel) -> bool:
    return all(i < 0 or model.tensors[i].is_constant for i in op.inputs[1:])


def _is_conversion(op: OperatorInfo, tensors: list[TensorInfo]) -> bool:
    """Tell whether float32 values are made of integers, each of its own."""
    if op.name != "DEQUANTIZE" or len(op.inputs) != 1 or len(op.outputs) != 1 or op.inputs[0] < 0:
        return False
    source, target = tensors[op.inputs[0]], tensors[op.outputs[0]]
    is_plain = source.dtype in ("INT8", "INT16") and len(source.scales) == 1 and target.dtype == "FLOAT32"
    return is_plain and source.shape == target.shape and 2.0**-100 < float(source.scales[0]) < 2.0**100


def _moved(op: OperatorInfo) -> tuple[int, ...]:
    """Return which tensors an operator moves, if that is what it does."""
    if op.name in _JOINING and op.fused_activation == "NONE":
        return op.inputs
    position = _MOVED.get(op.name, len(op.inputs))
    return op.inputs[position : position + 1]


def _is_integer_move(
    op: OperatorInfo, moved: tuple[int, ...], tensors: list[TensorInfo], integers: dict[int, int]
) -> bool:
    """Tell whether all that is moved are integers of one scale and zero point, made float32."""
    if not moved or any(i not in integers for i in moved):
        return False
    if any(tensors[i].dtype != "FLOAT32" or tensors[i].is_variable for i in op.outputs):
        return False
    sources = [tensors[integers[i]] for i in moved]
    return len({(t.dtype, float(t.scales[0]), int(t.zero_points[0])) for t in sources}) == 1


def _integers_like(target: TensorInfo, source: TensorInfo) -> TensorInfo:
    return replace(target, dtype=source.dtype, scales=source.scales, zero_points=source.zero_points)


def _new_name(name: str, names: set[str]) -> str:
    """Return a name that no tensor has, and take it."""
    while name in names:
        name += " (float32)"
    names.add(name)
    return name
