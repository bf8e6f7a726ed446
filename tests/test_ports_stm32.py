"""STM32F1, F4, H7: every wait of the start-up is reached, and none is endless. No chip was at hand.

netduinoplus2 and stm32vldiscovery boot in QEMU, too (test_ports_qemu.py); H743 only here.
"""

from dataclasses import dataclass, field

import pytest

from firmware_export.emulators.emulator import Boot
from tests.firmware import board, firmware, gcc_of
from tests.ports import OK, SLOWLY, boot_chip, first_write, rests

DEBUG_PAGE = 0xE0042000


@dataclass(frozen=True)
class Chip:
    """Where a healthy chip says that its clocks run, and what is then written."""

    healthy: dict[int, int]
    sends_at: int  # offset of the UART's data register
    status_at: int
    divisor_at: int
    watchdog: int
    flags: int
    pages: tuple[int, ...]
    pll: tuple[int, int]  # register and value
    divisor: int
    slow_divisor: int
    reload: int
    watchdog_flag: int = 1 << 29
    other: dict[int, int] = field(default_factory=dict)  # what else must be written


F1 = {0x40021000: (1 << 17) | (1 << 25), 0x40021004: 2 << 2}
F4 = {0x40023800: (1 << 17) | (1 << 25), 0x40023808: 2 << 2, 0x40023C00: 0x705}
H7 = {
    0x58024400: (1 << 2) | (1 << 25),
    0x58024410: 3 << 3,
    0x58024804: 1 << 13,
    0x5802480C: 0x46,
    0x58024818: 1 << 13,
    0x52002000: 0x22,
}
F4_PAGES = (0x40003000, 0x40004000, 0x40007000, 0x40011000, 0x40020000, 0x40023000, DEBUG_PAGE)
PLL_8_MHZ, PLL_25_MHZ = (m | (336 << 6) | (1 << 22) | (7 << 24) for m in (8, 25))


def f4(crystal: int, divisor: int, **others: int) -> Chip:
    written = {int(place, 16): value for place, value in others.items()}
    return Chip(
        F4, 4, 0, 8, 0x40003000, 0x40023874, F4_PAGES, (0x40023804, crystal), divisor, 139, 46, other=written
    )


CHIPS = {
    "stm32vldiscovery": Chip(
        F1, 4, 0, 8, 0x40003000, 0x40021024,
        (0x40003000, 0x40010000, 0x40013000, 0x40021000, DEBUG_PAGE),
        (0x40021004, (1 << 16) | (1 << 18)), 208, 69, 59,
        other={0x40010804: 0x890, 0x40010810: 1 << 10, 0x40021018: 0x4005},
    ),
    "netduinoplus2": f4(PLL_25_MHZ, 729, **{"0x40020024": 0x770, "0x40020000": 10 << 18}),
    "stm32f4discovery": f4(PLL_8_MHZ, 365, **{"0x40020020": 0x7700, "0x40020000": 10 << 4}),
    "crazyflie21": f4(PLL_8_MHZ, 365, **{"0x40020824": 0x7700, "0x40020800": 10 << 20}),
    "nucleo-h743zi": Chip(
        H7, 0x28, 0x1C, 0x0C, 0x58004800, 0x580244D0,
        (0x40004000, 0x52002000, 0x58004000, 0x58020000, 0x58024000, 0x5C001000),
        (0x58024430, 124 | (1 << 9) | (1 << 16) | (1 << 24)), 556, 556, 33, watchdog_flag=1 << 26,
        other={0x58024428: 10 << 4, 0x5802480C: 0x42, 0x58024818: 3 << 14, 0x58024454: 3, 0x58020C24: 0x77},
    ),
}  # fmt: skip
NAMES = list(CHIPS)
# What never comes true -> the chip runs from its RC oscillator. Values of registers.
DEAD = {
    "stm32vldiscovery": {"crystal": {0x40021000: 0}, "pll": {0x40021000: 1 << 17}, "switch": {0x40021004: 0}},
    "netduinoplus2": {"crystal": {0x40023800: 0}, "pll": {0x40023800: 1 << 17}, "switch": {0x40023808: 0}},
    "crazyflie21": {"flash": {0x40023C00: 0}, "crystal": {0x40023800: 0}},
    "nucleo-h743zi": {
        "supply": {0x58024804: 0},
        "voltage": {0x58024818: 0},
        "pll": {0x58024400: 1 << 2},
        "flash": {0x52002000: 0},
        "switch": {0x58024410: 0},
    },
}
QUICK = (("stm32vldiscovery", "crystal"), ("netduinoplus2", "switch"), ("nucleo-h743zi", "supply"))
DEAD_CLOCKS = [
    pytest.param(name, what, marks=[] if (name, what) in QUICK else pytest.mark.slow)
    for name, cases in DEAD.items()
    for what in cases
]


def run(
    name: str, changed: dict[int, int] | None = None, *, compiler: str = "zig", is_deaf: bool = False
) -> Boot:
    chip, target = CHIPS[name], board(name)
    status = {target.uart.base + chip.status_at: 0 if is_deaf else 1 << 7}
    return boot_chip(
        firmware(name, compiler),
        target,
        {**chip.healthy, **status, **(changed or {})},
        uart=target.uart.base + chip.sends_at,
        blocks=chip.pages,
    )


def require_healthy(name: str, found: Boot) -> None:
    chip, uart = CHIPS[name], board(name).uart.base
    assert found.text == OK
    writes = dict(found.writes)
    assert writes[uart + chip.divisor_at] == chip.divisor
    assert chip.pll in found.writes
    for place, value in chip.other.items():
        assert (place, value) in found.writes, f"{place:#x}"
    watchdog = [
        (place - chip.watchdog, value) for place, value in found.writes if place >> 8 == chip.watchdog >> 8
    ]
    started = watchdog.index((0, 0xCCCC))
    assert watchdog[started : started + 5] == [
        (0, 0xCCCC),
        (0, 0x5555),
        (4, 6),
        (8, chip.reload),
        (0, 0xAAAA),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_boots_at_full_speed_and_starts_its_watchdog(name: str) -> None:
    found = run(name)
    require_healthy(name, found)
    assert rests(found, firmware(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_boots_at_full_speed_built_by_gcc(name: str) -> None:
    require_healthy(name, run(name, compiler=gcc_of(name)))


@pytest.mark.parametrize(("name", "what"), DEAD_CLOCKS)
def test_runs_slowly_where_something_never_comes_true(name: str, what: str) -> None:
    found = run(name, DEAD[name][what])
    assert found.text == SLOWLY + OK
    chip = CHIPS[name]
    assert first_write(found, board(name).uart.base + chip.divisor_at) == chip.slow_divisor


@pytest.mark.parametrize("name", ["stm32vldiscovery", "netduinoplus2", "nucleo-h743zi"])
def test_comes_to_rest_where_the_uart_never_sends(name: str) -> None:
    found = run(name, is_deaf=True)
    assert found.text == ""
    assert rests(found, firmware(name))


@pytest.mark.parametrize("name", ["stm32vldiscovery", "netduinoplus2", "nucleo-h743zi"])
def test_reset_flags_are_cleared_or_the_next_reset_would_show_them(name: str) -> None:
    chip = CHIPS[name]
    found = run(name, {chip.flags: chip.watchdog_flag})
    clear = 1 << 16 if name == "nucleo-h743zi" else 1 << 24
    assert first_write(found, chip.flags) == chip.watchdog_flag | clear


def test_supply_that_something_before_us_chose_stays() -> None:
    found = run("nucleo-h743zi", {0x5802480C: 0x42})
    assert found.text == OK
    assert 0x5802480C not in dict(found.writes)


def test_crazyflie_begins_behind_its_bootloader() -> None:
    built = firmware("crazyflie21")
    assert built.start == 0x08004000
    assert int.from_bytes(built.bin[4:8], "little") >> 14 == 0x08004000 >> 14
