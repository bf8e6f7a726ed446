"""Keras layers that quantize activations: what a network is given, and what its layers write."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.tensorflow_runtime import import_keras, import_tensorflow
from edgeqrl.fake_quant.arithmetic import (
    LARGEST_STEP,
    SMALLEST_STEP,
    activation_levels,
    damped,
    is_plain,
    rounded,
    value_of,
)

keras = import_keras()
tensorflow = import_tensorflow()

PACKAGE = "edgeqrl"  # under which Keras knows the layers
ACTIVATION_BITS = (8, 16)
GRANULARITIES = ("per_tensor", "per_feature")
# Activations whose grid is TensorFlow Lite's, from -1 or 0 to 1, and whether there are negative values.
FIXED_RANGES = {"tanh": True, "sigmoid": False, "softmax": False}
_TINY = 1e-6  # the least range, of what was never anything but zero


def require_bits(bits: Any, known: Any, what: str) -> int:
    """Return `bits`, or raise ValueError where they are none of the known."""
    if type(bits) is not int or bits not in known:
        raise ValueError(f"{what} must be one of {', '.join(map(str, known))}, got {bits!r}")
    return bits


class StepQuantizer(import_keras().layers.Layer):  # type: ignore[misc]
    """Rounds activations to a learned step.

    Until a first call with training=True, or `fit_range`, it lets values pass as they are; that call sets
    the step so that its batch is covered.
    """

    def __init__(self, bits: int, signed: bool, **options: Any) -> None:
        """Take 8 or 16 bits; unsigned where no value is negative, as behind a ReLU."""
        super().__init__(**options)
        self.bits = require_bits(bits, ACTIVATION_BITS, "activation_bits")
        self.signed = signed
        self.levels = activation_levels(self.bits, signed=signed)

    def build(self, input_shape: Any) -> None:
        """Make the step and whether it is set."""
        self.log_step = self.add_weight(name="log_step", shape=(), initializer="zeros")
        self.is_set = self.add_weight(name="is_set", shape=(), initializer="zeros", trainable=False)
        self._size = int(np.prod([n or 1 for n in input_shape[1:]]))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return `inputs` [N, ...] on the grid."""
        if is_plain():
            return inputs
        if training:
            found = tensorflow.math.log(largest(inputs) / self.levels.high)
            self.log_step.assign(tensorflow.where(self.is_set > 0, self.log_step.value, found))
            self.is_set.assign(1.0)
        step = damped(tensorflow.exp(self.log_step), self._size, self.levels)
        return tensorflow.where(self.is_set > 0, rounded(inputs, step, self.levels), inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape, which stays."""
        return input_shape

    def fit_range(self, high: float) -> None:
        """Have the step cover values up to `high` in size."""
        self.log_step.assign(float(np.log(max(high, _TINY) / self.levels.high)))
        self.is_set.assign(1.0)

    @property
    def step(self) -> float:
        """Return the learned step; ValueError where it was never set or is out of all bounds."""
        return sound_step(float(value_of(self.is_set)), np.exp(float(value_of(self.log_step))))


@keras.saving.register_keras_serializable(PACKAGE)
class FakeQuantInput(import_keras().layers.Layer):  # type: ignore[misc]
    """Rounds what a network is given to 8 or 16 bits, within the range that it met in training.

    A range widens at once to all that a batch with training=True shows and narrows slowly, by the fraction
    `narrowing` a batch; otherwise it stays as it is. `per_tensor` keeps one range and gives values as they
    came; `per_feature` keeps one for each feature, the last axis, and gives each in units of its own
    range: on the device that is part of how the observation is made integer.
    """

    def __init__(
        self,
        bits: int = 8,
        granularity: str = "per_tensor",
        signed: bool = True,
        narrowing: float = 1e-4,
        **options: Any,
    ) -> None:
        """Take `signed` False where no value is negative, as in images; one step is then half as wide."""
        super().__init__(**options)
        if granularity not in GRANULARITIES:
            raise ValueError(f"granularity must be one of {', '.join(GRANULARITIES)}, got {granularity!r}")
        if not 0.0 <= narrowing < 1.0:
            raise ValueError(f"narrowing must be at least 0 and below 1, got {narrowing!r}")
        self.bits = require_bits(bits, ACTIVATION_BITS, "bits")
        self.granularity, self.signed, self.narrowing = granularity, bool(signed), float(narrowing)
        self.levels = activation_levels(self.bits, signed=self.signed)

    def build(self, input_shape: Any) -> None:
        """Make the ranges, and whether they are set."""
        shape = (input_shape[-1],) if self.granularity == "per_feature" else ()
        self.high = self.add_weight(name="high", shape=shape, initializer="ones", trainable=False)
        self.is_set = self.add_weight(name="is_set", shape=(), initializer="zeros", trainable=False)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return `inputs` [N, ..., features] on the grid, and in units of their ranges if `per_feature`."""
        if is_plain():
            return inputs
        if training:
            self._widen(inputs)
        if self.granularity == "per_tensor":
            on_grid = rounded(inputs, self.high / self.levels.high, self.levels)
            return tensorflow.where(self.is_set > 0, on_grid, inputs)
        scaled = inputs / self.high
        on_grid = rounded(scaled, 1.0 / self.levels.high, self.levels)
        return tensorflow.where(self.is_set > 0, on_grid, scaled)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape, which stays."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what makes the layer again."""
        names = ("bits", "granularity", "signed", "narrowing")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def fit_range(self, samples: NDArray[np.float32]) -> None:
        """Set the ranges to all that `samples` [N, ..., features] show."""
        axes = tuple(range(samples.ndim - 1)) if self.granularity == "per_feature" else None
        self.high.assign(np.maximum(np.abs(samples).max(axis=axes), _TINY))
        self.is_set.assign(1.0)

    @property
    def step(self) -> float:
        """Return the step of what the layer gives; ValueError where ranges were never set."""
        highest = value_of(self.high).astype(np.float64)
        for value in np.atleast_1d(highest):
            sound_step(float(value_of(self.is_set)), value / self.levels.high)
        return (1.0 if self.granularity == "per_feature" else float(highest)) / self.levels.high

    @property
    def gains(self) -> NDArray[np.float64] | None:
        """Return what each feature is multiplied by, [features]; None where it stays as it is."""
        if self.granularity == "per_tensor":
            return None
        return 1.0 / value_of(self.high).astype(np.float64)

    def _widen(self, inputs: Any) -> None:
        axes = list(range(len(inputs.shape) - 1)) if self.granularity == "per_feature" else None
        seen = largest(inputs, axes)
        kept = tensorflow.maximum((1.0 - self.narrowing) * self.high, seen)
        self.high.assign(tensorflow.where(self.is_set > 0, kept, seen))
        self.is_set.assign(1.0)


def fixed_grid(values: Any, activation: str, bits: int) -> Any:
    """Return what tanh, sigmoid or softmax gave on TensorFlow Lite's grid for it; gradients pass.

    One operator, so that whoever looks at the network finds the activation behind it.
    """
    if is_plain():
        return values
    signed, step = FIXED_RANGES[activation], fixed_step(activation, bits)
    num_bits = bits - 1 if bits == 16 and not signed else bits
    low = -1.0 if signed else 0.0
    return tensorflow.quantization.fake_quant_with_min_max_args(values, low, 1.0 - step, num_bits)


def fixed_step(activation: str, bits: int) -> float:
    """Return the step of TensorFlow Lite's grid for tanh, sigmoid or softmax."""
    return float(2.0 ** (1 - bits if FIXED_RANGES[activation] or bits == 16 else -bits))


def largest(values: Any, axes: list[int] | None = None) -> Any:
    """Return the largest size of values, at least a tiny one, over `axes`; no gradient."""
    return tensorflow.stop_gradient(
        tensorflow.maximum(tensorflow.reduce_max(tensorflow.abs(values), axis=axes), _TINY)
    )


def sound_step(is_set: float, step: float) -> float:
    """Return `step`; ValueError with the reason where it was never set or is out of all bounds."""
    if not is_set > 0:
        raise ValueError(
            "its range was never set: call the model with training=True in training, or give "
            "fake_quantize samples of observations"
        )
    if not SMALLEST_STEP < step < LARGEST_STEP:
        raise ValueError(f"its step of {step:g} is no scale: training diverged, take an earlier checkpoint")
    return float(step)


KINDS = (FakeQuantInput,)
