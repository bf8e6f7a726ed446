"""What the sources of a port are called and ask of a board file, read from the sources themselves."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from pathlib import Path

_PORTS = Path(__file__).resolve().parent / "ports"
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_MACRO = re.compile(r"\bEQRL_[A-Z0-9_]+\b")
_DEFINED = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(EQRL_[A-Z0-9_]+)", re.MULTILINE)
_DEFAULT = re.compile(r"#[ \t]*ifndef[ \t]+(EQRL_[A-Z0-9_]+)\s+#[ \t]*define[ \t]+\1[ \t]+\S")
_ENUM = re.compile(r"\benum\b[^{;]*\{([^}]*)\}")
# Said by keys of their own.
_OF_EVERY_BOARD = {
    *("num_interrupts", "has_fpu", "clock_hz", "board_name"),
    *("uart_base", "uart_baud", "uart_clock_hz", "uart_irq"),
}
# Source of a watchdog -> what the chip's documents call it; a source that is not here may be called anything.
_WATCHDOGS = {
    "watchdog_cmsdk.c": "cmsdk",
    "watchdog_esp32c3.c": "timg0",
    "watchdog_imxrt.c": "wdog1",
    "watchdog_iwdg.c": "iwdg",
    "watchdog_nrf.c": "wdt",
    "watchdog_none.c": "none",
    "watchdog_rp2.c": "watchdog",
}


def port_source_names(port: str) -> tuple[str, ...]:
    """List what 'port_sources' may name of a port."""
    names = (path.name for path in (_PORTS / port).glob("*.[cS]"))
    return tuple(sorted(name for name in names if name != "startup.S"))


@cache
def setting_names(port: str, port_sources: tuple[str, ...]) -> frozenset[str]:
    """Return what [port_settings] may name: what those sources use and nothing else defines."""
    folder, common = _PORTS / port, _PORTS / "common"
    own = _text([*(folder / name for name in port_sources), folder / "startup.S", *folder.glob("*.h")])
    shared = _text(sorted(common.glob("*.[ch]")))
    defined = set(_DEFINED.findall(own + shared))
    for body in _ENUM.findall(own + shared):
        defined |= set(_MACRO.findall(body))
    macros = (set(_MACRO.findall(own)) - defined) | set(_DEFAULT.findall(own + shared))
    return frozenset(macro.removeprefix("EQRL_").lower() for macro in macros) - _OF_EVERY_BOARD


def watchdog_of(port_sources: tuple[str, ...]) -> str | None:
    """Return what the watchdog of those sources is called: "none" without one, None where nobody knows."""
    names = [name for name in port_sources if name.startswith("watchdog_")]
    return _WATCHDOGS.get(names[0]) if names else "none"


def nearest(name: str, names: Iterable[str]) -> str:
    """Say which of `names` may have been meant."""
    known = sorted(names)
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"there are: {', '.join(known)}" if known else "there are none"


def _text(paths: Iterable[Path]) -> str:
    return "\n".join(_COMMENT.sub(" ", path.read_text(encoding="utf-8")) for path in paths)
