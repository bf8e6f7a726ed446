"""`edgeqrl convert`: the main job."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from edgeqrl.cli.options import (
    agent_options,
    board_option,
    calibration_options,
    contract_from,
    contract_options,
    environment_for,
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
from edgeqrl.cli.search_options import choosing_options, require_none, require_return, search_from
from edgeqrl.errors import DataError, UsageError

_RESULTS = ("policy.tflite", "src/", "firmware/", "raspberry/", "golden.npz", "report.json", "manifest.json")


@click.command()
@click.argument("agent")
@environment_options
@board_option
@contract_options
@output_option
@agent_options
@calibration_options
@scheme_options
@choosing_options
@validation_options
@click.option(
    "--emulated-episodes", type=int, default=3, show_default=True, help="Episodes on the emulated core."
)
@click.option("--no-self-test", is_flag=True, help="Leave the boot self-test out of the firmware.")
@int4_option
@unpacked_option
@click.option(
    "--compiler",
    metavar="NAME",
    help="zig (default); also arm-none-eabi-gcc for Cortex-M, riscv64-unknown-elf-gcc for RISC-V.",
)
@place_option
@json_option
def convert(agent: str, board: str | None, output: Path, as_json: bool, **options: Any) -> int:
    """Calibrate, quantize, validate, export, build and emulate AGENT.

    AGENT is a .keras or .h5 file, a SavedModel folder, a .zip of Stable-Baselines3, a .pt state dict of
    PyTorch, or zoo:NAME.
    """
    from edgeqrl.cli.show import StageProgress, print_conversion, print_json

    with StageProgress() as progress:
        progress("load", 0, 0)
        from edgeqrl import pipeline

        settings = settings_from(options)
        environment = require_return(environment_for(agent, options), settings)
        conversion = pipeline.convert(
            agent,
            environment,
            board=board,
            output=output,
            **source_options(options),
            settings=settings,
            progress=progress,
        )
    if as_json:
        print_json(conversion.report)
    else:
        title = f"{agent} in {environment.env_id}" if environment else f"{agent} on recorded observations"
        files = [name for name in _RESULTS if (conversion.folder / name).exists()]
        print_conversion(title, conversion.report, str(conversion.folder), files)
    return exit_code_of(conversion.verdict)


def settings_from(options: dict[str, Any]) -> Any:
    """Return the Settings that the options say; options that a command lacks keep their defaults."""
    from edgeqrl.stages import Settings
    from edgeqrl.validate.terms import Declared
    from firmware_export.placement import parse_placement

    same_name = (
        "calibration_episodes",
        "calibration_states",
        "calibration_seed",
        "episodes",
        "validation_seed",
        "emulated_episodes",
        "compiler",
    )
    chosen = {name: options[name] for name in same_name if name in options}
    declared = [field.name for field in fields(Declared)]
    if set(declared) <= set(options):
        switched_off = {name for name in ("max_failures", "max_chatter") if options[name] == "none"}
        stated: dict[str, Any] = {name: options[name] for name in declared} | dict.fromkeys(switched_off)
        chosen["declared"] = Declared(**stated)
    if options.get("calibration") is not None and source_options(options)["observations"] is None:
        chosen["calibration_source"] = options["calibration"]
    chosen |= _scheme_from(options)
    chosen |= _learning_from(options, chosen)
    if options.get("no_self_test"):
        chosen["with_self_test"] = False
    chosen["stores_int4"] = options.get("int4", False)
    chosen["is_unpacked"] = options.get("unpacked", False)
    if options.get("params_of") is not None:
        chosen["params_of"] = read_params_file(options["params_of"])
    if options.get("place"):
        chosen["placement"] = parse_placement(options["place"])
    if "fail_safe" in options:
        chosen["contract"] = contract_from(options)
    return Settings(**chosen)


def _scheme_from(options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that --scheme, --set and --no-rewrites say."""
    from edgeqrl.quantize.scheme import AUTO, require_scheme

    if options.get("no_rewrites") and options.get("scheme"):
        raise UsageError("--no-rewrites is --scheme int8-bare: give one of them.")
    name = "int8-bare" if options.get("no_rewrites") else options.get("scheme")
    parts = options.get("scheme_parts", ())
    if name == AUTO:
        if parts:
            raise UsageError("--set goes with a scheme that is named: auto chooses every part.")
        return {"search": search_from(options)}
    if name is None and "trials" in options:  # it searches
        return {}
    require_none(options)
    if name is None and not parts:
        return {}
    return {"scheme": require_scheme(name or "int8").with_parts(parts)}


def _learning_from(options: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that --learn-... say.

    Raises UsageError where nothing learns by the `chosen` settings.
    """
    names = ("rounds", "steps", "checkpoint")
    stated = {name: options[f"learn_{name}"] for name in names if options.get(f"learn_{name}") is not None}
    if not stated:
        return {}
    from edgeqrl.quantize.learned import Learning

    search, scheme = chosen.get("search"), chosen.get("scheme")
    if not (search.learning if search is not None else scheme is not None and scheme.learned):
        raise UsageError(
            f"--learn-{next(iter(stated))} goes with a scheme that learns: add --set learned=true, or "
            "have one chosen by --scheme auto, without --no-learning."
        )
    return {"learning": Learning(**stated)}


def read_params_file(path: Path) -> bytes:
    """Return the bytes of a params blob."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read '{path}': {error.strerror}.") from error


def exit_code_of(verdict: str | None) -> int:
    """Return the documented exit code of a verdict; 0 where there is none to give."""
    from edgeqrl.errors import NothingToPreserve, VerdictFailed, VerdictInconclusive

    codes = {
        "FAIL": VerdictFailed.exit_code,
        "INCONCLUSIVE": VerdictInconclusive.exit_code,
        "NOTHING_TO_PRESERVE": NothingToPreserve.exit_code,
    }
    return codes.get(verdict or "", 0)
