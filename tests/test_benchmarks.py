"""Benchmarks run, but for boards and those of hours (zoo, quantization); what they measure is not asked."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (
    "benchmarks/convert.py",
    "benchmarks/host.py --models a f --rounds 1 --orders",
    "benchmarks/rates.py --core cortex-m4",
    "benchmarks/rollout.py --repeats 1",
    "benchmarks/startup.py",
    "benchmarks/verdict.py --quick",
    "-m benchmarks.engine --model a --core cortex-m4 --compiler zig",
)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_benchmarks_run(command: str) -> None:
    argv = [sys.executable, *command.split()]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert any(sign in done.stdout for sign in ("|", "%", "target")), done.stdout
