"""Criteria: rules on returns and rates that are written down here."""

from typing import Any

import numpy as np
import pytest

from edgeqrl.validate.betting import Bounds, mean_bounds
from edgeqrl.validate.criteria import PairedEpisodes, Verdict, combined, decide, judge, quantities
from edgeqrl.validate.terms import Declared, Terms


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
