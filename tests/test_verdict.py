"""The verdict: terms and criteria by hand, then policies whose loss is known by construction."""

import json
import re
from typing import Any

import gymnasium
import numpy as np
import pytest

from edgeqrl.errors import AgentError, DataError, UsageError
from edgeqrl.rollout import RandomPolicy, rollout
from edgeqrl.validate.agreement import AgreementCounter, ShadowedPolicy
from edgeqrl.validate.betting import Bounds, mean_bounds
from edgeqrl.validate.criteria import PairedEpisodes, Verdict, combined, decide, judge, quantities
from edgeqrl.validate.terms import Declared, Terms, default_margin
from edgeqrl.validate.verdict import (
    EPISODES_A_LOOK,
    agreement_on,
    baseline_seeds_of,
    default_seed,
    require_disjoint,
    validate,
)
from tests.toys import (
    ChaosEnv,
    FixedPolicy,
    InfoMaskEnv,
    IntegerPolicy,
    RecurrentPolicy,
    TargetEnv,
    TargetPolicy,
)

# Terms.


@pytest.mark.parametrize(
    ("float_mean", "random_mean", "expected"),
    [
        (500, 22, 23.9),
        (-150, -1195, 7.5),
        (250, -180, 12.5),
        (-80, -500, 4.0),
        (0, -5, 0.0),
    ],
)
def test_default_margin_is_5_percent_of_the_smaller_scale(
    float_mean: float, random_mean: float, expected: float
) -> None:
    assert default_margin(float_mean, random_mean) == pytest.approx(expected)
    assert Declared().resolve(float_mean, random_mean, 0.0, 1).margin == pytest.approx(expected)


@pytest.mark.parametrize(
    ("margin", "expected"),
    [(None, 4.0), ("5%", 4.0), (" 10 % ", 8.0), ("7.5", 7.5), (12, 12.0), ("1e1", 10)],
)
def test_margin_is_a_percentage_or_a_number(margin: Any, expected: float) -> None:
    assert Declared(margin=margin).resolve(100.0, 20.0, 0.0, 1).margin == pytest.approx(expected)


@pytest.mark.parametrize(
    ("worst_loss", "expected"), [(None, 160.0), ("200%", 160.0), ("50 %", 40.0), (500, 500.0), ("12.5", 12.5)]
)
def test_worst_loss_is_a_percentage_of_the_advantage_or_a_number(worst_loss: Any, expected: float) -> None:
    assert Declared(worst_loss=worst_loss).resolve(100.0, 20.0, 0.0, 1).worst_loss == pytest.approx(expected)


@pytest.mark.parametrize(("spread", "expected"), [(100.0, 160.0), (170.0, 170.0)])
def test_no_return_of_the_baseline_lies_beyond_the_assumed_worst_loss(spread: float, expected: float) -> None:
    terms = Declared().resolve(100.0, 20.0, spread, 1)
    assert (terms.worst_loss, terms.is_worst_loss_declared) == (expected, False)
    terms = Declared(worst_loss="200%").resolve(100.0, 20.0, spread, 1)
    assert (terms.worst_loss, terms.is_worst_loss_declared) == (160.0, True)


def test_terms_follow_from_what_was_measured_before() -> None:
    terms = Declared(max_failures="2%", max_chatter=0.25).resolve(
        float_mean=-150.0, random_mean=-1150.0, spread=1.0, judgement=3
    )
    assert terms == Terms(
        margin=7.5,
        worst_loss=2000.0,
        is_worst_loss_declared=False,
        alpha=0.05,
        judgement=3,
        max_failures=0.02,
        max_chatter=0.25,
        failure_return=-900.0,
    )
    assert terms.level == 0.05 / 8


def test_all_judgements_together_err_with_a_chance_of_alpha() -> None:
    levels = [Declared().resolve(100.0, 0.0, 0.0, judgement).level for judgement in range(1, 40)]
    assert levels[0] == 0.025
    assert sum(levels) == pytest.approx(0.05)
    assert sum(levels) <= 0.05


WRONG_AMOUNTS = ["", "%", "five", "-1", -0.5, "nan", "inf%", "5%%", float("inf"), 0.0, "0%"]


@pytest.mark.parametrize("amount", [*WRONG_AMOUNTS, "none"])
@pytest.mark.parametrize("name", ["margin", "worst_loss"])
def test_amount_that_cannot_be_is_refused(name: str, amount: Any) -> None:
    with pytest.raises(UsageError, match="must be a positive number in return units or a percentage"):
        Declared(**{name: amount})


@pytest.mark.parametrize("share", [*WRONG_AMOUNTS, 1, "50", 1.0])
@pytest.mark.parametrize("name", ["max_failures", "max_chatter"])
def test_share_that_cannot_be_is_refused(name: str, share: Any) -> None:
    with pytest.raises(UsageError, match="must be a percentage, as '1%', or a number below 1"):
        Declared(**{name: share})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"margin": "5%"}),
        ({"margin": 10}, {"margin": " 10.0 "}),
        ({"worst_loss": "300%"}, {"worst_loss": "3e2 %"}),
        ({"max_failures": "2%"}, {"max_failures": 0.02}),
        ({}, {"max_chatter": "0.5"}),
    ],
)
def test_terms_are_the_same_however_they_are_spelled(one: Any, other: Any) -> None:
    assert Declared(**one).canonical() == Declared(**other).canonical()


def test_different_terms_differ() -> None:
    options: list[dict[str, Any]] = [
        {},
        {"margin": 5},
        {"worst_loss": "200%"},
        {"alpha": 0.1},
        {"max_failures": None},
        {"max_chatter": "60%"},
    ]
    spelled = [json.dumps(Declared(**option).canonical()) for option in options]
    assert len(set(spelled)) == len(options)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0, 1.0, 1e-300])
def test_alpha_must_be_a_chance_of_error(alpha: float) -> None:
    with pytest.raises(UsageError, match="alpha must lie between"):
        Declared(alpha=alpha)


def test_all_episodes_cannot_be_allowed_to_fail() -> None:
    with pytest.raises(UsageError, match="must be below 100%"):
        Declared(max_failures="100%")


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        (Declared(margin=30.0), "not below the worst loss of an episode, 30"),
        (Declared(margin=5.0, worst_loss=4.0), "5 is not below the worst loss of an episode, 4"),
    ],
)
def test_margin_beyond_the_worst_loss_is_refused(declared: Declared, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        declared.resolve(20.0, 5.0, 0.0, 1).require_sound()


def test_float_policy_that_earns_0_needs_a_stated_margin() -> None:
    with pytest.raises(UsageError, match="Declare what may be lost with --margin"):
        Declared().resolve(0.0, -5.0, 0.0, 1).require_sound()


# Criteria.


def paired(
    quantized: Any, *, float_return: float = 100.0, chatter: tuple[float, float] | None = None
) -> PairedEpisodes:
    returns = np.asarray(quantized, np.float64)
    rates = [None, None] if chatter is None else [np.full(len(returns), rate) for rate in chatter]
    return PairedEpisodes(np.full(len(returns), float_return), returns, *rates)


def terms_of(**declared: Any) -> Terms:
    return Declared(**declared).resolve(100.0, 0.0, 0.0, 1)


def test_quantities_are_paired_and_have_declared_limits() -> None:
    pairs = PairedEpisodes(
        np.array([100.0, 90.0, 20.0]),
        np.array([90.0, 10.0, 30.0]),
        np.array([0.2, 0.2, 0.4]),
        np.array([0.2, 0.4, 0.6]),
    )
    loss, failures, chatter = quantities(pairs, terms_of())
    assert (loss.name, loss.limit, loss.bounds) == ("return", 5.0, Bounds(-200.0, 200.0))
    assert loss.values.tolist() == [10.0, 80.0, -10.0]
    assert (failures.name, failures.limit, failures.bounds) == ("failures", 0.01, Bounds(-1.0, 1.0))
    assert failures.values.tolist() == [0.0, 1.0, -1.0]  # below 25
    assert (chatter.name, chatter.limit, chatter.bounds) == ("chatter", 0.02, Bounds(-1.5, 1.0))
    assert chatter.values == pytest.approx([-0.1, 0.1, 0.0])


def test_criteria_that_were_not_asked_for_are_not_judged() -> None:
    assert [q.name for q in quantities(paired([1.0]), terms_of())] == ["return", "failures"]
    without = terms_of(max_failures=None, max_chatter=None)
    assert [q.name for q in quantities(paired([1.0], chatter=(0.1, 0.1)), without)] == ["return"]


PASS, FAIL, OPEN = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([PASS], PASS),
        ([PASS, PASS, PASS], PASS),
        ([PASS, OPEN], OPEN),
        ([OPEN, FAIL], FAIL),
        ([PASS, FAIL], FAIL),
    ],
)
def test_pass_needs_all_and_fail_needs_one(verdicts: list[Verdict], expected: Verdict) -> None:
    assert combined(verdicts) is expected


@pytest.mark.parametrize(
    ("quantized", "declared", "expected"),
    [
        ([100.0] * 405, {}, OPEN),  # 0 failures in so few do not show that there is less than 1 %
        ([100.0] * 406, {}, PASS),
        ([100.0] * 161, {"max_failures": None}, PASS),
        ([100.0] * 160, {"max_failures": None}, OPEN),
        ([100.0] * 20, {"max_failures": None, "worst_loss": 30.0}, OPEN),
        ([100.0] * 23, {"max_failures": None, "worst_loss": 30.0}, PASS),
        ([0.0] * 20, {}, FAIL),
        ([200.0] * 406, {}, PASS),
        ([97.0] * 600, {"max_failures": None}, PASS),
        ([90.0] * 600, {"max_failures": None}, FAIL),
        ([95.0] * 2000, {"max_failures": None}, OPEN),  # exactly at the margin
        (([100.0] * 99 + [0.0]) * 20, {}, OPEN),  # a mean loss of 1, and 1 % of failures
        (([100.0] * 99 + [0.0]) * 20, {"max_failures": None}, PASS),
        (([100.0] * 99 + [0.0]) * 20, {"max_failures": "4%"}, PASS),
        (([100.0] * 9 + [0.0]) * 20, {"margin": 50.0}, FAIL),  # a tenth fails
        ([100.0] * 300 + [-101.0], {"max_failures": None}, FAIL),  # more than the worst loss
        ([100.0] * 300 + [-100.0], {"max_failures": None}, PASS),
        ([100.0] * 300 + [301.0], {"max_failures": None}, PASS),  # a gain beyond it hurts no PASS
        ([80.0] * 300 + [300.0], {"max_failures": None}, FAIL),
        ([80.0] * 300 + [301.0], {"max_failures": None}, OPEN),  # but no loss is proven any more
        ([-101.0] + [80.0] * 300 + [301.0], {"max_failures": None}, FAIL),
    ],
)
def test_rule(quantized: list[float], declared: Any, expected: Verdict) -> None:
    pairs, terms = paired(quantized), terms_of(**declared)
    assert decide(pairs, terms)[0] is expected
    assert combined([criterion.verdict for criterion in judge(pairs, terms)]) is expected


@pytest.mark.parametrize(
    ("quantized", "rates", "expected"),
    [
        ([100.0] * 100, (0.1, 0.1), (OPEN, False)),
        ([100.0] * 406, (0.1, 0.1), (PASS, True)),
        ([100.0] * 100, (0.1, 0.9), (FAIL, False)),  # the return is still worth knowing
        ([100.0] * 406, (0.1, 0.9), (FAIL, True)),
        ([0.0] * 50, (0.1, 0.1), (FAIL, True)),
    ],
)
def test_verdict_is_final_when_the_return_failed_or_all_is_known(
    quantized: list[float], rates: tuple[float, float], expected: tuple[Verdict, bool]
) -> None:
    assert decide(paired(quantized, chatter=rates), terms_of()) == expected


@pytest.mark.parametrize(
    ("rates", "expected"),
    [((0.1, 0.1), PASS), ((0.1, 0.15), PASS), ((0.1, 0.17), OPEN), ((0.1, 0.4), FAIL), ((0.0, 0.005), PASS)],
)
def test_actions_may_not_change_half_as_much_again(rates: tuple[float, float], expected: Verdict) -> None:
    criteria = judge(paired([100.0] * 500, chatter=rates), terms_of())
    assert {c.name: c.verdict for c in criteria} == {"return": PASS, "failures": PASS, "chatter": expected}


def test_criterion_tells_its_bounds_and_when_it_was_decided() -> None:
    rng = np.random.default_rng(1)
    returns = 100.0 - rng.normal(1.0, 5.0, 500)
    (loss,) = judge(paired(returns), terms_of(max_failures=None))
    assert loss.verdict is PASS
    assert loss.decided_after is not None
    assert 161 <= loss.decided_after <= 250
    assert loss.low < loss.mean < loss.high < loss.limit
    assert (loss.low, loss.high) == mean_bounds(100.0 - returns, Bounds(-200.0, 200.0), 0.025)
    assert loss.episodes_to_decide is None
    assert loss.breach is None


def test_open_criterion_tells_how_many_more_it_would_take() -> None:
    (loss,) = judge(paired([100.0] * 100), terms_of(max_failures=None))
    assert loss.verdict is OPEN
    assert loss.episodes_to_decide == pytest.approx(61, abs=2)
    (loss,) = judge(paired([95.0] * 100), terms_of(max_failures=None))
    assert loss.episodes_to_decide is None


# Episodes.


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


# Shadowing: what the follower would do, without touching the leader.


@pytest.mark.parametrize(
    ("leader", "follower", "agreement"),
    [
        (RecurrentPolicy(), RecurrentPolicy(), 1.0),
        (RecurrentPolicy(), IntegerPolicy(3, 5), None),
        (IntegerPolicy(3, 5), RecurrentPolicy(), None),
        (IntegerPolicy(3, 5), IntegerPolicy(3, 5), 1.0),
    ],
)
def test_shadowing_leaves_the_leaders_episodes_alone(leader: Any, follower: Any, agreement: Any) -> None:
    counter = AgreementCounter(ChaosEnv().action_space)
    shadowed = rollout(
        ShadowedPolicy(leader, follower, counter), ChaosEnv, range(11), num_envs=3, keep_actions=True
    )
    bare = rollout(leader, ChaosEnv, range(11), num_envs=3, keep_actions=True)
    assert shadowed.episode_returns.tolist() == bare.episode_returns.tolist()
    found = counter.result()
    assert found.num_steps == bare.episode_lengths.sum()
    assert found.action_agreement == agreement if agreement else 0.0 < found.action_agreement < 1.0


def test_follower_remembers_and_draws_as_if_it_had_been_there() -> None:
    def answers(num_envs: int) -> float:
        counter = AgreementCounter(ChaosEnv().action_space)
        policy = ShadowedPolicy(IntegerPolicy(3, 5), RecurrentPolicy(), counter)
        rollout(policy, ChaosEnv, range(11), num_envs=num_envs)
        return counter.result().action_agreement

    assert answers(1) == answers(4) == answers(11)


def test_follower_gets_the_masks() -> None:
    counter = AgreementCounter(ChaosEnv().action_space)
    space = ChaosEnv().action_space
    rollout(ShadowedPolicy(RandomPolicy(space), RandomPolicy(space), counter), InfoMaskEnv, range(5))
    assert counter.result().action_agreement == 1.0


BOX = gymnasium.spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32))


@pytest.mark.parametrize(
    ("space", "ours", "theirs", "agreement", "error"),
    [
        (None, [1, 2, 3, 4], [1, 2, 0, 4], 0.75, None),
        (gymnasium.spaces.Discrete(5), [1, 2], [2, 1], 0.0, None),
        (BOX, [[0.5, 0.0]], [[0.5, 0.0]], 1.0, 0.0),
        (BOX, [[0.5, 0.0]], [[0.519, 0.0]], 1.0, 0.0095),  # 1 % of the range 2 is 0.02
        (BOX, [[0.5, 0.0]], [[0.521, 0.0]], 0.0, 0.0105),
        (BOX, [[0.5, 50.0]], [[0.5, 50.4]], 1.0, 0.2),  # 1 % of 50 is 0.5
        (BOX, [[0.5, 50.0]], [[0.5, 50.6]], 0.0, 0.3),
        (BOX, [[0.5, 0.1]], [[0.5, 0.109]], 1.0, 0.0045),  # 1 % of 1 is 0.01
        (None, [[0.5, 0.1], [0.0, 0.0]], [[0.5, 0.109], [1.0, 0.0]], 0.5, 0.25225),
    ],
)
def test_agreement_by_hand(space: Any, ours: Any, theirs: Any, agreement: float, error: float | None) -> None:
    counter = AgreementCounter(space)
    counter.add(np.array(ours), np.array(theirs))
    found = counter.result()
    assert found.action_agreement == agreement
    assert found.action_error == (None if error is None else pytest.approx(error))


def test_actions_of_different_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="different shapes"):
        AgreementCounter().add(np.zeros((2, 1)), np.zeros(2))


def test_actions_that_are_not_finite_are_refused() -> None:
    with pytest.raises(AgentError, match="not finite"):
        AgreementCounter(BOX).add(np.zeros((1, 2)), np.array([[0.0, np.nan]]))


# Recorded observations.


def test_recorded_observations_give_agreement_and_no_verdict() -> None:
    observations = np.arange(600, dtype=np.float32)[:, None] % 4
    report = agreement_on(TargetPolicy("keras"), FixedPolicy(1), observations)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["verdict"] is None
    assert data["likeness"] == {"action_agreement": 0.25, "action_error": None, "num_steps": 600}
    assert (data["backend"], data["float_backend"]) == ("fixed", "keras")
    assert data["sentence"].startswith("NO VERDICT: on 600 recorded observations")
    assert "no return was measured" in data["sentence"]
    assert "return_drop" not in data


def test_no_recorded_observations_are_refused() -> None:
    with pytest.raises(DataError, match="no recorded observations"):
        agreement_on(FixedPolicy(0), FixedPolicy(0), np.zeros((0, 3), np.float32))
