"""How a scheme was chosen, as a table: what was tried, what it loses, what it costs."""

from collections.abc import Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]

_STYLES = {"holds": "green", "loses": "red", "over budget": "red", "impossible": "dim", "pruned": "dim"}
_MOST_ROWS = 16
_LEAST_NAME = 16  # columns of a scheme's name
_OTHER_COLUMNS = 64  # that the rest takes at the most


def print_choice(choice: Facts, *, console: Any) -> None:
    """Print what was tried, the chosen one marked, and the sentence that says why."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from edgeqrl.cli.scheme_names import wrapped
    from edgeqrl.cli.verdict_view import number

    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold"
    )
    name_columns = max(_LEAST_NAME, console.width - _OTHER_COLUMNS)
    names = ("scheme", "return lost", "pairs", "bytes", "instructions", "")
    for column, name in enumerate(names):
        justify: Any = "right" if 0 < column < 5 else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=column == 1)
    shown = shown_candidates(choice)
    for found in shown:
        costs, loss = found["costs"] or {}, found["measures"][0] if found["measures"] else None
        lost = "" if loss is None else f"{number(loss['mean'])} ± {number(loss['high'] - loss['mean'])}"
        style = _STYLES.get(found["outcome"], "")
        told = _outcome(found)
        word = f"[{style}]{told}[/]" if style else told
        is_winner = found["name"] == choice["winner"]
        table.add_row(
            escape(wrapped(found["name"], name_columns)),
            lost,
            f"{found['pairs']:,}" if found["pairs"] else "",
            f"{costs['flash_bytes']:,}" if costs else "",
            f"{costs['instructions']:,}" if costs else "",
            f"{word}, chosen" if is_winner else word,
            style="bold" if is_winner else "",
        )
    console.print(table, highlight=False)
    left_out = len(choice["candidates"]) - len(shown)
    if left_out:
        console.print(f"[dim]{left_out:,} more, which others beat, are in the report[/]", highlight=False)
    again = " It was chosen before, and taken again." if choice["is_reused"] else ""
    console.print(f"{escape(choice['sentence'])}{again}", soft_wrap=not console.is_terminal, highlight=False)


def _outcome(found: Facts) -> str:
    """Return the outcome, and what it came from where that is not the return."""
    if found["outcome"] not in ("loses", "open") or not found["measures"]:
        return str(found["outcome"])
    worst = max(found["measures"], key=lambda measure: float(measure["mean"] / measure["limit"]))
    return str(found["outcome"]) if worst["name"] == "return" else f"{found['outcome']} ({worst['name']})"


def shown_candidates(choice: Facts) -> Sequence[Facts]:
    """Return the candidates that a person wants to see: all of a few, else the winner and the front."""
    candidates: Sequence[Facts] = choice["candidates"]
    if len(candidates) <= _MOST_ROWS:
        return candidates
    winner = next(found for found in candidates if found["name"] == choice["winner"])
    others = [found for found in candidates if found["is_on_front"] and found is not winner]
    chosen = [winner, *others[: _MOST_ROWS - 1]]
    return sorted(chosen, key=lambda found: (found["costs"]["flash_bytes"], found["costs"]["instructions"]))
