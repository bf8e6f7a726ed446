"""A float network and the integer one made from it, without the converter: convolutions, dense layers.

pair = network_pair(np.random.default_rng(0), "INT8")
pair.integer, pair.exact                     # two `.tflite`, layer by layer the same
pair.samples                                 # [N, 6, 6, 2]
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.edges import ObservationEdge, quantize_observations
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.read_tflite import read_with_edges
from edgeqrl.network.reference import Reference
from tests.tflite_writer import TFLiteWriter

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "FULLY_CONNECTED")
NAMES = ("layer_0", "layer_1", "layer_3", "layer_4")  # layer_2 is a RESHAPE
_SHAPES = ((1, 6, 6, 2), (1, 4, 4, 6), (1, 4, 4, 6), (1, 96), (1, 12), (1, 3))
_WEIGHTS = ((6, 3, 3, 2), (1, 3, 3, 6), None, (12, 96), (3, 12))
_TERMS = (18, 9, None, 96, 12)
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"padding": "VALID", "stride_h": 1, "stride_w": 1},
    {"padding": "SAME", "stride_h": 1, "stride_w": 1},
    {},
    {},
    {},
)


@dataclass(frozen=True, eq=False)
class NetworkPair:
    """The same network twice, and inputs that both take."""

    exact: bytes = field(repr=False)
    integer: bytes = field(repr=False)
    samples: NDArray[np.float32] = field(repr=False)  # [N, 6, 6, 2]
    fresh: NDArray[np.float32] = field(repr=False)  # others, of the same kind

    def error(self, integer: bytes | None = None) -> float:
        """Return the root mean square error of an integer network's outputs on the fresh inputs."""
        found, wanted = outputs(self.integer if integer is None else integer, self.exact, self.fresh)
        return float(np.sqrt(np.mean((found - wanted) ** 2)))


def network_pair(rng: np.random.Generator, dtype: str = "INT8", *, count: int = 300) -> NetworkPair:
    """Draw weights and inputs; inputs are correlated, as those of policies are."""
    parameters: list[Any] = []
    for shape, terms in zip(_WEIGHTS, _TERMS, strict=True):
        if shape is None or terms is None:
            parameters.append(None)
            continue
        channels = shape[3 if shape[0] == 1 else 0]
        weights = rng.normal(0.0, (2.0 / terms) ** 0.5, shape).astype(np.float32)
        parameters.append((weights, rng.normal(0.0, 0.2, channels).astype(np.float32)))
    mixing = rng.normal(0.0, 0.2, (8, 72))
    samples, fresh = (
        (rng.normal(0.5, 1.0, (count, 8)) @ mixing + rng.normal(0.2, 0.05, (count, 72)))
        .reshape(-1, 6, 6, 2)
        .astype(np.float32)
        for _ in range(2)
    )
    exact = _written(parameters, "FLOAT32", [])
    ranges: dict[str, tuple[float, float]] = {}

    def see(name: str, values: NDArray[Any]) -> None:
        ranges[name] = min(float(values.min()), 0.0), max(float(values.max()), 0.0)

    reference = FloatReference(exact)
    reference.run({"observation": samples}, on_tensor=see)
    ranges["layer_2"] = ranges["layer_1"]
    names = ("observation", *(f"layer_{i}" for i in range(5)))
    return NetworkPair(exact, _written(parameters, dtype, [ranges[n] for n in names]), samples, fresh)


def outputs(
    integer: bytes, exact: bytes, samples: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the integer and the float network give, both as real numbers."""
    read = read_with_edges(integer)
    (source, target) = (read.network.tensors[edges[0].tensor] for edges in (read.inputs, read.outputs))
    edge = ObservationEdge.of(source.shape, source.scale, source.zero_point, source.dtype)
    values = quantize_observations(edge, samples.reshape(len(samples), *source.shape))[0]
    given = Reference(read.network).run({source.name: values})[target.name]
    real = target.scale * (given.astype(np.float64) - target.zero_point)
    reference = FloatReference(exact)
    (name,) = reference.outputs
    wanted = reference.run({next(iter(reference.inputs)): samples})[name]
    return real, wanted.astype(np.float64)


def _written(parameters: list[Any], dtype: str, ranges: list[tuple[float, float]]) -> bytes:
    writer = TFLiteWriter()
    scales = [_quantization(dtype, span) for span in ranges] or [((), ())] * len(_SHAPES)

    def activation(name: str, at: int) -> int:
        return writer.tensor(name, _SHAPES[at], dtype, scale=scales[at][0], zero_point=scales[at][1])

    current = first = activation("observation", 0)
    operators = ["CONV_2D", "DEPTHWISE_CONV_2D", "RESHAPE", "FULLY_CONNECTED", "FULLY_CONNECTED"]
    for i, name in enumerate(operators):
        target = activation(f"layer_{i}", i + 1)
        if parameters[i] is None:
            shape = np.array(_SHAPES[i + 1], np.int32)
            writer.operator(name, [current, writer.tensor("shape", (2,), "INT32", data=shape)], [target])
        else:
            operands = _constants(writer, i, parameters[i], dtype, scales[i][0])
            fused = "NONE" if i == len(operators) - 1 else "RELU"
            writer.operator(name, [current, *operands], [target], fused_activation=fused, **_OPTIONS[i])
        current = target
    return writer.finish([first], [current])


def _constants(writer: TFLiteWriter, at: int, parameters: Any, dtype: str, source_scale: Any) -> list[int]:
    weights, bias = parameters
    if dtype == "FLOAT32":
        made = [("w", weights), ("b", bias)]
        return [writer.tensor(f"{name}{at}", v.shape, dtype, data=v) for name, v in made]
    axis = 3 if weights.shape[0] == 1 else 0
    rows = np.moveaxis(weights, axis, 0)
    largest = np.abs(rows.reshape(len(bias), -1)).max(axis=1)
    scales = (largest / 127).astype(np.float32)
    steps = np.rint(rows / scales.reshape(-1, *[1] * (rows.ndim - 1))).astype(np.int8)
    zeros = np.zeros(len(scales), np.int64)
    kind = "INT64" if dtype == "INT16" else "INT32"
    bias_scales = np.float32(source_scale) * scales
    values = np.rint(bias / bias_scales).astype(kind.lower())
    whole = np.ascontiguousarray(np.moveaxis(steps, 0, axis))
    return [
        writer.tensor(f"w{at}", weights.shape, data=whole, scale=scales, zero_point=zeros, axis=axis),
        writer.tensor(f"b{at}", bias.shape, kind, data=values, scale=bias_scales, zero_point=zeros),
    ]


def _quantization(dtype: str, span: tuple[float, float]) -> tuple[Any, Any]:
    if dtype == "INT16":
        return float(np.float32(max(-span[0], span[1]) / 32767)), 0
    scale = float(np.float32((span[1] - span[0]) / 255))
    return scale, int(np.rint(-128 - span[0] / scale))
