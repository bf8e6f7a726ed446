"""Cross-layer equalisation: relu(x / s) * s = relu(x), so a channel's range can move to the next layer.

A channel far larger than its neighbours sets the scale of the whole activation. Divided by s in the layer
that makes it and multiplied by s in the weights of the layer that reads it, it leaves them their steps
(Nagel et al., arXiv:1906.04721, section 4.1). Every s is a power of two, so that float arithmetic keeps
every bit.

It costs room: a channel that was small may no longer grow beyond what calibration met. On the zoo the
integers come closer and the returns do not follow: so it is done on request alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.graph import live_operators
from edgeqrl.network.tflite_model import OperatorInfo, TFLiteModel
from edgeqrl.quantize.error_estimate import ErrorEstimate, Floats
from edgeqrl.quantize.input_scales import is_own

_LINEAR = {"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"}
_HOMOGENEOUS = {"RELU", "LEAKY_RELU", "MAX_POOL_2D", "AVERAGE_POOL_2D"}  # f(s x) = s f(x) for s > 0
_SHARES = (0.25, 0.5, 0.75)  # of the activation's range in s; the rest is that of the weights behind
_WIDEST = 6  # powers of two either way
_WORTH = 0.8  # of the error before: channels lose room for states that calibration did not meet


@dataclass(frozen=True)
class Pair:
    """Two layers with nothing but homogeneous functions between them, by the indices of their constants."""

    first: OperatorInfo
    second: OperatorInfo
    activation: int  # tensor that the second reads
    num_channels: int


def equalised_weights(model: TFLiteModel, estimate: ErrorEstimate) -> dict[int, Floats]:
    """Return new weights and biases by tensor index, where moving ranges makes the estimated error less."""
    constants: dict[int, Floats] = {}
    best = _WORTH * estimate.of()
    for pair in pairs_of(model):
        before = constants
        for share in _SHARES:
            tried = before | moved(model, pair, _factors(model, estimate, pair, share), before)
            error = estimate.of(weights={model.tensors[i].name: values for i, values in tried.items()})
            if error < best:
                best, constants = error, tried
        best = best if constants is before else _WORTH * best
    return constants


def pairs_of(model: TFLiteModel) -> Iterator[Pair]:
    """Find the pairs of layers between which a channel's range can move, in order of execution."""
    operators = live_operators(model.operators, model.outputs)
    for first in operators:
        if first.name not in _LINEAR or first.fused_activation not in ("NONE", "RELU"):
            continue
        at, num_channels = first.outputs[0], model.tensors[first.outputs[0]].shape[-1]
        while (op := _only_reader(model, operators, at)) is not None:
            if op.name in _LINEAR:
                if op.inputs[0] == at and _are_own(model, first, op) and _fit(model, op, num_channels):
                    yield Pair(first, op, at, num_channels)
                break
            is_reshape = op.name == "RESHAPE" and model.tensors[op.outputs[0]].shape[-1] % num_channels == 0
            if not is_reshape and (
                op.name not in _HOMOGENEOUS
                or op.fused_activation not in ("NONE", "RELU")
                or model.tensors[at].shape[-1] != num_channels
            ):
                break
            at = op.outputs[0]


def moved(model: TFLiteModel, pair: Pair, factors: Floats, constants: dict[int, Floats]) -> dict[int, Floats]:
    """Return the constants of a pair with channel c divided by factors[c] in the first layer.

    constants  those that were changed before, by tensor index
    """

    def values(index: int) -> Floats:
        found = constants.get(index)
        return np.asarray(model.tensors[index].values(), np.float32) if found is None else found

    weights, behind = values(pair.first.inputs[1]), values(pair.second.inputs[1])
    depthwise = pair.first.name == "DEPTHWISE_CONV_2D"
    shape = (-1,) if depthwise else (-1, *(1,) * (weights.ndim - 1))
    changed = {pair.first.inputs[1]: weights / factors.reshape(shape)}
    if (bias := _bias(pair.first)) is not None:
        changed[bias] = values(bias) / factors
    changed[pair.second.inputs[1]] = behind * _spread(factors, behind, pair.second)
    return changed


def _factors(model: TFLiteModel, estimate: ErrorEstimate, pair: Pair, share: float) -> Floats:
    """Return a power of two a channel, about 1 on average."""
    name = model.tensors[pair.activation].name
    activation = np.abs(estimate.maxima[name]).reshape(-1, pair.num_channels).max(axis=0).astype(np.float64)
    weights = np.abs(np.asarray(model.tensors[pair.second.inputs[1]].values(), np.float64))
    behind = _largest_behind(weights, pair)
    is_live = (activation > 0.0) & (behind > 0.0)
    if not is_live.any():
        return np.ones(pair.num_channels, np.float32)
    logs = np.zeros(pair.num_channels)
    logs[is_live] = share * np.log2(activation[is_live]) - (1.0 - share) * np.log2(behind[is_live])
    logs[is_live] -= np.median(logs[is_live])
    return np.asarray(2.0 ** np.clip(np.rint(logs), -_WIDEST, _WIDEST), np.float32)


def _largest_behind(weights: NDArray[np.float64], pair: Pair) -> NDArray[np.float64]:
    """Return the largest weight that reads each channel."""
    if pair.second.name == "DEPTHWISE_CONV_2D":  # channel c makes c * m ... c * m + m - 1
        shape = -1, pair.num_channels, weights.shape[-1] // pair.num_channels
        return np.asarray(weights.reshape(shape).max(axis=(0, 2)))
    return np.asarray(weights.reshape(-1, pair.num_channels).max(axis=0))


def _spread(factors: Floats, weights: Floats, second: OperatorInfo) -> Floats:
    """Return the factor of each of the second layer's weights along its last axis."""
    times = weights.shape[-1] // len(factors)
    return np.repeat(factors, times) if second.name == "DEPTHWISE_CONV_2D" else np.tile(factors, times)


def _only_reader(model: TFLiteModel, operators: tuple[OperatorInfo, ...], index: int) -> OperatorInfo | None:
    """Return the operator that alone reads a tensor, as its first operand, or None."""
    readers = [op for op in operators if index in op.inputs]
    is_lone = len(readers) == 1 and readers[0].inputs.count(index) == 1 and index not in model.outputs
    return readers[0] if is_lone and readers[0].inputs[0] == index else None


def _are_own(model: TFLiteModel, first: OperatorInfo, second: OperatorInfo) -> bool:
    bias = _bias(first)
    constants = (first.inputs[1], second.inputs[1], *(() if bias is None else (bias,)))
    return all(is_own(model, i) for i in constants)


def _fit(model: TFLiteModel, second: OperatorInfo, num_channels: int) -> bool:
    """Tell whether the last axis of the second layer's weights repeats the channels."""
    weights = model.tensors[second.inputs[1]].shape
    return len(weights) > 0 and weights[-1] % num_channels == 0


def _bias(op: OperatorInfo) -> int | None:
    return op.inputs[2] if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
