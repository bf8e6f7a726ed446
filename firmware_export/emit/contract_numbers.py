"""What a policy itself says for its contract: parts, memory, action and values, as its edges have them."""

from dataclasses import replace

import numpy as np

from edgeqrl.network.edges import (
    AffineEdge,
    GaussianEdge,
    MultiBinaryEdge,
    MultiDiscreteEdge,
    action_shape,
    single_choice,
)
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.structs import observation_layout
from firmware_export.contract_facts import Feature, float32
from firmware_export.contract_parts import (
    ContractAction,
    ContractMemory,
    ContractPart,
    ContractState,
    ContractValue,
)


def contract_parts(policy: IntegerPolicy) -> tuple[tuple[ContractPart, ...], int]:
    """Return the parts of an observation, and the bytes of NAME_observation."""
    layout = observation_layout(policy)
    pairs = zip(policy.observations, layout.parts, strict=True)
    parts = (
        ContractPart(
            replace(edge.part, key=""), field.offset, edge.dtype, float(edge.scale), int(edge.zero_point)
        )
        for edge, field in pairs
    )
    return tuple(parts), layout.num_bytes


def contract_action(policy: IntegerPolicy, *, is_value: bool) -> ContractAction:
    """Return what the step gives; `is_value`: a value to be read, and nothing to drive."""
    action, mask = policy.action, observation_layout(policy).mask
    choices = single_choice(action)
    kind = "continuous"
    if is_value:
        kind = "value"
    elif choices is not None:
        kind = "discrete"
    elif isinstance(action, MultiDiscreteEdge):
        kind = "multi_discrete"
    elif isinstance(action, MultiBinaryEdge):
        kind = "multi_binary"
    return ContractAction(
        kind=kind,
        shape=_sizes(action_shape(action)),
        start=0 if choices is None else choices.start,
        is_sampled=policy.is_stochastic,
        mask=None if mask is None else (mask.offset, mask.num_bytes),
    )


def contract_memory(policy: IntegerPolicy) -> ContractMemory | None:
    """Return what survives a step."""
    if not policy.has_memory:
        return None
    tensors = policy.network.tensors
    layout = policy.memory_layout.fields
    states = []
    for i, recurrent in enumerate(policy.recurrent):
        tensor = tensors[recurrent.input]
        states.append(
            ContractState(
                name=f"recurrent_{i}",
                shape=_sizes(tensor.shape),
                dtype=tensor.dtype,
                scale=float(tensor.scale),
                zero_point=int(tensor.zero_point),
                initial=int(recurrent.initial),
            )
        )
    return ContractMemory(
        num_bytes=policy.memory_bytes,
        fields=tuple((name, field.offset, field.num_bytes) for name, field in layout.items()),
        frames=policy.frames,
        recurrent=tuple(states),
        is_seeded=policy.is_stochastic,
    )


def contract_values(policy: IntegerPolicy) -> tuple[ContractValue, ...]:
    """Return the values beside the action, number by number."""
    found = []
    for value in policy.values:
        edge = value.edge
        rows = list(zip(edge.gain, edge.low, edge.high, edge.fraction_bits, strict=True))
        for i, (gain, low, high, bits) in enumerate(rows):
            name = value.name if len(rows) == 1 else f"{value.name}_{i}"
            scale = float32(abs(float(np.ldexp(float(gain), -bits))))
            found.append(ContractValue(name, scale, fixed_bound(low, bits), fixed_bound(high, bits)))
    return tuple(found)


def policy_actions(policy: IntegerPolicy) -> tuple[Feature, ...]:
    """Return discrete actions, or the numbers of another one with their bounds."""
    action = policy.action
    choices = single_choice(action)
    if choices is not None:
        return tuple(Feature(f"action_{i}") for i in range(len(choices)))
    if isinstance(action, MultiDiscreteEdge):
        pairs = [(start, start + n - 1) for start, n in zip(action.starts, action.counts, strict=True)]
    elif isinstance(action, MultiBinaryEdge):
        pairs = [(0, 1)] * action.size
    else:
        assert isinstance(action, AffineEdge | GaussianEdge)
        return _bounded(action)
    return tuple(Feature(f"action_{i}", None, float(a), float(b)) for i, (a, b) in enumerate(pairs))


def fixed_bound(fixed: int, fraction_bits: int) -> float | None:
    """Return a bound in fixed point; None for the ends of int32, which stand for no bound."""
    if abs(fixed) >= 2**31 - 1:
        return None
    return float32(float(np.ldexp(float(fixed), -fraction_bits)))


def _bounded(action: AffineEdge | GaussianEdge) -> tuple[Feature, ...]:
    bits = action.out_bits if isinstance(action, GaussianEdge) else action.fraction_bits
    rows = enumerate(zip(action.low, action.high, bits, strict=True))
    return tuple(Feature(f"action_{i}", None, fixed_bound(a, n), fixed_bound(b, n)) for i, (a, b, n) in rows)


def _sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(size) for size in shape)
