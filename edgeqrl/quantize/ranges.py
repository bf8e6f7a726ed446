"""The range of every activation: what the policy's float network meets on its calibration's observations.

    ranges = find_ranges(converter, float_tflite, samples, scheme, preprocessing=agent.preprocessing)
    integer = converter.quantize(float_tflite, ranges)

A range ends in two numbers and always holds zero, which every integer grid has. Inputs keep their extremes,
whatever the estimator of the rest: a clipped observation is another observation, and rare ones decide
episodes. Only `layer_ranges` of a scheme goes over that. Where extremes are kept, there is room for what
`unmet.py` says could have been met. What tanh or the logistic function makes the last integer of its own
range needs none: actors drive their last layer to ten times of that.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import ConverterError, UnsupportedOperatorError
from edgeqrl.network.float_reference import BLOCK, FloatReference
from edgeqrl.network.graph import fold_constants
from edgeqrl.network.tflite_model import parse_tflite, shown
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.estimators import Range, estimated, hull, min_max
from edgeqrl.quantize.scheme import Scheme, names_tensor
from edgeqrl.quantize.tflite import require_samples
from edgeqrl.quantize.unmet import moved_rows, unmet_rows

if TYPE_CHECKING:
    from edgeqrl.quantize.tflite import Converter

Floats = NDArray[np.float32]

_MOST_NUMBERS = 2**24  # of inputs and of the largest activation that are held at once, if nothing needs more
_CUT_PERCENT = 5  # at each end, of a layer's answers to rows that were not met


def find_ranges(
    converter: "Converter",
    float_tflite: bytes,
    samples: Mapping[str, Floats],
    scheme: Scheme,
    *,
    preprocessing: Preprocessing,
) -> dict[str, Range]:
    """Return the range of every activation of a float file, by its name.

    samples        what the network is given, N >= 1 rows [N, *shape] of each input, in the file's order
    preprocessing  what makes the observation's inputs of the file

    A bare scheme has TensorFlow Lite's own ranges. So has a network with an operator that the float
    reference does not know, if the scheme asks for minimum and maximum; else UnsupportedOperatorError.
    """
    if not scheme.is_bare:
        try:
            return estimate(float_tflite, samples, scheme, preprocessing=preprocessing)
        except UnsupportedOperatorError:
            if scheme.ranges != "min_max" or scheme.layer_ranges:
                raise
    found = converter.observe(float_tflite, list(samples.values()))
    model, known = fold_constants(parse_tflite(float_tflite)), possible_ranges(preprocessing)
    for index, name in zip(model.inputs, samples, strict=True):
        tensor = model.tensors[index].name
        if tensor in found:  # else nothing reads it
            found[tensor] = hull(found[tensor], known.get(name, found[tensor]))
    return found


def estimate(
    float_tflite: bytes,
    samples: Mapping[str, Floats],
    scheme: Scheme,
    *,
    preprocessing: Preprocessing,
) -> dict[str, Range]:
    """Return the range of every activation by the scheme's estimators; see `find_ranges`.

    Raises UnsupportedOperatorError where the float reference does not know an operator.
    """
    require_samples(len(next(iter(samples.values()))))
    reference, known = FloatReference(float_tflite), possible_ranges(preprocessing)
    names = dict(zip(reference.inputs, samples, strict=True))
    stated = [name for name, _ in scheme.layer_ranges]
    ranges: dict[str, Range] = _constant_ranges(float_tflite)

    def method_of(tensor: str) -> str:
        is_stated = any(names_tensor(name, tensor) for name in stated)
        return scheme.estimator_of(tensor) if is_stated or tensor not in names else "min_max"

    def bits_of(tensor: str) -> int:
        is_wide = any(names_tensor(name, tensor) for name in scheme.wide)
        return 16 if scheme.activations == "int16" or is_wide else 8

    def collect(tensor: str, values: Floats) -> None:
        found = estimated(method_of(tensor), values, bits_of(tensor))
        if not np.isfinite(found).all():
            raise ConverterError(
                f"The network's values at '{shown(tensor)}' are not finite on the calibration's rows. "
                "Look for NaN and infinities in them, and in the weights."
            )
        if method_of(tensor) == "min_max":
            found = hull(found, ranges.get(tensor, found))  # of the rows before
            found = hull(found, known.get(names.get(tensor, ""), found))
        ranges[tensor] = found

    given = _by_tensor(reference, samples)
    row_size = _row_size(reference, given)
    # Extremes are found some rows at a time; other estimators are given all values.
    is_whole = any(method != "min_max" for method in (scheme.ranges, *dict(scheme.layer_ranges).values()))
    for rows in _in_turn(
        given, len(next(iter(given.values()))) if is_whole else max(_MOST_NUMBERS // row_size, 1)
    ):
        reference.run(rows, on_tensor=collect)
    for tensor, ends in _room(reference, samples, preprocessing, row_size).items():
        if method_of(tensor) == "min_max" and np.isfinite(ends).all():
            ranges[tensor] = hull(ranges[tensor], ends)
    bits = 16 if scheme.activations == "int16" or scheme.wide else 8
    for tensor, reach in _reaches(reference).items():
        if not any(names_tensor(name, tensor) for name in stated):
            end = reach * float(np.arctanh(1.0 - 2.0**-bits))
            ranges[tensor] = max(ranges[tensor][0], -end), min(ranges[tensor][1], end)
    return ranges


def possible_ranges(preprocessing: Preprocessing) -> dict[str, Range]:
    """Return the ranges of inputs that no sample need show: what bytes and classes can become at all."""
    ranges: dict[str, Range] = {}
    for part in preprocessing.parts:
        if part.one_hot is not None:
            ranges[part.name] = 0.0, 1.0
        elif part.source == "uint8":
            extremes = np.array([[0] * part.size, [255] * part.size], np.uint8)
            values = part.values(extremes.reshape(2, *part.shape))
            ranges[part.name] = float(values.min()), float(values.max())
    return ranges


def _room(
    reference: FloatReference, samples: Mapping[str, Floats], preprocessing: Preprocessing, row_size: int
) -> dict[str, Range]:
    """Return what inputs and layers need for what was not met; outputs need nothing."""
    unmet, moved = unmet_rows(samples, preprocessing), moved_rows(samples, preprocessing, row_size)
    names = dict(zip(reference.inputs, samples, strict=True))
    found = {tensor: min_max(unmet[name], 8) for tensor, name in names.items() if name in unmet}

    def most(tensor: str, values: Floats) -> None:
        if tensor not in names and tensor not in reference.outputs:
            low, high = np.percentile(values, [_CUT_PERCENT, 100 - _CUT_PERCENT])
            found[tensor] = float(low), float(high)

    if len(next(iter(moved.values()))):
        reference.run(_by_tensor(reference, moved), on_tensor=most)
    return found


def _reaches(reference: FloatReference) -> dict[str, float]:
    """Return the tensors that tanh or the logistic function alone reads, in units of what tanh tells apart.

    Beyond, each answers its last integer: logistic(x) is (1 + tanh(x / 2)) / 2.
    """
    readers = defaultdict(set)
    for layer in reference.layers:
        for name in layer.inputs:
            readers[name].add(layer.operator)
    reaches = {"TANH": 1.0, "LOGISTIC": 2.0}
    return {
        tensor: max(reaches[operator] for operator in operators)
        for tensor, operators in readers.items()
        if operators <= set(reaches) and tensor not in (*reference.inputs, *reference.outputs)
    }


def _by_tensor(reference: FloatReference, samples: Mapping[str, Floats]) -> dict[str, Floats]:
    given = zip(reference.inputs.items(), samples.values(), strict=True)
    return {name: values.reshape(len(values), *shape) for (name, shape), values in given}


def _row_size(reference: FloatReference, given: Mapping[str, Floats]) -> int:
    """Return the numbers of a row of all inputs and of the largest activation."""
    sizes: list[int] = []
    one = {name: values[:1] for name, values in given.items()}
    reference.run(one, on_tensor=lambda _, values: sizes.append(values.size))
    return max(sizes) + sum(values.size for values in one.values())


def _in_turn(given: Mapping[str, Floats], most: int) -> Iterator[dict[str, Floats]]:
    """Yield rows, at least `most` at a time, in blocks that the reference computes in one go."""
    step = -(-most // BLOCK) * BLOCK
    for first in range(0, len(next(iter(given.values()))), step):
        yield {name: values[first : first + step] for name, values in given.items()}


def _constant_ranges(float_tflite: bytes) -> dict[str, Range]:
    """Return the ranges of what operators compute from constants alone."""
    model = parse_tflite(float_tflite)
    written = {i for op in model.operators for i in op.outputs}
    folded = fold_constants(model).tensors
    constants = (folded[i] for i in written if folded[i].is_constant and folded[i].dtype == "FLOAT32")
    return {
        tensor.name: (float(values.min()), float(values.max()))
        for tensor in constants
        if (values := np.append(tensor.values(), 0.0)).size
    }
