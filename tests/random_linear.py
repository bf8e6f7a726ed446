"""Random networks of one operator with weights, and inputs: odd sizes, saturation, ties, extreme scales.

tflite, inputs = random_case(np.random.default_rng(0), "CONV_2D", "INT16")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.layers.window import place_window
from tests.oracles import Case
from tests.tflite_writer import TFLiteWriter

Described = dict[str, Any]

OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
FUSED = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
RANGES = {"INT8": (-128, 127), "INT16": (-(2**15), 2**15 - 1)}
BIASES = {"INT8": ["INT32"], "INT16": ["INT64"]}
WITH_NARROW_BIAS = ("CONV_2D", "FULLY_CONNECTED")  # take INT32 with INT16 activations


@dataclass(frozen=True)
class Shapes:
    """The shapes of one operator, as the file has them."""

    source: tuple[int, ...]
    weights: tuple[int, ...]
    target: tuple[int, ...]
    options: dict[str, Any]


def random_case(
    rng: np.random.Generator,
    name: str,
    dtype: str,
    samples: int = 4,
    *,
    bias: str | None = "any",
    is_per_channel: bool | None = None,
    is_plain: bool = False,
    **options: Any,
) -> Case:
    """Return one network of one operator, and inputs; `is_plain` has one scale for all, a power of two."""
    shapes = _shapes(rng, name)
    axis = 3 if name == "DEPTHWISE_CONV_2D" else 0
    channels = shapes.weights[axis]
    low, high = RANGES[dtype]
    zero_point = zero_point_of(rng, dtype)
    values = extreme_values(rng, (samples, *shapes.source), low, high, zero_point)
    weights = extreme_values(rng, shapes.weights, -127, 127, 0)
    if rng.random() < 0.1:
        weights -= weights == -127  # -128 is not symmetric, and allowed
    is_tied = is_plain or rng.random() < 0.3  # all scales powers of two: many halves
    scale = _scale(rng, -9, 0, is_tied)
    several = not is_plain and (rng.random() < 0.6 if is_per_channel is None else is_per_channel)
    scales = np.array([_scale(rng, -9, -3, is_tied) for _ in range(channels if several else 1)])
    terms = weights.size // channels
    kind = bias
    if bias == "any":
        kinds = [None, *BIASES[dtype] * 3, *["INT32"] * (dtype == "INT16" and name in WITH_NARROW_BIAS)]
        kind = kinds[rng.integers(len(kinds))]
    is_wide = dtype == "INT16" and kind != "INT32" and options.get("quantized_bias_type") != "INT32"
    largest = terms * 128 * max(high - zero_point, zero_point - low)  # of the products' sum
    biases = _biases(rng, channels, terms, high, 2**43 if is_wide else 2**31 - 1 - largest)
    # Beyond it a sum or what becomes of it could leave 32 bits.
    top = 2.0**29 / (largest + float(np.abs(biases).max()))
    if is_wide:
        top = min(top, 2.0**6)
    factor = 0.013 * terms**-0.5 * 127 / high * 2.0 ** rng.uniform(-3, 6)
    if rng.random() < 0.15:
        factor = top * 2.0 ** -rng.uniform(0, 40)
    if is_tied:
        factor = 2.0 ** np.floor(np.log2(factor))
    unit = scale * float(scales.max())
    fused = str(rng.choice(FUSED))
    target_scale = float(np.float32(unit / min(factor, top)))
    if fused != "NONE" and target_scale * high < 0.01:
        fused = "NONE"  # the bounds would leave 32 bits
    inputs: list[Described | None] = [
        {"shape": shapes.source, "dtype": dtype, "scale": scale, "zero_point": zero_point},
        constant(weights.astype(np.int8), scales, axis),
    ]
    if kind is not None:
        inputs.append(constant(biases.astype(kind.lower()), np.float32(scale) * scales, 0))
    if name == "TRANSPOSE_CONV":
        shape = {"shape": (4,), "dtype": "INT32", "data": np.array(shapes.target, np.int32)}
        inputs = [shape, inputs[1], inputs[0], *inputs[2:]]
    target = {"shape": shapes.target, "dtype": dtype, "scale": target_scale}
    target["zero_point"] = zero_point_of(rng, dtype)
    tflite = with_flat_input(name, inputs, target, fused_activation=fused, **shapes.options, **options)
    return tflite, [values.reshape(samples, -1).astype(dtype.lower())]


def with_flat_input(
    name: str, inputs: Sequence[Described | None], target: Described, **options: Any
) -> bytes:
    """Write a network of one operator, and of a RESHAPE before it: its input may then have any first axis."""
    writer = TFLiteWriter()
    operands: list[int] = []
    activations: list[int] = []
    for i, described in enumerate(inputs):
        assert described is not None
        operands.append(writer.tensor(f"input_{i}", **described))
        if "data" not in described:
            flat = described | {"shape": (1, int(np.prod(described["shape"])))}
            activations.append(writer.tensor(f"flat_{i}", **flat))
            shape = np.array(described["shape"], np.int32)
            new_shape = writer.tensor(f"shape_{i}", shape.shape, "INT32", data=shape)
            writer.operator("RESHAPE", [activations[-1], new_shape], [operands[-1]])
    result = writer.tensor("output", **target)
    writer.operator(name, operands, [result], **options)
    return writer.finish(activations, [result])


def extreme_values(
    rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int, zero_point: int
) -> NDArray[np.int64]:
    """Return integers: of all the range, only its ends, all at one end, or near the zero point."""
    kind = rng.integers(4)
    if kind == 0:
        return np.asarray(rng.choice([low, high, zero_point], shape))
    if kind == 1:
        ends = rng.choice([low, high], shape[:1] + (1,) * (len(shape) - 1))
        return np.broadcast_to(ends, shape).copy()
    if kind == 2:
        return np.clip(zero_point + rng.integers(-9, 10, shape), low, high)
    return rng.integers(low, high + 1, shape)


def _shapes(rng: np.random.Generator, name: str) -> Shapes:
    if name == "FULLY_CONNECTED":
        rows, columns, out = (int(n) for n in rng.integers(1, (5, 40, 30)))
        if rng.random() < 0.3:
            return Shapes((1, rows, columns), (out, columns), (1, rows, out), {"keep_num_dims": True})
        source = (1, rows, columns) if rng.random() < 0.3 else (rows, columns)
        return Shapes(source, (out, columns), (rows, out), {})
    size, kernel, stride = rng.integers(1, 10, 2), rng.integers(1, 5, 2), rng.integers(1, 4, 2)
    dilation = np.ones(2, np.int64)
    if rng.random() < 0.4 and name != "TRANSPOSE_CONV":
        dilation = rng.integers(1, 4, 2)
    padding = str(rng.choice(["SAME", "VALID"]))
    axes = zip(size.tolist(), kernel.tolist(), stride.tolist(), dilation.tolist(), strict=True)
    places = tuple(place_window(padding, *axis)[0] for axis in axes)
    if min(places) < 1:
        return _shapes(rng, name)
    groups, depth = int(rng.choice([1, 1, 1, 2, 3])), int(rng.integers(1, 5))
    n, channels, out = int(rng.choice([1, 1, 1, 2])), depth * groups, groups * int(rng.integers(1, 5))
    options: dict[str, Any] = {"padding": padding, "stride_h": int(stride[0]), "stride_w": int(stride[1])}
    large, (kernel_h, kernel_w) = tuple(size.tolist()), kernel.tolist()
    if name == "TRANSPOSE_CONV":
        weights = (out, kernel_h, kernel_w, channels)
        return Shapes((n, *places, channels), weights, (n, *large, out), options)
    options |= {"dilation_h_factor": int(dilation[0]), "dilation_w_factor": int(dilation[1])}
    if name == "CONV_2D":
        weights = (out, kernel_h, kernel_w, depth)
        return Shapes((n, *large, channels), weights, (n, *places, out), options)
    options["depth_multiplier"] = int(rng.choice([1, 1, 2, 3]))
    out = channels * options["depth_multiplier"]
    return Shapes((n, *large, channels), (1, kernel_h, kernel_w, out), (n, *places, out), options)


def _biases(rng: np.random.Generator, channels: int, terms: int, high: int, limit: int) -> NDArray[np.int64]:
    if rng.random() < 0.1:
        return np.asarray(rng.choice([-limit, limit], channels))
    size = 74 * high * terms**0.5 * float(rng.choice([0.0, 0.3, 1.0, 4.0]))
    values: NDArray[np.int64] = np.clip(rng.normal(0.0, 1.0, channels) * size, -limit, limit).astype(np.int64)
    return values


def zero_point_of(rng: np.random.Generator, dtype: str) -> int:
    return 0 if dtype == "INT16" else int(rng.choice([-128, 127, 0, *rng.integers(-128, 128, 5)]))


def _scale(rng: np.random.Generator, low: int, high: int, is_tied: bool) -> float:
    exponent = rng.uniform(low, high)
    return float(np.float32(2.0 ** (round(exponent) if is_tied else exponent)))


def constant(values: NDArray[Any], scale: NDArray[Any], axis: int) -> Described:
    quantized = {"scale": scale, "zero_point": np.zeros(len(scale), np.int64), "axis": axis}
    return {"shape": values.shape, "dtype": values.dtype.name.upper(), "data": values} | quantized
