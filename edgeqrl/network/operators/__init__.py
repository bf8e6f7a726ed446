"""Which operators of LiteRT become which layers: one module a family, joined here."""

from edgeqrl.network.operators import elementwise, float_runs, linear, movement, pairs, pooling, softmax
from edgeqrl.network.operators.operand import Operator, Rule, Support

SUPPORT: dict[str, Support] = {
    **linear.SUPPORT,
    **pooling.SUPPORT,
    **elementwise.SUPPORT,
    **pairs.SUPPORT,
    **softmax.SUPPORT,
    **movement.SUPPORT,
    **float_runs.SUPPORT,
}

__all__ = ["SUPPORT", "Operator", "Rule", "Support"]
