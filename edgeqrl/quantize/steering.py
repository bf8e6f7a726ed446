"""A float32 `.tflite` and a range for each of its activations -> an integer file; all of it in the worker.

TensorFlow Lite's calibration writes a minimum and a maximum beside every tensor of a float32 file, and its
quantizer reads them. Here the calibration is ours: what stands there is what the caller says. A state and
what is fed back to it get one scale.
"""

import copy
import re
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
    activations  "int8", "int16", or "int16_or_float": what has no 16-bit form stays float
    num_states   the last inputs, which the last outputs are fed back to: one range, their hull, for both

    Raises ConverterError where a state and its next value cannot have one scale.
    """
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(float_tflite))
    graph = model.subgraphs[0]
    if activations != "int8":
        _give_own_biases(model)
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
        if _params(taken) != _params(given) and not _is_float(given):
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
        if _params(taken) == _params(given) or given.quantization is None or _is_float(given):
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


def _to_int16(calibrated: bytes, *, allows_float: bool = False) -> bytes:
    from tensorflow.lite.python.optimize import calibrator

    quantizer = calibrator.Calibrator(calibrated)._calibrator
    quantizer.Prepare()  # fed with nothing, so that the ranges in the file stay
    numbers = {kind: np.dtype(kind).num for kind in (np.int16, np.int64, np.float32)}
    int16, int64 = numbers[np.int16], numbers[np.int64]
    given = numbers[np.float32] if allows_float else int16
    try:
        return bytes(quantizer.QuantizeModel(int16, given, allows_float, int16, int64, False, False))
    except RuntimeError as error:
        if "Unsupported input type" in str(error):
            raise ConverterError(
                "TensorFlow Lite has no 16-bit form of what reads the network's input, so no part of the "
                "network can have 16 bits. Leave out wide=."
            ) from None
        unknown = re.search(r"16x8-bit not yet supported for op: '(\w+)'", str(error))
        if unknown is None:
            raise
        raise ConverterError(
            f"TensorFlow Lite has no 16-bit form of {unknown[1]}, so activations of the whole network cannot "
            "have 16 bits. Give them to a part of it: --scheme int8 --set wide=input."
        ) from None


def _to_int16_or_float(calibrated: bytes) -> bytes:
    """Quantize what can be; outputs are float where what writes them is, and 16 bits elsewhere."""
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(_to_int16(calibrated, allows_float=True)))
    graph = model.subgraphs[0]
    sources = {op.outputs[0]: op.inputs[0] for op in graph.operators if _kind(model, op) == _DEQUANTIZE}
    for index in set(graph.outputs) & set(sources):
        real, whole = graph.tensors[index], graph.tensors[sources[index]]
        real.name, whole.name = whole.name, real.name
    graph.outputs = np.array([sources.get(index, index) for index in graph.outputs], np.int32)
    model.signatureDefs = None  # it names the outputs before
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _give_own_biases(model: Any) -> None:
    """Copy biases that layers share: quantization to 16 bits knows one scale of each, and inputs differ."""
    graph, seen = model.subgraphs[0], set[int]()
    for operator in graph.operators:
        at = _BIASES.get(_kind(model, operator), len(operator.inputs))
        index = int(operator.inputs[at]) if at < len(operator.inputs) else -1
        if index in seen:
            tensor = copy.copy(graph.tensors[index])
            model.buffers.append(copy.copy(model.buffers[tensor.buffer]))
            tensor.buffer = len(model.buffers) - 1
            operator.inputs = np.array(operator.inputs, np.int32)
            operator.inputs[at] = len(graph.tensors)
            graph.tensors.append(tensor)
        elif index >= 0:
            seen.add(index)


def _kind(model: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def _is_float(tensor: Any) -> bool:
    return int(tensor.type) == _FLOAT32


_QUANTIZE: dict[str, Callable[[bytes], bytes]] = {
    "int8": _to_int8,
    "int16": _to_int16,
    "int16_or_float": _to_int16_or_float,
}
_FLOAT32, _INT8 = 0, 9  # tensor types of the file format
_DEQUANTIZE = 6  # builtin operator of the file format
_BIASES = {3: 2, 4: 2, 9: 2, 67: 3}  # of convolutions and dense layers: which input is the bias
