"""What becomes of an image of bytes before it is quantized: grey, smaller, in another shape.

`runtime/eqrl_image.c` is the twin of this file. Both compute exactly, in integers, what OpenCV and Gymnasium
compute in floating point, so that every machine agrees; docs/environments.md says how far from theirs it is.

grayscale   floor of 0.2125 red + 0.7154 green + 0.0721 blue
resize      the mean over the area that a new pixel covers, to the nearest; halves to even, or up where both
            sides become half as long (OpenCV's INTER_AREA). Sides never grow.
reshape     the same bytes in another shape
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import gcd, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Shape = tuple[int, ...]

GREY_WEIGHTS = (3565158, 12002420, 1209637)  # of red, green and blue, with 24 fraction bits
GREY_BIAS = 839  # makes the floor of the sum that of the exact numbers, for every colour

NO_GREY, GREY_FIRST, GREY_LAST = 0, 1, 2  # relative to the resizing
_MOST_PARTS = (2**31 - 1) // 255  # of a new pixel's area, so that a sum of bytes fits
_ROWS = 64  # converted at a time
_HALVES_UP = (1, 3, 4)  # numbers of channels whose halving OpenCV rounds up


@dataclass(frozen=True)
class Grayscale:
    """One channel of three."""

    keep_dim: bool = False  # whether the axis of channels stays, with length 1

    def shape_of(self, shape: Shape) -> Shape:
        """Return the shape of what becomes of an image."""
        if len(shape) != 3 or shape[2] != 3:
            raise ValueError(f"only an image of three channels becomes grey, not one of shape {shape}")
        return (*shape[:2], 1) if self.keep_dim else shape[:2]

    def apply(self, images: Bytes) -> Bytes:
        """Return grey images for [N, height, width, 3]."""
        red, green, blue = (images[..., i].astype(np.uint32) * w for i, w in enumerate(GREY_WEIGHTS))
        grey: Bytes = ((red + green + blue + np.uint32(GREY_BIAS)) >> np.uint32(24)).astype(np.uint8)
        return grey.reshape(len(images), *self.shape_of(images.shape[1:]))

    def to_json(self) -> dict[str, Any]:
        """Return the step as plain JSON values."""
        return {"kind": "grayscale", "keep_dim": self.keep_dim}


@dataclass(frozen=True)
class Resize:
    """Fewer pixels."""

    height: int
    width: int

    def shape_of(self, shape: Shape) -> Shape:
        """Return the shape of what becomes of an image."""
        if len(shape) not in (2, 3):
            raise ValueError(f"only images are resized, not arrays of shape {shape}")
        if not (1 <= self.height <= shape[0] and 1 <= self.width <= shape[1]):
            raise ValueError(f"images of shape {shape} cannot be enlarged to {(self.height, self.width)}")
        if axis(shape[0], self.height).span * axis(shape[1], self.width).span > _MOST_PARTS:
            raise ValueError(
                f"images of shape {shape} and {(self.height, self.width)} have too few common divisors"
            )
        return (self.height, self.width, *shape[2:])

    def apply(self, images: Bytes) -> Bytes:
        """Return smaller images for [N, height, width] or [N, height, width, channels]."""
        plan = ImagePlan.of(images.shape[1:], (self,))
        wide = images.reshape(len(images), plan.height, plan.width * plan.depth).astype(np.float64)
        # Sums of products that are whole numbers below 2**53: the floating point is exact.
        lines = np.matmul(_overlaps(plan.height, self.height), wide)
        lines = lines.reshape(-1, plan.width, plan.depth)
        sums = np.matmul(_overlaps(plan.width, self.width), lines).astype(np.int64)
        quotient, rest = np.divmod(sums, plan.area)
        is_up = (2 * rest > plan.area) | ((2 * rest == plan.area) & ((quotient & 1 == 1) | plan.is_half_up))
        means: Bytes = (quotient + is_up).astype(np.uint8)
        return means.reshape(len(images), *self.shape_of(images.shape[1:]))

    def to_json(self) -> dict[str, Any]:
        """Return the step as plain JSON values."""
        return {"kind": "resize", "height": self.height, "width": self.width}


@dataclass(frozen=True)
class Reshape:
    """The same bytes in the same order."""

    shape: Shape

    def shape_of(self, shape: Shape) -> Shape:
        """Return the new shape."""
        if prod(shape) != prod(self.shape):
            raise ValueError(f"an image of shape {shape} cannot have shape {self.shape}")
        return self.shape

    def apply(self, images: Bytes) -> Bytes:
        """Return the arrays [N, *shape]."""
        return images.reshape(len(images), *self.shape_of(images.shape[1:]))

    def to_json(self) -> dict[str, Any]:
        """Return the step as plain JSON values."""
        return {"kind": "reshape", "shape": list(self.shape)}


ImageStep = Grayscale | Resize | Reshape
ImageSteps = tuple[ImageStep, ...]


@dataclass(frozen=True)
class Axis:
    """A side of an image in parts: an old pixel has `pixel` of them, a new one `span`; no common divisor."""

    pixel: int
    span: int


@dataclass(frozen=True)
class ImagePlan:
    """All steps at once, as the C takes them: each new pixel from the raw bytes."""

    height: int
    width: int
    depth: int  # channels of what is resized
    new_height: int
    new_width: int
    grey: int  # NO_GREY, GREY_FIRST or GREY_LAST
    is_half_up: bool

    @classmethod
    def of(cls, shape: Shape, steps: ImageSteps) -> "ImagePlan":
        """Return the plan of steps that `image_shape` has found to be sound."""
        kinds = [type(step) for step in steps]
        grey = NO_GREY
        if Grayscale in kinds:
            is_last = Resize in kinds and kinds.index(Resize) < kinds.index(Grayscale)
            grey = GREY_LAST if is_last else GREY_FIRST
        for step in steps:
            if isinstance(step, Resize):
                depth = prod(shape[2:])
                ratios = (shape[0] / step.height, shape[1] / step.width)
                is_half_up = ratios == (2.0, 2.0) and depth in _HALVES_UP
                return cls(shape[0], shape[1], depth, step.height, step.width, grey, is_half_up)
            shape = step.shape_of(shape)
        return cls(1, prod(shape), 1, 1, prod(shape), grey, is_half_up=False)

    @property
    def rows(self) -> Axis:
        """Return the parts of a column of pixels."""
        return axis(self.height, self.new_height)

    @property
    def columns(self) -> Axis:
        """Return the parts of a line of pixels."""
        return axis(self.width, self.new_width)

    @property
    def area(self) -> int:
        """Count the parts of a new pixel."""
        return self.rows.span * self.columns.span

    @property
    def inverse(self) -> int:
        """Return 1 / area with 32 fraction bits, cut."""
        return (2**32 - 1) // self.area


def axis(length: int, new: int) -> Axis:
    """Divide a side into parts of which old and new pixels are multiples."""
    common = gcd(length, new)
    return Axis(new // common, length // common)


def image_shape(shape: Shape, steps: ImageSteps) -> Shape:
    """Return the shape after all steps; raise ValueError where they do not fit, or are more than one plan."""
    resized: Shape | None = None
    for step in steps:
        if isinstance(step, Grayscale) and resized is not None and (len(resized) != 3 or resized[2] != 3):
            raise ValueError("an image whose channels are made of pixels does not become grey")
        shape = step.shape_of(shape)
        if isinstance(step, Resize):
            if resized is not None:
                raise ValueError("an image is resized once")
            resized = shape
    if sum(isinstance(step, Grayscale) for step in steps) > 1:
        raise ValueError("an image becomes grey once")
    return shape


def convert_images(images: Bytes, steps: ImageSteps) -> Bytes:
    """Return raw images [N, *shape] after all steps."""
    if not steps:
        return images
    chunks = []
    for first in range(0, max(len(images), 1), _ROWS):
        chunk = images[first : first + _ROWS]
        for step in steps:
            chunk = step.apply(chunk)
        chunks.append(chunk)
    return np.concatenate(chunks)


def image_to_json(steps: ImageSteps) -> list[dict[str, Any]]:
    """Return steps as plain JSON values."""
    return [step.to_json() for step in steps]


def image_from_json(data: Any) -> ImageSteps:
    """Invert `image_to_json`; raise KeyError, TypeError or ValueError for anything else."""
    return tuple(_step_from_json(step) for step in data)


def _step_from_json(data: Mapping[str, Any]) -> ImageStep:
    if data["kind"] == "grayscale":
        return Grayscale(keep_dim=bool(data["keep_dim"]))
    if data["kind"] == "resize":
        return Resize(int(data["height"]), int(data["width"]))
    if data["kind"] == "reshape":
        shape = tuple(int(n) for n in data["shape"])
        if any(n < 1 for n in shape):
            raise ValueError(f"an image cannot have shape {shape}")
        return Reshape(shape)
    raise ValueError(f"no image step: {data['kind']!r}")


@cache
def _overlaps(length: int, new: int) -> NDArray[np.float64]:
    """Count the parts that new pixels share with old ones [new, length]."""
    parts = axis(length, new)
    firsts = np.arange(new)[:, None] * parts.span
    starts = np.arange(length) * parts.pixel
    ends = np.minimum(firsts + parts.span, starts + parts.pixel)
    return np.asarray(np.maximum(ends - np.maximum(firsts, starts), 0), np.float64)
