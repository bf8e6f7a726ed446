"""Folding constant scales and offsets into the layer behind them."""

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.quantize.frozen import FrozenGraph
from edgeqrl.quantize.rewrites.graph_edits import (
    ADDITIONS,
    behind,
    computed_constant,
    constant,
    copy_of,
    feed,
    node_named,
    num_elements,
    reads,
    shape_of,
)

Row = NDArray[np.float64]

_AFFINE = {"Add", "AddV2", "Mul", "RealDiv", "Sub"}
_LINEAR = {"MatMul", "Conv2D", "DepthwiseConv2dNative"}


def fold_normalization(graph: FrozenGraph, groups: tuple[int, ...]) -> FrozenGraph | None:
    """Take a constant scale and offset before a dense layer or a convolution into its weights and bias.

    (x * scale + offset) W + b = x (scale W) + (offset W + b): the outputs stay the same. Applies to
    Normalization, Rescaling and BatchNormalization that feed the layer, a dense one also through Flatten.
    Before a convolution that pads its input with zeros only a scale can be folded; behind a layer the
    converter does it.
    """
    edited = copy_of(graph)
    is_changed = False
    for layer in graph.graph_def.node:
        if layer.op == "MatMul" and not layer.attr["transpose_a"].b:
            is_changed |= _fold_into_dense(graph, edited, layer)
        elif layer.op in _LINEAR and layer.attr["data_format"].s in (b"", b"NHWC"):
            is_changed |= _fold_into_convolution(graph, edited, layer)
    return replace(graph, graph_def=edited) if is_changed else None


def _fold_into_dense(graph: FrozenGraph, edited: Any, product: Any) -> bool:
    """Fold what feeds one MatMul into it, in `edited`; return whether there was anything."""
    weights = constant(graph, product.input[1])
    if weights is None:
        return False
    axis = 1 if product.attr["transpose_b"].b else 0
    found = _affine_before(graph, product.input[0], weights.shape[axis], is_flat=True)
    if found is None:
        return False
    source, scale, offset = found
    wide = weights.astype(np.float64)
    shift = offset @ (wide if axis == 0 else wide.T)
    if shape_of(graph, source) != (1, weights.shape[axis]):
        source = _flattened(graph, edited, product, source)
    node = node_named(edited, product.name)
    node.input[0] = source
    feed(edited, node.name, 1, np.asarray(wide * np.expand_dims(scale, 1 - axis), np.float32), "folded")
    if np.any(shift):
        _add_bias(graph, edited, node, shift)
    return True


def _fold_into_convolution(graph: FrozenGraph, edited: Any, layer: Any) -> bool:
    """Fold what feeds one convolution into it, channel by channel; return whether there was anything."""
    weights = constant(graph, layer.input[1])  # [height, width, in, out], or [height, width, in, times]
    found = (
        None if weights is None else _affine_before(graph, layer.input[0], weights.shape[2], is_flat=False)
    )
    if weights is None or found is None:
        return False
    source, scale, offset = found
    if np.any(offset) and layer.attr["padding"].s != b"VALID" and weights.shape[:2] != (1, 1):
        return False  # the zeros around the input would have to become other numbers
    wide = weights.astype(np.float64)
    moved = wide * offset[:, np.newaxis]
    shift = moved.sum(axis=(0, 1, 2)) if layer.op == "Conv2D" else moved.sum(axis=(0, 1)).ravel()
    node = node_named(edited, layer.name)
    node.input[0] = source
    feed(edited, node.name, 1, np.asarray(wide * scale[:, np.newaxis], np.float32), "folded")
    if np.any(shift):
        _add_bias(graph, edited, node, shift)
    return True


def _affine_before(graph: FrozenGraph, name: str, size: int, *, is_flat: bool) -> tuple[str, Row, Row] | None:
    """Read tensor `name` as source * scale + offset, both float64 [size], or return None.

    size     of the last axis of the tensor
    is_flat  it is a row, whose elements may lie otherwise before: Flatten is looked through
    """
    scale, offset, source, is_found = np.ones(size), np.zeros(size), name, False
    at = name
    while True:
        node = behind(graph, at)
        if is_flat and node.op == "Reshape" and _batch_of_one(graph, node.input[0], size):
            at = node.input[0]
            continue
        step = _affine_step(graph, node, size, is_flat=is_flat)
        if step is None:
            break
        source, factor, summand = step
        at, is_found = source, True
        offset = offset + scale * summand
        scale = scale * factor
    return (source, scale, offset) if is_found and np.all(np.isfinite([scale, offset])) else None


def _affine_step(graph: FrozenGraph, node: Any, size: int, *, is_flat: bool) -> tuple[str, Any, Any] | None:
    """Read a node as source * factor + summand, both float64 [size], or return None."""
    if node.op not in _AFFINE:
        return None
    values = [computed_constant(graph, operand) for operand in node.input[:2]]
    if (values[0] is None) == (values[1] is None):
        return None
    position = 0 if values[0] is None else 1  # of the operand that is no constant
    value = values[1 - position]
    assert value is not None
    source = node.input[position]
    row = _as_row(value, shape_of(graph, source), size, is_flat=is_flat)
    if row is None or behind(graph, source).op in _LINEAR:  # a bias of the layer before, where it belongs
        return None
    one, zero = np.ones(size), np.zeros(size)
    if node.op == "Mul":
        return source, row, zero
    if node.op == "RealDiv":
        return (source, 1.0 / row, zero) if position == 0 and np.all(row) else None
    if node.op == "Sub":
        return (source, one, -row) if position == 0 else (source, -one, row)
    return source, one, row


def _as_row(
    value: NDArray[np.float32], shape: tuple[int | None, ...] | None, size: int, *, is_flat: bool
) -> Row | None:
    """Return a constant as what it is for each element of a source, [size], or None where it is not that."""
    if shape is None or None in shape or shape[:1] != (1,) or len(shape) < 2:
        return None
    known = tuple(n or 0 for n in shape)
    is_fitting = prod(known) == size if is_flat else len(known) == 4 and known[-1] == size
    try:
        spread = np.broadcast_to(value.astype(np.float64), known)
    except ValueError:  # the constant is larger: the source would be spread
        return None
    if not is_fitting or (not is_flat and value.size not in (1, size)):
        return None
    if not is_flat and value.size > 1 and value.shape[-1] != size:
        return None
    return spread.ravel()[-size:].copy()


def _batch_of_one(graph: FrozenGraph, name: str, size: int) -> bool:
    shape = shape_of(graph, name)
    return shape is not None and shape[:1] == (1,) and num_elements(graph, name) == size


def _flattened(graph: FrozenGraph, edited: Any, product: Any, source: str) -> str:
    """Add a Reshape of `source` to a row, like the one before a MatMul, and return its tensor."""
    from tensorflow import as_dtype, make_tensor_proto

    shape = edited.node.add(name=f"{product.name}/folded_shape", op="Const")
    shape.attr["dtype"].type = as_dtype("int32").as_datatype_enum
    shape.attr["value"].tensor.CopyFrom(make_tensor_proto([1, -1], dtype="int32"))
    made = edited.node.add(name=f"{product.name}/folded_row", op="Reshape")
    made.input.extend([source, shape.name])
    made.attr["T"].type = product.attr["T"].type
    made.attr["Tshape"].type = as_dtype("int32").as_datatype_enum
    return str(made.name)


def _add_bias(graph: FrozenGraph, edited: Any, layer: Any, shift: Row) -> None:
    """Add `shift` to the bias that follows a layer, or give it one."""
    readers = [n for n in graph.graph_def.node if reads(n, layer.name)]
    is_output = layer.name in {name.split(":")[0] for name in graph.output_names}
    if len(readers) == 1 and readers[0].op in ADDITIONS and not is_output:
        bias = constant(graph, readers[0].input[1])
        if bias is not None and bias.shape == shift.shape:
            feed(edited, readers[0].name, 1, np.asarray(bias + shift, np.float32), "folded")
            return
    name, dtype = layer.name, layer.attr["T"].type
    moved = edited.node.add()  # the sum takes the layer's name, so that its readers stay as they are
    moved.CopyFrom(layer)
    moved.name = f"{name}/folded_product"
    layer.Clear()
    layer.name, layer.op = name, "BiasAdd"
    layer.attr["T"].type = dtype
    layer.input.extend([moved.name, moved.name])
    feed(edited, layer.name, 1, np.asarray(shift, np.float32), "folded_bias")
