"""Betting on a mean: wealth by hand, closed forms, what the promise rests on, and the promise itself."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeqrl.validate.betting import (
    SHARES,
    STAKES,
    Bounds,
    episodes_to_decide,
    evidence_above,
    evidence_below,
    first_at,
    log_wealth,
    mean_bounds,
)

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
BOUNDS = Bounds(-40.0, 40.0)
ALPHA = 0.05

drops = st.lists(st.floats(-40, 40, allow_subnormal=False), min_size=1, max_size=60)


def test_stakes_never_ruin_and_shares_are_one_unit() -> None:
    assert STAKES.max() == 1.0
    assert STAKES.min() > 0.0
    assert SHARES.min() > 0.0
    assert SHARES.sum() == pytest.approx(1.0, abs=1e-15)


def test_wealth_by_hand() -> None:
    # each stake's wealth after a gain of 1/2 and one of -1, times its share
    after_one = sum(p * (1 + s / 2) for s, p in zip(STAKES, SHARES, strict=True))
    after_two = sum(p * (1 + s / 2) * (1 - s) for s, p in zip(STAKES, SHARES, strict=True))
    assert np.exp(log_wealth([0.5, -1.0])) == pytest.approx([after_one, after_two], rel=1e-12)
    assert log_wealth([]).shape == (0,)


@pytest.mark.parametrize(("num", "limit"), [(500, 1.0), (3, -39.999), (3, 39.999)])
def test_values_at_the_limit_are_no_evidence(num: int, limit: float) -> None:
    for evidence in (evidence_below, evidence_above):
        assert np.abs(evidence([limit] * num, limit, BOUNDS)).max() < 1e-12


@pytest.mark.parametrize(
    ("value", "limit", "low", "high", "alpha", "expected"),
    [
        (0.0, 1.0, -40.0, 40.0, 0.025, 161),  # no return lost, at the default terms
        (0.0, 1.0, -20.0, 20.0, 0.025, 80),
        (0.5, 1.0, -40.0, 40.0, 0.025, 320),
        (0.0, 0.01, -1.0, 1.0, 0.025, 406),  # no failure, at most 1 % allowed
        (-1.0, 1.0, -40.0, 40.0, 0.0125, 96),
    ],
)
def test_constant_values_are_decided_after_a_known_number(
    value: float, limit: float, low: float, high: float, alpha: float, expected: int
) -> None:
    gain = (limit - value) / (high - limit)

    def wealth(n: int) -> float:
        return math.fsum(p * (1 + s * gain) ** n for s, p in zip(STAKES, SHARES, strict=True))

    closed_form = next(n for n in range(1, 10_000) if wealth(n) >= 1 / alpha)
    evidence = evidence_below([value] * 1000, limit, Bounds(low, high))
    assert first_at(evidence, alpha) == closed_form == expected
    # what the page says: the largest stake does almost all of it
    about = math.log(1 / (alpha * SHARES[0])) / math.log1p(gain)
    assert 0.97 * about <= closed_form <= about + 1


@given(drops, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_order_does_not_change_the_final_wealth(values: list[float], random: Any) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    for evidence in (evidence_below, evidence_above):
        first, second = (evidence(order, 1.0, BOUNDS)[-1] for order in (values, shuffled))
        assert first == pytest.approx(second, abs=1e-9)


@given(drops, st.integers(0, 59), st.floats(0, 80), st.floats(-39, 38), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_a_smaller_loss_or_a_wider_limit_is_no_less_evidence_of_being_below(
    values: list[float], at: int, less: float, limit: float, wider: float
) -> None:
    evidence = evidence_below(values, limit, BOUNDS)
    better = list(values)
    better[at % len(values)] -= less
    assert (evidence_below(better, limit, BOUNDS) >= evidence - 1e-9).all()
    assert (evidence_below(values, limit + wider, BOUNDS) >= evidence - 1e-9).all()
    assert (evidence_above(better, limit, BOUNDS) <= evidence_above(values, limit, BOUNDS) + 1e-9).all()


@given(drops, st.floats(-30, 30))
@settings(max_examples=50, deadline=None)
def test_above_is_below_of_the_mirror_image(values: list[float], limit: float) -> None:
    mirrored = [-value for value in values]
    above = evidence_above(values, limit, BOUNDS)
    assert above == pytest.approx(evidence_below(mirrored, -limit, BOUNDS), abs=1e-12)


@given(st.floats(-1, 1), st.floats(0.01, 0.99), st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_mean_wealth_is_fair_at_the_limit(limit: float, chance_of_low: float, num: int) -> None:
    """All outcomes of a two-valued quantity with a mean of exactly the limit: the wealth's mean is 1."""
    high = 3.0
    low = (limit - (1 - chance_of_low) * high) / chance_of_low
    bounds = Bounds(min(low, -2.0), high)
    expected = {evidence_below: 0.0, evidence_above: 0.0}
    for outcome in np.ndindex(*[2] * num):
        values = [high if is_high else low for is_high in outcome]
        chance = math.prod(1 - chance_of_low if is_high else chance_of_low for is_high in outcome)
        for evidence in expected:
            expected[evidence] += chance * float(np.exp(evidence(values, limit, bounds)[-1]))
    assert list(expected.values()) == pytest.approx([1.0, 1.0], rel=1e-6)


@pytest.mark.parametrize("num", [1, 3, 200, 5000])
def test_ruinous_values_leave_finite_wealth_that_can_recover(num: int) -> None:
    evidence = evidence_below([40.0] * num + [-40.0] * 20 * num, 1.0, BOUNDS)
    assert np.isfinite(evidence).all()
    assert evidence[num - 1] < 0.0
    assert evidence[-1] > evidence[num - 1]


def test_value_beyond_the_bound_counts_as_the_bound() -> None:
    inside, beyond = [0.0, 40.0, 0.0], [0.0, 1e300, 0.0]
    assert evidence_below(beyond, 1.0, BOUNDS).tolist() == evidence_below(inside, 1.0, BOUNDS).tolist()
    inside, beyond = [0.0, -40.0, 0.0], [0.0, -1e300, 0.0]
    assert evidence_above(beyond, 1.0, BOUNDS).tolist() == evidence_above(inside, 1.0, BOUNDS).tolist()


def test_wealth_that_was_reached_counts_even_if_it_is_lost_again() -> None:
    evidence = evidence_below([0.0] * 200 + [40.0] * 5, 1.0, BOUNDS)
    assert evidence[-1] < -math.log(0.025)
    assert first_at(evidence, 0.025) == 161
    assert first_at(evidence[:160], 0.025) is None
    assert first_at(np.empty(0), 0.025) is None


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (-math.inf, 1), (0, math.nan), (0, math.inf)])
def test_bounds_must_be_finite_and_in_order(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="finite and in order"):
        Bounds(low, high)


@pytest.mark.parametrize("limit", [-40, 40, 41, -math.inf, math.nan])
@pytest.mark.parametrize("evidence", [evidence_below, evidence_above])
def test_limit_must_lie_inside_the_bounds(limit: float, evidence: Any) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        evidence([0.0], limit, BOUNDS)


def test_gains_are_one_row() -> None:
    with pytest.raises(ValueError, match="one row"):
        log_wealth(np.zeros((2, 2)))


@given(drops, st.floats(0.001, 0.2))
@settings(max_examples=25, deadline=None)
def test_ends_are_the_limits_that_are_just_not_refuted(values: list[float], alpha: float) -> None:
    low, high = mean_bounds(values, BOUNDS, alpha)
    assert BOUNDS.low <= low <= high <= BOUNDS.high
    for end, evidence, inwards in ((low, evidence_above, 1), (high, evidence_below, -1)):
        for limit, is_refuted in ((end - 1e-6 * inwards, True), (end + 1e-6 * inwards, False)):
            if BOUNDS.low < limit < BOUNDS.high:
                assert (first_at(evidence(values, limit, BOUNDS), alpha) is not None) is is_refuted


@pytest.mark.parametrize(
    "bounds", [Bounds(-1000.0, -999.0), Bounds(1e9, 1e9 + 1e-3), Bounds(-1e-300, 1e-300)]
)
def test_ends_where_numbers_lie_far_apart(bounds: Bounds) -> None:
    assert mean_bounds([bounds.low], bounds, ALPHA)[0] == bounds.low
    assert mean_bounds([bounds.high], bounds, ALPHA)[1] == bounds.high
    middle = (bounds.low + bounds.high) / 2
    low, high = mean_bounds([middle] * 500, bounds, ALPHA)
    assert bounds.low < low <= middle <= high < bounds.high


def test_ends_close_in_on_the_mean_and_hold_it() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(100):
        values = rng.exponential(3.0, 300) - 2.0
        low, high = mean_bounds(values, BOUNDS, ALPHA)
        missed += not low <= 1.0 <= high
        assert low < values.mean() < high
        assert high - low < 6.0
    assert missed <= 2 * ALPHA * 100 + 4 * math.sqrt(2 * ALPHA * (1 - 2 * ALPHA) * 100)


def more(values: Any, *, alpha: float = 0.025) -> int | None:
    return episodes_to_decide(values, 1.0, BOUNDS, alpha_below=alpha, alpha_above=alpha)


@pytest.mark.parametrize("value", [0.0, 0.5, -3.0, 2.0, 5.0])
@pytest.mark.parametrize("num", [1, 10, 50])
def test_forecast_of_constant_values_is_nearly_exact(value: float, num: int) -> None:
    rest = [value] * 2000
    times = [first_at(evidence(rest, 1.0, BOUNDS), 0.025) for evidence in (evidence_below, evidence_above)]
    (decided,) = [at for at in times if at is not None]
    if decided > num:
        found = more([value] * num)
        assert found is not None
        # one stake alone stands for the sum of them
        assert decided - num <= found <= 1.1 * decided - num + 1


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 3.0), (0.0, 7.0), (0.5, 3.0), (2.0, 5.0)])
def test_forecast_is_about_what_it_takes(mean: float, spread: float) -> None:
    rng = np.random.default_rng(7)
    decided, forecast = [], []
    for _ in range(60):
        values = rng.normal(mean, spread, 2000).clip(-40, 40)
        times = [first_at(f(values, 1.0, BOUNDS), 0.025) for f in (evidence_below, evidence_above)]
        decided.append(min(at or 2000 for at in times))
        forecast.append(64 + (more(values[:64]) or 2000))
    assert 0.8 <= np.median(forecast) / np.median(decided) <= 1.6


@pytest.mark.parametrize("values", [[1.0] * 30, [1.0 - 1e-9] * 30, [1.0]])
def test_no_forecast_for_what_ten_million_would_not_decide(values: list[float]) -> None:
    assert more(values) is None


# The promise: at a true mean of exactly the limit wrong answers are at most alpha, however often one looks.


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import verdict

    return verdict


Reached = NDArray[np.bool_]


def refuted(evidence: NDArray[np.float64]) -> Reached:
    return np.asarray(evidence.max(axis=1) >= -np.log(ALPHA))


def wealth_of(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([log_wealth(row) for row in gains])


def broken_by_scale(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """As if the bound were half of what it is."""
    return wealth_of(2 * gains)


def broken_by_choice(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best stake after looking, instead of a share in each."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.cumsum(np.log1p(gains[..., None] * STAKES), axis=1).max(axis=2))


def broken_by_peeking_at_t(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """A z-score's evidence, looked at after every value."""
    num = np.arange(1, gains.shape[1] + 1)
    mean = np.cumsum(gains, axis=1) / num
    spread = np.sqrt(np.maximum(np.cumsum(gains**2, axis=1) / num - mean**2, 1e-12))
    score = np.where(num >= 30, mean * np.sqrt(num) / spread, 0.0)
    return np.where(score > 1.645, -np.log(ALPHA) + 1, 0.0)


NULLS = ("normal", "two values", "rare catastrophe")


def null_gains(name: str, rows: int = 1500, num: int = 400) -> NDArray[np.float64]:
    """Return gains of mean 0 that are at least -1."""
    rng = np.random.default_rng([NULLS.index(name), 11])
    shape = (rows, num)
    if name == "normal":
        return np.clip(rng.normal(0, 0.2, shape), -1, 1)
    if name == "two values":
        return np.where(rng.random(shape) < 0.5, -1.0, 1.0)
    return np.where(rng.random(shape) < 0.01, -1.0, 0.01 / 0.99)


def errs_too_often(wealth: Any, name: str) -> bool:
    reached = refuted(wealth(null_gains(name)))
    return bool(reached.mean() > ALPHA + 4 * math.sqrt(ALPHA * (1 - ALPHA) / len(reached)))


@pytest.mark.parametrize("name", NULLS)
def test_wrong_answers_are_no_more_than_promised(name: str) -> None:
    assert not errs_too_often(wealth_of, name)


@pytest.mark.parametrize(
    ("wealth", "name"),
    [
        (broken_by_scale, "rare catastrophe"),
        (broken_by_scale, "two values"),
        (broken_by_choice, "two values"),
        (broken_by_peeking_at_t, "normal"),
        (broken_by_peeking_at_t, "rare catastrophe"),
    ],
)
def test_broken_tests_are_found_out(wealth: Any, name: str) -> None:
    assert errs_too_often(wealth, name)


def test_simulation_bets_as_the_verdict_does(simulation: Any) -> None:
    rng = np.random.default_rng(2)
    values = np.clip(rng.normal(0.3, 6.0, (60, 700)), -30, 45)
    values[0] = 0.0
    for times, evidence in (
        (simulation.pass_times(values, 40.0, ALPHA), evidence_below),
        (simulation.fail_times(values, -40.0, ALPHA), evidence_above),
    ):
        expected = [first_at(evidence(row, 1.0, BOUNDS), ALPHA) or 701 for row in values]
        assert times.tolist() == expected
    assert len(set(simulation.pass_times(values, 40.0, ALPHA).tolist())) > 20


def test_simulated_intervals_are_those_of_scipy(simulation: Any) -> None:
    from scipy import stats

    from edgeqrl.validate.statistics import bootstrap_interval

    rng = np.random.default_rng(3)
    values = np.concatenate(
        [rng.exponential(4.0, (25, 100)) - 3.6, np.where(rng.random((25, 100)) < 0.03, 24.0, 0.0)]
    )
    counts = rng.multinomial(100, np.full(100, 0.01), size=4999).astype(np.float64)
    (found,) = simulation.bca_passes(values, counts, (ALPHA,))
    highs = [
        bootstrap_interval(row, confidence=1 - 2 * ALPHA, seed=4, num_resamples=4999).high for row in values
    ]
    other = [i for i, high in enumerate(highs) if found[i] != (high < 1.0)]
    assert len(other) <= 3, other  # by the luck of the resamples
    assert 8 < found.sum() < 42
    by_scipy = [stats.ttest_1samp(row, 1.0, alternative="less").pvalue < ALPHA for row in values]
    assert simulation.t_passes(values, ALPHA).tolist() == by_scipy


def test_worlds_have_the_mean_that_they_claim_and_stay_within_the_worst_loss(simulation: Any) -> None:
    for world in simulation.WORLDS:
        noise = world.noise(simulation.generator("test"), (1000, 300))
        error = noise.std() / math.sqrt(noise.size)
        assert abs(noise.mean()) <= 4.5 * error, world.name
        assert noise.max() <= world.worst_loss - 1, world.name
        assert noise.min() >= -world.worst_loss - 1, world.name


@pytest.mark.slow
def test_promise_holds_in_every_world(tmp_path: Path) -> None:
    page = tmp_path / "calibration.md"
    page.write_text((BENCHMARKS.parent / "docs" / "calibration.md").read_text())
    command = [sys.executable, str(BENCHMARKS / "verdict.py"), "--quick", "--json"]
    command += ["--plots", str(tmp_path / "images"), "--page", str(page)]

    def written() -> dict[str, bytes]:
        ran = subprocess.run(command, capture_output=True, check=False, timeout=600)
        assert (ran.returncode, ran.stderr) == (0, b"")
        files = [page, *sorted((tmp_path / "images").iterdir())]
        return {"stdout": ran.stdout, **{path.name: path.read_bytes() for path in files}}

    found = written()
    assert len(json.loads(found["stdout"])["type_one"]) >= 15
    images = {f"verdict-{name}.svg" for name in ("type-one", "power", "episodes")}
    assert set(found) == {"stdout", "calibration.md", *images}
    assert written() == found
