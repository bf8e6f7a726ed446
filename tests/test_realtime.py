import re
from dataclasses import replace

import numpy as np
import pytest

from edgeqrl.backends.emulated import EmulatedPolicy
from edgeqrl.errors import BoardFitError
from firmware_export.elf import read_elf
from firmware_export.emit.arena import plan_arena
from firmware_export.fit import require_in_time
from firmware_export.realtime import (
    StepCount,
    count_steps,
    realtime_sentence,
    realtime_sheet,
    realtime_text,
)
from firmware_export.stack import reached, stack_bound
from firmware_export.thumb import Instruction, decode, uses_fpu
from tests.c_policies import random_observations
from tests.firmware import ALL_BOARDS, board, firmware, one_a_core, policy

ARENA = plan_arena(policy().network).total_bytes
COUNT = StepCount(instructions=10_000, stack_bytes=100, num_observations=2, is_constant=True)


@pytest.mark.parametrize("name", one_a_core(ALL_BOARDS))
def test_sheet_of_every_board_adds_up(name: str) -> None:
    built, target = firmware(name), board(name)
    sheet = realtime_sheet(built, target, arena_bytes=ARENA, control_period_s=0.02, count=COUNT)
    ram = sheet["ram"]
    parts = [ram[f"{part}_bytes"] for part in ("state", "observation", "action", "device", "code")]
    assert min(parts) >= 0
    assert sum(parts) == ram["total_bytes"] == built.sizes.ram_bytes
    assert ram["arena_bytes"] <= ram["state_bytes"]
    assert (ram["code_bytes"] > 0) == built.runs_from_ram
    assert ram["free_bytes"] >= 0
    assert sheet["stack"]["step_bound_bytes"] < sheet["stack"]["firmware_bound_bytes"]
    assert sheet["control"]["left_us"] == pytest.approx(20_000 - sheet["time"]["us"])
    assert (sheet["watchdog"]["timeout_ms"] is None) == (target.watchdog == "none")
    handlers = {handler["name"] for handler in sheet["interrupts"]["handlers"]}
    assert "eqrl_port_uart_interrupt" in handlers


@pytest.mark.parametrize("name", one_a_core(ALL_BOARDS))
def test_only_helium_makes_a_step_use_registers_of_the_fpu(name: str) -> None:
    """Interrupts of an integer policy save eight words, whatever FPU the core has."""
    fpu = realtime_sheet(firmware(name), board(name))["fpu"]
    assert fpu["step_uses_registers"] == (board(name).core == "cortex-m55")
    assert (fpu["frame_bytes_in_use"] is None) == (board(name).fpu == "none")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("30ee201a", True),  # VADD.F32 s2, s0, s0: halfwords EE30 1A20
        ("2ded048b", True),  # VPUSH {d8-d9}
        ("b0ee410a", True),  # VMOV.F32
        ("00bf", False),  # NOP
        ("2de9f04f", False),  # PUSH.W {r4-r11, lr}
        ("00fb02f1", False),  # MUL
        ("c0f30721", False),  # UBFX
        ("bff35f8f", False),  # DMB
    ],
)
def test_instructions_of_the_fpu_are_known(code: str, expected: bool) -> None:
    (instruction,) = decode(bytes.fromhex(code), 0)
    assert uses_fpu(instruction) is expected


def test_what_a_step_reaches_lies_in_the_image() -> None:
    elf = read_elf(firmware("mps2-an386").elf)
    found = reached(elf, "robot_step")
    assert all(isinstance(instruction, Instruction) for instruction in found)
    step = elf.symbols["robot_step"]
    assert {step.address} <= {instruction.address for instruction in found}
    assert len(found) > step.size // 4
    main = reached(elf, "main")
    assert len(main) > len(found)


@pytest.mark.parametrize("name", ["mps2-an386", "rpi-pico"])
def test_counted_step_is_constant_and_within_its_bound(name: str) -> None:
    target, built = board(name), firmware(name)
    with EmulatedPolicy(built, policy(), target) as device:
        rows = random_observations(np.random.default_rng(3), policy(), 3)
        count = count_steps([device.profile(row) for row in rows])
    assert count.is_constant
    assert count.num_observations == 3
    sheet = realtime_sheet(built, target, arena_bytes=ARENA, control_period_s=0.02, count=count)
    stack = sheet["stack"]
    assert 0 < stack["step_measured_bytes"] <= stack["step_bound_bytes"]
    assert stack["step_bound_bytes"] == stack_bound(read_elf(built.elf), "robot_step")
    text = realtime_text(sheet)
    assert f"{count.instructions:,}, on the emulated core, for 3 observations: the same" in text
    assert "uses none of its registers" in text or target.fpu == "none"
    assert re.search(r"9\d\.\d % of the control period is left", realtime_sentence(sheet))


def test_what_is_not_known_is_said() -> None:
    sheet = realtime_sheet(firmware("mps2-an386"), board("mps2-an386"))
    text = realtime_text(sheet)
    assert sheet["time"] is None
    assert "not counted: run `edgeqrl emulate`" in text
    assert "Control period: not known, so that nothing was checked" in text
    assert "counted by `edgeqrl emulate`" in realtime_sentence(sheet)
    unequal = replace(COUNT, is_constant=False)
    assert "NOT the same" in realtime_text(
        realtime_sheet(firmware("mps2-an386"), board("mps2-an386"), count=unequal)
    )


def test_step_longer_than_the_period_is_refused_with_the_numbers_and_the_cure() -> None:
    target = board("microbit")
    require_in_time(100_000, target, 0.01)  # takes exactly that
    require_in_time(10**9, target, None)
    said = r"10,001 us on microbit \(100,010 instructions, 1.6 cycles .* 16 MHz: an estimate\)"
    with pytest.raises(BoardFitError, match=f"{said}, and the control period is 10,000 us: use a smaller"):
        require_in_time(100_010, target, 0.01)
    require_in_time(129_000, target, 0.01, is_estimate=True)  # may be the estimate's error
    with pytest.raises(BoardFitError, match="about 131,000 instructions"):
        require_in_time(131_000, target, 0.01, is_estimate=True)
