"""Scheme: what is done to a policy to make it integer. Hashable, printable, JSON."""

from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from edgeqrl.errors import DataError, require_name

ACTIVATIONS = ("int8", "int16")


@dataclass(frozen=True)
class Scheme:
    """Full-integer post-training quantization, with per-channel int8 weights.

    rewrites         exact float edits before (centred discrete heads, no final softmax); without them
                     the converter is bare and nothing is done after it either
    bias_correction  int32 biases corrected afterwards, on the calibration's observations
    activations      "int8", or "int16" for activations, inputs, outputs and recurrent state of 16 bits
    """

    rewrites: bool = True
    bias_correction: bool = True
    activations: str = "int8"

    def __post_init__(self) -> None:
        if self.activations not in ACTIVATIONS:
            raise ValueError(f"activations must be one of {ACTIVATIONS}, got {self.activations!r}")
        is_corrected = self.rewrites and self.bias_correction and self.activations == "int8"
        object.__setattr__(self, "bias_correction", is_corrected)

    def __str__(self) -> str:
        bits = "int8" if self.activations == "int8" else "int16 activations, int8 weights"
        if not self.rewrites:
            return f"{bits}, bare converter"
        return f"{bits} with rewrites" + (" and bias correction" if self.bias_correction else "")

    def to_json(self) -> dict[str, Any]:
        """Return the scheme as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Scheme":
        """Invert `to_json`, that of earlier versions too; raise DataError for anything else."""
        known = asdict(cls())
        is_dict = isinstance(data, dict) and {"rewrites", "bias_correction"} <= set(data) <= set(known)
        is_typed = is_dict and all(type(value) is type(known[name]) for name, value in data.items())
        if not is_typed or data.get("activations", "int8") not in ACTIVATIONS:
            raise DataError(f"This is no quantization scheme: {str(data)[:200]}. Quantize again.")
        return cls(**data)


SCHEMES = MappingProxyType(
    {"int8": Scheme(), "int8-bare": Scheme(rewrites=False), "int16x8": Scheme(activations="int16")}
)


def require_scheme(name: str) -> Scheme:
    """Return the preset `name`, or raise UsageError with the nearest one."""
    return SCHEMES[require_name("scheme", name, SCHEMES)]
