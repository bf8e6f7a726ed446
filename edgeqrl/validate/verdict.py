"""Does the quantized policy act as well? Paired episodes, an interval for the loss, one word.

One-sided non-inferiority on paired seeds: H0 is that the mean return drops by more than `margin`, and
the margin is declared before the quantized policy plays. Seeds that calibrated or selected anything
never judge.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.environments import MakeEnv, spaces
from edgeqrl.errors import DataError, UsageError
from edgeqrl.interfaces import Policy
from edgeqrl.rollout import RandomPolicy, Rollout, rollout
from edgeqrl.validate.agreement import Agreement, AgreementCounter, ShadowedPolicy
from edgeqrl.validate.statistics import Interval, bootstrap_interval, correlation

if TYPE_CHECKING:
    import gymnasium

DEFAULT_SEED = 20_000
DEFAULT_PERCENT = 5.0
MIN_EPISODES_FOR_VERDICT = 10  # fewer, and even equal returns say next to nothing
RANDOM_SEED_OFFSET = 1_000_000
_RANDOM_EPISODES = (30, 100)
_BATCH = 256


class Verdict(StrEnum):
    """What the episodes say about the quantized policy."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOTHING_TO_PRESERVE = "NOTHING_TO_PRESERVE"


@dataclass(frozen=True, eq=False)
class ValidationReport:
    """Paired episodes of a float and a quantized policy. `E` counts episodes."""

    verdict: Verdict
    float_return: Interval
    quantized_return: Interval
    random_return: Interval
    return_drop: Interval  # float - quantized; its confidence is 1 - 2 alpha, so each end is one-sided
    margin: float  # in return units
    alpha: float
    agreement: Agreement  # on the float policy's observations
    correlation: float | None  # of the paired returns; pairing helps only where it is high
    backend: str
    float_backend: str
    seeds: tuple[int, ...]  # [E]
    float_episode_returns: NDArray[np.float64]  # [E]
    quantized_episode_returns: NDArray[np.float64]  # [E]
    float_episode_lengths: NDArray[np.int64]  # [E]
    quantized_episode_lengths: NDArray[np.int64]  # [E]

    @property
    def sentence(self) -> str:
        """Say the result as a person would."""
        return _sentence(self)

    @property
    def worst_pair(self) -> dict[str, float | int]:
        """Return the episode in which the quantized policy lost most."""
        worst = int(np.argmax(self.float_episode_returns - self.quantized_episode_returns))
        return {
            "seed": self.seeds[worst],
            "float_return": float(self.float_episode_returns[worst]),
            "quantized_return": float(self.quantized_episode_returns[worst]),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values, under the glossary's names."""
        return {
            "verdict": str(self.verdict),
            "sentence": self.sentence,
            "float_return": self.float_return.to_json(),
            "quantized_return": self.quantized_return.to_json(),
            "random_return": self.random_return.to_json(),
            "return_drop": self.return_drop.to_json(),
            "margin": self.margin,
            "alpha": self.alpha,
            "action_agreement": self.agreement.action_agreement,
            "action_error": self.agreement.action_error,
            "correlation": self.correlation,
            "worst_pair": self.worst_pair,
            "episodes": len(self.seeds),
            "seeds": {"first": self.seeds[0], "count": len(self.seeds)},
            "backend": self.backend,
            "float_backend": self.float_backend,
            "episodes_detail": {
                "seed": list(self.seeds),
                "float_return": self.float_episode_returns.tolist(),
                "quantized_return": self.quantized_episode_returns.tolist(),
                "float_length": self.float_episode_lengths.tolist(),
                "quantized_length": self.quantized_episode_lengths.tolist(),
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
            "action_agreement": self.agreement.action_agreement,
            "action_error": self.agreement.action_error,
            "observations": self.agreement.num_steps,
            "backend": self.backend,
            "float_backend": self.float_backend,
        }


def validate(
    float_policy: Policy,
    quantized_policy: Policy,
    make_env: MakeEnv,
    *,
    margin: float | str | None = None,
    alpha: float = 0.05,
    num_episodes: int = 500,
    seed: int = DEFAULT_SEED,
    other_seeds: Iterable[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> ValidationReport:
    """Play `num_episodes` paired episodes on seeds `seed` ... and judge the mean loss of return.

    `margin` is the loss allowed: a number in return units, or "5%" of min(|float - random|, |float|).
    `other_seeds` are those that calibrated or selected anything; an overlap is refused.
    PASS and FAIL are each wrong with probability about `alpha` (the bootstrap is approximate).

    Raises UsageError for options that cannot be; a bad verdict is a result, not an error.
    """
    resolve_margin = parse_margin(margin)
    require_alpha(alpha)
    if num_episodes < 2:
        raise UsageError(f"Validation needs at least 2 episodes, got {num_episodes}.")
    seeds = range(seed, seed + num_episodes)
    num_random = int(np.clip(num_episodes, *_RANDOM_EPISODES))
    random_seeds = range(seed + RANDOM_SEED_OFFSET, seed + RANDOM_SEED_OFFSET + num_random)
    require_disjoint(
        {"validation": seeds, "random baseline": random_seeds, "calibration or selection": other_seeds}
    )

    counted = _counted(progress, num_random + 2 * num_episodes)
    action_space = spaces(make_env).action_space
    baseline = rollout(RandomPolicy(action_space), make_env, random_seeds, progress=counted(0))
    counter = AgreementCounter(action_space)
    shadowed = ShadowedPolicy(float_policy, quantized_policy, counter)
    in_float = rollout(shadowed, make_env, seeds, progress=counted(num_random))
    quantized = rollout(quantized_policy, make_env, seeds, progress=counted(num_random + num_episodes))
    names = (quantized_policy.name, float_policy.name)
    return _report(baseline, in_float, quantized, resolve_margin, alpha, counter.result(), names)


def agreement_on(
    float_policy: Policy,
    quantized_policy: Policy,
    observations: NDArray[np.float32],
    *,
    action_space: "gymnasium.Space[Any] | None" = None,
) -> RecordedReport:
    """Compare two policies on recorded observations [N, *shape], each taken as the start of an episode."""
    if len(observations) < 1:
        raise DataError("There are no recorded observations to compare the policies on.")
    counter = AgreementCounter(action_space)
    shadowed = ShadowedPolicy(float_policy, quantized_policy, counter)
    for first in range(0, len(observations), _BATCH):
        batch = np.asarray(observations[first : first + _BATCH], np.float32)
        generators = [np.random.default_rng(first + row) for row in range(len(batch))]
        shadowed.act(batch, None, episode_start=np.ones(len(batch), np.bool_), rng=generators)
    return RecordedReport(counter.result(), quantized_policy.name, float_policy.name)


def default_margin(float_mean: float, random_mean: float, percent: float = DEFAULT_PERCENT) -> float:
    """Return `percent` of min(|float - random|, |float|), in return units.

    With |float - random| alone, a task whose random policy is dreadful would let anything pass.
    """
    return percent / 100.0 * min(abs(float_mean - random_mean), abs(float_mean))


def require_alpha(alpha: float) -> None:
    """Raise UsageError unless `alpha` can be a chance of a wrong verdict."""
    if not 0.0 < alpha < 0.5:
        raise UsageError(f"alpha must lie between 0 and 0.5, got {alpha}.")


def parse_margin(margin: float | str | None) -> Callable[[float, float], float]:
    """Check `margin` and return what makes it return units from the means of float and random."""
    if margin is None:
        return default_margin
    text = str(margin).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = float("nan")
    if not (np.isfinite(value) and value >= 0.0):
        raise UsageError(f"The margin '{margin}' must be a number in return units or a percentage, as '5%'.")
    if text.endswith("%"):
        return lambda float_mean, random_mean: default_margin(float_mean, random_mean, value)
    return lambda float_mean, random_mean: value


def decide(
    float_return: Interval, random_mean: float, return_drop: Interval, margin: float, num_episodes: int
) -> Verdict:
    """Return the verdict; `return_drop` must have confidence 1 - 2 alpha."""
    if not float_return.low > random_mean:
        return Verdict.NOTHING_TO_PRESERVE
    if num_episodes < MIN_EPISODES_FOR_VERDICT:
        return Verdict.INCONCLUSIVE
    if return_drop.high <= margin:
        return Verdict.PASS
    return Verdict.FAIL if return_drop.low > margin else Verdict.INCONCLUSIVE


def require_disjoint(groups: Mapping[str, Iterable[int]]) -> None:
    """Raise UsageError if two groups of seeds share one."""
    owner: dict[int, str] = {}
    for name, seeds in groups.items():
        for seed in seeds:
            other = owner.setdefault(int(seed), name)
            if other != name:
                raise UsageError(
                    f"Seed {seed} serves both {other} and {name}, and a verdict must not judge what its own "
                    "seeds helped to make; choose another first seed."
                )


def _report(
    baseline: Rollout,
    in_float: Rollout,
    quantized: Rollout,
    resolve_margin: Callable[[float, float], float],
    alpha: float,
    agreement: Agreement,
    names: tuple[str, str],
) -> ValidationReport:
    seed, num_episodes = in_float.seeds[0], len(in_float.seeds)
    random_return = bootstrap_interval(baseline.episode_returns, seed=seed)
    float_return = bootstrap_interval(in_float.episode_returns, seed=seed)
    drops = in_float.episode_returns - quantized.episode_returns
    return_drop = bootstrap_interval(drops, confidence=1.0 - 2.0 * alpha, seed=seed)
    margin = resolve_margin(float_return.mean, random_return.mean)
    return ValidationReport(
        verdict=decide(float_return, random_return.mean, return_drop, margin, num_episodes),
        float_return=float_return,
        quantized_return=bootstrap_interval(quantized.episode_returns, seed=seed),
        random_return=random_return,
        return_drop=return_drop,
        margin=margin,
        alpha=alpha,
        agreement=agreement,
        correlation=correlation(in_float.episode_returns, quantized.episode_returns),
        backend=names[0],
        float_backend=names[1],
        seeds=in_float.seeds,
        float_episode_returns=in_float.episode_returns,
        quantized_episode_returns=quantized.episode_returns,
        float_episode_lengths=in_float.episode_lengths,
        quantized_episode_lengths=quantized.episode_lengths,
    )


def _sentence(report: ValidationReport) -> str:
    drop, count = report.return_drop, len(report.seeds)
    margin = _number(report.margin)
    confidence = f"({100 * (1 - report.alpha):.3g} % confidence)"
    if report.verdict is Verdict.NOTHING_TO_PRESERVE:
        return (
            f"NOTHING TO PRESERVE: the float policy returns {_number(report.float_return.mean)} on average, "
            f"which is not clearly above random actions ({_number(report.random_return.mean)}); check the "
            "agent, its environment and its preprocessing."
        )
    means = (
        f"{report.verdict}: over {count} paired episodes the quantized policy returns "
        f"{_number(report.quantized_return.mean)} where the float policy returns "
        f"{_number(report.float_return.mean)};"
    )
    if count < MIN_EPISODES_FOR_VERDICT:
        return f"{means} {count} episodes are too few to judge, play at least {MIN_EPISODES_FOR_VERDICT}."
    if report.verdict is Verdict.PASS:
        loss = "it loses nothing" if drop.high <= 0.0 else f"it loses at most {_number(drop.high)}"
        return f"{means} {loss} {confidence}, within the margin of {margin}."
    if report.verdict is Verdict.FAIL:
        least = _number(drop.low)
        return f"{means} it loses at least {least} {confidence}, more than the margin of {margin}."
    return (
        f"{means} the loss lies between {_number(drop.low)} and {_number(drop.high)}, which does not decide "
        f"about the margin of {margin}: play more episodes."
    )


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10.0 else f"{value:.3g}"


def _counted(
    progress: Callable[[int, int], None] | None, total: int
) -> Callable[[int], Callable[[int, int], None] | None]:
    """Return what makes the progress of one rollout that of the whole, from its first episode's number."""

    def counted(before: int) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, _: progress(before + done, total)

    return counted
