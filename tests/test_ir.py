"""IntegerNetwork checks itself when it is made."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Dense, Lookup, Reshape, accumulator_bound

IN, OUT = Tensor("in", (3,), 0.1, 0), Tensor("out", (2,), 0.1, 0)
DENSE = Dense(
    name="dense",
    input="in",
    output="out",
    weights=np.ones((2, 3), np.int8),
    bias=np.zeros(2, np.int64),
    multiplier=np.full(2, 2**30, np.int32),
    shift=np.zeros(2, np.int32),
    output_min=-128,
    output_max=127,
)


def network(*layers: Any, outputs: tuple[str, ...] = ("out",)) -> IntegerNetwork:
    return IntegerNetwork({"in": IN, "out": OUT}, ("in",), outputs, layers)


def test_a_correct_network_is_read_only_and_counts_its_work() -> None:
    made = network(DENSE)
    assert made.num_macs == 6
    with pytest.raises(TypeError):
        made.tensors["in"] = OUT  # type: ignore[index]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (network, "never written"),
        (lambda: network(DENSE, outputs=()), "never written"),
        (lambda: network(replace(DENSE, input="out")), "before it is written"),
        (lambda: network(DENSE, DENSE), "a second time"),
        (lambda: network(Reshape("r", "in", "out")), "3 elements in, 2 out"),
        (lambda: network(replace(DENSE, weights=np.ones((2, 4), np.int8))), "do not fit"),
        (lambda: network(replace(DENSE, bias=np.zeros(2, np.int32))), "must be"),
        (lambda: network(replace(DENSE, shift=np.zeros(3, np.int32))), "must be"),
        (lambda: network(replace(DENSE, output_min=-129)), "must lie in int8"),
        (lambda: Tensor("t", (1,), 0.0, 0), "scale must be positive"),
        (lambda: Tensor("t", (1,), float("nan"), 0), "scale must be positive"),
        (lambda: Tensor("t", (1,), 1.0, 128), "zero_point must fit int8"),
        (lambda: Tensor("t", (0,), 1.0, 0), "shape must be positive"),
    ],
)
def test_a_network_that_contradicts_itself_is_refused(make: Callable[[], Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make()


def test_a_table_has_256_entries() -> None:
    tensors = {"in": IN, "out": Tensor("out", (3,), 0.1, 0)}
    short = Lookup("l", "TANH", "in", "out", np.zeros(255, np.int8))
    with pytest.raises(ValueError, match="256 int8"):
        IntegerNetwork(tensors, ("in",), ("out",), (short,))


@pytest.mark.parametrize(
    ("bias", "shift", "is_safe"),
    [
        (2**31 - 1 - 3 * 128, 0, True),
        (2**31 - 3 * 128, 0, False),
        (-(2**31) + 1 + 3 * 128, 0, True),
        ((2**31 - 1) // 8 - 3 * 128, 3, True),
        ((2**31 - 1) // 8 - 3 * 128 + 1, 3, False),
        (0, 30, False),
        (0, 31, False),
        (0, -31, True),
        (0, -32, False),
    ],
)
def test_what_could_overflow_int32_is_refused(bias: int, shift: int, is_safe: bool) -> None:
    layer = replace(DENSE, bias=np.array([0, bias], np.int64), shift=np.array([0, shift], np.int32))
    if is_safe:
        network(layer)
    else:
        with pytest.raises(UnsupportedOperatorError, match="'dense' is not supported"):
            network(layer)


@given(st.integers(0, 2**32 - 1), st.integers(-128, 127))
def test_the_bound_holds_for_every_input(seed: int, zero_point: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-128, 128, (4, 7), np.int8)
    layer = replace(DENSE, weights=weights, bias=rng.integers(-1000, 1000, 4))
    bound = accumulator_bound(layer, zero_point)
    inputs = rng.integers(-128, 128, (50, 7))
    sums = (inputs - zero_point) @ weights.astype(np.int64).T + layer.bias
    assert np.all(np.abs(sums) <= bound)
