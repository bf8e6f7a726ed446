"""Golden vectors: observations with the answers of the reference, which firmware checks when it boots.

Some are stored with their answers. The device makes many more by a generator, and compares one CRC-32 of all
answers; `generated_observations` is the twin of the generator in `templates/golden.c.in`.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.edges import ArgmaxEdge, decode_actions, quantize_observations
from edgeqrl.network.integer_policy import IntegerPolicy, num_outputs
from edgeqrl.network.reference import Reference
from firmware_export.emit.c_literals import c_words
from firmware_export.emit.render import fill_template

_OUTPUTS_PER_LINE = 16
_STORED_BYTES = 4096  # of observations, at most
_MOST_GENERATED = 64
_FEWEST_GENERATED = 2
_GENERATED_MACS = 1_000_000  # spent on generated rows: below a second on the slowest core
_SPECIALS = (0x7F800000, 0xFF800000, 0x7FC00000, 0x7F7FFFFF, 0xFF7FFFFF, 0x00000001, 0x80000000, 0x00000000)


@dataclass(frozen=True, eq=False)
class GoldenVectors:
    """What the policy must answer, bit for bit. `K` counts vectors."""

    observations: NDArray[np.float32]  # [K, num_inputs]
    outputs: NDArray[np.signedinteger[Any]]  # [K, num_outputs], of the network's first output
    actions: NDArray[np.int64] | NDArray[np.float32]  # [K] or [K, action_size]
    status: NDArray[np.uint8]  # [K]
    action_masks: NDArray[np.bool_] | None = None  # [K, num_actions], for masked policies

    def __post_init__(self) -> None:
        arrays = (self.observations, self.outputs, self.actions, self.status)
        if len({len(array) for array in arrays}) != 1 or len(self.status) == 0:
            raise ValueError("golden vectors need an output, an action and a status per observation")


def make_golden(policy: IntegerPolicy, observations: NDArray[np.float32]) -> GoldenVectors:
    """Answer `observations` [K, *shape] and a few extreme ones appended: saturating, NaN, infinite, denormal.

    For a masked policy the masks are a fixed pattern that allows all, none, one and some actions.
    """
    flat = np.asarray(observations, np.float32).reshape(len(observations), -1)
    rows = np.concatenate((flat, _extremes(policy.observation.size)))
    masks = _masks(len(rows), policy.action) if _is_masked(policy) else None
    return _answered(policy, rows, masks)


def num_generated(policy: IntegerPolicy) -> int:
    """Count the rows that a device makes for its self-test: fewer for larger networks."""
    cost = policy.network.num_macs + 16 * policy.observation.size
    return max(_FEWEST_GENERATED, min(_MOST_GENERATED, _GENERATED_MACS // max(cost, 1)))


def generated_observations(
    policy: IntegerPolicy, count: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Return the rows [count, num_inputs] that the generator makes, and their masks where there are."""
    row = np.arange(count, dtype=np.uint32)
    with np.errstate(over="ignore"):
        random = row * np.uint32(0x9E3779B9) + np.uint32(0x6D2B79F5)
    size, is_odd = policy.observation.size, (row & 1).astype(np.uint32)
    bits = np.empty((count, size), np.uint32)
    for i in range(size):
        random = _next_random(random)
        exponent = np.uint32(_usual_exponent(policy)) + is_odd - ((random >> 23) & 7)
        usual = (random & np.uint32(0x807FFFFF)) | (exponent << 23).astype(np.uint32)
        is_special = (is_odd == 1) & (((i + 3 * row.astype(np.int64)) & 15) == 15)
        bits[:, i] = np.where(is_special, np.array(_SPECIALS, np.uint32)[(random >> 26) & 7], usual)
    if not _is_masked(policy):
        return bits.view(np.float32), None
    masks = np.zeros((count, num_outputs(policy.action)), np.bool_)
    for i in range(masks.shape[1]):
        random = _next_random(random)
        masks[:, i] = ((row & 7) != 7) & ((random >> 7) & 1 == 1)
    return bits.view(np.float32), masks


def generated_crc(policy: IntegerPolicy, count: int) -> int:
    """Return the CRC-32 of the reference's answers to each generated row: status, outputs, action."""
    answers = _answered(policy, *generated_observations(policy, count))
    crc = 0
    outputs = np.ascontiguousarray(answers.outputs)
    for flags, output, action in zip(answers.status, outputs, _action_rows(policy, answers), strict=True):
        crc = zlib.crc32(bytes([flags]) + output.tobytes() + action.tobytes(), crc)
    return crc


def golden_sources(
    policy: IntegerPolicy, golden: GoldenVectors, values: Mapping[str, object]
) -> dict[str, bytes]:
    """Return NAME_golden.h and NAME_golden.c with the boot self-test.

    As many of the golden vectors are stored as fit 4 KiB, which may be none.
    """
    observations = np.ascontiguousarray(golden.observations, "<f4").view("<u4")
    masks = 0
    if _is_masked(policy):
        assert golden.action_masks is not None
        masks = golden.action_masks.shape[1]
        padded = np.pad(golden.action_masks.astype(np.uint8), ((0, 0), (0, -masks % 4))).view("<u4")
        observations = np.concatenate((observations, padded), axis=1)
    actions = _action_rows(policy, golden)
    kept = min(len(golden.status), _STORED_BYTES // observations[0].nbytes)
    stored = max(kept, 1)  # C has no empty arrays
    made = num_generated(policy)
    facts = {
        **values,
        "num_golden": kept,
        "stored_rows": stored,
        "num_generated": made,
        "generated_crc": f"0x{generated_crc(policy, made):08X}",
        "exponent": _usual_exponent(policy),
        "num_masks": masks,
        "observation_words": observations.shape[1],
        "action_words": actions.shape[1],
        "observations": c_words(observations[:kept].tobytes()) if kept else "    0u,\n",
        "outputs": _decimals(golden.outputs[:stored]),
        "actions": c_words(actions[:stored].tobytes()),
        "status": _decimals(golden.status[:stored]),
    }
    facts["make_masks"] = fill_template("golden_masks.in", facts).decode() if masks else ""
    names = (f"{policy.name}_golden.h", f"{policy.name}_golden.c")
    return {name: fill_template(f"golden.{name[-1]}.in", facts) for name in names}


def _answered(
    policy: IntegerPolicy, rows: NDArray[np.float32], masks: NDArray[np.bool_] | None
) -> GoldenVectors:
    inputs, status = quantize_observations(policy.observation, rows.reshape(-1, *policy.observation.shape))
    network = policy.network
    source = network.tensors[network.inputs[0]]
    answers = Reference(network).run({source.name: inputs.reshape(-1, *source.shape)})
    outputs = answers[network.outputs[0]].reshape(len(rows), -1)
    actions = decode_actions(policy.action, outputs, masks)
    if not isinstance(policy.action, ArgmaxEdge):
        actions = actions.reshape(len(rows), -1)
    return GoldenVectors(rows, outputs, actions, status, masks)


def _action_rows(policy: IntegerPolicy, golden: GoldenVectors) -> NDArray[Any]:
    """Return the actions as they lie in memory, [K, n]."""
    dtype = "<i4" if isinstance(policy.action, ArgmaxEdge) else "<f4"
    return golden.actions.astype(dtype).reshape(len(golden.status), -1)


def _usual_exponent(policy: IntegerPolicy) -> int:
    """Return the biased exponent of the values that nearly reach the end of the quantized range."""
    bits = {"int8": 7, "int16": 15}[policy.observation.dtype]
    return min(max(int(np.frexp(policy.observation.scale)[1]) + bits + 124, 8), 253)


def _next_random(random: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return xorshift32's next state."""
    value = random ^ (random << np.uint32(13))
    value ^= value >> np.uint32(17)
    return np.asarray(value ^ (value << np.uint32(5)), np.uint32)


def _extremes(size: int) -> NDArray[np.float32]:
    """Return rows [K, size] where every path of the observation edge is taken."""
    specials = np.array([np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-42, -0.0, 0.0], np.float32)
    uniform = np.repeat(specials[:, None], size, axis=1)
    mixed = np.resize(specials, (1, size))
    return np.concatenate((uniform, mixed)).astype(np.float32)


def _masks(count: int, action: object) -> NDArray[np.bool_]:
    assert isinstance(action, ArgmaxEdge)
    row, column = np.indices((count, action.num_actions))
    one, some = column == row % action.num_actions, (row + column) % 3 != 0
    patterns = [np.ones_like(row), np.zeros_like(row), one, some]
    return np.asarray(np.choose(row % len(patterns), patterns), np.bool_)


def _is_masked(policy: IntegerPolicy) -> bool:
    return isinstance(policy.action, ArgmaxEdge) and policy.action.is_masked


def _decimals(values: NDArray[Any]) -> str:
    flat = [str(v) for v in values.ravel().tolist()]
    lines = (flat[i : i + _OUTPUTS_PER_LINE] for i in range(0, len(flat), _OUTPUTS_PER_LINE))
    return "".join(f"    {', '.join(line)},\n" for line in lines)
