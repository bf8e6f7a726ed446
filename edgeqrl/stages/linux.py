"""The stages of a board that runs Linux: a folder to be deployed, and its emulation."""

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.bundle import Bundle
from edgeqrl.emulate import DeviceRun, emulate
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import DataError
from edgeqrl.files import from_json_bytes
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.stages.artefacts import (
    GOLDEN,
    LINUX,
    LINUX_PACKAGE,
    NUM_GOLDEN,
    TFLITE,
    drop_firmware,
    read_quantized,
    read_report,
    read_sources,
    write_report,
)
from edgeqrl.stages.contract import require_actuating
from edgeqrl.stages.conversion import require_backends_agree, require_bundle_fits
from edgeqrl.stages.settings import Progress, Settings, silent

if TYPE_CHECKING:
    from edgeqrl.backends.device import DevicePolicy
    from firmware_export.board import Board
    from firmware_export.emit.golden import GoldenVectors
    from firmware_export.linux.package import LinuxPackage


def add_linux_package(
    bundle: Bundle, board: "Board", settings: Settings, *, progress: Progress = silent
) -> "LinuxPackage":
    """Build the library for every Arm Linux, and keep the folder that is deployed."""
    from firmware_export.linux.package import linux_compiler, linux_package

    progress("build", 0, 0)
    require_actuating(bundle, settings)
    require_bundle_fits(bundle, board)
    compiler = linux_compiler(settings.compiler)
    quantized = read_quantized(bundle)
    policy = quantized.integer_policy(is_masked=bundle.fact("is_masked"))
    sources, golden = read_sources(bundle), _read_golden(bundle)
    package = linux_package(policy, sources, quantized.tflite, golden, board, compiler)
    drop_firmware(bundle)
    origin = [TFLITE, GOLDEN, *(path for path in bundle.artefacts if path.startswith("src/"))]
    for path, data in package.files.items():
        bundle.add(LINUX + path, data, made_from=origin)
    bundle.facts["board"] = board.name
    section: dict[str, Any] = {"board": board.name, "core": board.core, "compiler": package.compiler}
    section |= {"files": len(package.files), "bytes": package.num_bytes}
    section["libraries"] = _libraries(package)
    write_report(bundle, read_report(bundle) | {"package": section})
    progress("build", 1, 1)
    return package


def read_linux_package(bundle: Bundle) -> "LinuxPackage":
    """Return the folder that is deployed."""
    from firmware_export.linux.package import LinuxPackage

    try:
        facts = from_json_bytes(bundle.read(LINUX_PACKAGE))
        name, board, compiler = (str(facts[key]) for key in ("name", "board", "compiler"))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"'{bundle}/{LINUX_PACKAGE}' is damaged: {error!r}. Build again.") from error
    paths = sorted(path for path in bundle.artefacts if path.startswith(LINUX))
    files = {path.removeprefix(LINUX): bundle.read(path) for path in paths}
    if (name, board) != (bundle.fact("name"), bundle.fact("board")):
        raise DataError(f"'{bundle}' states another policy or board than '{LINUX}' is for. Build again.")
    return LinuxPackage(name, board, files, compiler)


def add_linux_emulation(
    bundle: Bundle,
    policy: IntegerPolicy,
    board: "Board",
    host: HostCPolicy,
    settings: Settings,
    *,
    make_env: MakeEnv | None,
    observations: NDArray[np.float32],
    engine: str | None = None,
    progress: Progress = silent,
) -> DeviceRun | None:
    """Run the package's C as a program for the board's core, and compare it with host C."""
    from firmware_export.emulators.plan import plan_emulation

    plan = plan_emulation(board, engine)
    progress("emulate", 0, 0)
    run = None
    with ExitStack() as stack:
        device = stack.enter_context(_opened(bundle, policy, board))
        require_backends_agree(policy, device, observations[:NUM_GOLDEN])
        if make_env is not None and settings.emulated_episodes > 0:
            first = settings.emulation_seed
            run = emulate(
                device,
                host,
                make_env,
                seeds=range(first, first + settings.emulated_episodes),
                plan=plan,
                progress=partial(progress, "emulate"),
            )
    kept = {name: found for name, found in read_report(bundle).items() if name != "emulation"}
    write_report(bundle, kept | ({} if run is None else {"emulation": run.to_json()}))
    return run


def can_emulate_linux() -> bool:
    """Tell whether QEMU's user emulation is installed."""
    from firmware_export.emulators.qemu_user import find_qemu_user

    return find_qemu_user() is not None


@contextmanager
def _opened(bundle: Bundle, policy: IntegerPolicy, board: "Board") -> Iterator["DevicePolicy"]:
    """Start the program, greet it and run its self-test."""
    from edgeqrl.backends.device import DevicePolicy
    from firmware_export.contract import CONTRACT_FILE
    from firmware_export.emulators.qemu_user import open_linux_device

    hashes = {
        "model_sha256": bytes.fromhex(bundle.sha256_of(TFLITE)),
        "contract_sha256": bytes.fromhex(bundle.sha256_of(f"src/{CONTRACT_FILE}")),
    }
    with open_linux_device(read_sources(bundle), policy.name, board) as device:
        played = DevicePolicy(device, policy, **hashes)
        played.name = device.place
        if played.hello.has_selftest:
            device.selftest()
            device.reset()
        yield played


def _read_golden(bundle: Bundle) -> "GoldenVectors":
    from firmware_export.emit.golden import GoldenVectors

    try:
        with np.load(io.BytesIO(bundle.read(GOLDEN)), allow_pickle=False) as arrays:
            return GoldenVectors(**dict(arrays))
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise DataError(f"'{bundle}/{GOLDEN}' is damaged: {error}. Export again.") from error


def _libraries(package: "LinuxPackage") -> dict[str, int]:
    """Return the bytes of each machine's library."""
    return {path.split("/")[1]: len(data) for path, data in package.files.items() if path.startswith("lib/")}
