"""The params blob: everything of a policy that depends on weights, relocatable, checked when it is used.

`runtime/eqrl.h` documents the header and the entries; `packing.py` the blocks. The offsets follow from
shapes, and so does the contract: two policies with equal contracts can exchange their blobs.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError
from edgeqrl.network.edges import AffineEdge, ArgmaxEdge
from edgeqrl.network.integer_policy import IntegerPolicy, num_outputs
from edgeqrl.network.ir import Dense, Lookup, Reshape
from firmware_export.emit import packing
from firmware_export.emit.packing import Kernel, PackedDense

ABI = 1  # EQRL_ABI in runtime/eqrl.h
MAGIC = 0x50525145  # "EQRP"
HEADER_BYTES = 128
SIGNATURE_BYTES = 64
_ENTRY_BYTES = 16
_CONTRACT_AT = 20
_NUM_ENTRIES_AT = 52
_CRC_AT = 56


@dataclass(frozen=True)
class Entry:
    """One block: which kernel reads it, and where it lies."""

    kernel: Kernel
    offset: int  # bytes from the start of the blob
    num_inputs: int
    num_outputs: int

    @property
    def num_bytes(self) -> int:
        """Return the size of the block."""
        return packing.block_bytes(self.kernel, self.num_inputs, self.num_outputs)


@dataclass(frozen=True)
class Layout:
    """The blob's plan: the observation edge, each layer that runs, the action edge."""

    entries: tuple[Entry, ...]
    total_bytes: int
    contract: bytes  # SHA-256 of everything that the generated code relies on


@dataclass(frozen=True, eq=False)
class Params:
    """What a blob says, one value an entry."""

    sequence: int
    contract: bytes
    entries: tuple[Entry, ...]
    blocks: tuple[PackedDense | NDArray[np.int8] | tuple[int, ...], ...]


def executed_layers(policy: IntegerPolicy) -> tuple[Dense | Lookup, ...]:
    """Return the layers that do something: Reshape costs no code."""
    return tuple(layer for layer in policy.network.layers if not isinstance(layer, Reshape))


def plan_params(policy: IntegerPolicy) -> Layout:
    """Lay out the blob of `policy` from shapes alone."""
    shapes = [(Kernel.OBSERVATION_F32, policy.observation.size, policy.observation.size)]
    for layer in executed_layers(policy):
        kernel = Kernel.DENSE_S8 if isinstance(layer, Dense) else Kernel.LOOKUP_S8
        tensors = policy.network.tensors
        shapes.append((kernel, tensors[layer.input].size, tensors[layer.output].size))
    actions = num_outputs(policy.action)
    shapes.append((_action_kernel(policy), actions, actions))

    offset = HEADER_BYTES + _ENTRY_BYTES * len(shapes)
    entries = []
    for shape in shapes:
        entries.append(Entry(shape[0], offset, shape[1], shape[2]))
        offset += entries[-1].num_bytes
    return Layout(tuple(entries), offset, _contract(policy, entries))


def build_params(policy: IntegerPolicy, *, sequence: int = 0) -> bytes:
    """Return the params blob of `policy`; `sequence` in [0, 2**32) is for the user's updater."""
    if not 0 <= sequence < 2**32:
        raise ValueError(f"sequence must fit uint32, got {sequence}")
    layout = plan_params(policy)
    blocks = _blocks(policy)
    assert [len(block) for block in blocks] == [entry.num_bytes for entry in layout.entries]
    fields = (MAGIC, ABI, HEADER_BYTES, layout.total_bytes, sequence)
    head = b"".join(_word(field) for field in fields) + layout.contract + _word(len(layout.entries))
    body = b"".join(_entry_bytes(entry) for entry in layout.entries) + b"".join(blocks)
    crc = zlib.crc32(body, zlib.crc32(head))
    blob = head + _word(crc) + _word(0) + bytes(SIGNATURE_BYTES) + body
    assert len(blob) == layout.total_bytes
    return blob


def read_params(blob: bytes) -> Params:
    """Invert `build_params`; raise DataError where the C check would refuse the blob."""
    words = np.frombuffer(blob[: len(blob) // 4 * 4], "<u4")
    if len(blob) < HEADER_BYTES or words[:3].tolist() != [MAGIC, ABI, HEADER_BYTES]:
        raise DataError("This is not a params blob of this version of edgeqrl. Export the policy again.")
    num_entries = int(words[_NUM_ENTRIES_AT // 4])
    body = blob[HEADER_BYTES:]
    is_whole = int(words[3]) == len(blob) and num_entries * _ENTRY_BYTES <= len(body)
    if not is_whole or zlib.crc32(body, zlib.crc32(blob[:_CRC_AT])) != int(words[_CRC_AT // 4]):
        raise DataError("The params blob is damaged: length or checksum is wrong. Export the policy again.")
    entries = tuple(_read_entry(blob, HEADER_BYTES + i * _ENTRY_BYTES) for i in range(num_entries))
    blocks = tuple(_read_block(blob, entry) for entry in entries)
    contract = blob[_CONTRACT_AT : _CONTRACT_AT + 32]
    return Params(sequence=int(words[4]), contract=contract, entries=entries, blocks=blocks)


def _blocks(policy: IntegerPolicy) -> list[bytes]:
    tensors = policy.network.tensors
    blocks = [packing.pack_observation(policy.observation)]
    for layer in executed_layers(policy):
        if isinstance(layer, Dense):
            blocks.append(packing.pack_dense(layer, tensors[layer.input], tensors[layer.output]))
        else:
            blocks.append(packing.pack_lookup(layer))
    if isinstance(policy.action, ArgmaxEdge):
        blocks.append(packing.pack_argmax(policy.action))
    else:
        blocks.append(packing.pack_affine(policy.action))
    return blocks


def _contract(policy: IntegerPolicy, entries: list[Entry]) -> bytes:
    """Hash what the code knows: layout, wiring, and the meaning of what goes in and comes out."""
    number = {name: i for i, name in enumerate(_storage_names(policy))}
    wiring = [[number[layer.input], number[layer.output]] for layer in policy.network.layers]
    action = policy.action
    facts = {
        "abi": ABI,
        "entries": [[int(e.kernel), e.offset, e.num_inputs, e.num_outputs] for e in entries],
        "wiring": wiring,
        "output": number[policy.network.outputs[0]],
        "observation_shape": list(policy.observation.shape),
        "action": {"shape": list(action.shape)}
        if isinstance(action, AffineEdge)
        else {"start": action.start},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


def _storage_names(policy: IntegerPolicy) -> list[str]:
    return [*policy.network.inputs, *(layer.output for layer in policy.network.layers)]


def _action_kernel(policy: IntegerPolicy) -> Kernel:
    if isinstance(policy.action, AffineEdge):
        return Kernel.AFFINE_F32
    return Kernel.ARGMAX_MASKED if policy.action.is_masked else Kernel.ARGMAX


def _entry_bytes(entry: Entry) -> bytes:
    return b"".join(_word(v) for v in (entry.kernel, entry.offset, entry.num_inputs, entry.num_outputs))


def _read_entry(blob: bytes, at: int) -> Entry:
    kernel, offset, num_inputs, num_outputs = (int(v) for v in np.frombuffer(blob, "<u4", 4, at))
    if kernel not in set(Kernel):
        raise DataError(f"The params blob uses kernel {kernel}, which this version of edgeqrl does not know.")
    entry = Entry(Kernel(kernel), offset, num_inputs, num_outputs)
    if offset % 4 or offset + entry.num_bytes > len(blob):
        raise DataError("The params blob is damaged: a block lies outside it. Export the policy again.")
    return entry


def _read_block(blob: bytes, entry: Entry) -> PackedDense | NDArray[np.int8] | tuple[int, ...]:
    block = blob[entry.offset : entry.offset + entry.num_bytes]
    if entry.kernel == Kernel.DENSE_S8:
        return packing.unpack_dense(block, entry.num_inputs, entry.num_outputs)
    if entry.kernel == Kernel.LOOKUP_S8:
        return packing.unpack_lookup(block)
    return packing.unpack_words(block)


def _word(value: int) -> bytes:
    return value.to_bytes(4, "little")
