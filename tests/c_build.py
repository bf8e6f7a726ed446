"""Compile C in tests: which compilers there are, the warnings we promise, and running the result."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.compile_cache import build_once

C_DIR = Path(__file__).parent / "c"
ZIG = (sys.executable, "-m", "ziglang")
_KINDS = """
    all extra pedantic conversion sign-conversion shadow cast-align cast-qual undef double-promotion
    float-equal float-conversion vla switch-enum switch-default redundant-decls write-strings format=2 unused
    null-dereference error
"""
WARNINGS = [f"-W{kind}" for kind in _KINDS.split()]
# libFuzzer's limit is on the peak of resident memory, which a child inherits from the test process that
# starts it: here it counts what the program itself asks for.
LIBFUZZER_MEMORY = ("-rss_limit_mb=0", "-malloc_limit_mb=64")
C_ONLY_WARNINGS = ("-Wstrict-prototypes", "-Wmissing-prototypes", "-Wold-style-definition")


def c_compiler(name: str) -> list[str]:
    """Return the command of gcc, clang or zig; skips where it is not installed, save in CI."""
    if name == "zig":
        return [*ZIG, "cc", "-mcpu=baseline"]
    return [program_path(name)]


def cxx_compiler(name: str) -> list[str]:
    """Return the C++ command of the same family."""
    if name == "zig":
        return [*ZIG, "c++", "-mcpu=baseline"]
    return [program_path({"gcc": "g++", "clang": "clang++"}[name])]


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write exported files below `folder`."""
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def run(argv: Sequence[str], folder: Path, stdin: bytes = b"", timeout_s: float = 300) -> str:
    """Run to success and return stdout."""
    result = subprocess.run(
        argv, cwd=folder, input=stdin, capture_output=True, timeout=timeout_s, check=False
    )
    assert result.returncode == 0, f"{' '.join(argv)}\n{result.stdout.decode()}{result.stderr.decode()}"
    return result.stdout.decode()


def build(argv: Sequence[str], folder: Path) -> None:
    """Compile and link to success; units that were compiled before, for any test, are taken from there."""
    done = build_once(list(argv), folder)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"


def compile_objects(argv: Sequence[str], files: Sequence[str], folder: Path) -> list[str]:
    """Compile one file at a time (zig writes only the first object of several); return the objects."""
    objects = []
    for path in files:
        objects.append(path.rsplit(".", 1)[0] + ".o")
        run([*argv, "-c", path, "-o", objects[-1]], folder)
    return objects


def program_path(name: str) -> str:
    """Return where a program is; skips where it is not installed, save in CI."""
    path = shutil.which(name)
    if path is None and os.environ.get("CI") != "true":
        pytest.skip(f"{name} is not installed")
    assert path is not None, f"{name} is not installed"
    return path
