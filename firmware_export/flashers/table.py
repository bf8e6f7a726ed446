"""The table of docs/flashing.md: board, tool, command, and what stood in for the hardware in our tests."""

import re
import shlex
from collections.abc import Iterable

from firmware_export.board import Board
from firmware_export.flash_tool import VOLUME_COPY, FlashTool

_PLAIN = re.compile(r"[A-Za-z0-9_./:=@%+,{}-]+")
# What the tests do with a tool beyond comparing its command with a reviewed table, word by word.
_TESTED = {
    VOLUME_COPY: "a folder as its drive",
    "stm32loader": "the real tool, a made-up ROM bootloader",
    "openocd": "the real tool loads the configuration",
    "esptool": "the real tool makes and checks the image",
}
_TESTED_ON = {  # board, tool
    (name, "gdb-multiarch"): "the real tool, QEMU's gdb stub"
    for name in ("microbit", "netduinoplus2", "stm32vldiscovery")
}


def flash_table(boards: Iterable[Board]) -> str:
    """Return the Markdown table of all boards that have a flash tool."""
    lines = ["| board | tool | command | tested with |", "| --- | --- | --- | --- |"]
    for board in boards:
        for tool in board.flash_tools:
            lines.append(f"| `{board.name}` | {tool.tool} | {_command(tool)} | {tested_with(board, tool)} |")
    return "\n".join(lines)


def tested_with(board: Board, tool: FlashTool) -> str:
    """Say what a test of this tool for this board used in place of the board."""
    special = stand_in(board, tool)
    return f"command compared; {special}" if special and tool.commands else special or "command compared"


def stand_in(board: Board, tool: FlashTool) -> str:
    """Say what a test did beyond comparing the command; tests/test_flash_table.py knows which test."""
    return _TESTED_ON.get((board.name, tool.tool)) or _TESTED.get(tool.tool, "")


def _command(tool: FlashTool) -> str:
    if tool.volume is not None:
        mark = f"`{tool.volume.key}: {tool.volume.expect}` in {tool.volume.file}"
        return f"copy `{{image}}` to the drive with {mark}".replace("|", "\\|")
    lines = [f"`{' '.join(map(_word, command))}`" for command in tool.commands]
    return "<br>".join(lines if tool.asks_chip else [*lines, "the chip is not asked"])


def _word(word: str) -> str:
    """Quote a word as a shell wants it; placeholders stand for words that need no quotes."""
    return word if _PLAIN.fullmatch(word) else shlex.quote(word)
