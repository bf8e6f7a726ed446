"""Whole boots: reset to self-test report, in unicorn with register tables for peripherals, and in QEMU."""

import struct
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from edgeqrl.errors import DeviceError
from firmware_export.build import Firmware, compile_firmware
from firmware_export.elf import read_elf
from firmware_export.emulators.emulator import Boot, boot
from firmware_export.emulators.qemu import boot_in_qemu, qemu_command
from firmware_export.uf2 import boot2_crc32
from tests.chips import CHIPS, SYSTEM_CONTROL, SYSTICK_COUNT, boot_chip
from tests.device_host import HELLO, RESET, SELFTEST, STEP, VERSION, frame, replies
from tests.firmware import (
    QEMU_BOARDS,
    board,
    cross_compiler,
    firmware,
    gcc_of,
    one_by_default,
    require_qemu,
    require_tool,
    sources,
)

OK = "edgeqrl robot self-test OK\r\n"
SLOWLY = "edgeqrl robot clock fault, running slowly\r\n"
BLOCK = 0x4000
RESET_DONE, REF_SELECTED, SYS_SELECTED = 0x4000C008, 0x40008038, 0x40008044
XOSC_STATUS, PLL_CS, UART, UART_FLAGS = 0x40024004, 0x40028000, 0x40034000, 0x40034018
HEALTHY = {
    RESET_DONE: 0xFFFFFFFF,
    REF_SELECTED: 4,
    SYS_SELECTED: 3,
    XOSC_STATUS: 1 << 31,
    PLL_CS: 1 << 31,
    UART_FLAGS: 0,
}
SSI = 0x18000000
CORE = (SYSTEM_CONTROL, 0x1000)
GCC = pytest.param("arm-none-eabi-gcc", marks=pytest.mark.slow)

RP2040JS = Path(__file__).parent.parent / "build" / "node_modules" / "rp2040js"


def boot_pico(built: Firmware, registers: Mapping[int, int] = HEALTHY) -> Boot:
    """Do what the boot ROM does: check boot2's CRC, copy it to the top of SRAM, jump there."""
    boot2 = built.bin[:256]
    assert struct.unpack_from("<I", boot2, 252)[0] == boot2_crc32(boot2[:252])
    blocks = [0x40008000, 0x4000C000, 0x40010000, 0x40014000, 0x4001C000, 0x40024000, 0x40028000, UART]
    blocks += [0x40058000]  # watchdog
    return boot(
        built.bin,
        built.start,
        board("rpi-pico"),
        pc=0x20041F00,
        sp=0x20041F00,
        registers=registers,
        peripherals=[(block, BLOCK) for block in blocks] + [(SSI, 0x1000), CORE],
        counting=[SYSTICK_COUNT],
        uart=UART,
        chunks=[(0x20041F00, boot2)],
        max_instructions=60_000_000,
    )


def boot_mps2(built: Firmware) -> Boot:
    stack, reset = struct.unpack_from("<II", built.bin)
    uart = board("mps2-an386").uart.base
    return boot(
        built.bin,
        built.start,
        board("mps2-an386"),
        pc=reset & ~1,
        sp=stack,
        registers={},
        peripherals=[
            (uart, 0x1000),
            (0x40008000, 0x1000),
            (0x4001F000, 0x1000),
            CORE,
        ],  # watchdog, reset reasons
        counting=[SYSTICK_COUNT],
        uart=uart,
    )


def with_patched_word(built: Firmware, symbol: str, offset: int) -> Firmware:
    """Flip a bit of an object that lies in flash, or is copied from there."""
    elf = read_elf(built.elf)
    address = elf.address(symbol) + offset
    home = next(s for s in elf.segments if s.content and s.address <= address < s.address + len(s.content))
    at = home.load_address + address - home.address - built.start
    image = bytearray(built.bin)
    image[at] ^= 1
    return replace(built, bin=bytes(image))


@pytest.mark.parametrize("compiler", ["zig", GCC])
def test_pico_boots_from_boot2_to_the_self_test(compiler: str) -> None:
    run = boot_pico(firmware("rpi-pico", compiler))
    assert run.text == OK
    writes = dict(run.writes)
    assert writes[SSI + 0xF4] == 0x03000218
    assert writes[0x4002800C] == 0x62000  # PLL: divide by 6, then by 2
    assert (writes[UART + 0x24], writes[UART + 0x28]) == (67, 52)  # 125 MHz / 16 / 67.8125 = 115207


@pytest.mark.parametrize("compiler", ["zig", GCC])
@pytest.mark.parametrize("name", one_by_default(CHIPS, ("rpi-pico2", "microbit", "nrf5340dk")))
def test_chip_boots_to_the_self_test(name: str, compiler: str) -> None:
    built = firmware(name, compiler)
    run = boot_chip(built, {})
    sleep = read_elf(built.elf).symbols["eqrl_port_sleep"]
    if CHIPS[name].uart:
        assert run.text == OK
    else:  # its UART fetches what it sends from RAM
        assert [value for address, value in run.writes if address == 0x50008008] == [1] * len(OK)
    assert sleep.address <= run.stopped_at <= sleep.address + sleep.size


@pytest.mark.parametrize(
    ("name", "clock"),
    [
        pytest.param("rpi-pico2", "crystal", marks=pytest.mark.slow),
        ("rpi-pico2", "pll"),
        ("nrf5340dk", "divider"),
    ],
)
def test_chip_says_that_it_runs_slowly(name: str, clock: str) -> None:
    run = boot_chip(firmware(name), CHIPS[name].dead[clock][0])
    if CHIPS[name].uart:
        assert run.text == SLOWLY + OK
    else:
        assert [address for address, _ in run.writes].count(0x50008008) == len(SLOWLY + OK)


@pytest.mark.parametrize("compiler", ["zig", GCC])
def test_mps2_boots_to_the_self_test(compiler: str) -> None:
    run = boot_mps2(firmware("mps2-an386", compiler))
    assert run.text == OK
    assert dict(run.writes)[0x40004010] == 25_000_000 // 115_200


@pytest.mark.parametrize(
    ("dead", "divisor"),
    [
        ({XOSC_STATUS: 0}, (3, 34)),  # ring oscillator, nominally 6.5 MHz
        ({REF_SELECTED: 1}, (3, 34)),
        ({PLL_CS: 0}, (6, 33)),  # crystal, 12 MHz
        ({SYS_SELECTED: 1}, (6, 33)),
    ],
)
def test_pico_runs_slowly_where_a_clock_never_starts(dead: dict[int, int], divisor: tuple[int, int]) -> None:
    run = boot_pico(firmware("rpi-pico"), HEALTHY | dead)
    assert run.text == SLOWLY + OK
    writes = dict(run.writes)
    assert (writes[UART + 0x24], writes[UART + 0x28]) == divisor


def test_pico_comes_to_rest_where_the_uart_never_sends() -> None:
    run = boot_pico(firmware("rpi-pico"), HEALTHY | {UART_FLAGS: 1 << 5})
    sleep = read_elf(firmware("rpi-pico").elf).symbols["eqrl_port_sleep"]
    assert run.text == ""
    assert sleep.address <= run.stopped_at < sleep.address + sleep.size


@pytest.mark.parametrize(
    ("symbol", "offset"), [("robot_params", 200), ("golden_actions", 0), ("golden_outputs", 1)]
)
def test_damage_in_flash_is_reported_and_nothing_steps(symbol: str, offset: int) -> None:
    said = "init FAILED" if symbol == "robot_params" else "self-test FAILED"
    for run in (
        boot_pico(with_patched_word(firmware("rpi-pico"), symbol, offset)),
        boot_mps2(with_patched_word(firmware("mps2-an386"), symbol, offset)),
    ):
        assert run.text == f"edgeqrl robot {said}\r\n"


def test_stm32_sends_at_its_baud_where_the_crystal_does_not_start_again() -> None:
    """A restart at full speed finds the buses divided, and may end on the undivided RC oscillator."""
    built, target = firmware("netduinoplus2"), board("netduinoplus2")
    stack, reset = struct.unpack_from("<II", built.bin)
    dividers, uart = 0x40023808, target.uart.base
    blocks = [0x40020000, 0x40023800, 0x40023C00, 0x40007000, 0x40003000, uart]
    run = boot(
        built.bin,
        built.start,
        target,
        pc=reset & ~1,
        sp=stack,
        registers={dividers: (5 << 10) | (4 << 13), uart: 1 << 7},
        peripherals=[*((block, 0x400) for block in blocks), (0xE0042000, 0x1000), CORE],  # DBGMCU
        counting=[SYSTICK_COUNT],
        uart=uart + 4,
    )
    assert run.text == SLOWLY + OK
    writes = dict(run.writes)
    assert (writes[dividers], writes[uart + 8]) == (0, 139)  # 16 MHz / 139 = 115108


@pytest.mark.slow
@pytest.mark.parametrize("name", QEMU_BOARDS)
def test_every_machine_boots_in_qemu_to_the_self_test(name: str) -> None:
    """The clocks of two never start there: no wait is endless, and they run slowly."""
    require_qemu(name)
    expected = SLOWLY + OK.strip() if name in ("netduinoplus2", "stm32vldiscovery") else OK.strip()
    for compiler in ("zig", gcc_of(name)):
        assert boot_in_qemu(firmware(name, compiler).elf, board(name)) == expected


@pytest.mark.slow
def test_silent_firmware_in_qemu_is_ended() -> None:
    require_tool("qemu-system-arm")
    elf = firmware("mps2-an386").elf
    reset = read_elf(elf).section_offsets[".startup"]
    silent = elf[:reset] + b"\xfe\xe7" + elf[reset + 2 :]  # b .
    with pytest.raises(DeviceError, match="sent no line within 1 s"):
        boot_in_qemu(silent, board("mps2-an386"), timeout_s=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["zig", "arm-none-eabi-gcc"])
def test_pico_boots_on_a_model_of_the_whole_chip(compiler: str, tmp_path: Path) -> None:
    (tmp_path / "firmware.bin").write_bytes(firmware("rpi-pico", compiler).bin)
    module = RP2040JS / "dist" / "esm" / "index.js"
    assert module.is_file(), "needs the npm package rp2040js: make build/node_modules"
    script = Path(__file__).with_name("rp2040js_boot.mjs")
    command = [require_tool("node"), str(script), str(module), str(tmp_path / "firmware.bin")]
    found = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert found.stdout.decode() == OK


def test_qemu_without_a_model_of_the_board_is_said() -> None:
    with pytest.raises(DeviceError, match="QEMU has no model of rpi-pico"):
        boot_in_qemu(b"", board("rpi-pico"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["microbit", "mps2-an386", "riscv-virt"])
def test_semihosting_twin_answers_in_qemu_and_ends_with_its_input(name: str, tmp_path: Path) -> None:
    require_qemu(name)
    requests = [(HELLO, VERSION), (RESET, bytes(4)), (STEP, bytes(20)), (SELFTEST, b"")]
    stream = b"".join(frame(kind, number, payload) for number, (kind, payload) in enumerate(requests))
    for compiler in ("zig", gcc_of(name)):
        twin = compile_firmware(
            sources(),
            board(name),
            compiler=cross_compiler(compiler),
            with_selftest=True,
            transport="semihosting",
        )
        (tmp_path / "twin.elf").write_bytes(twin.elf)
        command = [*qemu_command(board(name), tmp_path / "twin.elf"), "-serial", "none", "-monitor", "none"]
        command += ["-semihosting-config", "enable=on,target=native"]
        done = subprocess.run(command, input=stream, capture_output=True, timeout=60, check=True)
        assert done.stdout.startswith(OK.encode())
        found = replies(done.stdout.removeprefix(OK.encode()))
        assert [(kind, number) for kind, number, _ in found] == [
            (kind | 0x80, number) for number, (kind, _) in enumerate(requests)
        ]
        assert {payload[0] for _, _, payload in found} == {0}
