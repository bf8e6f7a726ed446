"""Weights in the order of computers, and calls of one inference: equal to the reference."""

import ctypes
import subprocess
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import edgeqrl.backends.host_c as host_c
from edgeqrl.backends.host_c import HostC, HostCNetwork, policy_of_network
from edgeqrl.network.integer_policy import BareNetwork
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.layers import Conv2D, Dense
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference, random_inputs
from edgeqrl.stages.packing import order_for_board
from firmware_export.emit.orders import groups_of
from firmware_export.emit.packing import Rows
from firmware_export.emit.params import build_params, orders_of, params_for, read_params
from firmware_export.emit.wide import WIDE, unpack_wide
from firmware_export.toolchain import HostCompiler, host_compiler
from tests.c_build import ZIG, run, write_files
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
    with_copy,
)
from tests.core_kernels import Drawn, Kernels, every_shift, image_of, random_layer, require_emulated, words
from tests.firmware import board, one_by_default, require_tool
from tests.packed_networks import stack
from tests.test_kernels_linear import random_linear, random_values

DATA = Path(__file__).resolve().parent / "data"
FILES = ("eqrl_wide.c",)
KINDS = [Dense, Conv2D]
COUNTS = [pytest.param(60, id="few"), pytest.param(8000, id="many", marks=pytest.mark.slow)]


# Flags of vectors beyond those of every x86-64, and what the processor must have for them.
X86_VECTORS = {
    "avx2": (("-mavx2",), ("avx2",)),
    "vnni": (("-mavx512f", "-mavx512vnni"), ("avx512f", "avx512_vnni")),
}
# Other processors: target and core of zig's clang, and what runs its programs.
OTHERS = {
    "neon-dot": ("aarch64-linux-musl", "cortex_a76", "qemu-aarch64"),
    "neon": ("aarch64-linux-musl", "cortex_a53", "qemu-aarch64"),
    "neon-32": ("arm-linux-musleabihf", "cortex_a7", "qemu-arm"),
    "plain": ("arm-linux-musleabihf", "arm1176jzf_s", "qemu-arm"),
}


@lru_cache
def flags_of(vectors: str) -> tuple[str, ...]:
    """Return the flags of vectors; skips where the processor, which is no tool, has none of them."""
    flags, needed = X86_VECTORS.get(vectors, ((), ()))
    info = Path("/proc/cpuinfo")
    if not set(info.read_text().split() if info.exists() else ()).issuperset(needed):
        pytest.skip(f"this processor has no {vectors}")
    return flags


@pytest.fixture(scope="module", params=["long", "halves", *X86_VECTORS])
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    is_long = int(request.param != "halves")
    folder = tmp_path_factory.mktemp("runtime")
    return compile_runtime(folder, FILES, long_multiply=is_long, more=flags_of(request.param))


def cases_of(rng: np.random.Generator, network: IntegerNetwork, count: int = 3) -> list[Case]:
    return cases(network, {"a": random_values(rng, network.tensors["a"], count)}, order=WIDE)


def drawn(kind: type, count: int) -> list[Case]:
    """Return `count` random layers on three inputs each: odd sizes, groups, all shifts and zero points.

    Half of them are small, the others have some tiles.
    """
    rng = np.random.default_rng(KINDS.index(kind))
    networks = [random_linear(rng, kind, "int8") for _ in range(count // 2)]
    networks += [random_layer(rng, kind, WIDE, 16).network for _ in range(count - count // 2)]
    return [case for network in networks for case in cases_of(rng, network)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_equal_the_reference(runtime: ctypes.CDLL, kind: type, count: int) -> None:
    found = drawn(kind, count)
    family = "DENSE" if kind is Dense else "CONV"
    assert {case.code.kernel.name for case in found[::30]} == {f"{family}_WIDE_S8"}
    assert require_equal(runtime, found) >= (10**6 if count > 1000 else 10 * count)


def test_every_shift_equals_the_reference(runtime: ctypes.CDLL) -> None:
    found = [case for one in every_shift(WIDE) for case in cases(one.network, {"a": one.values}, order=WIDE)]
    assert require_equal(runtime, found) > 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_unpacks_to_what_was_packed(kind: type) -> None:
    for case in drawn(kind, 60)[::3]:
        layer, source = case.layer, case.network.tensors["a"]
        assert isinstance(layer, Dense | Conv2D)
        found = unpack_wide(case.code.block, layer, groups_of(layer))
        sums = layer.weights.reshape(len(layer.weights), -1).sum(axis=1, dtype=np.int64)
        ends = (source.zero_point, case.network.tensors["b"].zero_point, layer.output_min, layer.output_max)
        np.testing.assert_array_equal(found.ranges, ends)
        np.testing.assert_array_equal(found.bias, layer.bias - source.zero_point * sums)
        np.testing.assert_array_equal((found.raised_bias - found.bias + 128 * sums) % 2**32, 0)
        np.testing.assert_array_equal(found.multiplier, layer.multiplier)
        np.testing.assert_array_equal(found.shift, layer.shift)
        np.testing.assert_array_equal(found.weights, layer.weights)


def test_weights_lie_where_the_kernel_reads_them() -> None:
    """Four inputs of each of 16 channels in turn; what is missing of either is 0."""
    network = stack(np.random.default_rng(0), (8,), (6, 18))
    (case,) = cases(network, {"0": np.zeros((1, 6), np.int8)}, order=WIDE)
    assert isinstance(case.layer, Dense)
    weights, padded = case.layer.weights, np.zeros((32, 8), np.int8)
    padded[:18, :6] = weights
    expected = [padded[16 * t + i, 4 * k : 4 * k + 4] for t in range(2) for k in range(2) for i in range(16)]
    np.testing.assert_array_equal(
        np.frombuffer(case.code.block, np.int8)[4 + 16 * 32 :], np.concatenate(expected)
    )


def test_random_layers_have_tiles_positions_and_groups_of_all_numbers() -> None:
    layers = [case.layer for kind in KINDS for case in drawn(kind, 60)[::3]]
    sizes = [
        (len(layer.weights) // groups_of(layer), groups_of(layer), layer.window.output_shape[2])
        for layer in layers
        if isinstance(layer, Conv2D)
    ]
    assert sum(each > 16 for each, _, _ in sizes) > 5
    assert sum(each > 16 and groups > 1 for each, groups, _ in sizes) > 2
    assert {1, 2, 3, 4, 5} <= {width for each, _, width in sizes if each > 16}
    assert max(len(layer.weights) for layer in layers if isinstance(layer, Dense)) > 64


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.sampled_from([9, 15, 16, 17, 31, 32, 33, 64, 65, 257]), min_size=1, max_size=2),
    out=st.integers(1, 40),
)
def test_dense_layers_of_all_sizes_equal_the_reference(
    runtime: ctypes.CDLL, seed: int, sizes: list[int], out: int
) -> None:
    rng = np.random.default_rng(seed)
    network = stack(rng, (8,) * len(sizes), (*sizes, out))
    values = {"0": random_values(rng, network.tensors["0"], 4)}
    assert require_equal(runtime, cases(network, values, order=WIDE)) == 4 * sum([*sizes[1:], out])


@pytest.mark.parametrize("vectors", ["usual", *X86_VECTORS])
@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("clang",)))
def test_kernels_pass_under_sanitizers(tmp_path: Path, compiler: str, vectors: str) -> None:
    found = [case for kind in KINDS for case in drawn(kind, 20)]
    require_clean(tmp_path, compiler, FILES, found, long_multiply=1, more=flags_of(vectors))


@pytest.mark.parametrize("core", ["baseline", "haswell", "cascadelake"])
def test_32_bit_x86_compiles_whatever_vectors_it_has(tmp_path: Path, core: str) -> None:
    write_files(tmp_path, RUNTIME)
    argv = [*ZIG, "cc", "-target", "x86-freestanding", f"-mcpu={core}", "-std=c99", "-O2", "-Wall", "-Werror"]
    run([*argv, "-c", *FILES, "-o", "object.o"], tmp_path)


# Reads layers from its input, calls their kernels on memory of exact sizes, and counts equal outputs.
CALLER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "eqrl_kernels.h"

static void *read_bytes(uint32_t size)
{
    void *const place = malloc(size + 1u);
    if (place == NULL || fread(place, 1, size, stdin) != size) {
        exit(1);
    }
    return place;
}

int main(void)
{
    /* is_conv; bytes of block, window, input, output, behind it, column; samples; arguments */
    uint32_t layer[11];
    unsigned long count = 0;
    while (fread(layer, sizeof layer, 1, stdin) == 1) {
        uint32_t *const block = read_bytes(layer[1]);
        eqrl_window *const window = read_bytes(layer[2]);
        for (uint32_t i = 0; i < layer[7]; i++) {
            int8_t *const input = read_bytes(layer[3]);
            int8_t *const expected = read_bytes(layer[4]);
            int8_t *const output = malloc(layer[4] + layer[5]);
            void *const column = malloc(layer[6]);
            if (layer[0] != 0u) {
                eqrl_conv_wide_s8(block, input, output, column, window, layer[9], layer[10]);
            } else {
                eqrl_dense_wide_s8(block, input, output, column, layer[8], layer[9], layer[10]);
            }
            if (memcmp(output, expected, layer[4]) != 0) {
                return 2;
            }
            count += layer[4];
            free(input);
            free(expected);
            free(output);
            free(column);
        }
        free(block);
        free(window);
    }
    printf("%lu\n", count);
    return 0;
}
"""


def record(one: Drawn) -> bytes:
    """Return a layer and its samples as CALLER reads them."""
    code, expected = one.code, one.expected
    window = b"".join(words(argument) for argument in code.arguments if isinstance(argument, Rows))
    numbers = [0 if isinstance(argument, Rows) else argument for argument in code.arguments]
    assert code.scratch_bytes is not None
    inputs = one.values.reshape(len(one.values), -1)
    sizes = (len(code.block), len(window), inputs.shape[1], expected.shape[1])
    head = (int(bool(window)), *sizes, code.behind_output, code.scratch_bytes, len(inputs), *numbers)
    samples = [a.tobytes() + b.tobytes() for a, b in zip(inputs, expected, strict=True)]
    return b"".join([np.array(head, "<u4").tobytes(), code.block, window, *samples])


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "layers.bin"
    rng = np.random.default_rng(11)
    with path.open("wb") as file:
        for kind, count in ((Dense, 3600), (Conv2D, 800)):
            for _ in range(count):
                file.write(record(random_layer(rng, kind, WIDE, 16)))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("processor", OTHERS)
def test_kernels_of_other_processors_equal_the_reference(
    tmp_path: Path, records: Path, processor: str
) -> None:
    target, core, emulator = OTHERS[processor]
    require_tool(emulator)
    write_files(tmp_path, {**RUNTIME, "caller.c": CALLER.encode()})
    argv = [*ZIG, "cc", "-target", target, f"-mcpu={core}", "-std=c99", "-O3", "-static"]
    run([*argv, *with_copy(FILES), "caller.c", "-o", "program"], tmp_path)
    with records.open("rb") as file:
        done = subprocess.run(
            [emulator, "./program"], cwd=tmp_path, stdin=file, capture_output=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10**6


@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("gcc",)))
def test_all_inputs_take_the_same_blocks(tmp_path: Path, compiler: str) -> None:
    library = compile_traced(tmp_path, FILES, compiler, "-O2")
    rng = np.random.default_rng(0)
    for kind in KINDS:
        require_same_trace(library, cases_of(rng, random_linear(rng, kind, "int8"), 8))


@pytest.mark.parametrize("core", one_by_default(("cortex-m0plus", "cortex-m4"), ("cortex-m0plus",)))
def test_a_core_answers_as_the_reference_by_the_same_instructions_for_all_inputs(core: str) -> None:
    kernels = Kernels(image_of("e_minatar", core, "zig", WIDE))
    rng = np.random.default_rng(2)
    layers = [random_layer(rng, kind, WIDE, 16) for kind in KINDS for _ in range(6)]
    assert require_emulated(kernels, layers) > 1000
    for one in layers:
        assert len({kernels.trace(one.code, values, one.expected.shape[1]) for values in one.values}) == 1
    kernels.close()


@on_all_cores
def test_no_core_needs_a_library(tmp_path: Path, targets: list[tuple[str, ...]], level: str) -> None:
    assert undefined_symbols(tmp_path, FILES, level, targets) == {}


@pytest.fixture(params=["native", "portable"])
def compiled_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """For this processor, and as where its compiler refuses the flags for that."""
    compiler = host_compiler()
    if request.param == "portable":
        monkeypatch.setattr(host_c, "host_compiler", lambda: replace(compiler, native=()))
    return str(request.param)


@pytest.mark.parametrize("model", ["a_cartpole", "c_cheetah_ppo", "e_minatar"])
def test_batch_and_single_calls_equal_the_reference(compiled_for: str, model: str) -> None:
    network = read_tflite((DATA / f"{model}.tflite").read_bytes())
    backend = HostCNetwork(network)
    assert WIDE in orders_of(backend.host.policy)
    inputs = random_inputs(network, np.random.default_rng(0), 40)
    expected = Reference(network).run(inputs)
    answers, infer = backend.run(inputs), backend.host.single()
    for name in network.outputs:
        np.testing.assert_array_equal(answers[name], expected[name], err_msg=compiled_for)
    for i in range(40):
        single = infer(*(inputs[name][i] for name in network.inputs))
        for name, found in zip(network.outputs, single, strict=True):
            np.testing.assert_array_equal(found, expected[name][i], err_msg=compiled_for)
            assert (found.dtype, found.shape) == (expected[name].dtype, expected[name][i].shape)


def two_sided() -> IntegerNetwork:
    """Return a network of two inputs and two outputs."""
    rng = np.random.default_rng(0)
    first, second = stack(rng, (8,), (5, 7)), stack(rng, (8,), (40, 3))
    names = {"0": "2", "1": "3"}
    tensors = {names[n]: replace(t, name=names[n]) for n, t in second.tensors.items()}
    (layer,) = second.layers
    assert isinstance(layer, Dense)
    moved = replace(layer, name="3", input="2", output="3")
    return IntegerNetwork({**first.tensors, **tensors}, ("0", "2"), ("1", "3"), (*first.layers, moved))


def test_single_calls_take_and_return_several_arrays() -> None:
    network = two_sided()
    backend = HostCNetwork(network)
    inputs = random_inputs(network, np.random.default_rng(0), 3)
    expected, infer = Reference(network).run(inputs), backend.host.single()
    first = infer(inputs["0"][0], inputs["2"][0])
    other = backend.host.single()(inputs["0"][1], inputs["2"][1])
    for found, row in ((first, 0), (other, 1)):  # an answer stays as it was
        for name, values in zip(network.outputs, found, strict=True):
            np.testing.assert_array_equal(values, expected[name][row])
    with pytest.raises(ValueError, match="the network has 2 inputs, got 1"):
        infer(inputs["0"][0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(4, np.int16), r"must be int8 \[4\], got int16 \[4\]"),
        (np.zeros((1, 4), np.int8), r"must be int8 \[4\], got int8 \[1, 4\]"),
    ],
)
def test_single_calls_refuse_other_arrays(values: NDArray[Any], message: str) -> None:
    infer = HostCNetwork(stack(np.random.default_rng(0), (8,), (4, 2))).host.single()
    with pytest.raises(ValueError, match=message):
        infer(values)


def test_single_calls_take_arrays_that_are_not_contiguous() -> None:
    network = stack(np.random.default_rng(0), (8,), (4, 2))
    infer = HostCNetwork(network).host.single()
    values = np.arange(8, dtype=np.int8)
    np.testing.assert_array_equal(infer(values[::2])[0], infer(values[::2].copy())[0])


def test_a_batch_of_a_wide_policy_equals_one_of_rows() -> None:
    network = read_tflite((DATA / "c_cheetah_ppo.tflite").read_bytes())
    policy = policy_of_network(network)
    inputs = random_inputs(network, np.random.default_rng(0), 100)
    rows, wide = (HostC(replace(policy, order=order)).infer(inputs) for order in ("rows", WIDE))
    for name in network.outputs:
        np.testing.assert_array_equal(rows[name], wide[name])


def test_flags_that_a_compiler_refuses_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = host_compiler()
    script = tmp_path / "cc"
    script.write_text(f'#!/bin/sh\ncase "$*" in *native*) exit 1;; esac\nexec {" ".join(plain.argv)} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    host_compiler.cache_clear()
    try:
        assert host_compiler() == HostCompiler(str(script), (str(script),), ())
    finally:
        host_compiler.cache_clear()


def test_zig_makes_code_for_this_processor_by_its_own_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    host_compiler.cache_clear()
    try:
        compiler = host_compiler()
    finally:
        host_compiler.cache_clear()
    assert (compiler.name, compiler.native) == ("zig", ("-mcpu=native",))
    monkeypatch.setattr(host_c, "host_compiler", lambda: compiler)
    network = stack(np.random.default_rng(0), (8,), (40, 20))
    inputs = random_inputs(network, np.random.default_rng(0), 5)
    found = HostCNetwork(network).run(inputs)
    np.testing.assert_array_equal(found["1"], Reference(network).run(inputs)["1"])


def test_new_weights_go_into_the_code_of_computers() -> None:
    sizes = (64, 64)
    old, new = (BareNetwork("network", stack(np.random.default_rng(i), (8,), sizes)) for i in (0, 1))
    blob = build_params(replace(old, order=WIDE), sequence=7)
    found = read_params(params_for(new, blob))
    assert found.contract == read_params(blob).contract
    assert found.entries[0].kernel.name == "DENSE_WIDE_S8"
    assert found.blocks == read_params(build_params(replace(new, order=WIDE))).blocks


def test_boards_that_run_linux_have_the_order_of_computers() -> None:
    assert order_for_board(board("rpi-zero2")) == WIDE
    assert order_for_board(None) == "rows"


def test_what_has_no_such_order_keeps_rows() -> None:
    rng = np.random.default_rng(0)
    wide = random_linear(rng, Dense, "int16")
    few = stack(rng, (4,), (256, 256))
    assert orders_of(BareNetwork("network", wide, order=WIDE)) == ("rows",)
    assert orders_of(BareNetwork("network", few, weight_bits=(4,), order=WIDE)) == ("rows",)
    assert orders_of(BareNetwork("network", few, weight_bits=(), order=WIDE)) == (WIDE,)
