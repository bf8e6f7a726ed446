"""What `convert` and `validate` show of how validation uses the ranges that calibration chose."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

_MOST_NAMED = 2
_LITTLE = 0.25  # of its range: what lies below has lost two bits


def coverage_notes(report: Mapping[str, Any]) -> list[str]:
    """Return which tensors saturate most, or that none does, and which leave most of their range unused."""
    rows = report.get("coverage", {}).get("tensors", [])
    if not rows:
        return []
    cut = sorted((row for row in rows if row["saturated"] > 0.0), key=lambda row: -row["saturated"])
    idle = sorted((row for row in rows if row["range_used"] < _LITTLE), key=lambda row: row["range_used"])
    told = f"none of {len(rows)} tensors leaves its range"
    if cut:
        verb, most = "leaves its range" if len(cut) == 1 else "leave their range", _most_of(cut)
        told = f"{len(cut)} of {len(rows)} tensors {verb}{most}: " + _named(cut, rows, "saturated")
    used = f"little of its range used{_most_of(idle)}: {_named(idle, rows, 'range_used')}"
    return [told, *([used] if idle else [])]


def _most_of(rows: list[Mapping[str, Any]]) -> str:
    """Say so where not all are named."""
    return ", most" if len(rows) > _MOST_NAMED else ""


def _named(named: list[Mapping[str, Any]], rows: list[Mapping[str, Any]], share: str) -> str:
    """Name the first of `named`, each as no other of `rows` is named."""
    counts = Counter(_short(row["name"]) for row in rows)

    def told(name: str) -> str:
        short = _short(name)
        return short if counts[short] == 1 else f"{short}/{_last(name)}"

    return ", ".join(f"{told(row['name'])} {100 * row[share]:.2g} %" for row in named[:_MOST_NAMED])


def _last(name: str) -> str:
    """Return what tells tensors of one layer apart: the operation that comes last, with its number."""
    return name.rsplit(";", 1)[-1].rsplit("/", 1)[-1]


def _short(name: str) -> str:
    """Return the last component of what was fused into a tensor first, without what tracing adds."""
    return name.split(";")[0].rsplit("/", 2)[-2] if "/" in name.split(";")[0] else name
