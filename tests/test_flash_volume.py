"""Boards that show themselves as a drive: RP2040, RP2350, micro:bit."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from edgeqrl.data import data_folder
from edgeqrl.errors import DeviceError, OutputError, UsageError
from firmware_export.board import Board, load_board
from firmware_export.flash_tool import VOLUME_COPY, VolumeMark
from firmware_export.flashers.runner import Choice, Flashed, flash
from firmware_export.flashers.volumes import copy_image, read_mark
from firmware_export.uf2 import read_uf2
from tests.flash_fakes import mount, mount_at, some_firmware, written_images

BOARDS = {
    name: load_board(name, data_folder("boards"))
    for name in ("rpi-pico", "rpi-pico2", "microbit", "microbit-v2")
}
# board -> file on the volume, and lines that are this board's or another's
MARKS = {
    "rpi-pico": ("INFO_UF2.TXT", ["Board-ID: RPI-RP2"], ["Board-ID: RP2350", "Board-ID: RPI-RP2X"]),
    "rpi-pico2": ("INFO_UF2.TXT", ["Board-ID: RP2350"], ["Board-ID: RPI-RP2"]),
    "microbit": ("DETAILS.TXT", ["Unique ID: 9900360258", "Unique ID: 9901"], ["Unique ID: 9904360258"]),
    "microbit-v2": (
        "DETAILS.TXT",
        ["Unique ID: 990436", "Unique ID: 9906"],
        ["Unique ID: 9901", "Unique ID: 9907"],
    ),
}
BOARDS = {name: load_board(name, data_folder("boards")) for name in MARKS}
ALL = [(name, line) for name, (_, lines, _) in MARKS.items() for line in lines]
OTHERS = [(name, line) for name, (_, _, lines) in MARKS.items() for line in lines]
PICO_MARK = VolumeMark("INFO_UF2.TXT", "Board-ID", "RPI-RP2")


def write(board: Board, place: Path, **choice: object) -> Flashed:
    firmware = some_firmware(board)
    folder = written_images(firmware, board, place / "firmware")
    return flash(firmware, board, folder, Choice(tool=VOLUME_COPY, **choice))  # type: ignore[arg-type]


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "media"
    root.mkdir()
    (root / "usb-stick").mkdir()
    mount_at(root, monkeypatch)
    return root


def test_uf2_boards_are_known_by_the_id_that_the_board_file_states() -> None:
    for name in ("rpi-pico", "rpi-pico2"):
        board = BOARDS[name]
        assert board.uf2 is not None
        assert board.flash_tools[0].volume == VolumeMark("INFO_UF2.TXT", "Board-ID", board.uf2.board_id)


@pytest.mark.parametrize(("name", "line"), ALL)
def test_the_one_volume_is_found_and_the_whole_image_copied(
    tmp_path: Path, media: Path, name: str, line: str
) -> None:
    board = BOARDS[name]
    volume = mount(media, "DRIVE", line, MARKS[name][0])
    mount(media, "OTHER", "Board-ID: SAMD21")
    done = write(board, tmp_path)
    assert done.is_written
    assert done.found == f"{volume} ({line.partition(': ')[2]})"
    kind = "uf2" if board.uf2 else "hex"
    copied = (volume / f"FIRMWARE.{kind.upper()}").read_bytes()
    assert copied == (tmp_path / "firmware" / f"robot.{kind}").read_bytes()
    if board.uf2:
        start, image = read_uf2(copied, board.uf2.family_id)
        assert start == 0x10000000
        assert image.startswith(some_firmware(board).bin)


@pytest.mark.parametrize(("name", "line"), OTHERS)
def test_another_board_is_refused_and_listed(tmp_path: Path, media: Path, name: str, line: str) -> None:
    board = BOARDS[name]
    volume = mount(media, "DRIVE", line, MARKS[name][0])
    said = line.partition(": ")[2]
    with pytest.raises(DeviceError, match=rf"no volume of an? {name} in boot mode; .*DRIVE \({said}\)"):
        write(board, tmp_path)
    for dry_run in (False, True):
        with pytest.raises(DeviceError, match=f"DRIVE is not an? {name} in boot mode"):
            write(board, tmp_path, volume=volume, dry_run=dry_run)
    assert len(list(volume.iterdir())) == 1


def test_volume_that_is_no_folder_is_said(tmp_path: Path, media: Path) -> None:
    with pytest.raises(UsageError, match=r"--volume .*gone: there is no such folder"):
        write(BOARDS["rpi-pico"], tmp_path, volume=media / "gone")


def test_two_boards_are_refused_and_listed_unless_one_is_named(tmp_path: Path, media: Path) -> None:
    one, two = mount(media, "one", "Board-ID: RPI-RP2"), mount(media, "two", "Board-ID: RPI-RP2")
    said = r"More than one rpi-pico is there; .*one \(RPI-RP2\), .*two \(RPI-RP2\)\. Name one with --volume"
    with pytest.raises(DeviceError, match=said):
        write(BOARDS["rpi-pico"], tmp_path)
    dry = write(BOARDS["rpi-pico"], tmp_path, dry_run=True)
    assert "More than one rpi-pico" in dry.missing[0]
    assert write(BOARDS["rpi-pico"], tmp_path, volume=two).found == f"{two} (RPI-RP2)"
    assert not (one / "FIRMWARE.UF2").exists()


def test_no_board_says_how_to_bring_one(tmp_path: Path, media: Path) -> None:
    said = "no volume of a rpi-pico in boot mode; volumes found: none. Hold its BOOTSEL button"
    with pytest.raises(DeviceError, match=said):
        write(BOARDS["rpi-pico"], tmp_path)


def test_dry_run_says_what_and_where_and_writes_nothing(tmp_path: Path, media: Path) -> None:
    volume = mount(media, "RPI-RP2", "Board-ID: RPI-RP2")
    done = write(BOARDS["rpi-pico"], tmp_path, dry_run=True)
    assert (done.written, done.erased) == ((0x10000000, 0x10001388), (0x10000000, 0x10002000))
    assert done.found.startswith(str(volume))
    assert not done.is_written
    assert [path.name for path in volume.iterdir()] == ["INFO_UF2.TXT"]


def test_volume_that_went_away_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no longer the board in boot mode; nothing was written"):
        copy_image(b"x", "FIRMWARE.UF2", tmp_path, PICO_MARK)


def test_volume_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    volume = mount(tmp_path, "RPI-RP2", "Board-ID: RPI-RP2")
    (volume / "FIRMWARE.UF2").mkdir()
    with pytest.raises(OutputError, match="Cannot write"):
        copy_image(b"x", "FIRMWARE.UF2", volume, PICO_MARK)


@pytest.mark.parametrize(
    ("number", "is_gone", "is_fault"),
    [(errno.EIO, True, False), (errno.EIO, False, True), (errno.ENOSPC, True, True)],
)
def test_board_that_restarts_with_the_last_block_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_gone: bool, is_fault: bool
) -> None:
    volume = mount(tmp_path, "RPI-RP2", "Board-ID: RPI-RP2")

    def restart(_descriptor: int) -> None:
        if is_gone:
            (volume / "INFO_UF2.TXT").unlink()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", restart)
    if is_fault:
        with pytest.raises(OutputError, match="Cannot write"):
            copy_image(b"x", "FIRMWARE.UF2", volume, PICO_MARK)
    else:
        copy_image(b"x", "FIRMWARE.UF2", volume, PICO_MARK)


def test_hostile_info_file_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "INFO_UF2.TXT").write_bytes(b"\xff" * 100_000 + b"\nBoard-ID: RPI-RP2\n")
    assert read_mark(tmp_path, PICO_MARK) is None


def test_reserved_second_stage_is_never_written(tmp_path: Path, media: Path) -> None:
    pico = BOARDS["rpi-pico"]
    mount(media, "RPI-RP2", "Board-ID: RPI-RP2")
    kept = tuple(replace(region, reserved=region.name == "boot2") for region in pico.regions)
    careful = replace(pico, regions=kept)
    firmware = some_firmware(pico)
    folder = written_images(firmware, pico, tmp_path / "firmware")
    with pytest.raises(DeviceError, match="is reserved: boot2"):
        flash(firmware, careful, folder, Choice())
