"""The stages `build` and `emulate`: firmware for a board, and its run on an emulated core."""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.bundle import Bundle
from edgeqrl.emulate import DeviceRun, emulate
from edgeqrl.environments import MakeEnv
from edgeqrl.files import to_json_bytes
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.stages.artefacts import (
    FIRMWARE,
    FIRMWARE_SECTIONS,
    NUM_GOLDEN,
    drop_firmware,
    read_report,
    read_sources,
    write_report,
)
from edgeqrl.stages.conversion import require_backends_agree
from edgeqrl.stages.settings import Progress, Settings, silent

if TYPE_CHECKING:
    from firmware_export.board import Board
    from firmware_export.build import Firmware


def add_firmware(
    bundle: Bundle, board: "Board", settings: Settings, *, progress: Progress = silent
) -> "Firmware":
    """Compile the sources for the board, refuse what does not fit, and keep ELF and images."""
    from firmware_export.build import compile_firmware
    from firmware_export.flashers.uf2_volume import firmware_uf2
    from firmware_export.toolchain import find_compiler

    progress("build", 0, 0)
    firmware = compile_firmware(
        read_sources(bundle),
        board,
        compiler=find_compiler(settings.compiler),
        with_selftest=any(path.endswith("_golden.c") for path in bundle.artefacts),
    )
    images = {"elf": firmware.elf, "bin": firmware.bin}
    if board.uf2 is not None:
        images["uf2"] = firmware_uf2(firmware, board)
    facts = {
        "name": firmware.name,
        "board": firmware.board,
        "start": firmware.start,
        "sizes": asdict(firmware.sizes),
        "compiler": firmware.compiler,
        "runs_from_ram": firmware.runs_from_ram,
    }
    drop_firmware(bundle)
    sources = [path for path in bundle.artefacts if path.startswith("src/")]
    for suffix, data in images.items():
        bundle.add(f"firmware/{firmware.name}.{suffix}", data, made_from=sources)
    bundle.add(FIRMWARE, to_json_bytes(facts), made_from=[f"firmware/{firmware.name}.elf"])
    bundle.facts["board"] = board.name
    progress("build", 1, 1)
    return firmware


def add_emulation(
    bundle: Bundle,
    policy: IntegerPolicy,
    board: "Board",
    firmware: "Firmware",
    host: HostCPolicy,
    settings: Settings,
    *,
    make_env: MakeEnv | None,
    observations: NDArray[np.float32],
    progress: Progress = silent,
) -> DeviceRun | None:
    """Run the firmware's own ELF on the emulated core; count its instructions; compare with host C."""
    from edgeqrl.backends.emulated import EmulatedPolicy
    from firmware_export.fit import estimate_us, timing_model

    progress("emulate", 0, 0)
    with EmulatedPolicy(firmware, policy, board) as device:
        instructions = device.profile(observations[0]).instructions
        require_backends_agree(policy, device, observations[:NUM_GOLDEN])
        run = None
        if make_env is not None and settings.emulated_episodes > 0:
            first = settings.emulation_seed
            run = emulate(
                device,
                host,
                make_env,
                seeds=range(first, first + settings.emulated_episodes),
                instructions=instructions,
                progress=partial(progress, "emulate"),
            )
    sections: dict[str, Any] = {
        "firmware": {
            "board": board.name,
            "core": board.core,
            "compiler": firmware.compiler,
            **asdict(firmware.sizes),
            "flash_available_bytes": board.available_bytes("flash"),
            "ram_available_bytes": board.available_bytes("ram"),
            "instructions": instructions,
            "estimate": {
                "us": estimate_us(instructions, board),
                "model": timing_model(board).name,
                "clock_hz": board.clock_hz,
            },
        }
    }
    if run is not None:
        sections["emulation"] = run.to_json()
    kept = {name: found for name, found in read_report(bundle).items() if name not in FIRMWARE_SECTIONS}
    write_report(bundle, kept | sections)
    return run
