"""The grids of weights and activations, and rounding that gradients pass through."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.tensorflow_runtime import import_tensorflow
from edgeqrl.quantize.grids import least_error_scales

SMALLEST_STEP, LARGEST_STEP = 1e-9, 1e9  # beyond these a scale is no float32 worth the name
_SMALLEST_WEIGHT = 1e-6  # what a step covers where all weights are nothing


@dataclass(frozen=True)
class Levels:
    """The whole numbers that a quantized value may be."""

    low: int
    high: int


def activation_levels(bits: int, *, signed: bool) -> Levels:
    """Return the levels of activations about their zero point, which 16 bits always have in the middle."""
    top = 2 ** (bits - 1)
    if signed:
        return Levels(-top, top - 1)
    return Levels(0, top - 1 if bits == 16 else 2 * top - 1)


def weight_levels(bits: int) -> Levels:
    """Return the levels of symmetric weights: as many below zero as above."""
    top = int(2 ** (bits - 1) - 1)
    return Levels(-top, top)


def rounded(values: Any, step: Any, levels: Levels) -> Any:
    """Return `values` on the grid of `step`, as TensorFlow computes.

    Gradients pass through the rounding where a value lies within the levels (straight through); the step's
    is that of LSQ (Esser et al., arXiv:1902.08153).
    """
    tensorflow = import_tensorflow()
    scaled = tensorflow.clip_by_value(values / step, float(levels.low), float(levels.high))
    return (scaled + tensorflow.stop_gradient(tensorflow.round(scaled) - scaled)) * step


def damped(step: Any, count: int, levels: Levels) -> Any:
    """Return `step` itself, whose gradient is divided by the root of `count` values times levels, as in LSQ.

    Every value that shares a step adds to its gradient, which would outgrow that of a weight.
    """
    tensorflow = import_tensorflow()
    share = 1.0 / np.sqrt(max(count, 1) * levels.high)
    return share * step + tensorflow.stop_gradient((1.0 - share) * step)


def best_steps(weights: NDArray[np.float32], levels: Levels) -> NDArray[np.float32]:
    """Return the step of each channel, the last axis of `weights` [n, channels], of least squared error."""
    rows = weights.astype(np.float64).T
    steps = least_error_scales(rows, np.arange(len(rows)), levels.high)
    return np.asarray(np.maximum(steps, _SMALLEST_WEIGHT / levels.high), np.float32)


def value_of(variable: Any) -> NDArray[Any]:
    """Return a Keras variable's value, also while a graph is traced."""
    with import_tensorflow().init_scope():
        return np.asarray(variable.numpy())


def is_plain() -> bool:
    """Tell whether layers compute without rounding their activations, their weights on the grid."""
    return _IS_PLAIN.get()


@contextmanager
def plainly() -> Iterator[None]:
    """Have layers compute plainly in what is traced inside: what an integer network is made of."""
    token = _IS_PLAIN.set(True)
    try:
        yield
    finally:
        _IS_PLAIN.reset(token)


_IS_PLAIN: ContextVar[bool] = ContextVar("is_plain", default=False)
