"""A dueling network chooses by its advantages alone: the value goes, however it was added."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.agents.heads import BoxHead, DiscreteHead
from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.quantize.rewrites import REWRITES, rewrite
from tests.graphs import graph_of, live_operators, run

N = 4
HEAD = DiscreteHead.single(N)
Combine = Callable[[Any, Any, Any], Any]


def _mean(x: Any, keras: Any) -> Any:
    return keras.ops.mean(x, axis=-1, keepdims=True)


# (V [N, 1], A [N, 4], keras) -> Q
SPELLINGS: dict[str, Combine] = {
    "value first": lambda v, a, k: v + (a - _mean(a, k)),
    "value last": lambda v, a, k: (a - _mean(a, k)) + v,
    "mean last": lambda v, a, k: (v + a) - _mean(a, k),
    "difference of means": lambda v, a, k: a + (v - _mean(a, k)),
    "max": lambda v, a, k: v + (a - k.ops.max(a, axis=1, keepdims=True)),
    "layers": lambda v, a, k: k.layers.Add()([v, k.layers.Subtract()([a, _mean(a, k)])]),
    "sum over n": lambda v, a, k: v + a - k.ops.sum(a, axis=1, keepdims=True) / N,
    "no mean": lambda v, a, k: v + a,
    "broadcast": lambda v, a, k: k.ops.broadcast_to(v, (1, N)) + a,
    "repeated": lambda v, a, k: k.ops.repeat(v, N, axis=1) + a,
    "tiled": lambda v, a, k: k.ops.tile(v, (1, N)) + a,
    "concatenated": lambda v, a, k: k.layers.Concatenate()([v] * N) + a,
    "expanded mean": lambda v, a, k: v + a - k.ops.expand_dims(k.ops.mean(a, axis=1), 1),
    "scaled": lambda v, a, k: (v + a - _mean(a, k)) * 2.5,
    "divided": lambda v, a, k: (v + a) / 3.0,
    "shifted": lambda v, a, k: (v + a - _mean(a, k)) + np.float32([[0.1, 0.2, -0.3, 0.0]]),
    "negative": lambda v, a, k: (v + a) * -1.0,
    "softmax": lambda v, a, k: k.layers.Softmax()(v + a - _mean(a, k)),
}


def trunk_of(kind: str, keras: Any) -> tuple[Any, Any, Any]:
    """Return the input, and what value and advantages are made from."""
    layers = keras.layers
    if kind == "conv":
        x = keras.Input((6, 6, 2))
        flat = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(x))
        return x, layers.Dense(8, "relu")(flat), layers.Dense(8, "relu")(flat)
    x = keras.Input((4,))
    if kind == "shared":
        hidden = layers.Dense(16, "relu")(x)
        return x, hidden, hidden
    return x, layers.Dense(16, "relu")(x), layers.Dense(16, "relu")(x)


def dueling(combine: Combine, trunk: str = "shared", with_value: bool = False, seed: int = 0) -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    x, for_value, for_advantages = trunk_of(trunk, keras)
    far = keras.initializers.Constant(50.0)
    value = keras.layers.Dense(1, bias_initializer=far)(for_value)
    advantages = keras.layers.Dense(N, bias_initializer="normal")(for_advantages)
    q = combine(value, advantages, keras)
    return keras.Model(x, [q, value] if with_value else q)


def require_same_choices(before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
    top = np.sort(before, axis=1)
    is_clear = top[:, -1] - top[:, -2] > 1e-4 * np.abs(before).max()
    assert is_clear.mean() > 0.8
    np.testing.assert_array_equal(before.argmax(axis=1)[is_clear], after.argmax(axis=1)[is_clear])
    assert len(np.unique(before.argmax(axis=1))) > 1, "the test could not fail"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_value_goes_and_the_actions_stay(spelling: str) -> None:
    graph = graph_of(dueling(SPELLINGS[spelling]), HEAD)
    bytes_before = graph.graph_def.SerializeToString(deterministic=True)
    lean, applied = rewrite(graph, HEAD)
    assert "drop_dueling_value" in applied
    require_same_choices(run(graph, (4,)), run(lean, (4,)))
    operators = live_operators(lean)
    assert operators.count("MatMul") == 2, "trunk and advantages are left"
    assert not {"Mean", "Max", "Sum"} & set(operators)
    is_centred = spelling not in ("scaled", "divided", "shifted", "negative")
    assert ("centre_head" in applied) == is_centred
    if is_centred:
        np.testing.assert_allclose(run(lean, (4,)).mean(axis=1), 0.0, atol=1e-5)
    assert graph.graph_def.SerializeToString(deterministic=True) == bytes_before


@pytest.mark.parametrize("trunk", ["shared", "apart", "conv"])
@pytest.mark.parametrize("seed", range(2))
def test_on_any_trunk(trunk: str, seed: int) -> None:
    graph = graph_of(dueling(SPELLINGS["value first"], trunk, seed=seed), HEAD)
    lean, applied = rewrite(graph, HEAD)
    assert applied == ("drop_dueling_value", "centre_head")
    shape = (6, 6, 2) if trunk == "conv" else (4,)
    before, after = run(graph, shape, count=40), run(lean, shape, count=40)
    require_same_choices(before, after)
    np.testing.assert_allclose(after, before - before.mean(axis=1, keepdims=True), atol=1e-3)
    assert live_operators(lean).count("MatMul") == live_operators(graph).count("MatMul") - (
        1 if trunk == "shared" else 2
    )


def test_a_value_that_is_an_output_stays_the_same_and_only_the_choice_loses_it() -> None:
    graph = graph_of(dueling(SPELLINGS["value first"], with_value=True), HEAD, ("value",))
    lean, applied = rewrite(graph, HEAD)
    assert "drop_dueling_value" in applied
    np.testing.assert_array_equal(run(lean, (4,), 1), run(graph, (4,), 1))
    require_same_choices(run(graph, (4,)), run(lean, (4,)))
    assert lean.output_names[1] == graph.output_names[1]


def test_draws_by_the_softmax_are_the_same() -> None:
    head = DiscreteHead.single(N, is_stochastic=True)
    graph = graph_of(dueling(SPELLINGS["mean last"]), head)
    lean, _ = rewrite(graph, head)

    def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
        powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    np.testing.assert_allclose(
        probabilities(run(lean, (4,))), probabilities(run(graph, (4,))), rtol=1e-4, atol=1e-6
    )


def branching(keras: Any, is_joined_late: bool) -> Any:
    """Return a branching dueling network of 3 and 2 actions."""
    x = keras.Input((4,))
    hidden = keras.layers.Dense(16, "relu")(x)
    value = keras.layers.Dense(1, bias_initializer="ones")(hidden)
    branches = [keras.layers.Dense(n, bias_initializer="normal")(hidden) for n in (3, 2)]
    if is_joined_late:
        return keras.Model(x, keras.layers.Concatenate()([value + b - _mean(b, keras) for b in branches]))
    return keras.Model(x, value + keras.layers.Concatenate()([b - _mean(b, keras) for b in branches]))


@pytest.mark.parametrize("is_joined_late", [False, True])
def test_several_choices(is_joined_late: bool) -> None:
    keras = import_keras()
    keras.utils.set_random_seed(1)
    head = DiscreteHead((3, 2), (0, 0))
    graph = graph_of(branching(keras, is_joined_late), head)
    lean, applied = rewrite(graph, head)
    assert applied == ("drop_dueling_value", "centre_head")
    before, after = run(graph, (4,)), run(lean, (4,))
    for part in (slice(0, 3), slice(3, 5)):
        require_same_choices(before[:, part], after[:, part])
        np.testing.assert_allclose(after[:, part].mean(axis=1), 0.0, atol=1e-5)
    assert live_operators(lean).count("MatMul") == 3
    # Were it one choice among five, the means of the branches would tell the actions apart.
    whole, names = rewrite(graph, DiscreteHead.single(5))
    require_same_choices(before, run(whole, (4,)))
    assert live_operators(whole).count("Mean") == 2
    assert ("drop_dueling_value" in names) == (not is_joined_late)


@pytest.mark.parametrize("kind", ["continuous", "advantage from value", "product", "plain", "one action"])
def test_what_is_no_dueling_head_stays(kind: str) -> None:
    combine: Combine = {
        "advantage from value": lambda v, a, k: v - a,
        "product": lambda v, a, k: v * a,
        "plain": lambda v, a, k: a,
        "one action": lambda v, a, k: v + 1.0,
    }.get(kind, SPELLINGS["value first"])
    head: Any = {"continuous": BoxHead((N,), *((x,) * N for x in (-1.0, 1.0, 1.0, 0.0)))}.get(kind, HEAD)
    if kind == "one action":
        head = DiscreteHead.single(1)
    graph = graph_of(dueling(combine), head)
    lean, applied = rewrite(graph, head)
    assert "drop_dueling_value" not in applied
    if kind in ("continuous", "one action"):
        assert lean is graph


def test_only_what_is_allowed_is_done() -> None:
    graph = graph_of(dueling(SPELLINGS["value first"]), HEAD)
    assert rewrite(graph, HEAD, ()) == (graph, ())
    assert rewrite(graph, HEAD, ("drop_dueling_value", "equalise"))[1] == ("drop_dueling_value",)
    assert REWRITES["drop_dueling_value"](graph, ()) is None
