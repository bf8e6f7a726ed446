"""The stages of `convert`, each alone: every one reads a bundle and adds to it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeqrl.cli.convert import exit_code_of, settings_from
from edgeqrl.cli.options import (
    FILE,
    FOLDER,
    agent_options,
    board_option,
    calibration_options,
    contract_options,
    environment_for,
    environment_from,
    environment_options,
    int4_option,
    json_option,
    output_option,
    place_option,
    scheme_options,
    source_options,
    unpacked_option,
    validation_options,
)
from edgeqrl.cli.search_options import choosing_options, require_return

bundle_argument = click.argument("bundle", type=FOLDER)


@click.command()
@click.argument("agent")
@environment_options
@output_option
@agent_options
@calibration_options
@json_option
def calibrate(agent: str, output: Path, as_json: bool, **options: Any) -> None:
    """Roll AGENT out, and begin a bundle with the observations that it met."""
    with _progress() as progress:
        progress("load", 0, 0)
        from edgeqrl import pipeline, stages
        from edgeqrl.bundle import new_bundle
        from edgeqrl.stages.ledger import earlier_facts

        source = pipeline.Source(agent, environment_for(agent, options), **source_options(options))
        with new_bundle(output, earlier_facts(output)) as bundle:
            pipeline.begin(bundle, source, settings_from(options), progress=progress)
            found = stages.read_calibration(bundle)
            known = bundle.fact("calibration")
    origin = f"{len(found.seeds)} episodes" if found.seeds else f"'{found.source}'"
    warning = (known["check"] or {}).get("warning")
    _tell(
        as_json,
        {**known, "episode_returns": list(found.episode_returns)},
        f"{len(found)} of {found.num_rolled_out} observations from {origin} are in {output}."
        + (" " if warning is None else f"\nWarning: {warning}\n")
        + f"Next: edgeqrl quantize {output}",
    )


@click.command()
@bundle_argument
@environment_options
@scheme_options
@int4_option
@choosing_options
@click.option(
    "--board",
    metavar="BOARD",
    help="Whose budget --scheme auto keeps.  [default: the one that BUNDLE was last built for]",
)
@click.option("--trust", is_flag=True, help="Load a SavedModel with any operator: it may run code.")
@json_option
def quantize(bundle: Path, board: str | None, as_json: bool, **options: Any) -> None:
    """Convert the agent of BUNDLE to a full-integer .tflite on its calibration set."""
    with _progress() as progress:
        progress("load", 0, 0)
        from edgeqrl import pipeline
        from edgeqrl.bundle import edit_bundle
        from edgeqrl.quantize.tflite import Converter

        with Converter() as converter, edit_bundle(bundle) as edited:
            settings = settings_from(options)
            make_env = require_return(_make_env(edited, options), settings)
            agent = pipeline.reload_agent(edited, make_env, trust=options["trust"])
            progress("load", 1, 1)
            found = pipeline.quantize_bundle(
                edited,
                agent,
                make_env,
                settings,
                board=board,
                converter=converter,
                progress=progress,
            )
    facts = {
        "tflite_bytes": len(found.tflite),
        "scheme": found.scheme.to_json(),
        "applied_rewrites": list(found.applied_rewrites),
    }
    size = f"policy.tflite has {len(found.tflite):,} bytes ({found.scheme})"
    _tell(as_json, facts, f"{size}. Next: edgeqrl validate {bundle}")


@click.command()
@bundle_argument
@environment_options
@validation_options
@click.option("--backend", default="host-c", show_default=True, help="Backend of the quantized policy.")
@click.option(
    "--float-backend",
    metavar="NAME",
    help="litert, without TensorFlow; or keras.  [default: that of the last judgement]",
)
@click.option(
    "--port", metavar="URL", help="Of --backend device: /dev/ttyACM0, COM3, a pty, socket://HOST:PORT."
)
@click.option("--baud", type=int, metavar="N", help="Of --port; default: that of the board's firmware.")
@click.option("--trust", is_flag=True, help="Load a SavedModel with any operator: it may run code.")
@json_option
def validate(
    bundle: Path,
    backend: str,
    float_backend: str | None,
    port: str | None,
    baud: int | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Play the float and the quantized policy of BUNDLE on the same seeds; needs no TensorFlow.

    --backend device plays the quantized side on the device at --port, which runs the bundle's firmware, and
    compares every action with the C on this host.
    """
    from edgeqrl.backends import NETWORK_BACKENDS
    from edgeqrl.cli.show import print_conversion, print_json
    from edgeqrl.errors import UsageError, require_name

    is_device = require_name("backend", backend, ("device", *NETWORK_BACKENDS)) == "device"
    if not is_device and (port, baud) != (None, None):
        raise UsageError("--port and --baud go with --backend device.")
    with _progress() as progress:
        progress("validate", 0, 0)
        from edgeqrl import device_loop, pipeline
        from edgeqrl.bundle import edit_bundle

        stated = environment_from(options)
        with edit_bundle(bundle) as edited:
            asked: dict[str, Any] = {
                "float_backend": float_backend,
                "trust": options["trust"],
                "stated": None if stated is None else stated.to_json(),
                "progress": progress,
            }
            make_env, settings = _make_env(edited, options), settings_from(options)
            if is_device:
                where = device_loop.find_port(edited) if port is None else port
                report = device_loop.validate_on_device(edited, make_env, where, settings, baud=baud, **asked)
            else:
                report = pipeline.validate_bundle(edited, make_env, backend, settings, **asked)
    if as_json:
        print_json(report)
    else:
        print_conversion(f"{bundle} on {backend}", report, str(bundle), ["report.json"])
    return exit_code_of(report.get("verdict"))


@click.command()
@click.argument("bundle", type=FILE, metavar="BUNDLE|NETWORK.tflite")
@click.option("--no-self-test", is_flag=True, help="Leave golden vectors and self-test out of the sources.")
@click.option(
    "-o", "--output", type=FILE, metavar="DIR", help="Of a .tflite network: folder for the sources."
)
@click.option(
    "--name", metavar="NAME", help="Of a .tflite network: prefix of the C symbols; default: its file's."
)
@unpacked_option
@click.option(
    "--params-of",
    type=FILE,
    metavar="BIN",
    help="NAME_params.bin of an earlier export: make params that its code takes, or say why that cannot be.",
)
@click.option(
    "--board",
    metavar="BOARD",
    help="Whose core the order of the weights is for; any core runs it.  [default: of a bundle, the last one "
    "that it was built for; else none: plain rows]",
)
@contract_options
@json_option
def export(
    bundle: Path, as_json: bool, output: Path | None, name: str | None, board: str | None, **options: Any
) -> None:
    """Write the C99 sources of BUNDLE, or of any fully-integer .tflite network to -o DIR."""
    from edgeqrl import pipeline, stages
    from edgeqrl.bundle import edit_bundle
    from edgeqrl.errors import DataError, UsageError

    if bundle.is_dir():
        if output is not None or name is not None:
            raise UsageError("-o and --name go with a .tflite file; the sources of a bundle stay in it.")
        with edit_bundle(bundle) as edited:
            quantized = stages.read_quantized(edited)
            settings = settings_from(options)
            policy = quantized.integer_policy(is_masked=edited.fact("is_masked"))
            sources = stages.add_sources(
                edited,
                stages.state_packing(edited, policy, settings, pipeline.board_of(edited, board)),
                quantized.tflite,
                stages.read_calibration(edited),
                settings,
            )
        target, following = bundle, f" Next: edgeqrl build {bundle} --board {board or 'BOARD'}"
    else:
        if bundle.suffix != ".tflite":
            raise DataError(f"'{bundle}' is neither a bundle nor a .tflite file.")
        if output is None:
            raise UsageError(f"Say with -o DIR where the sources of '{bundle}' go.")
        if settings_from(options).contract:
            raise UsageError(
                "A bare network has no contract: leave out --contract, --control-period, --fail-safe."
            )
        for_board = None if board is None else pipeline.open_board(board)
        sources = stages.export_network_file(bundle, output, name, settings_from(options), for_board)
        target, following = output, ""
    sizes = {path: len(data) for path, data in sorted(sources.items())}
    text = f"{len(sources)} files are in {target / 'src'}; its README.txt says how to call them.{following}"
    _tell(as_json, {"files": sizes}, text)


@click.command()
@bundle_argument
@click.option("--board", metavar="BOARD", required=True, help="Name, or a .toml file.")
@click.option(
    "--compiler",
    metavar="NAME",
    help="zig (default); also arm-none-eabi-gcc for Cortex-M, riscv64-unknown-elf-gcc for RISC-V.",
)
@contract_options
@place_option
@json_option
def build(bundle: Path, board: str, as_json: bool, **options: Any) -> None:
    """Compile the sources of BUNDLE for a board: firmware, or what runs under Linux."""
    with _progress() as progress:
        from edgeqrl import pipeline, stages
        from edgeqrl.bundle import edit_bundle
        from edgeqrl.cli.linux_view import built_text
        from edgeqrl.stages.packing import read_order
        from firmware_export.build import Firmware
        from firmware_export.realtime import realtime_sentence, realtime_sheet, stack_sentence

        with edit_bundle(bundle) as edited:
            target = pipeline.open_board(board)
            order_before = read_order(edited)
            built = stages.build_target(edited, target, settings_from(options), progress=progress)
            order, period = read_order(edited), stages.control_period_of(edited)
        reordered = ""
        if order != order_before:
            reordered = f"{bundle / 'src'} was exported again, with weights in the order `{order}`.\n"
        if not isinstance(built, Firmware):
            facts, text = built_text(bundle, target, built)
            _tell(as_json, {**facts, "order": order}, reordered + text)
            return
        firmware = built
        sheet = realtime_sheet(firmware, target, control_period_s=period)
    facts = {"board": target.name, "compiler": firmware.compiler, "order": order, **asdict(firmware.sizes)}
    facts |= {name: sheet[name] for name in ("regions", "placement")} | {"realtime": sheet}
    _tell(
        as_json,
        facts,
        f"{reordered}{bundle / 'firmware'} for {target.name} by {firmware.compiler}: "
        f"{', '.join(_region_text(use) for use in sheet['regions'])}.\n"
        f"{stack_sentence(sheet)}\n"
        f"{bundle / 'firmware' / 'realtime.md'}: {realtime_sentence(sheet)}\n"
        f"Next: edgeqrl emulate {bundle}",
    )


@click.command()
@bundle_argument
@environment_options
@board_option
@click.option("--episodes", type=int, default=3, show_default=True, help="Episodes in the loop.")
@click.option(
    "--engine",
    metavar="NAME",
    help="unicorn: the step in the flashed ELF; qemu, rp2040js: the booted image.  [default: unicorn, or "
    "qemu where unicorn lacks the core]",
)
@json_option
def emulate(
    bundle: Path, board: str | None, episodes: int, engine: str | None, as_json: bool, **options: Any
) -> None:
    """Play the firmware of BUNDLE in an emulator, and compare it with the C on this host."""
    with _progress() as progress:
        progress("emulate", 0, 0)
        from edgeqrl.bundle import edit_bundle
        from edgeqrl.deployment import emulate_bundle
        from firmware_export.realtime import realtime_sentence

        with edit_bundle(bundle) as edited:
            report = emulate_bundle(
                edited, _make_env(edited, options), episodes, board=board, engine=engine, progress=progress
            )
    run, lines = report.get("emulation"), []
    if "firmware" in report:
        lines.append(f"On {report['firmware']['core']}: {realtime_sentence(report['realtime'])}")
    if run is not None:
        lines.append(f"Level {run['level']}: {run['ran']}.")
        played = f"{run['episodes']} episodes, {run['num_steps']:,} steps on {run['backend']}"
        lines.append(f"{played}: identical to host-c.")
    _tell(as_json, report, "\n".join(lines) or "Its answers are those of host-c.")


def _region_text(use: Mapping[str, Any]) -> str:
    """Say how full a region is; the stack lies in `ram`."""
    used = use["bytes"] + use["stack_bytes"]
    name = {"ram": "RAM"}.get(use["name"], use["name"])
    stack = " (stack included)" if use["stack_bytes"] else ""
    return f"{used:,} of {use['available_bytes']:,} B of {name}{stack}"


def _tell(as_json: bool, facts: Mapping[str, Any], sentence: str) -> None:
    from edgeqrl.cli.show import print_json

    if as_json:
        print_json(facts)
    else:
        click.echo(sentence)


@contextmanager
def _progress() -> Iterator[Any]:
    from edgeqrl.cli.show import StageProgress

    with StageProgress() as progress:
        yield progress


def _make_env(bundle: Any, options: dict[str, Any]) -> Any:
    """Return make_env from the command line, else from the manifest, else None."""
    from edgeqrl.pipeline import environment_of

    stated = environment_from(options)
    found = stated or environment_of(bundle)
    return None if found is None else found.make
