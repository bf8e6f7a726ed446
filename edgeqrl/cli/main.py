"""The `edgeqrl` command: errors become one sentence and an exit code here, and nowhere else."""

import atexit
import errno
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any, NoReturn

import click

from edgeqrl import __version__
from edgeqrl.cli import boards, convert, diagnose, flash, network, search, stages, tools
from edgeqrl.errors import INTERRUPTED_EXIT_CODE, EdgeQRLError, OutputError

_EPILOG = """
Exit codes: 0 done and passed; 1 unexpected; 2 usage; 3 bad agent; 4 unsupported operator; 5 does not fit
the board; 6 verdict failed; 7 verdict inconclusive; 8 nothing to preserve; 9 missing tool; 10 device or
emulator trouble; 11 environment failed; 12 damaged data; 13 cannot write; 14 backends differ; 15 converter
failed; 130 interrupted.
"""

_CLEANUP_S = 5.0  # an impatient second Ctrl-C must not leave scratch folders behind
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(epilog=_EPILOG, context_settings=_CONTEXT)
@click.version_option(__version__)
def cli() -> None:
    """Put a trained reinforcement-learning policy on a chip, and measure that it still acts as well."""


for _command in (
    convert.convert,
    search.search,
    stages.calibrate,
    stages.quantize,
    stages.validate,
    diagnose.diagnose,
    stages.export,
    stages.build,
    stages.emulate,
    flash.flash,
    network.inspect,
    network.compare,
    network.bench,
    tools.zoo,
    boards.boards,
    tools.doctor,
):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the command line and exit with its documented code."""
    _print_anywhere()
    interrupt = Interrupt()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, interrupt)
    code = run(sys.argv[1:])
    if code == INTERRUPTED_EXIT_CODE:
        _exit_interrupted()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command; return its exit code, with the reason on standard error."""
    try:
        return int(cli.main(arguments, prog_name="edgeqrl", standalone_mode=False) or 0)
    except EdgeQRLError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        told = str(error.__cause__ or error)  # click makes an Abort of the former
        return _fail(told or "Interrupted; what was there before is as it was.", INTERRUPTED_EXIT_CODE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(f"The disk is full: {error}. Make room and run it again.", OutputError.exit_code)
        if os.environ.get("EDGEQRL_TRACEBACK"):
            raise
        summary = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(
            f"This should not have happened: {summary}. See where with EDGEQRL_TRACEBACK=1, and report it.", 1
        )


def _exit_interrupted() -> NoReturn:
    """Exit with our code whatever was interrupted.

    `python -m` ends by the signal itself if KeyboardInterrupt ever left an `exec` of text, caught or not, and
    dataclasses are made by one: that is, whenever Ctrl-C met an import.
    """
    atexit._run_exitfuncs()  # ends our workers
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(INTERRUPTED_EXIT_CODE)


def _print_anywhere() -> None:
    """Show what a terminal cannot encode as a question mark, rather than fail on it."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _fail(message: str, exit_code: int) -> int:
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(message, err=True)
    return exit_code


class Interrupt:
    """Raises KeyboardInterrupt for a signal; not again for those that follow while it cleans up."""

    def __init__(self) -> None:
        self._raised_at = -_CLEANUP_S

    def __call__(self, *_: Any) -> None:
        """Handle a signal."""
        now = time.monotonic()
        if now - self._raised_at >= _CLEANUP_S:
            self._raised_at = now
            raise KeyboardInterrupt
