"""Whole machines that boot the image that is flashed, with their UART where a serial port would be.

QEMU models the board or one with the same core, rp2040js the RP2040; `plan.py` says what that proves.
"""

import os
import re
import select
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from edgeqrl.errors import DeviceError, MissingToolError, require_name
from firmware_export.board import Board
from firmware_export.device.client import Device
from firmware_export.device.link import SerialLink
from firmware_export.emulators.qemu import qemu_command

_SECONDS_TO_START = 30.0
_SECONDS_TO_ANSWER = 5.0
_BRIDGE = Path(__file__).with_name("rp2040js_bridge.mjs")
_RP2040JS = "rp2040js"
_CHARDEVS = {"socket": "socket,host=127.0.0.1,port=0,server=on,wait=off,nodelay=on", "pty": "pty"}
# What QEMU's monitor answers to `info chardev`, and what the bridge prints.
_PLACE = re.compile(rb"uart: filename=(?:pty:(?P<pty>[^\s,]+)|\S*tcp:127\.0\.0\.1:(?P<port>\d+))")


# What QEMU's model of a chip leaves out: QEMU 7.2, hw/arm/stm32f405_soc.c maps no CCM.
_LACKED = {"netduinoplus2": ("ccm",)}


def lacked_regions(machine: str) -> tuple[str, ...]:
    """Return the regions of the chip that QEMU's machine of this name does not have."""
    return _LACKED.get(machine, ())


class Machine:
    """An emulator's process whose UART is at `url`, as pyserial reads it. A context manager.

    It outlives a caller that is killed by a signal which Python does not turn into an exception.
    """

    def __init__(self, argv: Sequence[str], files: Mapping[str, bytes], *, name: str, asks: str = "") -> None:
        """Start `argv` in a folder that holds `files` and wait until it says where its UART is.

        `asks` is what makes it say so. Raises DeviceError where it does not start.
        """
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="edgeqrl-")
        for path, content in files.items():
            (Path(self._folder.name) / path).write_bytes(content)
        self._log: IO[bytes] = (Path(self._folder.name) / "messages").open("w+b")
        self._process = subprocess.Popen(
            argv,
            cwd=self._folder.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches the parent, and the parent ends the child
        )
        self._finalizer = weakref.finalize(self, _stop, self._process, self._log, self._folder)
        try:
            self.tell(asks)
            self.url = self._announced()
        except BaseException:
            self.close()
            raise

    def tell(self, text: str) -> None:
        """Write to the process's standard input: QEMU's monitor."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the log says why
            self._process.stdin.write(text.encode())

    def last_words(self) -> str:
        """Return the last line of what the process complained about."""
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def close(self) -> None:
        """End the process; does nothing the second time."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _announced(self) -> str:
        """Wait until the process has said where its UART is."""
        assert self._process.stdout is not None
        source, text = self._process.stdout.fileno(), b""
        deadline = time.monotonic() + _SECONDS_TO_START
        while not (found := _PLACE.search(text)):
            ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(source, 4096) if ready else b""
            if not part:
                said = self.last_words() or "no message"
                raise DeviceError(f"{self.name} did not start ({said}); run the command again.")
            text += part
        return found["pty"].decode() if found["pty"] else f"socket://127.0.0.1:{int(found['port'])}"


def boot_in_machine(
    board: Board, images: Mapping[str, bytes], engine: str, console: str = "socket"
) -> Machine:
    """Boot a firmware as a whole machine.

    images   suffix -> image; QEMU takes "hex", rp2040js "uf2": those that are flashed
    engine   "qemu" or "rp2040js"
    console  "socket" (TCP on this machine), or "pty" with QEMU

    Raises MissingToolError without the emulator, DeviceError if it has no such board or does not start.
    """
    require_name("console", console, _CHARDEVS)
    if engine == _RP2040JS:
        return _rp2040js(board, images["uf2"])
    serial = ["-chardev", f"{_CHARDEVS[console]},id=uart", "-serial", "chardev:uart", "-monitor", "stdio"]
    argv = [*qemu_command(board, Path("firmware.hex")), *serial]
    return Machine(argv, {"firmware.hex": images["hex"]}, name="QEMU", asks="info chardev\n")


def open_machine(machine: Machine) -> Device:
    """Open the device in a machine, patiently: an emulator shares its processor with others."""
    return Device(SerialLink(machine.url), machine.name, timeout_s=_SECONDS_TO_ANSWER)


def find_rp2040js() -> Path | None:
    """Return the npm package's entry: below $RP2040JS, ./node_modules, ./build/node_modules, or global."""
    places = [Path(place) for place in (os.environ.get("RP2040JS"),) if place]
    places += [Path("node_modules") / _RP2040JS, Path("build/node_modules") / _RP2040JS]
    places += [Path("/usr/local/lib/node_modules") / _RP2040JS, Path("/usr/lib/node_modules") / _RP2040JS]
    for place in places:
        entry = place / "dist" / "esm" / "index.js"
        if entry.is_file():
            return entry.resolve()
    return None


def _rp2040js(board: Board, uf2: bytes) -> Machine:
    if not board.emulation.rp2040js:
        raise DeviceError(f"rp2040js models the RP2040, which {board.name} does not have.")
    node, library = shutil.which("node"), find_rp2040js()
    if node is None:
        raise MissingToolError("rp2040js needs node; get it with `sudo apt install nodejs`.")
    if library is None:
        raise MissingToolError(
            "rp2040js is not installed; get it here with `npm install --no-save rp2040js@1.4.1`."
        )
    argv = [node, str(_BRIDGE), str(library), "firmware.uf2"]
    return Machine(argv, {"firmware.uf2": uf2}, name=_RP2040JS)


def _stop(process: "subprocess.Popen[Any]", log: IO[bytes], folder: Any) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    process.kill()
    process.wait()
    log.close()
    folder.cleanup()
