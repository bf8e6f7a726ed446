"""FlatBuffers read with every offset checked: a file may lie, it cannot make us read elsewhere.

The wire format: a uoffset (uint32) points forward from where it stands. A table begins with an soffset
(int32) back to its vtable, which holds uint16s: its own bytes, the table's bytes, then each field's
place in the table or 0. A vector is a uint32 count and its elements. All little endian.

Tables may be referred to many times, so a small file could stand for a huge one: a budget bounds what is
read of it altogether.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SCALARS = {
    "int8": struct.Struct("<b"),
    "uint8": struct.Struct("<B"),
    "bool": struct.Struct("<?"),
    "int32": struct.Struct("<i"),
    "uint32": struct.Struct("<I"),
    "uint64": struct.Struct("<Q"),
}
_REAL = struct.Struct("<f")
_SOFFSET = struct.Struct("<i")
_UINT16 = struct.Struct("<H")
_UINT32 = _SCALARS["uint32"]
_LITTLE: dict[type[np.generic], np.dtype[Any]] = {
    dtype: np.dtype(dtype).newbyteorder("<") for dtype in (np.float32, np.int32, np.int64)
}
_FIELDS = tuple(struct.Struct(f"<{count}H") for count in range(32))  # of most vtables; larger ones are rare
_MAX_STRING_BYTES = 2**16
_LEAST_BUDGET = 2**20  # bytes that any file may have read
_READS_PER_BYTE = 8  # a file that shares nothing reads each byte once


class FlatBufferError(ValueError):
    """An offset or a length leaves the file, or a limit is passed."""


class Table:
    """One table; fields are read by their slot, as the schema numbers them."""

    def __init__(self, data: bytes, position: int, budget: "_Budget | None" = None) -> None:
        """Check that the table at `position` and its vtable lie in `data`."""
        self._data = data
        self._budget = budget or _Budget(len(data))
        self._position = position
        vtable = position - _unpack(_SOFFSET, data, position)
        size = _unpack(_UINT16, data, vtable)
        self._table_bytes = _unpack(_UINT16, data, vtable + 2)
        if size < 4 or size % 2 or vtable + size > len(data):
            raise FlatBufferError(f"the vtable at byte {vtable} is damaged")
        if self._table_bytes < 4 or position + self._table_bytes > len(data):
            raise FlatBufferError(f"the table at byte {position} is damaged")
        self._budget.take(size)
        count = size // 2 - 2
        layout = _FIELDS[count] if count < len(_FIELDS) else struct.Struct(f"<{count}H")
        self._fields = layout.unpack_from(data, vtable + 4)

    def scalar(self, slot: int, kind: str, default: int = 0) -> int:
        """Return a number, or its default where the field is absent."""
        place = self._place(slot, _SCALARS[kind].size)
        return default if place is None else int(_unpack(_SCALARS[kind], self._data, place))

    def real(self, slot: int, default: float = 0.0) -> float:
        """Return a float32, or its default where the field is absent."""
        place = self._place(slot, 4)
        return default if place is None else float(_REAL.unpack_from(self._data, place)[0])

    def string(self, slot: int) -> str:
        """Return a string, "" where it is absent; bytes that are no UTF-8 are replaced."""
        start, length = self.span(slot) or (0, 0)
        if length > _MAX_STRING_BYTES:
            raise FlatBufferError(f"a string of {length} bytes is longer than any name")
        self._budget.take(length)
        return self._data[start : start + length].decode(errors="replace")

    def table(self, slot: int) -> "Table | None":
        """Return a sub-table, or None."""
        place = self._place(slot, 4)
        return None if place is None else Table(self._data, self._follow(place), self._budget)

    def tables(self, slot: int, limit: int) -> list["Table"]:
        """Return a vector of tables, at most `limit` of them."""
        start, count = self._vector(slot, 4)
        if count > limit:
            raise FlatBufferError(f"a list of {count} tables is longer than the limit of {limit}")
        return [Table(self._data, self._follow(start + 4 * i), self._budget) for i in range(count)]

    def array(self, slot: int, dtype: type[np.generic]) -> NDArray[Any]:
        """Return a vector of float32, int32 or int64, empty where it is absent: a view of the file."""
        little = _LITTLE[dtype]
        start, count = self._vector(slot, little.itemsize)
        if count == 0:
            return np.empty(0, little)
        self._budget.take(count * little.itemsize)
        return np.frombuffer(self._data, little, count, start)

    def span(self, slot: int) -> tuple[int, int] | None:
        """Return where a vector of bytes or a string lies in the file: (offset, length)."""
        return None if self._place(slot, 4) is None else self._vector(slot, 1)

    def has(self, slot: int) -> bool:
        """Tell whether a field is present."""
        return self._place(slot, 1) is not None

    @property
    def num_slots(self) -> int:
        """Count the fields that the table's layout knows, present or not."""
        return len(self._fields)

    def place(self, slot: int, size: int) -> int | None:
        """Return where a field of `size` bytes stands in the file, or None where it is absent."""
        return self._place(slot, size)

    def _place(self, slot: int, size: int) -> int | None:
        offset = self._fields[slot] if slot < len(self._fields) else 0
        if offset == 0:
            return None
        if offset < 4 or offset + size > self._table_bytes:
            raise FlatBufferError(f"field {slot} of the table at byte {self._position} is outside of it")
        return self._position + offset

    def _follow(self, place: int) -> int:
        return place + int(_unpack(_UINT32, self._data, place))

    def _vector(self, slot: int, item_bytes: int) -> tuple[int, int]:
        place = self._place(slot, 4)
        if place is None:
            return 0, 0
        start = self._follow(place)
        count = int(_unpack(_UINT32, self._data, start))
        if start + 4 + count * item_bytes > len(self._data):
            raise FlatBufferError(f"the list at byte {start} leaves the file")
        return start + 4, count


class _Budget:
    """How many more bytes of a file may be read."""

    def __init__(self, size: int) -> None:
        self._left = _LEAST_BUDGET + _READS_PER_BYTE * size

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise FlatBufferError("its lists refer to the same bytes over and over")


def root_table(data: bytes, identifier: bytes) -> Table:
    """Return the root of a file with this 4-byte identifier."""
    if len(data) < 8:
        raise FlatBufferError(f"it has only {len(data)} bytes")
    if data[4:8] != identifier:
        raise FlatBufferError(f"it lacks the mark '{identifier.decode()}'")
    return Table(data, int(_unpack(_UINT32, data, 0)))


def _unpack(layout: struct.Struct, data: bytes, position: int) -> int:
    if position >= 0:
        try:
            return layout.unpack_from(data, position)[0]  # type: ignore[no-any-return]
        except struct.error:
            pass
    raise FlatBufferError(f"an offset points to byte {position} of {len(data)}")
