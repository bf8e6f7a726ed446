"""Where each activation lives: an exact plan of the arena from tensor lifetimes."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgeqrl.network.ir import IntegerNetwork, Lookup, Reshape

ALIGNMENT = 4  # bytes; kernels that read activations by words need it


@dataclass(frozen=True)
class ArenaPlan:
    """Byte offset of every tensor; `total_bytes` is exactly what the plan touches."""

    offsets: Mapping[str, int]
    total_bytes: int


@dataclass
class _Block:
    """One piece of storage: tensors that share bytes, alive from step `first` to step `last`."""

    size: int
    first: int
    last: int


def plan_arena(network: IntegerNetwork) -> ArenaPlan:
    """Place all activations of `network`; those alive at the same time do not overlap.

    Reshape shares its input's bytes; so does Lookup where nothing reads that input later. Step 0 writes
    the network inputs, step i + 1 runs layer i.
    """
    block_of, blocks = _blocks(network)
    plans = (_both_ends(blocks), _largest_first(blocks))
    starts = min(plans, key=lambda starts: _extent(blocks, starts))
    offsets = {name: starts[index] for name, index in block_of.items()}
    return ArenaPlan(offsets, _extent(blocks, starts))


def _blocks(network: IntegerNetwork) -> tuple[dict[str, int], list[_Block]]:
    last_read = dict.fromkeys(network.tensors, 0)
    for step, layer in enumerate(network.layers, start=1):
        last_read[layer.input] = step
    end = len(network.layers) + 1
    last_read.update(dict.fromkeys(network.outputs, end))

    blocks: list[_Block] = []
    block_of: dict[str, int] = {}
    for name in network.inputs:
        block_of[name] = len(blocks)
        blocks.append(_Block(_padded(network.tensors[name].size), 0, last_read[name]))
    for step, layer in enumerate(network.layers, start=1):
        shared = block_of[layer.input]
        is_free = blocks[shared].last <= step
        if isinstance(layer, Reshape) or (isinstance(layer, Lookup) and is_free):
            block_of[layer.output] = shared
            blocks[shared].last = max(blocks[shared].last, last_read[layer.output], step)
            continue
        block_of[layer.output] = len(blocks)
        size = _padded(network.tensors[layer.output].size)
        blocks.append(_Block(size, step, max(last_read[layer.output], step)))
    return block_of, blocks


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
    """Place blocks by falling size, each at the lowest offset that is free during its life."""
    starts: dict[int, int] = {}
    for index in sorted(range(len(blocks)), key=lambda i: (-blocks[i].size, i)):
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


def _are_alive_together(a: _Block, b: _Block) -> bool:
    return a.first <= b.last and b.first <= a.last


def _extent(blocks: list[_Block], starts: list[int]) -> int:
    return max(start + block.size for block, start in zip(blocks, starts, strict=True))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
