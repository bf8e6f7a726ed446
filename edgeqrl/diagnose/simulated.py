"""The integer policy in float32: each part of it can be given its float weights and activations back.

Weights and biases are those of the int8 file, dequantized; every activation is rounded to the grid that
the int8 file has for it. Where all that a layer reads lies on its grid, the layer's own integers decide:
with nothing in float this is the integer policy, bit for bit, and with everything in float it is the float
policy. In between lies what an integer network cannot show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError
from edgeqrl.interfaces import State
from edgeqrl.network.edges import ObservationEdge, limits, quantize_observations
from edgeqrl.network.fixed_point import requantize, requantize_int64
from edgeqrl.network.float_reference import FloatLayer, FloatReference
from edgeqrl.network.fold import MOVES
from edgeqrl.network.graph import simplify
from edgeqrl.network.layers.linear import Linear
from edgeqrl.network.parts import ObservationPart
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.tflite_model import OperatorInfo, TensorInfo, TFLiteModel, parse_tflite, shown

OBSERVATION = "observation"  # the part that is the rounding of the input

Floats = NDArray[np.float32]

_WITH_WEIGHTS = ("BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_ROUNDING = "FAKE_QUANT"
# What these give lies on the grid of what they take, where both have the same.
_KEEPING = {*MOVES, "PAD", "MIRROR_PAD", "SPLIT_V", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "MAX_POOL_2D"}


class ActionHead(Protocol):
    """What turns outputs into actions; `agents.heads.Head` is one."""

    @property
    def num_outputs(self) -> int:
        """Count the network outputs that the head reads."""
        ...

    def actions(self, outputs: Floats, action_masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return actions [N, *action_shape] for outputs [N, num_outputs]."""
        ...


@dataclass(frozen=True)
class Grid:
    """The real values that an activation of the int8 file can have."""

    scale: float
    zero_point: int
    dtype: str  # "int8" or "int16"

    def rounded(self, values: Floats) -> Floats:
        """Return the nearest value of the grid for each."""
        return self.real(self.steps(values))

    def steps(self, values: Floats) -> NDArray[Any]:
        """Return the nearest integers, as the int8 file has them."""
        steps = np.rint(values.astype(np.float64) / self.scale) + self.zero_point
        return np.asarray(np.clip(steps, *limits(self.dtype)), self.dtype)

    def real(self, steps: NDArray[Any]) -> Floats:
        """Return the real values of integers."""
        return ((steps.astype(np.float64) - self.zero_point) * self.scale).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Part:
    """An operator with weights and all that follows until the next: what one calls a layer."""

    name: str  # of the tensor that the operator with weights writes, or OBSERVATION
    operator: str
    tensors: tuple[str, ...]  # that it writes, as the float file names them
    constants: tuple[str, ...]  # that it reads


class NetworkPair:
    """A float32 `.tflite` and its int8 twin, tensor by tensor. Shared by many simulated policies."""

    def __init__(self, float_tflite: bytes, int8_tflite: bytes, part: ObservationPart | None = None) -> None:
        """Match them, by the names of their tensors, else by the order of their operators.

        part  how raw observations become the network's input; by default they are that

        Raises DataError where that cannot be done, or where there is not one input and one output.
        """
        self.reference = FloatReference(float_tflite)
        self.network = read_tflite(int8_tflite)
        model = simplify(parse_tflite(int8_tflite)).model
        if len(self.reference.inputs) != 1 or len(self.reference.outputs) != 1 or len(model.inputs) != 1:
            raise DataError("The network has several inputs or outputs, and a policy has one of each.")
        ((self.input_name, self.input_shape),) = self.reference.inputs.items()
        ((self.output_name, output_shape),) = self.reference.outputs.items()
        self.num_outputs = int(np.prod(output_shape))
        grid = _grid(model.tensors[model.inputs[0]])
        self.part = part or ObservationPart(OBSERVATION, self.input_shape)
        self.edge = ObservationEdge(self.part, grid.scale, grid.zero_point, grid.dtype)
        self.grids: dict[str, Grid] = {self.input_name: grid}
        self.twins = {self.input_name: self.network.inputs[0]}  # activations of the int8 file
        self.constants: dict[str, Floats] = {}  # by the float file's names, as the int8 file has them
        layers = [layer for layer in self.reference.layers if layer.operator != _ROUNDING]
        for layer, op in _matched(layers, model):
            for name, i in zip(layer.outputs, op.outputs, strict=True):
                self.grids[name] = _grid(model.tensors[i])
                self.twins[name] = model.tensors[i].name
            for name, i in zip(layer.inputs, op.inputs, strict=False):
                if name in self.reference.weights and i >= 0:
                    shape = self.reference.weights[name].shape
                    self.constants[name] = _dequantized(op, i, model, shape)
        for layer in self.reference.layers:
            if layer.operator == _ROUNDING:  # of an agent trained with it: the integer tensor is rounded
                self.grids[layer.name] = self.grids[layer.inputs[0]]
                self.twins[layer.name] = self.twins[layer.inputs[0]]
        self.parts = _parts(self.reference.layers, self.input_name, self.reference.weights)
        self.kept = {
            name
            for layer in self.reference.layers
            if _keeps(layer, self.grids, self.reference.weights)
            for name in layer.outputs
        }
        self.writers = {layer.output: layer for layer in self.network.layers}


class SimulatedPolicy:
    """A Policy that computes in float32 what the int8 file would, but for the parts `in_float`."""

    name = "simulated"

    def __init__(
        self,
        pair: NetworkPair,
        head: ActionHead,
        *,
        in_float: frozenset[str] = frozenset(),
        has_float_weights: bool = False,
        has_float_activations: bool = False,
    ) -> None:
        """Choose what stays float.

        head                   an action head (`agents.heads.Head`)
        in_float               names of `pair.parts` whose weights, biases and activations are the float
                               file's; OBSERVATION: the input is not rounded
        has_float_weights      so are the weights and biases of all parts
        has_float_activations  so are the activations of all parts, the observation included
        """
        unknown = in_float - {part.name for part in pair.parts}
        if unknown:
            raise ValueError(f"there are no parts {sorted(unknown)}")
        if head.num_outputs != pair.num_outputs:
            raise DataError(
                f"The network has {pair.num_outputs} outputs, and its action head needs {head.num_outputs}."
            )
        self._pair, self._head = pair, head
        self._has_float_weights = has_float_weights
        rounded = [part for part in pair.parts if part.name not in in_float]
        self._grids: dict[str, Grid] = {}
        if not has_float_activations:
            self._grids = {name: pair.grids[name] for part in rounded for name in part.tensors}
        self._weights: Mapping[str, Floats] = {}
        if not has_float_weights:
            # A constant that several parts share is the int8 file's as long as one of them is.
            self._weights = {
                name: pair.constants[name]
                for part in rounded
                for name in part.constants
                if name in pair.constants
            }

    def outputs(self, observations: NDArray[Any]) -> Floats:
        """Return the network's outputs [N, num_outputs] for observations [N, *observation_shape]."""
        raw = np.asarray(observations, np.float32).reshape(len(observations), *self._pair.part.shape)
        rows = self._pair.part.values(raw).reshape(len(raw), *self._pair.input_shape)
        run = _Run(self._pair, self._grids, raw, can_be_integer=not self._has_float_weights)
        result = self._pair.reference.run(
            {self._pair.input_name: rows},
            weights=self._weights,
            on_tensor=run.on_tensor,
            on_sums=run.on_sums,
        )
        return np.asarray(result[self._pair.output_name]).reshape(len(rows), self._pair.num_outputs)

    def act(
        self,
        observations: NDArray[Any],
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Act as `interfaces.Policy` says; a feed-forward policy has no state."""
        return self._head.actions(self.outputs(observations), action_masks), ()


class _Run:
    """The hooks of one call, and the integers found so far."""

    def __init__(
        self, pair: NetworkPair, grids: Mapping[str, Grid], raw: Floats, *, can_be_integer: bool
    ) -> None:
        self._pair, self._grids, self._raw, self._can_be_integer = pair, grids, raw, can_be_integer
        self._integers: dict[str, NDArray[Any]] = {}  # by the int8 file's names

    def on_sums(self, name: str, sums: Floats) -> Floats | None:
        """Rescale what a layer with weights sums up as the integer kernels do, who may round twice."""
        layer, grid = self._pair.writers.get(self._pair.twins[name]), self._grids.get(name)
        if grid is None or not isinstance(layer, Linear):
            return None
        shape = (*(1,) * (sums.ndim - 1), -1)
        multiplier, shift = layer.multiplier.reshape(shape), layer.shift.reshape(shape)
        largest = (2**47 - 1) if layer.is_wide else (2**31 - 1) >> np.maximum(shift.astype(np.int64), 0)
        # real = (scale of the output * multiplier * 2^(shift - 31)) * accumulator
        unit = grid.scale * multiplier.astype(np.float64) * np.exp2(shift - 31.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = np.nan_to_num(np.rint(sums / unit))
        accumulator = np.clip(quotient, -largest, largest).astype(np.int64)
        rescale = requantize_int64 if layer.is_wide else requantize
        steps = rescale(accumulator, multiplier, shift) + grid.zero_point
        return grid.real(np.clip(steps, layer.output_min, layer.output_max))

    def on_tensor(self, name: str, values: Floats) -> Floats | None:
        """Round a tensor, where it is to be rounded."""
        pair, grid = self._pair, self._grids.get(name)
        if grid is None:
            return None
        twin = pair.twins[name]
        shape = (len(values), *pair.network.tensors[twin].shape)
        if name == pair.input_name:
            steps = quantize_observations(pair.edge, self._raw)[0]  # as the policy does, from raw values
            self._integers[twin] = steps.reshape(shape)
            return grid.real(steps).reshape(values.shape)
        exact = self._computed(twin) if self._can_be_integer else None
        if exact is not None:
            exact = exact if len(exact) == len(values) else np.repeat(exact, len(values), axis=0)
            self._integers[twin] = exact
            return grid.real(exact).reshape(values.shape)
        return None if name in pair.kept else grid.rounded(values)

    def _computed(self, name: str) -> NDArray[Any] | None:
        """Return what the int8 file's layers give; None where not all that they read is known."""
        layer, network = self._pair.writers.get(name), self._pair.network
        if layer is None:
            return None
        operands = []
        for source in layer.inputs:
            values = self._integers.get(source)
            if values is None and source in network.constants:
                values = network.constants[source][None]
            if values is None and source not in self._pair.twins.values():
                values = self._computed(source)  # between two tensors that the float file has
            if values is None:
                return None
            operands.append(values)
        return layer.run(operands, network.tensors)


def _matched(layers: Sequence[FloatLayer], model: TFLiteModel) -> list[tuple[FloatLayer, OperatorInfo]]:
    """Return each float operator with its int8 twin; DataError where one has none.

    By the names of what they write, for branches of one shape may come in another order; those that are
    left, as a converter may rename, in their order, reading what their twins read.
    """
    operators = [op for op in model.operators if op.name != "QUANTIZE"]
    writers = {model.tensors[op.outputs[0]].name: op for op in operators}
    twins = {
        layer.name: writers[layer.name]
        for layer in layers
        if layer.name in writers and _are_alike(layer, writers[layer.name])
    }
    taken = {id(op) for op in twins.values()}
    alone = [layer for layer in layers if layer.name not in twins]
    left = [op for op in operators if id(op) not in taken]
    if alone and not (
        len(alone) == len(left)
        and all(map(_are_alike, alone, left))
        and all(_read_alike(*pair, model, {*twins}) for pair in zip(alone, left, strict=True))
    ):
        raise DataError(
            f"The float and the int8 network differ in their layers: {alone[0].operator} of "
            f"'{shown(alone[0].name)}' has no twin in the int8 file. Quantize again with this version."
        )
    twins |= {layer.name: op for layer, op in zip(alone, left, strict=False)}
    return [(layer, twins[layer.name]) for layer in layers]


def _are_alike(layer: FloatLayer, op: OperatorInfo) -> bool:
    return (layer.operator, len(layer.outputs)) == (_function(op), len(op.outputs))


def _read_alike(layer: FloatLayer, op: OperatorInfo, model: TFLiteModel, named: set[str]) -> bool:
    """Tell whether they read the same, as far as both files know a name."""
    sources = (model.tensors[i].name if i >= 0 else "" for i in op.inputs)
    pairs = zip(layer.inputs, sources, strict=False)
    return not any(name != source and {name, source} <= named for name, source in pairs)


def _function(op: OperatorInfo) -> str:
    """Return an operator's name; that of the float function which a table between integers stands for."""
    functions = str(op.options.get("functions", "")).split()
    return functions[0].split(":")[0] if len(functions) == 1 else op.name


def _grid(tensor: TensorInfo) -> Grid:
    if tensor.dtype not in ("INT8", "INT16") or len(tensor.scales) != 1 or not tensor.scales[0] > 0:
        raise DataError(
            f"Tensor '{shown(tensor.name)}' of the int8 network is {tensor.dtype}, and must be INT8 or INT16 "
            "with one scale."
        )
    return Grid(float(tensor.scales[0]), int(tensor.zero_points[0]), tensor.dtype.lower())


def _dequantized(op: OperatorInfo, index: int, model: TFLiteModel, shape: tuple[int, ...]) -> Floats:
    """Return the real values of a constant: weights, a bias, or an operand of two."""
    tensor = model.tensors[index]
    scales, zero_points, axis = tensor.scales, tensor.zero_points, tensor.quantized_axis
    if len(scales) == 0 or tensor.size != int(np.prod(shape)) or len(scales) not in (1, *tensor.shape):
        raise DataError(
            f"Constant '{shown(tensor.name)}' of {op.name} in the int8 network does not fit the float one's."
        )
    along = [1] * len(tensor.shape)
    if len(scales) > 1:
        along[axis] = -1
    centred = tensor.values().astype(np.float64) - zero_points.reshape(along)
    real = centred * scales.astype(np.float64).reshape(along)
    return np.asarray(real, np.float32).reshape(shape)


def _parts(layers: Sequence[FloatLayer], input_name: str, weights: Mapping[str, Floats]) -> tuple[Part, ...]:
    """Give each operator to the last one with weights that it depends on, or to the observation."""
    places = {input_name: 0}
    found: list[tuple[str, str, list[str], list[str]]] = [(OBSERVATION, "QUANTIZE", [input_name], [])]
    for layer in layers:
        place = max((places[name] for name in layer.inputs if name in places), default=0)
        if layer.operator in _WITH_WEIGHTS:
            place = len(found)
            found.append((layer.name, layer.operator, [], []))
        places |= dict.fromkeys(layer.outputs, place)
        found[place][2].extend(layer.outputs)
        found[place][3].extend(name for name in layer.inputs if name in weights)
    return tuple(Part(name, operator, tuple(ts), tuple(cs)) for name, operator, ts, cs in found)


def _keeps(layer: FloatLayer, grids: Mapping[str, Grid], weights: Mapping[str, Floats]) -> bool:
    """Tell whether what a layer gives needs no rounding, as it only moves what was rounded."""
    if layer.operator not in _KEEPING or layer.fused_activation != "NONE":
        return False
    taken = {grids[name] for name in layer.inputs if name in grids}
    constant = any(name in weights for name in layer.inputs)
    return not constant and taken == {grids[name] for name in layer.outputs}
