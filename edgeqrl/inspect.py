"""What is in a `.tflite` file: its layers, shapes, scales, work and memory.

facts = inspect(data)
facts.macs, facts.arena_bytes, facts.layers[0].operator
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from edgeqrl.errors import DataError, UnsupportedOperatorError
from edgeqrl.network.ir import IntegerNetwork, Layer, Tensor
from edgeqrl.network.read_tflite import ReadNetwork, parse_tflite, read_with_edges
from edgeqrl.network.tflite_model import OperatorInfo, TensorInfo, TFLiteModel, with_unique_names
from edgeqrl.network.tflite_schema import DTYPES
from firmware_export.emit.arena import plan_arena

_BIAS_BYTES, _WIDE_BIAS_BYTES = 4, 8


@dataclass(frozen=True)
class TensorFacts:
    """An activation: real = scale * (q - zero_point)."""

    shape: tuple[int, ...]  # without a batch axis of 1 where the file is supported, else as in the file
    dtype: str
    scale: float | None  # None: not quantized, or not with one scale
    zero_point: int | None
    bytes: int
    file_dtype: str | None = None  # of an input or output that the file has as float32 or uint8
    file_name: str | None = None


@dataclass(frozen=True)
class LayerFacts:
    """One layer as edgeqrl runs it, or one operator of a file that it cannot run."""

    operator: str
    name: str
    inputs: tuple[str, ...]  # activations
    outputs: tuple[str, ...]
    macs: int | None  # None: not known
    weight_bytes: int  # weights, biases and other constants
    activation_bytes: int  # of what it writes


@dataclass(frozen=True)
class NetworkFacts:
    """A file at a glance; sums and the arena are known where edgeqrl can run it."""

    supported: bool
    reason: str | None  # why it is not, in a sentence, and what to do
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[LayerFacts, ...]  # in order of execution
    tensors: Mapping[str, TensorFacts] = field(default_factory=dict)
    macs: int | None = None
    weight_bytes: int = 0
    arena_bytes: int | None = None  # RAM of all activations, as the exported C lays them out
    arena_least_bytes: int | None = None  # no layout can do with less

    def to_json(self) -> dict[str, Any]:
        """Return the facts as plain JSON values."""
        return asdict(self)


def inspect(tflite: bytes) -> NetworkFacts:
    """Look into a file. Raises DataError where it is damaged; a sound one that cannot be run says why."""
    model = parse_tflite(tflite)
    try:
        read = read_with_edges(tflite)
    except (UnsupportedOperatorError, DataError) as error:
        return _facts_of_file(with_unique_names(model), str(error))
    facts = facts_of_network(read.network)
    return replace(facts, tensors={**facts.tensors, **_converted(facts.tensors, model, read)})


def facts_of_network(network: IntegerNetwork) -> NetworkFacts:
    """Return the facts of a network that edgeqrl runs."""
    plan = plan_arena(network)
    layers = tuple(
        LayerFacts(
            operator=layer.operator,
            name=layer.name,
            inputs=tuple(name for name in layer.inputs if name not in network.constants),
            outputs=(layer.output,),
            macs=layer.num_macs,
            weight_bytes=_weight_bytes(layer, network),
            activation_bytes=network.tensors[layer.output].num_bytes,
        )
        for layer in network.layers
    )
    tensors = {
        name: _activation_facts(tensor)
        for name, tensor in network.tensors.items()
        if name not in network.constants
    }
    return NetworkFacts(
        supported=True,
        reason=None,
        inputs=network.inputs,
        outputs=network.outputs,
        layers=layers,
        tensors=tensors,
        macs=network.num_macs,
        weight_bytes=sum(layer.weight_bytes for layer in layers),
        arena_bytes=plan.total_bytes,
        arena_least_bytes=plan.least_bytes,
    )


def _converted(
    tensors: Mapping[str, TensorFacts], model: TFLiteModel, read: ReadNetwork
) -> dict[str, TensorFacts]:
    """Return the inputs and outputs that the file has as another type, with what it has."""
    found: dict[str, TensorFacts] = {}
    names = [model.tensors[i].name for i in (*model.inputs, *model.outputs)]
    for name, edge in zip(names, (*read.inputs, *read.outputs), strict=True):
        tensor = tensors.get(edge.tensor)
        if tensor is not None and edge.dtype in ("FLOAT32", "UINT8") and edge.tensor not in found:
            found[edge.tensor] = replace(tensor, file_dtype=edge.dtype.lower(), file_name=name)
    return found


def _activation_facts(tensor: Tensor) -> TensorFacts:
    is_plain = tensor.dtype == "int32" and tensor.scale == 1.0  # indices
    scale, zero_point = (None, None) if is_plain else (tensor.scale, tensor.zero_point)
    return TensorFacts(tensor.shape, tensor.dtype, scale, zero_point, tensor.num_bytes)


def _weight_bytes(layer: Layer, network: IntegerNetwork) -> int:
    """Count what the layer reads beside activations, as the file stores it."""
    weights, bias = getattr(layer, "weights", None), getattr(layer, "bias", None)
    count = 0 if weights is None else int(weights.nbytes)
    if bias is not None:
        count += bias.size * (_WIDE_BIAS_BYTES if getattr(layer, "is_wide", False) else _BIAS_BYTES)
    return count + sum(network.constants[name].nbytes for name in layer.inputs if name in network.constants)


def _facts_of_file(model: TFLiteModel, reason: str) -> NetworkFacts:
    layers = tuple(_operator_facts(model, op) for op in model.operators)
    used = {*model.inputs, *model.outputs}
    used |= {i for op in model.operators for i in (*op.inputs, *op.outputs) if i >= 0}
    return NetworkFacts(
        supported=False,
        reason=reason,
        inputs=tuple(model.tensors[i].name for i in model.inputs),
        outputs=tuple(model.tensors[i].name for i in model.outputs),
        layers=layers,
        tensors={
            model.tensors[i].name: _tensor_facts(model.tensors[i])
            for i in sorted(used)
            if not model.tensors[i].is_constant
        },
        weight_bytes=_constant_bytes(model, [i for op in model.operators for i in op.inputs]),
    )


def _operator_facts(model: TFLiteModel, op: OperatorInfo) -> LayerFacts:
    outputs = [model.tensors[i] for i in op.outputs]
    return LayerFacts(
        operator=op.name,
        name=outputs[0].name if outputs else "",
        inputs=tuple(model.tensors[i].name for i in op.inputs if i >= 0 and not model.tensors[i].is_constant),
        outputs=tuple(tensor.name for tensor in outputs),
        macs=None,
        weight_bytes=_constant_bytes(model, op.inputs),
        activation_bytes=sum(_num_bytes(tensor) for tensor in outputs),
    )


def _constant_bytes(model: TFLiteModel, tensors: Any) -> int:
    """Count the bytes of constants, each once though several tensors may share it."""
    spans = {model.tensors[i].span for i in tensors if i >= 0}
    return sum(span[1] for span in spans if span)


def _tensor_facts(tensor: TensorInfo) -> TensorFacts:
    is_quantized = len(tensor.scales) == 1 and np.isfinite(tensor.scales[0])
    return TensorFacts(
        shape=tensor.shape,
        dtype=tensor.dtype.lower(),
        scale=float(tensor.scales[0]) if is_quantized else None,
        zero_point=int(tensor.zero_points[0]) if is_quantized else None,
        bytes=_num_bytes(tensor),
    )


def _num_bytes(tensor: TensorInfo) -> int:
    """Count the bytes of an activation; 0 for types that are no numbers, such as resources."""
    return tensor.size * np.dtype(DTYPES[tensor.dtype]).itemsize if tensor.dtype in DTYPES else 0
