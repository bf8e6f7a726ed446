"""Names of layers: a scheme's name means the layer that Keras calls so, in every form of a model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.from_keras import agent_from_model, load_agent
from edgeqrl.agents.layer_list import parse_layers, run_layers
from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.agents.torch_weights import Weights
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.errors import UsageError
from edgeqrl.network.tflite_model import parse_tflite
from edgeqrl.quantize.frozen import freeze
from edgeqrl.quantize.layer_names import require_known_layers
from edgeqrl.quantize.matching import float_twins
from edgeqrl.quantize.quantize import quantize
from edgeqrl.quantize.scheme import Scheme, names_tensor, require_scheme
from edgeqrl.quantize.tflite import Converter
from edgeqrl.quantize.weights_file import ROLES, read_weights

BARE = require_scheme("int8-bare")


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    with Converter() as running:
        yield running


def chain() -> Any:
    """Three layers as Keras names them itself in a fresh program."""
    keras = import_keras()
    hidden = [keras.layers.Dense(8, "relu", name="dense"), keras.layers.Dense(8, name="dense_1")]
    return keras.Sequential(
        [keras.Input((4,)), *hidden, keras.layers.ReLU(name="re_lu"), keras.layers.Dense(2, name="dense_2")]
    )


def convolution() -> Any:
    keras = import_keras()
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, strides=2, name="conv2d"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(3, 2, activation="tanh", name="conv2d_1"),
            layers.DepthwiseConv2D(2, name="depthwise_conv2d"),
            layers.Flatten(),
            layers.Dense(5, "elu", name="dense"),
            layers.Dense(2, name="dense_1"),
        ]
    )


def nested() -> Any:
    """A model in a model, whose layers have the names of the outer one's with a number more."""
    keras = import_keras()
    dense = keras.layers.Dense
    trunk = keras.Sequential([dense(7, "tanh", name="dense"), dense(6, "relu", name="dense_1")], name="trunk")
    given = keras.Input((4,))
    flow = dense(9, "relu", name="dense_2")(given)
    return keras.Model(given, dense(2, name="dense_1_1")(trunk(flow)))


def subclassed() -> Any:
    keras = import_keras()

    class Network(keras.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.last = keras.layers.Dense(2, name="dense_1")
            self.first = keras.layers.Dense(8, "relu", name="dense")

        def call(self, given: Any) -> Any:
            return self.last(self.first(given))

    model = Network()
    model(np.zeros((1, 4), np.float32))
    return model


def recurrent() -> Any:
    keras = import_keras()
    layers = keras.layers
    hidden = [
        layers.Dense(6, "relu", name="dense"),
        layers.GRU(5, return_sequences=True, name="gru"),
        layers.GRU(3, name="gru_1"),
    ]
    return keras.Sequential([keras.Input((None, 4)), *hidden, layers.Dense(2, name="dense_1")])


def from_torch() -> Any:
    keras = import_keras()
    rng = np.random.default_rng(0)
    sizes = {"actor.0": (8, 4), "actor.2": (5, 8), "actor.4": (2, 5)}
    arrays = {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in sizes.items()}
    given = keras.Input((4,))
    flow = run_layers(
        given, parse_layers("linear,relu,linear,tanh,linear"), Weights(arrays, "it"), list(sizes)
    )
    return keras.Model(given, flow.tensor)


MODELS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "chain": (chain, (4,)),
    "convolution": (convolution, (8, 8, 2)),
    "nested": (nested, (4,)),
    "subclassed": (subclassed, (4,)),
    "recurrent": (recurrent, (4,)),
    "from torch": (from_torch, (4,)),
}


def agent_of(model: Any, shape: tuple[int, ...] = (4,)) -> Agent:
    space = gymnasium.spaces.Box(-1.0, 1.0, shape)
    return agent_from_model(model, space, gymnasium.spaces.Discrete(2))


def sizes_by_tensor(tflite: bytes) -> dict[str, int]:
    """Return how many weights each layer has, by the tensor that it writes."""
    model = parse_tflite(tflite)
    weighted = (op for op in model.operators if op.name in ROLES)
    return {
        model.tensors[op.outputs[0]].name: int(np.prod(model.tensors[op.inputs[1]].shape)) for op in weighted
    }


def require_named(tflite: bytes, wanted: dict[str, list[int]]) -> None:
    found = sizes_by_tensor(tflite)
    named = {
        layer: sorted(size for tensor, size in found.items() if names_tensor(layer, tensor))
        for layer in wanted
    }
    assert named == wanted, list(found)
    assert sum(map(len, wanted.values())) == len(found)
    for layer in wanted:
        require_known_layers(Scheme(layer_bits=((layer, 4),), layer_ranges=((layer, "mse"),)), tflite)


@pytest.mark.parametrize("kind", MODELS)
def test_names_of_keras_mean_the_layers_with_their_weights(kind: str, converter: Converter) -> None:
    make, shape = MODELS[kind]
    model = make()
    kept = ("kernel", "recurrent_kernel")
    wanted = {
        layer.name: sorted(int(np.prod(w.shape)) for w in layer.weights if w.name.split("/")[-1] in kept)
        for layer in model._flatten_layers(include_self=False)
        if not hasattr(layer, "layers") and layer.name != "gru_cell"
    }
    wanted = {name: sizes for name, sizes in wanted.items() if sizes}
    assert len(wanted) > 1
    require_named(converter.to_float(freeze(agent_of(model, shape))), wanted)


def test_names_of_a_saved_model(converter: Converter, tmp_path: Path) -> None:
    chain().export(tmp_path / "model", verbose=False)
    spaces = gymnasium.spaces.Box(-1.0, 1.0, (4,)), gymnasium.spaces.Discrete(2)
    exact = converter.to_float(freeze(load_agent(tmp_path / "model", *spaces)))
    require_named(exact, {"dense": [32], "dense_1": [64], "dense_2": [16]})


def test_a_layer_that_is_called_twice_is_named_as_one(converter: Converter) -> None:
    keras = import_keras()
    given = keras.Input((4,))
    shared = keras.layers.Dense(4, "relu", name="shared")
    model = keras.Model(given, keras.layers.Dense(2, name="last")(shared(shared(given))))
    exact = converter.to_float(freeze(agent_of(model)))
    require_named(exact, {"shared": [16, 16], "last": [8]})


@pytest.mark.parametrize(("layer", "place"), [("dense", 0), ("dense_1", 1), ("dense_2", 2)])
def test_bits_of_a_layer_of_keras_are_those_of_its_weights(
    layer: str, place: int, converter: Converter
) -> None:
    rows = np.random.default_rng(1).uniform(-1.0, 1.0, (40, 4)).astype(np.float32)
    calibration = CalibrationSet(rows, "recorded", (), (), len(rows))
    made = quantize(
        agent_of(chain()),
        calibration,
        scheme=BARE.with_parts([f"layer_bits={layer}:2", f"wide={layer}", "layer_ranges=re_lu:percentile"]),
        converter=converter,
    )
    twins = float_twins(made.tflite, made.float_tflite)
    model = parse_tflite(made.float_tflite)
    order = [model.tensors[op.outputs[0]].name for op in model.operators]
    largest = {
        twins[name].name: np.abs(found.weights).max() for name, found in read_weights(made.tflite).items()
    }
    assert [largest[name] == 1 for name in order] == [at == place for at in range(3)]
    wide = [t.name for t in parse_tflite(made.tflite).tensors if t.dtype == "INT16"]
    assert any(names_tensor(layer, name) for name in wide)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (["layer_bits=typo:4"], "layer_bits names 'typo', and the network has dense, dense_1, dense_2"),
        (["layer_bits=Relu:4"], "'Relu', which is in several layers: dense, dense_1"),
        (["layer_bits=observation:4"], "names 'observation'"),
        (["layer_bits=re_lu_1:4"], "names 're_lu_1'"),
        (["layer_ranges=typo:mse"], "layer_ranges names 'typo', and the network has observation, dense"),
        (["wide=input,typo"], "wide names 'typo'"),
        (["wide=Relu"], "wide names 'Relu', which is in several"),
        (["layer_bits=dense_1:4,re_lu:3"], "wants 4 for 'dense_1' and 3 for 're_lu', and both mean dense_1"),
    ],
)
def test_names_that_mean_no_layer_or_several_are_refused(
    parts: list[str], why: str, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quantized(*_: Any, **__: Any) -> bytes:
        raise AssertionError("the converter quantized before the names were looked at")

    monkeypatch.setattr(converter, "quantize", quantized)
    rows = np.zeros((3, 4), np.float32)
    with pytest.raises(UsageError, match=why):
        quantize(
            agent_of(chain()),
            CalibrationSet(rows, "recorded", (), (), len(rows)),
            scheme=Scheme().with_parts(parts),
            converter=converter,
        )
