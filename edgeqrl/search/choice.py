"""What a search found: the winner, and all that was tried."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeqrl.errors import BoardFitError
from edgeqrl.search.candidate import PLAYED, Built, Task, Tried, front
from edgeqrl.search.outcome import CONFIDENCE, Outcome
from edgeqrl.validate.report import number

Facts = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Choice:
    """A chosen scheme, and why."""

    by: str  # "auto" or "search"
    winner: Tried
    tried: tuple[Tried, ...]  # in the order in which they were
    facts: Facts  # of the episodes that chose
    built: Built = field(repr=False)  # the winner, the very network that was played

    @property
    def holds(self) -> bool:
        """Tell whether the winner held the return on the episodes that chose."""
        return self.winner.outcome is Outcome.HOLDS

    @property
    def sentence(self) -> str:
        """Say what was chosen, and plainly where nothing held."""
        winner, loss, count = self.winner, self.winner.loss, len(self.tried)
        told = "the only scheme tried" if count == 1 else f"one of {count:,} schemes tried"
        if loss is None:
            return f"Chosen: {winner.name}, untried, since there is no return to hold."
        lost = (
            f"over {winner.pairs:,} pairs of episodes that choose the mean loss of return is "
            f"{number(loss.mean)} [{number(loss.low)}, {number(loss.high)}], of at most {number(loss.limit)}"
        )
        if self.holds:
            return f"Chosen: {winner.name}, {told}: {lost}.{self._too_few}"
        worst = max(winner.measures, key=lambda measure: measure.severity)
        criterion = "" if worst.name == "return" else f" The criterion that fails is {worst.name}."
        return (
            f"No scheme of {count:,} tried was seen to hold the return within the budget. "
            f"{winner.name} lost least and was kept: {lost}.{criterion}"
        )

    @property
    def _too_few(self) -> str:
        """Say so where the judgement of the winner may play fewer pairs than it is likely to take."""
        most, likely = self.facts.get("judged_episodes"), self.winner.pairs_to_pass
        if most is None or likely is None or likely <= max(most, self.winner.pairs):
            return ""  # those that were played, or fewer, would do
        step = 10 if likely < 1000 else 100
        rounded = -(-likely // step) * step
        return (
            f" Its judgement is likely to take about {rounded:,} pairs, more than the {most:,} that "
            "--episodes allows, so that it may end without an answer."
        )

    def to_json(self) -> Facts:
        """Return the section `choice` of a report."""
        on_front = {id(tried) for tried in front(self.tried)}
        return {
            "by": self.by,
            "winner": self.winner.name,
            "scheme": self.winner.scheme.to_json(),
            "holds": self.holds,
            "sentence": self.sentence,
            "is_reused": False,
            **self.facts,
            "candidates": [{**tried.to_json(), "is_on_front": id(tried) in on_front} for tried in self.tried],
        }


def facts_of(task: Task, *, board: str | None, core: str) -> Facts:
    """Return what a report says of the episodes that choose; `core` is the one of the instructions."""
    episodes = task.episodes
    return {
        "board": board,
        "core": core,
        "most_weight_bits": task.options.most_weight_bits,
        "learning": task.options.learning,
        "judged_episodes": episodes.judged_episodes,
        "confidence": CONFIDENCE,
        "seeds": {"first": episodes.seeds.start, "count": len(episodes.seeds)},
        "baseline_seeds": {"first": episodes.baseline_seeds.start, "count": len(episodes.baseline_seeds)},
    }


def least_lost(tried: Sequence[Tried]) -> Tried | None:
    """Return the one that lost least of those that fit the budget; the cheaper of equal ones."""
    found = [t for t in tried if t.outcome in PLAYED]
    return min(found, key=lambda t: (t.severity, t.costs), default=None) if found else None


def require_one(task: Task, tried: Sequence[Tried]) -> None:
    """Raise what kept every candidate from being played: the budget, else what made the first impossible."""
    too_large = [t for t in tried if t.outcome is Outcome.OVER_BUDGET]
    if too_large:
        cheapest = min(too_large, key=lambda t: (t.costs is None, t.costs))
        raise BoardFitError(f"No scheme of {len(tried)} tried fits. {cheapest.name}: {cheapest.reason}")
    task.build(tried[0].scheme)
    raise AssertionError("a candidate that was impossible is not")
