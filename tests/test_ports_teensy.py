"""i.MX RT1062 of a Teensy 4.1: what its boot ROM reads, and its start-up with tables of registers.

No chip was at hand.
"""

import struct

import pytest

from firmware_export.elf import read_elf
from firmware_export.emulators.emulator import Boot
from tests.firmware import board, firmware
from tests.ports import OK, SLOWLY, boot_chip, rests

UART_STAT, UART_DATA = 0x40198014, 0x4019801C
CDHIPR, PLL_ARM, DCDC, WDOG_WCR = 0x400FC048, 0x400D8000, 0x40080000, 0x400B8000
CBCDR, CBCMR, CLPCR = 0x400FC014, 0x400FC018, 0x400FC054
HEALTHY = {CDHIPR: 0, PLL_ARM: 1 << 31, DCDC: 1 << 31, UART_STAT: 1 << 23, 0x400BC000: 0x2980, CLPCR: 0x79}
BLOCKS = (0x40080000, 0x400B8000, 0x400BC000, 0x400D8000, 0x400FC000, 0x40198000, 0x401F8000)
COMPILERS = ["zig", pytest.param("arm-none-eabi-gcc", marks=pytest.mark.slow)]


def run(changed: dict[int, int] | None = None, compiler: str = "zig") -> Boot:
    """Begin where the image vector table says."""
    built = firmware("teensy41", compiler)
    return boot_chip(
        built,
        board("teensy41"),
        {**HEALTHY, **(changed or {})},
        uart=UART_DATA,
        blocks=BLOCKS,
        entry=struct.unpack_from("<I", built.bin, 0x1004)[0],
    )


@pytest.mark.parametrize("compiler", COMPILERS)
def test_flash_begins_with_what_the_boot_rom_reads(compiler: str) -> None:
    built = firmware("teensy41", compiler)
    elf, image = read_elf(built.elf), built.bin
    assert (built.start, image[:4], image[4:8]) == (0x60000000, b"FCFB", b"\0\0\1V")
    assert image[0x0C:0x10] == bytes((0, 3, 3, 0))
    assert image[0x44:0x48] == bytes((1, 4, 2, 0))
    assert struct.unpack_from("<I", image, 0x50) == (8 * 2**20,)
    # EBh on one line; 24 address bits, mode 00h, 4 dummy cycles and data on four
    assert struct.unpack_from("<6H", image, 0x80) == (0x04EB, 0x0A18, 0x1E00, 0x3204, 0x2604, 0)
    assert struct.unpack_from("<3I", image, 0x1C0) == (256, 4096, 1)
    header, entry, _, configuration, boot_data, myself, signature, _ = struct.unpack_from(
        "<8I", image, 0x1000
    )
    assert header.to_bytes(4, "little") == bytes((0xD1, 0x00, 0x20, 0x43))
    assert (myself, boot_data, configuration, signature) == (0x60001000, 0x60001020, 0, 0)
    assert entry == elf.address("eqrl_boot_entry") | 1
    assert struct.unpack_from("<3I", image, 0x1020) == (0x60000000, 8 * 2**20, 0)
    assert elf.address("eqrl_vectors") == 0x60002000


@pytest.mark.parametrize("compiler", COMPILERS)
def test_boots_at_600_mhz_and_starts_its_watchdog(compiler: str) -> None:
    found = run(compiler=compiler)
    assert found.text == OK
    assert rests(found, firmware("teensy41", compiler))
    writes = dict(found.writes)
    assert writes[PLL_ARM] == (1 << 13) | 100
    assert writes[0x4008000C] & 31 == 18  # 1.25 V
    assert writes[0x400FC010] == 1
    assert writes[CLPCR] == 0x78  # a WFI does not stop SysTick
    assert writes[CBCDR] & ((1 << 25) | (7 << 10) | (3 << 8)) == 3 << 8  # the PLL; IPG a quarter
    assert writes[0x40198010] == (15 << 24) | 13  # 24 MHz / 16 / 13 = 115385
    # the third watchdog, unlocked and stopped; the power-down counter, stopped; ours, 0.5 to 1 s
    assert found.writes.index((0x400BC004, 0xD928C520)) < found.writes.index((0x400BC000, 0x2920))
    assert writes[WDOG_WCR + 8] == 0
    assert writes[WDOG_WCR] == (1 << 8) | (3 << 4) | 6
    assert [value for place, value in found.writes if place == WDOG_WCR + 2][-2:] == [0x5555, 0xAAAA]


@pytest.mark.parametrize(
    "dead",
    [
        pytest.param({DCDC: 0}, id="voltage"),
        pytest.param({PLL_ARM: 0}, id="pll"),
        pytest.param({CDHIPR: (1 << 16) | (1 << 5)}, id="switch", marks=pytest.mark.slow),
    ],
)
def test_runs_from_the_crystal_where_something_never_comes_true(dead: dict[int, int]) -> None:
    found = run(dead)
    assert found.text == SLOWLY + OK
    writes = dict(found.writes)
    assert writes[CBCDR] & (1 << 25)
    assert writes[CBCMR] & (3 << 12) == 1 << 12
    assert writes[0x40198010] == (15 << 24) | 13


def test_comes_to_rest_where_the_uart_never_sends() -> None:
    found = run({UART_STAT: 0})
    assert found.text == ""
    assert rests(found, firmware("teensy41"))
