"""The stage `emulate`: what was built for a board, run in an emulator beside the C on this host."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from edgeqrl.agents.heads import ValueHead
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.bundle import Bundle
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.data import data_folder
from edgeqrl.emulate import DeviceRun, emulate
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import UsageError
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.stages.artefacts import (
    FIRMWARE_SECTIONS,
    NUM_GOLDEN,
    PLACEMENT,
    REALTIME,
    TFLITE,
    control_period_of,
    read_head,
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
    calibration: CalibrationSet,
    firmware: "Firmware | None" = None,
    engine: str | None = None,
    progress: Progress = silent,
) -> DeviceRun | None:
    """Run what was built for the board in an emulator (see `plan_emulation`) and compare it with host C.

    `firmware` is None for Linux; the instructions of a step are counted in its very ELF. A value network
    chooses no actions: it is asked the calibration's observations and plays no episodes.
    """
    from firmware_export.emulators.plan import plan_emulation

    plan = plan_emulation(board, engine)
    progress("emulate", 0, 0)
    run = None
    first, count = settings.emulation_seed, settings.emulated_episodes
    with _emulated(bundle, policy, board, firmware, plan, calibration) as (device, rows, sections):
        require_backends_agree(policy, device, calibration, most=NUM_GOLDEN)
        if make_env is not None and count > 0 and not isinstance(read_head(bundle), ValueHead):
            run = emulate(
                device,
                host,
                make_env,
                seeds=range(first, first + count),
                plan=plan,
                self_test_rows=rows,
                progress=partial(progress, "emulate"),
            )
            sections["emulation"] = run.to_json()
    replaced = ("emulation",) if firmware is None else FIRMWARE_SECTIONS
    kept = {name: found for name, found in read_report(bundle).items() if name not in replaced}
    write_report(bundle, kept | sections)
    return run


@contextmanager
def _emulated(
    bundle: Bundle,
    policy: IntegerPolicy,
    board: "Board",
    firmware: "Firmware | None",
    plan: "EmulationPlan",
    calibration: CalibrationSet,
) -> Iterator[tuple[Any, int, dict[str, Any]]]:
    """Start what was built; yield its policy, the rows of its boot self-test and the report's sections."""
    from firmware_export.device.client import Device
    from firmware_export.emulators.memory_link import MemoryLink

    with ExitStack() as stack:
        device: Any = None
        sections: dict[str, Any] = {}
        if firmware is not None:
            device, sections = _counted(bundle, policy, board, firmware, calibration)
            stack.enter_context(device)
        if plan.boots:
            device = stack.enter_context(_booted(bundle, policy, board, firmware, plan))
            rows = _self_tested(device.device)
        else:
            rows = _self_tested(Device(MemoryLink(device.emulated), f"the emulated {device.name}"))
        yield device, rows, sections


def _counted(
    bundle: Bundle,
    policy: IntegerPolicy,
    board: "Board",
    firmware: "Firmware",
    calibration: CalibrationSet,
) -> tuple["EmulatedPolicy", dict[str, Any]]:
    """Return the policy in the very ELF on its emulated core, and the report's sections of what it takes."""
    from edgeqrl.backends.emulated import EmulatedPolicy
    from firmware_export.emit.params import arena_bytes_of
    from firmware_export.fit import require_in_time
    from firmware_export.realtime import count_steps, realtime_sheet, realtime_text

    period = control_period_of(bundle)
    device = EmulatedPolicy(firmware, policy, board)
    try:
        count = count_steps([device.profile(_one(calibration, row)) for row in (0, len(calibration) - 1)])
        require_in_time(count.instructions, board, period, placement=firmware.placement)
    except BaseException:
        device.close()
        raise
    sheet = realtime_sheet(
        firmware,
        board,
        arena_bytes=arena_bytes_of(policy),
        control_period_s=period,
        count=count,
    )
    bundle.add(REALTIME, realtime_text(sheet).encode(), made_from=[f"firmware/{firmware.name}.elf"])
    return device, {"firmware": _firmware_facts(firmware, board, count.instructions), "realtime": sheet}


def _firmware_facts(firmware: "Firmware", board: "Board", instructions: int) -> dict[str, Any]:
    """Return the report's section `firmware`."""
    from firmware_export.fit import estimate_us, region_uses, timing_model

    places = firmware.placement
    return {
        "board": board.name,
        "core": board.core,
        "compiler": firmware.compiler,
        **asdict(firmware.sizes),
        "regions": region_uses(firmware.sizes, board),
        "placement": asdict(places),
        "flash_available_bytes": board.available_bytes("flash"),
        "ram_available_bytes": board.available_bytes("ram"),
        "instructions": instructions,
        "estimate": {
            "us": estimate_us(instructions, board, placement=places),
            "model": timing_model(board, placement=places).name,
            "clock_hz": board.clock_hz,
        },
    }


def _one(calibration: CalibrationSet, row: int) -> Any:
    """Return one observation, or its parts by name."""
    found = calibration.rows(slice(row, row + 1))
    return {name: part[0] for name, part in found.items()} if isinstance(found, Mapping) else found[0]


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
    from firmware_export.emulators.machine import boot_in_machine, lacked_regions, open_machine
    from firmware_export.emulators.qemu_user import open_linux_device
    from firmware_export.images import hex_image
    from firmware_export.placement import possible_placement

    if firmware is None:
        with open_linux_device(read_sources(bundle), policy.name, board) as device:
            yield device
        return
    if plan.twin is not None:
        board = load_board(plan.twin, data_folder("boards"))
        stated = bundle.facts.get(PLACEMENT, {})
        there = {what: place for what, place in stated.items() if place not in lacked_regions(plan.machine)}
        places = possible_placement(board, there)
        firmware = compiled(bundle, board, firmware.compiler.partition(" ")[0], places)
    elif plan.engine == "qemu":
        _require_regions(bundle, plan.machine)
    images = {"hex": hex_image(firmware.bin, firmware.start)}
    if plan.engine == "rp2040js":
        images = {"uf2": bundle.read(f"firmware/{firmware.name}.uf2")}
    with boot_in_machine(board, images, plan.engine) as machine, open_machine(machine) as device:
        yield device


def _require_regions(bundle: Bundle, machine: str) -> None:
    """Raise UsageError where something was placed in a region that QEMU's machine does not have."""
    from firmware_export.emulators.machine import lacked_regions

    for what, region in bundle.facts.get(PLACEMENT, {}).items():
        if region in lacked_regions(machine):
            raise UsageError(
                f"QEMU's machine {machine} has no '{region}', where --place has put {what}: emulate with "
                "--engine unicorn, or build without it."
            )
