"""The integer network in real numbers: tensors are rounded to their grids, and gradients go straight through.

What is learned: weights and biases, and the logarithms of the scales of weights (by channel) and of
activations, with the latter's zero points (LSQ: Esser et al., arXiv:1902.08153; LSQ+: Bhalgat et al.,
arXiv:2004.09576). Adam makes each step as long whatever its gradient is scaled by, so that none is here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.tensorflow_runtime import import_tensorflow
from edgeqrl.network.ir import Layer
from edgeqrl.network.layers import Linear
from edgeqrl.quantize.learned.functions import Function, activated, function_of
from edgeqrl.quantize.learned.structure import Grid, Group, Structure
from edgeqrl.quantize.learned.sums import Sums, sums_of

Arrays = dict[str, NDArray[np.float32]]  # what is learned, by name
Learned = Mapping[str, Any]  # the same as tensors

_EDGE = 0.3  # farthest that a weight starts from its integer, in steps
_ZERO_STEPS = 16.0  # integers that a zero point moves where its parameter moves by one


def start(structure: Structure) -> Arrays:
    """Return the values with which the twin is the integer network.

    Each weight starts as near to the float network's as its integer allows.
    """
    found: Arrays = {}
    for name, grid in structure.grids.items():
        file = grid.file
        found[f"weights/{name}"] = _rows_at_start(grid)
        found[f"step/{name}"] = np.zeros(len(file.scales[:: grid.num_tied]), np.float32)
        if file.bias is not None:
            real = file.bias * file.bias_scales
            found[f"bias/{name}"] = (real / _bias_unit(structure, name)).astype(np.float32)
    for at, group in enumerate(structure.groups):
        if not group.is_fixed:
            found[f"scale/{at}"] = np.zeros((), np.float32)
            if group.dtype == "int8":
                found[f"zero/{at}"] = np.zeros((), np.float32)
    return found


class Twin:
    """The functions of a structure; its values are given with each call."""

    def __init__(self, structure: Structure) -> None:
        """Raises UnsupportedOperatorError, naming operator and layer, for what cannot be learned through."""
        self.structure = structure
        network = structure.network
        self._functions: dict[str, Function] = {}
        self._sums: dict[str, Sums] = {}
        for layer in network.layers:
            if isinstance(layer, Linear):
                self._sums[layer.output] = sums_of(layer)
            else:
                operator = structure.operators[layer.output]
                self._functions[layer.output] = function_of(layer, operator, network.tensors)
        self._constants = {
            name: np.float32(t.scale) * (values.reshape(1, -1).astype(np.float32) - np.float32(t.zero_point))
            for name, values in network.constants.items()
            if (t := network.tensors[name]).dtype != "int32"
        }

    def run(self, learned: Learned, inputs: Sequence[Any]) -> list[Any]:
        """Return the outputs [N, size] for inputs [N, size], both by position in the file."""
        structure = self.structure
        values: dict[str, Any] = dict(self._constants)
        scales = self.scales(learned)
        for name, given in zip(structure.inputs, inputs, strict=True):
            values[name] = self._rounded(name, given, scales)
        for layer in structure.network.layers:
            values[layer.output] = self.run_layer(layer, learned, [values[n] for n in layer.inputs], scales)
        return [values[name] for name in structure.outputs]

    def run_layer(self, layer: Layer, learned: Learned, inputs: Sequence[Any], scales: Sequence[Any]) -> Any:
        """Return one layer's output [N, size] on its grid, for inputs [N, size] on theirs."""
        if not isinstance(layer, Linear):
            return self._rounded(layer.output, self._functions[layer.output](inputs), scales)
        structure = self.structure
        grid = structure.grids[layer.output]
        step = weight_scales(grid, learned[f"step/{layer.output}"])
        weights = quantized_weights(grid, learned[f"weights/{layer.output}"], step)
        source_scale, _ = scales[structure.group_of[layer.input]]
        bias = self._bias(layer.output, learned, source_scale * step)
        fused = structure.operators[layer.output].fused_activation
        whole = activated(lambda given: self._sums[layer.output](given[0], weights, bias), fused)
        return self._requantized(layer, whole(inputs), source_scale * step, scales)

    def scales(self, learned: Learned) -> list[tuple[Any, Any]]:
        """Return (scale, zero point) of each group."""
        return [group_scale(at, group, learned) for at, group in enumerate(self.structure.groups)]

    def bias_unit(self, name: str) -> float:
        """Return the real value of one unit of a layer's bias."""
        return _bias_unit(self.structure, name)

    def _bias(self, name: str, learned: Learned, step: Any) -> Any:
        tf = import_tensorflow()
        if f"bias/{name}" not in learned:
            return 0.0
        real = learned[f"bias/{name}"] * np.float32(self.bias_unit(name))
        return real + tf.stop_gradient(tf.round(real / step) * step - real)

    def _requantized(self, layer: Linear, sums: Any, step: Any, scales: Sequence[Any]) -> Any:
        """Return sums [N, size] on the output's grid, rounded as the kernels do: twice.

        Sums of few bits often lie halfway after the first rounding, so that it matters.
        """
        tf = import_tensorflow()
        at = self.structure.group_of[layer.output]
        (scale, zero_point), (lowest, highest) = scales[at], self.structure.groups[at].range
        plain = sums / scale
        if layer.is_wide:
            nearest = tf.floor(plain + 0.5)
        else:
            factor = tf.tile(step / scale, [tf.shape(sums)[1] // tf.shape(step)[0]])
            shrunk = tf.pow(2.0, tf.minimum(tf.math.ceil(tf.math.log(factor) / np.float32(np.log(2.0))), 0.0))
            high = tf.floor(plain / shrunk + 0.5) * shrunk
            nearest = tf.sign(high) * tf.floor(tf.abs(high) + 0.5)
        integers = plain + tf.stop_gradient(nearest - plain) + zero_point
        return scale * (tf.clip_by_value(integers, lowest, highest) - zero_point)

    def _rounded(self, name: str, values: Any, scales: Sequence[Any]) -> Any:
        tf = import_tensorflow()
        at = self.structure.group_of[name]
        (scale, zero_point), (lowest, highest) = scales[at], self.structure.groups[at].range
        integers = tf.clip_by_value(_straight_round(values / scale) + zero_point, lowest, highest)
        return scale * (integers - zero_point)


def group_scale(at: int, group: Group, learned: Learned) -> tuple[Any, Any]:
    """Return (scale, zero point) of a group; the zero point is a whole number."""
    tf = import_tensorflow()
    if group.is_fixed:
        return np.float32(group.scale), np.float32(group.zero_point)
    scale = np.float32(group.scale) * tf.exp(learned[f"scale/{at}"])
    if group.dtype != "int8":
        return scale, np.float32(0.0)
    moved = np.float32(group.zero_point) + np.float32(_ZERO_STEPS) * learned[f"zero/{at}"]
    return scale, tf.clip_by_value(_straight_round(moved), *group.range)


def weight_scales(grid: Grid, logarithms: Any) -> Any:
    """Return the scale of each channel's weights, [channels]."""
    tf = import_tensorflow()
    tied = grid.file.scales[:: grid.num_tied] * tf.exp(logarithms)
    channels = grid.file.num_channels
    if tied.shape[0] == 1:
        return tf.repeat(tied, channels)
    return tf.repeat(tied, grid.num_tied)[:channels]


def quantized_weights(grid: Grid, weights: Any, step: Any) -> Any:
    """Return real weights [channels, terms] on the grid."""
    zero_points = grid.file.by_channel(grid.file.zero_points)[:, None].astype(np.float32)
    return step[:, None] * (weight_integers(grid, weights) - zero_points)


def weight_integers(grid: Grid, weights: Any) -> Any:
    """Return the integers of weights [channels, terms].

    What is learned of them is counted in steps, whatever a step is: a scale that changes turns no rounding.
    """
    tf = import_tensorflow()
    zero_points = grid.file.by_channel(grid.file.zero_points)[:, None].astype(np.float32)
    nearest = _straight_round(weights * np.float32(_size_in_steps(grid))) + zero_points
    return tf.clip_by_value(nearest, grid.lowest, grid.highest)


def _straight_round(values: Any) -> Any:
    """Return whole numbers, exactly, through which gradients go as if nothing happened."""
    tf = import_tensorflow()
    return values + tf.stop_gradient(tf.round(values) - values)


def _size_in_steps(grid: Grid) -> float:
    """Return the size of a layer's weights: learning goes at the same pace whatever they are scaled by."""
    size = float(np.sqrt(np.mean(np.square(_centred(grid)))))
    return size if size > 0.0 else 1.0


def _bias_unit(structure: Structure, name: str) -> float:
    """Return the size of a layer's weights by a quarter of what an int8 input spans."""
    grid = structure.grids[name]
    scales = grid.file.by_channel(grid.file.scales)[:, None].astype(np.float64)
    size = float(np.sqrt(np.mean(np.square(_centred(grid) * scales))))
    return (size if size > 0.0 else 1.0) * grid.file.input_scale * 64.0


def _centred(grid: Grid) -> NDArray[np.float64]:
    zeros = grid.file.by_channel(grid.file.zero_points)[:, None]
    return np.asarray(grid.file.rows().astype(np.float64) - zeros)


def _rows_at_start(grid: Grid) -> NDArray[np.float32]:
    """Return weights [channels, terms] that round to the file's integers, on the side of the float ones.

    Not at the edge, where the first steps would turn a rounding that was chosen with care.
    """
    file, centre = grid.file, _centred(grid)
    wanted = centre
    if grid.exact is not None:
        scales = file.by_channel(file.scales)[:, None].astype(np.float64)
        wanted = np.clip(file.rows(grid.exact).astype(np.float64) / scales, centre - _EDGE, centre + _EDGE)
    return (wanted / _size_in_steps(grid)).astype(np.float32)
