"""What of an integer `.tflite` can be learned: its weights, and the scales that its tensors share.

Tensors whose values are only moved about have one scale with what they are moved to, and so do a recurrent
state and what is fed back to it. Scales that LiteRT fixes (behind tanh, logistic, softmax), and those of
constants, stay.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.graph import simplify
from edgeqrl.network.ir import IntegerNetwork, Layer, Tensor
from edgeqrl.network.layers import Linear, LogSoftmax, Move, Pair, Pool, Reduce, Reshape, Softmax, Softmax16
from edgeqrl.network.read_tflite import parse_tflite, read_with_edges
from edgeqrl.network.tflite_model import OperatorInfo, shown
from edgeqrl.quantize.grids import weight_limits
from edgeqrl.quantize.matching import Twin, float_twins
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.quantize.weights_file import LayerWeights, read_weights

_FIXED = ("TANH", "LOGISTIC")


@dataclass(frozen=True)
class Group:
    """Tensors that have one scale and zero point."""

    tensors: tuple[str, ...]
    scale: float
    zero_point: int
    dtype: str
    is_fixed: bool

    @property
    def range(self) -> tuple[int, int]:
        """Return the least and the greatest integer."""
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)


@dataclass(frozen=True, eq=False)
class Grid:
    """The integers that a layer's weights may be: real = scale * (q - zero_point), lowest <= q <= highest."""

    file: LayerWeights
    exact: NDArray[np.float32] | None  # the float network's weights, as the file's lie
    lowest: int
    highest: int
    num_tied: int  # channels that follow each other and share a scale


@dataclass(frozen=True, eq=False)
class Structure:
    """A network with what of it is learned."""

    network: IntegerNetwork
    inputs: tuple[str, ...]  # tensors, by position in the file; the states last
    outputs: tuple[str, ...]
    operators: Mapping[str, OperatorInfo]  # by the tensor that it writes
    groups: tuple[Group, ...]
    group_of: Mapping[str, int]  # of each tensor that is no plain number
    grids: Mapping[str, Grid]  # by the tensor that the layer writes


def read_structure(
    tflite: bytes,
    float_tflite: bytes,
    scheme: Scheme,
    *,
    num_states: int = 0,
    fixed_inputs: Iterable[int] = (),
) -> Structure:
    """Read an integer file of `scheme`, and the float one that it was made from.

    num_states    the last inputs, which the last outputs are fed back to
    fixed_inputs  inputs whose scale stays, by position

    Raises UnsupportedOperatorError where two layers share weights.
    """
    read = read_with_edges(tflite)
    network = read.network
    inputs = tuple(edge.tensor for edge in read.inputs)
    outputs = tuple(edge.tensor for edge in read.outputs)
    model = simplify(parse_tflite(tflite)).model
    operators = {model.tensors[i].name: op for op in model.operators for i in op.outputs}
    first = len(inputs) - num_states, len(outputs) - num_states
    fed_back = tuple(zip(inputs[first[0] :], outputs[first[1] :], strict=True))
    fixed = {inputs[at] for at in fixed_inputs}
    groups = _groups(network, fed_back, fixed)
    return Structure(
        network,
        inputs,
        outputs,
        operators,
        groups,
        {name: at for at, group in enumerate(groups) for name in group.tensors},
        _grids(network, operators, (read_weights(tflite), float_twins(tflite, float_tflite)), scheme),
    )


def _groups(
    network: IntegerNetwork, fed_back: Iterable[tuple[str, str]], fixed: set[str]
) -> tuple[Group, ...]:
    """Join what shares a scale."""
    names = [name for name, tensor in network.tensors.items() if _is_scaled(tensor)]
    group_of = {name: {name} for name in names}
    fixed = fixed | set(network.constants)
    pairs = list(fed_back)
    for layer in network.layers:
        if _keeps_scale(layer):
            pairs += [(name, layer.output) for name in layer.inputs]
        if layer.operator in _FIXED or isinstance(layer, Softmax | Softmax16 | LogSoftmax):
            fixed.add(layer.output)
    for a, b in pairs:
        if a in group_of and b in group_of and group_of[a] is not group_of[b]:
            group_of[a] |= group_of[b]
            for name in group_of[b]:
                group_of[name] = group_of[a]
    found = []
    for name in names:
        members = group_of[name]
        if name == next(other for other in names if other in members):
            tensor = network.tensors[name]
            ordered = tuple(other for other in names if other in members)
            found.append(Group(ordered, tensor.scale, tensor.zero_point, tensor.dtype, bool(members & fixed)))
    return tuple(found)


def _is_scaled(tensor: Tensor) -> bool:
    return tensor.dtype != "int32"


def _keeps_scale(layer: Layer) -> bool:
    if isinstance(layer, Reduce):
        return layer.function in ("REDUCE_MAX", "REDUCE_MIN")
    if isinstance(layer, Pair):
        return layer.function in ("MAXIMUM", "MINIMUM")
    return isinstance(layer, Move | Reshape | Pool)


def _grids(
    network: IntegerNetwork,
    operators: Mapping[str, OperatorInfo],
    found: tuple[Mapping[str, LayerWeights], Mapping[str, Twin]],
    scheme: Scheme,
) -> dict[str, Grid]:
    weights, twins = found
    grids: dict[str, Grid] = {}
    taken: set[int] = set()
    for layer in network.layers:
        if not isinstance(layer, Linear):
            continue
        index = operators[layer.output].inputs[1]
        if index in taken or layer.output not in weights:
            raise UnsupportedOperatorError(
                f"{layer.operator} at '{shown(layer.name)}' cannot be learned: its weights are packed, or "
                f"shared with another layer. Quantize with learned=false."
            )
        taken.add(index)
        grids[layer.output] = _grid(weights[layer.output], twins.get(layer.output), layer.output, scheme)
    return grids


def _grid(file: LayerWeights, twin: Twin | None, name: str, scheme: Scheme) -> Grid:
    lowest, highest = weight_limits(scheme, name if twin is None else twin.name)
    is_grouped = scheme.granularity == "per_group" and len(file.scales) > 1
    num_tied = min(scheme.group_size, len(file.scales)) if is_grouped else 1
    return Grid(file, None if twin is None else twin.weights, lowest, highest, num_tied)
