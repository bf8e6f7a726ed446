"""The folder of a search: what was found, the plot, and beside them study and bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeqrl.errors import OutputError
from edgeqrl.files import to_json_bytes, write_atomically, writing
from edgeqrl.search.options import StudyOptions
from edgeqrl.search.plot import pareto_svg
from edgeqrl.search.storage import open_study

RESULT, PLOT = "search.json", "pareto.svg"
SCHEMA = "edgeqrl-search-1"


def prepare(folder: Path, study: StudyOptions) -> None:
    """Make the folder, and open the study: before minutes are spent.

    Raises OutputError where the folder cannot be made or is a bundle, UsageError where the storage fails.
    """
    if (folder / "manifest.json").exists():
        raise OutputError(
            f"'{folder}' is a bundle, and a search keeps its study beside the bundle that it makes. Choose "
            "another place with -o."
        )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    open_study(study.storage, study.name)


def write_results(folder: Path, choice: Mapping[str, Any], title: str) -> None:
    """Write the section `choice` of the report as search.json, and the Pareto plot."""
    write_atomically(folder / RESULT, to_json_bytes({"schema": SCHEMA, **choice}))
    write_atomically(folder / PLOT, pareto_svg(choice, title).encode())
