"""Which layer of a float network an integer layer came from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.graph import fold_constants
from edgeqrl.network.tflite_model import OperatorInfo, TensorInfo, TFLiteModel, parse_tflite
from edgeqrl.quantize.weights_file import ROLES, read_weights

_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


@dataclass(frozen=True, eq=False)
class Twin:
    """A float layer with weights."""

    name: str  # of the tensor that it writes; unique in its network
    weights: NDArray[np.float32]  # as the integer layer's lie
    bias: NDArray[np.float32] | None  # [channels]


def float_twins(integer_tflite: bytes, float_tflite: bytes) -> dict[str, Twin]:
    """Return the float layer of each integer layer with weights, by the tensor that the integer one writes.

    Both files come from one network. They are walked from their outputs, as the order of operators says
    nothing: two heads may stand either way round. Layers that nothing matches are left out.
    """
    integer, exact = (fold_constants(parse_tflite(data)) for data in (integer_tflite, float_tflite))
    layers = read_weights(integer_tflite)
    twins = {}
    for ours, theirs in _matched(integer, exact):
        name = integer.tensors[ours.outputs[0]].name
        if name in layers:
            twin = _twin(exact, theirs)
            if twin is not None and twin.weights.shape == layers[name].weights.shape:
                twins[name] = twin
    return twins


def _matched(integer: TFLiteModel, exact: TFLiteModel) -> list[tuple[OperatorInfo, OperatorInfo]]:
    """Return the operators that stand at the same place; one that stands at several is left out."""
    writers = [{i: op for op in model.operators for i in op.outputs} for model in (integer, exact)]
    pending = list(zip(integer.outputs, exact.outputs, strict=False))
    found: dict[int, set[int]] = {}  # tensors of the float network by those of the integer one
    seen = set(pending)
    if len(integer.outputs) != len(exact.outputs):
        return []
    while pending:
        ours, theirs = pending.pop()
        operator, twin = writers[0].get(ours), writers[1].get(theirs)
        if operator is not None and operator.name in _CONVERSIONS:
            following = [(operator.inputs[0], theirs)]
        elif operator is None or twin is None or operator.name != twin.name:
            continue
        else:
            found.setdefault(ours, set()).add(theirs)
            both = zip(operator.inputs, twin.inputs, strict=False)  # one may lack a bias
            following = [(a, b) for a, b in both if min(a, b) >= 0 and not integer.tensors[a].is_constant]
        pending += [pair for pair in following if pair not in seen]
        seen.update(following)
    return [
        (writers[0][ours], writers[1][next(iter(theirs))])
        for ours, theirs in found.items()
        if len(theirs) == 1
    ]


def _twin(exact: TFLiteModel, op: OperatorInfo) -> Twin | None:
    tensors: list[TensorInfo | None] = [None if i < 0 else exact.tensors[i] for i in op.inputs]
    at = ROLES[op.name].bias
    weights, bias = tensors[1], tensors[at] if len(tensors) > at else None
    for tensor in (weights, bias):
        if tensor is not None and (not tensor.is_constant or tensor.dtype != "FLOAT32" or tensor.is_sparse):
            return None
    if weights is None:
        return None
    return Twin(
        name=exact.tensors[op.outputs[0]].name,
        weights=np.asarray(weights.values(), np.float32),
        bias=None if bias is None else np.asarray(bias.values(), np.float32).ravel(),
    )
