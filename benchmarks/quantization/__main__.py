"""Remake the tables of docs/quantization.md.

    python -m benchmarks.quantization [--case NAME ...] [--kept FILE] [--page docs/quantization.md] [--known]

Every finished row is written to --kept at once, and what that file has already is not measured again: a
stopped run goes on. --known measures nothing and makes the tables of what there is. --list names the cases.
Needs pip install 'edgeqrl[keras,firmware,box2d,mujoco,search]' MinAtar.
"""

import argparse
import json
import platform
import sys
import time
from datetime import date
from pathlib import Path

from benchmarks.quantization.cases import CASES, Job
from benchmarks.quantization.pages import tables
from benchmarks.quantization.subjects import Row, Subject
from benchmarks.verdict_pages import fill_page
from edgeqrl import __version__
from edgeqrl.quantize.tflite import Converter


def main() -> None:
    """Measure, then print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="by default all")
    parser.add_argument("--agent", action="append", help="only these, as zoo:NAME or pendulum")
    parser.add_argument("--kept", type=Path, help="rows measured so far")
    parser.add_argument("--page", type=Path, help="a page with places for the tables")
    parser.add_argument("--known", action="store_true", help="measure nothing")
    parser.add_argument("--list", action="store_true", help="name the cases")
    chosen = parser.parse_args()
    if chosen.list:
        for case in CASES.values():
            print(f"{case.name:18} {case.claim}")
        return
    rows: list[Row] = json.loads(chosen.kept.read_text()) if chosen.kept and chosen.kept.exists() else []
    if not chosen.known:
        jobs = [job for name in chosen.case or CASES for job in CASES[name].jobs()]
        jobs = [job for job in jobs if not chosen.agent or job.agent in chosen.agent]
        measure(jobs, rows, chosen.kept)
    made = (
        f"Made by `python -m benchmarks.quantization` on {date.today()}, edgeqrl {__version__}, "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}."
    )
    found = tables(rows, made)
    if chosen.page:
        fill_page(chosen.page, found)
    else:
        print("\n\n".join(found.values()))


def measure(jobs: list[Job], rows: list[Row], kept: Path | None) -> None:
    """Add a row for every job that has none."""
    known = {row["key"] for row in rows}
    subjects: dict[str, Subject] = {}
    with Converter() as converter:
        for number, job in enumerate(jobs):
            if job.key in known:
                continue
            started = time.monotonic()
            subject = subjects.setdefault(job.agent, Subject(job.agent))
            found = job.measure(subject, converter)
            row = {"key": job.key, "case": job.case, "agent": job.agent, "label": job.label, **found}
            rows.append(row)
            if kept:
                kept.write_text(json.dumps(rows, indent=1))
            told = row.get("gained", row.get("verdict"))
            print(
                f"[{number + 1}/{len(jobs)}] {job.key}: {told} in {time.monotonic() - started:.0f} s",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
