"""The folder for a Raspberry Pi and its runner, run for real by this host's Python."""

import ast
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.errors import DeviceError, UsageError
from firmware_export.device.client import open_device
from firmware_export.device.pipe import PipeLink
from firmware_export.linux.package import (
    MACHINES,
    linux_compiler,
    linux_library,
)
from firmware_export.toolchain import run_compiler
from tests.firmware import board
from tests.linux_folders import (
    GOOD,
    RUN,
    TWO_MACHINES,
    compare_with_host_c,
    golden,
    on_this_host,
    package,
    package_anew,
    policy_of,
    run_py,
    served,
    sign,
    sources_of,
    written,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(package().files, tmp_path / "robot")


# The folder


@pytest.mark.slow
def test_same_policy_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = package(MACHINES)
    monkeypatch.setattr(
        "firmware_export.linux.package.run_compiler", run_compiler
    )  # in one call, as users do
    again = package_anew(MACHINES)
    assert again.files == first.files
    assert set(again.files) == {
        *(f"lib/{machine}/libpolicy.so" for machine in MACHINES),
        *("package.json", "policy.tflite", "policy_contract.json", "golden.json", "README.txt"),
        *("run.py", "edgeqrl_policy.py", "application.py", "edgeqrl-robot.service"),
    }
    assert not [path for path, data in again.files.items() if b"/tmp/" in data]


def test_readme_names_the_owner_of_the_model() -> None:
    owned = package_anew(TWO_MACHINES[:1], licence_holder="Jane Doe")
    text = owned.files["README.txt"].decode()
    assert text.startswith("robot for Raspberry Pi 4, by edgeqrl.")
    assert "belongs to Jane Doe, who owns the model" in text
    assert "@" not in text.replace("user@pi", "")
    assert b"whoever owns the model" in package().files["README.txt"]


def test_other_compilers_are_refused() -> None:
    with pytest.raises(UsageError, match="leave it out: zig builds for them"):
        linux_compiler("arm-none-eabi-gcc")


@pytest.mark.parametrize("name", ["run.py", "edgeqrl_policy.py", "application.py"])
def test_files_are_python_3_9(name: str) -> None:
    ast.parse((RUN.parent / name).read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("name", ["run.py", "edgeqrl_policy.py"])
def test_runner_imports_nothing_but_the_standard_library(name: str) -> None:
    tree = ast.parse((RUN.parent / name).read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= {*sys.stdlib_module_names, "edgeqrl_policy"}


# Tag_CPU_arch of the ABI for the Arm Architecture: v6 is 6, v7 is 10
@pytest.mark.parametrize(
    ("machine", "arch"), [("armv6l", 6), pytest.param("armv7l", 10, marks=pytest.mark.slow)]
)
def test_libraries_of_32_bit_ask_for_no_newer_core(machine: str, arch: int, tmp_path: Path) -> None:
    path = tmp_path / "library"
    path.write_bytes(linux_library(policy_of(), sources_of(), board("rpi4"), linux_compiler(), machine))
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


INTERPRETER = """
import itertools, json, os, numpy
rows = json.load(open("golden.json"))["outputs"]
class Interpreter:
    def __init__(self, **_): self.rows = itertools.cycle(rows)
    def allocate_tensors(self): pass
    def get_input_details(self): return [{"index": 0, "dtype": "int8", "shape": (1, -1)}]
    def get_output_details(self): return [{"index": 0}]
    def set_tensor(self, *_): pass
    def invoke(self): self.out = numpy.array(next(self.rows), "int16") + int(os.environ["OFF"])
    def get_tensor(self, _): return self.out.clip(-128, 127).astype("int8")
"""


@pytest.mark.parametrize(
    ("off", "others", "is_refused"),
    [(0, 0, False), (1, 0, False), (20, 0, True), (0, 3, False), (0, 99, True)],
)
def test_interpreter_may_round_otherwise_but_not_be_broken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, off: int, others: int, is_refused: bool
) -> None:
    written(
        {"ai_edge_litert/__init__.py": b"", "ai_edge_litert/interpreter.py": INTERPRETER.encode()}, folder
    )
    place = folder / "golden.json"
    rows = json.loads(place.read_text())
    rows["actions"] = ["ffffffff"] * min(others, len(rows["actions"])) + rows["actions"][others:]
    place.write_text(json.dumps(rows))
    sign(folder)
    monkeypatch.setenv("OFF", str(off))
    done = run_py(folder, "--self-test", "--backend", "litert")
    assert done.returncode == int(is_refused), done.stderr
    assert ("litert is far from the golden vectors" in done.stderr) == is_refused


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
        done.stderr == "error: There is no library for 'mips'; there are: " + ", ".join(TWO_MACHINES) + ".\n"
    )


# The control loop

APPLICATION = """
import json, os, sys
out = open(os.environ["LOG"], "a", buffering=1)
script = json.loads(os.environ["SCRIPT"])
def start(policy): print("start", policy.contract["observation"]["parts"][0]["shape"][0], file=out)
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
    # On a loaded machine a step may be late as well.
    assert re.search(r"guard: fail-safe, (late, )?not finite\nguard: all is well\n", said), said
    assert "lost" in said


def test_control_loop_stops_the_actuators_where_the_fail_safe_is_disable(folder: Path) -> None:
    on_this_host(sources_of("disable"), folder)
    with loop(folder, [GOOD]) as (_, log):
        lines = wait_for(log, "stop")
        assert lines[:3] == ["start 4", *answers([GOOD]), "stop"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.usefixtures("heeds_interrupts")
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
    assert subprocess.run(["sh", "-n", "-c", shell], check=False, timeout=20).returncode == 0


# The device protocol


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
