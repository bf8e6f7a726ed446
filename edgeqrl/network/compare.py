"""Integer outputs of several backends, compared element by element."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends import NETWORK_BACKENDS, open_network
from edgeqrl.backends.network_policy import close_network
from edgeqrl.errors import UsageError, require_name
from edgeqrl.interfaces import Network
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.read_tflite import read_tflite


@dataclass(frozen=True)
class Difference:
    """One backend against the first."""

    differing: int  # outputs, elements counted
    max_difference: int  # in quantized units


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
            "backends": {name: vars(found) for name, found in self.backends.items()},
        }


def compare(tflite: bytes, backends: Sequence[str], *, samples: int, seed: int) -> ComparisonReport:
    """Run the same inputs on every backend; the first is the measure."""
    for name in backends:
        require_name("backend", name, NETWORK_BACKENDS)
    if len(set(backends)) < 2 or len(set(backends)) != len(backends):
        raise UsageError("Comparing takes two or more different backends, as in: reference,tflm.")
    if samples < 1:
        raise UsageError(f"Comparing takes at least one sample, got {samples}.")
    if seed < 0:
        raise UsageError(f"The seed must be at least 0, got {seed}.")
    inputs = mixed_inputs(read_tflite(tflite), samples, seed)
    with ExitStack() as stack:
        networks: list[Network] = []
        for name in backends:
            networks.append(open_network(name, tflite))
            stack.callback(close_network, networks[-1])
        expected, *others = (_flat(network.run(inputs)) for network in networks)
    return ComparisonReport(
        samples=samples,
        outputs=expected.size,
        measure=backends[0],
        backends={
            name: _difference(expected, values) for name, values in zip(backends[1:], others, strict=True)
        },
    )


def mixed_inputs(network: IntegerNetwork, samples: int, seed: int) -> dict[str, NDArray[np.int8]]:
    """Draw inputs [samples, *shape]: of four, two uniform, one of extremes, one of extremes and zeros."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for name in network.inputs:
        tensor = network.tensors[name]
        values = rng.integers(-128, 128, (samples, *tensor.shape), np.int8)
        values[2::4] = rng.choice(np.array([-128, 127], np.int8), values[2::4].shape)
        corners = np.array([-128, tensor.zero_point, 127], np.int8)
        values[3::4] = rng.choice(corners, values[3::4].shape)
        drawn[name] = values
    return drawn


def _flat(outputs: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
    return np.concatenate([outputs[name].ravel().astype(np.int64) for name in sorted(outputs)])


def _difference(expected: NDArray[np.int64], values: NDArray[np.int64]) -> Difference:
    apart = np.abs(expected - values)
    return Difference(int(np.count_nonzero(apart)), int(apart.max(initial=0)))
