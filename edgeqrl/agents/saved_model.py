"""SavedModel folders. One is a program, so its operators are read and judged before TensorFlow loads it.

Loading runs nothing but what the object graph names: it makes variables, restores them from the
checkpoint, and exposes the concrete functions. So all operators that these functions reach must be on
the list of arithmetic ones, and every object must be of a kind that has no start-up code.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeqrl.agents.keras_files import MAX_BYTES
from edgeqrl.agents.tensorflow_runtime import import_tensorflow
from edgeqrl.errors import AgentError, one_line
from edgeqrl.network.tflite_model import shown

_OPERATOR_NAMES = """
    Abs Add AddN AddV2 ArgMax ArgMin AvgPool BatchMatMul BatchMatMulV2 BatchMatMulV3 BiasAdd
    BroadcastTo Cast ClipByValue ConcatV2 Const Conv2D DepthwiseConv2dNative DisableCopyOnRead DivNoNan
    Einsum Elu Equal Erf Exp ExpandDims Fill Floor FloorDiv FusedBatchNormV3 GatherV2 Greater
    GreaterEqual Identity IdentityN LeakyRelu Less LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot
    LogicalOr MatMul Max MaxPool Maximum Mean Min Minimum Mul Neg NoOp NotEqual OnesLike Pack Pad PadV2
    PartitionedCall Placeholder Pow Prod Range Rank ReadVariableOp RealDiv Reciprocal Relu Relu6 Reshape
    ResizeNearestNeighbor Round Rsqrt Select SelectV2 Selu Shape Sigmoid Sign Size Slice Softmax
    Softplus Softsign Split SplitV Sqrt Square SquaredDifference Squeeze StatefulPartitionedCall
    StatelessIf StopGradient StridedSlice Sub Sum Tanh Tile Transpose Unpack VarHandleOp
    VarIsInitializedOp Where ZerosLike"""
_SAFE_OPERATORS = frozenset(_OPERATOR_NAMES.split())
_SAFE_OBJECTS = {
    "user_object",
    "variable",
    "function",
    "bare_concrete_function",
    "constant",
    "captured_tensor",
}
_SAFE_IDENTIFIERS = {
    "_generic_user_object",
    "signature_map",
    "trackable_dict_wrapper",
    "trackable_list_wrapper",
    "trackable_tuple_wrapper",
    "_tf_keras_layer",
    "_tf_keras_input_layer",
    "_tf_keras_model",
    "_tf_keras_network",
    "_tf_keras_sequential",
}
_SIGNATURE = "serving_default"


class SavedModelNetwork:
    """A SavedModel's serving function, called like a Keras model; its weights are fixed."""

    def __init__(self, loaded: Any, path: Path) -> None:
        function = loaded.signatures[_SIGNATURE]
        self.input_specs: dict[str, Any] = dict(function.structured_input_signature[1])
        self.output_names = tuple(sorted(function.structured_outputs, key=_by_number))
        if not self.input_specs or not self.output_names:
            raise AgentError(
                f"The SavedModel {path} takes {_listed(self.input_specs)} and returns "
                f"{_listed(self.output_names)}; a policy takes observations and returns outputs. "
                "Export a model of the acting part."
            )
        self._loaded = loaded  # owns the variables, which die with it
        self._function = function

    @property
    def weights(self) -> list[Any]:
        """Return the variables and the constants of the network."""
        constants = [op.outputs[0] for op in self._function.graph.get_operations() if op.type == "Const"]
        return [*self._function.graph.variables, *constants]

    def __call__(self, batch: Any, training: bool = False) -> Any:
        """Return the outputs [N, *shape] for a batch [N, *observation_shape]; for one input and output."""
        (result,) = self.all_outputs([batch])
        return result

    def all_outputs(self, tensors: list[Any]) -> list[Any]:
        """Return every output [N, *shape] for the inputs, both in the order of their names here."""
        tensorflow = import_tensorflow()
        sizes = {spec.shape[0] if spec.shape.rank else None for spec in self.input_specs.values()}
        if sizes <= {None, tensors[0].shape[0]}:
            return self._outputs_of(tensors)
        # Exported for a fixed batch of one: call it row by row, unrolled while tracing.
        rows = [self._outputs_of(list(row)) for row in zip(*map(_rows, tensors), strict=True)]
        return [tensorflow.concat(column, axis=0) for column in zip(*rows, strict=True)]

    def _outputs_of(self, tensors: list[Any]) -> list[Any]:
        outputs = self._function(**dict(zip(self.input_specs, tensors, strict=True)))
        return [outputs[name] for name in self.output_names]


def load_saved_model(path: Path, *, trust: bool) -> SavedModelNetwork:
    """Load the SavedModel folder `path`, after its operators were found harmless."""
    tensorflow = import_tensorflow()
    if not trust:
        _require_safe(path)
    try:
        loaded = tensorflow.saved_model.load(str(path))
        signatures = list(loaded.signatures)
    except Exception as error:
        raise AgentError(f"TensorFlow cannot load the SavedModel {path}: {one_line(error)}") from None
    if _SIGNATURE not in signatures:
        raise AgentError(
            f"The SavedModel {path} has no signature '{_SIGNATURE}' (it has "
            f"{_listed(signatures)}). Export it with model.export(...)."
        )
    return SavedModelNetwork(loaded, path)


def _require_safe(path: Path) -> None:
    graph, objects = _parse(path)
    if not objects.nodes:
        raise AgentError(f"The SavedModel {path} is of TensorFlow 1. Export it again with Keras 3.")
    num_elements = 0
    for node in objects.nodes:
        kind = node.WhichOneof("kind") or "user_object"
        identifier = node.user_object.identifier if kind == "user_object" else ""
        if kind not in _SAFE_OBJECTS or identifier not in {"", *_SAFE_IDENTIFIERS} or node.registered_saver:
            what = f"an object of kind '{shown(identifier or kind)}'"
            raise _unsafe(path, what)
        if kind == "variable":
            num_elements += _num_elements(node.variable.shape)
    if num_elements * 4 > MAX_BYTES:
        raise _too_large(path)
    library = {function.signature.name: function for function in graph.library.function}
    for function, operator in _reached(library, objects.concrete_functions):
        if operator.startswith("TensorList") or operator in ("While", "StatelessWhile"):
            raise AgentError(
                f"The SavedModel {path} runs a loop, as recurrent Keras layers do over time, and a policy "
                "acts step by step. Save the model as .keras instead: its layers become single steps."
            )
        if operator not in _SAFE_OPERATORS:
            raise _unsafe(path, f"the operator {shown(operator)} in '{shown(function)}'")


def _parse(path: Path) -> tuple[Any, Any]:
    from tensorflow.core.protobuf import saved_model_pb2

    if sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) > MAX_BYTES:
        raise _too_large(path)
    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((path / "saved_model.pb").read_bytes())
    except Exception as error:  # protobuf's DecodeError above all
        raise AgentError(f"{path}/saved_model.pb is damaged ({one_line(error)}). Export it again.") from None
    if len(proto.meta_graphs) != 1:
        raise AgentError(
            f"The SavedModel {path} holds {len(proto.meta_graphs)} graphs and a policy has one. "
            "Export it with model.export(...)."
        )
    return proto.meta_graphs[0].graph_def, proto.meta_graphs[0].object_graph_def


def _reached(library: dict[str, Any], roots: Any) -> Iterator[tuple[str, str]]:
    """Yield (function, operator) for all that the functions named in `roots` can execute."""
    pending, seen = list(roots), set(roots)
    while pending:
        name = pending.pop()
        if name not in library:
            continue  # TensorFlow refuses to load it
        for node in library[name].node_def:
            yield name, node.op
            called = [node.op] if node.op in library else []
            for attribute in node.attr.values():
                called += [attribute.func.name, *(f.name for f in attribute.list.func)]
            for function in called:
                if function and function not in seen:
                    seen.add(function)
                    pending.append(function)


def _num_elements(shape: Any) -> int:
    count = 1
    for dim in shape.dim:
        count *= max(dim.size, 0)
    return count


def _by_number(name: str) -> tuple[str, int]:
    """Order output_2 before output_10."""
    found = re.fullmatch(r"(.*?)(\d*)", name)
    assert found is not None
    return found[1], int(found[2] or 0)


def _rows(batch: Any) -> list[Any]:
    return [batch[i : i + 1] for i in range(int(batch.shape[0]))]


def _listed(names: Any) -> str:
    return ", ".join(f"'{shown(name)}'" for name in names) or "nothing"


def _unsafe(path: Path, what: str) -> AgentError:
    return AgentError(
        f"The SavedModel {path} holds {what}, which is not on the list of safe ones: a SavedModel is a "
        "program. Save the model as .keras instead, or load it with --trust only if you trust its author."
    )


def _too_large(path: Path) -> AgentError:
    return AgentError(f"The SavedModel {path} is larger than {MAX_BYTES >> 20} MiB and is not read.")
