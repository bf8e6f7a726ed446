"""An STM32 in its ROM bootloader behind a pty: the UART protocol of ST's application note AN3155.

Written from the application note. It erases by sector, programs only what is erased, and refuses wrong
checksums, as the real one does; reset by the adapter's DTR line is taken to be wired.
"""

import os
import pty
import select
import threading
import tty
from collections.abc import Sequence
from pathlib import Path

ACK, NACK = b"\x79", b"\x1f"
_COMMANDS = bytes([0x00, 0x01, 0x02, 0x11, 0x21, 0x31, 0x44, 0x63, 0x73, 0x82, 0x92])
_OLD_COMMANDS = _COMMANDS.replace(b"\x44", b"\x43")  # of the STM32F1: sectors have one byte
# The real program; a pty has neither modem lines nor parity.
LOADER = """#!{python}
import sys
import serial
class Pty(serial.Serial):
    def __init__(self, **settings):
        super().__init__(**(settings | {{"parity": "N"}}))
    def _update_dtr_state(self): pass
    def _update_rts_state(self): pass
serial.Serial = Pty
from stm32loader.main import main
main(*sys.argv[1:])
"""


class FakeStm32:
    """A thread that answers on `port`; what happened to it is in its attributes."""

    def __init__(self, chip_id: int, start: int, sectors: Sequence[int], *, fail_write: bool = False) -> None:
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._chip_id = chip_id.to_bytes(2, "big")
        self._start = start
        self._sectors = sectors
        self._fails = fail_write
        self._commands = _OLD_COMMANDS if chip_id == 0x420 else _COMMANDS
        self.flash = bytearray(b"\xaa" * sum(sectors))  # an older program
        self.erased: list[int] = []
        self.was_mass_erased = False
        self.went_to: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "FakeStm32":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        os.close(self._master)
        os.close(self._slave)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count and not self._stop.is_set():
            if select.select([self._master], [], [], 0.1)[0]:
                data += os.read(self._master, count - len(data))
        return data

    def _say(self, data: bytes) -> None:
        os.write(self._master, data)

    def _serve(self) -> None:
        while not self._stop.is_set():
            first = self._read(1)
            if first == b"\x7f":
                self._say(ACK)
            elif first:
                self._command(first[0], self._read(1))

    def _command(self, command: int, complement: bytes) -> None:
        if complement != bytes([command ^ 0xFF]) or command not in self._commands:
            self._say(NACK)
            return
        self._say(ACK)
        if command == 0x00:
            self._say(bytes([len(self._commands), 0x31]) + self._commands + ACK)
        elif command == 0x02:
            self._say(b"\x01" + self._chip_id + ACK)
        elif command == 0x44:
            self._erase(2)
        elif command == 0x43:
            self._erase(1)
        elif command in (0x11, 0x21, 0x31):
            self._at_address(command)

    def _at_address(self, command: int) -> None:
        data = self._read(5)
        if len(data) < 5 or _xor(data) != 0:
            self._say(NACK)
            return
        address = int.from_bytes(data[:4], "big")
        self._say(ACK)
        if command == 0x21:
            self.went_to = address
            return
        count = self._read(1)[0] + 1
        if command == 0x11:
            self._read(1)
            offset = address - self._start
            inside = 0 <= offset < len(self.flash)
            self._say(ACK + (bytes(self.flash[offset : offset + count]) if inside else bytes(count)))
            return
        self._write(address - self._start, self._read(count + 1), count)

    def _write(self, offset: int, data: bytes, count: int) -> None:
        is_sound = len(data) == count + 1 and _xor(data) ^ (count - 1) == 0 and 0 <= offset < len(self.flash)
        if not is_sound or self._fails or any(byte != 0xFF for byte in self.flash[offset : offset + count]):
            self._say(NACK)
            return
        self.flash[offset : offset + count] = data[:count]
        self._say(ACK)

    def _erase(self, width: int) -> None:
        """Erase sectors whose numbers, and whose count less one, have `width` bytes; all for the highest."""
        head = self._read(width)
        count = int.from_bytes(head, "big")
        if count == 256**width - 1:
            self._read(1)
            self.was_mass_erased = True
            self.flash[:] = b"\xff" * len(self.flash)
            self._say(ACK)
            return
        data = self._read(width * (count + 1) + 1)
        numbers = [int.from_bytes(data[width * n : width * (n + 1)], "big") for n in range(count + 1)]
        if max(numbers) >= len(self._sectors) or _xor(head + data) != 0:
            self._say(NACK)
            return
        for number in numbers:
            offset = sum(self._sectors[:number])
            self.flash[offset : offset + self._sectors[number]] = b"\xff" * self._sectors[number]
        self.erased += numbers
        self._say(ACK)


def install_loader(folder: Path, python: str) -> None:
    """Put the real stm32loader, for a pty, into a folder of the PATH."""
    folder.mkdir(exist_ok=True)
    program = folder / "stm32loader"
    program.write_text(LOADER.format(python=python))
    program.chmod(0o755)


def _xor(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
    return value
