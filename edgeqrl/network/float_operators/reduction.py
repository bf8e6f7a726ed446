"""Operators that sum up or compare along axes; sums in float64, rounded once."""

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeqrl.network.float_operators.operand import Floats, Make, Operands, Operator, Step, numbers, operand
from edgeqrl.network.slicing import normal_axis

_LEAST_NORM = 1e-6  # of L2_NORMALIZATION, as the kernels have it
_REDUCERS: dict[str, Callable[..., Any]] = {
    "MEAN": np.mean,
    "REDUCE_MAX": np.max,
    "REDUCE_MIN": np.min,
    "REDUCE_PROD": np.prod,
    "SUM": np.sum,
}


def _reduced(op: Operator) -> Step:
    function, rank = _REDUCERS[op.info.name], len(op.source.shape)
    axes = tuple({1 + normal_axis(axis, rank) for axis in numbers(op, 1)})
    shape = op.target.shape

    def step(operands: Operands) -> list[Floats]:
        values = operand(operands, 0)
        result = np.asarray(function(values.astype(np.float64), axis=axes), np.float32)
        return [result.reshape(len(values), *shape)]

    return step


def _softmax(op: Operator) -> Step:
    beta, is_log = op.info.options.get("beta", 1.0), op.info.name == "LOG_SOFTMAX"
    assert isinstance(beta, float)

    def step(operands: Operands) -> list[Floats]:
        values = operand(operands, 0).astype(np.float64) * beta
        values -= values.max(axis=-1, keepdims=True)
        powers = np.exp(values)
        total = powers.sum(axis=-1, keepdims=True)
        return [np.asarray(values - np.log(total) if is_log else powers / total, np.float32)]

    return step


def _unit(op: Operator) -> Step:
    def step(operands: Operands) -> list[Floats]:
        values = operand(operands, 0).astype(np.float64)
        norm = np.sqrt(np.square(values).sum(axis=-1, keepdims=True))
        return [np.asarray(values / np.maximum(norm, _LEAST_NORM), np.float32)]

    return step


MAKE: dict[str, Make] = {
    **dict.fromkeys(_REDUCERS, _reduced),
    **dict.fromkeys(("SOFTMAX", "LOG_SOFTMAX"), _softmax),
    "L2_NORMALIZATION": _unit,
}
