"""Commands on boards that run Linux: build, emulate on Arm cores (slow), validate, deploy."""

import json
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl.cli.main import run
from edgeqrl.errors import DeviceError
from firmware_export.emulators.qemu_user import open_linux_device
from firmware_export.flashers.ssh import deploy
from firmware_export.linux.package import MACHINES
from tests.firmware import board, require_tool
from tests.linux_folders import ROOT, TWO_MACHINES, compare_with_host_c, package, run_py, served, sources_of
from tests.ssh_server import ssh_server
from tests.test_report_schema import LENIENT, faults_of

ARM64 = ROOT / "build" / "arm64"
UNDECIDED = 7


# Commands


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("linux") / "cartpole"
    command = ["convert", "zoo:cartpole-dqn", "--env", "CartPole-v1", "--board", "rpi4", "-o", str(place)]
    assert run([*command, *LENIENT, "--episodes", "16", "--calibration-episodes", "2"]) == 0
    return place


@pytest.fixture
def two_machines(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build again for two machines only; `made` has all."""
    monkeypatch.setattr("firmware_export.linux.package.MACHINES", TWO_MACHINES)


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


@pytest.mark.usefixtures("two_machines")
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
    for command in (["flash"], ["flash", "--host", "pi@robot"], ["emulate"]):
        assert run([command[0], str(bundle), *command[1:]]) == 2
        said = capsys.readouterr().err
        assert "sources and no firmware of ours" in said
        assert "idf.py set-target esp32 build flash" in said


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
        (["--host", "pi@x", "--ssh-option", '-p "22', "--dry-run"], "into words: no closing quotation"),
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
    print(policy.infer(bytes.fromhex(line))[: policy.library.output_bytes].hex())
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
