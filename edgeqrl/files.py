"""Files and folders that appear whole or not at all."""

import ctypes
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from edgeqrl.errors import OutputError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def read_member(archive: ZipFile, info: ZipInfo) -> bytes:
    """Return the bytes of a member of a zip archive, having unpacked no more than it claims to hold.

    `ZipFile.read` unpacks everything and compares afterwards. Raises zipfile.BadZipFile for a member that
    lies, and for compression whose output cannot be bounded.
    """
    _require_bounded(info)
    with archive.open(info) as member:
        data = member.read(info.file_size)  # the checksum is compared at the claimed end
    if len(data) != info.file_size:
        raise BadZipFile("a file in it ends early")
    return data


def unpacked_bytes(archive: ZipFile) -> int:
    """Return how many bytes the members claim to hold; raise zipfile.BadZipFile as `read_member` does."""
    infos = archive.infolist()
    for info in infos:
        _require_bounded(info)
    return sum(info.file_size for info in infos)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def to_json_bytes(value: Any) -> bytes:
    """Return `value` as JSON with a stable layout; NaN and infinities are refused."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def from_json_bytes(data: bytes) -> Any:
    """Invert `to_json_bytes`; raise ValueError for what is no JSON, NaN, or nested beyond reason."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


@contextmanager
def writing(place: Path, option: str = "-o") -> Iterator[None]:
    """Turn what the operating system says about `place`, which `option` says, into OutputError."""
    try:
        yield
    except OSError as error:
        reason = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EROFS: "the file system is read-only",
            errno.EACCES: "permission was denied",
            errno.EPERM: "permission was denied",
        }.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f"Cannot write '{place}': {reason}. Choose another place with {option}.") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path` and rename it into place; a link stays, and leads to the new file.

    Raises OutputError where that fails, or where something stands that is no regular file.
    """
    with writing(path):
        _require_regular(path)
        path = Path(os.path.realpath(path))
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextmanager
def staged_folder(target: Path, *, keep: bool) -> Iterator[Path]:
    """Yield a scratch folder beside `target` that takes its place when the block ends well.

    With `keep`, the scratch folder starts as a copy of `target`. When the block raises, Ctrl-C
    included, `target` stays as it was. Raises OutputError where the place cannot be written, or is
    where the command runs: a shell whose folder is replaced finds itself nowhere.
    """
    with writing(target):
        target = Path(os.path.realpath(target))  # a link stays, and leads to the new folder
        if target in (here := Path.cwd(), *here.parents):
            raise OutputError(
                f"'{target}' is or holds the current folder, and would be replaced under your feet. Run "
                "the command outside it, or choose another place with -o."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fresh = scratch / "fresh"
        with writing(target):
            if keep and target.exists():
                shutil.copytree(target, fresh, symlinks=True)
            else:
                fresh.mkdir()
        yield fresh
        with writing(target):
            _swap(fresh, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _require_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"
        raise OutputError(f"'{path}' is {kind} and not a file. Choose another place with -o.")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _swap(fresh: Path, target: Path) -> None:
    """Put `fresh` at `target`; what was there ends up at `fresh`."""
    if not target.exists():
        fresh.rename(target)
    elif not _exchange(fresh, target):
        # No atomic exchange on this system: two renames, undone if the second does not happen.
        old = fresh.with_name("old")
        target.rename(old)
        try:
            fresh.rename(target)
        except BaseException:
            if not target.exists():
                old.rename(target)
            raise


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step, as Linux's renameat2 does; False where there is none."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = (os.fsencode(first), os.fsencode(second))
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _require_bounded(info: ZipInfo) -> None:
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise BadZipFile("it is compressed by bzip2 or LZMA")
