"""Commands around the main road: flash, zoo, boards, doctor."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeqrl.cli.options import FOLDER, board_option, json_option

if TYPE_CHECKING:
    from firmware_export.board import Board


@click.command()
@click.argument("bundle", type=FOLDER)
@board_option
@click.option("--volume", type=FOLDER, help="The board's drive, where it is not found by itself.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
def flash(bundle: Path, board: str | None, volume: Path | None, dry_run: bool) -> None:
    """Put the firmware of BUNDLE on the board."""
    from edgeqrl.pipeline import flash_bundle

    click.echo(flash_bundle(bundle, board=board, volume=volume, dry_run=dry_run))


@click.group()
def zoo() -> None:
    """Trained agents that ship with edgeqrl."""


@zoo.command("list")
@json_option
def zoo_list(as_json: bool) -> None:
    """List the agents with their measured float returns."""
    from edgeqrl.cli.show import print_json, print_table
    from edgeqrl.zoo import zoo_agents

    agents = zoo_agents()
    if as_json:
        print_json([dict(agent.card) for agent in agents])
        return
    rows = []
    for agent in agents:
        found = agent.card["float_return"]
        interval = f"{found['mean']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"
        rows.append([f"zoo:{agent.name}", agent.env_id, interval])
    print_table("Zoo", ["agent", "environment", "float return, 100 episodes"], rows, right=(2,))


@zoo.command("train")
@click.argument("name")
@click.option("-o", "--output", type=FOLDER, help="Folder for agent and card; default: build/zoo/NAME.")
def zoo_train(name: str, output: Path | None) -> None:
    """Train an agent of the zoo again, from scratch."""
    from edgeqrl.cli.show import StageProgress
    from edgeqrl.zoo import train

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA tells of every compilation otherwise
    with StageProgress() as progress:
        place = train(
            name,
            output or Path("build/zoo") / name,
            lambda done, total, message: progress("train", done, total, message),
        )
    click.echo(f"The agent and its card are in {place.parent}.")


@zoo.command("calibrate")
@click.argument("name")
@click.option(
    "-o", "--output", type=FOLDER, default=Path("build/calib_data"), show_default=True, help="Folder."
)
def zoo_calibrate(name: str, output: Path) -> None:
    """Roll an agent of the zoo out again, and keep its calibration set."""
    from edgeqrl.cli.show import StageProgress

    with StageProgress() as progress:
        progress("load", 0, 0)
        from edgeqrl.pipeline import calibrate_zoo_agent

        place = calibrate_zoo_agent(name, output, progress=progress)
    click.echo(f"The calibration set is in {place}.")


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


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Say which tools are there, what each is for, and how to get the rest."""
    from edgeqrl.cli.show import print_json, print_table
    from edgeqrl.doctor import examine

    found = examine()
    if as_json:
        print_json([tool.to_json() for tool in found])
    else:
        rows = [[tool.name, tool.version or "missing", tool.purpose] for tool in found]
        print_table("edgeqrl doctor", ["tool", "found", "what for"], rows)
        for tool in found:  # below the table, where a command stays whole
            if tool.cure:
                click.echo(f"{tool.name}: {tool.cure}")
    return 0


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
