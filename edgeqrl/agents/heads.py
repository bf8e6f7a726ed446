"""Action heads: how a model's float outputs become the environment's actions, and the same in int8."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import AgentError, UsageError
from edgeqrl.network.edges import ActionEdge, ArgmaxEdge, make_affine_edge

HEAD_NAMES = ("argmax", "scale", "clip")


@dataclass(frozen=True)
class DiscreteHead:
    """action = start + argmax of the outputs; with a mask, among the allowed ones."""

    num_actions: int
    start: int = 0

    @property
    def num_outputs(self) -> int:
        """Count the network outputs that the head reads."""
        return self.num_actions

    def actions(
        self, outputs: NDArray[np.float32], action_masks: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Return actions [N] for float outputs [N, num_actions]."""
        if action_masks is not None:
            blocked = ~action_masks & action_masks.any(axis=1, keepdims=True)
            outputs = np.where(blocked, -np.inf, outputs)
        return np.asarray(np.argmax(outputs, axis=1) + self.start, np.int64)

    def edge(
        self, scale: float, zero_point: int, *, is_masked: bool = False, dtype: str = "int8"
    ) -> ActionEdge:
        """Return the integer form; argmax needs neither scale nor zero point."""
        return ArgmaxEdge(self.num_actions, self.start, is_masked)


@dataclass(frozen=True)
class BoxHead:
    """action = clip(gain * output + offset, low, high), each one number an action dimension."""

    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    gain: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def num_outputs(self) -> int:
        """Count the network outputs that the head reads."""
        return len(self.low)

    def actions(
        self, outputs: NDArray[np.float32], action_masks: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """Return float32 actions [N, *shape] for float outputs [N, n]; boxes have no masks."""
        gain, offset, low, high = (
            np.asarray(v, np.float32) for v in (self.gain, self.offset, self.low, self.high)
        )
        clipped = np.clip(outputs * gain + offset, low, high)
        return np.asarray(clipped, np.float32).reshape(len(outputs), *self.shape)

    def edge(
        self, scale: float, zero_point: int, *, is_masked: bool = False, dtype: str = "int8"
    ) -> ActionEdge:
        """Return the integer form for int8 or int16 outputs of this scale and zero point."""
        return make_affine_edge(
            scale=scale,
            zero_point=zero_point,
            gain=np.array(self.gain).reshape(self.shape),
            offset=np.array(self.offset).reshape(self.shape),
            low=np.array(self.low, np.float32).reshape(self.shape),
            high=np.array(self.high, np.float32).reshape(self.shape),
            dtype=dtype,
        )


Head = DiscreteHead | BoxHead


def infer_head(
    action_space: Any,
    num_outputs: int,
    *,
    ends_in_tanh: bool,
    stated: str | None = None,
    action_bounds: tuple[float, float] | None = None,
) -> Head:
    """Choose the head that fits a Gymnasium action space and a model with `num_outputs` outputs.

    Discrete: argmax. Box: `scale` maps [-1, 1] to the bounds, for models that end in tanh; `clip` takes
    the outputs as actions. `stated` is a name from HEAD_NAMES that overrides the guess. Without an action
    space (None: recorded observations only) it is needed, and `action_bounds` bound every action.
    """
    if stated is not None and stated not in HEAD_NAMES:
        raise UsageError(f"There is no head '{stated}'; there are: {', '.join(HEAD_NAMES)}.")
    if action_space is None:
        action_space = _stated_space(stated, num_outputs, action_bounds)
    elif action_bounds is not None:
        raise UsageError("Action bounds come from the environment; leave out --action-bounds.")
    kind = type(action_space).__name__
    if kind not in ("Discrete", "Box"):
        raise AgentError(
            f"The environment's action space is {kind}, and only Discrete and Box can be exported. "
            "Wrap the environment so that it takes one of these."
        )
    head = _discrete(action_space) if kind == "Discrete" else _box(action_space, ends_in_tanh, stated)
    if (stated == "argmax") != (kind == "Discrete") and stated is not None:
        raise UsageError(f"Head '{stated}' does not fit a {kind} action space.")
    if head.num_outputs != num_outputs:
        cure = "Is this the agent for this environment?"
        if kind == "Box" and num_outputs == 2 * head.num_outputs:
            cure = (
                "If they are means and log-standard-deviations (PPO, SAC), keep only the mean: "
                "keras.Model(model.inputs, mean)."
            )
        raise AgentError(
            f"The model has {num_outputs} output{'' if num_outputs == 1 else 's'}, but the environment's "
            f"action space {action_space} needs {head.num_outputs}. {cure}"
        )
    return head


def head_to_json(head: Head) -> dict[str, Any]:
    """Return the head as plain JSON values; infinite bounds become null."""
    if isinstance(head, DiscreteHead):
        return {"kind": "argmax", "num_actions": head.num_actions, "start": head.start}
    return {
        "kind": "box",
        "shape": list(head.shape),
        "low": [None if np.isinf(v) else v for v in head.low],
        "high": [None if np.isinf(v) else v for v in head.high],
        "gain": list(head.gain),
        "offset": list(head.offset),
    }


def head_from_json(data: dict[str, Any]) -> Head:
    """Invert `head_to_json`; raise KeyError, TypeError or ValueError for anything else."""
    if data["kind"] == "argmax":
        return DiscreteHead(int(data["num_actions"]), int(data["start"]))
    if data["kind"] != "box":
        raise ValueError(f"there is no head {data['kind']!r}")
    head = BoxHead(
        shape=tuple(int(n) for n in data["shape"]),
        low=tuple(-np.inf if v is None else float(v) for v in data["low"]),
        high=tuple(np.inf if v is None else float(v) for v in data["high"]),
        gain=tuple(float(v) for v in data["gain"]),
        offset=tuple(float(v) for v in data["offset"]),
    )
    rows = (head.low, head.high, head.gain, head.offset)
    if {len(row) for row in rows} != {prod(head.shape)} or min(head.shape, default=1) < 1:
        raise ValueError("a head has one low, high, gain and offset for each number of its shape")
    if not all(low <= high for low, high in zip(head.low, head.high, strict=True)):
        raise ValueError("the bounds of a head are not in order")
    if not np.isfinite([*head.gain, *head.offset]).all():
        raise ValueError("the gain or offset of a head is not finite")
    return head


def _stated_space(stated: str | None, num_outputs: int, bounds: tuple[float, float] | None) -> Any:
    """Return the action space that the options describe, where no environment says it."""
    from gymnasium import spaces

    if stated is None:
        raise UsageError(
            "Without an environment, say how outputs become actions with --head argmax, scale or clip."
        )
    if stated == "argmax":
        return spaces.Discrete(num_outputs)
    if stated == "scale" and (bounds is None or not np.isfinite(bounds).all()):
        raise UsageError("Head 'scale' needs finite bounds: add --action-bounds LOW HIGH.")
    low, high = bounds if bounds is not None else (-np.inf, np.inf)
    if not low < high:
        raise UsageError(f"Action bounds {low} and {high} are not in order.")
    return spaces.Box(np.float32(low), np.float32(high), (num_outputs,), np.float32)


def _discrete(space: Any) -> DiscreteHead:
    return DiscreteHead(int(space.n), int(getattr(space, "start", 0)))


def _box(space: Any, ends_in_tanh: bool, stated: str | None) -> BoxHead:
    low = np.asarray(space.low, np.float32).ravel().astype(np.float64)
    high = np.asarray(space.high, np.float32).ravel().astype(np.float64)
    is_bounded = bool(np.all(np.isfinite(low)) and np.all(np.isfinite(high)))
    if stated == "scale" and not is_bounded:
        raise UsageError(f"Head 'scale' needs finite bounds, and the action space is {space}.")
    is_scaled = stated == "scale" or (stated is None and ends_in_tanh and is_bounded)
    gain = (high - low) / 2 if is_scaled else np.ones_like(low)
    offset = (high + low) / 2 if is_scaled else np.zeros_like(low)
    columns = (tuple(a.tolist()) for a in (low, high, gain, offset))
    return BoxHead(tuple(int(n) for n in space.shape), *columns)
