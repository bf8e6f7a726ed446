"""The converter's own process: it can crash on a model, and it imports while the parent does.

Started by `tflite.Converter` as `python -m edgeqrl.quantize.worker`; it answers "warm" and "convert".
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.tensorflow_runtime import import_tensorflow
from edgeqrl.backends.worker import Arrays, Options, serve
from edgeqrl.errors import ConverterError

Samples = list[NDArray[np.float32]]  # one array [N, *shape] an input


def warm(options: Options, arrays: Arrays) -> tuple[Options, Arrays]:
    """Import TensorFlow and run the converter once on next to nothing, which loads all it needs."""
    tensorflow = import_tensorflow()

    def tiny(observation: Any) -> Any:
        return tensorflow.nn.relu(tensorflow.matmul(observation, tensorflow.ones((2, 2))))

    function = tensorflow.function(tiny, autograph=False).get_concrete_function(tensorflow.TensorSpec((1, 2)))
    _integer_converter(function, [np.ones((2, 2), np.float32)], "int8").convert()
    return {}, {}


def convert(options: Options, arrays: Arrays) -> tuple[Options, Arrays]:
    """Convert a frozen GraphDef to `.tflite`, once in float32 and once in integers.

    options  inputs, outputs: tensors of the graph, in order; num_states; activations; ranges: position of
             an input -> [low, high]
    arrays   graph_def [bytes]; the inputs' samples [N, *shape] float32 by position
    """
    tensorflow = import_tensorflow()
    graph_def = tensorflow.compat.v1.GraphDef()
    graph_def.ParseFromString(arrays["graph_def"].tobytes())
    samples = [arrays[str(at)] for at in range(len(options["inputs"]))]

    def load() -> None:
        tensorflow.graph_util.import_graph_def(graph_def, name="")

    try:
        wrapped = tensorflow.compat.v1.wrap_function(load, [])
        function = wrapped.prune(_lone(options["inputs"]), _lone(options["outputs"]))
        exact = _float_converter(function).convert()
        converter = _integer_converter(function, samples, options["activations"])
        if options["num_states"] or options["ranges"]:
            quantized = _steered(converter, options)
        else:
            quantized = converter.convert()
    except ConverterError:
        raise
    except Exception as error:  # of many classes, and pages long
        message = " ".join(str(error).split())[:300]
        raise ConverterError(
            f"TensorFlow Lite cannot convert the network: {message}. Build it from Dense layers."
        ) from None
    return {}, {"float32": np.frombuffer(exact, np.uint8), "integer": np.frombuffer(quantized, np.uint8)}


def _lone(names: list[str]) -> Any:
    return names[0] if len(names) == 1 else names


def _float_converter(function: Any) -> Any:
    # Without the trackable the converter takes the frozen graph as it is: a fifth of the time of the
    # way through a SavedModel, and the same network.
    return import_tensorflow().lite.TFLiteConverter.from_concrete_functions([function])


def _integer_converter(function: Any, samples: Samples, activations: str) -> Any:
    """Return a TFLite converter that calibrates on the samples and quantizes fully."""
    tensorflow = import_tensorflow()
    converter = _float_converter(function)

    def rows() -> Iterator[list[NDArray[np.float32]]]:
        for row in zip(*samples, strict=True):
            yield [values[np.newaxis] for values in row]

    converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
    converter.representative_dataset = rows
    sets, dtype = tensorflow.lite.OpsSet, tensorflow.int8
    chosen = sets.TFLITE_BUILTINS_INT8
    if activations == "int16":
        dtype, chosen = tensorflow.int16, sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    converter.target_spec.supported_ops = [chosen]
    converter.inference_input_type = converter.inference_output_type = dtype
    return converter


def _steered(converter: Any, options: Options) -> bytes:
    """Convert in two steps, with the ranges changed between them."""
    from edgeqrl.quantize.steering import quantize_steered

    float32 = import_tensorflow().float32
    converter.inference_input_type = converter.inference_output_type = float32
    converter._experimental_calibrate_only = True
    ranges = {int(at): (float(low), float(high)) for at, (low, high) in options["ranges"].items()}
    steps: Callable[..., bytes] = quantize_steered
    return steps(converter.convert(), options["activations"], int(options["num_states"]), ranges)


if __name__ == "__main__":
    serve({"warm": warm, "convert": convert})
    os._exit(0)  # tearing TensorFlow down takes longer than a conversion, and nothing is left to save
