"""Kernels of pooling and reductions against the layers' own arithmetic: random windows, axes and scales."""

import ctypes
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.fixed_point import quantize_multiplier
from edgeqrl.network.ir import IntegerNetwork, Layer, Tensor
from edgeqrl.network.layers import Pool, Reduce, Window
from edgeqrl.network.layers.window import place_window
from firmware_export.emit.kernels import layer_code
from firmware_export.emit.kernels.pooling import divisor, pack_pool, pack_reduce
from firmware_export.emit.packing import unpack_words
from tests.c_kernels import (
    RUNTIME,
    Case,
    cases,
    compile_runtime,
    compile_traced,
    on_all_cores,
    require_clean,
    require_equal,
    require_same_trace,
    undefined_symbols,
)
from tests.firmware import one_by_default

FILES = ("eqrl_pool.c", "eqrl_reduce.c")
COUNTS = [pytest.param(60, id="few"), pytest.param(4000, id="many", marks=pytest.mark.slow)]
POOLS = ["MAX_POOL_2D", "AVERAGE_POOL_2D"]
REDUCTIONS = ["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"]
DTYPES = ["int8", "int16"]


@pytest.fixture(scope="module", params=(1, 0), ids=["long", "halves"])
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_runtime(tmp_path_factory.mktemp("runtime"), FILES, long_multiply=request.param)


def random_zero_point(rng: np.random.Generator, dtype: str) -> int:
    return int(rng.choice([-128, 127, 0, rng.integers(-128, 128)])) if dtype == "int8" else 0


def random_cases(rng: np.random.Generator, network: IntegerNetwork, count: int = 3) -> list[Case]:
    """Rows of the range's ends alone, rows near zero, and rows of anything."""
    tensor = network.tensors["a"]
    low, high = tensor.range
    values = rng.integers(low, high + 1, (count, *tensor.shape))
    values[0] = rng.choice([low, high], tensor.shape)
    values[1] = rng.integers(-2, 3, tensor.shape)
    return cases(network, {"a": values.astype(tensor.dtype)})


def of_one(layer: Layer, source: Tensor, target: Tensor) -> IntegerNetwork:
    return IntegerNetwork({"a": source, "b": target}, ("a",), ("b",), (layer,))


def random_axis(rng: np.random.Generator) -> tuple[int, int, int, int, int]:
    """Input, output, kernel, stride, padding, such that each window overlaps the input."""
    size, kernel, stride = (int(rng.integers(1, 10)), int(rng.integers(1, 6)), int(rng.integers(1, 5)))
    if rng.random() < 0.8:
        style = "SAME" if rng.random() < 0.5 or kernel > size else "VALID"
        count, padding = place_window(style, size, kernel, stride)
        return size, count, kernel, stride, padding
    padding = int(rng.integers(0, kernel))
    return size, int(rng.integers(1, (size + padding - 1) // stride + 2)), kernel, stride, padding


def random_pool(rng: np.random.Generator, function: str, dtype: str) -> IntegerNetwork:
    y, x = random_axis(rng), random_axis(rng)
    images, channels = int(rng.choice([1, 1, 2])), int(rng.integers(1, 6))
    shapes = ((images, y[0], x[0], channels), (images, y[1], x[1], channels))
    window = Window(*shapes, (y[2], x[2]), (y[3], x[3]), (1, 1), (y[4], x[4]))
    zero_point = random_zero_point(rng, dtype)
    source, target = (Tensor(n, s, 1.0, zero_point, dtype) for n, s in zip("ab", shapes, strict=True))
    low, high = target.range if rng.random() < 0.6 else sorted(rng.integers(*target.range, 2).tolist())
    return of_one(Pool("layer", function, "a", "b", window, low, high), source, target)


def random_reduction(rng: np.random.Generator, function: str, dtype: str) -> IntegerNetwork:
    """Draw until a layer is safe."""
    while True:
        rank = int(rng.integers(1, 7))
        shape = tuple(int(n) for n in rng.integers(1, 5, rank))
        axes = tuple(int(i) for i in np.flatnonzero(rng.random(rank) < 0.5)) or (rank - 1,)
        kept = tuple(n for i, n in enumerate(shape) if i not in axes)
        zero_points = [random_zero_point(rng, dtype) for _ in range(2)]
        numbers = (0, 0)
        if function in ("MEAN", "SUM"):
            numbers = quantize_multiplier(2.0 ** rng.uniform(-6, 6))
        else:
            zero_points[1] = zero_points[0]
        if function == "MEAN":
            count = int(np.prod([shape[i] for i in axes]))
            left = min(count.bit_length() - 1, 31 + numbers[1])
            numbers = ((numbers[0] << left) // count, numbers[1] - left)
        source, target = (
            Tensor("a", shape, 1.0, zero_points[0], dtype),
            Tensor("b", kept, 1.0, zero_points[1], dtype),
        )
        try:
            return of_one(Reduce("layer", function, "a", "b", shape, axes, *numbers), source, target)
        except UnsupportedOperatorError:
            continue


def random_network(rng: np.random.Generator, function: str, dtype: str) -> IntegerNetwork:
    return (random_pool if function in POOLS else random_reduction)(rng, function, dtype)


def drawn(function: str, dtype: str, count: int) -> list[Case]:
    rng = np.random.default_rng([*map(ord, function), len(dtype)])
    return [c for _ in range(count) for c in random_cases(rng, random_network(rng, function, dtype))]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", POOLS + REDUCTIONS)
def test_kernels_equal_the_reference(runtime: ctypes.CDLL, function: str, dtype: str, count: int) -> None:
    assert require_equal(runtime, drawn(function, dtype, count)) > 15 * count


@pytest.mark.parametrize("function", POOLS + REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_images_equal_the_reference(runtime: ctypes.CDLL, dtype: str, function: str) -> None:
    """As many values as usual, all at the ends of the range."""
    shape = (1, 17, 23, 3)
    rng = np.random.default_rng(0)
    source, target = Tensor("a", shape, 1.0, 0, dtype), Tensor("b", (1, 1, 1, 3), 1.0, 0, dtype)
    if function in POOLS:
        window = Window(shape, target.shape, shape[1:3], (1, 1), (1, 1), (0, 0))
        layer: Layer = Pool("layer", function, "a", "b", window, *target.range)
    else:
        layer = Reduce("layer", function, "a", "b", shape, (1, 2), 2**30 + 12345, -8)
    network = of_one(layer, source, target)
    low, high = source.range
    rows = np.array([low, high, 0, low + 1], source.dtype)
    values = np.broadcast_to(rows[:, None, None, None, None], (4, *shape)).copy()
    require_equal(runtime, [*cases(network, {"a": values}), *random_cases(rng, network, 8)])


@pytest.mark.parametrize("count", [*range(1, 40), 49, 64, 81, 100, 255, 256, 257, 1000, 4097, 65535])
def test_every_sum_of_int8_is_divided_exactly(count: int) -> None:
    """All numerators near a step, where a quotient that is off would show first, and random ones."""
    _, multiplier, shift = divisor(count, 128)
    largest = 128 * count + count // 2
    steps = np.arange(0, largest + count, count)[:, None] + np.array([-1, 0, 1])
    anything = np.random.default_rng(0).integers(0, largest + 1, 1000)
    numerators = np.concatenate((steps.ravel(), anything)).clip(0, largest).astype(np.uint64)
    found = ((2 * numerators * np.uint64(multiplier)) >> np.uint64(32)) >> np.uint64(shift)
    np.testing.assert_array_equal(found, numerators // np.uint64(count))


def test_divisors_are_exact_for_all_int16_sums_that_fit() -> None:
    """By the proof itself: the error stays below one step of 1 / count."""
    for count in (*range(1, 3000), 65535):
        _, multiplier, shift = divisor(count, 32767)
        error = Fraction(multiplier, 2 ** (31 + shift)) - Fraction(1, count)
        assert 0 <= error * (32767 * count + count // 2) < Fraction(1, count)
    with pytest.raises(AssertionError):
        divisor(2**17, 32768)


@pytest.mark.parametrize("seed", range(8))
def test_blocks_hold_what_the_layers_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dtype = DTYPES[seed % 2]
    for function in POOLS + REDUCTIONS:
        network = random_network(rng, function, dtype)
        (layer,), source, target = network.layers, network.tensors["a"], network.tensors["b"]
        code = layer_code(layer, network)
        if isinstance(layer, Pool):
            assert unpack_words(code.block) == (layer.output_min, layer.output_max)
            assert code.block == pack_pool(layer)
        elif function in ("MEAN", "SUM"):
            assert isinstance(layer, Reduce)
            start, *numbers = unpack_words(code.block)
            assert numbers == [layer.multiplier, layer.shift, target.zero_point]
            assert start == -source.zero_point * layer.count
            assert code.block == pack_reduce(layer, source, target)
        else:
            assert code.block == b""
        assert f"{code.function}(" in RUNTIME[code.source].decode()


def test_more_axes_than_loops_are_refused() -> None:
    shape = (2,) * 14
    source, target = Tensor("a", shape, 1.0, 0), Tensor("b", shape[:7], 1.0, 0)
    layer = Reduce("b", "REDUCE_MAX", "a", "b", shape, tuple(range(0, 14, 2)))
    with pytest.raises(UnsupportedOperatorError, match="nested loops"):
        layer_code(layer, of_one(layer, source, target))


@pytest.mark.parametrize(
    "count", [pytest.param(2, id="few"), pytest.param(60, id="many", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("clang",)))
def test_kernels_pass_under_sanitizers(tmp_path: Path, compiler: str, count: int) -> None:
    found = [case for name in POOLS + REDUCTIONS for dtype in DTYPES for case in drawn(name, dtype, count)]
    require_clean(tmp_path, compiler, FILES, found, long_multiply=1)


@pytest.mark.parametrize("level", ["-O2", pytest.param("-Os", marks=pytest.mark.slow)])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_all_inputs_take_the_same_blocks(tmp_path: Path, compiler: str, level: str) -> None:
    library = compile_traced(tmp_path, FILES, compiler, level)
    rng = np.random.default_rng(0)
    for function in POOLS + REDUCTIONS:
        for dtype in DTYPES:
            for _ in range(5):
                require_same_trace(library, random_cases(rng, random_network(rng, function, dtype), 8))


@on_all_cores
def test_no_core_needs_a_library(tmp_path: Path, targets: list[tuple[str, ...]], level: str) -> None:
    assert undefined_symbols(tmp_path, FILES, level, targets) == {}
