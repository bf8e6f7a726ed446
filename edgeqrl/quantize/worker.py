"""The converter's own process: it can crash on a model, and it imports while the parent does.

Started by `tflite.Converter` as `python -m edgeqrl.quantize.worker`; it answers "warm" and "convert".
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.tensorflow_runtime import import_tensorflow
from edgeqrl.backends.worker import Arrays, Options, serve
from edgeqrl.errors import ConverterError


def warm(options: Options, arrays: Arrays) -> tuple[Options, Arrays]:
    """Import TensorFlow and run the converter once on next to nothing, which loads all it needs."""
    tensorflow = import_tensorflow()

    def tiny(observation: Any) -> Any:
        return tensorflow.nn.relu(tensorflow.matmul(observation, tensorflow.ones((2, 2))))

    function = tensorflow.function(tiny, autograph=False).get_concrete_function(tensorflow.TensorSpec((1, 2)))
    _convert(function, np.ones((2, 2), np.float32))
    return {}, {}


def convert(options: Options, arrays: Arrays) -> tuple[Options, Arrays]:
    """Convert a frozen GraphDef to `.tflite`, once in float32 and once in int8.

    options  input_name, output_name: tensors of the graph
    arrays   graph_def [bytes], observations [N, *shape] float32
    """
    tensorflow = import_tensorflow()
    graph_def = tensorflow.compat.v1.GraphDef()
    graph_def.ParseFromString(arrays["graph_def"].tobytes())

    def load() -> None:
        tensorflow.graph_util.import_graph_def(graph_def, name="")

    try:
        wrapped = tensorflow.compat.v1.wrap_function(load, [])
        function = wrapped.prune(options["input_name"], options["output_name"])
        exact, quantized = _convert(function, None), _convert(function, arrays["observations"])
    except Exception as error:  # of many classes, and pages long
        message = " ".join(str(error).split())[:300]
        raise ConverterError(
            f"TensorFlow Lite cannot convert the network: {message}. Build it from Dense layers."
        ) from None
    return {}, {"float32": np.frombuffer(exact, np.uint8), "int8": np.frombuffer(quantized, np.uint8)}


def _convert(function: Any, observations: NDArray[np.float32] | None) -> bytes:
    """Run the TFLite converter; with observations it calibrates on them and quantizes fully."""
    tensorflow = import_tensorflow()
    # Without the trackable the converter takes the frozen graph as it is: a fifth of the time of the
    # way through a SavedModel, and the same network.
    converter = tensorflow.lite.TFLiteConverter.from_concrete_functions([function])
    if observations is not None:

        def samples() -> Iterator[list[NDArray[np.float32]]]:
            for observation in observations:
                yield [observation[np.newaxis]]

        converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
        converter.representative_dataset = samples
        converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tensorflow.int8
        converter.inference_output_type = tensorflow.int8
    return bytes(converter.convert())


if __name__ == "__main__":
    serve({"warm": warm, "convert": convert})
    os._exit(0)  # tearing TensorFlow down takes longer than a conversion, and nothing is left to save
