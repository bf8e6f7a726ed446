"""The TFLite converter, reached through one warm worker process."""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.tensorflow_runtime import QUIET_ENVIRONMENT
from edgeqrl.backends.worker import Worker
from edgeqrl.errors import ConverterError
from edgeqrl.quantize.frozen import FrozenGraph

_WORKER = "edgeqrl.quantize.worker"
_CURE = "The network may use a layer that TensorFlow Lite cannot convert: build it from Dense layers."


class Converter:
    """Float graphs in, `.tflite` files out.

    Made early, it imports TensorFlow in its own process while the caller imports it in this one:

        with Converter() as converter:
            agent = load_agent(...)
            int8, float32 = converter.convert(freeze(agent), observations)
    """

    def __init__(self) -> None:
        """Start the process and return at once."""
        self._worker = Worker(
            _WORKER, name="converter", cure=_CURE, environment=QUIET_ENVIRONMENT, death=ConverterError
        )
        self._is_warm = False
        self._worker.send("warm")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, at once if it is converting."""
        self._worker.close()

    def convert(self, graph: FrozenGraph, observations: NDArray[np.float32]) -> tuple[bytes, bytes]:
        """Return the network as int8 and as float32 `.tflite`.

        observations  [N, *observation_shape], N >= 1, the representative dataset

        Int8 means: int8 in and out, per-channel int8 weights, one observation a call. Operators
        without an integer form stay float and are found by `network.read_tflite`.
        """
        if len(observations) == 0:
            raise ConverterError("Quantization needs at least one observation. Calibrate first.")
        if not self._is_warm and not self._worker.is_closed:
            self._worker.receive()
            self._is_warm = True
        _, arrays = self._worker.call(
            "convert",
            {"input_name": graph.input_name, "output_name": graph.output_name},
            {
                "graph_def": np.frombuffer(graph.graph_def.SerializeToString(deterministic=True), np.uint8),
                "observations": np.ascontiguousarray(observations, np.float32),
            },
        )
        return arrays["int8"].tobytes(), arrays["float32"].tobytes()
