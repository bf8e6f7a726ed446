"""Names of schemes in tables: what was done in short, broken into lines that a column holds."""

import re
from collections.abc import Mapping
from typing import Any

_MOST = 30  # columns that a name takes in a caption


def short_scheme(report: Mapping[str, Any]) -> str:
    """Return the name of how the policy was quantized, as `w4a8 wide=input`; layers of their own as `mixed`.

    What it leaves out is in `whole_scheme`.
    """
    whole = whole_scheme(report)
    if len(whole) <= _MOST:
        return whole
    words = whole.split()
    kept = [word for word in words if not re.search(r":w\d$", word)]
    return " ".join([*kept, *(["mixed"] if len(kept) < len(words) else [])])


def whole_scheme(report: Mapping[str, Any]) -> str:
    """Return the label of the report's scheme; int8 where an earlier version states none."""
    from edgeqrl.quantize.scheme import Scheme

    stated = report.get("scheme")
    return Scheme.from_json(stated).label if stated else "int8"


def wrapped(text: str, width: int) -> str:
    """Break a text behind spaces, commas and semicolons into lines of `width` columns where that can be."""
    lines = [""]
    for piece in re.findall(r"[^ ,;]*[,;]? *", text)[:-1]:
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
