"""The stack of a firmware in its parts: a step, the loop around it, and what exceptions put on top."""

from dataclasses import dataclass

from firmware_export.board import Board
from firmware_export.elf import Elf, Symbol
from firmware_export.stack import stack_bound

# Interrupts do not nest: all have one priority.
_HANDLERS = ("eqrl_port_uart_interrupt", "eqrl_port_timer_interrupt", "SysTick_Handler", "eqrl_port_trap")
_BASIC_FRAME_WORDS = 8 + 1  # r0-r3, r12, lr, pc, xPSR, and one to align
_RISCV_FRAME_BYTES = 64 + 16  # the 16 words that startup.S saves, and what aligns


@dataclass(frozen=True)
class StackParts:
    """Bytes of stack, each apart; bounds from the call graph of the linked image.

    What the application's eqrl_board_... functions take comes on top of all.
    """

    step_bytes: int  # NAME_step and all that it calls, with no exception
    loop_bytes: int  # the deepest path of the firmware in which the step is one, with no exception
    frame_bytes: int  # that an exception pushes before its handler runs, the FPU not in use
    fpu_frame_bytes: (
        int  # the same, of an FPU in use: registers and their room; without an FPU as frame_bytes
    )
    handler_bytes: int  # of the deepest interrupt handler, without its frame
    fault_bytes: int  # of the handler of a fault, without its frame
    num_faults: int  # handlers of faults that may lie on each other

    @property
    def exception_bytes(self) -> int:
        """Sum what may lie on top of the loop: an interrupt, and on top of that a fault."""
        return (
            self.fpu_frame_bytes
            + self.handler_bytes
            + self.num_faults * (self.fault_bytes + self.fpu_frame_bytes)
        )

    @property
    def total_bytes(self) -> int:
        """Sum loop and exceptions: what has to fit the board."""
        return self.loop_bytes + self.exception_bytes


def stack_parts(elf: Elf, board: Board, name: str) -> StackParts:
    """Bound the stack of the firmware of policy `name`.

    CMSDK's watchdog interrupts even the handler of a fault, as NMI does: one more of both.
    """
    basic, with_fpu = frame_bytes(board)
    return StackParts(
        step_bytes=stack_bound(elf, f"{name}_step"),
        loop_bytes=max(stack_bound(elf, entry) for entry in ("main", "eqrl_device_exchange")),
        frame_bytes=basic,
        fpu_frame_bytes=with_fpu,
        handler_bytes=max((stack_bound(elf, handler.name) for handler in handlers(elf)), default=0),
        fault_bytes=stack_bound(elf, "eqrl_port_fault"),
        num_faults=2 if board.watchdog == "cmsdk" else 1,
    )


def handlers(elf: Elf) -> list[Symbol]:
    """Return the handlers of interrupts that the image has: those that are not the one for faults."""
    unused = elf.symbols.get("eqrl_default_handler")
    found = [elf.symbols[name] for name in _HANDLERS if name in elf.symbols]
    return [handler for handler in found if unused is None or handler.address != unused.address]


def frame_bytes(board: Board) -> tuple[int, int]:
    """Return the bytes that an exception pushes before its handler runs, with the FPU not in use and in use.

    v6-M, v7-M: eight words, 18 more with an FPU in use (s0-s15, FPSCR, a spare), one to align (DDI 0403,
    B1.5.6). v8-M may save s16-s31, too (DDI 0553, exception entry). RISC-V: its start-up saves 16 words.
    """
    if board.port == "riscv32":
        return _RISCV_FRAME_BYTES, _RISCV_FRAME_BYTES
    basic = 4 * _BASIC_FRAME_WORDS
    if board.fpu == "none":
        return basic, basic
    return basic, basic + 4 * (18 if board.core in ("cortex-m4", "cortex-m7") else 34)
