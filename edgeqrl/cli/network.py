"""Commands on an integer network: inspect it, compare backends, count instructions."""

from pathlib import Path
from typing import Any

import click

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.cli.facts import print_facts, where_it_differs
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
    """Run NETWORK, a .tflite file or a bundle, on several backends and compare every output.

    Where a backend differs, the first layer that does is named. The exit code is then 14.
    """
    from edgeqrl.cli.show import print_json, print_table
    from edgeqrl.errors import BackendsDiffer
    from edgeqrl.network.compare import compare as compare_backends

    names = [name.strip() for name in backends.split(",") if name.strip()]
    found = compare_backends(read_network(network), names, samples=samples, seed=seed)
    report = found.to_json()
    if as_json:
        print_json(report)
    else:
        rows = [
            [name, f"{each['differing']:,}", f"{each['max_difference']:,}"]
            for name, each in report["backends"].items()
        ]
        title = f"{report['samples']:,} samples, {report['outputs']:,} outputs, against {names[0]}"
        print_table(title, ["backend", "differing", "max difference"], rows, right=(1, 2))
        for name, each in report["backends"].items():
            for line in where_it_differs(name, names[0], each):
                click.echo(line)
    return 0 if found.is_equal else BackendsDiffer.exit_code


@click.command()
@click.argument("network", type=FILE)
@click.option("--core", default="cortex-m4", show_default=True, help=f"One of {', '.join(EMULATED_CORES)}.")
@click.option(
    "--compiler", metavar="NAME", help="zig (default), arm-none-eabi-gcc or riscv64-unknown-elf-gcc."
)
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


@click.command()
@click.argument("network", type=FILE)
@click.option("--svg", type=FILE, metavar="FILE", help="Draw the network as a graph, too.")
@json_option
def inspect(network: Path, svg: Path | None, as_json: bool) -> None:
    """Show the layers of NETWORK, a .tflite file or a bundle: shapes, scales, MACs and bytes.

    A network that edgeqrl cannot run is shown as far as it can be read, with the reason below.
    """
    from edgeqrl.cli.show import print_json
    from edgeqrl.errors import OutputError
    from edgeqrl.files import write_atomically
    from edgeqrl.inspect import inspect as facts_of
    from edgeqrl.picture import draw

    facts = facts_of(read_network(network))
    title = network.resolve().name
    if svg is not None:
        try:
            write_atomically(svg, draw(facts, title).encode())
        except OutputError as error:
            raise OutputError(str(error).replace("with -o", "with --svg")) from None
    if as_json:
        print_json(facts.to_json())
    else:
        print_facts(facts, title)
    if svg is not None:
        click.echo(f"The graph is in {svg}.", err=as_json)


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
