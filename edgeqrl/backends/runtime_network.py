"""A network on a third-party interpreter in its worker process; the backends of this kind share it."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends.worker import Worker
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.read_tflite import read_with_edges
from edgeqrl.network.reference import require_inputs


class Interpreter:
    """An interpreter with a `.tflite` loaded: arrays [N, *shape] in, arrays out, by position."""

    def __init__(self, runtime: str, tflite: bytes, *, is_reference: bool, num_outputs: int) -> None:
        """Start it; `runtime` is litert, tflite-runtime or tflm."""
        self._worker = Worker(
            "edgeqrl.backends.runtime_worker",
            name=runtime,
            cure="The network may use something that this runtime cannot run.",
        )
        options = {"runtime": runtime, "is_reference": is_reference, "num_outputs": num_outputs}
        try:
            self._worker.call("open", options, {"model": np.frombuffer(tflite, np.uint8)})
        except BaseException:
            self._worker.close()
            raise

    def run(self, inputs: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run at least one sample."""
        _, outputs = self._worker.call("run", {}, {str(i): values for i, values in enumerate(inputs)})
        return list(outputs.values())

    def close(self) -> None:
        """End the process."""
        self._worker.close()


class RuntimeNetwork:
    """A Network on an interpreter. The file goes through our own parser first."""

    def __init__(self, name: str, runtime: str, tflite: bytes, *, is_reference: bool = True) -> None:
        """Load the file; raises DataError or UnsupportedOperatorError as `read_tflite` does.

        is_reference   take the reference kernels, where the runtime has a choice
        """
        self.name = name
        read = read_with_edges(tflite)
        self.network: IntegerNetwork = read.network
        self._inputs, self._outputs = read.inputs, read.outputs
        self._interpreter = Interpreter(
            runtime, tflite, is_reference=is_reference, num_outputs=len(self._outputs)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return every network output [N, *shape] for inputs [N, *shape], both integers.

        A file with float32 or uint8 at its edges gets what it converts to exactly these inputs.
        """
        tensors = {name: self.network.tensors[name] for name in self.network.outputs}
        arrays = require_inputs(self.network, inputs)
        count = len(next(iter(arrays.values())))
        if count == 0:
            return {name: np.zeros((0, *tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        outputs = self._interpreter.run([edge.to_file(arrays[edge.tensor]) for edge in self._inputs])
        results = {}
        for edge, values in zip(self._outputs, outputs, strict=True):
            tensor = tensors[edge.tensor]
            results[edge.tensor] = edge.from_file(values, tensor.dtype).reshape(count, *tensor.shape)
        return results

    def close(self) -> None:
        """End the runtime's process."""
        self._interpreter.close()
