"""What a file is reduced to before it is lowered: constants, edges, sizes, and what is not one graph."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeqrl.backends.runtime_network import RuntimeNetwork
from edgeqrl.errors import DataError, UnsupportedOperatorError, UsageError
from edgeqrl.network.compare import compare
from edgeqrl.network.fold import fold
from edgeqrl.network.graph import FileEdge, simplify
from edgeqrl.network.read_tflite import parse_tflite, read_tflite, read_with_edges
from edgeqrl.network.reference import Reference
from edgeqrl.network.tflite_model import OperatorInfo, TensorInfo
from tests.oracles import answers, require_equal
from tests.tflite_writer import TFLiteWriter, single_operator

X: dict[str, Any] = {"shape": (1, 4), "dtype": "INT8", "scale": 0.1, "zero_point": 3}
Array = NDArray[Any]


def info(values: Any, dtype: str = "INT32", shape: tuple[int, ...] | None = None) -> TensorInfo:
    """Describe a constant, or with a shape the tensor that is written."""
    array = np.asarray(values, {"FLOAT32": "f4", "BOOL": "?", "INT8": "i1"}.get(dtype, dtype.lower()))
    data = memoryview(array.tobytes()) if shape is None else None
    none = (np.zeros(0, np.float32), np.zeros(0, np.int64), 0, False, False)
    return TensorInfo("t", array.shape if shape is None else shape, dtype, *none, data, None)


MASKS = dict.fromkeys(("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"), 0)


@pytest.mark.parametrize(
    ("name", "inputs", "options", "expected"),
    [
        ("SHAPE", [[[1, 2, 3]]], {"out_type": "INT32"}, [1, 3]),
        ("STRIDED_SLICE", [[5, 6, 7], [1], [2], [1]], {**MASKS, "shrink_axis_mask": 1, "offset": False}, 6),
        ("STRIDED_SLICE", [[5, 6, 7], [-1], [-9], [-2]], {**MASKS, "offset": False}, [7, 5]),
        ("SLICE", [[5, 6, 7], [1], [-1]], {}, [6, 7]),
        ("PACK", [5, 6], {"axis": 0, "values_count": 2}, [5, 6]),
        ("CONCATENATION", [[5], [6, 7]], {"axis": 0}, [5, 6, 7]),
        ("GATHER", [[5, 6, 7], [2, 0]], {"axis": 0, "batch_dims": 0}, [7, 5]),
        ("ADD", [[5, 6], [1]], {}, [6, 7]),
        ("SUB", [[5, 6], 1], {}, [4, 5]),
        ("MUL", [[5, 6], [2, 3]], {}, [10, 18]),
        ("MAXIMUM", [[5, 6], 6], {}, [6, 6]),
        ("MINIMUM", [[5, 6], 5], {}, [5, 5]),
        ("FLOOR_DIV", [[-5, 6], 2], {}, [-3, 3]),
        ("FLOOR_MOD", [[-5, 6], 4], {}, [3, 2]),
        ("REDUCE_PROD", [[2, 3, 4], [0]], {"keep_dims": False}, 24),
        ("SUM", [[[2, 3], [4, 5]], [1]], {"keep_dims": True}, [[5], [9]]),
        ("RANGE", [2, 9, 3], {}, [2, 5, 8]),
        ("FILL", [[2, 2], 7], {}, [[7, 7], [7, 7]]),
        ("ZEROS_LIKE", [[5, 6]], {}, [0, 0]),
        ("BROADCAST_ARGS", [[1, 3], [2, 1]], {}, [2, 3]),
        ("BROADCAST_TO", [[5], [2, 1]], {}, [[5], [5]]),
        ("RESHAPE", [[5, 6], [2, 1]], {"new_shape": ()}, [[5], [6]]),
        ("SQUEEZE", [[[5, 6]]], {"squeeze_dims": (0,)}, [5, 6]),
        ("EXPAND_DIMS", [[5, 6], 0], {}, [[5, 6]]),
        ("TRANSPOSE", [[[5, 6]], [1, 0]], {}, [[5], [6]]),
        ("TILE", [[5, 6], [2]], {}, [5, 6, 5, 6]),
        ("REVERSE_V2", [[5, 6], [0]], {}, [6, 5]),
        ("RANK", [[[5, 6]]], {}, 2),
        ("CAST", [[5, 6]], {}, [5, 6]),
    ],
)  # fmt: skip
def test_shape_arithmetic_is_computed(name: str, inputs: list[Any], options: Any, expected: Any) -> None:
    wanted = np.asarray(expected, np.int32)
    op = OperatorInfo(name, (), (), options)
    (result,) = fold(op, [info(values) for values in inputs], [info(0, shape=wanted.shape)]) or [None]
    assert result is not None
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, wanted)
    assert fold(op, [info(values) for values in inputs], [info(0, shape=(9, 9))]) is None


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("FILL", [[2**15, 2**15], 0]),
        ("BROADCAST_TO", [[5], [2**15, 2**15]]),
        ("TILE", [[5], [2**30]]),
        ("RANGE", [0, 2**31 - 1, 1]),
    ],
)
def test_nothing_large_is_folded(name: str, inputs: list[Any]) -> None:
    shape = (2**15, 2**15) if name in ("FILL", "BROADCAST_TO") else (2**30,)
    writer = TFLiteWriter()
    x = writer.tensor("x", (1, 4), scale=0.1, zero_point=3)
    constants = [writer.tensor("c", np.shape(v), "INT32", data=np.asarray(v, np.int32)) for v in inputs]
    large = writer.tensor("large", shape, "INT32")
    out = writer.tensor("out", (1, 4), scale=0.1, zero_point=3)
    writer.operator(name, constants, [large])
    writer.operator("RESHAPE", [x, large], [out])
    with pytest.raises(UnsupportedOperatorError):
        read_tflite(writer.finish([x], [out]))


def test_operators_that_no_output_needs_are_dropped() -> None:
    writer = TFLiteWriter()
    x, y, z = (writer.tensor(name, (1, 4), scale=0.1, zero_point=3) for name in "xyz")
    writer.operator("TOPK_V2", [x], [z])
    writer.operator("RELU", [x], [y])
    assert [layer.operator for layer in read_tflite(writer.finish([x], [y])).layers] == ["RELU"]


def edges_tflite(edge: str, dtype: str = "INT8", scale: float = 0.05) -> bytes:
    """Write RELU between edges FLOAT32, UINT8, or as the tensor itself."""
    writer = TFLiteWriter()
    zero_point = -3 if dtype == "INT8" else 0
    q: dict[str, Any] = {"dtype": dtype, "scale": scale, "zero_point": zero_point}
    x = writer.tensor("x", (1, 64), **q)
    y = writer.tensor("y", (1, 64), **q)
    if edge == dtype:
        writer.operator("RELU", [x], [y])
        return writer.finish([x], [y])
    outer: dict[str, Any] = {"scale": scale, "zero_point": zero_point + 128} if edge == "UINT8" else {}
    a, b = (writer.tensor(name, (1, 64), edge, **outer) for name in ("a", "b"))
    writer.operator("QUANTIZE", [a], [x])
    writer.operator("RELU", [x], [y])
    writer.operator("QUANTIZE" if edge == "UINT8" else "DEQUANTIZE", [y], [b])
    return writer.finish([a], [b])


@pytest.mark.parametrize(("edge", "dtype"), [("FLOAT32", "INT8"), ("UINT8", "INT8"), ("FLOAT32", "INT16")])
@pytest.mark.parametrize("runtime", ["tflm", "tflite-runtime"])
def test_edges_are_stripped_and_third_parties_are_fed_through_them(
    edge: str, dtype: str, runtime: str
) -> None:
    tflite = edges_tflite(edge, dtype)
    read = read_with_edges(tflite)
    assert [layer.operator for layer in read.network.layers] == ["RELU"]
    assert (read.network.inputs, read.network.outputs) == (("x",), ("y",))
    assert (read.inputs[0].dtype, read.outputs[0].dtype) == (edge, edge)
    limits = np.iinfo(dtype.lower())
    values = np.linspace(limits.min, limits.max, 256).astype(limits.dtype).reshape(4, 64)
    with RuntimeNetwork(runtime, runtime, tflite) as network:
        (theirs,) = network.run({"x": values}).values()
    (ours,) = Reference(read.network).run({"x": values}).values()
    assert theirs.dtype == ours.dtype
    np.testing.assert_array_equal(ours, theirs)
    (plain,) = answers(runtime, edges_tflite(dtype, dtype), values)
    np.testing.assert_array_equal(ours, plain)


@given(st.floats(2.0**-90, 2.0**90, width=32), st.integers(-128, 127))
def test_every_integer_has_a_float_that_comes_back(scale: float, zero_point: int) -> None:
    edge = FileEdge("x", "FLOAT32", (1, 256), scale, zero_point)
    values = np.arange(-128, 128).astype(np.int8)[None]
    real = edge.to_file(values)
    quantized = np.rint(real / np.float32(scale)) + zero_point  # as the runtimes do it
    np.testing.assert_array_equal(quantized, values)
    np.testing.assert_array_equal(edge.from_file(real, "int8"), values)


def test_a_uint8_edge_that_loses_values_is_refused() -> None:
    writer = TFLiteWriter()
    a = writer.tensor("a", (1, 4), "UINT8", scale=0.1, zero_point=128)
    x = writer.tensor("x", (1, 4), scale=0.2, zero_point=0)
    y = writer.tensor("y", (1, 4), scale=0.2, zero_point=0)
    writer.operator("QUANTIZE", [a], [x])
    writer.operator("RELU", [x], [y])
    with pytest.raises(UnsupportedOperatorError, match="QUANTIZE at 'x' is not supported"):
        read_tflite(writer.finish([a], [y]))


def test_inputs_may_be_outputs_and_outputs_may_repeat() -> None:
    writer = TFLiteWriter()
    x, y, z = (writer.tensor(name, (1, 4), scale=0.1, zero_point=3) for name in "xyz")
    c = writer.tensor("c", (1, 2), scale=0.1, zero_point=3, data=np.array([[7, 8]], np.int8))
    writer.operator("RELU", [x], [z])
    read = read_with_edges(writer.finish([x, y], [z, y, z, c, x]))
    assert read.network.inputs == ("x", "y")
    assert read.network.outputs == ("z", "y", "c", "x")
    assert [edge.tensor for edge in read.outputs] == ["z", "y", "z", "c", "x"]
    given_values = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int8)
    found = Reference(read.network).run({"x": given_values, "y": given_values + 1})
    assert found["y"].tolist() == (given_values + 1).tolist()
    assert found["c"].tolist() == [[7, 8], [7, 8]]


def test_one_float_input_may_be_quantized_twice_alike() -> None:
    writer = TFLiteWriter()
    a = writer.tensor("a", (1, 4), "FLOAT32")
    x, y, z = (writer.tensor(name, (1, 4), scale=0.1, zero_point=3) for name in "xyz")
    writer.operator("QUANTIZE", [a], [x])
    writer.operator("QUANTIZE", [a], [y])
    writer.operator("MAXIMUM", [x, y], [z])
    network = read_tflite(writer.finish([a], [z]))
    assert network.layers[0].inputs == ("x", "x")


def test_a_network_without_inputs_is_not_compared() -> None:
    writer = TFLiteWriter()
    constant = {"data": np.array([[1, 2, 3, 4]], np.int8)}
    a, b = writer.tensor("a", **X | constant), writer.tensor("b", **X)
    writer.operator("RELU", [a], [b])
    tflite = writer.finish([], [b])
    assert not read_tflite(tflite).inputs
    with pytest.raises(UsageError, match="no input to draw"):
        compare(tflite, ["reference", "tflm"], samples=4, seed=0)


def test_names_are_unique() -> None:
    writer = TFLiteWriter()
    x, y = (writer.tensor("same", (1, 4), scale=0.1, zero_point=3) for _ in range(2))
    writer.operator("RELU", [x], [y])
    graph = simplify(parse_tflite(writer.finish([x], [y])))
    assert len({tensor.name for tensor in graph.model.tensors}) == 2


def test_an_initial_state_of_zeros_becomes_a_constant() -> None:
    writer = TFLiteWriter()
    x = writer.tensor("x", (1, 4), scale=0.1, zero_point=3)
    shape = writer.tensor("shape", (2,), "INT32", data=np.array([1, 2], np.int32))
    value = writer.tensor("value", (), scale=0.1, zero_point=3, data=np.array(3, np.int8))
    zeros = writer.tensor("zeros", (1, 2), scale=0.1, zero_point=3)
    real = writer.tensor("real", (1, 2), "FLOAT32")
    nought = writer.tensor("nought", (), "FLOAT32", data=np.array(0, np.float32))
    more = writer.tensor("more", (1, 2), scale=0.1, zero_point=3)
    out = writer.tensor("out", (1, 8), scale=0.1, zero_point=3)
    writer.operator("FILL", [shape, value], [zeros])
    writer.operator("FILL", [shape, nought], [real])
    writer.operator("QUANTIZE", [real], [more])
    writer.operator("CONCATENATION", [x, zeros, more], [out], axis=1)
    tflite = writer.finish([x], [out])
    network = read_tflite(tflite)
    assert [layer.operator for layer in network.layers] == ["CONCATENATION"]
    assert {name: values.tolist() for name, values in network.constants.items()} == {
        "zeros": [3, 3],
        "more": [3, 3],
    }
    require_equal("tflite-runtime", [(tflite, [np.array([[1, 2, 3, 4]], np.int8)])])


def test_a_layer_on_constants_is_computed_when_the_file_is_read() -> None:
    writer = TFLiteWriter()
    x = writer.tensor("x", (1, 3), scale=0.1, zero_point=3)
    state = writer.tensor("state", (1, 2), scale=0.1, zero_point=3, data=np.array([[40, -9]], np.int8))
    weights = writer.tensor(
        "w", (3, 2), data=np.array([[5, 6], [-7, 8], [90, 1]], np.int8), scale=0.02, zero_point=0
    )
    y = writer.tensor("y", (1, 3), scale=0.05, zero_point=0)
    z = writer.tensor("z", (1, 3), scale=0.1, zero_point=0)
    writer.operator("FULLY_CONNECTED", [state, weights, -1], [y])
    writer.operator("ADD", [x, y], [z])
    tflite = writer.finish([x], [z])
    network = read_tflite(tflite)
    assert [layer.operator for layer in network.layers] == ["ADD"]
    assert list(network.constants) == ["y"]
    require_equal("tflm", [(tflite, [np.array([[1, 2, 3], [-4, 5, 100]], np.int8)])])


def test_open_sizes_follow_from_the_inputs() -> None:
    """The converter writes 1 for what it does not know; runtimes that resize compute it."""
    writer = TFLiteWriter()
    q: dict[str, Any] = {"scale": 0.1, "zero_point": 3}
    x = writer.tensor("x", (1, 3, 4), shape_signature=(-1, 3, 4), **q)
    told = writer.tensor("told", (3,), "INT32", data=np.array([1, 2, -1], np.int32))
    y = writer.tensor("y", (1, 2, 1), shape_signature=(-1, 2, -1), **q)
    order = writer.tensor("order", (3,), "INT32", data=np.array([0, 2, 1], np.int32))
    z = writer.tensor("z", (1, 1, 2), shape_signature=(-1, -1, 2), **q)
    writer.operator("RESHAPE", [x, told], [y])
    writer.operator("TRANSPOSE", [y, order], [z])
    tflite = writer.finish([x], [z])
    network = read_tflite(tflite)
    assert network.tensors["z"].shape == (6, 2)
    values = np.arange(12, dtype=np.int8).reshape(1, 3, 4)
    require_equal("tflite-runtime", [(tflite, [values])])


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("WHILE", "Export one time step without a loop"),
        ("IF", "Export one branch alone"),
        ("CALL_ONCE", "the state as an input and an output"),
        ("READ_VARIABLE", "the state as an input and an output"),
        ("VAR_HANDLE", "the state as an input and an output"),
    ],
)
def test_control_flow_and_hidden_state_are_refused(name: str, cure: str) -> None:
    tflite = single_operator(name, [X], [X | {"name": "loop/out"}])
    with pytest.raises(UnsupportedOperatorError) as caught:
        read_tflite(tflite)
    assert str(caught.value).startswith(f"{name} at 'loop/out' is not supported: ")
    assert cure in str(caught.value)


def test_a_variable_tensor_is_hidden_state() -> None:
    writer = TFLiteWriter()
    x = writer.tensor("x", (1, 4), scale=0.1, zero_point=3)
    h = writer.tensor("h", (1, 4), scale=0.1, zero_point=3, is_variable=True)
    y = writer.tensor("cell/y", (1, 4), scale=0.1, zero_point=3)
    writer.operator("ADD", [x, h], [y])
    with pytest.raises(UnsupportedOperatorError, match=r"ADD at 'cell/y' .* keeps a hidden state in 'h'"):
        read_tflite(writer.finish([x], [y]))


def test_several_graphs_are_refused() -> None:
    writer = TFLiteWriter()
    x, y = (writer.tensor(name, (1, 4), scale=0.1, zero_point=3) for name in "xy")
    writer.operator("RELU", [x], [y])
    with pytest.raises(UnsupportedOperatorError, match=r"has 3 graphs, .* Export one function alone"):
        read_tflite(writer.finish([x], [y], extra_subgraphs=2))


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        ({"shape": (4, 4)}, r"a batch of 4\. Export the model with a batch of 1"),
        ({"shape": (1, 4), "shape_signature": (-1, -1)}, r"no fixed size: \[-1, -1\]"),
    ],
)
def test_an_input_without_a_fixed_size_is_refused(tensor: dict[str, Any], why: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=why):
        read_tflite(single_operator("RELU", [X | tensor], [X | tensor | {"shape_signature": None}]))


def test_an_open_batch_is_a_batch_of_one() -> None:
    tensor = X | {"shape_signature": (-1, 4)}
    assert read_tflite(single_operator("RELU", [tensor], [tensor])).tensors["input_0"].shape == (4,)


@pytest.mark.parametrize("case", ["twice", "constant", "written"])
def test_an_input_that_is_something_else_too_is_refused(case: str) -> None:
    writer = TFLiteWriter()
    data = np.zeros((1, 4), np.int8) if case == "constant" else None
    x = writer.tensor("x", (1, 4), scale=0.1, zero_point=3, data=data)
    y = writer.tensor("y", (1, 4), scale=0.1, zero_point=3)
    writer.operator("RELU", [x], [x if case == "written" else y])
    inputs = [x, x] if case == "twice" else [x]
    with pytest.raises(DataError, match="its input 'x' is also"):
        read_tflite(writer.finish(inputs, [y if case != "written" else x]))


def int4_tflite(name: str, scales: list[float]) -> tuple[bytes, tuple[int, ...]]:
    rng = np.random.default_rng(0)
    shapes: dict[str, Any] = {
        "FULLY_CONNECTED": ((1, 7), (3, 7), (1, 3), {}),
        "CONV_2D": ((1, 4, 4, 3), (3, 3, 3, 3), (1, 2, 2, 3), {"padding": "VALID"}),
        "DEPTHWISE_CONV_2D": ((1, 4, 4, 3), (1, 3, 3, 3), (1, 2, 2, 3), {"padding": "VALID"}),
    }
    source, kernel, target, options = shapes[name]
    values = rng.integers(-7, 8, kernel).astype(np.int8)
    weights: dict[str, Any] = {"shape": kernel, "dtype": "INT4", "data": values, "scale": scales}
    weights |= {"zero_point": [0] * len(scales), "axis": 3 if name.startswith("DEPTH") else 0}
    x = {"shape": source, "scale": 0.1, "zero_point": 3}
    tflite = single_operator(
        name, [x, weights], [{"shape": target, "scale": 0.05, "zero_point": 0}], **options
    )
    return tflite, source[1:]


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("FULLY_CONNECTED", [0.02]),
        ("CONV_2D", [0.02]),
        ("CONV_2D", [0.02, 0.03, 0.01]),
        ("DEPTHWISE_CONV_2D", [0.02, 0.03, 0.01]),
    ],
)
def test_int4_weights_are_int8_weights(name: str, scales: list[float]) -> None:
    tflite, shape = int4_tflite(name, scales)
    values = np.random.default_rng(1).integers(-128, 128, (20, *shape), np.int8)
    require_equal("tflm", [(tflite, [values])])


def test_int4_weights_of_a_dense_layer_have_one_scale() -> None:
    tflite, _ = int4_tflite("FULLY_CONNECTED", [0.02, 0.03, 0.01])
    with pytest.raises(UnsupportedOperatorError, match="to 8 bits, or to 4 bits with one scale for all"):
        read_tflite(tflite)
