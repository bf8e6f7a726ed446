"""The contract: facts from spaces, known environments, files and options; as JSON, and as C."""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edgeqrl.agents.heads import BoxHead, DiscreteHead, MultiBinaryHead, Scale, ValueHead
from edgeqrl.backends.host_c import HostC
from edgeqrl.cli.main import run
from edgeqrl.contract import ContractOptions, contract_facts, known_environments, override, require_fail_safe
from edgeqrl.errors import DataError, EnvironmentFailure, UsageError
from edgeqrl.network.edges import quantize_observations, saturated_inputs
from edgeqrl.network.parts import ObservationPart
from firmware_export.contract import (
    CONTRACT_FILE,
    ContractFacts,
    FailSafe,
    Feature,
    PolicyContract,
    feature_unit,
    num_features,
)
from firmware_export.emit import contract_sources, default_contract, export_sources, make_contract
from tests.c_contract import CContract
from tests.c_policies import random_observations, random_policy
from tests.device_policies import KINDS, whole_policy
from tests.toys import BoxChaosEnv, ChaosEnv

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "policy_contract.schema.json").read_text())
HEADS = ("argmax", "masked", "affine")


def policy_of(head: str, **options: Any) -> Any:
    return random_policy(np.random.default_rng(5), (4, 7, 3), head=head, **options)


def faults_of(contract: PolicyContract) -> list[str]:
    errors = Draft202012Validator(SCHEMA).iter_errors(json.loads(contract.to_bytes()))
    return [f"{list(error.absolute_path)}: {error.message[:200]}" for error in errors]


def contract_in_words(head: str) -> PolicyContract:
    start = policy_of(head).action.start if head != "affine" else 0
    value = (float(start),) if head != "affine" else (0.0, 0.0, 0.0)
    facts = ContractFacts(
        env_id="Robot-v0",
        control_period_s=0.01,
        observation_timeout_s=0.5,
        features=tuple(Feature(f"sensor {i}", "m/s", -1.5, None if i else 2.5) for i in range(4)),
        fail_safe=FailSafe("value", value),
        sources={"control_period_s": "--control-period", "fail_safe": "--fail-safe"},
    )
    return make_contract(policy_of(head), b"model", facts)


# The file.


def require_sound(contract: PolicyContract) -> None:
    assert faults_of(contract) == []
    read = PolicyContract.from_bytes(contract.to_bytes(), "contract")
    assert read == contract
    assert read.to_bytes() == contract.to_bytes()
    assert read.sha256 == contract.sha256


@pytest.mark.parametrize("head", HEADS)
def test_contract_fits_its_schema_and_comes_back_from_its_bytes(head: str) -> None:
    for contract in (default_contract(policy_of(head)), contract_in_words(head)):
        require_sound(contract)


@pytest.mark.parametrize("kind", KINDS)
def test_contracts_of_every_kind_are_as_sound_and_comments_are_closed(kind: str) -> None:
    contract = default_contract(whole_policy(kind), b"model")
    require_sound(contract)
    header = contract_sources(contract)["robot_contract.h"].decode()
    assert all(part.count("/*") == 1 for part in header.split("*/")[:-1])


def test_contract_says_what_parts_memory_masks_draws_and_values_are() -> None:
    drawn = json.loads(default_contract(whole_policy("gaussian frames")).to_bytes())
    observation, gear = drawn["observation"]["parts"]
    assert observation["normalization"] == {"gain": [0.5, 2.0], "offset": None, "low": [-1.0], "high": [1.0]}
    assert (gear["at"], gear["dtype"], gear["one_hot"]) == (8, "int32", [[1, 3], [0, 5]])
    assert drawn["observation"]["bytes"] == 16
    memory = drawn["memory"]
    assert [field["name"] for field in memory["fields"]] == [
        "random",
        "frames_next",
        "frames_filled",
        "frames",
    ]
    assert memory["frames"] == {"num_frames": 3, "axis": 0, "is_new_axis": False, "padding": "first"}
    assert (memory["bytes"], memory["recurrent"]) == (32, [])
    assert memory["seed"] is not None
    assert drawn["action"]["is_sampled"]
    multi = json.loads(default_contract(whole_policy("multi-discrete drawn masked")).to_bytes())
    assert multi["action"]["kind"] == "multi_discrete"
    assert [(entry["low"], entry["high"]) for entry in multi["action"]["meanings"]] == [
        (0.0, 1.0),
        (7.0, 9.0),
    ]
    assert multi["action"]["mask"] == {"at": 24, "bytes": 5}
    (state,) = multi["memory"]["recurrent"]
    assert (state["name"], state["shape"], state["scale"], state["initial"]) == (
        "recurrent_0",
        [8],
        1 / 128,
        3,
    )
    values = json.loads(default_contract(whole_policy("values")).to_bytes())
    assert [entry["name"] for entry in values["values"]] == [f"value_{i}" for i in range(8)]
    assert values["values"][0]["scale"] == pytest.approx(1 / 128)
    assert (values["values"][0]["low"], values["values"][0]["high"]) == (-9.0, 9.0)
    assert values["memory"] is None


def test_value_network_drives_nothing_and_needs_no_fail_safe() -> None:
    facts = contract_facts(
        BoxChaosEnv,
        ContractOptions(),
        parts=[ObservationPart("observation", (3,))],
        head=ValueHead(("value",)),
    )
    assert facts.is_value
    assert facts.fail_safe is None
    require_fail_safe(facts)
    policy = random_policy(np.random.default_rng(5), (3, 7, 1), head="affine")
    contract = make_contract(policy, b"", facts)
    assert contract.action.kind == "value"
    assert [action.name for action in contract.actions] == ["value"]
    require_sound(contract)
    assert ContractFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


class DictWorld(gymnasium.Env[Any, Any]):
    """Observes a class, bytes and floats; acts by several choices."""

    observation_space = gymnasium.spaces.Dict(
        {
            "gear": gymnasium.spaces.Discrete(3, start=1),
            "camera": gymnasium.spaces.Box(0, 200, (2, 4), np.uint8),
            "speed": gymnasium.spaces.Box(-2.0, 3.0, (2,), np.float32),
        }
    )
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, True, False, {}


def test_parts_of_an_environment_have_names_and_bounds_of_their_own() -> None:
    facts = contract_facts(DictWorld, ContractOptions())
    assert facts.features is not None
    found = {feature.name: (feature.low, feature.high) for feature in facts.features}
    assert found["gear_0"] == (1.0, 3.0)
    assert found["camera_7"] == (0.0, 200.0)
    assert found["speed_1"] == (-2.0, 3.0)
    assert len(found) == 11
    parts = (ObservationPart("speed", (2,), key="speed"), ObservationPart("other", (1,), key="other"))
    chosen = contract_facts(DictWorld, ContractOptions(), parts=parts).features
    assert chosen == (
        Feature("speed_0", None, -2.0, 3.0),
        Feature("speed_1", None, -2.0, 3.0),
        Feature("other_0"),
    )
    assert facts.actions == (Feature("action_0", None, 0.0, 1.0), Feature("action_1", None, 0.0, 2.0))


@pytest.mark.parametrize(
    ("head", "text", "message"),
    [
        (DiscreteHead((2, 3), (0, 7)), "value:0", "1 number, but an action has 2"),
        (
            DiscreteHead((2, 3), (0, 7)),
            "value:0,10",
            "outside the action's bounds: 'action_1' is 7 to 9",
        ),
        (DiscreteHead((2, 3), (0, 7)), "value:0.5,8", "must be whole numbers"),
        (MultiBinaryHead((2,)), "value:0,2", "outside"),
    ],
)
def test_fail_safe_of_several_choices_must_be_one_of_them(head: Any, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        contract_facts(
            None, ContractOptions(fail_safe=text), parts=[ObservationPart("observation", (4,))], head=head
        )


def test_schema_is_strict_and_describes_every_field() -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "properties" in node:
                assert node["additionalProperties"] is False
                for name, field in node["properties"].items():
                    assert "description" in field or "const" in field, name
            for value in node.values():
                walk(value)

    walk(SCHEMA)
    contract = json.loads(contract_in_words("argmax").to_bytes())
    assert set(contract) == set(SCHEMA["required"])


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "edgeqrl-contract-0"},
        {"name": 3},
        {"control_period_s": -1},
        {"control_period_s": "0.02"},
        {"fail_safe": {"kind": "value", "action": [99.0], "hold_steps": None}},
        {"fail_safe": {"kind": "hold", "action": None, "hold_steps": 65536}},
        {"fail_safe": {"kind": "pray", "action": None, "hold_steps": None}},
        {"observation": {}},
        {"action": None},
        {"params_contract": "00"},
        {"sources": {"fail_safe": 3}},
        {"more": 1},
        {"memory": {"bytes": 8}},
        {"values": [{"name": "value"}]},
        {"saturation_counters": 3},
    ],
)
def test_damaged_contract_is_refused(change: dict[str, Any]) -> None:
    data = json.loads(contract_in_words("argmax").to_bytes()) | change
    with pytest.raises(DataError, match="'there/it' is no contract"):
        PolicyContract.from_bytes(json.dumps(data, indent=2).encode() + b"\n", "there/it")


@settings(deadline=None, max_examples=40)
@given(data=st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=3)))
def test_any_json_in_any_field_is_a_contract_or_refused(data: Any) -> None:
    contract = json.loads(contract_in_words("affine").to_bytes())
    for key in contract:
        try:
            PolicyContract.from_bytes(json.dumps(contract | {key: data}).encode(), "x")
        except DataError:
            continue
        raise AssertionError(key)  # the bytes differ from what the contract itself would write


@pytest.mark.parametrize(
    ("shape", "unit", "count"),
    [
        ((4,), "element", 4),
        ((), "element", 1),
        ((16, 16), "element", 256),
        ((84, 84, 4), "last axis", 4),
        ((4, 84, 84), "last axis", 84),
        ((257,), "all", 1),
    ],
)
def test_features_are_elements_or_places_of_the_last_axis(
    shape: tuple[int, ...], unit: str, count: int
) -> None:
    assert (feature_unit(shape), num_features(shape)) == (unit, count)


# Fail-safes.


@pytest.mark.parametrize("text", ["value:0", "value:0.5,-1", "hold:1", "hold:65535", "disable"])
def test_fail_safe_is_what_was_written(text: str) -> None:
    assert str(FailSafe.parse(text)) == text
    assert FailSafe.from_json(FailSafe.parse(text).to_json()) == FailSafe.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "value", "value:", "value:a", "value:1,", "value:nan", "value:inf", "value:1e39"),
        *("hold", "hold:0", "hold:65536", "hold:-1", "hold:1.5", "hold:٣", "disable:1", "Disable", "stop"),
    ],
)
def test_other_fail_safes_are_refused_with_the_three_forms(text: str) -> None:
    with pytest.raises(UsageError, match=r"value:A.*hold:N.*disable"):
        ContractOptions(fail_safe=text)


@pytest.mark.parametrize(
    ("head", "text", "message"),
    [
        (DiscreteHead.single(3), "value:3", "none of the actions 0 to 2"),
        (DiscreteHead.single(3, start=5), "value:0", "none of the actions 5 to 7"),
        (DiscreteHead.single(3), "value:0.5", "none of the actions"),
        (DiscreteHead.single(3), "value:0,1", "2 numbers, but an action has 1"),
        (BoxHead((2,), (-1, -1), (1, 1), (1, 1), (0, 0)), "value:0", "1 number, but an action has 2"),
        (BoxHead((2,), (-1, -1), (1, 1), (1, 1), (0, 0)), "value:0,1.5", "outside the action's bounds"),
    ],
)
def test_fail_safe_action_must_be_one_of_the_policys(head: Any, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        contract_facts(
            None, ContractOptions(fail_safe=text), parts=[ObservationPart("observation", (4,))], head=head
        )


def test_missing_fail_safe_is_asked_for_with_its_forms() -> None:
    with pytest.raises(UsageError, match=r"--fail-safe value:A.*hold:N.*disable"):
        require_fail_safe(ContractFacts())
    require_fail_safe(ContractFacts(control_period_s=0.02, fail_safe=FailSafe("disable")))


def test_fail_safe_without_a_time_to_act_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--control-period"):
        require_fail_safe(ContractFacts(fail_safe=FailSafe("disable")))
    require_fail_safe(ContractFacts(observation_timeout_s=0.1, fail_safe=FailSafe("disable")))


# Environments.


@pytest.mark.parametrize(
    "entry", known_environments(), ids=lambda entry: f"{entry['ids'][0]}-{entry['kind']}"
)
def test_known_environments_are_as_large_as_their_spaces(entry: Any) -> None:
    import_module("edgeqrl.zoo.training.tasks")  # registers the zoo's own
    made = 0
    for env_id in entry["ids"]:
        if env_id not in gymnasium.registry:
            continue
        options = {"continuous": entry["kind"] == "continuous"} if env_id.startswith("LunarLander-") else {}

        def make(env_id: str = env_id, options: dict[str, Any] = options) -> Any:
            return gymnasium.make(env_id, **options)

        try:
            facts = contract_facts(make, ContractOptions())
        except EnvironmentFailure:
            continue  # its library is not installed, or no longer has it
        made += 1
        assert facts.fail_safe == FailSafe.parse(entry["fail_safe"])
        assert (facts.control_period_s is None) == ("MinAtar" in env_id)  # which has no clock
        assert facts.actions is not None
        assert [action.name for action in facts.actions] == [row[0] for row in entry["action"]]
        assert facts.features is not None
        names = [feature.name for feature in facts.features]
        assert names == [row[0] for row in entry["observation"]] or env_id.startswith("Ant-")
    assert made or entry["ids"][-1].partition("-")[0] in MUJOCO


MUJOCO = ("Hopper", "HalfCheetah", "Walker2d", "Swimmer", "Reacher", "InvertedPendulum", "Ant")
MUJOCO += ("InvertedDoublePendulum",)


@pytest.mark.parametrize(
    ("env_id", "period", "source"),
    [
        ("CartPole-v1", 0.02, "env.unwrapped.tau"),
        ("Pendulum-v1", 0.05, "env.unwrapped.dt"),
        ("Acrobot-v1", 0.2, "env.unwrapped.dt"),
        ("MountainCar-v0", 0.0333333333, "1 / metadata['render_fps']"),
    ],
)
def test_control_period_is_found_and_its_source_told(env_id: str, period: float, source: str) -> None:
    facts = contract_facts(lambda: gymnasium.make(env_id), ContractOptions())
    assert (facts.control_period_s, facts.sources["control_period_s"]) == (period, source)


class Skips(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats every action four times."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._skip = 4


class OddClock(ChaosEnv):
    """Its tau raises, its dt is no number."""

    dt = "fast"

    @property
    def tau(self) -> float:
        raise RuntimeError("no clock")


def test_wrappers_that_repeat_actions_lengthen_the_period_and_hide_what_is_known() -> None:
    facts = contract_facts(lambda: Skips(gymnasium.make("CartPole-v1")), ContractOptions())
    assert facts.control_period_s == 0.08
    assert facts.sources["control_period_s"] == "env.unwrapped.tau, times 4 frames a step"
    assert facts.fail_safe is None
    assert facts.features is not None
    assert facts.features[0] == Feature("obs_0", None, -4.8, 4.8)


def test_nothing_is_made_up_for_an_unknown_environment() -> None:
    facts = contract_facts(OddClock, ContractOptions())
    assert (facts.control_period_s, facts.fail_safe) == (None, None)
    assert facts.features == tuple(Feature(f"obs_{i}", None, -1.0, 1.0) for i in range(3))
    box = contract_facts(BoxChaosEnv, ContractOptions())
    assert box.actions == tuple(Feature(f"action_{i}", None, -2.0, 2.0) for i in range(2))


def test_bounds_of_images_are_those_of_each_place_of_the_last_axis() -> None:
    class Pictures(ChaosEnv):
        observation_space = gymnasium.spaces.Box(
            np.zeros((20, 20, 2), np.float32), np.full((20, 20, 2), [1, 255], np.float32)
        )

    facts = contract_facts(Pictures, ContractOptions())
    assert facts.features == (Feature("obs_0", None, 0.0, 1.0), Feature("obs_1", None, 0.0, 255.0))


# Files and options.

FILE = """
control_period_s = 0.01
fail_safe = "hold:5"
[[observation]]
name = "position"
unit = "m"
low = -inf
[[observation]]
[[observation]]
high = 0.5
[[action]]
name = "motor"
unit = "V"
[[action]]
"""


def test_option_beats_file_beats_environment(tmp_path: Path) -> None:
    path = tmp_path / "robot.toml"
    path.write_text(FILE)
    facts = contract_facts(BoxChaosEnv, ContractOptions(path))
    assert facts.control_period_s == 0.01
    assert facts.features == (
        Feature("position", "m", None, 1.0),
        Feature("obs_1", None, -1.0, 1.0),
        Feature("obs_2", None, -1.0, 0.5),
    )
    assert facts.actions == (Feature("motor", "V", -2.0, 2.0), Feature("action_1", None, -2.0, 2.0))
    assert facts.sources["fail_safe"] == "contract file robot.toml"
    stated = contract_facts(BoxChaosEnv, ContractOptions(path, 0.5, "disable"))
    assert (stated.control_period_s, str(stated.fail_safe)) == (0.5, "disable")
    later = override(
        facts, ContractOptions(fail_safe="value:0,1"), BoxHead((2,), (-2, -2), (2, 2), (1, 1), (0, 0))
    )
    assert later == replace(
        facts, fail_safe=FailSafe("value", (0.0, 1.0)), sources={**facts.sources, "fail_safe": "--fail-safe"}
    )
    assert ContractFacts.from_json(json.loads(json.dumps(later.to_json()))) == later


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a = ", DataError, "no TOML"),
        ("period = 3", UsageError, "has a key 'period'"),
        ("control_period_s = 0", UsageError, "1e-06 to 3600 seconds"),
        ("control_period_s = '1'", UsageError, "seconds"),
        ("observation_timeout_s = nan", UsageError, "seconds"),
        ("fail_safe = 3", UsageError, "must be text"),
        ("fail_safe = 'hold:0'", UsageError, "hold:N"),
        ("observation = 3", UsageError, "tables"),
        ("[[observation]]", UsageError, r"has 1 table \[\["),
        ("fail_safe = 'hold:0'", UsageError, r"^fail_safe in '.*robot.toml': 'hold:0' is not"),
        ("fail_safe = 'value:9,0'", UsageError, r"^fail_safe in '.*robot.toml': value:9,0 lies outside"),
        (
            "[[observation]]\nname = 'tilt'\n[[observation]]\n[[observation]]\nname = 'tilt'",
            UsageError,
            r"^\[\[observation\]\] 0 and 2 in '.*robot.toml' are both called 'tilt'",
        ),
        ("[[action]]\n[[action]]\nname = 'action_0'", UsageError, r"0 and 1 in .* called 'action_0'"),
        (
            "control_period_s = 0.02\nobservation_timeout_s = 0.02",
            UsageError,
            r"of 0.02 s \(contract file robot.toml\) must be longer than the control period of 0.02 s",
        ),
        ("[[action]]\nlow = 1\n[[action]]", UsageError, "bounds of actions are the policy's own"),
        ("[[action]]\nname = 1\n[[action]]", UsageError, "printable"),
        ("[[action]]\nname = ''\n[[action]]", UsageError, "printable"),
        ("[[observation]]\nlow = nan\n[[observation]]\n[[observation]]", UsageError, "must be a number"),
        ("[[observation]]\nlow = 2\n[[observation]]\n[[observation]]", UsageError, "not in order"),
        ("[[observation]]\nlow = 1e300\n[[observation]]\n[[observation]]", UsageError, "float32"),
    ],
)
def test_faults_of_a_contract_file_are_named(tmp_path: Path, text: str, error: Any, message: str) -> None:
    path = tmp_path / "robot.toml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        contract_facts(BoxChaosEnv, ContractOptions(path))
    with pytest.raises(DataError, match="Cannot read the contract file"):
        contract_facts(BoxChaosEnv, ContractOptions(tmp_path / "absent.toml"))


def test_timeout_is_held_against_a_period_wherever_both_come_from(tmp_path: Path) -> None:
    path = tmp_path / "robot.toml"
    path.write_text("observation_timeout_s = 0.5")
    stated = ContractOptions(path)
    facts = contract_facts(None, stated)  # no period: nothing to hold it against
    assert facts.observation_timeout_s == 0.5
    assert contract_facts(None, replace(stated, control_period_s=0.4)).control_period_s == 0.4
    with pytest.raises(UsageError, match=r"of 0.5 s .* period of 0.6 s \(--control-period\)"):
        contract_facts(None, replace(stated, control_period_s=0.6))
    with pytest.raises(UsageError, match="period of 1 s"):
        override(facts, ContractOptions(control_period_s=1), DiscreteHead.single(2))


@pytest.mark.parametrize("period", [0, -1, 1e-7, 3601, float("nan"), float("inf")])
def test_control_periods_out_of_range_are_refused(period: float) -> None:
    with pytest.raises(UsageError, match="--control-period must be"):
        ContractOptions(control_period_s=period)


# C.


def test_names_of_strangers_stay_text() -> None:
    evil = '*/ int evil; /* \\ ??/ "%s"'
    names = (evil, "θ", "x position", "X-Position")
    facts = ContractFacts(env_id=evil, features=tuple(Feature(name, evil) for name in names))
    contract = make_contract(policy_of("argmax"), b"", facts)
    header = contract_sources(contract)["robot_contract.h"].decode()
    comments = header.split("*/")
    assert all(part.count("/*") == 1 for part in comments[:-1])
    assert "??" not in header
    macros = [
        line.split()[1] for line in header.splitlines() if line.startswith("#define ROBOT_OBSERVATION_")
    ]
    parts = ["INT_EVIL_S", "1", "X_POSITION", "X_POSITION_3"]
    assert macros == [f"ROBOT_OBSERVATION_{part}" for part in parts]


def test_contract_of_another_policy_is_our_fault() -> None:
    other = default_contract(random_policy(np.random.default_rng(6), (4, 7, 3)))
    with pytest.raises(ValueError, match="is not that of policy"):
        export_sources(policy_of("argmax"), b"", contract=other)


@pytest.mark.parametrize("head", HEADS)
def test_only_three_files_depend_on_what_is_known(head: str) -> None:
    policy, contract = policy_of(head), replace(contract_in_words(head), model_sha256=None)
    one, other = export_sources(policy, b""), export_sources(policy, b"", contract=contract)
    changed = {path for path in one if one[path] != other[path]}
    assert (
        changed == {CONTRACT_FILE, "robot_contract.h", "robot_contract.c"} == set(contract_sources(contract))
    )


@pytest.mark.parametrize("head", HEADS)
def test_c_holds_the_same_facts(head: str) -> None:
    contract = contract_in_words(head)
    library = HostC(policy_of(head), contract=contract)._library
    facts = CContract.in_dll(library, "robot_contract_facts")
    assert facts.name == b"robot"
    assert (facts.num_inputs, facts.num_features, facts.num_counters) == (4, 4, 4)
    bounds = np.array([facts.low[:4], facts.high[:4]], "<u4").view("<f4")
    inf = np.inf
    np.testing.assert_array_equal(bounds, np.float32([[-1.5] * 4, [2.5, inf, inf, inf]]))
    assert (facts.control_period_us, facts.timeout_us) == (10_000, 500_000)
    assert (facts.fail_safe, facts.hold_steps) == (1, 0)
    size = {"argmax": (16, 4), "masked": (20, 4), "affine": (16, 12)}[head]
    assert (facts.observation_bytes, facts.action_bytes) == size
    words = np.array([facts.fail_safe_action[: size[1] // 4], facts.action_low[: size[1] // 4]], "<u4")
    assert contract.fail_safe is not None
    if head == "affine":
        assert words[0].view("<f4").tolist() == list(contract.fail_safe.action)
        assert words[1].view("<f4")[0] == -np.inf
    else:
        assert words.view("<i4").tolist() == [[contract.action.start]] * 2
    assert facts.is_discrete == (head != "affine")
    assert bytes(facts.contract_sha256[:32]).hex() == contract.sha256
    assert contract.model_sha256 == bytes(facts.model_sha256[:32]).hex()


def test_hold_and_disable_have_no_action() -> None:
    for number, fail_safe in ((2, FailSafe("hold", hold_steps=7)), (3, FailSafe("disable"))):
        contract = make_contract(policy_of("affine"), b"", ContractFacts(fail_safe=fail_safe))
        facts = CContract.in_dll(
            HostC(policy_of("affine"), contract=contract)._library, "robot_contract_facts"
        )
        assert (facts.fail_safe, facts.hold_steps) == (number, fail_safe.hold_steps)
        assert not facts.fail_safe_action
        assert not facts.model_sha256


# Saturation counters.


@pytest.mark.parametrize("shape", [(4,), (2, 2), (20, 20, 3), (257,)], ids=str)
def test_counters_count_what_the_reference_clamps(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(8)
    policy = random_policy(rng, (int(np.prod(shape)), 3), shape=shape)
    host, observations = HostC(policy), random_observations(rng, policy, 40)
    observations[::7] = np.nan
    host.step(observations)
    host.step(observations)
    quantized, flags = quantize_observations(policy.observation, observations)
    events = saturated_inputs(policy.observation, observations)
    assert np.array_equal(events.reshape(len(events), -1).any(axis=1), flags != 0)
    expected = 2 * events.reshape(-1, num_features(shape)).sum(axis=0)
    assert host.saturated().tolist() == expected.tolist()
    assert quantized.shape == observations.shape


def test_counters_stop_at_65535_and_init_clears_them() -> None:
    policy = policy_of("argmax")
    host = HostC(policy)
    observations = np.zeros((70_000, 4), np.float32)
    observations[:, 1] = np.inf
    observations[:3, 2] = np.nan
    host.step(observations)
    assert host.saturated().tolist() == [0, 65535, 3, 0]
    host.initialise()
    assert host.saturated().tolist() == [0, 0, 0, 0]


# The command line and the zoo.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--fail-safe value:A"),
        (("--fail-safe", "hold:70000"), "N is 1 to 65535"),
        (("--fail-safe", "disable", "--control-period", "0"), "--control-period must be"),
        (("--contract", "absent.toml"), "Cannot read the contract file"),
    ],
)
def test_convert_for_a_board_refuses_at_once_what_has_no_sound_fail_safe(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    log = tmp_path / "log.npz"  # is never read
    command = [
        "convert",
        "zoo:cartpole-dqn",
        "--observations",
        str(log),
        "--head",
        "argmax",
        "-o",
        str(folder),
    ]
    assert run([*command, "--board", "mps2-an386", *options]) in (2, 12)
    assert message in " ".join(capsys.readouterr().err.split())
    assert not folder.exists()


@pytest.mark.parametrize(
    ("agent", "env_id", "head"),
    [
        ("cartpole-dqn", "CartPole-v1", "argmax"),
        ("pendulum-td3", "Pendulum-v1", "affine"),
    ],
)
def test_contracts_of_the_zoos_environments_are_as_kept(agent: str, env_id: str, head: str) -> None:
    """The world is the agent's own; the network is a fixed one of its shape, as no converter is needed."""
    spaces = gymnasium.make(env_id)
    size = spaces.observation_space.shape[0]  # type: ignore[index]
    policy = random_policy(
        np.random.default_rng(1),
        (size, 4, 2 if head == "argmax" else 1),
        head="argmax",
        name=agent.replace("-", "_"),
        lookups=0,
    )
    action: Any = DiscreteHead.single(2)
    if head == "affine":
        action = BoxHead((1,), (-2.0,), (2.0,), (2.0,), (0.0,))
    output = policy.network.tensors[policy.network.outputs[0]]
    policy = replace(policy, action=action.edge(Scale(output.scale, output.zero_point)))
    facts = contract_facts(
        lambda: gymnasium.make(env_id),
        ContractOptions(),
        parts=[ObservationPart("observation", (size,))],
        head=action,
    )
    contract = make_contract(policy, b"", facts)
    assert faults_of(contract) == []
    golden = Path(__file__).parent / "data" / f"policy_contract_{agent}.json"
    assert contract.to_bytes() == golden.read_bytes()
