"""Random integer policies, made directly: any sizes, scales, zero points, shifts and action heads."""

from collections.abc import Sequence

import numpy as np

from edgeqrl.network.edges import ActionEdge, AffineEdge, ArgmaxEdge, ObservationEdge, make_affine_edge
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork, Layer, Tensor
from edgeqrl.network.layers import Dense, Lookup, Reshape

FUNCTIONS = ("TANH", "LOGISTIC", "RELU", "QUANTIZE")


def random_policy(
    rng: np.random.Generator,
    sizes: Sequence[int] = (4, 7, 3),
    *,
    head: str = "argmax",
    name: str = "robot",
    lookups: float = 0.3,
    shape: tuple[int, ...] | None = None,
) -> IntegerPolicy:
    """Return a policy of dense layers with lookups and reshapes thrown in; head: argmax, masked, affine."""
    tensors = [_tensor(rng, "in", shape or (sizes[0],))]
    layers: list[Layer] = []

    def add(kind: str, size: tuple[int, ...]) -> Tensor:
        tensors.append(_tensor(rng, f"t{len(tensors)}_{kind}", size))
        return tensors[-1]

    if len(tensors[0].shape) > 1:
        source = tensors[-1]
        layers.append(Reshape("flat", source.name, add("reshape", (source.size,)).name))
    for size in sizes[1:]:
        source = tensors[-1]
        layers.append(random_dense(rng, source, add("dense", (size,))))
        if rng.random() < lookups:
            source = tensors[-1]
            table = rng.integers(-128, 128, 256).astype(np.int8)
            function = str(rng.choice(FUNCTIONS))
            layers.append(
                Lookup(f"{source.name}/f", function, source.name, add("lookup", (size,)).name, table)
            )
    network = IntegerNetwork({t.name: t for t in tensors}, ("in",), (tensors[-1].name,), tuple(layers))
    observation = ObservationEdge.of(tensors[0].shape, tensors[0].scale, tensors[0].zero_point)
    return IntegerPolicy(name, observation, network, random_action(rng, head, tensors[-1]))


def random_dense(rng: np.random.Generator, source: Tensor, target: Tensor) -> Dense:
    """Return a layer whose outputs spread over int8, with shifts to both sides and fused ranges."""
    rows, columns = target.size, source.size
    weights = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
    spread = np.abs(weights.astype(np.int64)).sum(axis=1) * 60 + 1
    bias = (rng.normal(0.0, 0.3, rows) * spread).astype(np.int64)
    real = 2.0 ** rng.uniform(5.0, 9.0, rows) / spread
    mantissa, shift = np.frexp(real)
    multiplier = np.minimum(np.floor(mantissa * 2**31), 2**31 - 1).astype(np.int32)
    low, high = ((-128, 127), (target.zero_point, 127), (-100, 90))[rng.integers(3)]
    return Dense(
        f"{target.name}/MatMul",
        source.name,
        target.name,
        weights,
        bias,
        multiplier,
        shift.astype(np.int32),
        min(low, high),
        high,
    )


def random_action(rng: np.random.Generator, head: str, output: Tensor) -> ActionEdge:
    """Return an action edge that fits the network output."""
    if head != "affine":
        return ArgmaxEdge(output.size, int(rng.integers(-3, 4)), is_masked=head == "masked")
    size = output.size
    low = rng.uniform(-3.0, -0.1, size).astype(np.float32)
    low[0] = -np.inf
    edge = make_affine_edge(
        scale=output.scale,
        zero_point=output.zero_point,
        gain=rng.normal(0.0, 2.0, size),
        offset=rng.normal(0.0, 2.0, size),
        low=low,
        high=rng.uniform(0.1, 3.0, size).astype(np.float32),
    )
    assert isinstance(edge, AffineEdge)
    return edge


def random_observations(rng: np.random.Generator, policy: IntegerPolicy, count: int) -> np.ndarray:
    """Return float32 observations [count, *shape]: mostly in range, some anything at all."""
    edge = policy.observation
    usual = rng.normal(0.0, 60.0 * edge.scale, (count, *edge.part.shape)).astype(np.float32)
    any_bits = rng.integers(0, 2**32, usual.shape, dtype=np.uint32).view(np.float32)
    return np.where(rng.random(usual.shape) < 0.1, any_bits, usual)


def _tensor(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Tensor:
    scale = float(np.float32(2.0 ** rng.uniform(-9.0, 3.0)))
    return Tensor(name, shape, scale, int(rng.integers(-128, 128)))
