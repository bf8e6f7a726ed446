"""Read a board file: every key is taken, checked, and nothing else may be left. docs/boards.md shows one."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgeqrl.errors import DataError
from firmware_export.board import KINDS, PLACEABLE, Board, Emulation, Region, Uart, Uf2
from firmware_export.flash_tool import read_flash_tool
from firmware_export.placement import placement_problem
from firmware_export.port_names import nearest, port_source_names, setting_names, watchdog_of

SCHEMA_VERSION = 2
_PORT_OF_CORE = {"rv32imac": "riscv32", "rv32imc": "riscv32"}  # every other: cortex_m
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_REGION_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SOURCE_FILE = re.compile(r"[a-z][a-z0-9_]*\.[cS]")
_HIGHEST = 2**32
_QEMU_LEVELS = ("chip", "cpu+uart")


def read_board(path: Path) -> Board:
    """Read and check the board file `path`; raises DataError for one that breaks the schema."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"Cannot read board file {path}: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"Board file {path} is not valid TOML: {error}.") from error
    if table.get("schema_version") == 1:
        raise DataError(
            f"Board file {path}: 'schema_version' must be {SCHEMA_VERSION}; docs/boards.md says what version "
            "1 lacks."
        )
    return _board(_Table(path, table, ""))


class _Table:
    """Takes values out of one table of a TOML file and says precisely what is wrong with it."""

    def __init__(self, path: Path, table: dict[str, Any], where: str) -> None:
        self._path = path
        self._table = dict(table)
        self._where = where  # begins every complaint

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __contains__(self, key: str) -> bool:
        return key in self._table

    def take(self, key: str, kind: type) -> Any:
        if key not in self._table:
            raise self.error(f"'{key}' is missing")
        value = self._table.pop(key)
        if type(value) is not kind:  # bool is an int to isinstance
            raise self.error(f"'{key}' must be {kind.__name__}, not {type(value).__name__}")
        return value

    def optional(self, key: str, kind: type, default: Any = None) -> Any:
        return self.take(key, kind) if key in self._table else default

    def text(self, key: str) -> str:
        value: str = self.take(key, str)
        if not value:
            raise self.error(f"'{key}' must not be empty")
        return value

    def number(self, key: str, low: int, high: int) -> int:
        value: int = self.take(key, int)
        if not low <= value <= high:
            raise self.error(f"'{key}' must lie in [{low}, {high}], not {value}")
        return value

    def optional_number(self, key: str, low: int, high: int) -> int | None:
        return self.number(key, low, high) if key in self._table else None

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value: str = self.take(key, str)
        if value not in choices:
            raise self.error(f"'{key}' must be one of {', '.join(choices)}, not '{value}'")
        return value

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        value: str = self.take(key, str)
        if not pattern.fullmatch(value):
            raise self.error(f"'{key}' must match {pattern.pattern}, not '{value}'")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.take(key, list)
        if not all(isinstance(value, str) and value for value in values):
            raise self.error(f"'{key}' must be a list of texts")
        return tuple(values)

    def table(self, key: str, where: str) -> "_Table":
        return _Table(self._path, self.take(key, dict), where)

    def tables(self, key: str, where: str) -> "Iterator[_Table]":
        """Yield the tables of an array, each named in its complaints by its place."""
        tables = self.take(key, list) if key in self._table else []
        for number, table in enumerate(tables, start=1):
            if not isinstance(table, dict):
                raise self.error(f"'{key}' must be tables")
            yield _Table(self._path, table, f"{where} {number}: ")

    def call(self, where: str) -> None:
        """Name the table in what is complained about from now on."""
        self._where = where

    def everything(self) -> dict[str, Any]:
        """Take all that is left."""
        values, self._table = self._table, {}
        return values

    def require_empty(self) -> None:
        if self._table:
            raise self.error(f"unknown key '{min(self._table)}'")

    def error(self, text: str) -> DataError:
        end = "" if text.endswith("?") else "."
        return DataError(f"Board file {self._path}: {self._where}{text}{end}")


def _board(table: _Table) -> Board:
    if table.take("schema_version", int) != SCHEMA_VERSION:
        raise table.error(f"'schema_version' must be {SCHEMA_VERSION}")
    kind = table.choice("kind", tuple(KINDS))
    core = table.choice("core", tuple(KINDS[kind]))
    clock_hz = table.number("clock_hz", 1, 10**10)
    is_mcu = kind == "mcu"
    board = Board(
        name=table.matching("name", _NAME),
        title=table.text("title"),
        kind=kind,
        core=core,
        fpu=table.choice("fpu", KINDS[kind][core]),
        clock_hz=clock_hz,
        num_interrupts=table.number("num_interrupts", 0, 480) if is_mcu else 0,
        port=table.choice("port", (_PORT_OF_CORE.get(core, "cortex_m"),)) if is_mcu else "",
        port_sources=_port_sources(table) if is_mcu else (),
        runs_from_ram=table.take("runs_from_ram", bool) if is_mcu else False,
        watchdog=table.matching("watchdog", _NAME) if is_mcu else "none",
        regions=_regions(table, kind),
        serial=_uart(table, clock_hz) if is_mcu else None,
        emulation=_emulation(table),
        code_region=table.optional("code_region", str) if is_mcu else None,
        placement=_placement(table) if is_mcu else (),
        settings=_settings(table) if is_mcu else (),
        uf2=_uf2(table),
        flash_tools=tuple(
            read_flash_tool(found.everything(), found.error) for found in table.tables("flash", "flash tool")
        ),
        sources=_sources(table, is_mcu),
    )
    table.require_empty()
    _require_code_region(table, board)
    _require_placement(table, board)
    _require_port(table, board)
    return board


def _require_port(table: _Table, board: Board) -> None:
    """Hold what the file says of its port against the port's sources."""
    known = port_source_names(board.port)
    for name in board.port_sources:
        if name not in known:
            raise table.error(
                f"'port_sources' names '{name}', which port {board.port} does not have; "
                f"{nearest(name, known)}"
            )
    watchdog = watchdog_of(board.port_sources)
    if watchdog not in (None, board.watchdog):
        raise table.error(
            f"'watchdog' must be '{watchdog}' with these 'port_sources', not '{board.watchdog}'"
        )
    settings = setting_names(board.port, board.port_sources) if board.settings else frozenset()
    for name, _ in board.settings:
        if name not in settings:
            raise table.error(
                f"port_settings: none of the 'port_sources' knows '{name}'; {nearest(name, settings)}"
            )


def _require_code_region(table: _Table, board: Board) -> None:
    """What is loaded into RAM by a boot ROM has two addresses: a region for its code, as large as `ram`."""
    if board.code_region is None:
        return
    sizes = {r.name: r.bytes for r in board.regions if r.kind == "ram" and not r.reserved}
    if board.code_region == "ram" or sizes.get(board.code_region) != sizes["ram"]:
        raise table.error("'code_region' must name another region of kind ram, of the size of 'ram'")


def _require_placement(table: _Table, board: Board) -> None:
    """Hold the file's own [placement] against its regions, as --place is held."""
    for what, region in board.placement:
        problem = placement_problem(board, what, region)
        if problem is not None:
            raise table.error(f"placement: {problem}")


def _regions(table: _Table, kind: str) -> tuple[Region, ...]:
    regions = tuple(_region(found, kind) for found in table.tables("regions", "region"))
    names = [region.name for region in regions]
    kinds = {region.name: region.kind for region in regions if not region.reserved}
    if len(names) != len(set(names)):
        raise table.error("'regions' must be tables with different names")
    if kind != "linux" and (kinds.get("flash") != "flash" or kinds.get("ram") != "ram"):
        raise table.error("'regions' needs one named 'flash' and one named 'ram', not reserved")
    ordered = sorted(regions, key=lambda region: region.start)
    for low, high in pairwise(ordered):
        if low.end > high.start:
            raise table.error(f"regions '{low.name}' and '{high.name}' overlap")
    return regions


def _region(table: _Table, board_kind: str) -> Region:
    name = table.matching("name", _REGION_NAME)
    table.call(f"region '{name}': ")
    kind = table.choice("kind", ("flash", "ram"))
    is_flash, is_linux = kind == "flash", board_kind == "linux"
    region = Region(
        name=name,
        start=table.number("start", 0, _HIGHEST - 4),
        bytes=table.number("bytes", 4, _HIGHEST),
        kind=kind,
        wait_states=None if is_linux else table.number("wait_states", 0, 10_000),
        reserved=table.optional("reserved", bool, False),
        read_bytes=table.optional_number("read_bytes", 1, 4096) or 4,
        cache_bytes=table.optional_number("cache_bytes", 0, _HIGHEST) or 0,
        erase_bytes=table.number("erase_bytes", 1, _HIGHEST) if is_flash else None,
        program_bytes=table.number("program_bytes", 1, _HIGHEST) if is_flash else None,
        sectors=_sectors(table, name) if is_flash else (),
        holds=_holds(table, name, kind),
        enable=_enable(table) if kind == "ram" else (),
        note=table.optional("note", str),
        source=table.optional("source", str),
    )
    table.require_empty()
    if region.reserved and region.holds:
        region = replace(region, holds=())
    if region.sectors and sum(count * size for count, size in region.sectors) != region.bytes:
        raise table.error("'sectors' must cover all of it")
    if region.end > _HIGHEST or region.start % 4 or region.bytes % 4:
        raise table.error("it must be aligned to 4 and lie in 32 bits")
    return region


def _holds(table: _Table, name: str, kind: str) -> tuple[str, ...]:
    """Read what may be placed there; an image is stored in `flash` alone, and arenas change."""
    usual = ("code", "weights") if name == "flash" else ()
    possible = PLACEABLE if kind == "ram" else usual
    if "holds" not in table:
        return possible
    found = table.texts("holds")
    if not set(found) <= set(possible) or len(found) != len(set(found)):
        raise table.error(f"'holds' may list {', '.join(possible) or 'nothing'}, each once")
    return tuple(what for what in PLACEABLE if what in found)


def _enable(table: _Table) -> tuple[tuple[int, int], ...]:
    """Read registers and the bits that are set in them before the region is used."""
    found = table.optional("enable", list, [])
    for pair in found:
        is_pair = isinstance(pair, list) and [type(n) for n in pair] == [int, int]
        if not is_pair or not 0 <= min(pair) <= max(pair) < _HIGHEST or pair[0] % 4:
            raise table.error("'enable' must be pairs [address of a register, bits to set]")
    return tuple((address, bits) for address, bits in found)


def _placement(table: _Table) -> tuple[tuple[str, str], ...]:
    """Read where the image's parts go unless --place says otherwise."""
    if "placement" not in table:
        return ()
    found = table.table("placement", "placement: ")
    places = tuple((what, found.text(what)) for what in PLACEABLE if what in found)
    found.require_empty()
    return places


def _uart(table: _Table, clock_hz: int) -> Uart:
    found = table.table("uart", "uart: ")
    uart = Uart(
        base=found.number("base", 0, _HIGHEST - 4),
        irq=found.optional_number("irq", 0, 479),
        baud=found.number("baud", 1200, 10**8),
        clock_hz=found.optional_number("clock_hz", 1, 10**10) or clock_hz,
        pins=found.text("pins"),
    )
    found.require_empty()
    return uart


def _emulation(table: _Table) -> Emulation:
    if "emulation" not in table:
        return Emulation()
    found = table.table("emulation", "emulation: ")
    machine = found.text("qemu_machine") if "qemu_machine" in found else None
    if machine is None and "qemu_level" in found:
        raise found.error("'qemu_level' needs a 'qemu_machine'")
    emulation = Emulation(
        qemu_machine=machine,
        qemu_level=None if machine is None else found.choice("qemu_level", _QEMU_LEVELS),
        twin=found.matching("twin", _NAME) if "twin" in found else None,
        rp2040js=found.optional("rp2040js", bool, False),
    )
    found.require_empty()
    return emulation


def _settings(table: _Table) -> tuple[tuple[str, int], ...]:
    """Read what the port's sources want to know of the board beyond what every board says."""
    if "port_settings" not in table:
        return ()
    found = table.table("port_settings", "port_settings: ")
    names = tuple(found)
    if not all(_REGION_NAME.fullmatch(name) for name in names):
        raise found.error(f"names must match {_REGION_NAME.pattern}")
    return tuple((name, found.number(name, 0, _HIGHEST - 1)) for name in names)


def _uf2(table: _Table) -> Uf2 | None:
    if "uf2" not in table:
        return None
    found = table.table("uf2", "uf2: ")
    uf2 = Uf2(found.number("family_id", 0, _HIGHEST - 1), found.text("board_id"))
    found.require_empty()
    return uf2


def _sectors(table: _Table, name: str) -> tuple[tuple[int, int], ...]:
    """Read how many sectors of which size follow each other; all of the region, if given."""
    found = table.optional("sectors", list, [])
    for pair in found:
        if not isinstance(pair, list) or [type(n) for n in pair] != [int, int] or min(pair) < 1:
            raise table.error(f"'sectors' of '{name}' must be pairs [how many, bytes of each]")
    return tuple((count, size) for count, size in found)


def _port_sources(table: _Table) -> tuple[str, ...]:
    names = table.take("port_sources", list)
    if not all(isinstance(name, str) and _SOURCE_FILE.fullmatch(name) for name in names):
        raise table.error("'port_sources' must list files of the port, such as 'uart_cmsdk.c'")
    return tuple(names)


def _sources(table: _Table, is_mcu: bool) -> Mapping[str, str]:
    sources = table.take("sources", dict)
    needed = {"core", "fpu", "clock_hz", "regions"} | ({"num_interrupts", "uart"} if is_mcu else set())
    missing = sorted(needed - {key for key, text in sources.items() if isinstance(text, str) and text})
    if missing:
        raise table.error(f"'sources' must say where {', '.join(missing)} come from")
    if not all(isinstance(text, str) for text in sources.values()):
        raise table.error("'sources' must be texts")
    return MappingProxyType(dict(sources))
