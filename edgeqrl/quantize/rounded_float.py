"""A float32 `.tflite` that rounds its activations to given grids, as the network was trained to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_FAKE_QUANT = 80  # builtin operator of the file format
_OPTIONS = 58  # tag of its options


@dataclass(frozen=True)
class ActivationGrid:
    """The values that an activation can have: step * n for low <= n <= high."""

    step: float
    low: int
    high: int

    @property
    def range(self) -> tuple[float, float]:
        """Return the lowest and the highest value."""
        return self.low * self.step, self.high * self.step

    @property
    def num_bits(self) -> int:
        """Return how many bits its values take."""
        return (self.high - self.low).bit_length()


def with_rounding(float_tflite: bytes, grids: Mapping[int, ActivationGrid]) -> bytes:
    """Return the file with a FAKE_QUANT behind each tensor of `grids`, by index.

    Whoever read the tensor reads what is rounded, and the outputs are so; the tensors keep their names.
    """
    from tensorflow.lite.python.schema_py_generated import OperatorCodeT, TensorT
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(float_tflite))
    graph = model.subgraphs[0]
    code = OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = _FAKE_QUANT
    code.version = 1
    model.operatorCodes.append(code)
    twins: dict[int, int] = {}
    for index in grids:
        twins[index] = len(graph.tensors)
        graph.tensors.append(_twin(TensorT(), graph.tensors[index]))

    def rounding(indices: Sequence[int]) -> list[Any]:
        kind = len(model.operatorCodes) - 1
        return [_operator(kind, int(i), twins[int(i)], grids[int(i)]) for i in indices if int(i) in twins]

    made = rounding(graph.inputs)
    for operator in graph.operators:
        operator.inputs = np.array([twins.get(int(i), int(i)) for i in operator.inputs], np.int32)
        made += [operator, *rounding(operator.outputs)]
    graph.operators = made
    graph.outputs = np.array([twins.get(int(i), int(i)) for i in graph.outputs], np.int32)
    model.signatureDefs = model.metadata = model.metadataBuffer = None  # of the file before
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _twin(twin: Any, tensor: Any) -> Any:
    twin.shape, twin.shapeSignature, twin.type = tensor.shape, tensor.shapeSignature, tensor.type
    twin.buffer, twin.name = 0, tensor.name + b"/rounded"
    return twin


def _operator(kind: int, source: int, target: int, grid: ActivationGrid) -> Any:
    from tensorflow.lite.python.schema_py_generated import FakeQuantOptionsT, OperatorT

    options = FakeQuantOptionsT()
    options.min, options.max = grid.range
    options.numBits = grid.num_bits
    operator = OperatorT()
    operator.opcodeIndex, operator.builtinOptionsType, operator.builtinOptions = kind, _OPTIONS, options
    operator.inputs, operator.outputs = np.array([source], np.int32), np.array([target], np.int32)
    return operator
