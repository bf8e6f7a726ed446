"""What a board gets, by its kind: firmware, a folder for Linux, or sources that its vendor's SDK builds."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.bundle import Bundle
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import UsageError
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.stages.artefacts import (
    drop_firmware,
    read_calibration,
    read_firmware,
    read_quantized,
    read_report,
    read_sources,
    write_report,
)
from edgeqrl.stages.contract import apply_contract
from edgeqrl.stages.conversion import add_sources, require_bundle_fits
from edgeqrl.stages.emulation import add_emulation
from edgeqrl.stages.firmware import add_firmware
from edgeqrl.stages.linux import add_linux_package, can_emulate_linux
from edgeqrl.stages.packing import ORDER, order_for_board, read_order
from edgeqrl.stages.settings import Progress, Settings, silent

if TYPE_CHECKING:
    from firmware_export.board import Board
    from firmware_export.build import Firmware
    from firmware_export.linux.package import LinuxPackage


def add_target(
    bundle: Bundle,
    policy: IntegerPolicy,
    board: "Board",
    host: HostCPolicy,
    settings: Settings,
    *,
    make_env: MakeEnv | None,
    calibration: CalibrationSet,
    progress: Progress = silent,
) -> None:
    """Build for the board what it gets, and emulate it.

    For Linux that needs QEMU, which is no Python package: without it the report has no section `emulation`.
    """
    build_target(bundle, board, settings, progress=progress)
    if board.kind == "library":
        return
    if board.kind == "linux" and not can_emulate_linux():
        return
    add_target_emulation(
        bundle,
        policy,
        board,
        host,
        settings,
        make_env=make_env,
        calibration=calibration,
        progress=progress,
    )


def build_target(
    bundle: Bundle, board: "Board", settings: Settings, *, progress: Progress = silent
) -> "Firmware | LinuxPackage | str":
    """Build for the board what it gets; of a vendor's SDK, return how that builds the sources."""
    from firmware_export.placement import require_placeable

    require_placeable(board, settings.placement)
    order_sources(bundle, board, settings)
    if board.kind == "library":
        return add_library(bundle, board, settings)
    if board.kind == "linux":
        return add_linux_package(bundle, board, settings, progress=progress)
    return add_firmware(bundle, board, settings, progress=progress)


def order_sources(bundle: Bundle, board: "Board", settings: Settings) -> None:
    """Export a bundle's sources again where their weights are in the order of another core than the board's.

    Params that were made for the code of earlier ones stay as they are: that code reads them so.
    """
    order, known = order_for_board(board), read_order(bundle)
    if known == order or not isinstance(known, str) or "head" not in bundle.facts:
        return
    read_sources(bundle)  # there, and not damaged
    quantized = replace(read_quantized(bundle), order=order)
    bundle.facts[ORDER] = order
    add_sources(
        bundle,
        quantized.integer_policy(is_masked=bundle.fact("is_masked")),
        quantized.tflite,
        read_calibration(bundle),
        replace(settings, with_self_test=any(path.endswith("_golden.c") for path in bundle.artefacts)),
    )


def add_target_emulation(
    bundle: Bundle, policy: IntegerPolicy, board: "Board", host: HostCPolicy, settings: Settings, **more: Any
) -> None:
    """Run what was built for the board in an emulator; `more` as for `add_emulation`."""
    firmware = None if board.kind == "linux" else read_firmware(bundle)
    add_emulation(bundle, policy, board, host, settings, firmware=firmware, **more)


def add_library(bundle: Bundle, board: "Board", settings: Settings) -> str:
    """Tell how the vendor's SDK builds the exported sources; they are what this board gets. Returns that."""
    read_sources(bundle)  # there, and not damaged
    apply_contract(bundle, settings)
    require_bundle_fits(bundle, board)
    drop_firmware(bundle)
    how = _sdk_sentence(bundle, board)
    bundle.facts["board"] = board.name
    write_report(bundle, read_report(bundle) | {"library": {"board": board.name, "how": how}})
    return how


def require_built_here(bundle: Bundle, board: "Board") -> None:
    """Raise UsageError for a board whose firmware its vendor's SDK builds: there is none to run or flash."""
    if board.kind == "library":
        raise UsageError(
            f"{board.title} gets sources and no firmware of ours: there is nothing to flash or to emulate. "
            f"{_sdk_sentence(bundle, board)}"
        )


def _sdk_sentence(bundle: Bundle, board: "Board") -> str:
    name = bundle.fact("name")
    return (
        f"Copy src/ to components/{name} of an ESP-IDF project, take examples/esp_idf.c and examples/{name}/ "
        f"from it into main/, and run `idf.py set-target {board.name} build flash`."
    )
