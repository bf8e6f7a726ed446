"""Weights of PyTorch layers, and the Keras layers that compute the same with them.

PyTorch has images as channels, rows, columns, Keras and LiteRT as rows, columns, channels. Convolutions
are turned once, here; where one flattens, the columns of the next weights are put in Keras's order, so
that the exported network moves no data.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.errors import AgentError, require_name
from edgeqrl.network.tflite_model import shown

# Activations by the names of Keras, which the command line takes too; PyTorch's defaults are meant.
_ACTIVATIONS: Mapping[str, str] = {
    "relu": "ReLU",
    "tanh": "Tanh",
    "elu": "ELU",
    "leaky_relu": "LeakyReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "sigmoid": "Sigmoid",
    "identity": "Identity",
    "relu6": "ReLU6",
    "hard_swish": "Hardswish",
    "selu": "SELU",
    "softplus": "Softplus",
}
ACTIVATION_NAMES = tuple(_ACTIVATIONS)
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_TORCH_NAMES = {torch_name: name for name, torch_name in _ACTIVATIONS.items()} | {"CELU": "elu"}


def activation_of_class(text: str) -> str | None:
    """Return our name of `<class 'torch.nn.modules.activation.Tanh'>`; None for what is no plain class."""
    found = re.fullmatch(r"<class 'torch\.nn\.modules\.(?:activation|linear)\.(\w+)'>", text)
    return None if found is None else _TORCH_NAMES.get(found[1])


def activation(name: str, tensor: Any) -> Any:
    """Apply PyTorch's activation of this name, with PyTorch's defaults, to a Keras tensor."""
    layers = import_keras().layers
    name = require_name("activation", name, ACTIVATION_NAMES)
    if name == "identity":
        return tensor
    if name == "leaky_relu":
        return layers.LeakyReLU(negative_slope=0.01)(tensor)
    if name == "selu":  # the same in operators that every integer runtime has
        return layers.Rescaling(_SELU_SCALE)(
            layers.LeakyReLU(negative_slope=_SELU_ALPHA)(layers.ELU()(tensor))
        )
    return layers.Activation(name)(tensor)


class Weights:
    """The arrays of a state dict; taking one checks that its values are finite."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], place: str) -> None:
        self.place = place
        self._arrays = arrays
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def take(self, name: str, rank: int) -> NDArray[np.float32]:
        """Return the float32 values of the tensor `name`, which must have `rank` axes."""
        if name not in self._arrays:
            raise AgentError(f"{self.place} holds no weights '{shown(name)}', which its kind of network has.")
        array = self._arrays[name]
        if array.ndim != rank or array.size == 0:
            raise AgentError(
                f"The weights '{shown(name)}' in {self.place} have shape {array.shape}, which does not fit "
                "their place in the network."
            )
        values = array.astype(np.float32)
        if not np.isfinite(values).all():
            raise AgentError(
                f"The weights '{shown(name)}' in {self.place} hold NaN or infinity: the training diverged. "
                "Take an earlier checkpoint."
            )
        self._taken.add(name)
        return values

    def maybe(self, name: str, rank: int) -> NDArray[np.float32] | None:
        """Return what `take` does, or None where there is none of this name."""
        return self.take(name, rank) if name in self._arrays else None

    def numbers(self, name: str) -> NDArray[np.float64] | None:
        """Return the flattened values of a buffer that is no layer's, or None where there is none."""
        return np.ravel(self._arrays[name]).astype(np.float64) if name in self._arrays else None

    def under(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix` and a dot, without these; all for an empty prefix."""
        start = f"{prefix}." if prefix else ""
        return [name.removeprefix(start) for name in self._arrays if name.startswith(start)]

    def layers_under(self, prefix: str) -> list[str]:
        """Return the layers under `prefix` that have weights, in the order in which they were saved."""
        found = [name.removesuffix(".weight") for name in self.under(prefix) if name.endswith(".weight")]
        return [f"{prefix}.{name}" if prefix else name for name in found]

    def are_equal(self, prefix: str, other: str) -> bool:
        """Tell whether the same tensors lie under both prefixes."""
        names = self.under(prefix)
        return names == self.under(other) and all(
            np.array_equal(self._arrays[f"{prefix}.{name}"], self._arrays[f"{other}.{name}"])
            for name in names
        )

    def require_taken(self, prefix: str) -> None:
        """Raise AgentError if a tensor under `prefix` was left: the network is not the one thought."""
        start = f"{prefix}." if prefix else ""
        left = [n for n in self._arrays if n.startswith(start) and n not in self._taken]
        if left:
            raise AgentError(
                f"{self.place} holds the weights '{shown(left[0])}', which a network of its kind does not "
                "have."
            )


@dataclass(frozen=True)
class Flow:
    """A Keras tensor on its way, and what PyTorch would have in its place.

    columns   of a flat tensor: PyTorch's column j is Keras's column columns[j]; None where they agree
    """

    tensor: Any
    columns: NDArray[np.int64] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the Keras tensor's shape without the batch axis."""
        return tuple(int(n) for n in self.tensor.shape[1:])


def image(tensor: Any, *, is_channels_first: bool) -> Flow:
    """Start from an image tensor; one in PyTorch's order is turned by a layer of the network."""
    if not is_channels_first:
        return Flow(tensor)
    return Flow(import_keras().layers.Permute((2, 3, 1))(tensor))


def flatten(flow: Flow, *, is_image: bool) -> Flow:
    """Flatten; `is_image` says that PyTorch has channels first where Keras has them last."""
    shape = flow.shape
    if len(shape) == 1:
        return flow
    columns = None
    if is_image and len(shape) == 3 and shape[2] > 1 and shape[0] * shape[1] > 1:
        columns = np.arange(prod(shape)).reshape(shape).transpose(2, 0, 1).ravel()
    return Flow(import_keras().layers.Flatten()(flow.tensor), columns)


def concatenate(flows: Sequence[Flow]) -> Flow:
    """Join flat tensors, as torch.cat does along the last axis."""
    if len(flows) == 1:
        return flows[0]
    tensor = import_keras().layers.Concatenate()([flow.tensor for flow in flows])
    if all(flow.columns is None for flow in flows):
        return Flow(tensor)
    columns, start = [], 0
    for flow in flows:
        (size,) = flow.shape
        columns.append(start + (np.arange(size) if flow.columns is None else flow.columns))
        start += size
    return Flow(tensor, np.concatenate(columns))


def linear(flow: Flow, weights: Weights, name: str, *, num_means: int = 1) -> Flow:
    """Apply torch.nn.Linear; with `num_means`, the mean of that many such layers stacked in one."""
    kernel = weights.take(f"{name}.weight", 2)
    bias = weights.maybe(f"{name}.bias", 1)
    if num_means > 1:
        kernel = _mean(kernel, num_means)
        bias = None if bias is None else _mean(bias, num_means)
    return dense(flow, kernel, bias, f"{name}.weight", weights)


def dense(
    flow: Flow, kernel: NDArray[np.float32], bias: NDArray[np.float32] | None, name: str, weights: Weights
) -> Flow:
    """Apply a kernel [outputs, inputs] and a bias [outputs], with PyTorch's order of the inputs."""
    if len(flow.shape) != 1 or kernel.shape[1] != flow.shape[0]:
        raise _misfit(weights, name, kernel.shape, flow.shape)
    if bias is not None and bias.shape != (len(kernel),):
        raise _misfit(weights, name, bias.shape, (len(kernel),))
    layer = import_keras().layers.Dense(
        len(kernel),
        use_bias=bias is not None,
        kernel_initializer="zeros",
        name=_layer_name(name.removesuffix(".weight")),
    )
    result = layer(flow.tensor)
    layer.set_weights([in_order(kernel, flow).T] + ([] if bias is None else [bias]))
    return Flow(result)


def _layer_name(name: str) -> str | None:
    """Return PyTorch's name of a layer for the Keras one, None where TensorFlow takes no such name."""
    return name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) else None


def in_order(kernel: NDArray[np.float32], flow: Flow) -> NDArray[np.float32]:
    """Put the columns of a kernel [outputs, inputs] in the order in which Keras has the inputs."""
    if flow.columns is None:
        return kernel
    ordered = np.empty_like(kernel)
    ordered[:, flow.columns] = kernel
    return ordered


def conv(flow: Flow, weights: Weights, name: str, *, stride: int = 1, padding: int = 0) -> Flow:
    """Apply torch.nn.Conv2d with a square stride and padding, without groups or dilation."""
    layers = import_keras().layers
    kernel = weights.take(f"{name}.weight", 4)
    bias = weights.maybe(f"{name}.bias", 1)
    shape = flow.shape
    if len(shape) != 3 or kernel.shape[1] != shape[2]:
        raise _misfit(weights, f"{name}.weight", kernel.shape, shape)
    if bias is not None and bias.shape != kernel.shape[:1]:
        raise _misfit(weights, f"{name}.bias", bias.shape, kernel.shape[:1])
    if any(n + 2 * padding < k for n, k in zip(shape[:2], kernel.shape[2:], strict=True)):
        raise _misfit(weights, f"{name}.weight", kernel.shape, shape)
    tensor = layers.ZeroPadding2D(padding)(flow.tensor) if padding else flow.tensor
    layer = layers.Conv2D(
        len(kernel),
        kernel.shape[2:],
        strides=stride,
        use_bias=bias is not None,
        kernel_initializer="zeros",
        data_format="channels_last",
        name=_layer_name(name),
    )
    result = layer(tensor)
    layer.set_weights([kernel.transpose(2, 3, 1, 0)] + ([] if bias is None else [bias]))
    return Flow(result)


def lstm_step(
    flow: Flow, state: tuple[Any, Any], weights: Weights, name: str, layer: int
) -> tuple[Flow, tuple[Any, Any]]:
    """Apply one step of layer `layer` of torch.nn.LSTM; return its output and next (hidden, cell)."""
    kernel = weights.take(f"{name}.weight_ih_l{layer}", 2)
    recurrent = weights.take(f"{name}.weight_hh_l{layer}", 2)
    units = recurrent.shape[1]
    if len(flow.shape) != 1 or kernel.shape != (4 * units, *flow.shape) or len(recurrent) != 4 * units:
        raise _misfit(weights, f"{name}.weight_ih_l{layer}", kernel.shape, flow.shape)
    biases = [weights.maybe(f"{name}.bias_{kind}_l{layer}", 1) for kind in ("ih", "hh")]
    bias = sum((b for b in biases if b is not None), np.zeros(4 * units, np.float32))
    cell = import_keras().layers.LSTMCell(
        units, kernel_initializer="zeros", recurrent_initializer="zeros"
    )  # both have the gates in the order input, forget, cell, output
    result, next_state = cell(flow.tensor, list(state))
    cell.set_weights([in_order(kernel, flow).T, recurrent.T, bias])
    return Flow(result), (next_state[0], next_state[1])


def lstm_sizes(weights: Weights, name: str) -> tuple[int, int]:
    """Return the units and the number of layers of the torch.nn.LSTM `name`; refuse its rarer forms."""
    names = weights.under(name)
    strange = [n for n in names if not re.fullmatch(r"(weight|bias)_(ih|hh)_l\d+", n)]
    if strange:
        raise AgentError(
            f"The LSTM '{shown(name)}' in {weights.place} holds '{shown(strange[0])}': only plain LSTM "
            "layers can be exported, neither bidirectional ones nor those with a projection."
        )
    count = len([n for n in names if n.startswith("weight_hh_l")])
    return weights.take(f"{name}.weight_hh_l0", 2).shape[1], count


def mlp(flow: Flow, weights: Weights, prefix: str, names: Iterable[int], activation_name: str) -> Flow:
    """Apply Linear layers, each followed by the activation, that have these numbers in a Sequential."""
    for number in names:
        flow = linear(flow, weights, f"{prefix}.{number}")
        flow = Flow(activation(activation_name, flow.tensor))
    return flow


def _mean(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    rows = values.astype(np.float64).reshape(count, -1, *values.shape[1:])
    return np.asarray(rows.mean(axis=0), np.float32)


def _misfit(weights: Weights, name: str, shape: tuple[int, ...], other: tuple[int, ...]) -> AgentError:
    return AgentError(
        f"The weights '{shown(name)}' in {weights.place} have shape {tuple(shape)}, which does not fit what "
        f"comes before them, of shape {tuple(other)}. Is this the agent for these observations?"
    )
