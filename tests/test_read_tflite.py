"""Lowering: what a network becomes, and that everything outside SUPPORTED_OPS.md is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl.errors import DataError, UnsupportedOperatorError
from edgeqrl.network import supported_ops
from edgeqrl.network.ir import Dense, Lookup, Reshape
from edgeqrl.network.read_tflite import read_tflite
from tests.tflite_writer import TFLiteWriter, random_dense_tflite, random_float_tflite

ROOT = Path(__file__).parent.parent


def dense_tflite(
    *,
    weights: dict[str, Any] | None = None,
    bias: dict[str, Any] | None = None,
    source: dict[str, Any] | None = None,
    target: dict[str, Any] | None = None,
    **options: Any,
) -> bytes:
    """Write one 3 -> 2 layer, correct but for what the arguments replace."""
    values = {"data": np.full((2, 3), 5, np.int8), "scale": [0.5, 0.25], "zero_point": [0, 0]}
    biases = {"data": np.array([7, -7], np.int32), "scale": [0.05, 0.025], "zero_point": [0, 0]}
    writer = TFLiteWriter()
    i = writer.tensor("in", **{"shape": (1, 3), "scale": 0.1, "zero_point": 3, **(source or {})})
    w = writer.tensor("w", **{"shape": (2, 3), **values, **(weights or {})})
    b = writer.tensor("b", **{"shape": (2,), "dtype": "INT32", **biases, **(bias or {})})
    o = writer.tensor("layer/out", **{"shape": (1, 2), "scale": 0.2, "zero_point": -4, **(target or {})})
    writer.operator("FULLY_CONNECTED", [i, w, b], [o], **options)
    return writer.finish([i], [o])


def unary_tflite(
    name: str, source: dict[str, Any] | None = None, target: dict[str, Any] | None = None
) -> bytes:
    writer = TFLiteWriter()
    i = writer.tensor("in", **{"shape": (1, 4), "scale": 0.1, "zero_point": 3, **(source or {})})
    o = writer.tensor("layer/out", **{"shape": (1, 4), "scale": 0.1, "zero_point": 3, **(target or {})})
    writer.operator(name, [i], [o])
    return writer.finish([i], [o])


def test_dense_is_lowered_with_its_multipliers() -> None:
    network = read_tflite(dense_tflite(fused_activation="RELU"))
    (layer,) = network.layers
    assert isinstance(layer, Dense)
    assert (layer.name, layer.input, layer.output) == ("layer/out", "in", "layer/out")
    assert layer.bias.tolist() == [7, -7]
    ratio = np.ldexp(layer.multiplier.astype(float), layer.shift - 31)
    np.testing.assert_allclose(ratio, [0.1 * 0.5 / 0.2, 0.1 * 0.25 / 0.2], rtol=1e-6)
    assert (layer.output_min, layer.output_max) == (-4, 127)
    assert network.tensors["in"].shape == (3,)
    assert network.num_macs == 6


def test_a_missing_bias_is_zero() -> None:
    tflite = random_dense_tflite(np.random.default_rng(0), [3, 2], ["NONE"], has_bias=False)
    assert read_tflite(tflite).layers[0].bias.tolist() == [0, 0]


def test_one_weight_scale_serves_all_outputs() -> None:
    layer = read_tflite(
        random_dense_tflite(np.random.default_rng(0), [3, 5], ["NONE"], per_channel=False)
    ).layers[0]
    assert len(set(layer.multiplier.tolist())) == 1


def test_elementwise_operators_become_tables_and_reshape_keeps_the_bytes() -> None:
    writer = TFLiteWriter()
    i = writer.tensor("in", (1, 4), scale=0.1, zero_point=0)
    t = writer.tensor("tanh", (1, 4), scale=1 / 128, zero_point=0)
    r = writer.tensor("flat", (1, 2, 2), scale=1 / 128, zero_point=0)
    shape = writer.tensor("shape", (3,), "INT32", data=np.array([1, 2, 2], np.int32))
    writer.operator("TANH", [i], [t])
    writer.operator("RESHAPE", [t, shape], [r])
    network = read_tflite(writer.finish([i], [r]))
    assert [type(layer) for layer in network.layers] == [Lookup, Reshape]
    assert network.tensors["flat"].shape == (2, 2)


def test_a_layer_whose_sum_could_overflow_is_refused() -> None:
    huge = {"data": np.array([2**31 - 100, 0], np.int32)}
    with pytest.raises(UnsupportedOperatorError, match="could overflow its 32-bit accumulator"):
        read_tflite(dense_tflite(bias=huge))


FLOAT = {"dtype": "FLOAT32", "scale": (), "zero_point": ()}


@pytest.mark.parametrize(
    ("tflite", "rule"),
    [
        (dense_tflite(target=FLOAT), supported_ops.has_int8_activations),
        (dense_tflite(source={"dtype": "UINT8"}), supported_ops.has_int8_activations),
        (dense_tflite(target={"zero_point": 200}), supported_ops.has_int8_activations),
        (dense_tflite(target={"scale": float("nan")}), supported_ops.has_int8_activations),
        (dense_tflite(source={"data": np.zeros(3, np.int8)}), supported_ops.has_static_operands),
        (dense_tflite(source={"shape": (2, 3)}), supported_ops.has_batch_of_one),
        (dense_tflite(source={"shape": (1, 4)}), supported_ops.has_matching_sizes),
        (dense_tflite(weights={"zero_point": [1, 0]}), supported_ops.has_int8_weights),
        (dense_tflite(weights={"dtype": "UINT8"}), supported_ops.has_int8_weights),
        (dense_tflite(weights={"data": None}), supported_ops.has_int8_weights),
        (dense_tflite(weights={"axis": 1}), supported_ops.has_weight_scales),
        (
            dense_tflite(weights={"scale": [1, 2, 3], "zero_point": [0, 0, 0]}),
            supported_ops.has_weight_scales,
        ),
        (dense_tflite(weights={"scale": [0.5, 0.0]}), supported_ops.has_weight_scales),
        (dense_tflite(weights={"scale": [0.5, float("inf")]}), supported_ops.has_weight_scales),
        (dense_tflite(bias={"dtype": "FLOAT32"}), supported_ops.has_int32_bias),
        (dense_tflite(bias={"scale": [0.05, 0.05]}), supported_ops.has_int32_bias),
        (dense_tflite(bias={"scale": [0.05, float("nan")]}), supported_ops.has_int32_bias),
        (dense_tflite(fused_activation="TANH"), supported_ops.has_clamping_activation),
        (dense_tflite(fused_activation="SIGN_BIT"), supported_ops.has_clamping_activation),
        (unary_tflite("TANH"), supported_ops.has_tanh_output),
        (unary_tflite("LOGISTIC"), supported_ops.has_logistic_output),
        (
            unary_tflite("TANH", {"scale": 4.5}, {"scale": 1 / 128, "zero_point": 0}),
            supported_ops.has_bounded_input,
        ),
        (unary_tflite("RELU6", {"scale": 0.2}), supported_ops.keeps_quantization),
        (unary_tflite("RESHAPE", {"scale": 0.2}), supported_ops.keeps_quantization),
        (unary_tflite("RELU", {"shape": (1, 5)}), supported_ops.keeps_size),
        (unary_tflite("QUANTIZE", {"scale": 1e9}), supported_ops.has_near_scales),
        (unary_tflite("QUANTIZE", FLOAT), supported_ops.has_int8_activations),
    ],
)
def test_a_broken_rule_is_named_with_its_layer(tflite: bytes, rule: Callable[[Any], bool]) -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        read_tflite(tflite)
    message = str(caught.value)
    assert "at 'layer/out' is not supported" in message
    assert (rule.__doc__ or "").removesuffix(".") in message


def test_every_rule_of_every_operator_has_a_case_above() -> None:
    mark = next(m for m in test_a_broken_rule_is_named_with_its_layer.pytestmark if m.name == "parametrize")
    tested = {rule for _, rule in mark.args[1]}
    rules = {rule for rules in supported_ops.RULES.values() for rule in rules}
    assert rules - tested == {supported_ops.has_static_shape}


def test_a_computed_shape_is_refused() -> None:
    writer = TFLiteWriter()
    i = writer.tensor("in", (1, 4), scale=0.1, zero_point=0)
    o = writer.tensor("layer/out", (1, 2, 2), scale=0.1, zero_point=0)
    shape = writer.tensor("shape", (3,), "INT32")
    writer.operator("RESHAPE", [i, shape], [o])
    with pytest.raises(UnsupportedOperatorError, match="known in the file, not computed"):
        read_tflite(writer.finish([i], [o]))


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("ELU", "Replace its layer by Dense with relu"),
        ("NEG", "Replace its layer"),
        ("SOFTMAX", "Drop the softmax"),
    ],
)
def test_a_float_operator_is_named_before_the_conversions_around_it(name: str, cure: str) -> None:
    writer = TFLiteWriter()
    i = writer.tensor("in", (1, 4), scale=0.1, zero_point=0)
    f = writer.tensor("float", (1, 4), "FLOAT32")
    g = writer.tensor("net/elu/Elu", (1, 4), "FLOAT32")
    o = writer.tensor("out", (1, 4), scale=0.1, zero_point=0)
    writer.operator("DEQUANTIZE", [i], [f])
    writer.operator(name, [f], [g])
    writer.operator("QUANTIZE", [g], [o])
    with pytest.raises(UnsupportedOperatorError) as caught:
        read_tflite(writer.finish([i], [o]))
    assert str(caught.value).startswith(f"{name} at 'net/elu/Elu' is not supported: ")
    assert "FLOAT32" in str(caught.value)
    assert cure in str(caught.value)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("StatefulPartitionedCall/functional_6_1/scaled_1/mul;functional_6_1/x", "'scaled_1/mul'"),
        ("sequential_2_1/elu/Elu", "'elu/Elu'"),
        ("Identity", "the network's output"),
        ("StatefulPartitionedCall_1:0", "the network's output"),
        ("actor/functional_layer", "'actor/functional_layer'"),
    ],
)
def test_the_layer_is_named_without_wrappers(name: str, place: str) -> None:
    writer = TFLiteWriter()
    i = writer.tensor("in", (1, 4), scale=0.1, zero_point=0)
    o = writer.tensor(name, (1, 4), scale=0.1, zero_point=0)
    writer.operator("ELU", [i], [o])
    with pytest.raises(UnsupportedOperatorError) as caught:
        read_tflite(writer.finish([i], [o]))
    assert str(caught.value).startswith(f"ELU at {place} is not supported: ")
    assert "INT8" not in str(caught.value)


def test_a_float_network_is_told_to_convert() -> None:
    tflite = random_float_tflite(np.random.default_rng(0), [3, 2], ["NONE"])
    with pytest.raises(UnsupportedOperatorError, match="Convert with full-integer quantization"):
        read_tflite(tflite)


def test_an_operator_out_of_order_is_refused() -> None:
    writer = TFLiteWriter()
    tensors = [writer.tensor(n, (1, 4), scale=0.1, zero_point=0) for n in ("a", "b", "c")]
    writer.operator("RELU", [tensors[1]], [tensors[2]])
    writer.operator("RELU", [tensors[0]], [tensors[1]])
    with pytest.raises(DataError, match="contradicts itself: c reads 'b' before it is written"):
        read_tflite(writer.finish([tensors[0]], [tensors[2]]))


def test_supported_ops_md_is_current() -> None:
    assert (ROOT / "SUPPORTED_OPS.md").read_text() == supported_ops.markdown()
