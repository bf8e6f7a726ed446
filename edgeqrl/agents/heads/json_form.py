"""Heads as plain JSON values, and back."""

from math import prod
from typing import Any

import numpy as np

from edgeqrl.agents.heads.base import Head
from edgeqrl.agents.heads.continuous import BoxHead, GaussianHead, ValueHead
from edgeqrl.agents.heads.discrete import DiscreteHead, MultiBinaryHead


def head_to_json(head: Head) -> dict[str, Any]:
    """Return the head as plain JSON values; infinite bounds become null."""
    if isinstance(head, DiscreteHead) and head.is_single:
        kind = "categorical" if head.is_stochastic else "argmax"
        return {"kind": kind, "num_actions": head.counts[0], "start": head.starts[0]}
    if isinstance(head, DiscreteHead):
        kind = "multi_categorical" if head.is_stochastic else "multi_discrete"
        rows = {"counts": list(head.counts), "starts": list(head.starts), "shape": list(head.shape or ())}
        return {"kind": kind, **rows}
    if isinstance(head, MultiBinaryHead):
        return {"kind": "bernoulli" if head.is_stochastic else "multi_binary", "shape": list(head.shape)}
    if isinstance(head, ValueHead):
        return {"kind": "value", "names": list(head.names)}
    assert isinstance(head, BoxHead | GaussianHead)
    data: dict[str, Any] = {
        "kind": "box" if isinstance(head, BoxHead) else "gaussian",
        "shape": list(head.shape),
        "low": [None if np.isinf(v) else v for v in head.low],
        "high": [None if np.isinf(v) else v for v in head.high],
        "gain": list(head.gain),
        "offset": list(head.offset),
    }
    if isinstance(head, GaussianHead):
        data["log_std"] = None if head.log_std is None else list(head.log_std)
        data["is_squashed"] = head.is_squashed
        data["log_std_range"] = [None if np.isinf(v) else v for v in head.log_std_range]
    return data


def head_from_json(data: dict[str, Any]) -> Head:
    """Invert `head_to_json`; raise KeyError, TypeError or ValueError for anything else."""
    kind = data["kind"]
    if kind in ("argmax", "categorical"):
        is_drawn = kind == "categorical"
        return DiscreteHead.single(int(data["num_actions"]), int(data["start"]), is_stochastic=is_drawn)
    if kind in ("multi_discrete", "multi_categorical"):
        counts, starts, sizes = (tuple(map(int, data[name])) for name in ("counts", "starts", "shape"))
        return DiscreteHead(counts, starts, sizes or None, is_stochastic=kind == "multi_categorical")
    if kind in ("multi_binary", "bernoulli"):
        shape = tuple(map(int, data["shape"]))
        if min(shape, default=1) < 1:
            raise ValueError("the shape of a head is positive")
        return MultiBinaryHead(shape, is_stochastic=kind == "bernoulli")
    if kind == "value":
        if not data["names"] or not all(isinstance(name, str) for name in data["names"]):
            raise ValueError("a value head has a name for each value")
        return ValueHead(tuple(data["names"]))
    if kind not in ("box", "gaussian"):
        raise ValueError(f"there is no head {kind!r}")
    return _numbers_from_json(data)


def _numbers_from_json(data: dict[str, Any]) -> BoxHead | GaussianHead:
    head = BoxHead(
        shape=tuple(int(n) for n in data["shape"]),
        low=tuple(-np.inf if v is None else float(v) for v in data["low"]),
        high=tuple(np.inf if v is None else float(v) for v in data["high"]),
        gain=tuple(float(v) for v in data["gain"]),
        offset=tuple(float(v) for v in data["offset"]),
    )
    rows = (head.low, head.high, head.gain, head.offset)
    if {len(row) for row in rows} != {prod(head.shape)} or min(head.shape, default=1) < 1:
        raise ValueError("a head has one low, high, gain and offset for each number of its shape")
    if not all(low <= high for low, high in zip(head.low, head.high, strict=True)):
        raise ValueError("the bounds of a head are not in order")
    if not np.isfinite([*head.gain, *head.offset]).all():
        raise ValueError("the gain or offset of a head is not finite")
    if data["kind"] == "box":
        return head
    log_std = None if data["log_std"] is None else tuple(float(v) for v in data["log_std"])
    if log_std is not None and not np.isfinite(log_std).all():
        raise ValueError("a log standard deviation of a head is not finite")
    if not isinstance(data["is_squashed"], bool):
        raise TypeError("is_squashed is true or false")
    low, high = data["log_std_range"]
    span = (-np.inf if low is None else float(low), np.inf if high is None else float(high))
    return GaussianHead(
        head.shape, *rows, log_std=log_std, is_squashed=data["is_squashed"], log_std_range=span
    )
