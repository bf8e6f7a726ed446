"""`edgeqrl diagnose` from outside: a policy that the bare converter ruined, and recorded observations."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl.bundle import open_bundle
from edgeqrl.cli.diagnosis_view import bar, print_diagnosis
from edgeqrl.cli.main import cli, run
from edgeqrl.diagnosis_stage import DEFAULT_EPISODES, DEFAULT_SEED
from edgeqrl.errors import DataError

AGENT = Path(__file__).parent / "data" / "cartpole_q_near_100.keras"
SECTIONS = ("returns", "coverage", "states", "robustness", "blame")


@pytest.fixture(scope="session")
def ruined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the bare converter whose verdict is FAIL."""
    folder = tmp_path_factory.mktemp("diagnose") / "ruined"
    command = ["convert", str(AGENT), "--env", "CartPole-v1", "--no-rewrites", "-o", str(folder)]
    assert run([*command, "--calibration-episodes", "2", "--episodes", "12"]) in (6, 7)
    return folder


@pytest.fixture
def fresh(ruined: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(ruined, tmp_path / "bundle"))


def diagnosis_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "diagnosis.json").read_text()))


def test_the_cause_is_found_without_tensorflow(fresh: Path) -> None:
    program = (
        "import sys; from edgeqrl.cli.main import run; code = run(sys.argv[1:]);"
        "heavy = {name.partition('.')[0] for name in sys.modules} & {'tensorflow', 'keras'};"
        "sys.exit(code or len(heavy))"
    )
    command = [sys.executable, "-c", program, "diagnose", str(fresh), "--episodes", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = diagnosis_of(fresh)
    assert found["schema"] == "edgeqrl-diagnosis-1"
    assert found["seeds"] == {"first": 40_000, "count": 8}
    for name in SECTIONS:
        assert "unavailable" not in found[name], found[name]
    assert found["returns"]["return_drop"]["low"] > 100.0
    assert found["states"]["disagreeing_below_step"] > 0.5
    assert found["robustness"]["rows"][0]["condition"] == "undisturbed"
    undisturbed = found["robustness"]["rows"][0]
    assert undisturbed["quantized_return"] == found["returns"]["quantized_return"], "other episodes"
    assert found["blame"]["loss"]["low"] > 100.0
    assert found["advice"] == {**found["advice"], "kind": "bare_converter"}
    # The last line is a command, and it works.
    *_, last = done.stdout.splitlines()
    assert last == f"Next: edgeqrl quantize {shlex.quote(str(fresh))}"
    assert run(shlex.split(last.removeprefix("Next: edgeqrl "))) == 0
    assert not (fresh / "diagnosis.json").exists(), "it told of another policy"
    assert not open_bundle(fresh).has("diagnosis.json")


def test_json_is_the_artefact_and_the_same_again(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["diagnose", str(fresh), "--episodes", "3", "--without", "robustness, blame", "--json"]
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown) == diagnosis_of(fresh)
    assert diagnosis_of(fresh)["blame"] == diagnosis_of(fresh)["robustness"]
    assert "--without" in diagnosis_of(fresh)["blame"]["unavailable"]
    entry = open_bundle(fresh).artefacts["diagnosis.json"]
    assert set(entry["made_from"]) == {"policy.tflite", "policy_float.tflite", "calibration.npz"}
    assert run(command) == 0
    assert capsys.readouterr().out == shown


def test_recorded_observations_are_diagnosed_as_far_as_they_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, folder = tmp_path / "log.npz", tmp_path / "recorded"
    rng = np.random.default_rng(0)
    np.savez(log, observations=rng.normal(0, 0.5, (300, 4)).astype(np.float32))
    command = ["convert", "zoo:cartpole-dqn", "--observations", str(log), "--head", "argmax"]
    assert run([*command, "-o", str(folder)]) == 0
    capsys.readouterr()
    assert run(["diagnose", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("Recorded observations tell no return") == 3  # robustness, blame, advice
    found = diagnosis_of(folder)
    assert "seeds" not in found
    for name in ("returns", "robustness", "blame"):
        assert "--env" in found[name]["unavailable"]
    assert found["states"]["num_states"] == found["coverage"]["num_states"] == 300
    assert found["coverage"]["features"][0]["float_saturated"] is None
    assert found["advice"]["command"] is None


def test_networks_that_do_not_match_cost_one_section(
    fresh: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeqrl import diagnosis_stage
    from edgeqrl.errors import UnsupportedOperatorError

    def refuse(*_: Any, **__: Any) -> Any:
        raise UnsupportedOperatorError("CUMSUM at 'x' is not known in float.")

    monkeypatch.setattr(diagnosis_stage, "blame", refuse)
    assert run(["diagnose", str(fresh), "--episodes", "2", "--without", "robustness"]) == 0
    assert "no blame: CUMSUM at 'x' is not known in float." in capsys.readouterr().out
    assert diagnosis_of(fresh)["blame"] == {"unavailable": "CUMSUM at 'x' is not known in float."}
    assert diagnosis_of(fresh)["states"]["worst"]


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        (["--episodes", "1"], 2, "--episodes"),
        (["--seed", "-1"], 2, "--seed"),
        (["--seed", "20003"], 2, "fresh"),  # judged
        (["--seed", "10001"], 2, "fresh"),  # calibrated
        (["--without", "blam"], 2, "'blame'"),
        (["--env", "Acrobot-v1"], 2, "environment"),
    ],
)
def test_wrong_words_are_answered_in_one_sentence(
    options: list[str], exit_code: int, words: str, ruined: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (ruined / "manifest.json").read_bytes()
    assert run(["diagnose", str(ruined), *options]) == exit_code
    text = capsys.readouterr().err
    assert words in text[text.rindex("error: ") :]
    assert (ruined / "manifest.json").read_bytes() == before


def test_folder_that_is_no_bundle_or_a_damaged_one(fresh: Path, tmp_path: Path) -> None:
    assert run(["diagnose", str(tmp_path / "nowhere")]) == 12
    (fresh / "policy_float.tflite").write_bytes(b"TFL3")
    assert run(["diagnose", str(fresh), "--episodes", "2"]) == 12


def test_absent_diagnosis_says_which_stage_makes_it(ruined: Path) -> None:
    with pytest.raises(DataError, match="edgeqrl diagnose"):
        open_bundle(ruined).read("diagnosis.json")


# What is shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "    "), (0.5, "██  "), (0.53, "██▏ "), (1.0, "████"), (7.0, "████"), (-1.0, "    ")],
)
def test_bar(share: float, shown: str) -> None:
    assert bar(share, 4) == shown


def test_last_line_is_the_command_in_one_piece_however_narrow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    command = "edgeqrl validate '[bold]a folder' --episodes 1000 --margin 5 --max-failures none"
    advice = {"kind": "more_episodes", "sentence": "Play [on].", "command": command}
    left_out = {"unavailable": "Left [out]."}
    diagnosis = {"returns": left_out, "blame": left_out, "findings": [advice], "advice": advice}
    print_diagnosis("[x]", diagnosis)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert plain.splitlines()[-1] == f"Next: {command}"
    for text in ("Diagnosis of [x]", "no blame: Left [out].", "> Play [on]."):
        assert text in plain


def test_options_default_to_the_stage() -> None:
    defaults = {option.name: option.default for option in cli.commands["diagnose"].params}
    assert (defaults["episodes"], defaults["seed"]) == (DEFAULT_EPISODES, DEFAULT_SEED)
