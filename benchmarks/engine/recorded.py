"""What is not measured here: the targets, and what other engines need."""

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent


@lru_cache(maxsize=1)
def targets() -> dict[str, Any]:
    """Return targets.toml."""
    return tomllib.loads((_FOLDER / "targets.toml").read_text())


@lru_cache(maxsize=1)
def rivals() -> dict[str, Any]:
    """Return rivals.toml."""
    return tomllib.loads((_FOLDER / "rivals.toml").read_text())


def target_of(core: str, model: str) -> int | None:
    """Return the target of a model on a core, in instructions; None where there is none."""
    found: int | None = targets()["instructions"].get(core, {}).get(model)
    return found


def rivals_on(core: str, model: str) -> dict[str, int]:
    """Return the instructions of other engines by name."""
    rows = [row for row in rivals()["instructions"] if row["core"] == core]
    return {row["engine"]: row[model] for row in rows if model in row}
