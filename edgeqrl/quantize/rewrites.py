"""Edits of the float network that leave every action as it was and make int8 kinder to it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.heads import DiscreteHead, Head
from edgeqrl.quantize.frozen import FrozenGraph

Rewrite = Callable[[FrozenGraph], FrozenGraph | None]


def rewrite(graph: FrozenGraph, head: Head) -> tuple[FrozenGraph, tuple[str, ...]]:
    """Apply the rewrites that fit; return the new graph and the names of those that were applied."""
    applied = []
    for name, edit in REWRITES.items():
        edited = edit(graph) if isinstance(head, DiscreteHead) else None
        if edited is not None:
            graph = edited
            applied.append(name)
    return graph, tuple(applied)


def drop_softmax(graph: FrozenGraph) -> FrozenGraph | None:
    """Take the logits instead of their softmax: it grows with each logit, so argmax is the same."""
    last = _behind(graph, graph.output_name)
    if last.op not in ("Softmax", "LogSoftmax"):
        return None
    return replace(graph, output_name=_tensor(last.input[0]))


def centre_head(graph: FrozenGraph) -> FrozenGraph | None:
    """Subtract the mean over actions from the last layer's weights and bias.

    Each output loses the same number, so argmax is the same. A value head spends its int8 steps on
    what all actions have in common; centred, it spends them on what tells actions apart.
    Applies where the network ends in a dense layer without activation.
    """
    last = _behind(graph, graph.output_name)
    has_bias = last.op in ("BiasAdd", "AddV2", "Add")
    product = _behind(graph, last.input[0]) if has_bias else last
    if product.op != "MatMul":
        return None
    weights = _constant(graph, product.input[1])
    bias = _constant(graph, last.input[1]) if has_bias else None
    if weights is None or (has_bias and bias is None):
        return None
    axis = 0 if product.attr["transpose_b"].b else 1
    if weights.shape[axis] < 2 or (bias is not None and bias.shape != (weights.shape[axis],)):
        return None
    edited = type(graph.graph_def)()
    edited.CopyFrom(graph.graph_def)
    _feed(edited, product.name, 1, _centred(weights, axis))
    if bias is not None:
        _feed(edited, last.name, 1, _centred(bias, 0))
    return replace(graph, graph_def=edited)


REWRITES: dict[str, Rewrite] = {"drop_softmax": drop_softmax, "centre_head": centre_head}


def _centred(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    wide = values.astype(np.float64)
    return np.asarray(wide - wide.mean(axis=axis, keepdims=True), np.float32)


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


def _feed(graph_def: Any, node_name: str, position: int, values: NDArray[np.float32]) -> None:
    """Give a node a constant of its own in place of one input: others may read the old one."""
    from tensorflow import as_dtype, make_tensor_proto

    constant = graph_def.node.add(name=f"{node_name}/centred_{position}", op="Const")
    constant.attr["dtype"].type = as_dtype(np.float32).as_datatype_enum
    constant.attr["value"].tensor.CopyFrom(make_tensor_proto(values))
    node = next(node for node in graph_def.node if node.name == node_name)
    node.input[position] = constant.name


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"
