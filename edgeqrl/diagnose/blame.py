"""Which part of the network loses the return? Each is given its float values back, and plays again.

All policies play the same seeds in the same simulator, so what a part recovers is a paired difference.
Suspects are named only where something is lost and a part recovers some of it, both beyond chance. Each of
several parts may mend all, where a little less noise suffices, and where each of two is bad enough neither
mends anything. So shares do not add up to 1, and are read row by row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.diagnose.simulated import OBSERVATION, ActionHead, NetworkPair, SimulatedPolicy
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import UsageError
from edgeqrl.rollout import rollout
from edgeqrl.validate.statistics import Interval, bootstrap_interval

_CONFIDENCE = 0.95
_MIN_EPISODES = 8  # fewer, and the intervals say next to nothing
_MAX_LAYERS = 16  # that are tried alone
_AS_MUCH = 0.75  # of what the best part recovers: who recovers that is as much to blame


@dataclass(frozen=True)
class BlameRow:
    """One policy between the float and the quantized one."""

    kind: str  # "layer", "observation", "weights" or "activations"
    name: str  # of the layer (of the tensor that it writes), else as `kind`
    operator: str | None  # of the layer
    episode_return: Interval
    recovered: Interval  # its return less the quantized policy's, pair by pair; see `Blame.confidence`
    share: float | None  # of the mean loss that it recovers; None where nothing is lost
    share_low: float | None  # the ends of `recovered` over the mean loss
    share_high: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        intervals = {"episode_return": self.episode_return.to_json(), "recovered": self.recovered.to_json()}
        return vars(self) | intervals


@dataclass(frozen=True)
class Blame:
    """What `blame` found. All returns are of the simulator's policies, on the same seeds."""

    float_return: Interval
    quantized_return: Interval
    loss: Interval  # float - quantized, pair by pair
    rows: tuple[BlameRow, ...]  # layers in order of execution, the observation first, then the two halves
    suspects: tuple[str, ...]  # layers, or "observation", that recover most, beyond chance; the most first
    confidence: float  # of each row's `recovered`: such that all rows' hold together with 95 %
    num_episodes: int
    num_layers_left_out: int  # of networks with very many, the last ones are not tried

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        names = ("float_return", "quantized_return", "loss")
        intervals = {name: getattr(self, name).to_json() for name in names}
        rows = [row.to_json() for row in self.rows]
        return vars(self) | intervals | {"rows": rows, "suspects": list(self.suspects)}


def blame(
    pair: NetworkPair,
    head: ActionHead,
    make_env: MakeEnv,
    *,
    seeds: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> Blame:
    """Play `seeds` with everything in float, everything quantized, and one part at a time in float.

    Further with all weights in float (then only the activations are quantized), and with all activations in
    float: which half of the quantization it is. Fewer than 8 episodes name nobody. `progress` is called with
    (episodes done, episodes in all).

    Raises UsageError for fewer than 2 seeds, and what `rollout` raises.
    """
    if len(seeds) < 2:
        raise UsageError(f"Finding the layer to blame needs at least 2 episodes, got {len(seeds)}.")
    parts = pair.parts[: _MAX_LAYERS + 1]
    everything = frozenset(part.name for part in pair.parts)
    policies = {
        ("float", ""): SimulatedPolicy(pair, head, in_float=everything),
        ("quantized", ""): SimulatedPolicy(pair, head),
    }
    for part in parts:
        kind = OBSERVATION if part.name == OBSERVATION else "layer"
        policies[kind, part.name] = SimulatedPolicy(pair, head, in_float=frozenset({part.name}))
    policies["weights", "weights"] = SimulatedPolicy(pair, head, has_float_weights=True)
    policies["activations", "activations"] = SimulatedPolicy(pair, head, has_float_activations=True)

    returns = {}
    for number, (key, policy) in enumerate(policies.items()):
        counted = _counted(progress, number * len(seeds), len(policies) * len(seeds))
        returns[key] = rollout(policy, make_env, seeds, progress=counted).episode_returns
    operators = {part.name: part.operator for part in parts if part.name != OBSERVATION}
    return _judged(returns, operators, len(pair.parts) - len(parts), seed=seeds[0])


def _judged(
    returns: dict[tuple[str, str], NDArray[np.float64]],
    operators: dict[str, str],
    num_left_out: int,
    *,
    seed: int,
) -> Blame:
    """Compare each policy with the quantized one, pair by pair."""
    exact, quantized = returns.pop(("float", "")), returns.pop(("quantized", ""))
    loss = bootstrap_interval(exact - quantized, confidence=_CONFIDENCE, seed=seed)
    # Bonferroni's: the one that recovers most is picked among them all.
    confidence = 1.0 - (1.0 - _CONFIDENCE) / len(returns)
    rows = []
    for (kind, name), values in returns.items():
        recovered = bootstrap_interval(values - quantized, confidence=confidence, seed=seed)
        ends: list[float | None] = [None] * 3
        if loss.low > 0.0:
            ends = [end / loss.mean for end in (recovered.mean, recovered.low, recovered.high)]
        own = bootstrap_interval(values, confidence=_CONFIDENCE, seed=seed)
        rows.append(BlameRow(kind, name, operators.get(name), own, recovered, *ends))
    return Blame(
        float_return=bootstrap_interval(exact, confidence=_CONFIDENCE, seed=seed),
        quantized_return=bootstrap_interval(quantized, confidence=_CONFIDENCE, seed=seed),
        loss=loss,
        rows=tuple(rows),
        suspects=_suspects(rows) if loss.low > 0.0 and len(exact) >= _MIN_EPISODES else (),
        confidence=confidence,
        num_episodes=len(exact),
        num_layers_left_out=num_left_out,
    )


def _suspects(rows: Sequence[BlameRow]) -> tuple[str, ...]:
    """Return the parts that recover something beyond chance, and about as much as the best of them."""
    single = [row for row in rows if row.kind in ("layer", OBSERVATION) and row.recovered.low > 0.0]
    single.sort(key=lambda row: -row.recovered.mean)
    return tuple(row.name for row in single if row.recovered.mean >= _AS_MUCH * single[0].recovered.mean)


def _counted(
    progress: Callable[[int, int], None] | None, before: int, total: int
) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, _: progress(before + done, total)
