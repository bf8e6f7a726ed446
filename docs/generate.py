"""Remake what the pages show: SUPPORTED_OPS.md, the README's tables, output and picture.

`--check` only says whether the pages agree with the code and the zoo's cards; without it, the demo's bundle
in build/lunarlander (see `make demo`) gives the output and the picture.
"""

import argparse
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edgeqrl.cli.loss_plot import window_of
from edgeqrl.cli.show import print_conversion
from edgeqrl.data import data_folder
from edgeqrl.network.supported_ops import markdown
from edgeqrl.zoo import zoo_agents
from firmware_export.board import Board, board_names, load_board
from firmware_export.flashers.table import flash_table

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "build" / "lunarlander"
COMMAND = "edgeqrl convert zoo:lunarlander-dqn --env LunarLander-v3 --board mps2-an386 -o build/lunarlander"
BLUE, ORANGE, GREEN, RED = "#4c72b0", "#dd8452", "#55a868", "#c44e52"
FILES = ("policy.tflite", "src/", "firmware/", "golden.npz", "report.json", "manifest.json")


def zoo_table() -> str:
    """Return the zoo as a Markdown table, from its cards."""
    lines = ["| agent | environment | algorithm | float return, 100 episodes |", "| --- | --- | --- | --- |"]
    for agent in zoo_agents():
        found = agent.card["float_return"]
        interval = f"{found['mean']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"
        lines.append(f"| `zoo:{agent.name}` | {agent.env_id} | {agent.card['algorithm']} | {interval} |")
    return "\n".join(lines)


def card_table() -> str:
    """Return what the zoo's cards say, as a Markdown table."""
    lines = [
        "| agent | network | acts by | trained by | return | minutes |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for agent in zoo_agents():
        card, found = agent.card, agent.card["float_return"]
        interval = f"{found['mean']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"
        cells = (card["architecture"], card["head"], card["algorithm"], interval)
        lines.append(f"| `{agent.name}` | {' | '.join(cells)} | {card['training']['minutes']:.0f} |")
    return "\n".join(lines)


def all_boards() -> list[Board]:
    """Return the boards that ship with edgeqrl, sorted by name."""
    folder = data_folder("boards")
    return [load_board(name, folder) for name in board_names(folder)]


def filled(text: str, marker: str, content: str) -> str:
    """Return `text` with `content` between the comments of this marker."""
    pattern = rf"(<!-- {marker} -->\n).*?(<!-- end {marker} -->)"
    new, count = re.subn(pattern, lambda found: f"{found[1]}{content}\n{found[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"the page has no place for '{marker}'")
    return new


def read_demo() -> dict[str, Any]:
    """Return the report that `make demo` left."""
    return dict(json.loads((DEMO / "report.json").read_text()))


def draw_demo(console: Console) -> None:
    """Print what `convert` prints, from the report that it left."""
    report = read_demo()
    console.print(f"[bold]$[/] {COMMAND}\n", soft_wrap=True, highlight=False)
    title = "zoo:lunarlander-dqn in LunarLander-v3"
    print_conversion(title, report, "build/lunarlander", FILES, console=console)


def returns_picture(report: dict[str, Any]) -> str:
    """Return an SVG: every episode's return, float beside int8, and every pair's loss against the margin."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "edgeqrl", "font.size": 9})
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), width_ratios=(1, 1), layout="constrained")
    detail = report["episodes_detail"]
    for key, label, colour in (("float_return", "float", BLUE), ("quantized_return", "int8", ORANGE)):
        returns = sorted(detail[key])
        share = [100 * (rank + 1) / len(returns) for rank in range(len(returns))]
        left.step(returns, share, color=colour, label=label, where="post")
    left.set(xlabel="episode return", ylabel="% of episodes below", ylim=(0, 100))
    left.set_title(f"LunarLander-v3, {report['episodes']} episodes on the same seeds", loc="left")
    left.legend(frameon=False, loc="upper left")
    _draw_losses(right, report)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()


def _draw_losses(axes: Any, report: dict[str, Any]) -> None:
    """Draw what the terminal's plot shows: the pairs, the margin, and the interval of the mean loss."""
    detail, criterion = report["episodes_detail"], report["criteria"][0]
    losses = [a - b for a, b in zip(detail["float_return"], detail["quantized_return"], strict=True)]
    interval, margin = (criterion["low"], criterion["high"]), criterion["limit"]
    window = window_of(np.array(losses), criterion["mean"], interval, margin, 78)
    axes.hist(losses, bins=39, range=(window.low, window.high), color="0.8")
    most = axes.get_ylim()[1]
    axes.axvline(0, color="0.6", lw=0.8)
    axes.axvline(margin, color=RED, lw=1)
    low, high = (min(max(end, window.low), window.high) for end in interval)
    mean = criterion["mean"]
    colour = {"PASS": GREEN, "FAIL": RED}.get(criterion["verdict"], ORANGE)
    xerr = [[mean - low], [high - mean]]
    axes.errorbar(mean, 1.15 * most, xerr=xerr, fmt="o", color=colour, capsize=4, lw=2, ms=4)
    axes.text(margin, 1.3 * most, f" margin {margin:.3g}", color=RED, va="center")
    axes.text(low, 1.3 * most, f"{report['verdict']} ", color=colour, ha="right", va="center", weight="bold")
    axes.set(yticks=[], ylim=(0, 1.4 * most), xlim=(window.low, window.high))
    axes.set(xlabel="return lost by int8: every pair, and the interval of the mean")
    axes.spines["left"].set_visible(False)


def main() -> int:
    """Write or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    is_check = parser.parse_args().check
    readme = ROOT / "README.md"
    flashing = ROOT / "docs" / "flashing.md"
    zoo = ROOT / "docs" / "zoo.md"
    pages = {
        ROOT / "SUPPORTED_OPS.md": markdown(),
        readme: filled(readme.read_text(), "zoo", zoo_table()),
        zoo: filled(zoo.read_text(), "zoo cards", card_table()),
        flashing: filled(flashing.read_text(), "flash tools", flash_table(all_boards())),
    }
    if not is_check:
        if not (DEMO / "report.json").is_file():
            raise SystemExit("run `make demo` first: its result is what the pages show")
        plain = Console(file=io.StringIO(), width=80)
        draw_demo(plain)
        text = "\n".join(line.rstrip() for line in plain.file.getvalue().splitlines())
        pages[readme] = filled(pages[readme], "demo", f"```\n{text}\n```")
        (ROOT / "docs" / "images").mkdir(exist_ok=True)
        pages[ROOT / "docs" / "images" / "returns.svg"] = returns_picture(read_demo())
    stale = [page for page, text in pages.items() if not page.exists() or page.read_text() != text]
    for page in stale:
        if is_check:
            sys.stderr.write(f"{page.relative_to(ROOT)} is out of date: run `make docs`\n")
        else:
            page.write_text(pages[page])
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
