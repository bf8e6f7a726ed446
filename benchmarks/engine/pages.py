"""The tables of docs/benchmarks.md, from measured rows and recorded numbers."""

from collections.abc import Sequence

from benchmarks.engine.gate import is_gate, ram_beyond
from benchmarks.engine.measure import Row
from benchmarks.engine.recorded import rivals, rivals_on, target_of, targets

_SHORT = {"arm-none-eabi-gcc": "GCC", "riscv64-unknown-elf-gcc": "GCC"}
_BYTES = {"flash": "ade", "ram": "ad", "stack": "ad"}  # of which other engines' are recorded


def tables(rows: Sequence[Row], made: str) -> dict[str, str]:
    """Return the Markdown tables by the marker of their place in the page; `made` says by what command."""
    plain = [row for row in rows if row["weight_bits"] == 8]
    return {
        "engine": f"{made}\n\n{_instruction_table(plain)}",
        "engine sizes": _size_table(plain),
        "engine layers": _layer_table(plain),
        "engine rivals": f"{_rival_table(plain)}\n\n{_rival_bytes(plain)}\n\n*{rivals()['source']}*",
    }


def bits_table(rows: Sequence[Row], made: str) -> dict[str, str]:
    """Return the table of several numbers of bits, both compilers in one cell."""
    head = ["network", "core", "bits", "instructions", "per MAC", "flash, B", "RAM, B", "stack, B"]
    lines = []
    for model, core, bits in _distinct(rows, "model", "core", "weight_bits"):
        same = [r for r in rows if (r["model"], r["core"], r["weight_bits"]) == (model, core, bits)]
        cells = [_cells(row) for row in same]
        lines.append([model, core, str(bits), *(" / ".join(cell) for cell in zip(*cells, strict=True))])
    return {"engine bits": f"{made}\n\n{_table(head, lines)}"}


def _cells(row: Row) -> list[str]:
    counts = (row["flash_bytes"]["total"], row["ram_bytes"], row["stack_bytes"])
    per_mac = f"{row['instructions_per_mac']:.2f}"
    return [f"{row['instructions']:,}", per_mac, *(f"{count:,}" for count in counts)]


def builds_of(rows: Sequence[Row]) -> list[str]:
    """Name the builds of a set of rows: "zig -O2"."""
    return list(dict.fromkeys(_build(row) for row in rows))


def _instruction_table(rows: Sequence[Row]) -> str:
    builds = builds_of(rows)
    gate = f"{targets()['compiler']} -{targets()['optimize']}"
    head = ["network", "core", *builds, "target", gate, "per MAC", "cycles, estimate"]
    lines = []
    for model, core in _distinct(rows, "model", "core"):
        same = {_build(r): r for r in rows if (r["model"], r["core"]) == (model, core)}
        counts = [f"{same[build]['instructions']:,}" if build in same else "" for build in builds]
        wanted, found = target_of(core, model), same.get(gate)
        target = f"{wanted:,}" if wanted else "none"
        last = ["", "", ""]
        if found:
            last = [
                _against(found["instructions"], wanted),
                f"{found['instructions_per_mac']:.2f}",
                f"{found['cycles_estimate']:,}",
            ]
        lines.append([model, core, *counts, target, *last])
    return _table(head, lines)


def _against(found: int, wanted: int | None) -> str:
    if wanted is None:
        return ""
    return "reached" if found <= wanted else f"**missed**, +{100 * (found / wanted - 1):.1f} %"


def _size_table(rows: Sequence[Row]) -> str:
    head = [
        "network",
        "core",
        "build",
        "code",
        "params' header",
        "weights",
        "RAM",
        "beyond",
        "stack",
        "measured",
    ]
    lines = [
        [
            *(row["model"], row["core"], _build(row)),
            *(f"{row['flash_bytes'][key]:,}" for key in ("code", "params_header")),
            f"{row['flash_bytes']['weights'] - row['flash_bytes']['params_header']:,}",
            *(f"{row['ram_bytes']:,}", f"{ram_beyond(row):,}"),
            *(f"{row['stack_bytes']:,}", f"{row['measured_stack_bytes']:,}"),
        ]
        for row in rows
    ]
    return _table(head, lines)


def _layer_table(rows: Sequence[Row]) -> str:
    found = [row for row in rows if is_gate(row)]
    cores = [core for (core,) in _distinct(found, "core")]
    lines = []
    for (model,) in _distinct(found, "model"):
        same = {row["core"]: row for row in found if row["model"] == model}
        some = next(iter(same.values()))
        for index, layer in enumerate(some["layers"]):
            counts = [
                f"{same[core]['layers'][index]['instructions']:,}" if core in same else "" for core in cores
            ]
            lines.append([model, f"{index} {layer['operator']}", f"{layer['macs']:,}", *counts])
        others = [f"{same[core]['instructions_other']:,}" if core in same else "" for core in cores]
        lines.append([model, "copies and calls", "", *others])
    return _table(["network", "layer", "MACs", *cores], lines)


def _rival_table(rows: Sequence[Row]) -> str:
    found = [row for row in rows if is_gate(row)]
    models = [model for (model,) in _distinct(found, "model")]
    lines = []
    for (core,) in _distinct(found, "core"):
        own = {row["model"]: row for row in found if row["core"] == core}
        engines = list(dict.fromkeys(name for model in models for name in rivals_on(core, model)))
        if not engines:
            continue
        counts = [f"{own[model]['instructions']:,}" if model in own else "" for model in models]
        lines.append([core, "**edgeqrl**", *counts])
        for engine in engines:
            cells = [
                _times(rivals_on(core, model).get(engine), own[model]["instructions"]) if model in own else ""
                for model in models
            ]
            lines.append(["", engine, *cells])
    return _table(["core", "engine", *models], lines)


def _times(count: int | None, own: int) -> str:
    return "" if count is None else f"{count:,} ({count / own:.2g} times)"


def _rival_bytes(rows: Sequence[Row]) -> str:
    """Return flash, RAM and stack on the M4."""
    found = {row["model"]: row for row in [row for row in rows if is_gate(row)] if row["core"] == "cortex-m4"}
    columns = [(key, model) for key, models in _BYTES.items() for model in models]
    own = {
        "flash": lambda row: row["flash_bytes"]["total"],
        "ram": lambda row: row["ram_bytes"],
        "stack": lambda row: row["stack_bytes"],
    }
    lines = [["**edgeqrl**", *(f"{own[key](found[m]):,}" if m in found else "" for key, m in columns)]]
    for rival in rivals()["bytes"]:
        lines.append([rival["engine"], *(f"{rival[k][m]:,}" if m in rival[k] else "" for k, m in columns)])
    return _table(["bytes on the M4", *(f"{key}, {model}" for key, model in columns)], lines)


def _build(row: Row) -> str:
    name = row["compiler"].split()[0]
    return f"{_SHORT.get(name, name)} -{row['optimize']}"


def _distinct(rows: Sequence[Row], *keys: str) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(tuple(row[key] for key in keys) for row in rows))


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return Markdown; what a line repeats of the one above it in the first columns is left out."""
    shown: list[list[str]] = []
    for number, line in enumerate(lines):
        cells = list(line)
        for column in range(2):
            if number and line[: column + 1] == lines[number - 1][: column + 1]:
                cells[column] = ""
        shown.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *shown))
