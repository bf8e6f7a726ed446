"""The Pareto plot: what every candidate loses, against its bytes and against its instructions, as an SVG.

A linear axis of losses would show a single bad candidate and nothing else, so losses far beyond the margin
are drawn at the edge.
"""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any

Facts = Mapping[str, Any]

_FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
_WIDTH, _HEIGHT = 380.0, 300.0  # of one panel's axes
_LEFT, _TOP, _GAP, _BOTTOM, _RIGHT = 74.0, 56.0, 84.0, 78.0, 30.0
_MARGINS_SHOWN = 3.0
_COLOURS = {"holds": "#2e7d4f", "open": "#b7791f", "loses": "#b23a48"}
_PANELS = (("flash_bytes", "bytes of parameters in flash"), ("instructions", "instructions a step"))


def pareto_svg(choice: Facts, title: str) -> str:
    """Return the plot of a report's section `choice`: one panel for bytes, one for instructions."""
    points = [found for found in choice["candidates"] if found["outcome"] in _COLOURS and found["measures"]]
    width = _LEFT + 2 * _WIDTH + _GAP + _RIGHT
    height = _TOP + _HEIGHT + _BOTTOM
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
            left = _LEFT + at * (_WIDTH + _GAP)
            parts += _panel(points, choice["winner"], cost, label, losses, left)
        parts += _legend(height)
    else:
        parts.append(_text(_LEFT, _TOP + 30, "No candidate has played.", anchor="start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Axis:
    """A linear axis: values to pixels, with ticks at round numbers."""

    def __init__(self, low: float, high: float) -> None:
        span = (high - low) or abs(high) or 1.0
        self.low, self.high = low - 0.06 * span, high + 0.08 * span

    @classmethod
    def of_losses(cls, points: Sequence[Facts]) -> "_Axis":
        margin = points[0]["measures"][0]["limit"]
        values = [found["measures"][0]["mean"] for found in points]
        low = max(min(values), -_MARGINS_SHOWN * margin)
        return cls(min(low, 0.0), max(margin, min(max(values), _MARGINS_SHOWN * margin)))

    def share(self, value: float) -> float:
        """Return where a value lies between the ends, 0 to 1; those beyond lie at an end."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> list[float]:
        rough = (self.high - self.low) / 4
        unit = 10.0 ** floor(log10(rough))
        step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough)
        return [step * i for i in range(ceil(self.low / step), floor(self.high / step) + 1)]


def _panel(
    points: Sequence[Facts], winner: str, cost: str, label: str, losses: _Axis, left: float
) -> list[str]:
    """Return one panel: axes, the margin, the front as a stair, and a mark for each candidate."""
    costs = _Axis(*(pick(found["costs"][cost] for found in points) for pick in (min, max)))

    def place(found: Facts) -> tuple[float, float]:
        x = left + _WIDTH * costs.share(found["costs"][cost])
        return x, _TOP + _HEIGHT * (1.0 - losses.share(found["measures"][0]["mean"]))

    margin = points[0]["measures"][0]["limit"]
    at_margin = _TOP + _HEIGHT * (1.0 - losses.share(margin))
    parts = _frame(costs, losses, label, left)
    parts += [
        f'<line x1="{left:.1f}" x2="{left + _WIDTH:.1f}" y1="{at_margin:.1f}" y2="{at_margin:.1f}" '
        f'stroke="{_COLOURS["loses"]}" stroke-dasharray="5 3"/>',
        _text(left + _WIDTH - 4, at_margin - 5, "margin", anchor="end", fill=_COLOURS["loses"]),
        _stair(points, cost, place),
    ]
    for found in sorted(points, key=lambda p: (p["is_on_front"], p["name"] == winner)):
        parts.append(_mark(found, *place(found), is_winner=found["name"] == winner))
    return parts


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


def _stair(points: Sequence[Facts], cost: str, place: Any) -> str:
    """Return the line below and left of which no candidate lies, in this panel's two measures."""
    best = float("inf")
    corners: list[tuple[float, float]] = []
    for found in sorted(points, key=lambda p: (p["costs"][cost], p["measures"][0]["mean"])):
        if found["measures"][0]["mean"] < best:
            best = found["measures"][0]["mean"]
            x, y = place(found)
            corners += [(x, corners[-1][1])] if corners else []
            corners.append((x, y))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return f'<polyline points="{path}" fill="none" stroke="#4c72b0" stroke-opacity="0.6"/>'


def _mark(found: Facts, x: float, y: float, *, is_winner: bool) -> str:
    colour = _COLOURS[found["outcome"]]
    fill = colour if found["is_on_front"] else "#ffffff"
    radius, stroke = (7.0, "#111111") if is_winner else (4.5, colour)
    told = f"{found['name']}: loses {found['measures'][0]['mean']:.4g}, {found['costs']['flash_bytes']:,} B, "
    told += f"{found['costs']['instructions']:,} instructions, {found['outcome']}"
    shape = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="{stroke}" stroke-width="1.5">'
        f"<title>{escape(told)}</title></circle>"
    )
    return shape + (_text(x, y - 11, found["name"], weight="bold") if is_winner else "")


def _legend(height: float) -> list[str]:
    parts, x, y = [], _LEFT, height - 18
    for word, colour in _COLOURS.items():
        parts.append(f'<circle cx="{x:.1f}" cy="{y - 4:.1f}" r="4.5" fill="{colour}"/>')
        parts.append(_text(x + 9, y, word, anchor="start"))
        x += 70
    parts.append(_text(x, y, "filled: beaten by none; large: chosen", anchor="start", fill="#4a5260"))
    return parts


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
