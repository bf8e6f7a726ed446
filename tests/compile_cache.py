"""What all firmware shares is compiled once for all tests, as ccache would: a unit by its bytes and flags.

Most of an image is the runtime and the board's port, of which hundreds of images have the same. The tests
that sources always give the same bytes compare with what one call of the compiler builds.
"""

import hashlib
import re
import shutil
import subprocess
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from firmware_export.toolchain import run_compiler
from tests.shared_files import SharedFiles

_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', re.MULTILINE)
_DEFINED = re.compile(r"-D(\w+)")
_UNITS = (".c", ".S")
_OBJECTS = SharedFiles("test_objects")


def build_once(argv: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Compile and link in `folder`, as `run_compiler` does; what fails is run again as a whole."""
    first = next(i for i, word in enumerate(argv) if word.endswith(_UNITS))
    flags, rest = [*_direct(argv[:first])], argv[first:]
    for i, unit in enumerate(rest):
        if not unit.endswith(_UNITS):
            continue
        rest[i] = f"unit_{i}.o"
        key = _key(flags, unit, folder)
        content = _OBJECTS.get(key)
        if content is not None:
            (folder / rest[i]).write_bytes(content)
        elif run_compiler([*flags, "-c", unit, "-o", rest[i]], folder).returncode == 0:
            _OBJECTS.put(key, (folder / rest[i]).read_bytes())
        else:
            break
    else:
        done = run_compiler([*flags, *rest], folder)
        if done.returncode == 0:
            return done
    return run_compiler(argv, folder)


def _direct(argv: list[str]) -> list[str]:
    """Return the call of a compiler without the Python that starts zig."""
    if argv[1:3] != ["-m", "ziglang"]:
        return argv
    spec = find_spec("ziglang")
    assert spec is not None
    assert spec.origin is not None
    return [str(Path(spec.origin).parent / "zig"), *argv[3:]]


def _key(flags: list[str], unit: str, folder: Path) -> str:
    """Hash all that an object depends on but the system's headers, which are of the compiler."""
    folders = [word[2:] for word in flags if word.startswith("-I")]
    texts: dict[str, bytes] = {}
    waiting = [unit]
    while waiting:
        path = waiting.pop()
        texts[path] = (folder / path).read_bytes()
        for name in _INCLUDE.findall(texts[path]):
            found = _resolved(name.decode(), [str(Path(path).parent), *folders], folder)
            if found is not None and found not in texts:
                waiting.append(found)
    everything = b"".join(texts.values())
    # A macro that no text names, such as the board's name, changes nothing.
    used = [w for w in flags if not (m := _DEFINED.match(w)) or m[1].encode() in everything]
    inputs = (_identity(flags[0]), used, sorted(texts.items()))
    return hashlib.sha256(repr(inputs).encode()).hexdigest()


@lru_cache(maxsize=8)
def _identity(compiler: str) -> tuple[str, int, int] | None:
    """Return what changes with a compiler's version, without asking it; None where it is not there."""
    path = shutil.which(compiler)
    if path is None:
        return None
    found = Path(path).resolve()
    return str(found), found.stat().st_size, found.stat().st_mtime_ns


def _resolved(name: str, places: list[str], folder: Path) -> str | None:
    paths = (str(Path(place) / name) for place in places)
    return next((path for path in paths if (folder / path).is_file()), None)
