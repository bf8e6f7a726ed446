"""The witnesses, each in one process for a whole test session, loading one network after another.

cases = [(tflite, [inputs]) for ...]         # thousands of small networks are cheap: one round trip
assert require_equal("tflm", cases) >= 10**6 # our reference, bit for bit; the number of outputs
"""

import os
import pickle
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.backends.worker import Worker
from edgeqrl.errors import DeviceError, MissingToolError
from edgeqrl.network.flatbuffer import root_table
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference

Case = tuple[bytes, Sequence[NDArray[Any]]]  # a .tflite, and its inputs [N, *shape] by position
Answer = list[NDArray[Any]] | str  # outputs [N, *shape] by position, or why there are none

_CASES_AT_ONCE = 2000
_workers: dict[str, Worker] = {}


def answers(runtime: str, tflite: bytes, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
    """Return every output [N, *shape] of a file for inputs [N, *shape], by position, reference kernels."""
    (result,) = many_answers(runtime, [(tflite, inputs)])
    if isinstance(result, str):
        raise DeviceError(f"{runtime} cannot run the network: {result}")
    return result


def many_answers(runtime: str, cases: Sequence[Case], *, is_reference: bool = True) -> list[Answer]:
    """Return what `answers` would for each case; a network that the runtime cannot run gives its message.

    is_reference  False for the optimized kernels, which are more
    """
    results: list[Answer] = []
    options = {"runtime": runtime, "is_reference": is_reference}
    for start in range(0, len(cases), _CASES_AT_ONCE):
        some = [
            (tflite, _num_outputs(tflite), list(inputs))
            for tflite, inputs in cases[start : start + _CASES_AT_ONCE]
        ]
        packed = np.frombuffer(pickle.dumps(some), np.uint8)
        try:
            _, reply = _worker(runtime).call("many", options, {"cases": packed})
        except MissingToolError as missing:
            skip_unless_ci(runtime, missing)
        results += pickle.loads(reply["answers"].tobytes())
    return results


def require_equal(runtime: str, cases: Sequence[Case]) -> int:
    """Assert that our reference equals the witness on every case; return the number of outputs compared."""
    count = 0
    for i, ((tflite, inputs), theirs) in enumerate(zip(cases, many_answers(runtime, cases), strict=True)):
        network = read_tflite(tflite)
        assert not isinstance(theirs, str), f"case {i}: {runtime} says {theirs}; {network.layers}"
        given = [
            values.reshape(-1, *network.tensors[name].shape)
            for name, values in zip(network.inputs, inputs, strict=True)
        ]
        ours = Reference(network).run(dict(zip(network.inputs, given, strict=True)))
        for name, expected in zip(network.outputs, theirs, strict=True):
            assert ours[name].dtype == expected.dtype, f"case {i}: {name} is {expected.dtype}"
            expected = expected.reshape(ours[name].shape)
            if not np.array_equal(ours[name], expected):  # the message takes longer than most cases
                message = f"case {i}, {name}, {runtime}; {network.layers}"
                np.testing.assert_array_equal(ours[name], expected, err_msg=message)
            count += expected.size
    return count


def skip_unless_ci(runtime: str, missing: MissingToolError) -> None:
    """Skip where a runtime is not installed; in CI only where none exists for this Python."""
    has_wheel = runtime != "tflite-runtime" or sys.version_info < (3, 12)
    if os.environ.get("CI") == "true" and has_wheel:
        raise missing
    pytest.skip(str(missing))


def require_module(name: str) -> None:
    """Skip where a library is not installed, but never in CI."""
    if find_spec(name) is None:
        skip_unless_ci(name, MissingToolError(f"{name} is not installed; run: pip install {name}"))


def all_int8(shape: Sequence[int] = ()) -> NDArray[np.int8]:
    """Return one sample [1, *shape, 256] that holds every int8 value in its last axis."""
    values = np.arange(-128, 128, dtype=np.int64).astype(np.int8)
    return np.broadcast_to(values, (1, *shape, 256)).copy()


def all_int16() -> NDArray[np.int16]:
    """Return one sample [1, 65536] that holds every int16 value."""
    return np.arange(-(2**15), 2**15, dtype=np.int64).astype(np.int16)[None]


def _num_outputs(tflite: bytes) -> int:
    """Count the outputs of the first graph; `parse_tflite` reads all else, too."""
    (graph, *_) = root_table(tflite, b"TFL3").tables(2, 1000)
    return len(graph.array(2, np.int32))


def _worker(runtime: str) -> Worker:
    if runtime not in _workers or _workers[runtime].is_closed:
        _workers[runtime] = Worker("tests.oracle_worker", name=runtime)
    return _workers[runtime]
