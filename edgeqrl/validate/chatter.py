"""How restless a policy's actions are, and where two policies part.

Two policies of equal return may differ in this, and on a robot it is wear, noise and power: a policy on a
coarse grid of actions jumps between neighbours where the float policy glides.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.validate.agreement import action_range, actions_agree

if TYPE_CHECKING:
    import gymnasium

_DEAD_ZONE = 0.01  # of the range: a change of sign within it is rest


@dataclass(frozen=True)
class Chatter:
    """Of one episode, or the mean of several. `T` counts steps, a_t is the action of step t.

    Box actions are taken inside their bounds, and as fractions of each dimension's range (high - low):

    rate         mean over steps and dimensions of |a_t - a_(t-1)|, in [0, 1]
    jerk         the same of |a_t - 2 a_(t-1) + a_(t-2)|, in [0, 2]
    sign_flips   share of steps and dimensions in which a - (low + high) / 2 changes its sign, from beyond
                 1 % of the range to beyond 1 % on the other side, in [0, 1]

    Discrete actions:

    rate         share of steps whose action differs from the last one
    jerk         share of steps that go straight back: a_t = a_(t-2), but not a_(t-1)
    sign_flips   None

    The first step (for jerk the first two) has nothing to be compared with and does not count.
    """

    rate: float
    jerk: float
    sign_flips: float | None

    def to_json(self) -> dict[str, float | None]:
        """Return the values as plain JSON."""
        return asdict(self)


def chatter(actions: NDArray[Any], action_space: "gymnasium.Space[Any]") -> Chatter | None:
    """Measure one episode's actions [T, *action_shape], or return None if they have no scale.

    Box dimensions without two finite bounds, or that cannot move, are left out; None if none is left. An
    episode too short to compare anything has rate, jerk and sign_flips 0.
    """
    span, low = action_range(action_space), getattr(action_space, "low", None)
    if span is None:
        return _discrete(actions.reshape(len(actions), -1))
    span, floor = span.ravel(), np.asarray(low, np.float64).ravel()
    is_bounded = (span > 0.0) & np.isfinite(span)
    if not is_bounded.any():
        return None
    chosen = actions.reshape(len(actions), len(span))[:, is_bounded].astype(np.float64)
    return _continuous(np.clip((chosen - floor[is_bounded]) / span[is_bounded], 0.0, 1.0))


def mean_chatter(episodes: Iterable[Chatter | None]) -> Chatter | None:
    """Return the mean over episodes, each counting once however long; None if there is none to count."""
    found = [episode for episode in episodes if episode is not None]
    if not found:
        return None
    flips = [episode.sign_flips for episode in found if episode.sign_flips is not None]
    return Chatter(
        _mean(np.array([episode.rate for episode in found])),
        _mean(np.array([episode.jerk for episode in found])),
        _mean(np.array(flips)) if flips else None,
    )


def first_divergence(
    float_actions: NDArray[Any],
    quantized_actions: NDArray[Any],
    action_space: "gymnasium.Space[Any] | None" = None,
) -> int | None:
    """Return the first step whose actions [T, *action_shape] do not agree, or None.

    Agreement is `AgreementCounter`'s. Where one episode goes on alone, that is its first step without a
    counterpart: the shorter length.
    """
    shorter = min(len(float_actions), len(quantized_actions))
    same = actions_agree(float_actions[:shorter], quantized_actions[:shorter], action_range(action_space))
    parted = np.flatnonzero(~same)
    if len(parted):
        return int(parted[0])
    return None if len(float_actions) == len(quantized_actions) else shorter


def _discrete(chosen: NDArray[Any]) -> Chatter:
    """Measure actions [T, n] of which only equality means anything."""
    is_new = (chosen[1:] != chosen[:-1]).any(axis=1)
    is_back = (chosen[2:] == chosen[:-2]).all(axis=1) & is_new[1:]
    return Chatter(_mean(is_new), _mean(is_back), None)


def _continuous(share: NDArray[np.float64]) -> Chatter:
    """Measure actions [T, n] as shares of their range, in [0, 1]."""
    change = np.diff(share, axis=0)
    offset = share - 0.5
    side = np.where(np.abs(offset) > _DEAD_ZONE, np.sign(offset), 0.0)
    return Chatter(
        _mean(np.abs(change)), _mean(np.abs(np.diff(change, axis=0))), _mean(side[1:] * side[:-1] < 0.0)
    )


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if values.size else 0.0
