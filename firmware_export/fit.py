"""Does a firmware fit a board, and how long would a step take? Numbers in, numbers or BoardFitError out."""

from dataclasses import dataclass

from edgeqrl.errors import BoardFitError
from firmware_export.board import Board

# Engine, start-up and device loop with either compiler and core are below this.
CODE_ALLOWANCE_BYTES = 8192
STACK_ALLOWANCE_BYTES = 1024


@dataclass(frozen=True)
class FirmwareSizes:
    """What an image needs. `ram_bytes` is static: data, zero-initialised, and code copied to RAM."""

    flash_bytes: int
    ram_bytes: int
    stack_bytes: int  # bound over all paths, with one exception on top


@dataclass(frozen=True)
class TimingModel:
    """How instructions become a time on the chip. An estimate: no emulator here counts cycles."""

    name: str
    cycles_per_instruction: float


def _cycles(figure: float) -> TimingModel:
    return TimingModel(f"{figure} cycles an instruction, no wait states", figure)


_TIMING_MODELS = {
    "cortex-m0": _cycles(1.6),
    "cortex-m0plus": _cycles(1.5),
    "cortex-m3": _cycles(1.4),
    "cortex-m4": _cycles(1.3),
    "cortex-m7": _cycles(0.8),
    "cortex-m33": _cycles(1.2),
    "cortex-m55": _cycles(1.5),
    "rv32imac": _cycles(1.4),
}


def timing_model(board: Board) -> TimingModel:
    """Return the model behind `estimate_us`, to be named beside every estimate.

    Loads take two cycles and taken branches two or three on M0+ and M4, one more on M0, and M3 multiplies and
    adds in two (Arm DDI 0432, DDI 0484, DDI 0337, DDI 0439, cycle timings); the figure is the mix of a dense
    layer's inner loop. The others are guesses from the pipeline: M7 issues two instructions at once, M33
    loads without a stall, a Helium instruction of M55 takes two cycles, a small RV32 core waits for loads and
    branches.
    """
    return _TIMING_MODELS[board.core]


def estimate_us(instructions: int, board: Board) -> float:
    """Estimate the microseconds that `instructions` take on the board's clock."""
    return instructions * timing_model(board).cycles_per_instruction * 1e6 / board.clock_hz


def estimate_sizes(params_bytes: int, state_bytes: int, board: Board) -> FirmwareSizes:
    """Estimate an image from above before it is compiled, from its parameters and its state struct."""
    stored = params_bytes + CODE_ALLOWANCE_BYTES
    return FirmwareSizes(stored, state_bytes + STACK_ALLOWANCE_BYTES, STACK_ALLOWANCE_BYTES)


def require_fits(sizes: FirmwareSizes, board: Board) -> None:
    """Raise BoardFitError with the numbers if an image does not fit the board's flash and RAM."""
    flash, ram = board.available_bytes("flash"), board.available_bytes("ram")
    problems = []
    if sizes.flash_bytes > flash:
        problems.append(f"flash: {sizes.flash_bytes:,} bytes needed, {flash:,} there")
    if sizes.ram_bytes + sizes.stack_bytes > ram:
        need = f"{sizes.ram_bytes:,} bytes and {sizes.stack_bytes:,} of stack"
        problems.append(f"RAM: {need} needed, {ram:,} there")
    if problems:
        raise BoardFitError(
            f"The policy does not fit {board.name} ({'; '.join(problems)}): use a smaller network or a "
            "larger board."
        )
