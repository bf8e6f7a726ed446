"""Small firmware for tests: random policies with golden vectors, built once for a board and a compiler.

Processes share what they built, in build/test_firmware, under a hash of all that goes in.
"""

import hashlib
import os
import pickle
import shutil
from collections.abc import Container, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.data import data_folder
from edgeqrl.errors import MissingToolError
from edgeqrl.network.integer_policy import IntegerPolicy
from firmware_export import build
from firmware_export.board import Board, board_names, load_board
from firmware_export.build import Firmware, compile_firmware
from firmware_export.emit import export_sources
from firmware_export.emit.golden import make_golden
from firmware_export.toolchain import Compiler, find_compiler
from tests.c_policies import random_observations, random_policy
from tests.shared_files import SharedFiles

BOARDS = ("mps2-an386", "rpi-pico")
BOARDS_FOLDER = data_folder("boards")
EVERY_BOARD = board_names(BOARDS_FOLDER)  # also those for which no firmware is built
ALL_BOARDS = tuple(name for name in EVERY_BOARD if load_board(name, data_folder("boards")).port_sources)
QEMU_BOARDS = (
    "microbit",
    "mps2-an385",
    "mps2-an386",
    "mps2-an500",
    "mps2-an505",
    "mps3-an547",
    "netduinoplus2",
    "riscv-virt",
    "stm32vldiscovery",
)
_GCC = {"cortex_m": "arm-none-eabi-gcc", "riscv32": "riscv64-unknown-elf-gcc"}


def board(name: str) -> Board:
    return load_board(name, data_folder("boards"))


def skip_unless_ci(reason: str) -> NoReturn:
    """Skip a test whose tool is missing here; in CI, which installs every tool, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def require_tool(name: str) -> str:
    path = shutil.which(name)
    return path or skip_unless_ci(f"{name} is not installed")


def one_by_default(values: Iterable[Any], kept: Container[Any]) -> list[Any]:
    """Mark as slow what is not kept: it takes the same code another time."""
    return [pytest.param(value, marks=[] if value in kept else pytest.mark.slow) for value in values]


def one_a_core(names: Iterable[str]) -> list[Any]:
    """Mark as slow the boards of a core for which another one stands."""
    return one_by_default(names, tuple(EMULATED_CORES.values()))


def three_cores(names: Iterable[str]) -> list[Any]:
    """Mark as slow all boards but one of Armv6-M, one of Armv7E-M and one of RISC-V."""
    return one_by_default(names, ("rpi-pico", "mps2-an386", "riscv-virt"))


def gcc_of(board_name: str) -> str:
    """Return the name of the GCC that builds for a board."""
    return _GCC[board(board_name).port]


def require_qemu(board_name: str) -> None:
    require_tool({"cortex_m": "qemu-system-arm", "riscv32": "qemu-system-riscv32"}[board(board_name).port])


def cross_compiler(name: str) -> Compiler:
    try:
        return find_compiler(name)
    except MissingToolError as missing:
        skip_unless_ci(str(missing))


@lru_cache(maxsize=1)
def policy() -> IntegerPolicy:
    return random_policy(np.random.default_rng(5), (4, 13, 6, 3), name="robot")


@lru_cache(maxsize=1)
def sources() -> dict[str, bytes]:
    golden = make_golden(policy(), random_observations(np.random.default_rng(6), policy(), 4))
    return export_sources(policy(), b"", golden=golden)


@lru_cache(maxsize=64)
def firmware(board_name: str, compiler: str = "zig") -> Firmware:
    """Build it, or take what another process built of the same bytes."""
    target, chosen = board(board_name), cross_compiler(compiler)
    key = hashlib.sha256(repr((_CODE, sources(), target, chosen)).encode()).hexdigest()
    with _SHARED.making(key):
        kept = _SHARED.get(key)
        if kept is not None and _code_sha256() == _CODE:
            found = pickle.loads(kept)
            assert isinstance(found, Firmware)
            return found
        built = compile_firmware(sources(), target, compiler=chosen, with_selftest=True)
        if _code_sha256() == _CODE:  # else somebody edits it, and no hash tells what was built
            _SHARED.put(key, pickle.dumps(built))
    return built


def _code_sha256() -> str:
    """Hash everything that builds and checks an image: Python, ports, runtime and templates."""
    folder, digest = Path(build.__file__).parent, hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if "__pycache__" not in path.parts:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder)} {len(content)} ".encode() + content)
    return digest.hexdigest()


_SHARED = SharedFiles("test_firmware")
_CODE = _code_sha256()
