"""Weights of 4 bits as INT4 tensors in the `.tflite`, two a byte, for those who run it with TFLite Micro.

    small = store_int4(tflite)  # small.tflite answers as before, on TFLite Micro and on tflite-runtime

TFLite Micro and tflite-runtime unpack such weights, and then compute as with INT8. The exported C needs none
of this: it packs weights by itself.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.tflite_model import OperatorInfo, TFLiteModel, parse_tflite, with_unique_names

_WITH_WEIGHTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
_LOWEST, _HIGHEST = -8, 7
_ALIGNMENT = 16


@dataclass(frozen=True)
class Stored:
    """A file whose weights are INT4 where that is possible; layers by the tensor that they write."""

    tflite: bytes
    stored: tuple[str, ...]
    left: Mapping[str, str]  # layer: why its weights stay INT8


def store_int4(tflite: bytes) -> Stored:
    """Store weights as INT4 where they fit and TFLite Micro takes them; nothing that is computed changes.

    Needs TensorFlow, to write the file. Raises UnsupportedOperatorError, with the reasons, where it can do
    none.
    """
    model = with_unique_names(parse_tflite(tflite))
    readers: dict[int, list[OperatorInfo]] = defaultdict(list)
    for op in model.operators:
        for index in op.inputs:
            readers[index].append(op)
    fitting: dict[int, NDArray[np.int8]] = {}
    stored, left = [], {}
    for op in model.operators:
        if op.name not in _WITH_WEIGHTS:
            continue
        name, weights = model.tensors[op.outputs[0]].name, op.inputs[1]
        reasons = [why for reader in readers[weights] if (why := _why_not(model, reader, weights))]
        if reasons:
            left[name] = reasons[0]
        else:
            stored.append(name)
            fitting[weights] = np.asarray(model.tensors[weights].values(), np.int8)
    if not stored:
        reasons_text = "; ".join(f"'{name}': {why}" for name, why in left.items())
        raise UnsupportedOperatorError(
            f"No weights can be INT4 in the .tflite file. {reasons_text or 'It has no weights'}. "
            "Quantize to 4 bits with one scale a tensor: --scheme w4a8 --set granularity=per_tensor."
        )
    return Stored(_with_int4(tflite, fitting), tuple(stored), left)


def pack_int4(values: NDArray[np.int8]) -> bytes:
    """Return two values a byte, the first in the low half; a last half is 0."""
    flat = np.append(values.ravel(), np.zeros(values.size % 2, np.int8)).astype(np.uint8) & 0x0F
    return bytes((flat[::2] | flat[1::2] << 4).tobytes())


def _why_not(model: TFLiteModel, op: OperatorInfo, weights: int) -> str:
    """Say why an operator cannot take a tensor as INT4 weights; "" if it can."""
    tensor = model.tensors[weights]
    if op.name not in _WITH_WEIGHTS or op.inputs[1] != weights or not tensor.is_constant:
        return "its weights are also read as something else"
    if tensor.dtype != "INT8":
        return f"its weights are {tensor.dtype}"
    values = np.asarray(tensor.values())
    if values.min() < _LOWEST or values.max() > _HIGHEST:
        return f"its weights lie in {values.min()} to {values.max()}, beyond 4 bits"
    if np.any(tensor.zero_points):
        return "its weights have zero points"
    if model.tensors[op.outputs[0]].dtype != "INT8":
        return "no runtime takes INT4 weights with activations of 16 bits"
    if op.name == "TRANSPOSE_CONV":
        return "no runtime has INT4 weights of TRANSPOSE_CONV"
    if op.name == "FULLY_CONNECTED" and len(tensor.scales) > 1:
        return "TFLite Micro takes INT4 weights of FULLY_CONNECTED with one scale alone"
    return ""


def _with_int4(tflite: bytes, weights: Mapping[int, NDArray[np.int8]]) -> bytes:
    """Write the file anew, with these tensors of the first graph as INT4 in buffers of their own."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated

    model = schema_py_generated.ModelT.InitFromPackedBuf(bytearray(tflite), 0)
    tensors = model.subgraphs[0].tensors
    for index, values in weights.items():
        buffer = schema_py_generated.BufferT()
        buffer.data = np.frombuffer(pack_int4(values), np.uint8)
        model.buffers.append(buffer)
        tensors[index].buffer = len(model.buffers) - 1
        tensors[index].type = schema_py_generated.TensorType.INT4
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or ()}
    for number, buffer in enumerate(model.buffers):
        if number not in used:
            buffer.data = None
    for buffer in model.buffers:
        buffer.Pack = partial(_pack_buffer, buffer, schema_py_generated)
    builder = flatbuffers.Builder(len(tflite))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _pack_buffer(buffer: Any, schema: Any, builder: Any) -> Any:
    """Write a buffer, its values at a multiple of 16 as the schema wants; TensorFlow's writer forgets it."""
    data = None
    if buffer.data is not None and len(buffer.data):
        raw = np.asarray(buffer.data, np.uint8).tobytes()
        builder.StartVector(1, len(raw), _ALIGNMENT)
        builder.head -= len(raw)
        builder.Bytes[builder.Head() : builder.Head() + len(raw)] = raw
        data = builder.EndVector()
    schema.BufferStart(builder)
    if data is not None:
        schema.BufferAddData(builder, data)
    return schema.BufferEnd(builder)
