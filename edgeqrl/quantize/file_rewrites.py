"""Exact edits of the weights in a float `.tflite`, after which int8 loses less.

    rewritten = rewrite_file(float_tflite, samples, names=("scale_inputs", "equalise"), preprocessing=...)

scale_inputs  every feature of a float observation may use the whole range of the input (`input_scales.py`)
equalise      channels between layers share theirs fairly (`equalisation.py`)

All factors are powers of two: in float, the network's answers stay the same to the bit. What an edit would do
to the integer network is estimated on the samples, and one that does not help is not made.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.graph import fold_constants
from edgeqrl.network.parts import Numbers, ObservationPart
from edgeqrl.network.read_tflite import parse_tflite, replace_buffers
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.equalisation import equalised_weights
from edgeqrl.quantize.error_estimate import ErrorEstimate, Floats
from edgeqrl.quantize.features import scalable_features
from edgeqrl.quantize.input_scales import chosen_gains
from edgeqrl.quantize.unmet import unmet_rows

FILE_REWRITES = ("scale_inputs", "equalise")
InputGains = Mapping[str, Numbers]  # by part of the observation: one a feature of one frame


@dataclass(frozen=True, eq=False)
class FileRewrite:
    """A float network with the same answers, given inputs that are multiplied by their gains first."""

    tflite: bytes
    input_gains: InputGains = field(default_factory=dict)
    applied: tuple[str, ...] = ()  # names from FILE_REWRITES


def rewrite_file(
    float_tflite: bytes,
    samples: Mapping[str, Floats],
    *,
    names: Collection[str] = FILE_REWRITES,
    preprocessing: Preprocessing,
    weight_bits: int = 8,
    is_per_tensor: bool = False,
    activation_bits: int = 8,
) -> FileRewrite:
    """Edit a float network for the quantization that follows.

    samples          what the network is given, [N, *shape] by input, in the file's order, N >= 1
    names            the rewrites that may be made
    preprocessing    makes the first inputs from observations, and will apply the gains
    weight_bits      of most weights; is_per_tensor: with one scale a tensor
    activation_bits  8 or 16

    A network that cannot be computed in NumPy stays as it is.
    """
    weighed = partial(
        ErrorEstimate, weight_bits=weight_bits, is_per_tensor=is_per_tensor, activation_bits=activation_bits
    )
    made = FileRewrite(float_tflite)
    for name in (name for name in FILE_REWRITES if name in names):
        try:
            reference = FloatReference(made.tflite)
        except UnsupportedOperatorError:
            return made
        scaled = scaled_samples(samples, made.input_gains, preprocessing)
        unmet = unmet_rows(scaled, scaled_preprocessing(preprocessing, made.input_gains))
        tensors = dict(zip(samples, reference.inputs, strict=True))
        estimate = weighed(
            reference,
            {tensors[part]: values for part, values in scaled.items()},
            {tensors[part]: values for part, values in unmet.items()},
        )
        if name == "scale_inputs":
            made = _with_scaled_inputs(made, list(samples), estimate, preprocessing)
        else:
            constants = equalised_weights(fold_constants(parse_tflite(made.tflite)), estimate)
            made = _changed(made, constants, name, made.input_gains)
    return made


def scaled_preprocessing(preprocessing: Preprocessing, input_gains: InputGains) -> Preprocessing:
    """Return the preprocessing that also multiplies its results by the gains, one a feature."""
    if not input_gains:
        return preprocessing
    parts = (_scaled(part, input_gains.get(part.name)) for part in preprocessing.parts)
    return replace(preprocessing, parts=tuple(parts))


def scaled_samples(
    samples: Mapping[str, Floats], input_gains: InputGains, preprocessing: Preprocessing
) -> dict[str, Floats]:
    """Return network inputs [N, *shape] times their gains."""
    features = scalable_features(preprocessing)
    return {
        name: values * np.array(input_gains[name], np.float32)[features[name]].reshape(values.shape[1:])
        if name in input_gains
        else values
        for name, values in samples.items()
    }


def _with_scaled_inputs(
    made: FileRewrite, parts: Sequence[str], estimate: ErrorEstimate, preprocessing: Preprocessing
) -> FileRewrite:
    """Return the network that takes features times gains, for the parts of its inputs, in their order."""
    model = fold_constants(parse_tflite(made.tflite))
    inputs = {part: model.tensors[i].name for part, i in zip(parts, model.inputs, strict=True)}
    features = {inputs[part]: at for part, at in scalable_features(preprocessing).items()}
    found, constants = chosen_gains(model, estimate, features)
    gains = {part: tuple(map(float, found[at])) for part, at in inputs.items() if at in found}
    return _changed(made, constants, "scale_inputs", gains)


def _changed(made: FileRewrite, constants: Mapping[int, Floats], name: str, gains: InputGains) -> FileRewrite:
    """Return the network with other values of some constants, if there are any."""
    if not constants:
        return made
    buffers = {i: values.astype("<f4").tobytes() for i, values in constants.items()}
    return FileRewrite(replace_buffers(made.tflite, buffers), gains, (*made.applied, name))


def _scaled(part: ObservationPart, gains: Numbers | None) -> ObservationPart:
    if gains is None:
        return part

    def times(row: Numbers | None) -> Numbers | None:
        return None if row is None else tuple((np.resize(row, len(gains)) * gains).tolist())

    return replace(
        part,
        gain=times((1.0,) if part.gain is None else part.gain),
        offset=times(part.offset),
        low=times(part.low),
        high=times(part.high),
    )
