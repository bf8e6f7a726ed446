"""What is added to, or cut from, a model's policy output so that a head can read it."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.heads import DiscreteHead, Head, MultiBinaryHead
from edgeqrl.agents.model_io import ModelTensor, listed
from edgeqrl.agents.options import AgentOptions
from edgeqrl.agents.tensorflow_runtime import import_tensorflow
from edgeqrl.errors import AgentError, UsageError

Tail = Callable[[Any], Any]
# The same numbers in the same order, the last of them rounded.
COPIES = ("Identity", "Reshape", "Squeeze", "ExpandDims", "FakeQuantWithMinMaxArgs")
# What turns logits into probabilities, by the kind of action space.
_PROBABILITIES = {"Discrete": "Softmax", "MultiDiscrete": "Softmax", "MultiBinary": "Sigmoid"}


def policy_tails(
    tensors: Sequence[ModelTensor],
    operators: Sequence[str],
    kind: str,
    counts: Sequence[int],
    options: AgentOptions,
    sample: Callable[[], NDArray[np.float32]],
) -> tuple[list[Tail], int]:
    """Return what follows the policy's outputs, and the number of outputs after it.

    operators   what computes each of the outputs
    kind        of the action space, "Discrete" and so on
    counts      of its actions, as for match_outputs
    sample      returns the first of the policy's outputs [N, *shape] for random inputs
    """
    size = sum(prod(n or 0 for n in tensor.shape or ()) for tensor in tensors)
    if kind == "Discrete" and len(tensors) == 1:
        tail = _distribution_tail(tensors[0], operators[0], counts, options, sample)
        if tail is not None:
            return [tail], counts[0] if counts else (tensors[0].shape or (0,))[0] or 0
    probability = _PROBABILITIES.get(kind)
    if probability in operators and (options.stochastic or kind == "MultiBinary"):
        return [_before_activation], size
    if kind == "Box" and options.head == "squash":
        if "Tanh" in operators:
            raise UsageError("The model ends in a tanh already: state --head scale instead of squash.")
        return ([] if options.stochastic else [_tanh]), size
    return [], size


def require_logits(head: Head, outputs: NDArray[np.float32]) -> None:
    """Refuse probabilities that are hidden from `policy_tails`, where the head takes logits.

    outputs  [N, ...] of the policy for random inputs
    """
    rows = outputs.reshape(len(outputs), -1)
    if isinstance(head, DiscreteHead) and head.is_stochastic:
        segments = np.split(rows, np.cumsum(head.counts)[:-1].tolist(), axis=1)
        are = all(are_probabilities(part, axis=1) for part in segments) and max(head.counts) > 1
    else:
        is_within = bool((rows >= 0.0).all() and (rows <= 1.0).all() and np.ptp(rows, axis=0).max() > 1e-3)
        are = isinstance(head, MultiBinaryHead) and is_within
    if are:
        raise AgentError(
            "The model's outputs look like probabilities, and logits are needed: to draw actions, and to "
            "switch at 0. Make a model that ends before its softmax or sigmoid, and what follows them."
        )


def are_probabilities(values: NDArray[np.float32], axis: int) -> bool:
    """Tell whether these are probabilities along an axis, be they a little clipped."""
    return bool((values >= 0.0).all() and (np.abs(values.sum(axis=axis) - 1.0) < 0.1).all())


def _before_activation(tensor: Any) -> Any:
    """Return what a final softmax or sigmoid was computed from."""
    operator = tensor.op
    while operator.type in COPIES:
        operator = operator.inputs[0].op
    if operator.type not in ("Softmax", "Sigmoid"):
        raise AgentError(
            "The model returns probabilities that are computed inside a SavedModel, and logits are needed. "
            "Export a model that ends before its softmax or sigmoid."
        )
    return operator.inputs[0]


def _tanh(tensor: Any) -> Any:
    return import_tensorflow().tanh(tensor)


def _distribution_tail(
    tensor: ModelTensor,
    operator: str,
    counts: Sequence[int],
    options: AgentOptions,
    sample: Callable[[], NDArray[np.float32]],
) -> Tail | None:
    """Return what takes the expectation of distributions of Q-values; None where there are none."""
    shape = tuple(n or 0 for n in tensor.shape or ())
    num_actions = counts[0] if counts else (shape[0] if len(shape) == 2 else 0)
    kind = options.distribution or ("categorical" if options.support is not None else None)
    is_table = len(shape) == 2 and num_actions in shape and 1 not in shape
    if kind is None and not is_table:
        return None
    has_softmax = operator in ("Softmax", "TransposedSoftmax")
    if kind is None and has_softmax:
        kind = "categorical"
    if kind is None:
        raise AgentError(
            f"The model's output {listed([tensor])} is a table of shape {shape}, a distribution for each "
            "action. Add --distribution quantiles (QR-DQN), or --distribution categorical and --support LOW "
            "HIGH (C51)."
        )
    if options.stochastic:
        raise UsageError("The outputs are distributions of Q-values, not logits: leave out --stochastic.")
    num_atoms = prod(shape) // num_actions if num_actions else 0
    if not is_table and (len(shape) != 1 or num_atoms < 2 or num_atoms * num_actions != prod(shape)):
        raise AgentError(
            f"The model's output has shape {shape}, which is no distribution for each of {num_actions} "
            "actions. It must be [actions, atoms] or [atoms, actions]."
        )
    is_transposed = is_table and shape[0] != num_actions  # [atoms, actions]
    if kind == "quantiles":
        return _mean_of_quantiles(num_actions, num_atoms, is_transposed)
    if options.support is None:
        raise AgentError(
            f"The model returns probabilities of {num_atoms} atoms for each action, and their values are "
            "needed. Add --support LOW HIGH, as v_min and v_max in training."
        )
    atoms = np.linspace(*options.support, num_atoms)
    if not has_softmax:  # or one that is hidden, by a clip for instance
        table = (num_atoms, num_actions) if is_transposed else (num_actions, num_atoms)
        has_softmax = are_probabilities(sample().reshape(-1, *table), axis=1 if is_transposed else 2)
    return _expectation(num_actions, atoms, is_transposed, has_softmax=has_softmax)


def _mean_of_quantiles(num_actions: int, num_atoms: int, is_transposed: bool) -> Tail:
    """Q is the mean over the quantiles: one matrix, which merges with a Dense before it."""
    each = np.eye(num_actions, dtype=np.float32) / num_atoms
    weights = np.tile(each, (num_atoms, 1)) if is_transposed else np.repeat(each, num_atoms, axis=0)
    return lambda tensor: _merged_dense(tensor, weights)


def _expectation(num_actions: int, atoms: Any, is_transposed: bool, *, has_softmax: bool) -> Tail:
    """Q is the sum of the atoms, each times its probability."""
    weights = np.zeros((num_actions, len(atoms), num_actions), np.float32)
    for action in range(num_actions):
        weights[action, :, action] = atoms
    flat = weights.reshape(-1, num_actions)

    def expect(tensor: Any) -> Any:
        tensorflow = import_tensorflow()
        table = (len(atoms), num_actions) if is_transposed else (num_actions, len(atoms))
        values = tensorflow.reshape(tensor, (tensor.shape[0], *table))
        if is_transposed:
            values = tensorflow.transpose(values, (0, 2, 1))
        return _dense(values if has_softmax else tensorflow.nn.softmax(values), flat)

    return expect


def _merged_dense(tensor: Any, weights: Any) -> Any:
    """Multiply by `weights`, merged with those that a Dense before has now, where there is one."""
    tensorflow = import_tensorflow()
    operator = _behind_copies(tensor)
    kernel = bias = None
    if operator.type in ("AddV2", "BiasAdd"):
        product = _behind_copies(operator.inputs[0])
        if product.type == "MatMul" and not product.get_attr("transpose_b"):
            kernel, bias = _value_of(product.inputs[1]), _value_of(operator.inputs[1])
    if kernel is None or bias is None or len(weights) != kernel.shape[1] or len(weights) != bias.size:
        return _dense(tensor, weights)
    merged = (kernel.astype(np.float64) @ weights).astype(np.float32)
    offset = (bias.reshape(-1).astype(np.float64) @ weights).astype(np.float32)
    return tensorflow.matmul(product.inputs[0], merged) + offset


def _behind_copies(tensor: Any) -> Any:
    """Return the operator that computes a tensor, up to its shape."""
    operator = tensor.op
    while operator.type in ("Identity", "Reshape"):
        operator = operator.inputs[0].op
    return operator


def _value_of(tensor: Any) -> Any:
    """Return the value of a variable that is read here; None for anything else."""
    tensorflow = import_tensorflow()
    operator = _behind_copies(tensor)
    if operator.type != "ReadVariableOp":
        return None
    for outside, inside in tensor.graph.captures:
        if inside is operator.inputs[0]:
            with tensorflow.init_scope():
                return tensorflow.raw_ops.ReadVariableOp(resource=outside, dtype=tensor.dtype).numpy()
    return None


def _dense(tensor: Any, weights: Any) -> Any:
    tensorflow = import_tensorflow()
    return tensorflow.matmul(tensorflow.reshape(tensor, (tensor.shape[0], len(weights))), weights)
