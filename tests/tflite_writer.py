"""Small `.tflite` files with arbitrary weights, scales and zero points, without the converter.

    from tests.tflite_writer import random_dense_tflite, single_operator
    tflite = random_dense_tflite(np.random.default_rng(0), [4, 7, 3], ["RELU", "NONE"])
    x = {"shape": (1, 4), "dtype": "INT8", "scale": 0.1, "zero_point": 3}
    tflite = single_operator("LEAKY_RELU", [x], [x], alpha=0.25)

Field numbers, enum values and union tags are those of LiteRT's public schema, version 3; options have the
schema's names, but for `fused_activation`, and enums are given by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import flatbuffers
import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeqrl.network import tflite_schema

TENSOR_TYPES = {name: number for number, name in tflite_schema.TENSOR_TYPES.items()}
OPERATORS = {name: number for number, name in enumerate(tflite_schema.BUILTIN_OPERATORS)}
FUSED = {name: number for number, name in tflite_schema.ACTIVATION_FUNCTIONS.items()}
PADDING = {"SAME": 0, "VALID": 1}
MIRROR = {"REFLECT": 0, "SYMMETRIC": 1}
LAST_DEPRECATED_CODE = 127
# Every runtime takes version 1 of an operator for every type it has a kernel of, but of these.
DEFAULT_VERSIONS = {"BROADCAST_TO": 2}

Options = dict[str, tuple[int, str]]  # of one operator: name -> (slot, kind)
_FUSED: Options = {"fused_activation": (0, "fused")}
_STRIDES: Options = {"padding": (0, "padding"), "stride_w": (1, "int32"), "stride_h": (2, "int32")}
_FILTER: Options = {"filter_width": (3, "int32"), "filter_height": (4, "int32")}
_POOL: Options = _STRIDES | _FILTER | {"fused_activation": (5, "fused")}
_POT: Options = _FUSED | {"pot_scale_int16": (1, "bool")}
_ASYMMETRIC = "asymmetric_quantize_inputs"

# Operator -> (tag in the union of options, its options). An operator that is not here has no options.
OPTIONS: dict[str, tuple[int, Options]] = {
    "CONV_2D": (
        1,
        _STRIDES
        | {"fused_activation": (3, "fused")}
        | {"dilation_w_factor": (4, "int32"), "dilation_h_factor": (5, "int32")}
        | {"quantized_bias_type": (6, "type")},
    ),
    "DEPTHWISE_CONV_2D": (
        2,
        _STRIDES
        | {"depth_multiplier": (3, "int32"), "fused_activation": (4, "fused")}
        | {"dilation_w_factor": (5, "int32"), "dilation_h_factor": (6, "int32")},
    ),
    "TRANSPOSE_CONV": (49, _STRIDES | {"fused_activation": (3, "fused"), "quantized_bias_type": (4, "type")}),
    "MAX_POOL_2D": (5, _POOL),
    "AVERAGE_POOL_2D": (5, _POOL),
    **dict.fromkeys(
        ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), (27, {"keep_dims": (0, "bool")})
    ),
    "FULLY_CONNECTED": (
        8,
        _FUSED
        | {"weights_format": (1, "int8"), "keep_num_dims": (2, "bool")}
        | {_ASYMMETRIC: (3, "bool"), "quantized_bias_type": (4, "type")},
    ),
    "ADD": (11, _POT),
    "SUB": (28, _POT),
    "MUL": (21, _FUSED),
    "DIV": (29, _FUSED),
    "MAXIMUM": (39, {}),
    "MINIMUM": (39, {}),
    "SQUARED_DIFFERENCE": (76, {}),
    "SQUARE": (66, {}),
    "CONCATENATION": (10, {"axis": (0, "int32"), "fused_activation": (1, "fused")}),
    "SPLIT": (35, {"num_splits": (0, "int32")}),
    "SPLIT_V": (79, {"num_splits": (0, "int32")}),
    "SLICE": (48, {}),
    "STRIDED_SLICE": (
        32,
        {"begin_mask": (0, "int32"), "end_mask": (1, "int32"), "ellipsis_mask": (2, "int32")}
        | {"new_axis_mask": (3, "int32"), "shrink_axis_mask": (4, "int32"), "offset": (5, "bool")},
    ),
    "PAD": (22, {}),
    "PADV2": (43, {}),
    "MIRROR_PAD": (77, {"mode": (0, "mirror")}),
    "TRANSPOSE": (26, {}),
    "PACK": (59, {"values_count": (0, "int32"), "axis": (1, "int32")}),
    "UNPACK": (64, {"num": (0, "int32"), "axis": (1, "int32")}),
    "RESHAPE": (17, {"new_shape": (0, "ints")}),
    "SQUEEZE": (30, {"squeeze_dims": (0, "ints")}),
    "EXPAND_DIMS": (52, {}),
    "GATHER": (23, {"axis": (0, "int32"), "batch_dims": (1, "int32")}),
    "GATHER_ND": (83, {}),
    "ARG_MAX": (40, {"output_type": (0, "type")}),
    "ARG_MIN": (57, {"output_type": (0, "type")}),
    "SOFTMAX": (9, {"beta": (0, "float32")}),
    "LOG_SOFTMAX": (36, {}),
    "LEAKY_RELU": (75, {"alpha": (0, "float32")}),
    "FAKE_QUANT": (
        58,
        {"min": (0, "float32"), "max": (1, "float32"), "num_bits": (2, "int32"), "narrow_range": (3, "bool")},
    ),
    "GELU": (116, {"approximate": (0, "bool")}),
    "HARD_SWISH": (91, {}),
    "EXP": (33, {}),
    "ABS": (78, {}),
    "NEG": (42, {}),
    "COS": (84, {}),
    "SIGN": (123, {}),
    "POW": (56, {}),
    "QUANTIZE": (89, {}),
    "DEQUANTIZE": (38, {}),
    "CAST": (37, {"in_data_type": (0, "type"), "out_data_type": (1, "type")}),
    "SHAPE": (55, {"out_type": (0, "type")}),
    "FILL": (68, {}),
    "ZEROS_LIKE": (67, {}),
    "BROADCAST_TO": (104, {}),
    "TILE": (51, {}),
    "BATCH_MATMUL": (101, {"adj_x": (0, "bool"), "adj_y": (1, "bool"), _ASYMMETRIC: (2, "bool")}),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (
        71,
        _FUSED
        | {"cell_clip": (1, "float32"), "proj_clip": (2, "float32"), "time_major": (3, "bool")}
        | {_ASYMMETRIC: (4, "bool"), "diagonal_recurrent_tensors": (5, "bool")},
    ),
    "DEPTH_TO_SPACE": (94, {"block_size": (0, "int32")}),
    "SPACE_TO_DEPTH": (19, {"block_size": (0, "int32")}),
    "RESIZE_NEAREST_NEIGHBOR": (74, {"align_corners": (0, "bool"), "half_pixel_centers": (1, "bool")}),
    "RESIZE_BILINEAR": (15, {"align_corners": (2, "bool"), "half_pixel_centers": (3, "bool")}),
    "REVERSE_V2": (81, {}),
    "WHILE": (93, {"cond_subgraph_index": (0, "int32"), "body_subgraph_index": (1, "int32")}),
    "IF": (92, {"then_subgraph_index": (0, "int32"), "else_subgraph_index": (1, "int32")}),
    "VAR_HANDLE": (111, {"container": (0, "string"), "shared_name": (1, "string")}),
    "READ_VARIABLE": (112, {}),
    "ASSIGN_VARIABLE": (113, {}),
    "CALL_ONCE": (103, {"init_subgraph_index": (0, "int32")}),
    "LOGICAL_NOT": (63, {}),
    "GREATER": (44, {}),
    "SELECT_V2": (98, {}),
    "CUMSUM": (102, {"exclusive": (0, "bool"), "reverse": (1, "bool")}),
    "ADD_N": (82, {}),
}
# What is written where the caller says nothing and 0 would be of no use (or the schema means True).
OPTION_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("stride_w", "stride_h", "filter_width", "filter_height", "depth_multiplier"), 1),
    "beta": 1.0,
    "pot_scale_int16": False,
}
# What an absent field means, where that is not 0.
SCHEMA_DEFAULTS: dict[str, Any] = {"dilation_w_factor": 1, "dilation_h_factor": 1, "pot_scale_int16": True}
ENUMS = {"fused": FUSED, "padding": PADDING, "mirror": MIRROR, "type": TENSOR_TYPES}  # all of one byte

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
    is_variable: bool
    shape_signature: tuple[int, ...] | None


@dataclass
class _Operator:
    inputs: list[int]
    outputs: list[int]
    code: tuple[str, int, str]  # name, version, name of a custom operator
    options: dict[str, Any]
    custom_options: bytes | None
    intermediates: list[int] | None


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
        is_variable: bool = False,
        shape_signature: Sequence[int] | None = None,
    ) -> int:
        """Add a tensor, return its index; `data` makes it a constant (INT4: one value an element)."""
        scales = np.atleast_1d(np.asarray(scale, np.float64)).tolist()
        zero_points = np.atleast_1d(np.asarray(zero_point, np.int64)).tolist()
        raw = None if data is None else _raw(data, dtype)
        signature = None if shape_signature is None else tuple(shape_signature)
        shared = None if share_buffer_of is None else share_buffer_of + 1
        self.tensors.append(
            _Tensor(
                name,
                tuple(shape),
                TENSOR_TYPES[dtype],
                raw,
                scales,
                zero_points,
                axis,
                shared,
                is_variable,
                signature,
            )
        )
        return len(self.tensors) - 1

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        version: int | None = None,
        custom_code: str = "",
        custom_options: bytes | None = None,
        intermediates: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        """Add an operator; an input of -1 is an absent optional one.

        An option of None is an option not given; one that the operator does not have is a KeyError.
        """
        known = OPTIONS[name][1] if name in OPTIONS else {}
        given = {key: value for key, value in options.items() if value is not None}
        if "fused_activation" not in known and given.get("fused_activation") == "NONE":
            del given["fused_activation"]
        if unknown := given.keys() - known.keys():
            raise KeyError(f"{name} has no option {sorted(unknown)}")
        between = None if intermediates is None else list(intermediates)
        number = DEFAULT_VERSIONS.get(name, 1) if version is None else version
        code = (name, number, custom_code)
        self.operators.append(_Operator(list(inputs), list(outputs), code, given, custom_options, between))

    def finish(self, inputs: Sequence[int], outputs: Sequence[int], *, extra_subgraphs: int = 0) -> bytes:
        """Return the file, with empty graphs at its end; buffer 0 is empty, tensor i has buffer i + 1."""
        builder = flatbuffers.Builder(1024)
        buffers = [_table(builder, {})]
        for tensor in self.tensors:
            fields = {} if tensor.data is None else {0: ("offset", _data(builder, tensor.data))}
            buffers.append(_table(builder, fields))
        keys = sorted({operator.code for operator in self.operators})
        codes = [_code(builder, *key) for key in keys]
        graph = self._graph(builder, keys, inputs, outputs)
        empty = [_empty_graph(builder, i + 1) for i in range(extra_subgraphs)]
        description = builder.CreateString("edgeqrl test")
        buffer_vector = _offsets(builder, buffers)
        code_vector = _offsets(builder, codes)
        graphs = _offsets(builder, [graph, *empty])
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

    def _graph(
        self,
        builder: Any,
        keys: list[tuple[str, int, str]],
        inputs: Sequence[int],
        outputs: Sequence[int],
    ) -> int:
        tensors = _offsets(builder, [self._tensor(builder, i) for i in range(len(self.tensors))])
        operators = _offsets(builder, [_operator(builder, keys.index(op.code), op) for op in self.operators])
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
        if tensor.is_variable:
            fields[5] = ("bool", True)
        if tensor.shape_signature is not None:
            fields[7] = ("offset", _ints(builder, tensor.shape_signature))
        return _table(builder, fields)


def single_operator(
    name: str,
    inputs: Sequence[Mapping[str, Any] | None],
    outputs: Sequence[Mapping[str, Any]],
    **options: Any,
) -> bytes:
    """Write a network of exactly one operator; its activations are the inputs of the network.

    A tensor is what `TFLiteWriter.tensor` takes (shape, dtype, scale, ...); one with data is a constant,
    one that is_variable is state, and None is an absent optional input.
    """
    writer = TFLiteWriter()
    operands, activations = [], []
    for i, described in enumerate(inputs):
        if described is None:
            operands.append(-1)
            continue
        operands.append(writer.tensor(**({"name": f"input_{i}"} | dict(described))))
        if described.get("data") is None and not described.get("is_variable", False):
            activations.append(operands[-1])
    results = [writer.tensor(**({"name": f"output_{i}"} | dict(each))) for i, each in enumerate(outputs)]
    writer.operator(name, operands, results, **options)
    return writer.finish(activations, results)


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


def _raw(data: NDArray[Any], dtype: str) -> bytes:
    if dtype != "INT4":
        return np.ascontiguousarray(data).tobytes()
    nibbles = np.asarray(data, np.int8).ravel().view(np.uint8) & 15
    nibbles = np.append(nibbles, np.zeros(nibbles.size % 2, np.uint8))
    return (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8).tobytes()  # the first is the low one


def _code(builder: Any, name: str, version: int, custom_code: str) -> int:
    code = OPERATORS[name]
    fields = {0: ("int8", min(code, LAST_DEPRECATED_CODE)), 2: ("int32", version), 3: ("int32", code)}
    if custom_code:
        fields[1] = ("offset", builder.CreateString(custom_code))
    return _table(builder, fields)


def _operator(builder: Any, code_index: int, operator: _Operator) -> int:
    fields: dict[int, tuple[str, int]] = {0: ("uint32", code_index)}
    name = operator.code[0]
    # A RESHAPE without a shape here has it as a tensor, and no options.
    if name in OPTIONS and (name != "RESHAPE" or operator.options):
        tag, known = OPTIONS[name]
        fields[3] = ("uint8", tag)
        fields[4] = ("offset", _options(builder, known, operator.options))
    if operator.custom_options is not None:
        fields[5] = ("offset", _data(builder, operator.custom_options))
    if operator.intermediates is not None:
        fields[8] = ("offset", _ints(builder, operator.intermediates))
    fields[1] = ("offset", _ints(builder, operator.inputs))
    fields[2] = ("offset", _ints(builder, operator.outputs))
    return _table(builder, fields)


def _options(builder: Any, known: Options, given: dict[str, Any]) -> int:
    fields: dict[int, tuple[str, Any]] = {}
    absent = {slot: SCHEMA_DEFAULTS[key] for key, (slot, _) in known.items() if key in SCHEMA_DEFAULTS}
    for key, value in (OPTION_DEFAULTS | given).items():
        if key not in known:
            continue
        slot, kind = known[key]
        if kind in ENUMS:
            fields[slot] = ("int8", ENUMS[kind][value])
        elif kind == "ints":
            fields[slot] = ("offset", _ints(builder, value))
        elif kind == "string":
            fields[slot] = ("offset", builder.CreateString(value))
        else:
            fields[slot] = (kind, value)
    return _table(builder, dict(sorted(fields.items())), absent)


def _empty_graph(builder: Any, number: int) -> int:
    vectors = [_offsets(builder, []), _ints(builder, []), _ints(builder, []), _offsets(builder, [])]
    vectors.append(builder.CreateString(f"graph_{number}"))
    return _table(builder, {slot: ("offset", offset) for slot, offset in enumerate(vectors)})


def _table(
    builder: Any, fields: Mapping[int, tuple[str, Any]], absent: Mapping[int, Any] | None = None
) -> int:
    """Write one table; `fields` is slot -> (type, value), `absent` what a missing one means if not 0."""
    prepend = {
        "int8": builder.PrependInt8Slot,
        "uint8": builder.PrependUint8Slot,
        "bool": builder.PrependBoolSlot,
        "int32": builder.PrependInt32Slot,
        "float32": builder.PrependFloat32Slot,
        "uint32": builder.PrependUint32Slot,
        "offset": builder.PrependUOffsetTRelativeSlot,
    }
    builder.StartObject(max(fields, default=-1) + 1)
    for slot, (kind, value) in fields.items():
        prepend[kind](slot, value, (absent or {}).get(slot, 0))
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
