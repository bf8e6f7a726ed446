"""A parsed file -> the integer graph in it: constants folded, the file's own edges set apart.

    graph = simplify(parse_tflite(data))

What is left are the operators that compute something at run time, between integer inputs and outputs.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError, UnsupportedOperatorError
from edgeqrl.network.float_moves import with_integer_moves
from edgeqrl.network.float_runs import with_float_runs
from edgeqrl.network.fold import fold, is_moving
from edgeqrl.network.shapes import has_open_axes, inferred_shapes
from edgeqrl.network.tflite_model import OperatorInfo, TensorInfo, TFLiteModel, shown, with_unique_names
from edgeqrl.network.tflite_schema import DTYPES

_FOLDED_BYTES = 2**20  # that folding may make, beside as much as the file has
_SHARED_READS = 16  # how often the constants of a file may be read altogether, each by its operators
_UINT8_OFFSET = 128  # of a uint8 zero point from that of the int8 tensor with the same values

_Users = dict[int, list[OperatorInfo]]


@dataclass(frozen=True)
class FileEdge:
    """An input or output as the file has it, before QUANTIZE or behind DEQUANTIZE; `tensor` is ours."""

    tensor: str  # of the network
    dtype: str  # of the file: FLOAT32, UINT8, or as the tensor
    shape: tuple[int, ...]  # of the file, with its batch axis
    scale: float  # of the tensor; 1.0 for plain numbers
    zero_point: int

    def to_file(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what the file turns into exactly these values [N, ...] of the tensor: [N, *shape]."""
        shape = self.shape[1:] if self.shape[:1] == (1,) else self.shape
        shaped = values.reshape(len(values), *shape)
        if self.dtype == "FLOAT32":
            return ((shaped.astype(np.float64) - self.zero_point) * self.scale).astype(np.float32)
        if self.dtype == "UINT8":
            return (shaped.astype(np.int16) + _UINT8_OFFSET).astype(np.uint8)
        return shaped.astype(DTYPES[self.dtype], copy=False)

    def from_file(self, values: NDArray[Any], dtype: str) -> NDArray[Any]:
        """Return the tensor's values, of its dtype ("int8"), for what the file gives out for them."""
        if self.dtype == "FLOAT32":
            steps = np.rint(values.astype(np.float64) / self.scale) + self.zero_point
            return np.asarray(steps, dtype)
        if self.dtype == "UINT8":
            return (values.astype(np.int16) - _UINT8_OFFSET).astype(dtype)
        return values.astype(dtype, copy=False)


@dataclass(frozen=True, eq=False)
class Graph:
    """The integer graph, and how its inputs and outputs stand in the file, by position."""

    model: TFLiteModel  # unique names; inputs and outputs are integer where the file converts, none twice
    inputs: tuple[FileEdge, ...]
    outputs: tuple[FileEdge, ...]


def fold_constants(model: TFLiteModel) -> TFLiteModel:
    """Return the model with unique names, and what depends on constants and shapes alone computed."""
    model = with_unique_names(model)
    _require_bounded(model)
    model = _folded(model)
    _require_inputs(model)
    return model


def simplify(model: TFLiteModel) -> Graph:
    """Find the integer graph in a file; DataError where the file contradicts itself."""
    model = with_integer_moves(_with_int8_constants(fold_constants(model)))
    readers, writers = _users(model)
    inner_inputs = {i: _behind_quantize(model, i, readers[i]) for i in model.inputs}
    inner_outputs = {i: _before_conversion(model, i, writers[i]) for i in model.outputs}
    same = {twin: inner for inner, twins in inner_inputs.values() for twin in twins}
    operators = [
        replace(op, inputs=tuple(same.get(i, i) for i in op.inputs))
        for op in model.operators
        if not (op.name == "QUANTIZE" and set(op.outputs) & set(same))
    ]
    inputs = [inner_inputs[i][0] for i in model.inputs]
    outputs = [same.get(inner_outputs[i], inner_outputs[i]) for i in model.outputs]
    edges = [
        tuple(_edge(model, file, ours) for file, ours in zip(files, tensors, strict=True))
        for files, tensors in ((model.inputs, inputs), (model.outputs, outputs))
    ]
    inner = with_float_runs(replace(model, operators=tuple(operators)))
    live = replace(
        inner,
        operators=live_operators(inner.operators, outputs),
        inputs=tuple(inputs),
        outputs=tuple(dict.fromkeys(outputs)),
    )
    return Graph(live, *edges)


def live_operators(operators: Sequence[OperatorInfo], outputs: Sequence[int]) -> tuple[OperatorInfo, ...]:
    """Drop operators that no output depends on."""
    needed = set(outputs)
    live = []
    for op in reversed(operators):
        if needed & set(op.outputs):
            needed |= set(op.inputs)
            live.append(op)
    return tuple(reversed(live))


def _require_bounded(model: TFLiteModel) -> None:
    """Refuse a small file that stands for a huge one: many operators with the same constants."""
    spans = {t.span for t in model.tensors if t.span}
    size = sum(length for _, length in spans)
    read = sum(
        t.span[1] for op in model.operators for i in op.inputs if i >= 0 and (t := model.tensors[i]).span
    )
    if read > _FOLDED_BYTES + _SHARED_READS * size:
        raise DataError("The .tflite file is damaged: its operators read the same constants over and over.")


def _require_inputs(model: TFLiteModel) -> None:
    written = {i for op in model.operators for i in op.outputs}
    uses = Counter(model.inputs)
    for i in model.inputs:
        tensor = model.tensors[i]
        if tensor.is_constant or i in written or uses[i] > 1:
            raise DataError(
                f"The .tflite file contradicts itself: its input '{shown(tensor.name)}' is also a constant, "
                "another input, or written by an operator."
            )
        resizable = tensor.shape_signature or ()
        if -1 in resizable[1:]:
            raise UnsupportedOperatorError(
                f"The input '{shown(tensor.name)}' has no fixed size: {list(resizable)}. Export the model "
                "with a fixed input shape, of which only the batch may be open."
            )
        if len(tensor.shape) > 1 and tensor.shape[0] != 1:
            raise UnsupportedOperatorError(
                f"The input '{shown(tensor.name)}' has the shape {list(tensor.shape)}, a batch of "
                f"{tensor.shape[0]}. Export the model with a batch of 1."
            )


def _folded(model: TFLiteModel) -> TFLiteModel:
    """Compute what depends on constants and shapes alone, and the sizes that the file leaves open."""
    tensors = list(model.tensors)
    budget = _FOLDED_BYTES + sum(len(t.data) for t in tensors if t.data is not None)
    operators = []
    for op in model.operators:
        inputs = [None if i < 0 else tensors[i] for i in op.inputs]
        _resize(tensors, op, inputs)
        outputs = [tensors[i] for i in op.outputs]
        cost = sum(8 * t.size for t in outputs)
        values = None
        if cost <= budget and _may_fold(op, inputs, outputs):
            values = fold(op, inputs, outputs)
        if values is None:
            operators.append(op)
            continue
        budget -= cost
        for i, result in zip(op.outputs, values, strict=True):
            data = memoryview(np.ascontiguousarray(result).tobytes())
            tensors[i] = replace(tensors[i], data=data)
    return replace(model, tensors=tuple(tensors), operators=tuple(operators))


def _resize(tensors: list[TensorInfo], op: OperatorInfo, inputs: list[TensorInfo | None]) -> None:
    """Give outputs whose size the file leaves open the one that follows from the inputs."""
    if not any(has_open_axes(tensors[i]) and not tensors[i].is_constant for i in op.outputs):
        return
    shapes = inferred_shapes(op, inputs, len(op.outputs))
    for i, shape in zip(op.outputs, shapes or (), strict=False):
        if has_open_axes(tensors[i]) and not tensors[i].is_constant:
            tensors[i] = replace(tensors[i], shape=shape)


def _may_fold(op: OperatorInfo, inputs: list[TensorInfo | None], outputs: list[TensorInfo]) -> bool:
    """Tell whether outputs are free to become constants; moving values must not change their scale."""
    if any(t.is_constant or t.is_variable for t in outputs):
        return False
    if not is_moving(op):
        return True
    return all(
        source is None or source.dtype != target.dtype or _has_quantization_of(source, target)
        for source in inputs
        for target in outputs
    )


def _has_quantization_of(a: TensorInfo, b: TensorInfo) -> bool:
    return np.array_equal(a.scales, b.scales) and np.array_equal(a.zero_points, b.zero_points)


def _with_int8_constants(model: TFLiteModel) -> TFLiteModel:
    """Unpack INT4 weights: the kernels unpack them too, and then compute as with INT8.

    FULLY_CONNECTED has no kernel for more than one scale: such weights stay INT4, and are refused.
    """
    dense = {op.inputs[1] for op in model.operators if op.name == "FULLY_CONNECTED" and len(op.inputs) > 1}
    tensors = list(model.tensors)
    for i, tensor in enumerate(tensors):
        is_weights = tensor.dtype == "INT4" and tensor.is_constant and not tensor.is_sparse
        if is_weights and (len(tensor.scales) == 1 or i not in dense):
            tensors[i] = replace(tensor, dtype="INT8", data=memoryview(tensor.values().tobytes()), span=None)
    return replace(model, tensors=tuple(tensors))


def _users(model: TFLiteModel) -> tuple[_Users, _Users]:
    """Return the operators that read and those that write each tensor."""
    readers: _Users = defaultdict(list)
    writers: _Users = defaultdict(list)
    for op in model.operators:
        for i in set(op.inputs):
            readers[i].append(op)
        for i in set(op.outputs):
            writers[i].append(op)
    return readers, writers


def _behind_quantize(
    model: TFLiteModel, index: int, readers: list[OperatorInfo]
) -> tuple[int, tuple[int, ...]]:
    """Return the integer tensor that an input becomes, and all tensors equal to it; or the input itself."""
    tensor = model.tensors[index]
    is_edge = all(op.name == "QUANTIZE" and len(op.outputs) == 1 == len(op.inputs) for op in readers)
    if not readers or not is_edge or index in model.outputs:
        return index, ()
    targets = [op.outputs[0] for op in readers]
    first = model.tensors[targets[0]]
    are_equal = all(
        _has_quantization_of(t, first) and (t.dtype, t.shape) == (first.dtype, first.shape)
        for t in (model.tensors[i] for i in targets)
    )
    if not are_equal or first.size != tensor.size or not _is_lossless(tensor, first):
        return index, ()
    return targets[0], tuple(targets)


def _before_conversion(model: TFLiteModel, index: int, writers: list[OperatorInfo]) -> int:
    """Return the integer tensor that an output is made from; or the output itself."""
    if len(writers) != 1 or len(writers[0].inputs) != 1 or writers[0].inputs[0] < 0:
        return index
    (writer,) = writers
    target, source = model.tensors[index], model.tensors[writer.inputs[0]]
    conversion = {"FLOAT32": "DEQUANTIZE", "UINT8": "QUANTIZE"}.get(target.dtype)
    is_edge = writer.name == conversion and target.shape == source.shape and _is_lossless(target, source)
    return writer.inputs[0] if is_edge else index


def _is_lossless(outer: TensorInfo, inner: TensorInfo) -> bool:
    """Tell whether each value of an integer tensor has its own one at the file's edge."""
    if inner.dtype not in ("INT8", "INT16") or len(inner.scales) != 1:
        return False
    scale = float(inner.scales[0])
    if outer.dtype == "FLOAT32":
        return 2.0**-100 < scale < 2.0**100  # no overflow, no denormals
    if (outer.dtype, inner.dtype) != ("UINT8", "INT8") or len(outer.scales) != 1 or not scale > 0.0:
        return False
    distance = int(outer.zero_points[0]) - int(inner.zero_points[0])
    return float(outer.scales[0]) == scale and distance == _UINT8_OFFSET


def _edge(model: TFLiteModel, file: int, ours: int) -> FileEdge:
    outer, inner = model.tensors[file], model.tensors[ours]
    scale, zero_point = 1.0, 0
    if len(inner.scales) == 1:
        scale, zero_point = float(inner.scales[0]), int(inner.zero_points[0])
    return FileEdge(inner.name, outer.dtype, outer.shape, scale, zero_point)
