"""Values of a scheme's parts as the scheme holds them: hashable, of one type each.

Each function takes the part's name and the value, and raises ValueError for a value of another kind.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

Pairs = tuple[tuple[str, Any], ...]


def number_of(name: str, value: Any) -> int:
    """Return a whole number as an int, one of NumPy too."""
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return found


def flag_of(name: str, value: Any) -> bool:
    """Return a truth value."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def names_of(name: str, value: Any) -> tuple[str, ...]:
    """Return a list of names in their order, each once."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name} must be a list of names, got {value!r}")
    return _once(name, value, value)


def pairs_of(read: Callable[[str, Any], Any]) -> Callable[[str, Any], Pairs]:
    """Return what reads a list of (name, value), each name once; values are read by `read`."""

    def pairs(name: str, value: Any) -> Pairs:
        items = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(p, list | tuple) and len(p) == 2 and isinstance(p[0], str) for p in items):
            raise ValueError(f"{name} must be a list of pairs of a name and a value, got {value!r}")
        made = [(layer, read(f"{name} of '{layer}'", found)) for layer, found in items]
        return _once(name, made, [layer for layer, _ in made])

    return pairs


def _once(name: str, items: Sequence[Any], names: Sequence[str]) -> tuple[Any, ...]:
    """Return items in the order of their names; none is there twice."""
    if twice := [item for item in names if names.count(item) > 1]:
        raise ValueError(f"{name}= names '{twice[0]}' twice; leave one out")
    return tuple(sorted(items))
