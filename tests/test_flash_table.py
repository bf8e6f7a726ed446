"""What the pages claim of a flash tool's tests: for every claim there is such a test, of that board."""

import importlib
import inspect
import json
import re
from pathlib import Path

import pytest

from edgeqrl.data import data_folder
from firmware_export.board import board_names, load_board
from firmware_export.flashers.table import flash_table, stand_in

BOARDS = [load_board(name, data_folder("boards")) for name in board_names(data_folder("boards"))]
TOOLS = [(board, tool) for board in BOARDS for tool in board.flash_tools]
# What the table says beyond "command compared" -> the tests that do it.
TESTS = {
    "a folder as its drive": ["test_flash_volume.test_the_one_volume_is_found_and_the_whole_image_copied"],
    "the real tool, a made-up ROM bootloader": [
        "test_flash_stm32.test_loader_erases_what_it_needs_writes_verifies_and_starts",
        "test_flash_stm32.test_loader_writes_other_boards",
    ],
    "the real tool loads the configuration": ["test_flash_gdb.test_openocd_knows_the_files_and_commands"],
    "the real tool makes and checks the image": ["test_images.test_esp_image_holds_what_the_elf_loads"],
    "the real tool, QEMU's gdb stub": ["test_flash_gdb.test_gdb_writes_and_compares_every_section"],
}
CLAIMS = [(board.name, tool.tool, text) for board, tool in TOOLS if (text := stand_in(board, tool))]


def boards_of(place: str) -> set[str]:
    """Return the boards that a test names, by its parameters, in its text or as its module's BOARD."""
    name, function = place.split(".")
    module = importlib.import_module(f"tests.{name}")
    test = getattr(module, function)
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    cases = [case for mark in marks for case in mark.args[1]]
    rows = [case if isinstance(case, list | tuple) else [case] for case in cases]
    named = {value for row in rows for value in row if isinstance(value, str)}
    source = inspect.getsource(test)
    stated = {module.BOARD.name} if hasattr(module, "BOARD") and "BOARD" in source else set()
    return named | stated | set(re.findall(r'"([a-z0-9-]+)"', source))


@pytest.mark.parametrize(("board", "tool", "text"), CLAIMS, ids=[" ".join(claim[:2]) for claim in CLAIMS])
def test_claimed_stand_in_has_its_test_of_that_board(board: str, tool: str, text: str) -> None:
    tested = set().union(*map(boards_of, TESTS[text]))
    assert board in tested, f"no test of {tool} for {board}: {TESTS[text]}"


def test_every_kind_of_test_is_claimed() -> None:
    assert {text for *_, text in CLAIMS} == set(TESTS)


def test_every_command_is_compared_and_no_other_is_kept() -> None:
    kept = json.loads((Path(__file__).parent / "data" / "flash_commands.json").read_text())
    assert [(board.name, tool.tool) for board, tool in TOOLS] == [
        (board, tool) for board, tools in kept.items() for tool in tools
    ]


def test_tool_that_cannot_ask_the_chip_says_so() -> None:
    rows = [row for row in flash_table(BOARDS).splitlines() if "the chip is not asked" in row]
    assert [row.split(" | ")[1] for row in rows] == ["teensy_loader_cli"]


def test_boards_without_firmware_have_no_flash_tool() -> None:
    """Nothing could be written by it: their vendor's SDK builds the firmware, or they run Linux."""
    assert {board.kind for board, _ in TOOLS} == {"mcu"}
    table = flash_table(BOARDS)
    assert not re.search(r"`esp32`|`esp32s3`|`rpi4`", table)
    assert table.count("\n") == len(TOOLS) + 1
