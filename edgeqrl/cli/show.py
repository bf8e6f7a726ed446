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
    "learn": "learning",
    "choose": "baseline",
    "search": "searching",
}
_UNITS = {"compare": "samples", "learn": "steps", "search": "trials"}
_UNITS |= dict.fromkeys(("calibrate", "choose", "validate", "emulate"), "episodes")


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
        unit = _UNITS.get(stage, "pairs" if stage.startswith(("try ", "trial ")) else "")
        self._count = message or (f"{done}/{total} {unit}" if unit and total else "")
        # A stage that reaches its total may go on working: its tick comes when the next one begins.
        shown = None if total == 0 or done >= total else total
        self._bars.update(self._tasks[stage], completed=done, total=shown, count=self._count)

    def say(self, sentence: str) -> None:
        """Print a sentence above the progress."""
        self._console.print(sentence, soft_wrap=not self._console.is_terminal, highlight=False, markup=False)

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
    title: str,
    report: Mapping[str, Any],
    folder: str,
    files: Sequence[str],
    *,
    bundle: str | None = None,
    console: Any = None,
) -> None:
    """Print the result of `convert`: what decides, the plot, the verdict, the files, what to do next.

    bundle  where the bundle lies, if not at `folder`
    """
    from rich.markup import escape

    from edgeqrl.cli.choice_view import print_choice
    from edgeqrl.cli.verdict_view import print_next, print_report

    console = console or _console()
    console.print(f"[bold]{escape(title)}[/]", soft_wrap=True, highlight=False)
    if "choice" in report:
        print_choice(report["choice"], console=console)
    print_report(report, console=console)
    wraps_itself = not console.is_terminal  # in a file a sentence stays one line
    console.print(f"[bold]{escape(folder)}[/]: {escape(', '.join(files))}", soft_wrap=wraps_itself)
    print_next(report, bundle or folder, console=console)


def _console() -> Any:
    from rich.console import Console

    return Console()
