"""Golden vectors: observations with the answers of the reference, which firmware checks when it boots.

Some are stored with their answers. The device makes many more by a generator, and compares one CRC-32 of all
answers; `golden_rows.py` is the twin of the generator in the C.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.memory import Memory
from edgeqrl.network.policy_step import PolicyStep, part_rows, step_policy
from edgeqrl.network.reference import Reference
from edgeqrl.network.structs import action_rows, observation_rows
from firmware_export.emit.c_literals import c_integers, c_words
from firmware_export.emit.golden_rows import (
    Masks,
    Parts,
    extreme_rows,
    generated_rows,
    make_row_source,
    usual_exponent,
)
from firmware_export.emit.interface import getter_names
from firmware_export.emit.render import fill_template

_STORED_BYTES = 4096  # of observations, at most
_MOST_GENERATED = 64
_FEWEST_GENERATED = 2
_GENERATED_MACS = 1_000_000  # spent on generated rows: below a second on the slowest core
_RESTART = """/* A fresh memory, as {name}_init leaves it. */
static void restart({name}_state *state)
{{
{seed}    (void){name}_reset(state);
}}

"""


@dataclass(frozen=True, eq=False)
class GoldenVectors:
    """What the policy must answer, bit for bit; with memory: in one episode. `K` counts vectors."""

    observations: NDArray[np.uint8]  # [K, observation_bytes], structs with their masks
    outputs: NDArray[np.signedinteger[Any]]  # [K, num_outputs], of the network's first output
    actions: NDArray[np.int64] | NDArray[np.float32]  # [K] or [K, action_size]
    status: NDArray[np.uint8]  # [K]

    def __post_init__(self) -> None:
        arrays = (self.observations, self.outputs, self.actions, self.status)
        if len({len(array) for array in arrays}) != 1 or len(self.status) == 0:
            raise ValueError("golden vectors need an output, an action and a status per observation")


def make_golden(
    policy: IntegerPolicy, observations: NDArray[Any] | Mapping[str, NDArray[Any]]
) -> GoldenVectors:
    """Answer `observations` [K, *shape] and a few extreme ones appended: saturating, NaN, infinite, denormal.

    Observations of several parts are given by name. A policy with memory takes all rows as one episode,
    drawn with seed 0. For a masked policy the masks are a fixed pattern that allows all, none, one and some
    actions.
    """
    extremes = extreme_rows(policy)
    parts = {
        edge.part.name: np.concatenate((part_rows(policy, observations, i), extremes[edge.part.name]))
        for i, edge in enumerate(policy.observations)
    }
    count = len(parts[policy.observation.part.name])
    masks = _masks(count, policy.num_masks) if policy.num_masks else None
    return answered(policy, parts, masks)


def answered(policy: IntegerPolicy, parts: Parts, masks: Masks) -> GoldenVectors:
    """Answer observations [K, *shape] by part, in one episode where there is memory."""
    answers = list(_steps(policy, parts, masks))
    target = policy.network.outputs[0]
    outputs = np.concatenate([np.asarray(answer.outputs[target]) for answer in answers])
    actions: Any = np.concatenate([answer.actions for answer in answers])
    if actions.ndim > 1:
        actions = actions.reshape(len(actions), -1)
    status = np.concatenate([answer.flags for answer in answers])
    rows = observation_rows(policy, parts, masks)
    return GoldenVectors(rows, outputs.reshape(len(status), -1), actions, status)


def num_generated(policy: IntegerPolicy) -> int:
    """Count the rows that a device makes for its self-test: fewer for larger networks."""
    network = policy.network
    size = sum(part.size for part in policy.parts)
    size += network.tensors[network.inputs[0]].size if policy.frames is not None else 0
    cost = network.num_macs + 16 * size
    return max(_FEWEST_GENERATED, min(_MOST_GENERATED, _GENERATED_MACS // max(cost, 1)))


def generated_crc(policy: IntegerPolicy, count: int) -> int:
    """Return the CRC-32 of the reference's answers to each generated row: status, outputs, action.

    The outputs are all of the network, but of a plain policy the first alone. What is in the memory after the
    last row comes last.
    """
    crc, memory = 0, policy.fresh_memory(1)
    names = policy.network.outputs[:1] if policy.is_plain else policy.network.outputs
    for answer in _steps(policy, *generated_rows(policy, count)):
        outputs = [np.ascontiguousarray(answer.outputs[name]) for name in names]
        actions = action_rows(policy, answer.actions)
        for row in range(len(actions)):
            found = b"".join(output[row].tobytes() for output in outputs)
            crc = zlib.crc32(bytes([answer.flags[row]]) + found + actions[row].tobytes(), crc)
        memory = answer.memory
    return zlib.crc32(memory.tobytes(), crc) if policy.has_memory else crc


def golden_sources(
    policy: IntegerPolicy, golden: GoldenVectors, values: Mapping[str, object]
) -> dict[str, bytes]:
    """Return NAME_golden.h and NAME_golden.c with the boot self-test.

    As many of the golden vectors are stored as fit 4 KiB, which may be none.
    """
    observations = golden.observations.view("<u4")
    actions = action_rows(policy, golden.actions).view("<u4")
    kept = min(len(golden.status), _STORED_BYTES // observations[0].nbytes)
    stored = max(kept, 1)  # C has no empty arrays
    made = num_generated(policy)
    facts = {
        **values,
        "num_golden": kept,
        "stored_rows": stored,
        "num_generated": made,
        "generated_crc": f"0x{generated_crc(policy, made):08X}",
        "observation_words": observations.shape[1],
        "action_words": actions.shape[1],
        "observations": c_words(observations[:kept].tobytes()) if kept else "    0u,\n",
        "outputs": _decimals(golden.outputs[:stored]),
        "actions": c_words(actions[:stored].tobytes()),
        "status": _decimals(golden.status[:stored]),
        "make_row": make_row_source(policy, values),
        "exponent_macro": f"#define EXPONENT {usual_exponent(policy.observation)}u "
        "/* IEEE: the greatest of usual values; eight binades from there down */\n"
        if policy.is_plain
        else "",
        **_sequence_values(policy),
    }
    names = (f"{policy.name}_golden.h", f"{policy.name}_golden.c")
    return {name: fill_template(f"golden.{name[-1]}.in", facts) for name in names}


def _sequence_values(policy: IntegerPolicy) -> dict[str, str]:
    """Return what the test does with the memory, and which outputs it sums up."""
    name, upper = policy.name, policy.name.upper()
    outputs = [f"{upper}_NUM_OUTPUTS * (uint32_t)sizeof(*{name}_output(state))"]
    places = [f"{name}_output(state)"]
    tensors = policy.network.tensors
    if policy.is_plain:
        dtype = tensors[policy.network.outputs[0]].dtype
        outputs = [f"{upper}_NUM_OUTPUTS * (uint32_t)sizeof({dtype}_t)"]
    else:
        getters = getter_names(policy.network.outputs, "output")
        places = [f"{name}_{getter}(state)" for getter in getters]
        outputs = [f"{tensors[target].num_bytes}u" for target in policy.network.outputs]
    pairs = zip(places, outputs, strict=True)
    crc = "".join(f"    *crc = eqrl_crc32(*crc, {place}, {size});\n" for place, size in pairs)
    whole = "test_made(state, row - NAME_NUM_GOLDEN, scratch, crc)".replace("NAME", upper)
    if not policy.has_memory:
        return {
            **dict.fromkeys(("restart", "restart_first", "restart_row", "crc_more", "row_more"), ""),
            "crc_outputs": crc,
            "test_made_row": f"    return {whole};\n",
            "selftest_state": f"call {name}_reset afterwards",
        }
    seed = f"    (void){name}_seed(state, 0u, 0u);\n" if policy.is_stochastic else ""
    return {
        "restart": _RESTART.format(name=name, seed=seed),
        "restart_first": "    restart(state);\n",
        "restart_row": f"    if (row == 0u || row == {upper}_NUM_GOLDEN) {{\n"
        "        restart(state);\n    }\n",
        "crc_outputs": crc,
        "crc_more": ",\n * and of the memory at the end",
        "row_more": f"\n * Row 0 ends any episode, as {name}_selftest does.",
        "test_made_row": f"    const eqrl_status status = {whole};\n"
        f"    if (row + 1u == {upper}_NUM_SELFTEST_ROWS) {{\n"
        "        *crc = eqrl_crc32(*crc, &state->memory, (uint32_t)sizeof state->memory);\n"
        "        restart(state);\n    }\n    return status;\n",
        "selftest_state": "its memory is afterwards as init leaves it: to go\n"
        " *        on with an episode, copy state->memory before and put it back after",
    }


def _steps(policy: IntegerPolicy, parts: Parts, masks: Masks) -> list[PolicyStep]:
    """Step all rows at once, or one after another where there is a memory, which begins fresh."""
    run, count = Reference(policy.network).run, len(parts[policy.observation.part.name])
    if not policy.has_memory:
        return [step_policy(policy, run, parts, policy.fresh_memory(count), masks)]
    memory: Memory = policy.fresh_memory(1)
    answers = []
    for row in range(count):
        one = {name: values[row : row + 1] for name, values in parts.items()}
        mask = None if masks is None else masks[row : row + 1]
        answers.append(step_policy(policy, run, one, memory, mask))
        memory = answers[-1].memory
    return answers


def _masks(count: int, num_masks: int) -> NDArray[np.bool_]:
    row, column = np.indices((count, num_masks))
    one, some = column == row % num_masks, (row + column) % 3 != 0
    patterns = [np.ones_like(row), np.zeros_like(row), one, some]
    return np.asarray(np.choose(row % len(patterns), patterns), np.bool_)


def _decimals(values: NDArray[Any]) -> str:
    return "".join(f"    {line}\n" for line in c_integers(values.ravel().tolist()))
