"""Every source gives what it says: whose actions, which states and seeds, and the float policy's memory."""

import io
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from jsonschema import Draft202012Validator

from edgeqrl import stages
from edgeqrl.agents.agent import StateSpec
from edgeqrl.agents.heads import BoxHead, DiscreteHead, Head, ValueHead, head_to_json
from edgeqrl.backends.float_policy import WholeFloatPolicy
from edgeqrl.bundle import Bundle
from edgeqrl.calibrate import CalibrationSet, calibrate, from_recorded
from edgeqrl.calibration_sources import (
    CalibrationSource,
    Collecting,
    chosen_recording,
    collect,
    open_recording,
    parse_sources,
)
from edgeqrl.cli.convert import settings_from
from edgeqrl.cli.main import run
from edgeqrl.cli.options import environment_for, source_options
from edgeqrl.diagnose.case import Case
from edgeqrl.errors import DataError, UsageError
from edgeqrl.network.memory import FrameStack
from edgeqrl.preprocessing import Preprocessing, preprocessing_of
from edgeqrl.random_policy import NoisyActor, RandomActor, RandomPolicy
from edgeqrl.recordings import Recording
from edgeqrl.rollout import rollout
from edgeqrl.stages import Settings
from tests.test_cli_options import parsed
from tests.toys import BoxChaosEnv, ChaosEnv, InfoMaskEnv

DOCS = Path(__file__).parent.parent / "docs"
ACTOR = DiscreteHead.single(5)


def float_policy(
    head: Head = ACTOR,
    size: int = 3,
    *,
    preprocessing: Preprocessing | None = None,
    is_recurrent: bool = False,
) -> WholeFloatPolicy:
    """A linear policy; with a state, that is the sum of what was seen in the episode."""
    taken = preprocessing or Preprocessing.plain((size,))
    width = sum(int(np.prod(shape)) for shape in taken.network_shapes)
    weights = np.random.default_rng(3).normal(size=(width, head.num_outputs)).astype(np.float32)

    def run(inputs: list[Any]) -> list[Any]:
        seen = inputs[:-1] if is_recurrent else inputs
        rows = np.concatenate([values.reshape(len(values), -1) for values in seen], axis=1)
        if not is_recurrent:
            return [rows @ weights]
        following = inputs[-1] + rows[:, :1]
        return [rows @ weights + following, following]

    states = [StateSpec("memory", (1,))] if is_recurrent else []
    return WholeFloatPolicy("float", run, head, taken, states)


def collected(source: str, policy: Any = None, make_env: Any = ChaosEnv, **options: Any) -> CalibrationSet:
    how = {"num_episodes": 6, "num_states": 40, "seed": 50, "agent_sha256": "ab" * 32, **options}
    return collect(source, Collecting(policy or float_policy(), make_env, "Chaos-v0", **how))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("policy", [CalibrationSource("policy")]),
        ("noise", [CalibrationSource("noise", 0.1)]),
        ("noise=0.25", [CalibrationSource("noise", 0.25)]),
        (
            "policy+noise=1+space",
            [CalibrationSource("policy"), CalibrationSource("noise", 1.0), CalibrationSource("space")],
        ),
        ("random+random", [CalibrationSource("random")]),
    ],
)
def test_sources_are_read_and_named_again(text: str, expected: list[CalibrationSource]) -> None:
    assert parse_sources(text) == tuple(expected)
    assert parse_sources("+".join(map(str, expected))) == tuple(expected)


@pytest.mark.parametrize("text", ["log.npz", "run+1.npy", "minari:cartpole/expert-v0", "minari:x+policy-v0"])
def test_files_and_data_sets_are_recordings(text: str) -> None:
    assert parse_sources(text) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("polycy", "did you mean 'policy'"),
        ("", "nor is there such a file"),
        ("policy+", "no calibration source ''"),
        ("policy+log.csv", "no calibration source 'log.csv'"),
        ("policy+log.npz", "'log.npz' is a recording, which stands alone"),
        ("log.npz+policy", "'log.npz' is a recording, which stands alone"),
        ("log.npz+run.npy", "'log.npz' is a recording, which stands alone"),
        ("noise=0", "above 0 and up to 1, not '0'"),
        ("noise=nan", "above 0 and up to 1, not 'nan'"),
        ("noise=", "above 0 and up to 1, not ''"),
        ("random=0.5", "no calibration source 'random=0.5'"),
    ],
)
def test_what_is_no_source_is_refused_with_the_nearest(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_sources(text)
    with pytest.raises(UsageError, match=sentence):
        Settings(calibration_source=text)


def test_the_policy_is_calibrated_as_it_always_was() -> None:
    found = collected("policy")
    options: Any = {"num_episodes": 6, "num_states": 40, "seed": 50, "agent_sha256": "ab" * 32}
    assert found.to_bytes() == calibrate(float_policy(), ChaosEnv, env_id="Chaos-v0", **options).to_bytes()
    header = np.load(io.BytesIO(found.to_bytes()))["header"].tobytes()
    assert b"source" not in header  # so files of earlier versions keep their hashes


def test_random_actions_are_those_of_the_baseline() -> None:
    found = collected("random", num_states=1000)
    played = rollout(RandomPolicy(ChaosEnv().action_space), ChaosEnv, range(50, 56), keep_observations=True)
    assert played.observations is not None
    assert np.array_equal(found.observations, np.concatenate(played.observations))
    assert (found.source, found.episode_returns) == ("random", tuple(played.episode_returns))


def test_a_source_survives_the_file(tmp_path: Path) -> None:
    saved = collected("noise=0.5")
    saved.save(tmp_path / "set.npz")
    loaded = CalibrationSet.load(tmp_path / "set.npz")
    assert (loaded.source, loaded.sha256) == ("noise=0.5", saved.sha256)
    recorded = from_recorded(np.zeros((2, 3)))
    assert CalibrationSet.from_bytes(recorded.to_bytes(), "x").source == "recorded"


def acted(actor: Any, seeds: range, make_env: Any) -> Any:
    played = rollout(actor, make_env, seeds, keep_actions=True)
    assert played.actions is not None
    return np.concatenate(played.actions)


def many(actor: Any, count: int = 4000, masks: Any = None) -> Any:
    rng = [np.random.default_rng(row) for row in range(count)]
    observations = np.zeros((count, 3), np.float32) + 0.5
    return actor.act(observations, None, episode_start=np.ones(count, bool), action_masks=masks, rng=rng)[0]


def test_noise_replaces_so_many_discrete_actions_by_even_ones() -> None:
    policy = float_policy()
    usual = int(many(policy)[0])
    actions = many(NoisyActor(policy, spaces.Discrete(5), 0.3))
    shares = np.bincount(actions, minlength=5) / len(actions)
    assert abs(shares[usual] - (0.7 + 0.3 / 5)) < 0.03
    assert (np.abs(np.delete(shares, usual) - 0.06) < 0.015).all()


def test_noise_keeps_to_the_allowed_actions() -> None:
    masks = np.tile([True, False, True, False, False], (4000, 1))
    actions = many(NoisyActor(float_policy(), spaces.Discrete(5), 1.0), masks=masks)
    assert set(actions) == {0, 2}
    assert len(collected("noise=0.5", make_env=InfoMaskEnv)) == 40  # the environment asserts each action


def test_each_choice_of_several_has_noise_of_its_own() -> None:
    space = spaces.MultiDiscrete([2, 3])
    policy = float_policy(DiscreteHead((2, 3), (0, 0)))
    usual, actions = many(policy)[0], many(NoisyActor(policy, space, 0.4))
    assert actions.shape == (4000, 2)
    changed = actions != usual
    assert (np.abs(changed.mean(axis=0) - [0.2, 0.4 * 2 / 3]) < 0.03).all()
    assert abs(changed.all(axis=1).mean() - 0.2 * 0.4 * 2 / 3) < 0.02


def test_noise_on_numbers_is_a_share_of_half_their_range_and_clipped_to_it() -> None:
    low, high = (-2.0, 0.0, -np.inf), (2.0, 10.0, np.inf)
    space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    head = BoxHead((3,), low, high, (0.0,) * 3, (1.9, 5.0, 7.0))
    actions = many(NoisyActor(float_policy(head), space, 0.1))
    assert actions.dtype == np.float32
    assert np.allclose(actions[:, 1:].mean(axis=0), [5.0, 7.0], atol=0.03)
    assert np.allclose(actions[:, 1:].std(axis=0), [0.5, 0.1], rtol=0.05)
    assert actions[:, 0].max() == 2.0  # 1.9 with noise of 0.2
    assert abs((actions[:, 0] == 2.0).mean() - 0.31) < 0.03


def test_noise_is_the_episodes_own_whatever_plays_beside_it() -> None:
    head = BoxHead((2,), (-2.0, -2.0), (2.0, 2.0), (1.0, 1.0), (0.0, 0.0))
    for head_, make_env in ((head, BoxChaosEnv), (ACTOR, ChaosEnv)):
        actor = NoisyActor(float_policy(head_), make_env().action_space, 0.3)
        together = acted(actor, range(50, 56), make_env)
        alone = np.concatenate([acted(actor, range(seed, seed + 1), make_env) for seed in range(50, 56)])
        assert np.allclose(together, alone, atol=1e-5)  # sums depend on the batch in the last digit


def test_draws_from_the_space_fill_it_and_are_decided_by_the_seed() -> None:
    found = collected("space", num_states=500)
    assert found.observations.shape == (500, 3)
    assert (np.abs(found.observations.mean(axis=0)) < 0.1).all()
    assert found.observations.max() > 0.98
    assert (found.source, found.env_id, found.seeds) == ("space", "Chaos-v0", ())
    assert found.sha256 == collected("space", num_states=500).sha256
    assert found.sha256 != collected("space", num_states=500, seed=51).sha256


class PartsEnv(ChaosEnv):
    """The same world, seen as bytes, classes and numbers."""

    observation_space = spaces.Dict(  # type: ignore[assignment]
        camera=spaces.Box(0, 255, (4, 4), np.uint8), gear=spaces.Discrete(3), arm=spaces.Box(-2, 5, (2,))
    )

    def observe(self) -> Any:
        self.observation_space.seed(self.hidden)
        return self.observation_space.sample()


def test_draws_of_parts_have_the_types_of_each() -> None:
    policy = float_policy(preprocessing=preprocessing_of(PartsEnv.observation_space))
    found: Any = collected("space", policy, PartsEnv, num_states=300)
    assert {name: (str(v.dtype), v.shape) for name, v in found.observations.items()} == {
        "arm": ("float32", (300, 2)),
        "camera": ("uint8", (300, 4, 4)),
        "gear": ("int32", (300,)),
    }
    assert set(found.observations["gear"]) == {0, 1, 2}
    mixed: Any = collected("policy+space", policy, PartsEnv, num_states=20)
    assert mixed.observations["camera"].shape == (len(mixed), 4, 4)


@pytest.mark.parametrize("bound", [np.inf, 3.4e38])
def test_a_space_without_bounds_is_refused_by_feature(bound: float) -> None:
    class Unbounded(ChaosEnv):
        observation_space = spaces.Box(
            np.array([-1, -bound, -1], np.float32), np.array([1, 1, bound], np.float32)
        )

    with pytest.raises(UsageError, match=r"no bounds in feature 1, 2\. Calibrate with --calibration policy"):
        collected("space", make_env=Unbounded)


def test_a_mixture_shares_episodes_and_states_and_keeps_the_extremes_of_all() -> None:
    whole = collected("policy+random", num_states=10**6)
    mixed = collected("policy+random", num_states=20)
    assert (mixed.seeds, mixed.source) == (tuple(range(50, 56)), "policy+random")
    for end in (np.min, np.max):
        assert np.array_equal(end(mixed.observations, axis=0), end(whole.observations, axis=0))
    policy = calibrate(float_policy(), ChaosEnv, env_id="", num_episodes=3, num_states=10, seed=50)
    random = collected("random", num_episodes=3, num_states=10, seed=53)
    assert np.array_equal(mixed.observations, np.concatenate([policy.observations, random.observations]))
    assert mixed.episode_returns == policy.episode_returns + random.episode_returns


def test_progress_of_a_mixture_counts_all_its_episodes() -> None:
    told: list[tuple[int, int]] = []
    how = Collecting(float_policy(), ChaosEnv, "Chaos-v0", num_episodes=5)
    collect("policy+space+noise", how, progress=lambda *at: told.append(at))
    assert told == [(done, 5) for done in (1, 2, 3, 4, 5)]


# Memory


def replayed(observations: Any, starts: list[int]) -> Any:
    """What the state was before each row: the sum of the first feature since the episode began."""
    sums = np.cumsum(observations[:, 0]) - observations[:, 0]
    begins = np.array(starts)[np.searchsorted(starts, np.arange(len(sums)), side="right") - 1]
    return sums - sums[begins]


@pytest.mark.parametrize("lengths", [[7], [3, 5, 1, 4], [1] * 70, [2, 200, 3]])
def test_recorded_states_are_what_the_float_policy_had_in_each_episode(lengths: list[int]) -> None:
    policy = float_policy(is_recurrent=True)
    observations = np.random.default_rng(0).normal(size=(sum(lengths), 3)).astype(np.float32)
    starts = np.cumsum([0, *lengths[:-1]])
    found = from_recorded(Recording(observations, starts), num_states=10**6, policy=policy)
    assert np.array_equal(found.observations, observations)
    assert found.inputs is not None
    expected = replayed(observations.astype(np.float64), starts.tolist())
    assert np.allclose(found.inputs["memory"][:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("source", ["policy", "noise=0.3", "random", "space", "policy+random"])
def test_every_source_gives_a_recurrent_network_its_own_states(source: str) -> None:
    found = collected(source, float_policy(is_recurrent=True), num_states=10**4 if source != "space" else 100)
    assert found.inputs is not None
    seen: Any = found.observations
    at_start = found.inputs["memory"][:, 0] == 0.0
    assert at_start.sum() >= (2 if source == "space" else 6)
    starts = np.flatnonzero(at_start).tolist()
    assert np.allclose(found.inputs["memory"][:, 0], replayed(seen, starts), atol=1e-4)


def test_draws_from_the_space_are_stacked_as_frames() -> None:
    policy = float_policy(
        preprocessing=Preprocessing(Preprocessing.plain((3,)).parts, FrameStack(2, axis=0, is_new_axis=True))
    )
    found = collected("space", policy, num_states=70)
    assert found.inputs is not None
    (stacked,) = found.inputs.values()
    flat, rows = stacked.reshape(70, -1), np.asarray(found.observations)
    assert np.array_equal(np.sort(flat[5]), np.sort(np.concatenate([rows[4], rows[5]])))
    assert np.array_equal(np.sort(flat[64]), np.sort(np.tile(rows[64], 2)))  # a new episode


def test_random_actions_do_not_ask_a_network_without_memory() -> None:
    class Unasked(WholeFloatPolicy):
        def act(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("asked")

    policy = Unasked("float", lambda _: [], ACTOR, Preprocessing.plain((3,)))
    assert len(collected("random", policy)) == 40
    assert RandomActor(policy, ChaosEnv().action_space).has_states is False


# Values and recordings


def test_a_value_network_is_calibrated_on_random_actions_and_has_no_noise() -> None:
    found = collected("policy", is_value=True)
    assert found.source == "random"
    assert np.array_equal(found.observations, collected("random").observations)
    with pytest.raises(UsageError, match="chooses no action to which noise"):
        collected("noise", is_value=True)


def test_observations_and_a_recorded_source_are_one_mechanism(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "log.npz", observations=rows)
    by_old = chosen_recording(tmp_path / "log.npz", "policy")
    by_new = chosen_recording(None, str(tmp_path / "log.npz"))
    assert by_old is not None
    assert by_new is not None
    assert np.array_equal(by_old.observations, by_new.observations)
    assert chosen_recording(None, "policy+random") is None
    with pytest.raises(UsageError, match="give one of them"):
        chosen_recording(rows, "random")
    with pytest.raises(DataError, match="There is no recording"):
        open_recording(str(tmp_path / "no.npz"))
    with pytest.raises(UsageError, match="is a recording"):
        collected("log.npz")


def test_starts_of_very_many_episodes_take_a_quarter_of_the_set() -> None:
    observations = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    found = from_recorded(Recording(observations, np.arange(0, 5000, 5)), num_states=400)
    assert len(found) == 400
    places = np.flatnonzero((observations[:, None, 0] == np.asarray(found.observations)[:, 0]).any(axis=1))
    assert 100 <= (places % 5 == 0).sum() < 200


def test_actors_need_an_environments_generators() -> None:
    actor = NoisyActor(float_policy(), gymnasium.spaces.Discrete(5), 0.1)
    with pytest.raises(ValueError, match="a generator for each row"):
        actor.act(np.zeros((1, 3), np.float32), None, episode_start=np.ones(1, bool))


# The stage and the command line


def staged(folder: Path, settings: Settings, *, head: Head = ACTOR, **options: Any) -> dict[str, Any]:
    """Return what the manifest says of a calibration."""
    bundle = Bundle(folder)
    bundle.facts |= {
        "head": head_to_json(head),
        "environment": {"env_id": "Chaos-v0"},
        "agent_sha256": "ab" * 32,
    }
    found = stages.add_calibration(bundle, float_policy(), settings, **options)
    assert stages.read_calibration(bundle).sha256 == found.sha256
    section = dict(bundle.facts["calibration"])
    schema = json.loads((DOCS / "report.schema.json").read_text())
    part = {**schema["properties"]["calibration"], "$defs": schema["$defs"]}
    assert [
        error.message for error in Draft202012Validator(part).iter_errors(json.loads(json.dumps(section)))
    ] == []
    return section


def test_the_stage_keeps_the_source_and_what_the_policy_met_beside_it(tmp_path: Path) -> None:
    settings = Settings(calibration_source="random+policy", calibration_episodes=6, calibration_states=30)
    found = staged(tmp_path, settings, make_env=ChaosEnv)
    assert (found["source"], found["episodes"], found["num_observations"]) == ("random+policy", 6, 30)
    assert found["check"]["episodes"] == 5
    few = staged(tmp_path, Settings(calibration_episodes=1), make_env=ChaosEnv)
    assert few["check"]["warning"].endswith("--calibration-episodes 40.")
    assert few["check"]["features"]


def test_the_stage_takes_recordings_with_and_without_an_environment(tmp_path: Path) -> None:
    recorded = Recording(np.zeros((2, 3), np.float32))
    without = staged(tmp_path, Settings(), make_env=None, recorded=recorded)
    assert without == {
        "source": "recorded",
        "num_observations": 2,
        "num_rolled_out": 2,
        "episodes": 0,
        "check": None,
    }
    beside = staged(tmp_path, Settings(), make_env=ChaosEnv, recorded=recorded)
    assert "(recorded) does not hold what the trained policy meets" in beside["check"]["warning"]
    with pytest.raises(UsageError, match="--calibration random needs an environment"):
        staged(tmp_path, Settings(calibration_source="random"), make_env=None)


def test_nothing_is_compared_for_a_value_network(tmp_path: Path) -> None:
    found = staged(tmp_path, Settings(), head=ValueHead(), make_env=ChaosEnv)
    assert (found["source"], found["check"]) == ("random", None)


@pytest.mark.parametrize("command", ["convert", "calibrate"])
def test_the_option_is_a_recording_or_a_setting(command: str, tmp_path: Path) -> None:
    options = parsed(command, "--env", "CartPole-v1", "-o", "out", "--calibration", "noise=0.2")
    assert source_options(options)["observations"] is None
    assert settings_from(options).calibration_source == "noise=0.2"
    for source in ("log.npz", "minari:a/b-v0", str(tmp_path)):
        options = parsed(command, "--env", "CartPole-v1", "-o", "out", "--calibration", source)
        assert source_options(options)["observations"] == source
        assert settings_from(options).calibration_source == "policy"
    both = parsed(command, "-o", "out", "--calibration", "random", "--observations", "log.npz")
    with pytest.raises(UsageError, match="give one of them"):
        source_options(both)


def test_a_log_beside_a_zoo_agent_leaves_it_its_environment() -> None:
    new = parsed("convert", "-o", "out", "--calibration", "log.npz")
    assert environment_for("zoo:cartpole-dqn", new).env_id == "CartPole-v1"
    old = parsed("convert", "-o", "out", "--observations", "log.npz")
    assert environment_for("zoo:cartpole-dqn", old) is None


def test_commands_that_convert_anew_say_the_source_again() -> None:
    manifest = {"name": "x", "artefacts": {"agent/agent.keras": {}}, "environment": {"env_id": "CartPole-v1"}}
    again = Case.of_manifest("BUNDLE", manifest | {"calibration": {"source": "noise=0.2"}}, 20).again
    assert again is not None
    assert again[-2:] == ("--calibration", "noise=0.2")
    for source in ("policy", "recorded", "minari"):
        assert Case.of_manifest("BUNDLE", manifest | {"calibration": {"source": source}}, 20).again == ()


def test_calibrate_says_what_it_took_and_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["calibrate", "zoo:pendulum-td3", "-o", str(tmp_path / "x"), "--calibration-episodes", "1"]
    assert run(command) == 0
    said = capsys.readouterr().out
    assert "200 of 200 observations from 1 episodes" in said
    assert "Warning: The calibration set (policy) does not hold" in said
    assert run([*command, "--calibration", "space", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["source"], found["episodes"], found["check"]["warning"]) == ("space", 0, None)
