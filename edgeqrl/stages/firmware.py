"""The stage `build`: firmware for a board."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from edgeqrl.bundle import Bundle
from edgeqrl.files import to_json_bytes
from edgeqrl.stages.artefacts import (
    FIRMWARE,
    PLACEMENT,
    REALTIME,
    control_period_of,
    drop_firmware,
    read_sources,
)
from edgeqrl.stages.contract import require_actuating
from edgeqrl.stages.conversion import require_bundle_fits
from edgeqrl.stages.settings import Progress, Settings, silent

if TYPE_CHECKING:
    from firmware_export.board import Board
    from firmware_export.build import Firmware


def add_firmware(
    bundle: Bundle, board: "Board", settings: Settings, *, progress: Progress = silent
) -> "Firmware":
    """Compile the sources for the board, refuse what does not fit, and keep ELF and images."""
    from firmware_export.images import firmware_images
    from firmware_export.realtime import realtime_sheet, realtime_text

    progress("build", 0, 0)
    require_actuating(bundle, settings)
    require_bundle_fits(bundle, board, settings.placement)
    firmware = compiled(bundle, board, settings.compiler, settings.placement)
    images = firmware_images(firmware, board)
    facts = {
        "name": firmware.name,
        "board": firmware.board,
        "start": firmware.start,
        "sizes": asdict(firmware.sizes),
        "compiler": firmware.compiler,
        "runs_from_ram": firmware.runs_from_ram,
        "placement": asdict(firmware.placement),
    }
    drop_firmware(bundle)
    sources = [path for path in bundle.artefacts if path.startswith("src/")]
    for suffix, data in images.items():
        bundle.add(f"firmware/{firmware.name}.{suffix}", data, made_from=sources)
    bundle.add(FIRMWARE, to_json_bytes(facts), made_from=[f"firmware/{firmware.name}.elf"])
    period = control_period_of(bundle)
    sheet = realtime_sheet(firmware, board, control_period_s=period)
    bundle.add(REALTIME, realtime_text(sheet).encode(), made_from=[f"firmware/{firmware.name}.elf"])
    bundle.facts["board"] = board.name
    bundle.facts[PLACEMENT] = dict(settings.placement)
    progress("build", 1, 1)
    return firmware


def compiled(
    bundle: Bundle, board: "Board", compiler: str | None, placement: Mapping[str, str]
) -> "Firmware":
    """Compile the sources for a board, by the compiler of this name or by the first that can."""
    from firmware_export.build import compile_firmware
    from firmware_export.toolchain import find_compiler

    return compile_firmware(
        read_sources(bundle),
        board,
        compiler=find_compiler(compiler, core=board.core),
        with_selftest=any(path.endswith("_golden.c") for path in bundle.artefacts),
        placement=placement,
    )
