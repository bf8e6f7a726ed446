"""Steps of Adam on a twin, some hundred a call; all that goes on from step to step is in arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.tensorflow_runtime import import_tensorflow
from edgeqrl.quantize.learned.loss import Loss
from edgeqrl.quantize.learned.twin import Arrays, Twin

Floats = NDArray[np.float32]

# Learning rates by what a parameter is; one unit is the size of a layer's weights, or a factor of e.
_RATES = {"weights": 1e-3, "bias": 2e-4, "step": 2e-4, "scale": 5e-4, "zero": 5e-4}
_DECAYS = 0.9, 0.999
_EPSILON = 1e-8
_EVALUATED = 4096  # rows at once


@dataclass(eq=False)
class Moments:
    """Adam's state: what is learned, its two moving averages, and the steps done."""

    learned: Arrays
    first: Arrays
    second: Arrays
    steps: int = 0

    @classmethod
    def fresh(cls, learned: Arrays) -> "Moments":
        """Begin at these values."""
        zeros = {name: np.zeros_like(values) for name, values in learned.items()}
        return cls(dict(learned), zeros, dict(zeros))


class Trainer:
    """Compiled steps of one twin with one loss, traced once for any number of rows and steps."""

    def __init__(
        self, twin: Twin, loss: Loss, learned: Arrays, sizes: tuple[Sequence[int], Sequence[int]]
    ) -> None:
        """`learned` has the names and shapes of what is learned; `sizes` are those of inputs and outputs."""
        tf = import_tensorflow()
        self._twin, self._loss, self._names = twin, loss, tuple(learned)
        values = [tf.TensorSpec(array.shape, tf.float32) for array in learned.values()]
        rows = [[tf.TensorSpec((None, size), tf.float32) for size in group] for group in sizes]
        numbers = [tf.TensorSpec((None,), tf.float32)] * 3
        batches = tf.TensorSpec((None, None), tf.int64)
        self._compiled = tf.function(
            self._chunk, autograph=False, input_signature=[values, values, values, *rows, batches, *numbers]
        )
        self._evaluated = tf.function(self._rows, autograph=False, input_signature=[values, *rows])

    def run(
        self,
        moments: Moments,
        inputs: Sequence[Floats],
        targets: Sequence[Floats],
        batches: NDArray[np.int64],
        rates: Floats,
        pace: float,
    ) -> Moments:
        """Step once for each row of `batches` [K, batch] of indices; return what came of it.

        rates  [K], what every learning rate is multiplied by
        pace   what that of the weights is multiplied by, too
        """
        given = [self._listed(group) for group in (moments.learned, moments.first, moments.second)]
        counts = np.arange(moments.steps + 1, moments.steps + len(batches) + 1, dtype=np.float32)
        results = self._compiled(
            *given, list(inputs), list(targets), batches, rates, rates * np.float32(pace), counts
        )
        learned, first, second = (
            dict(zip(self._names, (value.numpy() for value in group), strict=True)) for group in results
        )
        return Moments(learned, first, second, moments.steps + len(batches))

    def loss(self, learned: Arrays, inputs: Sequence[Floats], targets: Sequence[Floats]) -> float:
        """Return the mean loss of rows [N, size]."""
        total, count = 0.0, len(inputs[0])
        for at in range(0, count, _EVALUATED):
            some = slice(at, at + _EVALUATED)
            rows = [[values[some] for values in group] for group in (inputs, targets)]
            total += float(np.sum(self._evaluated(self._listed(learned), *rows).numpy().astype(np.float64)))
        return total / count

    def _listed(self, values: Arrays) -> list[Floats]:
        return [values[name] for name in self._names]

    def _rows(self, learned: Sequence[Any], inputs: Sequence[Any], targets: Sequence[Any]) -> Any:
        outputs = self._twin.run(dict(zip(self._names, learned, strict=True)), inputs)
        return self._loss(outputs, targets)

    def _chunk(
        self,
        learned: list[Any],
        first: list[Any],
        second: list[Any],
        inputs: list[Any],
        targets: list[Any],
        batches: Any,
        rates: Any,
        weight_rates: Any,
        counts: Any,
    ) -> Any:
        tf = import_tensorflow()

        def step(at: Any, learned: Any, first: Any, second: Any) -> Any:
            rows = [tf.gather(values, batches[at]) for values in (*inputs, *targets)]
            with tf.GradientTape() as tape:
                tape.watch(learned)
                found = tf.reduce_mean(self._rows(learned, rows[: len(inputs)], rows[len(inputs) :]))
            gradients = tape.gradient(found, learned, unconnected_gradients="zero")
            moved = self._moved(learned, first, second, gradients, (rates[at], weight_rates[at]), counts[at])
            return at + 1, *moved

        def goes_on(at: Any, *_: Any) -> Any:
            return at < tf.shape(batches)[0]

        state = (tf.constant(0), learned, first, second)
        return tf.while_loop(goes_on, step, state, parallel_iterations=1)[1:]

    def _moved(
        self, learned: Any, first: Any, second: Any, gradients: Any, rates: tuple[Any, Any], count: Any
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """Return parameters and moving averages after one step."""
        tf = import_tensorflow()
        slow, slower = _DECAYS
        firsts = [slow * m + (1 - slow) * g for m, g in zip(first, gradients, strict=True)]
        seconds = [slower * v + (1 - slower) * tf.square(g) for v, g in zip(second, gradients, strict=True)]
        correction = tf.sqrt(1.0 - slower**count) / (1.0 - slow**count)
        kinds = [name.partition("/")[0] for name in self._names]
        values = [
            value - rates[kind == "weights"] * _RATES[kind] * correction * m / (tf.sqrt(v) + _EPSILON)
            for kind, value, m, v in zip(kinds, learned, firsts, seconds, strict=True)
        ]
        return values, firsts, seconds
