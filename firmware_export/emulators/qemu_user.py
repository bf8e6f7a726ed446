"""The policy of a Linux board as a program under QEMU's user emulation, asked by the device protocol."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edgeqrl.errors import MissingToolError
from firmware_export.board import Board
from firmware_export.device.client import Device
from firmware_export.device.pipe import PipeLink
from firmware_export.linux.package import linux_compiler, linux_device

# What `uname -m` says on the board -> QEMU's program for it.
_PROGRAMS = {"aarch64": "qemu-aarch64", "armv7l": "qemu-arm", "armv6l": "qemu-arm"}
_CORES = {"armv7l": "cortex-a7", "armv6l": "arm1176"}  # of the boards that are older than our files
_SECONDS_TO_ANSWER = 10.0


def find_qemu_user(machine: str = "aarch64") -> str | None:
    """Return the path of QEMU's program for a machine, None where it is not installed."""
    return shutil.which(_PROGRAMS[machine])


@contextmanager
def open_linux_device(
    sources: Mapping[str, bytes], name: str, board: Board, *, machine: str = "aarch64"
) -> Iterator[Device]:
    """Build the export of policy `name` as a program for the board's core and start it in QEMU.

    machine  aarch64, which every board of ours runs; armv7l and armv6l are emulated on cores of their own

    Raises MissingToolError without zig or QEMU, DeviceError where the program does not start.
    """
    program = find_qemu_user(machine)
    if program is None:
        raise MissingToolError(
            f"{_PROGRAMS[machine]} is not installed; get it with `sudo apt-get install qemu-user`."
        )
    core = _CORES.get(machine, board.core)
    with tempfile.TemporaryDirectory(prefix="edgeqrl-") as folder:
        image = Path(folder) / name
        image.write_bytes(linux_device(sources, board, linux_compiler(), machine))
        image.chmod(0o700)
        link = PipeLink(
            [program, "-cpu", core, str(image)], f"The program of '{name}' in {_PROGRAMS[machine]}"
        )
        with Device(link, f"{Path(program).name} -cpu {core}", timeout_s=_SECONDS_TO_ANSWER) as device:
            yield device
