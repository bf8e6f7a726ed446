"""Float moves behind a DEQUANTIZE or before a QUANTIZE move the integers, as the runtimes have it."""

from typing import Any

import numpy as np
import pytest

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.compare import compare
from edgeqrl.network.read_tflite import read_tflite, read_with_edges
from tests.oracles import require_equal
from tests.tflite_writer import TFLiteWriter

Q: dict[str, Any] = {"scale": 0.1, "zero_point": 3}
WIDE: dict[str, Any] = {"dtype": "INT16", "scale": 0.001, "zero_point": 0}

# Operator, operands (None: the activation), output shapes, options; the input is [1, 4, 6].
MOVES: list[tuple[str, list[Any], list[tuple[int, ...]], dict[str, Any]]] = [
    ("SPLIT", [2, None], [(1, 4, 2)] * 3, {"num_splits": 3}),
    ("SPLIT_V", [None, [1, 3], 1], [(1, 1, 6), (1, 3, 6)], {"num_splits": 2}),
    ("UNPACK", [None], [(1, 6)] * 4, {"num": 4, "axis": 1}),
    ("RESHAPE", [None, [1, -1]], [(1, 24)], {}),
    ("SQUEEZE", [None], [(4, 6)], {"squeeze_dims": [0]}),
    ("EXPAND_DIMS", [None, 1], [(1, 1, 4, 6)], {}),
    ("SLICE", [None, [0, 1, 2], [1, 2, -1]], [(1, 2, 4)], {}),
    ("STRIDED_SLICE", [None, [0, 0, 0], [1, 4, 6], [1, 2, 1]], [(1, 2, 6)], {}),
    ("TRANSPOSE", [None, [0, 2, 1]], [(1, 6, 4)], {}),
    ("REVERSE_V2", [None, [2]], [(1, 4, 6)], {}),
    ("PAD", [None, [[0, 0], [1, 0], [0, 2]]], [(1, 5, 8)], {}),
    ("CONCATENATION", [None, None], [(1, 8, 6)], {"axis": 1}),
    ("PACK", [None, None], [(1, 2, 4, 6)], {"axis": 1, "values_count": 2}),
]


def moved(
    name: str,
    operands: list[Any],
    shapes: list[tuple[int, ...]],
    options: dict[str, Any],
    quantized: dict[str, Any] = Q,
    target: dict[str, Any] | None = None,
) -> bytes:
    """Write RELU, DEQUANTIZE, a float move, and a QUANTIZE of each output."""
    writer = TFLiteWriter()
    x, y = (writer.tensor(n, (1, 4, 6), **quantized) for n in ("x", "y"))
    real = writer.tensor("real", (1, 4, 6), "FLOAT32")
    writer.operator("RELU", [x], [y])
    writer.operator("DEQUANTIZE", [y], [real])
    inputs = []
    for i, values in enumerate(operands):
        array = None if values is None else np.asarray(values, np.int32)
        inputs.append(real if array is None else writer.tensor(f"n{i}", array.shape, "INT32", data=array))
    outputs = [writer.tensor(f"moved/{i}", shape, "FLOAT32") for i, shape in enumerate(shapes)]
    writer.operator(name, inputs, outputs, **options)
    results = [writer.tensor(f"q{i}", shape, **(target or quantized)) for i, shape in enumerate(shapes)]
    for output, result in zip(outputs, results, strict=True):
        writer.operator("QUANTIZE", [output], [result])
    return writer.finish([x], results)


def values(dtype: str = "int8") -> Any:
    info = np.iinfo(dtype)
    return np.random.default_rng(0).integers(info.min, info.max, (8, 4, 6), dtype, endpoint=True)


@pytest.mark.parametrize(("name", "operands", "shapes", "options"), MOVES, ids=[m[0] for m in MOVES])
def test_a_float_move_moves_the_integers(
    name: str, operands: list[Any], shapes: list[tuple[int, ...]], options: dict[str, Any]
) -> None:
    int8, int16 = (moved(name, operands, shapes, options, quantized) for quantized in (Q, WIDE))
    layers = read_tflite(int8).layers
    assert {layer.operator for layer in layers} == {"RELU", name, "RESHAPE"}
    assert [layer.name for layer in layers if layer.operator == name][:1] == ["moved/0"]
    require_equal("tflm", [(int8, [values()]), (int16, [values("int16")])])


def test_other_scales_behind_a_move_are_a_table() -> None:
    tflite = moved(*MOVES[0], target={"scale": 0.23, "zero_point": -7})
    assert "QUANTIZE" in {layer.operator for layer in read_tflite(tflite).layers}
    require_equal("tflm", [(tflite, [values()])])


def test_a_float_output_behind_a_move_is_an_edge() -> None:
    writer = TFLiteWriter()
    x, y = (writer.tensor(n, (1, 4), **Q) for n in ("x", "y"))
    real, out = writer.tensor("real", (1, 4), "FLOAT32"), writer.tensor("out", (1, 2, 2), "FLOAT32")
    shape = writer.tensor("shape", (3,), "INT32", data=np.array([1, 2, 2], np.int32))
    writer.operator("RELU", [x], [y])
    writer.operator("DEQUANTIZE", [y], [real])
    writer.operator("RESHAPE", [real, shape], [out])
    tflite = writer.finish([x], [out])
    assert read_with_edges(tflite).outputs[0].tensor == "out"
    assert compare(tflite, ["reference", "tflm"], samples=32, seed=0).is_equal


def test_a_float_input_may_be_reshaped_before_it_is_quantized() -> None:
    writer = TFLiteWriter()
    x, real = writer.tensor("x", (1, 4), "FLOAT32"), writer.tensor("real", (1, 2, 2), "FLOAT32")
    shape = writer.tensor("shape", (3,), "INT32", data=np.array([1, 2, 2], np.int32))
    y, out = (writer.tensor(n, (1, 2, 2), **Q) for n in ("y", "out"))
    writer.operator("RESHAPE", [x, shape], [real])
    writer.operator("QUANTIZE", [real], [y])
    writer.operator("ABS", [y], [out])
    tflite = writer.finish([x], [out])
    assert [layer.operator for layer in read_tflite(tflite).layers] == ["ABS"]
    assert compare(tflite, ["reference", "tflm"], samples=32, seed=0).is_equal


def test_what_is_joined_has_one_quantization() -> None:
    writer = TFLiteWriter()
    x, y = writer.tensor("x", (1, 4), **Q), writer.tensor("y", (1, 4), scale=0.2, zero_point=0)
    a, b = (writer.tensor(n, (1, 4), "FLOAT32") for n in ("a", "b"))
    c, out = writer.tensor("c", (1, 8), "FLOAT32"), writer.tensor("out", (1, 8), **Q)
    writer.operator("DEQUANTIZE", [x], [a])
    writer.operator("DEQUANTIZE", [y], [b])
    writer.operator("CONCATENATION", [a, b], [c], axis=1)
    writer.operator("QUANTIZE", [c], [out])
    with pytest.raises(UnsupportedOperatorError, match="left it in float32 among integers, for which"):
        read_tflite(writer.finish([x, y], [out]))
