"""Tables of docs/quantization.md from the rows that were measured."""

from collections.abc import Callable, Mapping, Sequence

from benchmarks.quantization.cases import CASES
from benchmarks.quantization.subjects import Row
from edgeqrl.quantize.scheme import BITS, RANGES, Scheme

Rows = Sequence[Row]


def tables(rows: Rows, made: str) -> dict[str, str]:
    """Return Markdown by the marker of its place; a case that was not measured is said to be missing."""
    by_case = {name: [row for row in rows if row["case"] == name] for name in CASES}
    return {
        "quantization targets": f"*{made}*\n\n{_targets(by_case)}",
        "textbook": f"*{made}*\n\n{_by_agent(by_case['textbook'], _TEXTBOOK)}",
        "ranges": f"*{made}*\n\n{_by_agent(by_case['ranges'], {name: f'`{name}`' for name in RANGES})}",
    }


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _targets(by_case: dict[str, list[Row]]) -> str:
    parts = []
    for name, rows in by_case.items():
        case = CASES[name]
        if case.is_reached is None:
            continue
        reached = ("reached" if case.is_reached(rows) else "missed") if rows else "not measured"
        show = _SHOWN.get(name, _paired)
        table = show(rows) if rows else "*Not measured.*"
        parts.append(f"**`{name}`**: {case.claim}. **{reached.capitalize()}.**\n\n{table}")
    return "\n\n".join(parts)


def _samples(rows: Rows) -> str:
    """Show ten calibration samples: what each lost, by both schemes."""
    lines = []
    for scheme in ("int8-bare", "int8"):
        mine = [row for row in rows if row["label"].rsplit(" ", 1)[0] == scheme]
        if mine:
            lost = [f"{-row['gained'][0]:z.1f}" for row in mine]
            returns = sum(row["integer_return"][0] for row in mine) / len(mine)
            least = min(row["integer_return"][0] for row in mine)
            cells = [f"{mine[0]['float_return'][0]:.1f}", f"{returns:.1f}", f"{least:.1f}", ", ".join(lost)]
            lines.append([f"`{scheme}`", *cells, str(mine[0]["episodes"])])
    return markdown(
        ["scheme", "float", "mean", "worst sample", "lost, sample by sample", "episodes each"], lines
    )


def _paired(rows: Rows) -> str:
    lines = []
    for row in rows:
        mean, low, high = row["gained"]
        share = row["lower_bound"] / abs(row["float_return"][0])
        lines.append(
            [
                f"`{row['label']}`",
                _bracketed(row["float_return"]),
                _bracketed(row["integer_return"]),
                f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]",
                f"{row['lower_bound']:+.1f} ({100 * share:+.1f} %)",
                str(row["episodes"]),
            ]
        )
    head = ["scheme", "float return", "integer return", "integer - float", "one-sided 95 % bound", "episodes"]
    return markdown(head, lines)


def _chosen(rows: Rows) -> str:
    lines = []
    for row in rows:
        what = Scheme.from_json(row["scheme"]).label
        hangs = [c["name"] for c in row.get("criteria") or () if c.get("verdict") != "PASS"]
        verdict = row["verdict"] + (f": {', '.join(hangs)}" if hangs else "")
        lines.append(
            [
                f"`{row['agent'].removeprefix('zoo:')}`",
                what,
                f"{row['float_return']['mean']:.1f}",
                f"{row['quantized_return']['mean']:.1f}",
                verdict,
                f"{row['flash_bytes']:,}",
                f"{row['instructions']:,}",
            ]
        )
    head = ["agent", "chosen", "float return", "integer return", "verdict", "flash, B", "instructions"]
    return markdown(head, lines)


def _by_agent(rows: Rows, columns: Mapping[str, str]) -> str:
    """Show the mean return of every agent, a column a label.

    columns  label of the rows -> head
    """
    agents = list(dict.fromkeys(row["agent"] for row in rows))
    if not agents:
        return "*Not measured.*"
    found = {(row["agent"], row["label"]): row for row in rows}
    lines = []
    for agent in agents:
        cells = [found.get((agent, label)) for label in columns]
        first = next(cell for cell in cells if cell is not None)
        returns = ["" if cell is None else f"{cell['integer_return'][0]:.1f}" for cell in cells]
        lines.append([f"`{agent.removeprefix('zoo:')}`", f"{first['float_return'][0]:.1f}", *returns])
    return markdown(["agent", "float", *columns.values()], lines)


def _bracketed(found: Sequence[float]) -> str:
    return f"{found[0]:.1f} [{found[1]:.1f}, {found[2]:.1f}]"


_TEXTBOOK = {f"{bits} bits": f"k = {bits}" for bits in reversed(BITS)}
_SHOWN: dict[str, Callable[[Rows], str]] = {
    **dict.fromkeys(("cartpole-int8", "pendulum-int8", "pendulum-few"), _samples),
    **dict.fromkeys(("zoo-auto", "zoo-4-bits"), _chosen),
}
