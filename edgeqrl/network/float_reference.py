"""A float32 `.tflite` in NumPy: what the integers approximate, open to be looked into and changed.

    reference = FloatReference(tflite)
    outputs = reference.run({"observation": observations})

    # every tensor as it is written, by its name in the file; what a hook returns is used in its stead
    reference.run(inputs, on_tensor=lambda name, values: seen.update({name: values}))
    # other weights and biases, by name; what every dense layer or convolution sums up before its activation
    reference.run(inputs, weights={"dense/MatMul": rounded}, on_sums=collect)

It answers what the runtimes answer but for rounding. A row's answer depends on no other row, nor on how many
there are: BLAS gives other last digits for other batch sizes, so all is computed in blocks of one size. On
some machines they also depend on the row's place in its block.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError, UnsupportedOperatorError
from edgeqrl.network.float_operators import MAKE, Floats, Operands, Operator, Step, activate
from edgeqrl.network.graph import fold_constants, live_operators
from edgeqrl.network.supported_ops import require_straight
from edgeqrl.network.tflite_model import OperatorInfo, TensorInfo, TFLiteModel, parse_tflite, shown

# Called with a tensor's name and its values [N, *shape], which must not be written to. Values that are
# returned take their place; None leaves them.
Hook = Callable[[str, Floats], Floats | None]

BLOCK = 64  # samples that are computed at once
_MAX_ELEMENTS = 2**22  # of one tensor, for one sample


@dataclass(frozen=True, eq=False)
class FloatLayer:
    """One operator of the network, as a caller sees it."""

    operator: str  # LiteRT's builtin name
    inputs: tuple[str, ...]  # "" for an optional one left out; constants included
    outputs: tuple[str, ...]
    fused_activation: str  # "NONE" where there is none

    @property
    def name(self) -> str:
        """Return the name of the layer, which is that of its first output."""
        return self.outputs[0]


class FloatReference:
    """A Network of float32 tensors. In shapes, `N` counts samples; a batch axis of 1 is left out."""

    name = "float-reference"

    def __init__(self, tflite: bytes | TFLiteModel) -> None:
        """Read a file of float32 operators.

        Raises DataError where it is damaged or has other edges, and UnsupportedOperatorError, naming the
        operator and its tensor, where it holds one that is not known here.
        """
        parsed = parse_tflite(tflite) if isinstance(tflite, bytes) else tflite
        require_straight(parsed)
        folded = fold_constants(parsed)
        self._model = replace(folded, operators=live_operators(folded.operators, folded.outputs))
        tensors = self._model.tensors
        _require_fit(self._model)
        self._constants = {i: _constant(tensor) for i, tensor in enumerate(tensors) if _is_float(tensor)}
        self._steps = [(op, _step(op, tensors)) for op in self._model.operators]
        self._last_use = {i: at for at, (op, _) in enumerate(self._steps) for i in op.inputs}
        self._require_sound()

        names = [tensor.name for tensor in tensors]
        self._index = {name: i for i, name in enumerate(names)}
        self.inputs = {names[i]: sample_shape(tensors[i]) for i in folded.inputs}
        self.outputs = {names[i]: sample_shape(tensors[i]) for i in folded.outputs}
        self.layers = tuple(
            FloatLayer(
                op.name,
                tuple(names[i] if i >= 0 else "" for i in op.inputs),
                tuple(names[i] for i in op.outputs),
                op.fused_activation,
            )
            for op, _ in self._steps
        )
        read = dict.fromkeys(i for op, _ in self._steps for i in op.inputs)
        self.weights: dict[str, Floats] = {
            names[i]: self._constants[i][0] for i in read if i in self._constants
        }

    def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        *,
        weights: Mapping[str, NDArray[Any]] | None = None,
        on_tensor: Hook | None = None,
        on_sums: Hook | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Return every output [N, *shape], float32, for inputs [N, *shape], by tensor name.

        weights    other values for constants of `self.weights`, of the same shape, in this call alone
        on_tensor  called for every input and for every tensor that an operator writes, in order
        on_sums    called with what an operator gives before its fused activation, where it has that option,
                   under the name of its output

        Values that a hook returns are rounded to float32.
        """
        values, count = self._started(inputs)
        constants = {**self._constants, **self._replaced(weights or {})}
        for i in self._model.inputs:
            values[i] = self._seen(on_tensor, i, values[i], count)
        wanted = set(self._model.outputs)
        for at, (op, step) in enumerate(self._steps):
            operands = _operands(op, values, constants)
            for i, result in zip(op.outputs, _in_blocks(step, operands, _padded_count(count)), strict=True):
                if "fused_activation_function" in op.options:
                    result = self._seen(on_sums, i, result, count)
                    result = activate(op.fused_activation, result)
                values[i] = self._seen(on_tensor, i, result, count)
            for i in {*op.inputs, *op.outputs} - wanted:
                if self._last_use.get(i, at) == at:
                    values.pop(i, None)
        return {
            name: self._sample(i, values[i] if i in values else constants[i], count)
            for name, i in zip(self.outputs, dict.fromkeys(self._model.outputs), strict=True)
        }

    def _started(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[dict[int, Floats], int]:
        """Return the inputs as [padded N, *shape of the file] and N."""
        if set(inputs) != set(self.inputs):
            raise ValueError(f"the network's inputs are {list(self.inputs)}, got {sorted(inputs)}")
        arrays = {name: np.asarray(inputs[name], np.float32) for name in self.inputs}
        count = len(next(iter(arrays.values())))
        for name, values in arrays.items():
            if values.shape != (count, *self.inputs[name]):
                raise ValueError(f"'{name}' must be [{count}, {self.inputs[name]}], got {values.shape}")
        return {self._index[name]: self._whole(self._index[name], v) for name, v in arrays.items()}, count

    def _replaced(self, weights: Mapping[str, NDArray[Any]]) -> dict[int, Floats]:
        for name, values in weights.items():
            if name not in self.weights or values.shape != self.weights[name].shape:
                raise ValueError(f"the network has no constant '{name}' of shape {values.shape}")
        return {self._index[name]: np.asarray(values, np.float32)[None] for name, values in weights.items()}

    def _seen(self, hook: Hook | None, index: int, values: Floats, count: int) -> Floats:
        if hook is None:
            return values
        changed = hook(self._model.tensors[index].name, self._sample(index, values, count))
        return values if changed is None else self._whole(index, np.asarray(changed, np.float32))

    def _sample(self, index: int, values: Floats, count: int) -> Floats:
        """Return [B, *shape of the file] as a caller has it: [N, *shape]."""
        shape = sample_shape(self._model.tensors[index])
        if len(values) == 1:  # does not depend on the inputs
            return np.broadcast_to(values.reshape(1, *shape), (count, *shape))
        return values[:count].reshape(count, *shape)

    def _whole(self, index: int, values: Floats) -> Floats:
        """Invert `_sample`."""
        padded = np.zeros((_padded_count(len(values)), *self._model.tensors[index].shape), np.float32)
        padded[: len(values)] = values.reshape(len(values), *padded.shape[1:])
        return padded

    def _require_sound(self) -> None:
        """Compute one sample of zeros: operators read what is written, and sizes follow from each other."""
        tensors = self._model.tensors
        values: dict[int, Floats] = {
            i: np.zeros((1, *tensors[i].shape), np.float32) for i in self._model.inputs
        }
        for op, step in self._steps:
            name = shown(tensors[op.outputs[0]].name)
            if any(i >= 0 and i not in values and not tensors[i].is_constant for i in op.inputs):
                raise DataError(f"The .tflite file is damaged: '{name}' is made from what nothing writes.")
            operands = _operands(op, values, self._constants)
            try:
                results = _in_blocks(step, operands, BLOCK)
            except (ValueError, IndexError, AssertionError) as error:
                raise DataError(f"The .tflite file is damaged: '{name}' does not follow: {error}.") from None
            for i, result in zip_longest(op.outputs, results):
                if i is None or result is None or result.shape != (1, *tensors[i].shape):
                    raise DataError(f"The .tflite file is damaged: '{name}' has another shape than it says.")
                values[i] = result
        if not {*values, *self._constants}.issuperset(self._model.outputs):
            raise DataError("The .tflite file is damaged: nothing writes one of its outputs.")


def sample_shape(tensor: TensorInfo) -> tuple[int, ...]:
    """Return a tensor's shape, a batch axis of 1 left out."""
    return tensor.shape[1:] if tensor.shape[:1] == (1,) else tensor.shape


def _padded_count(count: int) -> int:
    return max(1, -(-count // BLOCK)) * BLOCK


def _operands(op: OperatorInfo, values: Mapping[int, Floats], constants: Mapping[int, Floats]) -> Operands:
    """Return what an operator reads; None for what is left out, and for integers, which its step knows."""
    return [values[i] if i in values else constants.get(i) for i in op.inputs]


def _in_blocks(step: Step, operands: Operands, count: int) -> list[Floats]:
    """Compute `BLOCK` samples at a time; what depends on constants alone once."""
    with np.errstate(all="ignore"):  # as the runtimes; rows that only pad divide by zero
        if count == BLOCK or all(values is None or len(values) == 1 for values in operands):
            return step(operands)
        parts = [
            step(
                [
                    values if values is None or len(values) == 1 else values[first : first + BLOCK]
                    for values in operands
                ]
            )
            for first in range(0, count, BLOCK)
        ]
    return [np.concatenate(results) for results in zip(*parts, strict=True)]


def _step(op: OperatorInfo, tensors: Sequence[TensorInfo]) -> Step:
    inputs = tuple(None if i < 0 else tensors[i] for i in op.inputs)
    outputs = tuple(tensors[i] for i in op.outputs)
    floating = [t for t in (*inputs, *outputs) if t is not None and not t.is_constant]
    constants = [t for t in inputs if t is not None and t.is_constant]
    reason = "is not known there"
    if any(t.is_sparse or t.dtype not in ("FLOAT32", "INT32", "INT64") for t in constants):
        reason = "has constants that are not plain float32"
    elif op.name in MAKE and outputs and all(t.dtype == "FLOAT32" and not t.is_variable for t in floating):
        try:
            activate(op.fused_activation, np.zeros(1, np.float32))
            return MAKE[op.name](Operator(op, inputs, outputs))
        except (ValueError, IndexError, ZeroDivisionError, AssertionError) as error:
            reason = str(error) or "it has an unknown form"
    elif op.name in MAKE:
        reason = "does not compute with float32 alone"
    name = shown(outputs[0].name) if outputs else "?"
    raise UnsupportedOperatorError(
        f"The float network cannot be computed in NumPy, as {op.name} of '{name}' holds it up: {reason}; "
        "build the model from layers whose operators SUPPORTED_OPS.md lists."
    )


def _is_float(tensor: TensorInfo) -> bool:
    return tensor.is_constant and tensor.dtype == "FLOAT32" and not tensor.is_sparse


def _constant(tensor: TensorInfo) -> Floats:
    return np.asarray(tensor.values(), np.float32)[None]


def _require_fit(model: TFLiteModel) -> None:
    for i in (*model.inputs, *model.outputs):
        if model.tensors[i].dtype != "FLOAT32":
            raise DataError(
                f"Tensor '{shown(model.tensors[i].name)}' at the float network's edge is "
                f"{model.tensors[i].dtype}, and must be FLOAT32."
            )
    if not model.inputs or not model.outputs:
        raise DataError("The float network has no input or no output.")
    used = {*model.inputs, *(i for op in model.operators for i in op.outputs)}
    if any(model.tensors[i].size > _MAX_ELEMENTS for i in used):
        raise UnsupportedOperatorError(
            f"The float network has activations of more than {_MAX_ELEMENTS} numbers, too many to simulate."
        )
