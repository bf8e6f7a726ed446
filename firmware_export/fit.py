"""Does a firmware fit a board, and how long would a step take? Numbers in, numbers or BoardFitError out."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from edgeqrl.errors import BoardFitError
from firmware_export.board import Board, Region
from firmware_export.placement import Placement, place
from firmware_export.rates import Row, rates_of
from firmware_export.workload import Work

_NOTHING: Mapping[str, str] = MappingProxyType({})

# Engine, start-up and device loop with either compiler and core are below this.
CODE_ALLOWANCE_BYTES = 16384
STACK_ALLOWANCE_BYTES = 1280
DEVICE_ALLOWANCE_BYTES = 4096  # static RAM of the device loop with its buffers, for small observations


@dataclass(frozen=True)
class FirmwareSizes:
    """What an image needs. RAM is static: data, zero-initialised, and what is copied there."""

    flash_bytes: int
    ram_bytes: int  # of the region `ram`, in which the stack is, too
    stack_bytes: int  # bound over all paths, with exceptions on top
    regions: Mapping[str, int] = field(default_factory=dict)  # bytes of each further region of RAM in use


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


def timing_model(board: Board, *, placement: Placement | None = None) -> TimingModel:
    """Return the model behind `estimate_us`, to be named beside every estimate.

    Loads take two cycles and taken branches two or three on M0+ and M4, one more on M0, and M3 multiplies and
    adds in two (Arm DDI 0432, DDI 0484, DDI 0337, DDI 0439, cycle timings); the figure is the mix of a dense
    layer's inner loop. The others are guesses from the pipeline: M7 issues two instructions at once, M33
    loads without a stall, a Helium instruction of M55 takes two cycles, a small RV32 core waits for loads and
    branches.

    Wait states come on top, never hidden behind other work: a read of the memory in which code or weights
    lie brings its `read_bytes`, and behind a cache the code of the inner loop is found there and the weights
    are not; accesses to RAM are those to the arena. `placement` says where the three lie; None: where the
    board's file wants them.
    """
    base = _CYCLES[board.core]
    places = placement or place(board)
    code, weights, arena = (board.region(name) for name in (places.code, places.weights, places.arena))
    waited = _waited(weights, _WEIGHT_BYTES / weights.read_bytes)
    waited += 0.0 if code.cache_bytes else _waited(code, _CODE_BYTES / code.read_bytes)
    waited += 0.0 if arena.cache_bytes else _waited(arena, _RAM_ACCESSES)
    if not waited:
        return TimingModel(f"{base} cycles an instruction, no wait states", base)
    return TimingModel(f"{base} cycles an instruction and {waited:.2g} of wait states", base + waited)


def _waited(region: Region, accesses: float) -> float:
    """Return the clocks that accesses of a region wait."""
    return (region.wait_states or 0) * accesses


def estimate_us(instructions: int, board: Board, *, placement: Placement | None = None) -> float:
    """Estimate the microseconds that `instructions` take on the board's clock, by `timing_model`."""
    model = timing_model(board, placement=placement)
    return instructions * model.cycles_per_instruction * 1e6 / board.clock_hz


def estimate_instructions(works: Iterable[Work], core: str) -> int:
    """Estimate the instructions of a step, before anything is compiled; `core` is one of `board.CORES`.

    The rates are those of clang, which builds unless another compiler is asked for.
    """
    rates = rates_of(core)
    return round(sum(float(np.dot(work.counts, _rate(rates, work.kind))) for work in works))


def _rate(rates: Mapping[str, Row], kind: str) -> Row:
    """Return a kernel's row; for another core's order, which plain C reads here, that of plain rows."""
    return rates[kind] if kind in rates else rates[f"{kind.split()[0]} w8 s8"]


def estimate_sizes(
    params_bytes: int, state_bytes: int, board: Board, stated: Mapping[str, str] = _NOTHING
) -> FirmwareSizes:
    """Estimate an image from above before it is compiled, from its parameters and its state struct.

    `stated` is a placement as for `place`; code of its own is not told from the rest.
    """
    boot = sum(region.bytes for region in board.regions if region.name == "boot2")
    known = known_sizes(params_bytes, state_bytes, DEVICE_ALLOWANCE_BYTES, board, stated)
    stored = params_bytes + CODE_ALLOWANCE_BYTES + boot
    return replace(known, flash_bytes=stored, stack_bytes=STACK_ALLOWANCE_BYTES)


def known_sizes(
    params_bytes: int, state_bytes: int, observation_bytes: int, board: Board, stated: Mapping[str, str]
) -> FirmwareSizes:
    """Sum what is known before anything is compiled, each in its region; code and buffers come on top.

    `stated` is a placement as for `place`. An image that is copied to RAM where it fits counts as in flash.
    """
    places = place(board, stated, runs_from_ram=False)
    needed = Counter({"ram": observation_bytes})
    needed[places.weights] += params_bytes
    needed[places.arena] += state_bytes
    others = {name: size for name, size in needed.items() if name not in ("flash", "ram")}
    return FirmwareSizes(params_bytes, needed["ram"], 0, others)


def region_uses(sizes: FirmwareSizes, board: Board) -> list[dict[str, Any]]:
    """Return for each region that an image uses its name, kind, what it needs and what is there, in bytes.

    `flash` includes a second-stage boot before it; of `ram` the stack is told apart.
    """
    uses = [
        {
            "name": name,
            "kind": "ram" if name == "ram" else "flash",
            "bytes": used,
            "stack_bytes": sizes.stack_bytes if name == "ram" else 0,
            "available_bytes": board.available_bytes(name),
        }
        for name, used in (("flash", sizes.flash_bytes), ("ram", sizes.ram_bytes))
    ]
    for name, used in sizes.regions.items():
        region = board.region(name)
        there = region.end - region.first
        uses.append(
            {"name": name, "kind": region.kind, "bytes": used, "stack_bytes": 0, "available_bytes": there}
        )
    return uses


def require_fits(sizes: FirmwareSizes, board: Board) -> None:
    """Raise BoardFitError with the numbers of each region of the board that is too small for an image."""
    problems = [
        f"{_needed(use)} needed, {use['available_bytes']:,} there"
        for use in region_uses(sizes, board)
        if use["bytes"] + use["stack_bytes"] > use["available_bytes"]
    ]
    if problems:
        raise BoardFitError(
            f"The policy does not fit {board.name} ({'; '.join(problems)}): use a smaller network"
            f"{', another --place' if sizes.regions else ''} or a larger board."
        )


def _needed(use: Mapping[str, Any]) -> str:
    if use["name"] != "ram":
        return f"{use['name']}: {use['bytes']:,} bytes"
    return f"RAM: {use['bytes']:,} bytes and {use['stack_bytes']:,} of stack"


def require_in_time(
    instructions: int,
    board: Board,
    control_period_s: float | None,
    *,
    placement: Placement | None = None,
    is_estimate: bool = False,
) -> None:
    """Raise BoardFitError, with the numbers, if a step takes longer than the control period.

    control_period_s  None: not known, so that nothing is checked
    placement         of code, weights and arena, see `timing_model`
    is_estimate       the instructions were not counted: what may be an error of the estimate is let through
    """
    if control_period_s is None:
        return
    found = estimate_us(instructions, board, placement=placement)
    if found <= control_period_s * 1e6 * (_ESTIMATE_TOO_HIGH_BY if is_estimate else 1.0):
        return
    model = timing_model(board, placement=placement)
    raise BoardFitError(
        f"A step would take {found:,.0f} us on {board.name} ({'about ' if is_estimate else ''}"
        f"{instructions:,} instructions, {model.name}, {board.clock_hz / 1e6:g} MHz: an estimate), and the "
        f"control period is {control_period_s * 1e6:,.0f} us: use a smaller network, a faster board or, if "
        "the policy was trained with it, a longer --control-period."
    )
