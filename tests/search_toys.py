"""A search on toys: every scheme becomes a policy whose mistakes and costs are known, in milliseconds."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.search.candidate import Built, Task
from edgeqrl.search.costs import Costs
from edgeqrl.search.episodes import ChoosingEpisodes
from edgeqrl.search.options import SearchOptions
from edgeqrl.validate.terms import Declared
from tests.toys import TargetEnv, TargetPolicy

LAYERS = ("net/dense/MatMul", "net/dense_1/MatMul", "net/dense_2/MatMul")
WRONG_EVERY = {8: 0, 4: 0, 3: 4, 2: 2}  # steps between mistakes, by the bits of the coarsest layer; 0: none


def mistakes(scheme: Scheme) -> int:
    """Return `wrong_every` of the policy that `scheme` becomes: fewer bits, more mistakes."""
    bits = min(scheme.bits_of(layer) for layer in LAYERS)
    return WRONG_EVERY[4 if scheme.learned and bits == 3 else bits]


class Maker:
    """Builds toys, and remembers which."""

    def __init__(
        self,
        wrong_every: Callable[[Scheme], int] = mistakes,
        *,
        flash: int = 10**6,
        impossible: Callable[[Scheme], bool] = lambda _: False,
    ) -> None:
        self.wrong_every, self.flash, self.impossible = wrong_every, flash, impossible
        self.made: list[Scheme] = []
        self.opened: list[Scheme] = []

    def __call__(self, scheme: Scheme) -> Built:
        self.made.append(scheme)
        if self.impossible(scheme):
            raise UnsupportedOperatorError("Nothing of this is known.")
        flash = 1000 * sum(scheme.bits_of(layer) for layer in LAYERS)
        is_wide = scheme.activations == "int16"
        over = f"flash: {flash:,} bytes needed, {self.flash:,} there" if flash > self.flash else None
        costs = Costs(flash + 500 * is_wide, 9000 + 3000 * is_wide, 200)
        return Built(costs, over, repr(scheme), LAYERS, lambda: self.policy(scheme), scheme)

    def policy(self, scheme: Scheme) -> TargetPolicy:
        self.opened.append(scheme)
        return TargetPolicy("toy", self.wrong_every(scheme))


def toy_task(
    maker: Callable[[Scheme], Built],
    *,
    float_policy: Any = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    has_states: bool = False,
    declared: Declared | None = None,
    **options: Any,
) -> Task:
    """Return a search among toys: 20 steps of TargetEnv, of which the float policy gets all right."""
    chosen = SearchOptions(**{"episodes": 128, **options})
    episodes = _episodes(float_policy or FLOAT, declared or Declared(), chosen.seed, chosen.episodes)
    return Task(maker, episodes, chosen, has_states, progress)


class Careless:
    """Names a wrong target in `rate` of the steps, by the draws that the episode's generator gives it."""

    def __init__(self, name: str, rate: float, *, skips: int = 0) -> None:
        self.name, self.rate, self.skips = name, rate, skips  # of the draws: others make other mistakes

    def act(self, observations: Any, state: Any, *, rng: Any, **_: Any) -> Any:
        drawn = np.array([generator.random(2)[self.skips] for generator in rng])
        target = observations[:, 0].astype(np.int64)
        return np.where(drawn < self.rate, (target + 1) % 4, target), ()


FLOAT = TargetPolicy("float")


@lru_cache
def _episodes(float_policy: Any, declared: Declared, seed: int, most: int) -> ChoosingEpisodes:
    """Return the float policy's episodes, which are played once for all tests."""
    return ChoosingEpisodes(
        float_policy, TargetEnv, declared=declared, seed=seed, most=most, judged_episodes=2000
    )
