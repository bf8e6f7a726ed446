"""One thing that report.json or diagnosis.json says, in words."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from edgeqrl.diagnose.case import Facts


@dataclass(frozen=True)
class Advice:
    """One thing found, and what to do about it."""

    kind: str
    sentence: str
    command: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Return plain JSON values."""
        return asdict(self)


def section(diagnosis: Facts | None, name: str) -> Facts:
    """Return a section of a diagnosis; empty where it is not there or could not be made."""
    found = (diagnosis or {}).get(name)
    return found if isinstance(found, Mapping) and "unavailable" not in found else {}


def layer_name(name: str) -> str:
    """Return the first of the names that a converter joined for one layer, without its model's."""
    return "/".join(name.split(";")[0].split("/")[-2:])


def percent(share: float) -> str:
    """Write a share in percent, with two digits at least."""
    found = 100.0 * share
    return f"{found:.0f} %" if found >= 10.0 else f"{found:.2g} %"
