"""INT4 weights in a `.tflite`: the same answers on TFLite Micro, tflite-runtime and here, in fewer bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl.agents.heads import DiscreteHead
from edgeqrl.bundle import Bundle
from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.tflite_model import parse_tflite
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.int4 import pack_int4, store_int4
from edgeqrl.quantize.policy import QuantizedPolicy
from edgeqrl.quantize.scheme import require_scheme
from edgeqrl.stages import CALIBRATION, TFLITE, Settings, add_int4
from tests.oracles import answers, require_equal
from tests.tflite_writer import TFLiteWriter

RUNTIMES = ("tflm", "tflite-runtime")
SHAPES: dict[str, Any] = {
    "FULLY_CONNECTED": ((1, 7), (3, 7), (1, 3), {}),
    "CONV_2D": ((1, 4, 4, 3), (3, 3, 3, 3), (1, 2, 2, 3), {"padding": "VALID"}),
    "DEPTHWISE_CONV_2D": ((1, 4, 4, 3), (1, 3, 3, 3), (1, 2, 2, 3), {"padding": "VALID"}),
    "TRANSPOSE_CONV": (
        (1, 2, 2, 3),
        (3, 3, 3, 3),
        (1, 4, 4, 3),
        {"padding": "VALID", "stride_h": 1, "stride_w": 1},
    ),
}


def one_layer(
    name: str, *, num_scales: int = 1, dtype: str = "INT8", top: int = 7, zero_point: int = 0
) -> tuple[bytes, tuple[int, ...]]:
    """Return a network of one operator, and the shape of its input; weights fill [-top - 1, top]."""
    rng = np.random.default_rng(7)
    source, kernel, target, options = SHAPES[name]
    weights = rng.integers(-top - 1, top + 1, kernel).astype(np.int8)
    weights.ravel()[:2] = -top - 1, top
    scales = np.array([0.02, 0.03, 0.01][:num_scales])
    axis = 3 if name.startswith("DEPTH") else 0
    writer = TFLiteWriter()
    x = writer.tensor("x", source, dtype, scale=0.1, zero_point=0 if dtype == "INT16" else 3)
    zeros = [zero_point] * num_scales
    w = writer.tensor("w", kernel, "INT8", data=weights, scale=scales, zero_point=zeros, axis=axis)
    bias = np.array([5, -7, 100], np.int32 if dtype == "INT8" else np.int64)
    bias_dtype = "INT32" if dtype == "INT8" else "INT64"
    no_zeros = [0] * num_scales
    b = writer.tensor("b", (3,), bias_dtype, data=bias, scale=0.1 * scales, zero_point=no_zeros)
    y = writer.tensor("y", target, dtype, scale=0.05 if dtype == "INT8" else 0.0005, zero_point=0)
    operands = [x, w, b]
    if name == "TRANSPOSE_CONV":
        operands = [writer.tensor("shape", (4,), "INT32", data=np.array(target, np.int32)), w, x, b]
    writer.operator(name, operands, [y], **options)
    return writer.finish([x], [y]), source[1:]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("name", "num_scales"),
    [
        ("FULLY_CONNECTED", 1),
        ("CONV_2D", 1),
        ("CONV_2D", 3),
        ("DEPTHWISE_CONV_2D", 1),
        ("DEPTHWISE_CONV_2D", 3),
    ],
)
def test_runtimes_answer_with_int4_weights_as_with_int8(runtime: str, name: str, num_scales: int) -> None:
    tflite, shape = one_layer(name, num_scales=num_scales)
    found = store_int4(tflite)
    assert (found.stored, found.left) == (("y",), {})
    weights = parse_tflite(found.tflite).tensors[1]
    np.testing.assert_array_equal(weights.values(), parse_tflite(tflite).tensors[1].values())
    assert (weights.dtype, weights.data is not None and len(weights.data)) == (
        "INT4",
        (weights.size + 1) // 2,
    )
    values = np.random.default_rng(1).integers(-128, 128, (40, *shape), np.int8)
    require_equal(runtime, [(found.tflite, [values])])
    np.testing.assert_array_equal(answers(runtime, found.tflite, values), answers(runtime, tflite, values))


@pytest.mark.parametrize(
    ("name", "how", "why"),
    [
        ("FULLY_CONNECTED", {"num_scales": 3}, "one scale alone"),
        ("FULLY_CONNECTED", {"top": 8}, "beyond 4 bits"),
        ("CONV_2D", {"dtype": "INT16"}, "activations of 16 bits"),
        ("CONV_2D", {"zero_point": 1}, "zero points"),
        ("TRANSPOSE_CONV", {}, "no runtime has INT4 weights of TRANSPOSE_CONV"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_the_reason(name: str, how: dict[str, Any], why: str) -> None:
    tflite, _ = one_layer(name, **how)
    with pytest.raises(UnsupportedOperatorError, match=f"'y': .*{why}.*granularity=per_tensor"):
        store_int4(tflite)


def stack(*tops: int, is_shared: bool = False) -> bytes:
    """Return dense layers of 16 x 16, one scale each, with weights in [-top - 1, top]."""
    rng, writer = np.random.default_rng(2), TFLiteWriter()
    x = last = writer.tensor("x", (1, 16), "INT8", scale=0.1, zero_point=3)
    w = -1
    for i, top in enumerate(tops):
        if w < 0 or not is_shared:
            values = rng.choice([-top - 1, 0, top], (16, 16)).astype(np.int8)
            w = writer.tensor(f"w{i}", (16, 16), "INT8", data=values, scale=0.02, zero_point=0)
        scale, bias = 0.1 * 0.02, rng.integers(-50, 50, 16).astype(np.int32)
        b = writer.tensor(f"b{i}", (16,), "INT32", data=bias, scale=scale, zero_point=0)
        y = writer.tensor(f"y{i}", (1, 16), "INT8", scale=0.1, zero_point=3)
        writer.operator("FULLY_CONNECTED", [last, w, b], [y])
        last = y
    return writer.finish([x], [last])


def test_layers_of_more_bits_stay_and_are_named() -> None:
    tflite = stack(7, 100, 3)
    found = store_int4(tflite)
    assert found.stored == ("y0", "y2")
    assert list(found.left) == ["y1"]
    assert "beyond 4 bits" in found.left["y1"]
    assert len(tflite) - 300 < len(found.tflite) + 256 < len(tflite) + 300  # half of two layers is gone
    for before, after in zip(read_tflite(tflite).layers, read_tflite(found.tflite).layers, strict=True):
        np.testing.assert_array_equal(before.weights, after.weights)  # type: ignore[attr-defined]
    values = np.random.default_rng(1).integers(-128, 128, (40, 16), np.int8)
    for runtime in RUNTIMES:
        require_equal(runtime, [(found.tflite, [values])])


def test_weights_that_two_layers_share_are_stored_once() -> None:
    found = store_int4(stack(7, 7, is_shared=True))
    assert found.stored == ("y0", "y1")
    tensors = parse_tflite(found.tflite).tensors
    assert [t.dtype for t in tensors].count("INT4") == 1


def test_constants_stay_aligned_as_the_schema_wants() -> None:
    found = store_int4(stack(7, 100, 3))
    spans = [t.span for t in parse_tflite(found.tflite).tensors if t.span is not None]
    assert len(spans) == 6
    assert all(start % 16 == 0 for start, _ in spans)


def test_a_network_of_the_converter_becomes_smaller() -> None:
    tflite = (Path(__file__).parent / "data" / "a_cartpole.tflite").read_bytes()
    with pytest.raises(UnsupportedOperatorError, match="No weights can be INT4"):
        store_int4(tflite)


def quantized(tflite: bytes) -> QuantizedPolicy:
    scheme, preprocessing = require_scheme("w4a8"), Preprocessing.plain((16,))
    return QuantizedPolicy(tflite, b"", DiscreteHead((16,), (0,)), scheme, preprocessing, "robot", "c", "a")


def test_the_stage_keeps_the_file_and_says_what_stayed(tmp_path: Path) -> None:
    bundle, policy = Bundle(tmp_path), quantized(stack(7, 100))
    bundle.add(CALIBRATION, b"")
    bundle.add(TFLITE, policy.tflite, made_from=[CALIBRATION])
    assert add_int4(bundle, policy, Settings()) is policy
    assert "int4" not in bundle.facts
    with pytest.warns(UserWarning, match=r"stay INT8 in policy.tflite: 'y1': .* beyond 4 bits"):
        found = add_int4(bundle, policy, Settings(stores_int4=True))
    assert bundle.read(TFLITE) == found.tflite != policy.tflite
    assert bundle.facts["int4"]["stored"] == ["y0"]
    assert list(bundle.facts["int4"]["left"]) == ["y1"]


def test_halves_of_a_byte_are_in_order() -> None:
    assert pack_int4(np.array([1, -1, 7, -8, 3], np.int8)) == bytes([0xF1, 0x87, 0x03])
