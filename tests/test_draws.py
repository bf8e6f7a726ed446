"""Draws against the distributions that they stand for, and against published numbers."""

import re
from collections.abc import Callable
from math import exp, tanh

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network import draws
from edgeqrl.network.draws import (
    NORMAL_LIMIT,
    draw_categories,
    draw_normals,
    draw_words,
    exp_tables,
    exponential,
    normal_knots,
    normals,
    seed_words,
    squash,
    squash_knots,
    weight_shift,
)
from edgeqrl.network.edges import (
    LogStd,
    MultiDiscreteEdge,
    draw_actions,
    limits,
    make_gaussian_edge,
    make_log_std,
    make_multi_binary_edge,
    make_multi_discrete_edge,
)
from firmware_export.emit import runtime_sources

COUNT = 200_000
INF = np.inf
PINNED_SEED_0 = [2060969114, 1380657834, 2183339587, 4109852527]
PINNED_DRAWS = [2604659637, 3028662005, 2955078067, 2876157646]


def generators(count: int, seed: int = 0) -> np.ndarray:
    return seed_words(np.random.default_rng(seed).integers(2**64, size=count, dtype=np.uint64))


def test_the_generator_is_xoshiro128_starstar() -> None:
    """By Python's integers, as its authors define it."""
    rotate = lambda x, k: ((x << k) | (x >> (32 - k))) & 0xFFFFFFFF  # noqa: E731
    s, random = [1, 2, 3, 4], np.array([[1, 2, 3, 4]], np.uint32)
    for _ in range(100):
        expected = rotate(s[1] * 5 & 0xFFFFFFFF, 7) * 9 & 0xFFFFFFFF
        t = s[1] << 9 & 0xFFFFFFFF
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotate(s[3], 11)
        drawn, random = draw_words(random)
        assert int(drawn[0]) == expected
        assert random[0].tolist() == s


def test_the_first_draws_of_a_seed_never_change() -> None:
    words = seed_words(np.array([0, 1, 2**32, 2**64 - 1], np.uint64))
    assert words[0].tolist() == PINNED_SEED_0
    drawn, _ = draw_words(words)
    assert drawn.tolist() == PINNED_DRAWS


def test_seeds_give_different_generators_of_which_none_is_zero() -> None:
    seeds = np.concatenate((np.arange(50_000), np.arange(50_000) << 32)).astype(np.uint64)
    words = seed_words(np.unique(seeds))
    assert len(np.unique(words, axis=0)) == len(words)
    assert words.any(axis=1).all()
    bits = np.unpackbits(words.view(np.uint8), axis=1).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 0.01


def test_words_of_one_generator_and_first_words_of_many_are_uniform() -> None:
    random, rows = generators(1), []
    for _ in range(20_000):
        drawn, random = draw_words(random)
        rows.append(drawn[0])
    across, _ = draw_words(seed_words(np.arange(20_000, dtype=np.uint64)))
    for values in (np.array(rows), across):
        counts = np.bincount(values >> np.uint32(24), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("knots", ["normal", "squash"])
def test_the_tables_are_the_same_with_any_mathematics_library(knots: str) -> None:
    """No knot lies so near a half that another library would round it otherwise."""
    if knots == "normal":
        tails = [2.0 ** (i // 16 - 32) * (1 + i % 16 / 16) for i in range(513)]
        exact, found = -ndtri(np.array(tails) / 2) * 2**13, normal_knots()
    else:
        exact, found = np.array([tanh(i / 32) * 2**15 for i in range(257)]), squash_knots()
    assert np.abs(exact - np.array(found)).max() <= 0.5
    assert np.abs(np.abs(exact - np.floor(exact)) - 0.5).min() > 1e-7


@pytest.mark.parametrize(("name", "knots"), [("normal_knots", normal_knots), ("squash_knots", squash_knots)])
def test_the_runtime_has_the_same_tables(name: str, knots: Callable[[], tuple[int, ...]]) -> None:
    text = runtime_sources()["eqrl_gaussian.c"].decode()
    (table,) = re.findall(rf"{name}\[(?:\d+)\] = {{([^}}]*)}}", text)
    assert tuple(int(n) for n in re.findall(r"\d+", table)) == knots()


def test_a_normal_is_within_3e_4_of_the_exact_inverse_for_every_tail() -> None:
    powers = 2.0 ** np.linspace(0, 31, 400_001)
    words = np.minimum(powers, 2**31 - 1).astype(np.uint32)
    exact = -ndtri((2 * words.astype(np.float64) + 1) / 2**33)
    error = normals(words) / 2**16 - exact
    assert np.abs(error).max() < 3e-4
    largest = np.abs(normals(np.array([0, *words], np.uint32))).max() / 2**16
    assert largest == pytest.approx(6.34, abs=0.005)
    header = runtime_sources()["eqrl_kernels.h"].decode()
    for said in (header, str(draws.__doc__)):
        assert [float(z) for z in re.findall(r"\|z\| < ([0-9.]+\d)", said)] == [NORMAL_LIMIT]
    assert largest < NORMAL_LIMIT
    np.testing.assert_array_equal(normals(words | np.uint32(2**31)), -normals(words))


@pytest.mark.parametrize("count", [COUNT, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_normals_are_normal(count: int) -> None:
    drawn, _ = draw_normals(generators(count, 3))
    z = drawn / 2**16
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(z.mean()) < 4 / np.sqrt(count)
    assert abs(z.std() - 1) < 4 / np.sqrt(2 * count)
    assert abs(stats.kurtosis(z)) < 4 * np.sqrt(24 / count)
    assert abs((np.abs(z) > 3).mean() - 0.0026998) < 4 * np.sqrt(0.0027 / count)


def test_tanh_is_within_2_to_the_minus_13() -> None:
    values = np.arange(-(9 << 20), 9 << 20, 37)
    assert np.abs(squash(values) / 2**30 - np.tanh(values / 2**20)).max() < 2.0**-13
    assert squash(np.array([0, 2**31 - 1, 1 - 2**31])).tolist() == [0, 2**30, -(2**30)]


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_exponentials_are_exact_to_2_to_the_minus_30(dtype: str) -> None:
    step = 0.05 if dtype == "int8" else 0.0003
    differences = np.arange(256 if dtype == "int8" else 65536)
    found = exponential(*exp_tables(step, dtype), differences) / 2.0**32
    assert np.abs(found - np.exp(-step * differences)).max() < 2.0**-30


@pytest.mark.parametrize("num_classes", [1, 2, 3, 4, 5, 128, 129, 1000, 32767])
def test_the_sum_of_all_weights_is_below_2_to_the_30(num_classes: int) -> None:
    most = num_classes * ((2**32 - 1) >> weight_shift(num_classes))
    assert 0 < most < 2**30


def softmax(values: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    weights = np.exp(values - values.max())
    weights = weights if allowed is None else weights * allowed
    return weights / weights.sum()


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("count", [COUNT, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_categories_have_the_probabilities_of_the_softmax(dtype: str, count: int) -> None:
    scale = 0.05 if dtype == "int8" else 0.05 / 256
    logits = np.array([0.0, 1.5, -0.7, 3.0, 2.95, -4.0])
    q = np.round(logits / scale).astype(dtype)
    edge = make_multi_discrete_edge((6,), (10,), scale=scale, dtype=dtype, shape=())
    actions, _ = draw_actions(edge, [np.repeat(q[None], count, axis=0)], generators(count, 4))
    found = np.bincount(actions - 10, minlength=6)
    assert stats.chisquare(found, softmax(q * scale) * count).pvalue > 1e-3


def test_the_probability_of_each_category_is_within_2_to_the_minus_22() -> None:
    """Not by drawing: the share of the 2**32 words that choose it."""
    for size, scale in ((2, 0.11), (6, 0.03), (17, 0.2)):
        q = np.random.default_rng(size).integers(-128, 128, size)
        edge = make_multi_discrete_edge((size,), (0,), scale=scale)
        weights = exponential(edge.exp_low, edge.exp_high, q.max() - q) >> np.uint32(weight_shift(size))
        assert np.abs(weights / weights.sum() - softmax(q * scale)).max() < 2.0**-22


def test_a_mask_takes_probability_away_and_one_that_allows_nothing_is_ignored() -> None:
    logits = np.array([[90, 0, -20, -128]], np.int8)
    edge = MultiDiscreteEdge((4,), (0,), True, *exp_tables(0.04, "int8"), shape=())
    for mask in ([False, True, True, False], [False, False, False, True], [False] * 4):
        allowed = np.array(mask)
        masks = np.repeat(allowed[None], COUNT, axis=0)
        outputs = np.repeat(logits, COUNT, axis=0)
        actions, _ = draw_actions(edge, [outputs], generators(COUNT, 5), masks)
        expected = softmax(logits[0] * 0.04, allowed if allowed.any() else None)
        found = np.bincount(actions, minlength=4)
        assert (found[expected == 0] == 0).all()
        kept = expected > 0
        if kept.sum() > 1:
            assert stats.chisquare(found[kept], expected[kept] * COUNT).pvalue > 1e-3


def test_several_actions_are_independent_and_each_has_its_softmax() -> None:
    edge = make_multi_discrete_edge((3, 2), (5, 0), scale=0.05)
    q = np.array([0, 20, -10, 7, -7], np.int8)
    actions, _ = draw_actions(edge, [np.repeat(q[None], COUNT, axis=0)], generators(COUNT, 6))
    assert (actions.shape, actions.dtype) == ((COUNT, 2), np.int64)
    joint = np.outer(softmax(q[:3] * 0.05), softmax(q[3:] * 0.05)).ravel()
    found = np.bincount((actions[:, 0] - 5) * 2 + actions[:, 1], minlength=6)
    assert stats.chisquare(found, joint * COUNT).pvalue > 1e-3


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_binary_actions_have_the_logistic_probability(dtype: str) -> None:
    zero_point, scale = (5, 0.05) if dtype == "int8" else (0, 0.05 / 256)
    edge = make_multi_binary_edge((3,), zero_point, scale=scale, dtype=dtype)
    logits = np.array([-1.0, 0.0, 2.0])
    q = (np.round(logits / scale) + zero_point).astype(dtype)
    actions, _ = draw_actions(edge, [np.repeat(q[None], COUNT, axis=0)], generators(COUNT, 7))
    chance = 1 / (1 + np.exp(-logits))
    error = 4 * np.sqrt(chance * (1 - chance) / COUNT)
    assert (np.abs(actions.mean(axis=0) - chance) < error).all()


@pytest.mark.parametrize("is_squashed", [False, True], ids=["plain", "squashed"])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_a_gaussian_action_is_the_formula_of_its_normal(dtype: str, is_squashed: bool) -> None:
    rng = np.random.default_rng(8)
    scale, zero_point = (0.02, 3) if dtype == "int8" else (0.0001, 0)
    gain, offset, std = np.array([1.0, -2.5]), np.array([0.0, 1.0]), np.array([0.3, 0.05])
    low, high = np.array([-1.0, -INF], np.float32), np.array([1.0, 3.0], np.float32)
    edge = make_gaussian_edge(
        scale=scale, zero_point=zero_point, gain=gain, offset=offset, low=low, high=high, std=std,
        is_squashed=is_squashed, dtype=dtype,
    )  # fmt: skip
    q = rng.integers(*limits(dtype), (5000, 2)).astype(dtype)
    random = generators(5000, 9)
    actions, after = draw_actions(edge, [q], random)
    z, state = np.empty((5000, 2)), random
    for i in range(2):
        drawn, state = draw_normals(state)
        z[:, i] = drawn / 2**16
    np.testing.assert_array_equal(after, state)
    mean = (q.astype(np.float64) - zero_point) * scale
    raw = mean + std * z
    exact = np.clip(gain * (np.tanh(raw) if is_squashed else raw) + offset, low, high)
    assert actions.dtype == np.float32
    assert np.abs(actions - exact).max() < (1e-6 if dtype == "int8" and not is_squashed else 3e-4)


@pytest.mark.parametrize(("dtype", "scale"), [("int8", 0.09), ("int16", 0.0006)])
def test_a_standard_deviation_from_the_network_is_clipped_and_exponential(dtype: str, scale: float) -> None:
    log_std, greatest = make_log_std(scale, 0, dtype, low=-5.0, high=2.0)
    assert abs(greatest - exp(2.0)) < 1e-6
    ends = np.array([INF], np.float32)
    edge = make_gaussian_edge(
        scale=0.01, zero_point=0, gain=np.ones(1), offset=np.zeros(1), low=-ends, high=ends, std=greatest,
        log_std=log_std,
    )  # fmt: skip
    q = np.arange(*limits(dtype), 1 if dtype == "int8" else 97).astype(dtype)[:, None]
    random = generators(len(q), 10)
    actions, _ = draw_actions(edge, [np.zeros((len(q), 1), np.int8), q], random)
    z = draw_normals(random)[0][:, None] / 2**16
    exact = np.exp(np.clip(q * scale, -5.0, 2.0)) * z
    tolerance = 2e-6 if dtype == "int8" else 2e-3  # int16 rounds the clip to a step
    assert (np.abs(actions - exact) <= tolerance * np.abs(exact) + 1e-6).all()


def test_deviations_that_no_action_has_are_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="log_std can reach"):
        make_log_std(0.5, 0)
    with pytest.raises(UnsupportedOperatorError, match="before its tanh"):
        one = np.ones(1, np.float32)
        make_gaussian_edge(
            scale=0.1, zero_point=0, gain=one, offset=one, low=-one, high=one, std=1e4, is_squashed=True
        )
    with pytest.raises(ValueError, match="second table"):
        LogStd(*exp_tables(0.1, "int16"), -3, 3)


def test_draws_are_choices_of_the_first_class_beyond_the_word() -> None:
    weights = np.array([[0, 3, 0, 1]], np.uint32)
    counts = np.zeros(4, int)
    state = generators(1, 11)
    for _ in range(2000):
        drawn, after = draw_words(state)
        chosen, state = draw_categories(weights, state)
        np.testing.assert_array_equal(after, state)
        assert int(chosen[0]) == (1 if int(drawn[0]) * 4 >> 32 < 3 else 3)
        counts[int(chosen[0])] += 1
    assert counts[1] > counts[3] > 0
