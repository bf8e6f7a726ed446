"""What a person sees: progress on standard error, tables on standard output."""

import json
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import click

_LABELS = {
    "load": "loading the agent",
    "calibrate": "calibrating",
    "quantize": "quantizing",
    "validate": "validating",
    "build": "building",
    "emulate": "emulating",
    "train": "training",
    "compare": "comparing",
}
_UNITS = {"calibrate": "episodes", "validate": "episodes", "emulate": "episodes", "compare": "samples"}
_STYLES = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}


class StageProgress:
    """One line a stage: a moving bar in a terminal, one plain line when it ends elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[count]:<22}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}
        self._current = ""
        self._began = time.monotonic()
        self._count = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, message: str = "") -> None:
        """Show that `stage` has done `done` of `total` (0: not known)."""
        if stage != self._current:
            self._finish()
            self._current, self._began = stage, time.monotonic()
            label = _LABELS.get(stage, stage)
            self._tasks[stage] = self._bars.add_task(label, total=None, count="")
        unit = _UNITS.get(stage, "")
        self._count = message or (f"{done}/{total} {unit}" if unit and total else "")
        # A stage that reaches its total may go on working: its tick comes when the next one begins.
        shown = None if total == 0 or done >= total else total
        self._bars.update(self._tasks[stage], completed=done, total=shown, count=self._count)

    def _finish(self) -> None:
        if not self._current:
            return
        self._bars.update(self._tasks[self._current], completed=1, total=1, count=self._count)
        if not self._console.is_terminal:
            seconds = time.monotonic() - self._began
            label = _LABELS.get(self._current, self._current)
            click.echo(f"{label:<18} {self._count:<22} {seconds:6.1f} s", err=True)
        self._current = ""


def print_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """Print rows of text as a table; the columns numbered in `right` are right-aligned."""
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for number, name in enumerate(columns):
        # The first column holds what one types: it stays whole. The rest wraps rather than vanishes.
        justify: Any = "right" if number in right else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console = _console()
    console.print(f"[bold]{escape(title)}[/]", soft_wrap=True, highlight=False)
    console.print(table)


def print_conversion(
    title: str, report: Mapping[str, Any], folder: str, files: Sequence[str], *, console: Any = None
) -> None:
    """Print the result of `convert`: returns, agreement, what the board has left, the verdict, the files."""
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    table.add_column("")
    table.add_column("float", justify="right", no_wrap=True)
    table.add_column("int8", justify="right", no_wrap=True)
    for cells in [*_return_rows(report), *_firmware_rows(report)]:
        table.add_row(*cells)
    console = console or _console()
    console.print(f"[bold]{escape(title)}[/]", soft_wrap=True, highlight=False)
    console.print(table)
    print_verdict(report, console=console)
    wraps_itself = not console.is_terminal  # in a file a sentence stays one line
    console.print(f"[bold]{escape(folder)}[/]: {escape(', '.join(files))}", soft_wrap=wraps_itself)


def print_verdict(report: Mapping[str, Any], *, console: Any = None) -> None:
    """Print the verdict and the sentence that a person would say."""
    from rich.markup import escape

    verdict = report.get("verdict")
    name = "NO VERDICT" if verdict is None else str(verdict)
    style = _STYLES.get(name, "bold")
    shown = name.replace("_", " ")
    sentence = str(report.get("sentence", "")).removeprefix(f"{shown}: ")
    console = console or _console()
    console.print(
        f"[{style}]{shown}[/]  {escape(sentence)}", soft_wrap=not console.is_terminal, highlight=False
    )


def _return_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = [("action head", "", _head(report["head"]))] if "head" in report else []
    if "float_return" in report:
        rows.append(
            (
                f"mean return, {report['episodes']} episodes",
                _interval(report["float_return"]),
                _interval(report["quantized_return"]),
            )
        )
        drop = report["return_drop"]
        confidence = f"{100 * drop['confidence']:.3g} %"
        rows.append((f"return drop ({confidence})", "", _interval(drop)))
        rows.append(("margin", "", f"{report['margin']:.4g}"))
    if report.get("action_agreement") is not None:
        rows.append(("action agreement", "", f"{100 * report['action_agreement']:.1f} %"))
    if report.get("action_error") is not None:
        rows.append(("mean action error", "", f"{report['action_error']:.3g}"))
    return rows


def _firmware_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    firmware = report.get("firmware")
    if firmware is None:
        return []
    estimate = firmware["estimate"]
    ram = firmware["ram_bytes"] + firmware["stack_bytes"]
    rows = [
        (
            f"flash on {firmware['board']}",
            "",
            _share(firmware["flash_bytes"], firmware["flash_available_bytes"]),
        ),
        ("RAM, stack included", "", _share(ram, firmware["ram_available_bytes"])),
        ("instructions a step", "", f"{firmware['instructions']:,}"),
        (
            "time a step, estimate",
            "",
            f" {estimate['us'] / 1e3:.2f} ms",
        ),
    ]
    emulation = report.get("emulation")
    if emulation is not None:
        steps = f"{emulation['num_steps']:,} steps as host C"
        rows.append((f"{emulation['episodes']} emulated episodes", "", steps))
    return rows


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.1f} [{value['low']:.1f}, {value['high']:.1f}]"


def _head(head: Mapping[str, Any]) -> str:
    if head["kind"] == "argmax":
        return "argmax"
    is_scaled = any(gain != 1.0 for gain in head["gain"]) or any(head["offset"])
    return "scale to the bounds" if is_scaled else "clip to the bounds"


def _share(used: int, available: int) -> str:
    return f"{used:,} B ({100 * used / available:.2g} %)"


def _console() -> Any:
    from rich.console import Console

    return Console()
