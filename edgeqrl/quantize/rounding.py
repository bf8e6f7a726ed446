"""Rounding by output: weights go up or down such that the layer's output stays, not each weight.

A layer's weights are chosen one input at a time; what rounding one of them does to the output, over the
samples, is made up for by those that are still free (as in GPTQ, Frantar et al., arXiv:2210.17323, after
the optimal brain surgeon; the aim is that of AdaRound, Nagel et al., arXiv:2004.10568). Then each is looked
at again, all others being known. The inputs are
those that the integer network really computes, the wanted outputs the float network's, so that errors of
earlier layers are made up for too. Each weight stays within one step of its nearest value.

All in units of the integer layer: inputs q - zero point, weights in steps, outputs in steps of the sums.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.layers import Conv2D, Dense, DepthwiseConv2D, Linear

Floats = NDArray[np.float64]

MOST_TERMS = 4096  # of a sum: a matrix of its square is inverted
_DAMPING = 0.01  # of the mean square of the inputs
_ELEMENTS_AT_ONCE = 2**22
_BLOCK = 64
_SWEEPS = 3


@dataclass(frozen=True, eq=False)
class Part:
    """Output channels that sum over the same inputs."""

    channels: slice
    moments: Floats  # [terms, terms], sum of x x^T over the samples
    targets: Floats  # [terms, channels], sum of x y^T


def is_roundable(layer: Linear) -> bool:
    """Tell whether a layer's sums are products of rows of inputs, few enough to weigh all against all."""
    known = isinstance(layer, Dense | Conv2D | DepthwiseConv2D)
    return known and layer.weights[0].size <= MOST_TERMS


def parts_of(layer: Linear, centred: NDArray[np.float64], wanted: Floats, *, is_free: bool) -> Iterator[Part]:
    """Yield the moments of a layer's inputs with themselves and with the wanted outputs.

    centred  q - zero point of the layer's input, [N, *shape]
    wanted   sums, bias left out, [N * positions, channels]
    is_free  the bias follows the weights, so that only what differs from the mean counts
    """
    positions = len(wanted) // len(centred)
    step = max(_ELEMENTS_AT_ONCE // (positions * _width(layer)), 1)
    groups = _groups(layer)
    moments = [np.zeros((_terms(layer), _terms(layer))) for _ in groups]
    targets = [np.zeros((_terms(layer), group.stop - group.start)) for group in groups]
    means = [np.zeros(_terms(layer)) for _ in groups]
    for start in range(0, len(centred), step):
        some = wanted[start * positions : (start + step) * positions]
        for i, rows in enumerate(_rows(layer, centred[start : start + step])):
            moments[i] += rows.T @ rows
            targets[i] += rows.T @ some[:, groups[i]]
            means[i] += rows.sum(axis=0)
    for group, moment, target, mean in zip(groups, moments, targets, means, strict=True):
        if is_free:
            moment -= np.outer(mean, mean) / len(wanted)
            target -= np.outer(mean, wanted[:, group].mean(axis=0))
        yield Part(group, moment, target)


def round_rows(exact: Floats, part: Part, limits: tuple[NDArray[Any], NDArray[Any]]) -> Floats:
    """Return weights [channels, terms] in whole steps, for exact ones in steps, zero points taken off.

    limits  the least and the greatest, [channels, 1]
    """
    from scipy import linalg

    columns = np.ascontiguousarray(exact.T)  # one row a term: what changes together lies together
    lowest, highest = (limit.T for limit in limits)
    nearest = np.clip(np.rint(columns), lowest, highest)
    power = float(np.trace(part.moments)) / len(part.moments)
    if power <= 0.0:
        return nearest.T
    damped = part.moments + _DAMPING * power * np.eye(len(part.moments))
    # What the float network's outputs ask for, drawn to the exact weights where the samples say little.
    missing = part.targets - part.moments @ columns
    asked = columns + linalg.cho_solve((linalg.cholesky(damped, lower=True), True), missing)
    order = np.argsort(-np.diag(damped), kind="stable")  # what weighs most is chosen first
    inverse = linalg.inv(damped[np.ix_(order, order)])
    upper = linalg.cholesky((inverse + inverse.T) / 2, lower=False)
    bounds = np.maximum(nearest - 1, lowest), np.minimum(nearest + 1, highest)
    found = _one_by_one(asked[order], upper, (bounds[0][order], bounds[1][order]))[np.argsort(order)]
    for _ in range(_SWEEPS):
        _look_again(found, damped @ (asked - found), damped, bounds)
    return found.T


def _one_by_one(left: Floats, upper: Floats, bounds: tuple[Floats, Floats]) -> Floats:
    """Round term by term; those that follow make up for each, block by block as that is fast.

    left   [terms, channels], which is used up
    upper  the Cholesky factor of the inverse moments
    """
    found, (terms, channels) = np.empty_like(left), left.shape
    for start in range(0, terms, _BLOCK):
        end = min(start + _BLOCK, terms)
        errors = np.empty((end - start, channels))
        for at in range(start, end):
            found[at] = np.clip(np.rint(left[at]), bounds[0][at], bounds[1][at])
            errors[at - start] = (left[at] - found[at]) / upper[at, at]
            left[at + 1 : end] -= np.outer(upper[at, at + 1 : end], errors[at - start])
        left[end:] -= upper[start:end, end:].T @ errors
    return found


def _look_again(found: Floats, missing: Floats, moments: Floats, bounds: tuple[Floats, Floats]) -> None:
    """Give each weight in turn its best value, the others being what they are; changes `found`.

    missing  [terms, channels], what the outputs still lack, weighed with each input; used up
    """
    terms = len(found)
    for start in range(0, terms, _BLOCK):
        end = min(start + _BLOCK, terms)
        before = found[start:end].copy()
        for at in range(start, end):
            best = np.rint(found[at] + missing[at] / moments[at, at])
            best = np.clip(best, bounds[0][at], bounds[1][at])
            missing[at + 1 : end] -= np.outer(moments[at, at + 1 : end], best - found[at])
            found[at] = best
        missing[end:] -= moments[end:, start:end] @ (found[start:end] - before)


def _groups(layer: Linear) -> list[slice]:
    """Return the channels that share their inputs."""
    channels = len(layer.weights)
    if isinstance(layer, DepthwiseConv2D):
        size = layer.depth_multiplier
    else:
        size = channels // layer.groups if isinstance(layer, Conv2D) else channels
    return [slice(start, start + size) for start in range(0, channels, size)]


def _rows(layer: Linear, centred: NDArray[np.float64]) -> Iterator[Floats]:
    """Yield what each group of channels sums over, [N * positions, terms], in the order of the weights."""
    if isinstance(layer, Dense):
        yield centred.reshape(-1, layer.weights.shape[1])
        return
    assert isinstance(layer, Conv2D | DepthwiseConv2D)
    patches = layer.window.patches(centred.reshape(-1, *layer.window.input_shape[1:]), 0.0)
    depth = layer.weights.shape[3] if isinstance(layer, Conv2D) else 1
    for start in range(0, patches.shape[-1], depth):
        yield patches[..., start : start + depth].reshape(-1, layer.weights[0].size)


def _terms(layer: Linear) -> int:
    return int(layer.weights[0].size)


def _width(layer: Linear) -> int:
    """Count the inputs that lie under one position of the layer, of all channels."""
    if isinstance(layer, Dense):
        return _terms(layer)
    assert isinstance(layer, Conv2D | DepthwiseConv2D)
    return int(np.prod(layer.window.kernel)) * layer.window.input_shape[3]
