"""The folder for a Raspberry Pi that tests run, and what runs it."""

import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from edgeqrl.backends.device import DevicePolicy
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.files import sha256
from edgeqrl.network.integer_policy import IntegerPolicy
from firmware_export.contract import ContractFacts, FailSafe
from firmware_export.emit import export_sources, make_contract, make_golden
from firmware_export.linux.package import (
    LinuxPackage,
    linux_compiler,
    linux_library,
    linux_package,
)
from tests.c_policies import random_observations, random_policy
from tests.firmware import board

ROOT = Path(__file__).parent.parent
RUN = ROOT / "firmware_export/linux/files/run.py"
GOOD = [0.5, -0.25, 0.125, 0.0]
TWO_MACHINES = tuple(sorted({"aarch64", "x86_64", platform.machine()}))  # each takes zig a second


@lru_cache(maxsize=4)
def policy_of(head: str = "argmax") -> IntegerPolicy:
    return random_policy(np.random.default_rng(5), (4, 13, 6, 3), head=head, name="robot")


@lru_cache(maxsize=8)
def sources_of(fail_safe: str = "value:1", *, has_self_test: bool = True) -> dict[str, bytes]:
    policy = policy_of()
    facts = ContractFacts(
        control_period_s=0.01, observation_timeout_s=0.5, fail_safe=FailSafe.parse(fail_safe)
    )
    contract = make_contract(policy, b"", facts)
    return export_sources(policy, b"", golden=golden() if has_self_test else None, contract=contract)


@lru_cache(maxsize=1)
def golden() -> Any:
    return make_golden(policy_of(), random_observations(np.random.default_rng(6), policy_of(), 4))


@lru_cache(maxsize=2)
def package(machines: tuple[str, ...] = TWO_MACHINES) -> LinuxPackage:
    """Build the folder; for all MACHINES in slow tests."""
    return package_anew(machines)


def package_anew(machines: tuple[str, ...], **more: Any) -> LinuxPackage:
    with patch("firmware_export.linux.package.MACHINES", machines):
        return linux_package(
            policy_of(), sources_of(), b"", golden(), board("rpi4"), linux_compiler(), **more
        )


def written(files: Mapping[str, bytes], folder: Path) -> Path:
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return folder


def on_this_host(sources: Mapping[str, bytes], folder: Path) -> None:
    """Replace the library of this machine."""
    machine = platform.machine()
    (folder / "lib" / machine / "libpolicy.so").write_bytes(
        linux_library(policy_of(), sources, board("rpi4"), linux_compiler(), machine)
    )
    (folder / "policy_contract.json").write_bytes(sources["policy_contract.json"])
    sign(folder)


def sign(folder: Path) -> None:
    """Make package.json name the files as they are now."""
    place = folder / "package.json"
    facts = json.loads(place.read_text())
    facts["sha256"] = {path: sha256((folder / path).read_bytes()) for path in facts["sha256"]}
    place.write_text(json.dumps(facts))


def run_py(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "run.py", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def served(argv: list[str], folder: Path) -> Iterator[str]:
    """Start run.py --serve, which says where it listens."""
    with subprocess.Popen([*argv, "--serve", "0"], cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield "socket://" + process.stdout.readline().split()[-1]
        finally:
            process.kill()


def compare_with_host_c(device: Any) -> None:
    played = DevicePolicy(device, policy_of(), model_sha256=b"")
    rows = random_observations(np.random.default_rng(11), policy_of(), 300)
    host = HostCPolicy(policy_of())
    for observations in (rows, rows[:1], rows[1:2]):
        starts = np.zeros(len(observations), np.bool_)
        expected, _ = host.act(observations, None, episode_start=starts)
        assert played.step(observations)[0].tolist() == expected.tolist()
    np.testing.assert_array_equal(played.outputs(rows[:20]), host.outputs(rows[:20]))
