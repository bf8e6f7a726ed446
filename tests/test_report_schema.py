"""The published schemas of report.json and diagnosis.json: every field is described, and none is missing."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from edgeqrl.agents.heads import (
    BoxHead,
    DiscreteHead,
    GaussianHead,
    Head,
    MultiBinaryHead,
    ValueHead,
    head_to_json,
)
from edgeqrl.cli.main import run
from edgeqrl.diagnose import advice, causes
from edgeqrl.stages import REPORT_SCHEMA
from edgeqrl.stages.diagnosis import SCHEMA
from edgeqrl.validate.terms import Declared
from edgeqrl.validate.values import value_agreement
from edgeqrl.validate.verdict import agreement_on, validate
from tests.toys import BoxChaosEnv, FixedPolicy, TargetEnv, TargetPolicy

DOCS = Path(__file__).parent.parent / "docs"
NAMES = ("report", "diagnosis")
HEADS = {
    "argmax": {"kind": "argmax", "num_actions": 4, "start": 0},
    "box": {
        "kind": "box",
        "shape": [2],
        "low": [-2.0, None],
        "high": [2.0, None],
        "gain": [1.0, 1.0],
        "offset": [0.0, 0.0],
    },
}
EVERY_HEAD: tuple[Head, ...] = (
    DiscreteHead.single(4),
    DiscreteHead.single(3, start=-1, is_stochastic=True),
    DiscreteHead((2, 3), (0, 1)),
    DiscreteHead((2, 2, 2, 2), (0,) * 4, shape=(2, 2), is_stochastic=True),
    MultiBinaryHead((5,)),
    MultiBinaryHead((2, 2), is_stochastic=True),
    BoxHead((1,), (-np.inf,), (np.inf,), (1.0,), (0.0,)),
    GaussianHead((1,), (-2.0,), (2.0,), (2.0,), (0.0,), log_std=(-0.5,), is_squashed=False),
    GaussianHead((1,), (-2.0,), (2.0,), (2.0,), (0.0,), None, True, log_std_range=(-20.0, 2.0)),
    ValueHead(("value",)),
)
LENIENT = ("--margin", "200", "--worst-loss", "500", "--max-failures", "none", "--max-chatter", "none")


def leaves(kind: type) -> set[type]:
    """Return the classes below `kind` that have none below them."""
    below = kind.__subclasses__()
    return set().union(*map(leaves, below)) if below else {kind}


def schema_of(name: str) -> dict[str, Any]:
    return dict(json.loads((DOCS / f"{name}.schema.json").read_text()))


def faults_of(name: str, document: Any) -> list[str]:
    """Return what the schema says against a document, after its way through JSON."""
    validator = Draft202012Validator(schema_of(name))
    plain = json.loads(json.dumps(document, allow_nan=False))
    errors = [best_match([error]) for error in validator.iter_errors(plain)]
    return [f"{list(error.absolute_path)}: {error.message[:300]}" for error in errors]


def in_bundle(report: dict[str, Any], *, head: str = "argmax") -> dict[str, Any]:
    """Add what the stage `validate` adds."""
    scheme = {"rewrites": True, "bias_correction": True, "activations": "int8"}
    counted = {} if report["verdict"] is None else {"judgements": 1}
    added = {"head": HEADS[head], "scheme": scheme, "next": {"sentence": "Nothing found.", "command": None}}
    return {"schema": REPORT_SCHEMA, **added, **counted, **report}


def toys(wrong_every: int, episodes: int, **declared: Any) -> dict[str, Any]:
    policies = TargetPolicy("float"), TargetPolicy("int8", wrong_every)
    found = validate(*policies, TargetEnv, declared=Declared(**declared), num_episodes=episodes)
    return in_bundle(found.to_json())


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, Any]]:
    """A report of every kind, by policies whose loss is known."""
    observations = np.arange(8, dtype=np.float32).reshape(8, 1) % 4
    constant = [FixedPolicy(np.full(2, value, np.float32)) for value in (0.5, 0.6)]
    numbers = [FixedPolicy(np.int64(value)) for value in (1, 2)]
    return {
        "PASS": toys(0, 512),
        "FAIL": toys(5, 64),
        "breach": toys(2, 64, margin=0.5, worst_loss=9),
        "INCONCLUSIVE": toys(10, 64, margin=2.01, worst_loss=40, max_failures=None, max_chatter=None),
        "NOTHING_TO_PRESERVE": in_bundle(validate(*numbers, TargetEnv, num_episodes=40).to_json()),
        "continuous": in_bundle(
            validate(*constant, BoxChaosEnv, declared=Declared(margin=1), num_episodes=8).to_json(),
            head="box",
        ),
        "recorded": in_bundle(agreement_on(numbers[0], numbers[1], observations).to_json()),
        "nothing yet": {"schema": REPORT_SCHEMA},
    }


KINDS = (
    "PASS",
    "FAIL",
    "breach",
    "INCONCLUSIVE",
    "NOTHING_TO_PRESERVE",
    "continuous",
    "recorded",
    "nothing yet",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the whole road, with firmware and a diagnosis."""
    folder = tmp_path_factory.mktemp("schema") / "cartpole"
    command = ["convert", "zoo:cartpole-dqn", "--env", "CartPole-v1", "--board", "mps2-an386"]
    command += ["-o", str(folder), *LENIENT, "--episodes", "16"]
    assert run([*command, "--calibration-episodes", "2", "--emulated-episodes", "1"]) == 0
    assert run(["diagnose", str(folder), "--episodes", "8"]) == 0
    return folder


# The schemas themselves


def described(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, bool]]:
    """Yield every field of a schema, and whether it is described there or where it points to."""
    for keyword in ("properties", "$defs"):
        for name, field in schema.get(keyword, {}).items():
            if isinstance(field, dict):
                is_constant = "const" in field
                yield f"{path}/{name}", is_constant or "description" in field or "$ref" in field
                yield from described(field, f"{path}/{name}")
    for keyword in ("oneOf", "allOf", "anyOf"):
        for number, part in enumerate(schema.get(keyword, ())):
            yield from described(part, f"{path}/{keyword}{number}")
    if isinstance(schema.get("items"), dict):
        yield from described(schema["items"], f"{path}[]")


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every description of an object."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for part in schema.values():
            yield from objects(part)
    if isinstance(schema, list):
        for part in schema:
            yield from objects(part)


@pytest.mark.parametrize("name", NAMES)
def test_schema_is_sound_and_describes_every_field(name: str) -> None:
    schema = schema_of(name)
    Draft202012Validator.check_schema(schema)
    found = dict(described(schema))
    assert len(found) > 60
    assert [path for path, is_described in found.items() if not is_described] == []
    assert all(found.get("additionalProperties") is False for found in objects(schema))


def test_schema_is_that_of_this_version() -> None:
    for name, version in (("report", REPORT_SCHEMA), ("diagnosis", SCHEMA)):
        schema = schema_of(name)
        assert schema["$id"] == schema["properties"]["schema"]["const"] == version


def test_every_kind_of_advice_is_published() -> None:
    text = "".join(Path(module.__file__).read_text() for module in (advice, causes))
    given = set(re.findall(r'Advice\(\s*"(\w+)"', text))
    assert given == set(schema_of("diagnosis")["$defs"]["advice"]["properties"]["kind"]["enum"])


# Reports


@pytest.mark.parametrize("kind", KINDS)
def test_report_of_every_kind_is_as_published(kind: str, reports: dict[str, dict[str, Any]]) -> None:
    report = reports[kind]
    assert faults_of("report", report) == []
    if kind in ("PASS", "FAIL", "INCONCLUSIVE", "NOTHING_TO_PRESERVE"):
        assert report["verdict"] == kind


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "MAYBE"},
        {"verdict": None},
        {"schema": "edgeqrl-report-1"},
        {"news": 1},
        {"next": "edgeqrl diagnose build/x"},
        {"emulation": {}},
        {"correlation": 1.5},
        {"criteria": [{"name": "return"}]},
        {"likeness": {"action_agreement": 1.0, "action_error": None, "num_steps": 4}},
    ],
)
def test_what_no_report_says_is_refused(change: dict[str, Any], reports: dict[str, dict[str, Any]]) -> None:
    assert faults_of("report", reports["PASS"] | change)


def of_values() -> dict[str, Any]:
    """Return the report of a value network."""
    told = np.arange(8.0)
    value = value_agreement("value", told, told + 0.1, step=0.05, states="random actions").to_json()
    report = {"verdict": None, "sentence": "It chooses no actions.", "backend": "host-c"}
    whole = in_bundle(report | {"float_backend": "litert", "values": {"value": value}})
    return whole | {"head": head_to_json(ValueHead())}


def test_values_are_published_beside_a_verdict_or_without_one(reports: dict[str, dict[str, Any]]) -> None:
    alone = of_values()
    assert faults_of("report", alone) == []
    value = alone["values"]["value"]
    for states, is_published in (("policy", True), ("recorded", True), ("random", False), (None, False)):
        said = faults_of("report", alone | {"values": {"value": value | {"states": states}}})
        assert (said == []) == is_published
    assert faults_of("report", reports["PASS"] | {"values": alone["values"]}) == []
    assert faults_of("report", {name: part for name, part in alone.items() if name != "values"})
    assert faults_of("report", alone | {"head": HEADS["argmax"]})  # likeness is missing
    assert faults_of("report", alone | {"likeness": reports["recorded"]["likeness"]})


@pytest.mark.parametrize("head", EVERY_HEAD, ids=lambda head: str(head_to_json(head)["kind"]))
def test_every_head_is_published(head: Head, reports: dict[str, dict[str, Any]]) -> None:
    kinds = {head_to_json(known)["kind"] for known in EVERY_HEAD}
    assert leaves(Head) == {type(known) for known in EVERY_HEAD}
    assert len(kinds) == 9  # those of classes, chosen and drawn
    report = of_values() if isinstance(head, ValueHead) else reports["PASS"]
    assert faults_of("report", report | {"head": head_to_json(head)}) == []
    assert faults_of("report", report | {"head": {"kind": head_to_json(head)["kind"]}})


def test_every_field_of_a_verdict_is_required(reports: dict[str, dict[str, Any]]) -> None:
    report = reports["PASS"]
    missing = [
        name for name in report if not faults_of("report", {k: report[k] for k in report if k != name})
    ]
    assert missing == []


def test_whole_road_is_as_published(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((bundle / "report.json").read_text())
    assert {"firmware", "realtime", "emulation", "criteria"} <= set(report)
    assert faults_of("report", report) == []
    diagnosis = json.loads((bundle / "diagnosis.json").read_text())
    assert [part for part in diagnosis.values() if isinstance(part, dict) and "unavailable" in part] == []
    assert faults_of("diagnosis", diagnosis) == []
    capsys.readouterr()
    assert run(["validate", str(bundle), *LENIENT, "--episodes", "16", "--json"]) == 0
    assert faults_of("report", json.loads(capsys.readouterr().out)) == []


def test_report_of_firmware_alone_is_as_published(bundle: Path) -> None:
    for command in (
        ["quantize"],
        ["export"],
        ["build", "--board", "mps2-an386"],
        ["emulate", "--episodes", "0"],
    ):
        assert run([command[0], str(bundle), *command[1:]]) == 0
    report = json.loads((bundle / "report.json").read_text())
    assert set(report) - {"contract"} == {"schema", "firmware", "realtime"}
    assert faults_of("report", report) == []


@pytest.mark.parametrize(
    "agent", ["zoo:pendulum-td3", pytest.param("zoo:cartpole-dqn", marks=pytest.mark.slow)]
)
def test_recorded_observations_are_as_published(agent: str, tmp_path: Path) -> None:
    is_discrete = agent == "zoo:cartpole-dqn"
    observations = np.random.default_rng(0).normal(0, 0.5, (60, 4 if is_discrete else 3))
    np.savez(tmp_path / "log.npz", observations=observations.astype(np.float32))
    head = ["--head", "argmax"] if is_discrete else ["--head", "scale", "--action-bounds", "-2", "2"]
    folder = tmp_path / "bundle"
    command = ["convert", agent, "--observations", str(tmp_path / "log.npz"), *head, "-o", str(folder)]
    assert run(command) == 0
    assert faults_of("report", json.loads((folder / "report.json").read_text())) == []
    assert run(["diagnose", str(folder)]) == 0
    diagnosis = json.loads((folder / "diagnosis.json").read_text())
    assert faults_of("diagnosis", diagnosis) == []
    assert "unavailable" in diagnosis["robustness"]
