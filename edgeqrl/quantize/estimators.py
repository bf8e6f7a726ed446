"""Range estimators: from the values that a tensor takes to the two ends of its integer grid.

Each is a function of observed values [N, ...], rows in the order in which they were met, and of the bits of
the grid; the range holds zero. Only `min_max` promises that nothing met is cut.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]
Counts = NDArray[np.float64]  # [bins]
Centres = NDArray[np.float64]  # [bins], ascending
Cost = Callable[[Counts, Centres, Range, int], float]

_MOMENTUM = 0.9  # of the moving average, a batch
_BATCHES = 32  # of the moving average, each with rows from all over
_PERCENT = 0.1  # that the percentile cuts off at each end
_BINS = 2048
_MOST_VALUES = 2**20  # that a histogram is made of
_STEPS = np.linspace(0.0, 0.9, 46)  # of an end, as the part of it that is given up


def estimated(method: str, values: NDArray[Any], bits: int) -> Range:
    """Return the range of values [N, ...], N >= 1, by a method of `ESTIMATORS`.

    NaN and infinities come through min_max only, and make the range not finite.
    """
    ends = min_max(values, bits)
    return ESTIMATORS[method](values, bits) if np.isfinite(ends).all() else ends


def min_max(values: NDArray[Any], bits: int) -> Range:
    """Return the least and the largest value."""
    return _with_zero(float(values.min()), float(values.max()))


def moving_average(values: NDArray[Any], bits: int) -> Range:
    """Return the extremes of a batch, averaged over 32 batches with the weight of each later one 0.1.

    Rows that follow each other are alike, so each batch has every 32nd: else the last states would decide.
    """
    rows = values.reshape(len(values), -1)
    lows, highs = rows.min(axis=1), rows.max(axis=1)
    count = min(_BATCHES, len(rows))
    ages = np.arange(count)[::-1]
    weights = (1.0 - _MOMENTUM) * _MOMENTUM**ages
    weights[0] = _MOMENTUM ** ages[0]
    low = weights @ [float(lows[first::count].min()) for first in range(count)]
    high = weights @ [float(highs[first::count].max()) for first in range(count)]
    return _with_zero(float(low), float(high))


def percentile(values: NDArray[Any], bits: int) -> Range:
    """Return what 0.1 % of the values lie below, and what 0.1 % lie above."""
    low, high = np.percentile(_thinned(values), [_PERCENT, 100.0 - _PERCENT])
    return _with_zero(float(low), float(high))


def mse(values: NDArray[Any], bits: int) -> Range:
    """Return the range whose grid is nearest to the values, in the mean of squares."""
    return _least(values, bits, _squared_error)


def kl(values: NDArray[Any], bits: int) -> Range:
    """Return the range whose grid keeps most of the values' distribution, by Kullback-Leibler divergence."""
    return _least(values, bits, _divergence)


ESTIMATORS: Mapping[str, Callable[[NDArray[Any], int], Range]] = MappingProxyType(
    {"min_max": min_max, "moving_average": moving_average, "percentile": percentile, "mse": mse, "kl": kl}
)


def hull(a: Range, b: Range) -> Range:
    """Return the least range that holds two."""
    return min(a[0], b[0]), max(a[1], b[1])


def _least(values: NDArray[Any], bits: int, cost: Cost) -> Range:
    """Draw in one end after the other, to where the cost is least; twice, as they depend on each other."""
    ends = min_max(values, bits)
    thinned = _thinned(values)
    met = thinned[thinned != 0.0]  # zero is on every grid; behind a relu it would outweigh the rest
    if not met.size:
        return ends
    counts, edges = np.histogram(met, _BINS, ends)
    centres, weights = (edges[:-1] + edges[1:]) / 2.0, counts.astype(np.float64)
    low, high = ends
    for _ in range(2):
        low = min(_drawn_in(ends[0]), key=lambda end: cost(weights, centres, (end, high), bits))
        high = min(_drawn_in(ends[1]), key=lambda end: cost(weights, centres, (low, end), bits))
    return low, high


def _drawn_in(end: float) -> list[float]:
    return (end * (1.0 - _STEPS)).tolist() if end else [end]


def _squared_error(counts: Counts, centres: Centres, ends: Range, bits: int) -> float:
    levels = 2**bits - 1
    step = (ends[1] - ends[0]) / levels
    if step == 0.0:
        return float(counts @ centres**2)
    zero = np.rint(-ends[0] / step)
    nearest = (np.clip(np.rint(centres / step) + zero, 0, levels) - zero) * step
    return float(counts @ (nearest - centres) ** 2)


def _divergence(counts: Counts, centres: Centres, ends: Range, bits: int) -> float:
    """Compare the distribution, its ends cut to the range's, with what is left of it on the grid."""
    is_inside = (centres >= ends[0]) & (centres <= ends[1])
    if not is_inside.any():
        return np.inf
    first, last = np.flatnonzero(is_inside)[[0, -1]]
    kept = counts[first : last + 1]
    exact = kept.copy()
    exact[0] += counts[:first].sum()
    exact[-1] += counts[last + 1 :].sum()
    level = np.arange(len(kept)) * 2**bits // max(len(kept), 2**bits)
    filled = (exact > 0.0).astype(np.float64)
    mass, width = np.bincount(level, kept * filled), np.bincount(level, filled)
    coarse = np.divide(mass, width, out=np.zeros_like(mass), where=width > 0.0)[level] * filled
    p, q = exact / exact.sum(), (coarse + 1e-9) / (coarse + 1e-9).sum()
    met = p > 0.0
    return float(p[met] @ np.log(p[met] / q[met]))


def _thinned(values: NDArray[Any]) -> NDArray[Any]:
    """Return at most `_MOST_VALUES` values, evenly spaced, in one row."""
    flat = values.reshape(-1)
    return flat[:: -(-len(flat) // _MOST_VALUES)]


def _with_zero(low: float, high: float) -> Range:
    return min(low, 0.0), max(high, 0.0)
