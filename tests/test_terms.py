"""Terms: what is declared, and what it means in return units."""

import json
from typing import Any

import pytest

from edgeqrl.errors import UsageError
from edgeqrl.validate.terms import Declared, Terms, default_margin


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
