"""What was learned, written into the integer `.tflite`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.read_tflite import parse_tflite, read_tflite
from edgeqrl.network.tflite_constants import Quantization, with_quantization
from edgeqrl.network.tflite_model import shown, with_unique_names
from edgeqrl.quantize.learned.structure import Grid, Group, Structure
from edgeqrl.quantize.learned.twin import Arrays, Twin, group_scale, weight_integers, weight_scales
from edgeqrl.quantize.weights_file import LayerWeights, write_weights

_INT32_MAX = 2**31 - 1


def write_learned(tflite: bytes, twin: Twin, learned: Arrays) -> bytes:
    """Return the file with the weights, biases and scales that the twin has.

    Raises UnsupportedOperatorError where the file's scales depend on each other in a way that is not known
    here, so that the network would not be the twin's.
    """
    structure = twin.structure
    scales = [_numbers(group_scale(at, group, learned)) for at, group in enumerate(structure.groups)]
    changed = _with_scales(tflite, structure.groups, scales)
    layers = {
        name: _layer(twin, name, grid, learned, scales[structure.group_of[_source(structure, name)]][0])
        for name, grid in structure.grids.items()
    }
    written = write_weights(changed, layers)
    _require_same(read_tflite(written), structure, scales)
    return written


def _numbers(pair: tuple[Any, Any]) -> tuple[np.float32, int]:
    return np.float32(pair[0]), int(pair[1])


def _source(structure: Structure, name: str) -> str:
    (layer,) = (layer for layer in structure.network.layers if layer.output == name)
    return layer.inputs[0]


def _with_scales(tflite: bytes, groups: tuple[Group, ...], scales: list[tuple[np.float32, int]]) -> bytes:
    model = with_unique_names(parse_tflite(tflite))
    index = {tensor.name: i for i, tensor in enumerate(model.tensors)}
    changed = {
        index[name]: Quantization(np.array([scale], np.float32), np.array([zero_point], np.int64))
        for group, (scale, zero_point) in zip(groups, scales, strict=True)
        for name in group.tensors
        if not group.is_fixed
    }
    return with_quantization(tflite, changed)


def _layer(twin: Twin, name: str, grid: Grid, learned: Arrays, input_scale: np.float32) -> LayerWeights:
    steps = np.asarray(weight_scales(grid, learned[f"step/{name}"]), np.float32)
    rows = np.asarray(weight_integers(grid, learned[f"weights/{name}"])).astype(np.int8)
    bias = None
    if grid.file.bias is not None:
        real = learned[f"bias/{name}"].astype(np.float64) * twin.bias_unit(name)
        bias = _bias(real / (float(input_scale) * steps.astype(np.float64)), grid)
    return replace(
        grid.file,
        weights=grid.file.from_rows(rows),
        scales=steps if len(grid.file.scales) > 1 else steps[:1],
        bias=bias,
        input_scale=float(input_scale),
    )


def _bias(steps: NDArray[np.float64], grid: Grid) -> NDArray[np.int64]:
    limit = _INT32_MAX if grid.file.bias_dtype == "INT32" else 2**40
    return np.clip(np.rint(steps), -limit, limit).astype(np.int64)


def _require_same(
    network: IntegerNetwork, structure: Structure, scales: list[tuple[np.float32, int]]
) -> None:
    wanted: Mapping[str, tuple[float, int]] = {
        name: (float(scales[at][0]), scales[at][1]) for name, at in structure.group_of.items()
    }
    for name, tensor in network.tensors.items():
        if name in wanted and (tensor.scale, tensor.zero_point) != wanted[name]:
            raise UnsupportedOperatorError(
                f"The scale of '{shown(name)}' depends on others in a way that cannot be learned. Quantize "
                "with learned=false."
            )
