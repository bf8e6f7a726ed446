"""A Keras model -> the same with quantized weights and activations, to be trained, or trained further."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.errors import UsageError, one_line
from edgeqrl.fake_quant.arithmetic import value_of

_PASSED_BY = ("Dropout", "Flatten", "GaussianNoise", "Identity", "MaxPooling2D", "Reshape")  # change no grid


def fake_quantize(
    model: Any,
    scheme: Any = None,
    *,
    weight_bits: int | None = None,
    layer_bits: Mapping[str, int] | None = None,
    activation_bits: int | None = None,
    input_bits: int | None = None,
    inputs: str = "per_tensor",
    samples: NDArray[np.floating[Any]] | None = None,
) -> Any:
    """Return a new Keras model with `model`'s layers and weights that computes as it will on the chip.

    Dense, Conv2D and DepthwiseConv2D become their fake-quantized forms, with weights of 2 to 8 bits and
    learned steps; what the model is given is rounded first. Train it as any model, with training=True where
    it learns: that sets the ranges of activations. `model` stays as it is.

    scheme           a preset's name or a `Scheme`, for the bits of weights and of activations
    weight_bits      of all weights (8 by default), and `layer_bits` by the name of a layer
    activation_bits  8, or 16
    input_bits       of what the model is given: 8, or 16; by default those of activations
    inputs           "per_tensor": one range for all features; "per_feature": each its own
    samples          observations [N, ...] as the model is given them: ranges are set by these at once, and
                     the weights behind inputs "per_feature" are scaled so that the model acts as before

    Raises UsageError for what no integer network can be made of.
    """
    from edgeqrl.fake_quant.quantizers import FakeQuantInput

    stated, activation = _bits_of(scheme)
    weights = weight_bits if weight_bits is not None else stated
    others = activation_bits if activation_bits is not None else activation
    at_input = others if input_bits is None else input_bits
    if others == 16 and at_input == 8:
        raise UsageError("Activations of 16 bits need input_bits of 16 too.")
    own = dict(layer_bits or {})
    _require_known(model, own)
    try:
        quantizer = FakeQuantInput(bits=at_input, granularity=inputs, name="input_quantizer")
        twin = _rebuilt(
            model, quantizer, lambda layer: _quantized(layer, own.get(layer.name, weights), others)
        )
    except ValueError as error:
        raise UsageError(f"The model cannot be fake-quantized: {one_line(error)}.") from None
    _copy_weights(model, twin)
    if samples is not None:
        _set_ranges(twin, quantizer, np.asarray(samples, np.float32))
    return twin


def _bits_of(scheme: Any) -> tuple[int, int]:
    """Return the bits of weights and activations that a scheme asks for, 8 and 8 without one."""
    if scheme is None:
        return 8, 8
    from edgeqrl.quantize.scheme import Scheme, require_scheme

    found: Scheme = require_scheme(scheme) if isinstance(scheme, str) else scheme
    if (found.granularity, found.symmetry) != ("per_channel", "symmetric"):
        raise UsageError(
            f"Fake-quantized layers have symmetric weights per channel, and the scheme '{found.label}' has "
            "others; give weight_bits= instead."
        )
    if found.layer_bits or found.wide:
        raise UsageError(
            f"The scheme '{found.label}' names tensors of a network that is not yet made; give layer_bits= "
            "by the names of Keras layers, and input_bits=."
        )
    return found.weight_bits, 16 if found.activations == "int16" else 8


def _require_known(model: Any, layer_bits: Mapping[str, int]) -> None:
    keras = import_keras()
    if type(model).__name__ not in ("Sequential", "Functional") or not isinstance(model, keras.Model):
        raise UsageError(
            "fake_quantize takes Sequential and functional Keras models; build others from the layers of "
            "edgeqrl.fake_quant."
        )
    if not model.built or len(model.inputs) != 1:
        raise UsageError(
            "fake_quantize takes a model of one input that was built: give it keras.Input((...,)) first."
        )
    names = {layer.name for layer in model.layers}
    if unknown := sorted(set(layer_bits) - names):
        raise UsageError(f"layer_bits names '{unknown[0]}', and the layers are {', '.join(sorted(names))}.")


def _quantized(layer: Any, weight_bits: int, activation_bits: int) -> Any:
    """Return the layer's fake-quantized form, without weights; UsageError where it has none."""
    from edgeqrl.fake_quant.layers import LAYERS

    kind = type(layer)
    if kind in LAYERS:
        config = {**layer.get_config(), "weight_bits": weight_bits, "activation_bits": activation_bits}
        try:
            return LAYERS[kind].from_config(config)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"The layer '{layer.name}' cannot be fake-quantized: {one_line(error)}."
            ) from None
    if kind.__name__ in _PASSED_BY or kind.__name__ == "InputLayer":
        return kind.from_config(layer.get_config())
    known = ", ".join(sorted((*_PASSED_BY, *(known.__name__ for known in LAYERS))))
    raise UsageError(
        f"The layer '{layer.name}' is a {kind.__name__}, and fake_quantize knows {known}. Give a layer its "
        "activation with activation=..., and normalise observations before the model."
    )


def _rebuilt(model: Any, quantizer: Any, make: Callable[[Any], Any]) -> Any:
    """Return the model with each layer made anew, and `quantizer` behind its input."""
    keras = import_keras()
    if isinstance(model, keras.Sequential):
        (given,) = model.inputs
        start = keras.Input(batch_shape=given.shape, dtype=given.dtype, name=given.name)
        return keras.Sequential([start, quantizer, *map(make, model.layers)], name=model.name)
    entrances: dict[int, Any] = {}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return layer(*(_entered(value, quantizer, entrances) for value in args), **kwargs)

    return keras.models.clone_model(model, clone_function=make, call_function=call)


def _entered(value: Any, quantizer: Any, entrances: dict[int, Any]) -> Any:
    """Return what `value` is behind the quantizer where it is the model's input, else as it is."""
    history = getattr(value, "_keras_history", None)
    if history is None or type(history.operation).__name__ != "InputLayer":
        return value
    if id(value) not in entrances:
        entrances[id(value)] = quantizer(value)
    return entrances[id(value)]


def _copy_weights(model: Any, twin: Any) -> None:
    """Give each layer of `twin` the kernel and bias of its namesake, and steps that fit them."""
    for layer in model.layers:
        if not layer.weights:
            continue
        copy = twin.get_layer(layer.name)
        copy.kernel.assign(layer.kernel)
        if layer.use_bias:
            copy.bias.assign(layer.bias)
        copy.fit_weights()


def _set_ranges(twin: Any, quantizer: Any, samples: NDArray[np.float32]) -> None:
    """Set all ranges by what the model meets on `samples`, which it keeps answering as it did."""
    shape = tuple(twin.inputs[0].shape[1:])
    if samples.ndim != len(shape) + 1 or samples.shape[1:] != shape or not len(samples):
        raise UsageError(f"The model takes observations {shape}, and samples are {samples.shape}.")
    if not np.all(np.isfinite(samples)):
        raise UsageError("The samples hold NaN or infinity.")
    quantizer.fit_range(samples)
    if quantizer.granularity == "per_feature":
        ranges = value_of(quantizer.high)
        for layer in _readers(twin, quantizer):
            layer.kernel.assign(value_of(layer.kernel) * ranges[:, None])
            layer.fit_weights()
    twin(samples, training=True)
    quantizer.fit_range(samples)  # the call above narrowed it


def _readers(twin: Any, quantizer: Any) -> list[Any]:
    """Return the layers that read what the quantizer gives; UsageError unless all are Dense."""
    from edgeqrl.fake_quant.layers import FakeQuantDense

    readers = [layer for layer in twin.layers if layer is not quantizer and layer.input is quantizer.output]
    if not readers or not all(isinstance(layer, FakeQuantDense) for layer in readers):
        raise UsageError(
            "Inputs 'per_feature' of a trained model need a Dense layer first, to take the scales; use "
            "inputs='per_tensor'."
        )
    return readers
