"""Small `.tflite` files with arbitrary weights, scales and zero points, without the converter.

    from tests.tflite_writer import random_dense_tflite, random_float_tflite
    tflite = random_dense_tflite(np.random.default_rng(0), [4, 7, 3], ["RELU", "NONE"])

Field numbers, enum values and union tags are those of LiteRT's public schema, version 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import flatbuffers
import numpy as np
from numpy.typing import ArrayLike, NDArray

TENSOR_TYPES = {"FLOAT32": 0, "INT32": 2, "UINT8": 3, "INT64": 4, "BOOL": 6, "INT16": 7, "INT8": 9}
OPERATORS = {
    "ADD": 0,
    "DEQUANTIZE": 6,
    "FULLY_CONNECTED": 9,
    "LOGISTIC": 14,
    "RELU": 19,
    "RELU_N1_TO_1": 20,
    "RELU6": 21,
    "RESHAPE": 22,
    "SOFTMAX": 25,
    "TANH": 28,
    "NEG": 59,
    "ELU": 111,
    "QUANTIZE": 114,
}
FUSED = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3, "TANH": 4, "SIGN_BIT": 5}
LAST_DEPRECATED_CODE = 127
FULLY_CONNECTED_OPTIONS = 8
RESHAPE_OPTIONS = 17
# The int8 scheme fixes the output quantization of these: (scale, zero point).
TABLE_OUTPUTS = {"TANH": (1 / 128, 0), "LOGISTIC": (1 / 256, -128)}


@dataclass
class _Tensor:
    name: str
    shape: tuple[int, ...]
    type: int
    data: bytes | None
    scales: list[float]
    zero_points: list[int]
    axis: int
    buffer: int | None  # index of a buffer shared with another tensor


@dataclass
class _Operator:
    name: str
    inputs: list[int]
    outputs: list[int]
    fused_activation: str
    keep_num_dims: bool
    new_shape: list[int] | None


@dataclass
class TFLiteWriter:
    """Collects tensors and operators, then writes them; checks nothing, so that bad files are easy."""

    tensors: list[_Tensor] = field(default_factory=list)
    operators: list[_Operator] = field(default_factory=list)

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "INT8",
        *,
        data: NDArray[Any] | None = None,
        scale: ArrayLike = (),
        zero_point: ArrayLike = (),
        axis: int = 0,
        share_buffer_of: int | None = None,
    ) -> int:
        """Add a tensor, return its index; `data` makes it a constant."""
        scales = np.atleast_1d(np.asarray(scale, np.float64)).tolist()
        zero_points = np.atleast_1d(np.asarray(zero_point, np.int64)).tolist()
        raw = None if data is None else np.ascontiguousarray(data).tobytes()
        shared = None if share_buffer_of is None else share_buffer_of + 1
        self.tensors.append(
            _Tensor(name, tuple(shape), TENSOR_TYPES[dtype], raw, scales, zero_points, axis, shared)
        )
        return len(self.tensors) - 1

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        fused_activation: str = "NONE",
        keep_num_dims: bool = False,
        new_shape: Sequence[int] | None = None,
    ) -> None:
        """Add an operator; an input of -1 is an absent optional one."""
        shape = None if new_shape is None else list(new_shape)
        self.operators.append(
            _Operator(name, list(inputs), list(outputs), fused_activation, keep_num_dims, shape)
        )

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """Return the file; buffer 0 is empty, tensor i has buffer i + 1."""
        builder = flatbuffers.Builder(1024)
        buffers = [_table(builder, {})]
        for tensor in self.tensors:
            fields = {} if tensor.data is None else {0: ("offset", _data(builder, tensor.data))}
            buffers.append(_table(builder, fields))
        names = sorted({operator.name for operator in self.operators})
        codes = [self._code(builder, name) for name in names]
        graph = self._graph(builder, names, inputs, outputs)
        description = builder.CreateString("edgeqrl test")
        buffer_vector = _offsets(builder, buffers)
        code_vector = _offsets(builder, codes)
        graphs = _offsets(builder, [graph])
        model = _table(
            builder,
            {
                0: ("uint32", 3),
                1: ("offset", code_vector),
                2: ("offset", graphs),
                3: ("offset", description),
                4: ("offset", buffer_vector),
            },
        )
        builder.Finish(model, file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _code(self, builder: Any, name: str) -> int:
        code = OPERATORS[name]
        fields = {0: ("int8", min(code, LAST_DEPRECATED_CODE)), 2: ("int32", 1), 3: ("int32", code)}
        return _table(builder, fields)

    def _graph(self, builder: Any, names: list[str], inputs: Sequence[int], outputs: Sequence[int]) -> int:
        tensors = _offsets(builder, [self._tensor(builder, i) for i in range(len(self.tensors))])
        operators = _offsets(builder, [self._operator(builder, names, op) for op in self.operators])
        input_vector = _ints(builder, inputs)
        output_vector = _ints(builder, outputs)
        name = builder.CreateString("main")
        fields = {0: tensors, 1: input_vector, 2: output_vector, 3: operators, 4: name}
        return _table(builder, {slot: ("offset", offset) for slot, offset in fields.items()})

    def _tensor(self, builder: Any, index: int) -> int:
        tensor = self.tensors[index]
        fields = {
            0: ("offset", _ints(builder, tensor.shape)),
            1: ("int8", tensor.type),
            2: ("uint32", index + 1 if tensor.buffer is None else tensor.buffer),
            3: ("offset", builder.CreateString(tensor.name)),
        }
        if tensor.scales:
            quantization = {
                2: ("offset", builder.CreateNumpyVector(np.array(tensor.scales, np.float32))),
                3: ("offset", builder.CreateNumpyVector(np.array(tensor.zero_points, np.int64))),
                6: ("int32", tensor.axis),
            }
            fields[4] = ("offset", _table(builder, quantization))
        return _table(builder, fields)

    def _operator(self, builder: Any, names: list[str], operator: _Operator) -> int:
        fields: dict[int, tuple[str, int]] = {0: ("uint32", names.index(operator.name))}
        if operator.name == "FULLY_CONNECTED":
            options = {0: ("int8", FUSED[operator.fused_activation]), 2: ("bool", operator.keep_num_dims)}
            fields[3] = ("uint8", FULLY_CONNECTED_OPTIONS)
            fields[4] = ("offset", _table(builder, options))
        elif operator.new_shape is not None:
            shape = _ints(builder, operator.new_shape)
            fields[3] = ("uint8", RESHAPE_OPTIONS)
            fields[4] = ("offset", _table(builder, {0: ("offset", shape)}))
        fields[1] = ("offset", _ints(builder, operator.inputs))
        fields[2] = ("offset", _ints(builder, operator.outputs))
        return _table(builder, fields)


def random_dense_tflite(
    rng: np.random.Generator,
    sizes: Sequence[int],
    activations: Sequence[str],
    per_channel: bool = True,
    *,
    has_bias: bool = True,
) -> bytes:
    """Write a random int8 dense network: input [1, sizes[0]] "observation", output [1, sizes[-1]].

    `activations` has one name a layer: NONE, RELU, RELU6, RELU_N1_TO_1 (fused), or TANH, LOGISTIC
    (operators of their own). Scales and zero points are random, and such that outputs spread over int8.
    """
    writer = TFLiteWriter()
    scale, zero_point = float(rng.uniform(0.005, 0.2)), int(rng.integers(-128, 128))
    current = first = writer.tensor("observation", (1, sizes[0]), scale=scale, zero_point=zero_point)
    for layer, (columns, rows) in enumerate(pairwise(sizes)):
        activation = activations[layer]
        spread = np.sqrt(columns) * 74.0 * 74.0  # of an accumulator, with uniform inputs and weights
        out_scale, zero_point = _output_quantization(rng, activation)
        factor = rng.uniform(0.5, 2.0, rows if per_channel else 1)
        weight_scale = (40.0 * out_scale / (spread * scale) * factor).astype(np.float32)
        operands = [
            current,
            _constant(
                writer, f"weights_{layer}", rng.integers(-127, 128, (rows, columns), np.int8), weight_scale
            ),
        ]
        if has_bias:
            bias = rng.normal(0.0, spread, rows).astype(np.int32)
            operands.append(_constant(writer, f"bias_{layer}", bias, np.float32(scale) * weight_scale))
        current = writer.tensor(f"dense_{layer}", (1, rows), scale=out_scale, zero_point=zero_point)
        writer.operator("FULLY_CONNECTED", operands, [current], fused_activation=_fused(activation))
        scale = out_scale
        if activation in TABLE_OUTPUTS:
            scale, zero_point = TABLE_OUTPUTS[activation]
            name = f"{activation.lower()}_{layer}"
            after = writer.tensor(name, (1, rows), scale=scale, zero_point=zero_point)
            writer.operator(activation, [current], [after])
            current = after
    return writer.finish([first], [current])


def random_float_tflite(rng: np.random.Generator, sizes: Sequence[int], activations: Sequence[str]) -> bytes:
    """Write a random float32 dense network of the same structure and names."""
    writer = TFLiteWriter()
    current = first = writer.tensor("observation", (1, sizes[0]), "FLOAT32")
    for layer, (columns, rows) in enumerate(pairwise(sizes)):
        activation = activations[layer]
        weights = rng.normal(0.0, columns**-0.5, (rows, columns)).astype(np.float32)
        bias = rng.normal(0.0, 0.1, rows).astype(np.float32)
        operands = [
            current,
            writer.tensor(f"weights_{layer}", (rows, columns), "FLOAT32", data=weights),
            writer.tensor(f"bias_{layer}", (rows,), "FLOAT32", data=bias),
        ]
        current = writer.tensor(f"dense_{layer}", (1, rows), "FLOAT32")
        writer.operator("FULLY_CONNECTED", operands, [current], fused_activation=_fused(activation))
        if activation in TABLE_OUTPUTS:
            after = writer.tensor(f"{activation.lower()}_{layer}", (1, rows), "FLOAT32")
            writer.operator(activation, [current], [after])
            current = after
    return writer.finish([first], [current])


def _fused(activation: str) -> str:
    return "NONE" if activation in TABLE_OUTPUTS else activation


def _constant(writer: TFLiteWriter, name: str, values: NDArray[Any], scale: NDArray[Any]) -> int:
    zero_point = np.zeros(len(scale), np.int64)
    dtype = values.dtype.name.upper()
    return writer.tensor(name, values.shape, dtype, data=values, scale=scale, zero_point=zero_point)


def _output_quantization(rng: np.random.Generator, activation: str) -> tuple[float, int]:
    if activation in TABLE_OUTPUTS:
        return float(np.exp(rng.uniform(np.log(0.005), np.log(0.1)))), int(rng.integers(-60, 61))
    if activation == "RELU6":
        return 6.0 / 255 * float(rng.uniform(0.5, 1.5)), int(rng.integers(-128, -60))
    if activation == "RELU_N1_TO_1":
        return 2.0 / 255 * float(rng.uniform(0.5, 1.5)), int(rng.integers(-40, 41))
    zero_point = int(rng.integers(-128, -60 if activation == "RELU" else 128))
    return float(np.exp(rng.uniform(np.log(0.001), np.log(1.0)))), zero_point


def _table(builder: Any, fields: dict[int, tuple[str, int]]) -> int:
    """Write one table; `fields` is slot -> (type, value)."""
    prepend = {
        "int8": builder.PrependInt8Slot,
        "uint8": builder.PrependUint8Slot,
        "bool": builder.PrependBoolSlot,
        "int32": builder.PrependInt32Slot,
        "uint32": builder.PrependUint32Slot,
        "offset": builder.PrependUOffsetTRelativeSlot,
    }
    builder.StartObject(max(fields, default=-1) + 1)
    for slot, (kind, value) in fields.items():
        prepend[kind](slot, value, 0)
    return int(builder.EndObject())


def _offsets(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _ints(builder: Any, values: Sequence[int]) -> int:
    return int(builder.CreateNumpyVector(np.asarray(values, np.int32)))


def _data(builder: Any, data: bytes) -> int:
    """Write a byte vector aligned to 16, as the runtimes want their constants."""
    builder.StartVector(1, len(data), 16)
    builder.head = builder.Head() - len(data)
    builder.Bytes[builder.Head() : builder.Head() + len(data)] = data
    return int(builder.EndVector())
