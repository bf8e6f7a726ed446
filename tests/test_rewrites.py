"""Every rewrite leaves every action as it was, and the user's model as well."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.heads import BoxHead, DiscreteHead
from edgeqrl.agents.tensorflow_runtime import import_keras, import_tensorflow
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.frozen import FrozenGraph, freeze
from edgeqrl.quantize.rewrites import REWRITES, rewrite

NUM_ACTIONS = 3
OBSERVATIONS = np.random.default_rng(1).normal(size=(150, 4)).astype(np.float32)


def model_of(kind: str, seed: int = 0) -> Any:
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(seed)
    biases = keras.initializers.RandomNormal(stddev=5.0, seed=seed)
    hidden = [keras.Input((4,)), layers.Dense(16, "relu")]
    if kind == "tied":  # one layer used twice, so that its weights belong to both places
        first, tied = layers.Dense(NUM_ACTIONS), layers.Dense(NUM_ACTIONS, bias_initializer="ones")
        x = keras.Input((4,))
        return keras.Model(x, tied(layers.Activation("tanh")(tied(first(x)))))
    if kind == "sum":  # of two layers that both tell actions apart
        x = keras.Input((4,))
        return keras.Model(x, layers.Dense(NUM_ACTIONS)(x) + layers.Dense(NUM_ACTIONS)(x))
    last = {
        "linear": [layers.Dense(NUM_ACTIONS, bias_initializer=biases)],
        "no_bias": [layers.Dense(NUM_ACTIONS, use_bias=False)],
        "softmax": [layers.Dense(NUM_ACTIONS, "softmax", bias_initializer=biases)],
        "softmax_layer": [layers.Dense(NUM_ACTIONS, bias_initializer=biases), layers.Softmax()],
        "log_softmax": [layers.Dense(NUM_ACTIONS, "log_softmax", bias_initializer=biases)],
        "tanh": [layers.Dense(NUM_ACTIONS, "tanh")],
    }
    return keras.Sequential([*hidden, *last[kind]])


def agent_of(model: Any) -> Agent:
    return Agent(
        "agent",
        model,
        DiscreteHead.single(NUM_ACTIONS),
        Preprocessing.plain((4,)),
        "0" * 64,
        ends_in_tanh=False,
    )


def run(graph: FrozenGraph) -> NDArray[np.float32]:
    """Compute the graph's outputs for OBSERVATIONS, one at a time."""
    tensorflow = import_tensorflow()
    wrapped = tensorflow.compat.v1.wrap_function(
        lambda: tensorflow.graph_util.import_graph_def(graph.graph_def, name=""), []
    )
    function = wrapped.prune(graph.input_names[0], graph.output_names[0])
    return np.stack([function(tensorflow.constant(row[np.newaxis])).numpy()[0] for row in OBSERVATIONS])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", ("centre_head",)),
        ("no_bias", ("centre_head",)),
        ("softmax", ("drop_softmax", "centre_head")),
        ("softmax_layer", ("drop_softmax", "centre_head")),
        ("log_softmax", ("drop_softmax", "centre_head")),
        ("tied", ("centre_head",)),
        ("tanh", ()),
        ("sum", ()),
    ],
)
def test_rewrites_leave_actions_and_the_model_as_they_were(kind: str, expected: tuple[str, ...]) -> None:
    model = model_of(kind)
    weights = [np.array(w) for w in model.weights]
    graph = freeze(agent_of(model))
    before, bytes_before = run(graph), graph.graph_def.SerializeToString(deterministic=True)
    rewritten, applied = rewrite(graph, DiscreteHead.single(NUM_ACTIONS))
    assert applied == expected
    after = run(rewritten)
    # An exact tie may fall otherwise in float32: those rows are not counted, and are few.
    top = np.sort(before, axis=1)
    is_clear = top[:, -1] - top[:, -2] > 1e-5
    assert is_clear.mean() > 0.9
    np.testing.assert_array_equal(before.argmax(axis=1)[is_clear], after.argmax(axis=1)[is_clear])
    assert len(np.unique(before.argmax(axis=1))) > 1, "the test could not fail"
    if "centre_head" in applied:
        np.testing.assert_allclose(after.mean(axis=1), 0.0, atol=1e-5)
    assert graph.graph_def.SerializeToString(deterministic=True) == bytes_before
    for old, new in zip(weights, model.weights, strict=True):
        np.testing.assert_array_equal(old, np.array(new))


@pytest.mark.parametrize("seed", range(5))
def test_centring_keeps_the_differences_between_actions(seed: int) -> None:
    graph = freeze(agent_of(model_of("linear", seed)))
    centred = REWRITES["centre_head"](graph, (NUM_ACTIONS,))
    assert centred is not None
    before, after = run(graph), run(centred)
    np.testing.assert_allclose(after - after[:, :1], before - before[:, :1], atol=1e-4)


@pytest.mark.parametrize(
    "kind", ["normalization", "rescaling", "batch", "after_relu", "no_bias", "two_readers", "column"]
)
def test_folding_a_normalization_keeps_the_outputs(kind: str) -> None:
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(5)
    x = keras.Input((4,))
    mean, variance = np.float32([1, -2, 30, 0.1]), np.float32([1, 4, 900, 0.01])
    batch = layers.BatchNormalization()
    normalize = {"rescaling": layers.Rescaling(0.5, offset=-1.0), "batch": batch, "after_relu": batch}
    source = layers.Dense(4, "relu")(x) if kind == "after_relu" else x
    scaled = normalize.get(kind, layers.Normalization(mean=mean, variance=variance))(source)
    if kind == "column":  # 1 - x / 2, with the constant on the left
        scaled = 1.0 - x / 2.0
    out = layers.Dense(NUM_ACTIONS, use_bias=kind != "no_bias")(scaled)
    if kind == "two_readers":
        out = layers.Dense(NUM_ACTIONS, "tanh")(scaled) + out
    if kind in ("batch", "after_relu"):
        batch.set_weights([mean, variance, variance, mean**2])
    model = keras.Model(x, out)
    head = BoxHead((3,), (-1.0,) * 3, (1.0,) * 3, (1.0,) * 3, (0.0,) * 3)
    graph = freeze(agent_of(model))
    bytes_before = graph.graph_def.SerializeToString(deterministic=True)
    folded, applied = rewrite(graph, head)
    assert applied == ("fold_normalization",)
    assert graph.graph_def.SerializeToString(deterministic=True) == bytes_before
    part = import_tensorflow().compat.v1.graph_util.extract_sub_graph(
        folded.graph_def, [folded.output_names[0].split(":")[0]]
    )
    assert not {node.op for node in part.node} & {"Sub", "RealDiv", "Mul"}, "nothing is left over"
    before = run(graph)
    assert np.ptp(before) > 0.1, "the test could not fail"
    np.testing.assert_allclose(run(folded), before, rtol=1e-5, atol=1e-5 * np.abs(before).max())


def test_a_scale_that_broadcasts_or_is_learned_is_not_folded() -> None:
    keras = import_keras()
    x = keras.Input((1,))
    wide = x - np.float32([[1.0, 2.0, 3.0, 4.0]])
    spread = keras.Model(x, keras.layers.Dense(NUM_ACTIONS)(wide))
    agent = Agent(
        "agent",
        spread,
        DiscreteHead.single(NUM_ACTIONS),
        Preprocessing.plain((1,)),
        "0" * 64,
        ends_in_tanh=False,
    )
    assert REWRITES["fold_normalization"](freeze(agent), ()) is None
    y = keras.Input((4,))
    gated = keras.Model(y, keras.layers.Dense(NUM_ACTIONS)(y * keras.layers.Dense(4)(y)))
    assert REWRITES["fold_normalization"](freeze(agent_of(gated)), ()) is None
    chain = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(NUM_ACTIONS, bias_initializer="ones")]
    )
    assert REWRITES["fold_normalization"](freeze(agent_of(chain)), ()) is None


def test_continuous_actions_are_not_rewritten() -> None:
    head = BoxHead((1,), (-1.0,), (1.0,), (1.0,), (0.0,))
    graph = freeze(agent_of(model_of("softmax")))
    rewritten, applied = rewrite(graph, head)
    assert applied == ()
    assert rewritten is graph


def test_a_softmax_that_draws_are_made_of_stays() -> None:
    """Only a log-softmax has the same softmax as its logits."""
    head = DiscreteHead.single(NUM_ACTIONS, is_stochastic=True)
    assert "drop_softmax" not in rewrite(freeze(agent_of(model_of("softmax"))), head)[1]
    assert "drop_softmax" in rewrite(freeze(agent_of(model_of("log_softmax"))), head)[1]


def test_frozen_graph_does_not_follow_the_model() -> None:
    model = model_of("linear")
    graph = freeze(agent_of(model))
    before = run(graph)
    model.weights[0].assign(model.weights[0] + 1.0)
    np.testing.assert_array_equal(run(graph), before)
