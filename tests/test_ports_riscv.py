"""ESP32-C3: where its image lies, what esptool says of it, and its start-up with tables of registers.

No chip was at hand. The trap entry is RISC-V's own and is proven in QEMU (test_ports_qemu.py).
"""

import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from edgeqrl.errors import BoardFitError, DataError
from firmware_export import riscv
from firmware_export.board import load_board
from firmware_export.build import compile_firmware
from firmware_export.elf import read_elf
from firmware_export.emulators.emulator import Boot
from firmware_export.instruction_set import attribute_problems, forbidden_instructions
from firmware_export.thumb import Instruction
from tests.firmware import board, firmware, sources
from tests.ports import OK, SLOWLY, boot_chip, rests

COMPILERS = ["zig", pytest.param("riscv64-unknown-elf-gcc", marks=pytest.mark.slow)]
UART_FIFO, UART_STATUS = 0x60000000, 0x6000001C
SYSCLK, RESET_CAUSE, TIME, TIME_VALID = 0x600C0058, 0x60008038, 0x60023044, 0x60023004
RTC_WDT, RTC_KEY, SWD_CONF, SWD_KEY = 0x60008090, 0x600080A8, 0x600080AC, 0x600080B0
HEALTHY = {UART_STATUS: 0, RESET_CAUSE: 1, TIME_VALID: 1 << 29}
BLOCKS = (0x60000000, 0x60008000, 0x60009000, 0x6001F000, 0x60020000, 0x60023000, 0x600C0000, 0x600C2000)


def run(changed: dict[int, int] | None = None, compiler: str = "zig", *, has_time: bool = True) -> Boot:
    return boot_chip(
        firmware("esp32c3", compiler),
        board("esp32c3"),
        {**HEALTHY, **(changed or {})},
        uart=UART_FIFO,
        blocks=BLOCKS,
        counting=[TIME] if has_time else [],
    )


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_byte_of_sram_is_used_for_code_and_for_data(compiler: str) -> None:
    built, target = firmware("esp32c3", compiler), board("esp32c3")
    ram, code = target.region("ram"), target.region("iram")
    assert code.bytes == ram.bytes
    elf = read_elf(built.elf)
    places = []
    for segment in elf.segments:
        home = next(r for r in (ram, code) if r.start <= segment.address < r.end)
        start = segment.address - home.start
        places.append((start, start + segment.memory_bytes))
        assert segment.load_address == segment.address
    assert all(a[1] <= b[0] or b[1] <= a[0] for a, b in combinations(places, 2))
    assert max(end for _, end in places) < elf.address("__stack_top") - ram.start <= ram.bytes
    assert all(code.start <= r.start < code.end for r in elf.code)
    assert built.sizes.ram_bytes >= sum(end - start for start, end in places)
    assert len(built.bin) <= max(end for _, end in places)
    assert elf.entry == code.start
    assert elf.address("eqrl_trap_table") % 256 == 0


@pytest.mark.parametrize("compiler", COMPILERS)
def test_esptool_makes_an_image_of_the_elf(compiler: str, tmp_path: Path) -> None:
    (tmp_path / "firmware.elf").write_bytes(firmware("esp32c3", compiler).elf)
    tool = [sys.executable, "-m", "esptool", "--chip", "esp32c3"]
    make = ["elf2image", "--flash-size", "4MB", "-o", "image.bin", "firmware.elf"]
    said = [
        subprocess.run(
            [*tool, *call], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        ).stdout
        for call in (make, ["image-info", "image.bin"])
    ]
    assert "Entry point: 0x40380000" in said[1]
    assert said[1].count("(valid)") == 2  # check sum and hash
    assert "DROM" not in said[1]
    assert (tmp_path / "image.bin").read_bytes()[0] == 0xE9


@pytest.mark.parametrize("compiler", COMPILERS)
def test_esp32c3_boots_at_160_mhz_with_its_own_watchdog_only(compiler: str) -> None:
    found = run(compiler=compiler)
    assert found.text == OK
    assert rests(found, firmware("esp32c3", compiler))
    writes = dict(found.writes)
    assert writes[SYSCLK] == 1 << 10
    assert writes[0x60000014] == 347 | (4 << 20)  # 40 MHz / 347.25 = 115191
    assert (writes[RTC_WDT], writes[RTC_KEY], writes[SWD_KEY]) == (0, 0, 0)
    assert writes[SWD_CONF] == 1 << 31
    assert writes[0x60020048] == 0
    # interrupts: UART (source 21) to line 1, SYSTIMER (source 37) to line 2
    assert (writes[0x600C2054], writes[0x600C2094]) == (1, 2)
    assert (writes[0x600C2104], writes[0x600C2194]) == (0b110, 1)
    group = [(place - 0x6001F000, value) for place, value in found.writes if place >> 12 == 0x6001F]
    started = group.index((0x4C, 40_000 << 16))
    assert group[started - 1] == (0x64, 0x50D83AA1)
    assert group[started + 1] == (0x50, 250)
    assert group[started + 3][1] >> 29 == 0b111


def test_switch_to_the_pll_is_made_under_a_watchdog_that_would_reset_a_dead_core() -> None:
    writes = run().writes
    armed = writes.index((RTC_WDT, (1 << 31) | (4 << 28) | (1 << 16) | (1 << 13)))
    assert armed < writes.index((SYSCLK, 1 << 10)) < len(writes) - writes[::-1].index((RTC_WDT, 0))


@pytest.mark.parametrize("cause", [0x10, 0x09])
def test_after_such_a_reset_it_stays_on_the_crystal(cause: int) -> None:
    found = run({RESET_CAUSE: cause})
    assert found.text == SLOWLY + OK
    assert (SYSCLK, 1 << 10) not in found.writes


def test_clock_that_is_not_selected_is_given_up() -> None:
    found = run({SYSCLK: 0})
    assert found.text == SLOWLY + OK


def test_dead_timer_or_uart_does_not_hold_it() -> None:
    """Without a time base nothing would end a sleep: there is none."""
    for changed, text, is_resting in (({TIME_VALID: 0}, OK, False), ({UART_STATUS: 0x3C0 << 16}, "", True)):
        found = run(changed)
        assert found.text == text
        assert rests(found, firmware("esp32c3")) is is_resting


def test_atomics_are_of_rv32imac_only() -> None:
    swap = Instruction(0, 4, 0x0805202F)  # amoswap.w zero, zero, (a0)
    assert riscv.is_allowed(swap, "rv32imac")
    assert not riscv.is_allowed(swap, "rv32imc")
    multiply = Instruction(0, 4, 0x02B50533)
    assert riscv.is_allowed(multiply, "rv32imc")
    elf = read_elf(firmware("riscv-virt").elf)
    assert attribute_problems(elf, "rv32imac", "none") == []
    assert attribute_problems(elf, "rv32imc", "none")
    damaged = replace(elf, code=(replace(elf.code[0], content=swap.word.to_bytes(4, "little")),))
    assert forbidden_instructions(damaged, "rv32imac", "none") == []
    assert len(forbidden_instructions(damaged, "rv32imc", "none")) == 1


def test_image_that_exceeds_the_shared_ram_is_refused_with_the_numbers() -> None:
    target = board("esp32c3")
    small = tuple(replace(r, bytes=8192) if r.name in ("ram", "iram") else r for r in target.regions)
    with pytest.raises(BoardFitError, match=r"RAM: [\d,]+ bytes and [\d,]+ of stack needed, 8,192 there"):
        compile_firmware(sources(), replace(target, regions=small), with_selftest=True)


@pytest.mark.parametrize("wrong", ['"ram"', '"flash"', '"rom_ram"', '"nowhere"'])
def test_code_region_must_be_the_same_bytes_as_ram(wrong: str, tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "boards" / "esp32c3.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('code_region = "iram"', f"code_region = {wrong}"))
    with pytest.raises(
        DataError, match="'code_region' must name another region of kind ram, of the size of 'ram'"
    ):
        load_board(path, tmp_path)
