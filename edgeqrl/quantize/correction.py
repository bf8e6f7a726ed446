"""What an integer network gets back after quantization, layer by layer, on states that the policy meets.

`correct` goes through the layers in their order. Each sees what the integer layers before it really give,
and its sums are compared with those of the float network. Its weights are rounded anew such that the sums
come close (`rounding.py`), and the mean that is still missing goes to its bias (Nagel et al.,
arXiv:1906.04721, section 4.2, with real states in place of batch statistics). The file stays a standard
`.tflite`: weights change by a step or none, and biases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.edges import ObservationEdge, quantize_observations
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.ir import Array, IntegerNetwork, Tensor
from edgeqrl.network.layers import Linear, accumulator_bound
from edgeqrl.network.read_tflite import read_with_edges
from edgeqrl.network.tflite_model import shown
from edgeqrl.quantize.grids import weight_limits
from edgeqrl.quantize.matching import Twin, float_twins
from edgeqrl.quantize.rounding import is_roundable, parts_of, round_rows
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.quantize.weights_file import ROLES, LayerWeights, read_weights, write_weights

Floats = NDArray[np.float64]
Samples = Mapping[str, NDArray[np.float32]] | Sequence[NDArray[np.float32]] | NDArray[np.float32]

_MOST_ELEMENTS = 2**25  # of all activations and sums that are held at once
_ELEMENTS_AT_ONCE = 2**20  # of observations that are quantized
_MOST_SAMPLES, _LEAST_SAMPLES = 4096, 64
_HELD_OUT_EVERY = 4  # samples; what rounding is judged by is not what it is made from
_WORTH = 0.8  # of the error on these, and a channel is rounded anew: nearest also suits states not met
_INT32_MAX, _INT64_SUM_MAX = 2**31 - 1, 2**47 - 1


@dataclass(frozen=True, eq=False)
class Corrected:
    """An integer network with what was done to its layers; they are named as in the float network."""

    tflite: bytes
    tried: tuple[str, ...] = ()  # whose weights could be rounded by output
    rounded: tuple[str, ...] = ()  # whose weights were, as it paid
    corrected: tuple[str, ...] = ()  # whose biases were corrected
    left: Mapping[str, str] = field(default_factory=dict)  # layer -> why it was left as it was

    @property
    def rounding(self) -> str:
        """Return the scheme's word for how weights were rounded, where it paid or not."""
        return "adaround" if self.tried else "nearest"

    @property
    def bias_correction(self) -> bool:
        """Tell whether any bias was corrected."""
        return bool(self.corrected)


def correct(integer_tflite: bytes, float_tflite: bytes, samples: Samples, scheme: Scheme) -> Corrected:
    """Return the integer network with weights rounded by output and corrected biases, where its scheme asks.

    float_tflite  the network that it was made from, in float32
    samples       what both are given, [N, *shape] an input, in the files' order, N >= 1
    scheme        what the integer network was made by: weights stay on the grid that it says of their layer

    Layers that nothing in the float network matches, or that the float reference cannot compute, are left
    as they are. A layer without a bias gets one, unless it would be 0. Weights that two layers share stay to
    nearest.
    """
    if scheme.rounding == "nearest" and not scheme.bias_correction:
        return Corrected(integer_tflite)
    read, files = read_with_edges(integer_tflite), read_weights(integer_tflite)
    network, twins = read.network, float_twins(integer_tflite, float_tflite)
    arrays = _chosen(_arrays(samples), network)
    exact, left = _exact(network, float_tflite, arrays, twins)
    values: dict[str, Array] = {name: constant[None] for name, constant in network.constants.items()}
    for edge, array in zip(read.inputs, arrays, strict=True):
        values[edge.tensor] = _quantized(network.tensors[edge.tensor], array)
    made: dict[str, _Outcome] = {}
    for layer in network.layers:
        name = layer.output
        if isinstance(layer, Linear) and name in exact:
            wanted = exact[name] / files[name].bias_scales
            case = _Case(layer, files[name], values[layer.input], wanted, network.tensors)
            made[name] = _improved(case, twins[name], scheme)
            values[name] = made[name].case.layer.run([case.values], network.tensors)
        else:
            values[name] = layer.run([values[source] for source in layer.inputs], network.tensors)
    tflite = write_weights(integer_tflite, {name: found.case.as_file() for name, found in made.items()})
    return Corrected(
        tflite,
        tried=tuple(found.name for found in made.values() if found.is_tried),
        rounded=tuple(found.name for found in made.values() if found.is_rounded),
        corrected=tuple(found.name for found in made.values() if found.is_corrected),
        left=left,
    )


def layer_sums(
    reference: FloatReference, samples: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Run a float network; return what each layer with weights gives before its activation, [rows, channels].

    samples  one array [N, *shape] an input, in the file's order
    """
    inputs = {
        name: array.reshape(len(array), *shape)
        for (name, shape), array in zip(reference.inputs.items(), samples, strict=True)
    }
    linear = {layer.name for layer in reference.layers if layer.operator in ROLES}
    found: dict[str, NDArray[np.float32]] = {}

    def collect(name: str, sums: NDArray[np.float32]) -> None:
        if name in linear:
            found[name] = sums.reshape(-1, sums.shape[-1])

    reference.run(inputs, on_sums=collect)
    return found


@dataclass(frozen=True, eq=False)
class _Case:
    """One layer, what it is given, and what the float network's sums are there. All in its own units."""

    layer: Linear
    file: LayerWeights
    values: Array  # of its input, [N, *shape]
    wanted: Floats  # [N * positions, channels], bias included
    tensors: Mapping[str, Tensor]

    @property
    def is_roundable(self) -> bool:
        """Tell whether weights can be rounded by output, and there are samples to judge by."""
        return len(self.values) >= _LEAST_SAMPLES and not self.file.is_tied and is_roundable(self.layer)

    def rounded(self, exact_rows: NDArray[np.float32], limits: tuple[int, int], *, is_free: bool) -> "_Case":
        """Return the case with weights rounded by output, where that is much nearer on samples held out.

        exact_rows  [channels, terms], real
        limits      the least and the greatest integer that the file may hold
        is_free     the bias follows
        """
        is_held_out = np.arange(len(self.values)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
        exact = exact_rows.astype(np.float64) / self.file.by_channel(self.file.scales)[:, None]
        zero_points = self.file.by_channel(self.file.zero_points)[:, None]
        lowest, highest = (end - zero_points for end in limits)
        fit = self._rows(~is_held_out)
        wanted = fit.wanted if is_free else fit.wanted - self.layer.bias
        rows = self.layer.centred_weights.reshape(exact.shape).astype(np.float64)
        found = rows.copy()
        for part in parts_of(self.layer, fit.centred, wanted, is_free=is_free):
            ends = lowest[part.channels], highest[part.channels]
            found[part.channels] = round_rows(exact[part.channels], part, ends)
        new = self._with_rows(found + zero_points)
        before, after = (case.errors(is_held_out, is_free=is_free) for case in (self, new))
        is_nearer = after < _WORTH * before
        kept = self._with_rows(np.where(is_nearer[:, None], found, rows) + zero_points)
        return kept if np.any(is_nearer) and kept.is_safe() else self

    def corrected(self) -> "_Case":
        """Return the case with the mean error of its sums added to the bias, where its bits hold it."""
        missing = self.wanted.mean(axis=0) - self._sums().mean(axis=0)
        layer = self.layer
        wanted = layer.bias + np.rint(missing)
        source = self.tensors[layer.input]
        bare = replace(layer, bias=np.zeros_like(layer.bias))
        products = accumulator_bound(bare, source.zero_point, source.range)
        most = _INT64_SUM_MAX if layer.is_wide else _INT32_MAX >> np.maximum(layer.shift, 0)
        if self._bias_dtype == "INT32":
            most = np.minimum(most, _INT32_MAX)
        bias = np.where(np.abs(wanted) <= most - products, wanted, layer.bias).astype(np.int64)
        new = replace(self, layer=replace(layer, bias=bias))
        return new if new.is_safe() else self

    def errors(self, chosen: NDArray[np.bool_], *, is_free: bool) -> Floats:
        """Return the mean square error of each channel's sums, [channels], over some samples.

        is_free  a bias is added that makes the mean error of the other samples 0
        """
        error = self._sums() - self.wanted
        is_row = np.repeat(chosen, len(error) // len(chosen))
        if is_free:
            error -= error[~is_row].mean(axis=0)
        return np.asarray((error[is_row] ** 2).mean(axis=0))

    def is_safe(self) -> bool:
        """Tell whether no sum can overflow."""
        try:
            self.layer.require_safe(self.tensors[self.layer.input], self.tensors[self.layer.output])
        except UnsupportedOperatorError:
            return False
        return True

    def as_file(self) -> LayerWeights:
        """Return what the file has to hold."""
        rows = self.layer.weights.reshape(len(self.layer.weights), -1)
        is_there = self.file.bias is not None or np.any(self.layer.bias)
        bias = self.layer.bias if is_there else None
        dtype = self._bias_dtype if is_there else None
        return replace(self.file, weights=self.file.from_rows(rows), bias=bias, bias_dtype=dtype)

    @property
    def centred(self) -> Floats:
        """Return the inputs less their zero point."""
        return self.values.astype(np.float64) - self.tensors[self.layer.input].zero_point

    @property
    def _bias_dtype(self) -> str:
        """Return the type of the bias, or of the one that the layer would get."""
        source = self.tensors[self.layer.input]
        return self.file.bias_dtype or ("INT64" if source.dtype == "int16" else "INT32")

    def _rows(self, chosen: NDArray[np.bool_]) -> "_Case":
        is_row = np.repeat(chosen, len(self.wanted) // len(chosen))
        return replace(self, values=self.values[chosen], wanted=self.wanted[is_row])

    def _with_rows(self, rows: Floats) -> "_Case":
        weights = rows.reshape(self.layer.weights.shape).astype(np.int8)
        return replace(self, layer=replace(self.layer, weights=weights))

    def _sums(self) -> Floats:
        sums = self.layer.accumulators(self.values, self.tensors)
        return sums.reshape(-1, sums.shape[-1]).astype(np.float64)


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A layer as it is when it has been seen to."""

    case: _Case
    name: str  # in the float network
    is_tried: bool
    is_rounded: bool
    is_corrected: bool


def _improved(case: _Case, twin: Twin, scheme: Scheme) -> _Outcome:
    """Round the weights of one layer by its output, then correct its bias, where the scheme asks for it."""
    is_tried = scheme.rounding == "adaround" and case.is_roundable
    is_free = scheme.bias_correction and case.file.may_have_bias
    new = case
    if is_tried:
        new = case.rounded(case.file.rows(twin.weights), weight_limits(scheme, twin.name), is_free=is_free)
    is_rounded = new is not case
    new = new.corrected() if is_free else new
    return _Outcome(new, twin.name, is_tried, is_rounded, is_free and new.as_file().bias is not None)


def _exact(
    network: IntegerNetwork,
    float_tflite: bytes,
    arrays: Sequence[NDArray[np.float32]],
    twins: Mapping[str, Twin],
) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    """Return the float sums of the layers that have any, and why the others have none."""
    names = [layer.output for layer in network.layers if isinstance(layer, Linear)]
    try:
        sums = layer_sums(FloatReference(float_tflite), arrays)
    except UnsupportedOperatorError as error:
        return {}, dict.fromkeys(names, str(error))
    left = {name: "no layer of the float network matches it" for name in names if name not in twins}
    left |= {
        name: "its sums depend on no input"
        for name in names
        if name in twins and twins[name].name not in sums
    }
    return {name: sums[twins[name].name] for name in names if name not in left}, left


def _arrays(samples: Samples) -> list[NDArray[np.float32]]:
    if isinstance(samples, np.ndarray):
        return [samples]
    return list(samples.values()) if isinstance(samples, Mapping) else list(samples)


def _chosen(arrays: list[NDArray[np.float32]], network: IntegerNetwork) -> list[NDArray[np.float32]]:
    """Return as many samples as memory allows, evenly from all."""
    size = sum(tensor.size for name, tensor in network.tensors.items() if name not in network.constants)
    most = max(min(_MOST_ELEMENTS // (2 * size), _MOST_SAMPLES), _LEAST_SAMPLES)
    count = len(arrays[0])
    rows = np.arange(count) if count <= most else np.linspace(0, count - 1, most).round().astype(np.int64)
    return [array[rows] for array in arrays]


def _quantized(tensor: Tensor, values: NDArray[np.float32]) -> Array:
    try:
        edge = ObservationEdge.of(tensor.shape, tensor.scale, tensor.zero_point, tensor.dtype)
    except ValueError as error:
        raise UnsupportedOperatorError(
            f"The network's input '{shown(tensor.name)}' has no integer form: {error}. Scale what it reads."
        ) from error
    rows = values.reshape(len(values), *tensor.shape)
    step = max(_ELEMENTS_AT_ONCE // tensor.size, 1)  # many times their size is taken meanwhile
    parts = [quantize_observations(edge, rows[at : at + step])[0] for at in range(0, len(rows), step)]
    return np.concatenate(parts)
