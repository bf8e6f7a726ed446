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

from rich.console import Console

from edgeqrl.cli.show import print_conversion
from edgeqrl.network.supported_ops import markdown
from edgeqrl.zoo import zoo_agents

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "build" / "lunarlander"
COMMAND = "edgeqrl convert zoo:lunarlander-dqn --env LunarLander-v3 --board mps2-an386 -o build/lunarlander"
FILES = ("policy.tflite", "src/", "firmware/", "golden.npz", "report.json", "manifest.json")


def zoo_table() -> str:
    """Return the zoo as a Markdown table, from its cards."""
    lines = ["| agent | environment | algorithm | float return, 100 episodes |", "| --- | --- | --- | --- |"]
    for agent in zoo_agents():
        found = agent.card["float_return"]
        interval = f"{found['mean']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"
        lines.append(f"| `zoo:{agent.name}` | {agent.env_id} | {agent.card['algorithm']} | {interval} |")
    return "\n".join(lines)


def filled(text: str, marker: str, content: str) -> str:
    """Return `text` with `content` between the comments of this marker."""
    pattern = rf"(<!-- {marker} -->\n).*?(<!-- end {marker} -->)"
    new, count = re.subn(pattern, lambda found: f"{found[1]}{content}\n{found[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"README.md has no place for '{marker}'")
    return new


def draw_demo(console: Console) -> None:
    """Print what `convert` prints, from the report that it left."""
    report = json.loads((DEMO / "report.json").read_text())
    console.print(f"[bold]$[/] {COMMAND}\n", soft_wrap=True, highlight=False)
    title = "zoo:lunarlander-dqn in LunarLander-v3"
    print_conversion(title, report, "build/lunarlander", FILES, console=console)


def returns_picture() -> str:
    """Return an SVG: every episode's return, float beside int8, and the mean loss against the margin."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "edgeqrl", "font.size": 9})
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot as plt

    report = json.loads((DEMO / "report.json").read_text())
    detail, drop = report["episodes_detail"], report["return_drop"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), width_ratios=(3, 2), layout="constrained")
    for key, label, colour in (
        ("float_return", "float", "#4c72b0"),
        ("quantized_return", "int8", "#dd8452"),
    ):
        returns = sorted(detail[key])
        share = [100 * (rank + 1) / len(returns) for rank in range(len(returns))]
        left.step(returns, share, color=colour, label=label, where="post")
    left.set(xlabel="episode return", ylabel="% of episodes below", ylim=(0, 100))
    left.set_title(f"LunarLander-v3, {report['episodes']} episodes on the same seeds", loc="left")
    left.legend(frameon=False, loc="upper left")
    right.axvspan(report["margin"], 1.6 * report["margin"], color="#c44e52", alpha=0.15, lw=0)
    right.axvline(report["margin"], color="#c44e52", lw=1)
    right.axvline(0, color="0.6", lw=0.8)
    right.errorbar(
        drop["mean"],
        0,
        xerr=[[drop["mean"] - drop["low"]], [drop["high"] - drop["mean"]]],
        fmt="o",
        color="#55a868",
        capsize=5,
        lw=2,
    )
    right.text(report["margin"], 0.75, " margin", color="#c44e52", va="center")
    right.text(drop["mean"], 0.25, report["verdict"], color="#55a868", ha="center", weight="bold")
    right.set(yticks=[], ylim=(-1, 1), xlim=(-0.6 * report["margin"], 1.6 * report["margin"]))
    right.set(xlabel="mean return lost by int8, with its interval")
    right.spines[["left", "right"]].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def main() -> int:
    """Write or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    is_check = parser.parse_args().check
    readme = ROOT / "README.md"
    pages = {
        ROOT / "SUPPORTED_OPS.md": markdown(),
        readme: filled(readme.read_text(), "zoo", zoo_table()),
    }
    if not is_check:
        if not (DEMO / "report.json").is_file():
            raise SystemExit("run `make demo` first: its result is what the pages show")
        plain = Console(file=io.StringIO(), width=100)
        draw_demo(plain)
        text = "\n".join(line.rstrip() for line in plain.file.getvalue().splitlines())
        pages[readme] = filled(pages[readme], "demo", f"```\n{text}\n```")
        (ROOT / "docs" / "images").mkdir(exist_ok=True)
        pages[ROOT / "docs" / "images" / "returns.svg"] = returns_picture()
    stale = [page for page, text in pages.items() if not page.exists() or page.read_text() != text]
    for page in stale:
        if is_check:
            sys.stderr.write(f"{page.relative_to(ROOT)} is out of date: run `make docs`\n")
        else:
            page.write_text(pages[page])
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
