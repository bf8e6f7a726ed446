"""The episodes that choose: the float policy's, played once, and any candidate's on the same seeds.

They have seeds of their own. So has the baseline, from which the terms come: no judgement plays any of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeqrl.environments import MakeEnv, spaces
from edgeqrl.interfaces import Policy
from edgeqrl.rollout import Rollout, rollout
from edgeqrl.search.outcome import LEAST_TO_HOLD, Assessment, Outcome, assess
from edgeqrl.validate.chatter import chatter
from edgeqrl.validate.criteria import PairedEpisodes
from edgeqrl.validate.terms import Declared
from edgeqrl.validate.verdict import baseline_seeds_of, play_baseline

FIRST_LOOK = 32  # pairs; after each further look there are twice as many

Tell = Callable[[int, int], None]  # episodes played, episodes at the most
Prune = Callable[[NDArray[np.float64]], bool]  # losses so far [E] -> give the candidate up?


@dataclass(frozen=True, eq=False)
class Played:
    """A candidate's episodes beside those of the float policy, and what they say."""

    pairs: PairedEpisodes
    assessment: Assessment
    is_pruned: bool


@dataclass(frozen=True, eq=False)
class _Side:
    """Some episodes of one policy [E]."""

    returns: NDArray[np.float64]
    chatter: NDArray[np.float64] | None  # rate; None: actions without a scale


class ChoosingEpisodes:
    """Plays candidates against the float policy on the seeds that choose."""

    def __init__(
        self,
        float_policy: Policy,
        make_env: MakeEnv,
        *,
        declared: Declared,
        seed: int,
        most: int,
        judged_episodes: int,
        judgement: int = 1,
        tell: Tell | None = None,
    ) -> None:
        """Play the baseline, and fix the terms.

        most             pairs that a candidate plays
        judged_episodes  pairs that the judgement may play; `judgement` is its number in the ledger
        """
        self.seeds = range(seed, seed + most)
        self.baseline_seeds = baseline_seeds_of(seed)
        self._float_policy, self._make_env = float_policy, make_env
        self.judged_episodes = judged_episodes
        self._space = spaces(make_env).action_space
        self._in_float: dict[range, _Side] = {}
        counted = _Counted(tell, 2 * len(self.baseline_seeds))
        self.baseline = play_baseline(float_policy, self._space, make_env, self.baseline_seeds, counted.play)
        means = self.baseline.float_return.mean, self.baseline.random_return.mean
        self.terms = declared.resolve(*means, self.baseline.spread, judgement)
        if self.is_worth_preserving:
            self.terms.require_sound()

    @property
    def is_worth_preserving(self) -> bool:
        """Say whether the float policy is clearly better than random actions."""
        return self.baseline.is_worth_preserving

    def play(self, policy: Policy, *, prune: Prune | None = None, tell: Tell | None = None) -> Played:
        """Play look after look until the outcome is known, the candidate is given up, or all are played."""
        sides: list[tuple[_Side, _Side]] = []
        for seeds in looks(self.seeds):
            if seeds not in self._in_float:
                self._in_float[seeds] = self._side(self._float_policy, seeds, None)
            before = seeds.start - self.seeds.start
            sides.append(
                (self._in_float[seeds], self._side(policy, seeds, _shifted(tell, before, self.seeds)))
            )
            pairs = _pairs(sides)
            least = min(LEAST_TO_HOLD, len(self.seeds))
            assessment = assess(pairs, self.terms, judged_episodes=self.judged_episodes, least=least)
            is_given_up = prune is not None and prune(pairs.losses)  # told of every look, the last included
            if assessment.outcome is not Outcome.OPEN:
                return Played(pairs, assessment, False)
            if is_given_up:
                break
        return Played(pairs, assessment, is_given_up)

    def _side(self, policy: Policy, seeds: range, tell: Tell | None) -> _Side:
        played = rollout(policy, self._make_env, seeds, keep_actions=True, progress=tell)
        rates = [chatter(actions, self._space) for actions in played.actions or ()]
        known = [found.rate for found in rates if found is not None]
        return _Side(played.episode_returns, np.array(known) if len(known) == len(rates) else None)


def looks(seeds: range) -> Iterator[range]:
    """Cut the seeds into looks, after each of which twice as many are played."""
    stop = 0
    while stop < len(seeds):
        start, stop = stop, min(max(FIRST_LOOK, 2 * stop), len(seeds))
        yield seeds[start:stop]


class _Counted:
    """Makes the progress of several rollouts that of the whole."""

    def __init__(self, tell: Tell | None, total: int) -> None:
        self._tell, self._total, self._before = tell, total, 0

    def play(self, policy: Policy, make_env: MakeEnv, seeds: range) -> Rollout:
        before, self._before = self._before, self._before + len(seeds)
        return rollout(policy, make_env, seeds, progress=_shifted(self._tell, before, range(self._total)))


def _shifted(tell: Tell | None, before: int, all_of: range) -> Tell | None:
    return None if tell is None else lambda done, _: tell(before + done, len(all_of))


def _pairs(sides: list[tuple[_Side, _Side]]) -> PairedEpisodes:
    columns = []
    for name in ("returns", "chatter"):
        parts = [[getattr(look[side], name) for look in sides] for side in (0, 1)]
        is_known = all(part is not None for side in parts for part in side)
        columns += [np.concatenate(side) if is_known else None for side in parts]
    float_returns, quantized_returns, float_chatter, quantized_chatter = columns
    assert float_returns is not None
    assert quantized_returns is not None
    return PairedEpisodes(float_returns, quantized_returns, float_chatter, quantized_chatter)
