"""Find C compilers: zig (a pip package, no root) and Debian's cross GCCs for boards, any for this host."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from edgeqrl.errors import MissingToolError, UsageError, require_name

TIMEOUT_S = 300  # the first zig link compiles its own libraries

_SOFT = ("-target", "thumb-freestanding-eabi")
_HARD = ("-target", "thumb-freestanding-eabihf")
_RISCV = ("-target", "riscv32-freestanding-none")
_THUMB_SOFT = ("-mthumb", "-mfloat-abi=soft")
_THUMB_HARD = ("-mthumb", "-mfloat-abi=hard")
_RISCV_GCC = ("-mabi=ilp32", "-mcmodel=medany", "-msmall-data-limit=0")

_Flags = Mapping[tuple[str, str], tuple[str, ...]]

# core, FPU -> flags. For zig, a hard-float target needs its FPU in -mcpu: the core's name alone means soft
# float under a hard-float tag.
_ZIG_FLAGS: _Flags = {
    ("cortex-m0", "none"): (*_SOFT, "-mcpu=cortex_m0"),
    ("cortex-m0plus", "none"): (*_SOFT, "-mcpu=cortex_m0plus"),
    ("cortex-m3", "none"): (*_SOFT, "-mcpu=cortex_m3"),
    ("cortex-m4", "none"): (*_SOFT, "-mcpu=cortex_m4"),
    ("cortex-m4", "fpv4-sp-d16"): (*_HARD, "-mcpu=cortex_m4+vfp4d16sp"),
    ("cortex-m7", "none"): (*_SOFT, "-mcpu=cortex_m7"),
    ("cortex-m7", "fpv5-sp-d16"): (*_HARD, "-mcpu=cortex_m7+fp_armv8d16sp"),
    ("cortex-m7", "fpv5-d16"): (*_HARD, "-mcpu=cortex_m7+fp_armv8d16"),
    ("cortex-m33", "none"): (*_SOFT, "-mcpu=cortex_m33+dsp"),
    ("cortex-m33", "fpv5-sp-d16"): (*_HARD, "-mcpu=cortex_m33+dsp+fp_armv8d16sp"),
    ("cortex-m55", "fpv5-d16"): (*_HARD, "-mcpu=cortex_m55+mve_fp+fp_armv8d16"),
    ("rv32imac", "none"): (*_RISCV, "-mcpu=generic_rv32+m+a+c+zicsr+zifencei"),
    ("rv32imc", "none"): (*_RISCV, "-mcpu=generic_rv32+m+c+zicsr+zifencei"),
}
_ARM_GCC_FLAGS: _Flags = {
    ("cortex-m0", "none"): ("-mcpu=cortex-m0", *_THUMB_SOFT),
    ("cortex-m0plus", "none"): ("-mcpu=cortex-m0plus", *_THUMB_SOFT),
    ("cortex-m3", "none"): ("-mcpu=cortex-m3", *_THUMB_SOFT),
    ("cortex-m4", "none"): ("-mcpu=cortex-m4+nofp", *_THUMB_SOFT),
    ("cortex-m4", "fpv4-sp-d16"): ("-mcpu=cortex-m4", *_THUMB_HARD, "-mfpu=fpv4-sp-d16"),
    ("cortex-m7", "none"): ("-mcpu=cortex-m7+nofp", *_THUMB_SOFT),
    ("cortex-m7", "fpv5-sp-d16"): ("-mcpu=cortex-m7", *_THUMB_HARD, "-mfpu=fpv5-sp-d16"),
    ("cortex-m7", "fpv5-d16"): ("-mcpu=cortex-m7", *_THUMB_HARD, "-mfpu=fpv5-d16"),
    ("cortex-m33", "none"): ("-mcpu=cortex-m33+nofp", *_THUMB_SOFT),
    ("cortex-m33", "fpv5-sp-d16"): ("-mcpu=cortex-m33", *_THUMB_HARD, "-mfpu=fpv5-sp-d16"),
    ("cortex-m55", "fpv5-d16"): ("-mcpu=cortex-m55", *_THUMB_HARD),  # its FPU and Helium are in the name
}
_RISCV_GCC_FLAGS: _Flags = {
    ("rv32imac", "none"): ("-march=rv32imac_zicsr_zifencei", *_RISCV_GCC),
    ("rv32imc", "none"): ("-march=rv32imc_zicsr_zifencei", *_RISCV_GCC),
}
_CORE_FLAGS: Mapping[str, _Flags] = {
    "zig": _ZIG_FLAGS,
    "arm-none-eabi-gcc": _ARM_GCC_FLAGS,
    "riscv64-unknown-elf-gcc": _RISCV_GCC_FLAGS,
}
_DEBIAN_PACKAGES = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf",
}

COMPILER_NAMES = tuple(_CORE_FLAGS)
_NATIVE = (("-march=native",), ("-mcpu=native",))  # the second: zig, and clang on Arm


@dataclass(frozen=True)
class Compiler:
    """A cross compiler for boards; `argv` is followed by flags and files."""

    name: str  # one of COMPILER_NAMES
    argv: tuple[str, ...]
    version: str

    def builds_for(self, core: str) -> bool:
        """Tell whether it has the core's instruction set at all."""
        return any(known == core for known, _ in _CORE_FLAGS[self.name])

    def core_flags(self, core: str, fpu: str) -> tuple[str, ...]:
        """Return the flags for a core with an FPU, those that both compiling and linking need.

        Raises UsageError if it builds for other cores only.
        """
        if not self.builds_for(core):
            others = [name for name in COMPILER_NAMES if any(known == core for known, _ in _CORE_FLAGS[name])]
            raise UsageError(f"{self.name} does not build for {core}; use {' or '.join(others)}.")
        return _CORE_FLAGS[self.name][core, fpu]

    @property
    def link_flags(self) -> tuple[str, ...]:
        """Return what differs between them when linking without a C library."""
        if self.name == "zig":
            return ("-nostdlib", "-Wl,-z,max-page-size=4", "-Wl,-z,stack-size=0")
        return ("-nostdlib", "-nostartfiles", "-Wl,-n", "-lgcc")


@dataclass(frozen=True)
class HostCompiler:
    """A C compiler for this machine; `argv` is followed by flags and files.

    native  flags that make code for this very processor; only for integer arithmetic, which no flag changes
    """

    name: str
    argv: tuple[str, ...]
    native: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def find_compilers() -> tuple[Compiler, ...]:
    """List the cross compilers that are installed, zig first."""
    found = []
    zig = _zig_argv()
    if zig:
        found.append(Compiler("zig", (*zig, "cc"), _first_line([*zig, "version"])))
    for name in _DEBIAN_PACKAGES:
        path = shutil.which(name)
        if path:
            found.append(Compiler(name, (path,), _first_line([path, "-dumpversion"])))
    return tuple(found)


def find_compiler(name: str | None = None, *, core: str | None = None) -> Compiler:
    """Return the cross compiler `name`, or the first one that builds for `core`.

    Raises MissingToolError or UsageError.
    """
    if name is not None:
        require_name("compiler", name, COMPILER_NAMES)
    for compiler in find_compilers():
        if name == compiler.name or (name is None and (core is None or compiler.builds_for(core))):
            return compiler
    if name in _DEBIAN_PACKAGES:
        raise MissingToolError(
            f"{name} is not installed; get it with `sudo apt install {_DEBIAN_PACKAGES[name]}`."
        )
    raise MissingToolError("Building firmware needs a C compiler; get one with `pip install ziglang`.")


@lru_cache(maxsize=1)
def host_compiler() -> HostCompiler:
    """Return a C compiler that makes shared libraries for this host.

    $CC if set, else cc, gcc or clang, else zig, each tried on a one-line library first. zig is told to use
    the baseline CPU, so that results do not depend on the machine. What it refuses of flags for this very
    processor is left out. Raises MissingToolError if none works.
    """
    candidates = [(os.environ["CC"], os.environ["CC"].split())] if os.environ.get("CC") else []
    candidates += [(name, [path]) for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    zig = _zig_argv()
    if zig:
        candidates.append(("zig", [*zig, "cc", "-mcpu=baseline"]))
    for name, argv in candidates:
        if _makes_libraries(argv):
            native = (flags for flags in _NATIVE if name != "zig" or flags != ("-march=native",))
            taken = next((flags for flags in native if _makes_libraries([*argv, *flags])), ())
            return HostCompiler(name, tuple(argv), taken)
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
