"""The main loop on this host: what a slow or dead UART or a missing time base does to the application."""

import re
from pathlib import Path

import numpy as np
import pytest

from firmware_export.build import _PORTS
from firmware_export.contract import FailSafe
from tests.c_build import c_compiler, run
from tests.c_policies import random_policy
from tests.device_host import HELLO, STATS, VERSION, facts, frame, write_device

NO_FLAGS = bytes(4)
PERIOD_US = 20_000
POLICY = random_policy(np.random.default_rng(8), (256, 5, 2), head="affine", name="robot")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("main")
    units = write_device(place, POLICY, facts(FailSafe("hold", hold_steps=15)))
    for name in ("main.c", "eqrl_transport.h"):
        (place / name).write_bytes((_PORTS / "common" / name).read_bytes())
    flags = ['-DEQRL_BOARD_NAME="host"', "-DEQRL_CLOCK_HZ=16000000u", "-DEQRL_UART_IRQ=1", "-I.", "-O1"]
    compile_one = [*c_compiler("clang"), "-std=gnu99", "-Wall", "-Wextra", *flags]
    run([*compile_one, "-c", "-Dmain=firmware_main", "main.c", "-o", "main.o"], place)
    run([*compile_one, *units, "main_host.c", "main.o", "-o", "program"], place)
    (place / "requests").write_bytes(frame(HELLO, 1, VERSION) + frame(STATS, 2, NO_FLAGS))
    return place


def play(folder: Path, *arguments: str) -> tuple[list[str], dict[str, int]]:
    """Return what happened to the outputs at the start, and the numbers of the end."""
    text = run(["./program", *arguments], folder)
    numbers = {word: int(count) for word, count in re.findall(r"(\w+) (\d+)", text)}
    return text.split("oldest")[0].split(), numbers


def test_outputs_are_stopped_before_anything_else(folder: Path) -> None:
    happened, found = play(folder, "app")
    assert happened == ["stop", "init"]
    assert found["written"] >= 70
    assert found["watchdog"] == 40 + 15 * 20 + 1  # as long as the contract lets an action be held


def test_a_long_reply_leaves_the_application_its_period(folder: Path) -> None:
    _, found = play(folder, "app", "requests")
    assert found["sent"] > 700
    assert found["oldest"] <= PERIOD_US + 1000 + 2 * 4 * 87
    assert found["unkicked"] <= 2000


def test_a_dead_uart_costs_one_byte_a_reply(folder: Path) -> None:
    _, found = play(folder, "dead", "requests")
    assert (found["sent"], found["tried"]) == (0, 2)
    assert found["unkicked"] <= 62_000 < 1000 * found["watchdog"]


def test_without_a_time_base_the_loop_goes_on_and_no_watchdog_runs(folder: Path) -> None:
    _, found = play(folder, "notimer")
    assert found["watchdog"] == found["written"] == 0
