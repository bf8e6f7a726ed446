"""Our parser: what it reads, and that damaged, lying and huge files end in one sentence."""

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeqrl.errors import DataError, EdgeQRLError
from edgeqrl.network.read_tflite import parse_tflite, read_tflite, replace_buffers
from edgeqrl.network.tflite_model import shown, tensors_sharing, with_unique_names
from edgeqrl.network.tflite_schema import OPERATOR_OPTIONS
from tests.tflite_writer import (
    OPTIONS,
    TFLiteWriter,
    random_dense_tflite,
    random_float_tflite,
    single_operator,
)

DATA = Path(__file__).parent / "data"
CONVERTED = (DATA / "a_cartpole.tflite").read_bytes()
SMALL = random_dense_tflite(np.random.default_rng(0), [3, 4, 2], ["RELU", "TANH"])


def test_a_converted_file_reads_as_the_converter_wrote_it() -> None:
    model = parse_tflite(CONVERTED)
    assert [op.name for op in model.operators] == ["FULLY_CONNECTED"] * 3
    assert [op.fused_activation for op in model.operators] == ["RELU", "RELU", "NONE"]
    source = model.tensors[model.inputs[0]]
    assert (source.shape, source.dtype, source.zero_points.tolist()) == ((1, 4), "INT8", [-9])
    assert source.scales.tolist() == pytest.approx([0.02975819])
    weights = model.tensors[model.operators[0].inputs[1]]
    assert weights.values().shape == (64, 4)
    assert (len(weights.scales), weights.quantized_axis) == (64, 0)
    assert model.num_subgraphs == 1


def test_a_float_file_reads_with_its_values() -> None:
    rng = np.random.default_rng(0)
    model = parse_tflite(random_float_tflite(rng, [3, 4, 2], ["RELU", "TANH"]))
    expected = np.random.default_rng(0).normal(0.0, 3**-0.5, (4, 3)).astype(np.float32)
    weights = model.tensors[model.operators[0].inputs[1]]
    np.testing.assert_array_equal(weights.values(), expected)
    assert [op.name for op in model.operators] == ["FULLY_CONNECTED", "FULLY_CONNECTED", "TANH"]


def test_the_options_of_all_operators_are_known() -> None:
    for name, (tag, fields) in OPERATOR_OPTIONS.items():
        if name not in OPTIONS:  # of the writer
            continue
        expected = {
            "fused_activation_function" if k == "fused_activation" else k: v
            for k, v in OPTIONS[name][1].items()
        }
        assert tag == OPTIONS[name][0], name
        assert {k: slot for k, (slot, _, _) in fields.items()} == {
            k: slot for k, (slot, _) in expected.items()
        }
    without = {name for name, (_, fields) in OPTIONS.items() if fields} - OPERATOR_OPTIONS.keys()
    assert not without


@pytest.mark.parametrize(
    ("name", "given_options", "expected"),
    [
        (
            "CONV_2D",
            {"padding": "VALID", "stride_w": 2, "stride_h": 3, "fused_activation": "RELU6"},
            {"padding": "VALID", "stride_w": 2, "stride_h": 3, "fused_activation_function": "RELU6"}
            | {"dilation_w_factor": 1, "dilation_h_factor": 1, "quantized_bias_type": "FLOAT32"},
        ),
        ("SOFTMAX", {"beta": 0.5}, {"beta": 0.5}),
        ("RESHAPE", {"new_shape": [2, -1]}, {"new_shape": (2, -1)}),
        ("RESHAPE", {}, {"new_shape": ()}),
        ("CAST", {"out_data_type": "INT16"}, {"in_data_type": "FLOAT32", "out_data_type": "INT16"}),
        ("MEAN", {"keep_dims": True}, {"keep_dims": True}),
        ("VAR_HANDLE", {"shared_name": "h"}, {"container": "", "shared_name": "h"}),
        ("TRANSPOSE", {}, {}),
    ],
)
def test_options_are_read_with_the_defaults_of_the_schema(
    name: str, given_options: dict[str, Any], expected: dict[str, Any]
) -> None:
    x = {"shape": (1, 4), "scale": 0.1, "zero_point": 0}
    (op,) = parse_tflite(single_operator(name, [x], [x], **given_options)).operators
    assert dict(op.options) == expected
    for key, value in op.options.items():
        assert type(value) is type(expected[key])


def test_options_of_another_operator_are_refused() -> None:
    x = {"shape": (1, 4), "scale": 0.1, "zero_point": 0}
    tflite = bytearray(single_operator("SOFTMAX", [x], [x], beta=1.0))
    tags = [i for i in range(len(tflite)) if tflite[i] == OPERATOR_OPTIONS["SOFTMAX"][0]]
    changed = 0
    for place in tags:
        try:
            parse_tflite(bytes(tflite[:place] + b"\x0a" + tflite[place + 1 :]))
        except DataError as error:
            changed += "has the options of another" in str(error)
    assert changed == 1


@pytest.mark.parametrize("dtype", ["INT8", "UINT8", "INT16", "INT32", "INT64", "BOOL", "FLOAT32"])
def test_constants_of_every_type_are_read(dtype: str) -> None:
    writer = TFLiteWriter()
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype.lower())
    index = writer.tensor("c", (2, 3), dtype, data=values)
    read = parse_tflite(writer.finish([], [index])).tensors[index].values()
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)


def test_int4_constants_are_unpacked() -> None:
    writer = TFLiteWriter()
    values = np.array([[-8, 7, -1], [0, 3, -5], [1, 2, 4]], np.int8)
    index = writer.tensor("c", (3, 3), "INT4", data=values)
    read = parse_tflite(writer.finish([], [index])).tensors[index].values()
    np.testing.assert_array_equal(read, values)


def test_span_says_where_the_values_lie_in_the_file() -> None:
    for tensor in parse_tflite(CONVERTED).tensors:
        if tensor.span is not None:
            start, length = tensor.span
            assert CONVERTED[start : start + length] == tensor.values().tobytes()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "only 0 bytes"),
        (b"PK\x03\x04 a zip file", "lacks the mark 'TFL3'"),
        (b"\xff\xff\xff\xffTFL3", "points to byte"),
        (CONVERTED[: len(CONVERTED) // 2], "damaged"),
    ],
)
def test_what_is_no_tflite_file_is_refused_in_one_sentence(data: bytes, why: str) -> None:
    with pytest.raises(DataError, match=why) as caught:
        parse_tflite(data)
    assert str(caught.value).startswith("This is not a .tflite file, or it is damaged: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tflite", [SMALL, CONVERTED], ids=["small", "converted"])
def test_a_file_cut_anywhere_never_ends_in_anything_but_our_errors(tflite: bytes) -> None:
    step = 1 if tflite is SMALL else 37
    refused = 0
    for length in range(0, len(tflite), step):
        try:
            read_tflite(tflite[:length])
        except EdgeQRLError:
            refused += 1
    assert refused > 0.9 * len(tflite) / step


@settings(max_examples=400)
@given(st.data())
def test_a_file_with_changed_bytes_never_ends_in_anything_but_our_errors(data: st.DataObject) -> None:
    damaged = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(damaged) - 4))
        value = data.draw(st.sampled_from([0, 1, 4, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFC]))
        damaged[position : position + 4] = struct.pack("<I", value)
    with suppress(EdgeQRLError):
        read_tflite(bytes(damaged))


def test_a_lying_count_of_tensors_does_not_take_memory() -> None:
    # Every list that says it has 2**31 elements leaves the file and is refused before it is read.
    count = struct.pack("<I", len(parse_tflite(SMALL).tensors))
    lie = struct.pack("<I", 2**31)
    places = [i for i in range(0, len(SMALL) - 4, 4) if SMALL[i : i + 4] == count]
    refused = 0
    for place in places:
        try:
            parse_tflite(SMALL[:place] + lie + SMALL[place + 4 :])
        except DataError:
            refused += 1
    assert refused >= 1


@pytest.mark.parametrize(
    ("shape", "why"), [((1, -3), "shape"), ((2**16, 2**16), "shape"), ((1,) * 9, "longer than")]
)
def test_absurd_shapes_are_refused(shape: tuple[int, ...], why: str) -> None:
    writer = TFLiteWriter()
    tensor = writer.tensor("x", shape, scale=0.1, zero_point=0)
    with pytest.raises(DataError, match=why):
        parse_tflite(writer.finish([tensor], [tensor]))


def test_an_operand_that_does_not_exist_is_refused() -> None:
    writer = TFLiteWriter()
    tensor = writer.tensor("x", (1, 3), scale=0.1, zero_point=0)
    writer.operator("TANH", [tensor], [7])
    with pytest.raises(DataError, match="names a tensor that does not exist"):
        parse_tflite(writer.finish([tensor], [tensor]))


def test_a_constant_shorter_than_its_shape_is_refused_when_read() -> None:
    writer = TFLiteWriter()
    tensor = writer.tensor("w", (4, 4), data=np.zeros(15, np.int8), scale=0.1, zero_point=0)
    model = parse_tflite(writer.finish([], [tensor]))
    with pytest.raises(DataError, match=r"'w' .* has 15 bytes of values, and its shape \(4, 4\) needs 16"):
        model.tensors[tensor].values()


def test_names_are_made_unique_and_shown_without_control_characters() -> None:
    writer = TFLiteWriter()
    for name in ("x", "x", "", "x#1", "a\nb\x1b[31m"):
        writer.tensor(name, (1, 2), scale=0.1, zero_point=0)
    model = with_unique_names(parse_tflite(writer.finish([0], [1])))
    names = tuple(tensor.name for tensor in model.tensors)
    assert len(set(names)) == 5
    assert names[4] == "a?b?[31m"
    assert names[0] == "x"
    assert shown("a\n\u202eπ") == "a??π"
    assert len(shown("x" * 5000)) == 80


def test_replace_buffers_changes_those_values_and_nothing_else() -> None:
    model = parse_tflite(CONVERTED)
    index = model.operators[1].inputs[2]
    new = (model.tensors[index].values() + np.int32(5)).astype(np.int32)
    patched = replace_buffers(CONVERTED, {index: new.tobytes()})
    again = parse_tflite(patched)
    np.testing.assert_array_equal(again.tensors[index].values(), new)
    assert len(patched) == len(CONVERTED)
    for i, (before, after) in enumerate(zip(model.tensors, again.tensors, strict=True)):
        if i != index and before.is_constant:
            np.testing.assert_array_equal(before.values(), after.values())
    np.testing.assert_array_equal(read_tflite(patched).layers[1].bias, new)


def test_replace_buffers_refuses_bytes_that_another_tensor_shares() -> None:
    writer = TFLiteWriter()
    zeros = np.zeros(4, np.int32)
    first = writer.tensor("bias_0", (4,), "INT32", data=zeros)
    second = writer.tensor("bias_1", (4,), "INT32", share_buffer_of=first)
    writer.tensor("free", (4,), "INT32", data=zeros)
    tflite = writer.finish([], [first])
    new = np.arange(4, dtype=np.int32).tobytes()
    assert tensors_sharing(parse_tflite(tflite), first) == (second,)
    with pytest.raises(DataError, match=r"'bias_0' cannot be changed.* those of 'bias_1'"):
        replace_buffers(tflite, {first: new})
    patched = parse_tflite(replace_buffers(tflite, {first: new, second: new}))
    assert patched.tensors[second].values().tolist() == [0, 1, 2, 3]
    assert patched.tensors[2].values().tolist() == [0, 0, 0, 0]


def test_replace_buffers_keeps_lengths() -> None:
    with pytest.raises(ValueError, match="has 256 bytes, got 4"):
        replace_buffers(CONVERTED, {5: b"1234"})
    with pytest.raises(ValueError, match="is not a constant"):
        replace_buffers(CONVERTED, {0: b"1234"})
