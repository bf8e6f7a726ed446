"""`edgeqrl diagnose` from outside: a policy that the bare converter ruined, and recorded observations."""

import io
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
from rich.console import Console

from edgeqrl.bundle import open_bundle
from edgeqrl.cli.diagnosis_view import bar, print_diagnosis
from edgeqrl.cli.loss_plot import ASCII
from edgeqrl.cli.main import cli, run
from edgeqrl.errors import DataError
from edgeqrl.stages.diagnosis import DEFAULT_EPISODES, DEFAULT_SEED, PARTS

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
    assert found["schema"] == "edgeqrl-diagnosis-2"
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
    assert shown.count("Recorded observations tell no return") == 2  # "no robustness, blame:", and the advice
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
    from edgeqrl.errors import UnsupportedOperatorError
    from edgeqrl.stages import diagnosis

    def refuse(*_: Any, **__: Any) -> Any:
        raise UnsupportedOperatorError("CUMSUM at 'x' is not known in float.")

    monkeypatch.setattr(diagnosis, "blame", refuse)
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


def test_bar_in_ascii() -> None:
    assert [bar(share, 4, ASCII) for share in (0.0, 0.5, 7.0)] == ["    ", "##  ", "####"]


def interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "confidence": 0.95}


def disturbed(condition: str, level: float, mean: float, low: float, high: float) -> dict[str, Any]:
    both = {
        "float_return": interval(500.0, 500.0, 500.0),
        "quantized_return": interval(500.0 - mean, 0.0, 0.0),
    }
    return {"condition": condition, "level": level, "return_drop": interval(mean, low, high)} | both


def covered(clipped: float, **facts: Any) -> dict[str, Any]:
    return {
        "levels": 200,
        "range": [-1.25, 1.0],
        "range_used": 1.0,
        "saturated": clipped,
        "float_saturated": clipped,
        **facts,
    }


def troubled() -> dict[str, Any]:
    """A diagnosis with more in trouble than is shown."""
    features = [
        covered(0.01 * (i % 7), index=i, minimum=-1.5, maximum=2.25, is_coarse=i == 9) for i in range(12)
    ]
    layers = [covered(0.01 * i, name=f"net/layer_{i}/MatMul;x", operator="FULLY_CONNECTED") for i in range(9)]
    states = [
        {
            "seed": 40_000 + i,
            "step": 7,
            "float_action": 1,
            "quantized_action": 0,
            "float_outputs": [96.5, 97.25],
            "quantized_outputs": [97.0, 97.0],
            "regret": 0.75,
            "margin_in_steps": 1.9,
        }
        for i in range(5)
    ]
    blame = [
        {"kind": kind, "name": name, "share": share, "share_low": share - 0.2, "share_high": share + 0.2}
        | {"episode_return": interval(400.0, 390.0, 410.0)}
        for kind, name, share in [("observation", "observation", 0.1), ("weights", "weights", 0.9)]
        + [("layer", f"net/layer_{i}/MatMul", 0.5 + 0.01 * i) for i in range(6)]
    ]
    advice = {
        "kind": "saturation",
        "sentence": "Calibrate on more episodes.",
        "command": "edgeqrl quantize BUNDLE",
    }
    drop = {"return_drop": interval(8.5, 5.0, 12.0)}
    returns = {
        "float_return": interval(500.0, 500.0, 500.0),
        "quantized_return": interval(491.5, 480.0, 495.0),
    }
    return {
        "backend": "host-c",
        "environment": "CartPole-v1",
        "seeds": {"first": 40_000, "count": 32},
        "returns": returns | drop,
        "coverage": {
            "features": features,
            "layers": layers,
            "num_states": 5000,
            "num_features": 12,
        },
        "states": {
            "kind": "regret",
            "disagreeing": 0.4,
            "first_action": 0,
            "margin_below_step": 0.3,
            "disagreeing_below_step": 0.6,
            "worst": states,
        },
        "robustness": {
            "rows": [
                disturbed("undisturbed", 0, 8.5, 5.0, 12.0),
                disturbed("delay", 1, 90.0, 60.0, 120.0),
                disturbed("sensor_noise", 0.1, 9.0, 4.0, 13.0),
            ]
        },
        "blame": {"rows": blame},
        "findings": [advice, advice | {"kind": "culprit", "sentence": "A long word of it. " * 9}],
        "advice": advice,
    }


def shown(diagnosis: dict[str, Any], width: int, encoding: str = "utf-8") -> list[str]:
    """Return the lines on a terminal of that width."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace")
    console = Console(file=file, width=width, force_terminal=True, color_system=None, legacy_windows=False)
    print_diagnosis("agent", diagnosis, console=console)
    file.flush()
    return raw.getvalue().decode(encoding).splitlines()


def test_much_trouble_takes_few_lines() -> None:
    lines = shown(troubled(), 80)
    assert len(lines) <= 45
    assert lines[0] == "Diagnosis of agent in CartPole-v1, 32 episodes on host-c, seeds from 40000"
    assert lines[-1] == "Next: edgeqrl quantize agent"
    text = "\n".join(lines)
    for words in ("1 step late", "and 6 features more", "and 4 layers more", "-1.25 … 1", "1.9 steps"):
        assert words in text
    for absent in ("noise", "margin", "int8 range", "feature 0 ", "layer_1/", "40003", "┃"):
        assert absent not in text
    # What is wrapped is indented.
    start = next(i for i, line in enumerate(lines) if line.startswith("> "))
    assert all(line.startswith("  ") for line in lines[start + 1 : -1])


@pytest.mark.parametrize("width", [60, 80])
def test_ascii_terminals_can_read_it(width: int) -> None:
    lines = shown(troubled(), width, "ascii")
    assert max(map(len, lines)) <= width
    assert "?" not in "".join(lines)
    header = next(line for line in lines if "alone in float" in line)
    assert "of the loss regained" in header


def test_what_is_well_takes_a_line() -> None:
    diagnosis = troubled()
    well = [covered(0.0, index=0, minimum=0.0, maximum=1.0, is_coarse=False, name="a/b")]
    diagnosis["coverage"] |= {"features": well, "layers": well, "num_features": 1}
    diagnosis["robustness"]["rows"] = diagnosis["robustness"]["rows"][::2]
    for row in diagnosis["blame"]["rows"]:
        row["share_low"] = -0.1
    text = "\n".join(shown(diagnosis, 100))
    for words in (
        "none of 1 disturbances costs int8 clearly more",
        "none of 1 features is clipped or takes too few levels",
        "none of 1 outputs is clipped",
        "no part alone brings anything back beyond chance",
    ):
        assert words in text
    diagnosis["coverage"]["num_states"] = 300
    assert "none of 1 features is clipped." in "\n".join(shown(diagnosis, 100))


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


def test_columns_and_sentences_name_the_type_of_the_activations() -> None:
    text = "\n".join(shown(troubled() | {"activations": "int16"}, 120))
    for words in ("int16x8 returns ", "int16 holds", "less than one int16 step", "int16x8 outputs"):
        assert words in text
    assert "int8 " not in text.replace("x8 ", "")


def test_what_could_not_be_examined_is_said_once_a_reason() -> None:
    unseen = {part: {"unavailable": "Made for policies without memory."} for part in PARTS}
    lines = shown(troubled() | unseen | {"blame": {"unavailable": "Left out."}}, 120)
    assert "no robustness, coverage, states: Made for policies without memory." in lines
    assert "no blame: Left out." in lines
