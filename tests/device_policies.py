"""Small whole policies of every kind that a device knows, around one GRU step."""

from typing import Any

import numpy as np

from edgeqrl.network.edges import (
    ActionEdge,
    ArgmaxEdge,
    ObservationEdge,
    make_affine_edge,
    make_gaussian_edge,
    make_multi_binary_edge,
    make_multi_discrete_edge,
)
from edgeqrl.network.integer_policy import IntegerPolicy, ValueOutput
from edgeqrl.network.ir import Tensor
from edgeqrl.network.memory import FrameStack, Recurrent
from edgeqrl.network.read_tflite import read_tflite
from tests.gru_network import gru_step

UNITS = 8
# name -> head, what is kept, whether there are values
KINDS: dict[str, tuple[str, str, bool]] = {
    "gru": ("argmax", "state", False),
    "gru masked": ("masked", "state", False),
    "frames": ("affine", "frames", False),
    "drawn": ("categorical", "state", False),
    "drawn masked": ("categorical masked", "", False),
    "gaussian frames": ("gaussian", "frames", False),
    "squashed gru": ("squashed", "state", False),
    "multi-discrete": ("multi", "", False),
    "multi-discrete drawn masked": ("multi drawn masked", "state", False),
    "multi-binary": ("binary", "", False),
    "values": ("affine", "", True),
    "gru values": ("argmax", "state", True),
    "parts": ("argmax", "parts", False),
    "parts masked": ("masked", "parts", True),
}


def whole_policy(kind: str, name: str = "robot") -> IntegerPolicy:
    """Return the policy of a kind; its network has one GRU step in it."""
    head, kept, has_values = KINDS[kind]
    outputs = {"affine": 2, "gaussian": 2, "squashed": 2}.get(head, 5)
    network = read_tflite(
        gru_step(np.random.default_rng(len(kind)), num_features=6, units=UNITS, actions=outputs)
    )
    first, second = (network.tensors[name] for name in network.inputs)
    action, state = (network.tensors[name] for name in network.outputs)
    options: dict[str, Any] = {}
    observation = _edge(first, (6,))
    if kept == "state":
        options["recurrent"] = (Recurrent(second.name, state.name, 3),)
    elif kept == "frames":
        observation = _edge(first, (2,), gain=(0.5, 2.0), low=(-1.0,), high=(1.0,))
        options["frames"] = FrameStack(3, axis=0, is_new_axis=False)
        options["more_observations"] = (_edge(second, (2,), "int32", name="gear", one_hot=((1, 3), (0, 5))),)
    elif kept == "parts":
        options["more_observations"] = (_edge(second, (2, 4), "uint8", name="camera", gain=(1 / 255,)),)
        observation = _edge(first, (2,), "int32", name="gear", one_hot=((-1, 2), (0, 4)))
    else:
        options["more_observations"] = (_edge(second, (UNITS,), name="second"),)
    if has_values:
        numbers = np.ones(UNITS)
        edge = make_affine_edge(
            scale=state.scale, zero_point=state.zero_point, gain=numbers, offset=-numbers, low=-numbers * 9,
            high=numbers * 9,
        )  # fmt: skip
        options["values"] = (ValueOutput("value", state.name, edge),)
    return IntegerPolicy(name, observation, network, _action(head, action), **options)


def whole_observations(rng: np.random.Generator, policy: IntegerPolicy, count: int) -> dict[str, np.ndarray]:
    """Return observations by part; some of floats lie out of range."""
    found: dict[str, np.ndarray] = {}
    for edge in policy.observations:
        shape = (count, *edge.part.shape)
        if edge.part.source == "uint8":
            found[edge.part.name] = rng.integers(0, 256, shape, dtype=np.uint8)
        elif edge.part.source == "int32":
            found[edge.part.name] = rng.integers(-1, 4, shape, dtype=np.int32)
        else:
            found[edge.part.name] = rng.normal(0.0, 60.0 * edge.scale, shape).astype(np.float32)
    return found


def whole_masks(rng: np.random.Generator, policy: IntegerPolicy, count: int) -> np.ndarray | None:
    """Return masks; some rows allow nothing."""
    return rng.random((count, policy.num_masks)) < 0.5 if policy.num_masks else None


def _edge(tensor: Tensor, shape: tuple[int, ...], source: str = "float32", **more: Any) -> ObservationEdge:
    return ObservationEdge.of(shape, tensor.scale, tensor.zero_point, tensor.dtype, source=source, **more)


def _action(head: str, output: Tensor) -> ActionEdge:
    scale, is_masked = output.scale, "masked" in head
    if head in ("argmax", "masked"):
        return ArgmaxEdge(output.size, 2, is_masked=is_masked)
    if head.startswith("categorical"):
        facts = {"scale": scale, "dtype": output.dtype, "is_masked": is_masked}
        return make_multi_discrete_edge((output.size,), (-1,), shape=(), **facts)
    if head.startswith("multi"):
        drawn = scale if "drawn" in head else None
        return make_multi_discrete_edge((2, 3), (0, 7), scale=drawn, dtype=output.dtype, is_masked=is_masked)
    if head == "binary":
        return make_multi_binary_edge((output.size,), output.zero_point, dtype=output.dtype)
    numbers = np.ones(output.size)
    columns: dict[str, Any] = {
        "gain": numbers,
        "offset": 0.1 * numbers,
        "low": -numbers,
        "high": 0.5 * numbers,
    }
    facts: dict[str, Any] = {"scale": scale, "zero_point": output.zero_point, "dtype": output.dtype}
    if head == "affine":
        return make_affine_edge(**facts, **columns)
    return make_gaussian_edge(**facts, **columns, std=0.5 * numbers, is_squashed=head == "squashed")
