"""Which head fits: from the action space, the model's outputs and what the user states."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edgeqrl.agents.heads.base import Head
from edgeqrl.agents.heads.continuous import BoxHead, GaussianHead, ValueHead
from edgeqrl.agents.heads.discrete import DiscreteHead, MultiBinaryHead
from edgeqrl.agents.options import AgentOptions
from edgeqrl.errors import AgentError, UsageError

HEAD_NAMES = ("argmax", "scale", "clip", "squash", "threshold", "value")
_FITTING = {  # heads that a user may state for each kind of action space
    "Discrete": ("argmax",),
    "MultiDiscrete": ("argmax",),
    "MultiBinary": ("threshold",),
    "Box": ("scale", "clip", "squash"),
}


def infer_head(
    action_space: Any,
    num_outputs: int,
    *,
    ends_in_tanh: bool,
    options: AgentOptions | None = None,
    has_log_std: bool = False,
) -> Head:
    """Choose the head that fits a Gymnasium action space and a model with `num_outputs` outputs.

    Discrete, MultiDiscrete: argmax. MultiBinary: `threshold`, outputs above 0. Box: `scale` maps [-1, 1] to
    the bounds, for models that end in tanh; `squash` takes the tanh first; `clip` takes the outputs as
    actions. `value` takes them as state values, whatever the actions are. `options.head` is a name from
    HEAD_NAMES that overrides the guess. Without an action space (None: recorded observations only) it is
    needed, and `options.action_bounds` bound every action. `options.stochastic` chooses the head that draws;
    `has_log_std` tells that a second output holds log standard deviations.
    """
    chosen = options if options is not None else AgentOptions()
    stated = chosen.head
    if stated is not None and stated not in HEAD_NAMES:
        raise UsageError(f"There is no head '{stated}'; there are: {', '.join(HEAD_NAMES)}.")
    if stated == "value":
        names = ("value",) if num_outputs == 1 else tuple(f"value_{i}" for i in range(num_outputs))
        return ValueHead(names)
    if action_space is None:
        action_space = _stated_space(stated, num_outputs, chosen.action_bounds)
    elif chosen.action_bounds is not None:
        raise UsageError("Action bounds come from the environment; leave out --action-bounds.")
    kind = type(action_space).__name__
    if kind not in _FITTING:
        raise AgentError(
            f"The environment's action space is {kind}, and only Discrete, MultiDiscrete, MultiBinary and "
            "Box can be exported. Wrap the environment so that it takes one of these."
        )
    if stated is not None and stated not in _FITTING[kind]:
        raise UsageError(f"Head '{stated}' does not fit a {kind} action space.")
    head = _MAKERS[kind](action_space, ends_in_tanh, stated)
    if head.num_outputs != num_outputs:
        raise AgentError(_mismatch(action_space, head, num_outputs))
    if chosen.stochastic:
        return _sampling(head, chosen, has_log_std, is_squashed=stated == "squash")
    return head


def stated_head(head: Head) -> str:
    """Return the name by which a user would state a head where no environment says it."""
    if isinstance(head, ValueHead):
        return "value"
    if isinstance(head, MultiBinaryHead):
        return "threshold"
    return "clip" if isinstance(head, BoxHead | GaussianHead) else "argmax"


def _mismatch(space: Any, head: Head, num_outputs: int) -> str:
    cure = "Is this the agent for this environment?"
    if num_outputs == 2 * head.num_outputs and isinstance(head, BoxHead):
        cure = (
            "If they are means and log-standard-deviations (PPO, SAC), keep only the mean: "
            "keras.Model(model.inputs, mean)."
        )
    elif num_outputs == 1:
        cure = (
            "If it is the value of a state, add --outputs value. Else: is it the agent for this environment?"
        )
    elif num_outputs % head.num_outputs == 0 and isinstance(head, DiscreteHead) and head.is_single:
        cure = (
            "If they are a distribution of each Q-value, add --distribution quantiles (QR-DQN) or "
            "--distribution categorical --support LOW HIGH (C51)."
        )
    return (
        f"The model has {num_outputs} output{'' if num_outputs == 1 else 's'}, but the environment's "
        f"action space {space} needs {head.num_outputs}. {cure}"
    )


def _stated_space(stated: str | None, num_outputs: int, bounds: tuple[float, float] | None) -> Any:
    """Return the action space that the options describe, where no environment says it."""
    from gymnasium import spaces

    if stated is None:
        raise UsageError(
            "Without an environment, say how outputs become actions with --head argmax, scale or clip."
        )
    if stated == "argmax":
        return spaces.Discrete(num_outputs)
    if stated == "threshold":
        return spaces.MultiBinary(num_outputs)
    if stated in ("scale", "squash") and (bounds is None or not np.isfinite(bounds).all()):
        raise UsageError(f"Head '{stated}' needs finite bounds: add --action-bounds LOW HIGH.")
    low, high = bounds if bounds is not None else (-np.inf, np.inf)
    if not low < high:
        raise UsageError(f"Action bounds {low} and {high} are not in order.")
    return spaces.Box(np.float32(low), np.float32(high), (num_outputs,), np.float32)


def _discrete(space: Any, _ends_in_tanh: bool, _stated: str | None) -> DiscreteHead:
    return DiscreteHead.single(int(space.n), int(getattr(space, "start", 0)))


def _multi_discrete(space: Any, _ends_in_tanh: bool, _stated: str | None) -> DiscreteHead:
    counts = np.asarray(space.nvec)
    starts = np.asarray(getattr(space, "start", np.zeros_like(counts)))
    shape = None if counts.ndim == 1 else counts.shape
    return DiscreteHead(tuple(counts.ravel().tolist()), tuple(starts.ravel().tolist()), shape)


def _multi_binary(space: Any, _ends_in_tanh: bool, _stated: str | None) -> MultiBinaryHead:
    return MultiBinaryHead(tuple(int(n) for n in space.shape))


def _box(space: Any, ends_in_tanh: bool, stated: str | None) -> BoxHead:
    low = np.asarray(space.low, np.float32).ravel().astype(np.float64)
    high = np.asarray(space.high, np.float32).ravel().astype(np.float64)
    is_bounded = bool(np.all(np.isfinite(low)) and np.all(np.isfinite(high)))
    if stated in ("scale", "squash") and not is_bounded:
        raise UsageError(f"Head '{stated}' needs finite bounds, and the action space is {space}.")
    is_scaled = stated in ("scale", "squash") or (stated is None and ends_in_tanh and is_bounded)
    gain = (high - low) / 2 if is_scaled else np.ones_like(low)
    offset = (high + low) / 2 if is_scaled else np.zeros_like(low)
    columns = (tuple(a.tolist()) for a in (low, high, gain, offset))
    return BoxHead(tuple(int(n) for n in space.shape), *columns)


_MAKERS: dict[str, Callable[[Any, bool, str | None], Head]] = {
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
    "Box": _box,
}


def _sampling(head: Head, options: AgentOptions, has_log_std: bool, *, is_squashed: bool) -> Head:
    """Return the head that draws what `head` chooses."""
    if isinstance(head, DiscreteHead | MultiBinaryHead):
        return replace(head, is_stochastic=True)
    assert isinstance(head, BoxHead)
    log_std = options.log_std
    if log_std is not None and len(log_std) not in (1, head.num_outputs):
        raise UsageError(
            f"--log-std states {len(log_std)} numbers, and there are {head.num_outputs} actions. "
            "State one for all, or one for each."
        )
    if log_std is None and not has_log_std:
        raise AgentError(
            "A stochastic policy needs its log standard deviations, and the model returns means only. "
            "State them with --log-std, or make a model that returns them as a second output named log_std."
        )
    if log_std is not None and len(log_std) == 1:
        log_std *= head.num_outputs
    rows = (head.low, head.high, head.gain, head.offset)
    return GaussianHead(head.shape, *rows, log_std=log_std, is_squashed=is_squashed)
