"""`edgeqrl flash`: put the firmware on the board."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeqrl.cli.options import FOLDER, board_option, json_option

if TYPE_CHECKING:
    from edgeqrl.deployment import FlashResult


@click.command()
@click.argument("bundle", type=FOLDER, metavar="DIR")
@board_option
@click.option("--tool", metavar="NAME", help="Flash tool; default: the board's first that is installed.")
@click.option("--port", metavar="PORT", help="The board's serial port, where it is not found by itself.")
@click.option("--probe", metavar="ID", help="The debug probe or bootloader, where there are several.")
@click.option("--volume", type=FOLDER, help="The board's drive, where it is not found by itself.")
@click.option(
    "--uart", metavar="PORT", help="Serial port on which the firmware is asked, if it is not found by itself."
)
@click.option("--host", metavar="USER@HOST", help="Of a board that runs Linux: where ssh finds it.")
@click.option(
    "--ssh-option", multiple=True, metavar="WORDS", help="Of --host: further words for ssh, as '-p 2222'."
)
@click.option("--service", is_flag=True, help="Of --host: install and start it as the user's service.")
@click.option("--verify/--no-verify", default=True, help="Ask the board what it runs, and test it.")
@click.option("--yes", is_flag=True, help="Confirm what this board asks to be confirmed.")
@click.option("--dry-run", is_flag=True, help="Check, say what would be done, and write nothing.")
@json_option
def flash(
    bundle: Path,
    board: str | None,
    uart: str | None,
    host: str | None,
    ssh_option: tuple[str, ...],
    service: bool,
    verify: bool,
    yes: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Put what was built in the bundle DIR on its board, and check that it runs there.

    Nothing is written unless exactly one board is found, its chip is the right one, and the image lies in
    flash that may be written. Reserved flash and option bytes are never touched.

    To a board that runs Linux (--host) a release is copied beside those that are there, tested, and made
    current; or all stays as it was.
    """
    from edgeqrl.cli.show import print_json
    from edgeqrl.deployment import flash_bundle
    from edgeqrl.errors import UsageError
    from firmware_export.flashers.runner import Choice

    if host is not None:
        for_chips = [name for name in ("tool", "port", "probe", "volume") if options[name] is not None]
        for_chips += ["uart"] if uart is not None else []
        if for_chips:
            raise UsageError(f"--{for_chips[0]} is for boards that are flashed, and does not go with --host.")
        _deploy(bundle, host, board, ssh_option, as_json, service=service, dry_run=options["dry_run"])
        return
    if ssh_option or service:
        raise UsageError("--ssh-option and --service go with --host.")
    done = flash_bundle(
        bundle,
        Choice(is_confirmed=yes, **options),
        board=board,
        uart=uart,
        is_verified=verify,
        watch=_nothing if as_json else _show,
    )
    if as_json:
        print_json(done.to_json())
    else:
        _print(done)


def _deploy(
    bundle: Path, host: str, board: str | None, words: tuple[str, ...], as_json: bool, **how: bool
) -> None:
    """Put the folder on a board that runs Linux."""
    from edgeqrl.cli.linux_view import deployed_text
    from edgeqrl.cli.show import print_json
    from edgeqrl.deployment import deploy_bundle

    done = deploy_bundle(
        bundle,
        host,
        board=board,
        options=[word for text in words for word in _words(text)],
        watch=_nothing if as_json else _show,
        **how,
    )
    if as_json:
        print_json(done.to_json())
    else:
        click.echo(deployed_text(done))


def _words(text: str) -> list[str]:
    from edgeqrl.errors import UsageError

    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(
            f"--ssh-option {text} cannot be taken apart into words: {str(error).lower()}. Write it as for a "
            "shell, such as '-p 2222'."
        ) from error


def _print(done: "FlashResult") -> None:
    from firmware_export.flashers.ranges import shown

    flashed = done.flashed
    rows = [
        ("board", f"{flashed.board}: {done.board.title}"),
        ("tool", flashed.tool),
        ("image", f"{flashed.image}, {flashed.image_bytes:,} bytes"),
        ("writes", shown(flashed.written)),
        ("erases", shown(flashed.erased)),
        ("found", flashed.found),
        *(("runs", shlex.join(command)) for command in flashed.commands),
        ("runs", "" if flashed.commands else f"a copy of {flashed.image.name} to the drive"),
        *(("note", text) for text in flashed.notes),
        *(("missing", text) for text in flashed.missing),
        ("confirm", flashed.confirm if not flashed.is_written else ""),
    ]
    for label, text in rows:
        if text:
            click.echo(f"{click.style(f'{label:<8}', bold=True)} {text}")
    if not flashed.is_written:
        click.echo("Nothing was written: this was a dry run.")
    elif done.verified is None:
        click.echo("Written; not verified.")
    else:
        click.echo(done.verified.text)


def _show(line: str) -> None:
    """Show what the tool says, as it says it."""
    click.echo(click.style(f"  {line}", dim=True), err=True)


def _nothing(_line: str) -> None:
    """Show nothing."""
