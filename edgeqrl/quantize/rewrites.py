"""Edits of the float network that leave every action as it was and make int8 kinder to it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.heads import DiscreteHead, Head
from edgeqrl.quantize.frozen import FrozenGraph

# Given the sizes of the groups of outputs that only the order within decides by; () where values count.
Rewrite = Callable[[FrozenGraph, tuple[int, ...]], FrozenGraph | None]


def rewrite(graph: FrozenGraph, head: Head) -> tuple[FrozenGraph, tuple[str, ...]]:
    """Apply the rewrites that fit; return the new graph and the names of those that were applied."""
    applied = []
    groups = _groups(head)
    for name, edit in REWRITES.items():
        if name == "drop_softmax" and head.is_stochastic and _last(graph).op == "Softmax":
            continue  # draws are by the softmax of whatever the outputs are
        edited = edit(graph, groups)
        if edited is not None:
            graph = edited
            applied.append(name)
    return graph, tuple(applied)


def fold_normalization(graph: FrozenGraph, groups: tuple[int, ...]) -> FrozenGraph | None:
    """Take a constant scale and offset before a dense layer into its weights and bias.

    (x * scale + offset) W + b = x (scale W) + (offset W + b): the outputs stay the same. Applies to
    Normalization, Rescaling and BatchNormalization that feed a dense layer directly.
    """
    edited = type(graph.graph_def)()
    edited.CopyFrom(graph.graph_def)
    is_changed = False
    for product in graph.graph_def.node:
        if product.op == "MatMul" and not product.attr["transpose_a"].b:
            is_changed |= _fold_affine(graph, edited, product)
    return replace(graph, graph_def=edited) if is_changed else None


def drop_softmax(graph: FrozenGraph, groups: tuple[int, ...]) -> FrozenGraph | None:
    """Take the logits instead of their softmax: it grows with each logit, so argmax is the same."""
    last = _last(graph)
    if len(groups) != 1 or last.op not in ("Softmax", "LogSoftmax"):
        return None
    return replace(graph, output_names=(_tensor(last.input[0]), *graph.output_names[1:]))


def centre_head(graph: FrozenGraph, groups: tuple[int, ...]) -> FrozenGraph | None:
    """Subtract the mean over actions from the last layer's weights and bias, in each group of its own.

    Each output loses the same number, so argmax and the softmax that is drawn from are the same. A value
    head spends its int8 steps on what all actions have in common; centred, it spends them on what tells
    actions apart. Applies where the network ends in a dense layer without activation, which nothing else
    reads: a value output beside it keeps what it is made from.
    """
    last = _last(graph)
    has_bias = last.op in ("BiasAdd", "AddV2", "Add")
    product = _behind(graph, last.input[0]) if has_bias else last
    if not groups or product.op != "MatMul" or _feeds_others(graph, product.name):
        return None
    weights = _constant(graph, product.input[1])
    bias = _constant(graph, last.input[1]) if has_bias else None
    if weights is None or (has_bias and bias is None):
        return None
    axis = 0 if product.attr["transpose_b"].b else 1
    if weights.shape[axis] != sum(groups) or max(groups) < 2:
        return None
    if bias is not None and bias.shape != (weights.shape[axis],):
        return None
    edited = type(graph.graph_def)()
    edited.CopyFrom(graph.graph_def)
    _feed(edited, product.name, 1, _centred(weights, axis, groups))
    if bias is not None:
        _feed(edited, last.name, 1, _centred(bias, 0, groups))
    return replace(graph, graph_def=edited)


REWRITES: dict[str, Rewrite] = {
    "fold_normalization": fold_normalization,
    "drop_softmax": drop_softmax,
    "centre_head": centre_head,
}
_AFFINE = {"Add", "AddV2", "Mul", "RealDiv", "Sub"}


def _last(graph: FrozenGraph) -> Any:
    """Return the node that computes the first output."""
    return _behind(graph, graph.output_names[0])


def _groups(head: Head) -> tuple[int, ...]:
    """Return how many outputs each choice among actions is made of; () for heads that take values."""
    return head.counts if isinstance(head, DiscreteHead) else ()


def _feeds_others(graph: FrozenGraph, name: str) -> bool:
    """Tell whether an output but the first depends on the node `name`."""
    return any(
        node.name == name for other in graph.output_names[1:] for node in _ancestors(graph, other).node
    )


def _fold_affine(graph: FrozenGraph, edited: Any, product: Any) -> bool:
    """Fold what feeds one MatMul into it, in `edited`; return whether there was anything."""
    weights = _constant(graph, product.input[1])
    if weights is None:
        return False
    axis = 1 if product.attr["transpose_b"].b else 0
    num_inputs = weights.shape[axis]
    scale, offset = np.ones(num_inputs), np.zeros(num_inputs)
    source = product.input[0]
    is_found = False
    while (step := _affine_step(graph, source, num_inputs)) is not None:
        source, factor, summand = step
        offset = offset + scale * summand
        scale = scale * factor
        is_found = True
    if not is_found or not np.all(np.isfinite([scale, offset])):
        return False
    wide = weights.astype(np.float64)
    shift = offset @ (wide if axis == 0 else wide.T)
    node = next(node for node in edited.node if node.name == product.name)
    node.input[0] = source
    _feed(edited, node.name, 1, np.asarray(wide * np.expand_dims(scale, 1 - axis), np.float32), "folded")
    if np.any(shift):
        _add_bias(graph, edited, node, shift)
    return True


def _affine_step(graph: FrozenGraph, name: str, size: int) -> tuple[str, Any, Any] | None:
    """Read the node behind `name` as source * factor + summand, both float64 [size], or return None."""
    node = _behind(graph, name)
    if node.op not in _AFFINE:
        return None
    values = [_computed_constant(graph, operand) for operand in node.input[:2]]
    if (values[0] is None) == (values[1] is None):
        return None
    position = 0 if values[0] is None else 1  # of the operand that is no constant
    value = values[1 - position]
    assert value is not None
    source = node.input[position]
    is_row = value.size == 1 or (value.size == size and value.shape[-1] == size)
    if not is_row or _shape(graph, source) != (1, size):  # else a broadcast would be lost
        return None
    if _behind(graph, source).op == "MatMul":  # a bias of the layer before, where it belongs
        return None
    row = np.broadcast_to(value.astype(np.float64).ravel(), (size,))
    one, zero = np.ones(size), np.zeros(size)
    if node.op == "Mul":
        return source, row, zero
    if node.op == "RealDiv":
        return (source, 1.0 / row, zero) if position == 0 and np.all(row) else None
    if node.op == "Sub":
        return (source, one, -row) if position == 0 else (source, -one, row)
    return source, one, row


def _add_bias(graph: FrozenGraph, edited: Any, product: Any, shift: NDArray[np.float64]) -> None:
    """Add `shift` to the bias that follows a MatMul, or give it one."""
    readers = [n for n in graph.graph_def.node if _reads(n, product.name)]
    is_output = product.name in {name.split(":")[0] for name in graph.output_names}
    if len(readers) == 1 and readers[0].op in ("BiasAdd", "AddV2", "Add") and not is_output:
        bias = _constant(graph, readers[0].input[1])
        if bias is not None and bias.shape == shift.shape:
            _feed(edited, readers[0].name, 1, np.asarray(bias + shift, np.float32), "folded")
            return
    name, dtype = product.name, product.attr["T"].type
    moved = edited.node.add()  # the sum takes the product's name, so that its readers stay as they are
    moved.CopyFrom(product)
    moved.name = f"{name}/folded_product"
    product.Clear()
    product.name, product.op = name, "BiasAdd"
    product.attr["T"].type = dtype
    product.input.extend([moved.name, moved.name])
    _feed(edited, product.name, 1, np.asarray(shift, np.float32), "folded_bias")


def _reads(node: Any, name: str) -> bool:
    return any(operand.removesuffix(":0") == name for operand in node.input)


def _computed_constant(graph: FrozenGraph, name: str) -> NDArray[np.float32] | None:
    """Compute tensor `name` where it depends on constants alone, such as sqrt(variance)."""
    import tensorflow

    found = _constant(graph, name)
    if found is not None:
        return found
    part = _ancestors(graph, name)
    if any(node.op == "Placeholder" for node in part.node):
        return None
    with tensorflow.Graph().as_default() as arithmetic:
        tensorflow.graph_util.import_graph_def(part, name="")
        with tensorflow.compat.v1.Session(graph=arithmetic) as session:
            values: NDArray[np.float32] = np.asarray(session.run(_tensor(name)))
    return values if values.dtype == np.float32 else None


def _ancestors(graph: FrozenGraph, name: str) -> Any:
    """Return the part of the graph that computes tensor `name`."""
    nodes = {node.name: node for node in graph.graph_def.node}
    pending, part = [name], type(graph.graph_def)(library=graph.graph_def.library)
    while pending:
        node = nodes.pop(pending.pop().lstrip("^").split(":")[0], None)
        if node is not None:
            part.node.add().CopyFrom(node)
            pending += node.input
    part.versions.CopyFrom(graph.graph_def.versions)
    return part


def _shape(graph: FrozenGraph, name: str) -> tuple[int | None, ...] | None:
    import tensorflow

    with tensorflow.Graph().as_default() as shapes:
        tensorflow.graph_util.import_graph_def(graph.graph_def, name="")
        shape = shapes.get_tensor_by_name(_tensor(name)).shape
    return None if shape.rank is None else tuple(shape)


def _centred(values: NDArray[np.float32], axis: int, groups: tuple[int, ...]) -> NDArray[np.float32]:
    wide = values.astype(np.float64)
    parts = np.split(wide, np.cumsum(groups)[:-1], axis=axis)
    centred = [part - part.mean(axis=axis, keepdims=True) for part in parts]
    return np.asarray(np.concatenate(centred, axis=axis), np.float32)


def _behind(graph: FrozenGraph, name: str) -> Any:
    """Find the node that computes tensor `name`, looking through plain copies."""
    nodes = {node.name: node for node in graph.graph_def.node}
    node = nodes[name.split(":")[0]]
    while node.op == "Identity":
        node = nodes[node.input[0].split(":")[0]]
    return node


def _constant(graph: FrozenGraph, name: str) -> NDArray[np.float32] | None:
    from tensorflow import make_ndarray

    node = _behind(graph, name)
    if node.op != "Const":
        return None
    values: NDArray[np.float32] = np.asarray(make_ndarray(node.attr["value"].tensor))
    return values if values.dtype == np.float32 else None


def _feed(
    graph_def: Any, node_name: str, position: int, values: NDArray[np.float32], label: str = "centred"
) -> None:
    """Give a node a constant of its own in place of one input: others may read the old one."""
    from tensorflow import as_dtype, make_tensor_proto

    constant = graph_def.node.add(name=f"{node_name}/{label}_{position}", op="Const")
    constant.attr["dtype"].type = as_dtype(np.float32).as_datatype_enum
    constant.attr["value"].tensor.CopyFrom(make_tensor_proto(values))
    node = next(node for node in graph_def.node if node.name == node_name)
    node.input[position] = constant.name


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"
