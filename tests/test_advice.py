"""Advice is a pure function of facts; each case a row, and every command one that the command line takes."""

import shlex
from typing import Any

import pytest

from edgeqrl.cli.main import cli
from edgeqrl.diagnose.advice import _rounded_up, advise, findings, loses_return
from edgeqrl.diagnose.case import PLACE, Case, with_folder

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
OPEN_EARLY = {"verdict": "INCONCLUSIVE", "episodes": 64}
RARE = {
    "criteria": [{"name": "failures", "verdict": "INCONCLUSIVE", "mean": 0.008}],
    "worst_pair": {"seed": 20_017},
}
UNSEEN = {part: {"unavailable": "No."} for part in ("coverage", "states", "robustness", "blame")}
LOST = {"returns": {"return_drop": {"mean": 9.0, "low": 5.0, "high": 12.0}}}
SAME = {"returns": {"return_drop": {"mean": 1.0, "low": -2.0, "high": 4.0}}}


def disturbed(*rows: tuple[str, float, float, float]) -> Any:
    """Return robustness: the undisturbed drop is 0, and each row is (condition, level, mean drop, low)."""
    made = [
        {
            "condition": condition,
            "level": level,
            "float_return": {"mean": 388.0, "low": 359.0, "high": 418.0},
            "quantized_return": {"mean": 388.0 - mean, "low": 0.0, "high": 500.0},
            "return_drop": {"mean": mean, "low": low, "high": 2 * mean - low},
        }
        for condition, level, mean, low in (("undisturbed", 0, 0.0, -2.0), *rows)
    ]
    return {"robustness": {"episodes": 16, "rows": made}}


LATE = disturbed(("delay", 2, 3.5, 0.2), ("delay", 3, 280.0, 251.0))


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
        ({}, FAIL, LOST | feature(clipped=0.0), "unexplained", "convert"),
        ({}, FAIL, LOST | {"blame": {"suspects": ["m/dense_1/MatMul;m/x"]}}, "culprit", "inspect"),
        ({}, FAIL, LOST | {"blame": {"suspects": ["observation"]}}, "culprit", "convert"),
        ({}, FAIL, LOST | {"blame": {"suspects": []}}, "unexplained", "convert"),
        ({}, FAIL, LOST | {"blame": {"unavailable": "No."}}, "unexplained", "convert"),
        ({}, FAIL, LOST | feature(levels=6, is_coarse=True), "coarse_feature", "convert"),
        ({}, FAIL, LOST | states(0.8), "margins", "convert"),
        ({}, FAIL, LOST | states(0.2), "unexplained", "convert"),
        ({"episodes": 3}, FAIL, LOST, "few_calibration_episodes", "convert"),
        ({"episodes": None}, FAIL, LOST, "unexplained", "convert"),
        ({}, OPEN | {"episodes_to_decide": None}, None, "at_the_limit", None),
        ({}, OPEN | {"episodes_to_decide": 50_000}, None, "at_the_limit", None),
        ({}, OPEN | {"episodes_to_decide": 50_000} | RARE, None, "rare_failures", "convert"),
        ({}, OPEN | RARE, None, "more_episodes", "validate"),
        ({}, OPEN, None, "more_episodes", "validate"),
        ({}, OPEN, SAME, "more_episodes", "validate"),
        ({}, OPEN_EARLY | {"episodes_to_decide": 1400}, None, "more_episodes", "validate"),
        ({}, OPEN_EARLY | {"episodes_to_decide": 46_000}, None, "more_episodes", "validate"),
        ({}, OPEN_EARLY | {"episodes_to_decide": 9_000_000}, None, "more_episodes", "validate"),
        ({}, OPEN_EARLY | {"episodes_to_decide": 46_000} | RARE, None, "more_episodes", "validate"),
        (
            {},
            {"verdict": "INCONCLUSIVE", "episodes": 2000, "episodes_to_decide": None},
            None,
            "at_the_limit",
            None,
        ),
        ({}, {"verdict": "PASS"}, None, "nothing_found", None),
        ({}, {"verdict": "PASS"}, LOST, "nothing_found", None),
        ({}, {"verdict": "PASS"}, SAME | LATE, "fragile", None),
        ({}, {}, SAME | LATE, "not_judged", "validate"),
        ({}, FAIL, LOST | LATE, "unexplained", "convert"),
        ({}, OPEN, SAME | LATE, "more_episodes", "validate"),
        ({}, {"verdict": "PASS"}, SAME | {"robustness": {"unavailable": "No."}}, "nothing_found", None),
        # Where nothing could be looked at, nothing is said to be well.
        ({}, {"verdict": "PASS"}, SAME | UNSEEN, "not_examined", None),
        ({}, FAIL, LOST | UNSEEN, "not_examined", "convert"),
        ({"environment": None}, {"verdict": None}, UNSEEN, "no_environment", None),
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


def test_fragility_is_told_last_where_there_is_more_to_say() -> None:
    found = [advice.kind for advice in findings(case(), FAIL, LOST | states(0.9) | LATE)]
    assert found == ["margins", "fragile"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("delay", 3, 280.0, 251.0), "with observations 3 steps late "),
        (("delay", 1, 280.0, 251.0), "with observations 1 step late "),
        (("dropped_observations", 0.05, 280.0, 251.0), "with 5 % of the observations lost "),
        (
            ("sensor_noise", 0.1, 280.0, 251.0),
            "with sensor noise of 10 % of each feature's standard deviation ",
        ),
    ],
)
def test_fragility_names_condition_level_and_both_returns(row: Any, words: str) -> None:
    (found,) = findings(case(), {"verdict": "PASS"}, SAME | disturbed(("delay", 2, 150.0, 140.0), row))
    assert found.kind == "fragile"
    assert f"{words}the float policy returns 388.0 and the quantized one 108.0." in found.sentence


@pytest.mark.parametrize(
    ("mean", "low", "margin", "is_fragile"),
    [
        (3.5, 0.2, None, False),  # of so many rows, one is beyond its interval by chance
        (30.0, 20.0, None, True),
        (30.0, 20.0, 9.0, True),
        (30.0, 20.0, 11.0, False),  # may be what was allowed
        (30.0, -20.0, None, False),
        (1.5, 1.5, None, False),  # the undisturbed drop may be as much
        (2.5, 2.5, None, True),
    ],
)
def test_fragility_is_beyond_chance_and_margin(
    mean: float, low: float, margin: float | None, is_fragile: bool
) -> None:
    report = {"verdict": "PASS"} | ({} if margin is None else {"terms": {"margin": margin}})
    found = findings(case(), report, SAME | disturbed(("delay", 3, mean, low)))
    assert [advice.kind for advice in found] == ["fragile" if is_fragile else "nothing_found"]


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
    facts: dict[str, Any] = {
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
            {"backend": "host-c", "float_backend": None},  # that of the last judgement
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


@pytest.mark.parametrize(
    ("played", "missing", "wanted", "is_very_many"),
    [
        (64, 1_400, 1_900, False),
        (64, 46_000, 58_000, True),
        (64, 450_000, 500_000, True),  # the most that there are
        (64, 9_000_000, 200, False),  # so few tell little of so many
        (64, None, 200, False),
        (2_000, 15_000, 22_000, True),
    ],
)
def test_few_episodes_are_followed_by_as_many_as_it_takes(
    played: int, missing: int | None, wanted: int, is_very_many: bool
) -> None:
    report = {"verdict": "INCONCLUSIVE", "episodes": played, "episodes_to_decide": missing}
    found = advise(case(), report)
    assert parsed(found.command)["episodes"] == wanted
    assert f"{wanted:,}" in found.sentence
    assert ("a better policy, or other terms" in found.sentence) == is_very_many


# One episode beyond the worst loss


def beyond(
    *losses: float, mean: float = 1.0, others: str = "PASS", is_declared: bool = False, breach: str = "loss"
) -> dict[str, Any]:
    """A report whose return was kept from a PASS by a loss beyond 300; seeds count from 20,000."""
    verdict = "FAIL" if breach == "loss" else "INCONCLUSIVE"
    limit = {"limit": 5.0, "mean": mean, "name": "return", "verdict": verdict, "breach": breach}
    other = {"name": "chatter", "verdict": others, "mean": 0.0, "limit": 0.02, "breach": None}
    return {
        "verdict": verdict,
        "episodes": len(losses),
        "episodes_to_decide": None,
        "terms": {"margin": 5.0, "worst_loss": 300.0, "is_worst_loss_declared": is_declared},
        "criteria": [limit, other],
        "episodes_detail": {
            "seed": list(range(20_000, 20_000 + len(losses))),
            "float_return": [500.0] * len(losses),
            "quantized_return": [500.0 - loss for loss in losses],
        },
    }


def test_one_episode_beyond_the_worst_loss_is_to_be_looked_at() -> None:
    report = beyond(0.0, 312.0, 1.0)
    found = advise(case(), report)
    assert found.kind == "worst_loss"
    said = "One episode (seed 20001) lost 312.0, more than the assumed worst loss of 300.0. Look at that"
    assert found.sentence.startswith(said)
    assert parsed(found.command)["worst_loss"] == "350"  # 1.1 * 312, rounded up
    assert not loses_return(report, LOST)
    for diagnosis in (SAME, LOST):
        kinds = [advice.kind for advice in findings(case(), report, diagnosis)]
        assert kinds == ["worst_loss"]


@pytest.mark.parametrize(
    ("report", "words", "worst_loss"),
    [
        (beyond(0.0, -400.0, breach="gain"), "One episode (seed 20001) gained 400.0, more than", "440"),
        (beyond(500.0, 0.0, 400.0), "2 episodes lost more than the assumed worst", "550"),
        (beyond(312.0, is_declared=True), "the declared worst loss of 300.0", "350"),
    ],
)
def test_what_lay_beyond_the_worst_loss_is_named(report: Any, words: str, worst_loss: str) -> None:
    found = advise(case(), report)
    assert words in found.sentence
    assert parsed(found.command)["worst_loss"] == worst_loss


def test_other_terms_stay_with_a_new_worst_loss() -> None:
    declared = {"margin": "2%", "worst_loss": 300.0, "alpha": 0.1}
    found = parsed(advise(case(judgements=[{"declared": declared}]), beyond(312.0)).command)
    assert (found["margin"], found["worst_loss"], found["alpha"]) == ("2%", "350", 0.1)


@pytest.mark.parametrize(
    ("report", "facts", "kinds"),
    [
        (beyond(312.0, mean=6.0), {}, ["undiagnosed"]),  # the mean is beyond the margin too
        (beyond(312.0, others="FAIL"), {}, ["worst_loss", "chatter"]),
        (beyond(312.0), BARE, ["bare_converter", "worst_loss"]),
        (beyond(-400.0, breach="gain"), {}, ["worst_loss"]),
    ],
)
def test_worst_loss_among_other_advice(report: Any, facts: Any, kinds: list[str]) -> None:
    assert [advice.kind for advice in findings(case(**facts), report)] == kinds


@pytest.mark.parametrize(
    ("value", "shown"),
    [(343.2, "350"), (0.0132, "0.014"), (1_200_000.0, "1200000"), (99.1, "100"), (20.0, "20")],
)
def test_rounded_up(value: float, shown: str) -> None:
    assert _rounded_up(value) == shown


# What an old report does not know


@pytest.mark.parametrize(("low", "kinds"), [(9.0, ["nothing_to_preserve"]), (11.0, ["not_judged"])])
def test_nothing_to_preserve_is_not_said_against_what_was_measured(low: float, kinds: list[str]) -> None:
    report = {"verdict": "NOTHING_TO_PRESERVE", "baseline": {"random_return": {"mean": 10.0}}}
    returns = {"returns": SAME["returns"] | {"float_return": {"mean": 99.0, "low": low, "high": 120.0}}}
    found = findings(case(), report, returns)
    assert [advice.kind for advice in found] == kinds
    assert (found[0].command is None) == (kinds == ["nothing_to_preserve"])


@pytest.mark.parametrize(
    ("drop", "terms", "is_lost"),
    [
        ((0.1, 12.0), {"margin": 7.0}, True),
        ((0.1, 6.0), {"margin": 7.0}, False),
        ((-0.1, 12.0), {"margin": 7.0}, False),
    ],
)
def test_loss_within_the_margin_is_none(drop: Any, terms: Any, is_lost: bool) -> None:
    low, high = drop
    diagnosis = {"returns": {"return_drop": {"mean": 1.0, "low": low, "high": high}}}
    assert loses_return(OPEN | {"terms": terms}, diagnosis) == is_lost


def test_next_to_nothing_is_no_loss_where_nothing_was_judged() -> None:
    in_float = {"float_return": {"mean": -140.0, "low": -160.0, "high": -120.0}}
    slight = {"returns": in_float | {"return_drop": {"mean": 0.5, "low": 0.2, "high": 0.9}}}
    assert not loses_return({}, slight)
    assert loses_return({}, {"returns": LOST["returns"] | in_float})


# Chatter


def restless(in_float: float, quantized: float) -> dict[str, Any]:
    criteria = [
        {"name": "return", "verdict": "PASS", "breach": None, "mean": 0.6, "limit": 7.0},
        {"name": "chatter", "verdict": "FAIL", "breach": None, "mean": 0.14, "limit": 0.02},
    ]
    detail = {"float_chatter": [in_float] * 3, "quantized_chatter": [quantized] * 3}
    return {"verdict": "FAIL", "terms": {"margin": 7.0}, "criteria": criteria, "episodes_detail": detail}


@pytest.mark.parametrize(
    ("in_float", "quantized", "allowed"),
    [
        (0.0717, 0.248, "250%"),
        (0.1, 0.25, "150%"),
        (0.1, 0.151, "100%"),
        (0.0, 0.2, "none"),
        (0.001, 0.2, "none"),
    ],
)
def test_chatter_is_accepted_by_a_new_judgement(in_float: float, quantized: float, allowed: str) -> None:
    declared = {"margin": "2%", "max_chatter": "20%"}
    found = advise(case(judgements=[{"declared": declared}]), restless(in_float, quantized))
    assert found.kind == "chatter"
    chosen = parsed(found.command)
    assert (chosen["max_chatter"], chosen["margin"]) == (allowed, "2%")
    assert "cost on changes of action" in found.sentence


def test_chatter_names_both_rates() -> None:
    sentence = advise(case(), restless(0.0717, 0.248)).sentence
    assert "24.8 % a step where the float policy's change 7.17 %" in sentence


def test_return_is_not_blamed_where_only_chatter_failed() -> None:
    blame = {"suspects": ["observation"], "loss": {"mean": 2.7, "low": 0.1, "high": 12.7}}
    found = findings(case(), restless(0.0717, 0.248), LOST | {"blame": blame} | feature(clipped=0.1))
    assert [advice.kind for advice in found] == ["chatter", "saturation"]


@pytest.mark.parametrize(("high", "kinds"), [(12.7, ["more_episodes", "culprit"]), (6.9, ["more_episodes"])])
def test_who_is_to_blame_for_what_may_be_lost_is_not_named(high: float, kinds: list[str]) -> None:
    blame = {"suspects": ["observation"], "loss": {"mean": 2.7, "low": 0.1, "high": high}}
    found = findings(case(), OPEN | {"terms": {"margin": 7.0}}, SAME | {"blame": blame})
    assert [advice.kind for advice in found] == kinds


def test_last_resort_is_a_scheme_that_is_chosen() -> None:
    found = advise(case(judgements=[{"declared": {"margin": "2%"}}]), FAIL, LOST)
    assert found.kind == "unexplained"
    assert found.sentence.endswith(" Else have a scheme chosen by the return that it holds.")
    chosen = parsed(found.command)
    assert (chosen["scheme"], chosen["scheme_parts"], chosen["margin"]) == ("auto", (), "2%")


def test_scheme_of_the_bundle_is_not_asked_for_beside_one_that_is_chosen() -> None:
    stated = Case.of_manifest("b", MANIFEST, 20, None, ["--scheme", "w4a8", "--set", "ranges=mse"])
    assert parsed(advise(stated, FAIL, LOST).command)["scheme_parts"] == ()
    assert parsed(stated.convert())["scheme_parts"] == ("ranges=mse",)


@pytest.mark.parametrize(
    ("facts", "report"),
    [
        ({}, FAIL | {"choice": {"by": "auto"}}),
        ({"scheme": {"rewrites": ["centre_head"], "learned": True}}, FAIL),
        ({"environment": {"env_id": "callable", "is_callable": True}}, FAIL),
        ({}, {}),
    ],
)
def test_no_scheme_is_chosen_twice_or_where_none_can_be(facts: Any, report: Any) -> None:
    found = advise(case(**facts), report, LOST)
    assert (found.kind, found.command) == ("unexplained", None)
    assert "chosen" not in found.sentence


def test_what_has_a_command_of_its_own_comes_before_the_last_resort() -> None:
    found = findings(case(), FAIL, LOST | feature(clipped=0.05) | states(0.8))
    assert [advice.kind for advice in found] == ["saturation", "margins"]
    assert not any("--scheme auto" in str(advice.command) for advice in found)


def test_edge_of_int8_is_not_told_of_the_bare_converter() -> None:
    blame = {"blame": {"suspects": ["first", "second"]}}
    bare, usual = (findings(found, FAIL, LOST | blame) for found in (case(scheme=BARE["scheme"]), case()))
    assert [advice.kind for advice in bare] == ["bare_converter"]
    assert [advice.kind for advice in usual] == ["shared_blame"]


def test_what_was_trained_is_not_calibrated_or_rewritten_again() -> None:
    clipped = LOST | feature(clipped=0.2)
    for scheme in ({"rewrites": [], "learned": True}, {"rewrites": ["centre_head"], "learned": True}):
        kinds = [advice.kind for advice in findings(case(episodes=3, scheme=scheme), FAIL, clipped)]
        assert not {"bare_converter", "saturation", "few_calibration_episodes"} & set(kinds)
    kinds = [advice.kind for advice in findings(case(episodes=3), FAIL, clipped)]
    assert {"saturation", "few_calibration_episodes"} & set(kinds)
