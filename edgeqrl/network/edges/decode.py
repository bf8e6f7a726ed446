"""From a network's integer outputs to actions; `runtime/eqrl_edges.c` and `eqrl_heads.c` are the twins.

argmax        the lowest index wins a tie
affine        fixed point, a clip, then one rounding, to nearest even, to float32
categorical   exponentials of the differences to the greatest allowed output as integer weights, one draw
Gaussian      fixed point, one normal draw a number, a tanh by straight lines where it is squashed

A mask that allows nothing is ignored, so that an action always comes out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.draws import (
    SQUASH_BITS,
    Words,
    draw_categories,
    draw_normals,
    exponential,
    squash,
    weight_shift,
)
from edgeqrl.network.edges.action import (
    ActionEdge,
    AffineEdge,
    ArgmaxEdge,
    GaussianEdge,
    LogStd,
    MultiBinaryEdge,
    MultiDiscreteEdge,
    action_shape,
    is_stochastic,
    num_outputs,
)

Actions = NDArray[np.int64] | NDArray[np.float32]
Masks = NDArray[np.bool_] | None


def decode_actions(edge: ActionEdge, outputs: NDArray[Any], action_masks: Masks = None) -> Actions:
    """Turn network outputs [N, n] into actions: int64 or float32 [N, *action_shape]; nothing is drawn.

    Masks [N, num_masks] are True where an action is allowed.
    """
    if is_stochastic(edge):
        raise ValueError("actions of this edge are drawn: use draw_actions")
    return _decided(edge, outputs, action_masks)


def draw_actions(
    edge: ActionEdge, outputs: Sequence[NDArray[Any]], random: Words, action_masks: Masks = None
) -> tuple[Actions, Words]:
    """Draw actions from the outputs [N, n] that the edge reads and generators [N, 4].

    Returns the actions as `decode_actions` and the generators after it; an edge that draws nothing leaves
    them as they are.
    """
    if not is_stochastic(edge):
        return _decided(edge, outputs[0], action_masks), random
    flat = [values.reshape(len(values), num_outputs(edge)).astype(np.int64) for values in outputs]
    actions: Actions
    if isinstance(edge, GaussianEdge):
        actions, random = _gaussian(edge, flat, random)
    elif isinstance(edge, MultiBinaryEdge):
        actions, random = _bernoulli(edge, flat[0], random)
    else:
        assert isinstance(edge, MultiDiscreteEdge)
        columns = []
        for values, mask in zip(*_segments(edge, flat[0], action_masks), strict=True):
            drawn, random = _categorical(edge, values, mask, random)
            columns.append(drawn)
        actions = np.stack(columns, axis=1) + np.array(edge.starts, np.int64)
    return actions.reshape(len(flat[0]), *action_shape(edge)), random


def _decided(edge: ActionEdge, outputs: NDArray[Any], action_masks: Masks) -> Actions:
    flat = outputs.reshape(len(outputs), num_outputs(edge))
    if isinstance(edge, AffineEdge):
        fixed = flat.astype(np.int64) * np.array(edge.gain) + np.array(edge.offset)
        return _as_float(fixed, edge.low, edge.high, edge.fraction_bits).reshape(len(flat), *edge.shape)
    wide = flat.astype(np.int64)
    if isinstance(edge, ArgmaxEdge):
        return np.asarray(_argmax(wide, action_masks) + edge.start, np.int64)
    if isinstance(edge, MultiDiscreteEdge):
        segments = zip(*_segments(edge, wide, action_masks), strict=True)
        chosen = np.stack([_argmax(values, mask) for values, mask in segments], axis=1)
        actions = chosen + np.array(edge.starts, np.int64)
    else:
        assert isinstance(edge, MultiBinaryEdge)
        actions = (wide > np.array(edge.thresholds)).astype(np.int64)
    return np.asarray(actions, np.int64).reshape(len(flat), *action_shape(edge))


def _argmax(values: NDArray[np.int64], masks: Masks) -> NDArray[np.int64]:
    return np.asarray(np.argmax(_masked(values, masks), axis=1), np.int64)


def _masked(values: NDArray[np.int64], masks: Masks) -> NDArray[np.int64]:
    """Put what is blocked below everything."""
    if masks is None:
        return values
    blocked = ~masks & masks.any(axis=1, keepdims=True)
    return np.where(blocked, np.int64(-(2**31) - 1), values)


def _segments(
    edge: MultiDiscreteEdge, values: NDArray[np.int64], masks: Masks
) -> tuple[list[NDArray[np.int64]], list[Any]]:
    """Cut outputs [N, sum of counts], and masks, into one piece an action."""
    ends = np.cumsum(edge.counts)[:-1]
    cut = [None] * len(edge.counts) if masks is None else np.split(masks, ends, axis=1)
    return np.split(values, ends, axis=1), cut


def _categorical(
    edge: MultiDiscreteEdge, values: NDArray[np.int64], masks: Masks, random: Words
) -> tuple[NDArray[np.int64], Words]:
    ordered = _masked(values, masks)
    difference = np.max(ordered, axis=1, keepdims=True) - ordered
    is_blocked = difference > 2**16
    weights = exponential(edge.exp_low, edge.exp_high, np.where(is_blocked, 0, difference))
    weights = np.where(is_blocked, np.uint32(0), weights >> np.uint32(weight_shift(values.shape[1])))
    return draw_categories(weights, random)


def _bernoulli(
    edge: MultiBinaryEdge, values: NDArray[np.int64], random: Words
) -> tuple[NDArray[np.int64], Words]:
    """Draw each number between its threshold (0) and its output (1)."""
    columns = []
    for column, threshold in zip(values.T, edge.thresholds, strict=True):
        pair = np.stack((np.full_like(column, threshold), column), axis=1)
        difference = np.max(pair, axis=1, keepdims=True) - pair
        weights = exponential(edge.exp_low, edge.exp_high, difference) >> np.uint32(weight_shift(2))
        drawn, random = draw_categories(weights, random)
        columns.append(drawn)
    return np.stack(columns, axis=1), random


def _gaussian(
    edge: GaussianEdge, outputs: Sequence[NDArray[np.int64]], random: Words
) -> tuple[NDArray[np.float32], Words]:
    columns = []
    for i, (gain, offset, std) in enumerate(zip(edge.gain, edge.offset, edge.std, strict=True)):
        size = np.full(len(random), abs(std), np.int64)
        if edge.log_std is not None:
            relative = _relative_std(edge.log_std, outputs[1][:, i])
            size = ((relative.astype(np.uint64) * np.uint64(abs(std))) >> np.uint64(32)).astype(np.int64)
        normal, random = draw_normals(random)
        noise = (size * np.abs(normal)) >> 16
        is_negative = (normal < 0) ^ (std < 0)
        columns.append(outputs[0][:, i] * gain + offset + np.where(is_negative, -noise, noise))
    fixed = np.stack(columns, axis=1)
    if edge.is_squashed:
        squashed = squash(fixed >> (np.array(edge.bits) - SQUASH_BITS))
        product = (np.abs(squashed) * np.abs(np.array(edge.out_gain))) >> 30
        is_negative = (squashed < 0) ^ (np.array(edge.out_gain) < 0)
        fixed = np.where(is_negative, -product, product) + np.array(edge.out_offset)
    return _as_float(fixed, edge.low, edge.high, edge.out_bits), random


def _relative_std(edge: LogStd, values: NDArray[np.int64]) -> Words:
    return exponential(edge.exp_low, edge.exp_high, edge.q_high - np.clip(values, edge.q_low, edge.q_high))


def _as_float(
    fixed: NDArray[np.int64], low: tuple[int, ...], high: tuple[int, ...], bits: tuple[int, ...]
) -> NDArray[np.float32]:
    """Clip, and round once to float32."""
    clipped = np.clip(fixed, np.array(low), np.array(high))
    return np.asarray(np.ldexp(clipped.astype(np.float64), -np.array(bits)), np.float32)
