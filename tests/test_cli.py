"""The command line from outside: one sentence and a documented exit code for whatever goes wrong."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl.cli.main import Interrupt, cli, run
from edgeqrl.errors import DataError, EdgeQRLError, UsageError
from edgeqrl.files import sha256
from edgeqrl.stages import Settings
from firmware_export import toolchain
from tests.firmware import one_by_default, require_qemu
from tests.test_report_schema import faults_of

CARTPOLE = ("zoo:cartpole-dqn", "--env", "CartPole-v1")
# Terms under which a dozen episodes decide.
LENIENT = ("--episodes", "16", "--margin", "200", "--worst-loss", "500")
LENIENT += ("--max-failures", "none", "--max-chatter", "none")
QUICK = ("--calibration-episodes", "2", *LENIENT, "--emulated-episodes", "1")


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command that must fail; return its exit code and its one sentence."""
    code = run([str(argument) for argument in arguments])
    text = capsys.readouterr().err
    assert "Traceback" not in text
    sentence = text[text.rindex("error: ") :] if "error: " in text else text
    assert len(sentence.strip().splitlines()) == 1, sentence
    return code, sentence


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the whole road, made once."""
    folder = tmp_path_factory.mktemp("cli") / "cartpole"
    assert run(["convert", *CARTPOLE, "--board", "mps2-an386", "-o", str(folder), *QUICK]) == 0
    return folder


@pytest.fixture
def fresh(bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_text()))


# The main road


def test_convert_leaves_every_artefact(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    names = set(manifest["artefacts"])
    expected = {
        "agent/agent.keras",
        "calibration.npz",
        "policy.tflite",
        "policy_float.tflite",
        "golden.npz",
        "report.json",
        "src/cartpole_dqn.c",
        "src/cartpole_dqn.h",
        "firmware/cartpole_dqn.elf",
        "firmware/cartpole_dqn.bin",
    }
    assert expected <= names
    on_disk = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert on_disk == names | {"manifest.json"}
    assert "calibration.npz" in manifest["artefacts"]["policy.tflite"]["made_from"]


def test_report_uses_the_names_of_the_glossary(bundle: Path) -> None:
    report = report_of(bundle)
    for name in ("float_return", "quantized_return", "return_drop"):
        assert set(report[name]) >= {"mean", "low", "high"}
    assert report["verdict"] == "PASS"
    assert report["backend"] == "host-c"
    assert report["episodes"] == 16
    assert 0.0 <= report["likeness"]["action_agreement"] <= 1.0
    assert report["firmware"]["instructions"] > 4480
    assert report["emulation"]["acts_as"] == "host-c"


def test_stages_one_by_one_give_the_same_files_as_convert(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "staged")
    assert run(["calibrate", *CARTPOLE, "-o", folder, "--calibration-episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2
    assert run(["quantize", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["applied_rewrites"] == ["centre_head", "scale_inputs"]
    assert run(["validate", folder, *LENIENT]) == 0
    assert run(["export", folder]) == 0
    assert run(["build", folder, "--board", "mps2-an386"]) == 0
    assert run(["emulate", folder, "--episodes", "1"]) == 0
    for name in ("policy.tflite", "calibration.npz", "src/cartpole_dqn.c", "firmware/cartpole_dqn.elf"):
        assert (tmp_path / "staged" / name).read_bytes() == (bundle / name).read_bytes(), name


def test_int4_without_weights_of_four_bits_is_refused_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgeqrl.stages.add_calibration", None)
    command = ["convert", *CARTPOLE, "-o", str(tmp_path / "x"), "--int4"]
    assert run(command) == UsageError.exit_code
    assert "--int4 stores weights of 4 bits and fewer, and int8 has none" in capsys.readouterr().err


def test_exporting_again_is_byte_identical(fresh: Path) -> None:
    before = {p.relative_to(fresh): p.read_bytes() for p in (fresh / "src").rglob("*") if p.is_file()}
    assert run(["export", str(fresh)]) == 0
    after = {p.relative_to(fresh): p.read_bytes() for p in (fresh / "src").rglob("*") if p.is_file()}
    assert after == before


def test_build_says_where_sources_are_exported_again(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", str(fresh), "--board", "rpi-pico"]) == 0
    assert "/src was exported again, with weights in the order `biased`.\n" in capsys.readouterr().out
    assert run(["build", str(fresh), "--board", "rpi-pico"]) == 0
    assert "exported again" not in capsys.readouterr().out
    assert run(["build", str(fresh), "--board", "mps2-an386", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["order"] == "lanes"


def test_report_says_nothing_of_firmware_that_is_gone(fresh: Path) -> None:
    assert run(["export", str(fresh), "--no-self-test"]) == 0
    report, manifest = report_of(fresh), json.loads((fresh / "manifest.json").read_text())
    assert report["verdict"] == "PASS"
    assert not {"firmware", "emulation"} & set(report)
    assert "board" not in manifest
    assert run(["build", str(fresh), "--board", "rpi-pico"]) == 0
    assert run(["emulate", str(fresh), "--episodes", "0"]) == 0
    assert report_of(fresh)["firmware"]["board"] == "rpi-pico"
    assert "emulation" not in report_of(fresh)


def test_board_of_ones_own_is_named_again_to_emulate(
    fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = tmp_path / "mine.toml"
    source = Path(__file__).parent.parent / "boards" / "mps2-an386.toml"
    board.write_text(source.read_text().replace('name = "mps2-an386"', 'name = "mine"'))
    assert run(["build", str(fresh), "--board", str(board)]) == 0
    code, sentence = failure(capsys, "emulate", str(fresh), "--episodes", "1")
    assert (code, "--board" in sentence) == (2, True)
    assert run(["emulate", str(fresh), "--episodes", "1", "--board", str(board)]) == 0
    code, sentence = failure(capsys, "emulate", str(fresh), "--board", "rpi-pico")
    assert (code, "'mine'" in sentence) == (2, True)


def test_placement_is_kept_in_the_manifest_and_emulated(
    fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    placed = ["--place", "weights=ccm", "--place", "arena=ccm"]
    assert run(["build", str(fresh), "--board", "stm32f4discovery", *placed, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["placement"] == {"code": "flash", "weights": "ccm", "arena": "ccm"}
    assert [use["name"] for use in facts["regions"]] == ["flash", "ram", "ccm"]
    assert facts["realtime"]["stack"]["exceptions"]["frame_bytes_in_use"] == 108
    manifest = json.loads((fresh / "manifest.json").read_text())
    assert manifest["placement"] == {"weights": "ccm", "arena": "ccm"}
    elf = (fresh / "firmware" / "cartpole_dqn.elf").read_bytes()
    assert run(["emulate", str(fresh), "--episodes", "1"]) == 0
    capsys.readouterr()
    report = report_of(fresh)
    assert faults_of("report", report) == []
    assert report["firmware"]["placement"] == facts["placement"]
    assert report["realtime"]["time"]["weights_in"] == "ccm"
    assert report["firmware"]["regions"][2]["bytes"] > 4480
    assert run(["build", str(fresh), "--board", "stm32f4discovery", *placed]) == 0
    shown = capsys.readouterr().out
    assert "of 65,536 B of ccm" in shown
    assert "(108 B with the FPU in use)" in shown
    assert (fresh / "firmware" / "cartpole_dqn.elf").read_bytes() == elf
    assert run(["build", str(fresh), "--board", "stm32f4discovery"]) == 0
    assert json.loads((fresh / "manifest.json").read_text())["placement"] == {}
    assert run(["export", str(fresh)]) == 0
    assert "placement" not in json.loads((fresh / "manifest.json").read_text())


def test_twin_of_a_board_with_more_memories_runs_the_same_policy(fresh: Path) -> None:
    require_qemu("mps2-an500")
    placed = ["--place", "code=itcm", "--place", "weights=dtcm", "--place", "arena=dtcm"]
    assert run(["build", str(fresh), "--board", "nucleo-h743zi", *placed]) == 0
    assert run(["emulate", str(fresh), "--episodes", "1", "--engine", "qemu"]) == 0
    assert report_of(fresh)["emulation"]["acts_as"] == "host-c"


@pytest.mark.parametrize(
    ("board", "place", "said"),
    [
        ("stm32f4discovery", "code=ccm", "'ccm' of stm32f4discovery cannot hold code"),
        ("stm32f4discovery", "code=ramm", "did you mean 'ram'?"),
        ("stm32f4discovery", "codes=ram", "did you mean 'code'?"),
        ("esp32", "code=ram", "--place is for boards whose firmware is linked here"),
    ],
)
def test_placement_that_cannot_be_is_one_sentence(
    board: str, place: str, said: str, fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (fresh / "manifest.json").read_bytes()
    code, sentence = failure(capsys, "build", fresh, "--board", board, "--place", place)
    assert (code, said in " ".join(sentence.split())) == (2, True), sentence
    assert (fresh / "manifest.json").read_bytes() == before


def test_json_is_one_document_on_standard_output(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", str(fresh), *LENIENT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "PASS"
    assert run(["export", str(fresh), "--json"]) == 0
    assert "cartpole_dqn.h" in json.loads(capsys.readouterr().out)["files"]
    assert run(["build", str(fresh), "--board", "rpi-pico", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["board"] == "rpi-pico"
    assert run(["emulate", str(fresh), "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["emulation"]["episodes"] == 1
    for command in (["boards"], ["boards", "rpi-pico"], ["zoo", "list"], ["doctor"]):
        assert run([*command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)


def test_integer_backends_agree_on_the_bundle(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backends = ["tflm", "reference", "host-c", "cortex-m0plus", "cortex-m4"]
    if sys.version_info < (3, 12):
        backends.append("tflite-runtime")
    assert run(["compare", str(bundle), "--backends", ",".join(backends), "--samples", "100", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"] == 100
    assert {found["differing"] for found in report["backends"].values()} == {0}


@pytest.mark.slow  # test_three_agents.py has the same by the API
def test_bare_converter_ruins_a_value_head_that_the_rewrites_save(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = Path(__file__).parent / "data" / "cartpole_q_near_100.keras"
    command = ["convert", str(agent), "--env", "CartPole-v1", *QUICK, "--episodes", "32", "--json"]
    bare, full = tmp_path / "bare", tmp_path / "full"
    assert run([*command, "-o", str(bare), "--no-rewrites"]) == 6
    report = json.loads(capsys.readouterr().out)
    assert (report["verdict"], report_of(bare)) == ("FAIL", report)
    assert (bare / "src" / "cartpole_q_near_100.c").is_file(), "a failed verdict leaves the bundle complete"
    assert run([*command, "-o", str(full)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["quantized_return"]["mean"] == report["float_return"]["mean"] == 500.0


def test_recorded_observations_measure_no_return(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.npz"
    rng = np.random.default_rng(0)
    np.savez(log, observations=rng.normal(0, 0.5, (300, 4)).astype(np.float32))
    folder = str(tmp_path / "recorded")
    command = ["convert", CARTPOLE[0], "--observations", str(log), "--head", "argmax", "-o", folder]
    for_board = [*command, "--board", "mps2-an386", "--fail-safe", "value:0"]
    assert run(for_board) == UsageError.exit_code  # when is an observation lost?
    assert "--control-period" in capsys.readouterr().err
    assert run([*for_board, "--control-period", "0.02"]) == 0
    shown = capsys.readouterr().out
    assert "no return was measured" in " ".join(shown.split()).lower()
    assert report_of(Path(folder)).get("verdict") is None


def test_dry_run_flash_says_what_it_would_write(fresh: Path, tmp_path: Path) -> None:
    volume = tmp_path / "RPI-RP2"
    volume.mkdir()
    (volume / "INFO_UF2.TXT").write_text("UF2 Bootloader v3.0\nModel: Raspberry Pi RP2\nBoard-ID: RPI-RP2\n")
    assert run(["build", str(fresh), "--board", "rpi-pico"]) == 0
    assert run(["flash", str(fresh), "--volume", str(volume), "--dry-run"]) == 0
    assert [path.name for path in volume.iterdir()] == ["INFO_UF2.TXT"]
    assert run(["flash", str(fresh), "--volume", str(volume)]) == 0
    assert any(path.suffix.lower() == ".uf2" for path in volume.iterdir())


# Bad input


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["convert", "absent.keras", "--env", "CartPole-v1"], 3, "absent.keras"),
        (["convert", "zoo:cartpole-dqm", "--env", "CartPole-v1"], 2, "cartpole-dqn"),
        (["convert", "zoo:cartpole-dqn", "--env", "CartPol-v1"], 2, "CartPole"),
        (["convert", *CARTPOLE, "--board", "rpi-pica"], 2, "rpi-pico"),
        (["convert", *CARTPOLE, "--place", "code=ram"], 2, "--place goes with --board"),
        (["convert", *CARTPOLE, "--board", "rpi-pico", "--place", "arena=flash"], 2, "cannot hold arena"),
        (["convert", *CARTPOLE, "--episodes", "0"], 2, "episodes"),
        (["convert", *CARTPOLE, "--calibration-episodes", "0"], 2, "episode"),
        (["convert", *CARTPOLE, "--emulated-episodes", "-1"], 2, "emulated"),
        (["convert", *CARTPOLE, "--margin", "lots"], 2, "margin"),
        (["convert", *CARTPOLE, "--margin", "0"], 2, "margin"),
        (["convert", *CARTPOLE, "--alpha", "2"], 2, "alpha"),
        (["convert", *CARTPOLE, "--worst-loss", "huge"], 2, "worst loss"),
        (["convert", *CARTPOLE, "--max-failures", "100%"], 2, "failures"),
        (["convert", *CARTPOLE, "--max-chatter", "-1%"], 2, "chatter"),
        (["convert", *CARTPOLE, "--validation-seed", "-1"], 2, "--validation-seed"),
        (["convert", *CARTPOLE, "--head", "clip"], 2, "clip"),
        (["convert", *CARTPOLE, "--head", "softmax"], 2, "argmax"),
        (["convert", *CARTPOLE, "--compiler", "zigg"], 2, "zig"),
        (["convert", *CARTPOLE, "--env-arg", "render_mode"], 2, "NAME=VALUE"),
        (["convert", *CARTPOLE, "--wrapper", "nowhere:nothing"], 2, "nowhere"),
        (["convert", *CARTPOLE, "--wrapper", "tests.test_wrappers:Shift"], 2, "--keep-wrapper tests.test_"),
        (["convert", *CARTPOLE, "--keep-wrapper", "tests.test_wrappers:Shift"], 2, "names no wrapper"),
        (["convert", *CARTPOLE, "--keep-wrapper", "Shift"], 2, "module:function"),
        (["convert", "zoo:cartpole-dqn", "--keep-wrapper", "a:b"], 2, "go with --env"),
        (["convert", *CARTPOLE, "--normalization", "absent.npz"], 12, "absent.npz"),
        (["convert", *CARTPOLE, "--frame-stack", "many"], 2, "many"),
        (["convert", *CARTPOLE, "--vecnormalize", "absent.pkl"], 3, "absent.pkl"),
        (["convert", *CARTPOLE, "--outputs", "advantage"], 2, "policy,value"),
        (["convert", *CARTPOLE, "--distribution", "normal"], 2, "quantiles"),
        (["convert", *CARTPOLE, "--log-std", "a"], 2, "--log-std"),
        (["convert", *CARTPOLE, "--scheme", "int4"], 2, "int8"),
        (["convert", *CARTPOLE, "--scheme", "int8", "--no-rewrites"], 2, "--no-rewrites"),
        (["convert", "agent.keras"], 2, "--env"),
        (["convert", "zoo:cartpole-dqn", "--env", "Acrobot-v1"], 3, "observations"),
        (
            ["convert", "zoo:cartpole-dqn", "--observations", "absent.npz", "--head", "argmax"],
            12,
            "absent.npz",
        ),
    ],
)
def test_wrong_words_are_answered_in_one_sentence(
    arguments: list[str], exit_code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "out"
    code, sentence = failure(capsys, *arguments, "-o", str(place))
    assert code == exit_code, sentence
    assert words in sentence
    assert not any(tmp_path.iterdir()), "something was left behind"


@pytest.mark.parametrize(
    "command", ["quantize", "validate", "export", "emulate", "flash", "compare", "bench"]
)
def test_commands_on_a_folder_that_is_no_bundle(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, sentence = failure(capsys, command, str(tmp_path))
    assert (code, "not a bundle" in sentence) == (12, True)


def test_unknown_backend_gets_the_nearest_name(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["validate", str(bundle), "--backend", "hostc"],
        ["compare", str(bundle), "--backends", "hostc"],
    ):
        code, sentence = failure(capsys, *command)
        assert (code, "host-c" in sentence) == (2, True)


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\0" * 1000, bytes(range(64))])
def test_network_that_is_none_is_refused(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "net.tflite"
    place.write_bytes(content)
    code, sentence = failure(capsys, "compare", str(place))
    assert (code, str(place) in sentence) == (12, True)


def test_damaged_bundle_is_refused_by_every_stage(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (fresh / "policy.tflite").read_bytes()
    (fresh / "policy.tflite").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for command in ("validate", "export", "emulate", "compare"):
        assert failure(capsys, command, str(fresh))[0] == 12


@pytest.mark.parametrize(
    "content", [b"[1]", b'{"schema": "edgeqrl-report-2", "margin": NaN}', b"\xff", b"{}"]
)
def test_damaged_report_is_refused(content: bytes, fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fresh / "report.json").write_bytes(content)
    manifest = json.loads((fresh / "manifest.json").read_text())
    manifest["artefacts"]["report.json"]["sha256"] = sha256(content)
    (fresh / "manifest.json").write_text(json.dumps(manifest))
    code, sentence = failure(capsys, "export", str(fresh))
    assert (code, "report.json" in sentence) == (12, True)


def test_environment_with_code_is_not_taken_from_a_bundle(
    fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((fresh / "manifest.json").read_text())
    manifest["environment"]["wrappers"] = ["os:system"]
    (fresh / "manifest.json").write_text(json.dumps(manifest))
    code, sentence = failure(capsys, "validate", str(fresh))
    assert (code, "--wrapper" in sentence) == (2, True)


def test_non_finite_observations_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.npz"
    np.savez(log, observations=np.array([[0, np.nan, 0, np.inf]], np.float32))
    command = ["convert", CARTPOLE[0], "--observations", str(log), "--head", "argmax"]
    assert failure(capsys, *command, "-o", str(tmp_path / "out"))[0] == 12


def test_policy_that_does_not_fit_is_refused_with_the_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = tmp_path / "tiny.toml"
    source = Path(__file__).parent.parent / "boards" / "mps2-an386.toml"
    text = source.read_text().replace("0x0040_0000", "0x0000_1000").replace("4_194_304", "4_096")
    assert "4_096" in text or "0x0000_1000" in text
    board.write_text(text)
    place = tmp_path / "out"
    code, sentence = failure(capsys, "convert", *CARTPOLE, "--board", str(board), "-o", str(place), *QUICK)
    assert code == 5
    assert "4,096" in sentence
    assert not place.exists()


def test_place_that_holds_other_files_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    code, _ = failure(capsys, "convert", *CARTPOLE, "-o", str(tmp_path))
    assert code == 13
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_read_only_place_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, sentence = failure(capsys, "convert", *CARTPOLE, "-o", "/proc/edgeqrl/out")
    assert (code, "Cannot write" in sentence) == (13, True)


def test_full_disk_leaves_the_old_bundle(
    fresh: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (fresh / "manifest.json").read_bytes()
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.suffix == ".c":
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    code, sentence = failure(capsys, "export", str(fresh))
    assert (code, "disk is full" in sentence) == (13, True)
    assert (fresh / "manifest.json").read_bytes() == before


def test_without_a_compiler_the_cure_is_named(
    fresh: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "_zig_argv", lambda: None)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    _forget_compilers()
    for command in (
        ["build", str(fresh), "--board", "mps2-an386"],
        ["validate", str(fresh), "--episodes", "12"],
    ):
        code, sentence = failure(capsys, *command)
        assert (code, "pip install" in sentence) == (9, True)
    monkeypatch.undo()
    _forget_compilers()


def test_interrupt_in_text_that_is_executed_has_our_exit_code_too(tmp_path: Path) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(
        "from edgeqrl.cli import main\n"
        "def run(_):\n"
        "    try:\n"
        "        exec('raise KeyboardInterrupt')\n"
        "    except KeyboardInterrupt:\n"
        "        return 130\n"
        "main.run = run\n"
        "main.main()\n"
    )
    command = [sys.executable, "-m", script.stem]
    assert subprocess.run(command, cwd=tmp_path, check=False, timeout=60).returncode == 130


def test_interrupt_says_what_was_kept_where_there_is_something(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*said: str) -> str:
        def zoo_agents() -> None:
            raise KeyboardInterrupt(*said)

        monkeypatch.setattr("edgeqrl.zoo.zoo_agents", zoo_agents)
        assert run(["zoo", "list"]) == 130
        return capsys.readouterr().err.strip()

    assert interrupted().endswith("Interrupted; what was there before is as it was.")
    assert interrupted("Interrupted; 3 finished trials are kept.").endswith("3 finished trials are kept.")


@pytest.mark.parametrize("seconds", one_by_default([0.5, 3.0, 8.0, 11.0], [0.5]))
@pytest.mark.usefixtures("heeds_interrupts")
def test_interrupt_leaves_what_was_there_and_no_process(seconds: float, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeqrl", "convert", *CARTPOLE, "--board", "mps2-an386", "-o", str(place)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == [place]
    assert list(place.iterdir()) == []
    deadline = time.monotonic() + 10
    while _members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _members(process.pid) == []


def test_second_interrupt_does_not_disturb_the_cleaning_up() -> None:
    interrupt = Interrupt()
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGINT, None)
    interrupt(signal.SIGINT, None)
    interrupt(signal.SIGTERM, None)


def test_export_of_what_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "no-such-bundle"]) == DataError.exit_code
    assert "'no-such-bundle' is neither a bundle nor a .tflite file." in capsys.readouterr().err


def test_full_disk_behind_standard_output_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "edgeqrl", "boards", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, b"disk is full" in done.stderr) == (13, True)


def test_every_exit_code_is_documented() -> None:
    classes = [EdgeQRLError]
    for found in classes:
        classes += found.__subclasses__()
    codes = {found.exit_code for found in classes}
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    for code in codes | {0, 130}:
        assert f"| {code} |" in readme
        assert f" {code} " in (cli.epilog or "")


def _forget_compilers() -> None:
    toolchain.host_compiler.cache_clear()
    toolchain.find_compilers.cache_clear()


def _members(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_options_default_to_the_settings() -> None:
    settings = Settings()
    defaults = {option.name: option.default for option in cli.commands["convert"].params}
    for name, value in {**vars(settings), **vars(settings.declared)}.items():
        if (
            name in defaults and value is not None and name not in ("contract", "learning", "scheme")
        ):  # options of their own
            assert defaults[name] == value, name
