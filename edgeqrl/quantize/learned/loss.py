"""How far the student's outputs are from the float policy's, in what the head makes of them.

Of choices among actions only those that are allowed count, where the state says which.

discrete      Kullback-Leibler of the softmax, at a temperature of the size of the gap between the best two,
              plus the Q-regret: what the student's soft choice loses by the teacher's values, in that gap
switches      the same of each switch
continuous    squared error in half widths of the bounds; beyond a bound only what would come back counts
Gaussian      Kullback-Leibler of the two normal distributions
values        squared error by the teacher's variance, with little weight
next states   squared error by the teacher's variance
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.heads import BoxHead, DiscreteHead, GaussianHead, Head, MultiBinaryHead
from edgeqrl.agents.tensorflow_runtime import import_tensorflow

Floats = NDArray[np.float32]
# Student's and teacher's outputs [N, size] -> [N]. Behind the teacher's may be the actions that are allowed,
# 1 or 0 for each of a discrete head's numbers.
Loss = Callable[[Sequence[Any], Sequence[Any]], Any]

_BLOCKED = -1e30  # what a forbidden action is worth

_VALUE_WEIGHT = 0.1
_STATE_WEIGHT = 1.0


@dataclass(frozen=True)
class LossScales:
    """What makes the parts of a loss comparable: of the teacher's outputs on the first states."""

    gap: float  # temperature of discrete heads
    spreads: tuple[tuple[float, ...], ...]  # standard deviation of each number of each output

    @classmethod
    def of(cls, head: Head, outputs: Sequence[Floats]) -> "LossScales":
        """Measure the teacher's outputs [N, size]."""
        spreads = tuple(tuple(_spread(values).tolist()) for values in outputs)
        return cls(_gap(head, outputs[0]), spreads)


def loss_of(head: Head, scales: LossScales, *, num_states: int) -> Loss:
    """Return the loss of one row; the outputs are what the head reads, values, and the next states."""
    act = _action_loss(head, scales)
    first = len(head.output_sizes)

    def loss(student: Sequence[Any], teacher: Sequence[Any]) -> Any:
        tf = import_tensorflow()
        total = act(student, teacher)
        for at in range(first, len(student)):
            weight = _STATE_WEIGHT if at >= len(student) - num_states else _VALUE_WEIGHT
            errors = (student[at] - teacher[at]) / np.array(scales.spreads[at], np.float32)
            total += np.float32(weight) * tf.reduce_mean(tf.square(errors), axis=1)
        return total

    return loss


def _action_loss(head: Head, scales: LossScales) -> Loss:
    if isinstance(head, DiscreteHead):
        return _discrete(head, scales.gap)
    if isinstance(head, MultiBinaryHead):
        return _switches(scales.gap)
    if isinstance(head, BoxHead):
        return _bounded(head)
    if isinstance(head, GaussianHead):
        return _gaussian(head)
    spread = np.array(scales.spreads[0], np.float32)
    return lambda student, teacher: _mean_square((student[0] - teacher[0]) / spread)


def _discrete(head: DiscreteHead, temperature: float) -> Loss:
    ends = np.cumsum(head.counts)
    begins = ends - np.array(head.counts)

    def loss(student: Sequence[Any], teacher: Sequence[Any]) -> Any:
        masks = teacher[len(student) :]
        parts = []
        for a, b in zip(begins.tolist(), ends.tolist(), strict=True):
            pair = student[0][:, a:b] / temperature, teacher[0][:, a:b] / temperature
            said, wanted = (_allowed(values, masks[0][:, a:b]) for values in pair) if masks else pair
            parts.append(_choice(said, wanted, head.is_stochastic))
        return sum(parts[1:], parts[0])

    return loss


def _allowed(values: Any, mask: Any) -> Any:
    """Give no chance to what a mask [N, n] forbids; one that allows nothing is ignored, as by heads."""
    tf = import_tensorflow()
    is_forbidden = tf.logical_and(mask < 0.5, tf.reduce_any(mask > 0.5, axis=1, keepdims=True))
    return tf.where(is_forbidden, np.float32(_BLOCKED), values)


def _choice(student: Any, teacher: Any, is_drawn: bool) -> Any:
    """Return KL(teacher | student) of logits [N, n], and for a choice of the best its soft regret."""
    tf = import_tensorflow()
    said, wanted = tf.nn.log_softmax(student), tf.nn.log_softmax(teacher)
    divergence = tf.reduce_sum(tf.exp(wanted) * (wanted - said), axis=1)
    if is_drawn:
        return divergence
    lost = tf.reduce_max(teacher, axis=1, keepdims=True) - teacher
    best = tf.reduce_sum(tf.exp(wanted) * lost, axis=1)
    return divergence + tf.nn.relu(tf.reduce_sum(tf.exp(said) * lost, axis=1) - best)


def _switches(temperature: float) -> Loss:
    def loss(student: Sequence[Any], teacher: Sequence[Any]) -> Any:
        tf = import_tensorflow()
        said, wanted = student[0] / temperature, teacher[0] / temperature
        chance = tf.sigmoid(wanted)
        cross = tf.nn.sigmoid_cross_entropy_with_logits(chance, said)
        own = tf.nn.sigmoid_cross_entropy_with_logits(chance, wanted)
        return tf.reduce_sum(cross - own, axis=1)

    return loss


def _bounded(head: BoxHead) -> Loss:
    low, high = (np.array(bound, np.float64) for bound in (head.low, head.high))
    gain, offset = (np.array(row, np.float32) for row in (head.gain, head.offset))
    width = np.where(np.isfinite(high - low), (high - low) / 2, np.maximum(np.abs(gain), 1e-6))
    unit = np.maximum(width, 1e-6).astype(np.float32)
    least, most = low.astype(np.float32), high.astype(np.float32)

    def loss(student: Sequence[Any], teacher: Sequence[Any]) -> Any:
        tf = import_tensorflow()
        said, wanted = student[0] * gain + offset, teacher[0] * gain + offset
        beyond = tf.where(wanted >= most, tf.minimum(said - most, 0.0), tf.maximum(said - least, 0.0))
        is_beyond = tf.logical_or(wanted >= most, wanted <= least)
        return _mean_square(tf.where(is_beyond, beyond, said - wanted) / unit)

    return loss


def _gaussian(head: GaussianHead) -> Loss:
    least, most = (float(np.clip(bound, -20.0, 20.0)) for bound in head.log_std_range)
    stated = None if head.log_std is None else np.array(head.log_std, np.float32)

    def loss(student: Sequence[Any], teacher: Sequence[Any]) -> Any:
        tf = import_tensorflow()
        if stated is not None:
            said, wanted = stated, stated
        else:
            said, wanted = (tf.clip_by_value(rows[1], least, most) for rows in (student, teacher))
        ratio = tf.exp(2.0 * (wanted - said))
        distance = tf.square(student[0] - teacher[0]) * tf.exp(-2.0 * said)
        return tf.reduce_sum(0.5 * (ratio + distance - 1.0) + said - wanted, axis=1)

    return loss


def _mean_square(errors: Any) -> Any:
    tf = import_tensorflow()
    return tf.reduce_mean(tf.square(errors), axis=1)


def _spread(values: Floats) -> NDArray[np.float64]:
    deviations = values.astype(np.float64).std(axis=0)
    floor = max(float(deviations.max(initial=0.0)) * 1e-2, 1e-6)
    return np.asarray(np.maximum(deviations, floor))


def _gap(head: Head, values: Floats) -> float:
    """Return the median gap between the best two of a choice, or of a switch from its threshold."""
    if head.is_stochastic:
        return 1.0
    if isinstance(head, MultiBinaryHead):
        found = np.abs(values).ravel()
    elif isinstance(head, DiscreteHead):
        segments = np.split(values, np.cumsum(head.counts)[:-1], axis=1)
        pairs = [np.sort(part, axis=1)[:, -2:] for part in segments if part.shape[1] > 1]
        found = np.concatenate([pair[:, 1] - pair[:, 0] for pair in pairs] or [np.ones(1)])
    else:
        return 1.0
    return max(float(np.median(found)), 1e-6)
