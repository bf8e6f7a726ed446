"""Pooling and reductions, one operator at a time: equal to the oracle that decides, bit for bit."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.ir import Tensor
from edgeqrl.network.layers import Pool, Reduce, Window, pooling
from edgeqrl.network.operators import Rule, operand
from edgeqrl.network.operators import pooling as rules
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from tests.oracles import Case, many_answers, require_equal
from tests.random_linear import RANGES, with_flat_input
from tests.random_pooling import EXTREMES, OPERATORS, POOLS, random_case

# TFLite Micro has no REDUCE_MAX and REDUCE_MIN of int16; tflite-runtime has other sums.
DECIDES = {(name, "INT16"): "tflite-runtime" for name in EXTREMES}


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_equals_the_oracle(name: str, dtype: str) -> None:
    rng = np.random.default_rng([OPERATORS.index(name), len(dtype)])
    cases = [random_case(rng, name, dtype) for _ in range(50)]
    assert require_equal(DECIDES.get((name, dtype), "tflm"), cases) > 1500


@pytest.mark.slow
@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_million_outputs_of_an_operator_equal_the_oracle(name: str, dtype: str) -> None:
    rng = np.random.default_rng([9, OPERATORS.index(name), len(dtype)])
    count = 0
    while count < 10**6:
        cases = [random_case(rng, name, dtype, samples=16) for _ in range(1000)]
        count += require_equal(DECIDES.get((name, dtype), "tflm"), cases)


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "SUM"])
def test_tflite_runtime_agrees(name: str, dtype: str) -> None:
    rng = np.random.default_rng([3, OPERATORS.index(name), len(dtype)])
    assert require_equal("tflite-runtime", [random_case(rng, name, dtype) for _ in range(25)]) > 500


def test_tflite_runtime_has_other_sums_and_wraps_some() -> None:
    quantized = {"dtype": "INT8", "scale": 0.1, "zero_point": 0}
    axes = {"shape": (1,), "dtype": "INT32", "data": np.array([1], np.int32)}
    tflite = with_flat_input("SUM", [{"shape": (1, 2)} | quantized, axes], {"shape": (1,)} | quantized)
    case = (tflite, [np.array([[100, 100]], np.int8)])
    assert [int(np.ravel(many_answers(runtime, [case])[0])[0]) for runtime in ("tflm", "tflite-runtime")] == [
        127,
        -56,
    ]
    assert _ours(case).item() == 127
    rng = np.random.default_rng(1)
    cases = [random_case(rng, "SUM", "INT8") for _ in range(40)]
    theirs = many_answers("tflite-runtime", cases)
    assert any(not np.array_equal(np.ravel(t), _ours(c).ravel()) for t, c in zip(theirs, cases, strict=True))


def test_tflite_micro_has_no_extremes_of_int16() -> None:
    rng = np.random.default_rng(1)
    cases = [random_case(rng, name, "INT16") for name in EXTREMES]
    assert all(isinstance(answer, str) for answer in many_answers("tflm", cases))


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([1, 2], 2),  # halves away from zero
        ([-1, -2], -2),
        ([1, 0], 1),
        ([-1, 0], -1),
        ([0, 0, 1], 0),
        ([1, 1, 0], 1),
        ([-1, -1, 0], -1),
        ([127] * 5, 127),
        ([-128] * 5, -128),
    ],
)
def test_an_average_rounds_halves_away_from_zero(values: list[int], mean: int) -> None:
    n = len(values)
    layer = _pool("AVERAGE_POOL_2D", (1, 1, n, 1), (1, 1, 1, 1), (1, n), (1, 1), (0, 0))
    tensors = _tensors((n,), (1,))
    layer.require_consistent(tensors)
    assert layer.run([np.array([values], np.int8)], tensors).tolist() == [[mean]]


def test_padding_is_left_out_of_an_average() -> None:
    layer = _pool("AVERAGE_POOL_2D", (1, 2, 2, 1), (1, 2, 2, 1), (3, 3), (1, 1), (1, 1))
    assert layer.window.counts().tolist() == [[4, 4], [4, 4]]
    tensors = _tensors((2, 2), (2, 2))
    layer.require_consistent(tensors)
    values = np.array([[10, 20], [30, 43]], np.int8)[None]
    assert layer.run([values], tensors).ravel().tolist() == [26] * 4
    layer = _pool("AVERAGE_POOL_2D", (1, 3, 1, 1), (1, 3, 1, 1), (2, 1), (1, 1), (0, 0))
    assert layer.window.counts().ravel().tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    ("shape", "axes", "kept", "reduced"),
    [
        ((1, 4, 5, 3), (1, 2), ((3, 1),), ((20, 3),)),
        ((1, 4, 5, 3), (3,), ((20, 3),), ((3, 1),)),
        ((1, 4, 5, 3), (1, 3), ((5, 3),), ((4, 15), (3, 1))),
        ((2, 4, 5, 3), (2,), ((8, 15), (3, 1)), ((5, 3),)),
        ((2, 4), (0, 1), (), ((8, 1),)),
        ((1, 4), (0,), ((4, 1),), ()),
        ((2, 1, 4), (1,), ((8, 1),), ()),
    ],
)
def test_neighbouring_axes_are_merged(
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    kept: tuple[tuple[int, int], ...],
    reduced: tuple[tuple[int, int], ...],
) -> None:
    layer = Reduce("r", "SUM", "in", "out", shape, axes, 2**30, 1)
    assert (layer.kept, layer.reduced) == (kept, reduced)
    count = int(np.prod([n for n, _ in reduced], dtype=np.int64))
    assert layer.count == count


@pytest.mark.parametrize("name", POOLS)
def test_the_number_of_samples_at_once_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(np.random.default_rng(4), name, "INT8", samples=9)
    together = _ours(case)
    monkeypatch.setattr(pooling, "_ELEMENTS_AT_ONCE", 1)
    np.testing.assert_array_equal(_ours(case), together)


Change = Callable[[list[dict[str, Any]], dict[str, Any], dict[str, Any]], None]


def _at(index: int, **changes: Any) -> Change:
    return lambda inputs, _, __: inputs[index].update(changes)


def _out(**changes: Any) -> Change:
    return lambda _, target, __: target.update(changes)


def _option(**changes: Any) -> Change:
    return lambda _, __, options: options.update(changes)


def _axes(*axes: int, shape: tuple[int, ...] | None = None, dtype: str = "int32") -> Change:
    data = np.array(axes, dtype)
    return _at(1, data=data, shape=data.shape if shape is None else shape, dtype=dtype.upper())


BROKEN: list[tuple[str, Change, Rule]] = [
    ("MAX_POOL_2D", _out(shape=(1, 3, 2, 2)), rules.has_pooling_window),
    ("MAX_POOL_2D", _out(shape=(1, 3, 3, 4)), rules.keeps_channels),
    ("MAX_POOL_2D", _out(shape=(2, 3, 2)), rules.has_pooling_window),
    ("MAX_POOL_2D", _option(stride_h=0), rules.has_pooling_window),
    ("AVERAGE_POOL_2D", _option(filter_width=0), rules.has_pooling_window),
    ("AVERAGE_POOL_2D", _option(filter_width=65), rules.has_pooling_window),
    ("MAX_POOL_2D", _option(filter_height=2**31 - 1), rules.has_pooling_window),
    ("AVERAGE_POOL_2D", _option(filter_height=6, filter_width=7, padding="VALID"), rules.has_pooling_window),
    ("AVERAGE_POOL_2D", _option(fused_activation="SIGN_BIT"), operand.has_clamping_activation),
    ("AVERAGE_POOL_2D", _out(scale=0.2), operand.keeps_quantization),
    ("MAX_POOL_2D", _out(zero_point=4), operand.keeps_quantization),
    ("MAX_POOL_2D", _out(dtype="INT16", zero_point=0), operand.has_integer_activations),
    ("MEAN", _out(shape=(1, 4)), rules.has_reduced_shape),
    ("MEAN", _option(keep_dims=True), rules.has_reduced_shape),
    ("MEAN", _axes(1), rules.has_reduced_shape),
    ("MEAN", _axes(1, 4), rules.has_constant_axes),
    ("MEAN", _axes(1, -5), rules.has_constant_axes),
    ("MEAN", _axes(1, 2, shape=(1, 2)), rules.has_constant_axes),
    ("SUM", _axes(1, 2, dtype="int64"), rules.has_constant_axes),
    ("REDUCE_MAX", _out(scale=0.2), operand.keeps_quantization),
    ("REDUCE_MIN", _out(zero_point=0), operand.keeps_quantization),
    ("SUM", _out(dtype="INT16", zero_point=0), operand.has_integer_activations),
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


def test_a_sum_that_could_overflow_when_rescaled_is_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="a sum of 30 values could overflow"):
        read_tflite(_changed("SUM", _out(scale=0.1 / 2**23)))


def test_sums_beyond_32_bits_are_refused() -> None:
    tensors = {name: Tensor(name, (n,), 0.1, 0, "int16") for name, n in (("in", 2**16), ("out", 1))}
    layer = Reduce("r", "MEAN", "in", "out", (1, 2**16), (1,), 2**30, -15)
    with pytest.raises(UnsupportedOperatorError, match="a sum of 65536 values could overflow"):
        layer.require_consistent(tensors)
    shorter = dict(tensors) | {"in": Tensor("in", (2**16 - 1,), 0.1, 0, "int16")}
    replace(layer, shape=(1, 2**16 - 1)).require_consistent(shorter)
    pool = replace(
        _pool("AVERAGE_POOL_2D", (1, 1, 2**16, 1), (1, 1, 1, 1), (1, 2**16), (1, 1), (0, 0)),
        output_min=-(2**15),
    )
    with pytest.raises(UnsupportedOperatorError, match="could overflow"):
        pool.require_consistent(tensors)


def _ours(case: Case) -> NDArray[Any]:
    network = read_tflite(case[0])
    out: NDArray[Any] = Reference(network).run({network.inputs[0]: case[1][0]})[network.outputs[0]]
    return out


def _tensors(source: tuple[int, ...], target: tuple[int, ...]) -> dict[str, Tensor]:
    return {"in": Tensor("in", source, 0.1, 3), "out": Tensor("out", target, 0.1, 3)}


def _pool(
    name: str,
    source: tuple[int, int, int, int],
    target: tuple[int, int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Pool:
    return Pool("pool", name, "in", "out", Window(source, target, kernel, stride, (1, 1), padding), -128, 127)


def _changed(name: str, change: Change) -> bytes:
    """Write a small sound network of one operator, but for what `change` does to it."""
    quantized = {"dtype": "INT8", "scale": 0.1, "zero_point": 3}
    source = {"shape": (1, 5, 6, 2)} | quantized
    if name in POOLS:
        inputs, target = [source], {"shape": (1, 3, 3, 2)} | quantized
        options = {"filter_height": 2, "filter_width": 3, "stride_h": 2, "stride_w": 2, "padding": "SAME"}
    else:
        data = np.array([1, 2], np.int32)
        inputs = [source, {"shape": (2,), "dtype": "INT32", "data": data}]
        target, options = {"shape": (1, 2)} | quantized, {"keep_dims": False}
    change(inputs, target, options)
    return with_flat_input(name, inputs, target, **options)
