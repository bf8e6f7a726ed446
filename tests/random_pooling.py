"""Random networks of one pooling operator or reduction, and inputs."""

from typing import Any

import numpy as np

from edgeqrl.network.layers.window import place_window
from tests.oracles import Case
from tests.random_linear import FUSED, RANGES, extreme_values, with_flat_input, zero_point_of

POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D")
EXTREMES = ("REDUCE_MAX", "REDUCE_MIN")
OPERATORS = (*POOLS, "MEAN", "SUM", *EXTREMES)


def random_case(rng: np.random.Generator, name: str, dtype: str, samples: int = 4) -> Case:
    """Return one network of one operator, and inputs."""
    make = _random_pool if name in POOLS else _random_reduction
    inputs, target, options = make(rng, name, dtype)
    source = inputs[0]
    values = extreme_values(rng, (samples, *source["shape"]), *RANGES[dtype], source["zero_point"])
    tflite = with_flat_input(name, inputs, target, **options)
    return tflite, [values.reshape(samples, -1).astype(dtype.lower())]


Parts = tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]  # inputs, output, options


def _random_pool(rng: np.random.Generator, name: str, dtype: str) -> Parts:
    size, kernel, stride = rng.integers(1, 12, 2), rng.integers(1, 7, 2), rng.integers(1, 5, 2)
    padding = str(rng.choice(["SAME", "VALID"]))
    axes = zip(size.tolist(), kernel.tolist(), stride.tolist(), strict=True)
    places = [place_window(padding, *axis)[0] for axis in axes]
    if min(places) < 1:
        return _random_pool(rng, name, dtype)
    n, channels = int(rng.choice([1, 1, 1, 2])), int(rng.integers(1, 7))
    quantized = _quantized(rng, dtype)
    source = {"shape": (n, *size.tolist(), channels)} | quantized
    options = {"filter_height": int(kernel[0]), "filter_width": int(kernel[1])}
    strides = {"stride_h": int(stride[0]), "stride_w": int(stride[1])}
    clamp = {"padding": padding, "fused_activation": str(rng.choice(FUSED))}
    return [source], {"shape": (n, *places, channels)} | quantized, options | strides | clamp


def _random_reduction(rng: np.random.Generator, name: str, dtype: str) -> Parts:
    rank = int(rng.integers(1, 6))
    shape = tuple(rng.integers(1, 8, rank).tolist())
    axes = rng.integers(-rank, rank, rng.integers(1, rank + 1)).tolist()
    if rng.random() < 0.3:  # where kernels have special cases
        shape, rank, axes = (1, *rng.integers(1, 12, 3).tolist()), 4, [[1, 2], [2, 1]][rng.integers(2)]
    elif rng.random() < 0.5:
        shape = (1, *shape[1:])
    reduced = {axis % rank for axis in axes}
    keep = bool(rng.random() < 0.5)
    quantized = _quantized(rng, dtype)
    left = tuple(1 if i in reduced else n for i, n in enumerate(shape) if keep or i not in reduced)
    target: dict[str, Any] = quantized | {"shape": left}
    if name not in EXTREMES and rng.random() < 0.8:
        target |= {"zero_point": zero_point_of(rng, dtype)}
        count = int(np.prod([shape[axis] for axis in reduced]))
        # From where everything saturates, short of an overflow, to where nothing but zero is left.
        top = 2.0**28 / (count * max(RANGES[dtype]) * 2)
        kinds = (2.0 ** rng.uniform(-2, 2), 2.0 ** rng.integers(-9, 6), top / 2.0 ** rng.uniform(0, 60))
        factor = kinds[rng.choice(3, p=[0.5, 0.3, 0.2])] / (count if name == "SUM" else 1)
        target["scale"] = float(np.float32(quantized["scale"] / min(factor, top)))
    axis = {"dtype": "INT32", "data": np.array(axes, np.int32), "shape": (len(axes),)}
    if len(axes) == 1 and rng.random() < 0.5:
        axis["shape"] = ()
    return [{"shape": shape} | quantized, axis], target, {"keep_dims": keep}


def _quantized(rng: np.random.Generator, dtype: str) -> dict[str, Any]:
    exponent = rng.uniform(-12, 2) if rng.random() < 0.7 else rng.integers(-12, 3)
    return {
        "dtype": dtype,
        "scale": float(np.float32(2.0**exponent)),
        "zero_point": zero_point_of(rng, dtype),
    }
