"""What `edgeqrl diagnose` shows: what is amiss in small tables, what was found, the command to try next.

What is well takes one line; diagnosis.json has it all.
"""

from collections.abc import Callable, Mapping, Sequence
from math import floor, log10
from typing import Any

from edgeqrl.cli.loss_plot import ASCII, UNICODE, Signs
from edgeqrl.cli.verdict_view import number, signs_of
from edgeqrl.diagnose.finding import layer_name, percent

Section = Mapping[str, Any]
Columns = Mapping[str, str]  # name -> "left" or "right"

MAX_ROWS = 4  # of a table
MAX_STATES = 3

_SLIGHT = 0.001  # share that is too little to be shown as a number
_NARROW = 72  # columns: with fewer, what can be missed is left out

_PARTS = {
    "play": ("visiting states", "episodes"),
    "coverage": ("measuring ranges", "states"),
    "robustness": ("disturbing", "episodes"),
    "blame": ("blaming layers", "episodes"),
}
_CONDITIONS = {
    "undisturbed": "undisturbed",
    "sensor_noise": "noise of {percent} %",
    "dropped_observations": "{percent} % lost",
    "delay": "{level} late",
}
_BAR_WIDTH = 12


def naming_parts(progress: Any) -> Callable[[str, int, int], None]:
    """Return `progress` under the names that people read."""

    def show(part: str, done: int, total: int) -> None:
        label, unit = _PARTS.get(part, (part, ""))
        progress(label, done, total, f"{done:,}/{total:,} {unit}" if total else "")

    return show


def print_diagnosis(folder: str, diagnosis: Section, *, console: Any = None) -> None:
    """Print the diagnosis: what is amiss, the cost, the reasons, and the next command as the last line."""
    from rich.console import Console
    from rich.markup import escape

    from edgeqrl.diagnose.case import with_folder

    page = _Page(console or Console(), is_wide=diagnosis.get("activations") == "int16")
    page.say(f"[bold]Diagnosis of {escape(folder)}[/]{escape(_played(diagnosis))}")
    missing: dict[str, list[str]] = {}  # by the reason
    for part, show in (
        ("robustness", _robustness),
        ("coverage", _coverage),
        ("blame", _blame),
        ("states", _states),
    ):
        section = diagnosis.get(part) or {}
        if "unavailable" in section:
            missing.setdefault(section["unavailable"], []).append(part)
        elif section:
            show(page, section)
    for reason, parts in missing.items():
        page.say(f"[dim]no {', '.join(parts)}: {escape(reason)}[/]")
    page.say("")
    page.say(_cost(diagnosis, page.scheme))
    advice = diagnosis["advice"]
    for finding in diagnosis.get("findings", ()):
        page.finding(finding["sentence"], is_first=finding["kind"] == advice["kind"])
    if advice["command"] is not None:
        # One line, however wide: it is there to be copied.
        command = with_folder(advice["command"], folder)
        page.console.print(f"[bold]Next:[/] {escape(command)}", soft_wrap=True, highlight=False)


def bar(share: float, width: int = _BAR_WIDTH, signs: Signs = UNICODE) -> str:
    """Return a bar of `share` in [0, 1] of `width` columns."""
    filled = min(max(share, 0.0), 1.0) * width
    if signs is ASCII:
        return ("#" * round(filled)).ljust(width)
    full, part = divmod(round(8 * filled), 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[part] if part else "")).ljust(width)


class _Page:
    """Where it is written, with which signs, and of which scheme."""

    def __init__(self, console: Any, *, is_wide: bool = False) -> None:
        self.console, self.signs = console, signs_of(console)
        self.scheme, self.dtype = ("int16x8", "int16") if is_wide else ("int8", "int8")
        self.is_narrow = console.width < _NARROW

    def say(self, text: str) -> None:
        """Print a sentence; in a file it stays one line."""
        self.console.print(text, soft_wrap=not self.console.is_terminal, highlight=False)

    def finding(self, sentence: str, *, is_first: bool) -> None:
        """Print what was found, with a mark before what to try first."""
        from rich.markup import escape
        from rich.table import Table

        mark = "[bold yellow]>[/]" if is_first else " "
        if not self.console.is_terminal:
            self.say(f"{mark} {escape(sentence)}")
            return
        grid = Table.grid(padding=(0, 1, 0, 0))  # so that what is wrapped is indented
        grid.add_row(mark, escape(sentence))
        self.console.print(grid, highlight=False)

    def table(self, columns: Columns, rows: Sequence[Sequence[str]]) -> None:
        """Print a table without lines but under its header."""
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        rule = self.signs.axis
        lines = box.Box(
            f"    \n    \n {rule * 2} \n    \n    \n    \n    \n    \n", ascii=self.signs is ASCII
        )
        table = Table(box=lines, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for name, justify in columns.items():
            side: Any = justify
            table.add_column(escape(name), justify=side, overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.console.print(table, highlight=False)

    def span(self, low: float, high: float) -> str:
        """Write from where to where."""
        between = self.signs.to if self.is_narrow else f" {self.signs.to} "
        return f"{low:.3g}{between}{high:.3g}"


def _played(diagnosis: Section) -> str:
    if "seeds" not in diagnosis:
        return ", on recorded observations"
    first, count = diagnosis["seeds"]["first"], diagnosis["seeds"]["count"]
    where = f" in {diagnosis['environment']}" if diagnosis.get("environment") else ""
    return f"{where}, {count} episodes on {diagnosis['backend']}, seeds from {first}"


def _cost(diagnosis: Section, scheme: str) -> str:
    returns = diagnosis.get("returns") or {}
    agree = (diagnosis.get("states") or {}).get("disagreeing")
    actions = "" if agree is None else f" Actions agree in {percent(1.0 - agree)} of states."
    if "return_drop" not in returns:
        return f"[bold]No return was measured.[/]{actions}"
    drop = returns["return_drop"]
    in_float, quantized = (returns[name]["mean"] for name in ("float_return", "quantized_return"))
    interval = f"[{number(drop['low'])}, {number(drop['high'])}]".replace("[", r"\[")
    means = f"{scheme} returns {number(quantized)}, float {number(in_float)}: "
    if drop["low"] > 0.0:
        return f"[bold red]{means}{number(drop['mean'])} lost[/] {interval}.{actions}"
    word = "nothing lost" if drop["mean"] <= 0.0 else f"{number(drop['mean'])} lost, which may be chance"
    return f"[bold]{means}{word}[/] {interval}.{actions}"


def _robustness(page: _Page, section: Section) -> None:
    rows, at_rest = section["rows"], section["rows"][0]
    usual = max(0.0, at_rest["return_drop"]["high"])
    worse = [row for row in rows[1:] if row["return_drop"]["low"] > usual]
    if not worse:
        count = len(rows) - 1
        page.say(f"[bold]Disturbed:[/] none of {count} disturbances costs {page.scheme} clearly more.")
        return
    most = sorted(worse, key=lambda row: -float(row["return_drop"]["mean"]))[:MAX_ROWS]
    shown = []
    for row in (row for row in rows if row is at_rest or row in most):
        drop = row["return_drop"]
        means = (number(value["mean"]) for value in (row["float_return"], row["quantized_return"], drop))
        shown.append([_condition(row), *means, page.span(drop["low"], drop["high"])])
    names = ("float", page.scheme, "lost", "between")
    page.table({"observations": "left"} | dict.fromkeys(names, "right"), shown)
    rest = len(rows) - 1 - len(worse)
    if rest:
        cost = "disturbances cost" if rest > 1 else "disturbance costs"
        page.say(f"[dim]{rest} other {cost} {page.scheme} no more.[/]")


def _condition(row: Section) -> str:
    level = row["level"]
    words = _CONDITIONS.get(row["condition"], str(row["condition"]))
    return words.format(percent=f"{100 * level:.3g}", level=f"{level:g} step{'' if level == 1 else 's'}")


def _coverage(page: _Page, section: Section) -> None:
    from edgeqrl.diagnose.coverage import ENOUGH_STATES

    clipped = ("clipped: float", page.scheme)
    features = _in_trouble(section["features"])
    if features:
        has_no_levels = page.is_narrow and not any(feature["is_coarse"] for feature in features)
        rows = [
            [
                f"feature {feature['index']}",
                page.span(feature["minimum"], feature["maximum"]),
                page.span(*feature["range"]),
                *([] if has_no_levels else [f"{feature['levels']}{' few' if feature['is_coarse'] else ''}"]),
                *_clipped(feature),
            ]
            for feature in features[:MAX_ROWS]
        ]
        names = (
            "seen",
            f"{page.dtype} holds",
            *([] if has_no_levels else ["levels"]),
            *clipped,
        )
        page.table({"input": "left"} | dict.fromkeys(names, "right"), rows)
        _more(page, features, "feature")
    else:
        levels = " or takes too few levels" if section["num_states"] >= ENOUGH_STATES else ""
        page.say(f"[bold]Observation:[/] none of {section['num_features']} features is clipped{levels}.")
    layers = _in_trouble(section["layers"])
    if layers:
        rows = [
            [layer_name(layer["name"]), str(layer["levels"]), *_clipped(layer)] for layer in layers[:MAX_ROWS]
        ]
        page.table({"output of layer": "left"} | dict.fromkeys(("levels", *clipped), "right"), rows)
        _more(page, layers, "layer")
    else:
        page.say(f"[bold]Layers:[/] none of {len(section['layers'])} outputs is clipped.")


def _in_trouble(rows: Sequence[Section]) -> list[Section]:
    """Return those that clip, or have too few levels, the worst first."""

    def trouble(row: Section) -> tuple[float, float, int]:
        return -(row["float_saturated"] or 0.0), -row["saturated"], row["levels"]

    found = [row for row in rows if _clips(row) or row.get("is_coarse", False)]
    return sorted(found, key=trouble)


def _clips(row: Section) -> bool:
    return bool(max(row["saturated"], row["float_saturated"] or 0.0) >= _SLIGHT)


def _more(page: _Page, rows: Sequence[Section], thing: str) -> None:
    count = len(rows) - MAX_ROWS
    if count > 0:
        page.say(f"[dim]and {count} {thing}{'' if count == 1 else 's'} more, in diagnosis.json[/]")


def _blame(page: _Page, section: Section) -> None:
    if all(row["share"] is None for row in section["rows"]):
        page.say("[bold]Blame:[/] nothing is lost beyond chance, so no layer is to blame.")
        return
    helping = [row for row in section["rows"] if (row["share_low"] or 0.0) > 0.0]
    most = sorted(helping, key=lambda row: -float(row["share"]))[:MAX_ROWS]
    if not most:
        page.say("[bold]Blame:[/] no part alone brings anything back beyond chance.")
        return
    rows = []
    for row in (row for row in helping if row in most):
        name = layer_name(row["name"]) if row["kind"] == "layer" else f"all {row['name']}"
        share, low, high = (row[key] for key in ("share", "share_low", "share_high"))
        cells = [
            "observation" if row["kind"] == "observation" else name,
            number(row["episode_return"]["mean"]),
            f"{round(100 * share)} %",
            f"{round(100 * low)} {page.signs.to} {round(100 * high)} %",
        ]
        rows.append(cells if page.is_narrow else [*cells, bar(share, signs=page.signs)])
    columns = {"alone in float": "left"} | dict.fromkeys(
        ("returns", "of the loss regained", "between"), "right"
    )
    page.table(columns if page.is_narrow else columns | {"": "left"}, rows)


def _states(page: _Page, section: Section) -> None:
    worst = section["worst"][:MAX_STATES]
    if not worst:
        return
    is_error = section["kind"] == "action_error"
    rows = []
    for state in worst:
        place = [] if state["seed"] is None else [str(state["seed"])]
        cells = [
            *place,
            str(state["step"]),
            _action(state["float_action"]),
            _action(state["quantized_action"]),
        ]
        if is_error:
            cells += [number(state["action_error"]), percent(state["error_of_range"])]
        else:
            kinds = ("float",) if page.is_narrow else ("float", "quantized")
            cells += [_outputs(state, kind, section["first_action"]) for kind in kinds]
            steps = state.get("margin_in_steps")
            cells.append("" if steps is None else f"{steps:.2g} step{'' if steps == 1 else 's'}")
        rows.append(cells)
    is_played = worst[0]["seed"] is not None
    outputs = ("float outputs",) if page.is_narrow else ("float outputs", f"{page.scheme} outputs")
    measures = ("error", "of range") if is_error else (*outputs, "best leads by")
    names = (*(("seed",) if is_played else ()), "step", "float", page.scheme, *measures)
    page.say(f"[bold]Worst actions {'on the way of the float policy' if is_played else 'recorded'}[/]")
    page.table(dict.fromkeys(names, "right"), rows)
    below, amiss = section["margin_below_step"], section["disagreeing_below_step"]
    if below is not None:
        there = "" if amiss is None else f", {percent(amiss)} of those where actions differ"
        step = f"one {page.dtype} step"
        page.say(f"The best output leads by less than {step} in {percent(below)} of states{there}.")


def _outputs(state: Section, kind: str, first_action: int) -> str:
    """Return how a policy values the action of the float policy against that of the quantized one."""
    outputs = state.get(f"{kind}_outputs")
    if outputs is None:
        return ""
    one, other = (outputs[state[f"{who}_action"] - first_action] for who in ("float", "quantized"))
    sign = "=" if one == other else ">" if one > other else "<"
    # As many decimals as show what the float outputs differ by, however far from 0 they lie.
    decimals = 1 - floor(log10(state["regret"])) if 1e-6 < state["regret"] < 10.0 else 1
    return f"{one:.{decimals}f} {sign} {other:.{decimals}f}"


def _action(action: Any) -> str:
    if isinstance(action, list):
        listed = ", ".join(number(value) for value in action[:4])
        return f"{listed}, .." if len(action) > 4 else listed
    return str(action)


def _clipped(row: Section) -> list[str]:
    """Return which shares are clipped where the float, and where the quantized policy goes."""
    shares = row["float_saturated"], row["saturated"]
    return [
        "" if share is None else "-" if share == 0.0 else "<0.1 %" if share < _SLIGHT else percent(share)
        for share in shares
    ]
