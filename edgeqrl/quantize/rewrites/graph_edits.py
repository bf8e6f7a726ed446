"""Looking at and editing a frozen graph: what all rewrites need."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.quantize.frozen import FrozenGraph

ADDITIONS = ("BiasAdd", "AddV2", "Add")
COPIES = ("Reshape", "ExpandDims", "Squeeze")  # the same numbers in the same order


def copy_of(graph: FrozenGraph) -> Any:
    """Return a copy of the GraphDef, to be edited."""
    edited = type(graph.graph_def)()
    edited.CopyFrom(graph.graph_def)
    return edited


def tensor_name(name: str) -> str:
    """Return a tensor's name with the number of the output."""
    return name if ":" in name else f"{name}:0"


def behind(graph: FrozenGraph, name: str) -> Any:
    """Find the node that computes tensor `name`, looking through plain copies."""
    nodes = {node.name: node for node in graph.graph_def.node}
    node = nodes[name.split(":")[0]]
    while node.op == "Identity":
        node = nodes[node.input[0].split(":")[0]]
    return node


def last_node(graph: FrozenGraph) -> Any:
    """Return the node that computes the first output."""
    return behind(graph, graph.output_names[0])


def reads(node: Any, name: str) -> bool:
    """Tell whether a node reads the first output of node `name`."""
    return any(operand.removesuffix(":0") == name for operand in node.input)


def feeds_others(graph: FrozenGraph, name: str) -> bool:
    """Tell whether an output but the first depends on the node `name`."""
    return any(node.name == name for other in graph.output_names[1:] for node in ancestors(graph, other).node)


def num_readers(graph: FrozenGraph, name: str) -> int:
    """Count the nodes that read node `name`, directly or through copies, of those the first output needs."""
    live = ancestors(graph, graph.output_names[0]).node
    readers = [node for node in live if reads(node, name)]
    return sum(num_readers(graph, node.name) if node.op == "Identity" else 1 for node in readers)


def ancestors(graph: FrozenGraph, name: str) -> Any:
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


def shape_of(graph: FrozenGraph, name: str) -> tuple[int | None, ...] | None:
    """Return the shape of a tensor as TensorFlow infers it, None where it does not know the rank."""
    return graph.shapes[tensor_name(name)]


def num_elements(graph: FrozenGraph, name: str) -> int | None:
    """Return how many numbers a tensor holds, None where TensorFlow does not know."""
    shape = shape_of(graph, name)
    return None if shape is None or None in shape else prod(n or 0 for n in shape)


def constant(graph: FrozenGraph, name: str) -> NDArray[np.float32] | None:
    """Return the values of a float32 constant, or None where the tensor is something else."""
    from tensorflow import make_ndarray

    node = behind(graph, name)
    if node.op != "Const":
        return None
    values: NDArray[np.float32] = np.asarray(make_ndarray(node.attr["value"].tensor))
    return values if values.dtype == np.float32 else None


def computed_constant(graph: FrozenGraph, name: str) -> NDArray[np.float32] | None:
    """Compute tensor `name` where it depends on constants alone, such as sqrt(variance)."""
    import tensorflow

    found = constant(graph, name)
    if found is not None:
        return found
    part = ancestors(graph, name)
    if any(node.op == "Placeholder" for node in part.node):
        return None
    with tensorflow.Graph().as_default() as arithmetic:
        tensorflow.graph_util.import_graph_def(part, name="")
        with tensorflow.compat.v1.Session(graph=arithmetic) as session:
            values: NDArray[np.float32] = np.asarray(session.run(tensor_name(name)))
    return values if values.dtype == np.float32 else None


def feed(graph_def: Any, node_name: str, position: int, values: NDArray[np.float32], label: str) -> None:
    """Give a node a constant of its own in place of one input: others may read the old one."""
    from tensorflow import as_dtype, make_tensor_proto

    fresh = graph_def.node.add(name=f"{node_name}/{label}_{position}", op="Const")
    fresh.attr["dtype"].type = as_dtype(np.float32).as_datatype_enum
    fresh.attr["value"].tensor.CopyFrom(make_tensor_proto(values))
    node = node_named(graph_def, node_name)
    node.input[position] = fresh.name


def node_named(graph_def: Any, name: str) -> Any:
    """Return the node of a GraphDef to be edited."""
    return next(node for node in graph_def.node if node.name == name)
