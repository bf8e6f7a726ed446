"""Dropping what a dueling network adds to all actions alike: the value, and the mean of the advantages."""

from dataclasses import replace
from typing import Any

from edgeqrl.quantize.frozen import FrozenGraph
from edgeqrl.quantize.rewrites.graph_edits import (
    ADDITIONS,
    COPIES,
    behind,
    computed_constant,
    copy_of,
    num_elements,
    shape_of,
    tensor_name,
)
from edgeqrl.quantize.rewrites.head import joined_pieces

_SPREADING = {"BroadcastTo", "Tile", *COPIES}
_MAX_DEPTH = 32


def drop_dueling_value(graph: FrozenGraph, groups: tuple[int, ...]) -> FrozenGraph | None:
    """Take Q = V + A - mean(A) as A alone: V and the mean are one number, the same for all actions.

    So argmax is the same, and the softmax that is drawn from as well. Any sum or difference is understood, in
    any order, with anything of one element, such as V, mean(A) or max(A), spread by broadcasting; behind it
    may follow constants that are added, and a constant factor. A value that is also an output stays that
    output. Rows that are joined from several choices are taken one by one.
    """
    lean = _lean(graph, groups)
    while lean is not None and (leaner := _lean(lean, groups)) is not None:
        lean = leaner
    return lean


def _lean(graph: FrozenGraph, groups: tuple[int, ...]) -> FrozenGraph | None:
    """Drop what is found in one walk from the output; None where nothing is."""
    edited = copy_of(graph)
    pieces = joined_pieces(graph, graph.output_names[0], groups)
    found = [_without_common(graph, edited, name, inner, 0) for name, inner in pieces]
    if not any(found):
        return None
    names = [name if lean is None else lean for (name, _), lean in zip(pieces, found, strict=True)]
    whole = names[0] if len(names) == 1 else _joined(edited, names)
    return replace(graph, graph_def=edited, output_names=(whole, *graph.output_names[1:]))


def _without_common(
    graph: FrozenGraph, edited: Any, name: str, groups: tuple[int, ...], depth: int
) -> str | None:
    """Return a tensor that differs from `name` [1, n] by the same number in each group, made of less.

    None where there is nothing to drop. New nodes are added to `edited`.
    """
    node = behind(graph, name)
    if not groups or max(groups) < 2 or depth > _MAX_DEPTH:
        return None
    if node.op in COPIES and num_elements(graph, node.input[0]) == sum(groups):
        lean = _without_common(graph, edited, node.input[0], groups, depth + 1)
        return None if lean is None else _like(edited, node, {0: lean})
    if node.op in (*ADDITIONS, "Sub"):
        return _lean_sum(graph, edited, node, groups, depth)
    if node.op not in ("Mul", "RealDiv"):
        return None
    for at in (0, 1) if node.op == "Mul" else (0,):
        factor = computed_constant(graph, node.input[1 - at])
        if factor is not None and factor.size == 1:
            lean = _without_common(graph, edited, node.input[at], groups, depth + 1)
            return None if lean is None else _like(edited, node, {at: lean})
    return None


def _lean_sum(graph: FrozenGraph, edited: Any, node: Any, groups: tuple[int, ...], depth: int) -> str | None:
    """Drop the operand of a sum or difference that all actions share, or look for one within them."""
    shared = [_is_shared(graph, operand) for operand in node.input]
    if shared == [False, True] or (shared == [True, False] and node.op != "Sub"):
        kept = node.input[shared.index(False)]
        kept = _of_shape(graph, kept, shape_of(graph, node.name))
        if kept is None:
            return None
        return _without_common(graph, edited, kept, groups, depth + 1) or tensor_name(kept)
    if any(shared) or any(num_elements(graph, operand) != sum(groups) for operand in node.input):
        return None  # V - A: its sign would have to be turned
    lean = {
        at: name
        for at, operand in enumerate(node.input)
        if (name := _without_common(graph, edited, operand, groups, depth + 1)) is not None
    }
    return _like(edited, node, lean) if lean else None


def _is_shared(graph: FrozenGraph, name: str) -> bool:
    """Tell whether a tensor is one number, perhaps spread over all actions."""
    node = behind(graph, name)
    if node.op == "ConcatV2" and len({operand.removesuffix(":0") for operand in node.input[:-1]}) == 1:
        return num_elements(graph, node.input[0]) == 1
    while node.op in _SPREADING:
        node = behind(graph, node.input[0])
    return num_elements(graph, node.name) == 1


def _of_shape(graph: FrozenGraph, name: str, shape: tuple[int | None, ...] | None) -> str | None:
    """Return tensor `name`, or what it is a reshaped copy of, that has a shape; Keras adds rows as biases."""
    while shape_of(graph, name) != shape:
        node = behind(graph, name)
        if node.op not in COPIES:
            return None
        name = node.input[0]
    return name


def _like(edited: Any, node: Any, inputs: dict[int, str]) -> str:
    """Add a node like another with other inputs, and return its tensor."""
    made = edited.node.add()
    made.CopyFrom(node)
    made.name = _free_name(edited, f"{node.name}/lean")
    for at, name in inputs.items():
        made.input[at] = name
    return tensor_name(made.name)


def _joined(edited: Any, names: list[str]) -> str:
    """Add nodes that join rows [1, n] end to end, and return their tensor."""
    from tensorflow import as_dtype, make_tensor_proto

    int32 = as_dtype("int32").as_datatype_enum
    axis = edited.node.add(name=_free_name(edited, "lean/axis"), op="Const")
    axis.attr["dtype"].type = int32
    axis.attr["value"].tensor.CopyFrom(make_tensor_proto(1, dtype="int32"))
    made = edited.node.add(name=_free_name(edited, "lean/row"), op="ConcatV2")
    made.input.extend([*names, axis.name])
    made.attr["N"].i = len(names)
    made.attr["T"].type, made.attr["Tidx"].type = as_dtype("float32").as_datatype_enum, int32
    return tensor_name(made.name)


def _free_name(edited: Any, wanted: str) -> str:
    taken = {node.name for node in edited.node}
    while wanted in taken:
        wanted += "_"
    return wanted
