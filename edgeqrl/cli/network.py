"""Commands on an integer network: inspect it, compare backends, count instructions."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.cli.facts import print_facts, terminal_width, where_it_differs
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

    Where a backend differs, the first layer that does is named. The exit code is then 14; it is 10 where
    none differs and one cannot run the network.
    """
    from edgeqrl.cli.show import StageProgress, print_json, print_table

    names = [name.strip() for name in backends.split(",") if name.strip()]
    data = read_network(network)
    with StageProgress() as progress, naming(network):
        progress("compare", 0, 0)
        from edgeqrl.network.compare import compare as compare_backends

        found = compare_backends(data, names, samples=samples, seed=seed, progress=progress)
    report = found.to_json()
    if as_json:
        print_json(report)
    else:
        rows = [
            [name, "cannot run it", ""]
            if each["error"] is not None
            else [name, f"{each['differing']:,}", f"{each['max_difference']:,}"]
            for name, each in report["backends"].items()
        ]
        title = f"{report['samples']:,} samples, {report['outputs']:,} outputs, against {names[0]}"
        print_table(title, ["backend", "differing", "max difference"], rows, right=(1, 2))
        for name, each in report["backends"].items():
            for line in where_it_differs(name, names[0], each):
                click.echo(line)
    return found.exit_code


@click.command()
@click.argument("network", type=FILE)
@click.option(
    "--core",
    default="cortex-m4",
    show_default=True,
    help=f"One of {', '.join(EMULATED_CORES)}; m4 is short for cortex-m4.",
)
@click.option(
    "--compiler", metavar="NAME", help="zig (default), arm-none-eabi-gcc or riscv64-unknown-elf-gcc."
)
@click.option(
    "--optimize",
    default="O2",
    show_default=True,
    metavar="LEVEL",
    help="O1, O2, O3 or Os; firmware is built with O2, libraries of Arduino and PlatformIO with Os.",
)
@json_option
def bench(network: Path, core: str, compiler: str | None, optimize: str, as_json: bool) -> None:
    """Count instructions, flash, RAM and stack of one inference of NETWORK on a core.

    Integers in, integers out: the engine alone, without start-up, edges or device loop.
    """
    from edgeqrl.backends.bench import bench_network
    from edgeqrl.cli.show import print_json, print_table

    data = read_network(network)
    with naming(network):
        found: dict[str, Any] = bench_network(data, core, compiler=compiler, optimize=optimize)
    if as_json:
        print_json(found)
        return
    title = f"{network} on {found['core']}, built by {found['compiler']} with {optimize}"
    print_table(title, ["one inference", ""], _bench_rows(found), right=(1,))
    rows = _layer_rows(found, terminal_width())
    print_table("instructions by layer", ["layer", "MACs", "instructions"], rows, right=(1, 2))
    click.echo("Counted in an emulator; cycles are an estimate, by the model named. Code is all")
    click.echo("that was linked beside the params; what boots the emulator counts nowhere.")


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

    if svg is not None:
        _require_apart(svg, network)
    data = read_network(network)
    with naming(network):
        facts = facts_of(data)
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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Begin what is said of a file's content with its name."""
    from edgeqrl.errors import DataError, UnsupportedOperatorError
    from edgeqrl.stages import TFLITE

    try:
        yield
    except (DataError, UnsupportedOperatorError) as error:
        place = path / TFLITE if path.is_dir() else path
        said = str(error)
        is_of_it = said.startswith("This is ")
        raise type(error)(f"'{place}' {said[5:]}" if is_of_it else f"'{place}': {said}") from error


def _require_apart(svg: Path, network: Path) -> None:
    """Refuse to draw over the network."""
    from edgeqrl.errors import UsageError

    if str(svg) == "-":
        raise UsageError("The graph cannot go to standard output: give --svg a file, as in --svg net.svg.")
    place, source = (Path(os.path.realpath(path)) for path in (svg, network))
    is_same = source in (place, *place.parents)
    with suppress(OSError):  # one is not there
        is_same = is_same or svg.samefile(network)
    if is_same:
        raise UsageError(f"--svg {svg} would write into the network itself, {network}: choose another file.")


def _bench_rows(found: Mapping[str, Any]) -> list[list[str]]:
    flash = found["flash_bytes"]
    return [
        ["multiply-accumulates", f"{found['macs']:,}"],
        ["instructions", f"{found['instructions']:,}"],
        ["instructions a multiply-accumulate", f"{found['instructions_per_mac']:,}"],
        ["cycles, estimate", f"{found['cycles_estimate']:,}"],
        ["model of the estimate", found["cycles_model"]],
        ["flash: code + weights", f"{flash['code']:,} + {flash['weights']:,} = {flash['total']:,} B"],
        ["RAM, without stack", f"{found['ram_bytes']:,} B"],
        ["stack, bound / measured", f"{found['stack_bytes']:,} / {found['measured_stack_bytes']:,} B"],
    ]


def _layer_rows(found: Mapping[str, Any], width: int) -> list[list[str]]:
    from edgeqrl.picture import layer_name, shortened

    numbers = [(f"{layer['macs']:,}", f"{layer['instructions']:,}") for layer in found["layers"]]
    taken = max((len(macs) for macs, _ in numbers), default=0) + len("instructions")
    room = max(width - taken - 10, 16)
    rows = [
        [shortened(f"{layer['operator']} {layer_name(layer['name'])}", room), *cells]
        for layer, cells in zip(found["layers"], numbers, strict=True)
    ]
    return [*rows, ["copies and calls", "", f"{found['instructions_other']:,}"]]
