"""The verdict: policies whose loss is known by construction."""

import json
import re
from typing import Any

import numpy as np
import pytest

from edgeqrl.errors import UsageError
from edgeqrl.rollout import RandomPolicy
from edgeqrl.validate.agreement import AgreementCounter, ShadowedPolicy
from edgeqrl.validate.criteria import Verdict
from edgeqrl.validate.terms import Declared
from edgeqrl.validate.verdict import (
    EPISODES_A_LOOK,
    baseline_seeds_of,
    default_seed,
    require_disjoint,
    validate,
)
from tests.parts import MaskedPartsEnv, PartsEnv, PartsPolicy
from tests.toys import (
    FixedPolicy,
    TargetEnv,
    TargetPolicy,
)

PASS, FAIL, OPEN = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_episodes": 0}, "2 to 500,000 episodes, not 0"),
        ({"num_episodes": 1}, "2 to 500,000 episodes, not 1"),
        ({"num_episodes": 3_000_000_000}, "2 to 500,000 episodes, not 3000000000"),
        ({"other_seeds": [range(20_500, 30_000)]}, "Seed 20500 serves both validation and calibration"),
        ({"other_seeds": [9, 20_199]}, "Seed 20199 serves both validation and calibration or selection"),
        ({"other_seeds": [520_000]}, "Seed 520000 serves both the baseline and"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_played(options: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        validate(FixedPolicy(0), FixedPolicy(0), no_environment, **options)


def no_environment() -> Any:
    pytest.fail("an environment was made")


def test_seeds_may_repeat_within_a_group_but_not_across() -> None:
    require_disjoint({"a": [1, 1, 2], "b": range(3, 5), "c": []})
    with pytest.raises(UsageError, match="Seed 2 serves both a and c"):
        require_disjoint({"a": [1, 2], "b": [3], "c": [range(2, 10**12)]})


def test_judgements_take_seeds_of_their_own() -> None:
    taken: set[int] = set()
    for judgement in range(1, 41):
        first = default_seed(judgement)
        for seeds in (range(first, first + 2000), baseline_seeds_of(first)):
            assert taken.isdisjoint(seeds)
            taken |= set(seeds)


# TargetEnv pays 1 for each of 20 right answers: a policy that is wrong every k-th time loses 20 // k.
LENIENT = Declared(margin=0.5, worst_loss=3.0, max_failures=None, max_chatter=None)


@pytest.mark.parametrize(
    ("wrong_every", "drop", "verdict"),
    [(0, 0.0, PASS), (21, 0.0, PASS), (20, 1.0, FAIL), (10, 2.0, FAIL), (2, 10.0, FAIL)],
)
def test_known_loss_is_found_and_judged(wrong_every: int, drop: float, verdict: Verdict) -> None:
    report = validate(
        TargetPolicy("keras"),
        TargetPolicy("host-c", wrong_every),
        TargetEnv,
        num_episodes=40,
        declared=LENIENT,
    )
    assert report.verdict is verdict
    assert report.return_drop.mean == pytest.approx(drop)
    assert report.likeness.action_agreement == pytest.approx(1 - drop / 20)
    assert report.likeness.action_error is None
    assert report.likeness.num_steps == 800
    assert report.correlation == pytest.approx(1.0)
    assert report.baseline.random_return.mean == pytest.approx(5.0, abs=1.5)
    assert str(report.sentence).startswith(f"{verdict}: over 40 paired episodes")


def test_default_terms_decide_without_options() -> None:
    report = validate(TargetPolicy("keras"), TargetPolicy("host-c", 4), TargetEnv)
    assert report.terms.margin == pytest.approx(0.75, abs=0.1)  # 5 % of 20 - 5
    assert report.terms.worst_loss == pytest.approx(30.0, abs=3.0)
    assert report.verdict is FAIL
    report = validate(TargetPolicy("keras"), TargetPolicy("host-c"), TargetEnv)
    assert report.verdict is PASS


def test_episodes_stop_when_the_answer_is_in() -> None:
    report = validate(TargetPolicy("keras"), TargetPolicy("host-c", 2), TargetEnv, declared=LENIENT)
    assert len(report.seeds) == EPISODES_A_LOOK
    assert report.max_episodes == 2000
    report = validate(TargetPolicy("keras"), TargetPolicy("host-c"), TargetEnv)
    assert 406 <= len(report.seeds) <= 406 + EPISODES_A_LOOK
    assert report.seeds == tuple(range(20_000, 20_000 + len(report.seeds)))


def test_looks_do_not_change_the_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = Declared(margin=1.5, worst_loss=20.0, max_failures=None, max_chatter=None)

    def play() -> Any:
        return validate(
            TargetPolicy("keras"), Erratic("host-c"), TargetEnv, num_episodes=100, declared=declared
        )

    ours = play()
    monkeypatch.setattr("edgeqrl.validate.verdict.EPISODES_A_LOOK", 7)
    others = play()
    shared = min(len(ours.seeds), len(others.seeds))
    assert ours.pairs.losses[:shared].tolist() == others.pairs.losses[:shared].tolist()
    assert ours.verdict is others.verdict


def test_large_observations_are_kept_of_fewer_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeqrl.validate.verdict._MOST_KEPT_BYTES", 5 * 2 * 4 * 1000)
    report = validate(TargetPolicy("keras"), TargetPolicy("host-c"), TargetEnv, num_episodes=40)
    assert (report.likeness.num_episodes, len(report.seeds)) == (5, 40)


class Erratic(TargetPolicy):
    """Right in most episodes, wrong in all of a few."""

    def act(self, observations: Any, state: Any, *, episode_start: Any, **others: Any) -> Any:
        rng = others["rng"]
        drawn = np.array([generator.random() < 0.1 for generator in rng])
        is_bad = drawn if state is None else np.where(episode_start, drawn, state[0])
        target = observations[:, 0].astype(np.int64)
        return np.where(is_bad, (target + 1) % 4, target), (is_bad,)


def test_few_catastrophes_do_not_decide_soon() -> None:
    declared = Declared(margin=2.5, max_failures="20%")
    report = validate(TargetPolicy("keras"), Erratic("host-c"), TargetEnv, num_episodes=40, declared=declared)
    assert report.verdict is OPEN
    assert "episodes would likely decide" in report.sentence
    assert report.episodes_to_decide is not None
    worst = report.worst_pair
    assert worst["loss"] == pytest.approx(20.0)
    assert worst["seed"] in report.seeds
    float_failures, failures = report.num_failures
    assert (float_failures, failures) == (0, int(np.sum(report.pairs.losses > 10.0)))
    assert failures > 0


def test_loss_beyond_the_declared_worst_fails() -> None:
    declared = Declared(margin=2.5, worst_loss=19.0, max_failures=None)
    report = validate(TargetPolicy("keras"), Erratic("host-c"), TargetEnv, num_episodes=40, declared=declared)
    assert report.verdict is FAIL
    assert "it lost 20.0, more than the 19.0 declared as the worst" in report.sentence
    loss, _ = report.criteria
    assert loss.breach == "loss"
    assert loss.low is loss.high is None


class Gaining(TargetPolicy):
    """Wrong in all of some episodes: as float policy, it makes any other gain there."""

    act = Erratic.act


def test_gain_beyond_the_declared_worst_proves_no_loss() -> None:
    declared = Declared(margin=0.5, worst_loss=10.0, max_failures=None, max_chatter=None)
    report = validate(
        Gaining("keras"), TargetPolicy("host-c", 4), TargetEnv, num_episodes=40, declared=declared
    )
    loss = report.criteria[0]
    assert (report.verdict, loss.breach, loss.low) == (OPEN, "gain", None)
    assert loss.high is not None
    assert "it gained 15.0 on the float policy, more than the 10.0 declared as the worst" in report.sentence
    assert report.sentence.endswith("declare another with --worst-loss.")


def test_float_policy_no_better_than_random_leaves_nothing_to_preserve() -> None:
    space = TargetEnv().action_space
    report = validate(RandomPolicy(space), RandomPolicy(space), TargetEnv, num_episodes=100)
    assert report.verdict is Verdict.NOTHING_TO_PRESERVE
    assert report.sentence.startswith("NOTHING TO PRESERVE: the float policy returns")
    assert report.likeness.action_agreement == 1.0  # both draw the same numbers
    assert report.criteria == ()
    assert len(report.seeds) == EPISODES_A_LOOK


def test_few_episodes_never_pass() -> None:
    report = validate(TargetPolicy("keras"), TargetPolicy("host-c"), TargetEnv, num_episodes=20)
    assert report.verdict is OPEN
    assert "about 390 more episodes would likely decide" in report.sentence


@pytest.mark.parametrize(
    ("quantized", "declared", "sentence"),
    [
        (
            TargetPolicy("host-c"),
            {},
            r"it loses less than 0\.\d+ on average, within the margin of 0\.5 \(97\.5 % confi",
        ),
        (
            TargetPolicy("host-c", 20),
            {},
            r"it loses at least 0\.\d+ on average, more than the margin of 0\.5 \(",
        ),
        (
            Erratic("host-c"),
            {"max_failures": "2%", "margin": 10.0, "worst_loss": 30.0},
            r"of its episodes failed and 0 of .* at least .* % of episodes more, and 2 % is allowed \(97",
        ),
    ],
)
def test_sentence_says_what_was_found(quantized: Any, declared: Any, sentence: str) -> None:
    terms = Declared(
        **{"margin": 0.5, "worst_loss": 3.0, "max_failures": None, "max_chatter": None, **declared}
    )
    report = validate(TargetPolicy("keras"), quantized, TargetEnv, num_episodes=400, declared=terms)
    assert re.search(sentence, report.sentence)


def test_report_has_the_glossarys_names_and_is_plain_json() -> None:
    declared = Declared(alpha=0.1, margin=1.0, worst_loss=10.0)
    report = validate(
        TargetPolicy("keras"),
        TargetPolicy("host-c", 5),
        TargetEnv,
        num_episodes=32,
        seed=700,
        judgement=2,
        declared=declared,
    )
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["verdict"] == "FAIL"
    for name in ("float_return", "quantized_return", "return_drop"):
        assert data[name]["low"] <= data[name]["mean"] <= data[name]["high"]
    assert data["return_drop"]["confidence"] == pytest.approx(0.8)
    assert data["float_return"]["confidence"] == 0.95
    assert (data["backend"], data["float_backend"]) == ("host-c", "keras")
    assert (data["episodes"], data["seeds"]) == (32, {"first": 700, "count": 32})
    assert data["baseline"]["seeds"] == {"first": 500_700, "count": 100}
    assert data["likeness"]["action_agreement"] == pytest.approx(0.8)
    assert data["terms"]["alpha_of_judgement"] == pytest.approx(0.025)
    assert data["cvar"]["quantized"] < data["cvar"]["float"] < data["float_return"]["mean"]
    assert data["failures"]["threshold"] == pytest.approx(data["terms"]["failure_return"])
    assert [c["name"] for c in data["criteria"]] == ["return", "failures", "chatter"]
    detail = data["episodes_detail"]
    assert detail["seed"] == list(range(700, 732))
    assert {len(column) for column in detail.values()} == {32}
    assert set(detail["float_length"]) == {20}
    drops = np.subtract(detail["float_return"], detail["quantized_return"])
    assert drops.mean() == pytest.approx(data["return_drop"]["mean"])
    assert data["terms"]["alpha"] == 0.1


def test_validation_is_decided_by_its_seed() -> None:
    first, again, other = (
        validate(Erratic("keras"), Erratic("host-c"), TargetEnv, num_episodes=12, seed=seed).to_json()
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_progress_runs_from_start_to_the_answer() -> None:
    calls: list[tuple[int, int]] = []
    validate(
        TargetPolicy("keras"),
        TargetPolicy("host-c"),
        TargetEnv,
        num_episodes=40,
        progress=lambda *call: calls.append(call),
    )
    assert calls == [(done, 280) for done in range(1, 281)]


@pytest.mark.parametrize("make_env", [PartsEnv, MaskedPartsEnv])
def test_policies_of_parts_choices_memory_and_draws_are_compared(make_env: Any) -> None:
    class Scoring(PartsPolicy):
        def outputs(self, observations: Any) -> Any:
            raise AssertionError("a policy with memory cannot answer for one observation")

    report = validate(Scoring(), Scoring(), make_env, num_episodes=4)
    found = report.likeness
    assert (found.action_agreement, found.divergence.never) == (1.0, 1.0)
    assert (found.regret, found.kl) == (None, None)
    assert found.chatter is not None
    assert len(found.visitation) == 2 + 4 + 1 + 4
    assert np.array_equal(report.pairs.float_returns, report.pairs.quantized_returns)


def test_comparison_gives_a_policy_no_more_episodes_at_a_time_than_it_takes() -> None:
    slow = PartsPolicy()
    slow.most_envs = 1  # type: ignore[attr-defined]
    assert ShadowedPolicy(PartsPolicy(), slow, AgreementCounter()).most_envs == 1
    assert ShadowedPolicy(PartsPolicy(), PartsPolicy(), AgreementCounter()).most_envs > 10**6
