"""Any bytes into the device, under sanitizers: tests/c/fuzz_frames.c."""

import re
from pathlib import Path

import pytest

from firmware_export.contract import FailSafe
from tests.c_build import LIBFUZZER_MEMORY, run
from tests.device_host import SANITIZE, build_device, facts, small_policy

EXECUTIONS = 10**7
LIBFUZZER_RUNS = 300_000
FACTS = facts(FailSafe("hold", hold_steps=2))
SPEED = ("-O2", "-Wno-unused-function")


def require_executions(folder: Path, count: int, seed: int, timeout_s: float = 300) -> None:
    """Run the generator's inputs; every kind of outcome must have come, and often."""
    text = run(["./program", str(count), str(seed)], folder, timeout_s=timeout_s)
    found = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", text)}
    assert found["executed"] == count
    assert found["hellos"] == count // 16
    assert min(found["answered"], found["refused"]) > count / 10
    assert min(found["driven"], found["stopped"]) > count / 1000


def test_any_bytes_are_answered_or_ignored(tmp_path: Path) -> None:
    build_device(tmp_path, small_policy(), FACTS, program="fuzz_frames.c", flags=(*SPEED, *SANITIZE))
    require_executions(tmp_path, 100_000, 1)


@pytest.mark.slow
def test_ten_million_inputs_are_answered_or_ignored(tmp_path: Path) -> None:
    build_device(tmp_path, small_policy(), FACTS, program="fuzz_frames.c", flags=(*SPEED, *SANITIZE))
    require_executions(tmp_path, EXECUTIONS, 2, timeout_s=800)


@pytest.mark.slow
def test_libfuzzer_finds_nothing(tmp_path: Path) -> None:
    flags = ("-O1", *SANITIZE, "-DFUZZ_WITH_LIBFUZZER", "-fsanitize=fuzzer", "-Wno-unused-function")
    build_device(tmp_path, small_policy(), FACTS, program="fuzz_frames.c", flags=flags)
    options = (f"-runs={LIBFUZZER_RUNS}", "-max_len=200", "-seed=1", "-print_final_stats=0")
    run(["./program", *options, *LIBFUZZER_MEMORY], tmp_path)
