"""Two `.tflite` files -> one, of tensors and operators of both; runs in the converter's process."""

from collections.abc import Mapping, Sequence
from typing import Any

_QUANTIZE = 114  # builtin operator of the file format


def splice(files: Sequence[bytes], plan: Mapping[str, Any]) -> bytes:
    """Return a file of one graph, put together as `wide.widen` plans it.

    plan   tensors: [file, index] each; inputs, outputs: positions in that list; operators: inputs, outputs,
           and of: [file, index], or None for a QUANTIZE
    """
    from tensorflow.lite.python.schema_py_generated import BufferT, OperatorCodeT, OperatorT
    from tensorflow.lite.tools import flatbuffer_utils

    models = [flatbuffer_utils.convert_bytearray_to_object(bytearray(data)) for data in files]
    made = models[0]
    graph = made.subgraphs[0]
    codes, buffers = [OperatorCodeT()], [BufferT()]
    codes[0].builtinCode = codes[0].deprecatedBuiltinCode = _QUANTIZE
    codes[0].version = 2  # the first with 16 bits
    places: dict[tuple[str, int, int], int] = {}

    def moved(kind: str, file: int, index: int, old: list[Any], new: list[Any]) -> int:
        if (kind, file, index) not in places:
            places[kind, file, index] = len(new)
            new.append(old[index])
        return places[kind, file, index]

    tensors = [models[file].subgraphs[0].tensors[index] for file, index in plan["tensors"]]
    for tensor, (file, _) in zip(tensors, plan["tensors"], strict=True):
        held = models[file].buffers[tensor.buffer]
        is_constant = held.data is not None and len(held.data) > 0
        tensor.buffer = (
            moved("buffer", file, tensor.buffer, models[file].buffers, buffers) if is_constant else 0
        )
    operators = []
    for said in plan["operators"]:
        operator = OperatorT()
        if said["of"] is not None:
            file, index = said["of"]
            operator = models[file].subgraphs[0].operators[index]
            old = models[file].operatorCodes
            operator.opcodeIndex = moved("code", file, operator.opcodeIndex, old, codes)
        operator.inputs, operator.outputs = said["inputs"], said["outputs"]
        operators.append(operator)
    graph.tensors, graph.operators = tensors, operators
    graph.inputs, graph.outputs = plan["inputs"], plan["outputs"]
    made.operatorCodes, made.buffers = codes, buffers
    made.signatureDefs = made.metadata = made.metadataBuffer = None  # of the int8 version alone
    return bytes(flatbuffer_utils.convert_object_to_bytearray(made))
