"""One step of a whole policy around any network: what NAME_step computes, for N rows at once."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.edges import Actions, decode_actions, draw_actions, quantize_observations
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.memory import Memory, push_frames

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Mapping[str, NDArray[Any]]]  # of a Network: inputs to outputs, by tensor name


class PolicyStep(NamedTuple):
    """What a step answers, N rows each."""

    actions: Actions
    flags: NDArray[np.uint8]  # of the observations: a sum of SATURATED and NOT_FINITE
    outputs: Mapping[str, NDArray[Any]]  # of the network, integers by name
    memory: Memory


def encode_step(
    policy: IntegerPolicy, observations: NDArray[Any] | Mapping[str, NDArray[Any]], memory: Memory
) -> tuple[Arrays, NDArray[np.uint8], Memory]:
    """Return the network's inputs for observations, status flags, and the memory with the new frames.

    observations   [N, *shape] of a policy with one part, or by the names of its parts
    """
    layout, network = policy.memory_layout, policy.network
    memory = memory.copy()
    inputs: Arrays = {}
    flags = np.zeros(len(memory), np.uint8)
    for i, edge in enumerate(policy.observations):
        quantized, flagged = quantize_observations(edge, part_rows(policy, observations, i))
        flags |= flagged
        if i == 0 and policy.frames is not None:
            quantized = push_frames(layout, memory, quantized, policy.frames, edge.part.network_shape)
        tensor = network.tensors[network.inputs[i]]
        inputs[tensor.name] = quantized.reshape(len(memory), *tensor.shape)
    for i, state in enumerate(policy.recurrent):
        inputs[state.input] = layout.read(memory, f"recurrent_{i}")
    return inputs, flags, memory


def decode_step(
    policy: IntegerPolicy,
    outputs: Mapping[str, NDArray[Any]],
    memory: Memory,
    action_masks: NDArray[np.bool_] | None = None,
) -> tuple[Actions, Memory]:
    """Return actions for the network's outputs, and the memory with the next states and after the draws."""
    layout = policy.memory_layout
    memory = memory.copy()
    for i, state in enumerate(policy.recurrent):
        layout.write(memory, f"recurrent_{i}", outputs[state.output])
    heads = [outputs[name] for name in policy.action_outputs]
    if not policy.is_stochastic:
        return decode_actions(policy.action, heads[0], action_masks), memory
    actions, random = draw_actions(policy.action, heads, layout.read(memory, "random"), action_masks)
    layout.write(memory, "random", random)
    return actions, memory


def step_policy(
    policy: IntegerPolicy,
    run: Run,
    observations: NDArray[Any] | Mapping[str, NDArray[Any]],
    memory: Memory,
    action_masks: NDArray[np.bool_] | None = None,
) -> PolicyStep:
    """Step N rows: encode, run the network, decode. `memory` [N, memory_bytes] stays as it is.

    Masks [N, num_masks] are read by masked policies only; None allows everything.
    """
    inputs, flags, memory = encode_step(policy, observations, memory)
    outputs = run(inputs)
    masks = action_masks if policy.num_masks else None
    actions, memory = decode_step(policy, outputs, memory, masks)
    return PolicyStep(actions, flags, outputs, memory)


def policy_values(
    policy: IntegerPolicy, outputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[np.float32]]:
    """Return the values by name [N, *shape], decoded from the network's outputs."""
    return {
        value.name: np.asarray(decode_actions(value.edge, outputs[value.output]), np.float32)
        for value in policy.values
    }


def part_rows(
    policy: IntegerPolicy, observations: NDArray[Any] | Mapping[str, NDArray[Any]], index: int
) -> NDArray[Any]:
    """Return one part [N, *shape] of observations, in its element type.

    Raises ValueError where it is missing, of another shape, or holds what its type cannot.
    """
    part = policy.parts[index]
    if isinstance(observations, Mapping):
        if part.name not in observations:
            raise ValueError(f"the observation has no part '{part.name}': {sorted(observations)}")
        values = np.asarray(observations[part.name])
    elif len(policy.parts) == 1:
        values = np.asarray(observations)
    else:
        names = [part.name for part in policy.parts]
        raise ValueError(f"observations must be given by the names of their parts: {names}")
    if values.shape[1:] != part.shape:
        raise ValueError(f"'{part.name}' must be [N, {part.shape}], got {values.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(part.source, copy=False)
    if cast is not values and part.source != "float32" and not np.array_equal(cast, values):
        raise ValueError(f"'{part.name}' must be {part.source}, and holds what that cannot")
    return cast
