"""Scheme: what is done to a policy to make it integer. Hashable, printable, JSON."""

from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from edgeqrl.errors import DataError, require_name


@dataclass(frozen=True)
class Scheme:
    """Full-integer post-training quantization: int8 activations, per-channel int8 weights.

    rewrites         exact float edits before (centred discrete heads, no final softmax); without them
                     the converter is bare and nothing is done after it either
    bias_correction  int32 biases corrected afterwards, on the calibration's observations
    """

    rewrites: bool = True
    bias_correction: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "bias_correction", self.rewrites and self.bias_correction)

    def __str__(self) -> str:
        if not self.rewrites:
            return "int8, bare converter"
        return "int8 with rewrites" + (" and bias correction" if self.bias_correction else "")

    def to_json(self) -> dict[str, Any]:
        """Return the scheme as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Scheme":
        """Invert `to_json`; raise DataError for anything else."""
        is_dict = isinstance(data, dict) and set(data) == set(asdict(cls()))
        if not is_dict or not all(isinstance(value, bool) for value in data.values()):
            raise DataError(f"This is no quantization scheme: {str(data)[:200]}. Quantize again.")
        return cls(**data)


SCHEMES = MappingProxyType({"int8": Scheme(), "int8-bare": Scheme(rewrites=False)})


def require_scheme(name: str) -> Scheme:
    """Return the preset `name`, or raise UsageError with the nearest one."""
    return SCHEMES[require_name("scheme", name, SCHEMES)]
