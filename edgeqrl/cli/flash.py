"""`edgeqrl flash`: put the firmware on the board."""

from pathlib import Path

import click

from edgeqrl.cli.options import FOLDER, board_option


@click.command()
@click.argument("bundle", type=FOLDER)
@board_option
@click.option("--volume", type=FOLDER, help="The board's drive, where it is not found by itself.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
def flash(bundle: Path, board: str | None, volume: Path | None, dry_run: bool) -> None:
    """Put the firmware of BUNDLE on the board."""
    from edgeqrl.deployment import flash_bundle

    click.echo(flash_bundle(bundle, board=board, volume=volume, dry_run=dry_run))
