"""How alike a float and a quantized policy act: errors, regret, divergence, restlessness, places visited.

Reported, to explain a verdict; of all this only chatter is ever decided on. `N` counts steps, `T` the steps
of one episode.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import AgentError
from edgeqrl.rollout import Rollout
from edgeqrl.spaces import class_counts
from edgeqrl.validate.agreement import Agreement, Spread, spread
from edgeqrl.validate.chatter import Chatter, chatter, first_divergence, mean_chatter

if TYPE_CHECKING:
    import gymnasium

MAX_FEATURES = 64
_SUM_TOLERANCE = 1e-3  # of a float row that is a distribution
_GRID = 1 / 256  # the step of an int8 softmax, by TFLite's rules
_RANKED_STEPS = 512  # of each policy, to choose among many features

Outputs = Callable[[Any], NDArray[np.float32]]  # observations [N, *shape], or their parts -> [N, num_outputs]


@dataclass(frozen=True)
class Regret:
    """What the quantized network's choice costs by the float network's own outputs, in their units."""

    mean: float
    p95: float
    max: float
    gap: float  # median of best - second best float output: what an error must exceed to matter


@dataclass(frozen=True)
class Divergence:
    """When paired episodes part: the first step whose actions do not agree."""

    never: float  # share of pairs that act alike to the end, in [0, 1]
    median_step: float | None  # of the pairs that part, 0 for the first; None if none does


@dataclass(frozen=True)
class Shift:
    """How far apart the values lie that two policies visit, in standard deviations of the float policy's."""

    index: int  # of the feature, in the flattened observation, its parts one after another
    distance: float  # Wasserstein-1, between the float and the quantized policy
    noise: float | None  # the same between the float policy's odd and even episodes; None for one episode


@dataclass(frozen=True)
class Likeness:
    """What `likeness` measured. None where it does not apply, or where a policy does not tell its outputs."""

    action_agreement: float  # share of steps, in [0, 1]; this line and the next as in Agreement
    action_error: float | None
    action_error_by_dimension: tuple[Spread, ...] | None  # |difference| in action units; None for discrete
    regret: Regret | None  # discrete only; of several choices the sum, as for kl
    kl: Spread | None  # discrete only, in nats
    chatter: dict[str, Chatter] | None  # "float" and "quantized", each in its own episodes: means over them
    divergence: Divergence
    visitation: tuple[Shift, ...]  # the greatest distance first, at most MAX_FEATURES
    num_episodes: int
    num_steps: int  # of the float policy

    def to_json(self) -> dict[str, Any]:
        """Return the measures as plain JSON values."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


def likeness(
    float_played: Rollout,
    quantized_played: Rollout,
    agreement: Agreement,
    action_space: "gymnasium.Space[Any]",
    *,
    float_outputs: Outputs | None = None,
    quantized_outputs: Outputs | None = None,
) -> Likeness:
    """Compare two policies on the episodes they played on the same seeds, observations and actions kept.

    agreement   counted on the float policy's observations
    *_outputs   a policy's `outputs`, where it has them; both are asked on the float policy's observations,
                so without its masks: regret and KL tell of the networks, also of actions that were forbidden
    """
    assert float_played.observations is not None
    assert quantized_played.observations is not None
    assert float_played.actions is not None
    assert quantized_played.actions is not None
    if float_played.seeds != quantized_played.seeds:
        raise ValueError("the episodes are not paired: the seeds differ")
    regret = kl = None
    counts = class_counts(action_space)
    if counts is not None and float_outputs is not None and quantized_outputs is not None:
        wanted = _choices(_all_outputs(float_outputs, float_played.observations), counts)
        found = _choices(_all_outputs(quantized_outputs, float_played.observations), counts)
        if wanted and len(wanted) == len(found):
            regret = regret_of(np.concatenate(wanted, axis=1), np.concatenate(found, axis=1), counts)
            kl = spread(np.sum([kl_divergence(*pair) for pair in zip(wanted, found, strict=True)], axis=0))
    pairs = list(zip(float_played.actions, quantized_played.actions, strict=True))
    restless = {
        name: mean_chatter(chatter(actions, action_space) for actions in played.actions or ())
        for name, played in (("float", float_played), ("quantized", quantized_played))
    }
    measured = {name: value for name, value in restless.items() if value is not None}
    return Likeness(
        action_agreement=agreement.action_agreement,
        action_error=agreement.action_error,
        action_error_by_dimension=agreement.error_by_dimension,
        regret=regret,
        kl=kl,
        chatter=measured if len(measured) == len(restless) else None,
        divergence=divergence_of([first_divergence(*pair, action_space) for pair in pairs]),
        visitation=visitation_of(float_played.observations, quantized_played.observations),
        num_episodes=len(pairs),
        num_steps=int(float_played.episode_lengths.sum()),
    )


def regret_of(
    float_outputs: NDArray[Any], quantized_outputs: NDArray[Any], counts: Sequence[int] | None = None
) -> Regret:
    """Return the regret of taking the best of the quantized instead of the float outputs [N, num_actions].

    regret = F[argmax F] - F[argmax Q] of each row, F and Q its outputs; the lowest index wins a tie. Of
    several choices, with `counts` outputs each, it is their sum, and the gap that of the closest choice.
    """
    ends = np.cumsum(counts)[:-1] if counts is not None else np.zeros(0, np.int64)
    losses, gaps = [], []
    sides = (np.split(outputs, ends, axis=1) for outputs in (float_outputs, quantized_outputs))
    for wanted, found in zip(*sides, strict=True):
        rows = wanted.astype(np.float64)
        choice = np.argmax(found, axis=1)[:, None]
        losses.append(rows.max(axis=1) - np.take_along_axis(rows, choice, axis=1)[:, 0])
        best = np.sort(rows, axis=1)[:, -2:]
        gaps.append(best[:, -1] - best[:, 0])
    lost = spread(np.sum(losses, axis=0))
    return Regret(lost.mean, lost.p95, lost.max, float(np.median(np.min(gaps, axis=0))))


def kl_divergence(float_outputs: NDArray[Any], quantized_outputs: NDArray[Any]) -> NDArray[np.float64]:
    """Return KL(softmax(F) || softmax(Q)) [N] in nats, for outputs F and Q [N, num_actions].

    Outputs count as logits, so what a row's outputs have in common does not matter. If all rows of F are
    distributions (nonnegative, sum 1 within 0.001), they are taken as such; then so are those of Q, if
    they are distributions on a grid of 1/256. A probability of 0 in Q counts as half the least positive one.
    """
    wanted, found = float_outputs.astype(np.float64), quantized_outputs.astype(np.float64)
    if _are_distributions(wanted, _SUM_TOLERANCE):
        wanted = _logs(wanted, floor=0.0)
        if _are_distributions(found, _SUM_TOLERANCE + wanted.shape[1] * _GRID):
            found = _logs(found, floor=float(np.min(found[found > 0.0], initial=1.0)) / 2)
    log_p, log_q = _log_softmax(wanted), _log_softmax(found)
    with np.errstate(invalid="ignore"):  # 0 * -inf: what never happens adds nothing
        terms = np.where(np.isneginf(log_p), 0.0, np.exp(log_p) * (log_p - log_q))
    return np.asarray(np.maximum(terms.sum(axis=1), 0.0), np.float64)


def divergence_of(steps: Sequence[int | None]) -> Divergence:
    """Summarize the first diverging steps of paired episodes, None for those that never part."""
    parted = [step for step in steps if step is not None]
    return Divergence(1.0 - len(parted) / len(steps), float(np.median(parted)) if parted else None)


def visitation_of(
    float_observations: Sequence[Any], quantized_observations: Sequence[Any]
) -> tuple[Shift, ...]:
    """Compare the observations that two policies visit, feature by feature; each gets episodes [T, *shape].

    Episodes of several parts are mappings from their names; the features of the parts follow one another.

    A feature that is constant in the float policy's episodes is measured in standard deviations of both
    policies' values together; one that is constant in all has distance 0. `noise` comes from half the
    episodes against the other half, so without any difference a distance is rather below it.

    Of more than MAX_FEATURES features those with the greatest distance are returned, chosen by an evenly
    spaced sample of the steps.
    """
    wanted, found = _flat(float_observations), _flat(quantized_observations)
    lengths = [len(next(iter(_parts_of(episode)))) for episode in float_observations]
    episode = np.repeat(np.arange(len(float_observations)), lengths)
    chosen = _most_different(wanted, found)
    shifts = [_shift(int(index), wanted[:, index], found[:, index], episode % 2 == 1) for index in chosen]
    return tuple(sorted(shifts, key=lambda shift: (-shift.distance, shift.index)))


def _shift(index: int, wanted: NDArray[Any], found: NDArray[Any], is_odd: NDArray[np.bool_]) -> Shift:
    from scipy.stats import wasserstein_distance

    ours, theirs = wanted.astype(np.float64), found.astype(np.float64)
    unit = _unit(ours, theirs)
    noise = None
    if is_odd.any():
        noise = float(wasserstein_distance(ours[is_odd], ours[~is_odd]) / unit)
    return Shift(index, float(wasserstein_distance(ours, theirs) / unit), noise)


def _unit(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Return a standard deviation that is not 0, nor the rounding error of one that is."""
    for values in (ours, np.concatenate([ours, theirs])):
        if np.ptp(values) > 0.0 and np.std(values) > 0.0:
            return float(np.std(values))
    return 1.0


def _most_different(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return at most MAX_FEATURES columns of [N, F], by the distance between quantiles."""
    num_features = wanted.shape[1]
    if num_features <= MAX_FEATURES:
        return np.arange(num_features)
    count = min(len(wanted), len(found), _RANKED_STEPS)
    ours, theirs = (
        np.sort(values[np.linspace(0, len(values) - 1, count).astype(np.int64)].astype(np.float64), axis=0)
        for values in (wanted, found)
    )
    deviation = ours.std(axis=0)
    both = np.concatenate([ours, theirs]).std(axis=0)
    unit = np.where(np.ptp(ours, axis=0) > 0.0, deviation, both)
    distance = np.abs(ours - theirs).mean(axis=0) / np.where(unit > 0.0, unit, 1.0)
    return np.asarray(np.argsort(-distance, kind="stable")[:MAX_FEATURES], np.int64)


def _flat(episodes: Sequence[Any]) -> NDArray[Any]:
    columns = []
    for parts in zip(*(_parts_of(episode) for episode in episodes), strict=True):
        rows = np.concatenate(parts)
        columns.append(rows.reshape(len(rows), int(np.prod(rows.shape[1:]))))
    return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)


def _parts_of(episode: Any) -> list[NDArray[Any]]:
    return list(episode.values()) if isinstance(episode, Mapping) else [episode]


def _choices(outputs: NDArray[np.float32], counts: tuple[int, ...]) -> list[NDArray[np.float32]]:
    """Cut outputs [N, sum of counts] into those of each choice; [] if they are something else.

    One logit a switch stands for two outputs, 0 and itself.
    """
    if outputs.shape[1] == len(counts) and set(counts) == {2}:
        outputs = np.stack([np.zeros_like(outputs), outputs], axis=2).reshape(len(outputs), -1)
    if outputs.shape[1] != sum(counts):
        return []
    return np.split(outputs, np.cumsum(counts)[:-1], axis=1)


def _all_outputs(outputs: Outputs, episodes: Sequence[Any]) -> NDArray[np.float32]:
    rows = np.concatenate([outputs(observations) for observations in episodes])
    if not np.isfinite(rows).all():
        raise AgentError("One of the two compared policies' networks returned an output that is not finite.")
    return rows


def _are_distributions(rows: NDArray[np.float64], tolerance: float) -> bool:
    return bool((rows >= 0.0).all() and (np.abs(rows.sum(axis=1) - 1.0) <= tolerance).all())


def _logs(probabilities: NDArray[np.float64], *, floor: float) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.maximum(probabilities, floor)), np.float64)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float64)
