"""FlashTool: what a board file says of one program that writes its flash. Data only; checked when read."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

IMAGES = ("elf", "bin", "hex", "uf2", "esp")
FIND = ("volume", "serial", "probe", "dfu", "none")
ERASES = ("sectors", "flash")
VOLUME_COPY = "volume-copy"  # the one tool that is no program
PLACEHOLDERS = ("image", "port", "probe", "address", "erase_offset", "erase_length")
_COMPANIONS = {"st-flash": ("st-info",)}  # what comes with a tool, and is called for it
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_TOOL = re.compile(r"[a-z][a-z0-9_-]*")
_USB_ID = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")

_KINDS = {"erase_page_bytes": int, "timeout_s": int, "image_offset": int, "uart_on_port": bool}

Fault = Callable[[str], Exception]


@dataclass(frozen=True)
class Identify:
    """A command that only reads, and what it has to say.

    Each match of `found` is one chip; its first group says which. There must be one, and `expect` must match
    all of that group.
    """

    argv: tuple[str, ...]
    found: str
    expect: str


@dataclass(frozen=True)
class Listing:
    """A command that lists what is plugged in; each match's first group is the id of one of them."""

    argv: tuple[str, ...]
    found: str


@dataclass(frozen=True)
class VolumeMark:
    """How a bootloader's volume is known: a line `key: value` of a file, the value matching `expect`."""

    file: str
    key: str
    expect: str


@dataclass(frozen=True)
class FlashTool:
    """One `[[flash]]` table: a command as a list of words, and what must be true before it runs."""

    tool: str  # the program; VOLUME_COPY needs none
    image: str  # one of IMAGES
    find: str  # one of FIND: how the board is found
    needs: str  # how to get the tool
    argv: tuple[str, ...] = ()
    erase: tuple[str, ...] = ()  # runs before argv, where the tool does not erase what it writes
    erase_page_bytes: int = 0  # what the tool multiplies a sector's number with, if not its size
    erases: str = "sectors"  # "flash": all of it that is not reserved, whatever the image
    usb: tuple[str, ...] = ()  # vendor:product of the port, probe or bootloader
    listing: Listing | None = None
    identify: Identify | None = None
    volume: VolumeMark | None = None
    confirm: str = ""  # what --yes confirms; empty: nothing to confirm
    hint: str = ""  # what brings the board into its bootloader
    success: str = ""  # must be found in what the tool says
    failure: str = ""  # must not
    exit_codes: tuple[int, ...] = (0,)
    timeout_s: int = 300
    image_offset: int | None = None  # for tools that count from the start of flash, not by address
    uart_on_port: bool = False  # the firmware is heard on the port that the tool used
    uart_usb: tuple[str, ...] = ()  # vendor:product of the board's own serial port of that UART

    @property
    def asks_chip(self) -> bool:
        """Return whether it is known what is written to: the chip is asked, or a volume says it of itself."""
        return self.identify is not None or self.volume is not None

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """Return what runs, in this order."""
        return tuple(command for command in (self.erase, self.argv) if command)


def read_flash_tool(table: dict[str, Any], fault: Fault) -> FlashTool:
    """Return the checked table; `fault` makes the error that names the file."""
    name = str(table.get("tool", ""))
    where = f"flash tool '{name}': "
    known = {field.name for field in fields(FlashTool)}
    for key in table:
        if key not in known:
            raise fault(f"{where}unknown key '{key}'")
    values = {key: _value(key, value, where, fault) for key, value in table.items()}
    for key in ("tool", "image", "find", "needs"):
        if not values.get(key):
            raise fault(f"{where}'{key}' is missing")
    found = FlashTool(**values)
    problem = _problem(found)
    if problem:
        raise fault(f"{where}{problem}")
    return found


def render(argv: Sequence[str], values: dict[str, str]) -> list[str]:
    """Fill the placeholders of a command; each word stays one word."""
    return [_PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in argv]


def wants(argv: Sequence[str], placeholder: str) -> bool:
    """Return whether a command has this placeholder."""
    return any(f"{{{placeholder}}}" in word for word in argv)


def selectors(tool: FlashTool) -> tuple[str, ...]:
    """Return which of "port", "probe" and "volume" a user can name for a tool."""
    if tool.find == "volume":
        return ("volume",)
    return tuple(name for name in ("port", "probe") if any(wants(argv, name) for argv in tool.commands))


def _problem(tool: FlashTool) -> str:
    """Say what is wrong with a table, or nothing."""
    commands = [*tool.commands, *(part.argv for part in (tool.listing, tool.identify) if part)]
    unknown = {name for argv in commands for word in argv for name in _PLACEHOLDER.findall(word)}
    ours = (tool.tool, *_COMPANIONS.get(tool.tool, ()))
    strange = [argv[0] for argv in commands if argv[0] not in ours]
    checks = (
        (not _TOOL.fullmatch(tool.tool), f"'tool' must match {_TOOL.pattern}"),
        (tool.image not in IMAGES, f"'image' must be one of {', '.join(IMAGES)}"),
        (tool.find not in FIND, f"'find' must be one of {', '.join(FIND)}"),
        (tool.erases not in ERASES, f"'erases' must be one of {', '.join(ERASES)}"),
        (bool(tool.argv) == (tool.tool == VOLUME_COPY), f"'argv' belongs to all tools but {VOLUME_COPY}"),
        ((tool.find == "volume") != (tool.volume is not None), "'volume' belongs to find = 'volume'"),
        (tool.listing is not None and tool.find not in ("probe", "dfu"), "only probes and DFU are listed"),
        (not all(map(_USB_ID.fullmatch, (*tool.usb, *tool.uart_usb))), "a USB id is like '0483:df11'"),
        (bool(unknown - set(PLACEHOLDERS)), f"unknown placeholder {{{min(unknown, default='')}}}"),
        (bool(strange), f"a command must begin with {' or '.join(ours)}, not '{''.join(strange[:1])}'"),
        (tool.timeout_s <= 0, "'timeout_s' must be positive"),
    )
    return next((text for is_wrong, text in checks if is_wrong), "")


def _value(key: str, value: Any, where: str, fault: Fault) -> Any:
    parts = {"listing": Listing, "identify": Identify, "volume": VolumeMark}
    if key in parts:
        return _part(parts[key], key, value, where, fault)
    if key in ("argv", "erase", "usb", "uart_usb"):
        return _words(key, value, where, fault)
    if key == "exit_codes":
        if not isinstance(value, list) or not value or any(type(code) is not int for code in value):
            raise fault(f"{where}'exit_codes' must be a list of integers")
        return tuple(value)
    kind = _KINDS.get(key, str)
    if type(value) is not kind or (isinstance(value, int) and value < 0):
        raise fault(f"{where}'{key}' must be {kind.__name__}")
    if isinstance(value, str) and key in ("success", "failure"):
        _pattern(key, value, where, fault)
    return value


def _part(kind: type, key: str, value: Any, where: str, fault: Fault) -> Any:
    names = {field.name for field in fields(kind)}
    if not isinstance(value, dict) or set(value) != names:
        raise fault(f"{where}'{key}' must be a table of {', '.join(sorted(names))}")
    values: dict[str, Any] = {}
    for name, given in value.items():
        if name == "argv":
            values[name] = _words(name, given, where, fault)
            continue
        if not isinstance(given, str) or not given:
            raise fault(f"{where}'{key}.{name}' must be a string")
        if name in ("found", "expect"):
            groups = _pattern(f"{key}.{name}", given, where, fault)
            if name == "found" and groups < 1:
                raise fault(f"{where}'{key}.found' needs a group that says what was found")
        values[name] = given
    return kind(**values)


def _words(key: str, value: Any, where: str, fault: Fault) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise fault(f"{where}'{key}' must be a list of strings")
    return tuple(value)


def _pattern(key: str, value: str, where: str, fault: Fault) -> int:
    try:
        return re.compile(value).groups
    except re.error as error:
        raise fault(f"{where}'{key}' is no regular expression: {error}") from error
