"""Boot a firmware in QEMU, where QEMU models its board: reset, clocks, UART and all."""

import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from edgeqrl.errors import DeviceError, MissingToolError
from firmware_export.board import Board

TIMEOUT_S = 30.0

# port -> program, Debian's package, further options. The RISC-V core has what the firmware may use, no more.
_PROGRAMS = {
    "cortex_m": ("qemu-system-arm", "qemu-system-arm", ()),
    "riscv32": (
        "qemu-system-riscv32",
        "qemu-system-misc",
        ("-bios", "none", "-cpu", "rv32,f=off,d=off,zba=off,zbb=off,zbc=off,zbs=off"),
    ),
}
_SLOWLY = b"clock fault, running slowly"


def qemu_command(board: Board, image: Path) -> list[str]:
    """Return the call of QEMU that loads an `.elf` or `.hex`, without display and monitor.

    Raises MissingToolError without QEMU for the board's core, DeviceError if it has no such board.
    """
    if board.emulation.qemu_machine is None:
        raise DeviceError(
            f"QEMU has no model of {board.name}; boards with a `qemu_machine` can be booted in it."
        )
    name, package, options = _PROGRAMS[board.port]
    program = shutil.which(name)
    if program is None:
        raise MissingToolError(f"{name} is not installed; get it with `sudo apt install {package}`.")
    # A hex file goes to where its addresses say, and the core starts as after a reset.
    loading = ["-device", f"loader,file={image}"] if image.suffix == ".hex" else ["-kernel", str(image)]
    return [program, "-M", board.emulation.qemu_machine, *options, *loading, "-display", "none"]


def boot_in_qemu(elf: bytes, board: Board, *, timeout_s: float = TIMEOUT_S) -> str:
    """Boot `elf` and return the first line that it sends on its UART, after one about a clock fault, if any.

    Raises MissingToolError without QEMU, DeviceError if QEMU has no such board, fails, or if no line comes
    within `timeout_s`.
    """
    with tempfile.TemporaryDirectory(prefix="edgeqrl-") as name, tempfile.TemporaryFile() as log:
        path = Path(name) / "firmware.elf"
        path.write_bytes(elf)
        process = subprocess.Popen(
            [*qemu_command(board, path), "-monitor", "none", "-serial", "stdio"],
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
            text = line
            while line.strip().endswith(_SLOWLY):
                line = process.stdout.readline()
                text += line
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
    return text.decode("ascii", "replace").strip()
