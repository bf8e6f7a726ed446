"""The ledger: who judges again pays for it, and who repeats a judgement gets the same one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeqrl import pipeline, stages
from edgeqrl.bundle import Bundle, edit_bundle, open_bundle
from edgeqrl.cli.main import run
from edgeqrl.environments import EnvironmentSpec
from edgeqrl.errors import DataError, UsageError
from edgeqrl.judgements import (
    MOST,
    carry_over,
    earlier_judgements,
    find_judgement,
    judged_seeds,
    judgement_key,
    judgements_of,
    record_judgement,
)
from edgeqrl.stages import Settings
from edgeqrl.validate.terms import Declared
from edgeqrl.validate.verdict import default_seed
from edgeqrl.validation_stage import add_validation

DECLARED = Declared(margin=200, worst_loss=500, max_failures=None).to_json()
QUICK = {
    "--episodes": "24",
    "--margin": "200",
    "--worst-loss": "500",
    "--max-failures": "none",
    "--max-chatter": "none",
}


def key(policy: str = "a", backend: str = "host-c", **declared: Any) -> dict[str, Any]:
    return judgement_key(policy, (backend, "keras"), {**DECLARED, **declared})


def bundle_with(*keys: dict[str, Any]) -> Bundle:
    bundle = Bundle(Path("nowhere"))
    for number, one in enumerate(keys, 1):
        seeds = {"first": default_seed(number), "count": 12}
        record_judgement(bundle, number, one, seeds, "FAIL")
    return bundle


@pytest.mark.parametrize(
    ("asked", "seed", "expected"),
    [
        (key(), None, (1, 20_000)),
        (key("b"), None, (2, 1_020_000)),
        (key("c"), None, (3, 2_020_000)),
        (key("a", "litert"), None, (3, 2_020_000)),
        (key("a", margin=100), None, (3, 2_020_000)),
        (key("a", alpha=0.1), None, (3, 2_020_000)),
        (key(), 20_000, (1, 20_000)),
        (key(), 7, (3, 7)),
    ],
)
def test_only_a_judgement_repeated_to_the_letter_is_the_same(
    asked: dict[str, Any], seed: int | None, expected: tuple[int, int]
) -> None:
    assert find_judgement(bundle_with(key("a"), key("b")), asked, seed) == expected


def test_seeds_of_other_judgements_are_taken() -> None:
    bundle = bundle_with(key("a"), key("b"))
    first = {*range(20_000, 20_012), *range(520_000, 520_100)}
    second = {seed + 1_000_000 for seed in first}
    assert judged_seeds(bundle, but=1) == second
    assert judged_seeds(bundle, but=2) == first
    assert judged_seeds(bundle, but=3) == first | second


def test_repeating_with_fewer_episodes_forgets_no_seeds() -> None:
    bundle = bundle_with(key("a"), key("b"))
    record_judgement(bundle, 1, key("a"), {"first": 20_000, "count": 3}, "INCONCLUSIVE")
    assert [(e["seeds"]["count"], e["verdict"]) for e in judgements_of(bundle)] == [
        (12, "INCONCLUSIVE"),
        (12, "FAIL"),
    ]


def test_there_is_an_end_to_judging() -> None:
    bundle = bundle_with(*(key(str(number)) for number in range(MOST)))
    assert find_judgement(bundle, key("7"), None)[0] == 8
    with pytest.raises(UsageError, match="has been judged 40 times"):
        find_judgement(bundle, key("new"), None)


@pytest.mark.parametrize(
    ("fact", "value", "is_kept"),
    [
        ("agent_sha256", "x", True),
        ("agent_sha256", "y", False),
        ("environment", {"env_id": "B-v0"}, False),
        ("board", "rpi-pico", True),
    ],
)
def test_ledger_is_carried_over_for_the_same_agent_and_environment(
    fact: str, value: Any, is_kept: bool
) -> None:
    old = bundle_with(key())
    old.facts |= {"agent_sha256": "x", "environment": {"env_id": "A-v0"}}
    new = Bundle(Path("nowhere"), {"agent_sha256": "x", "environment": {"env_id": "A-v0"}, fact: value})
    carry_over(new, old.facts)
    assert judgements_of(new) == (judgements_of(old) if is_kept else [])


def test_nothing_is_carried_over_from_nothing(tmp_path: Path) -> None:
    assert earlier_judgements(tmp_path) == {}
    (tmp_path / "manifest.json").write_text("{")
    assert earlier_judgements(tmp_path) == {}


@pytest.mark.parametrize(
    "damage",
    [
        {"number": 2},
        {"number": True},
        {"seeds": {"first": 0}},
        {"seeds": {"first": 0, "count": 10**7}},
        {"seeds": {"first": -1, "count": 1}},
        {"declared": None},
        {"policy_sha256": 3},
        {"verdict": None},
    ],
)
def test_damaged_ledger_is_refused(damage: dict[str, Any]) -> None:
    bundle = bundle_with(key())
    bundle.facts["judgements"] = [{**bundle.facts["judgements"][0], **damage}]
    with pytest.raises(DataError, match="states 'judgements' wrongly"):
        judgements_of(bundle)


@pytest.mark.parametrize("ledger", [None, {}, [None], [[]], "x"])
def test_ledger_that_is_none_is_refused(ledger: Any) -> None:
    with pytest.raises(DataError, match="states 'judgements' wrongly"):
        judgements_of(Bundle(Path("nowhere"), {"judgements": ledger}))


# On a bundle of the zoo.


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that has been judged once."""
    folder = tmp_path_factory.mktemp("judgements") / "cartpole"
    convert(folder)
    return folder


def convert(folder: Path, **options: Any) -> dict[str, Any]:
    settings = Settings(
        calibration_episodes=2,
        episodes=12,
        declared=Declared(
            **{"margin": 200, "worst_loss": 500, "max_failures": None, "max_chatter": None, **options}
        ),
    )
    environment = EnvironmentSpec("CartPole-v1")
    found = pipeline.convert("zoo:cartpole-dqn", environment, output=folder, settings=settings)
    return dict(found.report)


def validate(capsys: pytest.CaptureFixture[str], folder: Path, **options: str) -> tuple[int, dict[str, Any]]:
    chosen = {**QUICK, **{f"--{name.replace('_', '-')}": value for name, value in options.items()}}
    code = run(["validate", str(folder), *(word for pair in chosen.items() for word in pair), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_each_new_judgement_has_fresh_seeds_and_half_the_level(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(judged, tmp_path / "bundle"))
    code, second = validate(capsys, folder)  # on LiteRT's float policy: not what convert judged
    assert code == 0
    assert (second["terms"]["judgement"], second["judgements"]) == (2, 2)
    assert second["terms"]["alpha_of_judgement"] == pytest.approx(0.0125)
    assert second["seeds"] == {"first": 1_020_000, "count": 24}
    _, again = validate(capsys, folder)
    assert again == second, "the same judgement, repeated"
    _, continued = validate(capsys, folder, episodes="30", max_chatter="40%")
    assert continued["terms"]["judgement"] == 3
    _, continued = validate(capsys, folder, episodes="40", max_chatter="40%")
    assert (continued["terms"]["judgement"], continued["judgements"]) == (3, 3), "more episodes continue it"
    _, third = validate(capsys, folder, margin="150")
    assert (third["terms"]["judgement"], third["judgements"]) == (4, 4)
    _, second_again = validate(capsys, folder)
    assert {**second_again, "judgements": 2} == second
    assert [entry["verdict"] for entry in judgements_of(open_bundle(folder))][:2] == ["PASS", "PASS"]


def test_seeds_that_judged_before_are_refused(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(judged, tmp_path / "bundle"))
    assert run(["validate", str(folder), "--episodes", "12", "--validation-seed", "20005"]) == 2
    assert "Seed 20005 serves both" in capsys.readouterr().err
    _, free = validate(capsys, folder, validation_seed="70000")
    assert free["seeds"]["first"] == 70_000


def test_ledger_stays_through_quantize_and_convert(judged: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(judged, tmp_path / "bundle"))
    before = (folder / "report.json").read_bytes()
    report = convert(folder)
    assert (folder / "report.json").read_bytes() == before, "the same judgement, repeated"
    assert report["judgements"] == 1
    assert convert(folder, margin=150)["terms"]["judgement"] == 2
    assert run(["quantize", str(folder)]) == 0
    assert len(judgements_of(open_bundle(folder))) == 2


def test_interrupted_judgement_is_not_in_the_ledger(judged: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(judged, tmp_path / "bundle"))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), edit_bundle(folder) as bundle:
        quantized = stages.read_quantized(bundle)
        policy = pipeline.HostCPolicy(quantized.integer_policy())
        calibration = stages.read_calibration(bundle)
        make_env = EnvironmentSpec("CartPole-v1").make
        add_validation(
            bundle, policy, policy, Settings(), make_env=make_env, calibration=calibration, progress=interrupt
        )
    assert len(judgements_of(open_bundle(folder))) == 1
