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
    known_sizes,
    region_uses,
    require_fits,
    timing_model,
)
from firmware_export.placement import place
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


def test_each_region_is_checked_and_told_by_its_name() -> None:
    target = board("stm32f4discovery")
    sizes = FirmwareSizes(1000, 131_000, 100, {"ccm": 65_540})
    with pytest.raises(BoardFitError, match=r"RAM: 131,000 .*; ccm: 65,540 bytes needed, 65,536 there"):
        require_fits(sizes, target)
    require_fits(replace(sizes, ram_bytes=130_972, regions={"ccm": 65_536}), target)
    flash, ram, ccm = region_uses(sizes, target)
    assert (flash["name"], flash["bytes"], flash["available_bytes"]) == ("flash", 1000, 2**20)
    assert (ram["name"], ram["bytes"], ram["stack_bytes"]) == ("ram", 131_000, 100)
    assert ccm == {
        "name": "ccm", "kind": "ram", "bytes": 65_540, "stack_bytes": 0, "available_bytes": 65_536
    }  # fmt: skip


def test_null_of_a_memory_at_address_0_is_not_available() -> None:
    uses = region_uses(FirmwareSizes(0, 0, 0, {"itcm": 1}), board("nucleo-h743zi"))
    assert uses[-1]["available_bytes"] == 65_536 - 32


def test_what_is_known_before_compiling_counts_in_its_region() -> None:
    target = board("stm32f4discovery")
    assert known_sizes(100, 20, 3, target, {}) == FirmwareSizes(100, 23, 0)
    apart = known_sizes(100, 20, 3, target, {"arena": "ccm", "weights": "ccm"})
    assert apart == FirmwareSizes(100, 3, 0, {"ccm": 120})
    assert known_sizes(100, 20, 3, target, {"weights": "ram"}) == FirmwareSizes(100, 123, 0)
    large = random_policy(np.random.default_rng(1), (16, 300, 300, 4), name="large")
    require_policy_fits(large, target, placement={"weights": "ram"})
    with pytest.raises(
        BoardFitError, match=r"ccm: 101,920 bytes needed, 65,536 there\): use .*another --place"
    ):
        require_policy_fits(large, target, placement={"weights": "ccm"})


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
    in_ram = place(target, runs_from_ram=True)
    assert timing_model(target, placement=in_ram).cycles_per_instruction == 1.3
    weights_alone = place(target, {"weights": "ram"})
    assert timing_model(target, placement=weights_alone).cycles_per_instruction == pytest.approx(
        1.3 + 2 * 3 / 4
    )
    code_alone = place(target, {"code": "ram"})
    assert timing_model(target, placement=code_alone).cycles_per_instruction == pytest.approx(
        1.3 + 2 * 0.25 / 4
    )
    cached = replace(target, regions=(replace(flash, cache_bytes=1024, read_bytes=16), ram))
    assert timing_model(cached).cycles_per_instruction == pytest.approx(1.3 + 2 * 0.25 / 16)
    slow_ram = replace(target, regions=(replace(flash, wait_states=0), replace(ram, wait_states=5)))
    assert timing_model(slow_ram).cycles_per_instruction == pytest.approx(1.3 + 5 * 0.4)
    fast = replace(slow_ram, regions=(*slow_ram.regions, Region("dtcm", 2**30, 4096, "ram", 0)))
    assert timing_model(fast, placement=place(fast, {"arena": "dtcm"})).cycles_per_instruction == 1.3


def test_policy_that_is_too_slow_is_refused_before_it_is_compiled() -> None:
    rng = np.random.default_rng(1)
    large = random_policy(rng, (16, 128, 128, 4), name="slow")
    require_policy_fits(large, board("mps2-an386"), control_period_s=0.1)
    require_policy_fits(large, board("microbit"))
    with pytest.raises(BoardFitError, match=r"on microbit \(about .* and the control period is 1,000 us"):
        require_policy_fits(large, board("microbit"), control_period_s=0.001)
    require_policy_fits(large, board("esp32"), control_period_s=1e-6)  # of its SDK's build nothing is known
