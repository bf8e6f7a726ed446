"""Golden vectors: observations with the answers of the reference, which firmware checks when it boots."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.edges import ArgmaxEdge, decode_actions, quantize_observations
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.reference import Reference
from firmware_export.emit.c_literals import c_words
from firmware_export.emit.render import fill_template

_OUTPUTS_PER_LINE = 16


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
    size = policy.observation.size
    rows = np.concatenate((flat.reshape(-1, size), _extremes(size)))
    inputs, status = quantize_observations(policy.observation, rows.reshape(-1, *policy.observation.shape))
    network = policy.network
    source = network.tensors[network.inputs[0]]
    answers = Reference(network).run({source.name: inputs.reshape(-1, *source.shape)})
    outputs = answers[network.outputs[0]].reshape(len(rows), -1)
    masks = _masks(len(rows), policy.action) if _is_masked(policy) else None
    actions = decode_actions(policy.action, outputs, masks)
    if not isinstance(policy.action, ArgmaxEdge):
        actions = actions.reshape(len(rows), -1)
    return GoldenVectors(rows, outputs, actions, status, masks)


def golden_sources(
    policy: IntegerPolicy, golden: GoldenVectors, values: Mapping[str, object]
) -> dict[str, bytes]:
    """Return NAME_golden.h and NAME_golden.c with the boot self-test."""
    observations = np.ascontiguousarray(golden.observations, "<f4").view("<u4")
    if _is_masked(policy):
        assert golden.action_masks is not None
        padding = ((0, 0), (0, -golden.action_masks.shape[1] % 4))
        masks = np.pad(golden.action_masks.astype(np.uint8), padding).view("<u4")
        observations = np.concatenate((observations, masks), axis=1)
    is_discrete = isinstance(policy.action, ArgmaxEdge)
    actions = golden.actions.astype("<i4" if is_discrete else "<f4").reshape(len(golden.status), -1)
    facts = {
        **values,
        "num_golden": len(golden.status),
        "observation_words": observations.shape[1],
        "action_words": actions.shape[1],
        "observations": c_words(observations.tobytes()),
        "outputs": _decimals(golden.outputs),
        "actions": c_words(actions.tobytes()),
        "status": _decimals(golden.status),
    }
    names = (f"{policy.name}_golden.h", f"{policy.name}_golden.c")
    return {name: fill_template(f"golden.{name[-1]}.in", facts) for name in names}


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
