"""A `.tflite` file as plain data: tensors, operators, and where each constant lies in the file.

The file is parsed here and not by a runtime's C++ code, so that damaged and hostile ones are refused
in one sentence. Field numbers and enum values are those of LiteRT's public schema, version 3.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError
from edgeqrl.network.flatbuffer import FlatBufferError, Table, root_table
from edgeqrl.network.tflite_schema import (
    BUILTIN_OPERATORS,
    DTYPES,
    ENUMERATIONS,
    OPERATOR_OPTIONS,
    TENSOR_TYPES,
)

OptionValue = int | float | bool | str | tuple[int, ...]

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
    shape_signature: tuple[int, ...] | None = None  # the shape with -1 for axes that a caller may resize

    @property
    def size(self) -> int:
        """Count the elements."""
        return math.prod(self.shape)

    @property
    def is_constant(self) -> bool:
        """Tell whether the file holds the tensor's values."""
        return self.data is not None

    def values(self) -> NDArray[np.generic]:
        """Return a constant's values [*shape], a read-only view of the file's bytes; INT4 as new int8."""
        if self.data is None or self.dtype not in (*DTYPES, "INT4"):
            raise DataError(f"Tensor '{shown(self.name)}' of the .tflite file holds no readable values.")
        dtype = np.dtype(DTYPES.get(self.dtype, "i1")).newbyteorder("<")
        num_bytes = (self.size + 1) // 2 if self.dtype == "INT4" else self.size * dtype.itemsize
        if len(self.data) != num_bytes:
            raise DataError(
                f"Tensor '{shown(self.name)}' of the .tflite file has {len(self.data)} bytes of values, "
                f"and its shape {self.shape} needs {num_bytes}: the file is damaged."
            )
        values = np.frombuffer(self.data, dtype)
        if self.dtype == "INT4":  # two a byte, the first in the low half
            values = np.stack((values << 4 >> 4, values >> 4), axis=1).ravel()[: self.size]
        return values.reshape(self.shape)


@dataclass(frozen=True)
class OperatorInfo:
    """One operator; operands are indices of tensors, -1 an optional one left out."""

    name: str  # LiteRT builtin name, e.g. "FULLY_CONNECTED"
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    # By the schema's field names, all that the operator has (see OPERATOR_OPTIONS); enumerations by name.
    options: Mapping[str, OptionValue] = field(default_factory=dict, hash=False)

    @property
    def fused_activation(self) -> str:
        """Return the activation fused into the operator, "NONE" where it has none."""
        return str(self.options.get("fused_activation_function", "NONE"))

    def number(self, option: str) -> int:
        """Return an option that is an integer or a truth value."""
        value = self.options[option]
        assert isinstance(value, int)
        return value


@dataclass(frozen=True, eq=False)
class TFLiteModel:
    """The first subgraph of a file."""

    tensors: tuple[TensorInfo, ...]
    operators: tuple[OperatorInfo, ...]  # in order of execution
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    num_subgraphs: int
    signatures: tuple[str, ...] = ()  # names under which a caller may call the graphs


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
        model = _subgraph(data, graphs[0], codes, buffers, len(graphs))
        return replace(model, signatures=tuple(t.string(2) for t in root.tables(7, _MAX_TABLES)))
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


def with_unique_names(model: TFLiteModel) -> TFLiteModel:
    """Return the model with a name for each tensor: the file's own, made unique by its index where needed."""
    tensors: list[TensorInfo] = []
    taken: set[str] = set()
    for i, tensor in enumerate(model.tensors):
        name = tensor.name or f"tensor_{i}"
        while name in taken:
            name = f"{name}#{i}"
        taken.add(name)
        tensors.append(tensor if name == tensor.name else replace(tensor, name=name))
    return replace(model, tensors=tuple(tensors))


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
    text = _printable(name)
    return text if len(text) <= 80 else text[:77] + "..."


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


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
    name = _printable(table.string(3))
    shape = _ints(table, 0, _MAX_RANK)
    if any(n < 0 for n in shape) or math.prod(shape) > _MAX_ELEMENTS:
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
        shape_signature=_ints(table, 7, _MAX_RANK) or None,
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
    return OperatorInfo(
        name=codes[code],
        inputs=_indices(table, 1, num_tensors, lowest=-1),
        outputs=_indices(table, 2, num_tensors, lowest=0),
        options=_options(codes[code], table),
    )


def _options(name: str, operator: Table) -> Mapping[str, OptionValue]:
    if name not in OPERATOR_OPTIONS:
        return MappingProxyType({})
    tag, fields = OPERATOR_OPTIONS[name]
    table = operator.table(4)
    if table is not None and operator.scalar(3, "uint8") != tag:
        raise FlatBufferError(f"an operator {name} has the options of another")
    return MappingProxyType(
        {key: _option(table, slot, kind, default) for key, (slot, kind, default) in fields.items()}
    )


def _option(table: Table | None, slot: int, kind: str, default: OptionValue) -> OptionValue:
    if table is None or not table.has(slot):
        return () if kind == "ints" else bool(default) if kind == "bool" else default
    if kind in ENUMERATIONS:
        number = table.scalar(slot, "int8")
        return ENUMERATIONS[kind].get(number, f"{kind.upper()}_{number}")
    if kind == "float32":
        return table.real(slot)
    if kind == "string":
        return table.string(slot)
    if kind == "ints":
        return _ints(table, slot, _MAX_RANK)
    return bool(table.scalar(slot, kind)) if kind == "bool" else table.scalar(slot, kind)


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
    return tuple(values.tolist())
