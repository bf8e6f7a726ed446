"""A `.tflite` file as plain data: tensors, operators, and where each constant lies in the file.

The file is parsed here and not by a runtime's C++ code, so that damaged and hostile ones are refused
in one sentence. Field numbers and enum values are those of LiteRT's public schema, version 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError
from edgeqrl.network.flatbuffer import FlatBufferError, Table, root_table
from edgeqrl.network.tflite_schema import (
    ACTIVATION_FUNCTIONS,
    BUILTIN_OPERATORS,
    DTYPES,
    FULLY_CONNECTED_OPTIONS,
    RESHAPE_OPTIONS,
    TENSOR_TYPES,
)

_MAX_TABLES = 20_000  # tensors, operators or buffers
_MAX_OPERANDS = 4096
_MAX_RANK = 8
_MAX_ELEMENTS = 2**31 - 1


@dataclass(frozen=True, eq=False)
class TensorInfo:
    """One tensor as the file describes it."""

    name: str  # not always unique
    shape: tuple[int, ...]  # with the batch axis
    dtype: str  # LiteRT's name, e.g. "INT8"
    scales: NDArray[np.float32]  # [] not quantized, [1] per tensor, [channels] per channel
    zero_points: NDArray[np.int64]  # as many as scales
    quantized_axis: int
    is_variable: bool
    is_sparse: bool
    data: memoryview | None  # of a constant; not copied, as many tensors may share it
    span: tuple[int, int] | None  # (offset, length) of `data` in the file

    @property
    def size(self) -> int:
        """Count the elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_constant(self) -> bool:
        """Tell whether the file holds the tensor's values."""
        return self.data is not None

    def values(self) -> NDArray[np.generic]:
        """Return a constant's values [*shape], a read-only view of the file's bytes."""
        if self.data is None or self.dtype not in DTYPES:
            raise DataError(f"Tensor '{shown(self.name)}' of the .tflite file holds no readable values.")
        dtype = np.dtype(DTYPES[self.dtype]).newbyteorder("<")
        if len(self.data) != self.size * dtype.itemsize:
            raise DataError(
                f"Tensor '{shown(self.name)}' of the .tflite file has {len(self.data)} bytes of values, "
                f"and its shape {self.shape} needs {self.size * dtype.itemsize}: the file is damaged."
            )
        return np.frombuffer(self.data, dtype).reshape(self.shape)


@dataclass(frozen=True)
class OperatorInfo:
    """One operator; operands are indices of tensors, -1 an optional one left out."""

    name: str  # LiteRT builtin name, e.g. "FULLY_CONNECTED"
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    fused_activation: str = "NONE"  # of FULLY_CONNECTED
    keep_num_dims: bool = False  # of FULLY_CONNECTED
    is_shuffled: bool = False  # of FULLY_CONNECTED: weights in another than row-major order
    new_shape: tuple[int, ...] | None = None  # of RESHAPE, where it is an option


@dataclass(frozen=True, eq=False)
class TFLiteModel:
    """The first subgraph of a file."""

    tensors: tuple[TensorInfo, ...]
    operators: tuple[OperatorInfo, ...]  # in order of execution
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    num_subgraphs: int


def parse_tflite(data: bytes) -> TFLiteModel:
    """Read a `.tflite` file of any operators and types; DataError where it is not one or is damaged."""
    try:
        root = root_table(data, b"TFL3")
        if root.scalar(0, "uint32") != 3:
            raise FlatBufferError(f"its schema version is {root.scalar(0, 'uint32')}, not 3")
        codes = [_builtin_name(code) for code in root.tables(1, _MAX_TABLES)]
        graphs = root.tables(2, _MAX_TABLES)
        if not graphs:
            raise FlatBufferError("it holds no graph")
        buffers = [_buffer_span(buffer) for buffer in root.tables(4, _MAX_TABLES)]
        return _subgraph(data, graphs[0], codes, buffers, len(graphs))
    except FlatBufferError as error:
        raise DataError(f"This is not a .tflite file, or it is damaged: {error}.") from None


def replace_buffers(data: bytes, replacements: Mapping[int, bytes]) -> bytes:
    """Return the file with new values for constant tensors, by tensor index; lengths stay the same.

    Raises DataError where the bytes also belong to another tensor that does not get the same values:
    converters store equal constants once.
    """
    model = parse_tflite(data)
    patched = bytearray(data)
    for index, new in replacements.items():
        tensor = model.tensors[index]
        if tensor.span is None:
            raise ValueError(f"'{tensor.name}' is not a constant")
        if len(new) != tensor.span[1]:
            raise ValueError(f"'{tensor.name}' has {tensor.span[1]} bytes, got {len(new)}")
        for other in tensors_sharing(model, index):
            if model.tensors[other].span != tensor.span or replacements.get(other) != new:
                raise DataError(
                    f"'{shown(tensor.name)}' cannot be changed: the .tflite file stores its values in "
                    f"the same bytes as those of '{shown(model.tensors[other].name)}'."
                )
        start, length = tensor.span
        patched[start : start + length] = new
    return bytes(patched)


def tensors_sharing(model: TFLiteModel, index: int) -> tuple[int, ...]:
    """Return the other tensors whose values overlap in the file with those of tensor `index`."""
    span = model.tensors[index].span
    if span is None:
        return ()
    start, end = span[0], span[0] + span[1]
    return tuple(
        i
        for i, tensor in enumerate(model.tensors)
        if i != index and tensor.span and tensor.span[0] < end and start < sum(tensor.span)
    )


def shown(name: str) -> str:
    """Return a name from a file, short enough for a message: printable, at most 80 characters."""
    text = "".join(c if c.isprintable() else "?" for c in name)
    return text if len(text) <= 80 else text[:77] + "..."


def _subgraph(
    data: bytes,
    graph: Table,
    codes: list[str],
    buffers: list[tuple[int, int] | None],
    num_subgraphs: int,
) -> TFLiteModel:
    tensors = tuple(_tensor(data, table, buffers) for table in graph.tables(0, _MAX_TABLES))
    count = len(tensors)
    return TFLiteModel(
        tensors=tensors,
        operators=tuple(_operator(table, codes, count) for table in graph.tables(3, _MAX_TABLES)),
        inputs=_indices(graph, 1, count, lowest=0),
        outputs=_indices(graph, 2, count, lowest=0),
        num_subgraphs=num_subgraphs,
    )


def _tensor(data: bytes, table: Table, buffers: list[tuple[int, int] | None]) -> TensorInfo:
    # Names reach messages and the comments of generated files: no line breaks, no escape sequences.
    name = "".join(c if c.isprintable() else "?" for c in table.string(3))
    shape = _ints(table, 0, _MAX_RANK)
    if any(n < 0 for n in shape) or int(np.prod(shape, dtype=object)) > _MAX_ELEMENTS:
        raise FlatBufferError(f"tensor '{shown(name)}' has the shape {shape}")
    buffer = table.scalar(2, "uint32")
    if buffer >= len(buffers):
        raise FlatBufferError(f"tensor '{shown(name)}' has a buffer that does not exist")
    span = buffers[buffer]
    scales, zero_points, axis = _quantization(name, table.table(4))
    type_number = table.scalar(1, "int8")
    return TensorInfo(
        name=name,
        shape=shape,
        dtype=TENSOR_TYPES.get(type_number, f"TYPE_{type_number}"),
        scales=scales,
        zero_points=zero_points,
        quantized_axis=axis,
        is_variable=bool(table.scalar(5, "bool")),
        is_sparse=table.has(6),
        data=None if span is None else memoryview(data)[span[0] : span[0] + span[1]],
        span=span,
    )


def _quantization(name: str, table: Table | None) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    if table is None:
        return np.zeros(0, np.float32), np.zeros(0, np.int64), 0
    scales = np.asarray(table.array(2, np.float32), np.float32)
    zero_points = np.asarray(table.array(3, np.int64), np.int64)
    if len(zero_points) != len(scales):
        if len(zero_points) not in (0, 1):
            raise FlatBufferError(f"tensor '{shown(name)}' has {len(scales)} scales and other zero points")
        zero_points = np.full(len(scales), zero_points[0] if len(zero_points) else 0, np.int64)
    return scales, zero_points, table.scalar(6, "int32")


def _operator(table: Table, codes: list[str], num_tensors: int) -> OperatorInfo:
    code = table.scalar(0, "uint32")
    if code >= len(codes):
        raise FlatBufferError("an operator has a code that does not exist")
    kind = table.scalar(3, "uint8")
    options = table.table(4)
    fused, keep_num_dims, is_shuffled = "NONE", False, False
    new_shape = None
    if options is not None and kind == FULLY_CONNECTED_OPTIONS:
        number = options.scalar(0, "int8")
        fused = ACTIVATION_FUNCTIONS.get(number, f"ACTIVATION_{number}")
        is_shuffled = options.scalar(1, "int8") != 0
        keep_num_dims = bool(options.scalar(2, "bool"))
    elif options is not None and kind == RESHAPE_OPTIONS and options.has(0):
        new_shape = _ints(options, 0, _MAX_RANK)
    return OperatorInfo(
        name=codes[code],
        inputs=_indices(table, 1, num_tensors, lowest=-1),
        outputs=_indices(table, 2, num_tensors, lowest=0),
        fused_activation=fused,
        keep_num_dims=keep_num_dims,
        is_shuffled=is_shuffled,
        new_shape=new_shape,
    )


def _builtin_name(table: Table) -> str:
    # The first field is a byte that newer operators do not fit in: the larger one counts.
    number = max(table.scalar(0, "int8"), table.scalar(3, "int32"))
    if number == BUILTIN_OPERATORS.index("CUSTOM"):
        return f"CUSTOM {shown(table.string(1))}".strip()
    return BUILTIN_OPERATORS[number] if 0 <= number < len(BUILTIN_OPERATORS) else f"OPERATOR_{number}"


def _buffer_span(table: Table) -> tuple[int, int] | None:
    if table.scalar(1, "uint64") > 1:
        raise FlatBufferError("its constants lie behind the model, as in files above 2 GB")
    span = table.span(0)
    return None if span is None or span[1] == 0 else span


def _indices(table: Table, slot: int, num_tensors: int, *, lowest: int) -> tuple[int, ...]:
    values = _ints(table, slot, _MAX_OPERANDS)
    if any(not lowest <= v < num_tensors for v in values):
        raise FlatBufferError("it names a tensor that does not exist")
    return values


def _ints(table: Table, slot: int, limit: int) -> tuple[int, ...]:
    values = table.array(slot, np.int32)
    if len(values) > limit:
        raise FlatBufferError(f"a list of {len(values)} numbers is longer than the limit of {limit}")
    return tuple(int(v) for v in values)
