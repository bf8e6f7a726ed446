"""Find C compilers: zig (a pip package, no root) and arm-none-eabi-gcc for boards, any for this host."""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from edgeqrl.errors import MissingToolError, require_name

TIMEOUT_S = 300  # the first zig link compiles its own libraries

# core, FPU -> flags. For zig, a hard-float target needs its FPU in -mcpu: the core's name alone means soft
# float under a hard-float tag.
_ZIG_FLAGS = {
    ("cortex-m0plus", "none"): ("-target", "thumb-freestanding-eabi", "-mcpu=cortex_m0plus"),
    ("cortex-m4", "fpv4-sp-d16"): ("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m4+vfp4d16sp"),
}
_GCC_FLAGS = {
    ("cortex-m0plus", "none"): ("-mcpu=cortex-m0plus", "-mthumb", "-mfloat-abi=soft"),
    ("cortex-m4", "fpv4-sp-d16"): ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"),
}

COMPILER_NAMES = ("zig", "arm-none-eabi-gcc")


@dataclass(frozen=True)
class Compiler:
    """A cross compiler for boards; `argv` is followed by flags and files."""

    name: str  # "zig" or "arm-none-eabi-gcc"
    argv: tuple[str, ...]
    version: str

    def core_flags(self, core: str, fpu: str) -> tuple[str, ...]:
        """Return the flags for a core with an FPU, those that both compiling and linking need."""
        flags = _ZIG_FLAGS if self.name == "zig" else _GCC_FLAGS
        return flags[core, fpu]

    @property
    def link_flags(self) -> tuple[str, ...]:
        """Return what differs between the two when linking without a C library."""
        if self.name == "zig":
            return ("-nostdlib", "-Wl,-z,max-page-size=4", "-Wl,-z,stack-size=0")
        return ("-nostdlib", "-nostartfiles", "-Wl,-n", "-lgcc")


@dataclass(frozen=True)
class HostCompiler:
    """A C compiler for this machine; `argv` is followed by flags and files."""

    name: str
    argv: tuple[str, ...]


@lru_cache(maxsize=1)
def find_compilers() -> tuple[Compiler, ...]:
    """List the cross compilers that are installed, zig first."""
    found = []
    zig = _zig_argv()
    if zig:
        found.append(Compiler("zig", (*zig, "cc"), _first_line([*zig, "version"])))
    gcc = shutil.which("arm-none-eabi-gcc")
    if gcc:
        found.append(Compiler("arm-none-eabi-gcc", (gcc,), _first_line([gcc, "-dumpversion"])))
    return tuple(found)


def find_compiler(name: str | None = None) -> Compiler:
    """Return the cross compiler `name`, or the default one; raises MissingToolError or UsageError."""
    if name is not None:
        require_name("compiler", name, COMPILER_NAMES)
    for compiler in find_compilers():
        if name in (None, compiler.name):
            return compiler
    if name == "arm-none-eabi-gcc":
        raise MissingToolError(
            "arm-none-eabi-gcc is not installed; get it with `sudo apt install gcc-arm-none-eabi`."
        )
    raise MissingToolError("Building firmware needs a C compiler; get one with `pip install ziglang`.")


@lru_cache(maxsize=1)
def host_compiler() -> HostCompiler:
    """Return a C compiler that makes shared libraries for this host.

    $CC if set, else cc, gcc or clang, else zig, each tried on a one-line library first. zig is told to use
    the baseline CPU, so that results do not depend on the machine. Raises MissingToolError if none works.
    """
    candidates = [(os.environ["CC"], os.environ["CC"].split())] if os.environ.get("CC") else []
    candidates += [(name, [path]) for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    zig = _zig_argv()
    if zig:
        candidates.append(("zig", [*zig, "cc", "-mcpu=baseline"]))
    for name, argv in candidates:
        if _makes_libraries(argv):
            return HostCompiler(name, tuple(argv))
    raise MissingToolError("The host-c backend needs a C compiler; get one with `pip install ziglang`.")


def run_compiler(argv: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a compiler in `folder`, bounded in time, with caches that can be written.

    Raises MissingToolError if it cannot be started or does not end.
    """
    try:
        return subprocess.run(
            argv,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            env=_environment(),
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise MissingToolError(f"Cannot run the compiler '{argv[0]}': {error.strerror or error}.") from error
    except subprocess.TimeoutExpired as error:
        raise MissingToolError(
            f"The compiler '{argv[0]}' did not end within {TIMEOUT_S} s; try again or install another one."
        ) from error


def _environment() -> dict[str, str]:
    """Return our environment; zig's cache moves to the temporary folder where the home cannot be written."""
    environment = dict(os.environ, LC_ALL="C", SOURCE_DATE_EPOCH="0")
    home = environment.get("XDG_CACHE_HOME") or environment.get("HOME") or tempfile.gettempdir()
    cache = Path(home).resolve()
    nearest = next(place for place in (cache, *cache.parents) if place.exists())
    if not os.access(nearest, os.W_OK):
        user = os.getuid() if hasattr(os, "getuid") else 0
        environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"zig-cache-{user}"))
    return environment


def _zig_argv() -> list[str] | None:
    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang"]
    zig = shutil.which("zig")
    return [zig] if zig else None


def _first_line(argv: list[str]) -> str:
    try:
        result = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return result.stdout.strip().partition("\n")[0] or "unknown"


def _makes_libraries(argv: list[str]) -> bool:
    with tempfile.TemporaryDirectory(prefix="edgeqrl-") as name:
        folder = Path(name)
        (folder / "probe.c").write_text("#include <stdint.h>\nint32_t probe(void) { return 1; }\n")
        try:
            result = run_compiler([*argv, "-shared", "-fPIC", "probe.c", "-o", "probe.so"], folder)
        except MissingToolError:
            return False
        return result.returncode == 0 and (folder / "probe.so").exists()
