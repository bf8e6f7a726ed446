"""The stages of a board that runs Linux: a folder to be deployed, and its emulation."""

from typing import TYPE_CHECKING, Any

from edgeqrl.bundle import Bundle
from edgeqrl.errors import DataError
from edgeqrl.files import from_json_bytes
from edgeqrl.stages.artefacts import (
    GOLDEN,
    LINUX,
    LINUX_PACKAGE,
    TFLITE,
    drop_firmware,
    read_golden,
    read_quantized,
    read_report,
    read_sources,
    write_report,
)
from edgeqrl.stages.contract import require_actuating
from edgeqrl.stages.conversion import require_bundle_fits
from edgeqrl.stages.settings import Progress, Settings, silent

if TYPE_CHECKING:
    from firmware_export.board import Board
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
    sources, golden = read_sources(bundle), read_golden(bundle)
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


def can_emulate_linux() -> bool:
    """Tell whether QEMU's user emulation is installed."""
    from firmware_export.emulators.qemu_user import find_qemu_user

    return find_qemu_user() is not None


def _libraries(package: "LinuxPackage") -> dict[str, int]:
    """Return the bytes of each machine's library."""
    return {path.split("/")[1]: len(data) for path, data in package.files.items() if path.startswith("lib/")}
