"""`edgeqrl search`: Optuna over schemes, layer by layer; the cheapest that holds is judged once."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from edgeqrl.cli.convert import exit_code_of, settings_from
from edgeqrl.cli.options import (
    agent_options,
    board_option,
    calibration_options,
    contract_options,
    environment_for,
    environment_options,
    json_option,
    source_options,
    validation_options,
)
from edgeqrl.cli.search_options import choosing_options, require_return, search_from

_STUDY = "study.db"


@click.command()
@click.argument("agent")
@environment_options
@board_option
@click.option(
    "--trials",
    type=int,
    default=60,
    show_default=True,
    help="Candidates in all, with those of earlier runs and other machines.",
)
@click.option(
    "--storage",
    metavar="URL",
    help="Of Optuna's study: a database, journal:FILE or redis://HOST.  [default: study.db in DIR]",
)
@click.option("--study", default="edgeqrl", show_default=True, metavar="NAME", help="Name of the study.")
@click.option("--search-seed", type=int, default=0, show_default=True, help="Of the sampler.")
@choosing_options
@contract_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder for study, plot, and the bundle of the winner.",
)
@agent_options
@calibration_options
@validation_options
@json_option
def search(agent: str, board: str | None, output: Path, as_json: bool, **options: Any) -> int:
    """Try schemes for AGENT until the trials are used up; convert it by the cheapest that holds the return.

    A search that is stopped goes on where it was when the command is run again; machines that share
    --storage share the work. Episodes that choose have other seeds than the one judgement of the winner.
    """
    from edgeqrl.cli.show import StageProgress, print_conversion, print_json

    with StageProgress() as progress:
        progress("load", 0, 0)
        from dataclasses import replace

        from edgeqrl import pipeline
        from edgeqrl.search.options import StudyOptions
        from edgeqrl.search.results import PLOT, RESULT, prepared, write_results
        from edgeqrl.search.storage import sqlite_url

        file = None if options["storage"] else output / _STUDY
        storage = options["storage"] or sqlite_url(output / _STUDY)
        study = StudyOptions(storage, options["study"], options["trials"], options["search_seed"])
        settings = replace(settings_from(options), search=search_from(options, study))
        environment = require_return(environment_for(agent, options), settings)
        with prepared(output, study, file) as known, trials_kept(study):
            if known:
                progress.say(goes_on(known, study.trials))
            conversion = pipeline.convert(
                agent,
                environment,
                board=board,
                output=output / "bundle",
                **source_options(options),
                settings=settings,
                progress=progress,
            )
            title = f"{agent} in {environment.env_id}"
            write_results(output, conversion.report["choice"], title)
    if as_json:
        print_json(conversion.report)
    else:
        files = [RESULT, PLOT, "bundle/", *([] if options["storage"] else [_STUDY])]
        print_conversion(title, conversion.report, str(output), files, bundle=str(conversion.folder))
    return exit_code_of(conversion.verdict)


def goes_on(known: int, wanted: int) -> str:
    """Say what is left to do where earlier runs have finished `known` trials."""
    if known < wanted:
        return f"The study has {known:,} of {wanted:,} trials: the search goes on."
    return (
        f"The study has all of its {wanted:,} trials: its winner is made and judged again, which is the same "
        "judgement if it is the same network. A larger --trials goes on with the search."
    )


@contextmanager
def trials_kept(study: Any) -> Iterator[None]:
    """Say, where the search is interrupted, that what it found is kept, and how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        from edgeqrl.errors import EdgeQRLError
        from edgeqrl.search.storage import shown_url
        from edgeqrl.search.study import num_finished

        count = 0
        with suppress(EdgeQRLError):
            count = num_finished(study)
        if not count:
            raise
        trials = "1 finished trial is" if count == 1 else f"{count:,} finished trials are"
        raise KeyboardInterrupt(
            f"Interrupted; {trials} kept in '{shown_url(study.storage)}'. Run the same command again, and "
            "the search goes on."
        ) from None
