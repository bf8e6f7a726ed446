"""Whether the ranges of a calibration set fit what the trained policy meets, before anything is quantized.

The policy plays a few episodes on seeds of their own. A feature whose calibrated range is too narrow will be
clipped there; one whose range is too wide gets few of the levels that its integers have. Either can cost the
return, whichever way the network goes on, so that one sentence warns of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.calibrate import CalibrationSet
from edgeqrl.environments import MakeEnv
from edgeqrl.interfaces import Policy
from edgeqrl.rollout import rollout

CHECK_SEED = 60_000  # away from the seeds of every other purpose
CHECK_EPISODES = 5
MOST_OUTSIDE = 0.01  # share of states in which a feature may lie outside of its range, unless it is near
NEAR = 0.05  # share of what a feature spans: clipping off less is no worse than a few levels
MOST_MISSED = 0.25  # share of what a feature spans that may lie outside, however rarely
LEAST_USED = 0.1  # share of its range that a feature must span: 3 of 8 bits are lost below
MAX_FEATURES = 16  # that are listed

_HALF_STEP = 0.5 / 255  # of a range: up to there a value is rounded, not clipped

Columns = dict[str, NDArray[np.float64]]  # feature -> [N]


@dataclass(frozen=True)
class FeatureRange:
    """One number of the observation, or of a recurrent state."""

    name: str  # its place in the flattened observation; of parts and states "NAME PLACE"
    calibrated: tuple[float, float]
    met: tuple[float, float]
    outside: float  # share of the states that are met in which it lies outside of the calibrated range
    missed: float  # share of its met range that the calibrated one does not hold
    used: float  # width of the met range as a share of the calibrated one's; above 1 where that is too narrow

    @property
    def is_narrow(self) -> bool:
        """Tell whether too much will be clipped."""
        return self.missed > MOST_MISSED or (self.outside > MOST_OUTSIDE and self.missed > NEAR)

    @property
    def is_wide(self) -> bool:
        """Tell whether too few levels are left: never of a feature that stands still."""
        return 0.0 < self.used < LEAST_USED


@dataclass(frozen=True)
class RangeCheck:
    """What `check_ranges` found."""

    episodes: int
    num_states: int  # met
    num_features: int
    num_narrow: int
    num_wide: int
    features: tuple[FeatureRange, ...]  # those in trouble, the worst first, at most MAX_FEATURES
    warning: str | None  # one sentence, where the source may ruin the return

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        ends = ("calibrated", "met")
        rows = [asdict(row) | {name: list(getattr(row, name)) for name in ends} for row in self.features]
        return vars(self) | {"features": rows}


def check_ranges(
    calibration: CalibrationSet,
    policy: Policy,
    make_env: MakeEnv,
    *,
    num_episodes: int = CHECK_EPISODES,
    seed: int = CHECK_SEED,
    progress: Callable[[int, int], None] | None = None,
) -> RangeCheck:
    """Play `policy`, the float one, on seeds `seed` ..., and compare what it meets with a calibration set.

    Compared are real numbers and recurrent states; what a byte or a class can be is known.
    """
    has_states = calibration.inputs is not None and bool(getattr(policy, "has_states", False))
    played = rollout(
        policy,
        make_env,
        range(seed, seed + num_episodes),
        keep_observations=True,
        keep_inputs=has_states,
        progress=progress,
    )
    assert played.observations is not None
    inputs = _joined(played.inputs) if has_states and played.inputs is not None else None
    met = _columns(_joined(played.observations), inputs)
    held = _columns(calibration.observations, calibration.inputs if has_states else None)
    found = [_compared(name, held[name], values) for name, values in met.items()]
    narrow = sorted((row for row in found if row.is_narrow), key=lambda row: (-row.outside, -row.missed))
    wide = sorted((row for row in found if row.is_wide and not row.is_narrow), key=lambda row: row.used)
    return RangeCheck(
        episodes=num_episodes,
        num_states=int(played.episode_lengths.sum()),
        num_features=len(found),
        num_narrow=len(narrow),
        num_wide=len(wide),
        features=tuple([*narrow, *wide][:MAX_FEATURES]),
        warning=_warning(calibration, narrow, wide),
    )


def _joined(episodes: Sequence[Any]) -> Any:
    if isinstance(episodes[0], Mapping):
        return {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}
    return np.concatenate(episodes)


def _columns(observations: Any, inputs: Mapping[str, Any] | None) -> Columns:
    """Return every feature that is a real number; of the network's inputs the states alone."""
    is_one = not isinstance(observations, Mapping)
    arrays: dict[str, Any] = {"observation": observations} if is_one else dict(observations)
    arrays |= {name: values for name, values in (inputs or {}).items() if name not in arrays}
    found: Columns = {}
    for name, values in arrays.items():
        if values.dtype != np.float32:
            continue
        rows = values.reshape(len(values), -1).astype(np.float64)
        prefix = "" if is_one and name == "observation" else f"{name} "
        found |= {f"{prefix}{index}": column for index, column in enumerate(rows.T)}
    return found


def _compared(name: str, held: NDArray[np.float64], met: NDArray[np.float64]) -> FeatureRange:
    low, high, least, most = (float(end) for end in (held.min(), held.max(), met.min(), met.max()))
    slack = (high - low) * _HALF_STEP
    outside = float(((met < low - slack) | (met > high + slack)).mean())
    shared, width = max(0.0, min(high, most) - max(low, least)), most - least
    missed = 1.0 - shared / width if width > 0.0 else float(outside > 0.0)
    used = width / (high - low) if high > low else float(width > 0.0)
    return FeatureRange(name, (low, high), (least, most), outside, missed, used)


def _warning(calibration: CalibrationSet, narrow: list[FeatureRange], wide: list[FeatureRange]) -> str | None:
    """Return what is wrong, with the worst feature as an example, and what to do."""
    if not narrow and not wide:
        return None
    source = calibration.source
    if narrow:
        worst = narrow[0]
        what = (
            f"does not hold what the trained policy meets: feature {worst.name} lies outside of its range in "
            f"{_percent(worst.outside)} of the states (met {_ends(worst.met)}, calibrated "
            f"{_ends(worst.calibrated)}), where it may be clipped{_others(len(narrow), 'leave')}"
        )
    else:
        worst = wide[0]
        what = (
            f"is wider than what the trained policy meets: feature {worst.name} uses "
            f"{_percent(worst.used)} of its range (met {_ends(worst.met)}, calibrated "
            f"{_ends(worst.calibrated)}), so that few levels are left for it"
            f"{_others(len(wide), 'use little of')}"
        )
    return f"The calibration set ({source}) {what}. {_cure(calibration)}"


def _cure(calibration: CalibrationSet) -> str:
    if set(calibration.source.partition("+")[::2]) <= {"policy", ""}:
        episodes = max(40, 4 * len(calibration.seeds))
        return f"Play more episodes: --calibration-episodes {episodes}."
    return "Calibrate on the policy's own states: --calibration policy."


def _others(count: int, how: str) -> str:
    """Say of how many features beside the worst the same is true: `how` they take their range."""
    if count < 2:
        return ""
    verb, _, rest = f"{how} ".partition(" ")
    if count == 2:
        return f"; 1 more feature {verb}s {rest}its range"
    return f"; {count - 1} more features {how} theirs"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _ends(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3g} to {ends[1]:.3g}"
