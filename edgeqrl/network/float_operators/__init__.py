"""The operators that `FloatReference` computes: one module a family, joined here."""

from edgeqrl.network.float_operators import elementwise, linear, movement, reduction
from edgeqrl.network.float_operators.elementwise import activate
from edgeqrl.network.float_operators.operand import Floats, Make, Operands, Operator, Step

MAKE: dict[str, Make] = {**linear.MAKE, **elementwise.MAKE, **reduction.MAKE, **movement.MAKE}

__all__ = ["MAKE", "Floats", "Make", "Operands", "Operator", "Step", "activate"]
