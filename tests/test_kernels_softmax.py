"""Kernels of whole rows: SOFTMAX, LOG_SOFTMAX, ARG_MAX and ARG_MIN, against the layers' own arithmetic."""

import ctypes
import math
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.network.fixed_point import rounding_shift_right
from edgeqrl.network.functions import Factor
from edgeqrl.network.functions_fixed import log_of_sum
from edgeqrl.network.ir import IntegerNetwork, Layer, Tensor
from edgeqrl.network.layers import ArgExtreme, LogSoftmax, Softmax, Softmax16
from firmware_export.emit.arena import in_place_inputs
from firmware_export.emit.kernels import layer_code
from firmware_export.emit.kernels.softmax import unpack_log_softmax, unpack_softmax_s16, unpack_table
from tests.c_kernels import Case, cases, compile_runtime, require_clean, require_equal
from tests.firmware import one_by_default

FILES = ("eqrl_softmax.c",)
COUNTS = [60, pytest.param(4000, marks=pytest.mark.slow)]
KINDS = ("softmax", "softmax_s16", "log_softmax", "arg")
MOST = {"softmax": 511, "softmax_s16": 2000, "log_softmax": 4095}  # elements of a row


@pytest.fixture(scope="module", params=(1, 0), ids=["long", "halves"])
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_runtime(tmp_path_factory.mktemp("runtime"), FILES, long_multiply=request.param)


def network_of(layer: Layer, size: int, results: int, dtypes: tuple[str, str]) -> IntegerNetwork:
    tensors = {"a": Tensor("a", (size,), 1.0, 0, dtypes[0]), "b": Tensor("b", (results,), 1.0, 0, dtypes[1])}
    return IntegerNetwork(tensors, ("a",), ("b",), (layer,))


def random_real(rng: np.random.Generator) -> float:
    """An input scale: mostly one at which some, not all, differences count."""
    return float(2.0 ** (rng.uniform(-7, 1) if rng.random() < 0.7 else rng.uniform(-25, 12)))


def exponentials(real: float, limit: int) -> np.ndarray:
    differences = np.arange(256)
    values = np.minimum(np.round(np.exp(-real * differences) * 2.0**31), 2**31 - 1)
    return np.where(differences < limit, values, 0).astype(np.int64)


def random_softmax(rng: np.random.Generator, rows: int, depth: int) -> IntegerNetwork:
    table = exponentials(random_real(rng), int(rng.integers(1, 257))).astype(np.int32)
    size = rows * depth
    return network_of(Softmax("s", "a", "b", rows, depth, table), size, size, ("int8", "int8"))


def random_softmax_s16(rng: np.random.Generator, rows: int, depth: int) -> IntegerNetwork:
    places = np.arange(513) / 512
    exp_knots = np.round(32768 * np.exp(10 * (places - 1))).clip(0, 32767).astype(np.int16)
    reciprocals = np.round(32768 / (1 + places)).clip(0, 32767).astype(np.int16)
    factor = Factor.of(float(2.0 ** rng.uniform(-14, 14.9)))
    size = rows * depth
    layer = Softmax16("s", "a", "b", rows, depth, factor, exp_knots, reciprocals)
    return network_of(layer, size, size, ("int16", "int16"))


def random_log_softmax(rng: np.random.Generator, rows: int, depth: int) -> IntegerNetwork:
    real = random_real(rng)
    factor = Factor.of(min(real * 2.0**26, 2.0**31 - 1))
    limit = math.floor(31.0 * 2.0**26 / 2.0**factor.shift) + 1
    reverse = Factor.of(2.0 ** (31 - factor.shift) / factor.multiplier)
    table = rounding_shift_right(exponentials(real, limit), 12).astype(np.int32)
    size = rows * depth
    layer = LogSoftmax("s", "a", "b", rows, depth, factor, reverse, limit, table)
    return network_of(layer, size, size, ("int8", "int8"))


def random_arg(rng: np.random.Generator) -> IntegerNetwork:
    outer, size, inner = (int(n) for n in rng.integers(1, 9, 3))
    function = str(rng.choice(["ARG_MAX", "ARG_MIN"]))
    layer = ArgExtreme("s", function, "a", "b", outer, size, inner)
    return network_of(
        layer, outer * size * inner, outer * inner, (str(rng.choice(["int8", "int16"])), "int32")
    )


def random_network(rng: np.random.Generator, kind: str, most: int | None = None) -> IntegerNetwork:
    if kind == "arg":
        return random_arg(rng)
    longest = MOST[kind] if most is None else most
    depth = longest if rng.random() < 0.03 else int(rng.integers(1, min(longest, 40)))
    rows = int(rng.integers(1, 5))
    makers = {"softmax": random_softmax, "softmax_s16": random_softmax_s16, "log_softmax": random_log_softmax}
    return makers[kind](rng, rows, depth)


def random_cases(rng: np.random.Generator, network: IntegerNetwork, count: int) -> list[Case]:
    """Rows that spread over a little or all of the range, some of equal values."""
    source = network.tensors["a"]
    low, high = source.range
    middle = rng.integers(low, high + 1, (count, 1))
    spread = rng.choice([0, 1, 3, 20, 100, high], (count, 1))
    values = middle + rng.integers(-1, 2, (count, source.size)) * rng.integers(
        0, spread + 1, (count, source.size)
    )
    values = np.where(rng.random(values.shape) < 0.05, rng.choice([low, high], values.shape), values)
    return cases(network, {"a": values.clip(low, high).astype(source.dtype)})


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_equal_the_reference(runtime: ctypes.CDLL, kind: str, count: int) -> None:
    rng = np.random.default_rng([count, KINDS.index(kind)])
    spread: set[int] = set()
    for _ in range(count):
        found = random_cases(rng, random_network(rng, kind), 5)
        require_equal(runtime, found)
        spread |= {int(v) for case in found for v in case.expected.ravel()[:20]}
    assert len(spread) > (5 if kind == "arg" else 100)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_rows_run_in_place(runtime: ctypes.CDLL, kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(15):
        network = random_network(rng, kind)
        assert in_place_inputs(network.layers[0], network) == ("a",)
        require_equal(runtime, random_cases(rng, network, 2), in_place=0)


def test_indices_are_never_written_over_their_input() -> None:
    layer = ArgExtreme("s", "ARG_MAX", "a", "b", 8, 4, 1)
    network = network_of(layer, 32, 8, ("int8", "int32"))  # 32 bytes each
    assert in_place_inputs(layer, network) == ()


@pytest.mark.parametrize("kind", KINDS[:3])
def test_the_longest_rows_of_equal_values_fit(runtime: ctypes.CDLL, kind: str) -> None:
    rng = np.random.default_rng(0)
    makers = {"softmax": random_softmax, "softmax_s16": random_softmax_s16, "log_softmax": random_log_softmax}
    depth = 2**15 if kind == "softmax_s16" else MOST[kind]
    network = makers[kind](rng, 1, depth)
    dtype = network.tensors["a"].dtype
    values = np.stack([np.full(depth, v, dtype) for v in (network.tensors["a"].range[0], 0, 5)])
    require_equal(runtime, cases(network, {"a": values}))


def test_logarithms_of_every_kind_of_sum_equal_the_reference(runtime: ctypes.CDLL) -> None:
    """A table of one number hands a row's sum to the logarithm; all differences count."""
    rng = np.random.default_rng(5)
    totals = [2**19, 2**19 + 1, 2**20 - 1, 2**20, *(int(2 ** rng.uniform(19, 31)) for _ in range(300))]
    found: list[Case] = []
    for total in totals:
        depth = total // 2**19
        table = np.full(256, total // depth, np.int32)
        layer = LogSoftmax("s", "a", "b", 1, depth, Factor(2**30, 20), Factor(2**30, -20), 256, table)
        network = network_of(layer, depth, depth, ("int8", "int8"))
        found += cases(network, {"a": rng.integers(-128, 128, (1, depth)).astype(np.int8)})
    require_equal(runtime, found)


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_every_bit_of_a_logarithm_counts(runtime: ctypes.CDLL, count: int) -> None:
    """One difference is scaled such that the logarithm's last bit decides how the result is rounded."""
    rng = np.random.default_rng(count)
    found: list[Case] = []
    for _ in range(count):
        depth = int(2.0 ** rng.uniform(1, 11.9))
        entry = int(2.0 ** rng.uniform(max(19 - math.log2(depth), 1), 19))
        total = max(entry * depth, 2**19)
        entry = -(-total // depth)
        log = int(log_of_sum(np.array(entry * depth)))
        scaled = (int(rng.integers(65, 128)) << 22) + 2**21 + int(rng.integers(-2, 3)) - log % 2**22
        factor = Factor(4 * scaled, 29)  # of a difference of 1
        reverse = Factor(int(rng.integers(2**30, 2**31)), int(rng.choice([0, -29, -30, -31])))
        table = np.full(256, entry, np.int32)
        layer = LogSoftmax("s", "a", "b", 1, depth, factor, reverse, 2, table)
        network = network_of(layer, depth, depth, ("int8", "int8"))
        values = np.where(np.arange(depth) % 2 == 0, 5, 4).astype(np.int8)
        found += cases(network, {"a": values[None]})
    require_equal(runtime, found)
    assert len({int(case.expected[1]) for case in found}) > 30


def test_a_sum_just_below_a_power_of_two_takes_the_last_knot(runtime: ctypes.CDLL) -> None:
    rng = np.random.default_rng(2)
    for entry, depth in ((13797, 19), (13797, 38), (4681, 7), (31, 33), (3 * 2341, 57)):
        knots = rng.integers(0, 16384, (2, 513)).astype(np.int16)
        knots[0] = entry
        layer = Softmax16("s", "a", "b", 1, depth, Factor(2**30, 0), knots[0], knots[1])
        network = network_of(layer, depth, depth, ("int16", "int16"))
        require_equal(runtime, cases(network, {"a": np.zeros((1, depth), np.int16)}))


@pytest.mark.parametrize("seed", range(10))
def test_unpacking_inverts_packing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_softmax(rng, 2, 3)
    (softmax,) = network.layers
    assert isinstance(softmax, Softmax)
    np.testing.assert_array_equal(unpack_table(layer_code(softmax, network).block), softmax.table)
    network = random_softmax_s16(rng, 2, 3)
    (wide,) = network.layers
    assert isinstance(wide, Softmax16)
    factor, exp_knots, reciprocals = unpack_softmax_s16(layer_code(wide, network).block)
    assert factor == wide.factor
    np.testing.assert_array_equal(exp_knots, wide.exp_knots)
    np.testing.assert_array_equal(reciprocals, wide.reciprocal_knots)
    network = random_log_softmax(rng, 2, 3)
    (log,) = network.layers
    assert isinstance(log, LogSoftmax)
    *numbers, table = unpack_log_softmax(layer_code(log, network).block)
    assert numbers == [log.factor, log.reverse, log.limit]
    np.testing.assert_array_equal(table, log.table)


@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("clang",)))
def test_kernels_pass_under_sanitizers(tmp_path: Path, compiler: str) -> None:
    rng = np.random.default_rng(7)
    networks = [random_network(rng, kind, most=30) for kind in KINDS for _ in range(12)]
    found = [case for network in networks for case in random_cases(rng, network, 1)]
    require_clean(tmp_path, compiler, FILES, [case for case in found if case.expected.size < 300])
