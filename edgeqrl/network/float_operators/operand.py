"""What the float operators share: how a step is made, and what its arrays are.

Every activation carries the samples in front of all that the file has: [B, *shape], where the file's own
shape begins with a batch of 1 or, behind a RESHAPE or TRANSPOSE, with anything else. Constants are [1,
*shape]. So no operator can mistake samples for rows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.operators.operand import Operator

__all__ = ["Floats", "Make", "Operands", "Operator", "Step", "float_constant", "numbers", "operand"]

Floats = NDArray[np.float32]
Operands = Sequence[NDArray[Any] | None]  # [B or 1, *shape] each, None where an operand is left out
Step = Callable[[Operands], list[Floats]]  # -> outputs [B or 1, *shape], before a fused activation
Make = Callable[[Operator], Step]  # raises ValueError where the operator has a form that is not known


def operand(operands: Operands, index: int) -> Floats:
    """Return an operand that must be there."""
    values = operands[index]
    assert values is not None
    return values


def numbers(op: Operator, index: int) -> list[int]:
    """Return a constant operand of axes, sizes or paddings; ValueError where it is none."""
    tensor = op.operand(index)
    if tensor is None or not tensor.is_constant or tensor.dtype not in ("INT32", "INT64"):
        raise ValueError("its axes or sizes are computed")
    return [int(v) for v in tensor.values().ravel()]


def float_constant(op: Operator, index: int) -> Floats:
    """Return a constant float32 operand [*shape]; ValueError where it is none."""
    tensor = op.operand(index)
    if tensor is None or not tensor.is_constant or tensor.dtype != "FLOAT32":
        raise ValueError("one of its operands is computed")
    return tensor.values().astype(np.float32)
