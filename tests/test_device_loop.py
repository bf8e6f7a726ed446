"""`validate --backend device`: episodes through a port, paired with host C; what it reports and refuses."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl import device_loop
from edgeqrl.backends.device import DevicePolicy
from edgeqrl.bundle import open_bundle
from edgeqrl.cli.main import run
from edgeqrl.errors import BackendsDiffer, UsageError
from edgeqrl.rollout import rollout
from edgeqrl.stages import read_firmware, read_quantized
from edgeqrl.validate.agreement import AgreementCounter, ShadowedPolicy
from firmware_export.device.client import open_device
from firmware_export.emulators.machine import boot_in_machine
from firmware_export.flashers import find
from firmware_export.images import hex_image
from tests.fake_device import FakeDevice, MemoryLink, serve_pty, serve_socket
from tests.firmware import board, require_qemu
from tests.test_report_schema import LENIENT, faults_of

SERVERS = {"pty": serve_pty, "socket": serve_socket}
FEW = (*LENIENT, "--episodes", "3", "--float-backend", "litert")
UNDECIDED = 7  # three episodes decide nothing


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device") / "cartpole"
    command = ["convert", "zoo:cartpole-dqn", "-o", str(folder), *LENIENT, "--episodes", "16"]
    assert run([*command, "--calibration-episodes", "2"]) == 0
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def fake_of(folder: Path, **options: Any) -> FakeDevice:
    found = open_bundle(folder)
    contract = "src/policy_contract.json"
    options["model"] = bytes.fromhex(found.sha256_of("policy.tflite"))
    if found.has(contract):
        options["contract"] = bytes.fromhex(found.sha256_of(contract))
    policy = read_quantized(found).integer_policy(is_masked=False)
    return FakeDevice(policy, **{"max_payload": 1024, **options})


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def validate(folder: Path, *options: str) -> int:
    return run(["validate", str(folder), *FEW, "--backend", "device", *options])


# What it reports


@pytest.mark.parametrize("kind", SERVERS)
def test_the_report_says_what_the_device_did(
    kind: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = fake_of(bundle, faults=[*[""] * 9, "corrupt", "banner"])
    with SERVERS[kind](fake) as url:
        assert validate(bundle, "--port", url, "--baud", "921600", "--json") == UNDECIDED
    report = json.loads(capsys.readouterr().out)
    assert faults_of("report", report) == []
    device = report["device"]
    assert (report["backend"], device["port"], device["board"]) == ("device", url, "fake")
    assert device["baud"] == 921600
    assert device["model_sha256"] == fake.model.hex()
    assert device["equal_to_host_c"] == fake.steps > sum(report["episodes_detail"]["quantized_length"])
    assert device["retries"] >= 1
    assert device["frames"] == len(fake.executed)
    assert device["round_trip_s"]["count"] == device["step_s"]["count"] >= 200
    assert device["step_s"]["median"] == 50e-6
    assert f"--backend device --port {url} --baud 921600" in report["next"]["command"]
    assert report["likeness"]["regret"] is not None  # by host C's outputs
    spread = device["round_trip_s"]
    assert 0 < spread["min"] <= spread["median"] <= spread["p99"] <= spread["max"]


def test_the_table_says_who_answered_and_never_more(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with serve_socket(fake_of(bundle, flags=8 | 32 | 64, tick_hz=0)) as url:
        assert validate(bundle, "--port", url) == UNDECIDED
    shown, errors = capsys.readouterr()
    assert f"device at {url} says it is fake" in shown
    assert "it runs slowly" in shown
    assert "by the watchdog" in shown
    for label in ("actions as host C", "round trip", "step, device clock", "no timer", "sent again"):
        assert label in shown, label
    assert "on the board" not in shown
    facts = [line for line in shown.splitlines() if "frames" in line or "round trip" in line]
    assert facts
    assert max(map(len, facts)) <= 80
    assert "validating" in errors
    report = json.loads((bundle / "report.json").read_text())
    assert report["device"]["step_s"] is None
    assert faults_of("report", report) == []


# What it refuses


@pytest.mark.parametrize("options", [["--port", "/dev/ttyX"], ["--baud", "9600"]])
def test_a_port_goes_with_the_device(
    options: list[str], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate", str(bundle), *options]) == 2
    assert "--port and --baud go with --backend device." in capsys.readouterr().err


def test_misspelt_device_is_told_as_the_backend_that_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", ".", "--backend", "devise"]) == UsageError.exit_code
    assert "did you mean 'device'?" in capsys.readouterr().err


def test_the_device_needs_a_port(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate(bundle) == 2
    assert "--port" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "is_found"), [(0, False), (1, True), (2, False)])
def test_the_one_port_of_the_board_is_found(
    count: int, is_found: bool, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = open_bundle(bundle)
    found.facts["board"] = "nucleo-h743zi"
    ports = tuple(find.Candidate(f"/dev/ttyACM{i}", "0483:374e STLINK") for i in range(count))
    asked: list[Any] = []
    monkeypatch.setattr(find, "serial_ports", lambda usb: asked.append(usb) or ports)
    if is_found:
        assert device_loop.find_port(found) == "/dev/ttyACM0"
    else:
        with pytest.raises(UsageError, match="name it with --port"):
            device_loop.find_port(found)
    assert "0483:374e" in asked[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": bytes(32)}, "flash the bundle first"),
        ({"contract": b"\xab" * 32}, "runs contract abababab…, the bundle has"),
        ({"version": 9}, "speaks version 9"),
        ({"faults": ["corrupt"] * 50}, "damaged frames only"),
    ],
)
def test_trouble_is_one_sentence_and_leaves_the_bundle(
    options: dict[str, Any], words: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, fake = content_of(bundle), fake_of(bundle)
    if "contract" in options and not open_bundle(bundle).has("src/policy_contract.json"):
        pytest.fail("the bundle has no contract")
    for name, value in options.items():
        setattr(fake, name, value)
    with serve_socket(fake) as url:
        assert validate(bundle, "--port", url) == 10
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert words in error
    assert content_of(bundle) == before


def test_one_action_that_differs_is_found_with_seed_and_step(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content_of(bundle)
    with serve_socket(fake_of(bundle, wrong_step=256 + 40)) as url:
        assert validate(bundle, "--port", url, "--validation-seed", "700") == 14
    error = capsys.readouterr().err
    # 256 timed steps, then three episodes side by side: row 1 of the fourteenth step
    assert "act differently in the episode with seed 701 at step 13: " in error
    assert content_of(bundle) == before


def test_a_difference_in_a_timed_step_is_found(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve_socket(fake_of(bundle, wrong_step=5)) as url:
        assert validate(bundle, "--port", url) == 14
    assert "act differently on observation 0" in capsys.readouterr().err


def test_seed_and_step_are_named_also_where_the_device_follows(bundle: Path) -> None:
    fake = fake_of(bundle, wrong_step=2 * 5 + 1)
    policy = fake.policy
    found = open_bundle(bundle)
    device = open_device("memory", link=lambda url, baud: MemoryLink(fake))
    paired = device_loop.PairedPolicy(
        DevicePolicy(device, policy, model_sha256=fake.model), device_loop.HostCPolicy(policy)
    )
    make_env = device_loop_env(found)
    leader = ShadowedPolicy(device_loop.HostCPolicy(policy), paired, AgreementCounter())
    with pytest.raises(BackendsDiffer, match=r"seed 8 at step 5: "):
        rollout(leader, make_env, [7, 8])


def device_loop_env(found: Any) -> Any:
    from edgeqrl.pipeline import environment_of

    environment = environment_of(found)
    assert environment is not None
    return environment.make


@pytest.mark.usefixtures("heeds_interrupts")
def test_interrupt_leaves_the_bundle_and_a_device_that_answers(bundle: Path) -> None:
    before, fake = content_of(bundle), fake_of(bundle)
    reached = Signal(fake, after=20)
    with serve_pty(fake) as url:
        command = [sys.executable, "-m", "edgeqrl", "validate", str(bundle), *LENIENT]
        process = subprocess.Popen(
            [*command, "--backend", "device", "--port", url],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert reached.wait(120)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Interrupted; what was there before is as it was." in errors
        assert content_of(bundle) == before
        with open_device(url) as device:
            assert device.hello().name == fake.policy.name
            device.reset()


class Signal:
    """Tells when a device has executed so many batches."""

    def __init__(self, fake: FakeDevice, after: int) -> None:
        self._event, self._left, self._batch = threading.Event(), after, fake.batch
        fake.batch = self  # type: ignore[method-assign,assignment]

    def __call__(self, content: bytes) -> tuple[int, bytes]:
        self._left -= 1
        if self._left == 0:
            self._event.set()
        return self._batch(content)

    def wait(self, seconds: float) -> bool:
        return self._event.wait(seconds)


# The firmware that is flashed, in QEMU


@contextmanager
def booted(folder: Path, console: str) -> Iterator[str]:
    require_qemu("mps2-an386")
    firmware = read_firmware(open_bundle(folder))
    image = hex_image(firmware.bin, firmware.start)
    with ExitStack() as stack:
        machine = stack.enter_context(boot_in_machine(board("mps2-an386"), {"hex": image}, "qemu", console))
        yield machine.url


@pytest.fixture(scope="module")
def built(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("built") / "cartpole"))
    assert run(["build", str(folder), "--board", "mps2-an386"]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("console", ["pty", "socket"])
def test_firmware_in_qemu_plays_as_host_c(
    console: str, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "bundle"))
    with booted(folder, console) as url:
        assert validate(folder, "--port", url, "--json") == UNDECIDED
        report = json.loads(capsys.readouterr().out)
        with open_device(url) as device:  # once more, by another
            hello = device.hello()
            assert (hello.name, hello.board) == ("cartpole_dqn", "mps2-an386")
            assert device.selftest().rows > 0
            device.reset()
            stats = device.stats()
            assert stats.steps >= report["device"]["equal_to_host_c"]
            assert stats.driven == 0
            assert stats.bad_crc == stats.overruns == 0
    assert faults_of("report", report) == []
    lengths = report["episodes_detail"]["quantized_length"]
    assert report["device"]["equal_to_host_c"] >= sum(lengths) + 200
    assert report["device"]["retries"] == 0
    assert report["device"]["step_s"]["max"] > 0  # by QEMU's clock, which may stand still for a step


@pytest.mark.slow
def test_firmware_in_qemu_survives_faults_and_gives_the_networks_outputs(built: Path) -> None:
    found = open_bundle(built)
    policy = read_quantized(found).integer_policy(is_masked=False)
    observations = np.random.default_rng(0).normal(0.0, 1.0, (70, 4)).astype(np.float32)
    starts = np.ones(70, np.bool_)
    host = device_loop.HostCPolicy(policy)
    with booted(built, "socket") as url, open_device(url) as device:
        model = bytes.fromhex(found.sha256_of("policy.tflite"))
        on_device = DevicePolicy(device, policy, model_sha256=model)
        expected, _ = host.act(observations, None, episode_start=starts)
        for junk in (b"", b"\xa5", b"\xa5\x5a\x03", b"\xa5\x5a" * 40, bytes(range(256)) * 5):
            device._link.write(junk)
            actions, _ = on_device.act(observations, None, episode_start=starts)
            np.testing.assert_array_equal(actions, expected)
        np.testing.assert_array_equal(on_device.outputs(observations[:9]), host.outputs(observations[:9]))
