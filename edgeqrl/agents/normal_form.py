"""Keras models and SavedModels in the normal form of `Agent.model`: lists of float32 tensors in and out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeqrl.agents.agent import StateSpec
from edgeqrl.agents.model_io import Inputs, ModelTensor, Outputs, match_inputs
from edgeqrl.agents.policy_outputs import COPIES
from edgeqrl.agents.saved_model import SavedModelNetwork
from edgeqrl.agents.step_model import StepModel, graph_of, has_recurrent
from edgeqrl.agents.tensorflow_runtime import import_keras, import_tensorflow
from edgeqrl.errors import AgentError, one_line
from edgeqrl.network.parts import ObservationPart
from edgeqrl.network.tflite_model import shown
from edgeqrl.preprocessing import Preprocessing

Call = Callable[[list[Any]], list[Any]]
Tail = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model that can be called: [parts..., states...] -> [outputs..., next states that were inside]."""

    call: Call
    outputs: tuple[ModelTensor, ...]  # of the model as it was given
    given_states: tuple[StateSpec, ...]  # inputs of the model; their next states are among the outputs
    hidden_states: tuple[StateSpec, ...]  # of its recurrent layers
    operators: tuple[str, ...]  # TensorFlow's name of what computes each output
    input_shapes: tuple[tuple[int, ...], ...]  # of what `call` takes
    is_direct: bool  # called as model(observation) and returning one tensor


class NormalForm:
    """A model called as `Agent.model` is."""

    def __init__(self, model: Any, opened: OpenModel, outputs: Outputs, tails: Sequence[Tail]) -> None:
        """Choose `outputs`; each of `tails` is applied to the policy's outputs in turn."""
        self.weights = model.weights
        self._opened = opened
        self._outputs = outputs
        self._tails = tuple(tails)

    def __call__(self, inputs: Any, training: bool = False) -> Any:
        """Return [head outputs..., values..., next states...] for [parts..., states...]."""
        tensorflow = import_tensorflow()
        tensors = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if tensorflow.executing_eagerly():  # tails look at the graph
            return tensorflow.function(self._call, autograph=False)(tensors)
        return self._call(tensors)

    def _call(self, tensors: list[Any]) -> Any:
        found = self._opened.call(tensors)
        chosen = self._outputs
        result = []
        if chosen.policy:
            result.append(self._policy([found[i] for i in chosen.policy]))
        further = (*(i for i in (chosen.log_std, chosen.value) if i is not None), *chosen.states)
        result += [found[i] for i in further]
        result += found[len(self._opened.outputs) :]
        return result[0] if len(result) == 1 else result

    def _policy(self, tensors: list[Any]) -> Any:
        tensorflow = import_tensorflow()
        if len(tensors) == 1:
            return self._tailed(tensors[0])
        return tensorflow.concat([self._tailed(tensor) for tensor in tensors], axis=1)

    def _tailed(self, tensor: Any) -> Any:
        for tail in self._tails:
            tensor = tail(tensor)
        return tensor


def open_model(model: Any, preprocessing: Preprocessing) -> OpenModel:
    """Match the model's inputs to the observation, trace it once; raise AgentError where it does not fit."""
    if isinstance(model, SavedModelNetwork):
        source = _open_saved_model(model, preprocessing)
    elif graph_of(model) is not None:
        source = _open_graph(model, preprocessing)
    else:
        source = _open_any(model, preprocessing)
    taken = [part.name for part in preprocessing.parts]
    given = _own_names(source.inputs.states, taken)
    hidden = _own_names(source.hidden_states, [*taken, *(state.name for state in given)])
    shapes = [*preprocessing.network_shapes, *(state.shape for state in (*given, *hidden))]
    tensors = _trace(source.call, shapes)
    tensors = tensors[: len(tensors) - len(hidden)]
    labels = source.names if len(source.names) == len(tensors) else [None] * len(tensors)
    outputs = tuple(_described(label, tensor) for label, tensor in zip(labels, tensors, strict=True))
    return OpenModel(
        call=source.call,
        outputs=outputs,
        given_states=given,
        hidden_states=hidden,
        operators=tuple(operator_behind(tensor) for tensor in tensors),
        input_shapes=tuple(shapes),
        is_direct=source.is_direct and len(shapes) == 1 and len(outputs) == 1,
    )


def operator_behind(tensor: Any) -> str:
    """Name the operator that computes `tensor`, looking through calls, copies, shapes and joined tanhs."""
    operator = tensor.op
    while True:
        if operator.type in COPIES:
            operator = operator.inputs[0].op
        elif operator.type in ("PartitionedCall", "StatefulPartitionedCall"):
            inner = operator.graph._get_function(operator.get_attr("f").name)
            graph = getattr(inner, "graph", None)
            if graph is None or not graph.outputs:
                return str(operator.type)
            operator = graph.outputs[0].op
        elif operator.type == "Transpose" and operator_behind(operator.inputs[0]) == "Softmax":
            return "TransposedSoftmax"  # one over another axis than the last
        elif operator.type == "ConcatV2" and {*map(operator_behind, operator.inputs[:-1])} == {"Tanh"}:
            return "Tanh"
        else:
            return str(operator.type)


@dataclass
class _Source:
    """A model before it was traced."""

    call: Call  # [parts..., given states..., hidden states...] -> [outputs..., hidden next states...]
    inputs: Inputs
    names: list[str | None]  # of the outputs; of a subclassed model filled when it is called
    hidden_states: tuple[StateSpec, ...] = ()
    is_direct: bool = True


def _open_saved_model(model: SavedModelNetwork, preprocessing: Preprocessing) -> _Source:
    tensors = []
    for name, spec in model.input_specs.items():
        rank = spec.shape.rank
        if rank and spec.shape[0] not in (None, 1):
            raise AgentError(
                f"The SavedModel takes batches of {spec.shape[0]} observations only. "
                "Export it with a batch size of None or 1."
            )
        shape = tuple(spec.shape.as_list()[1:]) if rank else None
        tensors.append(ModelTensor(name, shape, spec.dtype.name))
    inputs = match_inputs(tensors, preprocessing, can_step=False)
    arrange = _arranger(inputs, len(preprocessing.parts))
    return _Source(lambda given: model.all_outputs(arrange(given)), inputs, list(model.output_names))


def _open_graph(model: Any, preprocessing: Preprocessing) -> _Source:
    """Open a functional or Sequential model, one of sequences in its step form."""
    keras = import_keras()
    graph = graph_of(model)
    tensors = [
        ModelTensor(name, tuple(tensor.shape[1:]) if len(tensor.shape) else None, str(tensor.dtype))
        for name, tensor in zip(_leaf_names(graph.input, graph.inputs), graph.inputs, strict=True)
    ]
    is_recurrent = has_recurrent(model)
    inputs = match_inputs(tensors, preprocessing, can_step=True)
    names = _leaf_names(graph.output, graph.output_names)
    arrange = _arranger(inputs, len(preprocessing.parts))
    has_bytes = any(not tensor.dtype.startswith(("float", "bfloat")) for tensor in tensors)
    if not (is_recurrent or any(inputs.timed) or has_bytes):
        structure = graph.input
        if len(tensors) == 1 and not isinstance(structure, dict):
            return _Source(
                lambda given: list(keras.tree.flatten(model(given[0], training=False))),
                inputs,
                names,
                is_direct=not isinstance(graph.output, dict),
            )

        def call(given: list[Any]) -> list[Any]:
            packed = keras.tree.pack_sequence_as(structure, arrange(given))
            return list(keras.tree.flatten(model(packed, training=False)))

        return _Source(call, inputs, names, is_direct=False)
    _require_stepping(model, tensors, inputs)
    shapes = [*preprocessing.network_shapes, *(state.shape for state in inputs.states)]
    step = StepModel(model, arrange(shapes), inputs.timed, [part is None for part in inputs.parts])
    count = len(shapes)

    def call_step(given: list[Any]) -> list[Any]:
        return step([*arrange(given[:count]), *given[count:]])

    return _Source(call_step, inputs, names, step.states, is_direct=False)


def _open_any(model: Any, preprocessing: Preprocessing) -> _Source:
    """Open a subclassed model, which says what it takes only when it is called."""
    parts = preprocessing.parts
    inputs = Inputs(tuple(range(len(parts))), (), (False,) * len(parts))
    if len(parts) == 1:
        return _called_with(model, inputs, lambda given: given[0])
    failure: Exception | None = None
    for pack in (lambda given: _nested(parts, given), list, tuple):
        source = _called_with(model, inputs, pack)
        try:
            _trace(source.call, preprocessing.network_shapes)
        except AgentError as error:
            failure = failure or error
        else:
            source.is_direct = False
            return source
    raise failure or AssertionError


def _called_with(model: Any, inputs: Inputs, pack: Callable[[list[Any]], Any]) -> _Source:
    keras = import_keras()
    names: list[str | None] = []

    def call(given: list[Any]) -> list[Any]:
        result = model(pack(given), training=False)
        leaves = list(keras.tree.flatten(result))
        names[:] = _leaf_names(result, [None] * len(leaves))
        source.is_direct = source.is_direct and not keras.tree.is_nested(result)
        return leaves

    source = _Source(call, inputs, names)
    return source


def _nested(parts: Sequence[ObservationPart], given: list[Any]) -> dict[str, Any]:
    """Build the dict of a Dict space, with dicts inside where its keys have several places."""
    result: dict[str, Any] = {}
    for part, tensor in zip(parts, given, strict=True):
        *places, last = part.key.split("/")
        inner = result
        for place in places:
            inner = inner.setdefault(place, {})
        inner[last] = tensor
    return result


def _leaf_names(structure: Any, otherwise: Sequence[Any]) -> list[str | None]:
    """Name the leaves of inputs or outputs: by key where they are in a dict, else as stated."""
    keras = import_keras()
    names: list[str | None] = []
    for (path, _), leaf in zip(keras.tree.flatten_with_path(structure), otherwise, strict=True):
        keys = [str(key) for key in path if isinstance(key, str)]
        name = leaf if isinstance(leaf, str | None) else leaf.name
        names.append("/".join(keys) if keys else name)
    return names


def _arranger(inputs: Inputs, num_parts: int) -> Callable[[Sequence[Any]], list[Any]]:
    """Return what puts [parts..., states...] into the order of the model's inputs."""
    places, state = [], num_parts
    for part in inputs.parts:
        places.append(state if part is None else part)
        state += part is None
    return lambda given: [given[place] for place in places]


def _require_stepping(model: Any, tensors: Sequence[ModelTensor], inputs: Inputs) -> None:
    """Refuse windows of a fixed length, whose model forgets what was before them."""
    keras = import_keras()
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.RNN)]
    if layers and all(layer.stateful for layer in layers):
        return
    for tensor, is_timed in zip(tensors, inputs.timed, strict=True):
        length = tensor.shape[0] if is_timed and tensor.shape else None
        if length == 1 and inputs.states:
            continue  # one step, whose state comes in
        if length is not None and not layers:
            raise AgentError(
                f"The model's input '{shown(tensor.name or '')}' takes shape {tensor.shape}, which does not "
                f"fit observations of shape {tensor.shape[1:] if tensor.shape else ()}. "
                "Is this the agent for these observations?"
            )
        if length is not None:
            raise AgentError(
                f"The model's input '{shown(tensor.name or '')}' takes windows of {length} steps, and "
                "without stateful=True it forgets what was before. If its memory is to last through an "
                "episode, build it with keras.Input((None, ...)) and give it these weights; if it looks at "
                f"the last {length} observations, add --frame-stack {length}."
            )


def _own_names(states: Sequence[StateSpec], taken: Sequence[str]) -> tuple[StateSpec, ...]:
    """Give states names that no part of the observation and no output has."""
    used = {*taken, "action", "log_std", "value"}
    named = []
    for state in states:
        name = state.name if state.name not in used else f"state_{state.name}"
        number = 2
        while name in used:
            name, number = f"state_{state.name}_{number}", number + 1
        used.add(name)
        named.append(replace(state, name=name))
    return tuple(named)


def _trace(call: Call, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """Trace a call for one observation; return its output tensors."""
    tensorflow = import_tensorflow()
    specs = [tensorflow.TensorSpec((1, *shape), tensorflow.float32) for shape in shapes]
    function = tensorflow.function(lambda *tensors: call(list(tensors)), autograph=False)
    try:
        return list(function.get_concrete_function(*specs).outputs)
    except AgentError:
        raise
    except Exception as error:
        stated = ", ".join(str(shape) for shape in shapes)
        raise AgentError(
            f"The model does not take observations of shape {stated}: {one_line(error)}"
        ) from None


def _described(name: str | None, tensor: Any) -> ModelTensor:
    sizes = tensor.shape.as_list() if tensor.shape.rank else None
    if sizes is None or None in sizes[1:] or sizes[0] not in (1, None):
        raise AgentError(f"The model's output has shape {tensor.shape}; it must be [batch, outputs].")
    return ModelTensor(name, tuple(sizes[1:]), tensor.dtype.name)
