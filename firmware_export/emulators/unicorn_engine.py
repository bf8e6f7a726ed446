"""The process in which unicorn runs: its start, its frames, and its end."""

import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from edgeqrl.errors import DeviceError, MissingToolError
from firmware_export.board import Board
from firmware_export.elf import Elf

_WORKER = Path(__file__).with_name("unicorn_worker.py")
_FRAME = struct.Struct("<II")
_MAX_PART = 2**16  # bytes read at once
_TIMEOUT_S = 120.0  # of one request; a worker that is silent for longer is ended
_SECONDS_TO_EXIT = 2.0

# Those of which unicorn has a model: Cortex-M0+ is M0 to it, and it has no Helium.
UNICORN_CORES = (
    "cortex-m0",
    "cortex-m0plus",
    "cortex-m3",
    "cortex-m4",
    "cortex-m7",
    "cortex-m33",
    "rv32imac",
    "rv32imc",
)


def open_unicorn(elf: Elf, board: Board) -> "EmulatorProcess":
    """Start the worker with the content of an ELF in the memory of a board.

    Raises MissingToolError without unicorn.
    """
    process = EmulatorProcess()
    try:
        content = b"".join(s.content for s in elf.segments)
        header = {
            "core": board.core,
            "memory": memory_of(board),
            "chunks": [[s.address, len(s.content)] for s in elf.segments if s.content],
            "stack_top": elf.address("__stack_top"),
        }
        process.request("load", header, content)
    except BaseException:
        process.close()
        raise
    return process


def memory_of(board: Board) -> list[list[int]]:
    """Return (start, bytes) of the memory that exists, adjacent regions joined: emulators map whole pages."""
    joined: list[list[int]] = []
    for region in sorted(board.regions, key=lambda region: region.start):
        if joined and sum(joined[-1]) == region.start:
            joined[-1][1] += region.bytes
        else:
            joined.append([region.start, region.bytes])
    return joined


class EmulatorProcess:
    """The worker's process, its frames, and its end."""

    def __init__(self) -> None:
        if find_spec("unicorn") is None:
            raise MissingToolError(
                'Emulation needs unicorn; install it with `pip install "edgeqrl[firmware]"`.'
            )
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _stop
        # -P: nothing in the user's folder or beside the worker may be imported by accident.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env=dict(os.environ),
            start_new_session=True,  # Ctrl-C reaches the parent, and the parent ends the child
        )
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)  # _await waits, but not for ever
        self._finalizer = weakref.finalize(self, _stop, self._process, self._log)

    def request(self, kind: str, header: Mapping[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Send one request and return the reply; raises DeviceError on a fault, silence or death."""
        try:
            reply, content = self._exchange(kind, header, payload)
        except (OSError, EOFError) as error:
            self._process.kill()
            raise DeviceError(
                f"The emulator stopped answering{self._last_words()}; run the command again."
            ) from error
        except BaseException:
            self.close()  # a reply may be half read
            raise
        if "error" in reply:
            raise DeviceError(f"The emulated core stopped: {reply['error']}.")
        return reply, content

    def close(self) -> None:
        """End the process."""
        self._finalizer()

    def _exchange(self, kind: str, header: Mapping[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        source, target = self._process.stdout, self._process.stdin
        assert source is not None
        assert target is not None
        deadline = time.monotonic() + _TIMEOUT_S
        text = json.dumps({"request": kind, **header}).encode()
        _send(target.fileno(), _FRAME.pack(len(text), len(payload)) + text + payload, deadline)
        return _receive(source.fileno(), deadline)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return f" ({lines[-1]})" if lines else ""


def _send(target: int, frame: bytes, deadline: float) -> None:
    left = memoryview(frame)
    while left:
        try:
            left = left[os.write(target, left) :]
        except BlockingIOError:
            _await(target, select.POLLOUT, deadline)


def _receive(source: int, deadline: float) -> tuple[dict[str, Any], bytes]:
    """Read the one frame that answers a request: nothing follows it. Raises EOFError where there is none."""
    frame, lengths = bytearray(), (0, 0)
    while len(frame) < _FRAME.size + sum(lengths):
        _await(source, select.POLLIN, deadline)
        part = os.read(source, _MAX_PART)
        if not part:
            raise EOFError
        frame += part
        if len(frame) >= _FRAME.size:
            lengths = _FRAME.unpack_from(frame)
    split = _FRAME.size + lengths[0]
    try:
        return json.loads(frame[_FRAME.size : split]), bytes(frame[split:])
    except ValueError as error:
        raise EOFError("no frame") from error


def _await(pipe: int, event: int, deadline: float) -> None:
    """Wait until a pipe can be read or written; raises TimeoutError after `deadline`."""
    waiting = select.poll()
    waiting.register(pipe, event)
    if not waiting.poll(max(0.0, 1000.0 * (deadline - time.monotonic()))):
        raise TimeoutError


def _stop(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """End a worker: it stops when its input ends; one that does not is killed."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    try:
        process.wait(_SECONDS_TO_EXIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()
