"""What a validation found, in numbers and in a sentence."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.validate.agreement import Agreement
from edgeqrl.validate.criteria import Criterion, PairedEpisodes, Verdict
from edgeqrl.validate.likeness import Likeness
from edgeqrl.validate.statistics import Interval, correlation, tail_mean
from edgeqrl.validate.terms import Terms

TAIL = 0.05  # of episodes: the worst ones, whose mean return is the CVaR


@dataclass(frozen=True, eq=False)
class Baseline:
    """Float and random episodes on seeds of their own, from which the terms come. `B` counts episodes."""

    seeds: tuple[int, ...]  # [B]
    float_return: Interval
    random_return: Interval
    advantage: Interval  # float - random, paired
    spread: float  # highest less lowest return of all its episodes

    @property
    def is_worth_preserving(self) -> bool:
        """Say whether the float policy is clearly better than random actions."""
        return self.advantage.low > 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the baseline as plain JSON values."""
        return {
            "episodes": len(self.seeds),
            "seeds": {"first": self.seeds[0], "count": len(self.seeds)},
            "float_return": self.float_return.to_json(),
            "random_return": self.random_return.to_json(),
            "advantage": self.advantage.to_json(),
            "spread": self.spread,
        }


@dataclass(frozen=True, eq=False)
class ValidationReport:
    """Paired episodes of a float and a quantized policy. `E` counts pairs."""

    verdict: Verdict
    terms: Terms
    baseline: Baseline
    criteria: tuple[Criterion, ...]  # none where there is nothing to preserve
    float_return: Interval
    quantized_return: Interval
    return_drop: (
        Interval  # float - quantized by BCa: approximate; confidence 1 - 2 alpha, so each end is one-sided
    )
    likeness: Likeness
    backend: str
    float_backend: str
    seeds: tuple[int, ...]  # [E]
    max_episodes: int
    pairs: PairedEpisodes
    float_episode_lengths: NDArray[np.int64]  # [E]
    quantized_episode_lengths: NDArray[np.int64]  # [E]
    divergence: tuple[int | None, ...]  # [E], the first step whose actions differ

    @property
    def sentence(self) -> str:
        """Say the result as a person would."""
        return _sentence(self)

    @property
    def correlation(self) -> float | None:
        """Return Pearson's rho of the paired returns: pairing helps only where it is high."""
        return correlation(self.pairs.float_returns, self.pairs.quantized_returns)

    @property
    def worst_pair(self) -> dict[str, float | int]:
        """Return the episode in which the quantized policy lost most."""
        worst = int(np.argmax(self.pairs.losses))
        return {
            "seed": self.seeds[worst],
            "float_return": float(self.pairs.float_returns[worst]),
            "quantized_return": float(self.pairs.quantized_returns[worst]),
            "loss": float(self.pairs.losses[worst]),
        }

    @property
    def num_failures(self) -> tuple[int, int]:
        """Count the failed episodes of the float and of the quantized policy."""
        threshold = self.terms.failure_return
        pairs = self.pairs
        return int(np.sum(pairs.float_returns < threshold)), int(np.sum(pairs.quantized_returns < threshold))

    @property
    def episodes_to_decide(self) -> int | None:
        """Return how many more pairs would likely decide; None where decided, or where none would."""
        undecided = [c.episodes_to_decide for c in self.criteria if c.verdict is Verdict.INCONCLUSIVE]
        known = [count for count in undecided if count is not None]
        is_open = self.verdict is Verdict.INCONCLUSIVE and len(known) == len(undecided)
        return max(known, default=None) if is_open else None

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values, under the glossary's names."""
        pairs, (failures, quantized_failures) = self.pairs, self.num_failures
        return {
            "verdict": str(self.verdict),
            "sentence": self.sentence,
            "terms": self.terms.to_json(),
            "baseline": self.baseline.to_json(),
            "criteria": [criterion.to_json() for criterion in self.criteria],
            "float_return": self.float_return.to_json(),
            "quantized_return": self.quantized_return.to_json(),
            "return_drop": self.return_drop.to_json(),
            "cvar": {
                "fraction": TAIL,
                "float": tail_mean(pairs.float_returns, TAIL),
                "quantized": tail_mean(pairs.quantized_returns, TAIL),
            },
            "correlation": self.correlation,
            "worst_pair": self.worst_pair,
            "failures": {
                "threshold": self.terms.failure_return,
                "float": failures,
                "quantized": quantized_failures,
            },
            "episode_lengths": {
                "float": float(self.float_episode_lengths.mean()),
                "quantized": float(self.quantized_episode_lengths.mean()),
            },
            "likeness": self.likeness.to_json(),
            "episodes": len(self.seeds),
            "max_episodes": self.max_episodes,
            "episodes_to_decide": self.episodes_to_decide,
            "seeds": {"first": self.seeds[0], "count": len(self.seeds)},
            "backend": self.backend,
            "float_backend": self.float_backend,
            "episodes_detail": {
                "seed": list(self.seeds),
                "float_return": pairs.float_returns.tolist(),
                "quantized_return": pairs.quantized_returns.tolist(),
                "float_length": self.float_episode_lengths.tolist(),
                "quantized_length": self.quantized_episode_lengths.tolist(),
                "float_chatter": _listed(pairs.float_chatter),
                "quantized_chatter": _listed(pairs.quantized_chatter),
                "divergence": list(self.divergence),
            },
        }


@dataclass(frozen=True)
class RecordedReport:
    """Two policies compared on recorded observations: no return was measured, so there is no verdict."""

    agreement: Agreement
    backend: str
    float_backend: str

    @property
    def verdict(self) -> None:
        """Return None: only episodes give a verdict."""
        return None

    @property
    def sentence(self) -> str:
        """Say the result as a person would."""
        return (
            f"NO VERDICT: on {self.agreement.num_steps} recorded observations the quantized policy agrees in "
            f"{100 * self.agreement.action_agreement:.1f} % of actions; no return was measured, for lack of "
            "an environment to act in."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "verdict": None,
            "sentence": self.sentence,
            "likeness": {
                "action_agreement": self.agreement.action_agreement,
                "action_error": self.agreement.action_error,
                "num_steps": self.agreement.num_steps,
            },
            "backend": self.backend,
            "float_backend": self.float_backend,
        }


def number(value: float) -> str:
    """Write a return as one reads it: three digits, or one decimal from 10 to a million."""
    return f"{value:.1f}" if 10.0 <= abs(value) < 1e6 else f"{value:.3g}"


def _sentence(report: ValidationReport) -> str:
    baseline = report.baseline
    if report.verdict is Verdict.NOTHING_TO_PRESERVE:
        return (
            f"NOTHING TO PRESERVE: the float policy returns {number(baseline.float_return.mean)} on average "
            f"over the first {len(baseline.seeds)} episodes, which is not clearly above random actions "
            f"({number(baseline.random_return.mean)})."
        )
    means = (
        f"{report.verdict}: over {len(report.seeds)} paired episodes the quantized policy returns "
        f"{number(report.quantized_return.mean)} where the float policy returns "
        f"{number(report.float_return.mean)};"
    )
    if report.verdict is Verdict.PASS:
        (loss, *_) = report.criteria
        assert loss.high is not None
        most = (
            "it loses nothing" if loss.high <= 0.0 else f"it loses less than {number(loss.high)} on average"
        )
        return f"{means} {most}, within the margin of {number(loss.limit)} {_confidence(report)}."
    if report.verdict is Verdict.FAIL:
        reasons = [_failure(report, c) for c in report.criteria if c.verdict is Verdict.FAIL]
        is_seen = all(c.breach for c in report.criteria if c.verdict is Verdict.FAIL)  # a fact, not a chance
        return f"{means} {'; '.join(reasons)}{'' if is_seen else f' {_confidence(report)}'}."
    undecided = [c for c in report.criteria if c.verdict is Verdict.INCONCLUSIVE]
    open_ones = [_open_question(report, c) for c in undecided]
    if any(c.breach for c in undecided):
        return f"{means} {'; '.join(open_ones)}."
    more = report.episodes_to_decide
    cure = (
        f"about {_rounded_up(more):,} more episodes would likely decide"
        if more is not None
        else "more episodes would hardly decide, for it lies at the limit"
    )
    return f"{means} {'; '.join(open_ones)}: {cure}."


def _failure(report: ValidationReport, criterion: Criterion) -> str:
    low, limit = criterion.low, criterion.limit
    if criterion.name == "return":
        if criterion.breach == "loss":
            worst = report.worst_pair
            return (
                f"in the episode with seed {worst['seed']} it lost {number(worst['loss'])}, more than the "
                f"{_worst_loss(report)}"
            )
        assert low is not None
        return f"it loses at least {number(low)} on average, more than the margin of {number(limit)}"
    if criterion.name == "failures":
        assert low is not None
        failed, failed_now = report.num_failures
        return (
            f"{failed_now} of its episodes failed and {failed} of the float policy's, which is at least "
            f"{100 * low:.2g} % of episodes more, and {100 * limit:.3g} % is allowed"
        )
    return f"its actions change more from step to step than allowed: {_rates(report)}"


def _open_question(report: ValidationReport, criterion: Criterion) -> str:
    low, high, limit = criterion.low, criterion.high, criterion.limit
    if criterion.name == "return" and criterion.breach == "gain":
        gained = number(-float(report.pairs.losses.min()))
        return (
            f"in one episode it gained {gained} on the float policy, more than the {_worst_loss(report)}, so "
            "no loss can be proven; declare another with --worst-loss"
        )
    if criterion.name == "return":
        assert low is not None
        assert high is not None
        return (
            f"the mean loss lies between {number(low)} and {number(high)}, which does not decide about the "
            f"margin of {number(limit)}"
        )
    if criterion.name == "failures":
        failed, failed_now = report.num_failures
        return (
            f"{failed_now} of its episodes failed and {failed} of the float policy's, which does not decide "
            f"whether it fails in {100 * limit:.3g} % more"
        )
    return f"whether its actions change too much from step to step is open: {_rates(report)}"


def _worst_loss(report: ValidationReport) -> str:
    how = "declared as" if report.terms.is_worst_loss_declared else "assumed to be"
    return f"{number(report.terms.worst_loss)} {how} the worst"


def _rates(report: ValidationReport) -> str:
    pairs = report.pairs
    assert pairs.float_chatter is not None
    assert pairs.quantized_chatter is not None
    assert report.terms.max_chatter is not None
    return (
        f"{100 * pairs.quantized_chatter.mean():.3g} % a step against "
        f"{100 * pairs.float_chatter.mean():.3g} %, and "
        f"{100 * report.terms.max_chatter:.3g} % more is allowed"
    )


def _confidence(report: ValidationReport) -> str:
    return f"({100 * (1 - report.terms.level):.4g} % confidence)"


def _rounded_up(count: int) -> int:
    """Return `count` with two digits: it is an estimate."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // step) * step


def _listed(values: NDArray[np.float64] | None) -> list[float] | None:
    return None if values is None else values.tolist()
