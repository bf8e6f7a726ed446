"""TensorFlow Lite's converter and quantizer, reached through one warm worker process."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.tensorflow_runtime import QUIET_ENVIRONMENT
from edgeqrl.backends.worker import Arrays, Options, Worker
from edgeqrl.errors import ConverterError
from edgeqrl.network.tflite_model import parse_tflite, with_unique_names
from edgeqrl.quantize.frozen import FrozenGraph

_WORKER = "edgeqrl.quantize.worker"
_CURE = "The network may use a layer that TensorFlow Lite cannot convert: build it from Dense layers."

# (low, high) of each activation, by the tensor's name in the float file, unique as by `with_unique_names`.
Ranges = Mapping[str, tuple[float, float]]


class Converter:
    """Float graphs in, `.tflite` files out.

    Made early, it imports TensorFlow in its own process while the caller imports it in this one:

        with Converter() as converter:
            agent = load_agent(...)
            exact = converter.to_float(freeze(agent))
            int8 = converter.quantize(exact, converter.observe(exact, [observations]))
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

    def to_float(self, graph: FrozenGraph) -> bytes:
        """Return the network as a float32 `.tflite`, inputs and outputs in the graph's order.

        Raises ConverterError where TensorFlow Lite has no form of it.
        """
        serialized = graph.graph_def.SerializeToString(deterministic=True)
        made = self._call(
            "to_float",
            {"inputs": list(graph.input_names), "outputs": list(graph.output_names)},
            {"graph_def": np.frombuffer(serialized, np.uint8)},
        )
        return made["tflite"].tobytes()

    def observe(self, float_tflite: bytes, samples: Sequence[NDArray[Any]]) -> dict[str, tuple[float, float]]:
        """Return the ranges that TensorFlow Lite's own calibration finds: minimum and maximum of each tensor.

        samples   N >= 1 rows of each input [N, *shape], in the file's order

        Of operators that work in place it takes for the input's range that of what is written over it, so
        ranges may be wider than the values are; `ranges.estimate` has the true ones.
        """
        arrays = [np.ascontiguousarray(values, np.float32) for values in samples]
        if len({len(values) for values in arrays}) != 1:
            raise ValueError(f"one sample is one row of every input, got {[len(v) for v in arrays]} rows")
        require_samples(len(arrays[0]))
        numbered = {str(at): values for at, values in enumerate(arrays)}
        found = self._call("observe", {}, {"tflite": np.frombuffer(float_tflite, np.uint8), **numbered})
        names = _names(float_tflite)
        rows = zip(found["indices"].tolist(), found["lows"].tolist(), found["highs"].tolist(), strict=True)
        return {names[index]: (low, high) for index, low, high in rows}

    def quantize(
        self, float_tflite: bytes, ranges: Ranges, *, activations: str = "int8", num_states: int = 0
    ) -> bytes:
        """Return a float32 file as an integer one: per-channel int8 weights, integers in and out.

        ranges       of every activation; those of other tensors are not asked for
        activations  "int8"; "int16" for activations, inputs, outputs and states of 16 bits; "int16_or_float"
                     for a file that only `wide.widen` takes, in which what has no 16-bit form is float
        num_states   the last inputs, which the last outputs are fed back to: they get one scale and zero
                     point, or ConverterError is raised

        Operators without an integer form stay float and are found by `network.read_tflite`.
        """
        indices = {name: index for index, name in enumerate(_names(float_tflite))}
        if unknown := [name for name in ranges if name not in indices]:
            raise ValueError(f"the file has no tensor '{unknown[0]}'")
        made = self._call(
            "quantize",
            {
                "ranges": {str(indices[name]): [float(v) for v in pair] for name, pair in ranges.items()},
                "activations": activations,
                "num_states": num_states,
            },
            {"tflite": np.frombuffer(float_tflite, np.uint8)},
        )
        return made["tflite"].tobytes()

    def splice(self, first: bytes, second: bytes, plan: Options) -> bytes:
        """Return one file of tensors and operators of two, as `quantize/splice.py` reads the plan."""
        files = {str(at): np.frombuffer(data, np.uint8) for at, data in enumerate((first, second))}
        return self._call("splice", plan, files)["tflite"].tobytes()

    def _call(self, command: str, options: Options, arrays: Arrays) -> Arrays:
        if not self._is_warm and not self._worker.is_closed:
            self._worker.receive()
            self._is_warm = True
        _, given = self._worker.call(command, options, arrays)
        return given


def require_samples(count: int) -> None:
    """Raise ConverterError for none: there is nothing that ranges could be found of."""
    if count == 0:
        raise ConverterError("Quantization needs at least one observation. Calibrate first.")


def _names(tflite: bytes) -> list[str]:
    return [tensor.name for tensor in with_unique_names(parse_tflite(tflite)).tensors]
