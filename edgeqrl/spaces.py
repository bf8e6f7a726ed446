"""Spaces of Gymnasium in the terms of a board: an observation is one or more parts, each an array."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UsageError
from edgeqrl.names import RESERVED_WORDS
from edgeqrl.network.parts import ObservationPart

if TYPE_CHECKING:
    import gymnasium

_OTHER_FIELDS = ("action_mask", "padding")  # of what a step is given in C
_ACTIONS = "Discrete, MultiDiscrete, MultiBinary or Box actions"
_CURES = {
    "Text": "text is no number",
    "Graph": "its size changes from step to step",
    "Sequence": "its length changes from step to step",
    "OneOf": "its kind changes from step to step",
}


def observation_parts(space: "gymnasium.Space[Any]") -> tuple[ObservationPart, ...]:
    """Return the parts of an observation space, in the order of the space.

    Floating-point boxes are float32; boxes of bytes or truth values and MultiBinary are uint8; Discrete and
    MultiDiscrete are int32 with classes; other whole numbers are float32. Raises UsageError for spaces that
    are not arrays of one shape.
    """
    found = tuple(_part(inner, path) for inner, path in _leaves(space, ()))
    names = [part.name for part in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"Two parts of the observation would both be called '{twice[0]}' in C; rename one of its keys."
        )
    return found


def part_bounds(space: "gymnasium.Space[Any]") -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return the least and the greatest value of each element of each part, flattened, by the part's name."""
    return {field_name(path): _bounds(inner) for inner, path in _leaves(space, ())}


def field_name(path: tuple[str, ...]) -> str:
    """Return the C field that a path in a Dict or Tuple space gets; a plain space has no path."""
    if not path:
        return "observation"
    name = re.sub(r"[^A-Za-z0-9]+", "_", "_".join(path)).strip("_")
    is_taken = name in RESERVED_WORDS or name in _OTHER_FIELDS or name.lower().startswith("eqrl")
    return f"part_{name}" if not name or name[0].isdigit() or is_taken else name


def is_one_array(space: "gymnasium.Space[Any]") -> bool:
    """Say whether observations of `space` are one array, and not a dict or tuple of parts."""
    return not _is(space, "Dict", "Tuple")


def part_at(observation: Any, key: str) -> Any:
    """Return the part of an observation that lies at `key`."""
    for name in key.split("/") if key else ():
        observation = observation[name if isinstance(observation, Mapping) else int(name)]
    return observation


def part_array(part: ObservationPart, rows: Sequence[Any]) -> NDArray[Any]:
    """Return `rows` of one part as a new array [N, *shape] of the part's type.

    Raises ValueError if they have another shape, are not finite, or are not of that type.
    """
    dtype = np.dtype(part.source)
    try:
        with np.errstate(over="ignore"):  # beyond float32 becomes inf, which is refused below
            batch = np.array(rows, np.float32 if dtype == np.float32 else None)
    except (TypeError, ValueError, OverflowError):  # text, or of several shapes
        batch = np.empty(0)
    if batch.shape != (len(rows), *part.shape):
        found = sorted({str(np.shape(row)) for row in rows})
        raise ValueError(f"of shape {', '.join(found)}, but its observation space says {part.shape}")
    if dtype == np.float32:
        if not np.isfinite(batch).all():
            is_finite = np.isfinite(batch).reshape(len(batch), -1).all(axis=1)
            raise NotFiniteError(int(np.flatnonzero(~is_finite)[0]))
        return batch
    if batch.dtype == dtype:
        return batch
    with np.errstate(invalid="ignore"):
        whole = batch.astype(dtype) if batch.dtype.kind in "biuf" else np.empty(0)
    if not np.array_equal(whole, batch):
        raise ValueError(f"with values that are not {part.source}")
    return whole


class NotFiniteError(ValueError):
    """A row holds NaN or an infinity."""

    def __init__(self, row: int) -> None:
        super().__init__("that are not finite in float32")
        self.row = row


def class_counts(space: "gymnasium.Space[Any]") -> tuple[int, ...] | None:
    """Return how many actions each choice of a discrete action space has; None for other spaces."""
    if _is(space, "Discrete"):
        return (int(_of(space, "n")),)
    if _is(space, "MultiDiscrete"):
        return tuple(int(count) for count in np.ravel(_of(space, "nvec")))
    if _is(space, "MultiBinary"):
        return (2,) * int(np.prod(space.shape or ()))
    return None


def class_starts(space: "gymnasium.Space[Any]") -> NDArray[np.int64]:
    """Return the first action of each choice of a discrete action space, flattened."""
    counts = class_counts(space) or ()
    start = np.ravel(getattr(space, "start", 0)).astype(np.int64)
    return np.broadcast_to(start, (len(counts),)) if len(start) == 1 else start


def require_actions(space: "gymnasium.Space[Any]", name: str) -> None:
    """Raise UsageError unless a policy can choose in an action space; `name` is the environment's."""
    if not _is(space, "Discrete", "MultiDiscrete", "MultiBinary", "Box"):
        raise UsageError(
            f"Actions of environment '{name}' are not one array but a {type(space).__name__}; wrap it so "
            f"that it takes {_ACTIONS}."
        )


def _leaves(space: "gymnasium.Space[Any]", path: tuple[str, ...]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Give the spaces in a space that are neither Dict nor Tuple, with where they lie."""
    if _is(space, "Dict", "Tuple"):
        inner = _of(space, "spaces")
        for key, value in inner.items() if isinstance(inner, Mapping) else enumerate(inner):
            yield from _leaves(value, (*path, str(key)))
    else:
        yield space, path


def _part(space: Any, path: tuple[str, ...]) -> ObservationPart:
    name, key = field_name(path), "/".join(path)
    shape = tuple(int(n) for n in space.shape or ())
    if 0 in shape:
        where = f" in the part '{key}'" if key else ""
        raise UsageError(
            f"The environment's observation has no numbers{where}: its shape is {shape}; leave it out."
        )
    if _is(space, "Discrete", "MultiDiscrete"):
        counts, starts = class_counts(space) or (), class_starts(space)
        classes = tuple((int(start), count) for start, count in zip(starts, counts, strict=True))
        return ObservationPart(name, shape, "int32", one_hot=classes, key=key)
    if not _is(space, "Box", "MultiBinary"):
        kind = type(space).__name__
        what = f"The part '{key}' of the observations" if key else "Observations"
        why = _CURES.get(kind, "it is not one of Gymnasium's")
        raise UsageError(f"{what} cannot go to a board as {kind}: {why}; give an array of one shape instead.")
    is_bytes = _is(space, "MultiBinary") or space.dtype in (np.dtype(np.uint8), np.dtype(np.bool_))
    return ObservationPart(name, shape, "uint8" if is_bytes else "float32", key=key)


def _bounds(space: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    counts = class_counts(space)
    if counts is None:
        low, high = (np.ravel(bound).astype(np.float64) for bound in (space.low, space.high))
        return low, high
    low = class_starts(space).astype(np.float64)
    return low, low + np.array(counts) - 1


def _is(space: Any, *kinds: str) -> bool:
    import gymnasium

    return isinstance(space, tuple(getattr(gymnasium.spaces, kind) for kind in kinds))


def _of(space: Any, name: str) -> Any:
    return getattr(space, name)
