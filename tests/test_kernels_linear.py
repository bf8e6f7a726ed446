"""Kernels of layers with weights against the layers' own arithmetic, on random shapes, windows and scales."""

import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.backends.host_c import HostCNetwork, policy_of_network
from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import (
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Linear,
    Pool,
    Reduce,
    TransposeConv,
    Window,
    accumulator_bound,
)
from edgeqrl.network.layers.window import place_window
from edgeqrl.network.reference import Reference
from firmware_export.emit import c_sources, export_sources
from firmware_export.emit.kernels import layer_code
from firmware_export.emit.kernels.linear import pack_linear, unpack_linear
from firmware_export.emit.packing import Kernel
from tests.c_build import C_ONLY_WARNINGS, WARNINGS, c_compiler, compile_objects, write_files
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

FILES = ("eqrl_dense.c", "eqrl_conv.c", "eqrl_depthwise.c", "eqrl_transpose_conv.c")
COUNTS = [pytest.param(60, id="few"), pytest.param(6000, id="many", marks=pytest.mark.slow)]
LAYERS = [Dense, Conv2D, DepthwiseConv2D, TransposeConv]
DTYPES = ["int8", "int16"]


@pytest.fixture(scope="module", params=(1, 0), ids=["long", "halves"])
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_runtime(tmp_path_factory.mktemp("runtime"), FILES, long_multiply=request.param)


def random_tensor(rng: np.random.Generator, name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    zero_point = int(rng.choice([-128, 127, 0, rng.integers(-128, 128)])) if dtype == "int8" else 0
    return Tensor(name, shape, 1.0, zero_point, dtype)


def random_values(rng: np.random.Generator, tensor: Tensor, count: int) -> NDArray[Any]:
    """Rows of the range's ends alone, and rows of anything."""
    low, high = tensor.range
    values = rng.integers(low, high + 1, (count, *tensor.shape))
    values[0] = rng.choice([low, high], tensor.shape)
    values[-1] = low if rng.random() < 0.5 else high
    return values.astype(tensor.dtype)


def random_weights(rng: np.random.Generator, shape: tuple[int, ...], bits: int = 8) -> NDArray[np.int8]:
    end = 2 ** (bits - 1)
    values = rng.integers(-end, end, shape) if rng.random() < 0.7 else rng.choice([-end, end - 1], shape)
    return values.astype(np.int8)


def random_zero_points(rng: np.random.Generator, channels: int, bits: int) -> NDArray[np.int32]:
    """Of weights: for each channel or for all; some at an end."""
    end = 2 ** (bits - 1)
    values = rng.integers(-end, end, channels if rng.random() < 0.7 else 1)
    return np.where(rng.random(len(values)) < 0.2, end - 1, values).astype(np.int32)


def random_axis(rng: np.random.Generator) -> tuple[int, ...]:
    """Input, output, kernel, stride, dilation, padding; some windows lie beyond the input altogether."""
    size, kernel, stride = (int(rng.integers(1, 8)), int(rng.integers(1, 5)), int(rng.integers(1, 4)))
    dilation = int(rng.choice([1, 1, 2, 3]))
    style = rng.choice(["SAME", "VALID", "any"])
    if style != "any":
        count, padding = place_window(str(style), size, kernel, stride, dilation)
        if count > 0:
            return size, count, kernel, stride, dilation, padding
    return size, int(rng.integers(1, 6)), kernel, stride, dilation, int(rng.integers(0, 5))


def random_window(rng: np.random.Generator, channels: int, out: int, *, is_dilated: bool = True) -> Window:
    y, x = random_axis(rng), random_axis(rng)
    images = int(rng.choice([1, 1, 2]))
    dilation = (y[4], x[4]) if is_dilated else (1, 1)
    shapes = ((images, y[0], x[0], channels), (images, y[1], x[1], out))
    return Window(*shapes, (y[2], x[2]), (y[3], x[3]), dilation, (y[5], x[5]))


def random_transposed_window(rng: np.random.Generator, channels: int, out: int) -> Window:
    y, x = random_axis(rng), random_axis(rng)
    images = int(rng.choice([1, 1, 2]))
    shapes = ((images, y[1], x[1], channels), (images, y[0], x[0], out))
    return Window(*shapes, (y[2], x[2]), (y[3], x[3]), (1, 1), (y[5], x[5]))


def random_geometry(rng: np.random.Generator, kind: type) -> tuple[Callable[..., Linear], Any, Any, Any]:
    """Return a maker of the layer, and the shapes of its input, output and weights."""
    if kind is Dense:
        rows, columns, out = (int(rng.integers(1, n)) for n in (4, 20, 8))
        columns = columns if rng.random() < 0.8 else int(rng.choice([255, 256, 257, 511, 513]))
        return (lambda *a, **k: Dense(*a, rows=rows, **k)), (rows, columns), (rows, out), (out, columns)
    groups, depth, factor = (
        int(n) for n in (rng.choice([1, 1, 2, 3]), rng.integers(1, 5), rng.integers(1, 4))
    )
    channels, out = groups * depth, groups * factor
    if kind is DepthwiseConv2D:
        channels, out, depth = depth, depth * factor, 0
    if kind is TransposeConv:
        window, depth = random_transposed_window(rng, channels, out), channels
    else:
        window = random_window(rng, channels, out)
    weights = (out, *window.kernel, depth) if depth else (out, *window.kernel)
    return (lambda *a, **k: kind(*a, window, **k)), window.input_shape, window.output_shape, weights


def random_scales(
    rng: np.random.Generator, bound: NDArray[np.int64], highest: int, *, is_wide: bool
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Multipliers and shifts that spread outputs over their range, a few much too small or large."""
    powers = np.log2(highest / np.maximum(bound, 1)) + rng.uniform(-2, 5, len(bound))
    powers = np.where(rng.random(len(bound)) < 0.1, rng.uniform(-31, 8, len(bound)), powers)
    mantissa, shift = np.frexp(2.0**powers)
    multiplier = np.minimum(np.floor(mantissa * 2**31), 2**31 - 1).astype(np.int64)
    ends = rng.choice([0, 2**30, 2**31 - 1, 2**31 - 2**15 - 1, 2**30 + 2**15], len(bound))
    multiplier = np.where(rng.random(len(bound)) < 0.1, ends, multiplier)
    return multiplier.astype(np.int32), np.clip(shift, -31, 7 if is_wide else 30).astype(np.int32)


def random_linear(
    rng: np.random.Generator, kind: type, dtype: str, *, bits: int = 8, is_asymmetric: bool = False
) -> IntegerNetwork:
    """Draw until a layer is safe; `bits` of the weights."""
    while True:
        maker, shape_in, shape_out, shape = random_geometry(rng, kind)
        source, target = (random_tensor(rng, n, s, dtype) for n, s in (("a", shape_in), ("b", shape_out)))
        is_wide = dtype == "int16" and bool(rng.random() < 0.7)
        weights, zeros = random_weights(rng, shape, bits), np.zeros(shape[0], np.int64)
        more: dict[str, Any] = {"is_wide": is_wide}
        if is_asymmetric:
            more["weight_zero_points"] = random_zero_points(rng, shape[0], bits)
        low, high = target.range
        output_min, output_max = (low, high) if rng.random() < 0.6 else (target.zero_point, high)
        one = np.ones(shape[0], np.int32)
        names = ("layer", "a", "b")
        bare = maker(*names, weights, zeros, one, one, low, high, **more)
        bound = accumulator_bound(bare, source.zero_point, source.range)
        spread = rng.uniform(-1, 1, shape[0]) * rng.choice([0, 1, 30])
        bias = (spread * bound).astype(np.int64)
        if is_wide and rng.random() < 0.2:
            bias = rng.integers(-(2**46), 2**46, shape[0])
        numbers = random_scales(rng, bound + abs(bias), high, is_wide=is_wide)
        layer = maker(*names, weights, bias, *numbers, output_min, output_max, **more)
        try:
            network = IntegerNetwork({"a": source, "b": target}, ("a",), ("b",), (layer,))
            layer_code(layer, network)
        except UnsupportedOperatorError:
            continue
        return network


def random_cases(
    rng: np.random.Generator, network: IntegerNetwork, count: int = 3, bits: int = 8
) -> list[Case]:
    return cases(network, {"a": random_values(rng, network.tensors["a"], count)}, bits)


def drawn(kind: type, dtype: str, count: int, **more: Any) -> list[Case]:
    rng = np.random.default_rng(LAYERS.index(kind) * 10 + DTYPES.index(dtype))
    return [case for _ in range(count) for case in random_cases(rng, random_linear(rng, kind, dtype, **more))]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LAYERS)
def test_kernels_equal_the_reference(runtime: ctypes.CDLL, kind: type, dtype: str, count: int) -> None:
    found = drawn(kind, dtype, count)
    assert require_equal(runtime, found) > 15 * count
    values = np.concatenate([case.expected.ravel() for case in found])
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    assert ((values > low) & (values < high)).mean() > 0.3, "random layers must not all saturate"


@pytest.mark.parametrize(
    "count", [pytest.param(30, id="few"), pytest.param(2000, id="many", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LAYERS)
def test_weights_with_zero_points_equal_the_reference(
    runtime: ctypes.CDLL, kind: type, dtype: str, count: int
) -> None:
    found = drawn(kind, dtype, count, is_asymmetric=True)
    assert all(
        case.code.kernel.name.endswith(f"ASYMMETRIC_{dtype.replace('int', 'S')}") for case in found[:9]
    )
    assert require_equal(runtime, found) > 15 * count


def test_an_int16_sum_times_a_zero_point_needs_more_than_32_bits(runtime: ctypes.CDLL) -> None:
    rng = np.random.default_rng(3)
    source, target = Tensor("a", (70_000,), 1.0, 0, "int16"), Tensor("b", (9,), 1.0, 0, "int16")
    weights = random_weights(rng, (9, 70_000))
    numbers = (np.zeros(9, np.int64), np.full(9, 2**30, np.int32), np.full(9, -22, np.int32))
    points = np.array([127, -128, 1, -1, 0, 100, -100, 64, -64], np.int32)
    layer = Dense("b", "a", "b", weights, *numbers, -32768, 32767, is_wide=True, weight_zero_points=points)
    network = IntegerNetwork({"a": source, "b": target}, ("a",), ("b",), (layer,))
    values = np.stack([np.full(70_000, end, np.int16) for end in (-32768, 32767)])
    require_equal(runtime, cases(network, {"a": values}))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 13, 11, 4), (1, 6, 5, 9)])
def test_a_window_of_a_usual_size_equals_the_reference(
    runtime: ctypes.CDLL, shape: tuple[int, int, int, int], dtype: str
) -> None:
    """Many channels, rows that are read in one run."""
    rng = np.random.default_rng(0)
    (_, height, width, channels), out = shape, 16
    for stride in (1, 2):
        places = [place_window("SAME", n, 3, stride) for n in (height, width)]
        output = (1, places[0][0], places[1][0], out)
        padding = (places[0][1], places[1][1])
        window = Window(shape, output, (3, 3), (stride, stride), (1, 1), padding)
        weights = random_weights(rng, (out, 3, 3, channels))
        network = of_scale(rng, window, weights, dtype)
        require_equal(runtime, random_cases(rng, network))


def of_scale(
    rng: np.random.Generator, window: Window, weights: NDArray[np.int8], dtype: str
) -> IntegerNetwork:
    source, target = (
        random_tensor(rng, n, s, dtype) for n, s in (("a", window.input_shape), ("b", window.output_shape))
    )
    bias = rng.integers(-1000, 1000, len(weights))
    numbers = random_scales(rng, np.full(len(weights), 2**17), target.range[1], is_wide=False)
    layer = Conv2D(
        "layer", "a", "b", weights, bias, *numbers, *target.range, window, is_wide=dtype == "int16"
    )
    layer = replace(layer, shift=np.minimum(layer.shift, 0))
    return IntegerNetwork({"a": source, "b": target}, ("a",), ("b",), (layer,))


def test_every_shift_of_int16_rounds_as_the_reference(runtime: ctypes.CDLL) -> None:
    """A dense layer of zero weights hands its biases to the rescaling alone."""
    rng = np.random.default_rng(0)
    source, target = Tensor("a", (1,), 1.0, 0, "int16"), Tensor("b", (200,), 1.0, 0, "int16")
    found = []
    for shift in range(-31, 8):
        for is_wide in (True, False):
            limit = (2**31 - 1) >> max(shift, 0)
            if is_wide:
                limit = min(2**47 - 1, limit << max(-shift, 0))
            bias = rng.integers(-limit, limit, 200) >> rng.integers(0, 47, 200)
            ends = np.array([0, 1, -1, limit, -limit, limit - 1, 2**31, -(2**31), 2**32, 2**16])
            halves = (2 * rng.integers(-40, 40, 50) + 1) << max(14 - shift, 0) >> 14
            bias[:60] = np.concatenate((ends, halves)).clip(-limit, limit)
            multiplier = rng.choice([2**30, 2**31 - 1, 0, 2**30 + 2**15], 200)
            multiplier = np.where(rng.random(200) < 0.5, multiplier, rng.integers(2**30, 2**31, 200))
            numbers = (multiplier.astype(np.int32), np.full(200, shift, np.int32))
            weights = np.zeros((200, 1), np.int8)
            layer = Dense("b", "a", "b", weights, bias, *numbers, -32768, 32767, is_wide=is_wide)
            network = IntegerNetwork({"a": source, "b": target}, ("a",), ("b",), (layer,))
            found += cases(network, {"a": np.zeros((1, 1), np.int16)})
    require_equal(runtime, found)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LAYERS)
def test_unpacking_inverts_packing(kind: type, dtype: str, seed: int) -> None:
    network = random_linear(np.random.default_rng(seed), kind, dtype, is_asymmetric=seed % 2 > 0)
    (layer,), (source, target) = network.layers, (network.tensors[name] for name in "ab")
    assert isinstance(layer, Linear)
    code = layer_code(layer, network)
    has_zero_points = not layer.is_symmetric
    block = unpack_linear(code.block, code.kernel, layer.weights.shape, has_zero_points=has_zero_points)
    np.testing.assert_array_equal(
        block.weight_zero_points, np.broadcast_to(layer.weight_zero_points, len(layer.bias))
    )
    for field in ("weights", "bias", "multiplier", "shift", "output_min", "output_max", "is_wide"):
        np.testing.assert_array_equal(getattr(block, field), getattr(layer, field))
    assert (block.input_zero_point, block.output_zero_point) == (source.zero_point, target.zero_point)
    assert code.block == pack_linear(layer, source, target)
    assert code.function in RUNTIME["eqrl_kernels.h"].decode()
    assert f"{code.function}(" in RUNTIME[code.source].decode()
    assert code.kernel in set(Kernel)


def test_a_convolution_whose_clamp_could_overflow_is_refused() -> None:
    window = Window((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), (1, 1), (1, 1), (0, 0))
    source, target = Tensor("a", (1, 1, 1), 1.0, 0), Tensor("b", (1, 1, 1), 1.0, 0)
    numbers = (np.array([2**31 - 100]), np.array([2**30], np.int32), np.zeros(1, np.int32))
    layer = Conv2D("b", "a", "b", np.zeros((1, 1, 1, 1), np.int8), *numbers, -128, 127, window)
    with pytest.raises(UnsupportedOperatorError, match="CONV_2D at 'b'"):
        pack_linear(layer, source, target)


@pytest.mark.parametrize(
    "count", [pytest.param(2, id="few"), pytest.param(60, id="many", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("clang",)))
def test_kernels_pass_under_sanitizers(tmp_path: Path, compiler: str, count: int) -> None:
    kinds = [(kind, dtype, is_it) for kind in LAYERS for dtype in DTYPES for is_it in (False, True)]
    found = [case for kind, dtype, is_it in kinds for case in drawn(kind, dtype, count, is_asymmetric=is_it)]
    require_clean(tmp_path, compiler, FILES, found, long_multiply=1)


@pytest.mark.parametrize("level", ["-O2", pytest.param("-Os", marks=pytest.mark.slow)])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_all_inputs_take_the_same_blocks(tmp_path: Path, compiler: str, level: str) -> None:
    library = compile_traced(tmp_path, FILES, compiler, level)
    rng = np.random.default_rng(0)
    for kind in LAYERS:
        for dtype in DTYPES:
            for is_asymmetric in (False, False, False, True, True):
                network = random_linear(rng, kind, dtype, is_asymmetric=is_asymmetric)
                require_same_trace(library, random_cases(rng, network, 8))


@on_all_cores
def test_no_core_needs_a_library(tmp_path: Path, targets: list[tuple[str, ...]], level: str) -> None:
    assert undefined_symbols(tmp_path, FILES, level, targets) == {}


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_exported_network_of_all_kinds_equals_the_reference(tmp_path: Path, dtype: str) -> None:
    """Windows, divisors and loops as constants in generated C, free of warnings."""
    rng = np.random.default_rng(0)
    network = network_of_all_kinds(rng, dtype)
    values = {"a": random_values(rng, network.tensors["a"], 40)}
    expected = Reference(network).run(values)["h"]
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(HostCNetwork(network).run(values)["h"], expected)
    files = export_sources(policy_of_network(network), b"")
    write_files(tmp_path, files)
    compile_objects([*c_compiler("gcc"), "-std=c99", *WARNINGS, *C_ONLY_WARNINGS], c_sources(files), tmp_path)


def network_of_all_kinds(rng: np.random.Generator, dtype: str) -> IntegerNetwork:
    shapes = [
        (1, 6, 5, 4),
        (1, 3, 3, 6),
        (1, 3, 3, 12),
        (1, 6, 6, 3),
        (1, 6, 6, 3),
        (1, 3, 3, 3),
        (3, 3),
        (2,),
    ]
    tensors = [random_tensor(rng, name, shape, dtype) for name, shape in zip("abcdefgh", shapes, strict=True)]
    tensors[4:7] = [replace(t, zero_point=tensors[3].zero_point) for t in tensors[4:7]]
    two, one = (2, 2), (1, 1)
    windows = [
        Window(shapes[0], shapes[1], (3, 3), two, one, (1, 1)),
        Window(shapes[1], shapes[2], (2, 3), one, one, (0, 1)),
        Window(shapes[2], shapes[3], (3, 3), two, one, (0, 0)),
        Window(shapes[3], shapes[4], (3, 3), one, one, (1, 1)),
        Window(shapes[4], shapes[5], two, two, one, (0, 0)),
    ]
    numbers = [linear_numbers(rng, s, dtype) for s in ((6, 3, 3, 2), (12, 2, 3), (3, 3, 3, 12), (2, 9))]
    is_wide = dtype == "int16"
    layers = (
        Conv2D("0", "a", "b", *numbers[0], windows[0], is_wide=is_wide),
        DepthwiseConv2D("1", "b", "c", *numbers[1], windows[1], is_wide=is_wide),
        TransposeConv("2", "c", "d", *numbers[2], windows[2], is_wide=is_wide),
        Pool("3", "AVERAGE_POOL_2D", "d", "e", windows[3], *tensors[4].range),
        Pool("4", "MAX_POOL_2D", "e", "f", windows[4], *tensors[5].range),
        Reduce("5", "REDUCE_MIN", "f", "g", shapes[5], (0, 2)),
        Dense("6", "g", "h", *numbers[3], is_wide=is_wide),
    )
    return IntegerNetwork({t.name: t for t in tensors}, ("a",), ("h",), layers)


def linear_numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> tuple[Any, ...]:
    """Weights, bias, multiplier, shift and range such that outputs spread."""
    weights = rng.integers(-127, 128, shape).astype(np.int8)
    high = np.iinfo(dtype).max
    spread = np.abs(weights.reshape(len(weights), -1).astype(np.int64)).sum(axis=1) * (high // 16)
    mantissa, shift = np.frexp(high / spread)
    bias = rng.integers(-500, 500, len(weights))
    return weights, bias, (mantissa * 2**31).astype(np.int32), shift.astype(np.int32), -high - 1, high
