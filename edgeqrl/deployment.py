"""From a bundle to a device: emulate its firmware, flash it. The stages called in order, no logic."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeqrl import stages
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.bundle import Bundle, open_bundle
from edgeqrl.data import data_folder
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import UsageError
from edgeqrl.pipeline import open_board
from edgeqrl.stages import Progress, Settings, silent
from firmware_export.board import Board, board_names
from firmware_export.placement import require_placeable

if TYPE_CHECKING:
    from firmware_export.flashers.runner import Choice, Flashed
    from firmware_export.flashers.ssh import Deployment
    from firmware_export.flashers.verify import Verified
    from firmware_export.linux.package import LinuxPackage


def _ignored(_line: str) -> None:
    """Show nothing."""


def emulate_bundle(
    bundle: Bundle,
    make_env: MakeEnv | None,
    episodes: int,
    *,
    board: str | None = None,
    engine: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Play a bundle's firmware in an emulator of its board; `engine` as for `plan_emulation`."""
    if episodes < 0:
        raise UsageError(f"--episodes must be at least 0, got {episodes}.")
    stages.require_environment_fits(bundle, make_env)
    target = board_of(bundle, board)
    stages.require_built_here(bundle, target)
    require_placeable(target, bundle.facts.get(stages.PLACEMENT, {}))  # the board's file may be another now
    quantized = stages.read_quantized(bundle)
    policy = quantized.integer_policy(is_masked=bundle.fact("is_masked"))
    stages.add_target_emulation(
        bundle,
        policy,
        target,
        HostCPolicy(policy),
        Settings(emulated_episodes=episodes),
        make_env=make_env,
        calibration=stages.read_calibration(bundle),
        engine=engine,
        progress=progress,
    )
    return stages.read_report(bundle)


@dataclass(frozen=True)
class FlashResult:
    """What was done with a board, or would be, and what the board then said of itself."""

    board: Board
    flashed: "Flashed"
    verified: "Verified | None"  # None: not asked

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            **self.flashed.to_json(),
            "verification": None if self.verified is None else self.verified.to_json(),
        }


def flash_bundle(
    folder: Path,
    choice: "Choice",
    *,
    board: str | None = None,
    uart: str | None = None,
    is_verified: bool = True,
    watch: Callable[[str], None] = _ignored,
) -> FlashResult:
    """Put a bundle's firmware on its board, and ask the board whether it runs it."""
    from firmware_export.flashers.runner import choose_tool, flash
    from firmware_export.flashers.verify import verify

    bundle = open_bundle(folder)
    target = board_of(bundle, board)
    stages.require_built_here(bundle, target)
    if target.kind == "linux":
        raise UsageError(f"{target.title} runs Linux and is reached by ssh: say where with --host user@host.")
    firmware = stages.read_firmware(bundle)
    tool, _ = choose_tool(target, choice)
    bundle.read(f"firmware/{firmware.name}.{tool.image}")  # there, and not damaged
    flashed = flash(firmware, target, folder / "firmware", choice, watch)
    if not (flashed.is_written and is_verified):
        return FlashResult(target, flashed, None)
    model_sha256 = bytes.fromhex(bundle.sha256_of(stages.TFLITE))
    return FlashResult(target, flashed, verify(target, tool, choice, model_sha256, uart=uart))


@dataclass(frozen=True)
class DeployResult:
    """What runs on a host now, or what would."""

    package: "LinuxPackage"
    plan: str
    deployed: "Deployment | None"  # None: this was a dry run

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        facts = {"board": self.package.board, "name": self.package.name, "bytes": self.package.num_bytes}
        return facts | ({"plan": self.plan} if self.deployed is None else asdict(self.deployed))


def deploy_bundle(
    folder: Path,
    host: str,
    *,
    board: str | None = None,
    options: Sequence[str] = (),
    service: bool = False,
    dry_run: bool = False,
    watch: Callable[[str], None] = _ignored,
) -> DeployResult:
    """Put a bundle's folder for Linux on `[user@]host` by ssh, as `firmware_export.flashers.ssh` does."""
    from firmware_export.flashers.ssh import deploy, deployment_plan

    bundle = open_bundle(folder)
    target = board_of(bundle, board)
    stages.require_built_here(bundle, target)
    if target.kind != "linux":
        raise UsageError(f"--host is for boards that run Linux; {target.title} is flashed: leave it out.")
    package = stages.read_linux_package(bundle)
    plan = deployment_plan(package, host, service=service)
    if dry_run:
        return DeployResult(package, plan, None)
    return DeployResult(
        package, plan, deploy(package, host, options=options, service=service, progress=watch)
    )


def board_of(bundle: Bundle, stated: str | None) -> Board:
    """Return the board that the firmware was built for; `stated` names it where it does not ship with us."""
    name = bundle.fact("board")
    if stated is None and name not in board_names(data_folder("boards")):
        raise UsageError(
            f"The firmware of '{bundle}' is for board '{name}', which does not ship with edgeqrl. Give its "
            ".toml file with --board."
        )
    board = open_board(stated or name)
    if board.name != name:
        raise UsageError(
            f"The firmware of '{bundle}' is for board '{name}', not for '{board.name}'. Build it again."
        )
    return board
