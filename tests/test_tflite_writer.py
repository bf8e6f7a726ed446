"""What the writer of test files writes, as the schema's own generated reader reads it."""

import importlib
from typing import Any

import numpy as np
import pytest

from edgeqrl.errors import MissingToolError
from tests.oracles import answers, skip_unless_ci
from tests.tflite_writer import OPTIONS, TFLiteWriter, single_operator

X = {"shape": (1, 4), "dtype": "INT8", "scale": 0.5, "zero_point": 3}

PAIR = {"stride_w": 2, "stride_h": 3}
DILATION = {"dilation_w_factor": 4, "dilation_h_factor": 5}
POOL = {"padding": "VALID", **PAIR, "filter_width": 6, "filter_height": 7, "fused_activation": "RELU6"}
RESIZE = {"align_corners": True, "half_pixel_centers": True}
ASYMMETRIC = {"asymmetric_quantize_inputs": True}
BIAS64 = {"quantized_bias_type": "INT64"}

# Operator, the schema's table of its options, and all of them, none at its default.
WITH_OPTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("CONV_2D", "Conv2D", {"padding": "VALID", **PAIR, **DILATION, "fused_activation": "RELU", **BIAS64}),
    (
        "DEPTHWISE_CONV_2D",
        "DepthwiseConv2D",
        {"padding": "VALID", **PAIR, **DILATION, "depth_multiplier": 6, "fused_activation": "RELU"},
    ),
    ("TRANSPOSE_CONV", "TransposeConv", {"padding": "VALID", **PAIR, "fused_activation": "RELU", **BIAS64}),
    ("FAKE_QUANT", "FakeQuant", {"min": -2.0, "max": 3.0, "num_bits": 4, "narrow_range": True}),
    ("MAX_POOL_2D", "Pool2D", POOL),
    ("AVERAGE_POOL_2D", "Pool2D", POOL),
    *((name, "Reducer", {"keep_dims": True}) for name in ("MEAN", "SUM")),
    *((f"REDUCE_{name}", "Reducer", {"keep_dims": True}) for name in ("MAX", "MIN", "PROD")),
    (
        "FULLY_CONNECTED",
        "FullyConnected",
        {"fused_activation": "TANH", "weights_format": 1, "keep_num_dims": True, **ASYMMETRIC, **BIAS64},
    ),
    ("ADD", "Add", {"fused_activation": "RELU_N1_TO_1", "pot_scale_int16": False}),
    ("SUB", "Sub", {"fused_activation": "RELU", "pot_scale_int16": False}),
    ("MUL", "Mul", {"fused_activation": "RELU"}),
    ("DIV", "Div", {"fused_activation": "RELU"}),
    ("CONCATENATION", "Concatenation", {"axis": -1, "fused_activation": "RELU"}),
    ("SPLIT", "Split", {"num_splits": 3}),
    ("SPLIT_V", "SplitV", {"num_splits": 3}),
    (
        "STRIDED_SLICE",
        "StridedSlice",
        {"begin_mask": 1, "end_mask": 2, "ellipsis_mask": 4, "new_axis_mask": 8, "shrink_axis_mask": 16}
        | {"offset": True},
    ),
    ("MIRROR_PAD", "MirrorPad", {"mode": "SYMMETRIC"}),
    ("PACK", "Pack", {"values_count": 2, "axis": -1}),
    ("UNPACK", "Unpack", {"num": 2, "axis": -1}),
    ("RESHAPE", "Reshape", {"new_shape": [2, -1]}),
    ("SQUEEZE", "Squeeze", {"squeeze_dims": [0, -1]}),
    ("GATHER", "Gather", {"axis": 2, "batch_dims": 1}),
    ("ARG_MAX", "ArgMax", {"output_type": "INT64"}),
    ("ARG_MIN", "ArgMin", {"output_type": "INT32"}),
    ("SOFTMAX", "Softmax", {"beta": 0.5}),
    ("LEAKY_RELU", "LeakyRelu", {"alpha": 0.25}),
    ("GELU", "Gelu", {"approximate": True}),
    ("CAST", "Cast", {"in_data_type": "INT8", "out_data_type": "INT32"}),
    ("SHAPE", "Shape", {"out_type": "INT64"}),
    ("BATCH_MATMUL", "BatchMatMul", {"adj_x": True, "adj_y": True, **ASYMMETRIC}),
    (
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "UnidirectionalSequenceLSTM",
        {"fused_activation": "TANH", "cell_clip": 8.0, "proj_clip": 4.0, "time_major": True, **ASYMMETRIC}
        | {"diagonal_recurrent_tensors": True},
    ),
    ("DEPTH_TO_SPACE", "DepthToSpace", {"block_size": 2}),
    ("SPACE_TO_DEPTH", "SpaceToDepth", {"block_size": 2}),
    ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighbor", RESIZE),
    ("RESIZE_BILINEAR", "ResizeBilinear", RESIZE),
    ("WHILE", "While", {"cond_subgraph_index": 1, "body_subgraph_index": 2}),
    ("IF", "If", {"then_subgraph_index": 1, "else_subgraph_index": 2}),
    ("VAR_HANDLE", "VarHandle", {"container": "here", "shared_name": "state"}),
    ("CALL_ONCE", "CallOnce", {"init_subgraph_index": 1}),
    ("CUMSUM", "Cumsum", {"exclusive": True, "reverse": True}),
]
WITH_EMPTY_OPTIONS = {
    "MAXIMUM": "MaximumMinimum",
    "MINIMUM": "MaximumMinimum",
    "SQUARED_DIFFERENCE": "SquaredDifference",
    "SQUARE": "Square",
    "SLICE": "Slice",
    "PAD": "Pad",
    "PADV2": "PadV2",
    "TRANSPOSE": "Transpose",
    "EXPAND_DIMS": "ExpandDims",
    "GATHER_ND": "GatherNd",
    "LOG_SOFTMAX": "LogSoftmax",
    "HARD_SWISH": "HardSwish",
    "EXP": "Exp",
    "ABS": "Abs",
    "NEG": "Neg",
    "COS": "Cos",
    "SIGN": "Sign",
    "POW": "Pow",
    "QUANTIZE": "Quantize",
    "DEQUANTIZE": "Dequantize",
    "FILL": "Fill",
    "ZEROS_LIKE": "ZerosLike",
    "BROADCAST_TO": "BroadcastTo",
    "TILE": "Tile",
    "REVERSE_V2": "ReverseV2",
    "READ_VARIABLE": "ReadVariable",
    "ASSIGN_VARIABLE": "AssignVariable",
    "LOGICAL_NOT": "LogicalNot",
    "GREATER": "Greater",
    "SELECT_V2": "SelectV2",
    "ADD_N": "AddN",
}
WITHOUT_OPTIONS = [
    *("RSQRT", "SQRT", "TANH", "LOGISTIC", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "PRELU", "ELU"),
    *("LOG", "SIN", "FLOOR", "CEIL", "ROUND", "CUSTOM"),
]
ENUM_OF = {
    "fused_activation": "ActivationFunctionType",
    "padding": "Padding",
    "mode": "MirrorPadMode",
    **dict.fromkeys(("output_type", "out_type", "in_data_type", "out_data_type"), "TensorType"),
    "quantized_bias_type": "TensorType",
    "weights_format": "FullyConnectedOptionsWeightsFormat",
}
UNWRITTEN = {"quantSpec"}  # newer than the runtimes


@pytest.fixture(scope="module")
def schema() -> Any:
    try:
        return importlib.import_module("ai_edge_litert.schema_py_generated")
    except ImportError as error:
        skip_unless_ci("litert", MissingToolError(f"no generated schema: {error}"))


def read(schema: Any, tflite: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(tflite)


def written(schema: Any, name: str, **options: Any) -> Any:
    """Write one operator with these options; return it as read, its code checked."""
    model = read(schema, single_operator(name, [X], [X], **options))
    (code,), (operator,) = model.operatorCodes, model.subgraphs[0].operators
    assert code.builtinCode == getattr(schema.BuiltinOperator, name)
    assert code.deprecatedBuiltinCode == min(code.builtinCode, 127)
    assert (list(operator.inputs), list(operator.outputs)) == ([0], [1])
    return operator


def schema_name(option: str) -> str:
    if option == "fused_activation":
        return "fusedActivationFunction"
    first, *others = option.split("_")
    return first + "".join(word.capitalize() for word in others)


def as_read(value: Any) -> Any:
    value = value.decode() if isinstance(value, bytes) else value
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize(("name", "table", "options"), WITH_OPTIONS, ids=lambda value: str(value)[:30])
def test_every_option_reads_back(schema: Any, name: str, table: str, options: dict[str, Any]) -> None:
    operator = written(schema, name, **options)
    assert operator.builtinOptionsType == getattr(schema.BuiltinOptions, f"{table}Options")
    defaults = vars(getattr(schema, f"{table}OptionsT")())
    expected = {
        schema_name(key): getattr(getattr(schema, ENUM_OF[key]), value) if isinstance(value, str) else value
        for key, value in options.items()
        if key in ENUM_OF
    } | {schema_name(key): value for key, value in options.items() if key not in ENUM_OF}
    assert expected.keys() == defaults.keys() - UNWRITTEN  # all of them
    assert all(expected[key] != defaults[key] for key in expected)
    found = {key: as_read(value) for key, value in vars(operator.builtinOptions).items()}
    assert {key: value for key, value in found.items() if key not in UNWRITTEN} == expected


@pytest.mark.parametrize("name", WITH_EMPTY_OPTIONS)
def test_tables_without_fields_have_their_tag(schema: Any, name: str) -> None:
    operator, table = written(schema, name), f"{WITH_EMPTY_OPTIONS[name]}Options"
    assert operator.builtinOptionsType == getattr(schema.BuiltinOptions, table)
    assert vars(operator.builtinOptions) == vars(getattr(schema, f"{table}T")()) == {}


@pytest.mark.parametrize("name", WITHOUT_OPTIONS)
def test_operators_without_options_write_none(schema: Any, name: str) -> None:
    operator = written(schema, name)
    assert (operator.builtinOptionsType, operator.builtinOptions) == (schema.BuiltinOptions.NONE, None)


def test_these_tables_are_all_the_writer_knows() -> None:
    assert {name for name, _, _ in WITH_OPTIONS} | WITH_EMPTY_OPTIONS.keys() == OPTIONS.keys()
    assert not OPTIONS.keys() & set(WITHOUT_OPTIONS)


def test_what_is_not_given_is_useful(schema: Any) -> None:
    convolution = vars(written(schema, "CONV_2D").builtinOptions)
    assert [convolution[key] for key in ("strideW", "strideH", "dilationWFactor", "dilationHFactor")] == [
        1
    ] * 4
    assert written(schema, "SOFTMAX").builtinOptions.beta == 1.0
    assert written(schema, "ADD").builtinOptions.potScaleInt16 is False
    assert written(schema, "ADD", pot_scale_int16=True).builtinOptions.potScaleInt16 is True
    assert written(schema, "CONV_2D", dilation_w_factor=0).builtinOptions.dilationWFactor == 0
    assert written(schema, "RESHAPE").builtinOptions is None
    with pytest.raises(KeyError, match="TANH has no option"):
        single_operator("TANH", [X], [X], axis=1)


def test_versions_and_custom_codes_are_of_the_code(schema: Any) -> None:
    writer = TFLiteWriter()
    tensors = [writer.tensor(f"t{i}", (1, 4)) for i in range(5)]
    writer.operator("TANH", [0], [1], version=3)
    writer.operator("CUSTOM", [1], [2], custom_code="Mine", custom_options=b"abc")
    writer.operator("TANH", [2], [3])
    writer.operator("TANH", [3], [4], version=3, intermediates=[1, 2])
    model = read(schema, writer.finish(tensors[:1], tensors[-1:], extra_subgraphs=2))
    operators = model.subgraphs[0].operators
    codes = [model.operatorCodes[each.opcodeIndex] for each in operators]
    assert len(model.operatorCodes) == 3
    assert [code.version for code in codes] == [3, 1, 1, 3]
    assert [code.customCode for code in codes] == [None, b"Mine", None, None]
    assert bytes(operators[1].customOptions) == b"abc"
    assert list(operators[3].intermediates) == [1, 2]
    assert [len(graph.tensors) for graph in model.subgraphs] == [5, 0, 0]
    assert [graph.name for graph in model.subgraphs] == [b"main", b"graph_1", b"graph_2"]


@pytest.mark.parametrize(
    "dtype", ["INT8", "INT16", "INT32", "INT64", "FLOAT32", "UINT8", "BOOL", "INT4", "RESOURCE"]
)
def test_tensors_read_back(schema: Any, dtype: str) -> None:
    described = X | {"dtype": dtype, "shape_signature": (-1, 4), "is_variable": True}
    tensor = read(schema, single_operator("TANH", [X], [described])).subgraphs[0].tensors[1]
    assert tensor.type == getattr(schema.TensorType, dtype)
    assert (list(tensor.shape), list(tensor.shapeSignature), tensor.isVariable) == ([1, 4], [-1, 4], True)
    plain = read(schema, single_operator("TANH", [X], [X])).subgraphs[0].tensors[1]
    assert (plain.shapeSignature, plain.isVariable) == (None, False)


def test_int4_values_are_packed_low_first(schema: Any) -> None:
    constant = {"shape": (5,), "dtype": "INT4", "data": np.array([1, -8, 7, -1, -2])}
    model = read(schema, single_operator("ADD", [X, constant], [X]))
    assert bytes(model.buffers[2].data) == bytes([0x81, 0xF7, 0x0E])


def test_only_activations_are_inputs_of_a_single_operator(schema: Any) -> None:
    constant = {"shape": (4,), "dtype": "INT8", "data": np.arange(4, dtype=np.int8)}
    inputs: list[dict[str, Any] | None] = [
        constant,
        X,
        None,
        X | {"is_variable": True},
        X | {"name": "given"},
    ]
    graph = read(schema, single_operator("PAD", inputs, [X, X])).subgraphs[0]
    assert list(graph.inputs) == [1, 3]
    assert list(graph.outputs) == list(graph.operators[0].outputs) == [4, 5]
    assert list(graph.operators[0].inputs) == [0, 1, -1, 2, 3]
    assert [tensor.name for tensor in graph.tensors][2:4] == [b"input_3", b"given"]


def image(dtype: str, rows: int, columns: int, channels: int) -> dict[str, Any]:
    return {"shape": (1, rows, columns, channels), "dtype": dtype, "scale": 0.1, "zero_point": 0}


def per_channel(shape: tuple[int, ...], axis: int) -> dict[str, Any]:
    quantization = {"scale": np.full(shape[axis], 0.1), "zero_point": np.zeros(shape[axis]), "axis": axis}
    return {"shape": shape, "dtype": "INT8", "data": np.ones(shape, np.int8)} | quantization


def bias(dtype: str, rows: int) -> dict[str, Any]:
    """Return ones; runtimes want one of a convolution, -1 for an absent one is only for dense layers."""
    kind = {"INT8": "INT32", "INT16": "INT64"}[dtype]
    quantization = {"scale": np.full(rows, 0.01), "zero_point": np.zeros(rows)}
    return {"shape": (rows,), "dtype": kind, "data": np.ones(rows, kind.lower())} | quantization


def int32(values: Any) -> dict[str, Any]:
    data = np.array(values, np.int32)
    return {"shape": data.shape, "dtype": "INT32", "data": data}


def loadable(name: str, dtype: str) -> bytes:
    """Return one sensible network of the operator, with activations of the dtype."""
    x = image(dtype, 5, 5, 3)
    size = {"filter_width": 3, "filter_height": 3}
    probability = {"scale": 1 / 256, "zero_point": -128} if dtype == "INT8" else {"scale": 2.0**-15}
    signed = {"scale": 1 / 128} if dtype == "INT8" else {"scale": 2.0**-15}
    cases: dict[str, tuple[list[Any], dict[str, Any], dict[str, Any]]] = {
        "CONV_2D": (
            [x, per_channel((4, 3, 3, 3), 0), bias(dtype, 4)],
            image(dtype, 3, 3, 4),
            {"padding": "VALID"} | (BIAS64 if dtype == "INT16" else {}),
        ),
        "DEPTHWISE_CONV_2D": (
            [x, per_channel((1, 3, 3, 3), 3), bias(dtype, 3)],
            image(dtype, 3, 3, 3),
            {"padding": "VALID"},
        ),
        "ADD": ([x, x], x, {}),
        "MUL": ([x, x], x, {}),
        "SOFTMAX": ([x], x | probability, {}),
        "PAD": ([x, int32([[0, 0], [1, 1], [1, 1], [0, 0]])], image(dtype, 7, 7, 3), {}),
        "CONCATENATION": ([x, x], image(dtype, 5, 5, 6), {"axis": 3}),
        "MEAN": ([x, int32([1, 2])], image(dtype, 1, 1, 3), {"keep_dims": True}),
        "TRANSPOSE": ([x, int32([0, 3, 1, 2])], image(dtype, 3, 5, 5), {}),
        "MAX_POOL_2D": ([x], image(dtype, 3, 3, 3), {"padding": "VALID", **size}),
        "QUANTIZE": ([x], x | {"scale": 0.2}, {}),
        "LEAKY_RELU": ([x], x, {"alpha": 0.25}),
        "TANH": ([x], x | signed, {}),
        "LOGISTIC": ([x], x | probability, {}),
        "BROADCAST_TO": ([x, int32([1, 5, 5, 3])], x, {}),
    }
    inputs, output, options = cases[name]
    return single_operator(name, inputs, [output], **options)


LOADABLE = [
    *("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MUL", "SOFTMAX", "PAD", "CONCATENATION", "MEAN", "TRANSPOSE"),
    *("MAX_POOL_2D", "QUANTIZE", "LEAKY_RELU", "TANH", "LOGISTIC", "BROADCAST_TO"),
]


@pytest.mark.parametrize("runtime", ["tflite-runtime", "litert", "tflm"])
@pytest.mark.parametrize("dtype", ["INT8", "INT16"])
@pytest.mark.parametrize("name", LOADABLE)
def test_runtimes_run_a_single_operator(name: str, dtype: str, runtime: str) -> None:
    tflite = loadable(name, dtype)
    num_inputs = 2 if name in ("ADD", "MUL", "CONCATENATION") else 1
    values = np.arange(75).reshape(1, 5, 5, 3).astype(dtype.lower())
    (output,) = answers(runtime, tflite, *[values] * num_inputs)
    assert output.dtype == values.dtype
    assert output.any()
