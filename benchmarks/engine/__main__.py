"""Instructions, flash, RAM and stack of one inference of six networks, on each core with each compiler.

    python -m benchmarks.engine [--page docs/benchmarks.md] [--plot docs/images/engine.svg]
        [--not-yet] [--kept FILE] [--known] [--model a ...] [--core CORE ...] [--optimize O2 Os]
        [--bits 8 4 3 2]

Integers in, integers out; sizes are of the same build as the count. Instructions are not cycles. With
--bits, the weights are cut to so many bits before, and the page's table of bits is made instead of the
others. Every row is written to --kept at once: a stopped run goes on. --known measures nothing. Other
engines' numbers are recorded, in rivals.toml; targets.toml has what is aimed at.
"""

import argparse
import json
import platform
import sys
from datetime import date
from pathlib import Path

from benchmarks.engine.gate import NOT_YET, missed
from benchmarks.engine.measure import CORES, LEVELS, Row, measure, model_files
from benchmarks.engine.pages import bits_table, tables
from benchmarks.engine.plot import draw
from benchmarks.engine.recorded import targets
from benchmarks.verdict_pages import fill_page
from firmware_export.bare_image import OPTIMIZATIONS
from firmware_export.toolchain import COMPILER_NAMES


def main() -> None:
    """Measure, then print or write tables and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=list(model_files()), default=list(model_files()))
    parser.add_argument("--core", nargs="+", choices=CORES, default=CORES)
    parser.add_argument("--optimize", nargs="+", choices=OPTIMIZATIONS, default=LEVELS)
    parser.add_argument("--compiler", nargs="+", choices=COMPILER_NAMES, default=COMPILER_NAMES)
    parser.add_argument("--bits", nargs="+", type=int, choices=(8, 4, 3, 2), default=[8], help="of weights")
    parser.add_argument("--kept", type=Path, help="rows measured so far")
    parser.add_argument("--known", action="store_true", help="measure nothing")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--page", type=Path, help="a page with places for the tables")
    parser.add_argument("--plot", type=Path, help="the SVG of the README")
    parser.add_argument(
        "--not-yet", action="store_true", help="measure the gate's build, write what it misses"
    )
    chosen = parser.parse_args()
    if chosen.not_yet:
        chosen.optimize, chosen.compiler, chosen.bits = [targets()["optimize"]], [targets()["compiler"]], [8]
    if chosen.known:
        rows: list[Row] = json.loads(chosen.kept.read_text()) if chosen.kept else []
    else:
        what = chosen.model, chosen.core, chosen.optimize, chosen.bits, chosen.kept, chosen.compiler
        rows = measure(*what)
    if chosen.json:
        print(json.dumps(rows, indent=1))
        return
    if chosen.not_yet:
        NOT_YET.write_text(missed(rows))
        return
    compilers = ", ".join(dict.fromkeys(row["compiler"] for row in rows))
    options = ("model", "core", "compiler", "optimize", "bits")
    given = [f"--{name} {' '.join(map(str, getattr(chosen, name)))}" for name in options]
    given = [words for words in given if words.split()[0] in sys.argv]
    command = " ".join(["python -m benchmarks.engine", *given])
    made = f"*Made by `{command}` on {date.today()}, {platform.system()} {platform.machine()}; {compilers}.*"
    found = tables(rows, made) if chosen.bits == [8] else bits_table(rows, made)
    if chosen.page:
        fill_page(chosen.page, found)
    else:
        print("\n\n".join(found.values()))
    if chosen.plot:
        chosen.plot.write_text(draw(rows))


if __name__ == "__main__":
    main()
