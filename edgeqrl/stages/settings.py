"""Every choice of a conversion, and how progress is told."""

from collections.abc import Callable
from dataclasses import dataclass, field

from edgeqrl.contract import ContractOptions
from edgeqrl.errors import UsageError, require_name
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.validate.terms import Declared
from edgeqrl.validate.verdict import DEFAULT_EPISODES, MOST_EPISODES
from firmware_export.toolchain import COMPILER_NAMES

LAST_SEED = 2**31 - 2 * MOST_EPISODES - 1

Progress = Callable[[str, int, int], None]  # stage, done, total (0 where it is not known)


def silent(stage: str, done: int, total: int) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Settings:
    """Every choice of a conversion that is not one of its inputs."""

    calibration_episodes: int = 20
    calibration_states: int = 2000
    calibration_seed: int = 10_000
    scheme: Scheme = field(default_factory=Scheme)
    episodes: int = DEFAULT_EPISODES  # at most
    validation_seed: int | None = None  # by default that of the judgement's number
    declared: Declared = field(default_factory=Declared)
    emulated_episodes: int = 3
    emulation_seed: int = 30_000
    with_self_test: bool = True
    compiler: str | None = None
    contract: ContractOptions = field(default_factory=ContractOptions)

    def __post_init__(self) -> None:
        """Refuse what cannot be before minutes are spent; raises UsageError."""
        least = {
            "calibration_episodes": 1,
            "calibration_states": 1,
            "calibration_seed": 0,
            "episodes": 2,
            "emulated_episodes": 0,
            "emulation_seed": 0,
        }
        for name, value in least.items():
            if getattr(self, name) < value:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} must be at least {value}, got {getattr(self, name)}.")
        if self.validation_seed is not None and not 0 <= self.validation_seed <= LAST_SEED:
            raise UsageError(f"--validation-seed must be 0 to {LAST_SEED:,}, got {self.validation_seed}.")
        if self.episodes > MOST_EPISODES:
            raise UsageError(f"--episodes must be at most {MOST_EPISODES:,}, got {self.episodes}.")
        if self.compiler is not None:
            require_name("compiler", self.compiler, COMPILER_NAMES)
