"""Heads of numbers: boxes scaled and clipped, Gaussian draws, state values."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.heads.base import Head, Outputs, Scale, Words, draw, first_output
from edgeqrl.network.edges import (
    ActionEdge,
    AffineEdge,
    LogStd,
    make_affine_edge,
    make_gaussian_edge,
    make_log_std,
)


@dataclass(frozen=True)
class _BoundedHead(Head):
    """clip(gain * x + offset, low, high), each one number an action dimension."""

    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    gain: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def num_outputs(self) -> int:
        """Count the numbers of the first output."""
        return len(self.low)

    def _columns(self) -> dict[str, Any]:
        """Return gain, offset, low and high as an edge takes them."""
        return {
            "gain": np.array(self.gain).reshape(self.shape),
            "offset": np.array(self.offset).reshape(self.shape),
            "low": np.array(self.low, np.float32).reshape(self.shape),
            "high": np.array(self.high, np.float32).reshape(self.shape),
        }

    def _clipped(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        clipped = np.clip(values, np.array(self.low, np.float32), np.array(self.high, np.float32))
        return np.asarray(clipped, np.float32).reshape(len(values), *self.shape)


@dataclass(frozen=True)
class BoxHead(_BoundedHead):
    """action = clip(gain * output + offset, low, high), each one number an action dimension."""

    def actions(
        self, outputs: Outputs, action_masks: NDArray[np.bool_] | None = None, words: Words | None = None
    ) -> NDArray[np.float32]:
        """Return float32 actions [N, *shape]; boxes have no masks."""
        gain, offset = np.array(self.gain, np.float32), np.array(self.offset, np.float32)
        return self._clipped(first_output(outputs) * gain + offset)

    def edge(self, output: Scale, log_std: Scale | None = None, *, is_masked: bool = False) -> ActionEdge:
        """Return the integer form for an output of this scale."""
        return make_affine_edge(**output._asdict(), **self._columns())


@dataclass(frozen=True)
class GaussianHead(_BoundedHead):
    """action = clip(gain * s + offset, low, high) of the draw s = mean + exp(log_std) * z, z normal.

    With `is_squashed`, s is the tanh of that. `log_std` None: the model's second output tells it.
    """

    log_std: tuple[float, ...] | None = None
    is_squashed: bool = False
    log_std_range: tuple[float, float] = (-np.inf, np.inf)  # the second output is clipped to it

    def __post_init__(self) -> None:
        if self.log_std is not None and len(self.log_std) != len(self.low):
            raise ValueError("a log standard deviation for each action is needed")
        if not self.log_std_range[0] < self.log_std_range[1]:
            raise ValueError("the range of log standard deviations is not in order")

    @property
    def is_stochastic(self) -> bool:
        """Tell that actions are drawn; the mean alone is a BoxHead."""
        return True

    @property
    def output_names(self) -> tuple[str, ...]:
        """Name the outputs that the head reads."""
        return ("action", "log_std") if self.log_std is None else ("action",)

    def actions(
        self, outputs: Outputs, action_masks: NDArray[np.bool_] | None = None, words: Words | None = None
    ) -> NDArray[np.float32]:
        """Return float32 actions [N, *shape] for mean [N, n] or [mean, log_std]; a word is drawn a number."""
        from edgeqrl.network.draws import normals

        mean = first_output(outputs).astype(np.float64)
        if self.log_std is not None:
            std = np.exp(np.array(self.log_std, np.float64))[None]
        else:
            std = np.exp(outputs[1].reshape(mean.shape).astype(np.float64).clip(*self.log_std_range))
        z = np.stack([normals(draw(words)) for _ in range(self.num_outputs)], axis=1) * 2.0**-16
        raw = mean + std * z
        if self.is_squashed:
            raw = np.tanh(raw)
        return self._clipped((raw * np.array(self.gain) + np.array(self.offset)).astype(np.float32))

    def edge(self, output: Scale, log_std: Scale | None = None, *, is_masked: bool = False) -> ActionEdge:
        """Return the integer form for a mean of this scale, and for `log_std` where the model tells it."""
        if (log_std is None) == (self.log_std is None):
            raise ValueError("a Gaussian head takes its log standard deviation from one place")
        relative: LogStd | None = None
        std: NDArray[np.float64] | float
        if log_std is not None:
            low, high = self.log_std_range
            relative, std = make_log_std(*log_std, low=low, high=high)
        else:
            std = np.exp(np.array(self.log_std, np.float64)).reshape(self.shape)
        return make_gaussian_edge(
            **output._asdict(), **self._columns(), std=std, log_std=relative, is_squashed=self.is_squashed
        )


@dataclass(frozen=True)
class ValueHead(Head):
    """The output is no action but the value of a state: float32 [N, number of names]."""

    names: tuple[str, ...] = ("value",)

    @property
    def num_outputs(self) -> int:
        """Count the numbers of the output."""
        return len(self.names)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Name the output."""
        return ("value",)

    def actions(
        self, outputs: Outputs, action_masks: NDArray[np.bool_] | None = None, words: Words | None = None
    ) -> NDArray[np.float32]:
        """Return the values [N, n] as they are."""
        return np.asarray(first_output(outputs), np.float32)

    def edge(self, output: Scale, log_std: Scale | None = None, *, is_masked: bool = False) -> ActionEdge:
        """Return the integer form."""
        return value_edge(output, self.num_outputs)


def value_edge(output: Scale, size: int = 1) -> AffineEdge:
    """Return what decodes `size` values of an output of this scale, as real numbers."""
    return make_affine_edge(
        **output._asdict(),
        gain=np.ones(size),
        offset=np.zeros(size),
        low=np.full(size, -np.inf, np.float32),
        high=np.full(size, np.inf, np.float32),
    )
