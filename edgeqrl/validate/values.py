"""How well an integer network tells state values: its errors, and whether it ranks states alike.

Reported, never decided on: what an error of a value costs depends on what uses it.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ValueAgreement:
    """Of one value output on many observations, in units of the value."""

    name: str
    states: str  # whose states the observations are of: "policy", "random actions" or "recorded"
    num_observations: int
    mean_error: float  # integer - float
    mean_absolute_error: float
    p95_absolute_error: float  # 95 % of the errors lie at or below
    max_absolute_error: float
    float_min: float  # of the float network's values
    float_max: float
    step: float  # that one integer of the output stands for
    rank_correlation: float | None  # Spearman's, in [-1, 1]; None where one of the two says one value always

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


def value_agreement(
    name: str, float_values: NDArray[Any], integer_values: NDArray[Any], *, step: float, states: str
) -> ValueAgreement:
    """Compare a value output of both networks on the same N >= 1 observations, [N] or [N, 1]."""
    wanted = np.asarray(float_values, np.float64).ravel()
    found = np.asarray(integer_values, np.float64).ravel()
    if len(wanted) != len(found) or len(wanted) < 1:
        raise ValueError(f"one value an observation of each network, got {len(wanted)} and {len(found)}")
    error = found - wanted
    return ValueAgreement(
        name=name,
        states=states,
        num_observations=len(wanted),
        mean_error=float(error.mean()),
        mean_absolute_error=float(np.abs(error).mean()),
        p95_absolute_error=float(np.percentile(np.abs(error), 95.0)),
        max_absolute_error=float(np.abs(error).max()),
        float_min=float(wanted.min()),
        float_max=float(wanted.max()),
        step=step,
        rank_correlation=rank_correlation(wanted, found),
    )


def rank_correlation(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """Return Spearman's correlation of [N] and [N]: Pearson's of ranks, ties sharing their mean rank."""
    first, second = (_ranks(np.asarray(values)) for values in (a, b))
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first @ first) * (second @ second)))
    return None if norm == 0.0 else float(np.clip(first @ second / norm, -1.0, 1.0))


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse.ravel()], np.float64)
