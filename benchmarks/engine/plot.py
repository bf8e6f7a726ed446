"""The README's picture: instructions a multiply-accumulate, ours and the recorded ones of other engines."""

import io
from collections.abc import Sequence
from typing import Any

from benchmarks.engine.gate import is_gate
from benchmarks.engine.measure import Row
from benchmarks.engine.recorded import rivals, rivals_on

_OURS = "edgeqrl"
_BLUE, _ORANGE, _GREY = "#4c72b0", "#dd8452", "0.55"
_CORES = {"cortex-m0plus": "Cortex-M0+", "cortex-m4": "Cortex-M4", "cortex-m55": "Cortex-M55 (Helium)"}
_STYLES: dict[str, dict[str, Any]] = {
    "CMSIS-NN called directly": {"color": _ORANGE, "marker": "D", "s": 24},
    "TFLM + CMSIS-NN": {"color": _ORANGE, "marker": "D", "s": 24, "facecolors": "none"},
}
_FLOAT: dict[str, Any] = {"color": _GREY, "marker": "s", "s": 18}
_NAMES = {
    "a": "a  4-64-64-2",
    "b": "b  8-256-256-4",
    "c": "c  17-64-64-6, tanh",
    "d": "d  17-256-256-6",
    "e": "e  conv, 10x10x4",
    "f": "f  conv, 84x84x1",
}


def draw(rows: Sequence[Row]) -> str:
    """Return an SVG of the gate's rows, one panel a core, fewer instructions to the left."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "edgeqrl", "font.size": 9})
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot as plt

    found = [row for row in rows if is_gate(row)]
    cores = [core for core in _CORES if any(row["core"] == core for row in found)]
    size = {"figsize": (3 * len(cores), 2.9), "squeeze": False}
    figure, (panels,) = plt.subplots(1, len(cores), sharey=True, layout="constrained", **size)
    for axes, core in zip(panels, cores, strict=True):
        _draw_core(axes, core, {row["model"]: row for row in found if row["core"] == core})
    panels[0].set(yticks=range(len(_NAMES)), yticklabels=list(_NAMES.values()))
    panels[0].set_ylim(len(_NAMES) - 0.5, -0.5)
    labelled: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    labels = sorted(labelled, key=lambda label: label != _OURS)
    figure.legend(
        [labelled[label] for label in labels], labels, frameon=False, loc="outside lower center", ncols=5
    )
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _draw_core(axes: Any, core: str, found: dict[str, Row]) -> None:
    macs = {model: row["macs"] for model, row in found.items()}
    for engine in dict.fromkeys(name for model in found for name in rivals_on(core, model)):
        is_float = engine in rivals()["float_engines"]
        points = [
            (rivals_on(core, model)[engine] / macs[model], place)
            for place, model in enumerate(_NAMES)
            if model in found and engine in rivals_on(core, model)
        ]
        label = "float32: RLtools, onnx2c, any" if is_float else engine
        axes.scatter(*zip(*points, strict=True), label=label, **(_FLOAT if is_float else _STYLES[engine]))
    present = [(place, found[model]) for place, model in enumerate(_NAMES) if model in found]
    own = [(row["instructions"] / row["macs"], place) for place, row in present]
    axes.scatter(*zip(*own, strict=True), color=_BLUE, s=40, zorder=3, label=_OURS)
    axes.set_xscale("log")
    axes.set_title(_CORES[core], loc="left")
    axes.set_xlabel("instructions a multiply-accumulate")
    low, high = axes.get_xlim()
    ticks = [t for t in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if low <= t <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="y", lw=0.4, color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
