"""What layers of one activation and no weights have in common."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, eq=False)
class Unary:
    """A layer that reads one activation."""

    name: str
    function: str  # LiteRT builtin name, e.g. "TANH"
    input: str
    output: str
    num_macs: ClassVar[int] = 0

    @property
    def operator(self) -> str:
        """Return LiteRT's builtin name."""
        return self.function

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the one activation that is read."""
        return (self.input,)
