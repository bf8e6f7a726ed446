"""All C that a firmware is made of, in one folder, and what the linters of Debian say about it."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeqrl.backends.host_c import policy_of_network
from edgeqrl.data import data_folder
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.read_tflite import read_tflite
from firmware_export.board import Board, board_names, load_board
from firmware_export.build import _definitions, _glue, _port_files
from firmware_export.emit import c_sources, export_sources, make_golden, runtime_sources
from tests.c_build import C_DIR, program_path, write_files
from tests.c_policies import random_observations, random_policy
from tests.packed_networks import network_of
from tests.random_networks import random_network

ROOT = Path(__file__).parent.parent
RUNTIME = sorted(path for path in runtime_sources() if path.endswith(".c"))
SUPPRESSIONS = C_DIR / "cppcheck_suppressions.txt"
# By clang's names: 32-bit cores, with and without a long multiply, so that both halves of each #if are seen.
SMALL, LARGE, RISCV = "thumbv6m-none-eabi", "thumbv7m-none-eabi", "riscv32-none-elf"
_CLANG_CORES = {"cortex-m0": SMALL, "cortex-m0plus": SMALL, "rv32imac": RISCV}
# What cppcheck must be told of a compiler for these cores.
_CPPCHECK_CORES = {SMALL: ["-D__ARM_ARCH_6M__=1"], LARGE: ["-D__ARM_ARCH_7M__=1"], RISCV: ["-D__riscv=1"]}
_SHARED = {*runtime_sources(), "README.txt"}


@dataclass(frozen=True)
class Image:
    """The C of one firmware, relative to the folder, as a compiler for its core gets it."""

    core: str  # clang's name of the target
    files: tuple[str, ...]
    flags: tuple[str, ...]  # -D and -I


def policies() -> tuple[IntegerPolicy, ...]:
    """Every head; convolutions, moves, reductions, several inputs and outputs; packed weights."""
    rng = np.random.default_rng(3)
    dense = (
        random_policy(rng, (6, 9, 17, 4), name="alpha", lookups=0.6, shape=(2, 3)),
        random_policy(rng, (3, 33, 5), name="beta", head="affine", lookups=0.6),
        random_policy(rng, (3, 4), name="gamma", head="masked"),
        random_policy(rng, (5,), name="delta", head="affine"),  # no layers at all
    )
    packed = policy_of_network(network_of(rng, "int8", (3, 4), 23), "eta")
    return (*dense, wide_network("epsilon", "INT8", 355), wide_network("zeta", "INT16", 202), packed)


def wide_network(name: str, dtype: str, seed: int) -> IntegerPolicy:
    """Return a random network of about 15 layers as a policy."""
    rng = np.random.default_rng(seed)
    tflite = random_network(rng, dtype=dtype, num_operators=22, num_inputs=2)
    return policy_of_network(read_tflite(tflite), name)


def exported(policy: IntegerPolicy) -> dict[str, bytes]:
    """Return the files of a policy, with golden vectors where it has one input to draw."""
    golden = None
    if len(policy.network.inputs) == 1:
        golden = make_golden(policy, random_observations(np.random.default_rng(4), policy, 3))
    return export_sources(policy, b"", golden=golden)


def write_images(folder: Path) -> list[Image]:
    """Write the runtime, the generated C and all ports; only the first image has more than its port."""
    write_files(folder, runtime_sources())
    generated: list[str] = []
    for policy in policies():
        files = {p: content for p, content in exported(policy).items() if p not in _SHARED and "/" not in p}
        write_files(folder, files)
        generated += c_sources(files)
    images: dict[tuple[str, ...], Image] = {}
    for name in board_names(data_folder("boards")):
        board = load_board(name, data_folder("boards"))
        if not board.port_sources:
            continue
        port = (board.port, *board.port_sources)
        if port not in images:
            images[port] = _image(folder, board, () if images else (*RUNTIME, *generated))
    twins = (load_board(name, data_folder("boards")) for name in ("mps2-an386", "riscv-virt"))
    return [*images.values(), *(_image(folder, board, (), "semihosting") for board in twins)]


def _image(folder: Path, board: Board, files: tuple[str, ...], transport: str = "uart") -> Image:
    """Write a board's port to a folder of its own."""
    place = f"{board.name}_{transport}_port"
    port = {p: content for p, content in _port_files(board, transport).items() if not p.endswith(".S")}
    write_files(folder / place, {**port, "eqrl_port_policy.h": _glue("alpha", board, True)})
    flags = ("-I.", f"-I{place}", *(f"-D{key}={value}" for key, value in _definitions(board).items()))
    core = _CLANG_CORES.get(board.core, LARGE)
    return Image(core, (*files, *(f"{place}/{path}" for path in c_sources(port))), flags)


def tidy_findings(folder: Path, images: Sequence[Image]) -> list[str]:
    """Run clang-tidy with the checks of .clang-tidy, once a file; return the first line of each finding."""
    argv = [program_path("clang-tidy"), f"--config-file={ROOT / '.clang-tidy'}", "--quiet"]
    found: dict[str, None] = {}
    done: set[str] = set()
    for image in images:
        files = [path for path in image.files if _port_file(path) not in done]
        if not files:
            continue
        flags = [f"--target={image.core}", "-ffreestanding", "-std=c99", *image.flags]
        text = _output([*argv, *files, "--", *flags], folder)
        assert "Error" not in text, text
        found |= dict.fromkeys(re.findall(r"^.*: (?:warning|error): .*$", text, re.MULTILINE))
        done |= {_port_file(path) for path in files}
    return list(found)


def cppcheck_findings(folder: Path, images: Sequence[Image]) -> list[str]:
    """Run cppcheck with its MISRA addon on each image as a whole; return "file:line: id: message".

    __GNUC__ chooses what users of GCC and clang compile; rules about a whole image see every file of it.
    """
    argv = [program_path("cppcheck"), "--quiet", "--std=c99", "--platform=unix32", "-D__GNUC__=12"]
    argv += ["--enable=warning,style,performance,portability", "--inconclusive", "--addon=misra"]
    argv += [f"--suppressions-list={SUPPRESSIONS}", "--template={file}:{line}: {id}: {message}"]
    found: dict[str, None] = {}
    for image in images:
        text = _output([*argv, *_CPPCHECK_CORES[image.core], *image.flags, *image.files], folder)
        found |= dict.fromkeys(_port_file(line) for line in text.splitlines())
    return list(found)


def _port_file(path: str) -> str:
    """Return a path without the board whose copy it is."""
    return re.sub(r"^\S+_port/", "ports/", path)


def _output(argv: list[str], folder: Path) -> str:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    return done.stdout + done.stderr
