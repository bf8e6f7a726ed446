"""From a float `.tflite` to the integer one of a scheme: the steps in their order.

float file -> rewritten float file -> ranges -> integer file -> wide tensors -> grids of weights -> rounding
and biases by what the layers give on calibration states.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.correction import correct
from edgeqrl.quantize.file_rewrites import InputGains, rewrite_file, scaled_preprocessing, scaled_samples
from edgeqrl.quantize.grids import apply_weight_grids
from edgeqrl.quantize.layer_names import require_known_layers
from edgeqrl.quantize.ranges import find_ranges
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.quantize.tflite import Converter
from edgeqrl.quantize.wide import widen

Samples = Mapping[str, NDArray[np.float32]]  # [N, *shape] by input of the network


@dataclass(frozen=True, eq=False)
class Task:
    """A float network, and what it meets."""

    float_tflite: bytes
    samples: Samples  # the observation's parts, then the states
    preprocessing: Preprocessing
    num_states: int


@dataclass(frozen=True, eq=False)
class Made:
    """An integer network with its float twin, tensor by tensor the same, and what both are given."""

    tflite: bytes
    float_tflite: bytes
    preprocessing: Preprocessing
    samples: Samples
    scheme: Scheme  # what was done, which may be less than was asked
    applied_rewrites: tuple[str, ...] = ()
    input_gains: InputGains = field(default_factory=dict)  # in `preprocessing` already


def make_integer(task: Task, scheme: Scheme, converter: Converter) -> Made:
    """Return the integer network of `scheme`, all but what is learned.

    Raises UsageError for layers that the network does not have, ConverterError where TensorFlow Lite fails,
    UnsupportedOperatorError where something stays float.
    """
    require_known_layers(scheme, task.float_tflite)
    edited = rewrite_file(
        task.float_tflite,
        task.samples,
        names=scheme.rewrites,
        preprocessing=task.preprocessing,
        weight_bits=scheme.weight_bits,
        is_per_tensor=scheme.granularity == "per_tensor",
        activation_bits=16 if scheme.activations == "int16" else 8,
    )
    samples = scaled_samples(task.samples, edited.input_gains, task.preprocessing)
    preprocessing = scaled_preprocessing(task.preprocessing, edited.input_gains)
    ranges = find_ranges(converter, edited.tflite, samples, scheme, preprocessing=preprocessing)

    def quantized(activations: str) -> bytes:
        return converter.quantize(edited.tflite, ranges, activations=activations, num_states=task.num_states)

    tflite = quantized(scheme.activations)
    read_tflite(tflite)  # refuses what stayed float before anything is built on it
    if scheme.wide:
        wide = quantized("int16_or_float")
        tflite = widen(converter, tflite, wide, scheme.wide, num_states=task.num_states)
    if scheme.has_own_weights:
        tflite = apply_weight_grids(tflite, edited.tflite, scheme)
    done = correct(tflite, edited.tflite, samples, scheme)
    scheme = replace(scheme, rounding=done.rounding, bias_correction=done.bias_correction)
    gains = edited.input_gains
    return Made(done.tflite, edited.tflite, preprocessing, samples, scheme, edited.applied, gains)
