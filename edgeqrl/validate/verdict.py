"""Does the quantized policy act as well? Paired episodes until the answer is in, and one word.

First the float policy and random actions play a baseline on seeds of their own. From it come the terms:
what may be lost, and what one episode can lose at the most. Then float and quantized policy play the same
seeds, look after look, until every criterion is decided or the episodes are used up. Seeds that calibrated
or selected anything never judge.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.environments import EnvironmentSpaces, MakeEnv, spaces
from edgeqrl.errors import UsageError
from edgeqrl.interfaces import Policy
from edgeqrl.rollout import RandomPolicy, Rollout, rollout
from edgeqrl.spaces import observation_parts
from edgeqrl.validate.agreement import AgreementCounter, ShadowedPolicy, ask_recorded
from edgeqrl.validate.chatter import chatter, first_divergence
from edgeqrl.validate.criteria import PairedEpisodes, Verdict, decide, judge
from edgeqrl.validate.likeness import Likeness, Outputs, likeness
from edgeqrl.validate.report import Baseline, RecordedReport, ValidationReport
from edgeqrl.validate.statistics import bootstrap_interval
from edgeqrl.validate.terms import Declared, Terms

if TYPE_CHECKING:
    import gymnasium

DEFAULT_SEED = 20_000  # of the first judgement
DEFAULT_EPISODES = 2000
EPISODES_A_LOOK = 64
_MOST_KEPT_BYTES = 2**28  # of observations, on the first look
_USUAL_STEPS = 1000  # of an episode without a stated limit
MOST_EPISODES = 500_000
_SEEDS_A_JUDGEMENT = 2 * MOST_EPISODES
_BASELINE_OFFSET = MOST_EPISODES
_BASELINE_EPISODES = 100

Progress = Callable[[int, int], None]
_NOTHING = Verdict.NOTHING_TO_PRESERVE


def validate(
    float_policy: Policy,
    quantized_policy: Policy,
    make_env: MakeEnv,
    *,
    declared: Declared | None = None,
    num_episodes: int = DEFAULT_EPISODES,
    judgement: int = 1,
    seed: int | None = None,
    other_seeds: Iterable[int | range] = (),
    progress: Progress | None = None,
) -> ValidationReport:
    """Play paired episodes on seeds `seed` ... until the verdict is in, or `num_episodes` are played.

    declared     the terms; by default those of `Declared()`
    judgement    1 for the first of this agent in this environment; the k-th has alpha / 2^k
    seed         the first; by default one that no other judgement takes
    other_seeds  those that calibrated or selected anything, or judged before; an overlap is refused

    PASS and FAIL are each wrong with a chance of at most alpha / 2^judgement, whenever they come, if no
    episode loses or gains more than the declared worst loss. Raises UsageError for options that cannot be;
    a bad verdict is a result, not an error.
    """
    declared = declared or Declared()
    first = default_seed(judgement) if seed is None else seed
    if not 2 <= num_episodes <= MOST_EPISODES:
        raise UsageError(f"Validation plays 2 to {MOST_EPISODES:,} episodes, not {num_episodes}.")
    seeds = range(first, first + num_episodes)
    baseline_seeds = baseline_seeds_of(first)
    require_disjoint(
        {"validation": [seeds], "the baseline": [baseline_seeds], "calibration or selection": other_seeds}
    )
    count = _Count(progress, 2 * len(baseline_seeds) + 2 * num_episodes)
    known = spaces(make_env)
    action_space = known.action_space
    baseline = play_baseline(float_policy, action_space, make_env, baseline_seeds, count.play)
    terms = declared.resolve(
        baseline.float_return.mean, baseline.random_return.mean, baseline.spread, judgement
    )
    if baseline.is_worth_preserving:
        terms.require_sound()

    played = _Played(action_space)
    verdict = Verdict.INCONCLUSIVE
    for look in _looks(seeds, _num_kept(known)):
        played.add_look(float_policy, quantized_policy, make_env, look, count)
        verdict, is_final = (
            decide(played.pairs(), terms) if baseline.is_worth_preserving else (_NOTHING, True)
        )
        if is_final:
            break
    return _report(played, baseline, terms, verdict, seeds, (quantized_policy.name, float_policy.name))


def play_baseline(
    float_policy: Policy,
    action_space: "gymnasium.Space[Any]",
    make_env: MakeEnv,
    seeds: range,
    play: Callable[[Policy, MakeEnv, range], Rollout] = rollout,
) -> Baseline:
    """Play the float policy and random actions; `play` is `rollout`, or what counts its progress."""
    at_random = play(RandomPolicy(action_space), make_env, seeds)
    in_float = play(float_policy, make_env, seeds)
    return Baseline(
        seeds=tuple(seeds),
        float_return=bootstrap_interval(in_float.episode_returns, seed=seeds.start),
        random_return=bootstrap_interval(at_random.episode_returns, seed=seeds.start),
        advantage=bootstrap_interval(
            in_float.episode_returns - at_random.episode_returns, confidence=0.9, seed=seeds.start
        ),
        spread=float(np.ptp([in_float.episode_returns, at_random.episode_returns])),
    )


def agreement_on(
    float_policy: Policy,
    quantized_policy: Policy,
    observations: Any,
    *,
    action_space: "gymnasium.Space[Any] | None" = None,
) -> RecordedReport:
    """Compare two policies on recorded observations [N, *shape], or their parts by name.

    Each is taken as the start of an episode.
    """
    counter = AgreementCounter(action_space)
    ask_recorded(ShadowedPolicy(float_policy, quantized_policy, counter), observations)
    return RecordedReport(counter.result(), quantized_policy.name, float_policy.name)


def default_seed(judgement: int) -> int:
    """Return the first seed of the k-th judgement, which no other judgement takes by itself."""
    return DEFAULT_SEED + (judgement - 1) * _SEEDS_A_JUDGEMENT


def baseline_seeds_of(first: int) -> range:
    """Return the seeds of the baseline of a judgement that begins at `first`."""
    return range(first + _BASELINE_OFFSET, first + _BASELINE_OFFSET + _BASELINE_EPISODES)


def require_disjoint(groups: Mapping[str, Iterable[int | range]]) -> None:
    """Raise UsageError if two groups of seeds share one; ranges are not walked through."""
    ranges = {
        name: [part if isinstance(part, range) else range(part, part + 1) for part in seeds]
        for name, seeds in groups.items()
    }
    for (first, ours), (second, theirs) in combinations(ranges.items(), 2):
        for one, other in product(ours, theirs):
            shared = max(one.start, other.start)
            if shared < min(one.stop, other.stop):
                raise UsageError(
                    f"Seed {shared} serves both {first} and {second}, and one of them would not be fresh; "
                    "choose another first seed."
                )


class _Count:
    """Makes the progress of many rollouts that of the whole."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._before = progress, total, 0

    def play(self, policy: Policy, make_env: MakeEnv, seeds: range, **options: bool) -> Rollout:
        """Play one rollout and count it."""
        before, self._before = self._before, self._before + len(seeds)
        report = self._progress
        shown = None if report is None else lambda done, _: report(before + done, self._total)
        return rollout(policy, make_env, seeds, progress=shown, **options)


@dataclass
class _Played:
    """The pairs of all looks so far, in the order of the seeds."""

    action_space: "gymnasium.Space[Any]"
    looks: list[tuple[Rollout, Rollout]] = field(default_factory=list)  # without what was observed
    chatter: list[tuple[float, float]] = field(default_factory=list)  # of one pair; empty: not measured
    divergence: list[int | None] = field(default_factory=list)
    likeness: Likeness | None = None  # of the first look

    def add_look(
        self, float_policy: Policy, quantized_policy: Policy, make_env: MakeEnv, seeds: range, count: _Count
    ) -> None:
        """Play more pairs; on the first look also compare how the two act."""
        is_first = not self.looks
        counter = AgreementCounter(self.action_space)
        leader = ShadowedPolicy(float_policy, quantized_policy, counter) if is_first else float_policy
        kept = {"keep_actions": True, "keep_observations": is_first}
        in_float = count.play(leader, make_env, seeds, **kept)
        quantized = count.play(quantized_policy, make_env, seeds, **kept)
        if is_first:
            self.likeness = likeness(
                in_float,
                quantized,
                counter.result(),
                self.action_space,
                float_outputs=_outputs_of(float_policy),
                quantized_outputs=_outputs_of(quantized_policy),
            )
        assert in_float.actions is not None
        assert quantized.actions is not None
        for ours, theirs in zip(in_float.actions, quantized.actions, strict=True):
            rates = chatter(ours, self.action_space), chatter(theirs, self.action_space)
            if rates[0] is not None and rates[1] is not None:
                self.chatter.append((rates[0].rate, rates[1].rate))
            self.divergence.append(first_divergence(ours, theirs, self.action_space))
        self.looks.append((_bare(in_float), _bare(quantized)))

    def column(self, side: int, name: str) -> NDArray[Any]:
        """Return one array of all rollouts of the float (0) or the quantized (1) policy, joined."""
        return np.concatenate([getattr(look[side], name) for look in self.looks])

    def pairs(self) -> PairedEpisodes:
        """Return what is judged."""
        rates = np.array(self.chatter, np.float64)
        return PairedEpisodes(
            self.column(0, "episode_returns"),
            self.column(1, "episode_returns"),
            rates[:, 0] if self.chatter else None,
            rates[:, 1] if self.chatter else None,
        )


def _looks(seeds: range, num_first: int) -> Iterator[range]:
    """Cut the seeds into looks; the first, whose observations are kept, may be smaller."""
    yield seeds[:num_first]
    for start in range(num_first, len(seeds), EPISODES_A_LOOK):
        yield seeds[start : start + EPISODES_A_LOOK]


def _num_kept(known: EnvironmentSpaces) -> int:
    """Return of how many pairs all observations fit the memory: images are large."""
    steps = known.max_episode_steps or _USUAL_STEPS
    numbers = sum(part.size for part in observation_parts(known.observation_space))
    pair_bytes = 2 * 4 * numbers * steps
    return int(np.clip(_MOST_KEPT_BYTES // max(pair_bytes, 1), 2, EPISODES_A_LOOK))


def _outputs_of(policy: Policy) -> Outputs | None:
    """Return how a policy tells its outputs; one with memory cannot tell them of an observation alone."""
    found: Outputs | None = getattr(policy, "outputs", None)
    return None if getattr(policy, "has_memory", False) else found


def _bare(played: Rollout) -> Rollout:
    return Rollout(
        played.seeds, played.episode_returns, played.episode_lengths, played.is_truncated, None, None
    )


def _report(
    played: _Played,
    baseline: Baseline,
    terms: Terms,
    verdict: Verdict,
    seeds: range,
    names: tuple[str, str],
) -> ValidationReport:
    pairs = played.pairs()
    assert played.likeness is not None
    return ValidationReport(
        verdict=verdict,
        terms=terms,
        baseline=baseline,
        criteria=() if verdict is _NOTHING else judge(pairs, terms),
        float_return=bootstrap_interval(pairs.float_returns, seed=seeds.start),
        quantized_return=bootstrap_interval(pairs.quantized_returns, seed=seeds.start),
        return_drop=bootstrap_interval(pairs.losses, confidence=1.0 - 2.0 * terms.alpha, seed=seeds.start),
        likeness=played.likeness,
        backend=names[0],
        float_backend=names[1],
        seeds=tuple(seeds[: len(pairs.losses)]),
        max_episodes=len(seeds),
        pairs=pairs,
        float_episode_lengths=played.column(0, "episode_lengths"),
        quantized_episode_lengths=played.column(1, "episode_lengths"),
        divergence=tuple(played.divergence),
    )
