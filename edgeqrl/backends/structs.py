"""NAME_observation and NAME_action as they lie in a device's memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.edges import ArgmaxEdge
from edgeqrl.network.integer_policy import IntegerPolicy


def observation_bytes(policy: IntegerPolicy) -> int:
    """Return sizeof(NAME_observation): float32s, then mask bytes, padded to whole words."""
    return -(-(4 * policy.observation.size + num_mask_bytes(policy)) // 4) * 4


def action_bytes(policy: IntegerPolicy) -> int:
    """Return sizeof(NAME_action): one int32, or float32s."""
    action = policy.action
    return 4 if isinstance(action, ArgmaxEdge) else 4 * int(np.prod(action.shape, dtype=np.int64))


def num_mask_bytes(policy: IntegerPolicy) -> int:
    """Count the mask bytes of an observation: one an action, if the policy is masked."""
    action = policy.action
    return action.num_actions if isinstance(action, ArgmaxEdge) and action.is_masked else 0


def observation_structs(
    policy: IntegerPolicy, observations: NDArray[Any], action_masks: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Lay observations [N, *shape] and masks out as structs [N, observation_bytes]; None allows all."""
    rows = np.ascontiguousarray(observations, "<f4")
    if rows.shape[1:] != policy.observation.shape:
        raise ValueError(f"observations must be [N, {policy.observation.shape}], got {rows.shape}")
    structs = np.zeros((len(rows), observation_bytes(policy)), np.uint8)
    mask_start, mask_bytes = 4 * policy.observation.size, num_mask_bytes(policy)
    structs[:, :mask_start] = rows.reshape(len(rows), mask_start // 4).view(np.uint8)
    if mask_bytes:
        mask: Any = True if action_masks is None else action_masks
        structs[:, mask_start : mask_start + mask_bytes] = mask
    return structs


def read_actions(
    policy: IntegerPolicy, structs: NDArray[np.uint8]
) -> NDArray[np.int64] | NDArray[np.float32]:
    """Return actions [N] or [N, *action_shape] from structs [N, action_bytes]."""
    action, words = policy.action, np.ascontiguousarray(structs)
    if isinstance(action, ArgmaxEdge):
        return words.view("<i4")[:, 0].astype(np.int64)
    return words.view("<f4").reshape(len(words), *action.shape).astype(np.float32)
