"""In which states the quantized policy does worst, and whether int8 could have told the actions apart there.

Both policies are asked in the states that the float policy visits. With discrete actions a state is bad by
its regret, what the float outputs say the quantized policy's choice costs; with continuous ones by the
error of the action. An argmax is lost where the two best outputs lie closer than one quantization step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.environments import MakeEnv
from edgeqrl.interfaces import Policy, State
from edgeqrl.rollout import Rollout, rollout
from edgeqrl.validate.agreement import NO_BOUND, ShadowedPolicy, actions_agree, ask_recorded

NUM_WORST = 5
MAX_LISTED = 64  # numbers of an observation or of outputs; longer ones are found again by seed and step

_BATCH = 256

Outputs = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # [N, *shape] -> [N, num_outputs]


@dataclass(frozen=True, eq=False)
class Steps:
    """Steps of the float policy's episodes, in order, with what both policies did. `N` counts steps."""

    seeds: NDArray[np.int64] | None  # [N]; None for recorded observations
    steps: NDArray[np.int64]  # [N], within the episode; else the row of the recording
    observations: NDArray[np.float32]  # [N, *shape]
    float_actions: NDArray[Any]  # [N, *action_shape]
    quantized_actions: NDArray[Any]  # [N, *action_shape]
    action_masks: NDArray[np.bool_] | None  # [N, num_actions]


@dataclass(frozen=True)
class WorstStates:
    """What `worst_states` found; shares are of the visited states unless it says otherwise."""

    kind: str  # what orders the worst: "regret", "action_error", or "disagreement" without float outputs
    num_states: int
    disagreeing: float  # share in which the actions differ, as agreement has it
    quantization_step: float | None  # of the outputs that are compared; discrete actions only
    margin_below_step: float | None  # share whose two best float outputs lie closer than one step
    disagreeing_below_step: float | None  # the same share of the disagreeing states alone
    median_margin_in_steps: float | None
    worst: tuple[dict[str, Any], ...]  # at most one an episode, the worst first
    first_action: int = 0  # the action of the first output

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return vars(self) | {"worst": list(self.worst)}


def play_both(
    float_policy: Policy,
    quantized_policy: Policy,
    make_env: MakeEnv,
    seeds: Sequence[int],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Steps, Rollout]:
    """Play the float policy, and ask the quantized one in each of its states."""
    noted = _Noted(float_policy, quantized_policy)
    played = rollout(noted, make_env, seeds, progress=progress)
    return noted.steps(played.seeds), played


def ask_both(float_policy: Policy, quantized_policy: Policy, observations: NDArray[np.float32]) -> Steps:
    """Ask both policies on recorded observations [N, *shape], each taken as the start of an episode."""
    noted = _Noted(float_policy, quantized_policy)
    ask_recorded(noted, observations)
    return noted.steps(None)


def worst_states(
    steps: Steps,
    *,
    float_outputs: Outputs | None = None,
    quantized_outputs: Outputs | None = None,
    quantization_step: float | None = None,
    first_action: int = 0,
    span: NDArray[np.float64] | None = None,
) -> WorstStates:
    """Return where the quantized policy does worst.

    The outputs (raw outputs of the network, in real units) and the step between two of the quantized
    ones are for discrete actions; `first_action` is the action of the first output. `span`
    [*action_shape] is the range of continuous actions, infinite or NO_BOUND where there is none.
    """
    if span is not None:
        span = np.where(span < NO_BOUND, span, np.inf)
    agree = actions_agree(steps.float_actions, steps.quantized_actions, span)
    if steps.float_actions.dtype.kind not in "iu":
        return _worst_errors(steps, agree, span)
    if float_outputs is None:
        found = tuple(_described(steps, row) for row in _worst_rows(steps, (~agree).astype(np.float64)))
        return WorstStates("disagreement", len(agree), _share(~agree), None, None, None, None, found)
    return _worst_regrets(
        steps, agree, float_outputs, quantized_outputs, quantization_step, first_action=first_action
    )


def _worst_errors(steps: Steps, agree: NDArray[np.bool_], span: NDArray[np.float64] | None) -> WorstStates:
    wanted = steps.float_actions.astype(np.float64)
    errors = np.abs(steps.quantized_actions.astype(np.float64) - wanted)
    unit = np.ones_like(wanted[0]) if span is None else np.where(np.isfinite(span) & (span > 0), span, 1.0)
    rows = (errors / unit).reshape(len(errors), -1).max(axis=1)
    worst = []
    for row in _worst_rows(steps, rows):
        facts = {"action_error": float(errors[row].max()), "error_of_range": float(rows[row])}
        worst.append(_described(steps, row) | facts)
    return WorstStates("action_error", len(agree), _share(~agree), None, None, None, None, tuple(worst))


def _worst_regrets(
    steps: Steps,
    agree: NDArray[np.bool_],
    float_outputs: Outputs,
    quantized_outputs: Outputs | None,
    quantization_step: float | None,
    *,
    first_action: int,
) -> WorstStates:
    batches = range(0, len(agree), _BATCH)
    raw = np.concatenate([float_outputs(steps.observations[first : first + _BATCH]) for first in batches])
    values = raw.astype(np.float64)
    if steps.action_masks is not None:
        allows_some = steps.action_masks.any(axis=1, keepdims=True)
        values = np.where(steps.action_masks | ~allows_some, values, -np.inf)
    ordered = np.sort(values, axis=1)
    best = ordered[:, -1]
    # Without a choice there is no margin to lose.
    margins = best - ordered[:, -2] if values.shape[1] > 1 else np.full(len(values), np.inf)
    rows = np.arange(len(values))
    regrets = best - values[rows, steps.quantized_actions.astype(np.int64) - first_action]
    worst = []
    for row in _worst_rows(steps, regrets):
        facts = {
            "float_outputs": _listed(raw[row]),
            "quantized_outputs": None,
            "regret": float(regrets[row]),
            "margin": _finite(margins[row]),
            "margin_in_steps": None
            if quantization_step is None
            else _finite(margins[row] / quantization_step),
        }
        if quantized_outputs is not None:
            facts["quantized_outputs"] = _listed(quantized_outputs(steps.observations[row : row + 1])[0])
        worst.append(_described(steps, row) | facts)
    below = None if quantization_step is None else margins < quantization_step
    return WorstStates(
        kind="regret",
        num_states=len(agree),
        disagreeing=_share(~agree),
        quantization_step=quantization_step,
        margin_below_step=None if below is None else _share(below),
        disagreeing_below_step=None if below is None or agree.all() else _share(below[~agree]),
        median_margin_in_steps=(
            None if quantization_step is None else _finite(np.median(margins) / quantization_step)
        ),
        worst=tuple(worst),
        first_action=first_action,
    )


def _worst_rows(steps: Steps, badness: NDArray[np.float64]) -> list[int]:
    """Return the rows with the most badness above 0, one an episode; ties in order."""
    chosen: list[int] = []
    seen: set[int] = set()
    for row in np.argsort(-badness, kind="stable"):
        if not badness[row] > 0.0 or len(chosen) == NUM_WORST:
            break
        episode = int(row) if steps.seeds is None else int(steps.seeds[row])
        if episode not in seen:
            seen.add(episode)
            chosen.append(int(row))
    return chosen


def _described(steps: Steps, row: int) -> dict[str, Any]:
    return {
        "seed": None if steps.seeds is None else int(steps.seeds[row]),
        "step": int(steps.steps[row]),
        "observation": _listed(steps.observations[row]),
        "float_action": steps.float_actions[row].tolist(),
        "quantized_action": steps.quantized_actions[row].tolist(),
    }


def _listed(values: NDArray[Any]) -> list[float] | None:
    return [float(value) for value in values.ravel()] if values.size <= MAX_LISTED else None


def _share(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean())


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


class _Noted:
    """Acts as the float policy does, and notes what both do in each state."""

    def __init__(self, float_policy: Policy, quantized_policy: Policy) -> None:
        self.name = float_policy.name
        self._both = ShadowedPolicy(float_policy, quantized_policy, self)
        self._num_episodes = 0
        self._episodes: list[NDArray[np.int64]] = []
        self._steps: list[NDArray[np.int64]] = []
        self._observations: list[NDArray[np.float32]] = []
        self._actions: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._masks: list[NDArray[np.bool_]] = []

    def act(
        self,
        observations: NDArray[Any],
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Act as `interfaces.Policy` says; the state is the episode's number, the step, then theirs."""
        count = len(observations)
        episode, step = (np.zeros(count, np.int64),) * 2 if state is None else (state[0], state[1] + 1)
        is_start = np.ones(count, np.bool_) if state is None else episode_start
        # Episodes begin in the order of their seeds, within a batch from its first row on.
        episode = np.where(is_start, self._num_episodes + np.cumsum(is_start) - 1, episode)
        step = np.where(is_start, 0, step)
        self._num_episodes += int(is_start.sum())
        actions, inner = self._both.act(
            observations,
            None if state is None else state[2:],
            episode_start=episode_start,
            action_masks=action_masks,
            rng=rng,
        )
        self._episodes.append(episode)
        self._steps.append(step)
        self._observations.append(np.array(observations, np.float32))
        if action_masks is not None:
            self._masks.append(np.array(action_masks, np.bool_))
        return actions, (episode, step, *inner)

    def add(self, float_actions: NDArray[Any], quantized_actions: NDArray[Any]) -> None:
        """Note what both do."""
        self._actions.append((float_actions.copy(), quantized_actions.copy()))

    def steps(self, seeds: Sequence[int] | None) -> Steps:
        """Return what was noted, episode by episode; `seeds` are the episodes' in the order they began."""
        episodes, within = np.concatenate(self._episodes), np.concatenate(self._steps)
        order = np.lexsort((within, episodes))
        observations = np.concatenate(self._observations)
        self._observations.clear()  # of images they are most of the memory
        in_float, quantized = (np.concatenate(answers) for answers in zip(*self._actions, strict=True))
        return Steps(
            seeds=None if seeds is None else np.array(seeds, np.int64)[episodes[order]],
            steps=episodes[order] if seeds is None else within[order],
            observations=observations[order],
            float_actions=in_float[order],
            quantized_actions=quantized[order],
            action_masks=np.concatenate(self._masks)[order] if self._masks else None,
        )
