"""What is asked of a search: one value that is hashable and checks itself."""

from dataclasses import asdict, dataclass
from typing import Any

from edgeqrl.errors import UsageError
from edgeqrl.quantize.scheme import BITS
from edgeqrl.validate.verdict import MOST_EPISODES

# Of the first episode that chooses. Judgements take seeds below 41 million, calibration and diagnosis low
# ones by default; what lies here never judges.
CHOOSING_SEED = 1_000_000_000
_LAST_SEED = 2**31 - 2 * MOST_EPISODES - 1
LEAST_EPISODES = 32
_MOST_TRIALS = 1_000_000


@dataclass(frozen=True)
class StudyOptions:
    """A study of Optuna: where it is kept, and when it ends."""

    storage: str  # URL
    name: str = "edgeqrl"
    trials: int = 60  # finished ones of all machines and runs together
    seed: int = 0  # of the sampler

    def __post_init__(self) -> None:
        """Refuse what cannot be; raises UsageError."""
        if not 1 <= self.trials <= _MOST_TRIALS:
            raise UsageError(f"--trials must be 1 to {_MOST_TRIALS:,}, got {self.trials}.")
        if self.seed < 0:
            raise UsageError(f"--search-seed must be at least 0, got {self.seed}.")
        if not self.name.strip():
            raise UsageError("--study needs a name.")


@dataclass(frozen=True)
class SearchOptions:
    """How a scheme is chosen.

    most_weight_bits  no layer's weights have more
    learning          schemes whose weights are trained may be tried, which takes minutes each
    episodes          pairs that one candidate plays at the most
    seed              first of the seeds that choose; the baseline's lie half a million above
    study             None: climb the ladder of `--scheme auto`, which ends where the return holds
    """

    most_weight_bits: int = 8
    learning: bool = True
    episodes: int = 512
    seed: int = CHOOSING_SEED
    study: StudyOptions | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be; raises UsageError."""
        if self.most_weight_bits not in BITS:
            raise UsageError(
                f"--most-weight-bits must be {BITS[0]} to {BITS[-1]}, got {self.most_weight_bits}."
            )
        if not LEAST_EPISODES <= self.episodes <= MOST_EPISODES:
            raise UsageError(
                f"--choosing-episodes must be {LEAST_EPISODES} to {MOST_EPISODES:,}, got {self.episodes}."
            )
        if not 0 <= self.seed <= _LAST_SEED:
            raise UsageError(f"--choosing-seed must be 0 to {_LAST_SEED:,}, got {self.seed}.")

    def asked(self) -> dict[str, Any]:
        """Return what makes two searches the same, as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "study"}
