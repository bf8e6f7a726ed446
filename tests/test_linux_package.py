"""The folder for a Raspberry Pi, run for real: by this host's Python, slow tests on emulated Arm cores."""

import ast
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from edgeqrl.backends.device import DevicePolicy
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.cli.main import run
from edgeqrl.errors import DeviceError, UsageError
from edgeqrl.files import sha256
from edgeqrl.network.integer_policy import IntegerPolicy
from firmware_export.contract import ContractFacts, FailSafe
from firmware_export.device.client import open_device
from firmware_export.device.pipe import PipeLink
from firmware_export.emit import export_sources, make_contract, make_golden
from firmware_export.emulators.qemu_user import open_linux_device
from firmware_export.flashers.ssh import deploy
from firmware_export.linux.package import (
    MACHINES,
    LinuxPackage,
    linux_compiler,
    linux_library,
    linux_package,
)
from tests.c_policies import random_observations, random_policy
from tests.firmware import board, require_tool
from tests.ssh_server import ssh_server
from tests.test_report_schema import LENIENT, faults_of

ROOT = Path(__file__).parent.parent
RUN = ROOT / "firmware_export/linux/files/run.py"
ARM64 = ROOT / "build" / "arm64"
GOOD = [0.5, -0.25, 0.125, 0.0]
UNDECIDED = 7


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


@lru_cache(maxsize=1)
def package() -> LinuxPackage:
    return linux_package(policy_of(), sources_of(), b"", golden(), board("rpi4"), linux_compiler())


def written(files: Mapping[str, bytes], folder: Path) -> Path:
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(package().files, tmp_path / "robot")


def on_this_host(sources: Mapping[str, bytes], folder: Path) -> None:
    """Replace the library of this machine."""
    machine = platform.machine()
    (folder / "lib" / machine / "libpolicy.so").write_bytes(
        linux_library(sources, board("rpi4"), linux_compiler(), machine)
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


# The folder


def test_same_policy_gives_the_same_bytes() -> None:
    again = linux_package(policy_of(), sources_of(), b"", golden(), board("rpi4"), linux_compiler())
    assert again.files == package().files
    assert set(again.files) == {
        *(f"lib/{machine}/libpolicy.so" for machine in MACHINES),
        *("package.json", "policy.tflite", "policy_contract.json", "golden.json", "README.txt"),
        *("run.py", "application.py", "edgeqrl-robot.service"),
    }
    assert not [path for path, data in again.files.items() if b"/tmp/" in data]


def test_readme_names_the_owner_of_the_model() -> None:
    owned = linux_package(
        policy_of(), sources_of(), b"", golden(), board("rpi5"), linux_compiler(), licence_holder="Jane Doe"
    )
    text = owned.files["README.txt"].decode()
    assert text.startswith("robot for Raspberry Pi 5, by edgeqrl.")
    assert "belongs to Jane Doe, who owns the model" in text
    assert "@" not in text.replace("user@pi", "")
    assert b"whoever owns the model" in package().files["README.txt"]


def test_other_compilers_are_refused() -> None:
    with pytest.raises(UsageError, match="leave it out: zig builds for them"):
        linux_compiler("arm-none-eabi-gcc")


@pytest.mark.parametrize("name", ["run.py", "application.py"])
def test_files_are_python_3_9(name: str) -> None:
    ast.parse((RUN.parent / name).read_text(), feature_version=(3, 9))


def test_runner_imports_nothing_but_the_standard_library() -> None:
    tree = ast.parse(RUN.read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)


# Tag_CPU_arch of the ABI for the Arm Architecture: v6 is 6, v7 is 10
@pytest.mark.parametrize(("machine", "arch"), [("armv6l", 6), ("armv7l", 10)])
def test_libraries_of_32_bit_ask_for_no_newer_core(machine: str, arch: int, tmp_path: Path) -> None:
    path = tmp_path / "library"
    path.write_bytes(package().files[f"lib/{machine}/libpolicy.so"])
    with path.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".ARM.attributes")
        found = {
            attribute.tag: attribute.value
            for group in section.iter_subsections()
            for part in group.iter_subsubsections()
            for attribute in part.iter_attributes()
        }
    assert found["TAG_CPU_ARCH"] == arch
    assert found["TAG_ABI_VFP_ARGS"] == 1  # hard float, as Raspberry Pi OS


# Self-test


def test_self_test_on_this_host(folder: Path) -> None:
    done = run_py(folder, "--self-test", "--backend", "c")
    found = json.loads(done.stdout)
    assert found.pop("step_us") > 0
    assert found == {
        "backend": "c",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "name": "robot",
        "model_sha256": None,
        "library_self_test": True,
        "golden_vectors": len(golden().status),
        "same_actions": len(golden().status),
        "differing_outputs": 0,
        "num_outputs": 3 * len(golden().status),
        "largest_difference": 0,
        "ok": True,
    }


def test_without_a_self_test_in_the_library_the_golden_vectors_are_checked_all_the_same(folder: Path) -> None:
    on_this_host(sources_of(has_self_test=False), folder)
    found = json.loads(run_py(folder, "--self-test", "--backend", "c").stdout)
    assert (found["library_self_test"], found["ok"]) == (False, True)
    assert found["same_actions"] == found["golden_vectors"]


def test_an_output_that_is_a_unit_off_fails_the_self_test(folder: Path) -> None:
    place = folder / "golden.json"
    rows = json.loads(place.read_text())
    rows["outputs"][3][1] ^= 1
    place.write_text(json.dumps(rows))
    sign(folder)
    done = run_py(folder, "--self-test", "--backend", "c")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: The C library differs from its golden vectors" in done.stderr
    assert '"differing_outputs": 1' in done.stderr


@pytest.mark.parametrize("path", [f"lib/{platform.machine()}/libpolicy.so", "golden.json", "policy.tflite"])
@pytest.mark.parametrize("size", [2000, 0, None])
def test_damaged_file_is_named(folder: Path, path: str, size: int | None) -> None:
    """A library that is cut off would end the process with a bus error."""
    place = folder / path
    if size is None:
        place.unlink()
    else:
        place.write_bytes(place.read_bytes()[:size] + b"!")
    done = run_py(folder, "--self-test")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert path in done.stderr


def test_what_is_no_library_is_said(folder: Path) -> None:
    (folder / "lib" / platform.machine() / "libpolicy.so").write_bytes(b"not a library")
    sign(folder)
    assert "error: The library of this folder cannot be loaded (" in run_py(folder, "--self-test").stderr


def test_application_may_be_changed(folder: Path) -> None:
    (folder / "application.py").write_text("mine = True\n")
    assert run_py(folder, "--self-test", "--backend", "c").returncode == 0


def test_machine_without_a_library_is_named(folder: Path) -> None:
    code = "import platform, runpy, sys; platform.machine = lambda: 'mips'; "
    code += "sys.argv = ['run.py', '--self-test']; runpy.run_path('run.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert (
        done.stderr
        == "error: There is no library for 'mips'; there are: " + ", ".join(sorted(MACHINES)) + ".\n"
    )


# The control loop

APPLICATION = """
import json, os, sys
out = open(os.environ["LOG"], "a", buffering=1)
script = json.loads(os.environ["SCRIPT"])
def start(policy): print("start", policy.library.num_inputs, file=out)
def read():
    if not script:
        return None
    found = script.pop(0)
    if found == "raise":
        raise OSError("the bus is gone")
    return found
def write(action): print("write", action, file=out)
def stop(): print("stop", file=out)
"""


@contextmanager
def loop(folder: Path, script: list[Any], **environment: str) -> Iterator[tuple[Any, Path]]:
    (folder / "mine.py").write_text(APPLICATION)
    log = folder / "log"
    log.touch()
    process = subprocess.Popen(
        [sys.executable, "run.py", "--backend", "c", "--application", "mine.py"],
        cwd=folder,
        env={**os.environ, "LOG": str(log), "SCRIPT": json.dumps(script), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, log
    finally:
        process.kill()
        process.communicate()


def wait_for(log: Path, line: str, count: int = 1) -> list[str]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lines = log.read_text().splitlines()
        if lines.count(line) >= count:
            return lines
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def answers(observations: list[list[float]]) -> list[str]:
    rows = np.array(observations, np.float32)
    actions, _ = HostCPolicy(policy_of()).act(rows, None, episode_start=np.zeros(len(rows), np.bool_))
    return [f"write {action}" for action in actions]


def test_control_loop_drives_what_host_c_answers_and_the_fail_safe_on_nan(folder: Path) -> None:
    observations = [GOOD, [8.0, -3.0, 2.0, 1.0], [-9.0, 4.0, 0.5, -1.0]]
    script = [observations[0], [float("nan"), 0.0, 0.0, 0.0], *observations[1:]]
    expected = answers(observations)
    with loop(folder, script) as (process, log):
        lines = wait_for(log, "write 1", 2)  # on NaN, and when observations stopped: then it is latched
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert lines == ["start 4", expected[0], "write 1", *expected[1:], "write 1"]
        assert log.read_text().splitlines()[-1] == "stop"
        said = process.stderr.read()
    assert "guard: fail-safe, not finite\nguard: all is well\n" in said
    assert "lost" in said


def test_control_loop_stops_the_actuators_where_the_fail_safe_is_disable(folder: Path) -> None:
    on_this_host(sources_of("disable"), folder)
    with loop(folder, [GOOD]) as (_, log):
        lines = wait_for(log, "stop")
        assert lines[:3] == ["start 4", *answers([GOOD]), "stop"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_stops_the_actuators_once(folder: Path, number: signal.Signals) -> None:
    with loop(folder, [GOOD] * 2000) as (process, log):
        wait_for(log, answers([GOOD])[0], 3)
        process.send_signal(number)
        assert process.wait(20) == (130 if number is signal.SIGINT else 0)
        assert log.read_text().splitlines().count("stop") == 1


def test_an_application_that_raises_leaves_stopped_actuators(folder: Path) -> None:
    with loop(folder, [GOOD, "raise"]) as (process, log):
        assert process.wait(30) == 1
        assert log.read_text().splitlines()[-1] == "stop"
        assert "the bus is gone" in process.stderr.read()


def test_stop_alone_stops_the_actuators(folder: Path) -> None:
    (folder / "mine.py").write_text('def stop(): print("stopped")\n')
    assert run_py(folder, "--stop", "--application", "mine.py").stdout == "stopped\n"


def test_systemd_hears_that_it_is_ready_and_alive(folder: Path) -> None:
    place = folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(place))
        listener.settimeout(30)
        told = {"NOTIFY_SOCKET": str(place), "WATCHDOG_USEC": "400000"}
        with loop(folder, [GOOD] * 2000, **told):
            heard = [listener.recv(100) for _ in range(4)]
    assert heard == [b"READY=1\nSTATUS=c", *[b"WATCHDOG=1"] * 3]


def test_watchdog_is_kicked_within_a_long_control_period(folder: Path) -> None:
    contract = json.loads((folder / "policy_contract.json").read_text()) | {"control_period_s": 60.0}
    (folder / "policy_contract.json").write_text(json.dumps(contract))
    place = folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(place))
        listener.settimeout(20)
        with loop(folder, [GOOD] * 9, NOTIFY_SOCKET=str(place), WATCHDOG_USEC="400000"):
            assert [listener.recv(100) for _ in range(5)][1:] == [b"WATCHDOG=1"] * 4


def test_unit_stops_the_actuators_after_a_crash_too() -> None:
    unit = package().files["edgeqrl-robot.service"].decode()
    lines = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and line[0] != "#")
    assert lines["WorkingDirectory"] == "%h/edgeqrl/robot/current"
    assert (lines["Type"], lines["NoNewPrivileges"]) == ("notify", "yes")
    assert "--stop" in lines["ExecStopPost"]
    shell = lines["ExecStart"].partition("'")[2].rpartition("'")[0].replace("$$", "$")
    assert subprocess.run(["sh", "-n", "-c", shell], check=False).returncode == 0


# The device protocol


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


def test_runner_serves_the_device_protocol(folder: Path) -> None:
    with served([sys.executable, "run.py"], folder) as url:
        for _ in range(2):  # a second client comes when the first has gone
            with open_device(url) as device:
                compare_with_host_c(device)
                assert device.hello().board == "linux"
                assert device.selftest().rows > 4
                device.reset()


def test_port_that_is_taken_is_said(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = run_py(folder, "--serve", str(other.getsockname()[1]))
    assert done.returncode == 1
    assert done.stderr.startswith("error: Cannot listen on ")


ECHO = "import os\nwhile data := os.read(0, 99): os.write(1, data)"


def test_pipe_carries_bytes_both_ways() -> None:
    link = PipeLink([sys.executable, "-c", ECHO], "echo")
    try:
        link.write(bytes(range(256)) * 200)
        assert link.read(51_200, 20.0) == bytes(range(256)) * 200
        assert (link.read(1, 0.05), link.read_stale()) == (b"", b"")
    finally:
        link.close()
        link.close()


@pytest.mark.parametrize(
    ("argv", "why"),
    [(["/nowhere"], "does not start"), ([sys.executable, "-c", "raise SystemExit(3)"], "exit code 3")],
)
def test_program_that_does_not_run_is_said(argv: list[str], why: str) -> None:
    with pytest.raises(DeviceError, match=why):
        PipeLink(argv, "The program").read(1, 20.0)


def test_program_that_does_not_listen_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_export.device.pipe._WRITE_TIMEOUT_S", 0.2)
    link = PipeLink([sys.executable, "-c", "import time; time.sleep(60)"], "The program")
    with pytest.raises(DeviceError, match="does not take what is sent"):
        link.write(bytes(2**20))
    link.close()


# Commands


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("linux") / "cartpole"
    command = ["convert", "zoo:cartpole-dqn", "--env", "CartPole-v1", "--board", "rpi4", "-o", str(place)]
    assert run([*command, *LENIENT, "--episodes", "16", "--calibration-episodes", "2"]) == 0
    return place


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def report_of(bundle: Path) -> dict[str, Any]:
    return dict(json.loads((bundle / "report.json").read_text()))


def test_report_of_the_package_is_as_published(made: Path) -> None:
    report = report_of(made)
    assert faults_of("report", report) == []
    section = report["package"]
    files = [path for path in (made / "raspberry").rglob("*") if path.is_file()]
    assert (section["board"], section["core"]) == ("rpi4", "cortex-a72")
    assert (section["files"], section["bytes"]) == (len(files), sum(path.stat().st_size for path in files))
    assert set(section["libraries"]) == set(MACHINES)
    assert json.loads((made / "manifest.json").read_text())["board"] == "rpi4"


def test_folder_of_the_bundle_passes_its_self_test(made: Path) -> None:
    found = json.loads(run_py(made / "raspberry", "--self-test", "--backend", "c").stdout)
    assert (found["ok"], found["name"], found["golden_vectors"]) == (True, "cartpole_dqn", 73)


def test_what_is_exported_or_built_again_replaces_the_folder(bundle: Path) -> None:
    assert run(["build", str(bundle), "--board", "rpi-zero2"]) == 0
    assert report_of(bundle)["package"]["core"] == "cortex-a53"
    assert run(["export", str(bundle), "--no-self-test"]) == 0
    assert not (bundle / "raspberry/run.py").exists()
    assert "package" not in report_of(bundle)
    assert run(["build", str(bundle), "--board", "rpi5"]) == 0  # also of sources without a self-test
    found = json.loads(run_py(bundle / "raspberry", "--self-test", "--backend", "c").stdout)
    assert (found["library_self_test"], found["ok"]) == (False, True)
    assert run(["build", str(bundle), "--board", "mps2-an386"]) == 0
    assert not (bundle / "raspberry/run.py").exists()
    assert faults_of("report", report_of(bundle)) == []


def test_boards_of_a_vendors_sdk_get_the_sources(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", str(bundle), "--board", "esp32"]) == 0
    said = capsys.readouterr().out
    assert "components/cartpole_dqn" in said
    assert "idf.py set-target esp32 build" in said
    assert faults_of("report", report_of(bundle)) == []
    assert "package" not in report_of(bundle)
    assert run(["flash", str(bundle)]) != 0


def test_flash_says_what_it_would_deploy(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["flash", str(made), "--host", "pi@robot.local", "--service", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "to pi@robot.local:edgeqrl/cartpole_dqn/releases/" in said
    assert "start the service edgeqrl-cartpole_dqn; nothing was done." in said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "say where with --host user@host"),
        (["--host", "pi@robot", "--port", "/dev/ttyACM0"], "--port is for boards that are flashed"),
        (["--host", "-oProxyCommand=x", "--dry-run"], "not of the form user@host"),
        (["--service"], "go with --host"),
        (["--host", "pi@robot", "--board", "mps2-an386"], "is for board 'rpi4'"),
    ],
)
def test_flash_refuses_what_does_not_go_together(
    made: Path, words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["flash", str(made), *words]) == 2
    assert why in capsys.readouterr().err


def test_host_is_refused_for_boards_that_are_flashed(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["build", str(bundle), "--board", "mps2-an386"]) == 0
    assert run(["flash", str(bundle), "--host", "pi@robot", "--dry-run"]) == 2
    assert "--host is for boards that run Linux" in capsys.readouterr().err


def test_compiler_without_a_c_library_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", str(bundle), "--board", "rpi4", "--compiler", "arm-none-eabi-gcc"]) == 2
    assert "zig builds for them" in capsys.readouterr().err


def test_validate_plays_through_the_runner(bundle: Path) -> None:
    with served([sys.executable, "run.py"], bundle / "raspberry") as url:
        command = ["validate", str(bundle), "--backend", "device", "--port", url, *LENIENT]
        assert run([*command, "--episodes", "3", "--float-backend", "litert"]) == UNDECIDED
    report = report_of(bundle)
    assert report["device"]["board"] == "linux"
    assert report["device"]["equal_to_host_c"] > 1000
    assert faults_of("report", report) == []


# Emulated Arm


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rpi-zero2", "rpi4", "rpi5"])
def test_program_on_each_core_is_host_c_to_the_bit(name: str) -> None:
    require_tool("qemu-aarch64")
    with open_linux_device(sources_of(), "robot", board(name)) as device:
        assert device.selftest().rows > 4
        device.reset()
        compare_with_host_c(device)


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["armv7l", "armv6l"])
def test_program_of_32_bit_is_host_c_to_the_bit(machine: str) -> None:
    require_tool("qemu-arm")
    with open_linux_device(sources_of(), "robot", board("rpi-zero2"), machine=machine) as device:
        assert device.selftest().rows > 4
        device.reset()
        compare_with_host_c(device)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rpi-zero2", "rpi4", "rpi5"])
def test_emulate_plays_equal_episodes(bundle: Path, name: str) -> None:
    require_tool("qemu-aarch64")
    assert run(["build", str(bundle), "--board", name]) == 0
    assert run(["emulate", str(bundle), "--episodes", "2"]) == 0
    found = report_of(bundle)["emulation"]
    assert (found["level"], found["engine"], found["episodes"]) == ("ISA", "qemu", 2)
    assert (found["num_steps"], found["acts_as"]) == (1000, "host-c")
    assert faults_of("report", report_of(bundle)) == []


def arm64(core: str, backend: str = "") -> list[str]:
    """Return what runs Debian's Python for 64-bit Arm."""
    qemu, root = ARM64 / "qemu/usr/bin/qemu-aarch64", ARM64 / "root"
    require_tool(str(qemu))
    path = f"PYTHONPATH={ARM64 / backend}" if backend else "PYTHONPATH="
    return [str(qemu), "-cpu", core, "-E", path, "-L", str(root), str(root / "usr/bin/python3.11")]


def self_test_on_arm(folder: Path, core: str, backend: str) -> dict[str, Any]:
    argv = [*arm64(core, "" if backend == "c" else backend), "run.py", "--self-test", "--backend", backend]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_self_test_of_the_library_on_64_bit_arm(made: Path, core: str) -> None:
    found = self_test_on_arm(made / "raspberry", core, "c")
    assert (found["ok"], found["machine"], found["library_self_test"]) == (True, "aarch64", True)
    assert (found["same_actions"], found["differing_outputs"]) == (found["golden_vectors"], 0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["litert", "tflite-runtime"])
def test_self_test_of_interpreters_on_64_bit_arm(made: Path, backend: str) -> None:
    """They round otherwise than the reference: by a unit, now and then."""
    found = self_test_on_arm(made / "raspberry", "cortex-a72", backend)
    assert (found["ok"], found["backend"], found["machine"]) == (True, backend, "aarch64")
    assert found["largest_difference"] <= 2
    assert found["same_actions"] >= found["golden_vectors"] - 3


OUTPUTS = """
import sys, run
policy = run.Policy(sys.argv[1])
for line in open(sys.argv[2]):
    print(policy.infer(bytes.fromhex(line)).hex())
"""


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a76"])
@pytest.mark.parametrize(("backend", "largest"), [("litert", 0), ("tflite-runtime", 1)])
def test_interpreters_on_arm_and_here(bundle: Path, backend: str, largest: int, core: str) -> None:
    """LiteRT's verdict on this host is that on a Pi; tflite-runtime rounds otherwise on Arm, now and then."""
    folder = bundle / "raspberry"
    inputs = np.random.default_rng(8).integers(-128, 128, (2000, 4), np.int8)
    (folder / "inputs").write_text("".join(row.tobytes().hex() + "\n" for row in inputs))
    (folder / "outputs.py").write_text(OUTPUTS)
    answered = []
    for argv in ([sys.executable], arm64(core, backend)):
        done = subprocess.run(
            [*argv, "outputs.py", backend, "inputs"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answered.append([line for line in done.stdout.splitlines() if len(line) == 4])
    assert len(answered[0]) == len(inputs)
    here, there = (np.array([list(bytes.fromhex(line)) for line in lines], np.uint8) for lines in answered)
    differences = np.abs(here.view(np.int8).astype(np.int16) - there.view(np.int8))
    assert differences.max() == largest
    assert np.mean(differences > 0) < 0.05


@pytest.mark.slow
def test_validate_plays_through_the_runner_on_arm(bundle: Path) -> None:
    with served([*arm64("cortex-a72"), "run.py"], bundle / "raspberry") as url:
        command = ["validate", str(bundle), "--backend", "device", "--port", url, *LENIENT]
        assert run([*command, "--episodes", "2", "--float-backend", "litert"]) == UNDECIDED
    assert report_of(bundle)["device"]["equal_to_host_c"] > 900


# By ssh


@pytest.mark.slow
def test_real_folder_is_deployed_tested_and_rolled_back(made: Path, tmp_path: Path) -> None:
    with ssh_server(tmp_path) as server:
        options = [f"--ssh-option={' '.join(server.options)}"]
        assert run(["flash", str(made), "--host", server.host, *options]) == 0
        current = server.home / "edgeqrl/cartpole_dqn/current"
        release = current.resolve().name
        assert json.loads(run_py(current, "--self-test", "--backend", "c").stdout)["ok"]

        path = f"lib/{platform.machine()}/libpolicy.so"
        whole = {
            str(place.relative_to(made / "raspberry")): place.read_bytes()
            for place in (made / "raspberry").rglob("*")
            if place.is_file()
        }
        damaged = replace(package(), name="cartpole_dqn", files=whole | {path: whole[path][:3000]})
        with pytest.raises(DeviceError, match="is damaged") as caught:
            deploy(damaged, server.host, options=server.options)
        assert f"Release {release} is current, as before." in str(caught.value)
        assert current.resolve().name == release
        assert [place.name for place in current.resolve().parent.iterdir()] == [release]
