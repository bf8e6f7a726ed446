"""A histogram in text: the loss of every pair, zero, the margin, and where the mean lies.

The axis is linear. It always shows zero, the margin, the mean and most pairs; the mean's interval may run out
of it. Where columns are too coarse to tell an interval's end from the margin, they are set apart: one sees
left of the margin what is less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

HEIGHT = 3  # rows of bars
_TAIL = 2.5  # per cent of the pairs that may lie beyond either end
_LABEL = 14  # columns kept right of the margin for what it is called

Line = list[tuple[str, str]]  # text and what it is: bars, axis, interval, margin, label, or nothing


@dataclass(frozen=True)
class Signs:
    """What is drawn with."""

    levels: str  # a cell from empty to full
    axis: str
    zero: str
    margin: str
    mean: str
    line: str
    ends: str  # of the interval: left, right
    arrows: str  # where it runs out of the picture
    to: str  # between two numbers


UNICODE = Signs(" ▁▂▃▄▅▆▇█", "─", "┼", "┃", "●", "━", "├┤", "◀▶", "…")
ASCII = Signs(" .:#", "-", "+", "|", "o", "=", "[]", "<>", "..")


@dataclass(frozen=True)
class Window:
    """The stretch of losses that is drawn, in equal columns."""

    low: float
    high: float
    width: int
    columns_a_bin: int

    def column(self, value: float) -> int:
        """Return the column of a loss, the outermost for one beyond."""
        place = (value - self.low) / (self.high - self.low) * self.width
        return int(np.clip(np.floor(place), 0, self.width - 1))


@dataclass(frozen=True)
class LossPlot:
    """A drawn plot."""

    lines: list[Line]
    num_left: int  # pairs beyond the left end
    num_right: int


def loss_plot(
    losses: Sequence[float], *, interval: tuple[float, float], margin: float, width: int, signs: Signs
) -> LossPlot:
    """Draw the losses, with the interval of their mean against the margin > 0."""
    values = np.asarray(losses, np.float64)
    mean = float(values.mean())
    window = window_of(values, mean, interval, margin, width)
    canvas = _Canvas(HEIGHT + 3, width)
    _draw_bars(canvas, values, window, signs)
    zero = window.column(0.0)
    edge = max(window.column(margin), zero + 1)
    canvas.put(HEIGHT, 0, signs.axis * width, "axis")
    _draw_interval(canvas, window, mean, interval, margin, edge, signs)
    for row in range(HEIGHT, HEIGHT + 2):
        canvas.put(row, edge, signs.margin, "margin")
    canvas.put(HEIGHT, zero, signs.zero, "label")
    canvas.put(HEIGHT + 2, zero, "0", "label")
    canvas.put(HEIGHT + 2, max(edge, zero + 2), f"margin {_short(margin)}", "margin")
    return LossPlot(canvas.lines(), int(np.sum(values < window.low)), int(np.sum(values > window.high)))


def window_of(
    values: NDArray[np.float64], mean: float, interval: tuple[float, float], margin: float, width: int
) -> Window:
    """Choose what is shown."""
    low, high = (float(end) for end in np.percentile(values, [_TAIL, 100.0 - _TAIL]))
    low, high = min(low, 0.0, mean), max(high, margin, mean)
    span = high - low
    # All of the data if that is not much more, and the interval unless it dwarfs all the rest.
    low = min(low, max(float(values.min()), low - span / 4))
    high = max(high, min(float(values.max()), high + span / 4))
    low, high = min(low, max(interval[0], low - span)), max(high, min(interval[1], high + span))
    span = high - low
    low, high = low - span / 25, high + span / 25
    if high - low > 4.0 and np.all(values == np.rint(values)):
        return _whole_number_window(float(np.floor(low)) - 0.5, high, margin, width, len(values))
    span = _with_label(high - low, margin - low, width)
    return Window(low, low + span, width, _columns_a_bin(len(values), width))


def _whole_number_window(low: float, high: float, margin: float, width: int, count: int) -> Window:
    """Return a window whose bins hold equally many whole numbers: others would draw a comb."""
    span = _with_label(high - low, margin - low, width)
    if span < width:
        columns = int(width // span)  # a number
        return Window(low, low + width / columns, width, columns)
    columns = _columns_a_bin(count, width)
    numbers = float(np.ceil(span / width * columns))  # a bin
    return Window(low, low + numbers * width / columns, width, columns)


def _with_label(span: float, place_of_margin: float, width: int) -> float:
    """Return `span`, or as much as leaves room for the margin's label."""
    return max(span, place_of_margin / (1.0 - _LABEL / width))


def _columns_a_bin(count: int, width: int) -> int:
    return max(1, round(width / float(np.clip(1.5 * np.sqrt(count), 12, width))))


class _Canvas:
    """Characters and what each is."""

    def __init__(self, height: int, width: int) -> None:
        self._cells = [[(" ", "")] * width for _ in range(height)]

    def put(self, row: int, column: int, text: str, kind: str) -> None:
        """Write over what is there; what is out of the picture is left out."""
        for offset, sign in enumerate(text):
            if 0 <= column + offset < len(self._cells[row]):
                self._cells[row][column + offset] = (sign, kind)

    def lines(self) -> list[Line]:
        """Return the rows, runs of one kind joined, without blanks at the end."""
        found = []
        for row in self._cells:
            while row and row[-1][0] == " ":
                row.pop()
            runs = groupby(row, key=lambda cell: cell[1])
            found.append([("".join(sign for sign, _ in run), kind) for kind, run in runs])
        return found


def _draw_bars(canvas: _Canvas, values: NDArray[np.float64], window: Window, signs: Signs) -> None:
    inside = values[(values >= window.low) & (values <= window.high)]
    bins = np.array([window.column(value) for value in inside], np.int64) // window.columns_a_bin
    counts = np.bincount(bins, minlength=-(-window.width // window.columns_a_bin))
    steps = len(signs.levels) - 1
    heights = np.ceil(counts / max(int(counts.max()), 1) * HEIGHT * steps).astype(int)
    for number, height in enumerate(heights):
        for row in range(HEIGHT):
            level = int(np.clip(height - (HEIGHT - 1 - row) * steps, 0, steps))
            bar = signs.levels[level] * window.columns_a_bin
            canvas.put(row, number * window.columns_a_bin, bar, "bars" if level else "")


def _draw_interval(
    canvas: _Canvas,
    window: Window,
    mean: float,
    interval: tuple[float, float],
    margin: float,
    edge: int,
    signs: Signs,
) -> None:
    low, high = interval
    left, right, middle = (window.column(value) for value in (low, high, mean))
    if high < margin:
        left, right, middle = (min(column, edge - 1) for column in (left, right, middle))
    elif low > margin:
        left, right, middle = (max(column, edge + 1) for column in (left, right, middle))
    row = HEIGHT + 1
    canvas.put(row, left, signs.line * (right - left + 1), "interval")
    canvas.put(row, left, signs.ends[0] if low >= window.low else signs.arrows[0], "interval")
    canvas.put(row, right, signs.ends[1] if high <= window.high else signs.arrows[1], "interval")
    canvas.put(row, middle, signs.mean, "interval")


def _short(value: float) -> str:
    return f"{value:.1f}" if 10.0 <= value < 1e4 else f"{value:.3g}"
