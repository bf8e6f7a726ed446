"""What a user states about an agent where its file does not say it: of the model, and of what precedes it."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from edgeqrl.errors import UsageError

OUTPUT_CHOICES = ("policy", "value", "policy,value")
DISTRIBUTIONS = ("quantiles", "categorical")


@dataclass(frozen=True)
class PreprocessingOptions:
    """What happens between the environment and the network, where no wrapper of the environment says it."""

    frame_stack: str | None = None  # "N", "N:last" or "N:first"
    vecnormalize: str | Path | None = None  # a pickle of Stable-Baselines3
    normalization: str | Path | None = None  # an npz of statistics, for a NormalizeObservation wrapper
    keep_wrappers: tuple[str, ...] = ()  # of a callable environment: MODULE:NAME of those that belong to it


@dataclass(frozen=True)
class AgentOptions:
    """How to take in a model; None means: find out, or refuse with the option that settles it."""

    head: str | None = None  # a name from heads.HEAD_NAMES
    action_bounds: tuple[float, float] | None = None  # of every action, without an action space
    stochastic: bool | None = None  # draw actions, or take the likeliest; None: what a zoo agent's card says
    outputs: str | None = None  # one of OUTPUT_CHOICES
    policy_output: str | None = None  # name or index of a model's output; so are the next two
    value_output: str | None = None
    log_std_output: str | None = None
    log_std: tuple[float, ...] | None = None  # of a Gaussian policy: one, or one an action
    distribution: str | None = None  # one of DISTRIBUTIONS: the outputs are a distribution of each Q-value
    support: tuple[float, float] | None = None  # first and last atom of a categorical distribution
    layers: str | None = None  # of a PyTorch state dict; so are the next two
    prefix: str | None = None
    activation: str | None = None

    def __post_init__(self) -> None:
        if self.outputs is not None and self.outputs not in OUTPUT_CHOICES:
            choices = ", ".join(OUTPUT_CHOICES[:-1])
            raise UsageError(f"There are no outputs '{self.outputs}': choose {choices} or policy,value.")
        if self.distribution is not None and self.distribution not in DISTRIBUTIONS:
            raise UsageError(
                f"There is no distribution '{self.distribution}': choose {' or '.join(DISTRIBUTIONS)}."
            )
        if self.support is not None and not (
            np.isfinite(self.support).all() and self.support[0] < self.support[1]
        ):
            raise UsageError(
                f"The support {self.support[0]} to {self.support[1]} is not in order and finite."
            )
        if self.log_std is not None and not np.isfinite(self.log_std).all():
            raise UsageError("A log standard deviation is not finite.")

    @property
    def wants_policy(self) -> bool:
        """Tell whether the action is to come out; without a statement it is."""
        return self.outputs != "value" and self.head != "value"

    @property
    def wants_value(self) -> bool:
        """Tell whether a state value is to come out."""
        return self.outputs in ("value", "policy,value") or self.head == "value"

    def to_json(self) -> dict[str, Any]:
        """Return what is stated, as plain JSON values."""
        stated = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in stated.items()
            if value is not None
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Invert `to_json`; raise TypeError, ValueError or UsageError for anything else."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
        for name in ("action_bounds", "support"):
            if name in values and len(values[name]) != 2:
                raise ValueError(f"{name} are two numbers")
        return cls(**values)
