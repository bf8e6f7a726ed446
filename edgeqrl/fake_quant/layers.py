"""Keras's Dense, Conv2D and DepthwiseConv2D with weights on a grid of few bits and quantized activations."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.tensorflow_runtime import import_keras, import_tensorflow
from edgeqrl.fake_quant.arithmetic import best_steps, damped, is_plain, rounded, value_of, weight_levels
from edgeqrl.fake_quant.quantizers import (
    ACTIVATION_BITS,
    FIXED_RANGES,
    PACKAGE,
    StepQuantizer,
    fixed_grid,
    require_bits,
    sound_step,
)

keras = import_keras()
tensorflow = import_tensorflow()

WEIGHT_BITS = range(2, 9)
UNSIGNED = ("relu", "relu6")
ACTIVATIONS = ("linear", *UNSIGNED, *FIXED_RANGES)


class _FakeQuant(import_keras().layers.Layer):  # type: ignore[misc]
    """What the layers share; beside a layer of Keras, whose arithmetic they keep.

    The weights have a learned step for each output channel. What the layer gives has one learned step; in
    front of tanh, sigmoid and softmax, whose own grid is fixed.
    """

    def __init__(self, *args: Any, weight_bits: int = 8, activation_bits: int = 8, **options: Any) -> None:
        """Take 2 to 8 bits for weights, 8 or 16 for activations, and what the layer of Keras takes."""
        super().__init__(*args, **options)
        name = keras.activations.serialize(self.activation)
        _require_known(weight_bits, activation_bits, name)
        self.weight_bits, self.activation_name = weight_bits, str(name)
        self.quantizer = StepQuantizer(activation_bits, name not in UNSIGNED, name="quantizer")
        self.levels = weight_levels(weight_bits)

    def build(self, input_shape: Any) -> None:
        """Make the layer's variables and the steps, which cover the first weights."""
        super().build(input_shape)
        shape = self.kernel.shape[-self._channel_axes :]
        self.log_step = self.add_weight(name="log_step", shape=shape, initializer="zeros")
        self.quantizer.build(self.compute_output_shape(input_shape))
        self.built = True
        with tensorflow.init_scope():
            kernel = tensorflow.reshape(self.kernel, (-1, *shape))
            largest = tensorflow.maximum(tensorflow.reduce_max(tensorflow.abs(kernel), axis=0), 1e-6)
            self.log_step.assign(tensorflow.math.log(largest / self.levels.high))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the layer's quantized activations [N, ...]."""
        sums = self._sums(inputs, self._quantized_kernel())
        if self.use_bias:
            sums = tensorflow.nn.bias_add(sums, self.bias)
        if self.activation_name in FIXED_RANGES:
            given = self.activation(self.quantizer(sums, training=training))
            return fixed_grid(given, self.activation_name, self.quantizer.bits)
        return self.quantizer(self.activation(sums), training=training)

    def get_config(self) -> dict[str, Any]:
        """Return what makes the layer again."""
        bits = {"weight_bits": self.weight_bits, "activation_bits": self.quantizer.bits}
        return {**super().get_config(), **bits}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Make the layer that `get_config` described; ValueError for bits and activations that are none."""
        _require_known(*(config.get(name) for name in ("weight_bits", "activation_bits", "activation")))
        return super().from_config(config)

    def save_own_variables(self, store: Any) -> None:
        """Write kernel, bias and steps."""
        for name, variable in self._own_variables().items():
            store[name] = variable

    def load_own_variables(self, store: Any) -> None:
        """Read what `save_own_variables` wrote."""
        for name, variable in self._own_variables().items():
            variable.assign(store[name])

    def fit_weights(self) -> None:
        """Set the steps of weights so that their rounding errs least."""
        kernel = value_of(self.kernel)
        shape = self.log_step.shape
        steps = best_steps(kernel.reshape(-1, int(np.prod(shape))), self.levels)
        self.log_step.assign(np.log(steps).reshape(shape))

    def integers(self) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Return the weights as integers, of the kernel's shape, and the step of each output channel.

        Raises ValueError where a step is out of all bounds.
        """
        steps = np.exp(value_of(self.log_step))
        for step in steps.ravel():
            sound_step(1.0, float(step))
        scaled = value_of(self.kernel) / steps
        return np.clip(np.rint(scaled), self.levels.low, self.levels.high).astype(np.int8), steps

    def _own_variables(self) -> dict[str, Any]:
        bias = {"bias": self.bias} if self.use_bias else {}
        return {"kernel": self.kernel, **bias, "log_step": self.log_step}

    def _quantized_kernel(self) -> Any:
        if is_plain():
            integers, steps = self.integers()
            return tensorflow.constant(integers * steps)
        kernel = self.kernel
        shared_by = int(np.prod(kernel.shape)) // int(np.prod(self.log_step.shape))
        return rounded(kernel, damped(tensorflow.exp(self.log_step), shared_by, self.levels), self.levels)


def _require_known(weight_bits: Any, activation_bits: Any, activation: Any) -> None:
    require_bits(weight_bits, WEIGHT_BITS, "weight_bits")
    require_bits(activation_bits, ACTIVATION_BITS, "activation_bits")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {str(activation)[:40]!r}")


@keras.saving.register_keras_serializable(PACKAGE)
class FakeQuantDense(_FakeQuant, import_keras().layers.Dense):  # type: ignore[misc]
    """Dense with quantized weights and activations."""

    _channel_axes = 1

    def _sums(self, inputs: Any, kernel: Any) -> Any:
        return keras.ops.matmul(inputs, kernel)


@keras.saving.register_keras_serializable(PACKAGE)
class FakeQuantConv2D(_FakeQuant, import_keras().layers.Conv2D):  # type: ignore[misc]
    """Conv2D with quantized weights and activations, channels last."""

    _channel_axes = 1

    def _sums(self, inputs: Any, kernel: Any) -> Any:
        return self.convolution_op(inputs, kernel)


@keras.saving.register_keras_serializable(PACKAGE)
class FakeQuantDepthwiseConv2D(_FakeQuant, import_keras().layers.DepthwiseConv2D):  # type: ignore[misc]
    """DepthwiseConv2D with quantized weights and activations, channels last."""

    _channel_axes = 2  # of the kernel [height, width, in, multiplier]

    def _sums(self, inputs: Any, kernel: Any) -> Any:
        return keras.ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


LAYERS = {
    keras.layers.Dense: FakeQuantDense,
    keras.layers.Conv2D: FakeQuantConv2D,
    keras.layers.DepthwiseConv2D: FakeQuantDepthwiseConv2D,
}
KINDS = tuple(LAYERS.values())
