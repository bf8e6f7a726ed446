"""Does a candidate hold the return, as far as the episodes that choose can say? Pure.

Choosing is no judging: these bounds are approximate (normal, one-sided) and are looked at several times. What
they let through is judged once, on fresh seeds, by a test that may be looked at.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from edgeqrl.validate.betting import episodes_to_decide
from edgeqrl.validate.criteria import PairedEpisodes, Quantity, quantities
from edgeqrl.validate.terms import Terms

CONFIDENCE = 0.95  # of each bound, one-sided
_SIGMAS = 1.6449
LEAST_TO_HOLD = 128  # pairs: fewer show too little of what happens rarely
_NEVER = 1e-9  # level at which nothing is refuted in `episodes_to_decide`
_ROOM = 2.0  # times the pairs that a policy without any loss takes


class Outcome(StrEnum):
    """What came of a candidate."""

    HOLDS = "holds"  # every criterion, by its bound, and a judgement is likely to say so
    OPEN = "open"  # the episodes were used up
    LOSES = "loses"  # a criterion is beyond its limit, by its bound
    PRUNED = "pruned"  # given up early: worse than the best known
    OVER_BUDGET = "over budget"  # does not fit the board's flash, RAM or control period
    IMPOSSIBLE = "impossible"  # cannot be made


@dataclass(frozen=True)
class Measure:
    """A judged quantity as the episodes that choose show it: mean and one-sided bounds on both sides."""

    name: str  # as of `criteria.Criterion`
    mean: float
    low: float
    high: float
    limit: float

    @property
    def severity(self) -> float:
        """Return the mean in units of its limit: above 1 too much is lost."""
        return self.mean / self.limit

    def to_json(self) -> dict[str, Any]:
        """Return the measure as plain JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Assessment:
    """What some pairs say of a candidate."""

    outcome: Outcome  # HOLDS, OPEN or LOSES
    measures: tuple[Measure, ...]
    pairs_to_pass: int | None  # that a judgement would likely play; None: it would hardly pass

    @property
    def severity(self) -> float:
        """Return that of the worst criterion."""
        return max(measure.severity for measure in self.measures)


def assess(
    pairs: PairedEpisodes, terms: Terms, *, judged_episodes: int, least: int = LEAST_TO_HOLD
) -> Assessment:
    """Say what the pairs played so far show.

    judged_episodes  pairs that the judgement may play at the most
    least            pairs before any candidate holds
    """
    found = quantities(pairs, terms)
    measures = tuple(_measure(quantity) for quantity in found)
    needed = [_pairs_to_pass(quantity, terms) for quantity in found]
    to_pass = None if None in needed else max(count for count in needed if count is not None)
    is_beyond = bool(np.any(found[0].values > found[0].bounds.high))  # one such pair is a FAIL
    outcome = Outcome.OPEN
    if is_beyond or any(measure.low > measure.limit for measure in measures):
        outcome = Outcome.LOSES
    elif len(pairs.losses) >= least and all(m.high < m.limit for m in measures):
        most = max(judged_episodes, _ROOM * least_pairs(pairs, terms))
        if to_pass is not None and to_pass <= most:
            outcome = Outcome.HOLDS
    return Assessment(outcome, measures, to_pass)


def least_pairs(pairs: PairedEpisodes, terms: Terms) -> int:
    """Return how many pairs a judgement takes at the least: those of a policy that loses nothing."""
    same = PairedEpisodes(*(2 * (pairs.float_returns,)), *(2 * (pairs.float_chatter,)))
    return max(_pairs_to_pass(quantity, terms) or 0 for quantity in quantities(same, terms))


def _measure(quantity: Quantity) -> Measure:
    mean, error = float(quantity.values.mean()), _error(quantity)
    return Measure(quantity.name, mean, mean - _SIGMAS * error, mean + _SIGMAS * error, quantity.limit)


def _pairs_to_pass(quantity: Quantity, terms: Terms) -> int | None:
    """Return how many pairs, counted from the first, let a judgement pass; None: hardly any number.

    The pairs are taken to be like these, but worse by one standard error: what chooses is a little lucky.
    """
    values = quantity.values + _error(quantity)
    if not values.mean() < quantity.limit:
        return None
    more = episodes_to_decide(
        values, quantity.limit, quantity.bounds, alpha_below=terms.level, alpha_above=_NEVER
    )
    return None if more is None else more + len(values)


def _error(quantity: Quantity) -> float:
    values = quantity.values
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")
