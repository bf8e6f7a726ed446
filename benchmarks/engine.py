"""Instructions, flash, RAM and stack of one inference of the test models, on each core with each compiler.

    python benchmarks/engine.py [--json] [MODEL.tflite ...]

Instructions are not cycles. Sizes are of the whole firmware; on the Pico the image is copied to RAM.
A network that does not fit a core's board is left out there, and said.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.backends.emulated import bench_network
from edgeqrl.errors import BoardFitError
from firmware_export.toolchain import find_compilers

MODELS = Path(__file__).resolve().parent.parent / "tests" / "data"
COLUMNS = (
    ("instructions", "instructions"),
    ("instructions_per_mac", "per MAC"),
    ("flash_bytes", "flash, B"),
    ("ram_bytes", "RAM, B"),
    ("stack_bytes", "stack, B"),
    ("measured_stack_bytes", "measured"),
    ("estimate_us", "us (est.)"),
)


def measure(paths: list[Path]) -> list[dict[str, Any]]:
    rows = []
    for path in paths:
        for core in EMULATED_CORES:
            for compiler in find_compilers():
                if not compiler.builds_for(core) or core == "cortex-m0":  # the M0+ runs the same code
                    continue
                try:
                    row = bench_network(path.read_bytes(), core, compiler=compiler.name)
                except BoardFitError as error:
                    print(f"{path.stem}: {error}", file=sys.stderr)
                    continue
                rows.append({"model": path.stem, **row})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, help="default: those of the tests")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = measure(options.models or sorted(MODELS.glob("[a-z]_*.tflite")))
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    head = f"{'model':16} {'core':14} {'compiler':26}"
    print(head + "".join(f"{title:>13}" for _, title in COLUMNS))
    for row in rows:
        line = f"{row['model']:16} {row['core']:14} {row['compiler']:26}"
        print(line + "".join(f"{row[key]:>13,}" for key, _ in COLUMNS))


if __name__ == "__main__":
    main()
