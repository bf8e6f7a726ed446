"""Heads of classes: choices among several actions, and switches; the likeliest, or drawn."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.heads.base import Head, Outputs, Scale, Words, allowed, draw_category, first_output
from edgeqrl.network.edges import (
    ActionEdge,
    ArgmaxEdge,
    make_multi_binary_edge,
    make_multi_discrete_edge,
)


@dataclass(frozen=True)
class DiscreteHead(Head):
    """Choices, each its start + the argmax of its own segment of the outputs, or drawn by the softmax."""

    counts: tuple[int, ...]  # outputs of each choice
    starts: tuple[int, ...]
    shape: tuple[int, ...] | None = None  # of the action: () of a single choice, None of a row of them
    is_stochastic: bool = False

    takes_masks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.counts or len(self.counts) != len(self.starts) or min(self.counts) < 1:
            raise ValueError("discrete actions need one count above 0 and one start each")
        if self.shape is not None and prod(self.shape) != len(self.counts):
            raise ValueError("the shape of discrete actions does not fit their counts")

    @classmethod
    def single(cls, count: int, start: int = 0, *, is_stochastic: bool = False) -> Self:
        """Return the head of one choice, whose action is a number and no array."""
        return cls((count,), (start,), (), is_stochastic)

    @property
    def is_single(self) -> bool:
        """Tell whether the action is one number."""
        return self.shape == ()

    @property
    def num_outputs(self) -> int:
        """Count the numbers of the output."""
        return sum(self.counts)

    def actions(
        self, outputs: Outputs, action_masks: NDArray[np.bool_] | None = None, words: Words | None = None
    ) -> NDArray[np.int64]:
        """Return the actions [N, *shape]; outputs and masks are cut alike, a word is drawn a choice."""
        values, ends = first_output(outputs), np.cumsum(self.counts)[:-1].tolist()
        masks = [None] * len(self.counts) if action_masks is None else np.split(action_masks, ends, axis=1)
        columns = [
            draw_category(part, mask, words)
            if self.is_stochastic
            else np.argmax(allowed(part, mask, -np.inf), axis=1)
            for part, mask in zip(np.split(values, ends, axis=1), masks, strict=True)
        ]
        actions = np.asarray(np.stack(columns, axis=1) + np.array(self.starts), np.int64)
        return actions if self.shape is None else actions.reshape(len(values), *self.shape)

    def edge(self, output: Scale, log_std: Scale | None = None, *, is_masked: bool = False) -> ActionEdge:
        """Return the integer form; only draws need the scale."""
        if self.is_single and not self.is_stochastic:
            return ArgmaxEdge(self.counts[0], self.starts[0], is_masked)
        return make_multi_discrete_edge(
            self.counts,
            self.starts,
            scale=output.scale if self.is_stochastic else None,
            dtype=output.dtype,
            is_masked=is_masked,
            shape=self.shape,
        )


@dataclass(frozen=True)
class MultiBinaryHead(Head):
    """Switches: each 1 where its output, a logit, is above 0, or with the probability that it says."""

    shape: tuple[int, ...]  # of the action
    is_stochastic: bool = False

    @property
    def num_outputs(self) -> int:
        """Count the numbers of the output."""
        return prod(self.shape)

    def actions(
        self, outputs: Outputs, action_masks: NDArray[np.bool_] | None = None, words: Words | None = None
    ) -> NDArray[np.int8]:
        """Return the actions [N, *shape] of 0 and 1; a word is drawn a switch."""
        values = first_output(outputs)
        actions = values > 0
        if self.is_stochastic:
            pairs = (np.stack([np.zeros_like(column), column], axis=1) for column in values.T)
            actions = np.stack([draw_category(pair, None, words) for pair in pairs], axis=1)
        return np.asarray(actions, np.int8).reshape(len(values), *self.shape)

    def edge(self, output: Scale, log_std: Scale | None = None, *, is_masked: bool = False) -> ActionEdge:
        """Return the integer form; only draws need the scale."""
        scale = output.scale if self.is_stochastic else None
        return make_multi_binary_edge(self.shape, output.zero_point, scale=scale, dtype=output.dtype)
