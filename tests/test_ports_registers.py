"""Ports with tables of registers: time bases that stand still, watchdogs' resets, what pends from before."""

import struct

import pytest
import unicorn
from unicorn import arm_const, riscv_const

from firmware_export.elf import Elf, read_elf
from firmware_export.emulators.emulator import Boot
from tests import test_ports_riscv, test_ports_stm32, test_ports_teensy
from tests.chips import CHIPS, NRF, SYSTEM_CONTROL, boot_chip
from tests.firmware import board, one_by_default
from tests.port_echo import echo
from tests.ports import boot_chip as boot_table

MTIME, LINE_STATUS = 0x0200BFF8, 0x10000005
QUICK = ("rpi-pico2", "microbit")
RESET_REASONS = {  # register, and its value after a watchdog's reset
    "rpi-pico": (0x40058008, 1),
    "rpi-pico2": (0x400D8008, 1),
    "microbit": (0x40000400, 2),
    "microbit-v2": (0x40000400, 2),
    "nano33ble": (0x40000400, 2),
}
MPS = {  # UART, blocks, reset reasons, value after a watchdog's reset, what clears them
    "mps2-an386": (0x40004000, (0x40004000, 0x40008000, 0x4001F000), 0x4001F010, 2, 2),
    "mps2-an505": (0x50200000, (0x50200000, 0x50081000, 0x50021000), 0x50021100, 4, 0),
}
SYSTICK_COUNT, ICSR = SYSTEM_CONTROL + 0x018, SYSTEM_CONTROL + 0xD04
PERIOD, SHIFT = 600_000, 9
RETURN = 0x70000000


def stm32(name: str, *, is_watchdog: bool) -> Boot:
    chip, target = test_ports_stm32.CHIPS[name], board(name)
    status = {target.uart.base + chip.status_at: 1 << 7, chip.flags: chip.watchdog_flag if is_watchdog else 0}
    sends = target.uart.base + chip.sends_at
    return boot_table(echo(name), target, {**chip.healthy, **status}, uart=sends, blocks=chip.pages)


def virt(*, has_time: bool) -> Boot:
    return boot_table(
        echo("riscv-virt"),
        board("riscv-virt"),
        {LINE_STATUS: 0x20},
        uart=0x10000000,
        blocks=(0x0200B000, 0x02004000, 0x0C000000, 0x0C002000, 0x0C200000, 0x10000000),
        counting=[MTIME] if has_time else [],
    )


def reset_of(run: Boot) -> str:
    return run.text.splitlines()[-1]


@pytest.mark.parametrize("name", one_by_default([n for n in CHIPS if CHIPS[n].uart], QUICK))
def test_time_base_that_never_counts_is_none(name: str) -> None:
    run = boot_chip(echo(name), {}, has_time=False)
    assert run.text == f"c{CHIPS[name].hz:08X}\nt00000000\nr00000000\n"
    if name not in NRF:
        assert [value for place, value in run.writes if place == SYSTEM_CONTROL + 0x010] == [0, 0, 7, 0]


@pytest.mark.parametrize("has_time", [False, True])
def test_time_base_of_machine_virt_counts_or_is_none(has_time: bool) -> None:
    text = virt(has_time=has_time).text[1:]  # behind the divisor, in the same register
    assert text == f"c00989680\nt{10**7 * has_time:08X}\nr00000000\n"


@pytest.mark.parametrize("name", one_by_default(RESET_REASONS, QUICK))
def test_reset_by_the_watchdog_is_known(name: str) -> None:
    register, value = RESET_REASONS[name]
    ours = {register + 0x14: 0x4C525145} if name.startswith("rpi-pico") else {}  # scratch 4
    run = boot_chip(echo(name), {register: value, **ours})
    assert reset_of(run) == "r00000001"
    assert ((register, value) in run.writes) == (
        name in NRF
    )  # cleared by ones; the others tell the last reset
    assert reset_of(boot_chip(echo(name), {register: 0x10, **ours})) == "r00000000"


def test_restart_by_the_boot_rom_of_an_rp2_is_not_its_watchdogs() -> None:
    """After a UF2 copy it restarts by the watchdog, with a word of its own."""
    register, value = RESET_REASONS["rpi-pico"]
    run = boot_chip(echo("rpi-pico"), {register: value, register + 0x14: 0})
    assert reset_of(run) == "r00000000"


@pytest.mark.parametrize("name", ["stm32vldiscovery", "netduinoplus2", "nucleo-h743zi"])
def test_reset_by_the_watchdog_of_an_stm32_is_known_and_cleared(name: str) -> None:
    chip = test_ports_stm32.CHIPS[name]
    run = stm32(name, is_watchdog=True)
    assert reset_of(run) == "r00000001"
    clear = 1 << 16 if name == "nucleo-h743zi" else 1 << 24
    assert (chip.flags, chip.watchdog_flag | clear) in run.writes
    assert reset_of(stm32(name, is_watchdog=False)) == "r00000000"


@pytest.mark.parametrize("is_watchdog", [False, True])
def test_reset_by_the_watchdog_of_an_imxrt_is_known(is_watchdog: bool) -> None:
    built, there = echo("teensy41"), test_ports_teensy
    registers = {**there.HEALTHY, there.WDOG_WCR + 4: 2 if is_watchdog else 16}
    entry = struct.unpack_from("<I", built.bin, 0x1004)[0]
    run = boot_table(
        built, board("teensy41"), registers, uart=there.UART_DATA, blocks=there.BLOCKS, entry=entry
    )
    assert reset_of(run) == f"r{is_watchdog:08X}"


@pytest.mark.parametrize("cause", [1, 7, 9])
def test_reset_by_the_watchdog_of_an_esp32c3_is_known(cause: int) -> None:
    there = test_ports_riscv
    registers = {**there.HEALTHY, there.RESET_CAUSE: cause}
    target = board("esp32c3")
    run = boot_table(
        echo("esp32c3"), target, registers, uart=there.UART_FIFO, blocks=there.BLOCKS, counting=[there.TIME]
    )
    assert reset_of(run) == f"r{cause == 7:08X}"


@pytest.mark.parametrize("name", MPS)
def test_reset_by_the_watchdog_of_an_mps2_is_known_and_cleared(name: str) -> None:
    uart, blocks, register, value, clears = MPS[name]
    run = boot_table(echo(name), board(name), {register: value}, uart=uart, blocks=blocks)
    assert reset_of(run) == "r00000001"
    assert (register, clears) in run.writes
    assert reset_of(boot_table(echo(name), board(name), {}, uart=uart, blocks=blocks)) == "r00000000"


@pytest.mark.parametrize("name", ["rpi-pico2", "microbit"])
def test_interrupts_of_the_core_that_wait_from_before_are_dropped(name: str) -> None:
    writes = boot_chip(echo(name), {}).writes
    off = writes.index((SYSTEM_CONTROL + 0x010, 0))
    assert writes[off + 1] == (ICSR, (1 << 25) | (1 << 27))


@pytest.mark.parametrize("name", ["rpi-pico", "rpi-pico2"])
def test_kick_before_the_start_gives_a_running_watchdog_all_its_time(name: str) -> None:
    elf = read_elf(echo(name).elf)
    machine = arm(elf)
    load = RESET_REASONS[name][0] - 4
    machine.mem_map(load & -4096, 4096)
    call_arm(machine, elf, "eqrl_port_watchdog_kick")
    assert word(machine, load) == 0xFFFFFF


def arm(elf: Elf) -> unicorn.Uc:
    """Load every segment to where it runs, and the page of the core's registers as memory."""
    machine = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
    machine.ctl_set_cpu_model(arm_const.UC_CPU_ARM_CORTEX_M7)
    for start in (RETURN, SYSTEM_CONTROL):
        machine.mem_map(start, 4096)
    load(machine, elf)
    return machine


def load(machine: unicorn.Uc, elf: Elf) -> None:
    pages = {(elf.address("__stack_top") - 1) & -4096}
    for segment in elf.segments:
        pages |= set(range(segment.address & -4096, segment.address + segment.memory_bytes, 4096))
    for page in sorted(pages):
        machine.mem_map(page, 4096)
    for segment in elf.segments:
        machine.mem_write(segment.address, segment.content)


def call_arm(machine: unicorn.Uc, elf: Elf, name: str) -> int:
    machine.reg_write(arm_const.UC_ARM_REG_SP, elf.address("__stack_top"))
    machine.reg_write(arm_const.UC_ARM_REG_LR, RETURN | 1)
    machine.emu_start(elf.address(name) | 1, RETURN, count=10_000)
    return int(machine.reg_read(arm_const.UC_ARM_REG_R0))


def word(machine: unicorn.Uc, address: int) -> int:
    return int.from_bytes(machine.mem_read(address, 4), "little")


def put(machine: unicorn.Uc, address: int, value: int) -> None:
    machine.mem_write(address, value.to_bytes(4, "little"))


@pytest.mark.parametrize("shift", [0, 1, 4, SHIFT])
@pytest.mark.parametrize(
    "passed", [0, PERIOD, 2**32 - PERIOD, 2**32 - 1, 2**32, 2**41 - 2 * PERIOD, 2**41 - 1, 2**63]
)
def test_systick_counts_on_where_its_words_come_round(passed: int, shift: int) -> None:
    """`passed` clocks had been counted; over two periods a tick is what 64 bits give, modulo 2^32."""
    elf = read_elf(echo("teensy41").elf)
    machine = arm(elf)
    names = {"counted": passed & 0xFFFFFFFF, "counted_high": passed >> 32, "period": PERIOD, "shift": shift}
    for name, value in names.items():
        put(machine, elf.address(name), value)
    for done in range(3):
        for left in (PERIOD - 1, PERIOD // 2, 1):
            for pending in (0, 1):
                put(machine, SYSTICK_COUNT, left)
                put(machine, ICSR, pending << 26)
                clocks = passed + (done + pending) * PERIOD + PERIOD - left
                assert call_arm(machine, elf, "eqrl_port_ticks") == (clocks >> shift) & 0xFFFFFFFF
        call_arm(machine, elf, "SysTick_Handler")


def test_time_of_an_esp32c3_stays_where_it_cannot_be_read() -> None:
    elf = read_elf(echo("esp32c3").elf)
    machine = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV32)
    machine.mem_map(RETURN, 4096)
    load(machine, elf)
    timer = {0x004: 1 << 29, 0x044: 123}
    machine.mmio_map(
        0x60023000, 4096, lambda _uc, offset, _size, _data: timer.get(offset, 0), None, lambda *_: None, None
    )
    found = []
    for changed in ({}, {0x044: 456}, {0x004: 0, 0x044: 789}, {0x004: 1 << 29}):
        timer |= changed
        machine.reg_write(riscv_const.UC_RISCV_REG_SP, elf.address("__stack_top"))
        machine.reg_write(riscv_const.UC_RISCV_REG_RA, RETURN)
        machine.emu_start(elf.address("eqrl_port_ticks"), RETURN)
        found.append(machine.reg_read(riscv_const.UC_RISCV_REG_A0))
    assert found == [123, 456, 456, 789]
