"""Names of layers: a traced network keeps those of Keras, and a scheme's names are held against a network.

Keras enters the scope of each layer twice, to build and to call it, and TensorFlow numbers the second one:
the layers dense and dense_1 become `sequential_1/dense_1/...` and `sequential_1/dense_1_2/...`. What a user
calls dense_1 would be the layer before it.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from edgeqrl.errors import UsageError
from edgeqrl.network.graph import fold_constants
from edgeqrl.network.tflite_model import parse_tflite, shown, with_unique_names
from edgeqrl.quantize.scheme import WIDE_GROUPS, Scheme, names_tensor
from edgeqrl.quantize.weights_file import ROLES

_LAYER = re.compile("MatMul|convolution|depthwise|BiasAdd")  # what is not fused into a layer, but is one
_COPIES = ("Identity", "Reshape", "Squeeze", "ExpandDims")


def layer_names(model: Any) -> set[str]:
    """Return the names of all layers in a Keras model; of a SavedModel, those with weights."""
    found = {name for weight in model.weights for name in re.split("[/:]", weight.name)[:-1]}
    if hasattr(model, "_flatten_layers"):
        found |= {layer.name for layer in model._flatten_layers()}
    return found


def restored_names(nodes: Sequence[Any], layers: Collection[str], outputs: Collection[str]) -> dict[str, str]:
    """Return the new name of every node of a GraphDef: with the scopes of `layers` as Keras names them.

    outputs  nodes that only copy what a layer gives get into its scope, as `dense_2/Identity`

    A layer that is called several times has its further scopes within its own: `dense`, `dense/3`.
    """
    scopes = _restored_scopes([node.name for node in nodes], layers)
    names = {}
    for node in nodes:
        scope, slash, leaf = node.name.rpartition("/")
        names[node.name] = scopes.get(node.name, f"{scopes[scope]}{slash}{leaf}")
    by_name = {node.name: node for node in nodes}
    for name in outputs:
        scope = names[_source(by_name, name)].rpartition("/")[0]
        inner = f"{scope}/Identity"
        if "/" not in name and by_name[name].op == "Identity" and scope and inner not in names.values():
            names[name] = inner
    if len(set(names.values())) < len(names):
        return {name: name for name in names}
    return names


def rename(graph_def: Any, names: Mapping[str, str]) -> None:
    """Give the nodes of a GraphDef other names, in place."""
    for node in graph_def.node:
        node.name = names[node.name]
        node.input[:] = [renamed(name, names) for name in node.input]
        node.attr.pop("_class", None)  # names of nodes that were to be on the same device


def renamed(name: str, names: Mapping[str, str]) -> str:
    """Return the new name of a tensor, "node:0", or of a control input, "^node"."""
    caret, node, number = re.fullmatch(r"(\^?)([^:]*)(.*)", name).groups()  # type: ignore[union-attr]
    return f"{caret}{names[node]}{number}"


def require_known_layers(scheme: Scheme, float_tflite: bytes) -> None:
    """Raise UsageError unless each name in the scheme means layers of this float network, and those alone.

    A name is a tensor's, or a scope: a layer of Keras, or a model of several. One that only says what layers
    do, as Relu, is refused where several do it. So are two names that want one layer otherwise.
    """
    if not (scheme.layer_bits or scheme.layer_ranges or scheme.wide):
        return
    model = with_unique_names(fold_constants(parse_tflite(float_tflite)))
    weighted = [model.tensors[op.outputs[0]].name for op in model.operators if op.name in ROLES]
    written = [model.tensors[i] for op in model.operators for i in op.outputs]
    all_names = [model.tensors[i].name for i in model.inputs]
    all_names += [tensor.name for tensor in written if not tensor.is_constant]
    _require("layer_bits", scheme.layer_bits, weighted)
    _require("layer_ranges", scheme.layer_ranges, all_names)
    _require("wide", [(name, 16) for name in scheme.wide if name not in WIDE_GROUPS], all_names)


def _restored_scopes(names: Sequence[str], layers: Collection[str]) -> dict[str, str]:
    """Return the new path of each scope by the old one."""
    found, taken = {"": ""}, set[str]()
    for name in names:
        for old in _prefixes(name):
            if old in found:
                continue
            above, _, own = old.rpartition("/")
            start = f"{found[above]}/" if above else ""
            plain, _, number = own.rpartition("_")
            new = f"{start}{own}"
            if number.isdecimal() and plain in layers:
                new = f"{start}{plain}"
                new = f"{new}/{number}" if new in taken else new
            taken.add(new)
            found[old] = new
    return found


def _prefixes(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def _source(nodes: Mapping[str, Any], name: str) -> str:
    """Return the node that computes what node `name` gives, through plain copies."""
    while nodes[name].op in _COPIES:
        name = nodes[name].input[0].split(":")[0]
    return name


def _require(part: str, wanted: Sequence[tuple[str, Any]], tensors: Sequence[str]) -> None:
    values: dict[str, tuple[str, Any]] = {}
    for name, value in wanted:
        meant = [tensor for tensor in tensors if names_tensor(name, tensor)]
        if not meant:
            raise UsageError(f"{part} names '{shown(name)}', and the network has {_listed(tensors)}.")
        if len(meant) > 1 and not all(_is_scope(name, tensor) for tensor in meant):
            raise UsageError(
                f"{part} names '{shown(name)}', which is in several layers: {_listed(meant, tensors)}. "
                "Name one of them."
            )
        for tensor in meant:
            other, stated = values.setdefault(tensor, (name, value))
            if stated != value:
                raise UsageError(
                    f"{part} wants {stated} for '{shown(other)}' and {value} for '{shown(name)}', and both "
                    f"mean {_listed([tensor], tensors)}. Leave one out."
                )


def _is_scope(name: str, tensor: str) -> bool:
    return any(name in piece.split("/")[:-1] for piece in tensor.split(";"))


def _listed(meant: Sequence[str], tensors: Sequence[str] | None = None) -> str:
    """Name tensors as briefly as tells them from all others."""
    others = meant if tensors is None else tensors
    said = [_brief(tensor, others) for tensor in meant]
    return ", ".join(map(shown, said)) or "none that it can be said of"


def _brief(tensor: str, tensors: Sequence[str]) -> str:
    pieces = sorted(tensor.split(";"), key=lambda piece: not _LAYER.match(piece.rpartition("/")[2]))
    scopes = [name for piece in pieces for name in reversed(piece.split("/")[:-1])]
    own = (name for name in scopes if sum(names_tensor(name, other) for other in tensors) == 1)
    return next(own, tensor)
