"""How weights lie in flash: packed or not, in which core's order, for which code; the manifest keeps it."""

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from edgeqrl.bundle import Bundle
from edgeqrl.errors import DataError
from edgeqrl.network.integer_policy import BareNetwork, IntegerPolicy
from edgeqrl.stages.settings import Settings

WEIGHT_BITS, ORDER = "weight_bits", "order"  # of the manifest
if TYPE_CHECKING:
    from firmware_export.board import Board

Program = TypeVar("Program", IntegerPolicy, BareNetwork)


def state_packing(
    bundle: Bundle, policy: IntegerPolicy, settings: Settings, board: "Board | None" = None
) -> IntegerPolicy:
    """Keep how the settings want weights packed for a board, and return the policy so; as `with_packing`."""
    packed = with_packing(policy, settings, board)
    drop_packing(bundle)
    if packed.weight_bits is not None:
        bundle.facts[WEIGHT_BITS] = list(packed.weight_bits)
    bundle.facts[ORDER] = packed.order if isinstance(packed.order, str) else list(packed.order)
    return packed


def drop_packing(bundle: Bundle) -> None:
    """Forget how the weights lay."""
    for fact in (WEIGHT_BITS, ORDER):
        bundle.facts.pop(fact, None)


def read_order(bundle: Bundle) -> str | tuple[str, ...]:
    """Return the order of the weights: one for all that can have it, or one a layer."""
    from firmware_export.emit.orders import ALL_ORDERS, ROWS

    stated = bundle.facts.get(ORDER, ROWS)
    names = stated if isinstance(stated, list) else [stated]
    if not all(name in ALL_ORDERS for name in names):
        raise DataError(f"The manifest of '{bundle}' states a damaged order of weights: {str(stated)[:80]}.")
    return tuple(names) if isinstance(stated, list) else str(stated)


def read_packing(bundle: Bundle) -> tuple[int, ...] | None:
    """Return the bits of the weights of each layer in flash, () where nothing is packed, or None: chosen."""
    stated = bundle.facts.get(WEIGHT_BITS)
    if stated is None:
        return None
    if not isinstance(stated, list) or not all(bits in (2, 3, 4, 8) for bits in stated):
        raise DataError(f"The manifest of '{bundle}' states damaged weight bits: {str(stated)[:80]}.")
    return tuple(stated)


def with_packing(program: Program, settings: Settings, board: "Board | None" = None) -> Program:
    """Return the policy or network with weights packed as the settings want, in the order of a board's core.

    Raises UsageError or DataError where it must fit the code of earlier params and does not.
    """
    from firmware_export.emit.params import for_params, params_for, read_params

    if settings.params_of is not None:
        params_for(program, settings.params_of)  # proves that the weights fit
        return for_params(program, read_params(settings.params_of))
    bits = () if settings.is_unpacked else None
    return replace(program, weight_bits=bits, order=order_for_board(board))


def order_for_board(board: "Board | None") -> str:
    """Return the order of weights for a board's core; without a board plain rows, which suit all cores."""
    from firmware_export.emit.orders import ROWS, order_of
    from firmware_export.emit.wide import WIDE

    if board is None:
        return ROWS
    return WIDE if board.kind == "linux" else order_of(board.core)


def sequence_of(settings: Settings) -> int:
    """Return the number of the params to export: the one after those that they replace."""
    from firmware_export.emit.params import read_params

    return 0 if settings.params_of is None else read_params(settings.params_of).sequence + 1
