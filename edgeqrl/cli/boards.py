"""`edgeqrl boards`: what the board files say."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgeqrl.cli.options import json_option

if TYPE_CHECKING:
    from firmware_export.board import Board


@click.command()
@click.argument("name", required=False)
@json_option
def boards(name: str | None, as_json: bool) -> None:
    """List the boards, or show one with the source of each figure."""
    from edgeqrl.cli.show import print_json, print_table
    from edgeqrl.data import data_folder
    from edgeqrl.pipeline import open_board
    from firmware_export.board import board_names

    known = [open_board(found) for found in board_names(data_folder("boards"))]
    if name is not None:
        board = open_board(name)
        if as_json:
            print_json(_facts(board))
            return
        shown = ("title", "core", "fpu", "clock_hz", "fidelity")
        rows = [[key, str(getattr(board, key)), board.sources.get(key, "")] for key in shown]
        for region in board.regions:
            place = f"{region.bytes:,} B at {region.start:#010x}"
            rows.append([f"region {region.name}", place, board.sources["regions"]])
        print_table(board.name, ["", "", "source"], rows)
        return
    if as_json:
        print_json([_facts(board) for board in known])
        return
    rows = [
        [
            board.name,
            board.title,
            board.core,
            f"{board.clock_hz / 1e6:.0f}",
            f"{board.available_bytes('flash'):,}",
            f"{board.available_bytes('ram'):,}",
        ]
        for board in known
    ]
    print_table("Boards", ["name", "board", "core", "MHz", "flash, B", "RAM, B"], rows, right=(3, 4, 5))


def _facts(board: "Board") -> dict[str, Any]:
    facts = {
        key: value for key, value in vars(board).items() if key not in ("regions", "sources", "uart", "uf2")
    }
    return facts | {
        "regions": [asdict(region) for region in board.regions],
        "uart": asdict(board.uart),
        "uf2": None if board.uf2 is None else asdict(board.uf2),
        "sources": dict(board.sources),
    }
