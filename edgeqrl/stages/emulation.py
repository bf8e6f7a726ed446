"""The stage `emulate`: what was built for a board, run in an emulator beside the C on this host."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.bundle import Bundle
from edgeqrl.data import data_folder
from edgeqrl.emulate import DeviceRun, emulate
from edgeqrl.environments import MakeEnv
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.stages.artefacts import (
    FIRMWARE_SECTIONS,
    NUM_GOLDEN,
    REALTIME,
    TFLITE,
    control_period_of,
    read_report,
    read_sources,
    write_report,
)
from edgeqrl.stages.conversion import require_backends_agree
from edgeqrl.stages.firmware import compiled
from edgeqrl.stages.settings import Progress, Settings, silent

if TYPE_CHECKING:
    from edgeqrl.backends.device import DevicePolicy
    from edgeqrl.backends.emulated import EmulatedPolicy
    from firmware_export.board import Board
    from firmware_export.build import Firmware
    from firmware_export.device.client import Device
    from firmware_export.emulators.plan import EmulationPlan


def add_emulation(
    bundle: Bundle,
    policy: IntegerPolicy,
    board: "Board",
    host: HostCPolicy,
    settings: Settings,
    *,
    make_env: MakeEnv | None,
    observations: NDArray[np.float32],
    firmware: "Firmware | None" = None,
    engine: str | None = None,
    progress: Progress = silent,
) -> DeviceRun | None:
    """Run what was built for the board in an emulator (see `plan_emulation`) and compare it with host C.

    `firmware` is None for Linux; the instructions of a step are counted in its very ELF.
    """
    from firmware_export.device.client import Device
    from firmware_export.emulators.memory_link import MemoryLink
    from firmware_export.emulators.plan import plan_emulation

    plan = plan_emulation(board, engine)
    progress("emulate", 0, 0)
    run = None
    replaced: tuple[str, ...] = ("emulation",)
    sections: dict[str, Any] = {}
    with ExitStack() as stack:
        device: Any = None
        if firmware is not None:
            replaced = FIRMWARE_SECTIONS
            counted, sections = _counted(bundle, policy, board, firmware, observations)
            device = stack.enter_context(counted)
        if plan.boots:
            device = stack.enter_context(_booted(bundle, policy, board, firmware, plan))
            rows = _self_tested(device.device)
        else:
            rows = _self_tested(Device(MemoryLink(device.emulated), f"the emulated {device.name}"))
        require_backends_agree(policy, device, observations[:NUM_GOLDEN])
        if make_env is not None and settings.emulated_episodes > 0:
            first = settings.emulation_seed
            run = emulate(
                device,
                host,
                make_env,
                seeds=range(first, first + settings.emulated_episodes),
                plan=plan,
                self_test_rows=rows,
                progress=partial(progress, "emulate"),
            )
    if run is not None:
        sections["emulation"] = run.to_json()
    kept = {name: found for name, found in read_report(bundle).items() if name not in replaced}
    write_report(bundle, kept | sections)
    return run


def _counted(
    bundle: Bundle,
    policy: IntegerPolicy,
    board: "Board",
    firmware: "Firmware",
    observations: NDArray[np.float32],
) -> tuple["EmulatedPolicy", dict[str, Any]]:
    """Return the policy in the very ELF on its emulated core, and the report's sections of what it takes."""
    from edgeqrl.backends.emulated import EmulatedPolicy
    from firmware_export.emit.arena import plan_arena
    from firmware_export.fit import estimate_us, require_in_time, timing_model
    from firmware_export.realtime import count_steps, realtime_sheet, realtime_text

    period, in_ram = control_period_of(bundle), firmware.runs_from_ram
    device = EmulatedPolicy(firmware, policy, board)
    try:
        count = count_steps([device.profile(row) for row in observations[[0, -1]]])
        require_in_time(count.instructions, board, period, runs_from_ram=in_ram)
    except BaseException:
        device.close()
        raise
    sections = {
        "firmware": {
            "board": board.name,
            "core": board.core,
            "compiler": firmware.compiler,
            **asdict(firmware.sizes),
            "flash_available_bytes": board.available_bytes("flash"),
            "ram_available_bytes": board.available_bytes("ram"),
            "instructions": count.instructions,
            "estimate": {
                "us": estimate_us(count.instructions, board, runs_from_ram=in_ram),
                "model": timing_model(board, runs_from_ram=in_ram).name,
                "clock_hz": board.clock_hz,
            },
        },
        "realtime": realtime_sheet(
            firmware,
            board,
            arena_bytes=plan_arena(policy.network).total_bytes,
            control_period_s=period,
            count=count,
        ),
    }
    text = realtime_text(sections["realtime"])
    bundle.add(REALTIME, text.encode(), made_from=[f"firmware/{firmware.name}.elf"])
    return device, sections


def _self_tested(device: "Device") -> int:
    """Let the device run its boot self-test and return its rows, 0 for none; DeviceError where it fails."""
    if not device.facts.has_selftest:
        return 0
    rows = device.selftest().rows
    device.reset()
    return rows


@contextmanager
def _booted(
    bundle: Bundle,
    policy: IntegerPolicy,
    board: "Board",
    firmware: "Firmware | None",
    plan: "EmulationPlan",
) -> Iterator["DevicePolicy"]:
    """Start what was built, or its twin, and greet it over its UART or pipes."""
    from edgeqrl.backends.device import DevicePolicy
    from firmware_export.contract import CONTRACT_FILE

    hashes = {
        "model_sha256": bytes.fromhex(bundle.sha256_of(TFLITE)),
        "contract_sha256": bytes.fromhex(bundle.sha256_of(f"src/{CONTRACT_FILE}")),
    }
    with _started(bundle, policy, board, firmware, plan) as device:
        played = DevicePolicy(device, policy, **hashes)
        played.name = f"{plan.engine} {plan.machine}"
        yield played


@contextmanager
def _started(
    bundle: Bundle,
    policy: IntegerPolicy,
    board: "Board",
    firmware: "Firmware | None",
    plan: "EmulationPlan",
) -> Iterator["Device"]:
    from firmware_export.board import load_board
    from firmware_export.emulators.machine import boot_in_machine, open_machine
    from firmware_export.emulators.qemu_user import open_linux_device
    from firmware_export.images import hex_image

    if firmware is None:
        with open_linux_device(read_sources(bundle), policy.name, board) as device:
            yield device
        return
    if plan.twin is not None:
        board = load_board(plan.twin, data_folder("boards"))
        firmware = compiled(bundle, board, firmware.compiler.partition(" ")[0])
    images = {"hex": hex_image(firmware.bin, firmware.start)}
    if plan.engine == "rp2040js":
        images = {"uf2": bundle.read(f"firmware/{firmware.name}.uf2")}
    with boot_in_machine(board, images, plan.engine) as machine, open_machine(machine) as device:
        yield device
