"""The ledger: who judges again pays for it, and who repeats a judgement gets the same one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeqrl import pipeline, stages
from edgeqrl.agents.from_keras import agent_from_model, load_agent
from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.bundle import MANIFEST, SCHEMA, Bundle, edit_bundle, open_bundle
from edgeqrl.cli.main import run
from edgeqrl.environments import EnvironmentSpec, spaces
from edgeqrl.errors import DataError, OutputError, UsageError
from edgeqrl.stages import Settings
from edgeqrl.stages.ledger import (
    MOST,
    Judgement,
    diagnosed_seeds,
    earlier_facts,
    find_judgement,
    judged_seeds,
    judgements_of,
    record_diagnosis,
    record_judgement,
)
from edgeqrl.stages.validation import add_validation
from edgeqrl.validate.terms import Declared
from edgeqrl.zoo import find_zoo_agent

QUICK = {
    "--episodes": "24",
    "--margin": "200",
    "--worst-loss": "500",
    "--max-failures": "none",
    "--max-chatter": "none",
}


def find(
    bundle: Bundle,
    policy: str = "a",
    *,
    env_id: str = "A-v0",
    backend: str = "host-c",
    seed: int | None = None,
    **declared: Any,
) -> Judgement:
    return find_judgement(
        bundle,
        policy_sha256=policy,
        environment={"env_id": env_id},
        backends=(backend, "keras"),
        declared=Declared(**declared),
        seed=seed,
    )


def bundle_with(*policies: str, agent: str = "w", ledger: Any = None) -> Bundle:
    """Return a bundle whose agent has been judged once for each policy."""
    bundle = Bundle(Path("nowhere"), {"weights_sha256": agent})
    if ledger is not None:
        bundle.facts["judgements"] = ledger
    for policy in policies:
        judgement = find(bundle, policy)
        record_judgement(bundle, judgement, Declared(), {"first": judgement.seed, "count": 12}, "FAIL")
    return bundle


@pytest.mark.parametrize(
    ("policy", "options", "expected"),
    [
        ("a", {}, (1, 20_000, 12)),
        ("b", {}, (2, 1_020_000, 12)),
        ("c", {}, (3, 2_020_000, 0)),
        ("a", {"backend": "litert"}, (3, 2_020_000, 0)),
        ("a", {"env_id": "B-v0"}, (3, 2_020_000, 0)),
        ("a", {"margin": 100}, (3, 2_020_000, 0)),
        ("a", {"margin": "5.0 %"}, (1, 20_000, 12)),
        ("a", {"seed": 20_000}, (1, 20_000, 12)),
        ("a", {"seed": 7}, (3, 7, 0)),
    ],
)
def test_only_what_is_repeated_to_the_letter_is_the_same(
    policy: str, options: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    found = find(bundle_with("a", "b"), policy, **options)
    assert (found.number, found.seed, found.num_played) == expected


def test_agents_have_judgements_of_their_own_in_one_ledger() -> None:
    first = bundle_with("a", "b")
    second = bundle_with("c", agent="v", ledger=first.facts["judgements"])
    assert [(entry["agent"], entry["number"]) for entry in second.facts["judgements"]] == [
        ("v", 1),
        ("w", 1),
        ("w", 2),
    ]
    again = bundle_with(agent="w", ledger=second.facts["judgements"])
    assert find(again, "new").number == 3


def test_judgements_of_an_agent_share_one_alpha() -> None:
    bundle = bundle_with("a")
    with pytest.raises(UsageError, match=r"share one alpha.*declared 0\.05; say --alpha 0\.05"):
        find(bundle, "b", alpha=0.4)
    assert find(bundle, "b").number == 2


def test_seeds_of_other_judgements_are_taken() -> None:
    bundle = bundle_with("a", "b")
    first = [range(20_000, 20_012), range(520_000, 520_100)]
    second = [range(1_020_000, 1_020_012), range(1_520_000, 1_520_100)]
    assert judged_seeds(bundle, but=1) == second
    assert judged_seeds(bundle, but=2) == first
    assert judged_seeds(bundle) == first + second


def test_seeds_of_diagnoses_are_remembered_once() -> None:
    bundle = bundle_with()
    for seeds in (range(40_000, 40_032), range(5, 9), range(40_000, 40_032)):
        record_diagnosis(bundle, seeds)
    assert diagnosed_seeds(bundle) == [range(40_000, 40_032), range(5, 9)]


def test_continued_judgement_takes_the_place_of_its_shorter_run() -> None:
    bundle = bundle_with("a", "b")
    record_judgement(bundle, find(bundle, "a"), Declared(), {"first": 20_000, "count": 13}, "PASS")
    assert [(e["seeds"]["count"], e["verdict"]) for e in judgements_of(bundle)] == [
        (13, "PASS"),
        (12, "FAIL"),
    ]


def test_there_is_an_end_to_judging() -> None:
    bundle = bundle_with(*(str(number) for number in range(MOST)))
    assert find(bundle, "7").number == 8
    with pytest.raises(UsageError, match="has been judged 40 times"):
        find(bundle, "new")


def test_nothing_is_carried_over_from_nothing(tmp_path: Path) -> None:
    assert earlier_facts(tmp_path) == {}
    (tmp_path / "manifest.json").write_text("{")
    assert earlier_facts(tmp_path) == {}


@pytest.mark.parametrize(
    "damage",
    [
        {"number": 2},
        {"number": True},
        {"agent": None},
        {"seeds": {"first": 0}},
        {"seeds": {"first": 0, "count": 10**7}},
        {"seeds": {"first": -1, "count": 1}},
        {"declared": None},
        {"declared": {"margin": {"a": 1}}},
        {"policy_sha256": 3},
        {"verdict": None},
    ],
)
def test_damaged_ledger_is_refused(damage: dict[str, Any], tmp_path: Path) -> None:
    ledger = bundle_with("a").facts["judgements"]
    require_refused("judgements", [{**ledger[0], **damage}], tmp_path)


@pytest.mark.parametrize("ledger", [None, {}, [None], [[]], "x", 5])
def test_ledger_that_is_none_is_refused(ledger: Any, tmp_path: Path) -> None:
    require_refused("judgements", ledger, tmp_path)


@pytest.mark.parametrize("seeds", [5, [5], [[1]], [[1, 2, 3]], [[0, 10**9]], [[True, 1]]])
def test_damaged_seeds_of_diagnoses_are_refused(seeds: Any, tmp_path: Path) -> None:
    require_refused("diagnosed", seeds, tmp_path)


def require_refused(fact: str, value: Any, folder: Path) -> None:
    manifest = {"schema": SCHEMA, "edgeqrl": "0", "artefacts": {}, fact: value}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"states '{fact}' wrongly"):
        open_bundle(folder)


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


def test_more_episodes_continue_the_judgement_of_convert(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(judged, tmp_path / "bundle"))
    before = json.loads((folder / "report.json").read_text())
    code, continued = validate(capsys, folder)  # 24 instead of 12
    assert code == 0
    assert (continued["terms"]["judgement"], continued["judgements"]) == (1, 1)
    assert continued["terms"] == before["terms"]
    assert (continued["float_backend"], continued["seeds"]["first"]) == ("keras", 20_000)
    _, again = validate(capsys, folder, episodes="12")
    assert again == continued, "what has been seen is not forgotten"


def test_each_new_judgement_has_fresh_seeds_and_half_the_level(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(judged, tmp_path / "bundle"))
    code, second = validate(capsys, folder, float_backend="litert")
    assert code == 0
    assert (second["terms"]["judgement"], second["judgements"]) == (2, 2)
    assert second["terms"]["alpha_of_judgement"] == pytest.approx(0.0125)
    assert second["seeds"] == {"first": 1_020_000, "count": 24}
    _, again = validate(capsys, folder)
    assert again == second, "the last judgement's backend is the default"
    _, third = validate(capsys, folder, margin="150", env="CartPole-v0")
    assert (third["terms"]["judgement"], third["judgements"]) == (3, 3)
    _, fourth = validate(capsys, folder, margin="150")
    assert fourth["terms"]["judgement"] == 4, "another environment is another judgement"
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
    detour = ["calibrate", "zoo:acrobot-dqn", "--calibration-episodes", "1", "-o", str(folder)]
    assert run(detour) == 0
    assert judgements_of(open_bundle(folder)) == []
    assert convert(folder, margin=140)["terms"]["judgement"] == 3, "another agent's turn changes nothing"


def test_agent_is_the_same_live_or_in_a_file(tmp_path: Path) -> None:
    keras = import_keras()
    known = spaces(EnvironmentSpec("CartPole-v1").make)
    path = tmp_path / "other_name.keras"
    agent = load_agent(find_zoo_agent("cartpole-dqn").path, known.observation_space, known.action_space)
    agent.model.save(path)
    model = keras.models.load_model(path)
    loaded = load_agent(path, known.observation_space, known.action_space)
    live = agent_from_model(model, known.observation_space, known.action_space, name="mine")
    assert loaded.weights_sha256 == live.weights_sha256 == agent.weights_sha256
    assert loaded.source_sha256 != live.source_sha256


def test_of_two_commands_at_once_one_is_told(judged: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(judged, tmp_path / "bundle"))
    with (
        pytest.raises(OutputError, match=r"has changed .* meanwhile"),
        edit_bundle(folder),
        edit_bundle(folder) as other,
    ):
        record_diagnosis(other, range(5))
    assert diagnosed_seeds(open_bundle(folder)) == [range(5)]


def test_seeds_that_a_diagnosis_has_shown_do_not_judge(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(judged, tmp_path / "bundle"))
    with edit_bundle(folder) as bundle:
        record_diagnosis(bundle, range(1_020_000, 1_020_008))
    assert run(["validate", str(folder), "--margin", "99"]) == 2
    assert "Seed 1020000 serves both" in capsys.readouterr().err


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
