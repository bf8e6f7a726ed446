"""The same `.tflite` with other quantization, with constants for operands that share or lack them.

    own = with_own_operands(data, [(3, 2)])                   # operator 3's bias, whoever else had it
    more = with_constants(own, [((4, 2), constant)])          # operator 4's, which had none
    fine = with_quantization(own, {7: Quantization(scales, zero_points)})

References in the file point forward only. So what is new and referred to stands behind the file; lists
that grow stand, with the tables that refer to them, before it, and all else moves by one distance.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.flatbuffer import Table, root_table
from edgeqrl.network.tflite_model import parse_tflite
from edgeqrl.network.tflite_schema import TENSOR_TYPES

# Slots of the schema.
_SUBGRAPHS, _BUFFERS = 2, 4  # of the model
_TENSORS, _OPERATORS = 0, 3  # of a graph
_SHAPE, _TYPE, _BUFFER, _NAME, _QUANTIZATION = 0, 1, 2, 3, 4  # of a tensor
_SCALES, _ZERO_POINTS, _AXIS = 2, 3, 6  # of a quantization
_INPUTS = 1  # of an operator
_MODEL_NUMBERS, _GRAPH_NUMBERS = {0}, {5}  # slots that hold a number; the others refer to something

_TYPES = {name: number for number, name in TENSOR_TYPES.items()}
_HEADER = 8  # bytes: where the root is, and the file's mark
_ALIGNMENT = 64  # what moves keeps its own
_MAX_TABLES = 20_000


@dataclass(frozen=True, eq=False)
class Quantization:
    """The scales of one tensor: real = scale * (q - zero_point)."""

    scales: NDArray[np.float32]  # [1], or one for each index of the axis
    zero_points: NDArray[np.int64]  # as many
    axis: int = 0


def with_quantization(data: bytes, tensors: Mapping[int, Quantization]) -> bytes:
    """Return the file with other scales and zero points for quantized tensors, by index.

    Numbers are written over where they have the room of their own, and else behind the file. Raises
    DataError where the file is damaged, ValueError where a tensor has no quantization to replace.
    """
    parse_tflite(data)  # checks all of it
    tables = _graph(data).tables(_TENSORS, _MAX_TABLES)
    places = [_number_places(table) for table in tables]
    counts: dict[int, int] = {}
    for start in (p[0] for pair in places for p in pair if p is not None):
        counts[start] = counts.get(start, 0) + 1
    edited = bytearray(data)
    for index, new in tensors.items():
        field = tables[index].place(_QUANTIZATION, 4)
        if field is None:
            raise ValueError(f"tensor {index} is not quantized")
        numbers = (new.scales.astype("<f4"), new.zero_points.astype("<i8"))
        axis = tables[index].table(_QUANTIZATION)
        assert axis is not None
        fits = len(new.scales) == 1 or axis.scalar(_AXIS, "int32") == new.axis
        for place, values in zip(places[index], numbers, strict=True):
            fits = fits and place is not None and place[1] == len(values) and counts[place[0]] == 1
        if fits:
            for place, values in zip(places[index], numbers, strict=True):
                assert place is not None
                edited[place[0] : place[0] + values.nbytes] = values.tobytes()
        else:
            struct.pack_into("<I", edited, field, _append_quantization(edited, new) - field)
    return bytes(edited)


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that holds values."""

    name: str
    dtype: str  # as `TensorInfo` has it
    shape: tuple[int, ...]
    raw: bytes | memoryview
    quantization: Quantization | None


def with_own_operands(data: bytes, operands: Sequence[tuple[int, int]]) -> bytes:
    """Return the file with a constant of its own, of equal values, for each operand (operator, position).

    The new tensors come last, in this order. Raises DataError where the file is damaged, ValueError where
    an operand is no constant.
    """
    model = parse_tflite(data)
    made: list[tuple[tuple[int, int], Constant]] = []
    for at, position in operands:
        old = model.tensors[model.operators[at].inputs[position]]
        if not old.is_constant or old.data is None:
            raise ValueError(f"input {position} of operator {at} is no constant")
        quantization = Quantization(old.scales, old.zero_points, old.quantized_axis)
        name = f"{old.name}_own{len(model.tensors) + len(made)}"
        stated = quantization if len(old.scales) else None
        made.append(((at, position), Constant(name, old.dtype, old.shape, old.data, stated)))
    return with_constants(data, made)


def with_constants(data: bytes, operands: Sequence[tuple[tuple[int, int], Constant]]) -> bytes:
    """Return the file with new constants for operands (operator, position), which may have had none.

    The new tensors come last, in this order. Raises DataError where the file is damaged.
    """
    if not operands:
        return data
    model = parse_tflite(data)
    moved = _with_room(data, len(operands))
    edited, graph = bytearray(moved.data), _graph(moved.data)
    operators = graph.tables(_OPERATORS, _MAX_TABLES)
    inputs: dict[int, list[int]] = {}
    for new, ((at, position), constant) in enumerate(operands):
        _link(edited, moved.tensors[new], _append_tensor(edited, constant, moved.num_buffers + new))
        _link(edited, moved.buffers[new], _append_buffer(edited, constant.raw))
        changed = inputs.setdefault(at, list(model.operators[at].inputs))
        changed += [-1] * (position + 1 - len(changed))
        changed[position] = len(model.tensors) + new
    for at, numbers in inputs.items():
        field = operators[at].place(_INPUTS, 4)
        assert field is not None
        _link(edited, field, _append_vector(edited, np.asarray(numbers, "<i4")))
    return bytes(edited)


@dataclass(frozen=True)
class _Room:
    """A file with empty places at the end of two lists."""

    data: bytes
    tensors: list[int]  # where each new entry stands
    buffers: list[int]
    num_buffers: int  # before


def _with_room(data: bytes, count: int) -> _Room:
    """Put model, first graph and both lists before the rest, which moves by a multiple of the alignment."""
    root = root_table(data, b"TFL3")
    graph_fields, model_fields = _fields(data, _graph(data)), _fields(data, root)
    graphs, tensors = _references(data, root, _SUBGRAPHS), _references(data, _graph(data), _TENSORS)
    buffers = _references(data, root, _BUFFERS)
    sizes = [_table_bytes(len(model_fields)), 4 * (1 + len(graphs)), _table_bytes(len(graph_fields))]
    sizes += [4 * (1 + len(tensors) + count), 4 * (1 + len(buffers) + count)]
    starts = [_HEADER + sum(sizes[:i]) for i in range(len(sizes))]
    distance = -(-sum(sizes) // _ALIGNMENT) * _ALIGNMENT
    edited = bytearray(data[:_HEADER]) + bytes(distance) + data[_HEADER:]

    def put(start: int, targets: Sequence[int | None]) -> None:
        """Write a list of references to what stood at the old places; None is left open."""
        struct.pack_into("<I", edited, start, len(targets))
        for i, target in enumerate(targets):
            if target is not None:
                _link(edited, start + 4 * (i + 1), target)

    model_at = _put_table(edited, starts[0], model_fields, _MODEL_NUMBERS, distance)
    graph_at = _put_table(edited, starts[2], graph_fields, _GRAPH_NUMBERS, distance)
    struct.pack_into("<I", edited, 0, model_at)
    _link(edited, model_at + 4 * (1 + _SUBGRAPHS), starts[1])
    _link(edited, graph_at + 4 * (1 + _TENSORS), starts[3])
    _link(edited, model_at + 4 * (1 + _BUFFERS), starts[4])
    put(starts[1], [graph_at, *(at + distance for at in graphs[1:])])
    for start, old in ((starts[3], tensors), (starts[4], buffers)):
        put(start, [*(at + distance for at in old), *(None for _ in range(count))])
    ends = [start + 4 * (1 + len(old)) for start, old in ((starts[3], tensors), (starts[4], buffers))]
    places = [[end + 4 * i for i in range(count)] for end in ends]
    return _Room(bytes(edited), places[0], places[1], len(buffers))


def _fields(data: bytes, table: Table) -> list[int | None]:
    """Return where each field of a table stands, all of 4 bytes."""
    return [table.place(slot, 4) for slot in range(table.num_slots)]


def _references(data: bytes, table: Table, slot: int) -> list[int]:
    """Return what the entries of a list of tables refer to."""
    found = table.span(slot)
    if found is None:
        return []
    start, count = found
    table.tables(slot, _MAX_TABLES)  # checks each of them
    return [start + 4 * i + _uint32(data, start + 4 * i) for i in range(count)]


def _table_bytes(num_fields: int) -> int:
    vtable = 4 + 2 * num_fields
    return vtable + vtable % 4 + 4 * (1 + num_fields)


def _put_table(
    edited: bytearray, start: int, fields: list[int | None], numbers: set[int], distance: int
) -> int:
    """Write a copy of a table whose old fields stand at `fields`; return where it begins.

    Field i is then at 4 * (1 + i) in it.
    """
    size = 4 + 2 * len(fields)
    at = start + size + size % 4
    offsets = [0 if place is None else 4 * (1 + i) for i, place in enumerate(fields)]
    struct.pack_into(f"<HH{len(fields)}H", edited, start, size, 4 * (1 + len(fields)), *offsets)
    struct.pack_into("<i", edited, at, at - start)
    for i, place in enumerate(fields):
        if place is None:
            continue
        value, field = _uint32(edited, place + distance), at + 4 * (1 + i)
        if i in numbers:
            struct.pack_into("<I", edited, field, value)
        else:
            _link(edited, field, place + distance + value)
    return at


def _append_tensor(edited: bytearray, constant: Constant, buffer: int) -> int:
    """Write a tensor behind the file, which holds that buffer."""
    stated = constant.quantization
    at = _append_table(edited, [_SHAPE, _TYPE, _BUFFER, _NAME, *([] if stated is None else [_QUANTIZATION])])
    place = {slot: at + 4 * (1 + slot) for slot in (_SHAPE, _TYPE, _BUFFER, _NAME, _QUANTIZATION)}
    struct.pack_into("<b", edited, place[_TYPE], _TYPES[constant.dtype])
    struct.pack_into("<I", edited, place[_BUFFER], buffer)
    _link(edited, place[_SHAPE], _append_vector(edited, np.asarray(constant.shape, "<i4")))
    raw = np.frombuffer(constant.name.encode() + b"\0", np.uint8)
    _link(edited, place[_NAME], _append_vector(edited, raw, count=len(raw) - 1))
    if stated is not None:
        _link(edited, place[_QUANTIZATION], _append_quantization(edited, stated))
    return at


def _append_quantization(edited: bytearray, new: Quantization) -> int:
    at = _append_table(edited, (_SCALES, _ZERO_POINTS, _AXIS))
    struct.pack_into("<i", edited, at + 4 * (1 + _AXIS), new.axis)
    _link(edited, at + 4 * (1 + _SCALES), _append_vector(edited, new.scales.astype("<f4")))
    _link(edited, at + 4 * (1 + _ZERO_POINTS), _append_vector(edited, new.zero_points.astype("<i8")))
    return at


def _append_buffer(edited: bytearray, raw: bytes | memoryview) -> int:
    at = _append_table(edited, [0])
    _link(edited, at + 4, _append_vector(edited, np.frombuffer(raw, np.uint8), alignment=16))
    return at


def _append_table(edited: bytearray, slots: Sequence[int]) -> int:
    """Write a table of zeros with these fields; field i is then at 4 * (1 + i) in it."""
    count = max(slots) + 1
    _align(edited, 4)
    start, size = len(edited), 4 + 2 * count
    offsets = [4 * (1 + i) if i in slots else 0 for i in range(count)]
    edited += struct.pack(f"<HH{count}H", size, 4 * (1 + count), *offsets) + bytes(size % 4)
    at = len(edited)
    edited += struct.pack("<i", at - start) + bytes(4 * count)
    return at


def _append_vector(
    edited: bytearray, values: NDArray[np.generic], *, count: int | None = None, alignment: int = 8
) -> int:
    """Write a list of numbers, its elements aligned; return where its length stands."""
    edited += bytes(-(len(edited) + 4) % alignment)
    at = len(edited)
    edited += struct.pack("<I", len(values) if count is None else count) + values.tobytes()
    return at


def _link(edited: bytearray, field: int, target: int) -> None:
    if target <= field:
        raise ValueError(f"byte {field} cannot refer back to byte {target}")
    struct.pack_into("<I", edited, field, target - field)


def _number_places(tensor: Table) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Return where a tensor's scales and zero points stand, and how many there are."""
    table = tensor.table(_QUANTIZATION)
    return (None, None) if table is None else (table.span(_SCALES), table.span(_ZERO_POINTS))


def _graph(data: bytes) -> Table:
    return root_table(data, b"TFL3").tables(_SUBGRAPHS, _MAX_TABLES)[0]


def _align(edited: bytearray, alignment: int) -> None:
    edited += bytes(-len(edited) % alignment)


def _uint32(data: bytes | bytearray, place: int) -> int:
    (value,) = struct.unpack_from("<I", data, place)
    return int(value)
