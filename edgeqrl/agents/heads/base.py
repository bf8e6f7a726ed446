"""What all heads have, and what they share: how outputs are passed, and draws."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.edges import ActionEdge

Outputs = NDArray[np.float32] | Sequence[NDArray[np.float32]]
Words = NDArray[np.uint32]


class Scale(NamedTuple):
    """What the integers q of an output mean: scale * (q - zero_point)."""

    scale: float
    zero_point: int
    dtype: str = "int8"


class Head(ABC):
    """How a model's float outputs become the environment's actions, and the same in integers."""

    takes_masks: ClassVar[bool] = False  # a mask of allowed actions has a meaning

    @property
    def is_stochastic(self) -> bool:
        """Tell whether actions are drawn, with words of the generator `network.draws`."""
        return False

    @property
    def output_names(self) -> tuple[str, ...]:
        """Name the outputs that the head reads."""
        return ("action",)

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Count the numbers of the first output."""

    @property
    def output_sizes(self) -> tuple[int, ...]:
        """Count the numbers of each output."""
        return (self.num_outputs,) * len(self.output_names)

    @abstractmethod
    def actions(
        self, outputs: Outputs, action_masks: NDArray[np.bool_] | None = None, words: Words | None = None
    ) -> NDArray[Any]:
        """Return the actions [N, *shape] for float outputs [N, n], a list of them where there are several.

        Masks [N, num_outputs] are True where an action is allowed. The generators `words` [N, 4] of heads
        that draw go on in place.
        """

    @abstractmethod
    def edge(self, output: Scale, log_std: Scale | None = None, *, is_masked: bool = False) -> ActionEdge:
        """Return the integer form for an output of this scale, and for a second one where there are two."""


def first_output(outputs: Outputs) -> NDArray[np.float32]:
    """Return the first output [N, n]."""
    array = outputs if isinstance(outputs, np.ndarray) else outputs[0]
    return array.reshape(len(array), prod(array.shape[1:]))


def allowed(outputs: NDArray[Any], masks: NDArray[np.bool_] | None, blocked_value: float) -> NDArray[Any]:
    """Give `blocked_value` to what [N, n] masks block; where a mask allows nothing it is ignored."""
    if masks is None:
        return outputs
    blocked = ~masks & masks.any(axis=1, keepdims=True)
    return np.where(blocked, blocked_value, outputs)


def draw(words: Words | None) -> NDArray[np.uint32]:
    """Draw one word [N] from the generators [N, 4], which go on in place."""
    from edgeqrl.network.draws import draw_words

    if words is None:
        raise ValueError("a head that draws needs the words of its generators")
    drawn, words[:] = draw_words(words)
    return drawn


def draw_category(
    logits: NDArray[np.float32], masks: NDArray[np.bool_] | None, words: Words | None
) -> NDArray[np.int64]:
    """Draw an index [N] with probabilities softmax(logits [N, n]), blocked ones left out."""
    wide = allowed(logits.astype(np.float64), masks, -np.inf)
    weights = np.exp(wide - wide.max(axis=1, keepdims=True))
    cumulative = weights.cumsum(axis=1)
    threshold = draw(words).astype(np.float64) * 2.0**-32 * cumulative[:, -1]
    return np.asarray((cumulative > threshold[:, None]).argmax(axis=1), np.int64)
