"""FULLY_CONNECTED and the convolutions, one operator at a time: equal to TFLite Micro bit for bit.

The cases are random: odd sizes, strides, dilations and groups, saturating inputs, ties, extreme scales and
zero points. Where tflite-runtime gives another answer, that is pinned here too.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.fixed_point import requantize_int64
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Conv2D, Linear, Window, accumulator_bound, linear
from edgeqrl.network.layers.window import place_window
from edgeqrl.network.operators import Rule, operand
from edgeqrl.network.operators import linear as rules
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from edgeqrl.network.tflite_model import parse_tflite
from edgeqrl.quantize.weights_file import read_weights, write_weights
from tests.oracles import Case, many_answers, require_equal
from tests.random_linear import BIASES, OPERATORS, RANGES, Described, constant, random_case
from tests.tflite_writer import single_operator


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_equals_tflite_micro(name: str, dtype: str) -> None:
    rng = np.random.default_rng([OPERATORS.index(name), len(dtype)])
    assert require_equal("tflm", [random_case(rng, name, dtype) for _ in range(50)]) > 5000


@pytest.mark.slow
@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_million_outputs_of_an_operator_equal_tflite_micro(name: str, dtype: str) -> None:
    rng = np.random.default_rng([7, OPERATORS.index(name), len(dtype)])
    count = 0
    while count < 10**6:
        count += require_equal("tflm", [random_case(rng, name, dtype, samples=12) for _ in range(1000)])


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("name", OPERATORS)
def test_tflite_runtime_agrees_on_what_it_has(name: str, dtype: str) -> None:
    rng = np.random.default_rng([3, OPERATORS.index(name), len(dtype)])
    # What is left out of FULLY_CONNECTED differs, see below.
    is_dense = name == "FULLY_CONNECTED"
    made = [
        random_case(rng, name, dtype, bias=BIASES[dtype][0], is_per_channel=True if is_dense else None)
        for _ in range(30)
    ]
    cases = [case for case in made if not _keeps_dims(case)]
    assert require_equal("tflite-runtime", cases) > 1000


@pytest.mark.parametrize(
    ("name", "dtype", "options", "why"),
    [
        (
            "FULLY_CONNECTED",
            "INT8",
            {"is_per_channel": True},
            "it takes the first two axes of the output for rows and channels",
        ),
        ("FULLY_CONNECTED", "INT16", {"bias": None, "is_plain": True}, "it sums in 32 bits"),
        ("TRANSPOSE_CONV", "INT16", {"bias": None}, "it sums in 32 bits"),
        ("CONV_2D", "INT8", {"bias": None}, "it refuses a missing bias"),
    ],
)
def test_where_tflite_runtime_differs_tflite_micro_decides(
    name: str, dtype: str, options: dict[str, Any], why: str
) -> None:
    rng = np.random.default_rng(11)
    cases = [random_case(rng, name, dtype, **options) for _ in range(40)]
    assert require_equal("tflm", cases) > 0
    theirs = many_answers("tflite-runtime", cases)
    if "refuses" in why:
        assert all("has_bias was not true" in str(answer) for answer in theirs)
    else:
        assert any(
            not np.array_equal(_ours(case), their[0]) for case, their in zip(cases, theirs, strict=True)
        )


def test_tflite_micro_multiplies_a_single_weight_scale_in_double_precision() -> None:
    rng = np.random.default_rng(5)
    cases = []
    for _ in range(20):
        scale, weight_scale = np.float32(2.0 ** rng.uniform(-9, 0)), np.float32(2.0 ** rng.uniform(-9, -3))
        weights = rng.integers(-127, 128, (200, 64), np.int8)
        bias = constant(np.zeros(200, np.int32), np.array([scale * weight_scale]), 0)
        source = {"shape": (1, 64), "dtype": "INT16", "scale": scale, "zero_point": 0}
        target = {"shape": (1, 200), "dtype": "INT16", "zero_point": 0}
        target["scale"] = np.float32(float(scale) * float(weight_scale) * 700)
        inputs = [source, constant(weights, np.array([weight_scale]), 0), bias]
        values = rng.integers(*RANGES["INT16"], (10, 64), np.int16)
        cases.append((single_operator("FULLY_CONNECTED", inputs, [target]), [values]))
    assert require_equal("tflm", cases) == 40_000
    differences = [
        np.abs(_ours(case).astype(np.int64) - np.asarray(their[0])).max()
        for case, their in zip(cases, many_answers("tflite-runtime", cases), strict=True)
    ]
    assert max(differences) == 1


def _asymmetric(rng: np.random.Generator, name: str, dtype: str, *, is_per_channel: bool) -> Case:
    """Return a random case whose weights have zero points other than 0."""
    bias = BIASES[dtype][0]
    while True:
        tflite, inputs = random_case(rng, name, dtype, bias=bias, is_per_channel=is_per_channel)
        ((written, layer),) = read_weights(tflite).items()
        zero_points = rng.integers(-128, 128, layer.scales.shape) // int(rng.choice([1, 16]))
        changed = write_weights(tflite, {written: replace(layer, zero_points=zero_points)})
        with suppress(UnsupportedOperatorError):  # sums that only just fitted
            *_, lowered = read_tflite(changed).layers
            if isinstance(lowered, Linear) and not lowered.is_symmetric:
                return changed, inputs


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("runtime", ["tflm", "tflite-runtime"])
def test_dense_weights_of_one_zero_point_equal_the_interpreters(runtime: str, dtype: str) -> None:
    rng = np.random.default_rng(8)
    made = [_asymmetric(rng, "FULLY_CONNECTED", dtype, is_per_channel=False) for _ in range(30)]
    cases = [case for case in made if not _keeps_dims(case)]
    if runtime == "tflm":
        assert require_equal(runtime, cases) > 1000
        return
    for case, their in zip(
        cases, many_answers(runtime, cases), strict=True
    ):  # it rounds the scale to float32
        assert np.abs(_ours(case).astype(np.int64) - their[0]).max() <= 1


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("name", OPERATORS)
def test_several_weight_zero_points_are_ours_alone(name: str, dtype: str) -> None:
    rng = np.random.default_rng(9)
    cases = [_asymmetric(rng, name, dtype, is_per_channel=True) for _ in range(20)]
    theirs = many_answers("tflm", cases)
    equal = [
        not isinstance(their, str) and np.array_equal(_ours(case).ravel(), np.ravel(their[0]))
        for case, their in zip(cases, theirs, strict=True)
    ]
    assert not all(equal), "TFLite Micro knows them now: SUPPORTED_OPS.md may say so"


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("name", OPERATORS)
def test_zero_points_of_weights_count_as_integers_say(name: str, dtype: str) -> None:
    """Weights w with zero points z give what weights w - z do, where those fit int8."""
    rng = np.random.default_rng(10)
    for _ in range(10):
        tflite, (values,) = random_case(rng, name, dtype, is_per_channel=True)
        network = read_tflite(tflite)
        *_, layer = network.layers
        assert isinstance(layer, Linear)
        zero_points = rng.integers(-9, 10, len(layer.weights)).astype(np.int32)
        shape = (-1, *[1] * (layer.weights.ndim - 1))
        weights = np.clip(layer.weights, -118, 118)
        plain = replace(layer, weights=(weights - zero_points.reshape(shape)).astype(np.int8))
        moved = replace(layer, weights=weights, weight_zero_points=zero_points)
        source = network.tensors[layer.input]
        given = values.reshape(-1, *source.shape)
        np.testing.assert_array_equal(
            moved.accumulators(given, network.tensors), plain.accumulators(given, network.tensors)
        )
        bounds = [accumulator_bound(x, source.zero_point, source.range) for x in (moved, plain)]
        np.testing.assert_array_equal(*bounds)
        assert plain.is_symmetric
        assert moved.is_symmetric == (not zero_points.any())


def test_as_many_zero_points_as_channels_or_one() -> None:
    network = read_tflite(_changed("CONV_2D", lambda *_: None))
    *_, layer = network.layers
    assert isinstance(layer, Conv2D)
    with pytest.raises(ValueError, match="one zero point"):
        replace(layer, weight_zero_points=np.zeros(3, np.int32)).require_consistent(network.tensors)


@pytest.mark.parametrize("name", ["CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"])
@pytest.mark.parametrize("kind", ["FLOAT32", "INT32", "INT64"])
def test_without_a_bias_its_declared_type_decides_how_int16_is_summed(name: str, kind: str) -> None:
    rng = np.random.default_rng(2)
    cases = [random_case(rng, name, "INT16", bias=None, quantized_bias_type=kind) for _ in range(20)]
    *_, layer = read_tflite(cases[0][0]).layers
    assert isinstance(layer, Linear)
    assert layer.is_wide == (kind != "INT32" or name == "TRANSPOSE_CONV")
    assert require_equal("tflm", cases) > 0


@pytest.mark.parametrize(
    ("padding", "size", "kernel", "stride", "dilation", "expected"),
    [
        ("SAME", 5, 3, 1, 1, (5, 1)),
        ("SAME", 5, 4, 1, 1, (5, 1)),  # three in all: one before, two after
        ("SAME", 6, 3, 2, 1, (3, 0)),  # one in all: after
        ("SAME", 5, 3, 1, 2, (5, 2)),
        ("SAME", 7, 1, 3, 1, (3, 0)),
        ("VALID", 7, 3, 2, 1, (3, 0)),
        ("VALID", 5, 3, 1, 2, (1, 0)),
        ("VALID", 2, 3, 1, 1, (0, 0)),
        ("VALID", 1, 7, 2, 1, (-2, 0)),
    ],
)
def test_where_padding_puts_a_window(
    padding: str, size: int, kernel: int, stride: int, dilation: int, expected: tuple[int, int]
) -> None:
    assert place_window(padding, size, kernel, stride, dilation) == expected


@pytest.mark.parametrize(
    ("value", "multiplier", "shift", "expected"),
    [
        (3, 2**30, 0, 2),  # 1.5 rounds up
        (-3, 2**30, 0, -1),  # -1.5 too
        (5, 2**30 + 2**15, 0, 3),  # the multiplier rounds to 16385 / 2**15: 2.50015
        (2, 2**31 - 1, 0, 2),  # and saturates at 32767 / 2**15
        (2**17, 2**31 - 1, 0, 2**17 - 4),
        (1, 2**30, 7, 64),
        (2**46, 2**30, -31, 2**14),
        (-(2**46), 2**30, -31, -(2**14)),
        (100, 0, 0, 0),
    ],
)
def test_sums_of_64_bits_are_rescaled(value: int, multiplier: int, shift: int, expected: int) -> None:
    assert requantize_int64(value, multiplier, shift) == expected


def test_a_convolution_by_hand() -> None:
    window = Window((1, 2, 3, 1), (1, 2, 2, 1), (2, 2), (1, 2), (1, 1), (0, 0))
    layer = Conv2D(
        "conv",
        "in",
        "out",
        np.array([1, 2, 3, 4], np.int8).reshape(1, 2, 2, 1),
        np.array([10]),
        np.array([2**30], np.int32),
        np.array([1], np.int32),
        -128,
        100,
        window,
    )
    tensors = {"in": Tensor("in", (2, 3, 1), 1.0, 1), "out": Tensor("out", (2, 2, 1), 1.0, -5)}
    network = IntegerNetwork(tensors, ("in",), ("out",), (layer,))
    values = np.array([[2, 3, 4], [5, 6, 7]], np.int8).reshape(1, 2, 3, 1)  # centred: 1 2 3, 4 5 6
    sums = [10 + 1 + 4 + 12 + 20, 10 + 3 + 18, 10 + 4 + 10, 10 + 6]
    assert layer.accumulators(values, tensors).ravel().tolist() == sums
    out = Reference(network).run({"in": values})["out"]
    assert out.ravel().tolist() == [total - 5 for total in sums]
    assert layer.num_macs == 16


@pytest.mark.parametrize("name", OPERATORS)
def test_the_number_of_samples_at_once_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tflite, inputs = random_case(np.random.default_rng(4), name, "INT8", samples=9)
    together = _ours((tflite, inputs))
    monkeypatch.setattr(linear, "_ELEMENTS_AT_ONCE", 1)
    np.testing.assert_array_equal(_ours((tflite, inputs)), together)


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("name", OPERATORS)
def test_no_accumulator_leaves_its_bound(name: str, dtype: str) -> None:
    rng = np.random.default_rng(6)
    for _ in range(10):
        tflite, (values,) = random_case(rng, name, dtype)
        network = read_tflite(tflite)
        *_, layer = network.layers
        assert isinstance(layer, Linear)
        source = network.tensors[layer.input]
        bound = accumulator_bound(layer, source.zero_point, source.range)
        sums = layer.accumulators(values.reshape(-1, *source.shape), network.tensors)
        assert np.all(np.abs(sums) <= bound)
        farthest = max(source.range, key=lambda end: abs(end - source.zero_point)) - source.zero_point
        products = np.abs(layer.weights.astype(np.int64)).reshape(len(bound), -1).sum(axis=1)
        np.testing.assert_array_equal(bound, products * abs(farthest) + np.abs(layer.bias))


Change = Callable[[list[Any], Described, dict[str, Any]], None]


def _at(index: int, **changes: Any) -> Change:
    def change(inputs: list[Any], _: Described, __: dict[str, Any]) -> None:
        inputs[index] = inputs[index] | changes

    return change


def _out(**changes: Any) -> Change:
    return lambda _, target, __: target.update(changes)


def _option(**changes: Any) -> Change:
    return lambda _, __, options: options.update(changes)


def _data(index: int, values: NDArray[Any]) -> Change:
    return _at(index, data=values, shape=values.shape, dtype=values.dtype.name.upper())


def _all_int16(inputs: list[Any], target: Described, _: dict[str, Any]) -> None:
    for tensor in (*inputs, target):
        if tensor["dtype"] == "INT8" and "data" not in tensor:
            tensor.update(dtype="INT16", zero_point=0)


CONSTANT_SHAPE = np.array([1, 4, 5, 4], np.int32)


BROKEN: list[tuple[str, Change, Rule]] = [
    ("CONV_2D", _out(shape=(1, 4, 4, 4)), rules.has_window),
    ("CONV_2D", _out(shape=(2, 4, 5, 4)), rules.has_window),
    ("CONV_2D", _out(shape=(1, 4, 5, 6)), rules.has_matching_channels),
    ("CONV_2D", _out(shape=(4, 5, 4)), rules.has_window),
    ("CONV_2D", _option(stride_w=0), rules.has_window),
    ("CONV_2D", _option(stride_h=-1), rules.has_window),
    ("CONV_2D", _option(dilation_h_factor=0), rules.has_window),
    ("CONV_2D", _option(dilation_h_factor=32), rules.has_window),
    ("CONV_2D", _option(dilation_h_factor=2**31 - 1), rules.has_window),
    ("CONV_2D", _option(fused_activation="TANH"), operand.has_clamping_activation),
    ("CONV_2D", _data(1, np.ones((4, 3, 3, 4), np.int8)), rules.has_matching_channels),
    ("CONV_2D", _data(1, np.ones((3, 3, 3, 1), np.int8)), rules.has_matching_channels),
    ("CONV_2D", _data(1, np.ones((4, 3, 3, 2), np.int16)), rules.has_int8_kernel),
    ("DEPTHWISE_CONV_2D", _at(1, data=None), rules.has_int8_kernel),
    ("CONV_2D", _at(1, zero_point=128), rules.has_int8_kernel),
    ("FULLY_CONNECTED", _at(1, zero_point=-129), rules.has_int8_weights),
    ("CONV_2D", _at(1, scale=[0.1, 0.2], zero_point=[0, 0]), rules.has_weight_scales),
    ("CONV_2D", _at(1, scale=[0.1] * 4, zero_point=[0] * 4, axis=3), rules.has_weight_scales),
    ("CONV_2D", _at(1, scale=0.0), rules.has_weight_scales),
    ("CONV_2D", _data(2, np.ones(3, np.int32)), rules.has_bias),
    ("CONV_2D", _data(2, np.ones(4, np.int64)), rules.has_bias),
    ("CONV_2D", _at(2, scale=0.02), rules.has_bias),
    ("CONV_2D", _at(0, zero_point=-129), operand.has_integer_activations),
    ("CONV_2D", _at(0, shape=(1, 0, 5, 2)), operand.has_integer_activations),
    ("CONV_2D", _out(dtype="INT16", zero_point=0), operand.has_integer_activations),
    ("CONV_2D", _at(0, dtype="INT16", zero_point=0), operand.has_integer_activations),
    ("DEPTHWISE_CONV_2D", _option(depth_multiplier=2), rules.has_matching_multiplier),
    ("DEPTHWISE_CONV_2D", _option(depth_multiplier=0), rules.has_matching_multiplier),
    ("DEPTHWISE_CONV_2D", _out(shape=(1, 4, 5, 2)), rules.has_matching_multiplier),
    ("DEPTHWISE_CONV_2D", _all_int16, rules.has_wide_bias),
    ("TRANSPOSE_CONV", _all_int16, rules.has_wide_bias),
    ("TRANSPOSE_CONV", _data(0, CONSTANT_SHAPE + 1), rules.has_constant_shape),
    ("TRANSPOSE_CONV", _data(0, CONSTANT_SHAPE[1:]), rules.has_constant_shape),
    ("TRANSPOSE_CONV", _at(2, shape=(1, 3, 5, 2)), rules.has_transposed_window),
    ("TRANSPOSE_CONV", _at(2, shape=(1, 4, 5, 3)), rules.has_matching_depth),
    ("FULLY_CONNECTED", _at(0, shape=(1, 7)), rules.has_matching_sizes),
    ("FULLY_CONNECTED", _out(shape=(4, 1)), rules.has_matching_sizes),
    ("FULLY_CONNECTED", _option(weights_format=1), rules.has_int8_weights),
    ("TRANSPOSE_CONV", _out(dtype="INT16", zero_point=0), rules.has_transposed_activations),
]


@pytest.mark.parametrize(("name", "change", "rule"), BROKEN)
def test_what_breaks_a_rule_is_refused(name: str, change: Change, rule: Rule) -> None:
    read_tflite(_changed(name, lambda *_: None))
    assert rule.__doc__
    with pytest.raises(UnsupportedOperatorError, match=re.escape(rule.__doc__.removesuffix("."))):
        read_tflite(_changed(name, change))


def test_every_rule_has_a_case_above() -> None:
    used = {rule for support in rules.SUPPORT.values() for rule in support.rules}
    assert used == {rule for _, _, rule in BROKEN} | {operand.has_static_operands}


def test_int16_sums_beyond_what_the_kernel_takes_are_refused() -> None:
    rng = np.random.default_rng(1)
    tflite, _ = random_case(rng, "FULLY_CONNECTED", "INT16", bias="INT64")
    network = read_tflite(tflite)
    *_, layer = network.layers
    assert isinstance(layer, Linear)
    channels = len(layer.bias)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"bias": np.full(channels, 2**47)}, "47-bit accumulator"),
        ({"bias": np.full(channels, -(2**63))}, "47-bit accumulator"),
        ({"bias": np.full(channels, 2**40), "shift": np.full(channels, 0, np.int32)}, "47-bit accumulator"),
        ({"shift": np.full(channels, 8, np.int32)}, r"more than 2\^7"),
    ]
    for changes, why in cases:
        with pytest.raises(UnsupportedOperatorError, match=why):
            replace(layer, **changes).require_consistent(network.tensors)


def test_room_is_left_to_add_the_zero_point() -> None:
    tflite = _changed("FULLY_CONNECTED", lambda *_: None)
    network = read_tflite(tflite)
    *_, layer = network.layers
    assert isinstance(layer, Linear)
    products = int(accumulator_bound(replace(layer, bias=layer.bias * 0), 0)[0])
    bias = np.full(4, 2**31 - 1 - products)
    near_one: dict[str, Any] = {"multiplier": np.full(4, 2**31 - 1, np.int32), "shift": np.zeros(4, np.int32)}
    replace(layer, bias=bias - 200, **near_one).require_consistent(network.tensors)
    tensors = dict(network.tensors)
    tensors[layer.output] = replace(tensors[layer.output], zero_point=127)
    with pytest.raises(UnsupportedOperatorError, match="32-bit accumulator"):
        replace(layer, bias=bias, **near_one).require_consistent(tensors)


def _ours(case: Case) -> NDArray[Any]:
    network = read_tflite(case[0])
    values = case[1][0].reshape(-1, *network.tensors[network.inputs[0]].shape)
    out: NDArray[Any] = Reference(network).run({network.inputs[0]: values})[network.outputs[0]]
    return out


def _keeps_dims(case: Case) -> bool:
    return bool(parse_tflite(case[0]).operators[-1].options.get("keep_num_dims", False))


def _changed(name: str, change: Change) -> bytes:
    """Write a small sound network of one operator, but for what `change` does to it."""
    weights = {
        "FULLY_CONNECTED": (4, 6),
        "CONV_2D": (4, 3, 3, 1),
        "DEPTHWISE_CONV_2D": (1, 3, 3, 4),
        "TRANSPOSE_CONV": (4, 3, 3, 2),
    }
    depth = {"DEPTHWISE_CONV_2D": 4}.get(name, 2)
    is_dense = name == "FULLY_CONNECTED"
    source = {"shape": (1, 6) if is_dense else (1, 4, 5, depth), "dtype": "INT8", "scale": 0.1}
    source["zero_point"] = 3
    target = {"shape": (1, 4) if is_dense else (1, 4, 5, 4), "dtype": "INT8", "scale": 0.1}
    target["zero_point"] = -3
    bias = constant(np.ones(4, np.int32), np.array([0.1 * 0.1], np.float32), 0)
    inputs: list[Any] = [source, constant(np.ones(weights[name], np.int8), np.array([0.1]), 0), bias]
    if name == "TRANSPOSE_CONV":
        inputs = [{"shape": (4,), "dtype": "INT32", "data": CONSTANT_SHAPE}, inputs[1], source, bias]
    options: dict[str, Any] = {} if is_dense else {"padding": "SAME", "stride_h": 1, "stride_w": 1}
    change(inputs, target, options)
    return single_operator(name, inputs, [target], **options)
