"""Chatter and divergence of actions: tables by hand, then what must not matter."""

import json
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeqrl.errors import DataError
from edgeqrl.validate.agreement import NO_BOUND, AgreementCounter, action_range
from edgeqrl.validate.chatter import Chatter, chatter, first_divergence, mean_chatter

UNIT = Box(-1.0, 1.0, (1,), np.float32)
OFFSET = Box(0.0, 4.0, (1,), np.float64)
HUGE = float(np.finfo(np.float32).max)


def box(*bounds: tuple[float, float]) -> Box:
    low, high = (np.array(ends, np.float32) for ends in zip(*bounds, strict=True))
    return Box(low, high)


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize(
    ("space", "actions", "rate", "jerk", "flips"),
    [
        (UNIT, column(0.5, 0.5, 0.5), 0.0, 0.0, 0.0),
        (UNIT, column(1, -1, 1, -1), 1.0, 2.0, 1.0),
        (UNIT, column(0, 1, 0, -1), 0.5, 0.5, 0.0),  # it rests at the centre between the sides
        (UNIT, column(-1, -0.5, 0, 0.5, 1), 0.25, 0.0, 0.0),
        (UNIT, column(0.03, -0.03, -0.01, 0.03), 0.02, 0.025, 1 / 3),  # 1 % of the range is 0.02
        (UNIT, column(0.019, -0.019), 0.019, 0.0, 0.0),
        (UNIT, column(3, -7), 1.0, 0.0, 1.0),  # an actuator ends at its bounds
        (UNIT, column(2, 3), 0.0, 0.0, 0.0),
        (UNIT, column(0.5), 0.0, 0.0, 0.0),
        (UNIT, column(0.5, -0.5), 0.5, 0.0, 1.0),
        (OFFSET, column(1, 3, 3), 0.25, 0.5, 0.5),
        (box((-1, 1), (0, 4)), np.array([[0.0, 0.0], [1.0, 0.0]]), 0.25, 0.0, 0.0),
        (box((-1, 1), (0, np.inf)), np.array([[0.0, 0.0], [1.0, 9.0]]), 0.5, 0.0, 0.0),
        (box((-1, 1), (-HUGE, HUGE)), np.array([[0.0, 0.0], [1.0, 9.0]]), 0.5, 0.0, 0.0),
        (box((-1, 1), (2, 2)), np.array([[0.0, 2.0], [1.0, 2.0]]), 0.5, 0.0, 0.0),
        (Box(-1.0, 1.0, (2, 2)), np.array([np.zeros((2, 2)), np.eye(2)]), 0.25, 0.0, 0.0),
        (Box(0, 10, (1,), np.int64), np.array([[0], [5], [10]]), 0.5, 0.0, 0.0),
        (Discrete(4), np.array([0, 1, 0, 0, 2]), 0.75, 1 / 3, None),
        (Discrete(4), np.array([0, 1, 0, 1, 0]), 1.0, 1.0, None),
        (Discrete(4), np.array([0, 1, 2, 3]), 1.0, 0.0, None),
        (Discrete(4), np.array([2, 2, 2]), 0.0, 0.0, None),
        (Discrete(4), np.array([2]), 0.0, 0.0, None),
        (Discrete(4), np.array([2, 1]), 1.0, 0.0, None),
        (Discrete(9, start=-3), np.array([-3, 5, -3]), 1.0, 1.0, None),
    ],
)
def test_chatter_by_hand(space: Any, actions: Any, rate: float, jerk: float, flips: float | None) -> None:
    found = chatter(actions, space)
    assert found is not None
    assert (found.rate, found.jerk) == (pytest.approx(rate), pytest.approx(jerk))
    assert found.sign_flips == (None if flips is None else pytest.approx(flips))


@pytest.mark.parametrize(
    "space", [box((-np.inf, np.inf)), box((0, np.inf)), box((-HUGE, HUGE)), box((2, 2))], ids=str
)
def test_actions_without_a_scale_have_no_chatter(space: Box) -> None:
    assert chatter(column(2, 2, 2), space) is None


def test_chatter_of_episodes_is_their_mean_each_counting_once() -> None:
    first, second = Chatter(0.2, 0.4, 0.0), Chatter(0.4, 0.2, 1.0)
    assert mean_chatter([first, second, None]) == Chatter(pytest.approx(0.3), pytest.approx(0.3), 0.5)
    assert mean_chatter([Chatter(0.25, 0.5, None)]) == Chatter(0.25, 0.5, None)
    assert mean_chatter([None, None]) is None
    assert mean_chatter([]) is None


def test_chatter_is_plain_json() -> None:
    found = chatter(np.array([1, 2], np.int64), Discrete(3))
    assert found is not None
    assert json.loads(json.dumps(found.to_json())) == {"rate": 1.0, "jerk": 0.0, "sign_flips": None}


EPISODES = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 3))


def random_actions(drawn: tuple[int, int, int]) -> tuple[Box, np.ndarray]:
    """A space [n], and an episode [T, n] that now and then leaves it or stays where it is."""
    seed, length, size = drawn
    rng = np.random.default_rng(seed)
    low = rng.uniform(-3.0, 1.0, size)
    high = low + rng.uniform(0.1, 5.0, size)
    actions = rng.uniform(low - 0.2, high + 0.2, (length, size))
    actions[rng.random(length) < 0.3] = (low + high) / 2
    return Box(low, high, dtype=np.float64), actions


@settings(max_examples=50, deadline=None)
@given(EPISODES)
def test_chatter_lies_in_its_bounds(drawn: tuple[int, int, int]) -> None:
    space, actions = random_actions(drawn)
    found = chatter(actions, space)
    assert found is not None
    assert found.sign_flips is not None
    assert 0.0 <= found.rate <= 1.0
    assert 0.0 <= found.jerk <= 2.0
    assert 0.0 <= found.sign_flips <= 1.0
    # A step enters two second differences, each of two steps at most.
    assert found.jerk * max(len(actions) - 2, 0) <= 2.0 * found.rate * max(len(actions) - 1, 0) + 1e-9


@settings(max_examples=50, deadline=None)
@given(EPISODES, st.integers(-3, 3), st.integers(-2, 2))
def test_units_order_of_dimensions_and_direction_of_time_do_not_matter(
    drawn: tuple[int, int, int], power: int, offset: int
) -> None:
    space, actions = random_actions(drawn)
    found = chatter(actions, space)
    assert found is not None

    def moved(values: Any) -> Any:
        return values * 2.0**power + offset

    others = (
        chatter(moved(actions), Box(moved(space.low), moved(space.high), dtype=np.float64)),
        chatter(actions[:, ::-1], Box(space.low[::-1], space.high[::-1], dtype=np.float64)),
        chatter(actions[::-1], space),
        chatter(-actions, Box(-space.high, -space.low, dtype=np.float64)),
    )
    for other in others:
        assert other is not None
        np.testing.assert_allclose(list(other.to_json().values()), list(found.to_json().values()), atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.permutations(range(4)))
def test_names_of_discrete_actions_do_not_matter(actions: list[int], names: list[int]) -> None:
    found = chatter(np.array(actions), Discrete(4))
    assert chatter(np.array(names)[actions], Discrete(4)) == found
    assert chatter(np.array(actions[::-1]), Discrete(4)) == found


@settings(max_examples=30, deadline=None)
@given(EPISODES)
def test_holding_each_action_twice_halves_the_rate(drawn: tuple[int, int, int]) -> None:
    space, actions = random_actions(drawn)
    once, twice = chatter(actions, space), chatter(np.repeat(actions, 2, axis=0), space)
    assert once is not None
    assert twice is not None
    steps = len(actions) - 1
    assert twice.rate * (2 * steps + 1) == pytest.approx(once.rate * steps)


@pytest.mark.parametrize(
    ("space", "ours", "theirs", "step"),
    [
        (Discrete(4), [1, 2, 3], [1, 2, 3], None),
        (Discrete(4), [1, 2, 3], [1, 0, 3], 1),
        (Discrete(4), [1, 2, 3], [0, 2, 3], 0),
        (Discrete(4), [1, 2, 3], [1, 2], 2),
        (Discrete(4), [1], [1, 2], 1),
        (Discrete(4), [1, 0, 3], [1, 2], 1),
        (None, [1, 2], [1, 3], 1),
        (UNIT, [[0.0], [0.5]], [[0.019], [0.5]], None),  # 1 % of the range is 0.02
        (UNIT, [[0.0], [0.5]], [[0.019], [0.521]], 1),
        (box((0, np.inf)), [[50.0], [0.0]], [[50.4], [0.02]], 1),
        (None, [[50.0], [0.0]], [[50.4], [0.02]], 1),
    ],
)
def test_first_divergence_by_hand(space: Any, ours: Any, theirs: Any, step: int | None) -> None:
    assert first_divergence(np.array(ours), np.array(theirs), space) == step
    assert first_divergence(np.array(ours), np.array(ours), space) is None


@settings(max_examples=50, deadline=None)
@given(EPISODES, st.floats(0.0, 0.05))
def test_episodes_part_where_the_counter_says_so(drawn: tuple[int, int, int], noise: float) -> None:
    space, actions = random_actions(drawn)
    others = actions + np.random.default_rng(drawn[0]).normal(0.0, noise, actions.shape)

    def agreement(rows: slice) -> float:
        counter = AgreementCounter(space)
        counter.add(actions[rows], others[rows])
        return counter.result().action_agreement

    step = first_divergence(actions, others, space)
    if step is None:
        assert agreement(slice(None)) == 1.0
        return
    assert step == 0 or agreement(slice(step)) == 1.0
    assert agreement(slice(step, step + 1)) == 0.0


@pytest.mark.parametrize("most", [np.inf, NO_BOUND, 1e308])
@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-1.0, 0.0), (0.0, 1.0)], ids=["neither", "high", "low"])
def test_bound_that_is_none_gives_no_range(most: float, bounds: tuple[float, float]) -> None:
    """Spaces write the greatest float32 for "no bound"."""
    low, high = (most * bound if bound else 0.0 for bound in bounds)
    space = Box(np.array([low, -1.0]), np.array([high, 1.0]), dtype=np.float64)
    span = action_range(space)
    assert span is not None
    assert span.tolist() == [np.inf, 2.0]
    ours, theirs = np.array([[1.0, 0.0], [100.0, 0.0]]), np.array([[1.5, 0.0], [100.5, 0.0]])
    # Without a range it is 1 % of the action, at least 0.01.
    assert first_divergence(ours, theirs, space) == 0
    assert first_divergence(ours[1:], theirs[1:], space) is None


def test_actions_of_different_shapes_do_not_compare() -> None:
    with pytest.raises(DataError, match="different shapes"):
        first_divergence(np.zeros((3, 2)), np.zeros((3, 1)))
