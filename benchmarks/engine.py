"""Instructions, flash, RAM and stack of one inference of the test models, on each core with each compiler.

    python benchmarks/engine.py [--json | --page docs/benchmarks.md] [--core CORE ...] [--bits 8 4 3 2]
        [MODEL.tflite ...]

Instructions are not cycles. Sizes are of the whole firmware; on the Pico the image is copied to RAM.
A network that does not fit a core's board is left out there, and said. With --bits, the weights are cut to
so many bits before: what that costs does not depend on their values. --page writes the table of one number
of bits, or of several, at its place in the page.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from verdict_pages import fill_page

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.backends.emulated import bench_network
from edgeqrl.errors import BoardFitError
from edgeqrl.network.tflite_model import parse_tflite, replace_buffers
from firmware_export.toolchain import find_compilers

MODELS = Path(__file__).resolve().parent.parent / "tests" / "data"
WITH_WEIGHTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
COLUMNS = (
    ("weight_bits", "bits"),
    ("instructions", "instructions"),
    ("instructions_per_mac", "per MAC"),
    ("flash_bytes", "flash, B"),
    ("ram_bytes", "RAM, B"),
    ("stack_bytes", "stack, B"),
    ("measured_stack_bytes", "measured"),
    ("estimate_us", "us (est.)"),
)


def measure(paths: Sequence[Path], cores: Sequence[str], all_bits: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for path in paths:
        for core in cores:
            for compiler in find_compilers():
                if not compiler.builds_for(core):
                    continue
                for bits in all_bits:
                    try:
                        row = bench_network(cut(path.read_bytes(), bits), core, compiler=compiler.name)
                    except BoardFitError as error:
                        print(f"{path.stem}: {error}", file=sys.stderr)
                        continue
                    rows.append({"model": path.stem, "weight_bits": bits, **row})
    return rows


def cut(tflite: bytes, bits: int) -> bytes:
    """Return the network with all weights cut to the symmetric range of so many bits."""
    model, top = parse_tflite(tflite), 2 ** (bits - 1) - 1
    tensors = {op.inputs[1] for op in model.operators if op.name in WITH_WEIGHTS}
    weights = {i: np.clip(np.asarray(model.tensors[i].values()), -top, top).astype(np.int8) for i in tensors}
    return replace_buffers(tflite, {i: values.tobytes() for i, values in weights.items()})


def page_table(rows: Sequence[dict[str, Any]], command: str) -> str:
    """Return the rows in Markdown, those of all compilers in one line."""
    head = ("network", "core", "bits", "instructions", "per MAC", "flash, B", "RAM, B", "stack, B")
    lines = [head, ("---",) * len(head)]
    shown = ("", "")
    by_line: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        by_line.setdefault((row["model"], row["core"], row["weight_bits"]), []).append(row)
    for (model, core, bits), same in by_line.items():
        pairs = (
            " / ".join(f"{row[key]:,}" for row in same)
            for key in ("instructions", "instructions_per_mac", "flash_bytes", "ram_bytes", "stack_bytes")
        )
        named = (model if model != shown[0] else "", core if (model, core) != shown else "")
        lines.append((*named, str(bits), *pairs))
        shown = model, core
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    compilers = " / ".join(dict.fromkeys(row["compiler"] for row in rows))
    return f"*Made by `{command}` on {date.today()}; {compilers}.*\n\n{table}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, help="default: those of the tests")
    parser.add_argument(
        "--core",
        nargs="+",
        choices=EMULATED_CORES,
        default=[core for core in EMULATED_CORES if core != "cortex-m0"],
        help="default: all but the M0, as the M0+ runs the same code",
    )
    parser.add_argument("--bits", nargs="+", type=int, choices=(8, 4, 3, 2), default=[8], help="of weights")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--page", type=Path, help="a page with a place for the table")
    options = parser.parse_args()
    paths = options.models or sorted(MODELS.glob("[a-z]_*.tflite"))
    rows = measure(paths, options.core, options.bits)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    if options.page:
        marker = "engine" if len(options.bits) == 1 else "engine bits"
        fill_page(options.page, {marker: page_table(rows, f"python {' '.join(sys.argv)}")})
        return
    head = f"{'model':16} {'core':14} {'compiler':26}"
    print(head + "".join(f"{title:>13}" for _, title in COLUMNS))
    for row in rows:
        line = f"{row['model']:16} {row['core']:14} {row['compiler']:26}"
        print(line + "".join(f"{row[key]:>13,}" for key, _ in COLUMNS))


if __name__ == "__main__":
    main()
