"""One part of an observation: what it is, and how it becomes one input of the network, in real numbers.

Spaces, agents, integer policies and contracts all have this one; `edges/observation.py` is its integer twin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.images import ImageSteps, convert_images, image_from_json, image_shape, image_to_json

SOURCES = ("float32", "uint8", "int32")
COLUMNS = {"gain": 1.0, "offset": 0.0, "low": -np.inf, "high": np.inf}  # and what None stands for
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class ObservationPart:
    """One array of the observation, and how it becomes one input: clip(gain * x + offset, low, high).

    gain, offset, low and high hold one number for all elements or one an element; None leaves that out. Rows
    in between repeat. `one_hot` holds (start, number of classes) for each element of an int32 part, and then
    there are no others.
    """

    name: str  # a C identifier: "observation" for a plain space
    shape: tuple[int, ...]  # raw; () for one number
    source: str = "float32"  # raw element type, from SOURCES
    gain: Numbers | None = None
    offset: Numbers | None = None
    low: Numbers | None = None
    high: Numbers | None = None
    one_hot: tuple[tuple[int, int], ...] | None = None
    key: str = ""  # its path in a Dict or Tuple space, "arm/joints"; "" for a plain observation
    image: ImageSteps = ()  # of uint8: what the raw image becomes before all that

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"an observation is one of {SOURCES}, not {self.source!r}")
        if any(n < 1 for n in self.shape):
            raise ValueError(f"the shape of '{self.name}' must be positive, not {self.shape}")
        if self.image and self.source != "uint8":
            raise ValueError("only images of uint8 are converted")
        image_shape(self.shape, self.image)  # raises ValueError where the steps do not fit
        if (self.source == "int32") != (self.one_hot is not None):
            raise ValueError("one-hot observations are int32, and int32 observations are one-hot")
        if self.one_hot is not None:
            if len(self.one_hot) != self.size or any(classes < 1 for _, classes in self.one_hot):
                raise ValueError(f"'{self.name}' needs one start and number of classes an element")
            if self.is_affine:
                raise ValueError("a one-hot observation is not normalised")
        self._require_columns()

    @property
    def size(self) -> int:
        """Count the raw elements."""
        return prod(self.shape)

    @property
    def network_shape(self) -> tuple[int, ...]:
        """Return the shape of what it becomes, before frames are stacked."""
        if self.one_hot is not None:
            return (sum(classes for _, classes in self.one_hot),)
        return image_shape(self.shape, self.image)

    @property
    def network_size(self) -> int:
        """Count what it becomes."""
        return prod(self.network_shape)

    @property
    def is_affine(self) -> bool:
        """Tell whether numbers are normalised or clipped."""
        return any(getattr(self, name) is not None for name in COLUMNS)

    @property
    def is_raw_float(self) -> bool:
        """Tell whether the model takes the raw float32 values as they are."""
        return self.source == "float32" and not self.is_affine

    @property
    def num_rows(self) -> int:
        """Count the different rows of gain, offset, low and high: element i has row i % num_rows."""
        return max((len(row) for name in COLUMNS if (row := getattr(self, name)) is not None), default=1)

    @property
    def columns(self) -> tuple[Numbers, ...]:
        """Return gain, offset, low and high, each with one number a row."""
        rows = ((getattr(self, name), (default,)) for name, default in COLUMNS.items())
        given = (default if row is None else row for row, default in rows)
        return tuple(row * (self.num_rows // len(row)) for row in given)

    def values(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Return the float32 inputs [N, *network_shape] for raw values [N, *shape]."""
        if self.image:
            images = np.asarray(raw).astype(np.uint8, copy=False).reshape(len(raw), *self.shape)
            raw = convert_images(images, self.image)
        flat = np.asarray(raw).reshape(len(raw), -1 if len(raw) else prod(np.shape(raw)[1:]))
        if self.one_hot is not None:
            return self._one_hot_values(flat)
        wide = flat.astype(np.float32)
        if self.is_affine:
            gain, offset, low, high = (np.resize(row, flat.shape[1]) for row in self.columns)
            wide = np.clip(wide.astype(np.float64) * gain + offset, low, high).astype(np.float32)
        return wide.reshape(len(raw), *self.network_shape)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values; infinite bounds become null."""
        rows = {name: getattr(self, name) for name in COLUMNS}
        image = {"image": image_to_json(self.image)} if self.image else {}
        return {
            "name": self.name,
            "shape": list(self.shape),
            "source": self.source,
            **{name: None if row is None else [_finite(v) for v in row] for name, row in rows.items()},
            "one_hot": None if self.one_hot is None else [list(pair) for pair in self.one_hot],
            "key": self.key,
            **image,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Invert `to_json`; raise KeyError, TypeError or ValueError for anything else."""
        try:
            one_hot = data["one_hot"]
            return cls(
                name=str(data["name"]),
                shape=tuple(int(n) for n in data["shape"]),
                source=str(data["source"]),
                **{name: _row_from_json(name, data[name]) for name in COLUMNS},
                one_hot=None if one_hot is None else tuple((int(start), int(n)) for start, n in one_hot),
                key=str(data["key"]),
                image=image_from_json(data.get("image", [])),
            )
        except OverflowError:
            raise ValueError("a number of an observation is too large") from None

    def _one_hot_values(self, flat: NDArray[Any]) -> NDArray[np.float32]:
        assert self.one_hot is not None
        columns = []
        for column, (start, count) in zip(flat.T, self.one_hot, strict=True):
            index = np.clip(column.astype(np.int64) - start, 0, count - 1)  # the nearest class
            columns.append(np.eye(count, dtype=np.float32)[index])
        return np.concatenate(columns, axis=1)

    def _require_columns(self) -> None:
        given = [row for name in COLUMNS if (row := getattr(self, name)) is not None]
        if any(not row or self.num_rows % len(row) for row in given) or self.network_size % self.num_rows:
            raise ValueError(f"'{self.name}' needs one gain, offset, low and high, or one for each element")
        gain, offset, low, high = self.columns
        if not np.isfinite([gain, offset]).all():
            raise ValueError(f"the gain or offset of '{self.name}' is not finite")
        if not all(least <= most for least, most in zip(low, high, strict=True)):
            raise ValueError(f"the bounds of '{self.name}' are not in order")


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _row_from_json(name: str, row: Sequence[Any] | None) -> Numbers | None:
    if row is None:
        return None
    infinite: Any = {"low": -np.inf, "high": np.inf}.get(name)  # float(None) is refused
    return tuple(float(infinite if value is None else value) for value in row)
