"""The float32 `.tflite` that an integer one approximates: the same graph in real numbers."""

from typing import Any

import numpy as np

from edgeqrl.network.tflite_model import TensorInfo, parse_tflite
from tests.tflite_writer import OPTIONS, TFLiteWriter

_INTEGERS = ("INT8", "INT16", "INT64", "INT32")
_SCHEMA = {"fused_activation": "fused_activation_function"}  # where the writer has a name of its own


def float_twin(tflite: bytes) -> bytes:
    """Return the float network of a fully integer file of plain operators."""
    model, writer = parse_tflite(tflite), TFLiteWriter()
    for tensor in model.tensors:
        is_real = tensor.dtype in _INTEGERS and len(tensor.scales) > 0
        values = _real(tensor) if tensor.is_constant and is_real else None
        if tensor.is_constant and not is_real:
            values = np.asarray(tensor.values())
        writer.tensor(tensor.name, tensor.shape, "FLOAT32" if is_real else tensor.dtype, data=values)
    for op in model.operators:
        options: dict[str, Any] = {
            name: op.options[_SCHEMA.get(name, name)]
            for name in OPTIONS.get(op.name, (0, {}))[1]
            if name != "weights_format" and _SCHEMA.get(name, name) in op.options
        }
        writer.operator(op.name, list(op.inputs), list(op.outputs), **options)
    return writer.finish(list(model.inputs), list(model.outputs))


def _real(tensor: TensorInfo) -> Any:
    values = np.asarray(tensor.values(), np.float64)
    shape = [1] * values.ndim
    if len(tensor.scales) > 1:
        shape[tensor.quantized_axis] = -1
    scales, zero_points = (
        np.asarray(v, np.float64).reshape(shape or ()) if values.ndim else v[0]
        for v in (tensor.scales, tensor.zero_points)
    )
    return np.asarray((values - zero_points) * scales, np.float32)
