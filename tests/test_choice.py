"""`--scheme auto` and `edgeqrl search` on a real agent: what is chosen, kept, judged afresh and told."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from edgeqrl.agents.heads import DiscreteHead, ValueHead, head_to_json
from edgeqrl.backends.host_c import policy_of_network
from edgeqrl.bundle import Bundle, edit_bundle, open_bundle
from edgeqrl.cli.main import run
from edgeqrl.errors import DataError, UsageError
from edgeqrl.quantize.learned import Learning
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.search.costs import costs_of
from edgeqrl.search.options import CHOOSING_SEED, SearchOptions
from edgeqrl.stages import Settings, choice, read_preprocessing, read_quantized
from edgeqrl.stages.choice import budget_problem, choice_key, require_choosable
from edgeqrl.stages.ledger import chosen_seeds, earlier_facts, find_choice, learned_seeds, record_choice
from edgeqrl.validate.terms import Declared
from firmware_export.board import Board
from firmware_export.emit.params import build_params
from firmware_export.fit import estimate_us
from tests.firmware import board, policy
from tests.packed_networks import stack

CARTPOLE = ("zoo:cartpole-dqn", "--env", "CartPole-v1", "--env-arg", "max_episode_steps=60")
LENIENT = ("--episodes", "16", "--margin", "200", "--worst-loss", "500")
LENIENT += ("--max-failures", "none", "--max-chatter", "none")
CHOOSING = ("--choosing-episodes", "32", "--no-learning")
QUICK = (*LENIENT, "--calibration-episodes", "2", *CHOOSING)
SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "report.schema.json").read_text())


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    text = capsys.readouterr().err
    assert "Traceback" not in text
    sentence = text[text.rindex("error: ") :]
    assert len(sentence.strip().splitlines()) == 1, sentence
    return code, sentence


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_text()))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose scheme was chosen, made once."""
    folder = tmp_path_factory.mktemp("choice") / "cartpole"
    assert run(["convert", *CARTPOLE, "--scheme", "auto", "-o", str(folder), *QUICK]) == 0
    return folder


def test_scheme_is_chosen_kept_and_judged_on_seeds_that_did_not_choose(bundle: Path) -> None:
    report, manifest = report_of(bundle), open_bundle(bundle)
    found = report["choice"]
    assert report["verdict"] == "PASS"
    assert (found["by"], found["holds"], found["is_reused"]) == ("auto", True, False)
    assert found["winner"] in [candidate["name"] for candidate in found["candidates"]]
    played = chosen_seeds(manifest)
    assert [seeds.start for seeds in played] == [CHOOSING_SEED, CHOOSING_SEED + 500_000]
    first, count = report["seeds"]["first"], report["seeds"]["count"]
    assert all(first + count <= seeds.start or seeds.stop <= first for seeds in played)
    assert not [
        e.message for e in Draft202012Validator(SCHEMA).iter_errors(report) if "choice" in e.absolute_path
    ]


def test_same_agent_environment_and_board_take_the_same_scheme_again(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "again"))
    assert run(["convert", *CARTPOLE, "--scheme", "auto", "-o", str(folder), *QUICK]) == 0
    report = report_of(folder)
    assert report["choice"]["is_reused"]
    assert report["scheme"] == report_of(bundle)["scheme"]
    assert report["judgements"] == 1  # the same policy, judged to the letter the same
    assert (folder / "policy.tflite").read_bytes() == (bundle / "policy.tflite").read_bytes()


@pytest.mark.parametrize(
    "changed",
    [
        {"learning": Learning(rounds=2)},
        {"learning": Learning(steps=500)},
        {"is_unpacked": True},
        {"search": SearchOptions(most_weight_bits=4)},
        {"declared": Declared(margin="1%")},
    ],
    ids=str,
)
def test_choice_is_for_all_that_the_settings_say_of_it(bundle: Path, changed: dict[str, Any]) -> None:
    opened, settings = open_bundle(bundle), Settings(search=SearchOptions())
    key = choice_key(opened, settings, None)
    assert json.loads(json.dumps(key)) == key
    assert choice_key(opened, replace(settings, **changed), None) != key


def test_choice_is_for_one_calibration_and_one_preprocessing(bundle: Path) -> None:
    opened, settings = open_bundle(bundle), Settings(search=SearchOptions())
    keys = [choice_key(opened, settings, None)]
    normalized = read_preprocessing(opened).to_json()
    normalized["parts"][0]["gain"] = [0.5] * 4
    opened.facts["preprocessing"] = normalized
    keys.append(choice_key(opened, settings, None))
    opened.artefacts["calibration.npz"]["sha256"] = "another"
    keys.append(choice_key(opened, settings, None))
    changed = [{name for name in after if after[name] != before[name]} for before, after in pairwise(keys)]
    assert changed == [{"preprocessing"}, {"calibration"}]


@pytest.mark.parametrize(
    "changed", [{"name": "other"}, {"clock_hz": 10**6}, {"core": "cortex-m0plus"}, {"regions": ()}], ids=str
)
def test_choice_is_for_a_boards_figures_and_not_for_its_name_alone(
    bundle: Path, changed: dict[str, Any]
) -> None:
    opened, settings = open_bundle(bundle), Settings(search=SearchOptions())
    key = choice_key(opened, settings, board("mps2-an386"))
    assert json.loads(json.dumps(key)) == key
    assert choice_key(opened, settings, board("mps2-an386")) == key
    assert choice_key(opened, settings, replace(board("mps2-an386"), title="A title")) == key
    assert choice_key(opened, settings, replace(board("mps2-an386"), **changed)) != key


def test_choice_of_which_another_network_comes_is_made_anew(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "other"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (entry,) = manifest["choices"]
    played = {tried["name"]: tried for tried in entry["choice"]["candidates"]}
    played[entry["choice"]["winner"]]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert run(["convert", *CARTPOLE, "--scheme", "auto", "-o", str(folder), *QUICK]) == 0
    assert report_of(folder)["choice"] == report_of(bundle)["choice"]  # not the one that was reused
    (entry,) = open_bundle(folder).facts["choices"]
    assert entry["choice"] == report_of(bundle)["choice"]


def test_rewrites_that_changed_the_network_are_told_beside_those_of_the_scheme(bundle: Path) -> None:
    report, opened = report_of(bundle), open_bundle(bundle)
    assert report["applied_rewrites"] == ["centre_head", "scale_inputs"]
    assert set(report["applied_rewrites"]) < set(report["scheme"]["rewrites"])
    assert opened.facts["applied_rewrites"] == report["applied_rewrites"]
    assert read_quantized(opened).applied_rewrites == tuple(report["applied_rewrites"])
    del opened.facts["applied_rewrites"]  # as in bundles of earlier versions
    assert read_quantized(opened).applied_rewrites == ()


def test_named_scheme_leaves_nothing_of_the_choice_in_the_report(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "named"))
    assert run(["quantize", str(folder), "--scheme", "int8"]) == 0
    assert not (folder / "report.json").exists()
    assert "choices" in open_bundle(folder).facts  # for the next time


def test_judgement_on_seeds_that_chose_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    seed = str(CHOOSING_SEED + 3)
    code, sentence = failure(capsys, "validate", str(folder), *LENIENT, "--validation-seed", seed)
    assert code == UsageError.exit_code
    assert "would not be fresh" in sentence


def test_choice_survives_a_judgement_that_is_repeated(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    assert run(["validate", str(folder), *LENIENT]) == 0
    assert report_of(folder)["choice"] == report_of(bundle)["choice"]


@pytest.mark.parametrize("option", ["--choosing-seed", "--validation-seed"])
def test_seed_that_is_learned_on_neither_chooses_nor_judges(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    folder = tmp_path / "learned"
    seed = str(Learning().seed)
    if option == "--choosing-seed":
        quick = [part for part in QUICK if part != "--no-learning"]
        code, sentence = failure(
            capsys, "convert", *CARTPOLE, "--scheme", "auto", "-o", folder, *quick, option, seed
        )
        assert not folder.exists()
    else:
        shutil.copytree(bundle, folder)
        learned = ("--set", "learned=true", "--learn-steps", "1", "--learn-rounds", "1")
        assert run(["quantize", str(folder), *learned]) == 0
        assert learned_seeds(open_bundle(folder)) == [range(int(seed), int(seed) + Learning().episodes)]
        assert "learned_seeds" in earlier_facts(folder)
        code, sentence = failure(capsys, "validate", str(folder), *LENIENT, option, seed)
    assert code == UsageError.exit_code
    assert f"Seed {seed} serves both" in sentence


def test_scheme_is_chosen_for_the_board_that_the_bundle_was_last_built_for(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    with edit_bundle(folder) as edited:
        edited.facts["board"] = "mps2-an386"
    assert run(["quantize", str(folder), "--scheme", "int8"]) == 0  # what was built is gone
    assert "board" not in open_bundle(folder).facts
    assert run(["quantize", str(folder), "--scheme", "auto", *CHOOSING]) == 0
    assert report_of(folder)["choice"]["board"] == "mps2-an386"
    assert run(["quantize", str(folder), "--scheme", "auto", *CHOOSING, "--board", "rpi-pico"]) == 0
    assert report_of(folder)["choice"]["board"] == "rpi-pico"
    with edit_bundle(folder) as edited:
        edited.facts["board"] = "my-own"
    assert run(["quantize", str(folder), "--scheme", "int8"]) == 0  # needs no board
    code, sentence = failure(capsys, "quantize", folder, "--scheme", "auto", *CHOOSING)
    assert code == UsageError.exit_code
    assert "was built for the board 'my-own'" in sentence
    assert "--board FILE" in sentence
    code, sentence = failure(capsys, "quantize", folder, "--scheme", "int8", "--board", "rpi-pico")
    assert code == UsageError.exit_code
    assert "--board goes with --scheme auto" in sentence


def test_seed_that_calibrated_does_not_choose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, sentence = failure(
        capsys,
        "convert",
        *CARTPOLE,
        "--scheme",
        "auto",
        "-o",
        tmp_path / "x",
        *QUICK,
        "--choosing-seed",
        "9990",
    )
    assert code == UsageError.exit_code
    assert "Seed 10000 serves both choosing and calibration" in sentence
    assert not (tmp_path / "x").exists()


def test_seed_that_judged_does_not_choose(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    first = report_of(folder)["seeds"]["first"]
    options = ("--scheme", "auto", "-o", folder, *QUICK, "--choosing-seed", first - 9)
    code, sentence = failure(capsys, "convert", *CARTPOLE, *options)
    assert code == UsageError.exit_code
    assert f"Seed {first} serves both choosing and " in sentence


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--scheme", "auto", "--set", "ranges=mse"), "auto chooses every part"),
        (("--scheme", "int8", "--most-weight-bits", "4"), "--most-weight-bits goes with --scheme auto"),
        (("--no-learning",), "--learning goes with --scheme auto"),
        (("--scheme", "auto", "--most-weight-bits", "1"), "must be 2 to 8"),
        (("--scheme", "auto", "--choosing-episodes", "3"), "must be 32"),
        (("--scheme", "auto", "--int4"), "add --most-weight-bits 4"),
        (("--scheme", "auto", "--learn-checkpoint", "kept"), "goes with a scheme that is named"),
        (("--scheme", "auto", "--no-learning", "--learn-steps", "9"), "goes with a scheme that learns"),
    ],
)
def test_options_of_a_choice_that_cannot_be_are_refused(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, sentence = failure(capsys, "convert", *CARTPOLE, "-o", tmp_path / "x", *arguments)
    assert code == UsageError.exit_code
    assert said in sentence


def test_search_leaves_result_plot_study_and_a_judged_bundle_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    folder = tmp_path / "search"
    command = ["search", *CARTPOLE, "-o", str(folder), *QUICK, "--json"]
    assert run([*command, "--trials", "2"]) == 0
    first = json.loads(capsys.readouterr().out)["choice"]
    assert {path.name for path in folder.iterdir()} == {"bundle", "search.json", "pareto.svg", "study.db"}
    found = json.loads((folder / "search.json").read_text())
    assert found["candidates"] == first["candidates"]
    assert first["study"]["storage"].endswith("study.db")
    report = report_of(folder / "bundle")
    assert not [
        e.message for e in Draft202012Validator(SCHEMA).iter_errors(report) if "choice" in e.absolute_path
    ]
    assert run([*command, "--trials", "3"]) == 0
    output = capsys.readouterr()
    assert "The study has 2 of 3 trials: the search goes on." in output.err
    second = json.loads(output.out)["choice"]
    assert second["candidates"][:2] == [
        {**c, "is_on_front": s["is_on_front"]}
        for c, s in zip(first["candidates"], second["candidates"], strict=False)
    ]
    assert len(second["candidates"]) == 3
    other = [*command[:-1], "--trials", "3", "--most-weight-bits", "4"]
    code, sentence = failure(capsys, *other)
    assert (code, "what differs: --most-weight-bits." in sentence) == (UsageError.exit_code, True)


def test_study_of_other_recorded_observations_is_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    command = ["search", *CARTPOLE, "-o", str(tmp_path / "search"), *LENIENT, "--no-learning"]
    command += ["--choosing-episodes", "32", "--trials", "1"]
    for name in ("first", "second"):
        states = np.random.default_rng(len(name)).normal(size=(64, 4)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", observations=states)
    assert run([*command, "--observations", str(tmp_path / "first.npz")]) == 0
    code, sentence = failure(capsys, *command, "--observations", tmp_path / "second.npz")
    assert (code, "what differs: calibration." in sentence) == (UsageError.exit_code, True)


def test_search_into_a_bundle_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, sentence = failure(capsys, "search", *CARTPOLE, "-o", str(bundle), "--trials", "1")
    assert code == 13
    assert "is a bundle" in sentence


# The manifest


KEY = {"agent": "w", "environment": {"env_id": "A-v0"}, "board": None}
SECTION = {
    "scheme": Scheme().to_json(),
    "seeds": {"first": 5, "count": 2},
    "baseline_seeds": {"first": 50, "count": 3},
}


def test_choices_are_found_by_what_they_are_for() -> None:
    bundle = Bundle(Path("nowhere"))
    record_choice(bundle, KEY, SECTION, is_kept=True)
    assert find_choice(bundle, KEY) == SECTION
    assert find_choice(bundle, {**KEY, "board": "rpi-pico"}) is None
    known_to_python = {**KEY, "environment": {"env_id": "A-v0", "is_callable": True}}
    record_choice(bundle, known_to_python, SECTION, is_kept=True)
    assert find_choice(bundle, known_to_python) is None
    record_choice(bundle, {**KEY, "agent": "v"}, SECTION, is_kept=False)
    assert find_choice(bundle, {**KEY, "agent": "v"}) is None
    assert chosen_seeds(bundle) == [range(5, 7), range(50, 53)]


def test_choices_survive_convert_into_the_same_folder(bundle: Path) -> None:
    assert {"choices", "chosen_seeds"} <= set(earlier_facts(bundle))


@pytest.mark.parametrize("fact", [("choices", [{"for": 3}]), ("choices", 5), ("chosen_seeds", [["a", 1]])])
def test_damaged_choice_in_a_manifest_is_told(bundle: Path, tmp_path: Path, fact: tuple[str, Any]) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, fact[0]: fact[1]}))
    with pytest.raises(DataError, match=f"states '{fact[0]}' wrongly"):
        open_bundle(folder)


def test_choice_without_what_it_chose_is_told(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["choices"][0]["choice"]["winner"] = "none of them"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, sentence = failure(capsys, "convert", *CARTPOLE, "--scheme", "auto", "-o", folder, *QUICK)
    assert (code, "states a damaged choice" in sentence) == (DataError.exit_code, True)


# What nothing can be chosen for


@pytest.mark.parametrize(
    ("agent", "options", "said"),
    [
        ("agent.keras", (), "give one with --env"),
        ("zoo:cartpole-dqn", ("--observations", "log.npz"), "give one with --env"),
        ("no-such.keras", ("--env", "CartPole-v1"), "no-such.keras"),
    ],
)
def test_search_that_cannot_begin_leaves_nothing(
    agent: str,
    options: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("optuna")
    _, sentence = failure(capsys, "search", agent, "-o", tmp_path / "new" / "search", *options)
    assert said in sentence
    assert list(tmp_path.iterdir()) == []


def test_scheme_of_an_agent_that_was_trained_as_another_is_refused_before_it_calibrates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = []
    monkeypatch.setattr(choice, "is_fake_quantized", lambda _: True)
    monkeypatch.setattr(choice, "require_trained_scheme", lambda _, scheme: refused.append(scheme))
    for settings in (Settings(), Settings(scheme=Scheme(weight_bits=4)), Settings(stores_int4=True)):
        choice.require_possible(stub(DiscreteHead.single(2)), None, settings, None)  # type: ignore[arg-type]
    assert refused == [Scheme(weight_bits=4)]


def stub(head: Any) -> Bundle:
    return Bundle(Path("nowhere"), {"head": head_to_json(head)})


def test_recorded_observations_tell_no_return_to_choose_by() -> None:
    with pytest.raises(UsageError, match="recorded observations tell none"):
        require_choosable(stub(DiscreteHead.single(2)), None, None)  # type: ignore[arg-type]


def test_value_network_has_no_return_to_choose_by() -> None:
    with pytest.raises(UsageError, match="A value network has no return"):
        require_choosable(stub(ValueHead(("value",))), None, lambda: None)  # type: ignore[arg-type, return-value]


def test_agent_trained_with_fake_quantization_has_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "trained_scheme", lambda _: Scheme(weight_bits=3))
    with pytest.raises(UsageError, match=r"its scheme is fixed \(w3a8\): there is nothing to choose"):
        require_choosable(stub(DiscreteHead.single(2)), None, lambda: None)  # type: ignore[arg-type, return-value]


# The budget


def small(name: str, region: str, size: int) -> Board:
    regions = tuple(replace(r, bytes=size) if r.name == region else r for r in board(name).regions)
    return replace(board(name), regions=regions)


def test_costs_know_the_bits_of_the_weights_and_the_core() -> None:
    """Packed weights are fewer instructions where plain C unpacks them, and more in kernels of a core."""
    rng, sizes = np.random.default_rng(1), (17, 64, 64, 6)
    eight, four = (policy_of_network(stack(rng, (bits,) * 3, sizes)) for bits in (8, 4))
    bytes_of_four = replace(four, weight_bits=())
    on = {name: board(name) for name in ("riscv-virt", "mps2-an386", "mps3-an547")}
    cheap, dear = ({n: costs_of(p, b).instructions for n, b in on.items()} for p in (four, eight))
    assert cheap["riscv-virt"] < 0.95 * dear["riscv-virt"]
    for name in ("mps2-an386", "mps3-an547"):
        assert dear[name] < cheap[name] < 1.6 * dear[name]
    assert costs_of(bytes_of_four, on["riscv-virt"]) == costs_of(eight, on["riscv-virt"])


def test_fewer_bits_meet_a_control_period_that_more_do_not() -> None:
    target, rng = board("riscv-virt"), np.random.default_rng(1)
    eight, four = (policy_of_network(stack(rng, (bits,) * 3, (64, 256, 256, 6))) for bits in (8, 4))
    costs = costs_of(eight, target), costs_of(four, target)
    period = estimate_us(costs[0].instructions, target) / 1.35 / 1e6
    assert "the control period is" in str(budget_problem(eight, costs[0], target, period))
    assert budget_problem(four, costs[1], target, period) is None


def test_costs_are_bytes_and_an_estimate_for_the_core() -> None:
    on_m0, on_m4, on_linux = (costs_of(policy(), board(n)) for n in ("rpi-pico", "mps2-an386", "rpi4"))
    assert on_m0.instructions > on_m4.instructions
    assert on_m4 == on_linux == costs_of(policy(), None)  # the M4 stands in
    for costs, order in ((on_m0, "biased"), (on_m4, "lanes")):
        assert costs.flash_bytes == len(build_params(replace(policy(), order=order)))
    assert on_m0.ram_bytes > 0


def test_budget_is_the_boards_flash_ram_and_control_period() -> None:
    costs = costs_of(policy(), None)
    assert budget_problem(policy(), costs, None, 1e-9) is None
    assert budget_problem(policy(), costs, board("mps2-an386"), 0.02) is None
    for region, size in (("flash", 4096), ("ram", 1024)):
        told = budget_problem(policy(), costs, small("mps2-an386", region, size), None)
        assert f"{region if region == 'flash' else 'RAM'}: " in str(told)
    assert "the control period is" in str(budget_problem(policy(), costs, board("mps2-an386"), 1e-7))
    with_code = costs.flash_bytes + 8192  # fewer than the engine may take
    assert "flash: " in str(budget_problem(policy(), costs, small("mps2-an386", "flash", with_code), None))


def test_budget_is_that_of_the_regions_in_which_the_parts_will_lie() -> None:
    pico, chip = board("rpi-pico"), board("stm32f4discovery")
    costs = costs_of(policy(), pico)
    period = 1.2 * estimate_us(costs.instructions, pico) / 1e6
    assert budget_problem(policy(), costs, pico, period) is None
    in_place = {"weights": "flash"}  # behind a serial bus
    assert "the control period is" in str(budget_problem(policy(), costs, pico, period, in_place))
    ccm = next(region for region in chip.regions if region.name == "ccm")
    narrow = replace(chip, regions=(*chip.regions[:-1], replace(ccm, bytes=64)))
    assert budget_problem(policy(), costs, narrow, None) is None
    assert "ccm: " in str(budget_problem(policy(), costs, narrow, None, {"weights": "ccm"}))


def test_a_choice_for_another_placement_is_another_choice(bundle: Path) -> None:
    opened, target = open_bundle(bundle), board("stm32f4discovery")
    settings = Settings(search=SearchOptions())
    usual = choice_key(opened, settings, target)
    assert "placement" not in usual
    placed = choice_key(opened, replace(settings, placement={"arena": "ccm"}), target)
    assert placed == usual | {"placement": {"arena": "ccm"}}
