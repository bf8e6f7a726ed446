"""Pickles from strangers, read as data: every class and function in them becomes an inert record.

A pickle is a program for a small stack machine whose `GLOBAL` and `REDUCE` import and call what they
like. The machine here has no import and no call: it writes down what would have been made. Callers look
for the few records they know, above all NumPy arrays of any NumPy version.
"""

import pickletools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 2**28  # of one pickle, and of what it says again as bytes; statistics are far smaller
MAX_INSTRUCTIONS = 2**21  # one byte may ask for an object of fifty


class PickleError(Exception):
    """The bytes are no whole pickle, or hold something of another kind than was asked for."""


@dataclass(frozen=True)
class Global:
    """A class or function that the pickle names; it is not imported."""

    module: str
    name: str


@dataclass(eq=False)
class Made:
    """What calling `maker` on `arguments` would have made, and what was put into it; nothing was called."""

    maker: Any
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Persistent:
    """A reference to something outside the pickle, such as a tensor's storage."""

    identity: Any


def read_pickle(data: bytes) -> Any:
    """Return what a pickle describes: plain values, and Global, Made and Persistent for all else.

    Raises PickleError for what is not a pickle, ends early, or uses what no data needs.
    """
    if len(data) > MAX_BYTES:
        raise PickleError(f"it is larger than {MAX_BYTES >> 20} MiB")
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count == MAX_INSTRUCTIONS:
                raise PickleError(f"it has more than {MAX_INSTRUCTIONS} instructions")
            if opcode.name == "STOP":
                return machine.pop()
            machine.do(opcode.name, argument)
    except (AttributeError, IndexError, KeyError, MemoryError, OverflowError, TypeError, ValueError) as error:
        raise PickleError(f"it is damaged ({error})") from None
    raise PickleError("it ends early")


def class_name(value: Any) -> str:
    """Return `module.Class` of a record, or the type of a plain value."""
    if isinstance(value, Made):
        is_old = value.maker == Global("copyreg", "_reconstructor") and value.arguments
        value = value.arguments[0] if is_old else value.maker
    return f"{value.module}.{value.name}" if isinstance(value, Global) else type(value).__name__


def entries(value: Any) -> dict[Any, Any]:
    """Return the entries of a dict or of an OrderedDict."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Made) and value.maker == Global("collections", "OrderedDict"):
        return value.items
    raise PickleError(f"it holds a {class_name(value)} where a dict belongs")


def is_array(value: Any) -> bool:
    """Tell whether `to_array` would try to read this value."""
    return isinstance(value, Made) and value.maker in (*_RECONSTRUCT, *_FROM_BUFFER, *_SCALAR)


def to_array(value: Any) -> NDArray[Any]:
    """Return a NumPy array or scalar of numbers that NumPy 1 or 2 pickled."""
    if isinstance(value, bool | int | float):
        return np.asarray(value)
    if not is_array(value):
        raise PickleError(f"it holds a {class_name(value)} where an array of numbers belongs")
    try:
        if value.maker in _RECONSTRUCT:
            _, shape, dtype, is_fortran, content = value.state
        elif value.maker in _FROM_BUFFER:
            content, dtype, shape, order = value.arguments
            is_fortran = order == "F"
        else:
            (dtype, content), shape, is_fortran = value.arguments, (), False
        return _array(dtype, shape, bool(is_fortran), content)
    except (AttributeError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise PickleError(f"an array in it is damaged ({error})") from None


def _both(module: str, name: str) -> tuple[Global, Global]:
    return Global(f"numpy.core.{module}", name), Global(f"numpy._core.{module}", name)


_RECONSTRUCT = _both("multiarray", "_reconstruct")
_SCALAR = _both("multiarray", "scalar")
_FROM_BUFFER = _both("numeric", "_frombuffer")


def _array(dtype: Any, shape: Any, is_fortran: bool, content: Any) -> NDArray[Any]:
    found = _dtype(dtype)
    if not (isinstance(content, bytes | bytearray) and isinstance(shape, tuple)):
        raise ValueError("its values are not plain numbers")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("its shape is no shape")
    if prod(shape) * found.itemsize != len(content):
        raise ValueError(f"{len(content)} bytes do not fill shape {shape}")
    return np.frombuffer(bytes(content), found).reshape(shape, order="F" if is_fortran else "C").copy()


def _dtype(value: Any) -> np.dtype[Any]:
    if not (isinstance(value, Made) and value.maker == Global("numpy", "dtype") and value.arguments):
        raise ValueError("its element type is unknown")
    code = value.arguments[0]
    if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?(?:f[248]|[iu][1248]|b1)", code)):
        raise ValueError("its elements are not numbers")
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "="
    found = np.dtype(code)
    return found.newbyteorder(">") if order == ">" else found.newbyteorder("<") if order == "<" else found


_MARK = object()
_BYTES_OF_PROTOCOL_2 = (Global("_codecs", "encode"), Global("__builtin__", "bytes"))


class _Machine:
    """The stack and the memo. Dictionaries take plain keys only: hashing nested tuples may take for ever."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[Any, Any] = {}
        self.encoded_bytes = 0

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value belongs")
        return value

    def pop_to_mark(self) -> list[Any]:
        found = []
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def do(self, name: str, argument: Any) -> None:
        """Execute one instruction."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _FRESH:
            self.stack.append(_FRESH[name]())
        elif name in _PUTS:
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in _GETS:
            self.stack.append(self.memo[argument])
        elif name in _TUPLES:
            count = _TUPLES[name]
            self.stack.append(tuple([self.pop() for _ in range(count)][::-1]))
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"the instruction {name} belongs to no data")

    def put_into(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Made):
            target.elements.extend(values)
        else:
            raise ValueError("values for what holds none")

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Made) else target
        if not isinstance(items, dict) or len(values) % 2:
            raise ValueError("entries for what holds none")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int | float | bytes | Global | None):
                raise ValueError(f"a key of kind {class_name(key)}")
            items[key] = value

    def make(self, maker: Any, arguments: Any, more: Any = None) -> None:
        if not (isinstance(maker, Global | Made) and isinstance(arguments, tuple)):
            raise ValueError(f"a {type(maker).__name__} that is called")
        if maker in _BYTES_OF_PROTOCOL_2:
            text = arguments[0] if arguments else ""
            self.encoded_bytes += len(text)
            if self.encoded_bytes > MAX_BYTES:
                raise ValueError("too many bytes")
            self.stack.append(text.encode("latin1"))
            return
        self.stack.append(Made(maker, arguments, items=more if isinstance(more, dict) else {}))

    def build(self) -> None:
        state = self.pop()
        if not isinstance(self.stack[-1], Made):
            raise ValueError("a state for what has none")
        self.stack[-1].state = state

    def name_global(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a class without a name")
        self.stack.append(Global(module, name))


def _popped(machine: _Machine, count: int) -> Iterator[Any]:
    return iter([machine.pop() for _ in range(count)][::-1])


def _instance(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.make(Global(module, name), tuple(machine.pop_to_mark()))


def _object(machine: _Machine, argument: Any) -> None:
    maker, *arguments = machine.pop_to_mark()
    machine.make(maker, tuple(arguments))


def _set(elements: list[Any]) -> Made:
    return Made(Global("builtins", "set"), elements=elements)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_FRESH: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: _set([]),
}
_LITERAL_NAMES = """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE
    SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8"""
_LITERALS = frozenset(_LITERAL_NAMES.split())
_PUTS = frozenset(["PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"])
_GETS = frozenset(["GET", "BINGET", "LONG_BINGET"])
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "POP": lambda machine, _: machine.stack.pop(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "FROZENSET": lambda machine, _: machine.stack.append(_set(machine.pop_to_mark())),
    "APPEND": lambda machine, _: machine.put_into([machine.pop()]),
    "APPENDS": lambda machine, _: machine.put_into(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.put_into(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([*_popped(machine, 2)]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, argument: machine.name_global(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name_global(*_popped(machine, 2)),
    "REDUCE": lambda machine, _: machine.make(*_popped(machine, 2)),
    "NEWOBJ": lambda machine, _: machine.make(*_popped(machine, 2)),
    "NEWOBJ_EX": lambda machine, _: machine.make(*_popped(machine, 3)),
    "INST": _instance,
    "OBJ": _object,
    "BUILD": lambda machine, _: machine.build(),
    "PERSID": lambda machine, argument: machine.stack.append(Persistent(argument)),
    "BINPERSID": lambda machine, _: machine.stack.append(Persistent(machine.pop())),
}
