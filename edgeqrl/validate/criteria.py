"""What a verdict is made of: means of paired quantities, each below a limit that was declared before."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.validate.betting import (
    Bounds,
    episodes_to_decide,
    evidence_above,
    evidence_below,
    first_at,
    mean_bounds,
)
from edgeqrl.validate.terms import Terms

CHATTER_FLOOR = 0.02  # of an action's range a step: less than this is no chatter, whatever the ratio


class Verdict(StrEnum):
    """What the episodes say about the quantized policy."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOTHING_TO_PRESERVE = "NOTHING_TO_PRESERVE"


@dataclass(frozen=True, eq=False)
class Quantity:
    """A paired quantity whose mean must lie below `limit`. `E` counts pairs."""

    name: str
    values: NDArray[np.float64]  # [E], in the order of the seeds
    limit: float
    bounds: Bounds  # assumed of every value


@dataclass(frozen=True)
class Criterion:
    """A judged quantity."""

    name: str
    mean: float
    low: float | None  # the mean lies above, at any look, but for a chance of the level of FAIL
    high: float | None  # the mean lies below, but for a chance of the level of PASS
    limit: float
    verdict: Verdict
    decided_after: int | None  # pairs
    episodes_to_decide: int | None  # how many more pairs would likely decide; None: decided, or too many
    breach: str | None  # "loss" or "gain": a value lies beyond what was assumed possible

    def to_json(self) -> dict[str, Any]:
        """Return the criterion as plain JSON values."""
        return {**vars(self), "verdict": str(self.verdict)}


@dataclass(frozen=True, eq=False)
class PairedEpisodes:
    """What is judged: one number an episode and policy, in the order of the seeds [E]."""

    float_returns: NDArray[np.float64]
    quantized_returns: NDArray[np.float64]
    float_chatter: NDArray[np.float64] | None  # mean change of the action a step, as a share of its range
    quantized_chatter: NDArray[np.float64] | None

    @property
    def losses(self) -> NDArray[np.float64]:
        """Return float - quantized return [E]."""
        return self.float_returns - self.quantized_returns


def quantities(pairs: PairedEpisodes, terms: Terms) -> list[Quantity]:
    """Return what the terms ask for."""
    worst = terms.worst_loss
    found = [Quantity("return", pairs.losses, terms.margin, Bounds(-worst, worst))]
    if terms.max_failures is not None:
        failed, failed_in_float = (
            (returns < terms.failure_return).astype(np.float64)
            for returns in (pairs.quantized_returns, pairs.float_returns)
        )
        found.append(Quantity("failures", failed - failed_in_float, terms.max_failures, Bounds(-1.0, 1.0)))
    if terms.max_chatter is not None and pairs.float_chatter is not None:
        assert pairs.quantized_chatter is not None
        allowed = 1.0 + terms.max_chatter
        excess = pairs.quantized_chatter - allowed * pairs.float_chatter
        found.append(Quantity("chatter", excess, CHATTER_FLOOR, Bounds(-allowed, 1.0)))
    return found


def decide(pairs: PairedEpisodes, terms: Terms) -> tuple[Verdict, bool]:
    """Return the verdict on all pairs so far, and whether it is final.

    PASS needs every criterion, so each has the whole level: one whose mean is at its limit or beyond passes
    with a chance of at most the level, and the verdict with it. FAIL needs one, so they share the level.
    A return that fails ends it; after another criterion has failed, the return is still worth knowing.
    """
    verdicts = [decision.verdict for _, decision in _decisions(pairs, terms)]
    is_final = verdicts[0] is Verdict.FAIL or Verdict.INCONCLUSIVE not in verdicts
    return combined(verdicts), is_final


def judge(pairs: PairedEpisodes, terms: Terms) -> tuple[Criterion, ...]:
    """Return every criterion in full, on all pairs."""
    return tuple(_criterion(quantity, decision) for quantity, decision in _decisions(pairs, terms))


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """Return FAIL if one failed, PASS if all passed, else INCONCLUSIVE."""
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.PASS if set(verdicts) == {Verdict.PASS} else Verdict.INCONCLUSIVE


@dataclass(frozen=True)
class _Decision:
    verdict: Verdict
    after: int | None  # values
    pass_level: float
    fail_level: float
    breach: str | None


def _decisions(pairs: PairedEpisodes, terms: Terms) -> list[tuple[Quantity, _Decision]]:
    found = quantities(pairs, terms)
    return [(quantity, _decision(quantity, terms.level, terms.level / len(found))) for quantity in found]


def _decision(quantity: Quantity, pass_level: float, fail_level: float) -> _Decision:
    """Decide one quantity, on each side only as long as what that side assumes has not been refuted."""
    values, limit, bounds = quantity.values, quantity.limit, quantity.bounds
    lost_too_much = np.flatnonzero(values > bounds.high)
    breach = "loss" if len(lost_too_much) else "gain" if np.any(values < bounds.low) else None
    passed = failed = None
    if breach == "loss":  # worse than was thought possible
        failed = int(lost_too_much[0]) + 1
    else:
        passed = first_at(evidence_below(values, limit, bounds), pass_level)
        if breach is None:
            failed = first_at(evidence_above(values, limit, bounds), fail_level)
    verdict, after = Verdict.INCONCLUSIVE, None
    if failed is not None and (passed is None or failed < passed):
        verdict, after = Verdict.FAIL, failed
    elif passed is not None:
        verdict, after = Verdict.PASS, passed
    return _Decision(verdict, after, pass_level, fail_level, breach)


def _criterion(quantity: Quantity, decision: _Decision) -> Criterion:
    values, limit, bounds = quantity.values, quantity.limit, quantity.bounds
    more = None
    if decision.after is None and decision.breach is None:
        more = episodes_to_decide(
            values, limit, bounds, alpha_below=decision.pass_level, alpha_above=decision.fail_level
        )
    low = high = None  # an end that assumes what a value has refuted says nothing
    if decision.breach is None:
        low = mean_bounds(values, bounds, decision.fail_level)[0]
    if decision.breach != "loss":
        high = mean_bounds(values, bounds, decision.pass_level)[1]
    return Criterion(
        name=quantity.name,
        mean=float(values.mean()),
        low=low,
        high=high,
        limit=limit,
        verdict=decision.verdict,
        decided_after=decision.after,
        episodes_to_decide=more,
        breach=decision.breach,
    )
