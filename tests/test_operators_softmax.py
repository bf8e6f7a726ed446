"""Operators on whole rows: by hand, against the witnesses, and where those disagree."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from tests.operator_cases import random_scale, random_values, random_zero_point, tensor
from tests.oracles import Case, many_answers, require_equal
from tests.tflite_writer import single_operator

OUTPUTS = {
    ("SOFTMAX", "INT8"): (1 / 256, -128),
    ("SOFTMAX", "INT16"): (1 / 32768, 0),
    ("LOG_SOFTMAX", "INT8"): (1 / 16, 127),
}
WITNESSED = [
    ("SOFTMAX", "INT8", "tflm"),
    ("SOFTMAX", "INT8", "tflite-runtime"),
    ("SOFTMAX", "INT16", "tflm"),
    ("LOG_SOFTMAX", "INT8", "tflm"),
    ("LOG_SOFTMAX", "INT8", "tflite-runtime"),
]
ARGS = [(name, witness) for name in ("ARG_MAX", "ARG_MIN") for witness in ("tflm", "tflite-runtime")]
IDS = [" ".join(row).replace("tflite-", "") for row in WITNESSED]


def random_rows(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, samples: int) -> NDArray[Any]:
    """Return rows of all kinds: anything, near one another, all equal."""
    values = random_values(rng, shape, dtype, samples)
    info = np.iinfo(values.dtype)
    for i in range(0, samples, 3):
        spread = np.exp(rng.uniform(0, np.log(info.max)))
        values[i] = np.clip(rng.normal(rng.integers(info.min, info.max), spread, shape), info.min, info.max)
    values[-1] = values[-1].flat[0]
    return values


def random_case(rng: np.random.Generator, name: str, dtype: str, longest: int) -> Case:
    depth = int(rng.choice([1, 2, 3, longest, rng.integers(1, longest + 1)]))
    shape = tuple(int(n) for n in (1, *rng.integers(1, 4, int(rng.integers(0, 3))), depth))
    if dtype == "INT8":
        scale = random_scale(rng, *((1e-6, 1e-3) if rng.random() < 0.2 else (1e-3, 10.0)))
    else:
        scale = random_scale(rng, *((0.01, 3.9) if rng.random() < 0.2 else (1e-6, 0.01)))
    options = {"beta": float(rng.choice([1.0, 1.0, 0.5, rng.uniform(0.1, 1)]))} if name == "SOFTMAX" else {}
    given = tensor(shape, dtype, scale, random_zero_point(rng))
    wanted = tensor(shape, dtype, *OUTPUTS[name, dtype])
    return single_operator(name, [given], [wanted], **options), [random_rows(rng, shape[1:], dtype, 12)]


def random_cases(count: int, name: str, dtype: str, seed: int = 0, longest: int = 40) -> list[Case]:
    rng = np.random.default_rng([seed, *map(ord, f"{name} {dtype}")])
    return [random_case(rng, name, dtype, longest) for _ in range(count)]


@pytest.mark.parametrize("row", WITNESSED, ids=IDS)
def test_softmax_equals_the_witness(row: tuple[str, str, str]) -> None:
    require_equal(row[2], random_cases(40, *row[:2]))


@pytest.mark.slow
@pytest.mark.parametrize("row", WITNESSED, ids=IDS)
def test_a_million_outputs_equal_the_witness(row: tuple[str, str, str]) -> None:
    assert require_equal(row[2], random_cases(600, *row[:2], seed=1, longest=511)) >= 10**6


def arg_case(rng: np.random.Generator, name: str, longest: int, samples: int) -> Case:
    shape = tuple(int(n) for n in (1, *rng.integers(1, longest + 1, int(rng.integers(1, 4)))))
    axis = int(rng.integers(1, len(shape)))
    given = tensor(shape, "INT8", 0.1, 3)
    where = {"name": "axis", "shape": (), "dtype": "INT32"}
    where["data"] = np.array(axis if rng.random() < 0.5 else axis - len(shape), np.int32)
    wanted = {"shape": tuple(np.delete(shape, axis)), "dtype": "INT32"}
    values = random_values(rng, shape[1:], "INT8", samples)
    values = np.where(rng.random(values.shape) < 0.5, values, values // 64)  # ties
    return single_operator(name, [given, where], [wanted], output_type="INT32"), [values.astype(np.int8)]


@pytest.mark.parametrize(("name", "witness"), ARGS)
def test_arg_extremes_equal_the_witness(name: str, witness: str) -> None:
    rng = np.random.default_rng(len(name))
    require_equal(witness, [arg_case(rng, name, 5, 8) for _ in range(30)])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "witness"), ARGS)
def test_a_million_indices_equal_the_witness(name: str, witness: str) -> None:
    rng = np.random.default_rng(len(name))
    assert require_equal(witness, [arg_case(rng, name, 16, 60) for _ in range(600)]) >= 10**6


def run_once(name: str, given: Any, wanted: Any, rows: Any, *more: Any, **options: Any) -> list[Any]:
    network = read_tflite(single_operator(name, [given, *more], [wanted], **options))
    values = np.array([rows], given["dtype"].lower())
    (result,) = Reference(network).run({network.inputs[0]: values}).values()
    return list(result[0].tolist())


@pytest.mark.parametrize(
    ("dtype", "scale", "rows", "expected"),
    [
        ("INT8", 0.1, [7, 7, 7, 7], [-64] * 4),  # a quarter each
        ("INT8", 0.1, [-128], [127]),  # one is out of range
        ("INT8", 10.0, [1, 0, 0, -128], [127, -128, -128, -128]),
        ("INT16", 0.001, [7, 7, 7, 7], [8192] * 4),
        ("INT16", 0.001, [-32768], [32767]),
        ("INT16", 1.0, [100, 0, 0, -32768], [32761, 2, 2, 2]),  # exp(-10) is the least there is
    ],
)
def test_softmax_by_hand(dtype: str, scale: float, rows: list[int], expected: list[int]) -> None:
    given = tensor((1, len(rows)), dtype, scale)
    wanted = tensor((1, len(rows)), dtype, *OUTPUTS["SOFTMAX", dtype])
    assert run_once("SOFTMAX", given, wanted, rows) == expected


def test_softmax_and_log_softmax_are_those_of_reals() -> None:
    rng = np.random.default_rng(0)
    given = tensor((1, 20, 17), "INT8", 0.05, 3)
    rows = rng.integers(-128, 128, (20, 17))
    exact = np.exp(rows * given["scale"])
    exact /= exact.sum(axis=1, keepdims=True)
    soft = run_once("SOFTMAX", given, tensor((1, 20, 17), "INT8", 1 / 256, -128), rows)
    assert np.max(np.abs(soft - np.minimum(exact * 256 - 128, 127))) < 1.0
    log = run_once("LOG_SOFTMAX", given, tensor((1, 20, 17), "INT8", 1 / 16, 127), rows)
    assert np.max(np.abs(log - np.maximum(np.log(exact) * 16 + 127, -128))) < 1.0


@pytest.mark.parametrize(
    ("name", "axis", "expected"), [("ARG_MAX", -1, [1, 0]), ("ARG_MIN", 2, [0, 1]), ("ARG_MAX", 1, [1, 0, 1])]
)
@pytest.mark.parametrize("dtype", ["INT8", "INT16"])
def test_the_first_of_equals_is_taken(name: str, axis: int, expected: list[int], dtype: str) -> None:
    where = {"name": "axis", "shape": (1,), "dtype": "INT32", "data": np.array([axis], np.int32)}
    wanted = {"shape": (1, len(expected)), "dtype": "INT32"}
    given, rows = tensor((1, 2, 3), dtype), [[1, 5, 5], [6, 4, 6]]
    assert run_once(name, given, wanted, rows, where, output_type="INT32") == expected


@pytest.mark.parametrize(
    ("name", "given", "wanted", "words"),
    [
        ("SOFTMAX", tensor((1, 4), "INT8", 0.1), tensor((1, 4), "INT8", 1 / 128, -128), "scale 1/256"),
        (
            "SOFTMAX",
            tensor((1, 4), "INT8", 0.1),
            tensor((1, 4), "INT16", 1 / 32768),
            "both INT8, or both INT16",
        ),
        ("SOFTMAX", tensor((1, 4), "INT8", 1e-9), tensor((1, 4), "INT8", 1 / 256, -128), "2\\^-25"),
        ("SOFTMAX", tensor((1, 4), "INT16", 5.0), tensor((1, 4), "INT16", 1 / 32768), "below 4"),
        ("SOFTMAX", tensor((1, 512), "INT8", 0.1), tensor((1, 512), "INT8", 1 / 256, -128), "at most 511"),
        ("LOG_SOFTMAX", tensor((1, 4), "INT8", 0.1), tensor((1, 4), "INT8", 1 / 16, 0), "zero point 127"),
        ("LOG_SOFTMAX", tensor((1, 4), "INT16", 0.1), tensor((1, 4), "INT16", 1 / 16), "are INT8"),
    ],
    ids=lambda value: str(value["shape"]) if isinstance(value, dict) else None,
)
def test_what_is_refused(name: str, given: Any, wanted: Any, words: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=words):
        read_tflite(single_operator(name, [given], [wanted]))


def test_tflite_micro_ends_the_process_at_512_equal_inputs() -> None:
    given, wanted = tensor((1, 512), "INT8", 0.1), tensor((1, 512), "INT8", 1 / 256, -128)
    tflite = single_operator("SOFTMAX", [given], [wanted])
    (answer,) = many_answers("tflm", [(tflite, [np.zeros((1, 512), np.int8)])])
    assert answer == "the process ended: SIGABRT"


def test_int16_tables_of_tflite_runtime_are_of_doubles_and_rarely_differ() -> None:
    # TFLite Micro, which decides, has the two tables of SOFTMAX in float32.
    differing = compared = 0
    cases = random_cases(60, "SOFTMAX", "INT16", seed=2, longest=511)
    for (tflite, (values,)), theirs in zip(cases, many_answers("tflite-runtime", cases), strict=True):
        network = read_tflite(tflite)
        (ours,) = Reference(network).run({network.inputs[0]: values}).values()
        apart = np.abs(ours.astype(np.int64) - theirs[0])
        assert np.max(apart) <= 1
        differing, compared = differing + np.count_nonzero(apart), compared + apart.size
    assert 0 < differing < compared / 1000
