"""The converter's own process: it can crash on a model, and it imports while the parent does.

Started by `tflite.Converter` as `python -m edgeqrl.quantize.worker`; it answers "warm", "to_float",
"observe", "quantize" and "splice".
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.tensorflow_runtime import import_tensorflow
from edgeqrl.backends.worker import Arrays, Options, serve
from edgeqrl.errors import ConverterError


def warm(options: Options, arrays: Arrays) -> tuple[Options, Arrays]:
    """Import TensorFlow and convert next to nothing, which loads all that is needed."""
    tensorflow = import_tensorflow()

    def tiny(observation: Any) -> Any:
        return tensorflow.matmul(observation, tensorflow.constant([[1.0, -2.0], [0.5, 3.0]]))

    function = tensorflow.function(tiny, autograph=False).get_concrete_function(tensorflow.TensorSpec((1, 2)))
    _, made = observe({}, {"tflite": _bytes(_converted(function)), "0": np.ones((2, 2), np.float32)})
    ranges = {str(index): [-1.0, 1.0] for index in made["indices"].tolist()}
    quantize(
        {"ranges": ranges, "activations": "int8", "num_states": 0}, {"tflite": _bytes(_converted(function))}
    )
    return {}, {}


def to_float(options: Options, arrays: Arrays) -> tuple[Options, Arrays]:
    """Convert a frozen GraphDef to a float32 `.tflite`.

    options  inputs, outputs: tensors of the graph, in order
    arrays   graph_def [bytes]; gives tflite [bytes]
    """
    tensorflow = import_tensorflow()
    graph_def = tensorflow.compat.v1.GraphDef()
    graph_def.ParseFromString(arrays["graph_def"].tobytes())

    def load() -> None:
        tensorflow.graph_util.import_graph_def(graph_def, name="")

    with _failing_in_one_sentence():
        wrapped = tensorflow.compat.v1.wrap_function(load, [])
        function = wrapped.prune(_lone(options["inputs"]), _lone(options["outputs"]))
        return {}, {"tflite": _bytes(_converted(function))}


def observe(options: Options, arrays: Arrays) -> tuple[Options, Arrays]:
    """Calibrate a float32 `.tflite` as TensorFlow Lite does: running minimum and maximum.

    arrays   tflite [bytes]; the inputs' samples [N, *shape] float32 by position; gives indices [tensors],
             lows and highs
    """
    from tensorflow.lite.python.optimize import calibrator
    from tensorflow.lite.tools import flatbuffer_utils

    samples = [arrays[str(at)] for at in range(len(arrays) - 1)]

    def rows() -> Iterator[list[NDArray[np.float32]]]:
        for row in zip(*samples, strict=True):
            yield [values[np.newaxis] for values in row]

    with _failing_in_one_sentence():
        calibrated = calibrator.Calibrator(arrays["tflite"].tobytes()).calibrate(rows)
        graph = flatbuffer_utils.convert_bytearray_to_object(bytearray(calibrated)).subgraphs[0]
    found = [
        (index, float(known.min[0]), float(known.max[0]))
        for index, tensor in enumerate(graph.tensors)
        if (known := tensor.quantization) is not None and known.min is not None and len(known.min) == 1
    ]
    indices, lows, highs = zip(*found, strict=True)
    return {}, {"indices": np.array(indices), "lows": np.array(lows), "highs": np.array(highs)}


def quantize(options: Options, arrays: Arrays) -> tuple[Options, Arrays]:
    """Quantize a float32 `.tflite` with given ranges.

    options  ranges: index of a tensor -> [low, high]; activations; num_states
    arrays   tflite [bytes]; gives tflite [bytes]
    """
    from edgeqrl.quantize.steering import quantize_with_ranges

    quantized: Callable[..., bytes] = quantize_with_ranges
    ranges = {int(index): (float(low), float(high)) for index, (low, high) in options["ranges"].items()}
    with _failing_in_one_sentence():
        made = quantized(
            arrays["tflite"].tobytes(), ranges, options["activations"], int(options["num_states"])
        )
    return {}, {"tflite": _bytes(made)}


def splice(options: Options, arrays: Arrays) -> tuple[Options, Arrays]:
    """Put two files together by the plan in the options; see `quantize/splice.py`."""
    from edgeqrl.quantize import splice as splicing

    with _failing_in_one_sentence():
        made = splicing.splice([arrays["0"].tobytes(), arrays["1"].tobytes()], options)
    return {}, {"tflite": _bytes(made)}


@contextmanager
def _failing_in_one_sentence() -> Iterator[None]:
    try:
        yield
    except ConverterError:
        raise
    except Exception as error:  # of many classes, and pages long
        message = " ".join(str(error).split())[:300]
        raise ConverterError(
            f"TensorFlow Lite cannot convert the network: {message}. Build it from Dense layers."
        ) from None


def _lone(names: list[str]) -> Any:
    return names[0] if len(names) == 1 else names


def _converted(function: Any) -> bytes:
    # Without the trackable the converter takes the frozen graph as it is: a fifth of the time of the
    # way through a SavedModel, and the same network.
    return bytes(import_tensorflow().lite.TFLiteConverter.from_concrete_functions([function]).convert())


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


if __name__ == "__main__":
    answered = {f.__name__: f for f in (warm, to_float, observe, quantize, splice)}
    serve(answered)
    os._exit(0)  # tearing TensorFlow down takes longer than a conversion, and nothing is left to save
