"""Weights in the order of Helium: the core in QEMU and the C that defines them equal the reference."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.backends.bench import bench_network
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Conv2D, Dense, Window
from firmware_export.emulators.emulator import open_engine
from firmware_export.stack import stack_bound
from tests import firmware
from tests.c_kernels import CANARY, MARGIN, cases, compile_runtime, require_clean, require_equal
from tests.core_kernels import (
    DATA,
    Drawn,
    Kernels,
    draw,
    every_shift,
    image_of,
    random_layer,
    require_emulated,
)
from tests.firmware import one_by_default

CORE, ORDER = "cortex-m55", "vectors"
COMPILERS = one_by_default(("zig", "arm-none-eabi-gcc"), ("zig",))
COUNTS = [pytest.param(40, id="few"), pytest.param(2600, id="many", marks=pytest.mark.slow)]
MEMORY_END = 0x3140_0000  # of the board's SRAM: a read beyond it faults
STACK_BYTES = 256
# Instructions of one inference, integers in and out.
TARGETS = {
    "a_cartpole": 1_750,
    "b_lunar": 14_400,
    "c_cheetah_ppo": 2_050,
    "d_cheetah_sac": 15_000,
    "e_minatar": 37_000,
    "f_nature": 350_000,
}


def is_by_two(drawn: Drawn) -> bool:
    """Tell whether positions of its window are multiplied two at once."""
    if not isinstance(drawn.layer, Conv2D) or drawn.layer.groups > 1 or not drawn.is_usual:
        return False
    *_, width, channels = drawn.layer.window.output_shape
    return width > 1 and channels % 4 == 0


def halves_at_two_positions() -> Iterator[Drawn]:
    """Yield convolutions whose outputs lie between two integers, above zero here, below it beside that."""
    rng = np.random.default_rng(0)
    for right in range(1, 7):
        window = Window((1, 3, 4, 1), (1, 3, 4, 12), (1, 1), (1, 1), (1, 1), (0, 0))
        weights = 2 * rng.integers(-64, 64, (12, 1, 1, 1)) + 1
        numbers = (np.zeros(12, np.int64), np.full(12, 2**30, np.int32), np.full(12, -right, np.int32))
        source, target = Tensor("a", (3, 4, 1), 1.0, 0), Tensor("b", (3, 4, 12), 1.0, 0)
        layer = Conv2D("b", "a", "b", weights.astype(np.int8), *numbers, -128, 127, window)
        network = IntegerNetwork({"a": source, "b": target}, ("a",), ("b",), (layer,))
        signs = rng.choice([-1, 1], (4, 3, 4, 1))
        yield Drawn(layer, network, (signs * 2**right).astype(np.int8), ORDER)


@pytest.fixture(scope="module", params=COMPILERS)
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    firmware.require_tool("qemu-system-arm")
    if request.param != "zig":
        firmware.require_tool(request.param)
    found = Kernels(image_of("e_minatar", CORE, request.param, ORDER), inputs_end=MEMORY_END)
    yield found
    found.close()


@pytest.mark.parametrize("count", COUNTS)
def test_helium_equals_the_reference(kernels: Kernels, count: int) -> None:
    drawn = draw(0, count, ORDER)
    outputs = require_emulated(kernels, drawn)
    assert outputs > 400 * count
    if count > 1000:
        assert outputs >= 10**6
    usual = [one.is_usual for one in drawn]
    assert 0.3 * len(drawn) < sum(usual) < 0.9 * len(drawn)
    assert sum(is_by_two(one) for one in drawn) > 0.1 * len(drawn)


@pytest.mark.parametrize("count", COUNTS)
def test_the_definition_equals_the_reference(tmp_path: Path, count: int) -> None:
    library = compile_runtime(tmp_path, ("eqrl_vectors.c",), long_multiply=1)
    for one in [*draw(1, count, ORDER), *every_shift(ORDER)]:
        require_equal(library, cases(one.network, {"a": one.values}, order=ORDER))


@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("clang",)))
def test_the_definition_passes_under_sanitizers(tmp_path: Path, compiler: str) -> None:
    found = [case for one in draw(3, 8, ORDER) for case in cases(one.network, {"a": one.values}, order=ORDER)]
    require_clean(tmp_path, compiler, ("eqrl_vectors.c",), found, long_multiply=1)


def test_helium_rescales_every_shift_as_the_reference(kernels: Kernels) -> None:
    drawn = list(every_shift(ORDER))
    assert {one.is_usual for one in drawn} == {False, True}
    values = np.concatenate([one.expected.ravel() for one in drawn])
    assert len(np.unique(values)) == 256
    by_two = list(halves_at_two_positions())
    assert all(is_by_two(one) for one in by_two)
    require_emulated(kernels, drawn + by_two)


def test_all_inputs_take_the_same_instructions(kernels: Kernels) -> None:
    rng = np.random.default_rng(2)
    drawn = [random_layer(rng, kind, ORDER) for kind in (Dense, Conv2D) for _ in range(6)]
    assert {one.is_usual for one in drawn} == {False, True}
    for one in drawn:
        size = one.expected.shape[1]
        traces = {kernels.trace(one.code, values, size) for values in one.values}
        assert len(traces) == 1
        assert len(traces.pop()) > 4 * 40


SLOW_MODELS = ("b_lunar", "d_cheetah_sac", "f_nature")


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(
    "model", [pytest.param(m, marks=pytest.mark.slow) if m in SLOW_MODELS else m for m in TARGETS]
)
def test_instructions_and_stack_are_within_the_targets(model: str, compiler: str) -> None:
    firmware.require_tool("qemu-system-arm")
    if compiler != "zig":
        firmware.require_tool(compiler)
    found = bench_network((DATA / f"{model}.tflite").read_bytes(), CORE, compiler=compiler)
    assert found["instructions"] <= TARGETS[model]
    assert found["stack_bytes"] <= STACK_BYTES


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_kernel_of_dense_layers_is_small(compiler: str) -> None:
    if compiler != "zig":
        firmware.require_tool(compiler)
    image = image_of("e_minatar", CORE, compiler, ORDER)
    sizes = {symbol.name: symbol.size for symbol in image.elf.functions}
    parts = ("eqrl_dense_vectors_s8", "multiply", "eqrl_copy")
    assert sum(sizes.get(name, 0) for name in parts) < 600
    assert stack_bound(image.elf, "eqrl_conv_vectors_s8") <= STACK_BYTES - 48


@pytest.mark.parametrize("compiler", COMPILERS)
def test_tables_give_every_value_and_write_nothing_else(compiler: str) -> None:
    firmware.require_tool("qemu-system-arm")
    if compiler != "zig":
        firmware.require_tool(compiler)
    rng = np.random.default_rng(0)
    table = rng.integers(-128, 128, 256).astype(np.int8)
    image = image_of("c_cheetah_ppo", CORE, compiler, ORDER)
    engine = open_engine("qemu", image.data, image.elf, image.board)
    free = image.elf.address("__free_start") + 15 & ~15
    room, target = free + 256, {False: free + 1024, True: free + 256 + MARGIN}
    try:
        for size in (*range(1, 36), 256):
            values = rng.integers(-128, 128, size) if size < 256 else rng.permutation(256) - 128
            source = np.full(size + 2 * MARGIN, CANARY, np.uint8)
            source[MARGIN:-MARGIN] = values.astype(np.int8).view(np.uint8)
            for is_in_place, place in target.items():
                filled = np.full(size + 2 * MARGIN, CANARY, np.uint8).tobytes()
                inputs = [[free, 256], [place - MARGIN, len(filled)], [room, len(source)]]
                header = {
                    "function": image.elf.address("eqrl_lookup_s8"),
                    "arguments": [free, room + MARGIN, place, size],
                    "inputs": inputs,
                    "outputs": [[place - MARGIN, len(filled)]],
                    "count": 1,
                }
                payload = table.tobytes() + filled + source.tobytes()
                found = np.frombuffer(engine.request("map", header, payload)[1], np.int8)[: len(filled)]
                np.testing.assert_array_equal(found[MARGIN:-MARGIN], table[values + 128], f"{is_in_place}")
                outside = np.concatenate((found[:MARGIN], found[-MARGIN:])).view(np.uint8)
                assert (outside == CANARY).all()
    finally:
        engine.close()
