"""Intervals: degenerate samples first, then coverage."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeqrl.validate.statistics as module
from edgeqrl.validate.statistics import Interval, bootstrap_interval, correlation


@pytest.mark.parametrize("value", [0.0, 500.0, -151.5, 0.1, 1e-300])
def test_equal_values_give_an_interval_without_width(value: float) -> None:
    assert bootstrap_interval([value] * 30, seed=1) == Interval(value, value, value, 0.95)


@pytest.mark.parametrize(
    "values",
    [
        [0.0] * 199 + [-400.0],
        [0.0, 1.0],
        [500.0] * 9 + [499.0],
        [1e-300, 2e-300, 3e-300],
        [1e150, -1e150, 3e150],
        list(range(5)),
    ],
)
def test_lopsided_samples_give_a_finite_interval_around_the_mean(values: list[float]) -> None:
    found = bootstrap_interval(values, seed=1)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.low <= found.mean <= found.high
    assert np.isfinite([found.low, found.high]).all()
    assert min(values) <= found.low < found.high <= max(values)


def test_interval_agrees_with_the_normal_one_where_that_holds() -> None:
    sample = np.random.default_rng(3).normal(10.0, 2.0, 400)
    found = bootstrap_interval(sample, seed=1)
    half = 1.96 * sample.std(ddof=1) / np.sqrt(400)
    assert found.low == pytest.approx(sample.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(sample.mean() + half, abs=0.1 * half)


def test_interval_leans_to_the_long_tail() -> None:
    found = bootstrap_interval(np.random.default_rng(3).exponential(1.0, 40), seed=1)
    assert found.high - found.mean > 1.05 * (found.mean - found.low)


def test_interval_contains_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [
        bootstrap_interval(rng.normal(0, 1, 40), confidence=0.9, seed=i, num_resamples=500)
        for i in range(300)
    ]
    covered = sum(interval.low <= 0.0 <= interval.high for interval in found)
    assert 0.84 * 300 <= covered <= 0.95 * 300


def test_interval_is_decided_by_its_seed_and_not_by_the_size_of_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sample = np.random.default_rng(3).normal(0, 1, 50)
    first = bootstrap_interval(sample, seed=1)
    assert first == bootstrap_interval(sample, seed=1)
    assert first != bootstrap_interval(sample, seed=2)
    monkeypatch.setattr(module, "_BATCH_ELEMENTS", 1000)
    assert first == bootstrap_interval(sample, seed=1)


def test_more_confidence_is_a_wider_interval() -> None:
    sample = np.random.default_rng(3).normal(0, 1, 50)
    narrow, wide = (bootstrap_interval(sample, confidence=c, seed=1) for c in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan], [np.inf, 1.0], [[1.0, 2.0]]])
def test_sample_that_has_no_interval_is_our_error(values: Any) -> None:
    with pytest.raises(ValueError, match="at least two finite values"):
        bootstrap_interval(values, seed=1)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_fraction(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_interval([1.0, 2.0], confidence=confidence, seed=1)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, -1, -1, 1], 0.0),
        ([5, 5, 5], [1, 2, 3], None),
        ([1, 2, 3], [0.1, 0.1, 0.1], None),
        ([1], [2], None),
        ([], [], None),
    ],
)
def test_correlation_of_small_samples(first: Any, second: Any, expected: float | None) -> None:
    assert correlation(first, second) == (None if expected is None else pytest.approx(expected))


def test_correlation_needs_pairs() -> None:
    with pytest.raises(ValueError, match="one length"):
        correlation([1, 2], [1, 2, 3])


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(-99, 99), st.integers(-99, 99)), min_size=2, max_size=20).filter(
        lambda pairs: len({a for a, _ in pairs}) > 1 and len({b for _, b in pairs}) > 1
    )
)
def test_correlation_equals_numpys(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, np.float64).T
    assert correlation(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-9)
