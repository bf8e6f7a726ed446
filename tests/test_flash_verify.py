"""After flashing: the board is asked what it runs, by a device that is made up."""

import hashlib
import os
import pty
import select
import struct
import threading
import tty
from dataclasses import replace
from pathlib import Path

import pytest

from edgeqrl.data import data_folder
from edgeqrl.errors import DeviceError
from firmware_export.board import load_board
from firmware_export.device.frames import PROTOCOL_VERSION, Frame, FrameDecoder, Request, encode
from firmware_export.flashers.runner import Choice
from firmware_export.flashers.verify import Verified, uart_port, verify
from tests.flash_fakes import plug_ports

BOARD = load_board("rpi-pico", data_folder("boards"))
COPY, PICOTOOL = BOARD.flash_tools[:2]
MODEL = hashlib.sha256(b"model").digest()
HAS_SELFTEST = 8


class FakeBoard:
    """Answers HELLO and SELFTEST on a pty."""

    def __init__(
        self, model: bytes = MODEL, board: str = "rpi-pico", flags: int = 8, result: int = 0
    ) -> None:
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        words = [PROTOCOL_VERSION, flags, 1024, 16, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0]
        names = b"".join(bytes([len(text)]) + text.encode() for text in ("robot", board))
        self._replies = {
            Request.HELLO: bytes(4) + struct.pack("<14I", *words) + model + bytes(32) + names,
            Request.SELFTEST: bytes([result, 0, 0, 0]) + (b"" if result else struct.pack("<3I", 64, 7, 7)),
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "FakeBoard":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        os.close(self._master)
        os.close(self._slave)

    def _serve(self) -> None:
        decoder = FrameDecoder()
        os.write(self._master, b"edgeqrl robot self-test OK\r\n")
        while not self._stop.is_set():
            if not select.select([self._master], [], [], 0.05)[0]:
                continue
            for frame in decoder.feed(os.read(self._master, 4096)):
                payload = self._replies[Request(frame.type)]
                os.write(self._master, encode(Frame(frame.type | 0x80, frame.sequence, payload)))


def ask(fake: FakeBoard) -> Verified:
    return verify(BOARD, COPY, Choice(), MODEL, uart=fake.port)


def test_board_that_runs_the_model_is_verified() -> None:
    with FakeBoard() as fake:
        found = ask(fake)
    assert found.is_verified
    assert f"Verified at {fake.port}: it runs 'robot', model {MODEL.hex()[:8]}" in found.text
    assert "self-test of 64 rows passed" in found.text


def test_firmware_without_selftest_is_said() -> None:
    with FakeBoard(flags=0) as fake:
        assert "it has no self-test" in ask(fake).text


@pytest.mark.parametrize(
    ("fake", "said"),
    [
        (lambda: FakeBoard(model=bytes(range(32))), "runs model 00010203, not "),
        (lambda: FakeBoard(board="rpi-pico2"), "says that it is a rpi-pico2"),
        (lambda: FakeBoard(result=8), "fails its self-test"),
    ],
)
def test_other_firmware_is_a_failure(fake, said: str) -> None:  # type: ignore[no-untyped-def]
    with fake() as board, pytest.raises(DeviceError, match=said):
        ask(board)


def test_without_a_port_it_says_how_to_verify() -> None:
    found = verify(BOARD, COPY, Choice(), MODEL)
    assert found.is_verified is None
    assert "give --uart PORT" in found.text
    assert "GPIO0" in found.text


def test_port_is_the_one_that_hears_the_uart(monkeypatch: pytest.MonkeyPatch) -> None:
    esp = load_board("esp32c3", data_folder("boards")).flash_tools[0]
    bossac = load_board("nano33ble", data_folder("boards")).flash_tools[0]
    daplink = load_board("microbit", data_folder("boards")).flash_tools[0]
    gdb = load_board("microbit", data_folder("boards")).flash_tools[-1]
    plug_ports(monkeypatch, {"/dev/A": "10c4:ea60", "/dev/B": "0d28:0204", "/dev/C": "2341:005a"})
    named = Choice(port="/dev/X")
    table = [
        (esp, named, None, "/dev/X"),  # the tool's port is the UART
        (esp, Choice(), None, "/dev/A"),
        (bossac, named, None, None),  # the tool's port is the bootloader's
        (bossac, named, "/dev/Y", "/dev/Y"),
        (daplink, Choice(), "/dev/Y", "/dev/Y"),
        (daplink, Choice(), None, "/dev/B"),
        (gdb, Choice(port="localhost:3333"), None, None),
        (COPY, Choice(), None, None),
    ]
    for tool, choice, uart, expected in table:
        assert uart_port(tool, choice, uart) == expected, (tool.tool, choice)
    plug_ports(monkeypatch, {"/dev/B": "0d28:0204", "/dev/D": "0d28:0204"})
    assert uart_port(daplink, Choice(), None) is None  # two: not guessed


def test_missing_library_leaves_it_unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "serial", None)
    monkeypatch.setitem(sys.modules, "serial.tools", None)
    found = verify(BOARD, replace(COPY, uart_usb=("0d28:0204",)), Choice(), MODEL)
    assert found.is_verified is None
    assert "pyserial" in found.text


def test_port_that_does_not_open_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_export.flashers.verify._COMES_BACK_S", 0.0)
    with pytest.raises(DeviceError, match="Cannot open port"):
        verify(BOARD, COPY, Choice(), MODEL, uart=str(tmp_path / "absent"))
