"""Random networks of many operators as `.tflite` files, int8 or 16x8: what no converter would ever write.

    tflite = random_network(np.random.default_rng(0), dtype="INT16", num_operators=12)

Every operator is drawn from those that fit the tensors there are, so that branches, several outputs, reuse
and chains of any kind come about.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.tflite_writer import TFLiteWriter

_MOST_ELEMENTS = 600


@dataclass
class _Value:
    index: int
    shape: tuple[int, ...]  # with the batch axis
    scale: float
    zero_point: int


@dataclass
class _Builder:
    rng: np.random.Generator
    dtype: str
    writer: TFLiteWriter = field(default_factory=TFLiteWriter)
    values: list[_Value] = field(default_factory=list)
    read: set[int] = field(default_factory=set)

    @property
    def is_int8(self) -> bool:
        return self.dtype == "INT8"

    def value(
        self, shape: tuple[int, ...], scale: float | None = None, zero_point: int | None = None
    ) -> _Value:
        """Add an activation; its quantization is random where it is not given."""
        powers = (-7, -2) if self.is_int8 else (-15, -10)
        chosen = float(np.float32(2.0 ** self.rng.uniform(*powers))) if scale is None else scale
        if not self.is_int8:
            point = 0
        else:
            point = int(self.rng.integers(-128, 128)) if zero_point is None else zero_point
        name = f"t{len(self.writer.tensors)}"
        index = self.writer.tensor(name, shape, self.dtype, scale=chosen, zero_point=point)
        return _Value(index, shape, chosen, point)

    def like(self, source: _Value, shape: tuple[int, ...]) -> _Value:
        return self.value(shape, source.scale, source.zero_point)

    def constant(self, values: NDArray[Any], **quantization: Any) -> int:
        name = f"c{len(self.writer.tensors)}"
        return self.writer.tensor(name, values.shape, values.dtype.name.upper(), data=values, **quantization)

    def emit(self, name: str, inputs: list[_Value | int], output: _Value, **options: Any) -> None:
        indices = [v if isinstance(v, int) else v.index for v in inputs]
        self.read |= {v.index for v in inputs if isinstance(v, _Value)}
        self.writer.operator(name, indices, [output.index], **options)
        self.values.append(output)


def random_network(
    rng: np.random.Generator, *, dtype: str = "INT8", num_operators: int = 8, num_inputs: int = 1
) -> bytes:
    """Write a network; its outputs are all values that nothing reads, three at most."""
    builder = _Builder(rng, dtype)
    for _ in range(num_inputs):
        is_image = rng.random() < 0.6
        size = (int(rng.integers(3, 9)), int(rng.integers(3, 9)), int(rng.integers(1, 5)))
        builder.values.append(builder.value((1, *size) if is_image else (1, int(rng.integers(2, 20)))))
    inputs = list(builder.values)
    while len(builder.writer.operators) < num_operators:
        makers = _INT8_MAKERS + _MAKERS if builder.is_int8 else _MAKERS
        # The latest values most often, so that networks grow deep as well as wide.
        weights = np.arange(1, len(builder.values) + 1, dtype=np.float64) ** 2
        source = builder.values[rng.choice(len(builder.values), p=weights / weights.sum())]
        makers[rng.integers(len(makers))](builder, source)
    unread = [v.index for v in builder.values if v.index not in builder.read and v not in inputs]
    outputs = unread[-3:] or [builder.values[-1].index]
    return builder.writer.finish([v.index for v in inputs], outputs)


def _dense(b: _Builder, x: _Value) -> None:
    size = int(np.prod(x.shape))
    if size > 300:
        return
    flat = x if len(x.shape) == 2 else b.like(x, (1, size))
    if flat is not x:
        b.emit("RESHAPE", [x, b.constant(np.array([1, size], np.int32))], flat)
    rows = int(b.rng.integers(1, 17))
    output = b.value((1, rows))
    weights, bias = _linear(b, x, output, (rows, size), 0)
    b.emit("FULLY_CONNECTED", [flat, weights, bias], output, fused_activation=_fused(b))


def _conv(b: _Builder, x: _Value) -> None:
    geometry = _window(b, x)
    if geometry is None:
        return
    kernel, stride, padding, height, width = geometry
    channels = int(b.rng.integers(1, 7))
    output = b.value((1, height, width, channels))
    weights, bias = _linear(b, x, output, (channels, *kernel, x.shape[3]), 0)
    options = {"stride_h": stride[0], "stride_w": stride[1], "padding": padding}
    b.emit("CONV_2D", [x, weights, bias], output, fused_activation=_fused(b), **_wide_bias(b), **options)


def _depthwise(b: _Builder, x: _Value) -> None:
    geometry = _window(b, x)
    if geometry is None:
        return
    kernel, stride, padding, height, width = geometry
    multiplier = int(b.rng.integers(1, 3))
    output = b.value((1, height, width, x.shape[3] * multiplier))
    weights, bias = _linear(b, x, output, (1, *kernel, output.shape[3]), 3)
    options = {"stride_h": stride[0], "stride_w": stride[1], "padding": padding}
    b.emit(
        "DEPTHWISE_CONV_2D",
        [x, weights, bias],
        output,
        fused_activation=_fused(b),
        depth_multiplier=multiplier,
        **options,
    )


def _pool(b: _Builder, x: _Value) -> None:
    geometry = _window(b, x)
    if geometry is None:
        return
    kernel, stride, padding, height, width = geometry
    name = "MAX_POOL_2D" if b.rng.random() < 0.5 else "AVERAGE_POOL_2D"
    options = {"stride_h": stride[0], "stride_w": stride[1], "padding": padding}
    options |= {"filter_height": kernel[0], "filter_width": kernel[1]}
    b.emit(name, [x], b.like(x, (1, height, width, x.shape[3])), **options)


def _mean(b: _Builder, x: _Value) -> None:
    if len(x.shape) != 4:
        return
    axes = [(1, 2), (1,), (2, 3), (3,)][b.rng.integers(4)]
    keep = bool(b.rng.integers(2))
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keep or i not in axes)
    b.emit("MEAN", [x, b.constant(np.array(axes, np.int32))], b.value(shape), keep_dims=keep)


def _binary(b: _Builder, x: _Value) -> None:
    name = ("ADD", "SUB", "MUL")[b.rng.integers(3)]
    same = [v for v in b.values if v.shape == x.shape]
    if b.rng.random() < 0.5:
        other: _Value | int = same[b.rng.integers(len(same))]
    else:
        info = np.iinfo(b.dtype.lower())
        shape = x.shape if b.rng.random() < 0.5 else (1,) * (len(x.shape) - 1) + x.shape[-1:]
        values = b.rng.integers(info.min, info.max + 1, shape).astype(b.dtype.lower())
        point = int(b.rng.integers(-128, 128)) if b.is_int8 else 0
        scale = float(np.float32(2.0 ** b.rng.uniform(-7, -3))) * (1.0 if b.is_int8 else 2.0**-8)
        other = b.constant(values, scale=scale, zero_point=point)
    b.emit(name, [x, other], b.value(x.shape), fused_activation=_fused(b))


def _extreme(b: _Builder, x: _Value) -> None:
    info = np.iinfo(b.dtype.lower())
    values = b.rng.integers(info.min, info.max + 1, x.shape[-1:]).astype(b.dtype.lower())
    other = b.constant(values, scale=x.scale, zero_point=x.zero_point)
    name = "MAXIMUM" if b.rng.random() < 0.5 else "MINIMUM"
    b.emit(name, [x, other], b.like(x, x.shape))


def _squash(b: _Builder, x: _Value) -> None:
    name = "TANH" if b.rng.random() < 0.5 else "LOGISTIC"
    if not b.is_int8:
        output = b.value(x.shape, 2.0**-15)
    else:
        output = b.value(x.shape, *((1 / 128, 0) if name == "TANH" else (1 / 256, -128)))
    b.emit(name, [x], output)


def _leaky(b: _Builder, x: _Value) -> None:
    b.emit("LEAKY_RELU", [x], b.value(x.shape), alpha=float(np.float32(b.rng.uniform(0.01, 0.5))))


def _requantize(b: _Builder, x: _Value) -> None:
    b.emit("QUANTIZE", [x], b.value(x.shape))


def _table(b: _Builder, x: _Value) -> None:
    name = ("RELU", "ELU", "HARD_SWISH", "RELU6", "ABS")[b.rng.integers(5)]
    b.emit(name, [x], b.like(x, x.shape) if name in ("RELU6", "ABS") else b.value(x.shape))


def _softmax(b: _Builder, x: _Value) -> None:
    b.emit("SOFTMAX", [x], b.value(x.shape, 1 / 256, -128), beta=1.0)


def _pad(b: _Builder, x: _Value) -> None:
    amounts = np.zeros((len(x.shape), 2), np.int32)
    amounts[1:] = b.rng.integers(0, 3, (len(x.shape) - 1, 2))
    shape = tuple(int(n + before + after) for n, (before, after) in zip(x.shape, amounts, strict=True))
    if np.prod(shape) <= _MOST_ELEMENTS:
        b.emit("PAD", [x, b.constant(amounts)], b.like(x, shape))


def _transpose(b: _Builder, x: _Value) -> None:
    order = [0, *(1 + b.rng.permutation(len(x.shape) - 1))]
    shape = tuple(x.shape[i] for i in order)
    b.emit("TRANSPOSE", [x, b.constant(np.array(order, np.int32))], b.like(x, shape))


def _slice(b: _Builder, x: _Value) -> None:
    begin = [0, *(int(b.rng.integers(0, n)) for n in x.shape[1:])]
    size = [
        1,
        *(int(b.rng.integers(1, n - start + 1)) for n, start in zip(x.shape[1:], begin[1:], strict=True)),
    ]
    operands = [b.constant(np.array(v, np.int32)) for v in (begin, size)]
    b.emit("SLICE", [x, *operands], b.like(x, tuple(size)))


def _stride(b: _Builder, x: _Value) -> None:
    ends = np.array(x.shape, np.int32)
    steps = np.ones(len(x.shape), np.int32)
    steps[1:] = b.rng.integers(1, 3, len(x.shape) - 1)
    operands = [b.constant(np.array(v, np.int32)) for v in (np.zeros_like(ends), ends, steps)]
    shape = tuple(-(-int(n) // int(step)) for n, step in zip(x.shape, steps, strict=True))
    b.emit("STRIDED_SLICE", [x, *operands], b.like(x, shape))


def _concatenate(b: _Builder, x: _Value) -> None:
    if np.prod(x.shape) * 2 > _MOST_ELEMENTS:
        return
    same = [v for v in b.values if v.shape == x.shape and (v.scale, v.zero_point) == (x.scale, x.zero_point)]
    axis = int(b.rng.integers(1, len(x.shape)))
    shape = tuple(n * (2 if i == axis else 1) for i, n in enumerate(x.shape))
    b.emit("CONCATENATION", [x, same[b.rng.integers(len(same))]], b.like(x, shape), axis=axis)


def _split(b: _Builder, x: _Value) -> None:
    axis = len(x.shape) - 1
    if x.shape[axis] % 2:
        return
    shape = (*x.shape[:-1], x.shape[-1] // 2)
    parts = [b.like(x, shape) for _ in range(2)]
    b.read.add(x.index)
    operands = [b.constant(np.array(axis, np.int32)), x.index]
    b.writer.operator("SPLIT", operands, [part.index for part in parts], num_splits=2)
    b.values += parts


def _window(b: _Builder, x: _Value) -> tuple[tuple[int, int], tuple[int, int], str, int, int] | None:
    """Return kernel, stride, padding and the output's height and width; None where x is no image."""
    if len(x.shape) != 4:
        return None
    kernel = tuple(int(b.rng.integers(1, min(n, 3) + 1)) for n in x.shape[1:3])
    stride = tuple(int(b.rng.integers(1, 3)) for _ in range(2))
    padding = "SAME" if b.rng.random() < 0.5 else "VALID"
    sizes = []
    for n, k, s in zip(x.shape[1:3], kernel, stride, strict=True):
        sizes.append(-(-n // s) if padding == "SAME" else -(-(n - k + 1) // s))
    return (kernel[0], kernel[1]), (stride[0], stride[1]), padding, sizes[0], sizes[1]


def _linear(b: _Builder, x: _Value, output: _Value, shape: tuple[int, ...], axis: int) -> tuple[int, int]:
    """Add weights and bias whose sums spread over the output's range."""
    channels = shape[axis]
    weights = b.rng.integers(-127, 128, shape).astype(np.int8)
    fan_in = weights.size // channels
    steps = 74.0 if b.is_int8 else 19_000.0
    spread = np.sqrt(fan_in) * 74.0 * steps
    scales = (0.6 * steps * output.scale / (spread * x.scale) * b.rng.uniform(0.5, 2.0, channels)).astype(
        np.float32
    )
    bias = b.rng.normal(0.0, spread, channels).astype(np.int32 if b.is_int8 else np.int64)
    zeros = np.zeros(channels, np.int64)
    return (
        b.constant(weights, scale=scales, zero_point=zeros, axis=axis),
        b.constant(bias, scale=np.float32(x.scale) * scales, zero_point=zeros),
    )


def _fused(b: _Builder) -> str:
    return ("NONE", "NONE", "RELU", "RELU6")[b.rng.integers(4)]


def _wide_bias(b: _Builder) -> dict[str, str]:
    return {} if b.is_int8 else {"quantized_bias_type": "INT64"}


_MAKERS: list[Callable[[_Builder, _Value], None]] = [
    _dense, _conv, _depthwise, _pool, _mean, _binary, _binary, _squash, _leaky, _requantize,
    _pad, _transpose, _slice, _stride, _concatenate, _split,
]  # fmt: skip
_INT8_MAKERS: list[Callable[[_Builder, _Value], None]] = [_table, _table, _softmax, _extreme]
