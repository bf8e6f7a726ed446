"""Three kinds of agent that the verdict tells apart: good, broken, and good but for a rare catastrophe.

The third is real: `tests/data/rare_event.keras` holds its platform in any wind, and its int8 policy, whose
ranges end where calibration ended, is blown off by the gust that comes in one episode of a hundred.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.agents.from_keras import load_agent
from edgeqrl.backends import open_float_policy
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.backends.keras import KerasPolicy
from edgeqrl.calibrate import CalibrationSet, calibrate
from edgeqrl.cli.main import run
from edgeqrl.environments import EnvironmentSpec, spaces
from edgeqrl.interfaces import State
from edgeqrl.quantize.quantize import QuantizedPolicy, quantize
from edgeqrl.quantize.scheme import require_scheme
from edgeqrl.quantize.tflite import Converter
from edgeqrl.rollout import rollout
from edgeqrl.validate.criteria import PairedEpisodes, Verdict, decide
from edgeqrl.validate.report import ValidationReport
from edgeqrl.validate.statistics import bootstrap_interval
from edgeqrl.validate.terms import Declared, Terms
from edgeqrl.validate.verdict import validate
from edgeqrl.zoo import find_zoo_agent
from tests.make_rare_event import AGENT
from tests.rare import GAINS, STEPS, has_gust

RARE_ID = "tests.rare:RareEvent-v0"
NEAR_100 = Path(__file__).parent / "data" / "cartpole_q_near_100.keras"
SHORT_CART_POLE = EnvironmentSpec("CartPole-v1", {"max_episode_steps": 200})  # only to be quick
JUDGED = range(20_000, 22_000)  # the default seeds of a first judgement


@dataclass(frozen=True, eq=False)
class Subject:
    """A quantized agent with what it was calibrated on."""

    calibration: CalibrationSet
    quantized: QuantizedPolicy

    def judge(self, environment: EnvironmentSpec, **options: Any) -> ValidationReport:
        """Return the verdict on the C of this host."""
        host = HostCPolicy(self.quantized.integer_policy())
        made = self.quantized
        with open_float_policy(made.float_tflite, made.head, made.preprocessing) as in_float:
            return validate(in_float, host, environment.make, other_seeds=self.calibration.seeds, **options)


Convert = Callable[..., Subject]


@pytest.fixture(scope="module")
def convert() -> Iterator[Convert]:
    """Calibrates and quantizes as the command line does; one converter serves all."""
    with Converter() as converter:

        def subject(agent: Path | str, environment: str, scheme: str = "int8", **options: int) -> Subject:
            spec = EnvironmentSpec(environment)
            known = spaces(spec.make)
            path = agent if isinstance(agent, Path) else find_zoo_agent(agent.removeprefix("zoo:")).path
            loaded = load_agent(path, known.observation_space, known.action_space)
            calibration = calibrate(KerasPolicy(loaded), spec.make, env_id=environment, **options)
            found = quantize(loaded, calibration, scheme=require_scheme(scheme), converter=converter)
            return Subject(calibration, found)

        yield subject


@pytest.fixture(scope="module")
def rare(convert: Convert) -> Subject:
    """The agent that meets its gust only after calibration."""
    return convert(AGENT, RARE_ID)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that the command line makes of it, with every option at its default."""
    folder = tmp_path_factory.mktemp("three") / "rare"
    assert run(["convert", str(AGENT), "--env", RARE_ID, "-o", str(folder)]) == 7
    return folder


@pytest.fixture(scope="module")
def judged(bundle: Path) -> dict[str, Any]:
    """Its report."""
    return dict(json.loads((bundle / "report.json").read_text()))


def criteria_of(report: ValidationReport) -> dict[str, Verdict]:
    return {criterion.name: criterion.verdict for criterion in report.criteria}


# Good, and broken by the bare converter


def test_good_int8_passes(convert: Convert) -> None:
    report = convert("zoo:cartpole-dqn", "CartPole-v1").judge(SHORT_CART_POLE)
    assert report.verdict is Verdict.PASS, report.sentence
    assert report.num_failures == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent", "environment"),
    [
        ("zoo:cartpole-dqn", "CartPole-v1"),
        ("zoo:acrobot-dqn", "Acrobot-v1"),
        ("zoo:lunarlander-dqn", "LunarLander-v3"),
        (NEAR_100, "CartPole-v1"),
    ],
)
def test_good_int8_passes_in_whole_episodes(convert: Convert, agent: Path | str, environment: str) -> None:
    report = convert(agent, environment).judge(EnvironmentSpec(environment))
    assert report.verdict is Verdict.PASS, report.sentence


def test_bare_converter_fails_at_the_first_look_where_the_rewrites_pass(convert: Convert) -> None:
    report = convert(NEAR_100, "CartPole-v1", scheme="int8-bare").judge(SHORT_CART_POLE)
    assert (report.verdict, len(report.seeds)) == (Verdict.FAIL, 64)
    assert "more than the margin" in report.sentence
    report = convert(NEAR_100, "CartPole-v1").judge(SHORT_CART_POLE)
    assert report.verdict is Verdict.PASS, report.sentence
    assert report.worst_pair["loss"] == 0.0


# Rare catastrophe


def test_float_policy_withstands_every_gust_and_its_int8_policy_none(rare: Subject) -> None:
    gusty = [seed for seed in JUDGED if has_gust(seed)]
    calm = [seed for seed in JUDGED if not has_gust(seed)][:200]
    assert 0.005 < len(gusty) / len(JUDGED) < 0.015
    assert not any(has_gust(seed) for seed in rare.calibration.seeds)
    assert np.abs(rare.calibration.observations).max() < 0.3, "a gust is ten times as strong"
    make = EnvironmentSpec(RARE_ID).make
    host = HostCPolicy(rare.quantized.integer_policy())
    with open_float_policy(rare.quantized.float_tflite, rare.quantized.head) as in_float:
        assert rollout(in_float, make, gusty).episode_returns.min() > 0.9 * STEPS
        assert rollout(in_float, make, calm).episode_returns.min() > 0.9 * STEPS
    assert rollout(host, make, gusty).episode_returns.max() < 0.3 * STEPS
    assert rollout(host, make, calm).episode_returns.min() > 0.9 * STEPS


def test_float_network_is_the_law_that_its_script_states(rare: Subject) -> None:
    observations = np.random.default_rng(0).uniform(-0.9, 0.9, (100, 3)).astype(np.float32)
    with open_float_policy(rare.quantized.float_tflite, rare.quantized.head) as in_float:
        actions, _ = in_float.act(observations, None, episode_start=np.ones(100, np.bool_))
    np.testing.assert_allclose(actions[:, 0], observations @ np.array(GAINS), atol=1e-5)


def test_rare_catastrophe_within_the_mean_margin_does_not_pass(judged: dict[str, Any]) -> None:
    num_gusts = sum(has_gust(seed) for seed in JUDGED)
    assert (judged["verdict"], judged["episodes"]) == ("INCONCLUSIVE", len(JUDGED))
    assert (judged["failures"]["float"], judged["failures"]["quantized"]) == (0, num_gusts)
    verdicts = {criterion["name"]: criterion["verdict"] for criterion in judged["criteria"]}
    assert verdicts == {"return": "PASS", "failures": "INCONCLUSIVE", "chatter": "PASS"}
    assert f"{num_gusts} of its episodes failed and 0 of the float policy's" in judged["sentence"]
    # What would have passed it: the mean, its bootstrap interval, the likeness of actions.
    assert judged["return_drop"]["mean"] < judged["terms"]["margin"] / 3
    assert judged["return_drop"]["high"] < judged["terms"]["margin"] / 2
    assert judged["likeness"]["action_error"] < 0.04, "half a percent of the range"


def test_tail_and_worst_pair_show_the_catastrophe(judged: dict[str, Any]) -> None:
    worst, tail = judged["worst_pair"], judged["cvar"]
    assert has_gust(worst["seed"])
    assert worst["quantized_return"] < judged["baseline"]["random_return"]["mean"] < worst["float_return"]
    assert worst["loss"] < judged["terms"]["worst_loss"]
    assert tail["float"] - tail["quantized"] > 10 * judged["return_drop"]["mean"]


def test_command_line_fails_a_loss_beyond_the_declared_worst(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["validate", str(bundle), "--env", RARE_ID, "--env-arg", "damage=1000", "--worst-loss", "60"]
    assert run([*command, "--json"]) == 6
    sentence = json.loads(capsys.readouterr().out)["sentence"]
    assert "more than the 60.0 declared as the worst" in sentence


def test_without_the_criterion_of_failures_it_would_pass(rare: Subject) -> None:
    report = rare.judge(EnvironmentSpec(RARE_ID), declared=Declared(max_failures=None))
    assert report.verdict is Verdict.PASS


def test_more_frequent_catastrophe_fails(rare: Subject) -> None:
    report = rare.judge(EnvironmentSpec(RARE_ID, {"rate": 0.04}), num_episodes=960)
    assert report.verdict is Verdict.FAIL
    assert criteria_of(report)["failures"] is Verdict.FAIL
    assert "of its episodes failed and 0 of the float policy's" in report.sentence
    assert report.return_drop.low < report.terms.margin, "the mean alone would not tell"


def test_loss_beyond_the_declared_worst_fails_at_once(rare: Subject) -> None:
    damaging = EnvironmentSpec(RARE_ID, {"damage": 1000.0})
    report = rare.judge(damaging, declared=Declared(worst_loss=60))
    first = next(seed for seed in JUDGED if has_gust(seed))
    assert report.verdict is Verdict.FAIL
    assert len(report.seeds) == 64 * ((first - JUDGED.start) // 64 + 1)
    assert f"in the episode with seed {first} it lost" in report.sentence
    assert "more than the 60.0 declared as the worst" in report.sentence


def test_costly_catastrophe_within_the_declared_worst_loss_does_not_pass(rare: Subject) -> None:
    declared = Declared(worst_loss=250, max_failures=None)
    report = rare.judge(EnvironmentSpec(RARE_ID, {"damage": 150.0}), declared=declared, num_episodes=960)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.return_drop.mean > report.terms.margin
    assert "does not decide about the margin" in report.sentence


def test_calibration_that_met_gusts_is_the_cure(convert: Convert) -> None:
    cured = convert(AGENT, RARE_ID, num_episodes=1000)
    wind = cured.calibration.observations[:, 2]
    assert wind.min() < -2.0, "a gust from either side: the ranges of one do not serve the other"
    assert wind.max() > 2.0
    report = cured.judge(EnvironmentSpec(RARE_ID))
    assert report.verdict is Verdict.PASS, report.sentence


# Hundreds of verdicts on blocks of seeds: how often a catastrophe at the limit slips through


@pytest.mark.parametrize("num_blocks", [200, pytest.param(4000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", [0.0, 150.0])
def test_blocks_that_lack_the_catastrophe_fool_the_bootstrap_and_not_the_verdict(
    rare: Subject, damage: float, num_blocks: int
) -> None:
    """Pairs that were really played, drawn into blocks with a gust in one of a hundred."""
    make = EnvironmentSpec(RARE_ID, {"damage": damage}).make
    host = HostCPolicy(rare.quantized.integer_policy())
    gusty = [seed for seed in range(30_000, 60_000) if has_gust(seed)][:60]
    calm = [seed for seed in range(30_000, 31_000) if not has_gust(seed)][:600]
    with open_float_policy(rare.quantized.float_tflite, rare.quantized.head) as in_float:
        played = [
            np.stack([rollout(policy, make, seeds).episode_returns for policy in (in_float, host)])
            for seeds in (gusty, calm)
        ]
    losses = [float_returns - quantized for float_returns, quantized in played]
    true_loss = 0.01 * losses[0].mean() + 0.99 * losses[1].mean()
    # The limit is the truth itself, of the failures or else of the mean: a wrong PASS is likeliest there.
    terms = (
        Terms(true_loss, 300.0, True, 0.05, 1, None, None, failure_return=-np.inf)
        if damage
        else Terms(1.2, 48.0, True, 0.05, 1, max_failures=0.01, max_chatter=None, failure_return=20.0)
    )
    rng = np.random.default_rng(7)
    wrong, fooled = 0, 0
    for block in range(num_blocks):
        pairs = np.where(
            rng.random(2000) < 0.01,
            played[0][:, rng.integers(len(gusty), size=2000)],
            played[1][:, rng.integers(len(calm), size=2000)],
        )
        verdict, _ = decide(PairedEpisodes(pairs[0], pairs[1], None, None), terms)
        wrong += verdict is Verdict.PASS
        hundred = pairs[0, :100] - pairs[1, :100]
        high = bootstrap_interval(hundred, confidence=0.9, seed=block, num_resamples=299).high
        fooled += high <= terms.margin
    calm_pairs = PairedEpisodes(*np.tile(played[1], 4)[:, :2000], None, None)
    assert decide(calm_pairs, terms)[0] is Verdict.PASS, "it can pass"
    assert wrong <= terms.level * num_blocks
    assert fooled > 3 * terms.alpha * num_blocks


class OneStepEnv(gymnasium.Env[Any, Any]):
    """One step: action 0 pays 100, the nine others nothing."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(10)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> Any:
        return np.zeros(1, np.float32), 100.0 * (action == 0), True, False, {}


class MoodyPolicy:
    """Acts by `choose`, and by its contrary (1 - action) in episodes that their own generators pick."""

    def __init__(self, choose: Callable[[NDArray[Any]], NDArray[np.int64]], rate: float = 0.0) -> None:
        self.name = f"moody in {rate:.3g}"
        self.choose, self.rate = choose, rate

    def act(
        self,
        observations: NDArray[Any],
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        assert rng is not None
        is_moody = np.zeros(len(observations), np.bool_) if state is None else state[0].copy()
        for row in np.flatnonzero(episode_start):
            is_moody[row] = rng[row].random() < self.rate
        action = self.choose(observations)
        return np.where(is_moody, 1 - action, action), (is_moody,)


def balance(observations: NDArray[Any]) -> NDArray[np.int64]:
    """A good controller of CartPole."""
    return (observations @ np.array([0.1, 0.3, 1.0, 1.0]) > 0.0).astype(np.int64)


def always_first(observations: NDArray[Any]) -> NDArray[np.int64]:
    return np.zeros(len(observations), np.int64)


@pytest.mark.parametrize(("rate", "verdict"), [(0.0, Verdict.PASS), (0.01, Verdict.INCONCLUSIVE)])
def test_cart_pole_controller_with_a_mood_does_not_pass(rate: float, verdict: Verdict) -> None:
    cart_pole = EnvironmentSpec("CartPole-v1", {"max_episode_steps": 60})
    report = validate(MoodyPolicy(balance), MoodyPolicy(balance, rate), cart_pole.make, num_episodes=960)
    assert report.verdict is verdict, report.sentence
    assert report.return_drop.high < report.terms.margin, "the mean alone would have passed it"
    if rate:
        assert 0.005 < report.num_failures[1] / len(report.seeds) < 0.02
        assert f"{report.num_failures[1]} of its episodes failed" in report.sentence
        assert report.worst_pair["quantized_return"] < report.baseline.random_return.mean


@pytest.mark.parametrize("num_verdicts", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_catastrophe_at_the_limit_passes_no_more_often_than_alpha(num_verdicts: int) -> None:
    """Whole verdicts, each on seeds of its own: counted within two standard deviations of their level."""
    passed = 0
    for block in range(num_verdicts):
        report = validate(
            MoodyPolicy(always_first), MoodyPolicy(always_first, 0.01), OneStepEnv, seed=1_000_000 * block
        )
        passed += report.verdict is Verdict.PASS
        assert criteria_of(report)["return"] is Verdict.PASS, "a mean loss of 1 is far within the margin"
    expected = report.terms.level * num_verdicts
    assert passed <= expected + 2.0 * expected**0.5


def test_faultless_policy_passes_on_every_block() -> None:
    for block in range(3):
        report = validate(
            MoodyPolicy(always_first), MoodyPolicy(always_first), OneStepEnv, seed=1_000_000 * block
        )
        assert (report.verdict, len(report.seeds)) == (Verdict.PASS, 448)
