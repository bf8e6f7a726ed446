"""Which layer is the first to differ on two backends: the network is opened again with other outputs.

Every backend takes a `.tflite`, so a copy of it that gives out what happens inside opens on all of them
alike: interpreters run it, and the C backends export and build the network up to there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends import open_network
from edgeqrl.backends.network_policy import close_network
from edgeqrl.errors import EdgeQRLError
from edgeqrl.interfaces import Network
from edgeqrl.network.ir import IntegerNetwork, Layer
from edgeqrl.network.read_tflite import parse_tflite
from edgeqrl.network.tflite_edit import with_outputs
from edgeqrl.network.tflite_model import with_unique_names

Arrays = dict[str, NDArray[Any]]

_MAX_BYTES = 2**28  # of activations held for each backend: beyond, fewer samples are looked at


@dataclass(frozen=True)
class FirstDifference:
    """Where two backends part, layers in order of execution."""

    layer: str
    operator: str
    tensor: str  # that the layer writes
    elements: int  # of it that differ, in all samples
    sample: int  # the first in which one differs
    index: tuple[int, ...]  # of the first that does, without the samples' axis
    expected: int  # there, on the backend that is the measure
    found: int


def open_prefix(name: str, tflite: bytes, network: IntegerNetwork, tensors: Sequence[str]) -> Network:
    """Open a network on a backend as far as these tensors, which become its outputs.

    `network` is what `tflite` was lowered to. Raises KeyError for a tensor that the file does not have.
    """
    index_of = _index_of(tflite)
    keep = [index_of[tensor] for tensor in network.inputs]
    return open_network(name, with_outputs(tflite, [index_of[tensor] for tensor in tensors], keep=keep))


def find_first_difference(
    tflite: bytes, network: IntegerNetwork, inputs: Mapping[str, NDArray[Any]], measure: str, backend: str
) -> FirstDifference | None:
    """Return where two backends part that are known to give different outputs for `inputs`.

    All layers are looked at in one go. Where a backend cannot do that, or no longer differs because memory
    is laid out otherwise then, the layers are bisected by what those behind a point read of those before
    it: the layer that is found had equal inputs. Returns None where the difference is not there again.
    """
    sides = _Sides(tflite, network, inputs, measure, backend)
    written = _index_of(tflite)
    steps = [layer for layer in network.layers if layer.output in written]
    try:
        found = sides.first(steps, at_once=True)
    except EdgeQRLError:
        found = None
    if found is not None or not steps:
        return found
    low, high = -1, len(steps) - 1  # known to be equal behind the one, and not behind the other
    while high - low > 1:
        middle = (low + high) // 2
        if sides.first(_frontier(network, steps, middle)) is None:
            low = middle
        else:
            high = middle
    return sides.first(_frontier(network, steps, high))


def samples_to_search(network: IntegerNetwork, differing: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return which samples to look at, ascending, given which differ: all, or as many as memory is for."""
    sizes = [network.tensors[name].num_bytes for name in (*network.inputs, *network.outputs)]
    sizes += [network.tensors[layer.output].num_bytes for layer in network.layers]
    count = max(_MAX_BYTES // max(sum(sizes), 1), 1)
    if count >= len(differing):
        return np.arange(len(differing))
    return np.flatnonzero(differing)[:count]


@dataclass
class _Sides:
    """The two backends; what they gave is kept, as opening one can take seconds."""

    tflite: bytes
    network: IntegerNetwork
    inputs: Mapping[str, NDArray[Any]]
    measure: str
    backend: str
    seen: dict[tuple[str, tuple[str, ...]], Arrays] = field(default_factory=dict)

    def first(self, layers: Sequence[Layer], *, at_once: bool = False) -> FirstDifference | None:
        """Return the first of the layers whose output differs; `at_once` gives up where that is too much."""
        tensors = tuple(layer.output for layer in layers)
        run = self._run if at_once else self._run_in_parts
        expected, found = (run(name, tensors) for name in (self.measure, self.backend))
        for layer in layers:
            difference = _difference(layer, expected[layer.output], found[layer.output])
            if difference is not None:
                return difference
        return None

    def _run_in_parts(self, name: str, tensors: tuple[str, ...]) -> Arrays:
        try:
            return self._run(name, tensors)
        except EdgeQRLError:
            if len(tensors) == 1:
                raise
        return {tensor: self._run(name, (tensor,))[tensor] for tensor in tensors}

    def _run(self, name: str, tensors: tuple[str, ...]) -> Arrays:
        if (name, tensors) not in self.seen:
            prefix = open_prefix(name, self.tflite, self.network, tensors)
            try:
                self.seen[name, tensors] = prefix.run(self.inputs)
            finally:
                close_network(prefix)
        return self.seen[name, tensors]


def _frontier(network: IntegerNetwork, steps: Sequence[Layer], last: int) -> list[Layer]:
    """Return the layers up to `last` whose outputs are read behind it, or are the network's."""
    rest = network.layers[network.layers.index(steps[last]) + 1 :]
    read = {name for layer in rest for name in layer.inputs} | set(network.outputs)
    return [layer for layer in steps[: last + 1] if layer.output in read or layer is steps[last]]


def _difference(layer: Layer, expected: NDArray[Any], found: NDArray[Any]) -> FirstDifference | None:
    places = np.argwhere(expected != found)
    if len(places) == 0:
        return None
    sample, *index = (int(i) for i in places[0])
    return FirstDifference(
        layer=layer.name,
        operator=layer.operator,
        tensor=layer.output,
        elements=len(places),
        sample=sample,
        index=tuple(index),
        expected=int(expected[tuple(places[0])]),
        found=int(found[tuple(places[0])]),
    )


def _index_of(tflite: bytes) -> dict[str, int]:
    return {tensor.name: i for i, tensor in enumerate(with_unique_names(parse_tflite(tflite)).tensors)}
