"""`edgeqrl boards`: what the board files say."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgeqrl.cli.options import json_option

if TYPE_CHECKING:
    from firmware_export.board import Board, Region

_MADE = {
    "mcu": "firmware",
    "library": "a library, which the vendor's SDK builds",
    "linux": "a folder, deployed by ssh",
}
_UNIT = 1024
_LEGEND = (
    "\nFlash and RAM are what an image may fill. A library is built by the vendor's SDK. ISA: the same "
    "instructions run, without peripherals; CPU + UART: the image boots on core, memory map and UART; chip: "
    "it boots on a model of the chip. All figures, their sources and tools: edgeqrl boards NAME"
)


@click.command()
@click.argument("name", required=False)
@json_option
def boards(name: str | None, as_json: bool) -> None:
    """List the boards, or show one with the source of each figure."""
    from edgeqrl.cli.show import print_json, print_table
    from edgeqrl.data import data_folder
    from edgeqrl.pipeline import open_board
    from firmware_export.board import board_names

    if name is not None:
        board = open_board(name)
        if as_json:
            print_json(_facts(board))
            return
        print_table(f"{board.name}: {board.title}", ["", "", "source"], list(_sheet(board)))
        return
    known = [open_board(found) for found in board_names(data_folder("boards"))]
    if as_json:
        print_json([_facts(board) for board in known])
        return
    _print_list(known)


def _print_list(known: "Sequence[Board]") -> None:
    """Print two lines a board: what one types, and its full name below; readable in 80 columns."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("board", max_width=42, overflow="fold")
    table.add_column("core", no_wrap=True)
    for name in ("MHz", "flash", "RAM"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("flashed by")
    table.add_column("emulated", no_wrap=True, min_width=10)
    for board in known:
        name, title, *rest = (escape(cell) for cell in _row(board))
        table.add_row(f"[bold]{name}[/]\n{title}", *rest)
    console = Console()
    console.print(table, highlight=False)
    console.print(_LEGEND, highlight=False, markup=False)


def _facts(board: "Board") -> dict[str, Any]:
    from firmware_export.emulators.plan import emulations

    emulated = [
        {"engine": plan.engine, "level": plan.level, "what": plan.sentence} for plan in emulations(board)
    ]
    return board.to_json() | {"emulated": emulated}


def _row(board: "Board") -> list[str]:
    from firmware_export.emulators.plan import CHIP, CPU_AND_UART, ISA, emulations

    levels = {plan.level for plan in emulations(board)}
    highest = next((level for level in (CHIP, CPU_AND_UART, ISA) if level in levels), "no")
    tools = [tool.tool for tool in board.flash_tools]
    return [
        board.name,
        board.title,
        board.core.removeprefix("cortex-").upper().replace("PLUS", "+").removeprefix("XTENSA-"),
        f"{board.clock_hz / 1e6:.0f}",
        _size(board.flash_bytes),
        _size(board.ram_bytes),
        {"mcu": _first_of(tools), "library": "(library)", "linux": "ssh"}[board.kind],
        highest,
    ]


def _first_of(tools: "Sequence[str]") -> str:
    """Name the tool to prefer, and how many more there are: the sheet has them all."""
    more = f" +{len(tools) - 1}" if len(tools) > 1 else ""
    return f"{tools[0]}{more}" if tools else "-"


def _sheet(board: "Board") -> Iterator[list[str]]:
    from firmware_export.emulators.plan import emulations

    sources = board.sources
    yield ["core", board.core, sources["core"]]
    yield ["FPU", board.fpu, sources["fpu"]]
    yield ["clock", f"{board.clock_hz / 1e6:g} MHz", sources["clock_hz"]]
    for region in board.regions:
        yield [region.name, _described(region, board.kind), board.source_of(region)]
    if board.serial is not None:
        uart = board.uart
        interrupt = "polled" if uart.irq is None else f"interrupt {uart.irq}"
        yield ["UART", f"{uart.base:#010x}, {interrupt}, {uart.baud:,} baud, {uart.pins}", sources["uart"]]
        yield ["interrupts", f"{board.num_interrupts}", sources["num_interrupts"]]
        if board.settings:
            settings = ", ".join(f"{key} {value:,}" for key, value in board.settings)
            yield ["port settings", settings, sources.get("port_settings", "")]
        yield ["watchdog", board.watchdog, sources.get("watchdog", "")]
        yield ["image", f"runs from {'RAM where it fits' if board.runs_from_ram else 'flash'}", ""]
    if board.uf2 is not None:
        described = f"{board.uf2.board_id}, family {board.uf2.family_id:#010x}"
        yield ["UF2", described, sources.get("uf2", "")]
    for tool in board.flash_tools:
        yield ["flash by", f"{tool.tool} ({tool.image}): {' '.join(tool.argv)}", tool.needs]
    for plan in emulations(board):
        yield ["emulated", f"{plan.engine}: {plan.level}", plan.sentence]
    yield ["made", _MADE[board.kind], "figures are the documents', not measured on the board"]


def _described(region: "Region", kind: str) -> str:
    parts = [f"{region.kind}, {_size(region.bytes)} at {region.start:#010x}"]
    if region.wait_states is not None:
        parts.append(f"{region.wait_states} wait states a read of {region.read_bytes} B")
    if region.cache_bytes:
        parts.append(f"cache of {_size(region.cache_bytes)}")
    if region.erase_bytes is not None:
        parts.append(f"erased by {region.erase_bytes:,} B, written by {region.program_bytes:,} B")
    if region.reserved:
        parts.append("reserved: never written")
    elif kind == "mcu" and region.name != "boot2":
        parts.append(f"--place: {', '.join(region.holds) or 'nothing'}")
    return "; ".join([*parts, *([region.note] if region.note else [])])


def _size(num_bytes: int) -> str:
    if num_bytes == 0:
        return "-"
    for unit, name in ((_UNIT**3, "GB"), (_UNIT**2, "MB"), (_UNIT, "KB")):
        if num_bytes % unit == 0:
            return f"{num_bytes // unit:,} {name}"
    return f"{num_bytes / _UNIT:,.1f} KB" if num_bytes > 10 * _UNIT else f"{num_bytes:,} B"
