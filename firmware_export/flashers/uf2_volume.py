"""Flash a board that shows itself as a USB volume: find exactly the right one, copy a UF2 file to it."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeqrl.errors import DeviceError, OutputError
from firmware_export.board import Board
from firmware_export.build import Firmware
from firmware_export.uf2 import read_uf2, write_uf2

_INFO = "INFO_UF2.TXT"
_MAX_INFO_BYTES = 4096
_FILE = "FIRMWARE.UF2"


def flash(firmware: Firmware, board: Board, *, volume: Path | None = None, dry_run: bool = False) -> str:
    """Find the board's volume and copy the firmware to it; return what was done, in a sentence.

    `volume` names the volume, which must be the right board all the same. With `dry_run` nothing is written,
    the image is checked, and no board or more than one is no error: the sentence says what was found.
    """
    uf2 = firmware_uf2(firmware, board)
    if dry_run:
        return _plan(uf2, firmware, board, volume)
    target = flash_volume(uf2, board, find_volume(board, volume=volume))
    return f"Wrote {len(uf2):,} bytes to {target}; the {board.name} restarts with it."


def firmware_uf2(firmware: Firmware, board: Board) -> bytes:
    """Return the UF2 file of a firmware; its board must have a UF2 bootloader."""
    if board.uf2 is None:
        raise DeviceError(
            f"{board.name} has no UF2 bootloader; flash its .bin or .elf with the board's own tool."
        )
    return write_uf2(firmware.bin, firmware.start, board.uf2.family_id)


def find_volume(board: Board, *, volume: Path | None = None, roots: Sequence[Path] | None = None) -> Path:
    """Return the one mounted volume whose INFO_UF2.TXT names this board.

    volume  look at this folder only; it must be the right board all the same
    roots   folders whose subfolders are looked at; by default where systems mount volumes

    Raises DeviceError, listing what was found, if there is none or more than one.
    """
    if board.uf2 is None:
        raise DeviceError(
            f"{board.name} has no UF2 bootloader; flash its .bin or .elf with the board's own tool."
        )
    found = _uf2_volumes([volume] if volume is not None else _mounted(roots))
    matching = [folder for folder, board_id in found.items() if board_id == board.uf2.board_id]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise DeviceError(f"More than one {board.name} is there: {_listed(found)}. Name one with --volume.")
    where = f"{volume} is not" if volume is not None else "There is no volume of"
    raise DeviceError(
        f"{where} a {board.name} in boot mode; UF2 volumes found: {_listed(found)}. Hold its boot button "
        "while plugging it in."
    )


def flash_volume(uf2: bytes, board: Board, volume: Path) -> Path:
    """Copy a UF2 file to a volume and return its path there.

    The file is checked first: of this board's family, complete, inside flash and outside reserved regions.
    It is synced to the device before this returns. A bootloader's volume is no real file system and cannot
    rename, so it is written under its name at once; the board ignores an incomplete file and restarts when
    the last block has arrived.
    """
    require_flashable(uf2, board)
    if board.uf2 is None or read_board_id(volume) != board.uf2.board_id:
        raise DeviceError(f"{volume} is no longer a {board.name} in boot mode; nothing was written.")
    target = volume / _FILE
    try:
        descriptor = os.open(
            target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o644
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(uf2)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"Cannot write {target}: {error.strerror or error}.") from error
    return target


def require_flashable(uf2: bytes, board: Board) -> None:
    """Raise DeviceError or DataError unless every byte of a UF2 file may be written on this board."""
    assert board.uf2 is not None
    start, image = read_uf2(uf2, board.uf2.family_id)
    end = start + len(image)
    free = sorted(
        (r for r in board.regions if r.kind == "flash" and not r.is_reserved), key=lambda r: r.start
    )
    covered = start
    for region in free:
        if region.start <= covered < region.end:
            covered = region.end
    if covered < end:
        raise DeviceError(
            f"The image covers {start:#x} to {end:#x}, and not all of that is flash which may be written on "
            f"{board.name}."
        )


def read_board_id(folder: Path) -> str | None:
    """Return the Board-ID of a UF2 volume, or None if the folder is none."""
    try:
        with (folder / _INFO).open("rb") as file:
            text = file.read(_MAX_INFO_BYTES).decode("ascii", "replace")
    except OSError:
        return None
    pairs = [line.partition(":") for line in text.splitlines()]
    return next((value.strip() for key, _, value in pairs if key.strip() == "Board-ID"), None)


def mount_roots() -> tuple[Path, ...]:
    """List where this system mounts volumes."""
    if sys.platform == "darwin":
        return (Path("/Volumes"),)
    user = Path.home().name
    return (Path("/media") / user, Path("/run/media") / user, Path("/media"), Path("/mnt"))


def _plan(uf2: bytes, firmware: Firmware, board: Board, volume: Path | None) -> str:
    require_flashable(uf2, board)
    assert board.uf2 is not None
    what = (
        f"{len(uf2):,} bytes of UF2 ({len(firmware.bin):,} bytes of firmware from address "
        f"{firmware.start:#010x}, family {board.uf2.family_id:#010x}: {board.title})"
    )
    if volume is not None:
        target = find_volume(board, volume=volume) / _FILE
        return f"Would write {what} to {target}; nothing was written."
    found = _uf2_volumes(_mounted(None))
    matching = {folder: board_id for folder, board_id in found.items() if board_id == board.uf2.board_id}
    if len(matching) == 1:
        return f"Would write {what} to {next(iter(matching)) / _FILE}; nothing was written."
    if matching:
        return (
            f"Would write {what}; nothing was written. More than one {board.name} is there: "
            f"{_listed(matching)}. Name one with --volume."
        )
    return (
        f"Would write {what}; nothing was written. No {board.name} in boot mode was found; UF2 volumes "
        f"found: {_listed(found)}. Hold its boot button while plugging it in."
    )


def _uf2_volumes(folders: Sequence[Path]) -> dict[Path, str]:
    return {folder: board_id for folder in folders if (board_id := read_board_id(folder)) is not None}


def _listed(found: Mapping[Path, str]) -> str:
    return ", ".join(f"{folder} ({board_id})" for folder, board_id in found.items()) or "none"


def _mounted(roots: Sequence[Path] | None) -> list[Path]:
    folders: list[Path] = []
    for root in roots if roots is not None else mount_roots():
        try:
            folders += sorted(place for place in root.iterdir() if place.is_dir())
        except OSError:
            continue
    unique = {folder.resolve(): folder for folder in folders}
    return list(unique.values())
