"""From a bundle to a device: emulate its firmware, flash it. The stages called in order, no logic."""

from pathlib import Path
from typing import Any

from edgeqrl import stages
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.bundle import Bundle, open_bundle
from edgeqrl.data import data_folder
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import UsageError
from edgeqrl.pipeline import open_board
from edgeqrl.stages import Progress, Settings, silent
from firmware_export.board import Board, board_names


def emulate_bundle(
    bundle: Bundle,
    make_env: MakeEnv | None,
    episodes: int,
    *,
    board: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Play a bundle's firmware on the emulated core of its board."""
    if episodes < 0:
        raise UsageError(f"--episodes must be at least 0, got {episodes}.")
    stages.require_environment_fits(bundle, make_env)
    target = board_of(bundle, board)
    quantized = stages.read_quantized(bundle)
    policy = quantized.integer_policy(is_masked=bundle.fact("is_masked"))
    stages.add_emulation(
        bundle,
        policy,
        target,
        stages.read_firmware(bundle),
        HostCPolicy(policy),
        Settings(emulated_episodes=episodes),
        make_env=make_env,
        observations=stages.read_calibration(bundle).observations,
        progress=progress,
    )
    return stages.read_report(bundle)


def flash_bundle(folder: Path, *, board: str | None = None, volume: Path | None, dry_run: bool) -> str:
    """Put a bundle's firmware on its board; return what was done, in a sentence."""
    from firmware_export.flashers.uf2_volume import flash

    bundle = open_bundle(folder)
    target = board_of(bundle, board)
    return flash(stages.read_firmware(bundle), target, volume=volume, dry_run=dry_run)


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
