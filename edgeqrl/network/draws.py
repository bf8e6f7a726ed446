"""Random draws in integers, the same on every machine; `runtime/eqrl_random.c` is the twin of this file.

generator     xoshiro128**, four words of 32 bits a row, seeded from 64 bits
exponential   exp(-d * step) with 32 fraction bits, from one table of 256 or the product of two
category      the first whose cumulative weight exceeds a uniform draw below the sum of the weights
normal        the inverse of the normal distribution by straight lines, 16 to an octave of the tail's
              probability, with 16 fraction bits; |z| < 6.5
"""

from functools import cache
from math import exp, tanh
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]  # [N, 4] generators, or [N] draws
NUM_WORDS = 4  # of a generator
NORMAL_LIMIT = 6.5  # no |z| reaches it: the last knot lies at 6.34
NORMAL_BITS = 16
SQUASH_BITS = 20  # fraction bits of what `squash` reads
SQUASH_LIMIT = 8  # beyond it tanh is taken as its value there
_GOLDEN = 0x9E3779B9


def seed_words(seeds: NDArray[np.uint64]) -> Words:
    """Return generators [N, 4] for seeds [N]; never all words are zero."""
    seeds = np.asarray(seeds, np.uint64)
    low, high = (seeds & np.uint64(0xFFFFFFFF)).astype(np.uint32), (seeds >> np.uint64(32)).astype(np.uint32)
    words = np.empty((len(seeds), NUM_WORDS), np.uint32)
    for i in range(NUM_WORDS):
        first = _mixed(low + np.uint32((2 * i + 1) * _GOLDEN & 0xFFFFFFFF))
        words[:, i] = _mixed(first + high + np.uint32((2 * i + 2) * _GOLDEN & 0xFFFFFFFF))
    words[:, 0] |= ~words.any(axis=1)
    return words


def draw_words(random: Words) -> tuple[Words, Words]:
    """Draw one word [N] from each generator [N, 4]; return the draws and the generators after it."""
    s0, s1, s2, s3 = (random[:, i] for i in range(NUM_WORDS))
    draws = _rotated(s1 * np.uint32(5), 7) * np.uint32(9)
    s2, s3, shifted = s2 ^ s0, s3 ^ s1, s1 << np.uint32(9)
    after = np.stack((s0 ^ s3, s1 ^ s2, s2 ^ shifted, _rotated(s3, 11)), axis=1)
    return draws.astype(np.uint32), after.astype(np.uint32)


def exp_tables(step: float, dtype: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tables (low, high) of exp(-d * step), d being a difference of int8 (no high) or int16."""
    low = tuple(_q32(exp(-step * d)) for d in range(256))
    return low, () if dtype == "int8" else tuple(_q32(exp(-step * 256 * d)) for d in range(256))


def exponential(low: tuple[int, ...], high: tuple[int, ...], difference: NDArray[np.int64]) -> Words:
    """Return exp(-difference * step) * 2**32 as the tables have it; differences are >= 0."""
    value = np.array(low, np.uint64)[difference & 255]
    if high:
        value = (value * np.array(high, np.uint64)[difference >> 8]) >> np.uint64(32)
    return np.asarray(value, np.uint32)


def weight_shift(num_classes: int) -> int:
    """Return how far exponentials go to the right, so that the sum of all weights is below 2**30."""
    return 2 + max(1, (num_classes - 1).bit_length())


def draw_categories(weights: Words, random: Words) -> tuple[NDArray[np.int64], Words]:
    """Draw a class [N] by weights [N, num_classes], whose sums are in [1, 2**31)."""
    draws, random = draw_words(random)
    cumulative = np.cumsum(weights.astype(np.int64), axis=1)
    below = (draws.astype(np.uint64) * cumulative[:, -1].astype(np.uint64)) >> np.uint64(32)
    return (cumulative <= below.astype(np.int64)[:, None]).sum(axis=1, dtype=np.int64), random


def draw_normals(random: Words) -> tuple[NDArray[np.int64], Words]:
    """Draw a standard normal [N] with NORMAL_BITS fraction bits."""
    draws, random = draw_words(random)
    return normals(draws), random


def normals(draws: Words) -> NDArray[np.int64]:
    """Turn uniform words into standard normals with NORMAL_BITS fraction bits."""
    wide = draws.astype(np.int64)
    tail = (wide << 1 & 0xFFFFFFFF) | 1  # 2**32 times the probability of a larger |z|
    octave = np.frexp(tail.astype(np.float64))[1] - 1  # of the highest bit; exact
    fraction = (tail << (31 - octave)) & 0x7FFFFFFF  # of the octave, with 31 bits
    knots = np.array(normal_knots(), np.int64)
    place = octave * 16 + (fraction >> 27)
    here, rest = knots[place], (fraction >> 11) & 0xFFFF
    magnitude = (here << 3) - (((here - knots[place + 1]) * rest) >> 13)
    return np.asarray(np.where(wide >> 31 != 0, -magnitude, magnitude), np.int64)


@cache
def normal_knots() -> tuple[int, ...]:
    """Return z [513] with 13 fraction bits where P(|Z| > z) = 2**(i // 16 - 32) * (1 + i % 16 / 16)."""
    tails = (2.0 ** (i // 16 - 32) * (1 + i % 16 / 16) for i in range(513))
    return tuple(round(-NormalDist().inv_cdf(tail / 2) * 2**13) for tail in tails)


def squash(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return tanh with 30 fraction bits for values with SQUASH_BITS, by straight lines."""
    magnitude = np.minimum(np.abs(values), (SQUASH_LIMIT << SQUASH_BITS) - 1)
    knots = np.array(squash_knots(), np.int64)
    place, rest = magnitude >> 15, magnitude & 0x7FFF
    result = (knots[place] << 15) + (knots[place + 1] - knots[place]) * rest
    return np.asarray(np.where(values < 0, -result, result), np.int64)


@cache
def squash_knots() -> tuple[int, ...]:
    """Return tanh(i / 32) [257] with 15 fraction bits."""
    return tuple(round(tanh(i / 32) * 2**15) for i in range(257))


def _q32(value: float) -> int:
    return min(round(value * 2**32), 2**32 - 1)


def _rotated(values: Words, bits: int) -> Words:
    return (values << np.uint32(bits)) | (values >> np.uint32(32 - bits))


def _mixed(values: Words) -> Words:
    """Return a permutation of all words in which every bit depends on every bit."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))
