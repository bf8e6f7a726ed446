"""What is proven of each board: builds, emulated at which level, self-test, episodes, flash path.

python benchmarks/boards.py [--page docs/board-matrix.md] [BOARD ...]

Converts zoo:cartpole-dqn, builds it for every board, runs it in every emulator that can, and plays episodes
in the loop: each action must be host C's. Needs QEMU, node with rp2040js and qemu-user.
"""

import argparse
import json
import platform
import sys
from datetime import date
from pathlib import Path
from typing import Any

from edgeqrl import pipeline, stages
from edgeqrl.bundle import Bundle, edit_bundle
from edgeqrl.cli.show import StageProgress
from edgeqrl.data import data_folder
from edgeqrl.deployment import emulate_bundle
from edgeqrl.environments import EnvironmentSpec
from edgeqrl.stages import Settings
from edgeqrl.validate.terms import Declared
from firmware_export.board import Board, board_names
from firmware_export.emulators.plan import emulations
from firmware_export.flashers.table import tested_with

AGENT, ENVIRONMENT, EPISODES = "zoo:cartpole-dqn", EnvironmentSpec("CartPole-v1"), 2
BUNDLE = Path("build/board-matrix")
COLUMNS = ("board", "builds", "emulated by", "self-test", "episodes as host C", "flash path tested with")


def built(bundle: Bundle, board: Board) -> str:
    """Build what the board gets; return its size in words."""
    if board.kind == "library":
        return "no compiler here: sources for ESP-IDF"
    if board.kind == "linux":
        from edgeqrl.stages.linux import add_linux_package

        package = add_linux_package(bundle, board, Settings())
        return f"library for {', '.join(sorted(machines_of(package.files)))}"
    sizes = stages.add_firmware(bundle, board, Settings()).sizes
    return f"{sizes.flash_bytes:,} B flash, {sizes.ram_bytes + sizes.stack_bytes:,} B RAM"


def machines_of(files: Any) -> set[str]:
    """Return the machines for which a Linux package has a library."""
    return {path.split("/")[1] for path in files if path.startswith("lib/")}


def row_of(board: Board, progress: StageProgress) -> list[str]:
    """Build and emulate; every cell says only what was done."""
    progress("build", 0, 0, board.name)
    with edit_bundle(BUNDLE) as bundle:
        size = built(bundle, board)
    levels, tests, episodes = [], [], []
    for plan in emulations(board):
        progress("emulate", 0, 0, f"{board.name} {plan.engine}")
        with edit_bundle(BUNDLE) as bundle:
            report = emulate_bundle(bundle, ENVIRONMENT.make, EPISODES, engine=plan.engine)
        run = report["emulation"]
        assert run["engine"] == plan.engine
        what = f"twin on {plan.twin}" if plan.twin else plan.machine
        levels.append(f"{plan.engine} ({what}): {run['level']}")
        tests.append(f"{plan.engine}: {run['self_test_rows']} vectors")
        episodes.append(f"{plan.engine}: {run['episodes']}, {run['num_steps']:,} steps")
    none = ["no"]
    flash = [f"{tool.tool}: {tested_with(board, tool)}" for tool in board.flash_tools]
    if board.kind == "linux":
        flash = ["ssh: sshd on loopback"]
    cells = [levels or none, tests or none, episodes or none, flash or none]
    return [f"`{board.name}`", size, *("<br>".join(cell) for cell in cells)]


def main() -> int:
    """Print the matrix as Markdown, or write it to a page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--page", type=Path)
    parser.add_argument("boards", nargs="*", metavar="BOARD")
    options = parser.parse_args()
    known = board_names(data_folder("boards"))
    boards = [pipeline.open_board(name) for name in options.boards or known]
    with StageProgress() as progress:
        settings = Settings(episodes=2, declared=Declared(max_failures=None))
        pipeline.convert(AGENT, ENVIRONMENT, output=BUNDLE, settings=settings, progress=progress)
        rows = [row_of(board, progress) for board in boards]
    lines = [f"| {' | '.join(cells)} |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    command = "python benchmarks/boards.py --page docs/board-matrix.md"
    made = f"*Made by `{command}` on {date.today()}, {machine}.*"
    table = "\n".join([made, "", *lines])
    if options.page is None:
        print(table)
        return 0
    text = options.page.read_text()
    begin, end = "<!-- matrix -->", "<!-- end matrix -->"
    head, tail = text.split(begin)[0], text.split(end)[1]
    options.page.write_text(f"{head}{begin}\n{table}\n{end}{tail}")
    print(json.dumps({"boards": len(rows), "page": str(options.page)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
