"""Every choice of a conversion, and how progress is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgeqrl.calibration_sources import DEFAULT as DEFAULT_SOURCE
from edgeqrl.calibration_sources import parse_sources
from edgeqrl.contract import ContractOptions
from edgeqrl.errors import UsageError, require_name
from edgeqrl.quantize.learned import Learning
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.search.options import SearchOptions
from edgeqrl.validate.terms import Declared
from edgeqrl.validate.verdict import DEFAULT_EPISODES, MOST_EPISODES
from firmware_export.board import PLACEABLE
from firmware_export.toolchain import COMPILER_NAMES

LAST_SEED = 2**31 - 2 * MOST_EPISODES - 1
INT4_BITS = 4  # the most that a weight of an INT4 tensor has

Progress = Callable[[str, int, int], None]  # stage, done, total (0 where it is not known)


def silent(stage: str, done: int, total: int) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Settings:
    """Every choice of a conversion that is not one of its inputs."""

    calibration_source: str = DEFAULT_SOURCE  # as --calibration says it, see calibration_sources
    calibration_episodes: int = 20
    calibration_states: int = 2000
    calibration_seed: int = 10_000
    scheme: Scheme | None = None  # by default the usual one, or what the agent was trained as
    learning: Learning = field(default_factory=Learning)  # of schemes that learn
    search: SearchOptions | None = None  # None: `scheme` as it is; else one is chosen
    episodes: int = DEFAULT_EPISODES  # at most
    validation_seed: int | None = None  # by default that of the judgement's number
    declared: Declared = field(default_factory=Declared)
    emulated_episodes: int = 3
    emulation_seed: int = 30_000
    with_self_test: bool = True
    stores_int4: bool = False  # weights of 4 bits are INT4 in the .tflite, where TFLite Micro takes them
    is_unpacked: bool = False  # weights of 4 bits and fewer stay bytes in flash
    params_of: bytes | None = (
        None  # params whose code is to take the new ones; it says how weights are packed
    )
    compiler: str | None = None
    placement: Mapping[str, str] = field(default_factory=dict)  # code, weights, arena -> region of the board
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
        parse_sources(self.calibration_source)
        if self.validation_seed is not None and not 0 <= self.validation_seed <= LAST_SEED:
            raise UsageError(f"--validation-seed must be 0 to {LAST_SEED:,}, got {self.validation_seed}.")
        if self.episodes > MOST_EPISODES:
            raise UsageError(f"--episodes must be at most {MOST_EPISODES:,}, got {self.episodes}.")
        if self.is_unpacked and self.params_of is not None:
            raise UsageError(
                "--unpacked and --params-of exclude each other: the params say how they are packed."
            )
        if self.search is not None:
            self._require_searchable(self.search)
        elif self.scheme is not None:
            self.require_few_bits()
        if self.compiler is not None:
            require_name("compiler", self.compiler, COMPILER_NAMES)
        for what in self.placement:
            require_name("part to place", what, PLACEABLE)

    def require_few_bits(self) -> None:
        """Raise UsageError where INT4 is asked for and no weights have so few bits by the scheme.

        Without one it is the usual one; an agent that was trained as another has to be loaded first.
        """
        scheme = self.scheme or Scheme()
        if self.stores_int4 and min(scheme.bits_used) > INT4_BITS:
            raise UsageError(
                f"--int4 stores weights of 4 bits and fewer, and {scheme.label} has none: take --scheme "
                "w4a8, or give layers of their own with --set layer_bits=LAYER:4."
            )

    def _require_searchable(self, search: SearchOptions) -> None:
        if self.learning.checkpoint is not None:
            raise UsageError(
                "--learn-checkpoint goes with a scheme that is named: auto tries many, each from its start."
            )
        if self.stores_int4 and search.most_weight_bits > INT4_BITS:
            raise UsageError(
                f"--int4 stores weights of {INT4_BITS} bits and fewer, and auto may choose more: add "
                f"--most-weight-bits {INT4_BITS}."
            )
