"""A fully-integer `.tflite` file -> IntegerNetwork."""

from dataclasses import dataclass

import numpy as np

from edgeqrl.errors import DataError
from edgeqrl.network.graph import FileEdge, Graph, simplify
from edgeqrl.network.ir import Array, IntegerNetwork, Layer, Tensor
from edgeqrl.network.layers import Reshape
from edgeqrl.network.operators import SUPPORT
from edgeqrl.network.supported_ops import require_straight, require_supported
from edgeqrl.network.tflite_model import TensorInfo, parse_tflite, replace_buffers, shown

__all__ = ["ReadNetwork", "parse_tflite", "read_tflite", "read_with_edges", "replace_buffers"]

_DTYPES = {"INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int32"}  # INT64: indices

_MOST_FOLDED = 2**22  # multiply-accumulates and values


@dataclass(frozen=True, eq=False)
class ReadNetwork:
    """A network, and how its inputs and outputs stand in its file, by position."""

    network: IntegerNetwork
    inputs: tuple[FileEdge, ...]
    outputs: tuple[FileEdge, ...]


def read_tflite(data: bytes) -> IntegerNetwork:
    """Lower a file; its arithmetic is then TFLite Micro's, bit for bit.

    Inputs and outputs are the integer tensors, also where the file converts from and to float32 or uint8.
    Raises DataError where the file is damaged, UnsupportedOperatorError where it uses something that
    SUPPORTED_OPS.md does not list or could overflow.
    """
    return read_with_edges(data).network


def read_with_edges(data: bytes) -> ReadNetwork:
    """Lower a file, and say what it takes and gives where other runtimes run it."""
    model = parse_tflite(data)
    require_straight(model)
    graph = simplify(model)
    return ReadNetwork(_lowered(graph), graph.inputs, graph.outputs)


def network_tensor(tensor: TensorInfo) -> Tensor:
    """Return an activation or constant of the file as a tensor of the network, a batch axis of 1 left out."""
    shape = tensor.shape[1:] if tensor.shape[:1] == (1,) else tensor.shape
    dtype = _DTYPES.get(tensor.dtype)
    is_number = dtype == "int32" and len(tensor.scales) == 0
    if dtype is None or not (is_number or len(tensor.scales) == 1):
        raise DataError(
            f"Tensor '{shown(tensor.name)}' at the network's edge is {tensor.dtype} {list(tensor.shape)}, "
            "and must be INT8 or INT16 with one scale: convert with full-integer quantization."
        )
    scale, zero_point = (1.0, 0) if is_number else (float(tensor.scales[0]), int(tensor.zero_points[0]))
    return Tensor(tensor.name, shape, scale, zero_point, dtype)


def _lowered(graph: Graph) -> IntegerNetwork:
    model = graph.model
    operators = require_supported(model)
    try:
        layers: list[Layer] = []
        for op in operators:
            layers += SUPPORT[op.info.name].lower(op)
        infos = {tensor.name: tensor for tensor in model.tensors}
        inputs = tuple(model.tensors[i].name for i in model.inputs)
        outputs = tuple(model.tensors[i].name for i in model.outputs)
        used = {name for layer in layers for name in (*layer.inputs, layer.output)} | {*inputs, *outputs}
        tensors = {name: network_tensor(infos[name]) for name in sorted(used)}
        constants = {
            name: _constant(infos[name], tensor)
            for name, tensor in tensors.items()
            if infos[name].is_constant
        }
        left, constants = _folded(layers, tensors, constants)
        read = {name for layer in left for name in (*layer.inputs, layer.output)} | {*inputs, *outputs}
        return IntegerNetwork(
            tensors={name: tensor for name, tensor in tensors.items() if name in read},
            inputs=inputs,
            outputs=outputs,
            layers=tuple(left),
            constants={name: values for name, values in constants.items() if name in read},
        )
    except ValueError as error:
        raise DataError(f"The .tflite file contradicts itself: {error}.") from None


def _folded(
    layers: list[Layer], tensors: dict[str, Tensor], constants: dict[str, Array]
) -> tuple[list[Layer], dict[str, Array]]:
    """Compute layers that read constants alone, such as those of a first state of zeros.

    A Reshape always: it shares its input's bytes, and the bytes of a constant lie among the params.
    """
    left: list[Layer] = []
    known = dict(constants)
    budget = _MOST_FOLDED
    for layer in layers:
        sizes = sum(tensors[name].size for name in (*layer.inputs, layer.output))
        cost = 0 if isinstance(layer, Reshape) else layer.num_macs + sizes
        if cost > budget or layer.output in known or not all(name in known for name in layer.inputs):
            left.append(layer)
            continue
        budget -= cost
        layer.require_consistent(tensors)
        (known[layer.output],) = layer.run([known[name][None] for name in layer.inputs], tensors)
    return left, known


def _constant(info: TensorInfo, tensor: Tensor) -> Array:
    return np.ascontiguousarray(info.values(), tensor.dtype).reshape(tensor.shape)
