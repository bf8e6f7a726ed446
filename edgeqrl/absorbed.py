"""What wrappers did to observations and actions, in numbers that a board can repeat. Imports no Gymnasium."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError, UsageError
from edgeqrl.network.images import ImageStep, ImageSteps, Reshape, image_shape
from edgeqrl.network.memory import FrameStack
from edgeqrl.network.parts import ObservationPart
from edgeqrl.preprocessing import Preprocessing

if TYPE_CHECKING:
    import gymnasium

Column = tuple[float, ...]


@dataclass(frozen=True)
class Normalization:
    """z = clip((x - mean) / sqrt(var + epsilon), -clip, clip), each number flattened."""

    mean: Column
    var: Column
    epsilon: float = 1e-8
    clip: float = float("inf")

    @property
    def affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return gain and offset of the same."""
        gain = 1.0 / np.sqrt(np.array(self.var, np.float64) + self.epsilon)
        return gain, -np.array(self.mean, np.float64) * gain


def read_normalization(path: Path | str) -> Normalization:
    """Read statistics from an `.npz` file: arrays `mean` and `var`, and numbers `epsilon` and `clip` if any.

    Raises DataError if the file is missing, damaged or says something else; nothing is unpickled.
    """
    from edgeqrl.recordings import read_arrays

    name = f"The statistics '{path}'"
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}.") from None
    try:
        arrays = {key: values.astype(np.float64).ravel() for key, values in read_arrays(data, name).items()}
    except (TypeError, ValueError):
        raise DataError(
            f"{name} hold what is no number; np.savez(FILE, mean=..., var=...) makes them."
        ) from None
    return _normalization(name, arrays)


def _normalization(name: str, arrays: dict[str, NDArray[np.float64]]) -> Normalization:
    unknown = sorted(set(arrays) - {"mean", "var", "epsilon", "clip"})
    if unknown or not {"mean", "var"} <= set(arrays):
        raise DataError(
            f"{name} must hold the arrays mean and var, and may hold epsilon and clip, "
            f"not {', '.join(arrays)}."
        )
    mean, var = arrays["mean"], arrays["var"]
    epsilon, clip = arrays.get("epsilon", np.array([1e-8])), arrays.get("clip", np.array([np.inf]))
    is_sound = len(mean) == len(var) > 0 and len(epsilon) == len(clip) == 1
    is_sound = is_sound and bool(np.isfinite([*mean, *var, *epsilon]).all() and clip[0] > 0.0)
    if not is_sound or float(var.min()) + float(epsilon[0]) <= 0.0:
        raise DataError(
            f"{name} must hold as many finite means as variances that are not negative, and a positive clip."
        )
    return Normalization(tuple(mean.tolist()), tuple(var.tolist()), float(epsilon[0]), float(clip[0]))


@dataclass(frozen=True)
class ActionTransform:
    """action of the environment = clip(gain * action of the policy + offset, low, high), flattened."""

    gain: Column
    offset: Column
    low: Column
    high: Column

    @classmethod
    def identity(cls, size: int) -> "ActionTransform":
        """Return the transform that changes nothing."""
        infinity = (float("inf"),) * size
        return cls((1.0,) * size, (0.0,) * size, tuple(-value for value in infinity), infinity)

    def head_columns(
        self, low: Sequence[float], high: Sequence[float], gain: Sequence[float], offset: Sequence[float]
    ) -> tuple[Column, Column, Column, Column]:
        """Return (low, high, gain, offset) of this transform after clip(gain * x + offset, low, high)."""
        scale, shift, least, most = (
            np.array(v, np.float64) for v in (self.gain, self.offset, self.low, self.high)
        )
        ends = (np.clip(scale * np.asarray(end, np.float64) + shift, least, most) for end in (low, high))
        columns = (
            *ends,
            scale * np.asarray(gain, np.float64),
            scale * np.asarray(offset, np.float64) + shift,
        )
        low_column, high_column, gain_column, offset_column = (tuple(c.tolist()) for c in columns)
        return low_column, high_column, gain_column, offset_column

    def after(self, inner: "ActionTransform") -> "ActionTransform":
        """Return the transform that is this one first and then `inner`, which lies nearer the environment."""
        low, high, gain, offset = inner.head_columns(self.low, self.high, self.gain, self.offset)
        return ActionTransform(gain, offset, low, high)

    def apply(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """Return the environment's actions [N, ...] for the policy's."""
        flat = np.asarray(actions, np.float64).reshape(len(actions), -1)
        moved = np.clip(flat * self.gain + self.offset, self.low, self.high)
        return np.asarray(moved.reshape(np.shape(actions)))


@dataclass(frozen=True)
class Affine:
    """A step: z = gain * x + offset, each number of what it meets."""

    gain: NDArray[np.float64]
    offset: NDArray[np.float64]
    wrapper: str


@dataclass(frozen=True)
class Normalize:
    """A step: statistics of the observation; None where the wrapper's own must not be used."""

    statistics: Normalization | None
    wrapper: str


@dataclass(frozen=True)
class Stack:
    """A step: the last frames along a new first axis."""

    num_frames: int
    padding: str  # "first" or "zero"


Step = Affine | Normalize | Stack | ImageStep  # of these, Reshape is for all observations


@dataclass
class FrameShape:
    """The shape of one frame, followed through the steps."""

    raw: tuple[int, ...]
    image: ImageSteps = ()  # what bytes have become so far
    num_frames: int = 1
    is_new_axis: bool = True  # else frames are joined along their first axis

    def __post_init__(self) -> None:
        self.shape = self.raw

    def take(self, step: Stack | ImageStep) -> None:
        """Go on behind a step. Raises ValueError for images that do not fit it."""
        if isinstance(step, Stack):
            self.num_frames, self.is_new_axis = step.num_frames, True
        elif isinstance(step, Reshape):
            self._reshape(step.shape)
        else:
            self.image = (*self.reshaped_image, step)
            self.shape = image_shape(self.raw, self.image)

    @property
    def reshaped_image(self) -> ImageSteps:
        """Return the steps of the image that end in the shape of now."""
        is_same = image_shape(self.raw, self.image) == self.shape
        return self.image if is_same else (*self.image, Reshape(self.shape))

    def _reshape(self, shape: tuple[int, ...]) -> None:
        if self.num_frames == 1:
            self.shape = shape
        elif shape[0] == self.num_frames and len(shape) > 1:
            self.shape, self.is_new_axis = shape[1:], True
        elif shape[0] % self.num_frames == 0:
            self.shape, self.is_new_axis = (shape[0] // self.num_frames, *shape[1:]), False
        else:
            raise UsageError(
                f"The stacked frames are reshaped to {shape}, which cuts through them; keep their axis first."
            )


@dataclass(frozen=True, eq=False)
class Absorbed:
    """What was taken off an environment: the policy does it on the board instead.

    The spaces are those that the agent was trained in: with every wrapper.
    """

    observation_space: "gymnasium.Space[Any]"
    action_space: "gymnasium.Space[Any]"
    steps: tuple[Step, ...] = ()
    part: ObservationPart | None = None  # the observation under the steps; None without steps
    action: ActionTransform | None = None
    wrappers: tuple[str, ...] = field(default=())  # names of what was absorbed, the innermost first

    def preprocessing(self, normalization: Normalization | None = None) -> Preprocessing | None:
        """Return what the policy does to a raw observation, or None if no wrapper changed observations.

        `normalization` replaces the statistics of a NormalizeObservation. Raises UsageError for what a
        board cannot repeat.
        """
        if normalization is not None and not any(isinstance(step, Normalize) for step in self.steps):
            raise UsageError(
                "--normalization goes with an environment in a NormalizeObservation wrapper; there is none."
            )
        return None if self.part is None else _Plan(self.part).of(self.steps, normalization)


class _Plan:
    """Folds steps into one affine map of the raw elements, one stack and one shape."""

    def __init__(self, part: ObservationPart) -> None:
        self.part = part
        self.is_one_hot = part.one_hot is not None
        self.frame = FrameShape(part.shape)
        self._begin(part.size)
        self.stack: Stack | None = None
        self.is_flat = not self.is_one_hot  # until flattened, a class is a number

    def of(self, steps: Sequence[Step], normalization: Normalization | None) -> Preprocessing:
        """Return the whole of `steps`."""
        for step in steps:
            if isinstance(step, Affine):
                self._affine(step.gain, step.offset, step.wrapper)
            elif isinstance(step, Normalize):
                self._normalize(normalization or step.statistics, step.wrapper)
            elif isinstance(step, Stack):
                self._push(step)
            elif isinstance(step, Reshape) and self.is_one_hot:
                self._flatten(step.shape)
            else:
                self.frame.take(step)
                if not isinstance(step, Reshape):
                    self._begin(prod(self.frame.shape))  # of bytes as they are, before frames are stacked
        image = self.frame.reshaped_image if self.frame.image else ()
        if image and len({*self.gain}) + len({*self.offset}) > 2:
            raise UsageError(
                "The pixels of an image are each scaled by numbers of their own, which a board does with no "
                "image that it makes grey or smaller; scale all alike, as RescaleObservation does."
            )
        frames = None
        if self.stack is not None:
            frames = FrameStack(self.stack.num_frames, 0, self.frame.is_new_axis, self.stack.padding)
        is_plain = self.is_one_hot or bool((self.gain == 1.0).all() and not self.offset.any())
        is_bounded = bool(np.isfinite([*self.low, *self.high]).any())
        part = ObservationPart(
            self.part.name,
            self.part.shape if self.is_one_hot or image else self.frame.shape,
            self.part.source,
            gain=None if is_plain else _column(self.gain),
            offset=None if is_plain else _column(self.offset),
            low=_column(self.low) if is_bounded else None,
            high=_column(self.high) if is_bounded else None,
            one_hot=self.part.one_hot,
            image=image,
        )
        return Preprocessing((part,), frames)

    def _begin(self, size: int) -> None:
        self.gain, self.offset = np.ones(size), np.zeros(size)
        self.low, self.high = np.full(size, -np.inf), np.full(size, np.inf)

    def _affine(self, gain: NDArray[np.float64], offset: NDArray[np.float64], wrapper: str) -> None:
        gain, offset = self._of_frame(gain, wrapper), self._of_frame(offset, wrapper)
        if self.stack is not None and self.stack.padding == "zero" and offset.any():
            raise _zero_padding("is no zero any more once it is scaled")
        self.gain, self.offset = gain * self.gain, gain * self.offset + offset
        with np.errstate(invalid="ignore"):
            moved = np.stack([gain * self.low + offset, gain * self.high + offset])
        ends = np.where(gain == 0.0, offset, moved)
        self.low, self.high = ends.min(axis=0), ends.max(axis=0)

    def _normalize(self, statistics: Normalization | None, wrapper: str) -> None:
        if statistics is None:
            raise UsageError(
                f"The statistics of {wrapper} are still running, or of no observation; give those of the "
                "training with --normalization FILE.npz (arrays mean and var), or freeze them with "
                "update_running_mean = False."
            )
        gain, offset = statistics.affine
        wanted = len(self.gain) * (self.stack.num_frames if self.stack else 1)
        if len(gain) not in (1, wanted):
            raise UsageError(
                f"The statistics of {wrapper} are of {len(gain)} numbers, but the observation has {wanted}."
            )
        self._affine(np.broadcast_to(gain, (wanted,)), np.broadcast_to(offset, (wanted,)), wrapper)
        self.low = np.clip(self.low, -statistics.clip, statistics.clip)
        self.high = np.clip(self.high, -statistics.clip, statistics.clip)

    def _of_frame(self, values: NDArray[np.float64], wrapper: str) -> NDArray[np.float64]:
        """Return the numbers of one frame; those of all frames must be alike."""
        if self.is_one_hot:
            raise UsageError(
                f"{wrapper} scales one-hot numbers, which a board does not; leave it out of the training."
            )
        if self.stack is None:
            return np.asarray(values, np.float64)
        frames = np.asarray(values, np.float64).reshape(self.stack.num_frames, -1)
        if not (frames == frames[0]).all():
            raise UsageError(
                f"{wrapper} treats the stacked frames unlike; put it under the frame stack, so that each "
                "observation is scaled once."
            )
        return np.asarray(frames[0])

    def _push(self, step: Stack) -> None:
        if self.stack is not None:
            raise ValueError("two frame stacks, one on the other")
        if step.padding == "zero" and not self.is_flat:
            raise _zero_padding("is a class")
        self.frame.take(step)
        self.frame.is_new_axis = self.is_flat
        self.stack = step

    def _flatten(self, shape: tuple[int, ...]) -> None:
        """Turn classes into ones and zeros."""
        if self.stack is not None and len(shape) == 1:
            self.frame.is_new_axis = False
        elif len(shape) != 1:
            raise UsageError("One-hot observations cannot be reshaped on a board; flatten them only.")
        self.is_flat = True


def _zero_padding(why: str) -> UsageError:
    return UsageError(f"FrameStackObservation pads with zeros, which {why}; train with padding_type='reset'.")


def _column(values: NDArray[np.float64]) -> Column:
    """Return one number where all are alike."""
    return tuple((values[:1] if (values == values[:1]).all() else values).tolist())
