"""Integer outputs of several backends, compared element by element."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends import NETWORK_BACKENDS, open_network
from edgeqrl.backends.network_policy import close_network
from edgeqrl.errors import (
    BackendsDiffer,
    DeviceError,
    EdgeQRLError,
    MissingToolError,
    UsageError,
    require_name,
)
from edgeqrl.interfaces import Network
from edgeqrl.network.first_difference import FirstDifference, find_first_difference, samples_to_search
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.read_tflite import read_tflite

Arrays = Mapping[str, NDArray[Any]]  # [N, *shape] by tensor name
Progress = Callable[[str, int, int], None]  # stage, done, total

_MAX_BYTES = 2**28  # of tensors that the samples of a block would have, all at once
_MAX_ROWS = 2**16  # of a block
_PART_ROWS = 100


@dataclass(frozen=True)
class Difference:
    """One backend against the first."""

    differing: int | None  # outputs, elements counted; None where it cannot run the network
    max_difference: int | None  # in quantized units
    first_difference: FirstDifference | None = None  # None where all is equal, or `not_located` says why
    not_located: str | None = None
    error: str | None = None  # why it cannot run the network, in a sentence


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

    @property
    def exit_code(self) -> int:
        """Return what the command ends with: a difference weighs more than a backend that fails."""
        if any(found.differing for found in self.backends.values()):
            return BackendsDiffer.exit_code
        return 0 if self.is_equal else DeviceError.exit_code

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "samples": self.samples,
            "outputs": self.outputs,
            "measure": self.measure,
            "backends": {name: _to_json(found) for name, found in self.backends.items()},
        }


def compare(
    tflite: bytes,
    backends: Sequence[str],
    *,
    samples: int,
    seed: int,
    progress: Progress = lambda *_: None,
) -> ComparisonReport:
    """Run the same inputs on every backend; the first is the measure.

    Where one differs, the network is opened again on both to find the first layer that does. A backend that
    cannot run the network is reported with its reason; raises it where that is the measure, and
    MissingToolError for each.
    """
    _require_usage(backends, samples, seed)
    network = read_tflite(tflite)
    if not network.inputs:
        raise UsageError("The network has no input to draw: what it gives out is constant.")
    measure = backends[0]
    with ExitStack() as stack:
        race = _Race(measure)
        for name in backends:
            with race.excusing(name):
                race.running[name] = open_network(name, tflite)
                stack.callback(close_network, race.running[name])
        done = 0
        for inputs in _blocks(network, samples, seed):
            for part in _parts(inputs):
                race.run(part)
                done += len(next(iter(part.values())))
                progress("compare", done, samples)
            race.end_block(inputs)
    found = {name: _found(race.tallies[name], tflite, network, measure, name) for name in backends[1:]}
    return ComparisonReport(samples, race.outputs, measure, found)


def mixed_inputs(network: IntegerNetwork, samples: int, seed: int | Sequence[int]) -> dict[str, NDArray[Any]]:
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


@dataclass
class _Tally:
    """What one backend was seen to do."""

    differing: int = 0
    max_difference: int = 0
    error: str | None = None
    masks: list[NDArray[np.bool_]] = field(default_factory=list)  # which samples differ, in this block
    first: tuple[int, Arrays, NDArray[np.bool_]] | None = (
        None  # the first block that does: start, inputs, mask
    )

    def add(self, expected: Arrays, found: Arrays) -> None:
        """Count what differs in some samples."""
        unequal = []
        for name, values in expected.items():
            apart = np.abs(values.astype(np.int64) - found[name].astype(np.int64))
            self.differing += int(np.count_nonzero(apart))
            self.max_difference = max(self.max_difference, int(apart.max(initial=0)))
            unequal.append(apart.reshape(len(apart), -1).any(axis=1))
        self.masks.append(np.asarray(np.any(unequal, axis=0)))


class _Race:
    """The backends that still run, and what each was seen to do."""

    def __init__(self, measure: str) -> None:
        self.running: dict[str, Network] = {}
        self.tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
        self.outputs = 0  # elements that the measure gave
        self._measure = measure
        self._start = 0  # the first sample of this block

    @contextmanager
    def excusing(self, name: str) -> Iterator[None]:
        """Note why a backend fails, and go on without it, unless there is none to go on with."""
        try:
            yield
        except MissingToolError:
            raise
        except EdgeQRLError as error:
            if name == self._measure:
                raise
            self.tallies[name].error = str(error)
            self.running.pop(name, None)

    def run(self, inputs: Arrays) -> None:
        """Run some samples on all of them."""
        expected = self.running[self._measure].run(inputs)
        self.outputs += sum(values.size for values in expected.values())
        for name, network in list(self.running.items()):
            if name != self._measure:
                with self.excusing(name):
                    self.tallies[name].add(expected, network.run(inputs))

    def end_block(self, inputs: Arrays) -> None:
        """Keep the inputs for those that were seen to differ first on them."""
        for tally in self.tallies.values():
            if tally.masks:
                mask = np.concatenate(tally.masks)
                if tally.first is None and mask.any():
                    tally.first = (self._start, inputs, mask)
                tally.masks.clear()
        self._start += len(next(iter(inputs.values())))


def _require_usage(backends: Sequence[str], samples: int, seed: int) -> None:
    for name in backends:
        require_name("backend", name, NETWORK_BACKENDS)
    if len(set(backends)) < 2 or len(set(backends)) != len(backends):
        raise UsageError("Comparing takes two or more different backends, as in: reference,tflm.")
    if samples < 1:
        raise UsageError(f"Comparing takes at least one sample, got {samples}.")
    if seed < 0:
        raise UsageError(f"The seed must be at least 0, got {seed}.")


def _blocks(network: IntegerNetwork, samples: int, seed: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Draw the inputs, as many at a time as memory is for; those of the first block hang on no other."""
    used = sum(tensor.num_bytes for tensor in network.tensors.values())
    size = max(min(_MAX_BYTES // max(used, 1), _MAX_ROWS) // 4 * 4, 4)  # inputs are mixed by fours
    for number, start in enumerate(range(0, samples, size)):
        entropy = seed if number == 0 else (seed, number)
        yield mixed_inputs(network, min(size, samples - start), entropy)


def _parts(inputs: Arrays) -> Iterator[Arrays]:
    """Cut inputs into what is run between two reports of progress."""
    for start in range(0, len(next(iter(inputs.values()))), _PART_ROWS):
        yield {name: values[start : start + _PART_ROWS] for name, values in inputs.items()}


def _found(tally: _Tally, tflite: bytes, network: IntegerNetwork, measure: str, backend: str) -> Difference:
    """Return what is known of a backend; the comparison stands where the search for a layer fails."""
    if tally.error is not None:
        return Difference(None, None, error=tally.error)
    difference = Difference(tally.differing, tally.max_difference)
    if tally.first is None:
        return difference
    start, inputs, mask = tally.first
    rows = samples_to_search(network, mask)
    some = {name: values[rows] for name, values in inputs.items()}
    try:
        first = find_first_difference(tflite, network, some, measure, backend)
    except EdgeQRLError as error:
        return replace(difference, not_located=str(error))
    if first is None:
        return replace(difference, not_located="The difference was gone when the layers were looked at.")
    return replace(difference, first_difference=replace(first, sample=start + int(rows[first.sample])))


def _to_json(found: Difference) -> dict[str, Any]:
    values = asdict(found)
    if found.first_difference is not None:
        values["first_difference"]["index"] = list(found.first_difference.index)
    return values
