"""Functions of one value and of two. What NumPy would take from a float32 library is computed in float64."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from edgeqrl.network.float_operators.operand import Floats, Make, Operands, Operator, Step, operand

Function = Callable[[Floats], Floats]
_ONE, _SIX = np.float32(1), np.float32(6)


def activate(name: str, values: Floats) -> Floats:
    """Apply a fused activation; ValueError where it is not known."""
    if name == "NONE":
        return values
    if name not in _FUSED:
        raise ValueError(f"its fused activation {name} is not known")
    return FUNCTIONS[name](values)


def _in_double(function: Callable[..., Any]) -> Function:
    """Return the function computed in float64 and rounded once."""
    return lambda x: np.asarray(function(x.astype(np.float64)), np.float32)


def _clipped(low: float, high: float) -> Function:
    return lambda x: np.clip(x, np.float32(low), np.float32(high))


def _logistic(x: Any) -> Any:
    # exp of negative numbers alone: what is small keeps its digits, and nothing overflows.
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1.0) / (1.0 + small)


def _gelu(x: Any) -> Any:
    from scipy.special import erfc

    return 0.5 * x * erfc(-x * math.sqrt(0.5))


def _gelu_approximate(x: Any) -> Any:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


FUNCTIONS: dict[str, Function] = {
    "ABS": np.abs,
    "CEIL": np.ceil,
    "COS": _in_double(np.cos),
    "ELU": _in_double(lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0.0)), x)),
    "EXP": _in_double(np.exp),
    "FLOOR": np.floor,
    "GELU": _in_double(_gelu),
    "GELU approximate": _in_double(_gelu_approximate),
    "HARD_SWISH": lambda x: x * np.clip(x + np.float32(3), np.float32(0), _SIX) / _SIX,
    "LOG": _in_double(np.log),
    "LOGISTIC": _in_double(_logistic),
    "NEG": np.negative,
    "RELU": lambda x: np.maximum(x, np.float32(0)),
    "RELU6": _clipped(0, 6),
    "RELU_0_TO_1": _clipped(0, 1),
    "RELU_N1_TO_1": _clipped(-1, 1),
    "ROUND": np.rint,
    "RSQRT": lambda x: _ONE / np.sqrt(x),
    "SIGN": np.sign,
    "SIN": _in_double(np.sin),
    "SQRT": np.sqrt,
    "SQUARE": np.square,
    "TANH": _in_double(np.tanh),
}
_FUSED = ("RELU", "RELU6", "RELU_N1_TO_1", "TANH")
_PAIRS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "ADD": np.add,
    "DIV": np.divide,
    "FLOOR_DIV": np.floor_divide,
    "MAXIMUM": np.maximum,
    "MINIMUM": np.minimum,
    "MUL": np.multiply,
    "POW": np.power,
    "PRELU": lambda x, slope: np.where(x < 0, x * slope, x),
    "SQUARED_DIFFERENCE": lambda a, b: np.square(a - b),
    "SUB": np.subtract,
}


def _unary(op: Operator) -> Step:
    name = op.info.name
    if name == "GELU" and op.info.options["approximate"]:
        name = "GELU approximate"
    function = FUNCTIONS[name]
    return lambda operands: [function(operand(operands, 0))]


def _leaky(op: Operator) -> Step:
    stated = op.info.options["alpha"]
    assert isinstance(stated, float)
    alpha = np.float32(stated)

    def step(operands: Operands) -> list[Floats]:
        x = operand(operands, 0)
        return [np.where(x < 0, x * alpha, x)]

    return step


def _fake_quant(op: Operator) -> Step:
    """Round to a grid whose zero is exact, as the runtimes do: in float32, halves up."""
    first, last, num_bits = (op.info.options[name] for name in ("min", "max", "num_bits"))
    assert isinstance(first, float)
    assert isinstance(last, float)
    assert isinstance(num_bits, int)
    low, high, highest = np.float32(first), np.float32(last), np.float32(2**num_bits - 1)
    if not low <= 0 <= high or low == high or not 2 <= num_bits <= 16 or op.info.options["narrow_range"]:
        raise ValueError("its range or its bits are unusual")
    scale = (high - low) / highest
    zero_point = np.clip(np.floor(-low / scale + np.float32(0.5)), np.float32(0), highest)
    low, high = -zero_point * scale, (highest - zero_point) * scale
    inverse = _ONE / scale

    def step(operands: Operands) -> list[Floats]:
        above = np.clip(operand(operands, 0), low, high) - low
        return [np.asarray(np.floor(above * inverse + np.float32(0.5)) * scale + low, np.float32)]

    return step


def _pair(op: Operator) -> Step:
    function, rank = _PAIRS[op.info.name], len(op.target.shape)
    if len(op.inputs) != 2 or np.broadcast_shapes(*_shapes(op)) != op.target.shape:
        raise ValueError("its sizes do not fit")

    def step(operands: Operands) -> list[Floats]:
        return [function(*(_with_rank(operand(operands, i), rank) for i in (0, 1)))]

    return step


def _add_all(op: Operator) -> Step:
    if {*_shapes(op)} != {op.target.shape}:
        raise ValueError("its sizes do not fit")

    def step(operands: Operands) -> list[Floats]:
        total = operand(operands, 0)
        for i in range(1, len(operands)):
            total = total + operand(operands, i)
        return [total]

    return step


def _shapes(op: Operator) -> list[tuple[int, ...]]:
    return [tensor.shape for tensor in op.inputs if tensor is not None]


def _with_rank(values: Floats, rank: int) -> Floats:
    """Return [B, *shape] with axes of 1 behind the samples, as broadcasting puts them before the shape."""
    missing = rank - (values.ndim - 1)
    return values.reshape(len(values), *(1,) * missing, *values.shape[1:]) if missing > 0 else values


MAKE: dict[str, Make] = {
    **dict.fromkeys((name for name in FUNCTIONS if " " not in name), _unary),
    **dict.fromkeys(_PAIRS, _pair),
    "FAKE_QUANT": _fake_quant,
    "LEAKY_RELU": _leaky,
    "ADD_N": _add_all,
}
