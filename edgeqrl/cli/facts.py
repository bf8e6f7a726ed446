"""What `inspect` and `compare` print of a network's layers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgeqrl.inspect import LayerFacts, NetworkFacts, TensorFacts

_COLUMNS = ("operator\nlayer", "tensors", "scale", "zero\npoint", "bytes", "MACs\nweights")
_LEAST_NAME = 12  # characters of a layer's name that are shown however narrow the terminal is


def print_facts(facts: "NetworkFacts", title: str) -> None:
    """Print one row a layer, with a line for each tensor that it reads or writes; the sums below."""
    from edgeqrl.cli.show import print_table
    from edgeqrl.picture import layer_name, shortened, text_width

    cells = [_layer_cells(facts, layer) for layer in facts.layers]
    taken = sum(
        max(text_width(line) for text in (column, *(row[i] for row in cells)) for line in text.split("\n"))
        for i, column in enumerate(_COLUMNS[1:])
    )
    spare = max(terminal_width() - 3 * len(_COLUMNS) - 1 - taken, _LEAST_NAME)
    rows = [
        [f"{shortened(layer.operator, spare)}\n{shortened(layer_name(layer.name), spare)}", *row]
        for layer, row in zip(facts.layers, cells, strict=True)
    ]
    print_table(title, _COLUMNS, rows, right=(2, 3, 4, 5))
    for kind, names in (("input", facts.inputs), ("output", facts.outputs)):
        for name in names:
            head, tail = f"{kind} '", f"': {_described(facts.tensors.get(name))}"
            room = max(terminal_width() - len(head) - len(tail), _LEAST_NAME)
            click.echo(f"{head}{shortened(name, room)}{tail}")
            click.echo(_in_the_file(facts.tensors.get(name)), nl=False)
    click.echo(_sums(facts))
    if facts.reason is not None:
        click.echo(f"edgeqrl cannot run it. {facts.reason}")


def where_it_differs(name: str, measure: str, found: Mapping[str, Any]) -> list[str]:
    """Say in two lines where a backend parts from the measure, or why it gave nothing."""
    from edgeqrl.picture import layer_name, shortened

    if found["error"] is not None:
        return [f"{name} cannot run it. {found['error']}"]
    first = found["first_difference"]
    if first is None:
        return [f"{name}: no layer could be named. {found['not_located']}"] if found["not_located"] else []
    head = f"{name} differs first at {first['operator']} '"
    room = max(terminal_width() - len(head) - 2, _LEAST_NAME)
    elements = _count(first["elements"], "element")
    place = f"sample {first['sample']}, element {_place(first['index'])}"
    return [
        f"{head}{shortened(layer_name(first['layer']), room)}':",
        f"  {elements}; {place}: {measure} {first['expected']}, {name} {first['found']}",
    ]


def terminal_width() -> int:
    """Return how many columns tables have; 80 where the output is no terminal."""
    from rich.console import Console

    return Console().width


def _layer_cells(facts: "NetworkFacts", layer: "LayerFacts") -> list[str]:
    """Return all cells of a row but the first."""
    from edgeqrl.picture import shape_text

    lines = []
    for kind, names in (("in", layer.inputs), ("out", layer.outputs)):
        for name in names:
            tensor = facts.tensors.get(name)
            if tensor is None:  # an output that is a constant
                lines.append([f"{kind:<3} constant", "", "", ""])
                continue
            described = f"{kind:<3} {tensor.dtype} {shape_text(tensor.shape)}"
            scale, zero = (
                ("", "") if tensor.scale is None else (f"{tensor.scale:.4g}", f"{tensor.zero_point}")
            )
            lines.append([described, scale, zero, f"{tensor.bytes:,}" if kind == "out" else ""])
    columns = ["\n".join(parts) for parts in zip(*lines, strict=True)] or [""] * 4
    macs = f"{layer.macs:,}" if layer.macs else ""
    weights = f"{layer.weight_bytes:,} B" if layer.weight_bytes else ""
    return [*columns, f"{macs}\n{weights}"]


def _described(tensor: "TensorFacts | None") -> str:
    from edgeqrl.picture import shape_text

    if tensor is None:
        return "a constant"
    text = f"{tensor.dtype} {shape_text(tensor.shape)}"
    return (
        text if tensor.scale is None else f"{text}, scale {tensor.scale:.6g}, zero point {tensor.zero_point}"
    )


def _in_the_file(tensor: "TensorFacts | None") -> str:
    """Return a line on what stands in the file, where that is of another type."""
    from edgeqrl.picture import shortened

    if tensor is None or tensor.file_dtype is None:
        return ""
    head = f"  in the file {tensor.file_dtype} '"
    room = max(terminal_width() - len(head) - 1, _LEAST_NAME)
    return f"{head}{shortened(tensor.file_name or '', room)}'\n"


def _sums(facts: "NetworkFacts") -> str:
    if not facts.supported:
        return f"{_count(len(facts.layers), 'operator')}, {facts.weight_bytes:,} B of weights"
    return (
        f"{_count(len(facts.layers), 'layer')}, {facts.macs:,} MACs, {facts.weight_bytes:,} B of weights, "
        f"arena {facts.arena_bytes:,} B"
    )


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _place(index: Sequence[int]) -> str:
    return str(index[0]) if len(index) == 1 else str(list(index))
