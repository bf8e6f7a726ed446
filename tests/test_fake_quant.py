"""Fake-quantized layers: what they compute, learn, save and refuse."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.agents.from_keras import load_agent
from edgeqrl.errors import AgentError, UsageError
from edgeqrl.quantize.scheme import Scheme
from tests.oracles import require_module

require_module("tensorflow")

import gymnasium as gym  # noqa: E402
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from edgeqrl.fake_quant import (  # noqa: E402
    FakeQuantConv2D,
    FakeQuantDense,
    FakeQuantDepthwiseConv2D,
    FakeQuantInput,
    fake_quantize,
)
from edgeqrl.fake_quant.arithmetic import (  # noqa: E402
    Levels,
    activation_levels,
    best_steps,
    rounded,
    value_of,
    weight_levels,
)

RNG = np.random.default_rng(5)
OBSERVATIONS = (RNG.normal(size=(200, 4)) * np.array([0.1, 1.0, 3.0, 10.0])).astype(np.float32)
SPACES = gym.spaces.Box(-50.0, 50.0, (4,)), gym.spaces.Box(-1.0, 1.0, (2,))


def dense_model(activation: str = "tanh") -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((4,), name="observation"),
            keras.layers.Dense(16, activation="relu", name="first"),
            keras.layers.Dense(16, activation="tanh", name="second"),
            keras.layers.Dense(2, activation=activation, name="last"),
        ]
    )


def image_model() -> Any:
    keras.utils.set_random_seed(2)
    given = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(given)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise", activation="relu")(x)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(given, keras.layers.Dense(3, name="head")(x))


def on_grid(values: NDArray[Any], step: float) -> bool:
    scaled = values / step
    return bool(np.abs(scaled - np.rint(scaled)).max() < 1e-3)


def test_importing_the_name_loads_no_tensorflow() -> None:
    code = (
        "import sys, edgeqrl, edgeqrl.quantize, edgeqrl.fake_quant\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
        "assert callable(edgeqrl.quantize.fake_quantize)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


@pytest.mark.parametrize(
    ("bits", "signed", "levels"),
    [(8, True, (-128, 127)), (8, False, (0, 255)), (16, True, (-32768, 32767)), (16, False, (0, 32767))],
)
def test_levels_are_those_of_the_integer_types(bits: int, signed: bool, levels: tuple[int, int]) -> None:
    assert activation_levels(bits, signed=signed) == Levels(*levels)


@pytest.mark.parametrize(("bits", "top"), [(8, 127), (4, 7), (3, 3), (2, 1)])
def test_weights_have_as_many_levels_below_zero_as_above(bits: int, top: int) -> None:
    assert weight_levels(bits) == Levels(-top, top)


def test_gradients_are_those_of_lsq() -> None:
    values = tf.constant([-9.0, -1.6, 0.2, 1.3, 9.0])
    step = tf.constant(1.0)
    with tf.GradientTape() as tape:
        tape.watch([values, step])
        result = rounded(values, step, Levels(-3, 3))
    np.testing.assert_allclose(result, [-3.0, -2.0, 0.0, 1.0, 3.0])
    through, of_step = tape.jacobian(result, [values, step])
    np.testing.assert_allclose(np.diag(through), [0.0, 1.0, 1.0, 1.0, 0.0])  # straight through inside
    np.testing.assert_allclose(of_step, [-3.0, -0.4, -0.2, -0.3, 3.0], atol=1e-6)  # round(v) - v, or the end


def test_the_best_step_errs_no_more_than_one_that_covers_all() -> None:
    weights = RNG.normal(size=(300, 5)).astype(np.float32)
    for bits in (2, 3, 4):
        levels = weight_levels(bits)
        covering = np.abs(weights).max(axis=0) / levels.high
        errors = [
            ((np.clip(np.rint(weights / steps), levels.low, levels.high) * steps - weights) ** 2).sum(axis=0)
            for steps in (best_steps(weights, levels), covering)
        ]
        assert np.all(errors[0] < 0.9 * errors[1])


@pytest.mark.parametrize("inputs", ["per_tensor", "per_feature"])
def test_eight_bits_act_as_the_model_did(inputs: str) -> None:
    model = dense_model()
    twin = fake_quantize(model, inputs=inputs, samples=OBSERVATIONS)
    before = [np.array(w) for w in model.get_weights()]
    assert np.abs(twin(OBSERVATIONS) - model(OBSERVATIONS)).max() < 0.12
    coarse = fake_quantize(model, weight_bits=2, inputs=inputs, samples=OBSERVATIONS)
    assert np.abs(coarse(OBSERVATIONS) - model(OBSERVATIONS)).max() > 0.2
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_features_of_mixed_scale_keep_their_digits_where_each_has_its_range() -> None:
    model = dense_model()
    wide, own = (
        fake_quantize(model, inputs=inputs, samples=OBSERVATIONS) for inputs in ("per_tensor", "per_feature")
    )
    given = [np.asarray(twin.get_layer("input_quantizer")(OBSERVATIONS)) for twin in (wide, own)]
    assert len(np.unique(given[0][:, 0])) < 8 < 80 < len(np.unique(given[1][:, 0]))
    assert np.abs(given[1]).max() <= 1.0


def test_weights_and_activations_lie_on_their_grids() -> None:
    twin = fake_quantize(dense_model("linear"), "w3a8", samples=OBSERVATIONS)
    layer = twin.get_layer("last")
    integers, steps = layer.integers()
    assert set(np.unique(integers)) <= set(range(-3, 4))
    assert steps.shape == (2,)
    assert on_grid(np.asarray(twin(OBSERVATIONS)), layer.quantizer.step)
    second = keras.Model(twin.inputs, twin.get_layer("second").output)(OBSERVATIONS)
    assert on_grid(np.asarray(second), 1 / 128)


def test_layers_of_images_are_fake_quantized_too() -> None:
    model = image_model()
    samples = RNG.uniform(0, 1, (32, 8, 8, 2)).astype(np.float32)
    twin = fake_quantize(model, weight_bits=4, layer_bits={"conv": 8}, samples=samples)
    kinds = [type(twin.get_layer(name)) for name in ("conv", "depthwise", "head")]
    assert kinds == [FakeQuantConv2D, FakeQuantDepthwiseConv2D, FakeQuantDense]
    assert [twin.get_layer(name).weight_bits for name in ("conv", "depthwise", "head")] == [8, 4, 4]
    assert twin.get_layer("depthwise").integers()[1].shape == (4, 2)
    exact, found = np.asarray(model(samples)), np.asarray(twin(samples))
    assert np.abs(found - exact).max() < 0.35 * np.abs(exact).max()


def test_ranges_are_set_by_the_first_batch_in_training_and_learned_then() -> None:
    twin = fake_quantize(dense_model(), weight_bits=3, inputs="per_feature")
    entrance, first = twin.get_layer("input_quantizer"), twin.get_layer("first")
    twin(OBSERVATIONS)
    assert not value_of(entrance.is_set)
    assert not value_of(first.quantizer.is_set)
    with pytest.raises(ValueError, match="its range was never set"):
        _ = first.quantizer.step
    optimizer = keras.optimizers.Adam(0.01)

    @tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
    def update(given: Any, wanted: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((twin(given, training=True) - wanted) ** 2)
        gradients = tape.gradient(loss, twin.trainable_variables)
        optimizer.apply_gradients(zip(gradients, twin.trainable_variables, strict=True))
        return loss

    optimizer.build(twin.trainable_variables)
    wanted = np.tanh(OBSERVATIONS[:, :2])
    losses = [float(update(OBSERVATIONS, wanted))]
    np.testing.assert_allclose(value_of(entrance.high), np.abs(OBSERVATIONS).max(axis=0), rtol=1e-5)
    steps = [first.quantizer.step, value_of(first.log_step).copy()]
    losses += [float(update(OBSERVATIONS, wanted)) for _ in range(150)]
    assert losses[-1] < 0.3 * losses[0]
    assert first.quantizer.step != steps[0]
    assert np.all(value_of(first.log_step) != steps[1])


def test_an_input_range_widens_at_once_and_narrows_slowly() -> None:
    layer = FakeQuantInput(narrowing=0.1)
    layer(np.ones((2, 3), np.float32), training=True)
    layer(np.full((2, 3), 5.0, np.float32), training=True)
    assert float(value_of(layer.high)) == 5.0
    layer(np.ones((2, 3), np.float32), training=True)
    assert float(value_of(layer.high)) == pytest.approx(4.5)
    layer(np.full((2, 3), 9.0, np.float32))
    assert float(value_of(layer.high)) == pytest.approx(4.5)


def test_fit_clones_and_saved_files_are_the_same_model(tmp_path: Path) -> None:
    twin = fake_quantize(dense_model(), weight_bits=3, input_bits=16)
    twin.compile("adam", "mse", jit_compile=True)
    history = twin.fit(OBSERVATIONS, np.tanh(OBSERVATIONS[:, :2]), epochs=5, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    answers = np.asarray(twin(OBSERVATIONS))
    target = keras.models.clone_model(twin)
    target.set_weights(twin.get_weights())
    np.testing.assert_array_equal(answers, target(OBSERVATIONS))
    for name in ("agent.keras", "agent.h5"):  # the old format too
        twin.save(tmp_path / name)
        agent = load_agent(tmp_path / name, *SPACES)
        np.testing.assert_array_equal(answers, agent.model(OBSERVATIONS))
        assert agent.ends_in_tanh


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class_name": "FakeQuantSomething"}, "not on the list|custom class"),
        ({"registered_name": "stranger>FakeQuantDense"}, "custom class"),
        (
            {"registered_name": None, "class_name": "edgeqrl>FakeQuantDense", "module": "os"},
            "not on the list",
        ),
        ({"registered_name": None, "class_name": "edgeqrl>FakeQuantDense"}, "not on the list"),
        ({"registered_name": None}, "not on the list"),
        ({"module": "os"}, "custom class"),
        ({"class_name": "edgeqrl>FakeQuantDense"}, "custom class|not on the list"),
        ({"config": {"weight_bits": 64}}, "weight_bits must be one of 2, 3, 4, 5, 6, 7, 8"),
        ({"config": {"weight_bits": "8"}}, "weight_bits must be"),
        ({"config": {"activation_bits": 4}}, "activation_bits must be one of 8, 16"),
        ({"config": {"activation": "softsign"}}, "activation must be one of"),
    ],
)
def test_a_strangers_file_is_checked(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "agent.keras"
    fake_quantize(dense_model(), samples=OBSERVATIONS).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    layer = next(n for n in config["config"]["layers"] if n["class_name"] == "FakeQuantDense")
    layer["config"] |= change.pop("config", {})
    layer |= change
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(AgentError, match=said):
        load_agent(path, *SPACES)


def test_files_are_loaded_in_a_process_that_never_saw_the_layers(tmp_path: Path) -> None:
    path = tmp_path / "agent.keras"
    fake_quantize(dense_model(), samples=OBSERVATIONS).save(path)
    code = (
        "import gymnasium as gym; from edgeqrl.agents.from_keras import load_agent\n"
        "box = gym.spaces.Box\n"
        f"agent = load_agent({str(path)!r}, box(-50.0, 50.0, (4,)), box(-1.0, 1.0, (2,)))\n"
        "assert type(agent.model.layers[1]).__name__ == 'FakeQuantDense'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def batch_norm_model() -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="norm")])


def two_inputs() -> Any:
    given = [keras.Input((2,)), keras.Input((2,))]
    return keras.Model(given, keras.layers.Dense(1)(keras.layers.Concatenate()(given)))


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (batch_norm_model, {}, "layer 'norm' is a BatchNormalization"),
        (two_inputs, {}, "one input"),
        (lambda: keras.Sequential([keras.layers.Dense(2)]), {}, "was built"),
        (lambda: dense_model("elu"), {}, "layer 'last'.*activation must be one of"),
        (dense_model, {"weight_bits": 1}, "weight_bits must be one of"),
        (dense_model, {"layer_bits": {"lost": 4}}, "'lost'.*first, last|'lost'.*first"),
        (dense_model, {"input_bits": 7}, "bits must be one of 8, 16"),
        (dense_model, {"activation_bits": 16, "input_bits": 8}, "input_bits"),
        (dense_model, {"inputs": "each"}, "per_tensor, per_feature"),
        (dense_model, {"scheme": "int8-per-tensor"}, "per channel"),
        (dense_model, {"scheme": Scheme(wide=("input",))}, "input_bits="),
        (dense_model, {"samples": OBSERVATIONS[:, :3]}, "takes observations"),
        (dense_model, {"samples": OBSERVATIONS * np.nan}, "NaN"),
        (image_model, {"inputs": "per_feature", "samples": np.ones((1, 8, 8, 2))}, "Dense layer first"),
    ],
)
def test_what_has_no_integer_form_is_refused_in_a_sentence(
    make: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        fake_quantize(make(), **options)
    assert str(refused.value).endswith(".")
