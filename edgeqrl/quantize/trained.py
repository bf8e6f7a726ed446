"""An agent that was trained with fake quantization -> the integer network that it was trained as.

Its weights lie on the grids they learned, its activations have the ranges they learned: nothing is estimated,
rounded by output or corrected. The float network beside it rounds its activations as the agent does, so
that what a verdict compares with is the agent as it was trained.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import AgentError, UnsupportedOperatorError, UsageError
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.tflite_model import OperatorInfo, TFLiteModel, parse_tflite, shown, with_unique_names
from edgeqrl.quantize.features import scalable_features
from edgeqrl.quantize.file_rewrites import scaled_preprocessing, scaled_samples
from edgeqrl.quantize.frozen import freeze
from edgeqrl.quantize.integer import Made, Samples
from edgeqrl.quantize.matching import float_twins
from edgeqrl.quantize.rounded_float import ActivationGrid, with_rounding
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.quantize.tflite import Converter
from edgeqrl.quantize.weights_file import ROLES, LayerWeights, read_weights, write_weights
from edgeqrl.quantize.wide import widen

if TYPE_CHECKING:
    from edgeqrl.agents.agent import Agent

_LAYERS, _QUANTIZERS = "edgeqrl.fake_quant.layers", "edgeqrl.fake_quant.quantizers"
_FIXED = {"TANH": "tanh", "LOGISTIC": "sigmoid", "SOFTMAX": "softmax"}  # grids of TensorFlow Lite's own
_KEEPING = {"RELU", "RELU6", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "MAX_POOL_2D"}  # give what they take
_INT16_MAX = 2**15 - 1
_SOURCE_IS_FIRST = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")


@dataclass(frozen=True, eq=False)
class _Layer:
    """What a fake-quantized layer learned."""

    name: str  # of the layer of Keras
    rows: NDArray[np.int8]  # weights [channels, terms]
    steps: NDArray[np.float32]  # [channels]
    bias: NDArray[np.float32]  # [channels]
    weight_bits: int
    grid: ActivationGrid  # of its sums, behind its ReLU


@dataclass(frozen=True, eq=False)
class _Learned:
    """What a fake-quantized model learned."""

    layers: tuple[_Layer, ...]
    input_grid: ActivationGrid
    gains: NDArray[np.float64] | None  # of the features of what the model is given
    activation_bits: int
    input_bits: int


def is_fake_quantized(agent: "Agent") -> bool:
    """Tell whether the agent's model has layers of `edgeqrl.fake_quant`."""
    return any(True for _ in _fake_layers(agent))


def trained_scheme(agent: "Agent") -> Scheme | None:
    """Return the scheme that the agent was trained as, but for bits by layer; None for any other agent."""
    return _scheme(_learned(agent)) if is_fake_quantized(agent) else None


def require_trained_scheme(agent: "Agent", scheme: Scheme) -> None:
    """Raise UsageError for a scheme that the agent was not trained as, but for bits by layer."""
    _require_own(agent, replace(scheme, layer_bits=()), _scheme(_learned(agent)))


def quantize_trained(agent: "Agent", scheme: Scheme | None, samples: Samples, converter: Converter) -> Made:
    """Return the integer network of what the agent learned, and the float network with its rounding.

    scheme    None, or the agent's own: what was trained is not quantized otherwise

    Raises UsageError for another scheme, AgentError for ranges that were never set or mixed layers, and
    UnsupportedOperatorError for operators whose grid the layers do not say.
    """
    from edgeqrl.fake_quant.arithmetic import plainly

    learned = _learned(agent)
    own = _scheme(learned)
    if scheme is not None:
        _require_own(agent, replace(scheme, layer_bits=()), own)
    gains = _input_gains(agent, learned)
    with plainly():
        exact = converter.to_float(freeze(agent))
    model = with_unique_names(parse_tflite(exact))
    matched = _match(model, learned, agent)
    grids = _grids(model, matched, learned)
    ranges = {model.tensors[i].name: _range(grid) for i, grid in grids.items()}
    layers = {model.tensors[i].name: layer for i, layer in matched.items()}
    own = _with_layer_bits(own, layers)
    if scheme is not None:
        _require_own(agent, scheme, own)

    def quantized(activations: str) -> bytes:
        made = converter.quantize(exact, ranges, activations=activations, num_states=len(agent.states))
        read_tflite(made)  # refuses what stayed float
        return made

    integer = quantized(own.activations)
    if own.wide:
        integer = widen(converter, integer, quantized("int16"), own.wide, num_states=len(agent.states))
    integer = _with_trained_weights(integer, exact, layers)
    return Made(
        tflite=integer,
        float_tflite=with_rounding(exact, grids),
        preprocessing=scaled_preprocessing(agent.preprocessing, gains),
        samples=scaled_samples(samples, gains, agent.preprocessing),
        scheme=own,
        input_gains=gains,
    )


def _fake_layers(agent: "Agent") -> Iterator[Any]:
    """Yield the model's layers of `edgeqrl.fake_quant`: none where that was never imported."""
    kinds = [getattr(sys.modules.get(name), "KINDS", ()) for name in (_LAYERS, _QUANTIZERS)]
    model = agent.model if agent.original is None else agent.original
    if any(kinds) and hasattr(model, "_flatten_layers"):
        yield from (layer for layer in model._flatten_layers() if isinstance(layer, sum(kinds, ())))


def _plain_layers(agent: "Agent") -> Iterator[str]:
    """Name the model's layers with weights that are not of `edgeqrl.fake_quant`."""
    fake = list(_fake_layers(agent))
    model = agent.model if agent.original is None else agent.original
    layers = model._flatten_layers(include_self=False, recursive=False)
    yield from (layer.name for layer in layers if layer.weights and layer not in fake)


def _learned(agent: "Agent") -> _Learned:
    """Read the layers; AgentError where they do not make an integer network."""
    from edgeqrl.fake_quant.quantizers import FakeQuantInput

    layers = list(_fake_layers(agent))
    inputs = [layer for layer in layers if isinstance(layer, FakeQuantInput)]
    others = [layer for layer in layers if not isinstance(layer, FakeQuantInput)]
    bits = {layer.quantizer.bits for layer in others}
    if len(inputs) != 1 or len(bits) != 1:
        raise AgentError(
            f"The model of '{agent.name}' needs one FakeQuantInput and layers of the same activation_bits "
            "behind it. Build it with edgeqrl.quantize.fake_quantize."
        )
    (entrance,) = inputs
    (activation_bits,) = bits
    levels = entrance.levels
    try:
        grid = ActivationGrid(entrance.step, levels.low, levels.high)
        return _Learned(tuple(map(_layer_of, others)), grid, entrance.gains, activation_bits, entrance.bits)
    except ValueError as error:
        raise AgentError(f"The model of '{agent.name}' cannot be made integer: {error}.") from None


def _layer_of(layer: Any) -> _Layer:
    """Read a layer; ValueError, naming it, where what it learned is no grid."""
    try:
        integers, steps = layer.integers()
        step = layer.quantizer.step
    except ValueError as error:
        raise ValueError(f"layer '{layer.name}': {error}") from None
    channels = steps.size
    levels = layer.quantizer.levels
    return _Layer(
        name=layer.name,
        rows=np.ascontiguousarray(integers.reshape(-1, channels).T),
        steps=np.asarray(steps, np.float32).ravel(),
        bias=np.asarray(layer.bias.numpy() if layer.use_bias else np.zeros(channels), np.float32),
        weight_bits=layer.weight_bits,
        grid=ActivationGrid(step, levels.low, levels.high),
    )


def _scheme(learned: _Learned) -> Scheme:
    used = [layer.weight_bits for layer in learned.layers]
    is_wide = learned.activation_bits == 16
    return Scheme(
        weight_bits=max(used, key=used.count),
        activations="int16" if is_wide else "int8",
        wide=("input",) if learned.input_bits == 16 and not is_wide else (),
        rewrites=(),
        learned=True,
    )


def _require_own(agent: "Agent", scheme: Scheme, own: Scheme) -> None:
    if scheme != own:
        trained = own.label.removesuffix(" learned")
        raise UsageError(
            f"The agent '{agent.name}' was trained with fake quantization as {trained}, and its weights "
            "and ranges are part of what it learned. Leave out --scheme and --set, or train with other bits."
        )


def _with_layer_bits(scheme: Scheme, layers: dict[str, _Layer]) -> Scheme:
    others = {name: layer.weight_bits for name, layer in layers.items()}
    return replace(scheme, layer_bits=tuple((n, b) for n, b in others.items() if b != scheme.weight_bits))


def _input_gains(agent: "Agent", learned: _Learned) -> dict[str, tuple[float, ...]]:
    """Return what the device multiplies each feature by before the network."""
    if learned.gains is None:
        return {}
    part = agent.preprocessing.parts[0]
    features = scalable_features(agent.preprocessing).get(part.name)
    gains = None if features is None else np.zeros(part.network_size)
    if gains is not None and features is not None and learned.gains.size == features.size:
        gains[features] = learned.gains
        if np.array_equal(gains[features], learned.gains):
            return {part.name: tuple(gains.tolist())}
    raise AgentError(
        f"The inputs 'per_feature' of '{agent.name}' fit rows of float observations, one frame at a time, "
        "and this one takes images, classes or stacked frames. Train it with inputs='per_tensor'."
    )


def _match(model: TFLiteModel, learned: _Learned, agent: "Agent") -> dict[int, _Layer]:
    """Return the layer of each operator with weights, by the tensor that it writes: by their values."""
    left = list(learned.layers)
    found: dict[int, _Layer] = {}
    for op in model.operators:
        if op.name not in ROLES:
            continue
        layer = next((layer for layer in left if _is_of(model, op, layer)), None)
        if layer is None:
            name = next(_plain_layers(agent), model.tensors[op.outputs[0]].name)
            raise AgentError(
                f"The layer '{shown(name)}' of '{agent.name}' is not fake-quantized, and others are. Build "
                "the whole policy with edgeqrl.quantize.fake_quantize."
            )
        left.remove(layer)
        found[op.outputs[0]] = layer
    return found


def _is_of(model: TFLiteModel, op: OperatorInfo, layer: _Layer) -> bool:
    weights = model.tensors[op.inputs[1]]
    if op.name not in _SOURCE_IS_FIRST or not weights.is_constant or weights.dtype != "FLOAT32":
        return False
    rows = np.moveaxis(weights.values(), ROLES[op.name].axis, 0)
    wanted = layer.rows * layer.steps[:, None]
    return rows.size == wanted.size and np.array_equal(rows.reshape(wanted.shape), wanted)


def _grids(model: TFLiteModel, layers: dict[int, _Layer], learned: _Learned) -> dict[int, ActivationGrid]:
    """Return the grid of every activation, by the tensor's index."""
    from edgeqrl.fake_quant.arithmetic import activation_levels
    from edgeqrl.fake_quant.quantizers import FIXED_RANGES, fixed_step

    found = dict.fromkeys(model.inputs, learned.input_grid)
    for op in model.operators:
        written = op.outputs[0]
        if written in layers:
            found[written] = layers[written].grid
        elif op.name in _FIXED:
            kind, bits = _FIXED[op.name], learned.activation_bits
            levels = activation_levels(bits, signed=FIXED_RANGES[kind])
            found[written] = ActivationGrid(fixed_step(kind, bits), levels.low, levels.high)
        elif op.name in _KEEPING and op.inputs[0] in found:
            found[written] = found[op.inputs[0]]
        else:
            raise UnsupportedOperatorError(
                f"{op.name} of '{shown(model.tensors[written].name)}' has no grid that was trained. Build "
                "the policy with edgeqrl.quantize.fake_quantize, and normalise observations before it."
            )
    return found


def _range(grid: ActivationGrid) -> tuple[float, float]:
    """Return the range that TensorFlow Lite makes the grid's step of."""
    if grid.high == _INT16_MAX:  # its zero point is in the middle, whatever the values are
        return -grid.high * grid.step, grid.high * grid.step
    return grid.range


def _with_trained_weights(integer: bytes, exact: bytes, layers: dict[str, _Layer]) -> bytes:
    """Give every layer of the integer file its trained integers and steps, and the bias on their grid."""
    old, twins = read_weights(integer), float_twins(integer, exact)
    written: dict[str, LayerWeights] = {}
    for name, weights in old.items():
        layer = layers[twins[name].name]
        new = replace(
            weights,
            weights=weights.from_rows(layer.rows),
            scales=layer.steps,
            zero_points=np.zeros(len(layer.steps), np.int64),
        )
        if weights.bias is not None:
            new = replace(new, bias=np.rint(layer.bias / new.bias_scales).astype(np.int64))
        written[name] = new
    try:
        return write_weights(integer, written)
    except ValueError as error:
        raise AgentError(
            f"What was trained fits no integer network: {error}. Take an earlier checkpoint."
        ) from None
