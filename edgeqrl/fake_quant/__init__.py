"""Keras layers that compute as the integer network will, for a training loop of one's own.

    import edgeqrl.quantize

    actor = edgeqrl.quantize.fake_quantize(actor, weight_bits=3)

The layers are Keras's Dense, Conv2D and DepthwiseConv2D with weights on a grid of few bits and activations
of 8 or 16, their steps learned with the weights. An agent trained so is quantized at the steps that it
learned. TensorFlow is imported when one of the names below is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeqrl.fake_quant.layers import FakeQuantConv2D, FakeQuantDense, FakeQuantDepthwiseConv2D
    from edgeqrl.fake_quant.model import fake_quantize
    from edgeqrl.fake_quant.quantizers import FakeQuantInput

_MODULES = {
    "FakeQuantConv2D": "edgeqrl.fake_quant.layers",
    "FakeQuantDense": "edgeqrl.fake_quant.layers",
    "FakeQuantDepthwiseConv2D": "edgeqrl.fake_quant.layers",
    "FakeQuantInput": "edgeqrl.fake_quant.quantizers",
    "fake_quantize": "edgeqrl.fake_quant.model",
}

__all__ = [
    "FakeQuantConv2D",
    "FakeQuantDense",
    "FakeQuantDepthwiseConv2D",
    "FakeQuantInput",
    "fake_quantize",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'edgeqrl.fake_quant' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
