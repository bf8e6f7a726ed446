"""How an observation becomes int8 (or int16) of a scale and a zero point.

`runtime/eqrl_edges.c` and `runtime/eqrl_observe.c` are the twins of this file.

float32     q = clamp(zero_point + round(x / scale)), where 1 / scale is rounded once to 32 significant bits
            and halves round away from zero. Denormals count as zero. NaN gives zero_point; infinities
            saturate; both flag.
affine      the same of clip(gain * x + offset, low, high), in fixed point with `fraction_bits` bits below a
            step of the input: |gain| / scale is rounded to 32 significant bits, |x| times it is cut to the
            fixed point, offset and bounds are rounded to it. NaN counts as normalised 0. Only what the
            input's own range cuts is flagged, not what low and high cut.
uint8       a table of 256: any such function, rounded exactly. Never flags. Images become grey or smaller
            before, byte for byte (`images.py`).
one-hot     int32 -> 1 at its class and 0 elsewhere. A number of no class takes the nearest and flags.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.edges.action import limits
from edgeqrl.network.images import convert_images
from edgeqrl.network.parts import ObservationPart

SATURATED = 1  # status flag: an observation lay outside the calibrated range
NOT_FINITE = 2  # status flag: an observation was NaN or infinite
_MOST_BITS = {"int8": 12, "int16": 8}  # of the fixed point of an affine edge
_ROOM = 2**29  # what an offset in fixed point stays below, with the margin of a range
_MARGIN = {"int8": 2**9, "int16": 2**17}


@dataclass(frozen=True)
class ObservationEdge:
    """How one part of the observation becomes an input of the network, or one frame of it."""

    part: ObservationPart
    scale: float
    zero_point: int
    dtype: str = "int8"  # or "int16"

    def __post_init__(self) -> None:
        if not 2.0**-100 < self.scale < 2.0**100:
            raise ValueError(f"observation scale is out of range: {self.scale}")
        lowest, highest = limits(self.dtype)
        if not lowest <= self.zero_point <= highest:
            raise ValueError(f"zero_point must fit {self.dtype}, got {self.zero_point}")
        if any(start < -(2**31) or start + n > 2**31 - 1 for start, n in self.part.one_hot or ()):
            raise ValueError("the classes of a one-hot observation must fit int32")
        if self.part.source == "uint8" and self.part.num_rows != 1:
            raise ValueError("a uint8 observation has one gain, offset, low and high for all elements")
        if not all(2.0**-90 < abs(g) / self.scale < 2.0**90 for g in self.part.gain or () if g):
            raise ValueError("the gain of an observation is out of range")
        if self.is_affine and any(
            abs(_steps(self, value)) + _MARGIN[self.dtype] >= _ROOM for value in self.part.offset or ()
        ):
            raise ValueError("the offset of an observation is too large for its scale")

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        scale: float,
        zero_point: int,
        dtype: str = "int8",
        name: str = "observation",
        source: str = "float32",
        **fields: Any,
    ) -> Self:
        """Return the edge of a part of a shape: of float32 as they are, or of what `fields` say."""
        return cls(ObservationPart(name, shape, source, **fields), scale, zero_point, dtype)

    @property
    def is_affine(self) -> bool:
        """Tell whether floats are normalised or clipped before they are quantized."""
        return self.part.source == "float32" and self.part.is_affine

    @property
    def inverse(self) -> tuple[int, int]:
        """Return `(multiplier, bias)`: 1 / scale = multiplier * 2**(126 - bias) to 32 bits.

        `multiplier` is in [2**31, 2**32). A float32 whose exponent field is e needs the right shift
        bias - e after the 32 x 32 bit high multiply.
        """
        return _significand(1 / Fraction(self.scale))

    @cached_property
    def fraction_bits(self) -> int:
        """Return the bits below a step of the input that an affine edge computes with."""
        largest = max(abs(_steps(self, value)) for value in self.part.columns[1])
        largest += _MARGIN[self.dtype]
        bits = _MOST_BITS[self.dtype]
        while bits > 0 and largest * 2**bits >= _ROOM:
            bits -= 1
        return bits

    @cached_property
    def affine_rows(self) -> tuple[tuple[int, int, int, int, int, int], ...]:
        """Return {multiplier, bias, sign, offset, low, high} a row, of an affine edge.

        multiplier, bias   of |gain| / scale, as `inverse`; multiplier 0 for gain 0
        offset             with `fraction_bits` bits, the zero point and a half in it
        low, high          in steps of the input, with the zero point, perhaps beyond its range
        """
        rows, unit, half = [], 2**self.fraction_bits, 2**self.fraction_bits // 2
        for gain, offset, low, high in zip(*self.part.columns, strict=True):
            slope = abs(Fraction(gain)) / Fraction(self.scale)
            multiplier, bias = _significand(slope) if slope else (0, 0)
            fixed = _rounded(_steps(self, offset) * unit) + half
            bounds = (_step_bound(self, low, -1), _step_bound(self, high, 1))
            rows.append((multiplier, bias, int(gain < 0), fixed, *bounds))
        return tuple(rows)

    @cached_property
    def affine_columns(self) -> NDArray[np.int64]:
        """Return the six numbers of `affine_rows` for each element [6, size]."""
        rows = np.array(self.affine_rows, np.int64)
        return np.asarray(rows[np.arange(self.part.size) % self.part.num_rows].T, np.int64)

    @cached_property
    def table(self) -> NDArray[Any]:
        """Return what each uint8 becomes [256]."""
        gain, offset, low, high = (row[0] for row in self.part.columns)
        lowest, highest = limits(self.dtype)
        values = []
        for x in range(256):
            real: Any = Fraction(gain) * x + Fraction(offset)
            real = Fraction(low) if np.isfinite(low) and real < low else real
            real = Fraction(high) if np.isfinite(high) and real > high else real
            q = self.zero_point + _rounded(real / Fraction(self.scale))
            values.append(min(max(q, lowest), highest))
        return np.array(values, self.dtype)

    @cached_property
    def hot_and_cold(self) -> tuple[int, int]:
        """Return what 1 and 0 become."""
        lowest, highest = limits(self.dtype)
        one = self.zero_point + _rounded(1 / Fraction(self.scale))
        return min(one, highest), min(max(self.zero_point, lowest), highest)


def quantize_observations(
    edge: ObservationEdge, observations: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Quantize observations [N, *shape] to [N, *network_shape] of the edge's dtype; also return flags [N]."""
    quantized, events = _quantized(edge, observations)
    axes = tuple(range(1, events.ndim))
    flags = np.bitwise_or.reduce(events, axis=axes) if axes else events
    return quantized.reshape(len(quantized), *_shape_of(edge, observations)), flags.astype(np.uint8)


def saturated_inputs(edge: ObservationEdge, observations: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which of observations [N, *shape] the step counts in `state.saturated`: clamped, or not finite."""
    _, events = _quantized(edge, observations)
    return np.asarray(events != 0)


def _shape_of(edge: ObservationEdge, observations: NDArray[Any]) -> tuple[int, ...]:
    return (
        edge.part.network_shape
        if edge.part.image or edge.part.one_hot is not None
        else observations.shape[1:]
    )


def _quantized(edge: ObservationEdge, observations: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return the quantized values, and SATURATED and NOT_FINITE of each raw element."""
    if edge.part.source == "uint8":
        raw = np.asarray(observations)
        if raw.dtype not in (np.dtype(np.uint8), np.dtype(np.bool_)):
            raise ValueError(f"'{edge.part.name}' must be uint8, got {raw.dtype}")
        converted = convert_images(raw.astype(np.uint8, copy=False), edge.part.image)
        return edge.table[converted], np.zeros(raw.shape, np.uint8)
    if edge.part.one_hot is not None:
        return _one_hot(edge, np.asarray(observations))
    values = np.ascontiguousarray(observations, np.float32)
    bits = values.view(np.uint32).astype(np.int64).reshape(values.shape)
    return _affine(edge, bits) if edge.is_affine else _plain(edge, bits)


def _plain(edge: ObservationEdge, bits: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    exponent, is_nan = _classes(bits)
    mantissa = np.where((exponent == 0) | is_nan, 0, ((bits & 0x7FFFFF) | 0x800000) << 8)
    multiplier, bias = edge.inverse
    high = ((mantissa.astype(np.uint64) * np.uint64(multiplier)) >> np.uint64(32)).astype(np.int64)
    shift = np.where(exponent == 255, 12, np.clip(bias - exponent, 12, 33))
    magnitude = ((high >> (shift - 1)) + 1) >> 1  # to nearest, halves away from zero
    unclamped = np.where(bits >> 31 != 0, -magnitude, magnitude) + edge.zero_point
    quantized = np.clip(unclamped, *limits(edge.dtype))
    return quantized.astype(edge.dtype), _events(unclamped != quantized, exponent == 255)


def _affine(edge: ObservationEdge, bits: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    exponent, is_nan = _classes(bits)
    multiplier, bias, sign, offset, low, high = edge.affine_columns.reshape(6, *bits.shape[1:])
    fraction_bits, ends = edge.fraction_bits, limits(edge.dtype)
    mantissa = (((bits & 0x7FFFFF) | 0x800000) << 8).astype(np.uint64)
    product = ((mantissa * multiplier.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
    shift = np.where(multiplier == 0, 33, bias - fraction_bits - exponent)
    magnitude = np.where(shift < 2, 2**30 - 1, product >> np.clip(shift, 2, 33))
    magnitude = np.where(is_nan, 0, magnitude)
    signed = np.where((bits >> 31) ^ sign != 0, -magnitude, magnitude)
    nothing = (edge.zero_point << fraction_bits) + (1 << fraction_bits) // 2
    unclipped = np.where(is_nan, nothing, signed + offset) >> fraction_bits
    lowest, highest = np.clip(low, *ends), np.clip(high, *ends)
    is_cut = ((unclipped < lowest) & (low < ends[0])) | ((unclipped > highest) & (high > ends[1]))
    return np.clip(unclipped, lowest, highest).astype(edge.dtype), _events(is_cut, exponent == 255)


def _classes(bits: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the exponent fields, and which are NaN."""
    exponent = (bits >> 23) & 0xFF
    return exponent, (exponent == 255) & ((bits & 0x7FFFFF) != 0)


def _events(cut: NDArray[np.bool_], not_finite: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.asarray(cut * SATURATED | not_finite * NOT_FINITE, np.uint8)


def _one_hot(edge: ObservationEdge, raw: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    assert edge.part.one_hot is not None
    starts, counts = (np.array(column, np.int64) for column in zip(*edge.part.one_hot, strict=True))
    index = raw.reshape(len(raw), edge.part.size).astype(np.int32).astype(np.int64) - starts
    nearest = np.clip(index, 0, counts - 1)
    hot, cold = edge.hot_and_cold
    quantized = np.full((len(raw), edge.part.network_size), cold, edge.dtype)
    first = np.cumsum(counts) - counts
    np.put_along_axis(quantized, nearest + first, np.array(hot, edge.dtype), axis=1)
    return quantized, (SATURATED * (nearest != index)).astype(np.uint8).reshape(raw.shape)


def _significand(value: Fraction) -> tuple[int, int]:
    """Return `(multiplier, bias)`: value = multiplier * 2**(126 - bias), multiplier in [2**31, 2**32)."""
    power = 31 - (value.numerator.bit_length() - value.denominator.bit_length())
    value *= Fraction(2) ** power
    if value < 2**31:
        value, power = value * 2, power + 1
    multiplier = int(value + Fraction(1, 2))
    if multiplier == 2**32:
        multiplier, power = 2**31, power - 1
    return multiplier, 126 + power


def _steps(edge: ObservationEdge, value: float) -> Fraction:
    """Return a normalised value in steps of the input, the zero point in it."""
    return Fraction(value) / Fraction(edge.scale) + edge.zero_point


def _step_bound(edge: ObservationEdge, value: float, sign: int) -> int:
    """Return a bound in whole steps, within one step beyond int16 at most."""
    if not np.isfinite(value):
        return sign * 40_000
    return max(-40_000, min(40_000, edge.zero_point + _rounded(Fraction(value) / Fraction(edge.scale))))


def _rounded(value: Fraction) -> int:
    """Round to nearest, halves away from zero."""
    magnitude = int((abs(value) + Fraction(1, 2)) // 1)
    return magnitude if value >= 0 else -magnitude
