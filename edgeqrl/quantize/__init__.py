"""Scheme (what), rewrites, ranges, the converter, weight grids, corrections: a policy made integer."""

from typing import Any

__all__ = ["fake_quantize"]


def __getattr__(name: str) -> Any:
    if name != "fake_quantize":
        raise AttributeError(f"module 'edgeqrl.quantize' has no attribute {name!r}")
    from edgeqrl.fake_quant.model import fake_quantize

    return fake_quantize
