"""Board: what a board file says of one microcontroller board. Data only; the schema is checked here."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgeqrl.errors import DataError, require_name

SCHEMA_VERSION = 1
_MANY_FPUS = ("none", "fpv5-sp-d16", "fpv5-d16")
# core -> FPUs with which firmware is built for it
CORES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cortex-m0": ("none",),
        "cortex-m0plus": ("none",),
        "cortex-m3": ("none",),
        "cortex-m4": ("none", "fpv4-sp-d16"),
        "cortex-m7": _MANY_FPUS,
        "cortex-m33": ("none", "fpv5-sp-d16"),
        "cortex-m55": ("fpv5-d16",),
        "rv32imac": ("none",),
    }
)
_PORT_OF_CORE = {"rv32imac": "riscv32"}  # every other: cortex_m
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_REGION_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SOURCE_FILE = re.compile(r"[a-z][a-z0-9_]*\.[cS]")
_HIGHEST = 2**32


@dataclass(frozen=True)
class Region:
    """A range of addresses. Nothing is ever placed in or written to a reserved one."""

    name: str
    start: int
    bytes: int
    kind: str  # "flash" or "ram"
    is_reserved: bool = False

    @property
    def end(self) -> int:
        """Return the first address after the region."""
        return self.start + self.bytes


@dataclass(frozen=True)
class Uart:
    """The UART on which the firmware reports."""

    base: int
    baud: int
    clock_hz: int  # from which the baud rate is divided, unless the port sets up the clocks itself


@dataclass(frozen=True)
class Uf2:
    """How the board's UF2 bootloader is recognised."""

    family_id: int
    board_id: str  # Board-ID in INFO_UF2.TXT


@dataclass(frozen=True)
class Board:
    """A board file, checked. Every figure has its source in `sources`."""

    name: str
    title: str
    core: str  # a key of CORES
    fpu: str  # one of those of its core
    clock_hz: int
    num_interrupts: int
    port: str
    port_sources: tuple[str, ...]
    runs_from_ram: bool
    fidelity: str
    regions: tuple[Region, ...]
    uart: Uart
    sources: Mapping[str, str]
    uf2: Uf2 | None = None
    qemu_machine: str | None = None

    def region(self, name: str) -> Region:
        """Return the region called `name`; "flash" and "ram" always exist."""
        return next(region for region in self.regions if region.name == name)

    @property
    def flash_bytes(self) -> int:
        """Count the bytes of flash that an image may fill."""
        return self.available_bytes("flash")

    @property
    def ram_bytes(self) -> int:
        """Count the bytes of RAM that an image and its stack may fill."""
        return self.available_bytes("ram")

    def available_bytes(self, kind: str) -> int:
        """Count the bytes that an image may fill: "flash" (with its second-stage boot) or "ram"."""
        names = ("boot2", "flash") if kind == "flash" else ("ram",)
        return sum(region.bytes for region in self.regions if region.name in names)

    def to_json(self) -> dict[str, Any]:
        """Return every figure with its source, for reports."""
        return asdict(replace(self, sources={})) | {
            "sources": dict(self.sources),
            "flash_bytes": self.flash_bytes,
            "ram_bytes": self.ram_bytes,
        }


def board_names(folder: Path) -> tuple[str, ...]:
    """List the boards of a folder of board files, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def load_board(name_or_path: str | Path, folder: Path) -> Board:
    """Load a board by its name in `folder`, or from a path that ends in `.toml`.

    Raises UsageError for an unknown name, DataError for a file that breaks the schema.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = folder / f"{require_name('board', str(name_or_path), board_names(folder))}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"Cannot read board file {path}: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"Board file {path} is not valid TOML: {error}.") from error
    return _Reader(path, table).board()


class _Reader:
    """Takes values out of one TOML file and says precisely what is wrong with it."""

    def __init__(self, path: Path, table: dict[str, Any]) -> None:
        self._path = path
        self._table = dict(table)

    def board(self) -> Board:
        if self._take(self._table, "schema_version", int) != SCHEMA_VERSION:
            raise self._error(f"'schema_version' must be {SCHEMA_VERSION}")
        core = self._choice("core", tuple(CORES))
        clock_hz = self._number(self._table, "clock_hz", 1, 10**10)
        board = Board(
            name=self._matching(self._table, "name", _NAME),
            title=self._take(self._table, "title", str),
            core=core,
            fpu=self._choice("fpu", CORES[core]),
            clock_hz=clock_hz,
            num_interrupts=self._number(self._table, "num_interrupts", 0, 480),
            port=self._choice("port", (_PORT_OF_CORE.get(core, "cortex_m"),)),
            port_sources=self._port_sources(),
            runs_from_ram=self._take(self._table, "runs_from_ram", bool),
            fidelity=self._take(self._table, "fidelity", str),
            regions=self._regions(),
            uart=self._uart(clock_hz),
            uf2=self._uf2(),
            qemu_machine=self._optional("qemu_machine"),
            sources=self._sources(),
        )
        self._require_empty(self._table, "")
        return board

    def _regions(self) -> tuple[Region, ...]:
        tables = self._take(self._table, "regions", list)
        regions = tuple(self._region(table) for table in tables if isinstance(table, dict))
        names = [region.name for region in regions]
        kinds = {region.name: region.kind for region in regions if not region.is_reserved}
        if len(names) != len(set(names)) or len(regions) != len(tables):
            raise self._error("'regions' must be tables with different names")
        if kinds.get("flash") != "flash" or kinds.get("ram") != "ram":
            raise self._error("'regions' needs one named 'flash' and one named 'ram', not reserved")
        ordered = sorted(regions, key=lambda region: region.start)
        for low, high in pairwise(ordered):
            if low.end > high.start:
                raise self._error(f"regions '{low.name}' and '{high.name}' overlap")
        return regions

    def _region(self, table: dict[str, Any]) -> Region:
        table = dict(table)
        region = Region(
            name=self._matching(table, "name", _REGION_NAME),
            start=self._number(table, "start", 0, _HIGHEST - 4),
            bytes=self._number(table, "bytes", 4, _HIGHEST),
            kind=self._take(table, "kind", str),
            is_reserved=bool(table.pop("is_reserved", False)),
        )
        self._require_empty(table, f"region '{region.name}': ")
        if region.kind not in ("flash", "ram"):
            raise self._error(f"region '{region.name}': 'kind' must be 'flash' or 'ram'")
        if region.end > _HIGHEST or region.start % 4 or region.bytes % 4:
            raise self._error(f"region '{region.name}' must be aligned to 4 and lie in 32 bits")
        return region

    def _uart(self, clock_hz: int) -> Uart:
        table = {"clock_hz": clock_hz, **self._take(self._table, "uart", dict)}
        uart = Uart(
            base=self._number(table, "base", 0, _HIGHEST - 4),
            baud=self._number(table, "baud", 1, 10**8),
            clock_hz=self._number(table, "clock_hz", 1, 10**10),
        )
        self._require_empty(table, "uart: ")
        return uart

    def _uf2(self) -> Uf2 | None:
        if "uf2" not in self._table:
            return None
        table = self._take(self._table, "uf2", dict)
        uf2 = Uf2(self._number(table, "family_id", 0, _HIGHEST - 1), self._take(table, "board_id", str))
        self._require_empty(table, "uf2: ")
        return uf2

    def _port_sources(self) -> tuple[str, ...]:
        names = self._take(self._table, "port_sources", list)
        if not all(isinstance(name, str) and _SOURCE_FILE.fullmatch(name) for name in names):
            raise self._error("'port_sources' must list files of the port, such as 'uart_cmsdk.c'")
        return tuple(names)

    def _sources(self) -> Mapping[str, str]:
        sources = self._take(self._table, "sources", dict)
        needed = {"core", "fpu", "clock_hz", "num_interrupts", "regions", "uart"}
        missing = sorted(needed - {key for key, text in sources.items() if isinstance(text, str) and text})
        if missing:
            raise self._error(f"'sources' must say where {', '.join(missing)} come from")
        return MappingProxyType({str(key): str(text) for key, text in sources.items()})

    def _choice(self, key: str, choices: tuple[str, ...]) -> str:
        value: str = self._take(self._table, key, str)
        if value not in choices:
            raise self._error(f"'{key}' must be one of {', '.join(choices)}, not '{value}'")
        return value

    def _optional(self, key: str) -> str | None:
        return self._take(self._table, key, str) if key in self._table else None

    def _matching(self, table: dict[str, Any], key: str, pattern: re.Pattern[str]) -> str:
        value: str = self._take(table, key, str)
        if not pattern.fullmatch(value):
            raise self._error(f"'{key}' must match {pattern.pattern}, not '{value}'")
        return value

    def _number(self, table: dict[str, Any], key: str, low: int, high: int) -> int:
        value: int = self._take(table, key, int)
        if not low <= value <= high:
            raise self._error(f"'{key}' must lie in [{low}, {high}], not {value}")
        return value

    def _take(self, table: dict[str, Any], key: str, kind: type) -> Any:
        if key not in table:
            raise self._error(f"'{key}' is missing")
        value = table.pop(key)
        if type(value) is not kind:  # bool is an int to isinstance
            raise self._error(f"'{key}' must be {kind.__name__}, not {type(value).__name__}")
        return value

    def _require_empty(self, table: dict[str, Any], where: str) -> None:
        if table:
            raise self._error(f"{where}unknown key '{min(table)}'")

    def _error(self, text: str) -> DataError:
        return DataError(f"Board file {self._path}: {text}.")
