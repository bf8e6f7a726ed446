"""Find the one board: volumes, serial ports, probes and bootloaders that are plugged in."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeqrl.errors import DeviceError, MissingToolError, UsageError
from firmware_export.flash_tool import FlashTool, render, wants
from firmware_export.flashers.programs import Said
from firmware_export.flashers.volumes import find_volumes

_USB_DEVICES = Path("/sys/bus/usb/devices")
# What may stand in a command: no option, no blank, nothing that a tool's own language could take apart.
_NAME = re.compile(r"[A-Za-z0-9_./\\:][A-Za-z0-9_./\\:@%+=,?&-]*")

_AN = re.compile(r"[aeio]|(?:stm|nrf|mps)\d")  # spoken with a vowel first

Run = Callable[[Sequence[str]], Said]


@dataclass(frozen=True)
class Candidate:
    """One thing that the tool could write to."""

    name: str  # port, path of the volume or id of the probe: what goes into the command
    text: str  # for people

    def __str__(self) -> str:
        return self.text if self.text == self.name else f"{self.name} ({self.text})"


@dataclass(frozen=True)
class Search:
    """What was found; `problem` says why it is not exactly one board."""

    chosen: Candidate | None
    found: tuple[Candidate, ...]
    problem: str = ""


def a(board_name: str) -> str:
    """Return the name of a board with its article."""
    return f"{'an' if _AN.match(board_name) else 'a'} {board_name}"


def find_board(
    tool: FlashTool,
    board_name: str,
    *,
    port: str | None = None,
    probe: str | None = None,
    volume: Path | None = None,
    run: Run,
) -> Search:
    """Return the one candidate of a tool, or what else there is. A named one is the only one looked at."""
    for option, name in (("--port", port), ("--probe", probe)):
        if name is not None and not _NAME.fullmatch(name):
            raise UsageError(f"{option} '{name}' is not the name of a port or probe.")
    if tool.find == "volume":
        return _volume(tool, board_name, volume)
    if tool.find == "serial":
        return _serial(tool, board_name, port)
    if tool.find == "none":
        return _unfound(tool, port)
    return _probe(tool, board_name, probe, run)


def serial_ports(usb: Sequence[str] = ()) -> tuple[Candidate, ...]:
    """List the serial ports on USB, of these vendor:product ids where any are given."""
    try:
        from serial.tools import list_ports
    except ImportError as error:
        raise MissingToolError(
            "Finding serial ports needs pyserial; install it with `pip install 'edgeqrl[flash]'`, or name "
            "the port with --port."
        ) from error
    found = []
    for port in sorted(list_ports.comports(), key=lambda port: port.device):
        if port.vid is None:
            continue
        usb_id = f"{port.vid:04x}:{port.pid:04x}"
        if not usb or usb_id in usb:
            found.append(Candidate(port.device, f"{usb_id} {port.product or port.description or ''}".strip()))
    return tuple(found)


def usb_devices(usb: Sequence[str]) -> tuple[Candidate, ...]:
    """List USB devices of these vendor:product ids, as Linux shows them; elsewhere there are none."""
    found = []
    for folder in sorted(_USB_DEVICES.iterdir()) if _USB_DEVICES.is_dir() else []:
        usb_id = f"{_line(folder / 'idVendor')}:{_line(folder / 'idProduct')}"
        if usb_id in usb:
            name = _line(folder / "serial") or folder.name
            text = f"{usb_id} {_line(folder / 'product')} at USB {folder.name}"
            found.append(Candidate(name, " ".join(text.split())))
    return tuple(found)


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _volume(tool: FlashTool, board_name: str, volume: Path | None) -> Search:
    assert tool.volume is not None
    if volume is not None and not volume.is_dir():
        raise UsageError(f"--volume {volume}: there is no such folder.")
    matching, others = find_volumes(tool.volume, volume)
    found = tuple(Candidate(str(folder), mark) for folder, mark in (*matching.items(), *others.items()))
    if len(matching) == 1:
        return Search(found[0], found)
    listed = f"volumes found: {_listed(found)}."
    if matching:
        return Search(None, found, f"More than one {board_name} is there; {listed} Name one with --volume.")
    if volume is not None:
        raise DeviceError(f"{volume} is not {a(board_name)} in boot mode; {listed} {tool.hint}".rstrip())
    text = f"There is no volume of {a(board_name)} in boot mode; {listed} {tool.hint}"
    return Search(None, found, text.rstrip())


def _serial(tool: FlashTool, board_name: str, port: str | None) -> Search:
    if port is not None:
        named = Candidate(port, port)
        return Search(named, (named,))
    found = serial_ports(tool.usb)
    if len(found) == 1:
        return Search(found[0], found)
    if found:
        text = f"More than one port could be the {board_name}: {_listed(found)}. Name one with --port."
        return Search(None, found, text)
    others = serial_ports()
    text = f"No serial port is known as that of {a(board_name)}; ports found: {_listed(others)}."
    return Search(None, others, f"{text} {tool.hint}".rstrip() + " A port can be named with --port.")


def _unfound(tool: FlashTool, port: str | None) -> Search:
    if port is None and any(wants(argv, "port") for argv in tool.commands):
        return Search(None, (), f"{tool.tool} cannot look for it. {tool.hint} Name it with --port.")
    named = Candidate(port or "", port or "")
    return Search(named, (named,))


def _probe(tool: FlashTool, board_name: str, probe: str | None, run: Run) -> Search:
    if tool.listing is not None:
        said = run(render(tool.listing.argv, {}))
        names = dict.fromkeys(match[1] for match in re.finditer(tool.listing.found, said.text))
        found = tuple(Candidate(name, name) for name in names)
    elif tool.usb:
        found = usb_devices(tool.usb)
    else:  # the command that identifies the chip counts what is there
        return Search(Candidate("", ""), ())
    what = "probe" if tool.find == "probe" else "bootloader"
    chosen = [candidate for candidate in found if probe in (None, candidate.name)]
    if len(chosen) == 1:
        return Search(chosen[0], found)
    if probe is not None:
        raise DeviceError(f"There is no {what} '{probe}'; found: {_listed(found)}.")
    if found:
        can_name = any(wants(argv, "probe") for argv in tool.commands)
        cure = "Name one with --probe." if can_name else "Unplug all but one."
        text = f"More than one {what} is there, and any could be the {board_name}: {_listed(found)}. {cure}"
        return Search(None, found, text)
    text = f"{tool.tool} finds no {what} of {a(board_name)}; found: none. {tool.hint}"
    return Search(None, found, text.rstrip())


def _listed(found: Sequence[Candidate]) -> str:
    return ", ".join(map(str, found)) or "none"
