"""Options of the commands that choose a scheme."""

from collections.abc import Callable
from typing import Any

import click

from edgeqrl.errors import UsageError

Command = Callable[..., Any]
_NAMES = ("most_weight_bits", "learning", "choosing_episodes", "choosing_seed")


def choosing_options(command: Command) -> Command:
    """Add what says how a scheme is chosen."""
    for option in (
        click.option("--choosing-seed", type=int, metavar="N", help="First of the seeds that choose."),
        click.option(
            "--choosing-episodes",
            type=int,
            metavar="N",
            help="Most pairs of episodes that a candidate plays.  [default: 512]",
        ),
        click.option(
            "--learning/--no-learning",
            default=None,
            help="Try schemes whose weights are trained, too: minutes each.  [default: learning]",
        ),
        click.option(
            "--most-weight-bits",
            type=int,
            metavar="BITS",
            help="No layer's weights have more, 8 to 2.  [default: 8]",
        ),
    ):
        command = option(command)
    return command


def search_from(options: dict[str, Any], study: Any = None) -> Any:
    """Return the SearchOptions that the options say."""
    from edgeqrl.search.options import SearchOptions

    named = {"choosing_episodes": "episodes", "choosing_seed": "seed"}
    stated = {named.get(name, name): options[name] for name in _stated(options)}
    return SearchOptions(**stated, study=study)


def require_return(environment: Any, settings: Any) -> Any:
    """Return the environment; raise UsageError where a scheme is to be chosen and there is none to play."""
    if environment is None and settings.search is not None:
        raise UsageError(
            "A scheme is chosen by the return, and only an environment tells it: give one with --env, or "
            "convert by a scheme that is named."
        )
    return environment


def require_none(options: dict[str, Any]) -> None:
    """Raise UsageError for an option of a choice where none is made."""
    for name in _stated(options):
        raise UsageError(f"--{name.replace('_', '-')} goes with --scheme auto.")


def _stated(options: dict[str, Any]) -> list[str]:
    return [name for name in _NAMES if options.get(name) is not None]
