"""The float edges of a policy, in integer arithmetic on IEEE bits, so that every machine agrees.

`runtime/eqrl_edges.c` is the twin of this file. Both say what the numbers mean:

observation -> int8   (or int16) x is a float32. q = clamp(zero_point + round(x / scale)), where 1 / scale is
                      rounded once to 32 significant bits and halves round away from zero.
                      Denormals count as zero. NaN gives zero_point; infinities saturate; both flag.
int8 -> action        (or int16) argmax (the lowest index wins a tie), or fixed-point affine with a clip, then
                      rounded once, to nearest even, to float32.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

SATURATED = 1  # status flag: an observation lay outside the calibrated range
NOT_FINITE = 2  # status flag: an observation was NaN or infinite


@dataclass(frozen=True)
class ObservationEdge:
    """How float32 observations become the network's int8 input."""

    shape: tuple[int, ...]
    scale: float
    zero_point: int
    dtype: str = "int8"  # or "int16"

    def __post_init__(self) -> None:
        if not 2.0**-100 < self.scale < 2.0**100:
            raise ValueError(f"observation scale is out of range: {self.scale}")
        lowest, highest = limits(self.dtype)
        if not lowest <= self.zero_point <= highest:
            raise ValueError(f"zero_point must fit {self.dtype}, got {self.zero_point}")

    @property
    def size(self) -> int:
        """Count the features."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def inverse(self) -> tuple[int, int]:
        """Return `(multiplier, bias)`: 1 / scale = multiplier * 2**(126 - bias) to 32 bits.

        `multiplier` is in [2**31, 2**32). A float32 whose exponent field is e needs the right shift
        bias - e after the 32 x 32 bit high multiply.
        """
        inverse = 1 / Fraction(self.scale)
        power = 0
        while inverse < 2**31:
            inverse, power = inverse * 2, power + 1
        while inverse >= 2**32:
            inverse, power = inverse / 2, power - 1
        multiplier = int(inverse + Fraction(1, 2))
        if multiplier == 2**32:
            multiplier, power = 2**31, power - 1
        return multiplier, 126 + power


@dataclass(frozen=True)
class ArgmaxEdge:
    """Discrete actions: start + index of the largest output, the lowest index on a tie."""

    num_actions: int
    start: int = 0
    is_masked: bool = False  # the step takes a mask of allowed actions

    def __post_init__(self) -> None:
        if not 1 <= self.num_actions <= 32767:
            raise ValueError(f"num_actions is out of range: {self.num_actions}")


@dataclass(frozen=True)
class AffineEdge:
    """Continuous actions: float32(clamp(q * gain + offset, low, high) * 2**-fraction_bits), each int32."""

    gain: tuple[int, ...]  # one an action
    offset: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    fraction_bits: tuple[int, ...]
    shape: tuple[int, ...]  # of the action
    dtype: str = "int8"  # or "int16": of the output that is read

    def __post_init__(self) -> None:
        fields = (self.gain, self.offset, self.low, self.high, self.fraction_bits)
        if {len(field) for field in fields} != {int(np.prod(self.shape, dtype=np.int64))}:
            raise ValueError("one gain, offset, low, high and fraction_bits per action")
        ends = limits(self.dtype)
        for gain, offset, low, high, bits in zip(*fields, strict=True):
            if max(abs(gain * end + offset) for end in ends) >= 2**31:
                raise ValueError("the affine action could overflow int32")
            if not (-(2**31) < low <= high < 2**31 and -60 <= bits <= 60):
                raise ValueError("action bounds must fit int32, low <= high")


ActionEdge = ArgmaxEdge | AffineEdge


def make_affine_edge(
    *,
    scale: float,
    zero_point: int,
    gain: NDArray[np.float64],
    offset: NDArray[np.float64],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    dtype: str = "int8",
) -> AffineEdge:
    """Build the edge action = clip(gain * scale * (q - zero_point) + offset, low, high).

    All arrays have the action's shape; infinite bounds mean no clip. Each action gets the most
    fraction bits that keep everything inside int32, so the error is below 2**-23 of its range, and below
    2**-16 for int16 outputs.
    """
    columns = zip(*(np.asarray(a, np.float64).ravel() for a in (gain, offset, low, high)), strict=True)
    rows = [_affine_row(Fraction(scale), zero_point, limits(dtype), *values) for values in columns]
    gains, offsets, lows, highs, bits = zip(*rows, strict=True)
    return AffineEdge(gains, offsets, lows, highs, bits, np.asarray(low).shape, dtype)


def limits(dtype: str) -> tuple[int, int]:
    """Return the least and the greatest value of "int8" or "int16"."""
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def quantize_observations(
    edge: ObservationEdge, observations: NDArray[np.float32]
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Quantize observations [N, *shape] to the edge's dtype; also return status flags [N]."""
    values = np.ascontiguousarray(observations, np.float32)
    bits = values.view(np.uint32).astype(np.int64)
    exponent = (bits >> 23) & 0xFF
    is_nan = (exponent == 255) & ((bits & 0x7FFFFF) != 0)
    mantissa = np.where((exponent == 0) | is_nan, 0, ((bits & 0x7FFFFF) | 0x800000) << 8)
    multiplier, bias = edge.inverse
    high = ((mantissa.astype(np.uint64) * np.uint64(multiplier)) >> np.uint64(32)).astype(np.int64)
    shift = np.where(exponent == 255, 12, np.clip(bias - exponent, 12, 33))
    magnitude = ((high >> (shift - 1)) + 1) >> 1  # to nearest, halves away from zero
    unclamped = np.where(bits >> 31 != 0, -magnitude, magnitude) + edge.zero_point
    quantized = np.clip(unclamped, *limits(edge.dtype))
    axes = tuple(range(1, values.ndim))
    flags = np.any(unclamped != quantized, axis=axes) * SATURATED
    flags = flags | np.any(exponent == 255, axis=axes) * NOT_FINITE
    return quantized.astype(edge.dtype), flags.astype(np.uint8)


def saturated_inputs(edge: ObservationEdge, observations: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell which of observations [N, *shape] the step counts in `state.saturated`: clamped, or not finite."""
    elements = np.ascontiguousarray(observations, np.float32).reshape(-1, 1)
    one = ObservationEdge((1,), edge.scale, edge.zero_point, edge.dtype)
    _, flags = quantize_observations(one, elements)
    return np.asarray(flags != 0).reshape(observations.shape)


def decode_actions(
    edge: ActionEdge,
    outputs: NDArray[Any],
    action_masks: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64] | NDArray[np.float32]:
    """Turn network outputs [N, n] into actions: int64 [N] or float32 [N, *action_shape].

    Where a mask allows nothing the mask is ignored, so that an action always comes out.
    """
    flat = outputs.reshape(len(outputs), -1)
    if isinstance(edge, ArgmaxEdge):
        wide = flat.astype(np.int64)
        if action_masks is not None:
            blocked = ~action_masks & action_masks.any(axis=1, keepdims=True)
            wide = np.where(blocked, np.int64(-(2**31) - 1), wide)
        return np.asarray(np.argmax(wide, axis=1) + edge.start, np.int64)
    fixed = flat.astype(np.int64) * np.array(edge.gain) + np.array(edge.offset)
    fixed = np.clip(fixed, np.array(edge.low), np.array(edge.high))
    exact = np.ldexp(fixed.astype(np.float64), -np.array(edge.fraction_bits))
    return np.asarray(exact, np.float32).reshape(len(flat), *edge.shape)


def _affine_row(
    scale: Fraction,
    zero_point: int,
    q_limits: tuple[int, int],
    gain: float,
    offset: float,
    low: float,
    high: float,
) -> tuple[int, int, int, int, int]:
    slope = Fraction(gain) * scale
    ends = [slope * (q - zero_point) + Fraction(offset) for q in q_limits]
    bounds = [Fraction(b) for b in (low, high) if np.isfinite(b)]
    largest = max(abs(v) for v in (*ends, *bounds))
    bits = 60
    while bits > -60 and largest * Fraction(2) ** bits > 2**31 - 512:
        bits -= 1
    unit = Fraction(2) ** bits
    fixed_gain = _round(slope * unit)
    fixed_offset = _round(Fraction(offset) * unit) - fixed_gain * zero_point
    fixed_low = -(2**31) + 1 if np.isneginf(low) else -((-Fraction(low) * unit) // 1)
    fixed_high = 2**31 - 1 if np.isposinf(high) else (Fraction(high) * unit) // 1
    if fixed_low > fixed_high:  # no multiple of the unit lies between the bounds, as where they are equal
        fixed_low = fixed_high = _round(Fraction(low) * unit)
    return fixed_gain, fixed_offset, int(fixed_low), int(fixed_high), bits


def _round(value: Fraction) -> int:
    return int((value + Fraction(1, 2)) // 1)
