"""Networks whose weights need few bits."""

from typing import Any

import numpy as np

from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Conv2D, Dense, Window
from tests.test_kernels_linear import linear_numbers, random_weights


def stack(rng: np.random.Generator, bits: tuple[int, ...], sizes: tuple[int, ...]) -> IntegerNetwork:
    """Return dense layers whose weights need so many bits each."""
    tensors = [Tensor(str(i), (size,), 1.0, 0) for i, size in enumerate(sizes)]
    layers = []
    for i, some in enumerate(bits):
        _, bias, *numbers = linear_numbers(rng, (sizes[i + 1], sizes[i]), "int8")
        low = max(-(2 ** (some - 1)), -127)  # two of -128 have no lane
        weights = rng.choice([low, 0, 2 ** (some - 1) - 1], (sizes[i + 1], sizes[i]))
        layers.append(Dense(str(i + 1), str(i), str(i + 1), weights.astype(np.int8), bias, *numbers))
    return IntegerNetwork({t.name: t for t in tensors}, ("0",), (str(len(bits)),), tuple(layers))


def network_of(rng: np.random.Generator, dtype: str, bits: tuple[int, ...], channels: int) -> IntegerNetwork:
    """Return padded convolutions and then dense layers of these bits; those of 3 have zero points."""
    zero_point = -5 if dtype == "int8" else 0
    sizes = [channels, *(channels + 4 for _ in bits)]
    images = [(1, 5, 4, size) for size in sizes]
    rows = [(9 - i,) for i in range(len(bits))]
    tensors = [Tensor(f"t{i}", s, 1.0, zero_point, dtype) for i, s in enumerate([*images, *rows])]
    layers = []
    for i, (some, target) in enumerate(zip((*bits, *bits), tensors[1:], strict=True)):
        source, kind, more = tensors[i], Conv2D if i < len(bits) else Dense, ()
        shape: tuple[int, ...] = (target.size, source.size)
        if kind is Conv2D:
            shape = (sizes[i + 1], 3, 3, sizes[i])
            more = (Window(source.shape, target.shape, (3, 3), (1, 1), (1, 1), (1, 1)),)
        _, bias, multiplier, shift, *ends = linear_numbers(rng, shape, dtype)
        weights = random_weights(rng, shape, some)
        weights.ravel()[:2] = -(2 ** (some - 1)), 2 ** (some - 1) - 1
        points: dict[str, Any] = {"weight_zero_points": np.array([1], np.int32)} if some == 3 else {}
        arrays = (weights, bias, multiplier, shift + 5 - some, *ends)
        names = (target.name, source.name, target.name)
        layers.append(kind(*names, *arrays, *more, is_wide=dtype == "int16", **points))
    return IntegerNetwork({t.name: t for t in tensors}, ("t0",), (tensors[-1].name,), tuple(layers))
