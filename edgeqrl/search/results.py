"""The folder of a search: what was found, the plot, and beside them study and bundle."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgeqrl.errors import EdgeQRLError, OutputError
from edgeqrl.files import to_json_bytes, write_atomically, writing
from edgeqrl.search.options import StudyOptions
from edgeqrl.search.plot import pareto_svg
from edgeqrl.search.storage import open_study
from edgeqrl.search.study import is_begun, num_finished

RESULT, PLOT = "search.json", "pareto.svg"
SCHEMA = "edgeqrl-search-1"


@contextmanager
def prepared(folder: Path, study: StudyOptions, file: Path | None) -> Iterator[int]:
    """Make the folder, and open the study: before minutes are spent; yield how many trials it has finished.

    What was made is removed where the block raises before any trial has begun.

    file  of the study, where it lies in the folder

    Raises OutputError where the folder cannot be made or is a bundle, and what `storage_errors` raises.
    """
    if (folder / "manifest.json").exists():
        raise OutputError(
            f"'{folder}' is a bundle, and a search keeps its study beside the bundle that it makes. Choose "
            "another place with -o."
        )
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    is_new = file is not None and not file.exists()
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        yield num_finished(study)
    except BaseException:
        if is_new and file is not None and not _has_begun(study, file):
            for path in file.parent.glob(f"{file.name}*"):  # its journal, too
                path.unlink(missing_ok=True)
        with suppress(OSError):  # where it is not empty
            for place in missing:
                place.rmdir()
        raise


def _has_begun(study: StudyOptions, file: Path) -> bool:
    """Tell whether the study has a trial that is worth keeping; where it cannot be read, assume so."""
    if not file.exists():
        return False
    try:
        return is_begun(open_study(study.storage, study.name))
    except EdgeQRLError:
        return True


def write_results(folder: Path, choice: Mapping[str, Any], title: str) -> None:
    """Write the section `choice` of the report as search.json, and the Pareto plot."""
    write_atomically(folder / RESULT, to_json_bytes({"schema": SCHEMA, **choice}))
    write_atomically(folder / PLOT, pareto_svg(choice, title).encode())
