"""Files that test processes share below build/, named by a hash of all that went in, for two days."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_KEPT_S = 2 * 86_400


class SharedFiles:
    """What tests built, in a folder of build/."""

    def __init__(self, name: str) -> None:
        self._folder = Path(__file__).parent.parent / "build" / name
        self._is_swept = False

    @contextmanager
    def making(self, key: str) -> Iterator[None]:
        """Wait while another process makes the file of a key."""
        with self._place(f"{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def get(self, key: str) -> bytes | None:
        """Return the content of a file, None where there is none."""
        try:
            return self._place(key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, content: bytes) -> None:
        """Write a whole file or none."""
        partial = self._place(f"{key}.{os.getpid()}")
        if not self._is_swept:
            self._sweep()
        partial.write_bytes(content)
        partial.replace(self._place(key))

    def _place(self, key: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / key

    def _sweep(self) -> None:
        self._is_swept = True
        for old in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another process sweeps, too
                if time.time() - old.stat().st_mtime > _KEPT_S:
                    old.unlink()
