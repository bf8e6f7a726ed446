"""Boards that show themselves as a USB volume: known by a line of a file there, written by a copy."""

import errno
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from edgeqrl.errors import DeviceError, OutputError
from firmware_export.flash_tool import VolumeMark

_MAX_INFO_BYTES = 4096


def find_volumes(
    mark: VolumeMark, volume: Path | None = None, roots: Sequence[Path] | None = None
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Return the mounted volumes of the board, and other bootloaders' volumes, each with what it says.

    volume  look at this folder only
    roots   folders whose subfolders are looked at; by default where systems mount volumes
    """
    folders = [volume] if volume is not None else _mounted(roots)
    marked = {folder: text for folder in folders if (text := read_mark(folder, mark)) is not None}
    matching = {folder: text for folder, text in marked.items() if re.fullmatch(mark.expect, text)}
    return matching, {folder: text for folder, text in marked.items() if folder not in matching}


def read_mark(folder: Path, mark: VolumeMark) -> str | None:
    """Return what a volume says of itself, or None if it says nothing."""
    try:
        with (folder / mark.file).open("rb") as file:
            text = file.read(_MAX_INFO_BYTES).decode("ascii", "replace")
    except OSError:
        return None
    pairs = [line.partition(":") for line in text.splitlines()]
    return next((value.strip() for key, _, value in pairs if key.strip() == mark.key), None)


def copy_image(image: bytes, name: str, volume: Path, mark: VolumeMark) -> Path:
    """Copy an image to a volume and return its path there; it is synced to the device before.

    A bootloader's volume is no real file system and cannot rename, so the file has its name at once; the
    board ignores an incomplete one and restarts when the last block has arrived.
    """
    text = read_mark(volume, mark)
    if text is None or not re.fullmatch(mark.expect, text):
        raise DeviceError(f"{volume} is no longer the board in boot mode; nothing was written.")
    target = volume / name
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(target, flags, 0o644), "wb") as file:
            file.write(image)
            file.flush()
            _sync(file.fileno(), volume, mark)
    except OSError as error:
        raise OutputError(f"Cannot write {target}: {error.strerror or error}.") from error
    return target


def _sync(descriptor: int, volume: Path, mark: VolumeMark) -> None:
    """Write through to the device, which may restart, and be gone, with the last block."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.ENODEV, errno.ENXIO) or read_mark(volume, mark) is not None:
            raise


def mount_roots() -> tuple[Path, ...]:
    """List where this system mounts volumes."""
    if sys.platform == "darwin":
        return (Path("/Volumes"),)
    user = Path.home().name
    return (Path("/media") / user, Path("/run/media") / user, Path("/media"), Path("/mnt"))


def _mounted(roots: Sequence[Path] | None) -> list[Path]:
    folders: list[Path] = []
    for root in roots if roots is not None else mount_roots():
        try:
            folders += sorted(place for place in root.iterdir() if place.is_dir())
        except OSError:
            continue
    unique = {folder.resolve(): folder for folder in folders}
    return list(unique.values())
