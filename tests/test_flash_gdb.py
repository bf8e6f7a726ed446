"""Real gdb writes real firmware, by our template, to cores of QEMU; real OpenOCD reads our templates."""

import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeqrl.data import data_folder
from edgeqrl.errors import DeviceError
from firmware_export.board import board_names
from firmware_export.flash_tool import render
from firmware_export.flashers.runner import Choice, Flashed, flash
from tests.firmware import board, firmware, require_qemu, require_tool
from tests.flash_fakes import written_images

pytestmark = pytest.mark.slow
MACHINES = ("microbit", "netduinoplus2", "stm32vldiscovery")
CONFIGURED = [
    (name, tool)
    for name in board_names(data_folder("boards"))
    for tool in board(name).flash_tools
    if tool.tool == "openocd"
]


@contextmanager
def gdb_stub(machine: str, folder: Path) -> Iterator[str]:
    """A halted core that has an older program, and where its gdbserver listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    argv = ["qemu-system-arm", "-M", machine, "-display", "none", "-S", "-gdb", f"tcp:{place}"]
    start = board(machine).region("flash").start
    older = folder / "older.bin"  # stack, reset vector, a branch to itself
    older.write_bytes(struct.pack("<IIH", 0x2000_1000, start + 9, 0xE7FE))
    argv += ["-monitor", "none", "-serial", "none", "-device", f"loader,file={older},addr={start:#x}"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            if is_listening(int(place.partition(":")[2])):
                break
            assert process.poll() is None
            time.sleep(0.05)
        yield place
    finally:
        process.kill()
        process.wait(10)


def is_listening(port: int) -> bool:
    """Look without connecting: the stub takes the first that connects for its debugger."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)


def write(name: str, place: str, folder: Path) -> Flashed:
    built = firmware(name)
    images = written_images(built, board(name), folder)
    return flash(built, board(name), images, Choice(tool="gdb-multiarch", port=place))


@pytest.mark.parametrize("name", MACHINES)
def test_gdb_writes_and_compares_every_section(tmp_path: Path, name: str) -> None:
    require_tool("gdb-multiarch")
    require_qemu(name)
    with gdb_stub(name, tmp_path) as place:
        done = write(name, place, tmp_path / "firmware")
    assert done.is_written
    assert re.search(r"chip 0x41[0-9a-f]{6}$", done.found)


def test_gdb_refuses_another_core(tmp_path: Path) -> None:
    require_tool("gdb-multiarch")
    require_qemu("microbit")
    with (
        gdb_stub("netduinoplus2", tmp_path) as place,
        pytest.raises(DeviceError, match="not that of a microbit"),
    ):
        write("microbit", place, tmp_path / "firmware")


def test_gdb_without_a_server_fails_and_is_quoted(tmp_path: Path) -> None:
    require_tool("gdb-multiarch")
    with pytest.raises(DeviceError, match=r"finds no chip.*(refused|not running|timed out)"):
        write("microbit", "127.0.0.1:9", tmp_path / "firmware")


@pytest.mark.parametrize(("name", "tool"), CONFIGURED, ids=[f"{name}" for name, _ in CONFIGURED])
def test_openocd_knows_the_files_and_commands(name: str, tool) -> None:  # type: ignore[no-untyped-def]
    """Without a probe: the configuration loads, and every command that we use exists there."""
    require_tool("openocd")
    argv = render(tool.argv, {"image": "robot.elf"})
    program = argv.pop().split()[0]
    assert argv.pop() == "-c"
    assert tool.identify is not None
    used = {program, "init", "shutdown"}  # mdw comes with init, which wants a probe
    check = "; ".join(f"if {{[info commands {name}] eq {{}}}} {{error {name}}}" for name in sorted(used))
    result = subprocess.run(
        [*argv, "-c", f"{check}; echo LOADED; shutdown"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "LOADED" in result.stdout + result.stderr, result.stderr
