"""The params blob: everything of a policy that depends on weights, relocatable, checked when it is used.

`runtime/eqrl.h` documents the header and the entries, `runtime/eqrl_kernels.h` the blocks. The offsets
follow from shapes, and so does the contract: two policies with equal contracts can exchange their blobs.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from edgeqrl.errors import DataError, UsageError
from edgeqrl.network.edges import (
    ActionEdge,
    AffineEdge,
    ArgmaxEdge,
    GaussianEdge,
    MultiDiscreteEdge,
    action_shape,
    num_masks,
)
from edgeqrl.network.images import image_to_json
from edgeqrl.network.integer_policy import BareNetwork, IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork, Layer
from edgeqrl.network.layers import Conv2D, Dense, Linear, Reshape
from firmware_export.emit import packing
from firmware_export.emit.arena import ArenaPlan, plan_arena
from firmware_export.emit.kernels import layer_code
from firmware_export.emit.kernels.linear import packed_bits
from firmware_export.emit.orders import ANY, ROWS, order_for, order_of_kernel, variant_of
from firmware_export.emit.packing import Kernel, LayerCode, Rows
from firmware_export.emit.weights import UNPACKED, choose_bits, fewest_bits

ABI = 2  # EQRL_ABI in runtime/eqrl.h
MAGIC = 0x50525145  # "EQRP"
HEADER_BYTES = 128
SIGNATURE_BYTES = 64
Program = TypeVar("Program", IntegerPolicy, BareNetwork)
_ENTRY_BYTES = 12
_CONTRACT_AT = 20
_NUM_ENTRIES_AT = 52
_CRC_AT = 56


@dataclass(frozen=True)
class Entry:
    """One block: which kernel reads it, and where it lies."""

    kernel: Kernel
    offset: int  # bytes from the start of the blob
    num_bytes: int


@dataclass(frozen=True, eq=False)
class Layout:
    """The blob's plan: parts of the observation, layers that run, constants, states, values, the action.

    A bare network has layers and constants alone.
    """

    entries: tuple[Entry, ...]
    blocks: tuple[bytes, ...]  # one an entry
    codes: tuple[LayerCode, ...]  # of the layers that run
    constants: dict[str, int]  # offsets in bytes, of the constants that are read like activations
    total_bytes: int
    contract: bytes  # SHA-256 of everything that the generated code relies on

    num_parts: int  # of the observation; 0: a bare network
    num_fills: int = 0
    num_values: int = 0

    @property
    def layers(self) -> tuple[Entry, ...]:
        """Return the entries of the layers that run."""
        return self.entries[self.num_parts : self.num_parts + len(self.codes)]

    @property
    def observations(self) -> tuple[Entry, ...]:
        """Return the entries of the observation's parts."""
        return self.entries[: self.num_parts]

    @property
    def fills(self) -> tuple[Entry, ...]:
        """Return the entries of what an episode begins with: the ring of frames if there is one, states."""
        end = len(self.entries) - 1 - self.num_values
        return self.entries[end - self.num_fills : end]

    @property
    def values(self) -> tuple[Entry, ...]:
        """Return the entries of the values' edges."""
        return self.entries[len(self.entries) - 1 - self.num_values : -1]

    @property
    def action(self) -> Entry:
        """Return the action edge's entry."""
        assert self.num_parts
        return self.entries[-1]


@dataclass(frozen=True, eq=False)
class Params:
    """What a blob says, one block an entry."""

    sequence: int
    contract: bytes
    entries: tuple[Entry, ...]
    blocks: tuple[bytes, ...]


def executed_layers(program: IntegerPolicy | BareNetwork) -> tuple[Layer, ...]:
    """Return the layers that do something: Reshape costs no code."""
    return tuple(layer for layer in program.network.layers if not isinstance(layer, Reshape))


def weight_bits_of(program: IntegerPolicy | BareNetwork) -> tuple[int, ...]:
    """Return the bits of the weights of each layer that runs; UsageError where they do not hold them."""
    layers = executed_layers(program)
    if program.weight_bits is None:
        order = program.order if isinstance(program.order, str) else ROWS
        return choose_bits(layers, program.network, order)
    bits = program.weight_bits or (UNPACKED,) * len(layers)
    for layer, some in zip(layers, bits, strict=False):
        if some != UNPACKED and isinstance(layer, Linear) and fewest_bits(layer.weights) > some:
            low, high = int(layer.weights.min()), int(layer.weights.max())
            raise UsageError(
                f"Layer '{layer.name}' has weights from {low} to {high}, and the code that should take them "
                f"unpacks {some} bits. Quantize the layer with at most {some} bits, or export the code again."
            )
    return bits if len(bits) == len(layers) else (UNPACKED,) * len(layers)


def orders_of(program: IntegerPolicy | BareNetwork) -> tuple[str, ...]:
    """Return the order of the weights of each layer that runs; UsageError where one cannot have its own."""
    layers, tensors = executed_layers(program), program.network.tensors
    stated = (program.order,) * len(layers) if isinstance(program.order, str) else program.order
    if len(stated) != len(layers):  # of another network's params: their contract will tell
        stated = (ROWS,) * len(layers)
    found = []
    for layer, bits, wanted in zip(layers, weight_bits_of(program), stated, strict=True):
        order = ROWS
        if isinstance(layer, Dense | Conv2D):
            order = order_for(layer, tensors[layer.input], wanted.partition("_")[0], bits)
        if not isinstance(program.order, str):
            order = _require_order(layer, program.network, order, wanted)
        found.append(order)
    return tuple(found)


def _require_order(layer: Layer, network: IntegerNetwork, order: str, wanted: str) -> str:
    """Return `wanted`, the order that earlier code reads; UsageError unless the layer can have it."""
    if wanted == ROWS:
        return ROWS
    if order != wanted.removesuffix(ANY):
        why = f"reads them as {wanted}, and so these cannot lie"
    elif not wanted.endswith(ANY) and _is_unusual(layer, network, order):
        why = "is for shifts to the right, sums below 2^29 and a clamp to int8, and these need more"
    else:
        return wanted
    raise UsageError(
        f"The code that should take the weights of layer '{layer.name}' {why}. Export the code again."
    )


def _is_unusual(layer: Layer, network: IntegerNetwork, order: str) -> bool:
    assert isinstance(layer, Linear)
    return variant_of(layer, network.tensors[layer.input], order) == ANY


def plan_program_arena(program: IntegerPolicy | BareNetwork, codes: Sequence[LayerCode]) -> ArenaPlan:
    """Place the activations of a program, and beside them what its kernels need while they run."""
    layers = executed_layers(program)
    scratch = {layer.output: code.scratch_bytes or 0 for layer, code in zip(layers, codes, strict=True)}
    behind = {layer.output: code.behind_output for layer, code in zip(layers, codes, strict=True)}
    return plan_arena(program.network, scratch, behind)


def arena_bytes_of(program: IntegerPolicy | BareNetwork) -> int:
    """Count the bytes of a program's arena."""
    return plan_program_arena(program, layer_codes(program)).total_bytes


def layer_codes(program: IntegerPolicy | BareNetwork) -> tuple[LayerCode, ...]:
    """Return the call and the block of each layer that runs."""
    facts = zip(executed_layers(program), weight_bits_of(program), orders_of(program), strict=True)
    return tuple(layer_code(layer, program.network, bits, order) for layer, bits, order in facts)


def plan_params(program: IntegerPolicy | BareNetwork) -> Layout:
    """Lay out the blob of a policy or a bare network."""
    network = program.network
    codes = layer_codes(program)
    constants = constants_in_order(network)
    parts: list[tuple[Kernel, bytes]] = [(code.kernel, code.block) for code in codes]
    parts += [(Kernel.CONSTANT, packing.pack_constant(network.constants[name])) for name in constants]
    policy = program if isinstance(program, IntegerPolicy) else None
    if policy is not None:
        parts = [*map(packing.observation_block, policy.observations), *parts]
        parts += [(Kernel.FILL, packing.words(value)) for value in _fills(policy)]
        parts += [(Kernel.AFFINE_F32, packing.pack_affine(value.edge)) for value in policy.values]
        parts.append(packing.action_block(policy.action))
    offset = HEADER_BYTES + _ENTRY_BYTES * len(parts)
    entries = []
    for kernel, block in parts:
        assert len(block) % 4 == 0, "blocks are whole words"
        entries.append(Entry(kernel, offset, len(block)))
        offset += len(block)
    num_parts = 0 if policy is None else len(policy.observations)
    first = num_parts + len(codes)
    return Layout(
        entries=tuple(entries),
        blocks=tuple(block for _, block in parts),
        codes=codes,
        constants={name: entries[first + i].offset for i, name in enumerate(constants)},
        total_bytes=offset,
        contract=_contract(program, entries, codes),
        num_parts=num_parts,
        num_fills=0 if policy is None else len(_fills(policy)),
        num_values=0 if policy is None else len(policy.values),
    )


def params_for(program: Program, blob: bytes, *, sequence: int | None = None) -> bytes:
    """Return the params blob of `program` for the code that was exported with `blob`: new weights, old code.

    sequence  by default the one after the blob's

    Raises UsageError where weights need more bits than that code unpacks, and DataError where the blob is
    damaged or belongs to a network of other shapes, or to one whose observation is scaled otherwise.
    """
    old = read_params(blob)
    planned = plan_params(for_params(program, old))
    if planned.contract != old.contract:
        if _differs_in_scaling(planned, old):
            raise DataError(
                f"The code that the params belong to scales its observation otherwise than '{program.name}', "
                "as where only one was quantized with the rewrite scale_inputs. Quantize with the same "
                "rewrites (`--set rewrites=...`, both without scale_inputs if need be), or export the code "
                "again."
            )
        raise DataError(
            f"The params are not those of a network with the shapes of '{program.name}', so its weights "
            "cannot replace them. Export the code again."
        )
    return params_blob(planned, sequence=old.sequence + 1 if sequence is None else sequence)


def for_params(program: Program, params: Params) -> Program:
    """Return the program with weights of the bits and in the order that the code of `params` reads."""
    entries = _layer_entries(program, params)
    return replace(
        program,
        weight_bits=tuple(packed_bits(entry.kernel) for entry in entries),
        order=tuple(order_of_kernel(entry.kernel) for entry in entries),
    )


def constants_in_order(network: IntegerNetwork) -> tuple[str, ...]:
    """Return the constants in the order in which layers read them, whatever their names are."""
    read = [name for layer in network.layers for name in layer.inputs if name in network.constants]
    return tuple(dict.fromkeys(read))


def build_params(policy: IntegerPolicy | BareNetwork, *, sequence: int = 0) -> bytes:
    """Return the params blob of `policy`; `sequence` in [0, 2**32) is for the user's updater."""
    return params_blob(plan_params(policy), sequence=sequence)


def params_blob(layout: Layout, *, sequence: int = 0) -> bytes:
    """Return the bytes of a laid out blob."""
    if not 0 <= sequence < 2**32:
        raise ValueError(f"sequence must fit uint32, got {sequence}")
    fields = (MAGIC, ABI, HEADER_BYTES, layout.total_bytes, sequence)
    head = packing.words(*fields) + layout.contract + packing.words(len(layout.entries))
    body = b"".join(packing.words(e.kernel, e.offset, e.num_bytes) for e in layout.entries)
    body += b"".join(layout.blocks)
    crc = zlib.crc32(body, zlib.crc32(head))
    blob = head + packing.words(crc, 0) + bytes(SIGNATURE_BYTES) + body
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
    blocks = tuple(blob[entry.offset : entry.offset + entry.num_bytes] for entry in entries)
    contract = blob[_CONTRACT_AT : _CONTRACT_AT + 32]
    return Params(sequence=int(words[4]), contract=contract, entries=entries, blocks=blocks)


def _layer_entries(program: IntegerPolicy | BareNetwork, params: Params) -> tuple[Entry, ...]:
    """Return the entries of the layers that run, in params of a program of the same shapes."""
    first = len(program.observations) if isinstance(program, IntegerPolicy) else 0
    return params.entries[first : first + len(executed_layers(program))]


def _contract(
    program: IntegerPolicy | BareNetwork, entries: list[Entry], codes: tuple[LayerCode, ...]
) -> bytes:
    """Hash what the code knows: layout, wiring, and the meaning of what goes in and comes out."""
    network = program.network
    written = [*network.inputs, *constants_in_order(network), *(layer.output for layer in network.layers)]
    number = {name: i for i, name in enumerate(written)}
    facts: dict[str, object] = {
        "abi": ABI,
        "entries": [[int(e.kernel), e.offset, e.num_bytes] for e in entries],
        "calls": [
            _plain_calls(code, layer) for code, layer in zip(codes, executed_layers(program), strict=True)
        ],
        "wiring": [[*(number[n] for n in layer.inputs), number[layer.output]] for layer in network.layers],
        "tensors": [[network.tensors[name].dtype, network.tensors[name].size] for name in written],
        "inputs": len(network.inputs),
        "outputs": [number[name] for name in network.outputs],
    }
    if isinstance(program, IntegerPolicy):
        facts["observation_shape"] = list(program.observation.part.shape)
        facts |= _policy_facts(program, number)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


def _differs_in_scaling(planned: Layout, old: Params) -> bool:
    """Tell whether what scales float32 observations is all that a policy's blocks differ in."""
    scaling = {Kernel.OBSERVATION_F32, Kernel.OBSERVATION_AFFINE_F32}

    def blocks(entries: tuple[Entry, ...]) -> list[tuple[int, int]]:
        return [(0, 0) if e.kernel in scaling else (e.kernel, e.num_bytes) for e in entries]

    kernels = [[e.kernel for e in entries] for entries in (planned.entries, old.entries)]
    return kernels[0] != kernels[1] and blocks(planned.entries) == blocks(old.entries)


def _policy_facts(policy: IntegerPolicy, number: Mapping[str, int]) -> dict[str, object]:
    """Return what the code knows of the edges; what a policy does not have is not mentioned."""
    facts: dict[str, object] = {"action": _action_facts(policy.action)}
    one_hot = [
        [i, [classes for _, classes in part.one_hot]]
        for i, part in enumerate(policy.parts)
        if part.one_hot is not None
    ]
    if one_hot:
        facts["one_hot"] = one_hot
    if policy.more_observations:
        facts["more_observations"] = [list(part.shape) for part in policy.parts[1:]]
    images = [[i, image_to_json(part.image)] for i, part in enumerate(policy.parts) if part.image]
    if images:
        facts["images"] = images
    if policy.frames is not None:
        frames = policy.frames
        facts["frames"] = [frames.num_frames, frames.axis, frames.is_new_axis, frames.padding]
    if policy.recurrent:
        facts["recurrent"] = [[number[state.input], number[state.output]] for state in policy.recurrent]
    if policy.values:
        facts["values"] = [[number[value.output], len(value.edge.gain)] for value in policy.values]
    return facts


def _action_facts(action: ActionEdge) -> dict[str, object]:
    """Return what the code knows of the action beyond the kind and the size of its block."""
    if isinstance(action, ArgmaxEdge):
        return {"start": action.start}
    if isinstance(action, AffineEdge):
        return {"shape": list(action.shape)}
    facts: dict[str, object] = {"kind": type(action).__name__, "masks": num_masks(action)}
    facts["shape"] = list(action_shape(action))
    if isinstance(action, MultiDiscreteEdge):
        facts |= {"starts": list(action.starts), "counts": list(action.counts)}
    if isinstance(action, GaussianEdge):
        facts["is_squashed"] = action.is_squashed
    return facts


def _plain_calls(code: LayerCode, layer: Layer) -> list[object]:
    calls = code.all_calls(len(layer.inputs))
    return [[call.function, call.operands, *(_plain(a) for a in call.arguments)] for call in calls]


def _plain(argument: int | Rows) -> object:
    return argument if isinstance(argument, int) else [argument.type, argument.rows]


def _fills(policy: IntegerPolicy) -> list[int]:
    """Return what an episode begins with: in the ring of frames, if there is one, and in each state."""
    frames = [] if policy.frames is None else [policy.frame_padding]
    return [*frames, *(state.initial for state in policy.recurrent)]


def _read_entry(blob: bytes, at: int) -> Entry:
    kernel, offset, num_bytes = (int(v) for v in np.frombuffer(blob, "<u4", 3, at))
    if kernel not in set(Kernel):
        raise DataError(f"The params blob uses kernel {kernel}, which this version of edgeqrl does not know.")
    if offset % 4 or num_bytes % 4 or offset + num_bytes > len(blob):
        raise DataError("The params blob is damaged: a block lies outside it. Export the policy again.")
    return Entry(Kernel(kernel), offset, num_bytes)
