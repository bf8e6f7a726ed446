"""Per-feature scales of observations, folded into the first dense layers.

An int8 input has one scale, so a feature that stays within a hundredth of another's range has two or three
steps to move in. Fed as gain * x, with the weights that read it divided by the gain, every feature can have
its steps, and the sums stay as they were. Gains are powers of two, so that float arithmetic keeps every bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.graph import live_operators
from edgeqrl.network.tflite_model import OperatorInfo, TFLiteModel, tensors_sharing
from edgeqrl.quantize.error_estimate import ErrorEstimate, Floats

# Shares of the activations' range in a gain; the rest levels the weights that read the feature.
_SHARES = (1.0, 0.75, 0.5, 0.25)
_WIDEST = 2.0**12  # between the gains of one network
_WORTH = 0.98  # of the plain error: what is not better than that is left alone


@dataclass(frozen=True, eq=False)
class Reading:
    """One dense layer that reads an input: column `columns[i]` of its weights multiplies element i."""

    weights: int  # tensor index
    columns: NDArray[np.int64]


def chosen_gains(
    model: TFLiteModel, estimate: ErrorEstimate, features: Mapping[str, NDArray[np.int64]]
) -> tuple[dict[str, Floats], dict[int, Floats]]:
    """Return the gains that make the error least, by input and feature, and the weights by tensor index.

    features  the inputs that may have gains: the feature of each element of the input, in flat order

    Nothing ({}, {}) where no gains help, nothing but zeros was met, or something other than dense layers
    reads the inputs.
    """
    readings = {name: found for name in features if (found := readings_of(model, name))}
    if not any(estimate.maxima[name].any() for name in readings):
        return {}, {}
    best = _WORTH * estimate.of()
    chosen: tuple[dict[str, Floats], dict[int, Floats]] = {}, {}
    for share in _SHARES:
        gains = _gains(model, estimate, {name: features[name] for name in readings}, readings, share)
        weights = scaled_weights(model, readings, {n: g[features[n]] for n, g in gains.items()})
        shaped = {n: g[features[n]].reshape(estimate.maxima[n].shape) for n, g in gains.items()}
        named = {model.tensors[i].name: values for i, values in weights.items()}
        error = estimate.of(weights=named, gains=shaped)
        if error < best:
            best, chosen = error, (gains, weights)
    return chosen


def readings_of(model: TFLiteModel, name: str) -> tuple[Reading, ...]:
    """Return the dense layers that read an input, flattened or joined with others; () where others do."""
    (index,) = (i for i in model.inputs if model.tensors[i].name == name)
    found: list[Reading] = []
    pending = [(index, np.arange(model.tensors[index].size))]
    operators = live_operators(model.operators, model.outputs)
    while pending:
        at, columns = pending.pop()
        if at in model.outputs:
            return ()
        for op in operators:
            if at not in op.inputs:
                continue
            if op.name == "FULLY_CONNECTED" and _is_plain_dense(model, op, at):
                found.append(Reading(op.inputs[1], columns))
            elif op.name == "RESHAPE":
                pending.append((op.outputs[0], columns))
            elif op.name == "CONCATENATION" and _is_row_of_parts(model, op, at):
                before = op.inputs[: op.inputs.index(at)]
                offset = sum(model.tensors[i].size for i in before)
                pending.append((op.outputs[0], columns + offset))
            else:
                return ()
    return tuple(found)


def scaled_weights(
    model: TFLiteModel, readings: Mapping[str, tuple[Reading, ...]], gains: Mapping[str, Floats]
) -> dict[int, Floats]:
    """Return the weights, by tensor index, that give the same sums for inputs times gains [size]."""
    weights: dict[int, Floats] = {}
    for name, layers in readings.items():
        for reading in layers:
            values = weights.setdefault(reading.weights, _weights(model, reading.weights).copy())
            values[:, reading.columns] /= gains[name]
    return weights


def is_own(model: TFLiteModel, index: int) -> bool:
    """Tell whether a constant is read once, by one operator, and lies in bytes of its own."""
    tensor = model.tensors[index]
    reads = sum(op.inputs.count(index) for op in model.operators)
    return (
        tensor.span is not None
        and tensor.dtype == "FLOAT32"
        and not tensor.is_sparse
        and reads == 1
        and index not in model.outputs
        and not tensors_sharing(model, index)
    )


def _is_plain_dense(model: TFLiteModel, op: OperatorInfo, source: int) -> bool:
    """Tell whether a layer multiplies the whole sample by weights that only it reads."""
    weights = model.tensors[op.inputs[1]]
    is_whole = op.inputs.count(source) == 1 and op.inputs[0] == source and weights.is_constant
    return is_whole and is_own(model, op.inputs[1]) and weights.shape[1] == model.tensors[source].size


def _is_row_of_parts(model: TFLiteModel, op: OperatorInfo, source: int) -> bool:
    """Tell whether rows are joined end to end, and this one once."""
    shapes = [model.tensors[i].shape for i in op.inputs]
    axis = op.number("axis") % len(shapes[0])
    is_row = axis == len(shapes[0]) - 1 and all(np.prod(shape[:-1]) == 1 for shape in shapes)
    return is_row and op.inputs.count(source) == 1 and op.fused_activation == "NONE"


def _gains(
    model: TFLiteModel,
    estimate: ErrorEstimate,
    features: Mapping[str, NDArray[np.int64]],
    readings: Mapping[str, tuple[Reading, ...]],
    share: float,
) -> dict[str, Floats]:
    """Return gains by input [features]: for share 1 every feature then reaches about the same value."""
    sizes = {name: _largest(estimate.maxima[name].ravel(), features[name]) for name in features}
    most = max(float(values.max()) for values in sizes.values())
    gains: dict[str, Floats] = {}
    for name, layers in readings.items():
        # A feature that never moved in the samples keeps its step: nothing is known of it.
        size = np.where(sizes[name] > 0.0, sizes[name], most)
        size = np.maximum(size, most / _WIDEST)
        columns = [np.abs(_weights(model, r.weights)[:, r.columns]).max(axis=0) for r in layers]
        weight = _largest(np.max(columns, axis=0), features[name])
        weight = np.where(weight > 0.0, weight, weight.max() or 1.0)
        gains[name] = 1.0 / (size**share * weight ** (share - 1.0))
    top = max(float((gains[name] * sizes[name]).max()) for name in gains) or 1.0
    return {name: _power_of_two(values / top) for name, values in gains.items()}


def _largest(values: Floats, features: NDArray[np.int64]) -> NDArray[np.float64]:
    found = np.zeros(int(features.max()) + 1)
    np.maximum.at(found, features, values)
    return found


def _power_of_two(values: NDArray[np.float64]) -> Floats:
    return np.asarray(2.0 ** np.rint(np.log2(values)), np.float32)


def _weights(model: TFLiteModel, index: int) -> Floats:
    return np.asarray(model.tensors[index].values(), np.float32)
