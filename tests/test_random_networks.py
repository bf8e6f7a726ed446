"""Networks of many operators, no two alike: every rung of the ladder gives the same integers."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.backends import EMULATED_CORES, emulated
from edgeqrl.backends.host_c import HostCNetwork
from edgeqrl.data import data_folder
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from firmware_export.board import load_board
from firmware_export.elf import read_elf
from firmware_export.emit.arena import plan_arena
from firmware_export.emulators.unicorn_engine import UNICORN_CORES
from firmware_export.stack import stack_bound
from firmware_export.toolchain import Compiler, find_compiler
from tests.firmware import one_by_default
from tests.oracles import Case, require_equal
from tests.random_networks import random_network

DTYPES = ("INT8", "INT16")


def network(seed: int, dtype: str) -> bytes:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 14))
    return random_network(rng, dtype=dtype, num_operators=count, num_inputs=int(rng.integers(1, 3)))


def random_inputs(rng: np.random.Generator, lowered: IntegerNetwork, count: int) -> dict[str, NDArray[Any]]:
    """Draw uniform inputs, a quarter of them extremes only."""
    drawn = {}
    for name in lowered.inputs:
        tensor = lowered.tensors[name]
        low, high = tensor.range
        values = rng.integers(low, high + 1, (count, *tensor.shape)).astype(tensor.dtype)
        values[::4] = rng.choice(np.array([low, tensor.zero_point, high]), values[::4].shape)
        drawn[name] = values
    return drawn


def cases(seeds: range, dtype: str, samples: int) -> list[Case]:
    rng = np.random.default_rng(seeds.start)
    files = [network(seed, dtype) for seed in seeds]
    return [(data, list(random_inputs(rng, read_tflite(data), samples).values())) for data in files]


@pytest.mark.parametrize("dtype", DTYPES)
def test_reference_equals_tflm(dtype: str) -> None:
    assert require_equal("tflm", cases(range(100), dtype, 8)) > 20_000


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_reference_equals_tflm_on_thousands_of_networks(dtype: str) -> None:
    assert require_equal("tflm", cases(range(1000, 3000), dtype, 8)) > 10**6


def require_equal_to_reference(backend: Any, lowered: IntegerNetwork, seed: int, count: int) -> None:
    inputs = random_inputs(np.random.default_rng(seed), lowered, count)
    expected, found = Reference(lowered).run(inputs), backend.run(inputs)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values, err_msg=f"seed {seed}, {name}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(8))
def test_host_c_equals_the_reference(seed: int, dtype: str) -> None:
    lowered = read_tflite(network(seed, dtype))
    require_equal_to_reference(HostCNetwork(lowered), lowered, seed, 64)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_host_c_equals_the_reference_on_many_networks(dtype: str) -> None:
    for seed in range(100, 180):
        lowered = read_tflite(network(seed, dtype))
        require_equal_to_reference(HostCNetwork(lowered), lowered, seed, 64)


@pytest.mark.parametrize("dtype", one_by_default(DTYPES, ("INT8",)))
@pytest.mark.parametrize("core", one_by_default(UNICORN_CORES, ("cortex-m0plus", "cortex-m4", "rv32imc")))
def test_emulated_cores_equal_the_reference_with_one_trace_for_all_inputs(core: str, dtype: str) -> None:
    seed = 200 + list(EMULATED_CORES).index(core)
    require_equal_on_board(EMULATED_CORES[core], network(seed, dtype), seed)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("core", EMULATED_CORES)
def test_emulated_cores_equal_the_reference_on_many_networks(core: str, dtype: str) -> None:
    for seed in range(400, 403):
        require_equal_on_board(EMULATED_CORES[core], network(seed, dtype), seed)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("board", ["microbit", "netduinoplus2", "riscv-virt"])
def test_chips_that_qemu_models_equal_the_reference(board: str, dtype: str) -> None:
    for seed in range(500, 502):
        require_equal_on_board(board, network(seed, dtype), seed, engine="qemu")


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4", "rv32imac"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_networks_by_gcc_equal_the_reference(dtype: str, core: str) -> None:
    """So many layers that a branch of v6-M does not reach from end to end."""
    name = "riscv64-unknown-elf-gcc" if core == "rv32imac" else "arm-none-eabi-gcc"
    data = random_network(np.random.default_rng(40), dtype=dtype, num_operators=60)
    compiler = find_compiler(name, core=core)
    require_equal_on_board(EMULATED_CORES[core], data, 40, compiler=compiler)


def require_equal_on_board(
    name: str, data: bytes, seed: int, *, compiler: Compiler | None = None, engine: str | None = None
) -> None:
    """Play inputs; one trace for three of them, no unaligned access, and no more stack than the bound."""
    lowered = read_tflite(data)
    board = load_board(name, data_folder("boards"))
    with emulated.EmulatedNetwork(lowered, board, compiler=compiler, engine=engine) as device:
        require_equal_to_reference(device, lowered, seed, 8)
        inputs = random_inputs(np.random.default_rng(seed), lowered, 3)
        rows = [{name: values[i : i + 1] for name, values in inputs.items()} for i in range(3)]
        profiles = [device.profile(row) for row in rows]
        assert len({profile.trace_sha256 for profile in profiles}) == 1, f"{name}, seed {seed}"
        bound = stack_bound(read_elf(device.firmware.elf), f"{device.firmware.name}_infer")
        assert max(profile.stack_bytes for profile in profiles) <= bound
        assert not any(profile.unaligned for profile in profiles)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arenas_are_within_a_twentieth_of_what_must_be_alive_at_once(dtype: str) -> None:
    for seed in range(300):
        plan = plan_arena(read_tflite(network(seed, dtype)))
        assert plan.total_bytes <= 1.05 * plan.least_bytes, f"seed {seed}"
