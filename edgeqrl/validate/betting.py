"""Anytime-valid tests of a mean by betting. Imports nothing of edgeqrl.

A gambler who doubts that the mean lies at or above a limit bets, value after value, that the next one lies
below it, at odds that are fair if the mean is the limit. If the doubt is wrong, the chance that the wealth
ever reaches 1/alpha is at most alpha (Ville's inequality): one may look after each value, and stop when one
likes. The only assumption is a bound on the values, since no test of a mean can do without (Waudby-Smith &
Ramdas, Estimating means of bounded random variables by betting, 2024).

The gambler splits the first unit of wealth among fixed stakes, halved from one to the next. So the wealth
depends on the values alone: there is no tuning, no seed, and nothing to choose after looking.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Of the largest bet that cannot ruin. Measured in benchmarks/verdict.py against finer grids, other shares and
# bets that learn from the values: over the range of tasks none needs 3 % fewer values on average, and the
# steeper shares that need fewer take up to 12 % more where values vary.
STAKES = 2.0 ** -np.arange(8)
SHARES = 1.0 / np.arange(1, len(STAKES) + 1) ** 2
SHARES /= SHARES.sum()

_MOST_EPISODES = 10**7
_BISECTIONS = 50


@dataclass(frozen=True)
class Bounds:
    """Between which values a quantity lies: what is assumed, and cannot be tested."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise ValueError(f"bounds must be finite and in order, got {self.low} and {self.high}")


def log_wealth(gains: ArrayLike) -> NDArray[np.float64]:
    """Return the logarithm of the wealth [n] after each of `gains` [n], in units of the largest stake.

    A gain is at least -1; a smaller one, which breaks the assumption, counts as -1.
    """
    won = np.maximum(np.asarray(gains, np.float64), -1.0)
    if won.ndim != 1:
        raise ValueError(f"expected one row of gains, got shape {won.shape}")
    with np.errstate(divide="ignore"):
        factors = np.log1p(won[:, None] * STAKES)
    paths = np.cumsum(factors, axis=0) + np.log(SHARES)
    most = paths.max(axis=1, keepdims=True, initial=-np.inf)
    # The smallest stake survives every loss but an infinite number of them, so `most` is finite.
    return np.asarray(most[:, 0] + np.log(np.exp(paths - most).sum(axis=1)), np.float64)


def evidence_below(values: ArrayLike, limit: float, bounds: Bounds) -> NDArray[np.float64]:
    """Return the log wealth [n] of betting that the mean of `values` [n] is below `limit`.

    Uses only that no value lies above `bounds.high`. The limit must lie inside the bounds.
    """
    _require_inside(limit, bounds)
    return log_wealth((limit - np.asarray(values, np.float64)) / (bounds.high - limit))


def evidence_above(values: ArrayLike, limit: float, bounds: Bounds) -> NDArray[np.float64]:
    """Return the log wealth [n] of betting that the mean is above `limit`; uses only `bounds.low`."""
    _require_inside(limit, bounds)
    return log_wealth((np.asarray(values, np.float64) - limit) / (limit - bounds.low))


def first_at(evidence: NDArray[np.float64], alpha: float) -> int | None:
    """Return after how many values the wealth first reached 1/alpha, or None."""
    reached = np.flatnonzero(evidence >= -np.log(alpha))
    return int(reached[0]) + 1 if len(reached) else None


def mean_bounds(values: ArrayLike, bounds: Bounds, alpha: float) -> tuple[float, float]:
    """Return what the mean lies above and below, each wrong with a chance of at most `alpha`, at any time.

    The ends are the limits that betting just fails to refute, by bisection.
    """
    sample = np.asarray(values, np.float64)

    def is_refuted(limit: float, *, from_below: bool) -> bool:
        evidence = (evidence_below if from_below else evidence_above)(sample, limit, bounds)
        return first_at(evidence, alpha) is not None

    ends = []
    for from_below in (False, True):
        kept = bounds.low if from_below else bounds.high  # on this side nothing is refuted
        refuted = bounds.high if from_below else bounds.low
        for _ in range(_BISECTIONS):
            middle = (kept + refuted) / 2
            if middle in (kept, refuted):
                break  # as near as numbers lie
            if is_refuted(middle, from_below=from_below):
                refuted = middle
            else:
                kept = middle
        ends.append(refuted)
    return ends[0], ends[1]


def episodes_to_decide(
    values: ArrayLike, limit: float, bounds: Bounds, *, alpha_below: float, alpha_above: float
) -> int | None:
    """Return how many more values like these would likely decide, or None if ten million would not.

    Each stake's wealth is carried on at its mean rate so far; the first to reach the goal counts.
    """
    sample = np.asarray(values, np.float64)
    sides = (
        ((limit - sample) / (bounds.high - limit), alpha_below),
        ((sample - limit) / (limit - bounds.low), alpha_above),
    )
    found = []
    for gains, alpha in sides:
        with np.errstate(divide="ignore"):
            factors = np.log1p(np.maximum(gains, -1.0)[:, None] * STAKES)
        rates = factors.mean(axis=0)
        missing = -np.log(alpha) - np.log(SHARES) - factors.sum(axis=0)
        growing = rates > 0.0
        if growing.any():
            found.append(float(np.min(missing[growing] / rates[growing])))
    least = min(found, default=np.inf)
    return int(np.ceil(max(least, 1.0))) if least <= _MOST_EPISODES else None


def _require_inside(limit: float, bounds: Bounds) -> None:
    if not bounds.low < limit < bounds.high:
        raise ValueError(f"the limit {limit} must lie between {bounds.low} and {bounds.high}")
