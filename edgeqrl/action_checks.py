"""What passes between a policy and an environment besides observations: actions and masks, checked."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import AgentError, EnvironmentFailure
from edgeqrl.spaces import class_counts, class_starts

if TYPE_CHECKING:
    import gymnasium


class ActionChecks:
    """The actions that an environment takes, and the masks that it may give, for many episodes at once."""

    def __init__(self, space: "gymnasium.Space[Any]", policy: str, environment: str) -> None:
        """Take the action space, and the names for messages."""
        self._space: Any = space
        self._policy, self._environment = policy, environment
        self._counts = np.array(class_counts(space) or (), np.int64)  # of the actions of each choice
        self._starts = class_starts(space)

    def masks(self, rows: Sequence[Any]) -> NDArray[np.bool_]:
        """Return the masks that the environments gave as [N, number of actions]."""
        expected = (len(rows), int(self._counts.sum()))
        try:
            masks = np.array(rows, np.bool_)
        except (TypeError, ValueError):
            masks = np.empty(0, np.bool_)
        if masks.shape != expected:
            raise EnvironmentFailure(
                f"Environment '{self._environment}' gave an action mask that is not one value for each of "
                f"its {expected[1]} actions."
            )
        return masks

    def actions(self, actions: Any, seeds: Sequence[int]) -> tuple[list[Any], NDArray[Any]]:
        """Return what `env.step` gets, one a row, and a copy that no environment can change."""
        space = self._space
        values = np.asarray(actions)
        expected = (len(seeds), *space.shape)
        if values.shape != expected:
            raise AgentError(
                f"Policy '{self._policy}' returned actions of shape {values.shape}, but environment "
                f"'{self._environment}' needs {expected}."
            )
        if np.issubdtype(space.dtype, np.integer):
            if values.dtype.kind not in "iu":
                raise AgentError(
                    f"Policy '{self._policy}' returned {values.dtype} actions, but environment "
                    f"'{self._environment}' needs integers."
                )
        elif not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
            raise AgentError(
                f"Policy '{self._policy}' returned an action that is not finite, in the episode with "
                f"seed {seeds[row]}."
            )
        if len(self._counts):
            self._require_in_range(values)
        if not space.shape and len(self._counts):
            return values.tolist(), values.astype(np.int64)  # Python integers: what every environment takes
        kept = values.astype(space.dtype)
        return list(kept.copy()), kept

    def _require_in_range(self, values: NDArray[Any]) -> None:
        """Refuse whole numbers that name no action."""
        indices = values.reshape(len(values), -1) - self._starts
        is_wrong = (indices < 0) | (indices >= self._counts)
        if is_wrong.any():
            row, choice = (int(found[0]) for found in np.nonzero(is_wrong))
            first, count = int(self._starts[choice]), int(self._counts[choice])
            where = f" in choice {choice}" if self._space.shape else ""
            raise AgentError(
                f"Policy '{self._policy}' chose action {values.reshape(len(values), -1)[row, choice]}"
                f"{where}, but environment '{self._environment}' has actions {first} to {first + count - 1}"
                f"{where}."
            )
