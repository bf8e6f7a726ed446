"""Compile exported C with a board's port into firmware: ELF, flat binary and sizes."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from edgeqrl.errors import DataError, MissingToolError, UsageError
from firmware_export.board import Board, require_firmware
from firmware_export.elf import Elf, read_elf
from firmware_export.fit import FirmwareSizes, require_fits
from firmware_export.instruction_set import attribute_problems, forbidden_instructions
from firmware_export.linker_script import placement_macros, render_linker_script
from firmware_export.placement import Placement, place, require_placeable
from firmware_export.port_names import setting_names
from firmware_export.stack_parts import stack_parts
from firmware_export.toolchain import Compiler, find_compiler, run_compiler
from firmware_export.uf2 import boot2_crc32

_COMMON = ("eqrl_device.c", "eqrl_frame.c", "main.c", "memory.c")
_TRANSPORTS = ("uart", "semihosting")
_PORTS = Path(__file__).resolve().parent / "ports"
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_DOES_NOT_FIT = re.compile(r"will not fit in region|overflowed by|no room for the stack")
# As clang and zig say it, and as GCC does.
_UNDECLARED = re.compile(r"undeclared identifier '(EQRL_\w+)'|['\u2018](EQRL_\w+)['\u2019] undeclared")
_ENDLESS_BYTES = 2**27  # to measure what does not fit
_NOTHING: Mapping[str, str] = MappingProxyType({})

OPTIMIZE = "O2"
# -g keeps the symbol table (zig strips without it); the script drops the debug sections, which hold paths.
# Jump tables and loop idioms would put data into code and calls of memcpy into memcpy.
_FLAGS = (
    "-std=c99",
    "-g",
    "-ffreestanding",
    "-fno-builtin",
    "-ffp-contract=off",
    "-fomit-frame-pointer",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-jump-tables",
    "-fno-common",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fno-stack-protector",
    "-fno-pic",
    "-Wall",
    "-Wextra",
)
_COMPILER_FLAGS = {
    "zig": ("-fno-sanitize=undefined", "-Wno-unused-command-line-argument"),
    "arm-none-eabi-gcc": ("-fno-tree-loop-distribute-patterns",),
    "riscv64-unknown-elf-gcc": ("-fno-tree-loop-distribute-patterns",),
}
_LINK_FLAGS = ("-Wl,--gc-sections", "-Wl,-e,Reset_Handler", "-Wl,--build-id=none", "-Wl,-T,link.ld")


@dataclass(frozen=True, eq=False)
class Firmware:
    """A linked image for one board, checked: only the core's instructions, attributes right, it fits."""

    name: str  # of the policy
    board: str
    elf: bytes
    bin: bytes  # to be stored at the start of flash
    start: int  # address of the first byte of `bin`
    sizes: FirmwareSizes
    compiler: str  # name and version
    runs_from_ram: bool
    placement: Placement


def compile_firmware(
    sources: Mapping[str, bytes],
    board: Board,
    *,
    compiler: Compiler | None = None,
    with_selftest: bool = False,
    transport: str = "uart",
    placement: Mapping[str, str] = _NOTHING,
) -> Firmware:
    """Build the firmware of one exported policy for a board.

    `sources` is what `export_sources` returned; with `with_selftest` it must include golden vectors. The
    same sources, board and compiler give the same bytes on every machine. `transport` is "uart", or
    "semihosting" for an emulator's twin: without a debugger that one faults. `placement` says which of code,
    weights and arena go to which region, over what the board's file says. Raises MissingToolError without a
    compiler, UsageError for a placement that cannot be and BoardFitError, with the numbers, if the image does
    not fit.
    """
    require_firmware(board)
    require_placeable(board, placement)
    chosen = compiler or find_compiler(core=board.core)
    name = policy_name(sources)
    files = {**_port_files(board, transport), **policy_files(sources, board, with_selftest=with_selftest)}
    choices = (True, False) if board.runs_from_ram and not board.code_region else (board.runs_from_ram,)
    for runs_from_ram in choices:
        places = place(board, placement, runs_from_ram=runs_from_ram)
        elf = _link(files, board, chosen, name, runs_from_ram, places)
        if elf is not None and (runs_from_ram == choices[-1] or _has_room(elf, board, name)):
            return _firmware(elf, board, chosen, name, runs_from_ram, places)
    endless, places = _endless(board), place(board, placement, runs_from_ram=False)
    oversize = _link(files, endless, chosen, name, False, places)
    assert oversize is not None, "an image of any size fits endless regions"
    elf_of = read_elf(oversize)
    require_fits(_sizes(elf_of, endless, name, len(_flat(elf_of, endless)[1])), board)
    raise AssertionError("the linker found no room, and yet the sizes fit")


def _endless(board: Board) -> Board:
    """Return the board with regions that hold any image, one behind the other, to measure in."""
    regions, end = [], 0
    for region in sorted(board.regions, key=lambda region: region.start):
        size = region.bytes if region.name == "boot2" else max(region.bytes, _ENDLESS_BYTES)
        regions.append(replace(region, start=max(region.start, end), bytes=size))
        end = regions[-1].end
    return replace(board, regions=tuple(regions))


def _has_room(data: bytes, board: Board, name: str) -> bool:
    """Tell whether the stack fits, too: the linker does not know how deep it is."""
    sizes = _sizes(read_elf(data), board, name, 0)
    return sizes.ram_bytes + sizes.stack_bytes <= board.available_bytes("ram")


def _firmware(
    data: bytes, board: Board, compiler: Compiler, name: str, runs_from_ram: bool, placement: Placement
) -> Firmware:
    data = _with_boot2_crc(data)
    elf = read_elf(data)
    problems = attribute_problems(elf, board.core, board.fpu)
    problems += forbidden_instructions(elf, board.core, board.fpu)
    assert not problems, f"{compiler.name} built for another core: {problems[:5]}"
    start, flat = _flat(elf, board)
    sizes = _sizes(elf, board, name, len(flat))
    require_fits(sizes, board)
    label = f"{compiler.name} {compiler.version}"
    return Firmware(name, board.name, data, flat, start, sizes, label, runs_from_ram, placement)


def policy_files(sources: Mapping[str, bytes], board: Board, *, with_selftest: bool) -> dict[str, bytes]:
    """Return what a port compiles of an export: its C files below src/, and the header that names its policy.

    Raises UsageError where the export has no contract.
    """
    name = policy_name(sources)
    if f"{name}_contract.h" not in sources:
        raise UsageError(
            f"The sources of '{name}' have no contract: edgeqrl was older when they were exported. Export "
            "again."
        )
    return {**_checked(sources), "eqrl_port_policy.h": _glue(name, board, with_selftest)}


def compile_flags(compiler: Compiler, board: Board, optimize: str = OPTIMIZE) -> list[str]:
    """Return what every unit of an image is compiled with; `optimize` is a level such as "O2"."""
    core = compiler.core_flags(board.core, board.fpu)
    return [*core, f"-{optimize}", *_FLAGS, *_COMPILER_FLAGS[compiler.name]]


def policy_name(sources: Mapping[str, bytes]) -> str:
    """Return the policy's name: that of the one NAME_params.c."""
    names = [
        PurePosixPath(path).name.removesuffix("_params.c") for path in sources if path.endswith("_params.c")
    ]
    names = [name for name in names if name != "eqrl"]
    if len(names) != 1 or not _IDENTIFIER.fullmatch(names[0]):
        raise ValueError(f"sources must hold one NAME_params.c, found {names}")
    return names[0]


def _checked(sources: Mapping[str, bytes]) -> dict[str, bytes]:
    """Keep the C files and headers at the top; the folders hold what is for the user's own builds."""
    for path in sources:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            raise ValueError(f"not a relative path: {path!r}")
    return {
        f"src/{path}": content
        for path, content in sources.items()
        if "/" not in path and path.endswith((".c", ".h"))
    }


def _port_files(board: Board, transport: str = "uart") -> dict[str, bytes]:
    if transport not in _TRANSPORTS:
        raise ValueError(f"transport is one of {', '.join(_TRANSPORTS)}, not '{transport}'")
    folder, common = _PORTS / board.port, _PORTS / "common"
    for name in board.port_sources:
        if not (folder / name).is_file():
            raise ValueError(f"board {board.name} wants {name}, which port {board.port} does not have")
    paths = [common / name for name in (*_COMMON, f"transport_{transport}.c")]
    paths += [folder / "startup.S"]
    paths += [folder / name for name in board.port_sources]
    paths += [*common.glob("*.h"), *folder.glob("*.h")]
    return {path.name: path.read_bytes() for path in sorted(paths)}


def _glue(name: str, board: Board, with_selftest: bool) -> bytes:
    """Render the header that tells the port which policy it runs."""
    upper = name.upper()
    rows, crc, call = "0u", "0u", "EQRL_OK"
    if with_selftest:
        rows, crc = f"{upper}_NUM_SELFTEST_ROWS", f"{upper}_SELFTEST_CRC"
        call = f"{name}_selftest_row((state), (row), (scratch), (crc))"
    lines = [
        "/* Generated. */",
        "#ifndef EQRL_PORT_POLICY_H",
        "#define EQRL_PORT_POLICY_H",
        f'#include "{name}.h"',
        f'#include "{name}_contract.h"',
        *([f'#include "{name}_golden.h"'] if with_selftest else []),
        *(f"typedef {name}_{kind} eqrl_port_{kind}_t;" for kind in ("state", "observation", "action")),
        *(f"#define EQRL_PORT_{kind.upper()} {name}_{kind}" for kind in ("init", "step", "reset", "output")),
        f'#define EQRL_PORT_POLICY_NAME "{name}"',
        f"#define EQRL_PORT_CONTRACT {name}_contract_facts",
        f"#define EQRL_PORT_NUM_COUNTERS {upper}_NUM_COUNTERS",
        f"#define EQRL_PORT_OUTPUT_BYTES ({upper}_NUM_OUTPUTS * (uint32_t)sizeof(*{name}_output(0)))",
        f"#define EQRL_PORT_HAS_MEMORY {upper}_HAS_MEMORY",
        f"#define EQRL_PORT_IS_STOCHASTIC {upper}_IS_STOCHASTIC",
        f"#define EQRL_PORT_NUM_VALUES {upper}_CONTRACT_VALUES",
        f"#define EQRL_PORT_SEED {name}_seed",
        f"#define EQRL_PORT_VALUES {name}_values",
        f"#define EQRL_PORT_HAS_SELFTEST {int(with_selftest)}",
        f"#define EQRL_PORT_SELFTEST_ROWS {rows}",
        f"#define EQRL_PORT_SELFTEST_CRC {crc}",
        f"#define EQRL_PORT_SELFTEST_ROW(state, row, scratch, crc) {call}",
        f"#define EQRL_PAYLOAD_BYTES {_payload_bytes(board)}u /* or as an observation needs */",
        "#endif",
    ]
    return "\n".join([*lines, ""]).encode()


def _payload_bytes(board: Board) -> int:
    """Return how much RAM is spent on batches of observations and on bytes that wait."""
    return 1024 if board.available_bytes("ram") >= 2**16 else 256


def _link(
    files: Mapping[str, bytes],
    board: Board,
    compiler: Compiler,
    name: str,
    runs_from_ram: bool,
    placement: Placement,
) -> bytes | None:
    """Compile and link in a temporary folder; None if the image does not fit the regions."""
    with tempfile.TemporaryDirectory(prefix="edgeqrl-") as temporary:
        folder = Path(temporary)
        for path, content in files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        script = render_linker_script(board, runs_from_ram=runs_from_ram, placement=placement)
        (folder / "link.ld").write_text(script)
        macros = placement_macros(board, placement, runs_from_ram=runs_from_ram)
        result = run_compiler(_command(files, board, compiler, name, macros), folder)
        if result.returncode == 0:
            data = (folder / "firmware.elf").read_bytes()
            assert folder.name.encode() not in data, "the image holds the name of its temporary folder"
            return data
        if _DOES_NOT_FIT.search(result.stderr):
            return None
        _require_settings(result.stderr, board)
        complaints = [line for line in result.stderr.splitlines() if "error" in line] or ["no message"]
        raise MissingToolError(
            f"{compiler.name} {compiler.version} cannot build the firmware: {complaints[0][:300]}. Try "
            "another version, or another compiler with --compiler."
        )


def _require_settings(stderr: str, board: Board) -> None:
    """Raise DataError if what the compiler missed is what the board file should have said."""
    names = {(m[1] or m[2]).removeprefix("EQRL_").lower() for m in _UNDECLARED.finditer(stderr)}
    if "uart_irq" in names and board.uart.irq is None:
        raise DataError(f"The board file of {board.name} lacks 'irq' in [uart]: its 'port_sources' need it.")
    missing = sorted(names & setting_names(board.port, board.port_sources))
    if missing:
        raise DataError(
            f"The board file of {board.name} lacks {', '.join(missing)} in [port_settings]: its "
            "'port_sources' need it."
        )


def _command(
    files: Mapping[str, bytes],
    board: Board,
    compiler: Compiler,
    name: str,
    macros: Mapping[str, str] = _NOTHING,
) -> list[str]:
    """Return the one call that compiles and links, with relative paths only."""
    units = sorted(path for path in files if path.endswith((".c", ".S")))
    folders = sorted({str(PurePosixPath(path).parent) for path in files if path.endswith(".h")})
    # What an emulator or a debugger calls stays, even where the compiler has inlined it.
    kept = [f"-Wl,-u,{name}_{function}" for function in ("init", "step", "infer")]
    kept.append("-Wl,-u,eqrl_device_exchange")
    return [
        *compiler.argv,
        *compile_flags(compiler, board),
        *(f"-D{key}={value}" for key, value in {**_definitions(board), **macros}.items()),
        *(f"-I{folder}" for folder in folders),
        *units,
        *_LINK_FLAGS,
        *kept,
        *compiler.link_flags,
        "-o",
        "firmware.elf",
    ]


def _definitions(board: Board) -> dict[str, str]:
    """Return the macros that tell the port's sources about their board."""
    return {
        "EQRL_NUM_INTERRUPTS": f"{board.num_interrupts}",
        "EQRL_HAS_FPU": f"{int(board.fpu != 'none')}",
        "EQRL_CLOCK_HZ": f"{board.clock_hz}u",
        "EQRL_UART_BASE": f"{board.uart.base:#x}u",
        "EQRL_UART_BAUD": f"{board.uart.baud}u",
        "EQRL_UART_CLOCK_HZ": f"{board.uart.clock_hz}u",
        "EQRL_BOARD_NAME": f'"{board.name}"',
        # Without a suffix: the assembler reads these, too.
        **({} if board.uart.irq is None else {"EQRL_UART_IRQ": f"{board.uart.irq}"}),
        **{f"EQRL_{name.upper()}": f"{value}" for name, value in board.settings},
    }


def _sizes(elf: Elf, board: Board, name: str, flash_bytes: int) -> FirmwareSizes:
    def used(*regions: str) -> int:
        areas = [board.region(region) for region in regions]
        return sum(s.memory_bytes for s in elf.segments if any(a.start <= s.address < a.end for a in areas))

    main = ("ram", board.code_region) if board.code_region else ("ram",)
    others = [r.name for r in board.regions if r.kind == "ram" and not r.reserved and r.name not in main]
    regions = {region: used(region) for region in others if used(region)}
    return FirmwareSizes(flash_bytes, used(*main), stack_parts(elf, board, name).total_bytes, regions)


def _flat(elf: Elf, board: Board) -> tuple[int, bytes]:
    """Return the start and content of flash; gaps are 0xFF, as erased flash is."""
    if board.code_region:
        return board.region("flash").start, _loaded(elf, board)
    flash = [region for region in board.regions if region.kind == "flash"]
    stored = [s for s in elf.segments if s.content and any(r.start <= s.load_address < r.end for r in flash)]
    start = min(s.load_address for s in stored)
    image = bytearray(b"\xff" * (max(s.load_address + len(s.content) for s in stored) - start))
    for s in stored:
        image[s.load_address - start : s.load_address - start + len(s.content)] = s.content
    return start, bytes(image)


def _loaded(elf: Elf, board: Board) -> bytes:
    """Return what a boot ROM puts at the start of RAM, code and data one after the other."""
    ram, code = board.region("ram"), board.region(board.code_region or "ram")
    image = bytearray()
    for s in elf.segments:
        if s.content:
            offset = s.address - (ram if ram.start <= s.address < ram.end else code).start
            image.extend(bytes(max(0, offset + len(s.content) - len(image))))
            image[offset : offset + len(s.content)] = s.content
    return bytes(image)


def _with_boot2_crc(data: bytes) -> bytes:
    """Write the CRC-32 that the RP2040's boot ROM checks behind the 252 bytes of a second stage."""
    elf = read_elf(data)
    offset = elf.section_offsets.get(".boot2")
    if offset is None or elf.sections[".boot2"][1] != 256:  # other chips' ROMs want other things there
        return data
    crc = boot2_crc32(data[offset : offset + 252])
    return data[: offset + 252] + crc.to_bytes(4, "little") + data[offset + 256 :]
