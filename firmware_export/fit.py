"""Does a firmware fit a board, and how long would a step take? Numbers in, numbers or BoardFitError out."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edgeqrl.errors import BoardFitError
from firmware_export.board import Board, Region
from firmware_export.rates import rates_of
from firmware_export.workload import Work

# Engine, start-up and device loop with either compiler and core are below this.
CODE_ALLOWANCE_BYTES = 16384
STACK_ALLOWANCE_BYTES = 1280
DEVICE_ALLOWANCE_BYTES = 4096  # static RAM of the device loop with its buffers, for small observations


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


# Clocks that an instruction of a dense layer's inner loop takes on average, from memory without wait states.
_CYCLES = {
    "cortex-m0": 1.6,
    "cortex-m0plus": 1.5,
    "cortex-m3": 1.4,
    "cortex-m4": 1.3,
    "cortex-m7": 0.8,
    "cortex-m33": 1.2,
    "cortex-m55": 1.5,
    "rv32imac": 1.4,
    "rv32imc": 1.4,
}
# Below the estimate by this factor lies no network that was measured.
_ESTIMATE_TOO_HIGH_BY = 1.3
# Of an instruction: bytes of itself, bytes of weights, and reads and writes of RAM.
_CODE_BYTES, _WEIGHT_BYTES, _RAM_ACCESSES = 3.0, 0.25, 0.4


def timing_model(board: Board, *, runs_from_ram: bool | None = None) -> TimingModel:
    """Return the model behind `estimate_us`, to be named beside every estimate.

    Loads take two cycles and taken branches two or three on M0+ and M4, one more on M0, and M3 multiplies and
    adds in two (Arm DDI 0432, DDI 0484, DDI 0337, DDI 0439, cycle timings); the figure is the mix of a dense
    layer's inner loop. The others are guesses from the pipeline: M7 issues two instructions at once, M33
    loads without a stall, a Helium instruction of M55 takes two cycles, a small RV32 core waits for loads and
    branches.

    Wait states come on top, never hidden behind other work: a read of the memory in which code and weights
    lie brings `read_bytes`; behind a cache the code of the inner loop is found there and the weights are not.
    `runs_from_ram` says where the image lies; None: where the board's file wants it.
    """
    base = _CYCLES[board.core]
    in_ram = board.runs_from_ram if runs_from_ram is None else runs_from_ram
    code, ram = code_region(board, in_ram), board.region("ram")
    fetched = _WEIGHT_BYTES + (0.0 if code.cache_bytes else _CODE_BYTES)
    waited = (code.wait_states or 0) * fetched / code.read_bytes
    waited += (ram.wait_states or 0) * (0.0 if ram.cache_bytes else _RAM_ACCESSES)
    if not waited:
        return TimingModel(f"{base} cycles an instruction, no wait states", base)
    return TimingModel(f"{base} cycles an instruction and {waited:.2g} of wait states", base + waited)


def code_region(board: Board, runs_from_ram: bool) -> Region:
    """Return the region from which code and weights are read."""
    return board.region((board.code_region or "ram") if runs_from_ram else "flash")


def estimate_us(instructions: int, board: Board, *, runs_from_ram: bool | None = None) -> float:
    """Estimate the microseconds that `instructions` take on the board's clock."""
    model = timing_model(board, runs_from_ram=runs_from_ram)
    return instructions * model.cycles_per_instruction * 1e6 / board.clock_hz


def estimate_instructions(works: Iterable[Work], core: str) -> int:
    """Estimate the instructions of a step, before anything is compiled; `core` is one of `board.CORES`.

    The rates are those of clang, which builds unless another compiler is asked for.
    """
    rates = rates_of(core)
    return round(sum(float(np.dot(work.counts, rates[work.kind])) for work in works))


def estimate_sizes(params_bytes: int, state_bytes: int, board: Board) -> FirmwareSizes:
    """Estimate an image from above before it is compiled, from its parameters and its state struct."""
    boot = sum(region.bytes for region in board.regions if region.name == "boot2")
    stored = params_bytes + CODE_ALLOWANCE_BYTES + boot
    return FirmwareSizes(stored, state_bytes + DEVICE_ALLOWANCE_BYTES, STACK_ALLOWANCE_BYTES)


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


def require_in_time(
    instructions: int,
    board: Board,
    control_period_s: float | None,
    *,
    runs_from_ram: bool | None = None,
    is_estimate: bool = False,
) -> None:
    """Raise BoardFitError, with the numbers, if a step takes longer than the control period.

    control_period_s  None: not known, so that nothing is checked
    is_estimate       the instructions were not counted: what may be an error of the estimate is let through
    """
    if control_period_s is None:
        return
    found = estimate_us(instructions, board, runs_from_ram=runs_from_ram)
    if found <= control_period_s * 1e6 * (_ESTIMATE_TOO_HIGH_BY if is_estimate else 1.0):
        return
    model = timing_model(board, runs_from_ram=runs_from_ram)
    raise BoardFitError(
        f"A step would take {found:,.0f} us on {board.name} ({'about ' if is_estimate else ''}"
        f"{instructions:,} instructions, {model.name}, {board.clock_hz / 1e6:g} MHz: an estimate), and the "
        f"control period is {control_period_s * 1e6:,.0f} us: use a smaller network, a faster board or, if "
        "the policy was trained with it, a longer --control-period."
    )
