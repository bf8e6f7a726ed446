"""The two witnesses, each in one process for a whole test session, loading one network after another."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.backends.worker import Worker
from edgeqrl.errors import MissingToolError
from edgeqrl.network.tflite_model import parse_tflite

_workers: dict[str, Worker] = {}


def answers(runtime: str, tflite: bytes, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
    """Return every output [N, *shape] of a file for inputs [N, *shape], by position, reference kernels."""
    worker = _workers.get(runtime)
    if worker is None or worker.is_closed:
        worker = _workers[runtime] = Worker("edgeqrl.backends.runtime_worker", name=runtime)
    num_outputs = len(parse_tflite(tflite).outputs)
    options = {"runtime": runtime, "is_reference": True, "num_outputs": num_outputs}
    try:
        worker.call("open", options, {"model": np.frombuffer(tflite, np.uint8)})
    except MissingToolError as missing:
        skip_unless_ci(runtime, missing)
    _, outputs = worker.call("run", {}, {str(i): values for i, values in enumerate(inputs)})
    return list(outputs.values())


def skip_unless_ci(runtime: str, missing: MissingToolError) -> None:
    """Skip where a runtime is not installed; in CI only where none exists for this Python."""
    has_wheel = runtime != "tflite-runtime" or sys.version_info < (3, 12)
    if os.environ.get("CI") == "true" and has_wheel:
        raise missing
    pytest.skip(str(missing))


def all_int8(shape: Sequence[int] = ()) -> NDArray[np.int8]:
    """Return one sample [1, *shape, 256] that holds every int8 value in its last axis."""
    values = np.arange(-128, 128, dtype=np.int64).astype(np.int8)
    return np.broadcast_to(values, (1, *shape, 256)).copy()
