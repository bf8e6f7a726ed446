"""What a conversion may start from, and the road of every kind of agent; the commands are in test_cli.py."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from edgeqrl import stages
from edgeqrl.agents.options import AgentOptions, PreprocessingOptions
from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.bundle import Bundle, edit_bundle
from edgeqrl.contract import ContractOptions
from edgeqrl.diagnose.case import Case
from edgeqrl.environments import EnvironmentSpec
from edgeqrl.errors import UsageError
from edgeqrl.pipeline import Conversion, Source, begin, convert, reload_agent, validate_bundle
from edgeqrl.quantize.scheme import Scheme, require_scheme
from edgeqrl.stages import Settings
from edgeqrl.stages.diagnosis import diagnose_bundle
from tests.agent_kinds import KINDS
from tests.firmware import one_by_default

DOCS = Path(__file__).parent.parent / "docs"
# By default: memories of both sorts, draws, masks, parts, a value alone and both widths of activations.
KEPT = (
    "plain",
    "gru_int16",
    "stacked_lstm",
    "value",
    "dict",
    "frames",
    "sampled_multi_discrete",
    "sampled_masked",
    "gaussian",
)


@pytest.mark.parametrize("environment", [gymnasium.Env(), 5, ["CartPole-v1"]])
def test_environment_that_cannot_be_made_anew_is_refused(environment: Any) -> None:
    with pytest.raises(UsageError, match="fresh one"):
        Source("agent.keras", environment)


def test_source_needs_an_environment_or_observations() -> None:
    with pytest.raises(UsageError, match="--observations"):
        Source("agent.keras")


def converted(name: str, folder: Path, **options: Any) -> Conversion:
    kind = KINDS[name]
    import_keras().utils.set_random_seed(0)
    settings = Settings(
        calibration_episodes=4,
        calibration_states=60,
        episodes=4,
        emulated_episodes=1,
        scheme=require_scheme(kind.scheme),
    )
    return convert(
        kind.make_model(), kind.make_env, output=folder, settings=settings, **kind.options, **options
    )


@pytest.mark.parametrize("name", one_by_default(KINDS, KEPT))
def test_every_kind_of_agent_becomes_c_that_acts_as_its_reference_and_is_judged(
    name: str, tmp_path: Path
) -> None:
    """`convert` compares the compiled step with the reference, actions and memory, to the bit."""
    made = converted(name, tmp_path / "bundle")
    assert (made.folder / "src").is_dir()
    if name == "value":
        assert made.verdict is None
        assert "no verdict" in made.report["sentence"]
    else:
        assert made.verdict in ("PASS", "FAIL", "INCONCLUSIVE", "NOTHING_TO_PRESERVE")
    values = made.report.get("values", {})
    assert list(values) == (["value"] if name in ("value", "two_headed") else [])
    for found in values.values():
        assert found["states"] == ("random actions" if name == "value" else "policy")
        assert found["rank_correlation"] > 0.98
        assert found["max_absolute_error"] < 0.05 * (found["float_max"] - found["float_min"])


@pytest.mark.parametrize(
    "name",
    one_by_default(
        ("gru", "two_headed", "dict", "sampled_multi_discrete"), ("gru", "sampled_multi_discrete")
    ),
)
def test_a_bundle_of_any_kind_is_judged_and_diagnosed_again_without_its_agent(
    name: str, tmp_path: Path
) -> None:
    made = converted(name, tmp_path / "bundle")
    with edit_bundle(made.folder) as bundle:
        quantized = stages.read_quantized(bundle)
        make_env = KINDS[name].make_env
        settings = Settings(episodes=4)
        report = validate_bundle(bundle, make_env, "reference", settings, float_backend="litert")
        assert report["judgements"] == 2 or report["verdict"] == "NOTHING_TO_PRESERVE"
        diagnosis = diagnose_bundle(bundle, make_env, episodes=2)
        assert "unavailable" in diagnosis["states"]
        assert not {"nothing_found", "unexplained"} & {found["kind"] for found in diagnosis["findings"]}
        schema = json.loads((DOCS / "diagnosis.schema.json").read_text())
        assert not list(Draft202012Validator(schema).iter_errors(json.loads(json.dumps(diagnosis))))
        assert "float_return" in diagnosis["returns"]
        agent = reload_agent(bundle, make_env, trust=False)
        assert (agent.head, agent.preprocessing, agent.states) == (
            quantized.head,
            quantized.preprocessing,
            quantized.states,
        )


EMULATED = ["gru", "two_headed", "frames", "sampled_masked"]


@pytest.mark.parametrize("name", one_by_default(EMULATED, ("gru",)))
def test_kinds_with_memory_values_and_draws_run_on_an_emulated_core(name: str, tmp_path: Path) -> None:
    """The firmware checks its own golden vectors, and what it does in an episode equals the reference."""
    contract = ContractOptions(control_period_s=0.02, fail_safe="value:0")
    made = converted(name, tmp_path / "bundle", board="mps2-an386", contract=contract)
    assert made.report["emulation"]


def test_a_value_network_becomes_firmware_that_drives_nothing_and_plays_no_episodes(tmp_path: Path) -> None:
    contract = ContractOptions(control_period_s=0.02)  # and no fail-safe
    made = converted("value", tmp_path / "bundle", board="mps2-an386", contract=contract)
    assert made.report["firmware"]["instructions"] > 0
    assert "emulation" not in made.report


def test_a_command_to_convert_again_repeats_what_the_agent_was_read_by_or_there_is_none() -> None:
    manifest = {
        "name": "walker",
        "environment": {"env_id": "X-v0", "kwargs": {}, "wrappers": []},
        "artefacts": {"agent/agent.keras": {}},
        "agent_options": {"head": "argmax", "stochastic": True, "outputs": "policy,value"},
        "scheme": require_scheme("int16x8").to_json(),
    }
    wide = Scheme.from_json(manifest["scheme"]).options()
    command = Case.of_manifest("B", manifest, 20, scheme_options=wide).convert()
    assert command is not None
    assert "--stochastic --outputs policy,value --scheme int16x8" in command
    likeliest = {**manifest, "agent_options": {"stochastic": False}}
    command = Case.of_manifest("B", likeliest, 20, scheme_options=wide).convert()
    assert command is not None
    assert "--deterministic --scheme int16x8" in command
    frames = {"num_frames": 4, "axis": 0, "is_new_axis": False, "padding": "zero"}
    stacked = {**manifest, "preprocessing": {"parts": [], "frames": frames}}
    assert Case.of_manifest("B", stacked, 20).convert() is None


def test_an_agent_of_recordings_is_loaded_again_for_its_environment(tmp_path: Path) -> None:
    """What was stated of the actions is then the environment's to say."""
    keras = import_keras()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "tanh")])
    seen = np.random.default_rng(0).uniform(-1.0, 1.0, (20, 3)).astype(np.float32)
    options = AgentOptions(head="scale", action_bounds=(-2.0, 2.0))
    bundle = Bundle(tmp_path)
    agent, _ = begin(bundle, Source(model, observations=seen, options=options), Settings())
    for make_env in (None, lambda: gymnasium.make("Pendulum-v1")):
        assert reload_agent(bundle, make_env, trust=False).head == agent.head


def test_wrappers_are_kept_by_who_makes_them() -> None:
    kept = PreprocessingOptions(keep_wrappers=("gymnasium.wrappers:ClipAction",))
    with pytest.raises(UsageError, match="says by itself"):
        Source("agent.keras", EnvironmentSpec("Pendulum-v1"), preprocessing=kept)
