"""Where each activation lives: an exact plan of the arena from tensor lifetimes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from edgeqrl.network.ir import IntegerNetwork, Layer
from edgeqrl.network.layers import (
    Interpolation,
    InverseRoot,
    LogSoftmax,
    Lookup,
    Pair,
    Rescale,
    Reshape,
    Sigmoid,
    Softmax,
    Softmax16,
)

_IN_PLACE = (Interpolation, InverseRoot, LogSoftmax, Lookup, Rescale, Sigmoid, Softmax, Softmax16)
ALIGNMENT = 4  # bytes; kernels that read activations by words need it
_NOTHING: Mapping[str, int] = MappingProxyType({})
_SHUFFLES = 200  # orders of placement that are tried where the simple ones do not reach the bound


@dataclass(frozen=True)
class ArenaPlan:
    """Byte offset of every activation; `total_bytes` is exactly what the plan touches."""

    offsets: Mapping[str, int]
    total_bytes: int
    least_bytes: int  # no plan can do with less: the most that is alive at once
    scratch: Mapping[str, int] = field(default_factory=dict)  # offsets, by the tensor that is being made


@dataclass
class _Block:
    """One piece of storage: tensors that share bytes, alive from step `first` to step `last`."""

    size: int
    first: int
    last: int


def plan_arena(
    network: IntegerNetwork,
    scratch: Mapping[str, int] = _NOTHING,
    behind: Mapping[str, int] = _NOTHING,
) -> ArenaPlan:
    """Place all activations of `network`; those alive at the same time do not overlap.

    scratch  bytes that a kernel needs while it makes a tensor
    behind   bytes that it writes behind the tensor

    Reshape shares its input's bytes; so does an elementwise layer where nothing reads that input later.
    Step 0 writes the network inputs, step i + 1 runs layer i. Constants are elsewhere, so a
    Reshape of one has no bytes to share: raises ValueError.
    """
    block_of, blocks = _blocks(network)
    for name, num_bytes in behind.items():
        block = blocks[block_of[name]]
        block.size = max(block.size, _padded(network.tensors[name].num_bytes + num_bytes))
    scratch_of: dict[str, int] = {}
    for step, layer in enumerate(network.layers, start=1):
        if scratch.get(layer.output):
            scratch_of[layer.output] = len(blocks)
            blocks.append(_Block(_padded(scratch[layer.output]), step, step))
    least = _most_alive(blocks)
    starts = _largest_first(blocks)
    for plan in (_both_ends, _by_life, _shuffled):
        if _extent(blocks, starts) > least:
            starts = min(starts, plan(blocks), key=lambda starts: _extent(blocks, starts))
    offsets = {name: starts[index] for name, index in block_of.items()}
    scratch_offsets = {name: starts[index] for name, index in scratch_of.items()}
    return ArenaPlan(offsets, _extent(blocks, starts), least, scratch_offsets)


def in_place_inputs(layer: Layer, network: IntegerNetwork) -> tuple[str, ...]:
    """Return the inputs whose bytes the output may take: the kernel reads them before it overwrites them.

    Elements have one size, and element i of the output needs element i of those inputs alone; or a row of it
    needs their row, which the kernels of SOFTMAX have read when they write.
    """
    if isinstance(layer, Pair):
        names = layer.inputs if _is_walked_in_order(layer, network) else ()
    elif isinstance(layer, _IN_PLACE):
        names = layer.inputs
    else:
        return ()
    target = network.tensors[layer.output]
    return tuple(
        name
        for name in dict.fromkeys(names)
        if (network.tensors[name].size, network.tensors[name].num_bytes) == (target.size, target.num_bytes)
    )


def _is_walked_in_order(layer: Pair, network: IntegerNetwork) -> bool:
    """Tell whether the inputs of the output's size are read in its order; others may be broadcast."""
    in_order: list[int] = []
    step = 1
    for size in reversed(layer.shape):
        in_order.insert(0, step)
        step *= size
    walks = zip(layer.inputs, (layer.strides_a, layer.strides_b), strict=True)
    return all(
        all(n == 1 or s == expected for n, s, expected in zip(layer.shape, strides, in_order, strict=True))
        for name, strides in walks
        if network.tensors[name].size == step
    )


def _blocks(network: IntegerNetwork) -> tuple[dict[str, int], list[_Block]]:
    last_read = dict.fromkeys(network.tensors, 0)
    for step, layer in enumerate(network.layers, start=1):
        last_read.update(dict.fromkeys(layer.inputs, step))
    end = len(network.layers) + 1
    last_read.update(dict.fromkeys(network.outputs, end))

    blocks: list[_Block] = []
    block_of: dict[str, int] = {}
    for name in network.inputs:
        block_of[name] = len(blocks)
        blocks.append(_Block(_padded(network.tensors[name].num_bytes), 0, last_read[name]))
    for step, layer in enumerate(network.layers, start=1):
        last = max(last_read[layer.output], step)
        shared = _shared_block(layer, network, block_of, blocks, step)
        if shared is not None:
            block_of[layer.output] = shared
            blocks[shared].last = max(blocks[shared].last, last)
            continue
        block_of[layer.output] = len(blocks)
        blocks.append(_Block(_padded(network.tensors[layer.output].num_bytes), step, last))
    return block_of, blocks


def _shared_block(
    layer: Layer, network: IntegerNetwork, block_of: dict[str, int], blocks: list[_Block], step: int
) -> int | None:
    if isinstance(layer, Reshape):
        if layer.input in network.constants:
            raise ValueError(f"{layer.name} reshapes the constant '{layer.input}': fold it")
        return block_of[layer.input]
    size = _padded(network.tensors[layer.output].num_bytes)
    for name in in_place_inputs(layer, network):
        index = block_of.get(name)
        if index is not None and blocks[index].last <= step and blocks[index].size == size:
            return index
    return None


def _both_ends(blocks: list[_Block]) -> list[int]:
    """Alternate between the arena's two ends: optimal for a chain, where only neighbours are alive together.

    Where more is alive at once this is no plan; fall back on the other.
    """
    if any(_are_alive_together(a, b) for i, a in enumerate(blocks) for b in blocks[i + 2 :]):
        return _largest_first(blocks)
    pairs = zip(blocks, [*blocks[1:], _Block(0, 0, 0)], strict=True)
    total = max(a.size + b.size for a, b in pairs)
    return [0 if i % 2 == 0 else total - block.size for i, block in enumerate(blocks)]


def _largest_first(blocks: list[_Block]) -> list[int]:
    return _placed(blocks, sorted(range(len(blocks)), key=lambda i: (-blocks[i].size, i)))


def _by_life(blocks: list[_Block]) -> list[int]:
    """Place those that live longest first, the larger of equals before."""
    orders: list[Callable[[int], tuple[int, int, int]]] = [
        lambda i: (blocks[i].first - blocks[i].last, -blocks[i].size, i),
        lambda i: (blocks[i].first, -blocks[i].size, i),
        lambda i: (-blocks[i].size * (blocks[i].last - blocks[i].first + 1), i, 0),
    ]
    plans = [_placed(blocks, sorted(range(len(blocks)), key=key)) for key in orders]
    return min(plans, key=lambda starts: _extent(blocks, starts))


def _shuffled(blocks: list[_Block]) -> list[int]:
    """Improve the order by swaps, accepting what is not worse; the same blocks give the same plan."""
    rng = np.random.default_rng(0)
    order = sorted(range(len(blocks)), key=lambda i: (-blocks[i].size, i))
    best = _placed(blocks, order)
    least = _most_alive(blocks)
    for _ in range(_SHUFFLES if len(blocks) > 2 else 0):
        i, j = rng.choice(len(blocks), 2, replace=False)
        other = [*order]
        other[i], other[j] = other[j], other[i]
        starts = _placed(blocks, other)
        if _extent(blocks, starts) <= _extent(blocks, best):
            order, best = other, starts
        if _extent(blocks, best) == least:
            break
    return best


def _placed(blocks: list[_Block], order: list[int]) -> list[int]:
    """Place blocks in `order`, each at the lowest offset that is free during its life."""
    starts: dict[int, int] = {}
    for index in order:
        block = blocks[index]
        taken = sorted(
            (start, start + blocks[other].size)
            for other, start in starts.items()
            if _are_alive_together(block, blocks[other])
        )
        offset = 0
        for start, stop in taken:
            if offset + block.size <= start:
                break
            offset = max(offset, stop)
        starts[index] = offset
    return [starts[i] for i in range(len(blocks))]


def _most_alive(blocks: list[_Block]) -> int:
    steps = {block.first for block in blocks}
    return max((sum(b.size for b in blocks if b.first <= step <= b.last) for step in steps), default=0)


def _are_alive_together(a: _Block, b: _Block) -> bool:
    return a.first <= b.last and b.first <= a.last


def _extent(blocks: list[_Block], starts: list[int]) -> int:
    return max((start + block.size for block, start in zip(blocks, starts, strict=True)), default=0)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
