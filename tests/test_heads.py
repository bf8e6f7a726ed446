"""Outputs become actions by rules that the action space decides, and the same in integers."""

import json

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from edgeqrl.agents.heads import (
    BoxHead,
    DiscreteHead,
    GaussianHead,
    Head,
    MultiBinaryHead,
    Scale,
    ValueHead,
    head_from_json,
    head_to_json,
    infer_head,
)
from edgeqrl.agents.options import AgentOptions
from edgeqrl.errors import AgentError, EdgeQRLError, UsageError
from edgeqrl.network.draws import seed_words
from edgeqrl.network.edges import decode_actions, draw_actions

TORQUE = spaces.Box(-2.0, 2.0, (1,))
UNBOUNDED = spaces.Box(-np.inf, np.inf, (2,))


@pytest.mark.parametrize(
    ("space", "num_outputs", "ends_in_tanh", "stated", "expected"),
    [
        (spaces.Discrete(3), 3, False, None, DiscreteHead.single(3)),
        (spaces.Discrete(3, start=-1), 3, False, "argmax", DiscreteHead.single(3, -1)),
        (spaces.MultiDiscrete([3, 2], start=[1, 0]), 5, False, None, DiscreteHead((3, 2), (1, 0))),
        (spaces.MultiDiscrete([[3, 2]]), 5, False, None, DiscreteHead((3, 2), (0, 0), (1, 2))),
        (spaces.MultiBinary([2, 2]), 4, False, None, MultiBinaryHead((2, 2))),
        (spaces.Discrete(3), 1, False, "value", ValueHead()),
        (TORQUE, 1, False, "squash", BoxHead((1,), (-2.0,), (2.0,), (2.0,), (0.0,))),
        (TORQUE, 1, True, None, BoxHead((1,), (-2.0,), (2.0,), (2.0,), (0.0,))),
        (TORQUE, 1, False, None, BoxHead((1,), (-2.0,), (2.0,), (1.0,), (0.0,))),
        (TORQUE, 1, True, "clip", BoxHead((1,), (-2.0,), (2.0,), (1.0,), (0.0,))),
        (spaces.Box(0.0, 4.0, (1,)), 1, True, None, BoxHead((1,), (0.0,), (4.0,), (2.0,), (2.0,))),
        (UNBOUNDED, 2, True, None, BoxHead((2,), (-np.inf,) * 2, (np.inf,) * 2, (1.0,) * 2, (0.0,) * 2)),
    ],
)
def test_head_fits_the_action_space(
    space: spaces.Space, num_outputs: int, ends_in_tanh: bool, stated: str | None, expected: Head
) -> None:
    head = infer_head(space, num_outputs, ends_in_tanh=ends_in_tanh, options=AgentOptions(head=stated))
    assert head == expected
    assert head_from_json(head_to_json(head)) == head


@pytest.mark.parametrize(
    ("space", "num_outputs", "stated", "error", "message"),
    [
        (spaces.Discrete(3), 4, None, AgentError, "4 outputs"),
        (spaces.Discrete(3), 1, None, AgentError, "1 output, "),
        (TORQUE, 2, None, AgentError, "2 outputs.*keep only the mean: keras.Model"),
        (None, 1, "scale", UsageError, "add --action-bounds LOW HIGH"),
        (
            spaces.Text(3),
            3,
            None,
            AgentError,
            "is Text, and only Discrete, MultiDiscrete, MultiBinary and Box",
        ),
        (spaces.MultiBinary(3), 3, "argmax", UsageError, "does not fit a MultiBinary"),
        (spaces.MultiDiscrete([3, 2]), 4, None, AgentError, "4 outputs.*needs 5"),
        (spaces.Discrete(3), 33, None, AgentError, "a distribution of each Q-value, add --distribution"),
        (UNBOUNDED, 2, "squash", UsageError, "Head 'squash' needs finite bounds"),
        (spaces.Discrete(3), 3, "scale", UsageError, "does not fit"),
        (TORQUE, 1, "argmax", UsageError, "does not fit"),
        (UNBOUNDED, 2, "scale", UsageError, "finite bounds"),
        (TORQUE, 1, "softmax", UsageError, "no head"),
        (None, 3, None, UsageError, "--head"),
    ],
)
def test_mismatch_is_one_sentence(
    space: spaces.Space | None, num_outputs: int, stated: str | None, error: type[EdgeQRLError], message: str
) -> None:
    with pytest.raises(error, match=message):
        infer_head(space, num_outputs, ends_in_tanh=False, options=AgentOptions(head=stated))


def test_without_an_environment_the_options_say_the_space() -> None:
    assert infer_head(
        None, 3, ends_in_tanh=False, options=AgentOptions(head="argmax")
    ) == DiscreteHead.single(3)
    options = AgentOptions(head="scale", action_bounds=(-2.0, 2.0))
    scaled = infer_head(None, 1, ends_in_tanh=True, options=options)
    assert scaled == infer_head(TORQUE, 1, ends_in_tanh=True)


ROWS = ((-1.0, -np.inf), (1.0, np.inf), (2.0, 0.5), (0.0, 0.25))
HEADS: list[Head] = [
    DiscreteHead.single(4, 1),
    DiscreteHead.single(4, 1, is_stochastic=True),
    DiscreteHead((3, 2), (0, -1)),
    DiscreteHead((3, 2, 2, 2), (0, -1, 0, 0), (2, 2), is_stochastic=True),
    MultiBinaryHead((2, 2)),
    MultiBinaryHead((3,), is_stochastic=True),
    DiscreteHead((3,), (2,)),
    DiscreteHead((3, 2), (0, -1), is_stochastic=True),
    MultiBinaryHead((2, 2), is_stochastic=True),
    BoxHead((2,), *ROWS),
    GaussianHead((2,), *ROWS, log_std=(-1.0, 0.5)),
    GaussianHead((2,), *ROWS, is_squashed=True, log_std_range=(-20.0, 2.0)),
    ValueHead(),
    ValueHead(("a", "b")),
]
NAMES = [f"{i}_{type(head).__name__}" for i, head in enumerate(HEADS)]


@pytest.mark.parametrize("head", HEADS, ids=NAMES)
def test_json_form_is_the_same_head(head: Head) -> None:
    text = json.dumps(head_to_json(head), allow_nan=False)
    assert head_from_json(json.loads(text)) == head


@pytest.mark.parametrize("head", HEADS, ids=NAMES)
def test_integer_heads_act_as_float_heads_on_the_same_numbers_and_draws(head: Head) -> None:
    rng = np.random.default_rng(0)
    scale, zero_point, count = 0.03, -7, 4000
    quantized = [rng.integers(-128, 128, (count, size)).astype(np.int8) for size in head.output_sizes]
    floats = [((q.astype(np.float64) - zero_point) * scale).astype(np.float32) for q in quantized]
    masks = rng.random((count, head.num_outputs)) < 0.7 if head.takes_masks else None
    words = seed_words(rng.integers(2**64, size=count, dtype=np.uint64))
    edge = head.edge(*[Scale(scale, zero_point)] * len(quantized), is_masked=masks is not None)
    actions, after = draw_actions(edge, quantized, words.copy(), masks)
    exact = head.actions(floats, masks, words)
    np.testing.assert_array_equal(words, after)  # as many draws, in the same order
    assert actions.shape == exact.shape
    if exact.dtype == np.float32:
        largest = np.abs(exact[np.isfinite(exact)]).max()
        assert np.abs(actions - exact).max() <= 2e-4 * max(1.0, largest)
    elif head.is_stochastic:
        assert np.mean(actions != exact) < 1e-3  # a draw on the border of two
    else:
        np.testing.assert_array_equal(actions, exact)


def test_draws_are_of_the_distribution_that_the_outputs_state() -> None:
    count = 100_000
    words = seed_words(np.arange(count, dtype=np.uint64))
    logits = np.broadcast_to(np.log(np.float32([0.5, 0.3, 0.15, 0.05])), (count, 4))
    choice = DiscreteHead.single(4, is_stochastic=True)
    shares = np.bincount(choice.actions(logits, None, words), minlength=4) / count
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.006)
    masks = np.broadcast_to(np.array([True, False, True, False]), (count, 4))
    shares = np.bincount(choice.actions(logits, masks, words), minlength=4) / count
    np.testing.assert_allclose(shares, [0.5 / 0.65, 0, 0.15 / 0.65, 0], atol=0.006)
    switch = MultiBinaryHead((1,), is_stochastic=True)
    on = switch.actions(np.full((count, 1), np.log(3.0), np.float32), None, words)
    assert abs(on.mean() - 0.75) < 0.006
    head = GaussianHead((1,), (-np.inf,), (np.inf,), (2.0,), (1.0,), log_std=(np.log(0.5),))
    drawn = head.actions(np.full((count, 1), 3.0, np.float32), None, words)
    assert abs(drawn.mean() - 7.0) < 0.02
    assert abs(drawn.std() - 1.0) < 0.02


def test_heads_that_draw_need_their_generators() -> None:
    with pytest.raises(ValueError, match="needs the words"):
        DiscreteHead.single(2, is_stochastic=True).actions(np.zeros((1, 2), np.float32))


@pytest.mark.parametrize(
    ("space", "num_outputs", "has_log_std", "expected"),
    [
        (spaces.Discrete(3, start=1), 3, False, DiscreteHead.single(3, 1, is_stochastic=True)),
        (spaces.MultiDiscrete([3, 2]), 5, False, DiscreteHead((3, 2), (0, 0), is_stochastic=True)),
        (spaces.MultiBinary(3), 3, False, MultiBinaryHead((3,), is_stochastic=True)),
        (TORQUE, 1, True, GaussianHead((1,), (-2.0,), (2.0,), (1.0,), (0.0,))),
    ],
)
def test_stochastic_policies_get_the_head_that_draws(
    space: spaces.Space, num_outputs: int, has_log_std: bool, expected: Head
) -> None:
    options = AgentOptions(stochastic=True)
    head = infer_head(space, num_outputs, ends_in_tanh=False, options=options, has_log_std=has_log_std)
    assert head == expected


def test_several_choices_are_made_one_by_one_under_their_own_masks() -> None:
    head = DiscreteHead((3, 2), (0, 5))
    outputs = np.float32([[1, 2, 3, 0, 1]])
    assert head.actions(outputs).tolist() == [[2, 6]]
    assert head.actions(outputs, np.array([[True, True, False, True, False]])).tolist() == [[1, 5]]
    assert head.actions(outputs, np.array([[True, False, False, False, False]])).tolist() == [[0, 6]]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "evil"},
        {"shape": [2]},
        {"shape": [-1]},
        {"low": [3.0]},
        {"gain": [float("inf")]},
        {"offset": [None]},
        {"high": []},
    ],
)
def test_damaged_head_is_refused(change: dict[str, object]) -> None:
    data = head_to_json(infer_head(TORQUE, 1, ends_in_tanh=True))
    with pytest.raises((TypeError, ValueError)):
        head_from_json(data | change)


def test_masked_actions_are_never_taken() -> None:
    outputs = np.float32([[3.0, 2.0, 1.0]])
    head = DiscreteHead.single(3)
    assert head.actions(outputs, np.array([[False, True, True]])).tolist() == [1]
    assert head.actions(outputs, np.array([[False, False, False]])).tolist() == [0]  # nothing is allowed


@given(
    low=st.floats(-100, 99, width=32),
    span=st.floats(0.0625, 200, width=32),
    scale=st.floats(1e-4, 1.0),
    zero_point=st.integers(-128, 127),
    is_scaled=st.booleans(),
)
def test_integer_head_is_within_a_float32_of_the_float_head(
    low: float, span: float, scale: float, zero_point: int, is_scaled: bool
) -> None:
    space = spaces.Box(np.float32(low), np.float32(low + span), (1,))
    head = infer_head(space, 1, ends_in_tanh=is_scaled)
    quantized = np.arange(-128, 128, dtype=np.int8)[:, None]
    outputs = ((quantized.astype(np.float64) - zero_point) * scale).astype(np.float32)
    exact = head.actions(outputs)
    integer = decode_actions(head.edge(Scale(scale, zero_point)), quantized)
    largest = max(abs(low), abs(low + span), 128 * scale * max(head.gain) if isinstance(head, BoxHead) else 0)
    assert np.all(np.abs(exact - integer) <= 4e-7 * largest + 1e-6)
    assert np.all((integer >= space.low) & (integer <= space.high))
