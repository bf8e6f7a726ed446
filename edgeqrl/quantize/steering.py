"""A float32 `.tflite` and a range for each of its activations -> an integer file; all of it in the worker.

TensorFlow Lite's calibration writes a minimum and a maximum beside every tensor of a float32 file, and its
quantizer reads them. Here the calibration is ours: what stands there is what the caller says. A state and
what is fed back to it get one scale.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgeqrl.errors import ConverterError
from edgeqrl.quantize.estimators import Range, hull


def quantize_with_ranges(
    float_tflite: bytes, ranges: Mapping[int, Range], activations: str, num_states: int
) -> bytes:
    """Quantize a float32 file to int8, or to 16x8, per-channel int8 weights in both.

    ranges       of every activation, by the tensor's index
    num_states   the last inputs, which the last outputs are fed back to: one range, their hull, for both

    Raises ConverterError where a state and its next value cannot have one scale.
    """
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(float_tflite))
    graph = model.subgraphs[0]
    for index, wanted in ranges.items():
        _write(graph.tensors[index], wanted)
    pairs = _state_pairs(graph, num_states)
    for state, following in pairs:
        both = hull(_read(state), _read(following))
        _write(state, both)
        _write(following, both)

    def quantized() -> bytes:
        return _QUANTIZE[activations](bytes(flatbuffer_utils.convert_object_to_bytearray(model)))

    made = quantized()
    # Some operators have an output scale of their own, such as tanh: the state then takes theirs.
    if _adopt(pairs, _written(made, num_states)):
        made = quantized()
    for state, (taken, given) in zip((s for s, _ in pairs), _written(made, num_states), strict=True):
        if _params(taken) != _params(given):
            raise ConverterError(
                f"The state '{state.name.decode(errors='replace')[:100]}' cannot have the scale of what is "
                "fed back to it, which TensorFlow Lite fixes otherwise. Let the next state be the output of "
                "a tanh, a sum or a product of its own."
            )
    return made


def _state_pairs(graph: Any, num_states: int) -> list[tuple[Any, Any]]:
    if num_states == 0:
        return []
    states, following = graph.inputs[-num_states:], graph.outputs[-num_states:]
    return [(graph.tensors[a], graph.tensors[b]) for a, b in zip(states, following, strict=True)]


def _written(quantized: bytes, num_states: int) -> list[tuple[Any, Any]]:
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(quantized))
    return _state_pairs(model.subgraphs[0], num_states)


def _adopt(pairs: list[tuple[Any, Any]], written: list[tuple[Any, Any]]) -> bool:
    """Give states the range that their next value was quantized for; return whether any differed."""
    is_changed = False
    for (state, _), (taken, given) in zip(pairs, written, strict=True):
        if _params(taken) == _params(given) or given.quantization is None:
            continue
        scale, zero_point = _params(given)
        lowest, highest = (-128, 127) if given.type == _INT8 else (-32767, 32767)
        _write(state, ((lowest - zero_point) * scale, (highest - zero_point) * scale))
        is_changed = True
    return is_changed


def _params(tensor: Any) -> tuple[float, int]:
    found = tensor.quantization
    if found is None or found.scale is None or len(found.scale) != 1:
        return 0.0, 0  # stayed float, which the reader tells
    return float(found.scale[0]), int(found.zeroPoint[0])


def _read(tensor: Any) -> Range:
    found = tensor.quantization
    return float(found.min[0]), float(found.max[0])


def _write(tensor: Any, wanted: Range) -> None:
    from tensorflow.lite.python.schema_py_generated import QuantizationParametersT

    if tensor.quantization is None:
        tensor.quantization = QuantizationParametersT()
    tensor.quantization.min = np.array([wanted[0]], np.float32)
    tensor.quantization.max = np.array([wanted[1]], np.float32)


def _to_int8(calibrated: bytes) -> bytes:
    import tensorflow
    from tensorflow.lite.python.convert import mlir_quantize

    int8 = tensorflow.int8
    return bytes(mlir_quantize(calibrated, input_data_type=int8, output_data_type=int8))


def _to_int16(calibrated: bytes) -> bytes:
    from tensorflow.lite.python.optimize import calibrator

    quantizer = calibrator.Calibrator(calibrated)._calibrator
    quantizer.Prepare()  # fed with nothing, so that the ranges in the file stay
    int16, int64 = np.dtype(np.int16).num, np.dtype(np.int64).num
    return bytes(quantizer.QuantizeModel(int16, int16, False, int16, int64, False, False))


_QUANTIZE: dict[str, Callable[[bytes], bytes]] = {"int8": _to_int8, "int16": _to_int16}
_INT8 = 9  # tensor type of the file format
