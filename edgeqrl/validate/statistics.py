"""Intervals for mean returns. Imports nothing of edgeqrl."""

import warnings
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BATCH_ELEMENTS = 2**22  # bounds the memory of one batch of resamples


@dataclass(frozen=True)
class Interval:
    """A mean and a two-sided interval around it."""

    mean: float
    low: float
    high: float
    confidence: float = 0.95

    def to_json(self) -> dict[str, float]:
        """Return the interval as plain JSON values."""
        return asdict(self)


def bootstrap_interval(
    values: ArrayLike, *, confidence: float = 0.95, seed: int, num_resamples: int = 9999
) -> Interval:
    """Return the mean of `values` [n >= 2] with its BCa bootstrap interval (Efron, 1987).

    Approximate: no bootstrap sees a rare catastrophe that is not in the sample. Equal values give an
    interval of no width; where BCa is undefined the percentile interval stands in.
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or len(sample) < 2 or not np.isfinite(sample).all():
        raise ValueError("expected at least two finite values")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if np.all(sample == sample[0]):
        constant = float(sample[0])
        return Interval(constant, constant, constant, confidence)
    low, high = _bootstrap(sample, confidence, seed, num_resamples, "BCa")
    if not (np.isfinite(low) and np.isfinite(high)):
        low, high = _bootstrap(sample, confidence, seed, num_resamples, "percentile")
    return Interval(float(sample.mean()), low, high, confidence)


def tail_mean(values: ArrayLike, fraction: float) -> float:
    """Return the mean of the lowest `fraction` of `values` [n >= 1]: the CVaR of a return.

    At least one value counts, and their number is rounded up.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    if ordered.ndim != 1 or not len(ordered) or not 0.0 < fraction <= 1.0:
        raise ValueError("expected some values, and a fraction in (0, 1]")
    return float(ordered[: int(np.ceil(fraction * len(ordered)))].mean())


def correlation(first: ArrayLike, second: ArrayLike) -> float | None:
    """Return Pearson's correlation of two equally long samples, or None where either is constant."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"expected two samples of one length, got {a.shape} and {b.shape}")
    if len(a) < 2:
        return None
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    # Rounding in the mean alone leaves about this much of a constant sample.
    if scale == 0.0 or not np.isfinite(scale) or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return None
    return float(np.clip((a @ b) / scale, -1.0, 1.0))


def _bootstrap(
    sample: NDArray[np.float64], confidence: float, seed: int, num_resamples: int, method: str
) -> tuple[float, float]:
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate samples are seen in the result
        result = stats.bootstrap(
            (sample,),
            np.mean,
            confidence_level=confidence,
            n_resamples=num_resamples,
            batch=max(1, _BATCH_ELEMENTS // len(sample)),
            method=method,
            random_state=np.random.default_rng(seed),
        )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
