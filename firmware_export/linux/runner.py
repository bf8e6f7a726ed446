"""What run.py needs of one policy: how its network is reached from outside the C, and golden vectors."""

import json
from collections.abc import Sequence
from typing import Any

from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import Tensor
from edgeqrl.network.structs import action_rows
from firmware_export.emit.golden import GoldenVectors
from firmware_export.emit.step import read_outputs, written_inputs

_GLUE = """
#ifndef EQRL_LINUX_POLICY_H
#define EQRL_LINUX_POLICY_H
#define EQRL_PORT_ENCODE(state, observation, row) {encode}
#define EQRL_PORT_DECODE(state, observation, row, action) {decode}
#define EQRL_PORT_INPUTS_BYTES {input_bytes}u
#define EQRL_PORT_OUTPUTS_BYTES {output_bytes}u
#define EQRL_BOARD_NAME "linux"
#endif
"""
# Of a program that no interpreter runs in.
NO_RUNNER = _GLUE.format(
    encode="((void)(row), (void)(observation), EQRL_ERROR_ARGUMENT)",
    decode="((void)(row), (void)(action), EQRL_ERROR_ARGUMENT)",
    input_bytes=0,
    output_bytes=0,
)


def runner_glue(policy: IntegerPolicy) -> str:
    """Return the macros by which the C port encodes into, and decodes from, one row of bytes."""
    tensors = policy.network.tensors
    inputs, input_bytes = _places([tensors[name] for name in written_inputs(policy)])
    outputs, output_bytes = _places([tensors[name] for name in read_outputs(policy)])
    taken = ["(state)", "(observation)", *(f"({t.dtype}_t *)(void *)((row) + {at})" for t, at in inputs)]
    given = [f"(const {t.dtype}_t *)(const void *)((row) + {at})" for t, at in outputs]
    given += ["(observation)->action_mask"] if policy.num_masks else []
    return _GLUE.format(
        encode=f"{policy.name}_encode({', '.join(taken)})",
        decode=f"{policy.name}_decode({', '.join(['(state)', *given, '(action)'])})",
        input_bytes=input_bytes,
        output_bytes=output_bytes,
    )


def network_places(policy: IntegerPolicy) -> dict[str, list[list[int]]]:
    """Say which inputs and outputs of the network lie where in those rows: [number, place, bytes]."""
    network, found = policy.network, {}
    for word, all_names, names in (
        ("inputs", network.inputs, written_inputs(policy)),
        ("outputs", network.outputs, read_outputs(policy)),
    ):
        places, _ = _places([network.tensors[name] for name in names])
        found[word] = [[all_names.index(tensor.name), at, tensor.num_bytes] for tensor, at in places]
    return found


def golden_json(policy: IntegerPolicy, golden: GoldenVectors) -> bytes:
    """Return observations as structs in hexadecimal, with the reference's first output and actions."""
    rows: dict[str, Any] = {
        "network": network_places(policy),
        "output_dtype": policy.network.tensors[policy.network.outputs[0]].dtype,
        "observations": [row.tobytes().hex() for row in golden.observations],
        "outputs": golden.outputs.tolist(),
        "actions": [row.tobytes().hex() for row in action_rows(policy, golden.actions)],
    }
    return (json.dumps(rows) + "\n").encode()


def _places(tensors: Sequence[Tensor]) -> tuple[list[tuple[Tensor, int]], int]:
    """Lay tensors out one after another, each at a multiple of 4 bytes; also return the bytes of all."""
    places, end = [], 0
    for tensor in tensors:
        places.append((tensor, end))
        end += -(-tensor.num_bytes // 4) * 4
    return places, end
