"""Elementwise functions that the kernels tabulate in float32: int8 tables, and int16 tables of 513 knots.

Where the kernels call the C library in float32, this computes in float64 and rounds once to float32. That
is the C library's answer but for its last bit, rarely, and the last bit counts only next to a half: more
than 10^6 entries of each function have been compared, without a difference.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Floats = NDArray[Any]  # all of one floating-point type
Function = Callable[[Float32Array], Float32Array]
Range = tuple[float | np.float32, float | np.float32]

NUM_KNOTS = 513  # of an int16 table
_ALL_INT8 = np.arange(-128, 128)
_ONE, _HALF = np.float32(1), np.float32(0.5)


def float_table(
    function: Function, input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> NDArray[np.int8]:
    """Tabulate a function of every int8: dequantize, apply, divide, round, all in float32.

    What leaves int32 saturates, as float conversions of Arm do (those of x86 give -128); NaN gives -128.
    """
    with np.errstate(all="ignore"):
        real = np.float32(input_scale) * (_ALL_INT8 - input_zero_point).astype(np.float32)
        scaled = _rounded(function(real) * (_ONE / np.float32(output_scale)))
        shifted = scaled + np.float32(output_zero_point)
    return np.clip(np.trunc(np.nan_to_num(shifted, nan=-128.0)), -128, 127).astype(np.int8)


def knot_table(function: Function, input_range: Range, output_range: Range) -> NDArray[np.int16]:
    """Return the 513 knots between which int16 inputs are interpolated, spread evenly over `input_range`.

    Each but the last is moved by half of the error that a straight line has in the middle of its interval.
    All is computed in float32; ranges are the reals of -32768 and of 32767.
    """
    low, high = (np.float32(value) for value in input_range)
    step = (high - low) / np.float32(512)
    unit = np.float32(65536) / (np.float32(output_range[1]) - np.float32(output_range[0]))
    i: Floats = np.arange(NUM_KNOTS).astype(np.float32)
    with np.errstate(all="ignore"):
        knots = function(low + i * step) * unit
        middle = _rounded(function(low + i[:-1] * step + step / np.float32(2)) * unit)
        on_line = _rounded((knots[1:] + _rounded(knots[:-1])) / np.float32(2))
        bent = _rounded(knots[:-1]) - _rounded((on_line - middle) / np.float32(2))
        last = _rounded(function(np.array([high])) * unit)
    values = np.nan_to_num(np.concatenate([bent, last]), nan=0.0)
    return np.asarray(np.clip(values, -(2**15), 2**15 - 1), np.int16)


def _rounded(values: Floats) -> Floats:
    """Round to nearest, halves away from zero."""
    whole = np.trunc(values)
    away = np.where(np.abs(values - whole) >= 0.5, np.sign(values), 0)
    return np.asarray(whole + away, values.dtype)


def _in_double(function: Callable[[float], float]) -> Function:
    """Return a float32 function that computes in float64 and rounds once."""

    def apply(values: Float32Array) -> Float32Array:
        with np.errstate(over="ignore"):
            return np.array([_quiet(function, float(v)) for v in values]).astype(np.float32)

    return apply


def _quiet(function: Callable[[float], float], value: float) -> float:
    try:
        return function(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return math.nan


_exp = _in_double(math.exp)
_tanh = _in_double(math.tanh)
_erfc = _in_double(math.erfc)


def _elu(x: Float32Array) -> Float32Array:
    return np.where(x < 0, _exp(np.minimum(x, 0)) - _ONE, x)


def _gelu(x: Float32Array) -> Float32Array:
    return _HALF * x * _erfc(x * np.float32(-math.sqrt(0.5)))


def _gelu_approximate(x: Float32Array) -> Float32Array:
    inner = x + np.float32(0.044715) * x * x * x
    return _HALF * x * (_ONE + _tanh(np.float32(math.sqrt(2.0 / math.pi)) * inner))


def _hard_swish(x: Float32Array) -> Float32Array:
    return x * np.clip(x + np.float32(3), np.float32(0), np.float32(6)) / np.float32(6)


def _log(x: float) -> float:
    return -math.inf if x == 0.0 else math.log(x)


FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {
        "COS": _in_double(math.cos),
        "ELU": _elu,
        "EXP": _exp,
        "GELU": _gelu,
        "GELU approximate": _gelu_approximate,
        "HARD_SWISH": _hard_swish,
        "LOG": _in_double(_log),
        "SIN": _in_double(math.sin),
        "SQRT": np.sqrt,
    }
)
