"""Lowering: what a network becomes, and that everything outside SUPPORTED_OPS.md is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl.errors import DataError, UnsupportedOperatorError
from edgeqrl.network import graph, supported_ops
from edgeqrl.network import read_tflite as reading
from edgeqrl.network.layers import Dense, Lookup, Reshape
from edgeqrl.network.operators import SUPPORT, elementwise, linear, movement, operand
from edgeqrl.network.read_tflite import read_tflite
from firmware_export.emit.arena import plan_arena
from tests.tflite_writer import TFLiteWriter, random_dense_tflite, random_float_tflite, single_operator

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
WIDE = {"dtype": "INT16", "zero_point": 3}


@pytest.mark.parametrize(
    ("tflite", "rule"),
    [
        (dense_tflite(source={"dtype": "UINT8"}), operand.has_integer_activations),
        (dense_tflite(target={"zero_point": 200}), operand.has_integer_activations),
        (dense_tflite(target={"scale": float("nan")}), operand.has_integer_activations),
        (dense_tflite(source=WIDE, target=WIDE), operand.has_integer_activations),
        (dense_tflite(source={"shape": (1, 4)}), linear.has_matching_sizes),
        (dense_tflite(weights={"zero_point": [128, 0]}), linear.has_int8_weights),
        (dense_tflite(weights={"dtype": "UINT8"}), linear.has_int8_weights),
        (dense_tflite(weights={"data": None}), linear.has_int8_weights),
        (dense_tflite(weights={"axis": 1}), linear.has_weight_scales),
        (dense_tflite(weights={"scale": [1, 2, 3], "zero_point": [0, 0, 0]}), linear.has_weight_scales),
        (dense_tflite(weights={"scale": [0.5, 0.0]}), linear.has_weight_scales),
        (dense_tflite(weights={"scale": [0.5, float("inf")]}), linear.has_weight_scales),
        (dense_tflite(bias={"dtype": "FLOAT32"}), linear.has_bias),
        (dense_tflite(bias={"scale": [0.05, 0.05]}), linear.has_bias),
        (dense_tflite(bias={"scale": [0.05, float("nan")]}), linear.has_bias),
        (dense_tflite(fused_activation="TANH"), operand.has_clamping_activation),
        (dense_tflite(fused_activation="SIGN_BIT"), operand.has_clamping_activation),
        (unary_tflite("TANH"), elementwise.has_tanh_output),
        (unary_tflite("LOGISTIC"), elementwise.has_logistic_output),
        (
            unary_tflite("TANH", {"scale": 8.5}, {"scale": 1 / 128, "zero_point": 0}),
            elementwise.has_bounded_input,
        ),
        (unary_tflite("RESHAPE", {"scale": 0.2}), movement.has_same_values),
        (unary_tflite("RELU", {"shape": (1, 5)}), operand.keeps_size),
        (unary_tflite("QUANTIZE", {"scale": 1e9}), elementwise.has_near_scales),
        (unary_tflite("QUANTIZE", FLOAT, {"scale": 1e-40}), elementwise.has_integer_types),
        (unary_tflite("QUANTIZE", {}, {"dtype": "UINT8"}), elementwise.has_integer_types),
    ],
)
def test_a_broken_rule_is_named_with_its_layer(tflite: bytes, rule: Callable[[Any], bool]) -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        read_tflite(tflite)
    message = str(caught.value)
    assert "at 'layer/out' is not supported" in message
    assert (rule.__doc__ or "").removesuffix(".") in message


def test_a_dense_layer_of_several_rows_is_one_layer() -> None:
    tflite = dense_tflite(source={"shape": (1, 2, 3)}, target={"shape": (1, 2, 2)}, keep_num_dims=True)
    (layer,) = read_tflite(tflite).layers
    assert isinstance(layer, Dense)


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
        ("BATCH_MATMUL", "Use a Dense layer"),
        ("CUMSUM", "a triangle of ones"),
        ("SOFTMAX", "The converter left it in float32 among integers"),
        ("TOPK_V2", "sort them outside"),
        ("SELECT_V2", "maximum, minimum or relu"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "Export one time step"),
        ("STABLEHLO_ADD", "without custom and Flex operators"),
        ("RANK", "replace it by an operator of SUPPORTED_OPS.md"),
    ],
)
def test_a_float_operator_is_named_before_the_conversions_around_it(name: str, cure: str) -> None:
    writer = TFLiteWriter()
    i = writer.tensor("in", (1, 4), scale=0.1, zero_point=0)
    f = writer.tensor("float", (1, 4), "FLOAT32")
    g = writer.tensor("net/layer/Op", (1, 4), "FLOAT32")
    h = writer.tensor("again", (1, 4), scale=0.1, zero_point=0)
    o = writer.tensor("out", (1, 4), scale=0.1, zero_point=0)
    writer.operator("DEQUANTIZE", [i], [f])
    writer.operator(name, [f], [g])
    writer.operator("QUANTIZE", [g], [h])
    writer.operator("RELU", [h], [o])
    with pytest.raises(UnsupportedOperatorError) as caught:
        read_tflite(writer.finish([i], [o]))
    assert str(caught.value).startswith(f"{name} at 'net/layer/Op' is not supported: ")
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
    writer.operator("CEIL", [i], [o])
    with pytest.raises(UnsupportedOperatorError) as caught:
        read_tflite(writer.finish([i], [o]))
    assert str(caught.value).startswith(f"CEIL at {place} is not supported: ")
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


def test_no_rule_lacks_its_line() -> None:
    for name, support in SUPPORT.items():
        for rule in support.rules:
            assert (rule.__doc__ or "").rstrip().endswith("."), (name, rule)
        assert support.oracle or support.oracle_int16, name


def test_reshape_of_a_constant_is_computed_whatever_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_FOLDED_BYTES", 0)
    monkeypatch.setattr(reading, "_MOST_FOLDED", 10)
    writer = TFLiteWriter()
    q: dict[str, Any] = {"scale": 0.1, "zero_point": 0}
    x, y = (writer.tensor(name, (1, 2, 2), **q) for name in "xy")
    c = writer.tensor("c", (1, 16), data=np.arange(16, dtype=np.int8).reshape(1, 16), **q)
    pairs, few = (writer.tensor(name, (1, n, 2), **q) for name, n in (("pairs", 8), ("few", 2)))
    new_shape, begin, size = (
        writer.tensor(f"{i}", (3,), "INT32", data=np.asarray(values, np.int32))
        for i, values in enumerate(((1, 8, 2), (0, 1, 0), (1, 2, 2)))
    )
    writer.operator("RESHAPE", [c, new_shape], [pairs])
    writer.operator("SLICE", [pairs, begin, size], [few])
    writer.operator("ADD", [x, few], [y])
    network = read_tflite(writer.finish([x], [y]))
    assert [layer.operator for layer in network.layers] == ["SLICE", "ADD"]
    np.testing.assert_array_equal(network.constants["pairs"].ravel(), np.arange(16))
    assert plan_arena(network).total_bytes == 8


@pytest.mark.parametrize(
    ("name", "operands", "target"),
    [
        ("CAST", [{"dtype": "INT32"}], {"dtype": "FLOAT32"}),
        ("CAST", [{"dtype": "FLOAT32"}], {"dtype": "INT32"}),
        ("GATHER", [{"scale": 0.1, "zero_point": 0}, {"dtype": "INT32"}], {"scale": 0.1, "zero_point": 0}),
    ],
)
def test_computed_indices_are_told_to_be_one_hot(
    name: str, operands: list[dict[str, Any]], target: dict[str, Any]
) -> None:
    tflite = single_operator(
        name, [{"shape": (1, 4), **each} for each in operands], [{"shape": (1, 4), **target}]
    )
    with pytest.raises(UnsupportedOperatorError, match="one-hot values instead of indices"):
        read_tflite(tflite)


@pytest.mark.parametrize("name", ["LOG_SOFTMAX", "RELU", "SIN"])
def test_an_empty_axis_is_refused(name: str) -> None:
    out = {"scale": 1 / 16, "zero_point": 127}
    tflite = single_operator(
        name, [{"shape": (1, 0), "scale": 0.1, "zero_point": 0}], [{"shape": (1, 0), **out}]
    )
    with pytest.raises(UnsupportedOperatorError, match="no empty axis"):
        read_tflite(tflite)


@pytest.mark.parametrize("dtype", ["INT8", "INT16"])
@pytest.mark.parametrize("activation", ["RELU6", "RELU_N1_TO_1"])
@pytest.mark.parametrize("name", ["MAX_POOL_2D", "AVERAGE_POOL_2D"])
def test_a_fused_clamp_takes_no_tiny_scale(name: str, activation: str, dtype: str) -> None:
    def pool(scale: float) -> bytes:
        x = {"shape": (1, 2, 2, 1), "dtype": dtype, "scale": scale, "zero_point": 0}
        sizes = dict.fromkeys(("filter_height", "filter_width", "stride_h", "stride_w"), 1)
        return single_operator(name, [x], [x], fused_activation=activation, **sizes)

    read_tflite(pool(2.0**-27))
    with pytest.raises(UnsupportedOperatorError, match=r"at output scales above 2\^-28"):
        read_tflite(pool(2.0**-29))
