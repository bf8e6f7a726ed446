"""Where the drops of benchmarks/verdict.py come from, in units of the margin; means are exact."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]
SEED = 20261122


@dataclass(frozen=True)
class World:
    """A distribution of drops: `noise` draws them [R, N], less their mean; whole where a mean is given."""

    name: str
    worst_loss: float
    noise: Draw
    is_run_long: bool = False
    mean: str = ""  # in words, of a world outside the assumption


def generator(purpose: str) -> np.random.Generator:
    return np.random.default_rng([SEED, zlib.crc32(purpose.encode())])


def normal_noise(standard: Array, spread: float, room: float) -> Array:
    """Return noise of mean 0, cut off on both sides at `room`."""
    return np.clip(spread * standard, -room, room)


def _normal(spread: float, worst_loss: float = 40.0) -> Draw:
    return lambda rng, shape: normal_noise(rng.normal(size=shape), spread, worst_loss - 1)


def _skewed(draw: Draw, mean_below: Callable[[float], float], scale: float, worst_loss: float = 40.0) -> Draw:
    """Return noise with a long tail of losses: `draw`, cut off where the drop reaches the worst loss.

    `mean_below` of a cut is the mean of what is drawn and cut off there.
    """
    room = worst_loss - 1
    cut = brentq(lambda c: scale * (c - mean_below(c)) - room, 0.5 * room / scale, 10 + 3 * room / scale)

    def noise(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        return np.asarray(np.minimum(scale * (np.minimum(draw(rng, shape), cut) - mean_below(cut)), room))

    return noise


def _mirrored(draw: Draw) -> Draw:
    return lambda rng, shape: -draw(rng, shape)


def _catastrophe(chance: float, worst_loss: float) -> Draw:
    """Return noise about a mean drop of 1: worst_loss with this chance, else about what is left."""
    rest = (1 - chance * worst_loss) / (1 - chance)

    def noise(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        usual = rest + normal_noise(rng.normal(size=shape), 1, 5)
        return np.where(rng.random(shape) < chance, worst_loss, usual) - 1.0

    return noise


def _paired(correlation: float) -> Draw:
    """Return float returns less quantized ones, each with a spread of 10 margins."""

    def noise(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        float_return = 10 * rng.normal(size=shape)
        own = np.sqrt(1 - correlation**2) * 10 * rng.normal(size=shape)
        return np.asarray(np.clip(float_return - (correlation * float_return + own), -39, 39))

    return noise


def _two_values(low: float, high: float) -> Draw:
    """Return noise about 1 that takes only these two drops."""
    chance = (1 - low) / (high - low)
    return lambda rng, shape: np.asarray(np.where(rng.random(shape) < chance, high, low) - 1, np.float64)


def _exponential_below(cut: float) -> float:
    return float(1 - np.exp(-cut))


def _lognormal_below(cut: float) -> float:
    log = np.log(cut)
    return float(np.exp(0.5) * ndtr(log - 1) + cut * (1 - ndtr(log)))


def _pareto_below(cut: float) -> float:
    return float(1 + 2 * (1 - cut**-0.5))  # of tail index 1.5


def _pareto(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return 1 + rng.pareto(1.5, size=shape)


_exponential = _skewed(lambda rng, shape: rng.exponential(size=shape), _exponential_below, 5)
_lognormal = _skewed(lambda rng, shape: rng.lognormal(size=shape), _lognormal_below, 2)

WORLDS = (
    World("normal, sd 3", 40, _normal(3), is_run_long=True),
    World("normal, sd 10", 40, _normal(10)),
    World("exponential losses", 40, _exponential),
    World("exponential gains", 40, _mirrored(_exponential)),
    World("lognormal losses", 40, _lognormal),
    World("lognormal gains", 40, _mirrored(_lognormal)),
    World("t, 2 degrees of freedom", 40, lambda rng, shape: np.clip(2 * rng.standard_t(2, shape), -39, 39)),
    World("Pareto losses, index 1.5", 40, _skewed(_pareto, _pareto_below, 1)),
    World("2 % catastrophes", 50, _catastrophe(0.02, 50)),
    World("1 % catastrophes", 100, _catastrophe(0.01, 100), is_run_long=True),
    World("0.1 % catastrophes", 1000, _catastrophe(0.001, 1000), is_run_long=True),
    World("only +L or -L", 40, _two_values(-40, 40)),
    World("0, or L in 2.5 %", 40, _two_values(0, 40), is_run_long=True),
    World("constant", 40, lambda _, shape: np.zeros(shape)),
    World("returns correlated 0", 40, _paired(0.0)),
    World("returns correlated 0.5", 40, _paired(0.5)),
    World("returns correlated 0.95", 40, _paired(0.95)),
)


def _unseen(chance: float, loss: float) -> Draw:
    return lambda rng, shape: np.where(rng.random(shape) < chance, loss, rng.normal(size=shape))


def _endless_pareto(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return 1 + (_pareto(rng, shape) - 3)


def _remembering(memory: float) -> Draw:
    """Return drops of mean 1 and spread 5, each of which remembers the last (AR(1))."""

    def drops(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        fresh = rng.normal(size=shape)
        found = np.empty(shape)
        found[:, 0] = fresh[:, 0]
        for at in range(1, shape[1]):
            found[:, at] = memory * found[:, at - 1] + np.sqrt(1 - memory**2) * fresh[:, at]
        return 1 + normal_noise(found, 5, 39)

    return drops


def _drifting(first: float, last: float, *, is_sudden: bool) -> Draw:
    def drops(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        path = np.linspace(0, 1, shape[1])
        mean = first + (last - first) * ((path >= 0.5) if is_sudden else path)
        return mean + normal_noise(rng.normal(size=shape), 3, 30)

    return drops


OUTSIDE = (
    World("0.5 % lose 10 L", 40, _unseen(0.005, 400), mean="2"),
    World("0.1 % lose 50 L", 40, _unseen(0.001, 2000), mean="2"),
    World("infinite variance (Pareto 1.5)", 40, _endless_pareto, mean="1"),
    World("AR(1) 0.5", 40, _remembering(0.5), mean="1"),
    World("AR(1) 0.9", 40, _remembering(0.9), mean="1"),
    World("AR(1) 0.99", 40, _remembering(0.99), mean="1"),
    World("drifts from 0 to 2", 40, _drifting(0, 2, is_sudden=False), mean="1 in all"),
    World("jumps from 0 to 2 half-way", 40, _drifting(0, 2, is_sudden=True), mean="1 in all"),
)
