"""Integer outputs of several backends, compared element by element."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends import NETWORK_BACKENDS, open_network
from edgeqrl.backends.network_policy import close_network
from edgeqrl.errors import EdgeQRLError, UsageError, require_name
from edgeqrl.interfaces import Network
from edgeqrl.network.first_difference import FirstDifference, find_first_difference, samples_to_search
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.read_tflite import read_tflite

Arrays = Mapping[str, NDArray[Any]]  # [N, *shape] by tensor name


@dataclass(frozen=True)
class Difference:
    """One backend against the first."""

    differing: int  # outputs, elements counted
    max_difference: int  # in quantized units
    first_difference: FirstDifference | None = None  # None where all is equal, or `not_located` says why
    not_located: str | None = None


@dataclass(frozen=True)
class ComparisonReport:
    """What `compare` found."""

    samples: int
    outputs: int  # elements compared for each backend
    measure: str  # the backend that the others are compared with
    backends: dict[str, Difference]

    @property
    def is_equal(self) -> bool:
        """Tell whether all backends gave the same integers."""
        return all(found.differing == 0 for found in self.backends.values())

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "samples": self.samples,
            "outputs": self.outputs,
            "measure": self.measure,
            "backends": {name: _to_json(found) for name, found in self.backends.items()},
        }


def compare(tflite: bytes, backends: Sequence[str], *, samples: int, seed: int) -> ComparisonReport:
    """Run the same inputs on every backend; the first is the measure.

    Where one differs, the network is opened again on both to find the first layer that does.
    """
    for name in backends:
        require_name("backend", name, NETWORK_BACKENDS)
    if len(set(backends)) < 2 or len(set(backends)) != len(backends):
        raise UsageError("Comparing takes two or more different backends, as in: reference,tflm.")
    if samples < 1:
        raise UsageError(f"Comparing takes at least one sample, got {samples}.")
    if seed < 0:
        raise UsageError(f"The seed must be at least 0, got {seed}.")
    network = read_tflite(tflite)
    inputs = mixed_inputs(network, samples, seed)
    measure, *others = backends
    with ExitStack() as stack:
        opened: dict[str, Network] = {}
        for name in backends:
            opened[name] = open_network(name, tflite)
            stack.callback(close_network, opened[name])
        outputs = {name: each.run(inputs) for name, each in opened.items()}
    found = {name: _difference(outputs[measure], outputs[name]) for name in others}
    for name, difference in found.items():
        if difference.differing:
            differing = _differing_samples(outputs[measure], outputs[name])
            found[name] = _located(difference, tflite, network, inputs, differing, measure, name)
    return ComparisonReport(samples, sum(v.size for v in outputs[measure].values()), measure, found)


def mixed_inputs(network: IntegerNetwork, samples: int, seed: int) -> dict[str, NDArray[Any]]:
    """Draw inputs [samples, *shape]: of four, two uniform, one of extremes, one of extremes and zeros."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for name in network.inputs:
        tensor = network.tensors[name]
        dtype, (lowest, highest) = np.dtype(tensor.dtype), tensor.range
        values = rng.integers(lowest, highest, (samples, *tensor.shape), dtype, endpoint=True)
        values[2::4] = rng.choice(np.array([lowest, highest], dtype), values[2::4].shape)
        corners = np.array([lowest, tensor.zero_point, highest], dtype)
        values[3::4] = rng.choice(corners, values[3::4].shape)
        drawn[name] = values
    return drawn


def _difference(expected: Arrays, found: Arrays) -> Difference:
    apart = [np.abs(expected[name].astype(np.int64) - found[name].astype(np.int64)) for name in expected]
    return Difference(
        differing=sum(int(np.count_nonzero(values)) for values in apart),
        max_difference=max((int(values.max(initial=0)) for values in apart), default=0),
    )


def _differing_samples(expected: Arrays, found: Arrays) -> NDArray[np.bool_]:
    unequal = [
        (values != found[name]).reshape(len(values), -1).any(axis=1) for name, values in expected.items()
    ]
    return np.asarray(np.any(unequal, axis=0))


def _located(
    difference: Difference,
    tflite: bytes,
    network: IntegerNetwork,
    inputs: Arrays,
    differing: NDArray[np.bool_],
    measure: str,
    backend: str,
) -> Difference:
    """Add the first layer that differs; the comparison itself stands where the search for it fails."""
    rows = samples_to_search(network, differing)
    some = {name: values[rows] for name, values in inputs.items()}
    try:
        first = find_first_difference(tflite, network, some, measure, backend)
    except EdgeQRLError as error:
        return replace(difference, not_located=str(error))
    if first is None:
        return replace(difference, not_located="The difference was gone when the layers were looked at.")
    return replace(difference, first_difference=replace(first, sample=int(rows[first.sample])))


def _to_json(found: Difference) -> dict[str, Any]:
    values = asdict(found)
    if found.first_difference is not None:
        values["first_difference"]["index"] = list(found.first_difference.index)
    return values
