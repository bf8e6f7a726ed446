"""Elementwise operators of two tensors: by hand, against the witnesses, and where those disagree."""

from typing import Any

import numpy as np
import pytest

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.functions import Factor
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Pair
from edgeqrl.network.layers.pairs import broadcast_strides
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from tests.operator_cases import random_scale, random_values, random_zero_point, tensor
from tests.oracles import Case, many_answers, require_equal
from tests.tflite_writer import TFLiteWriter, single_operator

PLAIN = ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM")
# (operator, type, witness)
WITNESSED = [
    *(
        (name, dtype, "tflm")
        for name in (*PLAIN, "SQUARED_DIFFERENCE", "PRELU")
        for dtype in ("INT8", "INT16")
    ),
    *(
        (name, dtype, "tflite-runtime")
        for name in ("ADD", "SUB", "MAXIMUM", "MINIMUM")
        for dtype in ("INT8", "INT16")
    ),
    ("SQUARED_DIFFERENCE", "INT8", "tflite-runtime"),
]
IDS = [" ".join(row).replace("tflite-", "") for row in WITNESSED]
FUSED = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
MOST_AXES = {"tflm": 6, "tflite-runtime": 4}  # where it broadcasts; beyond, it ends the process


def random_shapes(rng: np.random.Generator, most_axes: int, longest: int) -> list[tuple[int, ...]]:
    """Return the shapes of a, b and output; axes of 1 repeat, b may have fewer axes."""
    rank = int(rng.integers(1, most_axes))
    full = [int(n) for n in rng.integers(1, longest + 1, rank)]
    a, b = ([n if rng.random() < 0.7 else 1 for n in full] for _ in range(2))
    b = b[int(rng.integers(0, rank)) :] if rng.random() < 0.3 else [1, *b]
    return [(1, *a), tuple(b), np.broadcast_shapes((1, *a), tuple(b))]


def random_scales(rng: np.random.Generator, name: str, dtype: str) -> list[float]:
    """Return the scales of a, b and output, such that outputs spread over the type's range."""
    spread = float(np.exp(rng.uniform(-3, 3)))
    a = random_scale(rng, 1e-4, 1e2)
    if name in ("MAXIMUM", "MINIMUM"):
        return [a, a, a]
    half = 128 if dtype == "INT8" else 32768
    b = a * float(np.exp(rng.uniform(-5, 5)))
    if name == "MUL":
        b = random_scale(rng, 1e-4, 1e2)
        return [a, b, a * b * half * spread]
    if name == "PRELU":
        b = random_scale(rng, 1e-4, 0.1)
        return [a, b, a * float(np.exp(rng.uniform(-1, 1)))]
    return [a, b, max(a, b) ** 2 * half * spread if name == "SQUARED_DIFFERENCE" else max(a, b) * spread]


def random_case(
    rng: np.random.Generator, name: str, dtype: str, witness: str, longest: int, samples: int
) -> Case:
    shapes = random_shapes(rng, MOST_AXES[witness], longest)
    if name == "PRELU":
        shapes[0] = shapes[2]
    if rng.random() < 0.2:
        shapes = [(1, 10 * longest)] * 3
    types = [dtype, "INT8" if name == "PRELU" else dtype, dtype]
    scales = random_scales(rng, name, dtype)
    zero_points = [random_zero_point(rng) for _ in range(3)]
    if name in ("MAXIMUM", "MINIMUM"):
        zero_points = [zero_points[0]] * 3
    a, b, out = (tensor(*row) for row in zip(shapes, types, scales, zero_points, strict=True))
    constant = 1 if name == "PRELU" else int(rng.integers(0, 5))  # which operand is one, if any
    if shapes[1][:1] != (1,):
        constant = 1
    inputs = []
    for i, each in enumerate((a, b)):
        if i == constant:
            each["data"] = random_values(rng, each["shape"], each["dtype"])
        else:
            inputs.append(random_values(rng, each["shape"][1:], each["dtype"], samples))
    options = {"fused_activation": str(rng.choice(FUSED))} if name in ("ADD", "SUB", "MUL") else {}
    return single_operator(name, [a, b], [out], **options), inputs


def random_cases(
    count: int, row: tuple[str, str, str], seed: int = 0, longest: int = 4, samples: int = 6
) -> list[Case]:
    rng = np.random.default_rng([seed, *map(ord, " ".join(row))])
    return [random_case(rng, *row, longest, samples) for _ in range(count)]


@pytest.mark.parametrize("row", WITNESSED, ids=IDS)
def test_operators_equal_the_witness(row: tuple[str, str, str]) -> None:
    require_equal(row[2], random_cases(20, row))


@pytest.mark.slow
@pytest.mark.parametrize("row", WITNESSED, ids=IDS)
def test_a_million_outputs_equal_the_witness(row: tuple[str, str, str]) -> None:
    cases = random_cases(1000, row, seed=1, longest=6 if row[2] == "tflm" else 12, samples=40)
    assert require_equal(row[2], cases) >= 10**6


@pytest.mark.parametrize(
    ("a", "b", "output", "expected"),
    [
        ((1, 4, 5), (1, 4, 5), (1, 4, 5), ((20,), (1,), (1,))),
        ((1, 4, 5), (1, 1, 1), (1, 4, 5), ((20,), (1,), (0,))),
        ((1, 4, 5), (5,), (1, 4, 5), ((4, 5), (5, 1), (0, 1))),
        ((1, 4, 1), (1, 4, 5), (1, 4, 5), ((4, 5), (1, 0), (5, 1))),
        ((4, 1), (1, 5), (4, 5), ((4, 5), (1, 0), (0, 1))),
        ((1, 2, 3, 4, 5), (1, 2, 1, 1, 5), (1, 2, 3, 4, 5), ((2, 12, 5), (60, 5, 1), (5, 0, 1))),
        ((2, 1, 3), (1, 7, 3), (2, 7, 3), ((2, 7, 3), (3, 0, 1), (0, 3, 1))),
        ((1, 1), (1, 1), (1, 1), ((1,), (0,), (0,))),
    ],
)
def test_broadcasting_has_as_few_axes_as_can_be(
    a: tuple[int, ...], b: tuple[int, ...], output: tuple[int, ...], expected: Any
) -> None:
    assert broadcast_strides(a, b, output) == expected


HALF, ONE = Factor(2**30, 0), Factor(2**30, 1)
SUM = {"left_shift": 4, "factor_a": HALF, "factor_b": HALF, "factor": Factor(2**30, -3)}


@pytest.mark.parametrize(
    ("function", "factors", "expected"),
    [
        # (a - 1, b) is (2, 5), (-3, 5), (100, -5), (-128, 4); halves of the product up, of the shift
        # away from zero; plus 3
        ("ADD", SUM, [7, 4, 51, -59]),
        ("SUB", SUM, [1, -1, 56, -63]),
        ("MUL", {"factor": HALF}, [8, -4, -128, -128]),
        ("SQUARED_DIFFERENCE", {"factor_a": ONE, "factor_b": ONE, "factor": HALF}, [8, 35, 127, 127]),
        ("PRELU", {"factor_a": ONE, "factor_b": HALF}, [5, -4, 103, -128]),
        ("MAXIMUM", {}, [5, 5, 101, 4]),
        ("MINIMUM", {}, [3, -2, -5, -127]),
    ],
)  # fmt: skip
def test_functions_by_hand(function: str, factors: dict[str, Any], expected: list[int]) -> None:
    layer = Pair("p", function, ("a", "b"), "y", (4,), (1,), (1,), -128, 127, **factors)
    zero_point = 0 if function.startswith("M") and function != "MUL" else 3
    tensors = {
        "a": Tensor("a", (4,), 1.0, 1),
        "b": Tensor("b", (4,), 1.0, 0),
        "y": Tensor("y", (4,), 1.0, zero_point),
    }
    network = IntegerNetwork(tensors, ("a", "b"), ("y",), (layer,))
    inputs = {"a": np.array([[3, -2, 101, -127]], np.int8), "b": np.array([[5, 5, -5, 4]], np.int8)}
    assert Reference(network).run(inputs)["y"].tolist() == [expected]


def test_one_tensor_can_be_both_operands() -> None:
    writer = TFLiteWriter()
    x = writer.tensor("x", (1, 256), scale=0.1, zero_point=3)
    y = writer.tensor("y", (1, 256), scale=1.3, zero_point=-128)
    writer.operator("MUL", [x, x], [y])
    values = np.arange(-128, 128).astype(np.int8)[None]
    assert require_equal("tflm", [(writer.finish([x], [y]), [values])]) == 256


@pytest.mark.parametrize(
    ("name", "a", "b", "out", "words"),
    [
        ("ADD", (1.0, 0), (1.0, 0), (1e-6, 0), "Output scale is above"),
        ("MAXIMUM", (1.0, 0), (2.0, 0), (2.0, 0), "same scale and zero point"),
        ("MINIMUM", (1.0, 0), (1.0, 0), (1.0, 1), "same scale and zero point"),
        ("MUL", (1e4, 0), (1e4, 0), (1.0, 0), "could overflow 32 bits"),
        ("SQUARED_DIFFERENCE", (1e4, 0), (1.0, 0), (1.0, 0), "could overflow 32 bits"),
        ("PRELU", (1.0, 0), (1.0, 0), (1.0, 0), "alpha is a constant"),
        ("DIV", (1.0, 0), (1.0, 0), (1.0, 0), "no such operator"),
    ],
)
def test_what_is_refused(name: str, a: Any, b: Any, out: Any, words: str) -> None:
    given, wanted = [tensor((1, 4), "INT8", *each) for each in (a, b)], [tensor((1, 4), "INT8", *out)]
    with pytest.raises(UnsupportedOperatorError, match=words):
        read_tflite(single_operator(name, given, wanted))


def test_shapes_that_do_not_broadcast_are_refused() -> None:
    given, wanted = [tensor((1, 4), "INT8"), tensor((1, 3), "INT8")], [tensor((1, 4), "INT8")]
    with pytest.raises(UnsupportedOperatorError, match="broadcast"):
        read_tflite(single_operator("ADD", given, wanted))


@pytest.mark.parametrize(("name", "dtype"), [("MUL", "INT16"), ("MUL", "INT8"), ("PRELU", "INT8")])
def test_products_of_tflite_runtime_are_rarely_one_unit_away(name: str, dtype: str) -> None:
    # It computes their factors in float32; TFLite Micro, which decides, in float64.
    count = 100 if dtype == "INT16" else 30
    cases = random_cases(count, (name, dtype, "tflite-runtime"), seed=3, longest=6, samples=20)
    differing = compared = 0
    for (tflite, inputs), theirs in zip(cases, many_answers("tflite-runtime", cases), strict=True):
        assert not isinstance(theirs, str), theirs
        network = read_tflite(tflite)
        (ours,) = Reference(network).run(dict(zip(network.inputs, inputs, strict=True))).values()
        apart = np.abs(ours.astype(np.int64) - theirs[0].reshape(ours.shape))
        assert np.max(apart) <= 1
        differing, compared = differing + np.count_nonzero(apart), compared + apart.size
    assert differing < compared / 1000
    assert differing > 0 or dtype == "INT8"


@pytest.mark.parametrize("name", ["ADD", "SUB"])
def test_tflite_micro_ignores_that_scales_are_powers_of_two(name: str) -> None:
    rng = np.random.default_rng(0)
    described = [tensor((1, 200), "INT16", 2.0**exponent) for exponent in (-15, -14, -14)]
    inputs = [random_values(rng, (200,), "INT16", 2) for _ in range(2)]
    plain, marked = (
        (single_operator(name, described[:2], described[2:], pot_scale_int16=is_marked), inputs)
        for is_marked in (False, True)
    )
    assert require_equal("tflm", [plain, marked]) == 800
    first, second = many_answers("tflite-runtime", [plain, marked])
    assert not isinstance(first, str)
    assert not isinstance(second, str)
    assert not np.array_equal(first[0], second[0])
