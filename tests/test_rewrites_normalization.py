"""Batch norms and normalisations in front of convolutions, and behind Flatten, go into the next layer."""

from typing import Any

import numpy as np
import pytest

from edgeqrl.agents.heads import DiscreteHead
from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.quantize.rewrites import rewrite
from tests.graphs import graph_of, live_operators, run

HEAD = DiscreteHead.single(4)

SHAPE = (6, 6, 2)
IMAGE_FORMS = (
    "conv",
    "relu conv",
    "pool conv",
    "depthwise",
    "one by one",
    "same scale",
    "flatten",
    "two convs",
)


def batch_norm(channels: int, keras: Any, rank: int = 4) -> Any:
    """Return a layer with random statistics, with factors of both signs."""
    layer = keras.layers.BatchNormalization()
    layer.build((None, *(5,) * (rank - 2), channels))
    rng = np.random.default_rng(0)
    gamma, beta, mean = rng.normal(size=(3, channels))
    layer.set_weights([gamma, beta, mean, rng.uniform(0.5, 2.0, channels)])
    return layer


def images(form: str) -> Any:
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(2)
    before = {
        "conv": [batch_norm(2, keras), layers.Conv2D(4, 3)],
        "relu conv": [
            layers.Conv2D(4, 3, activation="relu"),
            batch_norm(4, keras),
            layers.Conv2D(3, 3, use_bias=False),
        ],
        "pool conv": [layers.MaxPool2D(2), batch_norm(2, keras), layers.Conv2D(4, 2, activation="tanh")],
        "depthwise": [batch_norm(2, keras), layers.DepthwiseConv2D(3, depth_multiplier=2)],
        "one by one": [batch_norm(2, keras), layers.Conv2D(4, 1, padding="same")],
        "same scale": [layers.Rescaling(0.25), layers.Conv2D(4, 3, padding="same")],
        "same offset": [layers.Rescaling(0.25, offset=1.0), layers.Conv2D(4, 3, padding="same")],
        "flatten": [layers.Activation("tanh"), batch_norm(2, keras)],
        "two convs": [batch_norm(2, keras), layers.Conv2D(4, 3), batch_norm(4, keras), layers.Conv2D(2, 3)],
    }[form]
    return keras.Sequential([keras.Input(SHAPE), *before, layers.Flatten(), layers.Dense(4)])


@pytest.mark.parametrize("form", IMAGE_FORMS)
def test_folding_into_a_convolution_or_through_flatten_keeps_the_outputs(form: str) -> None:
    graph = graph_of(images(form), HEAD)
    bytes_before = graph.graph_def.SerializeToString(deterministic=True)
    folded, applied = rewrite(graph, HEAD, ("fold_normalization",))
    assert applied == ("fold_normalization",)
    assert graph.graph_def.SerializeToString(deterministic=True) == bytes_before
    # A bias that Keras adds after a layer may be an AddV2 too; what is left scales nothing.
    assert not {"Mul", "RealDiv", "Sub", "Rsqrt"} & set(live_operators(folded))
    before, after = run(graph, SHAPE, count=30), run(folded, SHAPE, count=30)
    assert np.ptp(before) > 0.1, "the test could not fail"
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())


def test_an_offset_is_not_folded_into_zeros_that_surround_the_input() -> None:
    graph = graph_of(images("same offset"), HEAD)
    folded, applied = rewrite(graph, HEAD, ("fold_normalization",))
    assert folded is graph
    assert applied == ()


@pytest.mark.parametrize("is_first", [True, False])
def test_frames_may_be_normalised_before_or_after_they_are_flattened(is_first: bool) -> None:
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(3)
    size = 3 if is_first else 12
    mean, variance = np.arange(float(size)), np.arange(1.0, size + 1)
    steps = [layers.Normalization(mean=mean, variance=variance), layers.Flatten()]
    model = keras.Sequential([keras.Input((4, 3)), *(steps if is_first else steps[::-1]), layers.Dense(4)])
    graph = graph_of(model, HEAD)
    folded, applied = rewrite(graph, HEAD, ("fold_normalization",))
    assert applied == ("fold_normalization",)
    assert not {"Mul", "RealDiv", "Sub", "Sqrt"} & set(live_operators(folded))
    np.testing.assert_allclose(run(folded, (4, 3)), run(graph, (4, 3)), rtol=1e-4, atol=1e-4)
