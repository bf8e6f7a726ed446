"""What `convert` and `validate` show of how validation uses the ranges that calibration chose."""

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
        told = f"{len(cut)} of {len(rows)} tensors leave their range: " + _named(cut, "saturated")
    return [told, *([f"little of its range used: {_named(idle, 'range_used')}"] if idle else [])]


def _named(rows: list[Mapping[str, Any]], share: str) -> str:
    return ", ".join(f"{_short(row['name'])} {100 * row[share]:.2g} %" for row in rows[:_MOST_NAMED])


def _short(name: str) -> str:
    """Return the last component of what was fused into a tensor first, without what tracing adds."""
    return name.split(";")[0].rsplit("/", 2)[-2] if "/" in name.split(";")[0] else name
