"""The bytes between host and a device that is a program: its standard input and output."""

import os
import select
import subprocess
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from edgeqrl.errors import DeviceError

_BYTES_PER_S = 1e6  # a guess from below, for time-outs
_WRITE_TIMEOUT_S = 5.0
_MOST_STALE_BYTES = 2**16


class PipeLink:
    """A Link to a program that it starts, and ends when it is closed."""

    bytes_per_s = _BYTES_PER_S

    def __init__(self, argv: Sequence[str], name: str) -> None:
        """Start `argv`, called `name` in messages; raise DeviceError where that fails."""
        self.name = name
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # Ctrl-C reaches the parent, and the parent ends the child
            )
        except OSError as error:
            raise DeviceError(f"{name} does not start: {error.strerror or error}.") from error
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._source, self._target = process.stdout.fileno(), process.stdin.fileno()
        os.set_blocking(self._target, False)
        self._finalizer = weakref.finalize(self, _stop, process, process.stdin, process.stdout)

    def read(self, count: int, timeout_s: float) -> bytes:
        """Return `count` bytes, or those that came until the time was over."""
        deadline = time.monotonic() + timeout_s
        found = b""
        while len(found) < count:
            left = max(deadline - time.monotonic(), 0.0)
            if not select.select([self._source], [], [], left)[0]:
                break
            data = os.read(self._source, count - len(found))
            if not data:
                raise self._gone()
            found += data
        return found

    def read_stale(self) -> bytes:
        """Return what came before anybody asked."""
        found = b""
        while len(found) < _MOST_STALE_BYTES and select.select([self._source], [], [], 0.0)[0]:
            data = os.read(self._source, _MOST_STALE_BYTES)
            if not data:
                raise self._gone()
            found += data
        return found

    def write(self, data: bytes) -> None:
        """Send all of `data`."""
        deadline = time.monotonic() + _WRITE_TIMEOUT_S
        rest = memoryview(data)
        while rest:
            left = max(deadline - time.monotonic(), 0.0)
            if not select.select([], [self._target], [], left)[1]:
                raise DeviceError(f"{self.name} does not take what is sent. Run the command again.")
            try:
                rest = rest[os.write(self._target, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise self._gone() from error

    def close(self) -> None:
        """End the program; does nothing the second time."""
        self._finalizer()

    def _gone(self) -> DeviceError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        return DeviceError(f"{self.name} has ended with exit code {self._process.returncode}.")


def _stop(process: "subprocess.Popen[bytes]", *pipes: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in pipes:
        with suppress(OSError):
            pipe.close()
