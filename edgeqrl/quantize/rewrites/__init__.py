"""Edits of the float network that leave every action as it was and make integers kinder to it.

One module a family; each rewrite takes a graph and the sizes of the groups of outputs that only the order
within decides by, () where values count, and returns the edited graph or None where it does not fit.
"""

from collections.abc import Callable, Collection

from edgeqrl.agents.heads import DiscreteHead, Head
from edgeqrl.quantize.frozen import FrozenGraph
from edgeqrl.quantize.rewrites.dueling import drop_dueling_value
from edgeqrl.quantize.rewrites.graph_edits import last_node
from edgeqrl.quantize.rewrites.head import centre_head, drop_softmax
from edgeqrl.quantize.rewrites.normalization import fold_normalization

__all__ = ["REWRITES", "Rewrite", "rewrite"]

Rewrite = Callable[[FrozenGraph, tuple[int, ...]], FrozenGraph | None]

REWRITES: dict[str, Rewrite] = {  # in the order in which they are made
    "fold_normalization": fold_normalization,
    "drop_softmax": drop_softmax,
    "drop_dueling_value": drop_dueling_value,
    "centre_head": centre_head,
}


def rewrite(
    graph: FrozenGraph, head: Head, names: Collection[str] = tuple(REWRITES)
) -> tuple[FrozenGraph, tuple[str, ...]]:
    """Apply the rewrites of `names` that fit; return the new graph and the names of those applied."""
    applied = []
    groups = head.counts if isinstance(head, DiscreteHead) else ()
    for name, edit in REWRITES.items():
        if name not in names:
            continue
        if name == "drop_softmax" and head.is_stochastic and last_node(graph).op == "Softmax":
            continue  # draws are by the softmax of whatever the outputs are
        edited = edit(graph, groups)
        if edited is not None:
            graph = edited
            applied.append(name)
    return graph, tuple(applied)
