"""Boot a firmware in QEMU, where QEMU models its board: reset, clocks, UART and all."""

import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from edgeqrl.errors import DeviceError, MissingToolError
from firmware_export.board import Board

TIMEOUT_S = 30.0


def boot_in_qemu(elf: bytes, board: Board, *, timeout_s: float = TIMEOUT_S) -> str:
    """Boot `elf` and return the first line that it sends on its UART.

    Raises MissingToolError without qemu-system-arm, DeviceError if QEMU has no such board, fails, or if no
    line comes within `timeout_s`.
    """
    if board.qemu_machine is None:
        raise DeviceError(
            f"QEMU has no model of {board.name}; boards with `qemu_machine` can be booted in it."
        )
    qemu = shutil.which("qemu-system-arm")
    if qemu is None:
        raise MissingToolError(
            "qemu-system-arm is not installed; get it with `sudo apt install qemu-system-arm`."
        )
    with tempfile.TemporaryDirectory(prefix="edgeqrl-") as name, tempfile.TemporaryFile() as log:
        path = Path(name) / "firmware.elf"
        path.write_bytes(elf)
        display = ["-display", "none", "-monitor", "none", "-serial", "stdio"]
        process = subprocess.Popen(
            [qemu, "-M", board.qemu_machine, "-kernel", str(path), *display],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        watchdog = threading.Timer(timeout_s, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
        finally:
            watchdog.cancel()
            process.kill()
            process.communicate()
        log.seek(0)
        complaint = log.read().decode("utf-8", "replace").strip().partition("\n")[0]
    if not line.endswith(b"\n"):
        raise DeviceError(
            f"The firmware sent no line within {timeout_s:g} s in QEMU ({complaint or 'no message'})."
        )
    return line.decode("ascii", "replace").strip()
