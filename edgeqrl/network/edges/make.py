"""Action edges from real numbers: scales, bounds and deviations become integers."""

from collections.abc import Sequence
from fractions import Fraction
from math import exp

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.draws import NORMAL_LIMIT, SQUASH_BITS, SQUASH_LIMIT, exp_tables
from edgeqrl.network.edges.action import (
    AffineEdge,
    GaussianEdge,
    LogStd,
    MultiBinaryEdge,
    MultiDiscreteEdge,
    limits,
)

_ROOM = 2**31 - 512  # what fixed-point numbers stay below
_GREATEST_LOG_STD = 20.0


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


def make_multi_discrete_edge(
    counts: Sequence[int],
    starts: Sequence[int],
    *,
    scale: float | None = None,
    dtype: str = "int8",
    is_masked: bool = False,
    shape: tuple[int, ...] | None = None,
) -> MultiDiscreteEdge:
    """Build the edge of discrete actions: drawn by logits of this scale, or the argmax."""
    tables: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()) if scale is None else exp_tables(scale, dtype)
    return MultiDiscreteEdge(tuple(counts), tuple(starts), is_masked, *tables, shape)


def make_multi_binary_edge(
    shape: tuple[int, ...], zero_point: int, *, scale: float | None = None, dtype: str = "int8"
) -> MultiBinaryEdge:
    """Build the edge of several 0/1 actions from logits: drawn where a scale is given, else 1 above 0."""
    tables: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()) if scale is None else exp_tables(scale, dtype)
    return MultiBinaryEdge((zero_point,) * int(np.prod(shape, dtype=np.int64)), *tables, shape)


def make_log_std(
    scale: float, zero_point: int, dtype: str = "int8", *, low: float = -np.inf, high: float = np.inf
) -> tuple[LogStd, float]:
    """Read an output as clip(log_std, low, high); also return the greatest standard deviation.

    int16 rounds the bounds to the output's step, outwards.
    """
    ends = limits(dtype)
    bounds = [Fraction(b) / Fraction(scale) + zero_point if np.isfinite(b) else None for b in (low, high)]
    q_low = ends[0] if bounds[0] is None else min(max(int(bounds[0] // 1), ends[0]), ends[1])
    q_high = ends[1] if bounds[1] is None else min(max(int(-(-bounds[1] // 1)), ends[0]), ends[1])
    greatest = float(np.clip(scale * (q_high - zero_point), low, high))
    if greatest > _GREATEST_LOG_STD:
        raise UnsupportedOperatorError(
            f"The policy's log_std can reach {greatest:.3g}, a standard deviation that no action has. "
            "Clip it in the model, to [-20, 2] as usual."
        )
    tables = exp_tables(scale, dtype)
    if dtype == "int8":
        logs = [float(np.clip(scale * (q_high - d - zero_point), low, high)) for d in range(256)]
        tables = tuple(min(round(exp(value - greatest) * 2**32), 2**32 - 1) for value in logs), ()
    return LogStd(*tables, min(q_low, q_high), q_high, dtype), exp(greatest)


def make_gaussian_edge(
    *,
    scale: float,
    zero_point: int,
    gain: NDArray[np.float64],
    offset: NDArray[np.float64],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    std: NDArray[np.float64] | float,
    log_std: LogStd | None = None,
    is_squashed: bool = False,
    dtype: str = "int8",
) -> GaussianEdge:
    """Build the edge action = clip(gain * f(mean + std * z) + offset, low, high), f being tanh or nothing.

    scale, zero_point, dtype   of the first output, the mean
    gain, offset, low, high    as for make_affine_edge
    std                        one or one an action; with `log_std` what `make_log_std` returned beside it
    """
    shape = np.asarray(low).shape
    arrays = (gain, offset, low, high, std)
    columns = (np.broadcast_to(np.asarray(a, np.float64), shape).ravel() for a in arrays)
    make = _squashed_row if is_squashed else _gaussian_row
    rows = [
        make(Fraction(scale), zero_point, limits(dtype), *(float(v) for v in values))
        for values in zip(*columns, strict=True)
    ]
    means, offsets, deviations, bits, gains, shifts, lows, highs, out_bits = zip(*rows, strict=True)
    behind = gains, shifts, lows, highs, out_bits
    return GaussianEdge(means, offsets, deviations, bits, *behind, shape, is_squashed, log_std, dtype)


def _gaussian_row(
    scale: Fraction, zero_point: int, ends: tuple[int, int],
    gain: float, offset: float, low: float, high: float, std: float,
) -> tuple[int, ...]:  # fmt: skip
    slope, spread = Fraction(gain) * scale, Fraction(gain) * Fraction(std)
    mean = max(abs(slope * (q - zero_point) + Fraction(offset)) for q in ends)
    bits = _most_bits(max(mean + abs(spread) * Fraction(NORMAL_LIMIT), *_finite(low, high)))
    mean_gain, mean_offset = _line(slope, Fraction(offset), zero_point, bits)
    fixed = _round(spread * Fraction(2) ** bits)
    return mean_gain, mean_offset, fixed, bits, 0, 0, *_bounds(low, high, bits), bits


def _squashed_row(
    scale: Fraction, zero_point: int, ends: tuple[int, int],
    gain: float, offset: float, low: float, high: float, std: float,
) -> tuple[int, ...]:  # fmt: skip
    mean = max(abs(scale * (q - zero_point)) for q in ends)
    largest = mean + Fraction(std) * Fraction(NORMAL_LIMIT)
    bits = min(_most_bits(max(largest, Fraction(SQUASH_LIMIT))), SQUASH_BITS + 7)
    if bits < SQUASH_BITS:
        raise UnsupportedOperatorError(
            f"The action before its tanh reaches {float(largest):.3g}, which cannot be drawn in 32 bits. "
            "Limit its mean and standard deviation."
        )
    line = _line(scale, Fraction(0), zero_point, bits)
    largest = max(abs(Fraction(gain)) * 2, abs(Fraction(gain)) + abs(Fraction(offset)), *_finite(low, high))
    out_bits = _most_bits(largest)
    out = (_round(Fraction(value) * Fraction(2) ** out_bits) for value in (gain, offset))
    return *line, _round(Fraction(std) * 2**bits), bits, *out, *_bounds(low, high, out_bits), out_bits


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
    bits = _most_bits(max(*(abs(v) for v in ends), *_finite(low, high)))
    return *_line(slope, Fraction(offset), zero_point, bits), *_bounds(low, high, bits), bits


def _finite(low: float, high: float) -> list[Fraction]:
    """Return the sizes of the finite bounds, after 0."""
    return [Fraction(0), *(abs(Fraction(b)) for b in (low, high) if np.isfinite(b))]


def _most_bits(largest: Fraction) -> int:
    """Return the most fraction bits with which `largest` fits int32."""
    bits = 60
    while bits > -60 and largest * Fraction(2) ** bits > _ROOM:
        bits -= 1
    return bits


def _line(slope: Fraction, offset: Fraction, zero_point: int, bits: int) -> tuple[int, int]:
    """Return gain and offset of slope * (q - zero_point) + offset as a line in q."""
    unit = Fraction(2) ** bits
    gain = _round(slope * unit)
    return gain, _round(offset * unit) - gain * zero_point


def _bounds(low: float, high: float, bits: int) -> tuple[int, int]:
    """Return the bounds in fixed point, inwards."""
    unit = Fraction(2) ** bits
    fixed_low = -(2**31) + 1 if np.isneginf(low) else -((-Fraction(low) * unit) // 1)
    fixed_high = 2**31 - 1 if np.isposinf(high) else (Fraction(high) * unit) // 1
    if fixed_low > fixed_high:  # no multiple of the unit lies between the bounds, as where they are equal
        fixed_low = fixed_high = _round(Fraction(low) * unit)
    return int(fixed_low), int(fixed_high)


def _round(value: Fraction) -> int:
    return int((value + Fraction(1, 2)) // 1)
