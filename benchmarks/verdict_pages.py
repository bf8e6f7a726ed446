"""Tables and pictures of what benchmarks/verdict.py measured."""

import re
from pathlib import Path
from typing import Any

Result = dict[str, Any]
Row = dict[str, Any]
BLUE, ORANGE, RED, GREY = "#4c72b0", "#dd8452", "#c44e52", "0.55"
TYPICAL = 40  # L in margins, of the default terms


def tables(result: Result) -> dict[str, str]:
    """Return the Markdown tables by the marker of their place in the page."""
    return {
        "type one": _type_one_table(result),
        "long": _long_table(result),
        "verdict": _verdict_table(result),
        "outside": _outside_table(result),
        "episodes": _episodes_table(result),
        "drops": _drops_table(result),
        "power": _power_table(result),
        "alternatives": _alternatives_table(result),
    }


def fill_page(page: Path, found: dict[str, str]) -> None:
    """Write each table between the page's two comments of its name."""
    text = page.read_text()
    for marker, table in found.items():
        pattern = rf"(<!-- {marker} -->\n).*?(<!-- end {marker} -->)"
        places = list(re.finditer(pattern, text, re.DOTALL))
        if len(places) != 1:
            raise SystemExit(f"{page} has no place for '{marker}'")
        text = f"{text[: places[0].end(1)]}{table}\n{text[places[0].start(2) :]}"
    page.write_text(text)


def draw_plots(result: Result, folder: Path) -> None:
    """Write verdict-type-one.svg, verdict-power.svg and verdict-episodes.svg."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "edgeqrl", "font.size": 9})
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("type-one", _draw_type_one), ("power", _draw_power), ("episodes", _draw_episodes)):
        draw(result).savefig(folder / f"verdict-{name}.svg", metadata={"Date": None})


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _episodes(at: int | None, most: int) -> str:
    return f"{at:,}" if at is not None else f"> {most:,}"


def _type_one_table(result: Result) -> str:
    most, fixed = result["most_episodes"], result["fixed_episodes"]
    columns = {
        f"pass_{fixed}": f"betting: PASS by {fixed}",
        f"pass_{most}": f"by {most:,}",
        f"fail_{most}": f"FAIL by {most:,}",
        f"fail_just_below_{most}": "FAIL at 0.95 δ",
        f"t_{fixed}": f"t-test: n = {fixed}",
        "t_peeking": "peeking",
        "t_bonferroni": "Bonferroni",
        f"bca_{fixed}": f"BCa: n = {fixed}",
        "bca_peeking": "peeking",
        "bca_bonferroni": "Bonferroni",
    }
    return _table(
        ["drops", "L/δ", *columns.values()],
        [
            [row["world"], f"{row['worst_loss']:g}", *(_percent(row[key]) for key in columns)]
            for row in result["type_one"]
        ],
    )


def _long_table(result: Result) -> str:
    return _table(
        ["drops", "episodes", "wrong PASS, %"],
        [[row["world"], f"{row['episodes']:,}", _percent(row["pass"])] for row in result["long"]],
    )


def _verdict_table(result: Result) -> str:
    return _table(
        ["true means", "alpha", "PASS, %", "FAIL, %", "median episodes"],
        [
            [
                row["case"],
                f"{row['alpha']:g}",
                _percent(row["pass"]),
                _percent(row["fail"]),
                f"{row['median_episodes']:,}",
            ]
            for row in result["verdict"]
        ],
    )


def _outside_table(result: Result) -> str:
    most, fixed = result["most_episodes"], result["fixed_episodes"]
    keys = ("pass", "fail", f"t_{fixed}", f"bca_{fixed}", f"bca_{most}")
    head = ["drops", "true mean, δ", "betting: PASS", "FAIL", f"t-test, n = {fixed}: PASS"]
    head += [f"BCa, n = {fixed}: PASS", f"n = {most:,}: PASS"]
    return _table(
        head,
        [[row["world"], row["mean"], *(_percent(row[key]) for key in keys)] for row in result["outside"]],
    )


def _pick(result: Result, **wanted: float) -> list[Row]:
    return [row for row in result["power"] if all(row[key] == value for key, value in wanted.items())]


def _values(result: Result, key: str) -> list[float]:
    return sorted({row[key] for row in result["power"]})


def _cell(row: Row, most: int) -> str:
    return f"{_episodes(row['median'], most)} / {_episodes(row['ninety'], most)}"


def _episodes_table(result: Result) -> str:
    most = result["most_episodes"]
    head = ["sd/δ", *(f"L = {worst} δ" for worst in _values(result, "worst_loss")), "t-test, 90 %"]
    rows = []
    for spread in _values(result, "spread"):
        found = _pick(result, spread=spread, drop=0)
        rows.append([f"{spread}", *(_cell(row, most) for row in found), f"{found[0]['t_test_ninety']:,}"])
    return _table(head, rows)


def _drops_table(result: Result) -> str:
    most = result["most_episodes"]
    drops = _values(result, "drop")
    head = ["sd/δ", *(f"{drop:g} δ: {'PASS' if drop < 1 else 'FAIL'}" for drop in drops)]
    rows = [
        [
            f"{spread}",
            *(_cell(_pick(result, spread=spread, drop=drop, worst_loss=TYPICAL)[0], most) for drop in drops),
        ]
        for spread in _values(result, "spread")
    ]
    return _table(head, rows)


def _power_table(result: Result) -> str:
    fixed, most = result["fixed_episodes"], result["most_episodes"]
    worsts = _values(result, "worst_loss")[:3]
    head = ["sd/δ", *(f"L = {worst} δ" for worst in worsts), f"t-test, n = {fixed}"]
    rows = []
    for spread in _values(result, "spread"):
        found = [_pick(result, spread=spread, drop=0, worst_loss=worst)[0] for worst in worsts]
        cells = [" / ".join(f"{row[f'power_{n}']:.2f}" for n in (fixed, 1000, most)) for row in found]
        rows.append([f"{spread}", *cells, f"{found[0][f't_test_power_{fixed}']:.2f}"])
    return _table(head, rows)


def _alternatives_table(result: Result) -> str:
    return _table(
        ["another way to bet", "mean", "at best", "at worst"],
        [
            [row["name"], f"{row['mean']:.2f}", f"{row['best']:.2f}", f"{row['worst']:.2f}"]
            for row in result["alternatives"]
        ],
    )


def _draw_type_one(result: Result) -> Any:
    from matplotlib import pyplot as plt

    rows = result["type_one"][::-1]
    most, fixed = result["most_episodes"], result["fixed_episodes"]
    figure, axes = plt.subplots(figsize=(8, 4.4), layout="constrained")
    places = range(len(rows))
    axes.axvline(100 * result["alpha"], color=RED, lw=1)
    axes.text(100 * result["alpha"] + 0.6, len(rows) - 0.4, "alpha", color=RED, va="bottom")
    for key, label, colour, marker in (
        ("t_peeking", f"t-test, {len(result['looks'])} looks", GREY, "s"),
        (f"bca_{fixed}", f"BCa, n = {fixed}", ORANGE, "D"),
        (f"pass_{most}", f"betting, a look after each of {most:,}", BLUE, "o"),
    ):
        shares = [100 * row[key] for row in rows]
        axes.scatter(shares, places, color=colour, marker=marker, s=26, label=label, zorder=3, clip_on=False)
    axes.set(yticks=list(places), yticklabels=[row["world"] for row in rows], xlim=(-1, 100))
    axes.set_xlabel("PASS although the true mean drop is the whole margin, % of runs")
    axes.grid(axis="y", lw=0.4, color="0.9")
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.08))
    return figure


def _draw_power(result: Result) -> Any:
    from matplotlib import pyplot as plt

    most, fixed = result["most_episodes"], result["fixed_episodes"]
    figure, panels = plt.subplots(1, 2, figsize=(8, 2.9), sharey=True, layout="constrained")
    for axes, drop in zip(panels, (0.0, 0.5), strict=True):
        rows = _pick(result, drop=drop, worst_loss=TYPICAL)
        spreads = [row["spread"] for row in rows]
        for key, label, style in (
            (f"t_test_power_{fixed}", f"t-test, n = {fixed}, one look", {"color": GREY, "ls": "--"}),
            (f"power_{fixed}", f"betting, at most {fixed}", {"color": BLUE, "alpha": 0.45}),
            ("power_1000", "at most 1,000", {"color": BLUE, "alpha": 0.7}),
            (f"power_{most}", f"at most {most:,}", {"color": BLUE, "lw": 2}),
        ):
            axes.plot(spreads, [100 * row[key] for row in rows], label=label, **style)
        axes.set(xlabel="spread of the drops, in margins", ylim=(-2, 102), xlim=(0, max(spreads)))
        axes.set_xticks([0, 3, 5, 7, 10, 14, 20])
        what = "nothing lost" if drop == 0 else "half the margin lost"
        axes.set_title(f"{what}, L = {TYPICAL} margins", loc="left")
    panels[0].set_ylabel("PASS, % of runs")
    panels[1].legend(frameon=False, loc="upper right", fontsize=8)
    return figure


def _draw_episodes(result: Result) -> Any:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    worsts = _values(result, "worst_loss")
    for worst, depth in zip(worsts, (0.4, 0.6, 0.8, 1.0), strict=True):
        rows = [row for row in _pick(result, drop=0, worst_loss=worst) if row["ninety"] is not None]
        colour = plt.get_cmap("Blues")(depth)
        axes.plot([row["spread"] for row in rows], [row["ninety"] for row in rows], color=colour, lw=2)
        axes.text(0.1, 0.9 * rows[0]["ninety"], f"L = {worst} margins", color=colour, va="top")
    rows = [row for row in _pick(result, drop=0, worst_loss=TYPICAL) if 1 <= row["spread"] <= 10]
    axes.plot([row["spread"] for row in rows], [row["t_test_ninety"] for row in rows], color=GREY, ls="--")
    axes.text(2.2, 34, "t-test of a fixed n", color=GREY, va="top")
    axes.set(yscale="log", ylim=(10, result["most_episodes"]), xlim=(0, 10), xticks=[0, 1, 2, 3, 5, 7, 10])
    axes.set(yticks=[10, 30, 100, 300, 1000, 2000], yticklabels=["10", "30", "100", "300", "1,000", "2,000"])
    axes.minorticks_off()
    axes.set(xlabel="spread of the drops, in margins", ylabel="episodes")
    axes.set_title("Nothing lost: by then, nine runs in ten have their PASS", loc="left")
    return figure
