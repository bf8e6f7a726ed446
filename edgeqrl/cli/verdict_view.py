"""What `convert` and `validate` show of a report: what decides, facts, a plot of the losses, the verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgeqrl.cli.coverage_view import coverage_notes
from edgeqrl.cli.device_view import device_facts, device_notes
from edgeqrl.cli.linux_view import contract_facts, library_line, package_facts
from edgeqrl.cli.loss_plot import ASCII, UNICODE, Signs, loss_plot
from edgeqrl.cli.scheme_names import short_scheme, whole_scheme, wrapped

Report = Mapping[str, Any]

_STYLES = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}
_WORDS = {"PASS": "PASS", "FAIL": "FAIL", "INCONCLUSIVE": "open"}  # of one criterion
_MOST_COLUMNS = 100  # of the plot
_NAME_COLUMNS, _WORSE_COLUMNS = 12, 20  # of a scheme's name, in the table's header
_HEADS = {  # of discrete actions and values
    "argmax": "argmax",
    "multi_discrete": "argmax of each",
    "multi_binary": "threshold of each",
    "categorical": "drawn by softmax",
    "multi_categorical": "each drawn by softmax",
    "bernoulli": "each drawn by its logit",
    "value": "none, a value network",
}


def print_report(report: Report, *, console: Any) -> None:
    """Print a report: table, plot, the facts of device and firmware, and the verdict."""
    from rich.markup import escape
    from rich.text import Text

    signs = signs_of(console)
    if rows(report, signs):
        console.print(_table(report, signs), highlight=False)
    for note in notes(report, signs):
        console.print(f"[dim]{note}[/]", highlight=False)
    if (warning := _warning(report)) is not None:
        line = f"[bold yellow]warning:[/] {escape(warning)}"
        console.print(line, soft_wrap=not console.is_terminal, highlight=False)
    for line in device_notes(report):
        console.print(Text(line), highlight=False)
    for facts in (device_facts(report), _firmware_facts(report), package_facts(report)):
        if facts:
            console.print(_pairs_of_facts(facts), highlight=False)
    print_plot(report, console=console)
    print_verdict(report, console=console)
    if (how := library_line(report)) is not None:
        console.print(Text(how), soft_wrap=not console.is_terminal, highlight=False)


def print_next(report: Report, folder: str, *, console: Any) -> None:
    """Print what to try next, unless all is well; the command in a line of its own, to be copied."""
    from rich.markup import escape

    from edgeqrl.diagnose.case import with_folder

    advice = report.get("next")
    if advice is None or (report.get("verdict") == "PASS" and advice["command"] is None):
        return
    # A command stays one line, however wide; so does a sentence in a file.
    sentence = f"[bold]next:[/] {escape(advice['sentence'])}"
    console.print(sentence, soft_wrap=not console.is_terminal, highlight=False)
    if advice["command"] is not None:
        command = with_folder(advice["command"], folder)
        console.print(f"      {escape(command)}", soft_wrap=True, highlight=False)


def print_verdict(report: Report, *, console: Any) -> None:
    """Print the verdict and the sentence that a person would say."""
    from rich.markup import escape

    verdict = report.get("verdict")
    name = "NO VERDICT" if verdict is None else str(verdict)
    style = _STYLES.get(name, "bold")
    shown = name.replace("_", " ")
    sentence = str(report.get("sentence", "")).removeprefix(f"{shown}: ").removeprefix(f"{name}: ")
    console.print(
        f"[{style}]{shown}[/]  {escape(sentence)}", soft_wrap=not console.is_terminal, highlight=False
    )


def print_plot(report: Report, *, console: Any) -> None:
    """Print the losses of all pairs, the interval of their mean and the margin, if they were judged."""
    from rich.text import Text

    loss = _criterion(report, "return")
    if loss is None:
        return
    signs = signs_of(console)
    detail = report["episodes_detail"]
    plot = loss_plot(
        [a - b for a, b in zip(detail["float_return"], detail["quantized_return"], strict=True)],
        interval=_known_interval(loss),
        margin=loss["limit"],
        width=max(40, min(console.width, _MOST_COLUMNS) - 2),
        signs=signs,
    )
    styles = {
        "bars": "cyan",
        "axis": "dim",
        "interval": _STYLES[loss["verdict"]],
        "margin": "red",
        "label": "",
        "": "",
    }
    ends = f"{signs.ends[0]}{signs.line}{signs.mean}{signs.line}{signs.ends[1]}"
    sides = ((plot.num_left, "left"), (plot.num_right, "right"))
    beyond = " and ".join(f"{count} {side}" for count, side in sides if count)
    caption = f"loss of each pair, float - {short_scheme(report)}{f' ({beyond} of it)' if beyond else ''}"
    console.print(Text(f"{caption}; {ends} their mean", style="dim"))
    for line in plot.lines:
        console.print(Text(" ").append_text(Text.assemble(*[(text, styles[kind]) for text, kind in line])))


def _known_interval(loss: Report) -> tuple[float, float]:
    """Return the ends that hold; the mean stands for one that a breach has left without meaning."""
    low, high = (loss["mean"] if loss[end] is None else loss[end] for end in ("low", "high"))
    return min(low, loss["mean"]), max(high, loss["mean"])


def signs_of(console: Any) -> Signs:
    """Return the signs that the console's encoding can show."""
    return UNICODE if str(console.encoding).lower().startswith("utf") else ASCII


def rows(report: Report, signs: Signs) -> list[tuple[tuple[str, ...], str]]:
    """Return the table's rows, (label, float, int8, worse by, limit, verdict), each with its style."""
    found: list[tuple[tuple[str, ...], str]] = []
    if "float_return" in report:
        in_float, quantized, drop = (
            report[name] for name in ("float_return", "quantized_return", "return_drop")
        )
        means = number(in_float["mean"]), number(quantized["mean"])
        loss = _criterion(report, "return")
        found.append((("mean return", *means, *_judged(loss, loss, 1.0)), ""))
        confidence = f"[{number(drop['low'])}, {number(drop['high'])}] {100 * drop['confidence']:.3g} %"
        approximate = _interval(in_float, signs), _interval(quantized, signs), confidence
        found.append(((f"  approx. {100 * in_float['confidence']:.3g} %", *approximate, "", ""), "dim"))
        failures = report["failures"]
        counts = str(failures["float"]), str(failures["quantized"])
        judged = _criterion(report, "failures")
        found.append((("failed episodes", *counts, *_judged(judged, judged, 100.0)), _dim_unless(judged)))
    found += _chatter_rows(report)
    found += [(row, "dim") for row in _detail_rows(report)]
    return found


def notes(report: Report, signs: Signs) -> list[str]:
    """Return what else one should know, in lines of at most 80 columns."""
    whole = whole_scheme(report)
    parts = [] if whole == short_scheme(report) else [f"scheme: {whole}"]
    if "float_return" in report:
        rho, terms = report["correlation"], report["terms"]
        name = "\N{GREEK SMALL LETTER RHO}" if signs is UNICODE else "rho"
        parts += [
            f"{report['episodes']:,} of at most {report['max_episodes']:,} pairs",
            f"{name} of the pairs {'undefined' if rho is None else f'{rho:.2f}'}",
            f"random actions return {number(report['baseline']['random_return']['mean'])}",
            f"judgement {terms['judgement']} at level {terms['alpha_of_judgement']:.3g}",
            f"{'declared' if terms['is_worst_loss_declared'] else 'assumed'} worst loss "
            f"{number(terms['worst_loss'])}",
        ]
    if "head" in report:
        parts.append(f"action head: {_head(report['head'])}")
    parts += _likeness_notes(report.get("likeness") or {}) + _value_notes(report.get("values") or {})
    parts += coverage_notes(report)
    return _packed(parts, "; ", 80)


def _warning(report: Report) -> str | None:
    """Return what is wrong with the ranges of calibration, if anything is."""
    check = report.get("calibration", {}).get("check")
    return None if check is None else check["warning"]


_STATES = {"policy": "the policy's states", "random actions": "states of random actions"}
_STATES["recorded"] = "recorded states"


def _value_notes(values: Report) -> list[str]:
    """Return how far each value lies from the float network's, and whether states keep their order."""
    found = []
    for name, value in values.items():
        rank = value["rank_correlation"]
        order = "" if rank is None else f", rank correlation {rank:.3f}"
        ends = f"{number(value['float_min'])} to {number(value['float_max'])}"
        where = f"on {_STATES.get(value['states'], 'states of ' + value['states'])}"
        found.append(f"{name} of {ends}: mean error {value['mean_absolute_error']:.2g}{order} {where}")
    return found


def _likeness_notes(likeness: Report) -> list[str]:
    """Return how alike the networks choose, and how far apart the states lie that they lead to."""
    found = []
    regret, kl = likeness.get("regret"), likeness.get("kl")
    if regret is not None:
        found.append(f"regret {regret['mean']:.2g} where the best leads by {regret['gap']:.2g}")
    if kl is not None:
        found.append(f"KL {kl['mean']:.2g} nats")
    shifts = likeness.get("visitation")
    if shifts:
        most = shifts[0]
        noise = "" if most["noise"] is None else f" (noise {most['noise']:.2g})"
        found.append(f"states shift by {most['distance']:.2g} sd{noise}")
    return found


def number(value: float) -> str:
    """Write a number as one reads it, in at most 7 columns or so."""
    size = abs(value)
    text = f"{value:.0f}" if 1e3 <= size < 1e6 else f"{value:.1f}" if 10.0 <= size < 1e3 else f"{value:.3g}"
    return "0" if text == "-0" else text


def _table(report: Report, signs: Signs) -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    rule = signs.axis  # under the header; no other line is drawn
    lines = box.Box(f"    \n    \n {rule * 2} \n    \n    \n    \n    \n    \n", ascii=signs is ASCII)
    table = Table(box=lines, show_edge=False, pad_edge=False, padding=0, header_style="bold")
    found = rows(report, signs)
    is_judged, name = any(cells[4] for cells, _ in found), short_scheme(report)
    worse = f"{name} is worse by"
    if len(worse) > _WORSE_COLUMNS:
        worse = f"{wrapped(name, _WORSE_COLUMNS)}\nis worse by"
    names = (
        "",
        "   float",
        "   " + wrapped(name, _NAME_COLUMNS).replace("\n", "\n   "),
        worse if is_judged else "",
        "limit" if is_judged else "",
        "",
    )
    for column, heading in enumerate(names):
        justify: Any = "left" if column in (0, 5) else "right"
        # What does not fit goes on in the next line, but for labels, limits and verdicts.
        is_whole = column in (0, 4, 5)
        table.add_column(heading, justify=justify, no_wrap=is_whole, overflow="fold")
    for cells, style in found:
        shown = [escape(cell) for cell in cells]
        for verdict, word in _WORDS.items():
            if cells[5] == word:
                shown[5] = f"[{_STYLES[verdict]}]{word}[/]"
        shown[5] = f" {shown[5]}"
        table.add_row(*shown, style=style)
    return table


def _chatter_rows(report: Report) -> list[tuple[tuple[str, ...], str]]:
    """Return what the actions change by from step to step, judged or not.

    Judged is `int8 - (1 + g) float` against a floor; shown is the same as `int8 - float` against a limit that
    `g` times the float policy's mean is added to. The interval belongs to the former, and is not shown.
    """
    judged, likeness = _criterion(report, "chatter"), report.get("likeness") or {}
    detail = report.get("episodes_detail") or {}
    if detail.get("float_chatter"):
        in_float, quantized = (_mean(detail[f"{name}_chatter"]) for name in ("float", "quantized"))
    elif likeness.get("chatter"):
        in_float, quantized = (likeness["chatter"][name]["rate"] for name in ("float", "quantized"))
    else:
        return []
    shown = None
    if judged is not None:
        limit = judged["limit"] + report["terms"]["max_chatter"] * in_float
        shown = {"mean": quantized - in_float, "low": None, "high": None, "limit": limit}
    means = (f"{number(100 * mean)} %" for mean in (in_float, quantized))
    cells = ("chatter a step", *means, *_judged(judged, shown, 100.0))
    return [(cells, _dim_unless(judged))]


def _detail_rows(report: Report) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []

    def add(label: str, in_float: str, quantized: str, worse: str = "") -> None:
        found.append((label, in_float, quantized, worse, "", ""))

    if "float_return" in report:
        tail, worst, lengths = (report[name] for name in ("cvar", "worst_pair", "episode_lengths"))
        label = f"worst {100 * tail['fraction']:.3g} % (CVaR)"
        lost = number(tail["float"] - tail["quantized"])
        add(label, number(tail["float"]), number(tail["quantized"]), lost)
        pair = number(worst["float_return"]), number(worst["quantized_return"])
        add("worst pair", *pair, f"{number(worst['loss'])} (seed {worst['seed']})")
        add("episode length", number(lengths["float"]), number(lengths["quantized"]))
    likeness = report.get("likeness")
    if likeness is not None:
        error, parted = likeness["action_error"], likeness.get("divergence")
        note = f"mean error {error:.3g}" if error is not None else ""
        if not note and parted is not None:
            step = parted["median_step"]
            note = "never part" if step is None else f"part at step {step:.0f}"
        add("same actions", "", f"{100 * likeness['action_agreement']:.1f} %", note)
    return found


def _judged(judged: Report | None, shown: Report | None, factor: float) -> tuple[str, str, str]:
    """Return the cells of a criterion: its mean with both anytime-valid ends, the limit, the verdict."""
    if judged is None or shown is None:
        return "", "", ""
    unit = " %" if factor == 100.0 else ""
    names = [name for name in ("mean", "limit", "low", "high") if shown[name] is not None]
    known = dict(zip(names, _alike([factor * shown[name] for name in names]), strict=True))
    mean, limit, low, high = (known.get(name, "?") for name in ("mean", "limit", "low", "high"))
    interval = "" if low == high == "?" else f" [{low}, {high}]"  # a breach leaves an end without meaning
    return f"{mean}{interval}{unit}", f"{limit}{unit}", _WORDS[judged["verdict"]]


def _alike(values: Sequence[float]) -> list[str]:
    """Write numbers that are compared with equally many decimals: about three digits of the largest."""
    largest = max(abs(value) for value in values)
    if not 1e-3 <= largest < 1e6:
        return [f"{value:.3g}" for value in values]
    steps = ((1e3, 0), (10.0, 1), (0.1, 2), (0.01, 3), (1e-3, 4))
    decimals = next(decimals for least, decimals in steps if largest >= least)
    return [f"{round(value, decimals) + 0.0:.{decimals}f}" for value in values]  # never -0.0


def _criterion(report: Report, name: str) -> Report | None:
    found: Sequence[Report] = report.get("criteria") or ()
    return next((criterion for criterion in found if criterion["name"] == name), None)


def _dim_unless(judged: Report | None) -> str:
    return "" if judged is not None else "dim"


def _firmware_facts(report: Report) -> list[tuple[str, str]]:
    firmware = report.get("firmware")
    if firmware is None:
        return []
    estimate, emulation = firmware["estimate"], report.get("emulation")
    ram = firmware["ram_bytes"] + firmware["stack_bytes"]
    facts = [
        (
            f"flash on {firmware['board']}",
            _share(firmware["flash_bytes"], firmware["flash_available_bytes"]),
        ),
        ("instructions a step", f"{firmware['instructions']:,}"),
        ("RAM, stack included", _share(ram, firmware["ram_available_bytes"])),
        *(
            (use["name"], _share(use["bytes"], use["available_bytes"]))
            for use in firmware["regions"]
            if use["name"] not in ("flash", "ram")
        ),
        ("time a step, estimate", f"{estimate['us'] / 1e3:.2f} ms"),
    ]
    facts += _stack_facts(report) + contract_facts(report)
    if emulation is not None:
        steps = f"{emulation['num_steps']:,} steps as host C"
        played = emulation["episodes"]
        facts.append((f"{played} episode{'' if played == 1 else 's'}, {emulation['level']}", steps))
    return facts


def _stack_facts(report: Report) -> list[tuple[str, str]]:
    """Return the stack of a step and, apart, what interrupts put on any stack."""
    realtime = report.get("realtime")
    if realtime is None:
        return []
    stack = realtime["stack"]
    exceptions = stack["exceptions"]
    frame = exceptions["frame_bytes_in_use"] or exceptions["frame_bytes"]
    return [
        ("stack of a step", f"{stack['step_bound_bytes']:,} B"),
        ("an interrupt: frame + handler", f"{frame:,} + {exceptions['handler_bound_bytes']:,} B"),
    ]


def _pairs_of_facts(facts: Sequence[tuple[str, str]]) -> Any:
    """Return facts in two columns."""
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    for column in range(4):
        table.add_column(justify="right" if column % 2 else "left")
    for first in range(0, len(facts), 2):
        table.add_row(*(escape(cell) for fact in facts[first : first + 2] for cell in fact))
    return table


def _packed(parts: Sequence[str], separator: str, width: int) -> list[str]:
    """Return the parts in as few lines as hold them."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(separator) + len(part) <= width - 1:
            lines[-1] += separator + part
        else:
            lines.append(part)
    return lines


def _interval(value: Report, signs: Signs) -> str:
    return f"{number(value['low'])}{signs.to}{number(value['high'])}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _head(head: Report) -> str:
    if head["kind"] in _HEADS:
        return _HEADS[head["kind"]]
    is_scaled = any(gain != 1.0 for gain in head["gain"]) or any(head["offset"])
    where = "scale to the bounds" if is_scaled else "clip to the bounds"
    if head["kind"] == "box":
        return where
    return f"drawn (Gaussian{', tanh' if head['is_squashed'] else ''}), {where}"


def _share(used: int, available: int) -> str:
    return f"{used:,} B ({100 * used / available:.2g} %)"
