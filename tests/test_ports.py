"""Ports: clock, UART both ways, time base and watchdog, with an echo in place of the device loop.

In register tables every branch of the start-up is taken, and no interrupt comes. In QEMU and rp2040js, where
the UART is modelled, bytes come by interrupt, the time base wakes the core and the watchdog bites.
"""

import struct
from pathlib import Path

import pytest

from firmware_export.elf import read_elf
from firmware_export.emulators.emulator import Boot
from tests.chips import CHIPS, NRF, boot_chip
from tests.firmware import board, one_by_default, require_qemu
from tests.port_echo import Talk, echo, talk_in_rp2040js

GCC = pytest.param("arm-none-eabi-gcc", marks=pytest.mark.slow)
MPS = ("mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547")
RP = ("rpi-pico", "rpi-pico2")
BOARDS = (*MPS, "mps2-an382", *NRF, *RP)

QUICK = ("rpi-pico2", "microbit", "nrf5340dk")  # one of each kind of clock and UART
QUICK_CLOCKS = (("rpi-pico2", "pll"), ("microbit", "crystal"), ("nrf5340dk", "divider"))
DEAD = [
    pytest.param(
        name, clock, id=f"{name}-{clock}", marks=[] if (name, clock) in QUICK_CLOCKS else pytest.mark.slow
    )
    for name, chip in CHIPS.items()
    for clock in chip.dead
]


def tick_hz(name: str, hz: int) -> int:
    """Return the time base's: Nordic's timer, or the core's clock halved until it is at most 2 MHz."""
    if name in NRF:
        return 16_000_000
    return hz if hz <= 2_000_000 else tick_hz(name, hz >> 1)


def ready(name: str, hz: int) -> str:
    return f"c{hz:08X}\nt{tick_hz(name, hz):08X}\nr00000000\n"


def require_asleep(run: Boot, name: str, compiler: str) -> None:
    sleep = read_elf(echo(name, compiler).elf).symbols["eqrl_port_sleep"]
    assert sleep.address <= run.stopped_at <= sleep.address + sleep.size


def require_banner(run: Boot, name: str, hz: int) -> None:
    """Where the UART fetches bytes from RAM only their number is seen."""
    if CHIPS[name].uart:
        assert run.text == ready(name, hz)
    else:
        assert [value for address, value in run.writes if address == 0x50008008] == [1] * len(ready(name, hz))


@pytest.mark.parametrize("compiler", ["zig", GCC])
@pytest.mark.parametrize("name", one_by_default(BOARDS, ("mps2-an386", *QUICK)))
def test_vectors_lead_to_the_port(name: str, compiler: str) -> None:
    built, target = echo(name, compiler), board(name)
    elf = read_elf(built.elf)
    offset = target.region("flash").start - built.start
    table = struct.unpack_from(f"<{16 + target.num_interrupts}I", built.bin, offset)
    expected = [elf.address("eqrl_default_handler") | 1] * target.num_interrupts
    assert target.uart.irq is not None
    expected[target.uart.irq] = elf.address("eqrl_port_uart_interrupt") | 1
    for number in [value for key, value in target.settings if key == "timer_irq"]:
        expected[number] = elf.address("eqrl_port_timer_interrupt") | 1
    assert list(table[16:]) == expected
    assert (table[15] == elf.address("eqrl_default_handler") | 1) == (name in NRF)  # SysTick


@pytest.mark.parametrize("compiler", ["zig", GCC])
@pytest.mark.parametrize("name", one_by_default(CHIPS, QUICK))
def test_chip_boots_to_its_full_clock_and_sleeps(name: str, compiler: str) -> None:
    run = boot_chip(echo(name, compiler), {})
    require_banner(run, name, CHIPS[name].hz)
    require_asleep(run, name, compiler)


@pytest.mark.parametrize(("name", "clock"), DEAD)
def test_dead_clock_ends_in_a_slower_one(name: str, clock: str) -> None:
    registers, hz = CHIPS[name].dead[clock]
    run = boot_chip(echo(name), registers)
    require_banner(run, name, hz)
    require_asleep(run, name, "zig")


@pytest.mark.parametrize("name", one_by_default(CHIPS, QUICK))
def test_dead_uart_is_waited_for_in_vain_and_not_for_ever(name: str) -> None:
    run = boot_chip(echo(name), CHIPS[name].mute)
    require_asleep(run, name, "zig")


def test_pico_2_sets_its_clock_its_pins_and_its_baud() -> None:
    writes = dict(boot_chip(echo("rpi-pico2"), {}).writes)
    assert writes[0x40050008] == 125
    assert writes[0x4005000C] == 0x52000  # PLL: divide by 5, then by 2
    assert (writes[0x40070024], writes[0x40070028]) == (81, 24)  # 150 MHz / 16 / 81.375 = 115207
    assert (writes[0x40028004], writes[0x4002800C]) == (2, 2)
    assert writes[0x40038004] & writes[0x40038008] & 0x140 == 0x40  # input on, not isolated


def test_pico_2_image_is_defined_in_its_first_4_kib() -> None:
    block = struct.pack("<5I", 0xFFFFDED3, 0x10210142, 0x1FF, 0, 0xAB123579)
    assert echo("rpi-pico2").bin.count(block) == 1
    assert echo("rpi-pico2").bin.index(block) % 4 == 0
    assert echo("rpi-pico2").bin.index(block) + len(block) <= 4096


@pytest.mark.parametrize("name", NRF)
def test_nordic_uart_is_on_the_pins_of_the_board(name: str) -> None:
    settings = dict(board(name).settings)
    writes = dict(boot_chip(echo(name), {}).writes)
    base = board(name).uart.base
    assert (writes[base + 0x50C], writes[base + 0x514]) == (settings["uart_tx_pin"], settings["uart_rx_pin"])


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["zig", "arm-none-eabi-gcc"])
@pytest.mark.parametrize("name", ["microbit", *MPS])
def test_bytes_come_by_interrupt_and_the_time_base_wakes_in_qemu(name: str, compiler: str) -> None:
    require_qemu(name)
    hz = board(name).clock_hz
    letters = bytes(range(65, 91))
    with Talk(echo(name, compiler)) as talk:
        assert talk.send(b"", 30) == ready(name, hz).encode()
        for _ in range(20):  # each time less than the echo's buffer holds
            assert talk.send(letters, len(letters)) == letters.lower()
        assert talk.send(b"o", 10) == b"o00000000\n"
        free = int(talk.send(b"p", 10)[1:], 16)
        assert board(name).ram_bytes - 1024 < free < board(name).ram_bytes
        ticks = int(talk.send(b"s", 10)[1:], 16)
        assert 0.08 < ticks / tick_hz(name, hz) < 1.0  # 100 wake-ups of a millisecond, on a busy machine


@pytest.mark.slow
@pytest.mark.parametrize("name", ["microbit", "riscv-virt", *MPS])
def test_fault_with_a_stack_where_no_memory_is_is_handled_in_qemu(name: str) -> None:
    require_qemu(name)
    with Talk(echo(name)) as talk:
        assert len(talk.send(b"", 30)) == 30
        assert talk.send(b"x", 10) == (b"f00000007\n" if name == "riscv-virt" else b"f00000003\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mps2-an505", "mps3-an547"])
def test_stack_that_grows_into_the_data_is_a_fault_on_armv8_m(name: str) -> None:
    require_qemu(name)
    with Talk(echo(name)) as talk:
        assert len(talk.send(b"", 30)) == 30
        assert talk.send(b"y", 10) == b"f00000003\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", MPS)
def test_watchdog_bites_in_qemu_when_it_is_not_kicked(name: str) -> None:
    """First by NMI, which stops the actuators; a second time by a reset. microbit's is not modelled."""
    require_qemu(name)
    with Talk(echo(name)) as talk:
        banner = talk.send(b"", 30)
        assert talk.send(b"w", 10) == b"w000000FA\n"
        assert talk.send(b"k", 10) == b"k00000000\n"  # a second of kicks
        assert talk.send(b"h", 40) == b"f00000002\n" + banner


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["zig", "arm-none-eabi-gcc"])
def test_pico_talks_on_a_model_of_the_whole_chip(compiler: str, tmp_path: Path) -> None:
    turns = [("", 30), ("ABCDEFGHIJ", 10), ("s", 10), ("o", 10), ("w", 10), ("k", 10), ("h", 99)]
    answers = talk_in_rp2040js(echo("rpi-pico", compiler), turns, tmp_path)
    assert answers[:2] == [ready("rpi-pico", 125_000_000), "abcdefghij"]
    assert abs(int(answers[2][1:], 16) - 195_312) < 2_000  # 100 wake-ups of a millisecond
    assert answers[3:] == ["o00000000\n", "w000000FA\n", "k00000000\n", "", "reset"]
