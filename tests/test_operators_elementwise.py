"""Elementwise operators of one tensor: by hand, against the witnesses, and where those disagree."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.functions import Factor
from edgeqrl.network.ir import IntegerNetwork, Layer, Tensor
from edgeqrl.network.layers import Interpolation, InverseRoot, Pair, Rescale, Sigmoid
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from tests.operator_cases import every_value, float32, random_scale, random_zero_point, tensor
from tests.oracles import Case, answers, many_answers, require_equal
from tests.tflite_writer import single_operator

# (operator, type of input, of output, witness): every pair that a witness has
WITNESSED = [
    *((name, dtype, dtype, "tflm") for name in ("RELU", "LEAKY_RELU", "ABS") for dtype in ("INT8", "INT16")),
    *(
        (name, dtype, dtype, witness)
        for name in ("TANH", "RELU6")
        for dtype in ("INT8", "INT16")
        for witness in ("tflm", "tflite-runtime")
    ),
    ("LOGISTIC", "INT8", "INT8", "tflm"),
    ("LOGISTIC", "INT16", "INT16", "tflm"),
    ("LOGISTIC", "INT16", "INT16", "tflite-runtime"),
    ("RELU_N1_TO_1", "INT8", "INT8", "tflite-runtime"),
    ("RELU_0_TO_1", "INT8", "INT8", "tflite-runtime"),
    ("HARD_SWISH", "INT8", "INT8", "tflm"),
    ("HARD_SWISH", "INT8", "INT8", "tflite-runtime"),
    ("RSQRT", "INT8", "INT8", "tflm"),
    ("RSQRT", "INT8", "INT8", "tflite-runtime"),
    ("RSQRT", "INT16", "INT16", "tflm"),
    ("ELU", "INT8", "INT8", "tflm"),
    ("EXP", "INT8", "INT8", "tflite-runtime"),
    ("EXP", "INT8", "INT8", "litert"),
    ("EXP", "INT16", "INT16", "tflite-runtime"),
    ("EXP", "INT16", "INT16", "litert"),
    ("GELU", "INT8", "INT8", "tflite-runtime"),
    ("GELU", "INT8", "INT8", "litert"),
    ("GELU", "INT16", "INT16", "litert"),
    ("LOG", "INT8", "INT8", "litert"),
    *(("QUANTIZE", source, target, "tflm") for source in ("INT8", "INT16") for target in ("INT8", "INT16")),
    ("QUANTIZE", "INT8", "INT8", "tflite-runtime"),
    ("QUANTIZE", "INT16", "INT8", "tflite-runtime"),
    ("QUANTIZE", "INT16", "INT16", "tflite-runtime"),
]
IDS = [" ".join(row).replace("tflite-", "") for row in WITNESSED]
OUTPUTS = {("TANH", "INT8"): (1 / 128, 0), ("LOGISTIC", "INT8"): (1 / 256, -128)}  # in INT16: (1/32768, 0)


def random_case(rng: np.random.Generator, name: str, source: str, target: str, witness: str) -> Case:
    """Return a network of one operator, for every value of its input."""
    scale, zero_point, options = random_scale(rng, 1e-6, 10.0), random_zero_point(rng), {}
    scale_out, zero_point_out = scale * np.exp(rng.uniform(-4, 4)), random_zero_point(rng)
    if rng.random() < 0.3:  # some input lands next to a half, where the last bit of a factor decides
        scale_out = scale * int(rng.integers(1, 127)) / (int(rng.integers(0, 100)) + 0.5)
    if name in ("TANH", "LOGISTIC"):
        scale = random_scale(rng, 1e-7, 7.99 if source == "INT8" else 2.65)
        if source == "INT16" and rng.random() < 0.5:
            scale = 2.0 ** int(rng.integers(-14, -9))  # of which some need no multiplication
        scale_out, zero_point_out = OUTPUTS.get((name, source), (1 / 32768, 0))
    elif name == "RELU6" and witness == "tflm":
        scale_out, zero_point_out = scale, zero_point
    elif name == "RSQRT":
        highest = 127.0 if source == "INT8" else 32767.0
        scale = random_scale(rng, 1e-4, 10.0)
        scale_out = np.exp(rng.uniform(-1, 4)) / math.sqrt(scale) / highest
    elif name == "HARD_SWISH":
        scale, scale_out = random_scale(rng, 1e-3, 1.0), random_scale(rng, 1e-2, 0.2)
    elif name == "EXP":
        scale = random_scale(rng, 1e-3, 0.1) if source == "INT8" else random_scale(rng, 1e-6, 1e-3)
        # The greatest output fits int32: beyond, float conversions differ from machine to machine.
        reach = scale * (255 if source == "INT8" else 32767)
        scale_out = np.exp(min(reach, 60.0) - rng.uniform(0.0, 10.0)) / 100
    elif name == "LEAKY_RELU":
        options["alpha"] = float32(rng.choice([0.0, 0.01, 0.2, 0.25, 0.3, 1.5, rng.uniform(0, 1)]))
    elif name == "GELU":
        options["approximate"] = bool(rng.integers(2))
    values = every_value(source)
    if name == "RSQRT":
        values = np.maximum(values, zero_point if source == "INT8" else 0)  # an error below
    given = tensor(values.shape, source, scale, zero_point)
    wanted = tensor(values.shape, target, scale_out, zero_point_out)
    return single_operator(name, [given], [wanted], **options), [values]


def random_cases(count: int, row: tuple[str, str, str, str], seed: int = 0) -> list[Case]:
    rng = np.random.default_rng([seed, *map(ord, " ".join(row))])
    return [random_case(rng, *row) for _ in range(count)]


@pytest.mark.parametrize("row", WITNESSED, ids=IDS)
def test_operators_equal_the_witness(row: tuple[str, str, str, str]) -> None:
    require_equal(row[3], random_cases(16 if row[1] == "INT8" else 1, row))


@pytest.mark.slow
@pytest.mark.parametrize("row", WITNESSED, ids=IDS)
def test_a_million_outputs_equal_the_witness(row: tuple[str, str, str, str]) -> None:
    assert require_equal(row[3], random_cases(4000 if row[1] == "INT8" else 16, row, seed=1)) >= 10**6


def lowered(name: str, given: dict[str, Any], wanted: dict[str, Any], **options: Any) -> Layer:
    (layer,) = read_tflite(single_operator(name, [given], [wanted], **options)).layers
    return layer


def outputs_of(name: str, given: dict[str, Any], wanted: dict[str, Any], **options: Any) -> list[int]:
    """Return the outputs of our reference for every int8 or for some int16 inputs."""
    network = read_tflite(single_operator(name, [given], [wanted], **options))
    values = every_value(given["dtype"])
    (result,) = Reference(network).run({network.inputs[0]: values}).values()
    return [int(v) for v in result[0]]


FUNCTIONS: dict[str, Callable[[float], float]] = {
    "ABS": abs,
    "COS": math.cos,
    "ELU": lambda x: x if x > 0 else math.expm1(x),
    "EXP": math.exp,
    "GELU": lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    "HARD_SWISH": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "NEG": lambda x: -x,
    "SIN": math.sin,
    "SQRT": lambda x: math.sqrt(x) if x >= 0 else -math.inf,  # of what has no root
    "SQUARE": lambda x: x * x,
}
INT8_ALONE = ("COS", "LOG", "SIN", "SQRT")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, d) for n in FUNCTIONS for d in ("INT8", "INT16") if d == "INT8" or n not in INT8_ALONE],
)
def test_outputs_are_those_of_the_function(name: str, dtype: str) -> None:
    reach = 2.0 if name == "EXP" else 4.0
    half = 128 if dtype == "INT8" else 32768
    given = tensor(every_value(dtype).shape, dtype, reach / half)
    wanted = tensor(every_value(dtype).shape, dtype, (17.0 if name == "SQUARE" else 8.0) / half, 3)
    inputs = every_value(dtype)[0].astype(float) * given["scale"]
    exact = [FUNCTIONS[name](x) / wanted["scale"] + wanted["zero_point"] for x in inputs]
    apart = np.abs(np.clip(exact, -half, half - 1) - outputs_of(name, given, wanted))
    assert np.max(apart) <= (1.05 if dtype == "INT8" else 3.0)  # lines between knots are not quite a curve


@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    [
        ("RELU", "INT16", Rescale),
        ("ABS", "INT16", Rescale),
        ("TANH", "INT16", Sigmoid),
        ("LOGISTIC", "INT16", Sigmoid),
        ("GELU", "INT16", Interpolation),
        ("RSQRT", "INT16", InverseRoot),
        ("SQUARE", "INT16", Pair),
    ],
)
def test_int16_needs_no_large_table(name: str, dtype: str, kind: type) -> None:
    scale_out = 1 / 32768 if name in ("TANH", "LOGISTIC") else 0.01
    layer = lowered(name, tensor((1, 4), dtype, 0.001), tensor((1, 4), dtype, scale_out))
    assert type(layer) is kind
    assert layer.operator == ("MUL" if name == "SQUARE" else name)


def run_layer(layer: Layer, values: list[int], dtype: str, output: Tensor) -> list[int]:
    given = Tensor("x", (len(values),), 1.0, 0, dtype)
    network = IntegerNetwork({"x": given, "y": output}, ("x",), ("y",), (layer,))
    (result,) = Reference(network).run({"x": np.array([values], dtype)}).values()
    return [int(v) for v in result[0]]


def test_rescale_by_hand() -> None:
    # A half above zero, minus a quarter below; halves of the product up, of the shift away from zero.
    layer = Rescale("r", "LEAKY_RELU", "x", "y", Factor(2**30, 0), Factor(-(2**30), -1), -3, 100)
    y = Tensor("y", (7,), 1.0, 5, "int8")
    assert run_layer(layer, [0, 1, 3, 1000, -1, -4, -6], "int16", y) == [5, 6, 7, 100, 6, 6, 7]


def test_interpolation_by_hand() -> None:
    knots = np.zeros(513, np.int16)
    knots[256:259] = 0, 100, -28
    layer = Interpolation("i", "EXP", "x", "y", knots)
    y = Tensor("y", (7,), 1.0, 0, "int16")
    values = [0, 1, 64, 127, 128, 129, 255]
    assert run_layer(layer, values, "int16", y) == [0, 1, 50, 99, 100, 99, -27]


@pytest.mark.parametrize(
    ("name", "given", "wanted", "options", "words"),
    [
        ("RELU", (5e6, "INT8"), (1.0, "INT8"), {}, "below 2\\^22"),
        ("QUANTIZE", (40000.0, "INT16"), (1.0, "INT8"), {}, "below 2\\^22"),
        ("LEAKY_RELU", (1.0, "INT8"), (1.0, "INT8"), {"alpha": -0.5}, "not negative"),
        ("TANH", (8.0, "INT8"), (1 / 128, "INT8"), {}, "Input scale is"),
        ("TANH", (2.7, "INT16"), (1 / 32768, "INT16"), {}, "Input scale is"),
        ("TANH", (1.0, "INT8"), (1 / 64, "INT8"), {}, "Output scale is 1/128"),
        ("LOGISTIC", (1.0, "INT16"), (1 / 65536, "INT16"), {}, "Output scale is 1/256"),
        ("RELU6", (1e-9, "INT8"), (1e-9, "INT8"), {}, "above 2\\^-28"),
        ("HARD_SWISH", (1.0, "INT8"), (0.005, "INT8"), {}, "lies between"),
        ("RSQRT", (1e-8, "INT8"), (1e-9, "INT8"), {}, "lies between"),
        ("EXP", (1.0, "INT16"), (1.0, "INT16"), {}, "jumps"),
        *((n, (0.1, "INT16"), (0.1, "INT16"), {}, "INT8 with one scale") for n in INT8_ALONE),
        ("SIGN", (0.1, "INT8"), (0.1, "INT8"), {}, "no such operator"),
        ("FLOOR", (0.1, "INT8"), (0.1, "INT8"), {}, "no such operator"),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_what_is_refused(
    name: str, given: tuple[float, str], wanted: tuple[float, str], options: dict[str, Any], words: str
) -> None:
    given_, wanted_ = (tensor((1, 4), dtype, scale) for scale, dtype in (given, wanted))
    with pytest.raises(UnsupportedOperatorError, match=words):
        read_tflite(single_operator(name, [given_], [wanted_], **options))


def differences(name: str, dtype: str, runtime: str, count: int, **how: str) -> tuple[int, int, int]:
    """Return (differing, compared, the greatest difference) between our reference and a runtime."""
    cases = random_cases(count, (name, dtype, dtype, how.get("as_for", "tflm")), seed=2)
    differing = compared = greatest = 0
    for (tflite, (values,)), theirs in zip(cases, many_answers(runtime, cases), strict=True):
        assert not isinstance(theirs, str), theirs
        network = read_tflite(tflite)
        (ours,) = Reference(network).run({network.inputs[0]: values}).values()
        apart = np.abs(ours.astype(np.int64) - theirs[0])
        differing, compared = differing + np.count_nonzero(apart), compared + apart.size
        greatest = max(greatest, int(apart.max()))
    return differing, compared, greatest


@pytest.mark.parametrize("name", ["RELU", "ABS", "LEAKY_RELU"])
def test_tflite_runtime_divides_scales_in_float32(name: str) -> None:
    # TFLite Micro does in float64, and decides.
    differing, compared, greatest = differences(name, "INT8", "tflite-runtime", 100)
    assert (0 < differing < compared / 200, greatest) == (True, 1)


def test_tflite_micro_does_not_rescale_relu6() -> None:
    # That would be wrong by the ratio of the scales: tflite-runtime decides.
    given, wanted = tensor((1, 256), "INT8", 0.1, 0), tensor((1, 256), "INT8", 0.05, 0)
    tflite = single_operator("RELU6", [given], [wanted])
    (micro,), (lite,) = (
        answers(runtime, tflite, every_value("INT8")) for runtime in ("tflm", "tflite-runtime")
    )
    assert outputs_of("RELU6", given, wanted) == lite[0].tolist() != micro[0].tolist()
    assert [int(v) for v in micro[0, 128:132]] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["TANH", "LOGISTIC"])
def test_tflite_micro_takes_zero_for_minus_infinity_at_input_scales_from_8(name: str) -> None:
    scale_out, zero_point = OUTPUTS[name, "INT8"]
    wanted = tensor((1, 256), "INT8", scale_out, zero_point)
    tflite = single_operator(name, [tensor((1, 256), "INT8", 8.0, 3)], [wanted])
    micro, lite = (answers(r, tflite, every_value("INT8"))[0][0] for r in ("tflm", "tflite-runtime"))
    assert (int(micro[131]), int(lite[131])) == (-128, 0)
    near = outputs_of(name, tensor((1, 256), "INT8", 7.99, 3), wanted)
    assert near[129:134] == [-128, -128, 0, 127, 127]


def test_logistic_of_tflite_micro_saturates_early_at_input_scales_from_4() -> None:
    wanted = tensor((1, 256), "INT8", 1 / 256, -128)
    given = tensor((1, 256), "INT8", 4.0, 3)
    (lite,) = answers("tflite-runtime", single_operator("LOGISTIC", [given], [wanted]), every_value("INT8"))
    assert outputs_of("LOGISTIC", given, wanted)[130:133] == [-128, 0, 127]
    assert lite[0, 130:133].tolist() == [-123, 0, 123]


def test_what_leaves_int32_saturates_as_in_litert() -> None:
    # tflite-runtime converts such floats as the machine does: on x86 they become the least integer.
    given, wanted = tensor((1, 256), "INT8", 0.5, 0), tensor((1, 256), "INT8", 1e-3, 0)
    tflite = single_operator("EXP", [given], [wanted])
    (lite,) = answers("litert", tflite, every_value("INT8"))
    assert outputs_of("EXP", given, wanted) == lite[0].tolist()
    assert lite[0, -1] == 127


def test_roots_of_litert_are_up_to_a_unit_away() -> None:
    # Neither TFLite Micro nor tflite-runtime has SQRT in int8; ours is rounded to nearest.
    given, wanted = tensor((1, 256), "INT8", 0.03, -128), tensor((1, 256), "INT8", 0.02, -128)
    (lite,) = answers("litert", single_operator("SQRT", [given], [wanted]), every_value("INT8"))
    exact = np.sqrt(np.arange(256) * given["scale"]) / wanted["scale"] - 128
    ours = np.array(outputs_of("SQRT", given, wanted))
    assert np.max(np.abs(ours - np.minimum(exact, 127))) <= 0.5001
    assert np.count_nonzero(lite[0] != ours) > 0
    assert np.max(np.abs(lite[0] - ours)) == 1
