"""Write a firmware to its board by one of the tools in the board's file, and check that it is there.

Every tool is a table of words; what is done with it is here, once. Before anything is written it is known
that the image lies in flash that may be written, that exactly one board is there, and that its chip is right.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgeqrl.errors import DeviceError, MissingToolError, UsageError
from firmware_export.board import Board
from firmware_export.build import Firmware
from firmware_export.flash_tool import VOLUME_COPY, FlashTool, render, selectors, wants
from firmware_export.flashers.find import Candidate, a, find_board
from firmware_export.flashers.programs import (
    Said,
    Watch,
    program_path,
    require_groups_of_processes,
    run_program,
    silent,
)
from firmware_export.flashers.ranges import (
    Range,
    erased_range,
    image_range,
    require_writable,
    tool_erase_area,
)
from firmware_export.flashers.volumes import copy_image

_ASK_S = 60  # for a command that lists or identifies


@dataclass(frozen=True)
class Choice:
    """What the user says of how to flash."""

    tool: str | None = None
    port: str | None = None  # serial port of the board
    probe: str | None = None  # id of a debug probe or bootloader
    volume: Path | None = None
    is_confirmed: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Flashed:
    """What was done, or would be."""

    board: str
    tool: str
    image: Path
    image_bytes: int
    written: Range
    erased: Range
    commands: tuple[tuple[str, ...], ...]  # with placeholders left where nothing was found
    found: str  # the board: port, volume or probe, and its chip; empty if none
    confirm: str  # what is confirmed by --yes; empty if nothing
    notes: tuple[str, ...] = ()  # what the commands do not show
    missing: tuple[str, ...] = ()  # why it could not be written now; of a dry run only
    is_written: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "board": self.board,
            "tool": self.tool,
            "image": str(self.image),
            "image_bytes": self.image_bytes,
            "written": list(self.written),
            "erased": list(self.erased),
            "commands": [list(command) for command in self.commands],
            "found": self.found,
            "confirm": self.confirm,
            "notes": list(self.notes),
            "missing": list(self.missing),
            "is_written": self.is_written,
        }


def flash(firmware: Firmware, board: Board, folder: Path, choice: Choice, watch: Watch = silent) -> Flashed:
    """Write a firmware whose images lie in `folder`, as NAME.elf, NAME.bin and so on.

    Raises MissingToolError, with what there is to install, DeviceError, with what was found, and UsageError
    where something has to be said or confirmed first. A dry run raises only what writing could not cure:
    what is merely absent is listed in `missing`.
    """
    require_groups_of_processes()
    tool, missing = choose_tool(board, choice)
    _require_selectors(board, tool, choice)
    plan = _plan(firmware, board, folder, tool)
    if tool.confirm and not choice.is_confirmed and not choice.dry_run:
        raise UsageError(f"{tool.confirm} Confirm it with --yes.")
    if missing:
        return replace(plan, missing=(missing,))
    search = find_board(
        tool,
        board.name,
        port=choice.port,
        probe=choice.probe,
        volume=choice.volume,
        run=lambda argv: run_program(argv, timeout_s=_ASK_S, folder=folder),
    )
    if search.chosen is None:
        if choice.dry_run:
            return replace(plan, missing=(search.problem,))
        raise DeviceError(search.problem)
    return _write(plan, board, tool, search.chosen, choice, watch)


def choose_tool(board: Board, choice: Choice) -> tuple[FlashTool, str]:
    """Return the tool named, else the board's first that is installed, and what is missing in a dry run."""
    tools = board.flash_tools
    if not tools:
        raise DeviceError(f"{board.name} is not flashed: {_why_none(board)}")
    if choice.tool is not None:
        tools = (_named(board, choice.tool),)
    there = [tool for tool in tools if is_installed(tool)]
    if there:
        return there[0], ""
    cures = "; ".join(f"{tool.tool}: {tool.needs}" for tool in tools)
    text = f"No tool that flashes {a(board.name)} is installed. One of these does: {cures}"
    if choice.tool is not None:
        text = f"{choice.tool} is not installed; {tools[0].needs}"
    if choice.dry_run:
        return tools[0], text
    raise MissingToolError(text)


def is_installed(tool: FlashTool) -> bool:
    """Return whether all programs of a tool are there."""
    asked = [part.argv for part in (tool.listing, tool.identify) if part is not None]
    return all(program_path(argv[0]) is not None for argv in (*tool.commands, *asked))


def _named(board: Board, name: str) -> FlashTool:
    tools = {tool.tool: tool for tool in board.flash_tools}
    if name not in tools:
        near = get_close_matches(name, tools, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(tools)}."
        raise UsageError(f"{board.name} has no flash tool '{name}'; {hint}")
    return tools[name]


def _require_selectors(board: Board, tool: FlashTool, choice: Choice) -> None:
    """Raise UsageError for an option that the tool would not look at: what it named would not be taken."""
    given = {"port": choice.port, "probe": choice.probe, "volume": choice.volume}
    unused = [name for name, value in given.items() if value is not None and name not in selectors(tool)]
    if not unused:
        return
    name = unused[0]
    text = f"{tool.tool} does not use --{name}; it uses {_options(selectors(tool))}."
    others = [other.tool for other in board.flash_tools if name in selectors(other)]
    if others:
        text += f" For {board.name}, --{name} goes with --tool {' or '.join(others)}."
    if name == "port":
        text += " The port on which the firmware is asked is --uart."
    raise UsageError(text)


def _options(names: Sequence[str]) -> str:
    return " and ".join(f"--{name}" for name in names) or "none of --port, --probe and --volume"


def _why_none(board: Board) -> str:
    if board.emulation.qemu_machine is not None:
        return "it is an emulated machine; run it with `edgeqrl emulate`."
    if board.kind == "library":
        return "its vendor's SDK builds and writes the firmware, as `idf.py flash` does."
    return "its file names no flash tool."


def _plan(firmware: Firmware, board: Board, folder: Path, tool: FlashTool) -> Flashed:
    """Check all that needs no device, and say what would be done."""
    image = folder / f"{firmware.name}.{tool.image}"
    size = image.stat().st_size
    written = image_range(tool, firmware, size, board)
    require_writable(*written, board)
    erased = erased_range(tool, *written, board)
    notes = _notes(tool, written, erased, board)
    plan = Flashed(board.name, tool.tool, image, size, written, erased, (), "", tool.confirm, notes)
    values = _values(plan, tool, board)
    return replace(plan, commands=tuple(tuple(render(argv, values)) for argv in tool.commands))


def _notes(tool: FlashTool, written: Range, erased: Range, board: Board) -> tuple[str, ...]:
    """Say what the commands do not show: numbers that are no addresses, and a chip that nobody asks."""
    notes = []
    if tool.image_offset is not None and tool.image_offset != written[0]:
        notes.append(
            f"{tool.tool} counts from the start of flash: its {tool.image_offset:#x} is address "
            f"{written[0]:#010x} of the chip"
        )
    offset, length = tool_erase_area(tool, erased, board)
    if wants(tool.erase, "erase_length") and length != erased[1] - erased[0]:
        first, count = offset // tool.erase_page_bytes, length // tool.erase_page_bytes
        notes.append(
            f"{tool.tool} erases by number of sector times {tool.erase_page_bytes}, not by address: "
            f"{offset:#x} and length {length:#x} are sectors {first} to {first + count - 1}"
        )
    if not tool.asks_chip:
        notes.append(f"the chip is not asked: the board's file has no command for it with {tool.tool}")
    return tuple(notes)


def _values(plan: Flashed, tool: FlashTool, board: Board, name: str | None = None) -> dict[str, str]:
    """Return what goes into a command; `name` is that of the port or probe, once it is found."""
    offset, length = tool_erase_area(tool, plan.erased, board)
    address = plan.written[0] if tool.image_offset is None else tool.image_offset
    return {
        "image": plan.image.name,
        "address": f"{address:#010x}",
        "erase_offset": f"{offset:#x}",
        "erase_length": f"{length:#x}",
        "port": name or "PORT",
        "probe": name or "PROBE",
    }


def _write(
    plan: Flashed, board: Board, tool: FlashTool, candidate: Candidate, choice: Choice, watch: Watch
) -> Flashed:
    folder, values = plan.image.parent, _values(plan, tool, board, candidate.name)
    commands = tuple(tuple(render(argv, values)) for argv in tool.commands)
    chip, problem = _identify(tool, board, values, folder)
    if problem and not choice.dry_run:
        raise DeviceError(problem)
    found = ", ".join(text for text in (str(candidate) if candidate.name else "", chip) if text)
    plan = replace(plan, commands=commands, found=found, missing=(problem,) if problem else ())
    if choice.dry_run:
        return plan
    if tool.tool == VOLUME_COPY:
        assert tool.volume is not None
        name = f"FIRMWARE.{tool.image.upper()}"
        copy_image(plan.image.read_bytes(), name, Path(candidate.name), tool.volume)
    for command in commands:
        said = run_program(command, timeout_s=tool.timeout_s, folder=folder, watch=watch)
        _require_success(tool, said, is_last=command is commands[-1])
    return replace(plan, is_written=True)


def _identify(tool: FlashTool, board: Board, values: dict[str, str], folder: Path) -> tuple[str, str]:
    """Ask the tool which chip is there; return it, or why it is not known.

    Raises DeviceError for a chip that is not the board's: no dry run makes that one right.
    """
    if tool.identify is None:
        return "", ""
    said = run_program(render(tool.identify.argv, values), timeout_s=_ASK_S, folder=folder)
    chips = [match[1] for match in re.finditer(tool.identify.found, said.text)]
    if not chips:
        hint = f" {tool.hint}" if tool.hint else ""
        words = f" Its last words: {said.tail}" if said.code else ""
        return "", f"{tool.tool} finds no chip of {a(board.name)}.{hint}{words}"
    listed = ", ".join(chips)
    if len(chips) > 1:
        return "", (
            f"{tool.tool} finds more than one chip ({listed}), and any could be the {board.name}. Unplug all "
            "but one; nothing was written."
        )
    if not re.fullmatch(tool.identify.expect, chips[0]):
        raise DeviceError(
            f"The chip there is not that of {a(board.name)}: {tool.tool} finds {listed}. Nothing was written."
        )
    return f"chip {chips[0]}", ""


def _require_success(tool: FlashTool, said: Said, *, is_last: bool) -> None:
    failed = bool(tool.failure and re.search(tool.failure, said.text))
    unsure = bool(is_last and tool.success and not re.search(tool.success, said.text))
    if said.code not in tool.exit_codes or failed or unsure:
        raise DeviceError(
            f"{tool.tool} failed (exit code {said.code}); the board may hold half an image: flash it again. "
            f"Its last words: {said.tail}"
        )
