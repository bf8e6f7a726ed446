"""A fully-integer `.tflite` file -> IntegerNetwork."""

import math

import numpy as np

from edgeqrl.errors import DataError
from edgeqrl.network.fixed_point import quantize_multiplier
from edgeqrl.network.functions import (
    Table,
    activation_range,
    logistic_table,
    requantize_table,
    tanh_table,
)
from edgeqrl.network.ir import Dense, IntegerNetwork, Layer, Lookup, Reshape, Tensor
from edgeqrl.network.supported_ops import Operator, require_supported
from edgeqrl.network.tflite_model import TensorInfo, TFLiteModel, parse_tflite, replace_buffers, shown

__all__ = ["parse_tflite", "read_tflite", "replace_buffers"]


def read_tflite(data: bytes) -> IntegerNetwork:
    """Lower a file; its arithmetic is then TFLite Micro's, bit for bit.

    Raises DataError where the file is damaged, UnsupportedOperatorError where it uses something that
    SUPPORTED_OPS.md does not list or could overflow int32.
    """
    model = parse_tflite(data)
    operators = require_supported(model)
    names = unique_names(model)
    used = {i for info in model.operators for i in (info.inputs[0], info.outputs[0])}
    used |= {*model.inputs, *model.outputs}
    try:
        return IntegerNetwork(
            tensors={names[i]: _activation(names[i], model.tensors[i]) for i in sorted(used)},
            inputs=tuple(names[i] for i in model.inputs),
            outputs=tuple(names[i] for i in model.outputs),
            layers=tuple(_layer(op, names) for op in operators),
        )
    except ValueError as error:
        raise DataError(f"The .tflite file contradicts itself: {error}.") from None


def unique_names(model: TFLiteModel) -> tuple[str, ...]:
    """Return a name for each tensor; the file's own, made unique by its index where needed."""
    names: list[str] = []
    taken: set[str] = set()
    for i, tensor in enumerate(model.tensors):
        name = tensor.name or f"tensor_{i}"
        while name in taken:
            name = f"{name}#{i}"
        taken.add(name)
        names.append(name)
    return tuple(names)


def _activation(name: str, tensor: TensorInfo) -> Tensor:
    if tensor.dtype != "INT8" or len(tensor.scales) != 1 or tensor.shape[:1] != (1,):
        raise DataError(
            f"Tensor '{shown(name)}' at the network's edge is {tensor.dtype} {list(tensor.shape)}, and "
            "must be INT8 with one scale and a batch of 1: convert with INT8 input and output."
        )
    return Tensor(name, tensor.shape[1:], float(tensor.scales[0]), int(tensor.zero_points[0]))


def _layer(op: Operator, names: tuple[str, ...]) -> Layer:
    source, target = names[op.info.inputs[0]], names[op.info.outputs[0]]
    if op.info.name == "FULLY_CONNECTED":
        return _dense(op, source, target)
    if op.info.name == "RESHAPE":
        return Reshape(target, source, target)
    return Lookup(target, op.info.name, source, target, _table(op))


def _dense(op: Operator, source: str, target: str) -> Dense:
    weights = op.inputs[1]
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    assert weights is not None
    rows = weights.shape[0]
    scale_in, scale_out = float(op.source.scales[0]), float(op.target.scales[0])
    scales = np.broadcast_to(weights.scales.astype(np.float64), (rows,))
    # All in double precision, as TFLite Micro; tflite-runtime multiplies a single weight scale with the
    # input's in float32 and so differs by one, rarely.
    pairs = [quantize_multiplier(scale_in * scale / scale_out) for scale in scales.tolist()]
    multiplier, shift = np.array(pairs, np.int32).reshape(rows, 2).T
    values = np.zeros(rows, np.int32) if bias is None else np.asarray(bias.values(), np.int32).reshape(rows)
    lowest, highest = activation_range(op.info.fused_activation, scale_out, int(op.target.zero_points[0]))
    return Dense(
        name=target,
        input=source,
        output=target,
        weights=np.asarray(weights.values(), np.int8),
        bias=values,
        multiplier=np.ascontiguousarray(multiplier),
        shift=np.ascontiguousarray(shift),
        output_min=lowest,
        output_max=highest,
    )


def _table(op: Operator) -> Table:
    scale, zero_point = float(op.source.scales[0]), int(op.source.zero_points[0])
    out_scale, out_zero_point = float(op.target.scales[0]), int(op.target.zero_points[0])
    name = op.info.name
    if name == "TANH":
        return tanh_table(scale, zero_point)
    if name == "LOGISTIC":
        return logistic_table(scale, zero_point)
    effective = scale / out_scale
    if name == "RELU_N1_TO_1":
        # TFLite Micro has no such operator; tflite-runtime, which then decides, divides in float32.
        effective = float(np.float32(scale) / np.float32(out_scale))
    if not math.isfinite(effective):
        raise ValueError(f"the scales of '{shown(op.target.name)}' are out of range")
    activation = "NONE" if name == "QUANTIZE" else name
    lowest, highest = activation_range(activation, out_scale, out_zero_point)
    return requantize_table(effective, zero_point, out_zero_point, lowest, highest)
