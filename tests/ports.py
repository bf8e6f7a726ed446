"""Boots of a port in unicorn: registers that answer as a healthy chip's do, or not."""

import struct
from collections.abc import Mapping, Sequence

from firmware_export.board import Board
from firmware_export.build import Firmware
from firmware_export.elf import read_elf
from firmware_export.emulators.emulator import Boot, boot

OK = "edgeqrl robot self-test OK\r\n"
SLOWLY = "edgeqrl robot clock fault, running slowly\r\n"
PAGE = 0x1000
SYSTEM_CONTROL, SYSTICK_COUNT = 0xE000E000, 0xE000E018


def boot_chip(
    built: Firmware,
    target: Board,
    registers: Mapping[int, int],
    *,
    uart: int,
    blocks: Sequence[int],
    counting: Sequence[int] = (SYSTICK_COUNT,),
    entry: int | None = None,
) -> Boot:
    """Start as the core does after a reset, or at `entry`; `uart` is the register that takes what is sent."""
    elf = read_elf(built.elf)
    is_arm = target.port == "cortex_m"
    at = elf.address("eqrl_vectors") - built.start if is_arm else 0
    stack, reset = struct.unpack_from("<II", built.bin, at)
    if not is_arm:
        reset = elf.entry
    loaded = [(s.address, s.content) for s in elf.segments if s.content and target.code_region]
    return boot(
        built.bin,
        built.start,
        target,
        pc=(reset if entry is None else entry) & ~1,
        sp=stack & ~3,
        registers=registers,
        peripherals=[(block, PAGE) for block in (*blocks, *([SYSTEM_CONTROL] if is_arm else []))],
        uart=uart,
        chunks=loaded,
        has_aliases=False,
        counting=counting,
        max_instructions=60_000_000,
    )


def first_write(run: Boot, address: int) -> int:
    return next(value for place, value in run.writes if place == address)


def rests(run: Boot, built: Firmware) -> bool:
    """Tell whether the core sleeps where it waits for the host."""
    sleep = read_elf(built.elf).symbols["eqrl_port_sleep"]
    return sleep.address <= run.stopped_at < sleep.address + max(sleep.size, 8)
