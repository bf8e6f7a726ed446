"""netduinoplus2, stm32vldiscovery, riscv-virt in QEMU: bytes come by interrupt, the core sleeps, time passes.

QEMU's STM32s have no clocks and no watchdogs: there they run slowly, and the time base counts too fast.
"""

import os
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.backends.host_c import HostC
from firmware_export.device.frames import REPLY, Frame, Request, encode
from firmware_export.emulators.qemu import qemu_command
from tests.c_policies import random_observations
from tests.device_host import VERSION
from tests.firmware import board, cross_compiler, firmware, gcc_of, policy, require_qemu
from tests.ports import OK, SLOWLY

MACHINES = ("netduinoplus2", "riscv-virt", "stm32vldiscovery")
CLOCKS = {"netduinoplus2": 16_000_000, "riscv-virt": 10_000_000, "stm32vldiscovery": 8_000_000}
TICKS = {"netduinoplus2": 2_000_000, "riscv-virt": 10_000_000, "stm32vldiscovery": 2_000_000}
SECONDS = 60.0


class Machine:
    """QEMU with the board's UART at its standard input and output."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self._sequence = 0
        assert process.stdin is not None
        assert process.stdout is not None
        self._to, self._from = process.stdin, process.stdout

    def line(self) -> str:
        return self._from.readline().decode()

    def send(self, data: bytes) -> None:
        self._to.write(data)
        self._to.flush()

    def ask(self, kind: Request, payload: bytes) -> bytes:
        """Return what follows the result of the reply."""
        self._sequence += 1
        self.send(encode(Frame(kind, self._sequence, payload)))
        head = self._from.read(8)
        body = self._from.read(int.from_bytes(head[4:6], "little") + 4)
        assert (head[2], head[3], body[0]) == (kind | REPLY, self._sequence, 0)
        return body[4:-4]

    def stats(self) -> tuple[int, ...]:
        return struct.unpack("<20I", self.ask(Request.STATS, bytes(4))[:80])

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def machine(name: str, compiler: str, folder: Path) -> Iterator[Machine]:
    require_qemu(name)
    cross_compiler(compiler)
    path = folder / "firmware.elf"
    path.write_bytes(firmware(name, compiler).elf)
    process = subprocess.Popen(
        [*qemu_command(board(name), path), "-serial", "stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    watchdog = threading.Timer(SECONDS, process.kill)
    watchdog.start()
    try:
        yield Machine(process)
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zig", "gcc"])
@pytest.mark.parametrize("name", MACHINES)
def test_device_answers_by_interrupt_and_sleeps(name: str, kind: str, tmp_path: Path) -> None:
    compiler = "zig" if kind == "zig" else gcc_of(name)
    with machine(name, compiler, tmp_path) as found:
        if name != "riscv-virt":
            assert found.line() == SLOWLY
        assert found.line() == OK
        hello = struct.unpack_from("<10I", found.ask(Request.HELLO, VERSION))
        assert hello[8:] == (TICKS[name], CLOCKS[name])
        assert bool(hello[1] & 64) == (name != "riscv-virt")
        found.ask(Request.RESET, bytes(4))
        observations = random_observations(np.random.default_rng(8), policy(), 20)
        expected, _ = HostC(policy()).step(observations, None)
        steps = [
            struct.unpack("<iIIi", found.ask(Request.STEP, bytes(4) + row.astype("<f4").tobytes()))
            for row in observations
        ]
        assert [step[3] for step in steps] == expected.ravel().tolist()
        assert all(step[0] >= 0 for step in steps)
        assert np.median([step[2] for step in steps]) > 0  # QEMU loses SysTicks while it translates
        require_sleep(found, exact=name == "riscv-virt")


def require_sleep(found: Machine, *, exact: bool) -> None:
    before, busy = found.stats(), found.cpu_seconds()
    time.sleep(1.0)
    slept, after = found.cpu_seconds() - busy, found.stats()
    assert slept < 0.5  # a core that turns takes all of it
    passed = after[19] - before[19]
    assert passed >= 900
    assert not exact or passed < 5000
    assert after[1:7] == (0, 0, 0, 0, 0, 0)  # no damaged frame, no byte lost


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_rubbish_between_frames_is_passed_over(name: str, tmp_path: Path) -> None:
    with machine(name, "zig", tmp_path) as found:
        while found.line() != OK:
            pass
        for seed in range(20):
            rubbish = np.random.default_rng(seed).bytes(40).replace(b"\xa5", b"")
            found.send(rubbish)
            assert found.ask(Request.HELLO, VERSION)
        assert found.stats()[0] == 21
