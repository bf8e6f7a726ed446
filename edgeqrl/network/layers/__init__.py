"""Layers by family: what each computes, bit for bit, and the proof that it cannot overflow."""

from edgeqrl.network.layers.linear import (
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Linear,
    TransposeConv,
    accumulator_bound,
)
from edgeqrl.network.layers.lookup import Interpolation, InverseRoot, Lookup, Rescale, Sigmoid
from edgeqrl.network.layers.movement import Move, Piece, Reshape
from edgeqrl.network.layers.pairs import Pair
from edgeqrl.network.layers.pooling import Pool, Reduce
from edgeqrl.network.layers.softmax import ArgExtreme, LogSoftmax, Softmax, Softmax16
from edgeqrl.network.layers.window import Window

__all__ = [
    "ArgExtreme",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "Interpolation",
    "InverseRoot",
    "Linear",
    "LogSoftmax",
    "Lookup",
    "Move",
    "Pair",
    "Piece",
    "Pool",
    "Reduce",
    "Rescale",
    "Reshape",
    "Sigmoid",
    "Softmax",
    "Softmax16",
    "TransposeConv",
    "Window",
    "accumulator_bound",
]
