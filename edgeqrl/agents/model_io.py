"""What goes into a model and what comes out: which input is which part of the observation, which output is
the policy, which the value, which the next state. Names decide, then shapes; what stays open is refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from edgeqrl.agents.agent import StateSpec, identifier
from edgeqrl.agents.options import AgentOptions
from edgeqrl.errors import AgentError, UsageError
from edgeqrl.network.parts import ObservationPart
from edgeqrl.network.tflite_model import shown
from edgeqrl.preprocessing import Preprocessing

Shape = tuple[int | None, ...]
_POLICY_WORDS = {
    "policy",
    "logits",
    "actor",
    "pi",
    "action",
    "actions",
    "mean",
    "mu",
    "loc",
    "q",
    "advantage",
}
_VALUE_WORDS = {"value", "values", "critic", "v", "vf", "baseline"}
_LOG_STD_WORDS = {"logstd", "logsigma", "logscale", "log"}


@dataclass(frozen=True)
class ModelTensor:
    """An input or output of a model as it was given."""

    name: str | None
    shape: Shape | None  # without the batch axis; None: not known
    dtype: str = "float32"


@dataclass(frozen=True)
class Inputs:
    """What each input of a model takes, in the model's order."""

    parts: tuple[int | None, ...]  # index of the part of the observation; None for a state
    states: tuple[StateSpec, ...]  # of the others, in order
    timed: tuple[bool, ...]  # whether the model takes sequences of it


@dataclass(frozen=True)
class Outputs:
    """Which output of a model is what; indices into its outputs."""

    policy: tuple[int, ...]  # several where each action of a multi-discrete policy has its own
    log_std: int | None
    value: int | None
    states: tuple[int, ...]


def match_inputs(inputs: Sequence[ModelTensor], preprocessing: Preprocessing, can_step: bool) -> Inputs:
    """Match a model's inputs to the parts of the observation, by name; the rest are states.

    can_step  the model can be rewritten into step form, so that it may take sequences
    """
    order = _parts_of_inputs(inputs, preprocessing)
    states, timed = [], []
    for tensor, part in zip(inputs, order, strict=True):
        if part is None:
            states.append(_state_input(tensor))
            timed.append(False)
        else:
            shape = preprocessing.network_shapes[part]
            timed.append(_require_fit(tensor, preprocessing.parts[part], shape, can_step))
    return Inputs(tuple(order), tuple(states), tuple(timed))


def match_outputs(
    outputs: Sequence[ModelTensor],
    states: Sequence[StateSpec],
    counts: Sequence[int],
    options: AgentOptions,
) -> Outputs:
    """Find the outputs that the options ask for, by what is stated, by names, then by shapes.

    states   inputs of the model, each of which needs its next state among the outputs
    counts   how many numbers the action space needs: one count, or one for each action of several; none: not
             known
    """
    stated = {
        role: _stated_output(outputs, getattr(options, f"{role}_output"), role)
        for role in ("policy", "value", "log_std")
    }
    taken = {index for index in stated.values() if index is not None}
    next_states = _next_states(outputs, states, taken)
    free = [i for i in range(len(outputs)) if i not in taken and i not in next_states]
    log_std = stated["log_std"]
    if log_std is None and options.stochastic and options.log_std is None:
        log_std = _only([i for i in free if _words(outputs[i]) & _LOG_STD_WORDS])
        free = [i for i in free if i != log_std]
    policy: tuple[int, ...] = ()
    value = None
    if options.wants_policy:
        if stated["policy"] is not None:
            policy = (stated["policy"],)
        else:
            policy = _find_policy(outputs, free, counts, options)
        free = [i for i in free if i not in policy]
    if options.wants_value:
        value = stated["value"] if stated["value"] is not None else _find_value(outputs, free, options)
    return Outputs(policy, log_std if policy else None, value, next_states)


def listed(tensors: Sequence[ModelTensor]) -> str:
    """List tensors by name, or by number and shape where they have none."""
    return ", ".join(
        f"'{shown(tensor.name)}'" if tensor.name else f"{i} of shape {tensor.shape}"
        for i, tensor in enumerate(tensors)
    )


def _parts_of_inputs(inputs: Sequence[ModelTensor], preprocessing: Preprocessing) -> list[int | None]:
    parts = preprocessing.parts
    if len(parts) == 1:
        return _only_part(inputs, preprocessing)
    order: list[int | None] = [None] * len(inputs)
    for index, part in enumerate(parts):
        wanted = {_plain(part.name), _plain(part.key), _plain(part.key.rpartition("/")[2])}
        found = [i for i, tensor in enumerate(inputs) if _plain(tensor.name or "") in wanted]
        if len(found) == 1 and order[found[0]] is None:
            order[found[0]] = index
    missing = [index for index in range(len(parts)) if index not in order]
    is_tuple = all(part.key.partition("/")[0].isdigit() for part in parts)
    if is_tuple and len(parts) == len(missing) <= len(inputs):  # the order is the name
        return [*range(len(parts)), *[None] * (len(inputs) - len(parts))]
    if missing:
        names = ", ".join(f"'{part.key or part.name}'" for part in parts)
        lacking = parts[missing[0]]
        raise AgentError(
            f"The observation has the parts {names}, and no input of the model ({listed(inputs)}) is named "
            f"'{lacking.key or lacking.name}'. {_parts_advice(parts)}"
        )
    return order


def _parts_advice(parts: Sequence[ObservationPart]) -> str:
    """Say how a model gets its parts; one-hot numbers cannot be flattened together with others."""
    named = "Name the model's inputs as the observation's parts"
    if any(part.one_hot for part in parts):
        return f"{named}, with an input for each of them."
    return (
        f"{named}, or wrap the environment with gymnasium.wrappers.FlattenObservation if the model takes "
        "them all in one."
    )


def _only_part(inputs: Sequence[ModelTensor], preprocessing: Preprocessing) -> list[int | None]:
    if len(inputs) == 1:
        return [0]
    (shape,) = preprocessing.network_shapes
    named = [i for i, tensor in enumerate(inputs) if _plain(tensor.name or "") in ("observation", "obs")]
    fitting = [
        i
        for i, tensor in enumerate(inputs)
        if tensor.shape is not None and _fits(tensor.shape[-len(shape) :], shape)
    ]
    first = (named or fitting or [0])[0]
    return [0 if i == first else None for i in range(len(inputs))]


def _state_input(tensor: ModelTensor) -> StateSpec:
    if tensor.shape is None or None in tensor.shape:
        raise AgentError(
            f"The model's input '{shown(tensor.name or '')}' is no part of the observation, and as a state "
            "it needs a known shape. State its shape: keras.Input((n,), name=...)."
        )
    return StateSpec(identifier(tensor.name or "state"), tuple(int(n or 0) for n in tensor.shape))


def _require_fit(tensor: ModelTensor, part: ObservationPart, shape: tuple[int, ...], can_step: bool) -> bool:
    """Return whether the input takes sequences of `shape`; raise AgentError if it takes neither."""
    name, taken = shown(tensor.name or ""), tensor.shape
    if not tensor.dtype.startswith(("float", "bfloat")) and not can_step:
        raise AgentError(
            f"The model's input '{name}' takes {tensor.dtype}, and observations arrive as float32."
        )
    if taken is None or _fits(taken, shape):
        return False
    is_sequence = len(taken) == len(shape) + 1 and _fits(taken[1:], shape)
    if is_sequence and can_step:
        return True
    if is_sequence and taken[0] is None:
        raise AgentError(
            f"The model's input '{name}' takes sequences of shape {taken}, and only functional and "
            "Sequential Keras models can be turned into single steps. Build it as one of these, or export "
            "one step with its state as further inputs and outputs."
        )
    cure = "Is this the agent for these observations?"
    if part.one_hot is not None:
        cure = (
            "Whole numbers reach a model as one-hot vectors: replace its Embedding or one-hot encoding by "
            f"keras.Input({shape})."
        )
    raise AgentError(
        f"The model's input '{name}' takes shape {taken}, which does not fit observations of shape {shape}. "
        f"{cure}"
    )


def _fits(taken: Shape, shape: tuple[int, ...]) -> bool:
    return len(taken) == len(shape) and all(a in (None, b) for a, b in zip(taken, shape, strict=True))


def _stated_output(outputs: Sequence[ModelTensor], stated: str | None, role: str) -> int | None:
    if stated is None:
        return None
    found = [i for i, tensor in enumerate(outputs) if tensor.name == stated]
    if not found and stated.isdigit() and int(stated) < len(outputs):
        found = [int(stated)]
    if len(found) != 1:
        option = f"--{role.replace('_', '-')}-output"
        raise UsageError(
            f"{option} states '{shown(stated)}', and the model's outputs are {listed(outputs)}. "
            "State one of these names, or its number from 0."
        )
    return found[0]


def _next_states(
    outputs: Sequence[ModelTensor], states: Sequence[StateSpec], taken: set[int]
) -> tuple[int, ...]:
    """Return the output that is the next of each state: by name, or else the last outputs in order."""
    by_name = []
    for state in states:
        wanted = {_plain(name) for name in (f"{state.name}_next", f"next_{state.name}", f"new_{state.name}")}
        wanted |= {_plain(f"{state.name}_out"), _plain(state.name)}
        by_name.append(_only([i for i, t in enumerate(outputs) if t.name and _plain(t.name) in wanted]))
    if None not in by_name and len(set(by_name)) == len(by_name):
        found = [i for i in by_name if i is not None]
    else:
        free = [i for i in range(len(outputs)) if i not in taken]
        if len(free) + len(taken) <= len(states):
            names = ", ".join(f"'{state.name}'" for state in states)
            raise AgentError(
                f"The model has the further inputs {names} and only {len(outputs)} "
                f"output{'' if len(outputs) == 1 else 's'} ({listed(outputs)}). Inputs are parts of the "
                "observation, by name, or states, whose next values are outputs too."
            )
        found = free[-len(states) :] if states else []
    for state, index in zip(states, found, strict=True):
        shape = outputs[index].shape
        if shape is not None and not _fits(shape, state.shape):
            raise AgentError(
                f"The model's output {listed([outputs[index]])} would be the next state of its input "
                f"'{state.name}', and their shapes are {shape} and {state.shape}. Name the outputs "
                f"'{state.name}_next' and so on, or put the states last in the inputs' order."
            )
    return tuple(found)


def _find_policy(
    outputs: Sequence[ModelTensor], free: list[int], counts: Sequence[int], options: AgentOptions
) -> tuple[int, ...]:
    if len(free) == 1 and not options.wants_value:
        return (free[0],)
    acting = [i for i in free if not _is_value(outputs[i])]
    if len(counts) > 1 and [_size(outputs[i]) for i in acting] == list(counts):
        return tuple(acting)
    named = [i for i in free if _is_policy(outputs[i])]
    fitting = [i for i in acting if _size(outputs[i]) == sum(counts)]
    for candidates in (named, fitting):
        if (index := _only(candidates)) is not None:
            return (index,)
    raise _ambiguous(outputs, free, "policy", options)


def _find_value(outputs: Sequence[ModelTensor], free: list[int], options: AgentOptions) -> int:
    if len(free) == 1 and (not options.wants_policy or _size(outputs[free[0]]) == 1):
        return free[0]
    named = [i for i in free if _is_value(outputs[i])]
    single = [i for i in free if _size(outputs[i]) == 1]
    for candidates in (named, single):
        if (index := _only(candidates)) is not None:
            return index
    raise _ambiguous(outputs, free, "value", options)


def _ambiguous(
    outputs: Sequence[ModelTensor], free: list[int], role: str, options: AgentOptions
) -> AgentError:
    if len(outputs) == 1:
        return AgentError(
            f"The model has one output ({listed(outputs)}), and --outputs {options.outputs} asks for two. "
            "Make a model that returns both, or ask for one."
        )
    other = f" State which it is: --{role}-output NAME, by name or by number from 0."
    return AgentError(
        f"The model has {len(outputs)} outputs ({listed(outputs)}), and it is not clear which is the "
        f"{role}.{other}"
    )


def _is_policy(tensor: ModelTensor) -> bool:
    return bool(_words(tensor) & _POLICY_WORDS)


def _is_value(tensor: ModelTensor) -> bool:
    return bool(_words(tensor) & _VALUE_WORDS) and not _is_policy(tensor)


def _words(tensor: ModelTensor) -> set[str]:
    """Return the words of a tensor's name: `logits_1` is {logits}, `QValues` {q, values}."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", tensor.name or "")
    words = {word for word in re.split(r"[^a-z]+", spaced.lower()) if word}
    if "log" in words and not words & {"std", "sigma", "scale", "stddev"}:
        words.discard("log")
    return words


def _size(tensor: ModelTensor) -> int | None:
    if tensor.shape is None or None in tensor.shape:
        return None
    return prod(n for n in tensor.shape if n is not None)


def _only(found: list[int]) -> int | None:
    return found[0] if len(found) == 1 else None


def _plain(name: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())
