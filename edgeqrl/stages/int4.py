"""INT4 weights in the bundle's `.tflite`, where they were asked for."""

import warnings
from dataclasses import replace

from edgeqrl.bundle import Bundle
from edgeqrl.quantize.int4 import store_int4
from edgeqrl.quantize.policy import QuantizedPolicy
from edgeqrl.stages.artefacts import CALIBRATION, TFLITE
from edgeqrl.stages.settings import Settings

_FACT = "int4"  # of the manifest: which layers, and why not the others


def add_int4(bundle: Bundle, quantized: QuantizedPolicy, settings: Settings) -> QuantizedPolicy:
    """Return the policy with its weights of 4 bits stored as INT4, if that is asked for, and keep its file.

    Warns of layers that stay INT8; raises UnsupportedOperatorError where all do.
    """
    bundle.facts.pop(_FACT, None)
    if not settings.stores_int4:
        return quantized
    found = store_int4(quantized.tflite)
    bundle.facts[_FACT] = {"stored": list(found.stored), "left": dict(found.left)}
    if found.left:
        left = "; ".join(f"'{layer}': {why}" for layer, why in found.left.items())
        warnings.warn(f"Weights that stay INT8 in {TFLITE}: {left}.", stacklevel=1)
    agent_files = [path for path in bundle.artefacts if path.startswith("agent/")]
    bundle.add(TFLITE, found.tflite, made_from=[*agent_files, CALIBRATION])
    return replace(quantized, tflite=found.tflite)
