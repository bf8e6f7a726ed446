"""The float policy by its float32 `.tflite`, so that judging a bundle again needs no TensorFlow."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.heads import Head
from edgeqrl.backends.float_policy import WholeFloatPolicy
from edgeqrl.backends.runtime_network import Interpreter
from edgeqrl.errors import DataError, MissingToolError
from edgeqrl.network.tflite_model import TFLiteModel, parse_tflite, shown, with_unique_names
from edgeqrl.preprocessing import Preprocessing

if TYPE_CHECKING:
    from edgeqrl.agents.agent import StateSpec


class FloatNetwork:
    """A float32 `.tflite` on LiteRT, else on tflite-runtime; a row's answer is its own."""

    def __init__(self, tflite: bytes) -> None:
        """Load the file after our own parser has read it; raises DataError, MissingToolError."""
        model = with_unique_names(parse_tflite(tflite))
        _require_float(model)
        self.inputs = {model.tensors[i].name: model.tensors[i].shape[1:] for i in model.inputs}
        self.output_names = tuple(model.tensors[i].name for i in model.outputs)  # one may stand there twice
        self.outputs = {model.tensors[i].name: model.tensors[i].shape[1:] for i in model.outputs}
        self.name, self._interpreter = _open(tflite, len(self.output_names))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return every output [N, *shape], float32, for float32 inputs [N, *shape]."""
        if set(inputs) != set(self.inputs):
            raise ValueError(f"the network's inputs are {list(self.inputs)}, got {sorted(inputs)}")
        arrays = [np.asarray(inputs[name], np.float32) for name in self.inputs]
        count = len(arrays[0])
        rows = [a.reshape(count, *shape) for a, shape in zip(arrays, self.inputs.values(), strict=True)]
        if count == 0:
            return {name: np.zeros((0, *shape), np.float32) for name, shape in self.outputs.items()}
        outputs = self._interpreter.run(rows)
        named = dict(zip(self.output_names, outputs, strict=True))
        return {name: named[name].reshape(count, *shape) for name, shape in self.outputs.items()}

    def close(self) -> None:
        """End the runtime's process."""
        self._interpreter.close()


class FloatPolicy(WholeFloatPolicy):
    """A float network with what turns observations into its inputs and its outputs into actions."""

    def __init__(
        self,
        network: FloatNetwork,
        head: Head,
        preprocessing: Preprocessing | None = None,
        states: "Sequence[StateSpec]" = (),
        value_names: Sequence[str] = (),
    ) -> None:
        """Join them; raises DataError where they do not fit. Without preprocessing: one plain observation."""
        if preprocessing is None:
            preprocessing = Preprocessing.plain(next(iter(network.inputs.values()), ()))
        shapes = [*preprocessing.network_shapes, *(spec.shape for spec in states)]
        taken, given = [prod(shape) for shape in shapes], [prod(shape) for shape in network.inputs.values()]
        sizes = [prod(network.outputs[name]) for name in network.output_names]
        read = list(head.output_sizes)
        num_outputs = len(read) + len(value_names) + len(states)
        if taken != given or sizes[: len(read)] != read or len(sizes) != num_outputs:
            raise DataError(
                f"The float network has inputs of sizes {given} and outputs of sizes {sizes}, and its policy "
                f"gives it {taken} and reads {read}, {len(value_names)} values and {len(states)} states."
            )
        self._network = network
        super().__init__(network.name, self._by_position, head, preprocessing, states, value_names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the runtime's process."""
        self._network.close()

    def _by_position(self, inputs: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        outputs = self._network.run(dict(zip(self._network.inputs, inputs, strict=True)))
        return [outputs[name] for name in self._network.output_names]


def open_float_network(tflite: bytes) -> FloatNetwork:
    """Open a float32 `.tflite`."""
    return FloatNetwork(tflite)


def _open(tflite: bytes, num_outputs: int) -> tuple[str, Interpreter]:
    try:
        return "litert-float32", Interpreter("litert", tflite, is_reference=False, num_outputs=num_outputs)
    except MissingToolError as missing:
        try:
            other = Interpreter("tflite-runtime", tflite, is_reference=False, num_outputs=num_outputs)
        except MissingToolError:
            raise missing from None
        return "tflite-runtime-float32", other


def _require_float(model: TFLiteModel) -> None:
    for i in (*model.inputs, *model.outputs):
        tensor = model.tensors[i]
        if tensor.dtype != "FLOAT32" or tensor.shape[:1] != (1,):
            raise DataError(
                f"Tensor '{shown(tensor.name)}' at the float network's edge is {tensor.dtype} "
                f"{list(tensor.shape)}, and must be FLOAT32 with a batch of 1."
            )
    if not model.inputs or not model.outputs:
        raise DataError("The float network has no input or no output.")
    for tensor in model.tensors:
        if tensor.is_constant and not tensor.is_sparse:
            tensor.values()  # as many bytes as the shape says
