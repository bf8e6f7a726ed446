"""Random tensors of single-operator networks: extreme scales and zero points, saturating values, ties."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracles import all_int8, all_int16

Described = dict[str, Any]  # what `single_operator` takes


def tensor(
    shape: Sequence[int], dtype: str, scale: float = 1.0, zero_point: int = 0, **more: Any
) -> Described:
    """Describe a quantized tensor; the scale as a float32 holds it, the zero point 0 but in INT8."""
    zero_point = zero_point if dtype == "INT8" else 0
    return {"shape": tuple(shape), "dtype": dtype, "scale": float32(scale), "zero_point": zero_point} | more


def float32(value: float) -> float:
    """Return the nearest float32."""
    return float(np.float32(value))


def random_scale(rng: np.random.Generator, low: float = 1e-4, high: float = 1.0) -> float:
    """Return a scale, uniform in its logarithm."""
    return float32(np.exp(rng.uniform(np.log(low), np.log(high))))


def random_zero_point(rng: np.random.Generator) -> int:
    """Return an int8 zero point, one of the ends or 0 in three of four cases."""
    return int(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))


def every_value(dtype: str) -> NDArray[Any]:
    """Return one sample with every value of INT8 or INT16."""
    return all_int8() if dtype == "INT8" else all_int16()


def random_values(
    rng: np.random.Generator, shape: Sequence[int], dtype: str, samples: int | None = None
) -> NDArray[Any]:
    """Return random values [samples, *shape], one in six an end of the range or 0."""
    info = np.iinfo(dtype.lower())
    size = (*(() if samples is None else (samples,)), *shape)
    values = rng.integers(info.min, info.max + 1, size)
    is_special = rng.random(size) < 1 / 6
    return np.where(is_special, rng.choice([info.min, info.max, 0], size), values).astype(info.dtype)
