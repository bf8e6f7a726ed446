"""The same `.tflite` with other outputs, to look at what happens inside a runtime.

    cut = with_outputs(data, [7, 12])  # tensors 7 and 12, whoever runs it

Nothing moves: the new list stands behind the file, and the operators that no longer count are cut off
their list's end.
"""

import struct
from collections.abc import Sequence

from edgeqrl.network.flatbuffer import root_table
from edgeqrl.network.tflite_model import parse_tflite

_SUBGRAPHS, _OUTPUTS, _OPERATORS = 2, 2, 3  # slots of the schema
_MAX_GRAPHS = 20_000
_UINT32 = struct.Struct("<I")


def with_outputs(data: bytes, outputs: Sequence[int], *, keep: Sequence[int] = ()) -> bytes:
    """Return the file with the tensors `outputs`, by index, as the outputs of its first graph.

    Operators behind the last that writes one of them, or of the tensors `keep`, are left out. Raises
    DataError where the file is damaged.
    """
    model = parse_tflite(data)
    if not outputs or not all(0 <= i < len(model.tensors) for i in (*outputs, *keep)):
        raise ValueError(f"{list(outputs)} are not tensors of a file that has {len(model.tensors)}")
    if not model.outputs:
        raise ValueError("the graph has no outputs to replace")
    needed = {*outputs, *keep}
    last = max((i for i, op in enumerate(model.operators) if needed & set(op.outputs)), default=-1)
    graph = root_table(data, b"TFL3").tables(_SUBGRAPHS, _MAX_GRAPHS)[0]
    edited = bytearray(data)
    edited += bytes(-len(data) % 4)  # a list of numbers is aligned
    field = graph.place(_OUTPUTS, 4)
    assert field is not None
    _UINT32.pack_into(edited, field, len(edited) - field)
    edited += struct.pack(f"<I{len(outputs)}i", len(outputs), *outputs)
    operators = graph.span(_OPERATORS)
    if operators is not None:
        _UINT32.pack_into(edited, operators[0] - 4, last + 1)
    return bytes(edited)
