"""Advice is a pure function of facts; each case a row, and every command one that the command line takes."""

import shlex
from typing import Any

import pytest

from edgeqrl.cli.main import cli
from edgeqrl.diagnose.advice import PLACE, Case, advise, findings, loses_return, with_folder

MANIFEST: dict[str, Any] = {
    "name": "agent_7",
    "environment": {"env_id": "CartPole-v1", "kwargs": {}, "wrappers": []},
    "head": {"kind": "argmax", "num_actions": 2, "start": 0},
    "scheme": {"rewrites": True, "bias_correction": True},
    "artefacts": {"agent/agent.keras": {}, "policy.tflite": {}},
}
BARE = {"scheme": {"rewrites": False, "bias_correction": False}}
FAIL = {"verdict": "FAIL", "episodes": 128}
OPEN = {"verdict": "INCONCLUSIVE", "episodes": 600, "episodes_to_decide": 250}
RARE = {
    "criteria": [{"name": "failures", "verdict": "INCONCLUSIVE", "mean": 0.008}],
    "worst_pair": {"seed": 20_017},
}
LOST = {"returns": {"return_drop": {"mean": 9.0, "low": 5.0, "high": 12.0}}}
SAME = {"returns": {"return_drop": {"mean": 1.0, "low": -2.0, "high": 4.0}}}


def case(*, episodes: int | None = 20, stated: Any = None, **facts: Any) -> Case:
    return Case.of_manifest("my bundle", {**MANIFEST, **facts}, episodes, stated)


def feature(index: int = 3, *, clipped: float = 0.0, levels: int = 200, is_coarse: bool = False) -> Any:
    found = {"index": index, "saturated": 1.0, "float_saturated": clipped}
    return {"coverage": {"features": [found | {"levels": levels, "is_coarse": is_coarse}], "layers": []}}


def states(below: float | None, everywhere: float = 0.3) -> Any:
    return {"states": {"disagreeing_below_step": below, "margin_below_step": everywhere}}


def parsed(command: str | None) -> dict[str, Any]:
    """Return what the command line makes of a command; fails where it would refuse the words."""
    assert command is not None
    program, name, *arguments = shlex.split(command)
    assert program == "edgeqrl"
    if name == "inspect":
        return {}
    return cli.commands[name].make_context(name, arguments).params


@pytest.mark.parametrize(
    ("facts", "report", "diagnosis", "kind", "word"),
    [
        ({}, {"verdict": "NOTHING_TO_PRESERVE"}, LOST, "nothing_to_preserve", None),
        (BARE, FAIL, None, "bare_converter", "quantize"),
        (BARE, FAIL, LOST | states(0.9), "bare_converter", "quantize"),
        (BARE, OPEN, None, "bare_converter", "quantize"),
        (BARE, {"verdict": "PASS"}, SAME, "nothing_found", None),
        (BARE, {}, SAME, "not_judged", "validate"),
        ({}, FAIL, None, "undiagnosed", "diagnose"),
        ({}, {}, LOST | feature(clipped=0.05), "saturation", "convert"),
        ({}, FAIL, LOST | feature(clipped=0.05), "saturation", "convert"),
        # What saturates only where the quantized policy goes is no fault of the calibration.
        ({}, FAIL, LOST | feature(clipped=0.0), "unexplained", None),
        ({}, FAIL, LOST | {"blame": {"suspects": ["m/dense_1/MatMul;m/x"]}}, "culprit", "inspect"),
        ({}, FAIL, LOST | {"blame": {"suspects": ["observation"]}}, "culprit", None),
        ({}, FAIL, LOST | {"blame": {"suspects": []}}, "unexplained", None),
        ({}, FAIL, LOST | {"blame": {"unavailable": "No."}}, "unexplained", None),
        ({}, FAIL, LOST | feature(levels=6, is_coarse=True), "coarse_feature", None),
        ({}, FAIL, LOST | states(0.8), "margins", None),
        ({}, FAIL, LOST | states(0.2), "unexplained", None),
        ({"episodes": 3}, FAIL, LOST, "few_calibration_episodes", "convert"),
        ({"episodes": None}, FAIL, LOST, "unexplained", None),
        ({}, OPEN | {"episodes_to_decide": None}, None, "at_the_limit", None),
        ({}, OPEN | {"episodes_to_decide": 50_000}, None, "at_the_limit", None),
        ({}, OPEN | {"episodes_to_decide": 50_000} | RARE, None, "rare_failures", "convert"),
        ({}, OPEN | RARE, None, "more_episodes", "validate"),
        ({}, OPEN, None, "more_episodes", "validate"),
        ({}, OPEN, SAME, "more_episodes", "validate"),
        (
            {},
            {"verdict": "INCONCLUSIVE", "episodes": 2000, "episodes_to_decide": None},
            None,
            "at_the_limit",
            None,
        ),
        ({}, {"verdict": "PASS"}, None, "nothing_found", None),
        ({}, {"verdict": "PASS"}, LOST, "nothing_found", None),
        ({"environment": None}, {"verdict": None}, states(0.9), "no_environment", None),
    ],
)
def test_what_to_try_first(facts: Any, report: Any, diagnosis: Any, kind: str, word: str | None) -> None:
    found = advise(case(**facts), report, diagnosis)
    assert found.kind == kind
    assert found.sentence.endswith(".")
    assert "\n" not in found.sentence
    assert (None if found.command is None else found.command.split()[1]) == word
    if found.command is not None:
        parsed(found.command)


def test_causes_come_in_the_order_of_their_evidence() -> None:
    diagnosis = LOST | feature(clipped=0.1, levels=5, is_coarse=True) | states(0.9)
    diagnosis |= {"blame": {"suspects": ["dense"]}}
    found = [advice.kind for advice in findings(case(episodes=2), FAIL, diagnosis)]
    assert found == ["saturation", "culprit", "coarse_feature", "margins", "few_calibration_episodes"]


def test_layer_is_the_culprit_only_where_no_other_regains_as_much() -> None:
    rows = [{"kind": "layer", "name": name, "share": 0.9} for name in ("first", "second")]
    alone, shared = (
        findings(case(), FAIL, LOST | {"blame": {"suspects": suspects, "rows": rows}})[0]
        for suspects in (["first"], ["first", "second"])
    )
    assert (alone.kind, "90 %" in alone.sentence) == ("culprit", True)
    assert (shared.kind, "'first' and 'second'" in shared.sentence) == ("shared_blame", True)


def test_sentences_name_feature_layer_and_share() -> None:
    (saturated,) = findings(case(), FAIL, LOST | feature(7, clipped=0.0312))
    assert "feature 7" in saturated.sentence
    assert "3.1 %" in saturated.sentence
    (culprit,) = findings(case(), FAIL, LOST | {"blame": {"suspects": ["net_1/hidden_2/MatMul;net_1/relu"]}})
    assert "'hidden_2/MatMul'" in culprit.sentence


def test_calibrating_again_is_one_command_that_makes_the_same_bundle() -> None:
    facts = {
        "environment": {"env_id": "My-v0", "kwargs": {"gravity": 9.8, "mode": "a b"}, "wrappers": ["m:f"]},
        "head": {"kind": "box", "gain": [2.0], "offset": [0.0]},
        "board": "rpi-pico",
    }
    found = parsed(advise(case(**facts), FAIL, LOST | feature(clipped=0.1)).command)
    assert found["agent"] == "my bundle/agent/agent.keras"
    assert (str(found["output"]), found["name"], found["board"]) == ("my bundle", "agent_7", "rpi-pico")
    assert (found["env"], found["wrapper"], found["head"]) == ("My-v0", ("m:f",), "scale")
    assert found["env_arg"] == ("gravity=9.8", 'mode="a b"')
    assert found["calibration_episodes"] == 100
    more = parsed(advise(case(episodes=80), FAIL, LOST | feature(clipped=0.1)).command)
    assert more["calibration_episodes"] == 320


def test_more_episodes_are_the_estimate_and_some_to_spare() -> None:
    found = parsed(advise(case(), OPEN).command)
    assert found["episodes"] == 1100  # 1.25 * (600 + 250), rounded up
    few = {"verdict": "INCONCLUSIVE", "episodes": 12, "episodes_to_decide": None}
    assert parsed(advise(case(), few).command)["episodes"] == 100


def test_declared_terms_are_declared_again() -> None:
    declared = {
        "margin": "2%",
        "worst_loss": 300.0,
        "alpha": 0.05,
        "max_failures": None,
        "max_chatter": "50%",
    }
    found = parsed(advise(case(judgements=[{"declared": declared}]), OPEN).command)
    assert (found["margin"], found["worst_loss"], found["max_failures"]) == ("2%", "300.0", "none")
    assert found["max_chatter"] == "50%"
    assert "--alpha" not in (advise(case(judgements=[{"declared": declared}]), OPEN).command or "")


def test_environment_of_the_command_line_is_named_again() -> None:
    stated = {"env_id": "m:My-v0", "kwargs": {}, "wrappers": []}
    assert parsed(advise(case(stated=stated), OPEN).command)["env"] == "m:My-v0"
    assert parsed(advise(case(), OPEN).command)["env"] is None


def test_no_command_where_only_python_knows_the_environment() -> None:
    environment = {"env_id": "My-v0", "kwargs": {}, "wrappers": [], "is_callable": True}
    for report, diagnosis in ((OPEN, None), (FAIL, None), (FAIL, LOST | feature(clipped=0.1))):
        assert advise(case(environment=environment), report, diagnosis).command is None
    stated = {"env_id": "My-v0", "kwargs": {}, "wrappers": []}
    assert advise(case(environment=environment, stated=stated), OPEN).command is not None


@pytest.mark.parametrize(
    ("artefacts", "agent"),
    [
        (["agent/agent.h5"], "agent/agent.h5"),
        (["agent/saved_model/fingerprint.pb", "agent/saved_model/saved_model.pb"], "agent/saved_model"),
        (["agent/agent.sha256"], None),
        ([], None),
    ],
)
def test_agent_of_the_bundle_is_what_is_converted_again(artefacts: list[str], agent: str | None) -> None:
    found = case(artefacts={path: {} for path in artefacts})
    assert found.agent == agent
    assert (advise(found, FAIL, LOST | feature(clipped=0.1)).command is None) == (agent is None)


def test_folder_with_strange_characters_is_quoted() -> None:
    found = Case.of_manifest("a; rm -rf $(x)'", MANIFEST, 20).command("validate")
    assert shlex.split(found or "") == ["edgeqrl", "validate", "a; rm -rf $(x)'"]


@pytest.mark.parametrize(
    ("criteria", "lost", "kinds"),
    [
        ([("return", "FAIL"), ("chatter", "PASS")], True, ["unexplained"]),
        ([("return", "INCONCLUSIVE"), ("chatter", "FAIL")], False, ["chatter"]),
        ([("failures", "FAIL"), ("chatter", "FAIL")], True, ["chatter"]),
    ],
)
def test_chatter_alone_is_no_loss_of_return(criteria: Any, lost: bool, kinds: list[str]) -> None:
    report = FAIL | {"criteria": [{"name": name, "verdict": verdict} for name, verdict in criteria]}
    assert loses_return(report, SAME) == lost
    assert [advice.kind for advice in findings(case(), report, SAME)] == kinds


@pytest.mark.parametrize(
    ("report", "options"),
    [
        (
            {"backend": "host-c", "float_backend": "litert-float32"},
            {"backend": "host-c", "float_backend": "litert"},
        ),
        ({"backend": "host-c", "float_backend": "keras"}, {"backend": "host-c", "float_backend": "keras"}),
        ({"backend": "tflm", "float_backend": "keras"}, {"backend": "tflm", "float_backend": "keras"}),
    ],
)
def test_more_episodes_continue_the_same_judgement(report: Any, options: Any) -> None:
    chosen = parsed(advise(case(), OPEN | report).command)
    assert {name: chosen[name] for name in options} == options


@pytest.mark.parametrize("folder", ["build/x", "my bundle", "it's", "BUNDLE", "$(x)"])
def test_commands_are_kept_without_their_folder(folder: str) -> None:
    kept = Case.of_manifest(PLACE, MANIFEST, 3)
    for report, diagnosis in ((OPEN, None), (FAIL, LOST)):
        command = advise(kept, report, diagnosis).command
        assert command is not None
        words = shlex.split(with_folder(command, folder))
        here = Case.of_manifest(folder, MANIFEST, 3)
        assert words == shlex.split(advise(here, report, diagnosis).command or "")
