"""The bytes between host and device: a serial port, a pty or a TCP socket, named as pyserial does."""

import os
import re
import time
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol

from edgeqrl.errors import DeviceError, MissingToolError, UsageError

DEFAULT_BAUD = 115_200

_SLICE_S = 0.05  # pyserial waits so long for bytes that are missing
_WRITE_TIMEOUT_S = 5.0
_MOST_STALE_BYTES = 2**16
_SOCKET = re.compile(r"socket://[^/]+:\d{1,5}(?:[/?].*)?")
_USUAL_URLS = "/dev/ttyACM0, COM3, or socket://HOST:PORT"


class Link(Protocol):
    """A stream of bytes to a device and from it."""

    bytes_per_s: float

    def read(self, count: int, timeout_s: float) -> bytes:
        """Return `count` bytes, or those that came until the time was over; b"" for none."""
        ...

    def read_stale(self) -> bytes:
        """Return what came before anybody asked."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of `data`."""
        ...

    def close(self) -> None:
        """Let the port go; does nothing the second time."""
        ...


class SerialLink:
    """A Link by pyserial. Nobody else has the port meanwhile, and its control lines stay as they are.

    Opening leaves DTR and RTS as the system sets them, both on: the pair that the reset circuits of boards
    take for "run". Closing leaves them on as well, so that the next opening is no edge.
    """

    def __init__(self, url: str, baud: int = DEFAULT_BAUD) -> None:
        """Open the port; raise DeviceError where that fails, UsageError for what is no port's name."""
        if baud <= 0:
            raise UsageError(f"--baud must be above 0, got {baud}.")
        self.url = url
        self.bytes_per_s = baud / 10  # start bit, eight data bits, stop bit
        self._faults = _faults()
        self._port = self._open(baud)
        with suppress(*self._faults, AttributeError, ImportError):
            _keep_lines_on_close(self._port.fileno())

    def read(self, count: int, timeout_s: float) -> bytes:
        """Return `count` bytes, or those that came until the time was over."""
        deadline = time.monotonic() + timeout_s
        found = b""
        while len(found) < count:
            try:
                found += self._port.read(count - len(found))
            except self._faults as error:
                raise self._gone(error) from error
            if time.monotonic() >= deadline:
                break
        return found

    def read_stale(self) -> bytes:
        """Return what came before anybody asked."""
        found = b""
        try:
            while len(found) < _MOST_STALE_BYTES and (waiting := self._port.in_waiting):
                found += self._port.read(waiting)
        except self._faults as error:
            raise self._gone(error) from error
        return found

    def write(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._port.write(data)
        except self._faults as error:
            if type(error).__name__ == "SerialTimeoutException":
                raise DeviceError(
                    f"The device at {self.url} does not take what is sent. Reset it, and run the command "
                    "again."
                ) from error
            raise self._gone(error) from error

    def close(self) -> None:
        """Let the port go; does nothing the second time."""
        with suppress(*self._faults):
            self._port.close()

    def _open(self, baud: int) -> Any:
        serial = _pyserial()
        if self.url.startswith("socket://") and not _SOCKET.fullmatch(self.url):
            raise UsageError(f"--port '{self.url}' is not of the form socket://HOST:PORT.")
        try:
            return serial.serial_for_url(
                self.url, baud, timeout=_SLICE_S, write_timeout=_WRITE_TIMEOUT_S, exclusive=True
            )
        except ValueError as error:
            raise UsageError(
                f"--port '{self.url}' is not the name of a port, such as {_USUAL_URLS}."
            ) from error
        except self._faults as error:
            raise DeviceError(f"Cannot open port '{self.url}': {_reason(error)}") from error

    def _gone(self, error: BaseException) -> DeviceError:
        return DeviceError(
            f"The device at {self.url} has gone ({_said(error)}). Plug it in, and run the command again."
        )


def _pyserial() -> Any:
    try:
        return import_module("serial")
    except ImportError as error:
        raise MissingToolError(
            'Talking to a device needs pyserial; install it with `pip install "edgeqrl[device]"`.'
        ) from error


def _faults() -> tuple[type[Exception], ...]:
    """Return what pyserial raises when a port fails; SerialException is an OSError."""
    try:
        return OSError, import_module("termios").error
    except ImportError:  # not on Windows
        return (OSError,)


def _keep_lines_on_close(descriptor: int) -> None:
    """Clear HUPCL: closing a terminal does not drop DTR."""
    termios = import_module("termios")
    attributes = termios.tcgetattr(descriptor)
    attributes[2] &= ~termios.HUPCL
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


def _reason(error: BaseException) -> str:
    """Say why a port does not open, and what to do."""
    number = getattr(error, "errno", None)
    if isinstance(error, PermissionError) or number in (1, 13):
        return "permission denied. Add yourself to the group of serial ports (`dialout`), and log in again."
    if number in (11, 16):
        return "another program has it open. Close that one."
    return f"{_said(error)}. Is the device plugged in, and is that its port?"


def _said(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    if number:
        return os.strerror(number).lower()
    text = " ".join(str(error).split())
    return text.rpartition("] ")[2].rpartition(": ")[2].rstrip(".") or type(error).__name__
