"""Register tables of chips whose peripherals no emulator has, and a boot among them."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from firmware_export.build import Firmware
from firmware_export.emulators.emulator import Boot, boot
from tests.firmware import board

NRF = ("microbit", "microbit-v2", "nano33ble", "nrf5340dk")

ALL, BIT31 = 0xFFFFFFFF, 1 << 31
SYSTEM_CONTROL, SYSTICK_COUNT = 0xE000E000, 0xE000E018
NRF_TIME = {
    "microbit": 0x40008544,
    "microbit-v2": 0x40008544,
    "nano33ble": 0x40008544,
    "nrf5340dk": 0x5000F544,
}


@dataclass(frozen=True)
class Chip:
    """Register tables of one chip."""

    blocks: tuple[int, ...]
    healthy: Mapping[int, int]
    uart: int  # register to which bytes are written
    mute: Mapping[int, int]  # the UART never sends
    dead: Mapping[str, tuple[Mapping[int, int], int]]  # name -> (registers, clock that is reached)
    hz: int


def rp_clocks(ref: int, xosc: int, pll: int, hz: tuple[int, int]) -> dict[str, tuple[dict[int, int], int]]:
    slow, crystal = hz
    return {
        "crystal": ({xosc + 4: 0}, slow),
        "reference": ({ref + 8: 1}, slow),
        "pll": ({pll: 0}, crystal),
        "system": ({ref + 0x14: 1}, crystal),
    }


def nrf(uart_sent: int, clock: int, hz: int) -> Chip:
    """Describe an nRF51 or nRF52: without its crystal it runs as fast, from its RC oscillator."""
    return Chip(
        blocks=(0x40000000, 0x40002000, 0x40008000, 0x40010000, 0x4001E000, 0x50000000),
        healthy={clock: 1, uart_sent: 1},
        uart=0x4000251C,
        mute={uart_sent: 0},
        dead={"crystal": ({clock: 0}, hz)},
        hz=hz,
    )


CHIPS = {
    "rpi-pico": Chip(
        blocks=(
            *(0x40008000, 0x4000C000, 0x40010000, 0x40014000, 0x4001C000, 0x40024000, 0x40028000),
            *(0x40034000, 0x40058000, 0x18000000),
        ),
        healthy={
            0x4000C008: ALL,
            0x40008038: 4,
            0x40008044: 3,
            0x40024004: BIT31,
            0x40028000: BIT31,
            0x40034018: 0,
        },
        uart=0x40034000,
        mute={0x40034018: 1 << 5},
        dead=rp_clocks(0x40008030, 0x40024000, 0x40028000, (6_500_000, 12_000_000)),
        hz=125_000_000,
    ),
    "rpi-pico2": Chip(
        blocks=(
            *(0x40010000, 0x40018000, 0x40020000, 0x40028000, 0x40038000, 0x40048000, 0x40050000),
            *(0x40070000, 0x400D8000, 0x40108000),
        ),
        healthy={
            0x40020008: ALL,
            0x40010038: 4,
            0x40010044: 3,
            0x40048004: BIT31,
            0x40050000: BIT31,
            0x40070018: 0,
        },
        uart=0x40070000,
        mute={0x40070018: 1 << 5},
        dead=rp_clocks(0x40010030, 0x40048000, 0x40050000, (11_000_000, 12_000_000)),
        hz=150_000_000,
    ),
    "microbit": nrf(0x4000211C, 0x40000100, 16_000_000),
    "microbit-v2": nrf(0x4000211C, 0x40000100, 64_000_000),
    "nano33ble": nrf(0x4000211C, 0x40000100, 64_000_000),
    "nrf5340dk": Chip(
        blocks=(0x50001000, 0x50005000, 0x50008000, 0x5000F000, 0x50018000, 0x50842000),
        healthy={0x50005100: 1, 0x50008120: 1},
        uart=0,  # it fetches what it sends from RAM
        mute={0x50008120: 0},
        dead={"crystal": ({0x50005100: 0}, 128_000_000), "divider": ({0x50005558: 1}, 64_000_000)},
        hz=128_000_000,
    ),
}


def boot_chip(built: Firmware, registers: Mapping[int, int], *, has_time: bool = True) -> Boot:
    """Reset the chip; after a boot ROM, where it has one that does more than to start the vectors."""
    chip, target = CHIPS[built.board], board(built.board)
    has_boot2 = built.start < target.region("flash").start
    stack, reset = struct.unpack_from("<II", built.bin)
    if has_boot2:
        stack, reset = 0x20041F00, 0x20041F00
    return boot(
        built.bin,
        built.start,
        target,
        pc=reset & ~1,
        sp=stack,
        registers={**chip.healthy, **registers},
        peripherals=[
            *((block, 0x1000 if built.board in NRF else 0x4000) for block in chip.blocks),
            (SYSTEM_CONTROL, 0x1000),
        ],
        uart=chip.uart,
        chunks=[(stack, built.bin[:256])] if has_boot2 else [],
        counting=[NRF_TIME.get(built.board, SYSTICK_COUNT)] if has_time else [],
        max_instructions=60_000_000,
    )
