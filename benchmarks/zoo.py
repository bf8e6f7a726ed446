"""What 8-bit and 16-bit activations do to every agent of the zoo: return, verdict, bytes.

    python benchmarks/zoo.py [--episodes 500] [--page docs/zoo.md] [--kept FILE] [AGENT ...]

Converts each agent for a board, by each scheme, on the same seeds. With --kept FILE every finished conversion
is written there at once, and what the file has already, by however many episodes, is not measured again: a
stopped run goes on.
Needs the environments: pip install 'edgeqrl[box2d,mujoco]' MinAtar.
"""

import argparse
import json
import platform
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from verdict_pages import fill_page

from edgeqrl import __version__, pipeline
from edgeqrl.cli.show import StageProgress
from edgeqrl.contract import ContractOptions
from edgeqrl.quantize.scheme import SCHEMES
from edgeqrl.stages import Settings
from edgeqrl.zoo import ZooAgent, find_zoo_agent, zoo_agents

COMPARED = ("int8", "int16x8")
BOARD = "mps2-an386"
PERIODS = {"breakout-ppo": 0.1}  # seconds a step, where the environment does not say
KEPT = ("verdict", "episodes", "criteria", "terms", "float_return", "quantized_return", "failures", "values")

Row = dict[str, Any]


def measure(agent: ZooAgent, scheme: str, episodes: int, progress: StageProgress) -> Row:
    """Convert into a folder that goes away; return what the tables need of the report."""
    stated = None if _is_trained(agent) else SCHEMES[scheme]  # its own needs no word
    name = f"zoo:{agent.name}"
    with tempfile.TemporaryDirectory() as folder:
        conversion = pipeline.convert(
            name,
            pipeline.zoo_environment(name),
            board=BOARD,
            output=Path(folder) / "bundle",
            contract=ContractOptions(control_period_s=PERIODS.get(agent.name)),
            settings=Settings(episodes=episodes, scheme=stated, emulated_episodes=1),
            progress=progress,
        )
    report = conversion.report
    row = {key: report[key] for key in KEPT if key in report}
    sizes = {
        key: report["firmware"][key] for key in ("flash_bytes", "ram_bytes", "stack_bytes", "instructions")
    }
    return {
        "agent": agent.name,
        "agent_sha256": agent.card["agent_sha256"],
        "scheme": scheme,
        "max_episodes": episodes,
        **row,
        **sizes,
        "state_bytes": report["realtime"]["ram"]["state_bytes"],
    }


def measured(agents: list[ZooAgent], episodes: int, kept: Path | None) -> list[Row]:
    """Return a row for every agent and scheme."""
    known: list[Row] = json.loads(kept.read_text()) if kept and kept.exists() else []
    found: list[Row] = []
    with StageProgress() as progress:
        for agent in agents:
            for scheme in COMPARED[:1] if _is_trained(agent) else COMPARED:
                wanted = (agent.card["agent_sha256"], scheme)
                row = next((row for row in known if (row["agent_sha256"], row["scheme"]) == wanted), None)
                if row is None:
                    progress("convert", 0, 0, f"{agent.name} {scheme}")
                    row = measure(agent, scheme, episodes, progress)
                    known.append(row)
                    if kept:
                        kept.write_text(json.dumps(known, indent=1))
                found.append(row)
    return found


def _is_trained(agent: ZooAgent) -> bool:
    """Tell whether the agent has the bits that it learned, and no others."""
    return "fake quantization" in agent.card["algorithm"]


def tables(rows: list[Row], made: str) -> dict[str, str]:
    """Return the Markdown tables by the marker of their place in the page."""
    return {
        "zoo returns": f"*{made}*\n\n{_returns_table(rows)}",
        "zoo values": _values_table(rows),
        "zoo bytes": _bytes_table(rows),
    }


def _returns_table(rows: list[Row]) -> str:
    head = ["agent", "scheme", "float return", "integer return", "lost", "may lose", "episodes", "verdict"]
    return _table(
        head,
        [
            [
                *_first_of_agent(row),
                row["scheme"],
                _interval(row["float_return"]),
                _interval(row["quantized_return"]),
                f"{row['float_return']['mean'] - row['quantized_return']['mean']:z.1f}",
                f"{row['terms']['margin']:.1f}",
                f"{row['episodes']} of {row['max_episodes']}",
                _verdict(row),
            ]
            for row in rows
        ],
    )


def _verdict(row: Row) -> str:
    """Return the verdict, and which criteria it hangs on unless all passed."""
    if row["verdict"] == "PASS":
        return "PASS"
    named = [criterion["name"] for criterion in row["criteria"] if criterion["verdict"] == row["verdict"]]
    return f"{row['verdict']}: {', '.join(named)}"


def _values_table(rows: list[Row]) -> str:
    head = ["agent", "float values", "scheme", "mean \\|error\\|", "95 %", "greatest", "rank correlation"]
    found = []
    for row in rows:
        for value in row.get("values", {}).values():
            reach = f"{value['float_min']:.1f} to {value['float_max']:.1f}"
            errors = (value[f"{kind}_absolute_error"] for kind in ("mean", "p95", "max"))
            cells = [row["scheme"], *(f"{error:.3f}" for error in errors), f"{value['rank_correlation']:.5f}"]
            found.append([*_first_of_agent(row, reach), *cells])
    return _table(head, found)


def _bytes_table(rows: list[Row]) -> str:
    columns = ("flash_bytes", "ram_bytes", "state_bytes", "stack_bytes", "instructions")
    head = ["agent", "scheme", "flash, B", "RAM, B", "of it state, B", "stack, B", "instructions"]
    return _table(
        head,
        [[*_first_of_agent(row), row["scheme"], *(f"{row[key]:,}" for key in columns)] for row in rows],
    )


def _first_of_agent(row: Row, *cells: str) -> list[str]:
    """Return the cells that an agent's rows share: once, in its first."""
    if row["scheme"] == COMPARED[0]:
        return [f"`{row['agent']}`", *cells]
    return [""] * (1 + len(cells))


def _interval(found: Row) -> str:
    return f"{found['mean']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Print the tables as Markdown, or write them to a page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=500, help="most pairs of episodes, as convert's")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the tables into it, at its markers")
    parser.add_argument("--kept", type=Path, metavar="FILE", help="what is measured, kept as it comes (JSON)")
    parser.add_argument("agents", nargs="*", metavar="AGENT", help="all of the zoo by default")
    options = parser.parse_args()
    agents = [find_zoo_agent(name) for name in options.agents] or list(zoo_agents())
    rows = measured(agents, options.episodes, options.kept)
    command = f"python benchmarks/zoo.py --episodes {options.episodes} --page docs/zoo.md"
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    found = tables(rows, f"Made by `{command}` on {date.today()}, edgeqrl {__version__}, {machine}.")
    if options.page is None:
        print("\n\n".join(found.values()))
    else:
        fill_page(options.page, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
