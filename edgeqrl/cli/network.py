"""Commands on an integer network: compare backends, count instructions."""

from pathlib import Path
from typing import Any

import click

from edgeqrl.cli.options import FILE, json_option


@click.command()
@click.argument("network", type=FILE)
@click.option(
    "--backends", default="reference,host-c", show_default=True, help="Names; the first is the measure."
)
@click.option("--samples", type=int, default=1000, show_default=True, help="Random inputs and extremes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the inputs.")
@json_option
def compare(network: Path, backends: str, samples: int, seed: int, as_json: bool) -> int:
    """Run NETWORK, a .tflite file or a bundle, on several backends and compare every output."""
    from edgeqrl.cli.show import print_json, print_table
    from edgeqrl.network.compare import compare as compare_backends

    names = [name.strip() for name in backends.split(",") if name.strip()]
    report = compare_backends(read_network(network), names, samples=samples, seed=seed).to_json()
    if as_json:
        print_json(report)
    else:
        rows = [
            [name, f"{found['differing']:,}", str(found["max_difference"])]
            for name, found in report["backends"].items()
        ]
        title = f"{report['samples']:,} samples, {report['outputs']:,} outputs, against {names[0]}"
        print_table(title, ["backend", "differing", "max difference"], rows, right=(1, 2))
    from edgeqrl.errors import BackendsDiffer

    differs = any(found["differing"] for found in report["backends"].values())
    return BackendsDiffer.exit_code if differs else 0


@click.command()
@click.argument("network", type=FILE)
@click.option("--core", default="cortex-m4", show_default=True, help="cortex-m0plus or cortex-m4.")
@click.option("--compiler", metavar="NAME", help="zig (default) or arm-none-eabi-gcc.")
@json_option
def bench(network: Path, core: str, compiler: str | None, as_json: bool) -> None:
    """Count instructions, flash, RAM and stack of one inference of NETWORK on a core."""
    from edgeqrl.backends.emulated import bench_network
    from edgeqrl.cli.show import print_json, print_table

    found: dict[str, Any] = bench_network(read_network(network), core, compiler=compiler)
    if as_json:
        print_json(found)
        return
    rows = [[name, f"{value:,}" if isinstance(value, int) else str(value)] for name, value in found.items()]
    print_table(f"{network} on {core}", ["", "one inference"], rows, right=(1,))


def read_network(path: Path) -> bytes:
    """Return the `.tflite` of a file or of a bundle."""
    from edgeqrl.bundle import open_bundle
    from edgeqrl.errors import DataError
    from edgeqrl.stages import TFLITE

    if path.is_dir():
        return open_bundle(path).read(TFLITE)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read '{path}': {error.strerror}.") from error
