"""Link the whole port of a board with tests/c/port_echo.c in place of the device loop, and talk with it."""

import json
import os
import select
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from firmware_export import build, placement
from firmware_export.build import Firmware
from firmware_export.elf import read_elf
from firmware_export.emulators.qemu import qemu_command
from firmware_export.fit import FirmwareSizes
from firmware_export.instruction_set import attribute_problems, forbidden_instructions
from firmware_export.linker_script import render_linker_script
from firmware_export.toolchain import run_compiler
from tests.firmware import board, cross_compiler, require_tool

_HERE = Path(__file__).parent
_PORTS = Path(build.__file__).parent / "ports"
_RP2040JS = _HERE.parent / "build" / "node_modules" / "rp2040js" / "dist" / "esm" / "index.js"
_POLICY = b"""#include <stdint.h>
typedef int32_t eqrl_status;
typedef struct { uint32_t word; } eqrl_port_observation_t;
typedef struct { uint32_t word; } eqrl_port_action_t;
"""


@cache  # some KB each
def echo(board_name: str, compiler: str = "zig") -> Firmware:
    """Build it, without a warning and with the core's instructions only."""
    target, chosen = board(board_name), cross_compiler(compiler)
    folder = _PORTS / target.port
    paths = [_PORTS / "common" / "eqrl_port.h", _PORTS / "common" / "memory.c", folder / "startup.S"]
    paths += [*folder.glob("*.h"), *(folder / name for name in target.port_sources), _HERE / "c/port_echo.c"]
    files = {path.name: path.read_bytes() for path in paths} | {"eqrl_port_policy.h": _POLICY}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for path, content in files.items():
            (place / path).write_bytes(content)
        (place / "link.ld").write_text(render_linker_script(target, runs_from_ram=target.runs_from_ram))
        argv = [word for word in build._command(files, target, chosen, "echo") if "-Wl,-u" not in word]
        result = run_compiler([*argv, "-I."], place)
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
        data = build._with_boot2_crc((place / "firmware.elf").read_bytes())
    elf = read_elf(data)
    assert not attribute_problems(elf, target.core, target.fpu)
    assert not forbidden_instructions(elf, target.core, target.fpu)
    start, flat = build._flat(elf, target)
    sizes = FirmwareSizes(len(flat), 0, 0)
    in_ram = target.runs_from_ram
    return Firmware("echo", board_name, data, flat, start, sizes, compiler, in_ram, placement.place(target))


class Talk:
    """The echo in QEMU, its UART on pipes."""

    def __init__(self, built: Firmware) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "firmware.elf"
        path.write_bytes(built.elf)
        self._process = subprocess.Popen(
            [*qemu_command(board(built.board), path), "-serial", "stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def send(self, content: bytes, size: int, timeout_s: float = 20.0) -> bytes:
        """Send, and return the `size` bytes that come back, or fewer after the time is up."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(content)
        self._process.stdin.flush()
        found, end = b"", time.monotonic() + timeout_s
        while len(found) < size and time.monotonic() < end:
            if select.select([self._process.stdout], [], [], 0.1)[0]:
                found += os.read(self._process.stdout.fileno(), size - len(found))
        return found


def talk_in_rp2040js(built: Firmware, turns: list[tuple[str, int]], folder: Path) -> list[str]:
    """Talk on a model of the whole RP2040: send each text, wait for so many bytes, return what came."""
    assert _RP2040JS.is_file(), "needs the npm package rp2040js: make build/node_modules"
    (folder / "firmware.bin").write_bytes(built.bin)
    script = str(_HERE / "rp2040js_talk.mjs")
    command = [require_tool("node"), script, str(_RP2040JS), str(folder / "firmware.bin"), json.dumps(turns)]
    found = subprocess.run(command, capture_output=True, timeout=90, check=True)
    answers: list[str] = json.loads(found.stdout)
    return answers
