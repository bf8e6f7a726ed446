"""The files of `converter_models`, made once for all tests: TensorFlow takes seconds to load."""

import hashlib
import pickle
import platform
import subprocess
import sys
import tempfile
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from tests.shared_files import SharedFiles

_HERE = Path(__file__).parent
_IS_X86 = platform.machine() == "x86_64"
_SHARED = SharedFiles("test_models")


@lru_cache(maxsize=1)
def converted() -> dict[str, bytes | str]:
    """Return every file by its builder's name, or why the converter made none."""
    source = (_HERE / "converter_models.py").read_bytes()
    versions = [version(name) for name in ("keras", "tensorflow-cpu" if _IS_X86 else "tensorflow")]
    key = hashlib.sha256(repr((source, versions)).encode()).hexdigest()
    with _SHARED.making(key):
        kept = _SHARED.get(key)
        if kept is None:
            kept = _converted()
            _SHARED.put(key, kept)
    made: dict[str, bytes | str] = pickle.loads(kept)
    return made


def _converted() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "models.pickle"
        command = [sys.executable, "-m", "tests.converter_models", str(out)]
        done = subprocess.run(
            command, cwd=_HERE.parent, capture_output=True, text=True, check=False, timeout=800
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return out.read_bytes()
