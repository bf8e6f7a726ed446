"""Files of `torch.save`, and Stable-Baselines3's zips of them, read without torch and without unpickling.

Such a file is a zip archive: `NAME/data.pkl` describes the tensors, `NAME/data/KEY` hold their bytes. The
description is read as data (see safe_pickle); only plain tensors become arrays.
"""

import zipfile
from collections.abc import Iterator
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.keras_files import MAX_BYTES
from edgeqrl.agents.safe_pickle import (
    MAX_BYTES as MAX_PICKLE_BYTES,
)
from edgeqrl.agents.safe_pickle import (
    Global,
    Made,
    Persistent,
    PickleError,
    class_name,
    entries,
    read_pickle,
)
from edgeqrl.errors import AgentError, one_line
from edgeqrl.files import read_member
from edgeqrl.network.tflite_model import shown

_ELEMENTS = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_MAX_AXES = 8
_MAX_DEPTH = 8  # of state dicts inside a checkpoint
_SAVE = "Save its weights alone: torch.save(model.state_dict(), 'NAME.pt')."


class Archive:
    """A zip archive from a stranger: known names, bounded sizes, nothing ever written to disk."""

    def __init__(self, source: Path | bytes, place: str) -> None:
        self.place = place
        opened: BinaryIO | Path = BytesIO(source) if isinstance(source, bytes) else source
        with self._refusing():
            self._archive = zipfile.ZipFile(opened)
            infos = self._archive.infolist()
        self.names = [info.filename for info in infos]
        for name in self.names:
            if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
                raise AgentError(
                    f"{place} holds '{shown(name)}', a name that leads out of it, and is not read."
                )
        if len(set(self.names)) != len(self.names):
            raise AgentError(f"{place} holds a file twice and is damaged. Save or copy it again.")
        if min((info.header_offset for info in infos), default=0) != 0:
            raise AgentError(f"{place} is damaged: a zip archive that ends early. Save or copy it again.")
        if sum(info.file_size for info in infos) > MAX_BYTES:
            raise _too_large(place, MAX_BYTES)

    def read(self, name: str, most_bytes: int = MAX_BYTES) -> bytes:
        """Return a member's bytes; raise AgentError where it is damaged or larger than `most_bytes`."""
        with self._refusing():
            info = self._archive.getinfo(name)
            if info.file_size > most_bytes:
                raise _too_large(f"'{shown(name)}' in {self.place}", most_bytes)
            return read_member(self._archive, info)

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _refusing(self) -> "_Refusing":
        return _Refusing(self.place)


class _Refusing:
    """Turn what zipfile, zlib, bz2 and lzma raise on damaged archives into one AgentError."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, AgentError):
            raise AgentError(f"{self.place} is damaged ({one_line(error)}). Save or copy it again.") from None


def is_torch_archive(names: list[str]) -> bool:
    """Tell whether these are the members of a file that torch.save wrote."""
    return _pickle_name(names) is not None


def read_state_dict(source: Path | bytes, place: str) -> dict[str, NDArray[Any]]:
    """Return the tensors of a `torch.save`d state dict by name, in order; nested dicts are joined by dots.

    Weights keep their dtype (bfloat16 becomes float32); what is no tensor is left out.

    Raises AgentError, naming `place`, for damaged, oversized and lying files, and for whole pickled
    modules, whose code is elsewhere.
    """
    with Archive(source, place) as archive:
        name = _pickle_name(archive.names)
        if name is None:
            raise AgentError(f"{place} is no PyTorch file of weights. {_SAVE}")
        try:
            found = read_pickle(archive.read(name, MAX_PICKLE_BYTES))
            tensors = _Tensors(archive, name.removesuffix("data.pkl"))
            return dict(_named_tensors(found, tensors))
        except PickleError as error:
            raise AgentError(f"{place} is refused: {one_line(error)}. {_SAVE}") from None


def _pickle_name(names: list[str]) -> str | None:
    found = [n for n in names if n == "data.pkl" or (n.endswith("/data.pkl") and n.count("/") == 1)]
    return found[0] if len(found) == 1 else None


def _named_tensors(value: Any, tensors: "_Tensors") -> Iterator[tuple[str, NDArray[Any]]]:
    seen: set[int] = set()
    pending = [("", value, 0)]
    while pending:
        prefix, value, depth = pending.pop()
        if depth and isinstance(value, Made) and tensors.is_tensor(value):
            yield prefix, tensors.array(value, prefix)
            continue
        if not _is_dict(value):
            if depth == 0:
                raise PickleError(
                    f"it holds a whole {shown(class_name(value))}, whose code is not in the file"
                )
            continue  # a counter, a setting, an optimizer's list
        if depth > _MAX_DEPTH or id(value) in seen:
            raise PickleError("its dicts lie too deep in each other")
        seen.add(id(value))
        dot = "." if prefix else ""
        inner = [(f"{prefix}{dot}{key}", item, depth + 1) for key, item in entries(value).items()]
        pending += reversed(inner)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, Made) and value.maker == Global("collections", "OrderedDict")
    )


class _Tensors:
    """The storages of one file and the tensors that are views of them."""

    def __init__(self, archive: Archive, folder: str) -> None:
        self._archive = archive
        self._folder = folder
        self._storages: dict[str, NDArray[Any]] = {}
        self._num_bytes = 0  # of all tensors: many may claim the same storage
        order = f"{folder}byteorder"
        self._is_big = order in archive.names and archive.read(order, 16).strip() == b"big"

    def is_tensor(self, value: Made) -> bool:
        """Tell whether the record is a tensor or a parameter, of whatever kind."""
        return isinstance(value.maker, Global) and value.maker.module.startswith("torch._")

    def array(self, value: Made, name: str) -> NDArray[Any]:
        """Return the values of a tensor record."""
        if value.maker in _PARAMETERS and value.arguments and isinstance(value.arguments[0], Made):
            value = value.arguments[0]
        if value.maker != _TENSOR or len(value.arguments) < 4:
            raise PickleError(f"'{shown(name)}' is made by {shown(class_name(value))}, not a plain tensor")
        storage, offset, size, stride = value.arguments[:4]
        kind, elements = self._storage(storage, name)
        is_plain = all(isinstance(dims, tuple) for dims in (size, stride)) and len(size) == len(stride)
        if not is_plain or len(size) > _MAX_AXES:
            raise PickleError(f"the tensor '{shown(name)}' has no sensible shape")
        if not all(type(n) is int and 0 <= n <= MAX_BYTES for n in (offset, *size, *stride)):
            raise PickleError(f"the tensor '{shown(name)}' has no sensible shape")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if prod(size) > elements.size or (prod(size) and last >= elements.size):
            raise PickleError(f"the tensor '{shown(name)}' is larger than its bytes")
        self._num_bytes += prod(size) * elements.itemsize
        if self._num_bytes > MAX_BYTES:
            raise PickleError("its tensors claim the same bytes too often")
        strides = tuple(step * elements.itemsize for step in stride)
        view = (
            np.lib.stride_tricks.as_strided(elements[offset:], size, strides) if prod(size) else elements[:0]
        )
        values = np.array(view.reshape(size))
        if kind == "BFloat16Storage":  # the upper half of a float32
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(values.dtype.newbyteorder("="))

    def _storage(self, reference: Any, name: str) -> tuple[str, NDArray[Any]]:
        identity = reference.identity if isinstance(reference, Persistent) else None
        if not (isinstance(identity, tuple) and len(identity) == 5 and identity[0] == "storage"):
            raise PickleError(f"the tensor '{shown(name)}' has no bytes")
        _, kind, key, _, count = identity
        if (
            not isinstance(kind, Global)
            or kind.name not in _ELEMENTS
            or not (isinstance(key, str) and type(count) is int)
        ):
            raise PickleError(f"the tensor '{shown(name)}' is of {shown(class_name(kind))}, not of numbers")
        if key not in self._storages:
            member = f"{self._folder}data/{key}"
            if member not in self._archive.names:
                raise PickleError(f"the bytes of the tensor '{shown(name)}' are missing")
            data = self._archive.read(member)
            element = np.dtype(_ELEMENTS[kind.name]).newbyteorder(">" if self._is_big else "<")
            if count * element.itemsize != len(data):
                raise PickleError(f"the tensor '{shown(name)}' does not have the bytes that it claims")
            self._storages[key] = np.frombuffer(data, element)
        return kind.name, self._storages[key]


_TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
_PARAMETERS = (
    Global("torch._utils", "_rebuild_parameter"),
    Global("torch._utils", "_rebuild_parameter_with_state"),
)


def _too_large(what: str, most_bytes: int) -> AgentError:
    return AgentError(f"{what} is, or unpacks to, more than {most_bytes >> 20} MiB and is not read.")
