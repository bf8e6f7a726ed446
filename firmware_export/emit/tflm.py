"""The network as a TensorFlow Lite Micro user expects it: g_model[], its operators, an arena size."""

from collections.abc import Mapping

from edgeqrl.network.integer_policy import BareNetwork, IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.layers import Linear
from edgeqrl.network.tflite_model import parse_tflite
from firmware_export.emit.c_literals import c_bytes
from firmware_export.emit.render import fill_template

# Builtins that MicroMutableOpResolver has no method for.
_MISSING = {"GELU", "RELU_0_TO_1", "RELU_N1_TO_1", "REVERSE_V2", "TILE"}


def tflm_sources(
    policy: IntegerPolicy | BareNetwork, tflite: bytes, values: Mapping[str, object]
) -> dict[str, bytes]:
    """Return tflm/NAME_model_data.h and .cc; `tflite` goes in unchanged."""
    operators = sorted({op.name for op in parse_tflite(tflite).operators}) if tflite else []
    facts = {
        **values,
        "operators": "".join(_resolver_line(op) for op in operators),
        "num_operators": max(len(operators), 1),
        "tflm_arena_bytes": tflm_arena_bytes(policy.network),
        "model_bytes": len(tflite),
        "model": c_bytes(tflite),
    }
    paths = (f"tflm/{policy.name}_model_data.h", f"tflm/{policy.name}_model_data.cc")
    return {path: fill_template(f"model_data.{path.rsplit('.', 1)[1]}.in", facts) for path in paths}


def tflm_arena_bytes(network: IntegerNetwork) -> int:
    """Estimate from above the arena that TFLM needs for `network`; its interpreter is not run.

    Activations, 16-byte aligned, as if none shared memory; per-channel multipliers and shifts; what TFLM
    keeps for each operator and once. The two constants a layer are what its interpreter was seen to take
    on a 64-bit host and a third more; a 32-bit core takes less. A test compares with what it takes today.
    """
    activations = sum(-(-tensor.num_bytes // 16) * 16 for tensor in network.tensors.values())
    kept = sum(352 + 8 * len(layer.bias) if isinstance(layer, Linear) else 192 for layer in network.layers)
    return -(-(1024 + activations + kept) // 16) * 16


def _resolver_line(operator: str) -> str:
    if operator in _MISSING:
        return f" *   {operator}: TensorFlow Lite Micro has no such operator; this model runs on eqrl only.\n"
    return f" *   resolver.{resolver_method(operator)}();\n"


def resolver_method(operator: str) -> str:
    """Return MicroMutableOpResolver's method for a builtin: CONV_2D -> AddConv2D."""
    words = "".join(word.capitalize() for word in operator.split("_"))
    return f"Add{words.replace('2d', '2D').replace('Padv2', 'PadV2')}"
