"""What is declared before the quantized policy plays: how much may be lost, and how sure one must be."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeqrl.errors import UsageError

DEFAULT_MARGIN_PERCENT = 5.0
DEFAULT_WORST_LOSS_PERCENT = 200.0
_LEAST_ALPHA = 1e-6
FAILURE_SHARE = 0.25  # of what the float policy earns above random: an episode below it has failed


@dataclass(frozen=True)
class Declared:
    """The terms as a user states them: numbers in return units, or percentages of what is measured first.

    margin        mean return that may be lost; "5%" is of min(|float - random|, |float|)
    worst_loss    most that one episode can lose or gain; "200%" is of |float - random|; by default that, or
                  the spread of all returns of the baseline where it is more
    alpha         chance of a wrong verdict, over all judgements of an agent
    max_failures  how many more of all episodes may fail, "1%"; None: not judged
    max_chatter   how much more the actions may change from step to step, "50%"; None: not judged
    """

    margin: float | str | None = None
    worst_loss: float | str | None = None
    alpha: float = 0.05
    max_failures: float | str | None = "1%"
    max_chatter: float | str | None = "50%"

    def __post_init__(self) -> None:
        """Refuse what cannot be; raises UsageError."""
        if not _LEAST_ALPHA <= self.alpha < 0.5:
            raise UsageError(f"alpha must lie between {_LEAST_ALPHA:g} and 0.5, got {self.alpha}.")
        if self.margin is not None:
            _amount("margin", self.margin)
        if self.worst_loss is not None:
            _amount("worst loss", self.worst_loss)
        if (_optional_share("failures", self.max_failures) or 0.0) >= 1.0:
            raise UsageError(f"The share of failures '{self.max_failures}' must be below 100%.")
        _optional_share("chatter", self.max_chatter)

    def resolve(self, float_mean: float, random_mean: float, spread: float, judgement: int) -> "Terms":
        """Return the terms in return units, from what the baseline measured.

        float_mean, random_mean  mean returns of the float and of a random policy
        spread                   highest less lowest return of any of their episodes
        """
        advantage = abs(float_mean - random_mean)
        if self.margin is None:
            margin = default_margin(float_mean, random_mean)
        else:
            margin, is_percentage = _amount("margin", self.margin)
            if is_percentage:
                margin = default_margin(float_mean, random_mean, margin)
        if self.worst_loss is None:
            worst_loss = max(DEFAULT_WORST_LOSS_PERCENT / 100.0 * advantage, spread)
        else:
            worst_loss, is_percentage = _amount("worst loss", self.worst_loss)
            if is_percentage:
                worst_loss *= advantage / 100.0
        return Terms(
            margin=margin,
            worst_loss=worst_loss,
            is_worst_loss_declared=self.worst_loss is not None,
            alpha=self.alpha,
            judgement=judgement,
            max_failures=_optional_share("failures", self.max_failures),
            max_chatter=_optional_share("chatter", self.max_chatter),
            failure_return=random_mean + FAILURE_SHARE * (float_mean - random_mean),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the terms as plain JSON values."""
        return asdict(self)

    def canonical(self) -> list[Any]:
        """Return the same for the same terms, however they are spelled."""
        margin = self.margin if self.margin is not None else f"{DEFAULT_MARGIN_PERCENT}%"
        return [
            list(_amount("margin", margin)),
            None if self.worst_loss is None else list(_amount("worst loss", self.worst_loss)),
            self.alpha,
            _optional_share("failures", self.max_failures),
            _optional_share("chatter", self.max_chatter),
        ]


@dataclass(frozen=True)
class Terms:
    """The terms in return units."""

    margin: float
    worst_loss: float
    is_worst_loss_declared: bool  # by the user; else assumed from the baseline
    alpha: float  # of all judgements together
    judgement: int  # 1 for the first of its agent in its environment
    max_failures: float | None  # share of episodes
    max_chatter: float | None  # share of the float policy's rate
    failure_return: float  # an episode that returns less has failed

    @property
    def level(self) -> float:
        """Return the chance of error of this judgement: alpha / 2^judgement, so that all add up to alpha."""
        return self.alpha / 2.0**self.judgement

    def require_sound(self) -> None:
        """Raise UsageError where the margin leaves nothing to judge."""
        if not self.margin > 0.0:
            raise UsageError(
                "The margin is 0, since the float policy earns 0. Declare what may be lost with --margin, in "
                "return units."
            )
        if not self.margin < self.worst_loss:
            raise UsageError(
                f"The margin of {self.margin:.6g} is not below the worst loss of an episode, "
                f"{self.worst_loss:.6g}; declare another with --worst-loss, in return units."
            )

    def to_json(self) -> dict[str, Any]:
        """Return the terms as plain JSON values."""
        return {**asdict(self), "alpha_of_judgement": self.level}


def default_margin(float_mean: float, random_mean: float, percent: float = DEFAULT_MARGIN_PERCENT) -> float:
    """Return `percent` of min(|float - random|, |float|), in return units.

    With |float - random| alone, a task whose random policy is dreadful would let anything pass.
    """
    return percent / 100.0 * min(abs(float_mean - random_mean), abs(float_mean))


def _amount(name: str, stated: float | str) -> tuple[float, bool]:
    """Return a positive number, and whether it is a percentage."""
    text = str(stated).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = float("nan")
    if not (np.isfinite(value) and value > 0.0):
        raise UsageError(
            f"The {name} '{stated}' must be a positive number in return units or a percentage, as '5%'."
        )
    return value, text.endswith("%")


def _optional_share(name: str, stated: float | str | None) -> float | None:
    """Return a percentage, or a number below 1, as a share."""
    if stated is None:
        return None
    text = str(stated).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = float("nan")
    is_percentage = text.endswith("%")
    if not (np.isfinite(value) and value > 0.0) or (value >= 1.0 and not is_percentage):
        raise UsageError(
            f"The share of {name} '{stated}' must be a percentage, as '1%', or a number below 1."
        )
    return value / 100.0 if is_percentage else value
