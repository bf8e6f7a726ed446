"""A library in a Python process of its own: requests and replies are frames over its pipes.

For libraries that crash, that do not share a process with others, or whose licence keeps them apart.
A frame is a JSON header with its length in front, then the bytes of the arrays that it names. The parent:

    with Worker("package.some_worker", name="converter") as worker:
        options, arrays = worker.call("run", {"samples": 3}, {"inputs": inputs})

The child, when it runs as `__main__`:

    serve({"run": lambda options, arrays: ({}, {"outputs": arrays["inputs"] + 1})})
"""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import prod
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl import errors
from edgeqrl.errors import DeviceError, EdgeQRLError

Options = dict[str, Any]  # JSON values
Arrays = dict[str, NDArray[Any]]
Handler = Callable[[Options, Arrays], tuple[Options, Arrays]]

_LENGTH = struct.Struct("<Q")  # bytes of JSON
_KINDS = "biufcSU"  # of arrays: those whose type is told by dtype.str, and that hold no objects
_MAX_BYTES = 2**33
_SECONDS_TO_EXIT = 2.0
_MAX_LOG_BYTES = 2**16  # of standard error that are looked at, from its end
_MAX_WORDS = 300
_LAST_LINES = 2  # of standard error, shown with a failure: libraries give the cause first, then what follows
_NO_CAUSE = re.compile(r"[IW]\d{4} |INFO: |WARNING: |\d{4}-\d\d-\d\d \S+ [IW] ")  # how log lines begin
# The child imports from where the parent does, whatever its folder and environment say.
_BOOT = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]); module = sys.argv[2]; "
    "del sys.argv[1:3]; runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


class Worker:
    """A child process that runs `module` and answers one request at a time."""

    def __init__(
        self,
        module: str,
        *,
        name: str,
        cure: str = "",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        death: type[EdgeQRLError] = DeviceError,
    ) -> None:
        """Start the process; it imports while the caller goes on.

        name   how messages call it; `cure` is the sentence that follows when it dies
        death  the error raised when the process dies; what it raises itself keeps its class
        """
        self.name = name
        self._cure = cure
        self._death = death
        self._is_waiting = False  # a request was sent and its reply not yet read
        self._log_start = 0  # of what was written since the last request
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _stop
        command = [sys.executable, "-c", _BOOT, json.dumps(sys.path), module, *arguments]
        # A session of its own: Ctrl-C reaches the parent, and the parent ends the child.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        # Runs on close(), when the object is collected, and at exit at the latest.
        self._finalizer = weakref.finalize(self, _stop, self._process, self._log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_closed(self) -> bool:
        """Tell whether the process was ended."""
        return not self._finalizer.alive

    def close(self) -> None:
        """End the process: at once if it is busy, else after it has seen the end of its input."""
        if self._is_waiting and not self.is_closed:
            self._process.kill()
        self._finalizer()

    def call(
        self, command: str, options: Options | None = None, arrays: Mapping[str, NDArray[Any]] | None = None
    ) -> tuple[Options, Arrays]:
        """Send a request and return its reply; raise what the handler raised, or `death`."""
        self.send(command, options, arrays)
        return self.receive()

    def send(
        self, command: str, options: Options | None = None, arrays: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        """Send a request; `receive` returns its reply. One at a time."""
        if self.is_closed:
            raise self._death(f"The {self.name} process was closed and cannot be asked again.")
        assert not self._is_waiting, "the last reply was not read"
        assert self._process.stdin is not None
        frame = _frame({"command": command, "options": options or {}}, arrays or {})
        self._log_start = os.fstat(self._log.fileno()).st_size
        try:
            self._is_waiting = True
            self._process.stdin.write(frame)
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None
        except BaseException:
            self.close()  # half a frame may be in the pipe
            raise

    def receive(self) -> tuple[Options, Arrays]:
        """Wait for the reply to `send`."""
        assert self._is_waiting, "nothing was asked"
        assert self._process.stdout is not None
        try:
            reply, arrays = _read_frame(self._process.stdout)
        except (EOFError, OSError, ValueError):
            raise self._died() from None
        except BaseException:
            self.close()  # a reply may be half read
            raise
        self._is_waiting = False
        if "error" in reply:
            raise _rebuild(reply, self._death, self.name, _last_lines(self._log, self._log_start))
        return reply["options"], arrays

    def _died(self) -> EdgeQRLError:
        """Collect what is left of the process and say how it ended."""
        try:
            code = self._process.wait(_SECONDS_TO_EXIT)
            how = f"by signal {_signal_name(-code)}" if code < 0 else f"with exit code {code}"
        except subprocess.TimeoutExpired:
            how = "after it wrote something that is no reply"
        words = _last_line(self._log)
        said = f"; its last line was: {words}" if words else ""
        self.close()
        return self._death(f"The {self.name} process ended {how}{said}. {self._cure}".strip())


def serve(handlers: Mapping[str, Handler]) -> None:
    """Answer requests on standard input until it ends; the child's main loop.

    Standard output is kept for frames: whatever libraries print goes to standard error.
    """
    source = sys.stdin.buffer
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            request, arrays = _read_frame(source)
        except EOFError:
            return
        try:
            options, results = handlers[request["command"]](request["options"], arrays)
            reply: Options = {"options": options}
        except Exception as error:
            reply, results = {"error": type(error).__name__, "message": str(error)}, {}
        target.write(_frame(reply, results))
        target.flush()


def _rebuild(reply: Options, death: type[EdgeQRLError], name: str, words: str) -> EdgeQRLError:
    kind = getattr(errors, reply["error"], None)
    if isinstance(kind, type) and issubclass(kind, EdgeQRLError):
        return kind(reply["message"])
    message = " ".join(str(reply["message"]).split())
    said = f"; its last words were: {words}" if words and words not in message else ""
    return death(f"The {name} process failed: {reply['error']}: {message}{said}")


def _frame(message: Options, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    values = [np.asarray(array) for array in arrays.values()]
    if any(array.dtype.kind not in _KINDS for array in values):
        raise ValueError(f"arrays of {sorted({array.dtype.kind for array in values})} cannot travel")
    described = [(name, array.dtype.str, array.shape) for name, array in zip(arrays, values, strict=True)]
    text = json.dumps({**message, "arrays": described}).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *(array.tobytes() for array in values)])


def _read_frame(source: IO[bytes]) -> tuple[Options, Arrays]:
    (length,) = _LENGTH.unpack(_read_exactly(source, _LENGTH.size))
    if length > _MAX_BYTES:
        raise ValueError("not a frame")
    message = json.loads(_read_exactly(source, length))
    arrays = {}
    for name, kind, shape in message.pop("arrays"):
        dtype = np.dtype(kind)
        if dtype.kind not in _KINDS or dtype.itemsize * prod(shape) > _MAX_BYTES:
            raise ValueError("not a frame")
        body = bytearray(_read_exactly(source, dtype.itemsize * prod(shape)))  # so that it can be written
        arrays[name] = np.frombuffer(body, dtype).reshape(shape) if body else np.empty(shape, dtype)
    return message, arrays


def _read_exactly(source: IO[bytes], num_bytes: int) -> bytes:
    data = source.read(num_bytes)
    if len(data) != num_bytes:
        raise EOFError
    return data


def _stop(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError):  # it died with a request in the pipe
        process.stdin.close()
    try:
        process.wait(_SECONDS_TO_EXIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    log.close()


def _last_line(log: IO[bytes]) -> str:
    lines = _lines(log, 0)
    return lines[-1][:_MAX_WORDS] if lines else ""


def _last_lines(log: IO[bytes], start: int) -> str:
    """Return what a library wrote last and that is no remark, on one line."""
    lines = [line for line in _lines(log, start) if not _NO_CAUSE.match(line)]
    return "; ".join(lines[-_LAST_LINES:])[:_MAX_WORDS]


def _lines(log: IO[bytes], start: int) -> list[str]:
    # Reading must not move the place at which the child writes: they share it.
    size = os.fstat(log.fileno()).st_size
    start = max(start, size - _MAX_LOG_BYTES)
    text = os.pread(log.fileno(), size - start, start).decode(errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
