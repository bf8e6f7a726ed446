"""The runtime's kernels, called one by one, against their NumPy twins."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.network.edges import (
    AffineEdge,
    ArgmaxEdge,
    ObservationEdge,
    decode_actions,
    make_affine_edge,
    quantize_observations,
)
from edgeqrl.network.fixed_point import requantize
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.reference import Reference
from firmware_export.emit import runtime_sources
from firmware_export.emit.kernels.linear import pack_linear
from firmware_export.emit.packing import pack_affine, pack_argmax, pack_observation
from firmware_export.toolchain import host_compiler
from tests.c_build import run, write_files
from tests.c_policies import random_dense

# With and without a 32 x 32 -> 64 bit multiply instruction.
LONG_MULTIPLY = (1, 0)


@pytest.fixture(scope="module", params=LONG_MULTIPLY, ids=["long", "halves"])
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder: Path = tmp_path_factory.mktemp("runtime")
    sources = runtime_sources()
    write_files(folder, sources)
    files = [path for path in sources if path.endswith(".c")]
    flags = ["-std=c99", "-O2", "-fPIC", "-shared", f"-DEQRL_HAS_LONG_MULTIPLY={request.param}"]
    run([*host_compiler().argv, *flags, *files, "-o", "runtime.lib"], folder)
    return ctypes.CDLL(str(folder / "runtime.lib"))


def words(block: bytes) -> NDArray[np.uint32]:
    return np.frombuffer(block, "<u4").copy()


def address(values: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data)


def special_bits() -> NDArray[np.uint32]:
    """Every exponent with mantissas at both ends and in the middle, both signs: all classes of float32."""
    exponents = np.arange(256, dtype=np.uint32)[:, None] << np.uint32(23)
    ends = np.array([0, 1, 2, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFE, 0x7FFFFF], np.uint32)
    positive = (exponents | ends).ravel()
    return np.concatenate((positive, positive | np.uint32(1 << 31)))


@pytest.mark.parametrize(
    ("scale", "zero_point"),
    [
        (1.0, 0),
        (0.5, -128),
        (0.007843137718737125, -1),
        (0.1, 127),
        (2.0**-99, 5),
        (2.0**99 * 1.7, -7),
        (2.0**-126 * 2**27, 3),
        (np.nextafter(1.0, 2.0), 0),
        (np.nextafter(1.0, 0.0), 0),
    ],
)
def test_observations_quantize_as_in_numpy_for_every_class_of_float(
    runtime: ctypes.CDLL, scale: float, zero_point: int
) -> None:
    edge = ObservationEdge.of((1,), float(scale), zero_point)
    rng = np.random.default_rng(zero_point + 1000)
    any_bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    in_range = (rng.uniform(-300, 300, 200_000) * scale).astype(np.float32)
    halves = ((np.arange(-600, 600) / 2) * scale).astype(np.float32)
    near = [np.nextafter(halves, np.float32(way)) for way in (-np.inf, np.inf)]
    values = np.concatenate((special_bits().view(np.float32), any_bits, in_range, halves, *near))
    expected, flags = quantize_observations(edge, values[:, None])
    found = np.empty(len(values), np.int8)
    block, counters = words(pack_observation(edge)), np.zeros(1, np.uint16)
    more = (address(counters), 1)
    status = runtime.eqrl_observation_f32(
        address(block), address(values), address(found), 1, len(values), *more
    )
    np.testing.assert_array_equal(found, expected[:, 0])
    assert status == np.bitwise_or.reduce(flags)
    for i in (*range(0, len(values), 997), *range(0, 4096, 3)):
        one = runtime.eqrl_observation_f32(address(block), address(values[i:]), address(found), 1, 1, *more)
        assert one == flags[i]


def test_int16_inputs_and_outputs_pass_the_edges_as_in_numpy(runtime: ctypes.CDLL) -> None:
    rng = np.random.default_rng(3)
    edge = ObservationEdge.of((1,), 2.0**-12, 0, "int16")
    values = np.concatenate((special_bits().view(np.float32), rng.normal(0, 5, 100_000).astype(np.float32)))
    expected, flags = quantize_observations(edge, values[:, None])
    found = np.full(len(values) + 1, 77, np.int16)
    block, counters = words(pack_observation(edge)), np.zeros(1, np.uint16)
    more = (address(counters), 1)
    status = runtime.eqrl_observation_f32(
        address(block), address(values), address(found), 2, len(values), *more
    )
    np.testing.assert_array_equal(found[:-1], expected[:, 0])
    assert (status, found[-1]) == (np.bitwise_or.reduce(flags), 77)

    outputs = rng.integers(-(2**15), 2**15, (2000, 3)).astype(np.int16)
    ones = np.ones(3)
    bounds = np.array([-1.0, -np.inf, 0.0], np.float32), np.array([1.0, 2.0, np.inf], np.float32)
    affine = make_affine_edge(
        scale=2.0**-15, zero_point=0, gain=2 * ones, offset=ones, low=bounds[0], high=bounds[1], dtype="int16"
    )
    block, actions = words(pack_affine(affine)), np.empty((2000, 3), np.float32)
    for row, action in zip(outputs, actions, strict=True):
        runtime.eqrl_affine_f32(address(block), address(row), 2, address(action), 3)
    np.testing.assert_array_equal(actions, decode_actions(affine, outputs))


@pytest.mark.parametrize("dtype", ["int16", "int32"])
def test_argmax_of_wide_outputs_takes_the_lowest_index(runtime: ctypes.CDLL, dtype: str) -> None:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(4)
    edge = ArgmaxEdge(5, start=2, is_masked=True)
    block = words(pack_argmax(edge))
    outputs = rng.choice([info.min, info.min + 1, -1, 0, info.max - 1, info.max], (300, 5)).astype(dtype)
    masks = rng.random((300, 5)) < 0.5
    plain, masked = decode_actions(edge, outputs), decode_actions(edge, outputs, masks)
    for row, mask, one, other in zip(outputs, masks, plain, masked, strict=True):
        allowed, size = mask.astype(np.uint8), row.itemsize
        assert runtime.eqrl_argmax(address(block), address(row), size, 5) == one
        assert runtime.eqrl_argmax_masked(address(block), address(row), size, address(allowed), 5) == other


def test_affine_actions_have_the_bits_of_numpy(runtime: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    outputs = np.arange(-128, 128).astype(np.int8)
    for _ in range(150):
        edge = random_affine(rng, 40)
        rows = np.repeat(outputs[:, None], 40, axis=1)
        expected = decode_actions(edge, rows)
        found = np.empty((256, 40), np.float32)
        block = words(pack_affine(edge))
        for row, action in zip(rows, found, strict=True):
            runtime.eqrl_affine_f32(
                address(block), address(np.ascontiguousarray(row)), 1, address(action), 40
            )
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def random_affine(rng: np.random.Generator, size: int) -> AffineEdge:
    """Any int32 numbers that the edge accepts, extremes among them; some as the exporter makes them."""
    if rng.random() < 0.3:
        bounds = np.sort(rng.normal(0, 10.0 ** rng.uniform(-3, 3), (2, size)).astype(np.float32), axis=0)
        edge = make_affine_edge(
            scale=float(2.0 ** rng.uniform(-10, 3)),
            zero_point=int(rng.integers(-128, 128)),
            gain=rng.normal(0, 3, size),
            offset=rng.normal(0, 3, size),
            low=np.where(rng.random(size) < 0.2, -np.inf, bounds[0]).astype(np.float32),
            high=np.where(rng.random(size) < 0.2, np.inf, bounds[1]).astype(np.float32),
        )
        assert isinstance(edge, AffineEdge)
        return edge
    gain = rng.integers(-(2**24), 2**24, size) >> rng.integers(0, 24, size)
    room = 2**31 - 1 - np.maximum(np.abs(gain * 128), np.abs(gain * 127))
    offset = np.where(rng.random(size) < 0.3, room * rng.choice([-1, 1], size), rng.integers(-room, room + 1))
    bounds = rng.integers(-(2**31) + 1, 2**31, (2, size)) >> rng.integers(0, 31, (2, size))
    low, high = np.sort(bounds, axis=0)
    low = np.where(rng.random(size) < 0.3, -(2**31) + 1, low)
    high = np.where(rng.random(size) < 0.3, 2**31 - 1, high)
    bits = rng.integers(-60, 61, size)
    columns = [tuple(int(v) for v in column) for column in (gain, offset, low, high, bits)]
    return AffineEdge(*columns, shape=(size,))


def test_affine_product_may_overflow_where_the_sum_does_not(runtime: ctypes.CDLL) -> None:
    gain, offset = 2**24 + 2**16, 8_400_000  # gain * -128 alone is below -2**31
    edge = AffineEdge((gain,), (offset,), (-(2**31) + 1,), (2**31 - 1,), (20,), (1,))
    block = words(pack_affine(edge))
    outputs = np.arange(-128, 128).astype(np.int8)[:, None]
    found = np.empty((256, 1), np.float32)
    for row, action in zip(outputs, found, strict=True):
        runtime.eqrl_affine_f32(address(block), address(row), 1, address(action), 1)
    np.testing.assert_array_equal(found, decode_actions(edge, outputs))


@pytest.mark.parametrize("num_actions", [1, 2, 3, 18, 300])
def test_argmax_takes_the_lowest_index_as_numpy(runtime: ctypes.CDLL, num_actions: int) -> None:
    rng = np.random.default_rng(num_actions)
    edge = ArgmaxEdge(num_actions, start=-5, is_masked=True)
    block = words(pack_argmax(edge))
    for spread in (1, 2, 128):
        for density in (0.0, 0.1, 0.5, 1.0):
            outputs = rng.integers(-spread, spread, (100, num_actions)).astype(np.int8)
            outputs[0] = -128
            masks = rng.random((100, num_actions)) < density
            plain, masked = decode_actions(edge, outputs), decode_actions(edge, outputs, masks)
            for row, mask, one, other in zip(outputs, masks, plain, masked, strict=True):
                allowed = mask.astype(np.uint8) * np.uint8(rng.integers(1, 256))
                assert runtime.eqrl_argmax(address(block), address(row), 1, num_actions) == one
                found = runtime.eqrl_argmax_masked(
                    address(block), address(row), 1, address(allowed), num_actions
                )
                assert found == other


def test_requantize_equals_tflm_for_every_shift_and_extreme(runtime: ctypes.CDLL) -> None:
    """One dense layer of zero weights hands each accumulator to the requantization alone."""
    rng = np.random.default_rng(0)
    for shift in range(-31, 31):
        largest = (2**31 - 1 - 512) >> max(shift, 0)
        multiplier = np.concatenate(([2**30, 2**31 - 1, 0], rng.integers(2**30, 2**31, 61))).astype(np.int32)
        accumulator = rng.integers(-largest, largest + 1, (200, 64)) >> rng.integers(0, 31, (200, 64))
        extremes = np.array([0, 1, -1, largest, -largest, largest - 1, 2**10, -(2**10)])
        accumulator[:8] = extremes.clip(-largest, largest)[:, None]
        expected = np.clip(requantize(accumulator, multiplier, np.full(64, shift)) + 3, -128, 127)
        for bias, answer in zip(accumulator, expected, strict=True):
            found = run_dense(runtime, bias.astype(np.int32), multiplier, shift)
            np.testing.assert_array_equal(found, answer)


def run_dense(
    runtime: ctypes.CDLL, bias: NDArray[np.int32], multiplier: NDArray[np.int32], shift: int
) -> NDArray[np.int8]:
    size = len(bias)
    parts = (
        np.array([0, 3, -128, 127], np.int8),
        bias.astype("<i4"),
        multiplier.astype("<i4"),
        np.full(size, shift, np.int8),
        np.zeros(size, np.int8),
    )
    block = words(b"".join(part.tobytes() for part in parts))
    source, target = np.zeros(1, np.int8), np.empty(size, np.int8)
    runtime.eqrl_dense_s8(address(block), address(source), address(target), 1, 1, size)
    return target


def test_rounding_halves_go_where_two_roundings_send_them(runtime: ctypes.CDLL) -> None:
    """By hand: 5/2 is 3 and -5/2 is -2 (first, up); then 3/2 is 2 and -3/2 is -2 (second, away from zero)."""
    one = np.array([5, -5, 6, -6, 3, -3], np.int32)
    half = np.full(6, 2**30, np.int32)
    assert (run_dense(runtime, one, half, 0) - 3).tolist() == [3, -2, 3, -3, 2, -1]
    assert (run_dense(runtime, one, half, -1) - 3).tolist() == [2, -1, 2, -2, 1, -1]


@pytest.mark.parametrize("num_outputs", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("num_inputs", [1, 3, 8])
def test_dense_sums_every_row_and_writes_nothing_else(
    runtime: ctypes.CDLL, num_inputs: int, num_outputs: int
) -> None:
    rng = np.random.default_rng(num_inputs)
    source, target = Tensor("a", (num_inputs,), 1.0, -7), Tensor("b", (num_outputs,), 1.0, 9)
    layer = random_dense(rng, source, target)
    network = IntegerNetwork({"a": source, "b": target}, ("a",), ("b",), (layer,))
    block = words(pack_linear(layer, source, target))
    for values in rng.integers(-128, 128, (50, num_inputs)).astype(np.int8):
        found = np.full(num_outputs + 8, 77, np.int8)
        runtime.eqrl_dense_s8(address(block), address(values), address(found), 1, num_inputs, num_outputs)
        expected = Reference(network).run({"a": values[None]})["b"][0]
        np.testing.assert_array_equal(found[:num_outputs], expected)
        assert (found[num_outputs:] == 77).all()
