"""Small firmware for tests: random policies with golden vectors, built once a session and board."""

import os
import shutil
from functools import lru_cache
from typing import NoReturn

import numpy as np
import pytest

from edgeqrl.data import data_folder
from edgeqrl.errors import MissingToolError
from edgeqrl.network.integer_policy import IntegerPolicy
from firmware_export.board import Board, board_names, load_board
from firmware_export.build import Firmware, compile_firmware
from firmware_export.emit import export_sources
from firmware_export.emit.golden import make_golden
from firmware_export.toolchain import Compiler, find_compiler
from tests.c_policies import random_observations, random_policy

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


@lru_cache(maxsize=24)
def firmware(board_name: str, compiler: str = "zig") -> Firmware:
    return compile_firmware(
        sources(), board(board_name), compiler=cross_compiler(compiler), with_selftest=True
    )
