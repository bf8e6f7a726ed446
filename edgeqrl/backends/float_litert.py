"""The float policy by its float32 `.tflite`, so that judging a bundle again needs no TensorFlow."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.heads import Head
from edgeqrl.backends.runtime_network import Interpreter
from edgeqrl.errors import DataError, MissingToolError
from edgeqrl.interfaces import State
from edgeqrl.network.tflite_model import TFLiteModel, parse_tflite, shown, with_unique_names


class FloatNetwork:
    """A float32 `.tflite` on LiteRT, else on tflite-runtime; a row's answer is its own."""

    def __init__(self, tflite: bytes) -> None:
        """Load the file after our own parser has read it; raises DataError, MissingToolError."""
        model = with_unique_names(parse_tflite(tflite))
        _require_float(model)
        self.inputs = {model.tensors[i].name: model.tensors[i].shape[1:] for i in model.inputs}
        self.outputs = {model.tensors[i].name: model.tensors[i].shape[1:] for i in model.outputs}
        self.name, self._interpreter = _open(tflite, len(self.outputs))

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
        named = zip(self.outputs.items(), outputs, strict=True)
        return {name: values.reshape(count, *shape) for (name, shape), values in named}

    def close(self) -> None:
        """End the runtime's process."""
        self._interpreter.close()


class FloatPolicy:
    """A float network of one input and one output, and its action head: a Policy."""

    def __init__(self, network: FloatNetwork, head: Head) -> None:
        """Join them; raises DataError where they do not fit."""
        sizes = [int(np.prod(shape)) for shape in network.outputs.values()]
        if len(network.inputs) != 1 or sizes != [head.num_outputs]:
            raise DataError(
                f"The float network has {len(network.inputs)} inputs and outputs of sizes {sizes}, and its "
                f"action head needs one input and one output of {head.num_outputs}."
            )
        self.name = network.name
        self._network = network
        self._head = head

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def outputs(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Return the network's outputs [N, num_outputs] for observations [N, *observation_shape]."""
        (name,) = self._network.inputs
        (values,) = self._network.run({name: observations}).values()
        return values.reshape(len(observations), self._head.num_outputs)

    def act(
        self,
        observations: NDArray[Any],
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Act as `interfaces.Policy` says; a feed-forward policy has no state."""
        return self._head.actions(self.outputs(observations), action_masks), ()

    def close(self) -> None:
        """End the runtime's process."""
        self._network.close()


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
