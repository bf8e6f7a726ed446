"""What a policy costs a board, before anything is compiled."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeqrl.network.integer_policy import IntegerPolicy

if TYPE_CHECKING:
    from firmware_export.board import Board

STAND_IN_CORE = "cortex-m4"  # for instructions, where no board is named or nothing times its core


@dataclass(frozen=True, order=True)
class Costs:
    """In the order in which they count: fewer bytes of flash first."""

    flash_bytes: int  # of parameters, packed as they are exported; the code is about the same for all
    instructions: int  # of one step: an estimate, by the bits and the core
    ram_bytes: int  # of arena and memory

    def to_json(self) -> dict[str, Any]:
        """Return the costs as plain JSON values."""
        return dict(vars(self))


def costs_of(policy: IntegerPolicy, board: "Board | None") -> Costs:
    """Estimate what `policy` costs on the board's core, or on the one that stands in."""
    from firmware_export.emit.orders import order_of
    from firmware_export.emit.params import arena_bytes_of, build_params
    from firmware_export.fit import estimate_instructions
    from firmware_export.workload import workload

    policy = replace(policy, order=order_of(core_of(board)))
    return Costs(
        flash_bytes=len(build_params(policy)),
        instructions=estimate_instructions(workload(policy), core_of(board)),
        ram_bytes=arena_bytes_of(policy) + policy.memory_bytes,
    )


def core_of(board: "Board | None") -> str:
    """Return the core whose instructions are estimated."""
    from firmware_export.board import CORES

    return board.core if board is not None and board.core in CORES else STAND_IN_CORE
