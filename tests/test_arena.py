from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeqrl.network.ir import IntegerNetwork, Layer, Tensor
from edgeqrl.network.layers import Dense, Lookup, Reshape
from firmware_export.emit.arena import ALIGNMENT, plan_arena

TABLE = np.arange(-128, 128).astype(np.int8)


def network(sizes: list[int], kinds: list[tuple[str, int]], outputs: list[int]) -> IntegerNetwork:
    """Tensor 0 is the input; layer i reads tensor kinds[i][1] and writes tensor i + 1."""
    tensors = [Tensor("0", (sizes[0],), 1.0, 0)]
    layers: list[Layer] = []
    for i, (kind, source) in enumerate(kinds, start=1):
        shape = tensors[source].shape if kind != "dense" else (sizes[i],)
        tensors.append(Tensor(str(i), shape, 1.0, 0))
        layers.append(layer(kind, tensors[source], tensors[i]))
    names = tuple(str(i) for i in outputs)
    return IntegerNetwork({t.name: t for t in tensors}, ("0",), names, tuple(layers))


def layer(kind: str, source: Tensor, target: Tensor) -> Layer:
    if kind == "reshape":
        return Reshape(target.name, source.name, target.name)
    if kind == "lookup":
        return Lookup(target.name, "TANH", source.name, target.name, TABLE)
    rows = target.size
    ones = np.ones(rows, np.int32)
    weights = np.ones((rows, source.size), np.int8)
    return Dense(
        target.name,
        source.name,
        target.name,
        weights,
        ones.astype(np.int64),
        ones * 2**30,
        ones * 0,
        -128,
        127,
    )


@pytest.mark.parametrize(
    ("sizes", "kinds", "expected"),
    [
        ([4, 64, 64, 2], [("dense", 0), ("dense", 1), ("dense", 2)], 128),
        ([3, 5], [("dense", 0)], 4 + 8),
        ([5], [], 8),
        ([8, 8], [("lookup", 0)], 8),
        ([8, 8, 4], [("reshape", 0), ("dense", 1)], 12),
        # Tensor 0 is read again, so the lookup may not overwrite it.
        ([8, 8, 4], [("lookup", 0), ("dense", 0)], 16),
        # Placing the largest first would need 16 here.
        ([8, 4, 4, 8], [("dense", 0), ("dense", 1), ("dense", 2)], 12),
    ],
)
def test_arena_is_as_small_as_lifetimes_allow(
    sizes: list[int], kinds: list[tuple[str, int]], expected: int
) -> None:
    assert plan_arena(network(sizes, kinds, [len(kinds)])).total_bytes == expected


@given(st.lists(st.integers(1, 300), min_size=2, max_size=9))
def test_a_chain_needs_its_largest_pair_of_neighbours(sizes: list[int]) -> None:
    chain = network(sizes, [("dense", i) for i in range(len(sizes) - 1)], [len(sizes) - 1])
    padded = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
    assert plan_arena(chain).total_bytes == max(a + b for a, b in pairwise(padded))


@st.composite
def graphs(draw: st.DrawFn) -> IntegerNetwork:
    count = draw(st.integers(0, 8))
    kinds = [
        (draw(st.sampled_from(["dense", "lookup", "reshape"])), draw(st.integers(max(0, i - 3), i)))
        for i in range(count)
    ]
    sizes = draw(st.lists(st.integers(1, 40), min_size=count + 1, max_size=count + 1))
    return network(sizes, kinds, [draw(st.integers(0, count))])


@settings(max_examples=300)
@given(graphs())
def test_running_in_the_arena_gives_every_reader_what_was_written(graph: IntegerNetwork) -> None:
    """Play the plan with labels for bytes: whoever reads a tensor must find that tensor's own bytes."""
    plan = plan_arena(graph)
    arena: list[object] = [None] * plan.total_bytes
    root = {"0": "0"}

    def place(name: str) -> range:
        start = plan.offsets[name]
        assert start % ALIGNMENT == 0
        return range(start, start + graph.tensors[name].size)

    def require_intact(name: str) -> None:
        assert [arena[i] for i in place(name)] == [(root[name], k) for k in range(graph.tensors[name].size)]

    for k, i in enumerate(place("0")):
        arena[i] = ("0", k)
    for step in graph.layers:
        (source,) = step.inputs
        require_intact(source)
        root[step.output] = root[source] if isinstance(step, Reshape) else step.output
        if isinstance(step, Dense):
            assert not set(place(source)) & set(place(step.output)), "dense layers cannot run in place"
        for k, i in enumerate(place(step.output)):
            arena[i] = (root[step.output], k)
    require_intact(graph.outputs[0])


def test_reshape_of_a_constant_is_refused() -> None:
    """It has no bytes in the arena to share; reading a file computes it."""
    tensors = {name: Tensor(name, shape, 1.0, 0) for name, shape in (("x", (4,)), ("c", (4,)), ("y", (2, 2)))}
    constants = {"c": np.zeros(4, np.int8)}
    graph = IntegerNetwork(tensors, ("x",), ("y",), (Reshape("again", "c", "y"),), constants)
    with pytest.raises(ValueError, match="again reshapes the constant 'c'"):
        plan_arena(graph)
