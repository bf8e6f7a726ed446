"""Where code, weights and arena of an image lie: the regions of its board, by board file or by --place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgeqrl.errors import UsageError, require_name
from firmware_export.board import PLACEABLE, Board
from firmware_export.port_names import nearest

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Placement:
    """The region of each part. What is no part (start-up, device loop, stack) stays in `flash` and `ram`."""

    code: str  # functions that run in a step
    weights: str  # the params blob
    arena: str  # the state, in which the arena is


def usual_code_region(board: Board, runs_from_ram: bool) -> str:
    """Return the region in which code lies that nobody placed elsewhere."""
    return board.code_region or ("ram" if runs_from_ram else "flash")


def place(
    board: Board, stated: Mapping[str, str] = _NOTHING, *, runs_from_ram: bool | None = None
) -> Placement:
    """Return where each part goes: as stated, else by the board's file, else with the rest of the image.

    runs_from_ram  where the rest is; None: where the board's file wants it
    """
    in_ram = board.runs_from_ram if runs_from_ram is None else runs_from_ram
    usual = {
        "code": usual_code_region(board, in_ram),
        "weights": "ram" if in_ram or board.code_region else "flash",
        "arena": "ram",
    }
    return Placement(**{**usual, **dict(board.placement), **stated})


def parse_placement(texts: Iterable[str]) -> dict[str, str]:
    """Return what `WHAT=REGION`, one or several, say; regions are checked once the board is known.

    Raises UsageError.
    """
    found: dict[str, str] = {}
    for text in texts:
        what, equals, region = text.partition("=")
        if not equals or not region:
            raise UsageError(f"--place '{text}' is not of the form WHAT=REGION, as weights=flash.")
        require_name("part to place", what, PLACEABLE)
        if found.get(what, region) != region:
            raise UsageError(f"--place puts {what} into '{found[what]}' and into '{region}': give one.")
        found[what] = region
    return found


def require_placeable(board: Board | None, stated: Mapping[str, str]) -> None:
    """Raise UsageError unless all that is stated can be placed on the board, with why and what could be."""
    if not stated:
        return
    if board is None:
        raise UsageError("--place goes with --board: its regions are those of a board.")
    if board.kind != "mcu":
        raise UsageError(
            f"--place is for boards whose firmware is linked here, and {board.title} is none: place code, "
            "weights and arena in its own build, by EQRL_CODE, EQRL_WEIGHTS and EQRL_ARENA."
        )
    for what, region in stated.items():
        problem = placement_problem(board, what, region)
        if problem is not None:
            raise UsageError(f"--place {what}={region}: {problem}{'' if problem.endswith('?') else '.'}")


def possible_placement(board: Board, stated: Mapping[str, str]) -> dict[str, str]:
    """Return as much of what was stated for another board as this one can do, for its twin in an emulator."""
    return {what: region for what, region in stated.items() if placement_problem(board, what, region) is None}


def placement_problem(board: Board, what: str, region: str) -> str | None:
    """Return why a part cannot be placed in the region of this name, or None."""
    regions = {found.name: found for found in board.regions}
    able = [found.name for found in board.regions if what in found.holds]
    if region not in regions:
        return f"{board.name} has no region '{region}'; {nearest(region, able)}"
    found = regions[region]
    if what in found.holds:
        return None
    why = "is reserved" if found.reserved else f"cannot hold {what}"
    note = f" ({found.note})" if found.note else ""
    return f"'{region}' of {board.name} {why}{note}; {what} may go to {' or '.join(able)}"
