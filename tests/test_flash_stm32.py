"""The real stm32loader, by our template, against a ROM bootloader that is made up."""

import os
import sys
from pathlib import Path

import pytest

from edgeqrl.data import data_folder
from edgeqrl.errors import DeviceError
from firmware_export.board import Board, load_board
from firmware_export.flashers.ranges import sectors
from firmware_export.flashers.runner import Choice, Flashed, flash
from tests.fake_stm32 import FakeStm32, install_loader
from tests.flash_fakes import some_firmware, written_images

BOARD = load_board("netduinoplus2", data_folder("boards"))
START = 0x08000000
SECTORS = [high - low for low, high in sectors(BOARD)]
OTHERS = [
    ("nucleo-h743zi", 0x450, 131_073, [0, 1]),
    ("stm32f4discovery", 0x413, 5_000, [0]),
    ("stm32vldiscovery", 0x420, 2_500, [0, 1, 2]),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_loader(tmp_path / "bin", sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def write(
    folder: Path, chip: FakeStm32, size: int, *, dry_run: bool = False, board: Board = BOARD
) -> Flashed:
    firmware = some_firmware(board, size)
    choice = Choice(tool="stm32loader", port=chip.port, dry_run=dry_run)
    return flash(firmware, board, written_images(firmware, board, folder / "firmware"), choice)


def test_sectors_are_those_of_the_chip() -> None:
    assert SECTORS == [16384] * 4 + [65536] + [131072] * 7


@pytest.mark.parametrize(("size", "erased"), [(5001, [0]), (16385, [0, 1])])
def test_loader_erases_what_it_needs_writes_verifies_and_starts(
    folder: Path, size: int, erased: list[int]
) -> None:
    with FakeStm32(0x413, START, SECTORS) as chip:
        done = write(folder, chip, size)
    assert done.is_written
    assert done.found == f"{chip.port}, chip 0x413"
    assert chip.erased == erased
    assert not chip.was_mass_erased
    assert chip.flash[:size] == some_firmware(BOARD, size).bin
    kept = sum(SECTORS[: len(erased)])
    assert set(chip.flash[kept:]) == {0xAA}
    assert done.erased == (START, START + kept)
    assert chip.went_to == START


@pytest.mark.slow
@pytest.mark.parametrize(("name", "chip_id", "size", "erased"), OTHERS)
def test_loader_writes_other_boards(
    folder: Path, name: str, chip_id: int, size: int, erased: list[int]
) -> None:
    board = load_board(name, data_folder("boards"))
    sizes = [high - low for low, high in sectors(board)]
    with FakeStm32(chip_id, START, sizes) as chip:
        assert write(folder, chip, size, board=board).is_written
    assert chip.erased == erased
    assert not chip.was_mass_erased
    assert chip.flash[:size] == some_firmware(board, size).bin


@pytest.mark.parametrize("dry_run", [False, True])
def test_wrong_chip_is_refused_untouched(folder: Path, dry_run: bool) -> None:
    with FakeStm32(0x450, START, SECTORS) as chip, pytest.raises(DeviceError, match="finds 0x450"):
        write(folder, chip, 5000, dry_run=dry_run)
    assert set(chip.flash) == {0xAA}


def test_dry_run_asks_the_chip_and_leaves_it_alone(folder: Path) -> None:
    with FakeStm32(0x413, START, SECTORS) as chip:
        done = write(folder, chip, 5000, dry_run=True)
    assert done.found.endswith("chip 0x413")
    assert set(chip.flash) == {0xAA}
    assert chip.went_to is None


def test_chip_that_refuses_the_write_is_said(folder: Path) -> None:
    said = r"stm32loader failed .*half an image"
    with FakeStm32(0x413, START, SECTORS, fail_write=True) as chip, pytest.raises(DeviceError, match=said):
        write(folder, chip, 5000)
    assert chip.went_to is None
