"""After writing: ask the board itself which policy it runs (HELLO), and let it test itself (SELFTEST)."""

import time
from dataclasses import dataclass
from typing import Any

from edgeqrl.errors import DeviceError, MissingToolError
from firmware_export.board import Board
from firmware_export.flash_tool import FlashTool
from firmware_export.flashers.find import a, serial_ports
from firmware_export.flashers.runner import Choice

_COMES_BACK_S = 4.0  # a port on USB after a restart
_PAUSE_S = 0.5


@dataclass(frozen=True)
class Verified:
    """What was found out; `is_verified` is None where no port is known to ask."""

    is_verified: bool | None
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"is_verified": self.is_verified, "text": self.text}


def uart_port(tool: FlashTool, choice: Choice, uart: str | None) -> str | None:
    """Return where the firmware is heard: as said, else the tool's port if it is that, else one on USB."""
    if uart is not None:
        return uart
    if choice.port is not None and tool.uart_on_port:
        return choice.port
    usb = tool.usb if tool.uart_on_port else tool.uart_usb
    found = serial_ports(usb) if usb else ()
    return found[0].name if len(found) == 1 else None


def verify(
    board: Board, tool: FlashTool, choice: Choice, model_sha256: bytes, *, uart: str | None = None
) -> Verified:
    """Ask the board over its UART; raise DeviceError unless it runs this model and passes its self-test."""
    try:
        port = _wait_for_port(board, tool, choice, uart)
        if port is None:
            where = f"the serial port at its UART, {board.uart.pins}"
            return Verified(None, f"Written; not verified: give --uart PORT, {where}.")
        return _ask(port, board, model_sha256)
    except MissingToolError as error:
        return Verified(None, f"Written; not verified: {error}")


def _wait_for_port(board: Board, tool: FlashTool, choice: Choice, uart: str | None) -> str | None:
    """Return the port; one that is known by its USB id may only be about to come back."""
    deadline = time.monotonic() + _COMES_BACK_S
    while True:
        port = uart_port(tool, choice, uart)
        is_known = tool.uart_on_port or tool.uart_usb
        if port is not None or not is_known or time.monotonic() > deadline:
            return port
        time.sleep(_PAUSE_S)


def _ask(port: str, board: Board, model_sha256: bytes) -> Verified:
    from firmware_export.device.client import Device, open_device

    deadline = time.monotonic() + _COMES_BACK_S
    device: Device | None = None
    while device is None:
        try:
            device = open_device(port, board.uart.baud)
        except DeviceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)
    with device:
        hello = device.hello()
        if hello.model_sha256 != model_sha256:
            runs = hello.model_sha256.hex()[:8] or "unknown"
            raise DeviceError(
                f"Written, but the device at {port} runs model {runs}, not "
                f"{model_sha256.hex()[:8]}: reset it and flash again. Is that the board's port?"
            )
        if hello.board != board.name:
            raise DeviceError(
                f"Written to {a(board.name)}, but the device at {port} says that it is a {hello.board}. Is "
                "that its port?"
            )
        tested = device.selftest().rows if hello.has_selftest else 0
    what = f"its self-test of {tested} rows passed" if tested else "it has no self-test"
    model = model_sha256.hex()[:8]
    return Verified(True, f"Verified at {port}: it runs '{hello.name}', model {model}…; {what}.")
