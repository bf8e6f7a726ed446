from dataclasses import replace

import numpy as np
import pytest

from edgeqrl.errors import BoardFitError
from edgeqrl.stages import require_policy_fits
from firmware_export.board import Region
from firmware_export.build import compile_firmware
from firmware_export.fit import (
    FirmwareSizes,
    estimate_sizes,
    estimate_us,
    require_fits,
    timing_model,
)
from tests.c_policies import random_policy
from tests.firmware import ALL_BOARDS, board, firmware, policy, sources, three_cores


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        (FirmwareSizes(2 * 1024 * 1024 + 1, 0, 0), "flash: 2,097,153 bytes needed, 2,097,152 there"),
        (FirmwareSizes(0, 270_000, 337), "RAM: 270,000 bytes and 337 of stack needed, 270,336 there"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(sizes: FirmwareSizes, said: str) -> None:
    with pytest.raises(BoardFitError, match=said):
        require_fits(sizes, board("rpi-pico"))


def test_what_fills_the_board_exactly_fits() -> None:
    require_fits(FirmwareSizes(2 * 1024 * 1024, 270_000, 336), board("rpi-pico"))


@pytest.mark.parametrize("name", three_cores(ALL_BOARDS))
def test_estimate_before_compiling_is_above_the_image(name: str) -> None:
    from firmware_export.emit.arena import plan_arena
    from firmware_export.emit.params import build_params

    state_bytes = 4 + plan_arena(policy().network).total_bytes
    estimate = estimate_sizes(len(build_params(policy())), state_bytes, board(name))
    sizes = firmware(name).sizes
    golden_bytes = len(firmware(name).bin) - len(compile_firmware(sources(), board(name)).bin)
    assert estimate.flash_bytes >= sizes.flash_bytes - golden_bytes
    assert estimate.stack_bytes >= sizes.stack_bytes
    assert firmware(name).runs_from_ram or estimate.ram_bytes >= sizes.ram_bytes


def test_estimated_time_names_its_model_and_scales() -> None:
    pico = board("rpi-pico")
    assert estimate_us(1000, pico) == pytest.approx(12.0)
    assert timing_model(pico).name == "1.5 cycles an instruction, no wait states"


def test_wait_states_of_the_memory_that_code_runs_from_count() -> None:
    """By hand: bytes that an instruction reads, over the bytes that one read brings, times its wait."""
    flash, ram = Region("flash", 0, 4096, "flash", 2), Region("ram", 2**29, 4096, "ram", 0)
    target = replace(board("microbit-v2"), regions=(flash, ram), clock_hz=1_000_000)
    expected = 1.3 + 2 * 3.25 / 4
    assert timing_model(target).cycles_per_instruction == pytest.approx(expected)
    assert timing_model(target).name == "1.3 cycles an instruction and 1.6 of wait states"
    assert estimate_us(100, target) == pytest.approx(100 * expected)
    assert timing_model(target, runs_from_ram=True).cycles_per_instruction == 1.3
    cached = replace(target, regions=(replace(flash, cache_bytes=1024, read_bytes=16), ram))
    assert timing_model(cached).cycles_per_instruction == pytest.approx(1.3 + 2 * 0.25 / 16)
    slow_ram = replace(target, regions=(replace(flash, wait_states=0), replace(ram, wait_states=5)))
    assert timing_model(slow_ram).cycles_per_instruction == pytest.approx(1.3 + 5 * 0.4)


def test_policy_that_is_too_slow_is_refused_before_it_is_compiled() -> None:
    rng = np.random.default_rng(1)
    large = random_policy(rng, (16, 128, 128, 4), name="slow")
    require_policy_fits(large, board("mps2-an386"), control_period_s=0.1)
    require_policy_fits(large, board("microbit"))
    with pytest.raises(BoardFitError, match=r"on microbit \(about .* and the control period is 1,000 us"):
        require_policy_fits(large, board("microbit"), control_period_s=0.001)
    require_policy_fits(large, board("esp32"), control_period_s=1e-6)  # of its SDK's build nothing is known
