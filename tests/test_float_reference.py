"""The float reference computes what LiteRT does, row by row, and lets everything be seen and changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeqrl.errors import DataError, EdgeQRLError, UnsupportedOperatorError
from edgeqrl.network.float_operators import MAKE
from edgeqrl.network.float_reference import BLOCK, FloatReference
from tests.converted import converted
from tests.converter_models import FLOAT_BUILDERS
from tests.oracles import many_answers
from tests.tflite_writer import TFLiteWriter, random_dense_tflite, random_float_tflite, single_operator

ROOT = Path(__file__).parent.parent
Described = dict[str, Any]
RNG = np.random.default_rng(7)


def of(*shape: int, **more: Any) -> Described:
    return {"shape": shape, "dtype": "FLOAT32"} | more


def constant(*shape: int) -> Described:
    return of(*shape, data=RNG.normal(size=shape).astype(np.float32))


def scalar(value: int) -> Described:
    return {"shape": (), "dtype": "INT32", "data": np.array(value, np.int32)}


def numbers(*values: Any) -> Described:
    array = np.array(values[0] if len(values) == 1 else values, np.int32)
    return {"shape": array.shape, "dtype": "INT32", "data": array}


SAME, VALID = {"padding": 0}, {"padding": 1}
WINDOW = {"stride_w": 2, "stride_h": 1}
POOL = {"filter_width": 3, "filter_height": 2}
# name -> (operator, inputs, outputs, options)
CASES: dict[str, tuple[str, Sequence[Described | None], Sequence[Described], Mapping[str, Any]]] = {
    **{
        name: (name, [of(1, 4, 5)], [of(1, 4, 5)], {})
        for name in (
            *("ELU", "ABS", "CEIL", "COS", "EXP", "FLOOR", "HARD_SWISH", "LOGISTIC", "NEG", "RELU", "RELU6"),
            *(
                "RELU_N1_TO_1",
                "RELU_0_TO_1",
                "ROUND",
                "SIGN",
                "SIN",
                "SQUARE",
                "TANH",
                "L2_NORMALIZATION",
                "LOG_SOFTMAX",
            ),
        )
    },
    "GELU": ("GELU", [of(1, 40)], [of(1, 40)], {}),
    "GELU approximate": ("GELU", [of(1, 40)], [of(1, 40)], {"approximate": True}),
    "FAKE_QUANT": ("FAKE_QUANT", [of(1, 40)], [of(1, 40)], {"min": -0.5, "max": 1.5, "num_bits": 8}),
    "FAKE_QUANT of 16 bits": (
        "FAKE_QUANT",
        [of(1, 40)],
        [of(1, 40)],
        {"min": -2.0, "max": 2.0 - 2**-14, "num_bits": 16},
    ),
    "LEAKY_RELU": ("LEAKY_RELU", [of(1, 40)], [of(1, 40)], {"alpha": 0.25}),
    "SOFTMAX": ("SOFTMAX", [of(1, 6)], [of(1, 6)], {"beta": 0.5}),
    "PRELU": ("PRELU", [of(1, 3, 3, 4), constant(1, 1, 4)], [of(1, 3, 3, 4)], {}),
    **{
        name: (name, [of(1, 3, 4), of(1, 1, 4)], [of(1, 3, 4)], {})
        for name in ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "FLOOR_DIV")
    },
    "BROADCAST_TO": ("BROADCAST_TO", [of(1, 1, 3), numbers(1, 4, 3)], [of(1, 4, 3)], {}),
    "ADD of a shorter constant": ("ADD", [of(1, 3, 4), constant(4)], [of(1, 3, 4)], {}),
    "ADD of a scalar": ("ADD", [constant(), of(1, 3, 4)], [of(1, 3, 4)], {"fused_activation": "RELU6"}),
    "ADD_N": ("ADD_N", [of(1, 4), of(1, 4), of(1, 4)], [of(1, 4)], {}),
    "MEAN": ("MEAN", [of(1, 4, 5, 3)], [of(1, 3)], {"axes": (1, 2)}),
    "SUM": ("SUM", [of(1, 4, 5, 3)], [of(1, 4, 1, 3)], {"axes": (-2,), "keep_dims": True}),
    "REDUCE_MAX": ("REDUCE_MAX", [of(1, 4, 5)], [of(1, 4)], {"axes": (2,)}),
    "REDUCE_MIN": ("REDUCE_MIN", [of(1, 4, 5)], [of(1, 5)], {"axes": (1,)}),
    "REDUCE_PROD": ("REDUCE_PROD", [of(1, 4, 5)], [of(1, 4)], {"axes": (2,)}),
    "FULLY_CONNECTED": (
        "FULLY_CONNECTED",
        [of(1, 7), constant(5, 7), constant(5)],
        [of(1, 5)],
        {"fused_activation": "RELU"},
    ),
    "FULLY_CONNECTED, rows": (
        "FULLY_CONNECTED",
        [of(1, 3, 7), constant(5, 7), None],
        [of(1, 3, 5)],
        {"keep_num_dims": True},
    ),
    "BATCH_MATMUL": ("BATCH_MATMUL", [of(1, 3, 4), of(1, 5, 4)], [of(1, 3, 5)], {"adj_y": True}),
    "CONV_2D same": (
        "CONV_2D",
        [of(1, 7, 6, 3), constant(4, 3, 2, 3), constant(4)],
        [of(1, 7, 3, 4)],
        {**SAME, **WINDOW, "fused_activation": "RELU"},
    ),
    "CONV_2D dilated": (
        "CONV_2D",
        [of(1, 7, 6, 3), constant(4, 2, 2, 3), constant(4)],
        [of(1, 4, 5, 4)],
        {**VALID, "dilation_h_factor": 3},
    ),
    "CONV_2D grouped": (
        "CONV_2D",
        [of(1, 5, 5, 4), constant(6, 3, 3, 2), constant(6)],
        [of(1, 3, 3, 6)],
        VALID,
    ),
    "DEPTHWISE_CONV_2D": (
        "DEPTHWISE_CONV_2D",
        [of(1, 7, 6, 3), constant(1, 3, 2, 6), constant(6)],
        [of(1, 7, 3, 6)],
        {**SAME, **WINDOW, "depth_multiplier": 2},
    ),
    "TRANSPOSE_CONV same": (
        "TRANSPOSE_CONV",
        [numbers(1, 8, 6, 3), constant(3, 3, 3, 2), of(1, 4, 3, 2)],
        [of(1, 8, 6, 3)],
        {**SAME, "stride_w": 2, "stride_h": 2},
    ),
    "TRANSPOSE_CONV valid": (
        "TRANSPOSE_CONV",
        [numbers(1, 9, 4, 3), constant(3, 3, 2, 2), of(1, 4, 3, 2)],
        [of(1, 9, 4, 3)],
        {**VALID, "stride_h": 2},
    ),
    "AVERAGE_POOL_2D": ("AVERAGE_POOL_2D", [of(1, 5, 6, 3)], [of(1, 5, 3, 3)], {**SAME, **WINDOW, **POOL}),
    "MAX_POOL_2D": ("MAX_POOL_2D", [of(1, 5, 6, 3)], [of(1, 5, 3, 3)], {**SAME, **WINDOW, **POOL}),
    "RESHAPE": ("RESHAPE", [of(1, 4, 6), numbers(1, 3, 8)], [of(1, 3, 8)], {}),
    "TRANSPOSE": ("TRANSPOSE", [of(1, 4, 6), numbers(0, 2, 1)], [of(1, 6, 4)], {}),
    "TRANSPOSE of the batch": ("TRANSPOSE", [of(1, 4, 6), numbers(2, 0, 1)], [of(6, 1, 4)], {}),
    "CONCATENATION": (
        "CONCATENATION",
        [of(1, 2, 3), constant(1, 1, 3), of(1, 4, 3)],
        [of(1, 7, 3)],
        {"axis": 1},
    ),
    "SPLIT": (
        "SPLIT",
        [scalar(1), of(1, 6, 2)],
        [of(1, 3, 2)] * 2,
        {"num_splits": 2},
    ),
    "SPLIT_V": (
        "SPLIT_V",
        [of(1, 6), numbers([1, -1]), scalar(-1)],
        [of(1, 1), of(1, 5)],
        {"num_splits": 2},
    ),
    "SLICE": ("SLICE", [of(1, 4, 6), numbers(0, 1, 2), numbers(1, 2, -1)], [of(1, 2, 4)], {}),
    "STRIDED_SLICE": (
        "STRIDED_SLICE",
        [of(1, 4, 6), numbers(0, 3, 1), numbers(1, 0, 6), numbers(1, -2, 2)],
        [of(1, 2, 3)],
        {},
    ),
    "PAD": ("PAD", [of(1, 3, 2), numbers([[0, 0], [1, 2], [0, 1]])], [of(1, 6, 3)], {}),
    "PADV2": ("PADV2", [of(1, 3, 2), numbers([[0, 0], [1, 2], [0, 1]]), constant()], [of(1, 6, 3)], {}),
    "MIRROR_PAD": ("MIRROR_PAD", [of(1, 3, 2), numbers([[0, 0], [2, 1], [0, 1]])], [of(1, 6, 3)], {}),
    "PACK": ("PACK", [of(1, 3), of(1, 3)], [of(1, 2, 3)], {"values_count": 2, "axis": 1}),
    "UNPACK": ("UNPACK", [of(1, 2, 3)], [of(1, 3)] * 2, {"num": 2, "axis": 1}),
    "GATHER": ("GATHER", [of(1, 4, 3), numbers(2, 0, 2)], [of(1, 3, 3)], {"axis": 1}),
    "TILE": ("TILE", [of(1, 2, 3), numbers(1, 2, 1)], [of(1, 4, 3)], {}),
    "SPACE_TO_DEPTH": ("SPACE_TO_DEPTH", [of(1, 4, 6, 2)], [of(1, 2, 3, 8)], {"block_size": 2}),
    "DEPTH_TO_SPACE": ("DEPTH_TO_SPACE", [of(1, 2, 3, 8)], [of(1, 4, 6, 2)], {"block_size": 2}),
    "EXPAND_DIMS": ("EXPAND_DIMS", [of(1, 4), numbers([1])], [of(1, 1, 4)], {}),
    "SQUEEZE": ("SQUEEZE", [of(1, 1, 4)], [of(1, 4)], {}),
    "REVERSE_V2": ("REVERSE_V2", [of(1, 4, 3), numbers([1])], [of(1, 4, 3)], {}),
}
POSITIVE = {name: (name, [of(1, 40)], [of(1, 40)], {}) for name in ("LOG", "SQRT", "RSQRT")} | {
    "POW": ("POW", [of(1, 40), of(1, 40)], [of(1, 40)], {})
}


def written(case: tuple[str, Sequence[Described | None], Sequence[Described], Mapping[str, Any]]) -> bytes:
    name, inputs, outputs, options = case
    given = dict(options)
    if "axes" in given:
        axes = given.pop("axes")
        inputs = [*inputs, {"shape": (len(axes),), "dtype": "INT32", "data": np.array(axes, np.int32)}]
    if "padding" in given:
        given["padding"] = {0: "SAME", 1: "VALID"}[given["padding"]]
    return single_operator(name, inputs, outputs, **given)


def random_inputs(reference: FloatReference, count: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {
        name: (2 * rng.normal(size=(count, *shape))).astype(np.float32)
        for name, shape in reference.inputs.items()
    }


def require_close(ours: NDArray[Any], theirs: Any, what: str) -> None:
    assert not isinstance(theirs, str), f"{what}: {theirs}"
    expected = np.asarray(theirs).reshape(ours.shape)
    scale = max(1.0, float(np.abs(expected).max()))
    assert np.abs(ours - expected).max() <= 1e-5 * scale, what


def test_single_operators_equal_litert() -> None:
    tables = [*((name, case, False) for name, case in CASES.items())]
    tables += [(name, case, True) for name, case in POSITIVE.items()]
    files = [written(case) for _, case, _ in tables]
    cases, ours = [], []
    for tflite, (_, _, is_positive) in zip(files, tables, strict=True):
        reference = FloatReference(tflite)
        inputs = random_inputs(reference, 70)
        if is_positive:
            inputs = {name: np.abs(values) + np.float32(0.01) for name, values in inputs.items()}
        cases.append((tflite, list(inputs.values())))
        ours.append(list(reference.run(inputs).values()))
    for (name, _, _), outputs, theirs in zip(
        tables, ours, many_answers("litert", cases, is_reference=False), strict=True
    ):
        assert not isinstance(theirs, str), f"{name}: {theirs}"
        for mine, other in zip(outputs, theirs, strict=True):
            require_close(mine, other, name)


def test_every_operator_has_a_case() -> None:
    assert {*MAKE} == {case[0] for case in (*CASES.values(), *POSITIVE.values())}


@pytest.mark.parametrize("name", sorted(FLOAT_BUILDERS))
def test_a_converted_network_equals_litert(name: str) -> None:
    tflite = converted()[name]
    assert isinstance(tflite, bytes), tflite
    reference = FloatReference(tflite)
    inputs = random_inputs(reference, 20)
    (theirs,) = many_answers("litert", [(tflite, list(inputs.values()))], is_reference=False)
    assert not isinstance(theirs, str), theirs
    for mine, other in zip(reference.run(inputs).values(), theirs, strict=True):
        require_close(mine, other, name)


def test_a_row_depends_on_itself_alone() -> None:
    """Neither other rows nor their number change a bit of it; its place in a block may, the last ones."""
    files = [random_float_tflite(RNG, (5, 37, 19, 3), ("RELU", "TANH", "NONE"))]
    files += [converted()[f"{name} float32"] for name in ("image", "layer norm", "GRU step", "depthwise")]
    for tflite in files:
        reference = FloatReference(tflite)
        inputs = random_inputs(reference, 150)
        whole = reference.run(inputs)
        order = np.random.default_rng(1).permutation(150)
        # Each stays at its place among `BLOCK`, beside rows of any block, in another block, or alone.
        mixed = np.arange(150) - BLOCK * (np.arange(150) // BLOCK) * (np.arange(150) % 2)
        for rows in (mixed, np.arange(BLOCK, 150), *(np.arange(count) for count in (0, 1, 63, 65))):
            part = reference.run({name: values[rows] for name, values in inputs.items()})
            for name, values in part.items():
                np.testing.assert_array_equal(values, whole[name][rows])
        for rows in (order, order[:1], order[:63]):
            part = reference.run({name: values[rows] for name, values in inputs.items()})
            for name, values in part.items():
                require_close(values, whole[name][rows], name)


def test_hooks_see_and_change_every_tensor() -> None:
    tflite = random_float_tflite(np.random.default_rng(3), (4, 8, 2), ("RELU", "TANH"))
    reference = FloatReference(tflite)
    assert [layer.operator for layer in reference.layers] == ["FULLY_CONNECTED", "FULLY_CONNECTED", "TANH"]
    assert reference.layers[0].fused_activation == "RELU"
    assert set(reference.weights) == {"weights_0", "bias_0", "weights_1", "bias_1"}
    inputs = random_inputs(reference, 100)
    seen: dict[str, NDArray[np.float32]] = {}
    sums: dict[str, NDArray[np.float32]] = {}
    plain = reference.run(inputs, on_tensor=seen.__setitem__, on_sums=sums.__setitem__)
    assert list(seen) == ["observation", "dense_0", "dense_1", "tanh_1"]
    assert {name: values.shape for name, values in seen.items()} == {
        "observation": (100, 4), "dense_0": (100, 8), "dense_1": (100, 2), "tanh_1": (100, 2),
    }  # fmt: skip
    assert list(sums) == ["dense_0", "dense_1"]
    assert sums["dense_0"].min() < 0 == seen["dense_0"].min()
    np.testing.assert_array_equal(np.maximum(sums["dense_0"], 0), seen["dense_0"])
    np.testing.assert_array_equal(seen["tanh_1"], plain["tanh_1"])

    changed = reference.run(inputs, on_tensor=lambda name, v: np.zeros_like(v) if name == "dense_0" else None)
    np.testing.assert_allclose(
        changed["tanh_1"], np.broadcast_to(np.tanh(reference.weights["bias_1"]), (100, 2)), rtol=1e-6
    )
    np.testing.assert_array_equal(reference.run(inputs)["tanh_1"], plain["tanh_1"])
    double = reference.run(inputs, on_sums=lambda name, v: 2 * v if name == "dense_1" else None)
    np.testing.assert_allclose(double["tanh_1"], np.tanh(2 * sums["dense_1"]), rtol=1e-6)


def test_weights_are_changed_for_one_call() -> None:
    reference = FloatReference(random_float_tflite(np.random.default_rng(3), (4, 8, 2), ("RELU", "NONE")))
    inputs = random_inputs(reference, 10)
    plain = reference.run(inputs)["dense_1"]
    moved = reference.run(inputs, weights={"bias_1": reference.weights["bias_1"] + 1})["dense_1"]
    np.testing.assert_allclose(moved, plain + 1, rtol=1e-5)
    np.testing.assert_array_equal(reference.run(inputs)["dense_1"], plain)
    for wrong in ({"bias_1": np.zeros(3)}, {"bias_7": np.zeros(2)}):
        with pytest.raises(ValueError, match="no constant"):
            reference.run(inputs, weights=wrong)


def test_inputs_of_another_form_are_refused() -> None:
    reference = FloatReference(random_float_tflite(np.random.default_rng(3), (4, 2), ("NONE",)))
    for wrong in ({}, {"observation": np.zeros((3, 5))}, {"observation": np.zeros((3, 4)), "more": 1}):
        with pytest.raises(ValueError, match=r"must be|inputs are"):
            reference.run(wrong)  # type: ignore[arg-type]


def test_what_is_not_known_is_named() -> None:
    unknown = single_operator("CUMSUM", [of(1, 4), scalar(1)], [of(1, 4)])
    with pytest.raises(UnsupportedOperatorError, match="CUMSUM of 'output_0'"):
        FloatReference(unknown)
    computed = single_operator("CONV_2D", [of(1, 5, 5, 1), of(1, 3, 3, 1)], [of(1, 3, 3, 1)], padding="VALID")
    with pytest.raises(UnsupportedOperatorError, match="weights have an unknown form"):
        FloatReference(computed)
    with pytest.raises(DataError, match="must be FLOAT32"):
        FloatReference(random_dense_tflite(RNG, (4, 2), ("NONE",)))


@pytest.mark.parametrize("bias", [of(1, 4), {"shape": (4,), "dtype": "INT32", "data": np.ones(4, np.int32)}])
@pytest.mark.parametrize(
    ("name", "operands", "target"),
    [
        ("FULLY_CONNECTED", [of(1, 7), constant(4, 7)], of(1, 4)),
        ("CONV_2D", [of(1, 5, 5, 2), constant(4, 3, 3, 2)], of(1, 3, 3, 4)),
        ("DEPTHWISE_CONV_2D", [of(1, 5, 5, 4), constant(1, 3, 3, 4)], of(1, 3, 3, 4)),
        ("TRANSPOSE_CONV", [numbers(1, 5, 5, 4), constant(4, 3, 3, 2), of(1, 3, 3, 2)], of(1, 5, 5, 4)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bias_is_a_float_constant(name: str, operands: Any, target: Any, bias: Any) -> None:
    options = {} if name == "FULLY_CONNECTED" else {"padding": "VALID"}
    FloatReference(single_operator(name, [*operands, constant(4)], [target], **options))
    with pytest.raises(UnsupportedOperatorError, match=f"{name} of 'output_0'.*is computed"):
        FloatReference(single_operator(name, [*operands, bias], [target], **options))


def test_files_that_contradict_themselves_are_refused() -> None:
    writer = TFLiteWriter()
    source, lost, target = (writer.tensor(name, (1, 4), "FLOAT32") for name in ("x", "lost", "y"))
    writer.operator("ADD", [source, lost], [target])
    with pytest.raises(DataError, match="nothing writes"):
        FloatReference(writer.finish([source], [target]))
    wrong = single_operator("FULLY_CONNECTED", [of(1, 7), constant(5, 7)], [of(1, 4)])
    with pytest.raises(UnsupportedOperatorError, match="sizes do not fit"):
        FloatReference(wrong)
    lying = single_operator("RELU", [of(1, 4)], [of(1, 5)])
    with pytest.raises(DataError, match="another shape than it says"):
        FloatReference(lying)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(CASES)),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_a_damaged_file_is_refused_or_runs(name: str, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(written(CASES[name]))
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        reference = FloatReference(bytes(damaged))
    except EdgeQRLError:
        return
    with np.errstate(all="ignore"):
        outputs = reference.run(random_inputs(reference, 3))
    assert all(len(values) == 3 for values in outputs.values())
