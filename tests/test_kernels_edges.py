"""The runtime's kernels of observations, frames, draws and heads against their NumPy twins, to the bit."""

import ctypes
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.network.draws import draw_words, normals, seed_words, squash
from edgeqrl.network.edges import (
    ActionEdge,
    GaussianEdge,
    MultiBinaryEdge,
    MultiDiscreteEdge,
    ObservationEdge,
    action_size,
    decode_actions,
    draw_actions,
    is_stochastic,
    limits,
    quantize_observations,
    saturated_inputs,
)
from edgeqrl.network.images import Grayscale, Resize
from edgeqrl.network.memory import FrameStack, plan_memory, push_frames
from firmware_export.emit.packing import action_block, observation_block, unpack_words
from firmware_export.emit.step import _image_plan
from tests.c_build import c_compiler, run, write_files
from tests.c_kernels import (
    CANARY,
    RUNTIME,
    address,
    compile_runtime,
    compile_traced,
    on_all_cores,
    undefined_symbols,
)
from tests.random_edges import random_action_edge, random_affine_edge, random_outputs, special_floats
from tests.random_images import random_image

FILES = (
    "eqrl_edges.c",
    "eqrl_observe.c",
    "eqrl_image.c",
    "eqrl_frames.c",
    "eqrl_random.c",
    "eqrl_heads.c",
    "eqrl_gaussian.c",
)
Array = NDArray[Any]
HEADS = ("multi", "multi-masked", "multi-drawn", "multi-drawn-masked", "binary", "bernoulli", "categorical",
         "categorical-masked", "gaussian", "squashed", "gaussian-log-std", "squashed-log-std")  # fmt: skip
DTYPES = ("int8", "int16")
FOREIGN = (0, 1, 1024, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)  # words in a memory that is not ours


@pytest.fixture(scope="module", params=["long", "halves"])
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """With a long multiply; and without one, where every undefined operation traps."""
    folder = tmp_path_factory.mktemp("runtime")
    if request.param == "long":
        return compile_runtime(folder, FILES, long_multiply=1)
    write_files(folder, RUNTIME)
    flags = ["-std=c99", "-O1", "-fPIC", "-shared", "-DEQRL_HAS_LONG_MULTIPLY=0"]
    trap = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    run([*c_compiler("gcc"), *flags, *trap, *FILES, "-o", "runtime.lib"], folder)
    return ctypes.CDLL(str(folder / "runtime.lib"))


def words(block: bytes) -> NDArray[np.uint32]:
    return np.frombuffer(block, "<u4").copy()


def image_plan(edge: ObservationEdge) -> NDArray[np.uint32]:
    """Return an eqrl_image as the generated code has it."""
    text = _image_plan(SimpleNamespace(name="robot"), edge.part)  # type: ignore[arg-type]
    return u32([int(number) for number in re.findall(r"(\d+)u", text.partition("{")[2])])


def u32(values: Sequence[int]) -> NDArray[np.uint32]:
    return np.array(values, np.uint32)


def observe(library: ctypes.CDLL, edge: ObservationEdge, row: Array, counters: Array) -> tuple[Array, int]:
    """Run the kernel of an edge on one observation; canaries stand behind what it writes."""
    _, packed = observation_block(edge)
    block, raw = words(packed), np.ascontiguousarray(row, edge.part.source).ravel()
    found = np.full(edge.part.network_size * np.dtype(edge.dtype).itemsize + 8, CANARY, np.uint8)
    places = address(block), address(raw), address(found)
    numbers = np.dtype(edge.dtype).itemsize, edge.part.size
    if edge.part.image:
        plan = image_plan(edge)
        library.eqrl_observation_image(*places, numbers[0], address(plan))
        status = 0
    elif edge.part.source == "uint8":
        library.eqrl_observation_u8(*places, *numbers)
        status = 0
    elif edge.part.one_hot is not None:
        counts = u32([n for _, n in edge.part.one_hot])
        starts = address(counters), len(counters), address(counts)
        status = library.eqrl_observation_one_hot(*places, *numbers, *starts)
    else:
        more = address(counters), len(counters), edge.part.num_rows
        status = library.eqrl_observation_affine_f32(*places, *numbers, *more)
    assert (found[-8:] == CANARY).all()
    return found[:-8].view(edge.dtype).copy(), status


def require_same_observations(library: ctypes.CDLL, edge: ObservationEdge, rows: Array) -> None:
    expected, flags = quantize_observations(edge, rows)
    counters = np.zeros(edge.part.size, np.uint16)
    for row, one, flag in zip(rows, expected, flags, strict=True):
        found, status = observe(library, edge, row, counters)
        np.testing.assert_array_equal(found, one.ravel())
        assert status == flag
    events = saturated_inputs(edge, rows).reshape(len(rows), -1).sum(axis=0)
    np.testing.assert_array_equal(counters, events)


@pytest.mark.parametrize("dtype", DTYPES)
def test_normalised_observations_are_as_in_numpy_for_every_class_of_float(
    runtime: ctypes.CDLL, dtype: str
) -> None:
    rng = np.random.default_rng(5)
    for _ in range(25):
        edge = random_affine_edge(rng, dtype, int(rng.integers(1, 7)) * 2)
        assert edge.is_affine
        require_same_observations(runtime, edge, special_floats(rng, edge, 150))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_row_of_normalisation_serves_many_elements_at_every_class_of_float(
    runtime: ctypes.CDLL, dtype: str
) -> None:
    rng = np.random.default_rng(6)
    exponents = np.arange(256, dtype=np.uint32)[:, None] << np.uint32(23)
    ends = np.array([0, 1, 2, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFE, 0x7FFFFF], np.uint32)
    positive = (exponents | ends).ravel()
    bits = np.concatenate((positive, positive | np.uint32(1 << 31)))
    for gain in (1.0, -3.5, 0.0, 2.0**-60, 1e9, -1e-3):
        values = np.concatenate((bits.view(np.float32), rng.normal(0, 10, 4000).astype(np.float32)))
        edge = ObservationEdge.of(values.shape, 0.03, -5 if dtype == "int8" else 0, dtype, gain=(gain,),
                               offset=(0.7,), low=(-2.0,), high=(np.inf,))  # fmt: skip
        require_same_observations(runtime, edge, values[None])


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_and_indices_are_as_in_numpy(runtime: ctypes.CDLL, dtype: str) -> None:
    rng = np.random.default_rng(7)
    zero_point = -128 if dtype == "int8" else 0
    pixels = ObservationEdge.of((16, 16), 1 / 255, zero_point, dtype, source="uint8", gain=(1 / 255,))
    require_same_observations(runtime, pixels, rng.permutation(256).astype(np.uint8).reshape(1, 16, 16))
    starts = ((0, 3), (-2, 5), (7, 1), (2**31 - 9, 8), (-(2**31), 2))
    edge = ObservationEdge.of((5,), 1 / 255, zero_point, dtype, source="int32", one_hot=starts)
    rows = np.array([[s for s, _ in starts], [s + n - 1 for s, n in starts]])
    strange = rng.integers(-(2**31), 2**31, (50, 5))
    extremes = np.array([[-(2**31)] * 5, [2**31 - 1] * 5, [-(2**31) + 2] * 5, [0] * 5])
    near = rows[0] + rng.integers(0, 4, (100, 5))
    near = np.clip(near, -(2**31), 2**31 - 1)
    require_same_observations(runtime, edge, np.concatenate((rows, strange, extremes, near)).astype(np.int32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_are_as_in_numpy(runtime: ctypes.CDLL, dtype: str) -> None:
    rng = np.random.default_rng(17)
    zero_point = -128 if dtype == "int8" else 0
    kinds = [random_image(rng) for _ in range(60)]
    kinds += [((8, 6, n), (Resize(4, 3),)) for n in (1, 2, 3, 4, 5)]  # halves go up, but of 2 and 5 channels
    for shape, image in kinds:
        edge = ObservationEdge.of(
            shape, 1 / 255, zero_point, dtype, source="uint8", gain=(1 / 255,), image=image
        )
        rows = rng.integers(0, 256, (3, *shape))
        coarse = rng.integers(0, 2, (3, *shape)) * 255
        require_same_observations(runtime, edge, np.concatenate((rows, coarse)).astype(np.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "stack"),
    [
        ((3,), FrameStack(4, 0)),
        ((3, 2), FrameStack(3, -1)),
        ((3, 2, 2), FrameStack(5, -1, is_new_axis=False, padding="zero")),
        ((3, 2), FrameStack(2, 0, is_new_axis=False)),
        ((4,), FrameStack(1, 0)),
        ((2, 3), FrameStack(3, 1, padding="zero")),
    ],
)
def test_frames_are_stacked_as_in_numpy_whatever_the_memory_says(
    runtime: ctypes.CDLL, shape: tuple[int, ...], stack: FrameStack, dtype: str
) -> None:
    rng = np.random.default_rng(8)
    size, count, item = int(np.prod(shape)), stack.num_frames, np.dtype(dtype).itemsize
    layout = plan_memory(is_stochastic=False, frames=((count, size), dtype), recurrent=())
    memory = np.zeros((1, layout.num_bytes), np.uint8)
    ring, next_slot, filled = np.zeros(count * size, dtype), u32([0]), u32([0])
    if stack.padding == "zero":
        runtime.eqrl_fill(address(np.array([-7], np.int32)), address(ring), item, count * size)
        filled[0] = count
        layout.write(memory, "frames", np.array(-7))
        layout.write(memory, "frames_filled", np.array(count))
    outer, inner = stack.loops(shape)
    for turn in range(3 * count + 3 * len(FOREIGN)):
        if turn >= 3 * count:  # in bytes that a policy did not write
            next_slot[0], filled[0] = rng.choice([*FOREIGN, count - 1, count, count + 1], 2)
            layout.write(memory, "frames_next", next_slot)
            layout.write(memory, "frames_filled", filled)
        frame = rng.integers(-128, 128, shape).astype(dtype)
        expected = push_frames(layout, memory, frame[None], stack, shape)
        found = np.full(count * size, 99, dtype)
        pointers = address(next_slot), address(filled)
        runtime.eqrl_frames_push(address(frame), address(ring), item, count, size, *pointers)
        place = address(ring), int(next_slot[0]), int(filled[0]), address(found)
        runtime.eqrl_frames_gather(*place, item, count, outer, inner)
        np.testing.assert_array_equal(found, expected.ravel())
        np.testing.assert_array_equal(ring, layout.read(memory, "frames").ravel())
        assert (next_slot[0], filled[0]) == tuple(
            int(layout.read(memory, name)[0]) for name in ("frames_next", "frames_filled")
        )


def test_the_generator_is_as_in_numpy(runtime: ctypes.CDLL) -> None:
    rng = np.random.default_rng(9)
    seeds = np.concatenate((u64([0, 1, 2**32, 2**64 - 1]), rng.integers(2**64, size=100, dtype=np.uint64)))
    runtime.eqrl_draw_word.restype = ctypes.c_uint32
    expected = seed_words(seeds)
    for seed, row in zip(seeds.tolist(), expected, strict=True):
        random = np.zeros(4, np.uint32)
        runtime.eqrl_random_seed(address(random), ctypes.c_uint32(seed), ctypes.c_uint32(seed >> 32))
        np.testing.assert_array_equal(random, row)
        state = row[None]
        for _ in range(20):
            drawn, state = draw_words(state)
            assert runtime.eqrl_draw_word(address(random)) == int(drawn[0])
        np.testing.assert_array_equal(random, state[0])


def u64(values: Sequence[int]) -> NDArray[np.uint64]:
    return np.array(values, np.uint64)


def test_normals_and_tanh_are_as_in_numpy(runtime: ctypes.CDLL) -> None:
    rng = np.random.default_rng(10)
    powers = 1 << np.arange(32, dtype=np.int64)
    edges = np.concatenate((powers, powers - 1, powers + 1)) & 0xFFFFFFFF
    drawn = np.concatenate((edges, edges ^ 0x80000000, rng.integers(0, 2**32, 20_000))).astype(np.uint32)
    found = [runtime.eqrl_normal(ctypes.c_uint32(word)) for word in drawn.tolist()]
    np.testing.assert_array_equal(found, normals(drawn))
    values = np.concatenate((edges - 2**31, rng.integers(-(2**24), 2**24, 20_000))).clip(1 - 2**31, 2**31 - 1)
    found = [runtime.eqrl_squash(ctypes.c_int32(value)) for value in values.tolist()]
    np.testing.assert_array_equal(found, squash(values))


def act(
    library: ctypes.CDLL, edge: ActionEdge, outputs: list[Array], mask: Array | None, random: Array
) -> Array:
    """Run the kernel of an action edge on one row; `random` is drawn from in place."""
    _, packed = action_block(edge)
    block, size = words(packed), action_size(edge)
    found = np.full(size + 2, 0xA5A5A5A5, np.uint32)
    item, generator = outputs[0].itemsize, address(random)
    head = address(block), address(outputs[0]), item
    allowed = None if mask is None else address(mask)
    if isinstance(edge, MultiDiscreteEdge):
        counts = u32(edge.counts)
        arguments = *head, allowed, address(found), address(counts), size
        if is_stochastic(edge):
            library.eqrl_categorical(*arguments, generator)
        else:
            library.eqrl_multi_argmax(*arguments)
    elif isinstance(edge, MultiBinaryEdge) and edge.exp_low:
        library.eqrl_bernoulli(*head, address(found), size, generator)
    elif isinstance(edge, MultiBinaryEdge):
        library.eqrl_multi_binary(*head, address(found), size)
    else:
        assert isinstance(edge, GaussianEdge)
        second = (None, 1) if edge.log_std is None else (address(outputs[1]), outputs[1].itemsize)
        library.eqrl_gaussian_f32(*head, *second, address(found), size, int(edge.is_squashed), generator)
    assert (found[size:] == 0xA5A5A5A5).all()
    return found[:size]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head", HEADS)
def test_actions_and_generators_are_as_in_numpy(runtime: ctypes.CDLL, head: str, dtype: str) -> None:
    rng = np.random.default_rng(sum(head.encode()))
    for _ in range(8):
        edge = random_action_edge(rng, head, dtype)
        outputs, masks = random_outputs(rng, edge, dtype, 60)
        random = seed_words(rng.integers(2**64, size=60, dtype=np.uint64))
        if is_stochastic(edge):
            expected, after = draw_actions(edge, outputs, random, masks)
        else:
            expected, after = decode_actions(edge, outputs[0], masks), random
        bits = expected.astype(np.float32 if expected.dtype == np.float32 else np.int32).reshape(60, -1)
        for i, row in enumerate(bits.view(np.uint32)):
            mask = None if masks is None else masks[i].astype(np.uint8) * np.uint8(rng.integers(1, 256))
            state = random[i].copy()
            found = act(runtime, edge, [np.ascontiguousarray(values[i]) for values in outputs], mask, state)
            np.testing.assert_array_equal(found, row)
            np.testing.assert_array_equal(state, after[i])


@pytest.mark.parametrize("level", ["-O2", pytest.param("-Os", marks=pytest.mark.slow)])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_all_values_take_the_same_blocks(tmp_path: Path, compiler: str, level: str) -> None:
    library = compile_traced(tmp_path, FILES, compiler, level)
    rng = np.random.default_rng(0)

    def trace() -> tuple[int, int]:
        return library.trace_hash(), library.trace_blocks()

    for dtype in DTYPES:
        edge = random_affine_edge(rng, dtype, 6)
        hot = ObservationEdge.of((2,), 0.1, 0, dtype, source="int32", one_hot=((0, 3), (2, 4)))
        bytes_edge = ObservationEdge.of((6,), 0.1, 0, dtype, source="uint8", gain=(0.5,))
        pictures = [
            replace(bytes_edge, part=replace(bytes_edge.part, shape=(8, 6, 3), image=image))
            for image in ((Grayscale(), Resize(5, 4)), (Resize(4, 3), Grayscale()), (Resize(3, 6),))
        ]
        cases: list[tuple[ObservationEdge, Array]] = [
            (edge, special_floats(rng, edge, 40)),
            (hot, rng.integers(-5, 9, (40, 2))),
            (bytes_edge, rng.integers(0, 256, (40, 6))),
            *((picture, rng.integers(0, 256, (20, 8, 6, 3))) for picture in pictures),
        ]
        for one, rows in cases:
            counters = np.zeros(one.part.size, np.uint16)
            trace()
            traces = set()
            for row in rows:
                observe(library, one, row, counters)
                traces.add(trace())
            assert len(traces) == 1, one
        for head in HEADS:
            action = random_action_edge(rng, head, dtype)
            outputs, masks = random_outputs(rng, action, dtype, 40)
            random = seed_words(rng.integers(2**64, size=40, dtype=np.uint64))
            traces = set()
            for i in range(40):
                mask = None if masks is None else masks[i].astype(np.uint8)
                rows_of = [np.ascontiguousarray(values[i]) for values in outputs]
                act(library, action, rows_of, mask, random[i])
                traces.add(trace())
            assert len(traces) == 1, head
            assert traces.pop()[1] > 3


def test_frames_take_the_same_blocks_however_full_the_ring_is(tmp_path: Path) -> None:
    library = compile_traced(tmp_path, FILES, "gcc", "-O2")
    ring, frame, target = np.zeros(12, np.int8), np.zeros(4, np.int8), np.zeros(12, np.int8)
    next_slot, filled = u32([0]), u32([0])
    traces = set()
    for turn in range(8 + len(FOREIGN)):
        if turn >= 8:
            next_slot[0], filled[0] = FOREIGN[turn - 8], FOREIGN[-1 - (turn - 8)]
        library.trace_hash(), library.trace_blocks()
        pointers = address(next_slot), address(filled)
        library.eqrl_frames_push(address(frame), address(ring), 1, 3, 4, *pointers)
        place = address(ring), int(next_slot[0]), int(filled[0]), address(target)
        library.eqrl_frames_gather(*place, 1, 3, 2, 2)
        traces.add((library.trace_hash(), library.trace_blocks()))
    assert len(traces) == 1


@on_all_cores
def test_no_core_needs_a_library(tmp_path: Path, targets: list[tuple[str, ...]], level: str) -> None:
    found = undefined_symbols(tmp_path, FILES, level, targets)
    allowed = {"memcpy", "__aeabi_memcpy", "__aeabi_memcpy4", "__aeabi_memcpy8", "memset", "memmove",
               "__aeabi_memclr", "__aeabi_memset", "__aeabi_memset4"}  # fmt: skip
    foreign = {
        f"{where}: {name}"
        for where, names in found.items()
        for name in names
        if not name.startswith("eqrl_") and name not in allowed
    }
    assert not foreign


def test_flags_of_a_range_and_of_a_policys_own_clip_differ() -> None:
    lowest, highest = limits("int8")
    edge = ObservationEdge.of((1,), 0.1, 0, gain=(1.0,), low=(-5.0,), high=(np.inf,))
    rows = np.array([[-1e9], [1e9], [-5.0], [12.7], [12.76], [np.inf], [-np.inf], [np.nan]], np.float32)
    quantized, flags = quantize_observations(edge, rows)
    assert quantized[:, 0].tolist() == [-50, highest, -50, 127, 127, highest, -50, 0]
    assert flags.tolist() == [0, 1, 0, 0, 1, 3, 2, 2]
    assert lowest == -128


def test_blocks_say_what_the_edge_says() -> None:
    rng = np.random.default_rng(12)
    edge = random_affine_edge(rng, "int8", 4)
    fraction_bits, zero_point, *numbers = unpack_words(observation_block(edge)[1])
    assert (fraction_bits, zero_point, len(numbers)) == (
        edge.fraction_bits,
        edge.zero_point,
        4 * edge.part.num_rows,
    )
    for i, (multiplier, bias, is_negative, offset, low, high) in enumerate(edge.affine_rows):
        word, packed, fixed, bounds = numbers[4 * i : 4 * i + 4]
        assert (word & 0xFFFFFFFF, fixed, packed & 1) == (multiplier, offset, is_negative)
        assert (packed >> 3) == (bias - fraction_bits if multiplier else 2**20)
        assert ((packed >> 1) & 1, (packed >> 2) & 1) == (low < -128, high > 127)
        assert (bounds >> 16, bounds << 16 & 0xFFFFFFFF) == (
            min(high, 127),
            max(low, -128) << 16 & 0xFFFFFFFF,
        )
    for head in HEADS:
        for dtype in DTYPES:
            action = random_action_edge(rng, head, dtype)
            found = unpack_words(action_block(action)[1])
            if isinstance(action, GaussianEdge):
                size = action_size(action)
                rows = np.array(found[: 9 * size]).reshape(size, 9).T
                assert tuple(map(tuple, rows.tolist())) == action.columns
                more = (
                    0 if action.log_std is None else 2 + len(action.log_std.exp_low + action.log_std.exp_high)
                )
                assert len(found) == 9 * size + more
                continue
            first = action.thresholds if isinstance(action, MultiBinaryEdge) else action.starts
            tables = (*action.exp_low, *action.exp_high)
            assert found[: len(first)] == tuple(first)
            assert tuple(word & 0xFFFFFFFF for word in found[len(first) :]) == tables
