"""What `edgeqrl diagnose` shows: small tables, what was found, and the command to try next."""

from collections.abc import Callable, Mapping, Sequence
from math import floor, log10
from typing import Any

Section = Mapping[str, Any]

MAX_ROWS = 8  # of features and of layers; diagnosis.json has more

_SLIGHT = 0.001  # share that is too little to be shown as a number

_PARTS = {
    "play": ("visiting states", "episodes"),
    "coverage": ("measuring ranges", "states"),
    "robustness": ("disturbing", "episodes"),
    "blame": ("blaming layers", "episodes"),
}
_CONDITIONS = {
    "undisturbed": ("undisturbed", ""),
    "sensor_noise": ("sensor noise", "%"),
    "dropped_observations": ("observations lost", "%"),
    "delay": ("observations late", "steps"),
}
_BAR_WIDTH = 12
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def naming_parts(progress: Any) -> Callable[[str, int, int], None]:
    """Return `progress` under the names that people read."""

    def show(part: str, done: int, total: int) -> None:
        label, unit = _PARTS.get(part, (part, ""))
        progress(label, done, total, f"{done:,}/{total:,} {unit}" if total else "")

    return show


def print_diagnosis(folder: str, diagnosis: Section) -> None:
    """Print the diagnosis: the cost first, the reasons, and the next command as the last line."""
    from rich.console import Console
    from rich.markup import escape

    from edgeqrl.diagnose.advice import with_folder

    console = Console()
    is_wrapped = console.is_terminal  # in a file a sentence stays one line

    def say(text: str) -> None:
        console.print(text, soft_wrap=not is_wrapped, highlight=False)

    say(f"[bold]Diagnosis of {escape(folder)}[/]{_played(diagnosis)}")
    for part, show in (
        ("robustness", _robustness),
        ("coverage", _coverage),
        ("blame", _blame),
        ("states", _states),
    ):
        section = diagnosis.get(part) or {}
        if "unavailable" in section:
            say(f"[dim]no {part}: {escape(section['unavailable'])}[/]")
        elif section:
            show(section)
    say("")
    say(_cost(diagnosis))
    advice = diagnosis["advice"]
    for finding in diagnosis.get("findings", ()):
        mark = "[bold yellow]>[/]" if finding["kind"] == advice["kind"] else " "
        say(f"{mark} {escape(finding['sentence'])}")
    if advice["command"] is not None:
        # One line, however wide: it is there to be copied.
        command = with_folder(advice["command"], folder)
        console.print(f"[bold]Next:[/] {escape(command)}", soft_wrap=True, highlight=False)


def bar(share: float, width: int = _BAR_WIDTH) -> str:
    """Return a bar of `share` in [0, 1] of `width` columns."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[part] if part else "")).ljust(width)


def _played(diagnosis: Section) -> str:
    if "seeds" not in diagnosis:
        return ", on recorded observations"
    first, count = diagnosis["seeds"]["first"], diagnosis["seeds"]["count"]
    return f", {count} episodes on {diagnosis['backend']}, seeds {first} to {first + count - 1}"


def _cost(diagnosis: Section) -> str:
    returns = diagnosis.get("returns") or {}
    agree = (diagnosis.get("states") or {}).get("disagreeing")
    actions = "" if agree is None else f" Actions agree in {_percent(1.0 - agree)} of states."
    if "return_drop" not in returns:
        return f"[bold]No return was measured.[/]{actions}"
    drop = returns["return_drop"]
    in_float, quantized = (returns[name]["mean"] for name in ("float_return", "quantized_return"))
    interval = f"[{_number(drop['low'])}, {_number(drop['high'])}]".replace("[", r"\[")
    means = f"int8 returns {_number(quantized)}, float {_number(in_float)}: "
    if drop["low"] > 0.0:
        return f"[bold red]{means}{_number(drop['mean'])} lost[/] {interval}.{actions}"
    word = "nothing lost" if drop["mean"] <= 0.0 else f"{_number(drop['mean'])} lost, which may be chance"
    return f"[bold]{means}{word}[/] {interval}.{actions}"


def _coverage(section: Section) -> None:
    from edgeqrl.cli.show import print_table

    features, layers = _most_telling(section["features"]), _most_telling(section["layers"])
    _feature_table(features, section)
    if not any(_clips(layer) for layer in layers):
        _quietly("Layers", f"none of {len(section['layers'])} outputs is clipped")
        return
    rows = [
        [
            _layer_name(layer["name"]),
            f"{bar(layer['range_used'], 8)} {_percent(layer['range_used'])}",
            str(layer["levels"]),
            _clipped(layer["float_saturated"]),
            _clipped(layer["saturated"]),
        ]
        for layer in layers
    ]
    columns = [
        "layer",
        "of the int8 range",
        "levels",
        "clipped\n(float)",
        "clipped\n(int8)",
    ]
    title = f"Layers: {_of(len(layers), len(section['layers']), 'output')}, where each policy goes"
    print_table(title, columns, rows, right=(2, 3, 4))


def _feature_table(features: Sequence[Section], section: Section) -> None:
    from edgeqrl.cli.show import print_table

    count = section["num_features"]
    if not any(_clips(feature) or feature["is_coarse"] for feature in features):
        _quietly("Observation", f"none of {count} features is clipped or takes too few levels")
        return
    rows = [
        [
            str(feature["index"]),
            f"{feature['minimum']:.3g} … {feature['maximum']:.3g}",
            f"{bar(feature['range_used'], 8)} {_percent(feature['range_used'])}",
            f"{feature['levels']}{' few' if feature['is_coarse'] else ''}",
            _clipped(feature["float_saturated"]),
            _clipped(feature["saturated"]),
        ]
        for feature in features
    ]
    columns = ["feature", "seen", "of the int8 range", "levels"]
    columns += ["clipped\n(float)", "clipped\n(int8)"]
    title = f"Observation: {_of(len(features), count, 'feature')}, where each policy goes"
    print_table(title, columns, rows, right=(3, 4, 5))


def _clips(row: Section) -> bool:
    return bool(max(row["saturated"], row["float_saturated"] or 0.0) >= _SLIGHT)


def _quietly(title: str, sentence: str) -> None:
    from rich.console import Console

    Console().print(f"[bold]{title}:[/] {sentence}.", soft_wrap=True, highlight=False)


def _most_telling(rows: Sequence[Section]) -> list[Section]:
    """Return at most MAX_ROWS, in order: those that clip most, then those with the fewest levels."""
    ordered = sorted(
        range(len(rows)),
        key=lambda i: (
            -(rows[i]["float_saturated"] or 0.0),
            -rows[i]["saturated"],
            not rows[i].get("is_coarse", False),
            rows[i]["levels"],
        ),
    )
    return [rows[index] for index in sorted(ordered[:MAX_ROWS])]


def _states(section: Section) -> None:
    from edgeqrl.cli.show import print_table

    worst = section["worst"]
    if not worst:
        return
    is_error = section["kind"] == "action_error"
    rows = []
    for state in worst:
        place = "" if state["seed"] is None else str(state["seed"])
        actions = [_action(state["float_action"]), _action(state["quantized_action"])]
        if is_error:
            measured = [_number(state["action_error"]), _percent(state["error_of_range"])]
        else:
            measured = [_outputs(state, kind, section["first_action"]) for kind in ("float", "quantized")]
            steps = state.get("margin_in_steps")
            measured.append("" if steps is None else f"{steps:.2g}")
        rows.append([place, str(state["step"]), *actions, *measured])
    measures = ["float\noutputs", "int8\noutputs", "margin,\nint8 steps"]
    columns = [
        "seed",
        "step",
        "float\naction",
        "int8\naction",
        *(["error", "of range"] if is_error else measures),
    ]
    where = "recorded" if worst[0]["seed"] is None else "on the float policy's way"
    print_table(f"Worst states {where}", columns, rows, right=tuple(range(len(columns))))
    below, amiss = section["margin_below_step"], section["disagreeing_below_step"]
    if below is not None:
        there = "" if amiss is None else f", and in {_percent(amiss)} of those where the actions differ"
        _quietly("Margins", f"below one int8 step in {_percent(below)} of states{there}")


def _robustness(section: Section) -> None:
    from edgeqrl.cli.show import print_table

    rows = []
    most = max(
        abs(row[name]["mean"]) for row in section["rows"] for name in ("float_return", "quantized_return")
    )
    for row in section["rows"]:
        name, unit = _CONDITIONS.get(row["condition"], (row["condition"], ""))
        level = row["level"]
        shown = "" if not unit else f" {100 * level:.3g} %" if unit == "%" else f" {level:.3g} {unit}"
        in_float, quantized, drop = (row[key] for key in ("float_return", "quantized_return", "return_drop"))
        rows.append(
            [
                f"{name}{shown}".replace("1 steps", "1 step"),
                _number(in_float["mean"]),
                _number(quantized["mean"]),
                _number(drop["mean"]),
                f"{drop['low']:.3g} … {drop['high']:.3g}",
                bar(abs(drop["mean"]) / most if most else 0.0, 8) if drop["low"] > 0.0 else "",
            ]
        )
    print_table("Disturbed", ["", "float", "int8", "lost", "between", ""], rows, right=(1, 2, 3))


def _blame(section: Section) -> None:
    from edgeqrl.cli.show import print_table

    if all(row["share"] is None for row in section["rows"]):
        _quietly("Blame", "nothing is lost beyond chance, so no layer is to blame")
        return
    rows = []
    for row in section["rows"]:
        name = _layer_name(row["name"]) if row["kind"] == "layer" else f"all {row['name']}"
        share, low, high = (row[key] or 0.0 for key in ("share", "share_low", "share_high"))
        rows.append(
            [
                "observation" if row["kind"] == "observation" else name,
                _number(row["episode_return"]["mean"]),
                f"{round(100 * share)} %",
                f"{round(100 * low)} … {round(100 * high)} %",
                bar(share) if low > 0.0 else "",
            ]
        )
    columns = ["alone in float", "return", "of the loss\nregained", "between", ""]
    print_table("Blame: one part at a time back in float", columns, rows, right=(1, 2, 3))


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
        listed = ", ".join(_number(value) for value in action[:4])
        return f"{listed}, …" if len(action) > 4 else listed
    return str(action)


def _clipped(share: float | None) -> str:
    return "" if share is None else "-" if share == 0.0 else "<0.1 %" if share < _SLIGHT else _percent(share)


def _of(shown: int, total: int, thing: str) -> str:
    things = f"{thing}{'' if total == 1 else 's'}"
    return f"{total} {things}" if shown == total else f"{shown} of {total} {things}, the most telling"


def _layer_name(name: str) -> str:
    return "/".join(name.split(";")[0].split("/")[-2:])


def _percent(share: float) -> str:
    percent = 100.0 * share
    return f"{percent:.0f} %" if percent >= 10.0 or percent == 0.0 else f"{percent:.2g} %"


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10.0 else f"{value:.3g}"
