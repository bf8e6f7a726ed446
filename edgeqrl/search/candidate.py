"""A scheme that is tried: made, costed, held against the budget, and played."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgeqrl.errors import (
    AgentError,
    ConverterError,
    EdgeQRLError,
    EnvironmentFailure,
    UnsupportedOperatorError,
)
from edgeqrl.interfaces import Policy
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.search.costs import Costs
from edgeqrl.search.episodes import ChoosingEpisodes, Played, Prune
from edgeqrl.search.options import SearchOptions
from edgeqrl.search.outcome import Measure, Outcome

Progress = Callable[[str, int, int], None]  # stage, done, total

_CANNOT_BE_MADE: tuple[type[EdgeQRLError], ...] = (ConverterError, UnsupportedOperatorError)
_EPISODES_FAILED: tuple[type[EdgeQRLError], ...] = (AgentError, EnvironmentFailure)

PLAYED = (Outcome.HOLDS, Outcome.OPEN, Outcome.LOSES)  # enough to be compared


@dataclass(frozen=True, eq=False)
class Built:
    """A candidate that could be made."""

    costs: Costs
    over_budget: str | None  # why it does not fit the board, or None
    sha256: str  # of its `.tflite`: equal ones act alike
    layers: tuple[str, ...]  # that have weights, by the tensor that each writes
    open: Callable[[], Policy]  # compiles it
    quantized: Any = field(repr=False)  # what becomes of the winner: a QuantizedPolicy


@dataclass(frozen=True, eq=False)
class Task:
    """What a search needs to know, and nothing of files."""

    build: Callable[[Scheme], Built]
    episodes: ChoosingEpisodes
    options: SearchOptions
    has_states: bool
    progress: Progress


@dataclass(frozen=True)
class Tried:
    """What came of a candidate: plain data, the same on every machine that reads it."""

    name: str
    scheme: Scheme  # as it was asked for
    outcome: Outcome
    reason: str | None = None  # of an outcome that no episode gave
    costs: Costs | None = None
    sha256: str | None = None
    pairs: int = 0
    float_return: float | None = None  # means
    quantized_return: float | None = None
    measures: tuple[Measure, ...] = ()  # the return's first
    pairs_to_pass: int | None = None

    @property
    def severity(self) -> float:
        """Return the worst mean in units of its limit; infinite where nothing was played."""
        return max((measure.severity for measure in self.measures), default=float("inf"))

    @property
    def loss(self) -> Measure | None:
        """Return what of the return is lost."""
        return self.measures[0] if self.measures else None

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            **vars(self),
            "scheme": self.scheme.to_json(),
            "outcome": str(self.outcome),
            "costs": None if self.costs is None else self.costs.to_json(),
            "measures": [measure.to_json() for measure in self.measures],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Tried":
        """Invert `to_json`; raises KeyError, TypeError, ValueError or DataError for anything else."""
        return cls(
            **{
                **data,
                "scheme": Scheme.from_json(data["scheme"]),
                "outcome": Outcome(data["outcome"]),
                "costs": None if data["costs"] is None else Costs(**data["costs"]),
                "measures": tuple(Measure(**measure) for measure in data["measures"]),
            }
        )


def attempt(
    task: Task,
    scheme: Scheme,
    known: Iterable[Tried] = (),
    *,
    stage: str | None = None,
    prune: Prune | None = None,
) -> tuple[Tried, Built | None]:
    """Make, cost and play one candidate; what cannot be made, or does not fit, is told and not played.

    stage  what progress calls it
    known  what was tried before: an equal network is not played again, and nothing is trained whose untrained
           twin, of the same size, is over the budget

    Of a scheme that is learned, the episodes that learning plays may fail too, as none before did: then it
    cannot be made, and the others are none the worse.
    """
    label = name_of(scheme)
    stage = stage or f"try {label}"
    task.progress(stage, 0, 0)
    earlier = list(known)
    if scheme.learned and (twin := _over_budget_twin(scheme, earlier)) is not None:
        return replace(twin, name=label, scheme=scheme), None
    expected = _CANNOT_BE_MADE + (_EPISODES_FAILED if scheme.learned else ())
    try:
        built = task.build(scheme)
    except expected as error:
        return Tried(label, scheme, Outcome.IMPOSSIBLE, str(error)), None
    made = Tried(label, scheme, Outcome.OPEN, None, built.costs, built.sha256)
    if built.over_budget is not None:
        return replace(made, outcome=Outcome.OVER_BUDGET, reason=built.over_budget), built
    same = next((t for t in earlier if t.sha256 == built.sha256 and t.outcome in PLAYED), None)
    if same is not None:
        reason = None if same.scheme == scheme else f"the same network as '{same.name}'"
        return replace(same, name=label, scheme=scheme, reason=reason), built
    if not task.episodes.is_worth_preserving:
        return replace(made, reason="not played: the float policy is no better than random actions"), built
    policy = built.open()
    task.progress(stage, 0, len(task.episodes.seeds))
    played = task.episodes.play(policy, prune=prune, tell=lambda done, most: task.progress(stage, done, most))
    return _with_episodes(made, played), built


def name_of(scheme: Scheme) -> str:
    """Return a short name that tells the schemes of a search apart."""
    words = [scheme.label]
    if scheme.ranges != "min_max":
        words.append(f"ranges={scheme.ranges}")
    usual, rewrites = set(Scheme().rewrites), set(scheme.rewrites)
    words += [f"+{name}" for name in sorted(rewrites - usual)] + [
        f"-{name}" for name in sorted(usual - rewrites)
    ]
    if scheme.rounding == "nearest" and not scheme.learned:
        words.append("rounding=nearest")
    return " ".join(words)


def front(tried: Iterable[Tried]) -> list[Tried]:
    """Return those that no other beats in loss, bytes and instructions at once, fewest bytes first."""
    points = [(_place(t), t) for t in tried if t.outcome in PLAYED and t.loss is not None]
    kept: list[Tried] = []
    seen: set[tuple[float, ...]] = set()
    for place, found in points:
        is_beaten = any(
            other != place and all(a <= b for a, b in zip(other, place, strict=True)) for other, _ in points
        )
        if not is_beaten and place not in seen:
            seen.add(place)
            kept.append(found)
    return sorted(kept, key=_place)


def _place(tried: Tried) -> tuple[float, ...]:
    assert tried.costs is not None
    assert tried.loss is not None
    return (tried.costs.flash_bytes, tried.costs.instructions, tried.loss.mean)


def _with_episodes(made: Tried, played: Played) -> Tried:
    pairs, found = played.pairs, played.assessment
    return replace(
        made,
        outcome=Outcome.PRUNED if played.is_pruned else found.outcome,
        pairs=len(pairs.losses),
        float_return=float(np.mean(pairs.float_returns)),
        quantized_return=float(np.mean(pairs.quantized_returns)),
        measures=found.measures,
        pairs_to_pass=found.pairs_to_pass,
    )


def _over_budget_twin(scheme: Scheme, known: Iterable[Tried]) -> Tried | None:
    return next(
        (t for t in known if t.outcome is Outcome.OVER_BUDGET and _size_of(t.scheme) == _size_of(scheme)),
        None,
    )


def _size_of(scheme: Scheme) -> tuple[Any, ...]:
    """Return what the bytes of a policy depend on."""
    return scheme.weight_bits, scheme.layer_bits, scheme.activations, scheme.wide
