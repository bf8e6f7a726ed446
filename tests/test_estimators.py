"""Range estimators: what each promises of the values it sees."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.quantize.estimators import ESTIMATORS, estimated
from edgeqrl.quantize.scheme import RANGES

RNG = np.random.default_rng(0)
METHODS = tuple(ESTIMATORS)


def squared_error(values: NDArray[np.float64], ends: tuple[float, float], bits: int) -> float:
    """Quantize each value by itself: no histogram."""
    levels = 2**bits - 1
    step = (ends[1] - ends[0]) / levels
    zero = round(-ends[0] / step)
    near = (np.clip(np.rint(values / step) + zero, 0, levels) - zero) * step
    return float(((near - values) ** 2).mean())


def test_the_schemes_estimators_are_these() -> None:
    assert set(METHODS) == set(RANGES)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values", [np.full((3, 2), 4.0), np.full((3, 2), -4.0), np.zeros((5, 1)), np.array([[1.0]]), -np.eye(3)]
)
def test_every_range_holds_zero_and_nothing_beyond_what_was_met(
    method: str, values: NDArray[np.float64]
) -> None:
    low, high = estimated(method, values, 8)
    assert min(values.min(), 0.0) <= low <= 0.0 <= high <= max(values.max(), 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_finite_stays_to_be_seen(method: str) -> None:
    assert not np.isfinite(estimated(method, np.array([[1.0, np.nan]]), 8)).all()
    assert not np.isfinite(estimated(method, np.array([[1.0], [np.inf]]), 8)).all()


@pytest.mark.parametrize("method", METHODS)
def test_only_min_max_keeps_one_value_far_from_all_others(method: str) -> None:
    values = np.append(RNG.normal(size=9999), 30.0).reshape(-1, 1)
    low, high = estimated(method, values, 4)
    assert (high == 30.0) == (method == "min_max"), "at 4 bits it would leave two levels for the rest"
    assert low <= 0.0


def test_moving_average_is_of_the_rows_extremes_and_follows_the_last() -> None:
    rows = np.array([[-1.0, 2.0]] * 3 + [[-3.0, 4.0]])
    assert estimated("moving_average", rows, 8) == pytest.approx((-1.2, 2.2))
    assert estimated("moving_average", np.array([[-1.0, 2.0]]), 8) == (-1.0, 2.0)


def test_moving_average_is_not_of_the_last_states_alone() -> None:
    rows = np.linspace(-3.0, 3.0, 2000)[:, None]  # as a rollout that goes from one end to the other
    for order in (rows, rows[::-1]):
        low, high = estimated("moving_average", order, 8)
        assert low < -2.9
        assert high > 2.9


def test_percentile_cuts_one_in_a_thousand_at_each_end() -> None:
    values = np.arange(-5000, 5001).reshape(-1, 1) / 5000.0
    assert estimated("percentile", values, 8) == pytest.approx((-0.998, 0.998))


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_mse_beats_every_range_on_a_grid(bits: int) -> None:
    values = RNG.laplace(size=(4000, 1)) + 0.3
    ends = estimated("mse", values, bits)
    found = squared_error(values, ends, bits)
    others = [
        squared_error(values, (values.min() * a, values.max() * b), bits)
        for a in np.linspace(0.1, 1.0, 25)
        for b in np.linspace(0.1, 1.0, 25)
    ]
    assert found <= 1.05 * min(others)


def test_more_bits_are_cut_less() -> None:
    values = np.random.default_rng(0).laplace(size=(4000, 2))
    for method, all_bits in (("mse", (3, 4, 8, 16)), ("kl", (4, 8, 16))):
        spans = [np.ptp(estimated(method, values, bits)) for bits in all_bits]
        assert spans == sorted(spans)
        assert spans[0] < 0.9 * spans[-1]
    assert estimated("kl", values, 16) == estimated("min_max", values, 16)


def test_zeros_behind_a_relu_do_not_count() -> None:
    """They are on every grid, and would be most of the distribution."""
    values = np.abs(RNG.normal(size=(2000, 1)))
    padded = np.concatenate([values, np.zeros((50_000, 1))])
    for method in ("mse", "kl"):
        assert estimated(method, padded, 8) == estimated(method, values, 8)
