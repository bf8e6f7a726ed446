"""How long `edgeqrl --help` takes: the median of ten runs, each in its own process.

python benchmarks/startup.py [--json]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

RUNS = 10
TARGET_S = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "edgeqrl", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    result = {"median_s": round(statistics.median(seconds), 3), "runs": RUNS, "target_s": TARGET_S}
    print(json.dumps(result) if as_json else f"edgeqrl --help: {result['median_s']} s, target {TARGET_S} s")


if __name__ == "__main__":
    main()
