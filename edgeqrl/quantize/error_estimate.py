"""What quantization would cost, before it is done: the error of a network's outputs on its samples.

    estimate = ErrorEstimate(FloatReference(tflite), samples, weight_bits=4)
    plain = estimate.of()
    edited = estimate.of(weights={"dense/MatMul": scaled})

Weights and activations are rounded in float, with the ranges that the samples show, as the converter would.
It serves to choose between edits of one network: it knows neither bias correction nor requantization.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.float_reference import FloatReference

Floats = NDArray[np.float32]

# Operators whose second input are weights, and the axis of their output channels.
WEIGHTS_AXIS = {"FULLY_CONNECTED": 0, "CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
_MOST_MACS = 2**28  # of one estimate: large networks are tried on fewer samples
_MACS_OF_NUMBER = 16  # that holding a number of a sample counts as
_LEAST_SAMPLES, _MOST_SAMPLES = 16, 512
# Measured on the zoo: weights of 4 bits that are rounded by what their layer gives, as they will be, have
# about the error of weights with so many more bits that are rounded to nearest.
_BITS_OF_ROUNDING = 3


class ErrorEstimate:
    """Runs one float network on samples, quantized by rounding in float."""

    def __init__(
        self,
        reference: FloatReference,
        samples: Mapping[str, Floats],
        unmet: Mapping[str, Floats] | None = None,
        *,
        weight_bits: int = 8,
        is_per_tensor: bool = False,
        activation_bits: int = 8,
    ) -> None:
        """Take samples [N, *shape] by the name of the network's input, N >= 1.

        unmet  more rows of some inputs, which only the ranges of these inputs have room for
        """
        self._reference, self._activation_bits = reference, activation_bits
        self._weight_bits = min(weight_bits + _BITS_OF_ROUNDING, 8)
        self._is_per_tensor = is_per_tensor
        self._axes = {
            layer.inputs[1]: WEIGHTS_AXIS[layer.operator]
            for layer in reference.layers
            if layer.operator in WEIGHTS_AXIS and layer.inputs[1] in reference.weights
        }
        most = self._most_rows(samples)
        self._samples = self._some(samples, min(most, _MOST_SAMPLES))
        self._reach = self._some(samples, most)
        self._unmet = {
            name: rows.reshape(len(rows), *reference.inputs[name]) for name, rows in (unmet or {}).items()
        }
        self._exact = self._reference.run(self._samples)
        self.maxima: dict[str, Floats] = {}  # of |x| over all rows, by tensor [*shape]
        self._reference.run(self._reach, on_tensor=self._measure)
        for name, rows in self._unmet.items():
            self._measure(name, rows)

    @np.errstate(over="ignore", invalid="ignore")  # features near the end of float32 have an error of NaN
    def of(
        self, *, weights: Mapping[str, Floats] | None = None, gains: Mapping[str, Floats] | None = None
    ) -> float:
        """Return the mean squared error of the outputs, each in units of its own variance.

        weights  other values for constants of the network
        gains    what inputs [*shape] are multiplied by
        """
        changed = dict(weights or {})
        inputs, reach, unmet = (
            {name: values * (gains or {}).get(name, np.float32(1)) for name, values in rows.items()}
            for rows in (self._samples, self._reach, self._unmet)
        )
        ranges: dict[str, tuple[float, float]] = {}
        means: dict[str, Floats] = {}  # of what each layer sums up

        def observe(name: str, values: Floats) -> None:
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = float(values.min(initial=low)), float(values.max(initial=high))

        def observe_sums(name: str, values: Floats) -> None:
            means[name] = values.mean(axis=0)

        self._reference.run(reach, weights=changed, on_tensor=observe)
        for name, values in unmet.items():
            observe(name, values)
        self._reference.run(inputs, weights=changed, on_sums=observe_sums)
        for name, axis in self._axes.items():
            values = changed.get(name, self._reference.weights[name])
            changed[name] = rounded_weights(values, None if self._is_per_tensor else axis, self._weight_bits)
        given = self._reference.run(
            inputs,
            weights=changed,
            on_tensor=lambda name, values: _rounded(values, ranges[name], self._activation_bits),
            on_sums=lambda name, values: values + (means[name] - values.mean(axis=0)),
        )
        return sum(_relative_error(given[name], exact) for name, exact in self._exact.items())

    def _measure(self, name: str, values: Floats) -> None:
        before = self.maxima.get(name, np.zeros(values.shape[1:], np.float32))
        self.maxima[name] = np.maximum(np.abs(values).max(axis=0, initial=0.0), before)

    def _some(self, rows: Mapping[str, Floats], most: int) -> dict[str, Floats]:
        """Return up to `most` rows, evenly chosen, in the shapes of the inputs."""
        count = len(next(iter(rows.values())))
        kept = np.linspace(0, count - 1, min(count, most)).astype(int)
        shapes = self._reference.inputs
        return {name: np.asarray(rows[name], np.float32)[kept].reshape(-1, *shapes[name]) for name in shapes}

    def _most_rows(self, samples: Mapping[str, Floats]) -> int:
        """Return how many rows are within the budget of multiplications and of memory."""
        sizes: dict[str, int] = {}  # of activations by tensor
        one = {name: samples[name][:1].reshape(1, *shape) for name, shape in self._reference.inputs.items()}
        self._reference.run(one, on_tensor=lambda name, values: sizes.update({name: values.size}))
        macs = 1
        for layer in self._reference.layers:
            if layer.operator in WEIGHTS_AXIS and layer.inputs[1] in self._axes:
                weights = self._reference.weights[layer.inputs[1]]
                channels = weights.shape[WEIGHTS_AXIS[layer.operator]]
                macs += sizes[layer.name] * weights.size // channels
        held = max(sizes.values()) + sum(values.size for values in one.values())
        return max(_LEAST_SAMPLES, _MOST_MACS // max(macs, _MACS_OF_NUMBER * held))


def rounded_weights(values: Floats, axis: int | None, bits: int) -> Floats:
    """Return weights on a symmetric grid of `bits`, one scale an index of `axis`, or one for all."""
    axes = tuple(a for a in range(values.ndim) if a != axis)
    limit = 2 ** (bits - 1) - 1
    scale = np.abs(values).max(axis=axes, keepdims=True).astype(np.float64) / limit
    scale[scale == 0.0] = 1.0
    return np.asarray(np.rint(values / scale) * scale, np.float32)


def _rounded(values: Floats, ends: tuple[float, float], bits: int) -> Floats:
    low, high = ends
    if bits > 8:
        low, high = -max(-low, high), max(-low, high)
    scale = (high - low) / (2**bits - 1)
    if scale == 0.0:
        return values
    zero_point = np.rint(low / scale)
    steps = np.clip(np.rint(values.astype(np.float64) / scale), zero_point, zero_point + 2**bits - 1)
    return np.asarray(steps * scale, np.float32)


def _relative_error(given: Floats, exact: Floats) -> float:
    wide = exact.astype(np.float64)
    variance = float(wide.var(axis=0).mean())
    error = float(np.square(given - wide).mean())
    return error / variance if variance > 0.0 else 0.0
