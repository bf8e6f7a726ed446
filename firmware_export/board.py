"""Board: what a board file says of one board. Data only; `board_file` reads and checks it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgeqrl.errors import DataError, UsageError, require_name
from firmware_export.flash_tool import FlashTool
from firmware_export.port_names import nearest

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
        "rv32imc": ("none",),
    }
)
# core -> FPUs, for which no compiler is to be had here: the vendor's SDK builds what is exported
LIBRARY_CORES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"xtensa-lx6": ("single",), "xtensa-lx7": ("single",)}
)
LINUX_CORES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"cortex-a53": ("neon",), "cortex-a72": ("neon",), "cortex-a76": ("neon",)}
)
KINDS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"mcu": CORES, "library": LIBRARY_CORES, "linux": LINUX_CORES}
)

# What may be placed in a region of its own: functions that run in a step, the params blob, state with arena.
PLACEABLE = ("code", "weights", "arena")

_RUN_BY = {"rv32imc": "rv32imac"}  # core -> another one that runs its code
_NULL_BYTES = 32  # of RAM at address 0 that stay empty: no object may be where C's NULL is


@dataclass(frozen=True)
class Region:
    """A range of addresses. Nothing is ever placed in or written to a reserved one."""

    name: str
    start: int
    bytes: int
    kind: str  # "flash" or "ram"
    wait_states: int | None  # core clocks that a random read waits at clock_hz; None: not told, of Linux
    reserved: bool = False
    read_bytes: int = 4  # that one such read brings: the width of the memory, or a line of its cache
    cache_bytes: int = 0  # of the cache in front of it that the port has on; 0: none
    erase_bytes: int | None = None  # of flash: the largest sector of the region
    program_bytes: int | None = None  # of flash: least that can be written
    sectors: tuple[tuple[int, int], ...] = ()  # of flash whose sectors differ: how many, bytes of each
    holds: tuple[str, ...] = ()  # of PLACEABLE: what the core can run, read or change there
    enable: tuple[tuple[int, int], ...] = ()  # (register, bits) set by the start-up code before it is used
    note: str | None = None
    source: str | None = None

    @property
    def end(self) -> int:
        """Return the first address after the region."""
        return self.start + self.bytes

    @property
    def first(self) -> int:
        """Return the first address at which anything is placed: in RAM never 0."""
        return max(self.start, _NULL_BYTES) if self.kind == "ram" else self.start


@dataclass(frozen=True)
class Uart:
    """The UART on which the firmware talks."""

    base: int
    irq: int | None  # position in the interrupt controller; None: received bytes are polled for
    baud: int
    clock_hz: int  # from which the baud rate is divided, unless the port sets up the clocks itself
    pins: str  # which pins, or how it reaches the user's machine


@dataclass(frozen=True)
class Uf2:
    """How the board's UF2 bootloader is recognised."""

    family_id: int
    board_id: str  # Board-ID in INFO_UF2.TXT


@dataclass(frozen=True)
class Emulation:
    """Which emulators besides unicorn can run the board's firmware."""

    qemu_machine: str | None = None  # boots the very image
    qemu_level: str | None = None  # of that machine: "chip" or "cpu+uart"
    twin: str | None = None  # name of the board whose QEMU machine runs the same objects, linked again
    rp2040js: bool = False


@dataclass(frozen=True)
class Board:
    """A board file, checked. Every figure has its source in `sources` or in its region."""

    name: str
    title: str
    kind: str  # "mcu": firmware is built; "library": its SDK builds what is exported; "linux": deployed to
    core: str  # a key of KINDS[kind]
    fpu: str  # one of those of its core
    clock_hz: int
    num_interrupts: int
    port: str  # empty unless kind is "mcu", as are port_sources
    port_sources: tuple[str, ...]
    runs_from_ram: bool
    watchdog: str  # "none", or what the port's watchdog is called in the chip's documents
    regions: tuple[Region, ...]
    serial: Uart | None  # every board of kind "mcu" has one
    sources: Mapping[str, str]
    emulation: Emulation = Emulation()
    code_region: str | None = None  # where the core fetches from what is also `ram`; a boot ROM fills both
    placement: tuple[tuple[str, str], ...] = ()  # of PLACEABLE -> region, where it is not the usual one
    settings: tuple[tuple[str, int], ...] = ()  # of the port: name -> EQRL_NAME in its sources
    uf2: Uf2 | None = None
    flash_tools: tuple[FlashTool, ...] = ()

    def region(self, name: str) -> Region:
        """Return the region called `name`; "flash" and "ram" always exist where firmware is built."""
        return next(region for region in self.regions if region.name == name)

    @property
    def uart(self) -> Uart:
        """Return the UART of a board for which firmware is built."""
        assert self.serial is not None, f"{self.name} has no UART that edgeqrl drives"
        return self.serial

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

    def source_of(self, region: Region) -> str:
        """Say where the figures of a region come from."""
        return region.source or self.sources["regions"]

    def to_json(self) -> dict[str, Any]:
        """Return every figure with its source, for reports."""
        plain = replace(self, sources={}, flash_tools=())
        facts = asdict(plain) | {
            "sources": dict(self.sources),
            "regions": [asdict(region) | {"source": self.source_of(region)} for region in self.regions],
            "flash_tools": [asdict(tool) for tool in self.flash_tools],
            "flash_bytes": self.flash_bytes,
            "ram_bytes": self.ram_bytes,
        }
        facts["uart"] = facts.pop("serial")
        return facts


def board_names(folder: Path) -> tuple[str, ...]:
    """List the boards of a folder of board files, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def load_board(name_or_path: str | Path, folder: Path) -> Board:
    """Load a board by its name in `folder`, or from a path that ends in `.toml`.

    Raises UsageError for an unknown name, DataError for a file that breaks the schema or whose twin is none.
    """
    from firmware_export.board_file import read_board

    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = folder / f"{require_name('board', str(name_or_path), board_names(folder))}.toml"
    board = read_board(path)
    if board.emulation.twin is not None:
        _require_twin(path, board, board.emulation.twin, folder)
    return board


def _require_twin(path: Path, board: Board, name: str, folder: Path) -> None:
    """Raise DataError unless `name` is a board of `folder` that QEMU has and that runs the board's code."""
    from firmware_export.board_file import read_board

    where = f"Board file {path}: emulation: 'twin' names '{name}'"
    if name not in board_names(folder):
        raise DataError(f"{where}, which is no board; {nearest(name, board_names(folder))}")
    twin = read_board(folder / f"{name}.toml")
    if twin.emulation.qemu_machine is None:
        raise DataError(f"{where}, which has no 'qemu_machine' itself.")
    if twin.core not in (board.core, _RUN_BY.get(board.core)):
        raise DataError(f"{where}, whose core is {twin.core}, not {board.core}.")


def require_firmware(board: Board) -> None:
    """Raise UsageError unless firmware is built for the board, and its port is there."""
    if board.kind == "library":
        raise UsageError(
            f"No compiler for {board.core} ({board.title}) is to be had here: `edgeqrl export` writes the "
            "library, which the vendor's SDK builds."
        )
    if board.kind == "linux":
        raise UsageError(
            f"{board.title} runs Linux and gets no firmware: `edgeqrl convert --board {board.name}` makes a "
            "folder to be deployed."
        )
    if not board.port_sources:
        raise UsageError(f"Board {board.name} has no 'port_sources': nothing drives its clock and UART yet.")
