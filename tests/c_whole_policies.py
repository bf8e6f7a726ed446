"""Random whole policies: parts of every source, frames, states, values, every kind of action; episodes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.network.edges import (
    ActionEdge,
    AffineEdge,
    GaussianEdge,
    ObservationEdge,
    make_affine_edge,
    num_heads,
    num_outputs,
)
from edgeqrl.network.integer_policy import IntegerPolicy, ValueOutput
from edgeqrl.network.ir import IntegerNetwork, Layer, Tensor
from edgeqrl.network.layers import Dense, Move, Piece
from edgeqrl.network.memory import FrameStack, Recurrent, seed_memory
from edgeqrl.network.policy_step import policy_values
from edgeqrl.network.reference import Reference
from tests.c_policies import random_action
from tests.random_edges import random_action_edge, random_affine_edge, special_floats
from tests.random_images import random_image

HEADS = (
    *("argmax", "masked", "affine", "categorical", "categorical-masked", "multi", "multi-masked"),
    *("multi-drawn", "multi-drawn-masked", "binary", "bernoulli", "gaussian", "gaussian-log-std"),
    *("squashed", "squashed-log-std"),
)
PARTS = ("float", "affine", "bytes", "classes", "image")
Parts = dict[str, NDArray[Any]]


class Step(NamedTuple):
    """What a policy met and did in one step, N rows each."""

    observations: Parts
    masks: NDArray[np.bool_] | None
    before: NDArray[np.uint8]  # memory, after episodes have begun
    seeds: NDArray[np.uint64]  # of the rows that begin
    actions: NDArray[Any]
    flags: NDArray[np.uint8]
    memory: NDArray[np.uint8]
    values: NDArray[np.float32]


def random_whole_policy(
    rng: np.random.Generator,
    head: str = "argmax",
    parts: Sequence[str] = ("float",),
    *,
    frames: FrameStack | None = None,
    states: Sequence[int] = (),
    values: Sequence[int] = (),
    dtype: str = "int8",
    name: str = "robot",
) -> IntegerPolicy:
    """Return a policy: `states` and `values` are sizes, `head` is one of HEADS, `parts` are of PARTS."""
    edges = [_part(rng, kind, f"part_{i}" if i else "observation", dtype) for i, kind in enumerate(parts)]
    tensors = [
        Tensor(f"in_{i}", _stacked(edge, None if i else frames), edge.scale, edge.zero_point, dtype)
        for i, edge in enumerate(edges)
    ]
    memories = [_tensor(rng, f"state_{i}", size, dtype) for i, size in enumerate(states)]
    inputs = [*tensors, *memories]
    together = _tensor(rng, "together", sum(tensor.size for tensor in inputs), dtype)
    hidden = _tensor(rng, "hidden", int(rng.integers(3, 12)), dtype)
    layers: list[Layer] = [_concatenation(inputs, together), random_dense(rng, together, hidden)]
    action = _action(rng, head, dtype)
    outputs = [_tensor(rng, f"head_{i}", num_outputs(action), dtype) for i in range(num_heads(action))]
    if isinstance(action, AffineEdge):
        action = _affine(rng, outputs[0])
    nexts = [replace(state, name=f"{state.name}_next") for state in memories]
    judged = [_tensor(rng, f"value_{i}", size, dtype) for i, size in enumerate(values)]
    others = [*nexts, *judged]
    others = [others[i] for i in rng.permutation(len(others))]
    layers += [random_dense(rng, hidden, target) for target in (*outputs, *others)]
    everything = [*inputs, together, hidden, *outputs, *others]
    network = IntegerNetwork(
        {tensor.name: tensor for tensor in everything},
        tuple(tensor.name for tensor in inputs),
        tuple(tensor.name for tensor in (*outputs, *others)),
        tuple(layers),
    )
    return IntegerPolicy(
        name,
        edges[0],
        network,
        action,
        tuple(edges[1:]),
        frames,
        tuple(Recurrent(a.name, b.name, a.zero_point) for a, b in zip(memories, nexts, strict=True)),
        tuple(ValueOutput(tensor.name, tensor.name, _affine(rng, tensor)) for tensor in judged),
    )


def any_whole_policy(rng: np.random.Generator, head: str) -> IntegerPolicy:
    """Return a policy with a random choice of everything else."""
    parts = [str(kind) for kind in rng.choice(PARTS, int(rng.integers(1, 4)))]
    frames = None
    if rng.random() < 0.5:
        padding = str(rng.choice(["first", "zero"]))
        frames = FrameStack(int(rng.integers(1, 5)), int(rng.choice([0, -1])), rng.random() < 0.5, padding)
    states = rng.integers(1, 8, int(rng.integers(0, 3))).tolist()
    values = rng.integers(1, 3, int(rng.integers(0, 3))).tolist()
    dtype = str(rng.choice(["int8", "int8", "int16"]))
    return random_whole_policy(rng, head, parts, frames=frames, states=states, values=values, dtype=dtype)


def random_parts(rng: np.random.Generator, policy: IntegerPolicy, count: int) -> Parts:
    """Return observations [count, *shape] by part: mostly in range, some anything at all."""
    return {edge.part.name: _raw(rng, edge, count) for edge in policy.observations}


def played(rng: np.random.Generator, policy: IntegerPolicy, rows: int, steps: int) -> Iterator[Step]:
    """Play the reference in `rows` environments, where episodes begin now and then."""
    reference = NetworkPolicy(Reference(policy.network), policy, "reference")
    memory = policy.fresh_memory(rows)
    for step in range(steps):
        starts = np.flatnonzero((rng.random(rows) < 0.3) | (step == 0))
        seeds = rng.integers(2**64, size=rows, dtype=np.uint64)
        before = memory.copy()
        policy.reset_memory(before, starts)
        if policy.is_stochastic:
            seed_memory(policy.memory_layout, before, seeds[starts], starts)
        observations = random_parts(rng, policy, rows)
        masks = rng.random((rows, policy.num_masks)) < 0.6 if policy.num_masks else None
        answer = reference.step(observations, before, masks)
        found = policy_values(policy, answer.outputs).values()
        values = np.concatenate([np.zeros((rows, 0)), *(v.reshape(rows, -1) for v in found)], axis=1)
        yield Step(observations, masks, before, seeds, answer.actions, answer.flags, answer.memory,
                   values.astype(np.float32))  # fmt: skip
        memory = answer.memory


def random_dense(rng: np.random.Generator, source: Tensor, target: Tensor) -> Dense:
    """Return a layer of int8 or int16 whose outputs spread over the range."""
    rows, columns = target.size, source.size
    wide = 1 if source.dtype == "int8" else 256
    weights = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
    spread = np.abs(weights.astype(np.int64)).sum(axis=1) * 60 * wide + 1
    bias = (rng.normal(0.0, 0.3, rows) * spread).astype(np.int64)
    mantissa, shift = np.frexp(2.0 ** rng.uniform(5.0, 9.0, rows) * wide / spread)
    multiplier = np.minimum(np.floor(mantissa * 2**31), 2**31 - 1).astype(np.int32)
    return Dense(
        f"{target.name}/MatMul", source.name, target.name, weights, bias, multiplier, shift.astype(np.int32),
        *target.range, is_wide=wide > 1,
    )  # fmt: skip


def _part(rng: np.random.Generator, kind: str, name: str, dtype: str) -> ObservationEdge:
    shape = ((3,), (2, 3), (4,), (2, 1, 3))[rng.integers(4)]
    size = int(np.prod(shape))
    if kind == "affine":
        edge = random_affine_edge(rng, dtype, size)
        return replace(edge, part=replace(edge.part, shape=shape, name=name))
    scale, zero_point = float(np.float32(2.0 ** rng.uniform(-9.0, 3.0))), _zero_point(rng, dtype)
    if kind == "classes":
        one_hot = tuple((int(s), int(n)) for s, n in rng.integers((-4, 1), (5, 6), (size, 2)))
        return ObservationEdge.of(shape, scale, zero_point, dtype, name, "int32", one_hot=one_hot)
    if kind == "image":
        raw, image = random_image(rng)
        gain = (float(rng.uniform(0.2, 1.5) * scale),)
        return ObservationEdge.of(raw, scale, zero_point, dtype, name, "uint8", gain=gain, image=image)
    if kind == "bytes":
        gain = (float(rng.uniform(0.2, 1.5) * scale),)
        return ObservationEdge.of(shape, scale, zero_point, dtype, name, "uint8", gain=gain)
    return ObservationEdge.of(shape, scale, zero_point, dtype, name)


def _raw(rng: np.random.Generator, edge: ObservationEdge, count: int) -> NDArray[Any]:
    shape = (count, *edge.part.shape)
    if edge.part.source == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if edge.part.one_hot is not None:
        drawn = [rng.integers(start - 1, start + n + 1, count) for start, n in edge.part.one_hot]
        return np.asarray(np.stack(drawn, axis=1).reshape(shape), np.int32)
    if edge.is_affine:
        flat = replace(edge, part=replace(edge.part, shape=(edge.part.size,)))
        return np.asarray(special_floats(rng, flat, count).reshape(shape))
    usual = rng.normal(0.0, 60.0 * edge.scale, shape).astype(np.float32)
    any_bits = rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
    return np.asarray(np.where(rng.random(shape) < 0.1, any_bits, usual))


def _stacked(edge: ObservationEdge, frames: FrameStack | None) -> tuple[int, ...]:
    return edge.part.network_shape if frames is None else frames.stacked_shape(edge.part.network_shape)


def _action(rng: np.random.Generator, head: str, dtype: str) -> ActionEdge:
    if head in ("argmax", "masked", "affine"):
        size = int(rng.integers(1, 6))
        return random_action(rng, head, Tensor("head", (size,), 0.1, 0, "int16"))
    edge = random_action_edge(rng, head, dtype)
    assert isinstance(edge, GaussianEdge) == head.startswith(("gaussian", "squashed"))
    return edge


def _affine(rng: np.random.Generator, tensor: Tensor) -> AffineEdge:
    size = tensor.size
    return make_affine_edge(
        scale=tensor.scale,
        zero_point=tensor.zero_point,
        gain=rng.normal(0.0, 2.0, size),
        offset=rng.normal(0.0, 2.0, size),
        low=rng.choice([-np.inf, -2.5, -0.1], size).astype(np.float32),
        high=rng.choice([np.inf, 1.5, 0.1], size).astype(np.float32),
        dtype=tensor.dtype,
    )


def _concatenation(sources: Sequence[Tensor], target: Tensor) -> Move:
    starts = np.cumsum([0, *(tensor.size for tensor in sources)])
    pieces = tuple(Piece(i, (t.size,), 0, (1,), int(starts[i]), (1,)) for i, t in enumerate(sources))
    return Move("together", "CONCATENATION", tuple(t.name for t in sources), target.name, pieces, None)


def _tensor(rng: np.random.Generator, name: str, size: int, dtype: str) -> Tensor:
    scale = float(np.float32(2.0 ** rng.uniform(-9.0, 3.0)))
    return Tensor(name, (size,), scale, _zero_point(rng, dtype), dtype)


def _zero_point(rng: np.random.Generator, dtype: str) -> int:
    return int(rng.integers(-128, 128)) if dtype == "int8" else 0
