"""Outputs become actions by rules that the action space decides, and the same in integers."""

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from edgeqrl.agents.heads import (
    BoxHead,
    DiscreteHead,
    Head,
    head_from_json,
    head_to_json,
    infer_head,
)
from edgeqrl.errors import AgentError, EdgeQRLError, UsageError
from edgeqrl.network.edges import decode_actions

TORQUE = spaces.Box(-2.0, 2.0, (1,))
UNBOUNDED = spaces.Box(-np.inf, np.inf, (2,))


@pytest.mark.parametrize(
    ("space", "num_outputs", "ends_in_tanh", "stated", "expected"),
    [
        (spaces.Discrete(3), 3, False, None, DiscreteHead(3)),
        (spaces.Discrete(3, start=-1), 3, False, "argmax", DiscreteHead(3, -1)),
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
    head = infer_head(space, num_outputs, ends_in_tanh=ends_in_tanh, stated=stated)
    assert head == expected
    assert head_from_json(head_to_json(head)) == head


@pytest.mark.parametrize(
    ("space", "num_outputs", "stated", "error", "message"),
    [
        (spaces.Discrete(3), 4, None, AgentError, "4 outputs"),
        (spaces.Discrete(3), 1, None, AgentError, "1 output, "),
        (TORQUE, 2, None, AgentError, "2 outputs.*keep only the mean: keras.Model"),
        (None, 1, "scale", UsageError, "add --action-bounds LOW HIGH"),
        (spaces.MultiBinary(3), 3, None, AgentError, "MultiBinary"),
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
        infer_head(space, num_outputs, ends_in_tanh=False, stated=stated)


def test_without_an_environment_the_options_say_the_space() -> None:
    assert infer_head(None, 3, ends_in_tanh=False, stated="argmax") == DiscreteHead(3)
    scaled = infer_head(None, 1, ends_in_tanh=True, stated="scale", action_bounds=(-2.0, 2.0))
    assert scaled == infer_head(TORQUE, 1, ends_in_tanh=True)


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
    head = DiscreteHead(3)
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
    integer = decode_actions(head.edge(scale, zero_point), quantized)
    largest = max(abs(low), abs(low + span), 128 * scale * max(head.gain) if isinstance(head, BoxHead) else 0)
    assert np.all(np.abs(exact - integer) <= 4e-7 * largest + 1e-6)
    assert np.all((integer >= space.low) & (integer <= space.high))
