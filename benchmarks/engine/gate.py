"""The gate: what the pinned build of an inference may cost, and what it does not reach yet."""

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from benchmarks.engine.measure import Row
from benchmarks.engine.recorded import target_of, targets

NOT_YET = Path(__file__).resolve().parent / "not_yet.toml"
_HEAD = """# What the gate's build does not reach yet of targets.toml, by core and network: the figures that
# it has. Nothing may get worse than this, and what reaches its target leaves the file. Remade by
#   python -m benchmarks.engine --not-yet
"""


@dataclass(frozen=True)
class Finding:
    """One figure of a build beside what it may be."""

    name: str  # instructions, code_bytes, ram_bytes or stack_bytes
    found: int
    most: int


def findings(row: Row) -> Iterator[Finding]:
    """Yield the figures of a row for which there is a target."""
    wanted = target_of(row["core"], row["model"])
    if wanted is not None:
        yield Finding("instructions", row["instructions"], wanted)
    code = targets()["code_bytes"]
    if row["core"] == code["core"]:
        yield Finding("code_bytes", counted_code(row), code["dense" if is_dense(row) else "convolutional"])
    yield Finding("ram_bytes", ram_beyond(row), targets()["ram_bytes"]["beyond"])
    yield Finding("stack_bytes", row["stack_bytes"], targets()["stack_bytes"]["most"])


def is_gate(row: Row) -> bool:
    """Tell whether a row is of the pinned build."""
    pinned = row["compiler"].split()[0], row["optimize"], row["weight_bits"]
    return pinned == (targets()["compiler"], targets()["optimize"], 8)


def counted_code(row: Row) -> int:
    """Return all that was linked beside weights, biases, scales and tables: the params' header counts."""
    return int(row["flash_bytes"]["code"] + row["flash_bytes"]["params_header"])


def ram_beyond(row: Row) -> int:
    """Return the RAM beyond activations as stored and the largest column: negative where both share bytes."""
    return int(row["ram_bytes"] - row["activation_bytes"] - row["column_bytes"])


def is_dense(row: Row) -> bool:
    """Tell whether a network has no convolution."""
    return not any("CONV" in layer["operator"] for layer in row["layers"])


@lru_cache(maxsize=1)
def not_yet() -> dict[str, dict[str, dict[str, int]]]:
    """Return the figures above their targets, by core, network and name."""
    return tomllib.loads(NOT_YET.read_text())


def missed(rows: Iterable[Row]) -> str:
    """Return the text of not_yet.toml for measured rows."""
    lines = []
    for row in sorted((row for row in rows if is_gate(row)), key=lambda row: (row["core"], row["model"])):
        found = [f"{f.name} = {f.found:_}" for f in findings(row) if f.found > f.most]
        if found:
            lines += [f"[{row['core']}.{row['model']}]", *found, ""]
    return "\n".join([_HEAD, *lines])
