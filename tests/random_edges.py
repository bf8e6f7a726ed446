"""Random edges of all kinds, with inputs that reach every corner of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.edges import (
    ActionEdge,
    GaussianEdge,
    ObservationEdge,
    limits,
    make_gaussian_edge,
    make_log_std,
    make_multi_binary_edge,
    make_multi_discrete_edge,
    num_masks,
    num_outputs,
)

Array = NDArray[Any]


def random_affine_edge(rng: np.random.Generator, dtype: str, size: int) -> ObservationEdge:
    """Return a normalising, clipping edge; columns are one for all, one an element, or repeat."""
    scale = float(2.0 ** rng.uniform(-12, 3)) * (1.0 if dtype == "int8" else 2.0**-6)
    steps = limits(dtype)[1]

    def column(values: Array, can_miss: bool = True) -> tuple[float, ...] | None:
        length = int(rng.choice([1, 2, size])) if size % 2 == 0 else 1
        missing = can_miss and rng.random() < 0.2
        return None if missing else tuple(float(v) for v in values[:length])

    gains = rng.normal(0, 1, size) * 10.0 ** rng.uniform(-4, 4, size)
    gains[rng.random(size) < 0.1] = 0.0
    offsets = rng.normal(0, 1, size) * scale * steps * 10.0 ** rng.uniform(-1, 1)
    bounds = np.sort(rng.normal(0, 1.5, (2, 2 * size)) * scale * steps, axis=0)
    bounds = np.stack((np.minimum(bounds[0], 0), np.maximum(bounds[1], 0)))
    low = np.where(rng.random(2 * size) < 0.3, -np.inf, bounds[0])
    high = np.where(rng.random(2 * size) < 0.3, np.inf, bounds[1])
    zero_point = int(rng.integers(-128, 128)) if dtype == "int8" else 0
    return ObservationEdge.of((size,), scale, zero_point, dtype, gain=column(gains, can_miss=False),
                           offset=column(offsets), low=column(low), high=column(high))  # fmt: skip


def special_floats(rng: np.random.Generator, edge: ObservationEdge, count: int) -> NDArray[np.float32]:
    """Return observations around the edge's range, near halves, and of any bits at all."""
    rows = np.array(edge.affine_rows, object)[np.arange(edge.part.size) % edge.part.num_rows]
    gains = [
        (edge.part.gain or (1.0,))[i % len(edge.part.gain or (1.0,))] or 1.0 for i in range(edge.part.size)
    ]
    offsets = [
        (edge.part.offset or (0.0,))[i % len(edge.part.offset or (0.0,))] for i in range(edge.part.size)
    ]
    assert len(rows) == edge.part.size
    steps = limits(edge.dtype)[1]
    wanted = rng.uniform(-1.5, 1.5, (count, edge.part.size)) * steps
    wanted = np.where(rng.random(wanted.shape) < 0.3, np.floor(wanted) + 0.5, wanted) * edge.scale
    usual = ((wanted - np.array(offsets)) / np.array(gains)).astype(np.float32)
    any_bits = rng.integers(0, 2**32, usual.shape, dtype=np.uint32).view(np.float32)
    odd = rng.choice(
        np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-42, 3.4e38, -3.4e38], np.float32), usual.shape
    )
    kind = rng.random(usual.shape)
    return np.where(kind < 0.15, any_bits, np.where(kind < 0.25, odd, usual)).astype(np.float32)


def random_action_edge(rng: np.random.Generator, head: str, dtype: str) -> ActionEdge:
    """Return an edge of one of the kinds that c_policies.py lacks."""
    scale = float(2.0 ** rng.uniform(-7, -2)) * (1.0 if dtype == "int8" else 2.0**-7)
    zero_point = int(rng.integers(-128, 128)) if dtype == "int8" else 0
    is_masked = head.endswith("masked")
    if head.startswith("categorical"):
        size = int(rng.choice([1, 2, 3, 5, 17, 64, 65]))
        starts = (int(rng.integers(-9, 9)),)
        return make_multi_discrete_edge(
            (size,), starts, scale=scale, dtype=dtype, is_masked=is_masked, shape=()
        )
    if head.startswith("multi"):
        counts = rng.integers(1, 9, int(rng.integers(1, 5))).tolist()
        drawn = scale if "drawn" in head else None
        starts = rng.integers(-9, 9, len(counts)).tolist()
        return make_multi_discrete_edge(counts, starts, scale=drawn, dtype=dtype, is_masked=is_masked)
    if head in ("binary", "bernoulli"):
        drawn = scale if head == "bernoulli" else None
        return make_multi_binary_edge((int(rng.integers(1, 9)),), zero_point, scale=drawn, dtype=dtype)
    return _gaussian(rng, head, dtype, scale, zero_point)


def _gaussian(rng: np.random.Generator, head: str, dtype: str, scale: float, zero_point: int) -> GaussianEdge:
    size = int(rng.integers(1, 6))
    low = np.where(rng.random(size) < 0.3, -np.inf, -rng.uniform(0.1, 5.0, size)).astype(np.float32)
    high = np.where(rng.random(size) < 0.3, np.inf, rng.uniform(0.1, 5.0, size)).astype(np.float32)
    std: Any = rng.uniform(0.01, 2.0, size)
    log_std = None
    if "log-std" in head:
        bounds = (-20.0, 2.0) if rng.random() < 0.5 else (-np.inf, 4.0)
        log_std, std = make_log_std(scale, zero_point, dtype, low=bounds[0], high=bounds[1])
    return make_gaussian_edge(
        scale=scale, zero_point=zero_point, dtype=dtype, low=low, high=high, std=std, log_std=log_std,
        gain=rng.normal(0, 2, size), offset=rng.normal(0, 1, size), is_squashed=head.startswith("squashed"),
    )  # fmt: skip


def random_outputs(
    rng: np.random.Generator, edge: ActionEdge, dtype: str, count: int
) -> tuple[list[Array], NDArray[np.bool_] | None]:
    """Return the outputs that the edge reads, extremes and ties among them, and masks if it takes any."""
    lowest, highest = limits(dtype)
    size = num_outputs(edge)
    heads = 2 if isinstance(edge, GaussianEdge) and edge.log_std is not None else 1
    outputs = []
    for _ in range(heads):
        values = rng.integers(lowest, highest + 1, (count, size))
        values[1::3] = rng.integers(-3, 4, values[1::3].shape)
        values[0], values[3], values[6] = lowest, highest, rng.choice([lowest, highest], size)
        outputs.append(values.astype(dtype))
    if not num_masks(edge):
        return outputs, None
    masks = rng.random((count, size)) < rng.choice([0.0, 0.2, 0.8, 1.0], (count, 1))
    return outputs, masks
