"""Run the programs of other people that write flash: find them, watch them, end them in time."""

import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeqrl.errors import DeviceError, MissingToolError, UsageError

_TAIL_LINES = 6
_GRACE_S = 2.0  # from SIGTERM to SIGKILL
_GONE_S = 5.0
_KEPT_BYTES = 256 * 1024
_LINE = re.compile(r"[\r\n]+")
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
Watch = Callable[[str], None]


def silent(_line: str) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Said:
    """How a program ended, and all that it wrote."""

    code: int
    text: str

    @property
    def tail(self) -> str:
        """Return the last lines, to be quoted."""
        lines = [line.strip() for line in _LINE.split(self.text) if line.strip()]
        return " | ".join(lines[-_TAIL_LINES:])[-600:] or "it said nothing"


def program_path(name: str) -> str | None:
    """Return where a program is: on the PATH, else beside this Python, where pip puts it; None if nowhere."""
    beside = Path(sys.executable).parent / name
    return shutil.which(name) or (str(beside) if os.access(beside, os.X_OK) else None)


def require_groups_of_processes() -> None:
    """Raise UsageError on systems where a program and all that it started cannot be ended together."""
    if not hasattr(os, "killpg"):
        raise UsageError(
            "`edgeqrl flash` runs on Linux and macOS only; on this system, write the file in the bundle's "
            "firmware/ with one of the board's tools by hand: docs/flashing.md has their commands."
        )


def run_program(
    argv: Sequence[str], *, timeout_s: float, folder: Path | None = None, watch: Watch = silent
) -> Said:
    """Run a command, never through a shell, and return what it said; each line goes to `watch` at once.

    Whatever it started ends with it. Raises MissingToolError if it is not there and DeviceError if it, or
    anything that it started and that holds its output, takes longer than `timeout_s`.
    """
    program = program_path(argv[0])
    if program is None:
        raise MissingToolError(f"{argv[0]} is not installed.")
    environment = os.environ | {"LC_ALL": "C", "NO_COLOR": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    try:
        process = subprocess.Popen(
            [program, *argv[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise MissingToolError(f"{program} does not start: {error.strerror or error}.") from error
    try:
        text, in_time = _listen(process, time.monotonic() + timeout_s, watch)
    finally:
        _end(process)
    said = Said(process.returncode, text)
    if not in_time:
        raise DeviceError(f"{argv[0]} did not end within {timeout_s:g} s. Its last words: {said.tail}")
    return said


def _listen(process: "subprocess.Popen[bytes]", deadline: float, watch: Watch) -> tuple[str, bool]:
    """Read until nobody holds the program's output; return the text, and False if time ran out."""
    assert process.stdout is not None
    kept, line, is_closed = bytearray(), "", False
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                is_closed = True
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
                break
            kept = (kept + data)[-_KEPT_BYTES:]
            *lines, line = _LINE.split(line + _COLOUR.sub("", data.decode("utf-8", "replace")))
            for found in lines:
                if found.strip():
                    watch(found.strip())
    if line.strip():
        watch(line.strip())
    return _COLOUR.sub("", kept.decode("utf-8", "replace")), is_closed and process.poll() is not None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a program and what it started: they are a group of their own, which may outlive its leader."""
    if _signal(process, signal.SIGTERM):
        deadline = time.monotonic() + _GRACE_S
        while process.poll() is None or _signal(process, 0):
            if time.monotonic() > deadline:
                _signal(process, signal.SIGKILL)
                break
            time.sleep(0.01)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GONE_S)
    if process.stdout is not None:
        process.stdout.close()


def _signal(process: "subprocess.Popen[bytes]", number: int) -> bool:
    """Signal the group; return whether there was anything to signal. macOS denies it for the dead."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
