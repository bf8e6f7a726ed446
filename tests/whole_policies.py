"""Random policies of every kind: parts, frames, recurrent state, drawn actions, values; of dense layers."""

from dataclasses import replace
from typing import Any

import numpy as np

from edgeqrl.network.edges import (
    ActionEdge,
    ArgmaxEdge,
    GaussianEdge,
    ObservationEdge,
    make_affine_edge,
    num_outputs,
)
from edgeqrl.network.integer_policy import IntegerPolicy, ValueOutput
from edgeqrl.network.ir import IntegerNetwork, Layer, Tensor
from edgeqrl.network.layers import Move, Piece, Reshape
from edgeqrl.network.memory import FrameStack, Recurrent
from tests.c_policies import random_dense
from tests.random_edges import random_action_edge

KINDS = (
    "plain",
    "normalised",
    "pixels",
    "indices",
    "parts",
    "frames-first",
    "frames-zero",
    "recurrent",
    "values",
    "multi",
    "multi-masked",
    "multi-drawn-masked",
    "binary",
    "bernoulli",
    "categorical",
    "categorical-masked",
    "gaussian",
    "squashed",
    "gaussian-log-std",
    "squashed-log-std",
    "everything",
)
_HEADS = ("multi", "binary", "bernoulli", "categorical", "gaussian", "squashed")


def whole_policy(rng: np.random.Generator, kind: str, name: str = "robot") -> IntegerPolicy:
    """Return an int8 policy of a kind: its inputs joined, one dense layer to each output."""
    is_all = kind == "everything"
    tensors: dict[str, Tensor] = {}
    parts = _parts(rng, kind, tensors)
    frames = None
    if kind.startswith("frames") or is_all:
        padding = "zero" if kind == "frames-zero" else "first"
        frames = FrameStack(
            int(rng.integers(2, 5)), *((0, True), (-1, True), (-1, False))[rng.integers(3)], padding
        )
        shape = frames.stacked_shape(parts[0].part.network_shape)
        tensors["observation"] = replace(tensors["observation"], shape=shape)
    states = {}
    for i in range(2 if kind == "recurrent" or is_all else 0):
        states[f"state_{i}"] = tensors[f"state_{i}"] = Tensor(
            f"state_{i}", (3 + i,), 1 / 64, int(rng.integers(-9, 9))
        )
    inputs = tuple(tensors)
    head = kind if kind.startswith(_HEADS) else "gaussian-log-std" if is_all else "argmax"
    action = ArgmaxEdge(4) if head == "argmax" else random_action_edge(rng, head, "int8")
    outputs = _outputs(rng, action, bool(states) or is_all, is_all or kind == "values", tensors)
    layers: list[Layer] = []
    joined = _join(inputs, tensors, layers)
    layers += [random_dense(rng, joined, tensors[output]) for output in outputs]
    network = IntegerNetwork(tensors, inputs, outputs, tuple(layers))
    recurrent = tuple(
        Recurrent(state, f"{state}_next", tensor.zero_point) for state, tensor in states.items()
    )
    values = tuple(_value(rng, tensors[output]) for output in outputs if output.startswith("value"))
    return IntegerPolicy(name, parts[0], network, action, tuple(parts[1:]), frames, recurrent, values)


def random_part_rows(rng: np.random.Generator, edge: ObservationEdge, count: int) -> np.ndarray:
    """Return raw observations [count, *shape] of one part: mostly usual, some anything at all."""
    shape = (count, *edge.part.shape)
    if edge.part.source == "uint8":
        return rng.integers(0, 256, shape).astype(np.uint8)
    if edge.part.one_hot is not None:
        starts = np.array([start for start, _ in edge.part.one_hot])
        return (rng.integers(-2, 8, (count, edge.part.size)) + starts).reshape(shape).astype(np.int32)
    usual = rng.normal(0.0, 60.0 * edge.scale, shape).astype(np.float32)
    any_bits = rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
    return np.where(rng.random(shape) < 0.1, any_bits, usual)


def _parts(rng: np.random.Generator, kind: str, tensors: dict[str, Tensor]) -> list[ObservationEdge]:
    names = ["observation", "camera", "gear"] if kind in ("parts", "everything") else ["observation"]
    parts = []
    for i, name in enumerate(names):
        scale, zero_point = float(np.float32(2.0 ** rng.uniform(-6.0, 0.0))), int(rng.integers(-128, 128))
        fields: dict[str, Any] = {}
        shape: tuple[int, ...] = (4, 2) if kind == "everything" else (6,)
        if kind == "pixels" or i == 1:
            shape, fields = (2, 3), {"source": "uint8", "gain": (1 / 255,)}
            scale, zero_point = 1 / 255, -128
        elif kind == "indices" or i == 2:
            shape, fields = (3,), {"source": "int32", "one_hot": ((0, 3), (-2, 2), (5, 1))}
        elif kind in ("normalised", "everything"):
            gains = tuple(rng.normal(0, 1, 6 if kind == "normalised" else 2).tolist())
            fields = {"gain": gains, "offset": (scale * 3.3,), "low": (-50 * scale,), "high": (45 * scale,)}
        parts.append(ObservationEdge.of(shape, scale, zero_point, name=name, **fields))
        tensors[name] = Tensor(name, parts[-1].part.network_shape, scale, zero_point)
    return parts


def _outputs(
    rng: np.random.Generator,
    action: ActionEdge,
    has_states: bool,
    has_values: bool,
    tensors: dict[str, Tensor],
) -> tuple[str, ...]:
    def add(name: str, size: int, scale: float, zero_point: int) -> str:
        tensors[name] = Tensor(name, (size,), scale, zero_point)
        return name

    names = [add("logits", num_outputs(action), 0.05, int(rng.integers(-128, 128)))]
    if isinstance(action, GaussianEdge) and action.log_std is not None:
        names.append(add("log_std", num_outputs(action), 0.05, 3))
    if has_values:
        names += [add("value", 1, 0.3, 5), add("value_2", 2, 0.01, -100)]
    if has_states:
        for name in [name for name in tensors if name.startswith("state_")]:
            state = tensors[name]
            names.append(add(f"{name}_next", state.size, state.scale, state.zero_point))
    return tuple(names)


def _join(inputs: tuple[str, ...], tensors: dict[str, Tensor], layers: list[Layer]) -> Tensor:
    """Lay all inputs one after another, whatever their scales."""
    sizes = [tensors[name].size for name in inputs]
    first = tensors[inputs[0]]
    joined = tensors["joined"] = Tensor("joined", (sum(sizes),), first.scale, first.zero_point)
    if len(inputs) == 1:
        layers.append(Reshape("flat", inputs[0], "joined"))
        return joined
    places = np.cumsum([0, *sizes[:-1]]).tolist()
    pieces = tuple(Piece(i, (sizes[i],), 0, (1,), places[i], (1,)) for i in range(len(inputs)))
    layers.append(Move("join", "CONCATENATION", inputs, "joined", pieces, None))
    return joined


def _value(rng: np.random.Generator, tensor: Tensor) -> ValueOutput:
    ones, ends = np.ones(tensor.size), np.full(tensor.size, np.inf, np.float32)
    edge = make_affine_edge(scale=tensor.scale, zero_point=tensor.zero_point, gain=ones, offset=0 * ones,
                            low=-ends, high=ends)  # fmt: skip
    return ValueOutput(tensor.name, tensor.name, edge)
