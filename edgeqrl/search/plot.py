"""The Pareto plot: what candidates lose, against their bytes and against their instructions, as an SVG.

A linear axis of losses would show a single bad candidate and nothing else, so losses far beyond the margin
are arrows at the edge. Marks of few candidates, and of the front of many, have numbers, and a list tells
which they are; marks that would lie upon each other stand side by side.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Any

Facts = Mapping[str, Any]

_FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
_WIDTH, _HEIGHT = 380.0, 300.0  # of one panel's axes
_LEFT, _TOP, _GAP, _BOTTOM, _RIGHT = 74.0, 56.0, 100.0, 102.0, 54.0
_ROW, _LIST_COLUMNS, _MOST_LETTERS = 17.0, 2, 56  # of the list of names
_MARGINS_SHOWN = 3.0
_MOST_NUMBERED = 16
_RADIUS, _SMALL = 7.5, 3.5  # of a mark with a number, and of one without
_COLOURS = {
    "holds": "#2e7d4f",
    "open": "#b7791f",
    "loses by return": "#b23a48",
    "loses by chatter or failures": "#7b4ea3",
}
_LOSES, _OTHERWISE = list(_COLOURS)[2:]
_APART = 2 * _RADIUS + 2.0
_PANELS = (("flash_bytes", "bytes of parameters in flash"), ("instructions", "instructions a step"))


def pareto_svg(choice: Facts, title: str) -> str:
    """Return the plot of a report's section `choice`: one panel for bytes, one for instructions."""
    points = [found for found in choice["candidates"] if _is_shown(found)]
    numbers = _numbered(points, choice["winner"])
    rows = -(-len(numbers) // _LIST_COLUMNS)
    width, below = _LEFT + 2 * _WIDTH + _GAP + _RIGHT, _TOP + _HEIGHT + _BOTTOM
    height = below + _ROW * rows + 8.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{_FONT}" font-size="11">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        _text(_LEFT, 24, title, size=14, weight="bold", anchor="start"),
    ]
    if points:
        losses = _Axis.of_losses(points)
        for at, (cost, label) in enumerate(_PANELS):
            panel = _Panel(points, choice["winner"], numbers, cost, losses, _LEFT + at * (_WIDTH + _GAP))
            parts += panel.parts(label)
        parts += _legend(points, below - 46.0)
        parts += _names(points, choice["winner"], numbers, below)
    else:
        parts.append(_text(_LEFT, _TOP + 30, "No candidate has played.", anchor="start"))
    if left_out := _left_out(choice["candidates"]):
        parts.append(_text(width - _RIGHT, 24, left_out, anchor="end", fill="#4a5260"))
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Axis:
    """A linear axis: values to pixels, with ticks at round numbers."""

    def __init__(self, low: float, high: float) -> None:
        span = (high - low) or abs(high) or 1.0
        self.low, self.high = low - 0.06 * span, high + 0.08 * span

    @classmethod
    def of_losses(cls, points: Sequence[Facts]) -> "_Axis":
        margin = points[0]["measures"][0]["limit"]
        values = [_loss(found) for found in points]
        low = max(min(values), -_MARGINS_SHOWN * margin)
        return cls(min(low, 0.0), max(margin, min(max(values), _MARGINS_SHOWN * margin)))

    def share(self, value: float) -> float:
        """Return where a value lies between the ends, 0 to 1; those beyond lie at an end."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def beyond(self, value: float) -> int:
        """Return 1 for a value above the axis, -1 for one below, else 0."""
        return (value > self.high) - (value < self.low)

    def ticks(self) -> list[float]:
        rough = (self.high - self.low) / 4
        unit = 10.0 ** floor(log10(rough))
        step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough)
        return [step * i for i in range(ceil(self.low / step), floor(self.high / step) + 1)]


@dataclass(frozen=True, eq=False)
class _Panel:
    """One panel: axes, the margin, the least loss at each cost as a stair, and a mark for each candidate."""

    points: Sequence[Facts]
    winner: str
    numbers: Mapping[str, int]
    cost: str  # name of the measure across
    losses: _Axis
    left: float

    def parts(self, label: str) -> list[str]:
        """Return the elements."""
        costs = _Axis(*(pick(found["costs"][self.cost] for found in self.points) for pick in (min, max)))
        margin = self.points[0]["measures"][0]["limit"]
        at_margin = _TOP + _HEIGHT * (1.0 - self.losses.share(margin))
        right, colour = self.left + _WIDTH, _COLOURS[_LOSES]
        return [
            *_frame(costs, self.losses, label, self.left),
            f'<line x1="{self.left:.1f}" x2="{right:.1f}" y1="{at_margin:.1f}" y2="{at_margin:.1f}" '
            f'stroke="{colour}" stroke-dasharray="5 3"/>',
            _text(right + 4, at_margin + 4, "margin", anchor="start", fill=colour),
            self._stair(costs),
            *self._marks(costs),
        ]

    def _place(self, found: Facts, costs: _Axis) -> tuple[float, float]:
        x = self.left + _WIDTH * costs.share(found["costs"][self.cost])
        y = _TOP + _HEIGHT * (1.0 - self.losses.share(_loss(found)))
        return x, y + self.losses.beyond(_loss(found)) * 2.0 * _RADIUS  # an arrow stays within the frame

    def _marks(self, costs: _Axis) -> list[str]:
        """Return the marks: small ones first, numbered ones upon them, none of these upon another.

        A line leads from where a mark would be to where there is room for it.
        """
        small = [found for found in self.points if found["name"] not in self.numbers]
        large = [found for found in self.points if found["name"] in self.numbers]
        large.sort(key=lambda found: (found["name"] != self.winner, not found["is_on_front"]))
        parts, lines, taken = [], list[str](), list[tuple[float, float]]()
        for found in small:
            parts.append(_mark(found, *self._place(found, costs), self.losses.beyond(_loss(found))))
        for found in large:
            at, y = self._place(found, costs)
            beyond = self.losses.beyond(_loss(found))
            x = _free(at, y, taken, self.left, _APART * (2.0 if beyond else 1.0))
            taken.append((x, y))
            if x != at:
                lines.append(f'<line x1="{at:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#9aa3ad"/>')
            number, is_winner = self.numbers[found["name"]], found["name"] == self.winner
            parts.append(_mark(found, x, y, beyond, number=number, is_winner=is_winner))
        return [*lines, *parts]

    def _stair(self, costs: _Axis) -> str:
        """Return the line below and left of which no candidate lies, in this panel's two measures."""
        best = float("inf")
        corners: list[tuple[float, float]] = []
        for found in sorted(self.points, key=lambda p: (p["costs"][self.cost], _loss(p))):
            if _loss(found) < best:
                best = _loss(found)
                x, y = self._place(found, costs)
                corners += [(x, corners[-1][1])] if corners else []
                corners.append((x, y))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        return f'<polyline points="{path}" fill="none" stroke="#4c72b0" stroke-opacity="0.6"/>'


def _is_shown(found: Facts) -> bool:
    return found["outcome"] in ("holds", "open", "loses") and bool(found["measures"])


def _loss(found: Facts) -> float:
    return float(found["measures"][0]["mean"])


def _numbered(points: Sequence[Facts], winner: str) -> dict[str, int]:
    """Return the number of each mark that has one: of a few all, else of the winner and the front."""
    chosen = points
    if len(points) > _MOST_NUMBERED:
        front = [found for found in points if found["is_on_front"] and found["name"] != winner]
        chosen = [*(p for p in points if p["name"] == winner), *front[: _MOST_NUMBERED - 1]]
    ordered = sorted(chosen, key=lambda p: (p["costs"]["flash_bytes"], p["costs"]["instructions"], _loss(p)))
    return {found["name"]: number for number, found in enumerate(ordered, 1)}


def _kind(found: Facts) -> str:
    """Return what colours a mark; of what loses, whether it is the return that is lost."""
    if found["outcome"] != "loses":
        return str(found["outcome"])
    measure = found["measures"][0]
    worst = max(found["measures"], key=lambda m: float(m["mean"] / m["limit"]))
    return _LOSES if worst is measure else _OTHERWISE


def _free(x: float, y: float, taken: Sequence[tuple[float, float]], left: float, apart: float) -> float:
    """Return the place nearest to `x`, within the panel, that is `apart` from all marks beside it."""
    near = [other for other, height in taken if abs(height - y) < _APART]
    wanted = [x + side * step * apart for step in range(2 * len(near) + 1) for side in (1, -1)]
    inside = [place for place in wanted if left + _RADIUS <= place <= left + _WIDTH - _RADIUS or place == x]
    return next((p for p in inside if all(abs(p - other) >= apart for other in near)), x)


def _frame(costs: _Axis, losses: _Axis, label: str, left: float) -> list[str]:
    parts = [
        f'<rect x="{left:.1f}" y="{_TOP:.1f}" width="{_WIDTH:.1f}" height="{_HEIGHT:.1f}" fill="none" '
        'stroke="#9aa3ad"/>',
        _text(left + _WIDTH / 2, _TOP + _HEIGHT + 34, label),
        _text(left, _TOP - 8, "return lost", anchor="start"),
    ]
    for tick in costs.ticks():
        x = left + _WIDTH * costs.share(tick)
        parts.append(_text(x, _TOP + _HEIGHT + 16, _short(tick)))
    for tick in losses.ticks():
        y = _TOP + _HEIGHT * (1.0 - losses.share(tick))
        parts.append(_text(left - 6, y + 4, _short(tick), anchor="end"))
    return parts


def _mark(
    found: Facts, x: float, y: float, beyond: int, *, number: int | None = None, is_winner: bool = False
) -> str:
    """Return a circle, or an arrow at the edge for a loss beyond the axis: 1 above, -1 below."""
    colour, is_full = _COLOURS[_kind(found)], found["is_on_front"]
    told = f"{found['name']}: loses {_loss(found):.4g}, {found['costs']['flash_bytes']:,} B, "
    told += f"{found['costs']['instructions']:,} instructions, {found['outcome']}"
    radius = _SMALL if number is None else _RADIUS
    look = f'fill="{colour if is_full else "#ffffff"}" stroke="{colour}" stroke-width="1.5"'
    shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {look}/>'
    if beyond:
        tip, base = y - beyond * radius * 1.6, y + beyond * radius
        corners = f"{x:.1f},{tip:.1f} {x - radius:.1f},{base:.1f} {x + radius:.1f},{base:.1f}"
        shape = f'<polygon points="{corners}" {look}/>'
    if is_winner:
        shape += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius + 3}" fill="none" stroke="#111111"/>'
    if number is not None:
        shape += _text(x, y + 3.2, str(number), size=9, fill="#ffffff" if is_full else colour)
    if beyond and number is not None:
        shape += _text(x, y + 19 if beyond > 0 else y - 12, _short(float(f"{_loss(found):.3g}")), fill=colour)
    return f"<g><title>{escape(told)}</title>{shape}</g>"


def _legend(points: Sequence[Facts], y: float) -> list[str]:
    parts, x = [], _LEFT
    for word in [word for word in _COLOURS if any(_kind(found) == word for found in points)]:
        parts.append(f'<circle cx="{x:.1f}" cy="{y - 4:.1f}" r="4.5" fill="{_COLOURS[word]}"/>')
        parts.append(_text(x + 9, y, word, anchor="start"))
        x += 36 + 6.6 * len(word)
    said = "full: beaten by none in loss, bytes and instructions; ringed: chosen; arrow: beyond the axis; "
    said += "line: least loss at this cost"
    return [*parts, _text(_LEFT - 4, y + 18, said, anchor="start", fill="#4a5260")]


def _names(points: Sequence[Facts], winner: str, numbers: Mapping[str, int], top: float) -> list[str]:
    """Return the list of the numbered candidates, in columns from left to right."""
    by_name = {found["name"]: found for found in points}
    rows, parts = -(-len(numbers) // _LIST_COLUMNS), []
    for at, (name, number) in enumerate(sorted(numbers.items(), key=lambda item: item[1])):
        column, row = divmod(at, rows)
        x, y = _LEFT + column * (_WIDTH + _GAP), top + row * _ROW
        told = name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
        weight = "bold" if name == winner else "normal"
        parts.append(_text(x + 10, y, str(number), anchor="end", fill=_COLOURS[_kind(by_name[name])]))
        parts.append(_text(x + 18, y, told, anchor="start", weight=weight))
    return parts


def _left_out(candidates: Sequence[Facts]) -> str:
    """Say how many candidates have no mark, and why."""
    counts = Counter(
        found["outcome"] if found["outcome"] not in ("holds", "open", "loses") else "not played"
        for found in candidates
        if not _is_shown(found)
    )
    said = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
    return f"not shown: {said}" if said else ""


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 11,
    weight: str = "normal",
    anchor: str = "middle",
    fill: str = "#222222",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{fill}">{escape(text)}</text>'
    )


def _short(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e4 else f"{value:g}"
