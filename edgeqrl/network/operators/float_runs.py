"""Float functions between int8 and int8, as tables; see `edgeqrl.network.float_runs`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.float_runs import FLOAT_FUNCTIONS
from edgeqrl.network.functions_float import FUNCTIONS
from edgeqrl.network.ir import Layer
from edgeqrl.network.layers import Lookup
from edgeqrl.network.operators.operand import (
    Operator,
    Support,
    has_int8_activations,
    has_static_operands,
    keeps_size,
    quantization,
)
from edgeqrl.network.tflite_model import shown


def is_followed_by_functions(op: Operator) -> bool:
    """It makes an output, or is followed by functions with a table (see its note) and a QUANTIZE."""
    return "functions" in op.info.options


def lower_float_run(op: Operator) -> tuple[Layer, ...]:
    """Lower DEQUANTIZE, functions in float32 and QUANTIZE to one table."""
    (scale, zero_point), (scale_out, zero_point_out) = quantization(op.source), quantization(op.target)
    names = str(op.info.options["functions"]).split()
    with np.errstate(all="ignore"):
        values = ((np.arange(-128, 128) - zero_point) * scale).astype(np.float32)
        unbounded = None  # the first function without a finite value
        for name in names:
            function, _, alpha = name.partition(":")
            if alpha:
                values = np.where(values > 0, values, values * np.float32(alpha))
            else:
                values = _FUNCTIONS[function](values)
            if unbounded is None and not np.all(np.isfinite(values)):
                unbounded = function
        quotients = (values / np.float32(scale_out)).astype(np.float64)
    last = names[-1].partition(":")[0] if names else "QUANTIZE"
    if not np.all(np.abs(quotients) < 2.0**30):  # nor NaN
        raise UnsupportedOperatorError(
            f"{unbounded or last} at '{shown(op.target.name)}' is not supported: some inputs have no finite "
            "value. "
            "Bound its input, and convert again."
        )
    rounded = np.copysign(np.floor(np.abs(quotients) + 0.5), quotients) + zero_point_out
    table = np.clip(rounded, -128, 127).astype(np.int8)
    return (Lookup(op.target.name, last, op.source.name, op.target.name, table),)


def _expm1(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.where(values < 0, np.expm1(np.minimum(values, 0).astype(np.float64)), values), "f4")


_FUNCTIONS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "ABS": np.abs,
    "CEIL": np.ceil,
    "COS": FUNCTIONS["COS"],
    "ELU": _expm1,
    "EXP": FUNCTIONS["EXP"],
    "FLOOR": np.floor,
    "HARD_SWISH": FUNCTIONS["HARD_SWISH"],
    "NEG": np.negative,
    "RELU": lambda x: np.maximum(x, np.float32(0)),
    "RELU6": lambda x: np.clip(x, np.float32(0), np.float32(6)),
    "ROUND": np.rint,
    "SIN": FUNCTIONS["SIN"],
    "SQRT": np.sqrt,
    "SQUARE": np.square,
}

SUPPORT = {
    "DEQUANTIZE": Support(
        (has_static_operands, is_followed_by_functions, has_int8_activations, keeps_size),
        lower_float_run,
        note=f"Functions: {', '.join(FLOAT_FUNCTIONS)}; in 16x8 none.",
        oracle="tflm",
    )
}
