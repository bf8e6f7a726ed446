"""The TFLite converter, reached through one warm worker process."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.tensorflow_runtime import QUIET_ENVIRONMENT
from edgeqrl.backends.worker import Worker
from edgeqrl.errors import ConverterError
from edgeqrl.quantize.frozen import FrozenGraph

_WORKER = "edgeqrl.quantize.worker"
_CURE = "The network may use a layer that TensorFlow Lite cannot convert: build it from Dense layers."

Samples = Mapping[str, NDArray[Any]] | NDArray[Any]


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

    @property
    def is_closed(self) -> bool:
        """Tell whether the process has ended, closed or crashed."""
        return self._worker.is_closed

    def close(self) -> None:
        """End the process, at once if it is converting."""
        self._worker.close()

    def convert(
        self,
        graph: FrozenGraph,
        samples: Samples,
        *,
        activations: str = "int8",
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> tuple[bytes, bytes]:
        """Return the network as integer and as float32 `.tflite`, inputs and outputs in the graph's order.

        samples      the representative dataset, N >= 1: [N, *shape] by input name; bare for a lone input
        activations  "int8", or "int16" for activations, inputs, outputs and states of 16 bits
        ranges       (low, high) that an input's scale must cover, whatever its samples are

        Integer means: per-channel int8 weights, one observation a call; a state and what is fed back to it
        have one scale and zero point, or ConverterError is raised. Operators without an integer form stay
        float and are found by `network.read_tflite`.
        """
        arrays = _by_position(graph, samples)
        if len(arrays[0]) == 0:
            raise ConverterError("Quantization needs at least one observation. Calibrate first.")
        if not self._is_warm and not self._worker.is_closed:
            self._worker.receive()
            self._is_warm = True
        positions = {name: at for at, name in enumerate(graph.inputs)}
        _, converted = self._worker.call(
            "convert",
            {
                "inputs": list(graph.input_names),
                "outputs": list(graph.output_names),
                "num_states": graph.num_states,
                "ranges": {str(positions[name]): list(pair) for name, pair in (ranges or {}).items()},
                "activations": activations,
            },
            {
                "graph_def": np.frombuffer(graph.graph_def.SerializeToString(deterministic=True), np.uint8),
                **{str(at): values for at, values in enumerate(arrays)},
            },
        )
        return converted["integer"].tobytes(), converted["float32"].tobytes()


def _by_position(graph: FrozenGraph, samples: Samples) -> list[NDArray[np.float32]]:
    if not isinstance(samples, Mapping):
        (name,) = graph.inputs
        samples = {name: samples}
    if set(samples) != set(graph.inputs):
        raise ValueError(f"the graph's inputs are {list(graph.inputs)}, got {sorted(samples)}")
    arrays = [np.ascontiguousarray(samples[name], np.float32) for name in graph.inputs]
    if len({len(values) for values in arrays}) != 1:
        raise ValueError(f"one sample is one row of every input, got {[len(v) for v in arrays]} rows")
    return arrays
