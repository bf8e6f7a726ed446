"""The folder that runs on a Raspberry Pi: network, C library for every Arm Linux, runner, systemd unit."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgeqrl.errors import MissingToolError, UsageError
from edgeqrl.files import sha256, to_json_bytes
from edgeqrl.network.integer_policy import IntegerPolicy
from firmware_export.board import Board
from firmware_export.build import policy_files, policy_name
from firmware_export.contract import CONTRACT_FILE
from firmware_export.emit.golden import GoldenVectors
from firmware_export.emit.render import fill_text, ownership
from firmware_export.linux.runner import NO_RUNNER, golden_json, runner_glue
from firmware_export.toolchain import Compiler, find_compiler, run_compiler

_FILES = Path(__file__).resolve().parent / "files"
_PORTS = Path(__file__).resolve().parents[1] / "ports"
PACKAGE_FILE = "package.json"
_LIBRARY = "libpolicy.so"
_GLIBC = "2.28"  # of Debian 10: whatever a Pi runs is newer
_COMPILER = "zig"  # others bring no C library of these systems

# What `uname -m` says -> target of zig's clang, without the C library; x86-64 is there to try the folder.
_TARGETS: Mapping[str, tuple[str, str, tuple[str, ...]]] = MappingProxyType(
    {
        "aarch64": ("aarch64-linux", "", ()),
        "armv7l": ("arm-linux", "eabihf", ("-mcpu=cortex_a7",)),
        "armv6l": ("arm-linux", "eabihf", ("-mcpu=arm1176jzf_s",)),
        "x86_64": ("x86_64-linux", "", ("-mcpu=baseline",)),
    }
)
MACHINES = tuple(_TARGETS)
_FLAGS = ("-std=c99", "-O3", "-fPIC", "-ffp-contract=off", "-fno-sanitize=undefined", "-Wall", "-Wextra")
_SHARED = ("-shared", "-s", "-Wl,-z,defs", "-Wl,--build-id=none")
_PROGRAM = ("-static", "-s", "-Wl,--build-id=none", "-DEQRL_LINUX_PROGRAM")


@dataclass(frozen=True, eq=False)
class LinuxPackage:
    """What is copied to the board, by relative path."""

    name: str
    board: str
    files: Mapping[str, bytes]
    compiler: str

    @property
    def num_bytes(self) -> int:
        """Count the bytes of all files."""
        return sum(map(len, self.files.values()))


def linux_package(
    policy: IntegerPolicy,
    sources: Mapping[str, bytes],
    tflite: bytes,
    golden: GoldenVectors,
    board: Board,
    compiler: Compiler,
    *,
    licence_holder: str | None = None,
) -> LinuxPackage:
    """Build the folder of a policy for a board that runs Linux.

    sources         its export; the library tests itself when it is loaded if golden vectors are among them
    golden          with which run.py tests the library and the interpreters
    licence_holder  who owns the model, named in the folder's README

    The same arguments give the same bytes. Raises MissingToolError where the compiler, zig, fails.
    """
    values = {"name": policy.name, "title": board.title, "ownership": ownership(licence_holder)}
    files = {
        f"lib/{machine}/{_LIBRARY}": linux_library(policy, sources, board, compiler, machine)
        for machine in MACHINES
    }
    files |= {
        "policy.tflite": tflite,
        CONTRACT_FILE: sources[CONTRACT_FILE],
        "golden.json": golden_json(policy, golden),
        **{path: (_FILES / path).read_bytes() for path in ("run.py", "edgeqrl_policy.py", "application.py")},
        f"edgeqrl-{policy.name}.service": fill_text((_FILES / "policy.service.in").read_text(), values),
        "README.txt": fill_text((_FILES / "readme.txt.in").read_text(), values),
    }
    label = f"{compiler.name} {compiler.version}"
    facts = {"name": policy.name, "board": board.name, "compiler": label}
    # The application is the user's to change.
    hashes = {path: sha256(data) for path, data in sorted(files.items()) if path != "application.py"}
    files[PACKAGE_FILE] = to_json_bytes(facts | {"sha256": hashes})
    return LinuxPackage(policy.name, board.name, dict(sorted(files.items())), label)


def linux_library(
    policy: IntegerPolicy, sources: Mapping[str, bytes], board: Board, compiler: Compiler, machine: str
) -> bytes:
    """Build the library that run.py loads on a machine (of MACHINES), of a policy's export."""
    system, abi, flags = _TARGETS[machine]
    target = ("-target", f"{system}-gnu{abi}.{_GLIBC}", *flags, *_SHARED)
    return _compiled(sources, board, compiler, target, runner_glue(policy))


def linux_device(
    sources: Mapping[str, bytes], board: Board, compiler: Compiler, machine: str = "aarch64"
) -> bytes:
    """Build a static program that speaks the device protocol on its standard input and output."""
    system, abi, flags = _TARGETS[machine]
    target = ("-target", f"{system}-musl{abi}", *flags, *_PROGRAM)
    return _compiled(sources, board, compiler, target, NO_RUNNER)


def linux_compiler(name: str | None = None) -> Compiler:
    """Return the compiler for Linux boards.

    Raises UsageError where another `name` is asked for, MissingToolError where it is not installed.
    """
    if name not in (None, _COMPILER):
        raise UsageError(
            f"--compiler {name} has no C library for Linux boards; leave it out: zig builds for them."
        )
    return find_compiler(_COMPILER)


def _compiled(
    sources: Mapping[str, bytes], board: Board, compiler: Compiler, flags: Sequence[str], glue: str
) -> bytes:
    if compiler.name != _COMPILER:
        raise ValueError(f"Linux boards are built for by {_COMPILER}, not by {compiler.name}")
    with tempfile.TemporaryDirectory(prefix="edgeqrl-") as temporary:
        folder = Path(temporary)
        files = _units(sources, board, glue)
        for path, content in files.items():
            (folder / path).write_bytes(content)
        units = sorted(path for path in files if path.endswith(".c"))
        argv = [*compiler.argv, *_FLAGS, *flags, "-I.", *units, "-o", _LIBRARY]
        result = run_compiler(argv, folder)
        if result.returncode != 0:
            complaints = [line for line in result.stderr.splitlines() if "error" in line] or ["no message"]
            raise MissingToolError(
                f"{compiler.name} {compiler.version} cannot build for Linux: {complaints[0][:300]}. Try "
                "another version: pip install --upgrade ziglang."
            )
        return (folder / _LIBRARY).read_bytes()


def _units(sources: Mapping[str, bytes], board: Board, glue: str) -> dict[str, bytes]:
    """Return what is compiled: the export, the device of all boards, and the port of this family."""
    name = policy_name(sources)
    paths = [*(_PORTS / "common").glob("eqrl_*"), *(_PORTS / "linux").iterdir()]
    exported = policy_files(sources, board, with_selftest=f"{name}_golden.c" in sources)
    exported = {path.removeprefix("src/"): data for path, data in exported.items()}
    exported["eqrl_port_policy.h"] += glue.encode()
    return {**{path.name: path.read_bytes() for path in paths}, **exported}
