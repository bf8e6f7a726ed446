"""Rewrites of the end of a network that chooses among actions: only the order within each choice counts."""

from dataclasses import replace
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
    feeds_others,
    last_node,
    num_readers,
    shape_of,
    tensor_name,
)


def drop_softmax(graph: FrozenGraph, groups: tuple[int, ...]) -> FrozenGraph | None:
    """Take the logits instead of their softmax: it grows with each logit, so argmax is the same."""
    last = last_node(graph)
    if len(groups) != 1 or last.op not in ("Softmax", "LogSoftmax"):
        return None
    return replace(graph, output_names=(tensor_name(last.input[0]), *graph.output_names[1:]))


def centre_head(graph: FrozenGraph, groups: tuple[int, ...]) -> FrozenGraph | None:
    """Subtract the mean over actions from the last layer's weights and bias, in each group of its own.

    Each output loses the same number, so argmax and the softmax that is drawn from are the same. A value
    head spends its int8 steps on what all actions have in common; centred, it spends them on what tells
    actions apart. Applies where the network ends in dense layers without activation, one or several joined
    end to end, which nothing else reads: a value output beside them keeps what it is made from.
    """
    edited = copy_of(graph)
    pieces = joined_pieces(graph, graph.output_names[0], groups)
    changed = [_centre(graph, edited, name, inner) for name, inner in pieces]
    return replace(graph, graph_def=edited) if any(changed) else None


def joined_pieces(
    graph: FrozenGraph, name: str, groups: tuple[int, ...]
) -> list[tuple[str, tuple[int, ...]]]:
    """Return the tensors that are joined to tensor `name` [1, sum(groups)], with the groups in each.

    Itself alone where it is not joined from rows, or where a seam runs through a group.
    """
    node = behind(graph, name)
    whole = [(name, groups)]
    if node.op != "ConcatV2" or not groups:
        return whole
    sizes = [_row_size(shape_of(graph, operand)) for operand in node.input[:-1]]
    pieces, left = [], list(groups)
    for operand, size in zip(node.input[:-1], sizes, strict=True):
        inner: list[int] = []
        while left and size is not None and sum(inner) < size:
            inner.append(left.pop(0))
        if size is None or sum(inner) != size:
            return whole
        pieces += joined_pieces(graph, operand, tuple(inner))
    return pieces if not left else whole


def _row_size(shape: tuple[int | None, ...] | None) -> int | None:
    return shape[1] if shape is not None and len(shape) == 2 and shape[0] == 1 else None


def _centre(graph: FrozenGraph, edited: Any, name: str, groups: tuple[int, ...]) -> bool:
    """Centre the dense layer that computes tensor `name`, in `edited`; return whether it is one."""
    last = behind(graph, name)
    has_bias = last.op in ADDITIONS
    product = behind(graph, last.input[0]) if has_bias else last
    if not groups or max(groups) < 2 or product.op != "MatMul" or feeds_others(graph, product.name):
        return False
    if max(num_readers(graph, product.name), num_readers(graph, last.name)) > 1:
        return False  # another part of the output is made from it
    weights = constant(graph, product.input[1])
    bias = computed_constant(graph, last.input[1]) if has_bias else None
    if weights is None or (has_bias and bias is None):
        return False
    axis = 0 if product.attr["transpose_b"].b else 1
    if weights.shape[axis] != sum(groups):
        return False
    if bias is not None and bias.shape != (weights.shape[axis],):
        return False
    feed(edited, product.name, 1, _centred(weights, axis, groups), "centred")
    if bias is not None:
        feed(edited, last.name, 1, _centred(bias, 0, groups), "centred")
    return True


def _centred(values: NDArray[np.float32], axis: int, groups: tuple[int, ...]) -> NDArray[np.float32]:
    wide = values.astype(np.float64)
    parts = np.split(wide, np.cumsum(groups)[:-1], axis=axis)
    centred = [part - part.mean(axis=axis, keepdims=True) for part in parts]
    return np.asarray(np.concatenate(centred, axis=axis), np.float32)
