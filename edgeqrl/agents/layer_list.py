"""Networks stated as a list of layers, such as "conv:4,relu,flatten,linear,tanh,linear"."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.agents.torch_weights import (
    ACTIVATION_NAMES,
    Flow,
    Weights,
    activation,
    conv,
    flatten,
    image,
    linear,
)
from edgeqrl.errors import AgentError, UsageError
from edgeqrl.network.tflite_model import shown

_WEIGHTED = {"linear": 0, "conv": 2, "layernorm": 0, "batchnorm": 0}  # numbers that may follow
_PLAIN = {"flatten": 0, "divide": 1, "maxpool": 2, "avgpool": 2}
_EPSILON = 1e-5  # PyTorch's, of both normalizations
_GRAMMAR = (
    "Layers are a list such as 'linear,tanh,linear,tanh,linear', of linear, conv:STRIDE[:PADDING], flatten, "
    "maxpool:SIZE[:STRIDE], avgpool:SIZE[:STRIDE], layernorm, batchnorm, divide:NUMBER, "
    f"{', '.join(ACTIVATION_NAMES)}."
)


@dataclass(frozen=True)
class Layer:
    """One layer of a list: its name and the numbers behind it."""

    name: str
    numbers: tuple[int, ...] = ()

    @property
    def has_weights(self) -> bool:
        """Tell whether a tensor of weights belongs to it."""
        return self.name in _WEIGHTED


def parse_layers(text: str) -> tuple[Layer, ...]:
    """Read a list of layers; raise UsageError, with the nearest name, for what is none."""
    known = (*_WEIGHTED, *_PLAIN, *ACTIVATION_NAMES)
    layers = []
    for item in text.replace(" ", "").split(","):
        name, *numbers = item.lower().split(":")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise UsageError(f"There is no layer '{shown(item)}'. {hint}{_GRAMMAR}")
        most = (_WEIGHTED | _PLAIN).get(name, 0)
        least = 1 if name in ("divide", "maxpool", "avgpool") else 0
        is_number = all(n.isascii() and n.isdigit() and len(n) < 6 for n in numbers)
        if not (is_number and least <= len(numbers) <= most):
            raise UsageError(f"The layer '{shown(item)}' is not well formed. {_GRAMMAR}")
        layers.append(Layer(name, tuple(int(n) for n in numbers)))
        if any(n == 0 for n in layers[-1].numbers[: 2 if name != "conv" else 1]):
            raise UsageError(f"The layer '{shown(item)}' has a 0 where no 0 can be. {_GRAMMAR}")
    return tuple(layers)


def leading_divisor(layers: Sequence[Layer]) -> tuple[float, tuple[Layer, ...]]:
    """Split `divide:255` off the beginning: it belongs to the observation, not to the network."""
    if layers and layers[0].name == "divide":
        return float(layers[0].numbers[0]), tuple(layers[1:])
    return 1.0, tuple(layers)


def run_layers(tensor: Any, layers: Sequence[Layer], weights: Weights, names: Sequence[str]) -> Flow:
    """Apply a stated list of layers to a Keras tensor, with the weights `names` in this order.

    An image may come as rows, columns, channels or in PyTorch's order; the first convolution tells which.
    """
    wanted = [layer.name for layer in layers if layer.has_weights]
    if len(wanted) != len(names):
        raise AgentError(
            f"The stated layers with weights are {len(wanted)} ({', '.join(wanted) or 'none'}), and "
            f"{weights.place} has weights for {len(names)} ({', '.join(map(shown, names)) or 'none'}). "
            "State every layer in its order with --layers, and where they begin with --prefix."
        )
    has_conv = "conv" in wanted
    flow = _image(tensor, weights, names[wanted.index("conv")]) if has_conv else Flow(tensor)
    left = list(names)
    for layer in layers:
        flow = _apply(layer, flow, weights, left.pop(0) if layer.has_weights else "", has_conv=has_conv)
    return flow


def _image(tensor: Any, weights: Weights, name: str) -> Flow:
    channels = weights.take(f"{name}.weight", 4).shape[1]
    shape = Flow(tensor).shape
    if len(shape) == 2 and channels == 1:
        return Flow(import_keras().layers.Reshape((*shape, 1))(tensor))
    return image(tensor, is_channels_first=is_channels_first(shape, channels, default=True))


def is_channels_first(shape: tuple[int, ...], channels: int, *, default: bool) -> bool:
    """Tell whether images of this shape have their channels first, for a convolution that takes so many."""
    if len(shape) != 3:
        return False  # does not fit, as the convolution will say
    fits_first, fits_last = shape[0] == channels, shape[2] == channels
    return default if fits_first and fits_last else fits_first


def _apply(layer: Layer, flow: Flow, weights: Weights, name: str, *, has_conv: bool) -> Flow:
    keras = import_keras()
    if layer.name == "linear":
        return linear(flatten(flow, is_image=has_conv), weights, name)  # many flatten in forward()
    if layer.name == "conv":
        stride, padding = (*layer.numbers, *(1, 0)[len(layer.numbers) :])
        return conv(flow, weights, name, stride=stride, padding=padding)
    if layer.name == "flatten":
        return flatten(flow, is_image=has_conv)
    if layer.name in ("layernorm", "batchnorm"):
        return _normalization(layer.name, flow, weights, name)
    if layer.name == "divide":
        return Flow(keras.layers.Rescaling(1.0 / layer.numbers[0])(flow.tensor), flow.columns)
    if layer.name in ("maxpool", "avgpool"):
        size, stride = layer.numbers[0], layer.numbers[-1]
        if len(flow.shape) != 3 or min(flow.shape[:2]) < size:
            raise AgentError(
                f"The layer {layer.name}:{size} does not fit what comes before it, of shape {flow.shape}."
            )
        made = keras.layers.MaxPooling2D if layer.name == "maxpool" else keras.layers.AveragePooling2D
        return Flow(made(size, strides=stride, padding="valid")(flow.tensor))
    return Flow(activation(layer.name, flow.tensor), flow.columns)


def _normalization(kind: str, flow: Flow, weights: Weights, name: str) -> Flow:
    layers = import_keras().layers
    if flow.columns is not None:
        raise AgentError(f"The layer {kind} '{shown(name)}' right behind flatten cannot be exported.")
    gamma = weights.take(f"{name}.weight", 1)
    beta = weights.take(f"{name}.bias", 1)
    values = [gamma, beta]
    if gamma.shape != flow.shape[-1:] or beta.shape != gamma.shape:
        raise AgentError(
            f"The weights '{shown(name)}.weight' in {weights.place} have shape {gamma.shape}, which does not "
            f"fit what comes before them, of shape {flow.shape}."
        )
    if kind == "layernorm":
        if len(flow.shape) != 1:
            raise AgentError(f"The layer layernorm '{shown(name)}' fits only flat values, not {flow.shape}.")
        layer = layers.LayerNormalization(epsilon=_EPSILON)
    else:
        layer = layers.BatchNormalization(epsilon=_EPSILON)
        values += [weights.take(f"{name}.running_mean", 1), weights.take(f"{name}.running_var", 1)]
    result = layer(flow.tensor)
    layer.set_weights(values)
    return Flow(result)
