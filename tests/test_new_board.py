"""Adding a board is one TOML file: the one that the docs show is taken from there, built for and emulated."""

import re
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.backends.emulated import EmulatedPolicy
from edgeqrl.backends.host_c import HostC
from edgeqrl.cli.main import run
from firmware_export.board import Board, board_names, load_board
from firmware_export.build import compile_firmware
from firmware_export.elf import read_elf
from tests.c_policies import random_observations
from tests.firmware import BOARDS_FOLDER, cross_compiler, policy, sources
from tests.test_board import schema_faults

DOCS = Path(__file__).parent.parent / "docs" / "boards.md"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text, _ = re.findall(r"^```toml\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    place = tmp_path_factory.mktemp("board") / "olimex-h405.toml"
    place.write_text(text)
    return place


@pytest.fixture(scope="module")
def new(path: Path) -> Board:
    return load_board(path, BOARDS_FOLDER)


def test_example_is_a_board_that_does_not_ship(path: Path, new: Board) -> None:
    assert new.name == path.stem
    assert new.name not in board_names(BOARDS_FOLDER)
    assert schema_faults(path.read_text()) == []


def test_its_flash_tools_ask_the_chip_first(new: Board) -> None:
    assert all(tool.identify is not None for tool in new.flash_tools)


def test_firmware_is_built_for_it_and_acts_as_the_host(new: Board) -> None:
    built = compile_firmware(sources(), new, compiler=cross_compiler("zig"), with_selftest=True)
    elf = read_elf(built.elf)
    assert built.start == elf.address("eqrl_vectors") == 0x08000000
    rows = random_observations(np.random.default_rng(8), policy(), 16)
    expected, _ = HostC(policy()).step(rows)
    with EmulatedPolicy(built, policy(), new) as device:
        actions, _ = device.step(rows)
    np.testing.assert_array_equal(actions, expected)


def test_command_shows_it_from_its_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["boards", str(path)]) == 0
    shown = capsys.readouterr().out
    for part in ("olimex-h405", "--place: weights, arena", "crystal", "st-flash", "unicorn"):
        assert part in shown
