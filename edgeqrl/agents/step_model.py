"""Keras models of sequences as one step: the recurrent layers' state comes in and goes out.

Keras runs a recurrent layer as a loop over time, which no converter takes. Here the layers of a functional
or Sequential model are walked for one step: a tensor of a sequence, [N, T, ...], becomes that of the step,
[N, ...]; a recurrent layer becomes its cell; layers that treat every step alone are called as they are; and
what would look at several steps is refused. Layers and weights are the model's own, which is not changed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeqrl.agents.agent import StateSpec, identifier
from edgeqrl.agents.tensorflow_runtime import import_keras, import_tensorflow
from edgeqrl.errors import AgentError

# Layers and operations that treat each element, or each last axis, alone.
_EACH_STEP_NAMES = """
    Abs Absolute Activation ActivityRegularization Add AlphaDropout Average Cast Clip Dense Divide Dropout
    ELU Elu Exp Gelu GaussianDropout GaussianNoise HardSigmoid HardTanh Identity LeakyReLU LeakyRelu Log
    Maximum Minimum Multiply Negative PReLU ReLU Relu Relu6 Rescaling Selu Sigmoid Silu SoftSign Softplus
    Softsign Sqrt Square Subtract Swish Tanh TrueDivide"""
_EACH_STEP = frozenset(_EACH_STEP_NAMES.split())
_LAST_AXIS = frozenset(  # the same where their axis is the last one
    (
        "BatchNormalization",
        "Concatenate",
        "LayerNormalization",
        "LogSoftmax",
        "RMSNormalization",
        "Softmax",
        "UnitNormalization",
    )
)
_CURE = (
    "A policy acts step by step: between its recurrent layers, use layers that treat every step alone, or "
    "keras.layers.TimeDistributed(layer)."
)


@dataclass
class _Walk:
    """One walk through the model: what is of a sequence, and the states in and out."""

    states: dict[tuple[int, int], list[Any]]  # of (layer, its how-manieth call) -> state tensors
    calls: dict[int, int] = field(default_factory=dict)
    next_states: list[Any] = field(default_factory=list)
    timed: dict[int, Any] = field(default_factory=dict)  # by id; holding them keeps the ids theirs
    given: dict[int, Any] = field(default_factory=dict)  # states that come in, and what is made of them

    def is_timed(self, value: Any) -> bool:
        return id(value) in self.timed

    def mark(self, value: Any) -> Any:
        for tensor in import_keras().tree.flatten(value):
            self.timed[id(tensor)] = tensor
        return value


class StepModel:
    """A functional or Sequential model, called for one step: [inputs..., states...] -> [outputs..., next...].

    Raises AgentError, naming the layer, where the model has no step form.
    """

    def __init__(
        self,
        model: Any,
        shapes: Sequence[tuple[int, ...]],
        timed: Sequence[bool],
        given: Sequence[bool],
    ) -> None:
        """Find the states by walking through the model once, in a graph that is thrown away.

        shapes   of the inputs for one step, without the batch axis
        timed    for each input, whether the model takes a sequence of it
        given    for each input, whether it is a state, whose next the model returns
        """
        for layer in model._flatten_layers(include_self=False, recursive=True):
            if type(layer).__name__ == "Masking":
                raise _refusal(layer, "leaves steps of a sequence out")
        self._graph = graph_of(model)
        self._timed, self._given = tuple(timed), tuple(given)
        self._places: list[tuple[tuple[int, int], int]] = []  # of the states of each call of a layer
        self.states: tuple[StateSpec, ...] = ()
        tensorflow = import_tensorflow()

        def discover(*inputs: Any) -> list[Any]:
            walk = _Walk({})
            self._walk_from(list(inputs), walk, is_first=True)
            return []

        specs = [tensorflow.TensorSpec((1, *shape), tensorflow.float32) for shape in shapes]
        tensorflow.function(discover, autograph=False).get_concrete_function(*specs)

    def __call__(self, tensors: Sequence[Any]) -> list[Any]:
        """Return [outputs..., next states...] for [inputs..., states...]."""
        count = len(self._timed)
        rest = list(tensors[count:])
        states = {}
        for place, size in self._places:
            states[place], rest = rest[:size], rest[size:]
        walk = _Walk(states)
        outputs = self._walk_from(list(tensors[:count]), walk, is_first=False)
        return [*outputs, *walk.next_states]

    def _walk_from(self, inputs: list[Any], walk: _Walk, *, is_first: bool) -> list[Any]:
        self._is_first = is_first
        for tensor, is_timed, is_given in zip(inputs, self._timed, self._given, strict=True):
            if is_timed:
                walk.mark(tensor)
            if is_given:
                walk.given[id(tensor)] = tensor
        return list(import_keras().tree.flatten(self._run(self._graph, inputs, walk)))

    def _run(self, graph: Any, inputs: list[Any], walk: _Walk) -> Any:
        return run_graph(graph, inputs, lambda operation: lambda *a, **k: self._follow(operation, a, k, walk))

    def _follow(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], walk: _Walk) -> Any:
        """Call one layer or operation for one step, and note what is made of states that come in."""
        keras = import_keras()
        result = self._apply(operation, args, kwargs, walk)
        if any(id(tensor) in walk.given for tensor in keras.tree.flatten((args, kwargs))):
            walk.given |= {id(tensor): tensor for tensor in keras.tree.flatten(result)}
        return result

    def _apply(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], walk: _Walk) -> Any:
        """Call one layer or operation for one step."""
        keras = import_keras()
        tensors = [t for t in keras.tree.flatten((args, kwargs)) if _is_tensor(t)]
        timed = [walk.is_timed(tensor) for tensor in tensors]
        inner = graph_of(operation)
        if inner is not None and (any(timed) or _holds_recurrent(operation)):
            return self._run(inner, tensors, walk)
        if isinstance(operation, keras.layers.RNN):
            with _scope_of(operation):
                return self._recurrent(operation, args, kwargs, walk)
        if not any(timed):
            return call_acting(operation, args, kwargs)
        kind = type(operation).__name__
        if kind == "TimeDistributed":
            return walk.mark(_each_step(operation.layer, args[0]))
        if kind == "GetItem":
            return _take(operation, args, kwargs, walk)
        if not all(timed):
            raise _refusal(operation, "joins a sequence with something that is not one")
        if kind in _EACH_STEP or (kind in _LAST_AXIS and _is_last_axis(operation)):
            # Not __call__, which insists on the number of axes that the layer was built with.
            with _scope_of(operation):
                result = operation.call(*args, **kwargs)
            if (
                len(result.shape) != max(len(t.shape) for t in tensors)
                or result.shape[0] != tensors[0].shape[0]
            ):
                raise _refusal(operation, "has numbers that differ from step to step")  # broadcast over time
            return walk.mark(result)
        if kind == "Normalization":
            return walk.mark(_normalize(operation, args[0]))
        raise _refusal(operation, "may look at several steps of the sequence at once")

    def _recurrent(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], walk: _Walk) -> Any:
        """Run a recurrent layer's cell: once for a step, or unrolled over a sequence that is all there."""
        _require_plain_recurrent(layer, kwargs)
        given = kwargs.get("initial_state", args[1] if len(args) > 1 else None)
        sequence = args[0]
        is_step = walk.is_timed(sequence)
        if not is_step and (layer.stateful or given is not None) and sequence.shape[1] == 1:
            sequence, is_step = sequence[:, 0], True  # a sequence of one step, made inside the model
        if is_step:
            return self._step(layer, sequence, given, walk, is_timed=walk.is_timed(args[0]))
        if layer.stateful:
            raise _refusal(layer, "keeps its state over windows of several steps")
        return _unrolled(layer, sequence, given)

    def _step(self, layer: Any, tensor: Any, given: Any, walk: _Walk, *, is_timed: bool) -> Any:
        keras = import_keras()
        if given is not None:
            states = list(given) if isinstance(given, list | tuple) else [given]
            if is_timed and not layer.stateful and not all(id(state) in walk.given for state in states):
                raise _refusal(layer, "begins its sequence with a state that is no input of the model")
        else:
            states = self._own_states(layer, tensor, walk)
        output, new_states = _run_cell(layer, tensor, states)
        if given is None:
            walk.next_states += keras.tree.flatten(new_states)
        if layer.return_sequences:
            output = walk.mark(output) if is_timed else output[:, None]
        return (output, *new_states) if layer.return_state else output

    def _own_states(self, layer: Any, tensor: Any, walk: _Walk) -> list[Any]:
        """Return this call's states, packed as the cell takes them."""
        keras, tensorflow = import_keras(), import_tensorflow()
        place = (id(layer), walk.calls.get(id(layer), 0))
        walk.calls[id(layer)] = place[1] + 1
        with tensorflow.init_scope():  # outside of what is traced: its values are needed
            initial = layer.get_initial_state(batch_size=1)
        flat = keras.tree.flatten(initial)
        if self._is_first:
            names = _state_names(layer, len(flat), [state.name for state in self.states])
            specs = [_state_spec(layer, name, value) for name, value in zip(names, flat, strict=True)]
            self.states += tuple(specs)
            self._places.append((place, len(flat)))
            walk.states[place] = [tensorflow.zeros((1, *spec.shape), tensorflow.float32) for spec in specs]
        return list(keras.tree.pack_sequence_as(initial, walk.states[place]))


def graph_of(model: Any) -> Any:
    """Return the functional graph of a functional or built Sequential model; None for anything else."""
    keras = import_keras()
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None)
    return model if hasattr(model, "_run_through_graph") and hasattr(model, "_nodes_by_depth") else None


def run_graph(graph: Any, inputs: list[Any], operation_fn: Callable[[Any], Any]) -> Any:
    """Walk through a functional graph: every operation is replaced by `operation_fn(operation)`."""
    return graph._run_through_graph(inputs, operation_fn=operation_fn)


def call_acting(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a layer or operation as it acts, not as it trains."""
    if getattr(operation, "_call_has_training_arg", False):
        kwargs = {**kwargs, "training": False}
    return operation(*args, **kwargs)


def has_recurrent(model: Any) -> bool:
    """Tell whether a functional or Sequential model has recurrent layers, at any depth."""
    return graph_of(model) is not None and _holds_recurrent(model)


def _holds_recurrent(model: Any) -> bool:
    keras = import_keras()
    return any(
        isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional)
        for layer in model._flatten_layers(include_self=False, recursive=True)
    )


@contextmanager
def _scope_of(operation: Any) -> Iterator[None]:
    """Enter the scope that Keras calls an operation in: the second of its name, after that of building."""
    tensorflow = import_tensorflow()
    with tensorflow.name_scope(operation.name):
        pass
    with tensorflow.name_scope(operation.name):
        yield


def _is_tensor(value: Any) -> bool:
    tensorflow = import_tensorflow()
    return isinstance(value, tensorflow.Tensor)


def _each_step(layer: Any, tensor: Any) -> Any:
    """Call the layer inside TimeDistributed on the step, as if there were no sequence."""
    if isinstance(layer, import_keras().layers.RNN) or has_recurrent(layer):
        raise _refusal(layer, "is recurrent inside TimeDistributed")
    return call_acting(layer, (tensor,), {})


def _require_plain_recurrent(layer: Any, kwargs: dict[str, Any]) -> None:
    if type(layer).__name__.startswith("ConvLSTM"):
        raise _refusal(layer, "convolves its state")
    if layer.go_backwards:
        raise _refusal(layer, "reads the sequence from its end")
    if kwargs.get("mask") is not None:
        raise _refusal(layer, "is masked")


def _run_cell(layer: Any, tensor: Any, states: list[Any]) -> tuple[Any, list[Any]]:
    kwargs = {"training": False} if getattr(layer.cell, "_call_has_training_arg", False) else {}
    output, new_states = layer.cell(tensor, states, **kwargs)
    return output, list(new_states) if isinstance(new_states, list | tuple) else [new_states]


def _unrolled(layer: Any, sequence: Any, given: Any) -> Any:
    """Run a layer over a window that is all there, from its first state, step after step."""
    tensorflow = import_tensorflow()
    length = sequence.shape[1]
    if length is None:
        raise _refusal(layer, "takes a window of unknown length")
    if given is None:
        states = list(layer.get_initial_state(batch_size=sequence.shape[0]))
    else:
        states = list(given) if isinstance(given, list | tuple) else [given]
    outputs = []
    for i in range(length):
        output, states = _run_cell(layer, sequence[:, i], states)
        outputs.append(output)
    result = tensorflow.stack(outputs, axis=1) if layer.return_sequences else outputs[-1]
    return (result, *states) if layer.return_state else result


def _state_names(layer: Any, count: int, taken: list[str]) -> list[str]:
    """Name the states of a recurrent layer: lstm_h, lstm_c, gru_state; numbered where there are more."""
    kind = type(layer.cell).__name__
    if kind == "LSTMCell":
        endings = ["h", "c"]
    else:
        endings = ["state"] if count == 1 else [f"state_{i}" for i in range(count)]
    base = number = identifier(layer.name)
    i = 2
    while any(f"{number}_{ending}" in taken for ending in endings):
        number, i = f"{base}_{i}", i + 1
    return [f"{number}_{ending}" for ending in endings]


def _state_spec(layer: Any, name: str, value: Any) -> StateSpec:
    constant = np.asarray(value)
    if constant.size == 0 or constant.min() != constant.max():
        raise _refusal(layer, "begins with a state that is not one number throughout")
    return StateSpec(name, tuple(int(n) for n in value.shape[1:]), float(constant.flat[0]))


def _is_last_axis(operation: Any) -> bool:
    axis = getattr(operation, "axis", -1)
    axes = list(axis) if isinstance(axis, list | tuple) else [axis]
    return axes == [-1]


def _normalize(layer: Any, tensor: Any) -> Any:
    """Do as keras.layers.Normalization, whose mean and variance were shaped for sequences."""
    keras, tensorflow = import_keras(), import_tensorflow()
    mean, variance = tensorflow.convert_to_tensor(layer.mean), tensorflow.convert_to_tensor(layer.variance)
    if mean.shape.rank != len(tensor.shape) + 1 or (mean.shape.rank and mean.shape[1] != 1):
        raise _refusal(layer, "normalises each step of the sequence differently")
    mean, variance = tensorflow.squeeze(mean, 1), tensorflow.squeeze(variance, 1)
    deviation = tensorflow.maximum(tensorflow.sqrt(variance), keras.config.epsilon())
    return mean + tensor * deviation if layer.invert else (tensor - mean) / deviation


def _take(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], walk: _Walk) -> Any:
    """Do x[:, -1], which takes the last step; and cut what is not time."""
    tensor, key = args[0], kwargs["key"] if "key" in kwargs else args[1]
    keys = key if isinstance(key, tuple) else (key,)
    everything = slice(None, None, None)
    if len(keys) >= 2 and keys[0] == everything and Ellipsis not in keys and None not in keys:
        taken = tensor[(everything, *keys[2:])] if len(keys) > 2 else tensor
        if keys[1] == -1:
            return import_tensorflow().identity(taken)  # another tensor, which is of no sequence
        if keys[1] == everything:
            return walk.mark(import_tensorflow().identity(taken))
    raise _refusal(operation, "takes some steps out of the sequence")


def _refusal(layer: Any, what: str) -> AgentError:
    return AgentError(f"The layer '{layer.name}' ({type(layer).__name__}) {what}. {_CURE}")
