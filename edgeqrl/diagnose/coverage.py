"""How well int8 covers what the policy really meets: saturation and levels, by input feature and by layer.

Calibration chose the ranges on some episodes; here other episodes say whether they fit. What saturates in
the float policy's states too was calibrated too narrowly; what does so only in the quantized policy's, it may
have brought upon itself by going where the float policy never goes.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError
from edgeqrl.network.edges import ObservationEdge, limits, quantize_observations, saturated_inputs
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork, Layer
from edgeqrl.network.layers.movement import Move, Reshape
from edgeqrl.network.reference import Reference

FEW_LEVELS = 16  # 4 bits: a feature that varies and gets fewer is hardly seen
ENOUGH_STATES = 2000  # of which to say so: in a few episodes a feature may not have shown its range
MAX_FEATURES = 64  # that are listed

_MAX_STATES = 8192
_MAX_ELEMENTS = 2**24  # of the observations that are looked at
_BATCH = 256
_FAR = 1e300  # stands for no end, where a gain of 0 maps everything to one level
_NEIGHBOURS = 8  # levels beside an end: some are left out where a scale is coarser than the one before
# Their outputs' grid is the function's own range: to reach its ends is not to be clipped.
_FIXED_RANGE = ("L2_NORMALIZATION", "LOGISTIC", "LOG_SOFTMAX", "SOFTMAX", "TANH")


@dataclass(frozen=True)
class FeatureCoverage:
    """One number of the observation, over the states that the quantized policy visits."""

    index: int  # into the flattened observation
    minimum: float
    maximum: float
    range: tuple[float, float]  # of raw values that the integers tell apart
    saturated: float  # share of states in which the value lies outside of it
    float_saturated: float | None  # the same in the states that the float policy visits
    levels: int  # of 256 that occur
    range_used: float  # (maximum - minimum) of that range; above 1 where it saturates
    is_coarse: bool  # it varies, yet takes fewer than FEW_LEVELS levels in at least ENOUGH_STATES states


@dataclass(frozen=True)
class LayerCoverage:
    """The output of one layer, over the states that the quantized policy visits."""

    name: str
    operator: str
    saturated: float  # share of values piled up at the ends of the dtype, a true 0 apart
    float_saturated: float | None  # the same in the states that the float policy visits
    levels: int  # of 256 (65,536 for int16) that occur
    range_used: float  # share of the dtype's range between the least and the greatest value


@dataclass(frozen=True)
class Coverage:
    """What `coverage` found."""

    features: tuple[FeatureCoverage, ...]  # all, or the MAX_FEATURES most telling, by index
    layers: tuple[LayerCoverage, ...]  # in order of execution, without those that only move values
    num_states: int  # looked at
    num_features: int
    num_saturated: int  # features that saturate anywhere
    num_coarse: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        rows = {
            "features": [asdict(row) for row in self.features],
            "layers": [asdict(row) for row in self.layers],
        }
        return vars(self) | rows


def coverage(
    policy: IntegerPolicy,
    observations: NDArray[np.float32],
    float_observations: NDArray[np.float32] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Coverage:
    """Look at what `policy` makes of the observations [N, *shape] that it visited.

    Of very many, evenly spaced ones are looked at.

    float_observations  [N, *shape], those that the float policy visited
    """
    if len(observations) < 1:
        raise DataError("There are no observations to look at.")
    seen = _thinned(policy, observations)
    others = None if float_observations is None else _thinned(policy, float_observations)
    total = len(seen) + (0 if others is None else len(others))
    features = _features(policy, seen, others)
    listed = sorted(sorted(features, key=_trouble)[:MAX_FEATURES], key=lambda feature: feature.index)
    counts = _counts(policy, seen, lambda done: progress(done, total) if progress else None)
    float_counts: dict[str, NDArray[np.int64]] = {}
    if others is not None:
        before = len(seen)
        float_counts = _counts(
            policy, others, lambda done: progress(before + done, total) if progress else None
        )
    return Coverage(
        features=tuple(listed),
        layers=tuple(
            _layer(policy.network, layer, counts[layer.output], float_counts)
            for layer in policy.network.layers
            if layer.output in counts
        ),
        num_states=len(seen),
        num_features=len(features),
        num_saturated=sum(feature.saturated > 0.0 for feature in features),
        num_coarse=sum(feature.is_coarse for feature in features),
    )


def at_ends(network: IntegerNetwork, name: str, counts: NDArray[np.int64]) -> float:
    """Return the share of a tensor's values that were clipped, `counts` saying how often each occurs.

    That is as far as an end has more than what lies beside it, where clipping changes anything.
    """
    tensor = network.tensors[name]
    lowest, highest = tensor.range
    writers = {layer.operator for layer in network.layers if layer.output == name}
    if writers & set(_FIXED_RANGE) or _is_free_to_clip(network, name):
        return 0.0
    # Where the zero point is an end, that end is a true 0 (the floor of a RELU), not a clipped value.
    clipped = _pile(counts) if tensor.zero_point != lowest else 0
    clipped += _pile(counts[::-1]) if tensor.zero_point != highest else 0
    return clipped / int(counts.sum())


def _is_free_to_clip(network: IntegerNetwork, name: str) -> bool:
    """Tell whether tanh or the logistic function alone reads a tensor.

    What `quantize/ranges.py` cuts off it becomes the function's last integer in any case.
    """
    readers = {layer.operator for layer in network.layers if name in layer.inputs}
    return bool(readers) and readers <= {"TANH", "LOGISTIC"} and name not in network.outputs


def _thinned(policy: IntegerPolicy, observations: NDArray[np.float32]) -> NDArray[np.float32]:
    most = int(np.clip(_MAX_ELEMENTS // policy.observation.part.size, _BATCH, _MAX_STATES))
    rows = np.unique(np.linspace(0, len(observations) - 1, most).round().astype(np.int64))
    return np.asarray(observations[rows], np.float32)


def _features(
    policy: IntegerPolicy, observations: NDArray[np.float32], others: NDArray[np.float32] | None
) -> list[FeatureCoverage]:
    edge = policy.observation
    lowest, highest = _ranges(edge)
    values = observations.reshape(len(observations), -1)
    quantized, _ = quantize_observations(edge, observations)
    saturated = _saturated(edge, observations)
    in_float = None if others is None else _saturated(edge, others)
    least, greatest = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
    levels = _count_distinct(quantized.reshape(values.shape))
    is_coarse = (levels < FEW_LEVELS) & (len(values) >= ENOUGH_STATES)
    # A flag of two values needs two levels and no more: what counts is that values are merged.
    for index in np.flatnonzero(is_coarse):
        is_coarse[index] = len(np.unique(values[:, index])) > 4 * levels[index]
    return [
        FeatureCoverage(
            index=index,
            minimum=float(least[index]),
            maximum=float(greatest[index]),
            range=(float(lowest[index]), float(highest[index])),
            saturated=float(saturated[index]),
            float_saturated=None if in_float is None else float(in_float[index]),
            levels=int(levels[index]),
            range_used=float((greatest[index] - least[index]) / (highest[index] - lowest[index])),
            is_coarse=bool(is_coarse[index]),
        )
        for index in range(values.shape[1])
    ]


def _ranges(edge: ObservationEdge) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the greatest raw value of each element that is not clamped to the integers."""
    ends = [edge.scale * (end - edge.zero_point) for end in limits(edge.dtype)]
    gain, offset, *_ = (np.resize(row, edge.part.size) for row in edge.part.columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [np.where(gain == 0, np.copysign(_FAR, end), (end - offset) / gain) for end in ends]
    return np.minimum(*found), np.maximum(*found)


def _saturated(edge: ObservationEdge, observations: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return in which share of the states each element is clamped."""
    cut = saturated_inputs(edge, observations).reshape(len(observations), -1)
    return np.asarray(cut.mean(axis=0), np.float64)


def _count_distinct(values: NDArray[Any]) -> NDArray[np.int64]:
    """Count the different values in each column."""
    ordered = np.sort(values, axis=0)
    return np.asarray(1 + (ordered[1:] != ordered[:-1]).sum(axis=0), np.int64)


def _trouble(feature: FeatureCoverage) -> tuple[float, bool, int]:
    """Order features: those that saturate most first, then those that get too few levels."""
    return -feature.saturated, not feature.is_coarse, feature.levels


def _counts(
    policy: IntegerPolicy, observations: NDArray[np.float32], progress: Callable[[int], None]
) -> dict[str, NDArray[np.int64]]:
    """Count each quantized value of the outputs of layers that compute, by tensor name."""
    network = policy.network
    looked_at = [layer.output for layer in network.layers if not isinstance(layer, Move | Reshape)]
    tensors = {name: network.tensors[name] for name in looked_at}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.dtype in ("int8", "int16")}
    counts = {
        name: np.zeros(tensor.range[1] - tensor.range[0] + 1, np.int64) for name, tensor in tensors.items()
    }
    source = network.tensors[network.inputs[0]]
    reference = Reference(network)
    for first in range(0, len(observations), _BATCH):
        batch, _ = quantize_observations(policy.observation, observations[first : first + _BATCH])
        values = reference.run_all({source.name: batch.reshape(len(batch), *source.shape)})
        for name, tensor in tensors.items():
            above = values[name].astype(np.int64).ravel() - tensor.range[0]
            counts[name] += np.bincount(above, minlength=len(counts[name]))
        progress(first + len(batch))
    return counts


def _layer(
    network: IntegerNetwork,
    layer: Layer,
    counts: NDArray[np.int64],
    float_counts: Mapping[str, NDArray[np.int64]],
) -> LayerCoverage:
    occurring = np.flatnonzero(counts)
    in_float = float_counts.get(layer.output)
    return LayerCoverage(
        name=layer.name,
        operator=layer.operator,
        saturated=at_ends(network, layer.output, counts),
        float_saturated=None if in_float is None else at_ends(network, layer.output, in_float),
        levels=len(occurring),
        range_used=float(occurring[-1] - occurring[0]) / (len(counts) - 1),
    )


def _pile(counts: NDArray[np.int64]) -> int:
    """Return by how much the first count exceeds those beside it: clipped values pile up at an end."""
    return max(int(counts[0] - counts[1 : 1 + _NEIGHBOURS].max()), 0)
