"""NAME_observation and NAME_action in memory: how they lie there, and rows of them as bytes.

So they are on devices, in frames and in golden vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.edges import action_shape, is_integer, num_masks
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.policy_step import part_rows

Rows = NDArray[np.uint8]  # [N, sizeof the struct]
_TYPES = {"float32": "<f4", "int32": "<i4", "uint8": "u1"}


@dataclass(frozen=True)
class StructField:
    """A field of a struct: an array in C order."""

    name: str
    offset: int  # in bytes
    dtype: str  # of NumPy, little endian
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Count its bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class ObservationLayout:
    """NAME_observation: its parts, as the policy lists them, and the mask of allowed actions."""

    parts: tuple[StructField, ...]
    mask: StructField | None
    num_bytes: int  # a multiple of 4


def observation_layout(policy: IntegerPolicy) -> ObservationLayout:
    """Lay the parts out: words first, then bytes, then the mask, each kind in the policy's order."""
    offset, offsets = 0, {}
    for is_bytes in (False, True):
        for part in policy.parts:
            if (part.source == "uint8") == is_bytes:
                offsets[part.name] = offset
                offset += part.size * np.dtype(_TYPES[part.source]).itemsize
    parts = tuple(
        StructField(part.name, offsets[part.name], _TYPES[part.source], part.shape) for part in policy.parts
    )
    masks = num_masks(policy.action)
    mask = StructField("action_mask", offset, "u1", (masks,)) if masks else None
    return ObservationLayout(parts, mask, -(-(offset + masks) // 4) * 4)


def action_layout(policy: IntegerPolicy) -> StructField:
    """Return the one field of NAME_action."""
    action = policy.action
    return StructField("action", 0, "<i4" if is_integer(action) else "<f4", action_shape(action))


def observation_rows(
    policy: IntegerPolicy,
    observations: NDArray[Any] | Mapping[str, NDArray[Any]],
    action_masks: NDArray[np.bool_] | None = None,
) -> Rows:
    """Lay observations [N, *shape], or these by part, and masks out as structs; None allows everything."""
    layout = observation_layout(policy)
    parts = [part_rows(policy, observations, i) for i in range(len(layout.parts))]
    count = len(parts[0])
    if any(len(part) != count for part in parts):
        raise ValueError("all parts of observations must have the same number of rows")
    if len(parts) == 1 and layout.parts[0].num_bytes == layout.num_bytes:
        return _bytes_of(parts[0], layout.parts[0])
    rows = np.zeros((count, layout.num_bytes), np.uint8)
    for part, field in zip(parts, layout.parts, strict=True):
        rows[:, field.offset : field.offset + field.num_bytes] = _bytes_of(part, field)
    if layout.mask is not None:
        start, size = layout.mask.offset, layout.mask.num_bytes
        rows[:, start : start + size] = _checked(action_masks, (count, size))
    return rows


def read_observations(
    policy: IntegerPolicy, rows: Rows
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None]:
    """Invert `observation_rows`: the parts by name, and the masks where the policy takes them."""
    layout = observation_layout(policy)
    parts = {field.name: _read(rows, field) for field in layout.parts}
    return parts, None if layout.mask is None else _read(rows, layout.mask) != 0


def action_rows(policy: IntegerPolicy, actions: NDArray[Any]) -> Rows:
    """Lay actions [N, *action_shape] out as structs."""
    return _bytes_of(actions, action_layout(policy))


def read_actions(policy: IntegerPolicy, rows: Rows) -> NDArray[np.int64] | NDArray[np.float32]:
    """Return actions int64 or float32 [N, *action_shape] from structs."""
    field = action_layout(policy)
    found = _read(rows, field)
    return found.astype(np.int64) if field.dtype == "<i4" else found.astype(np.float32)


def _bytes_of(values: NDArray[Any], field: StructField) -> Rows:
    little = np.ascontiguousarray(values, field.dtype)
    flat = little.reshape(len(little), int(np.prod(field.shape, dtype=np.int64)))
    return flat.view(np.uint8).reshape(len(little), field.num_bytes)


def _read(rows: Rows, field: StructField) -> NDArray[Any]:
    part = np.ascontiguousarray(rows[:, field.offset : field.offset + field.num_bytes])
    return part.view(field.dtype).reshape(len(rows), *field.shape)


def _checked(masks: NDArray[np.bool_] | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
    if masks is None:
        return np.ones(shape, np.bool_)
    found = np.asarray(masks, np.bool_)
    if found.shape != shape:
        raise ValueError(f"masks must be [{shape[0]}, {shape[1]}], got {found.shape}")
    return found
