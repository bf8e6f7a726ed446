"""A bare engine: one network's exported C linked with nothing around it, to be counted.

The same sources, compiler and flags as in firmware, but no board's start-up, UART, device loop or guard: only
NAME_init, NAME_infer and what they call. Memory is as large as the network needs: it belongs to no board.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgeqrl.errors import BoardFitError, MissingToolError
from firmware_export.board import Board, Region
from firmware_export.build import OPTIMIZE, compile_flags, policy_name
from firmware_export.elf import Elf, read_elf
from firmware_export.instruction_set import attribute_problems, forbidden_instructions
from firmware_export.stack import stack_bound
from firmware_export.toolchain import Compiler, run_compiler

OPTIMIZATIONS = ("O1", "O2", "O3", "Os")
STATE = "eqrl_bare_state"
_PORTS = Path(__file__).resolve().parent / "ports"
_LEAST_BYTES = 2**20  # of each memory
_MOST_BYTES = 2**26
_CODE_BYTES, _STACK_BYTES = 2**16, 2**13  # kept free for code, and for stack
# Where code and constants, and where state, inputs and stack lie. QEMU's boards have memory there, the
# others' cores do not mind.
_PLACES = {
    "cortex_m": (0x0000_0000, 0x2000_0000),
    "riscv32": (0x8000_0000, 0x8400_0000),
}
# The board's tightly coupled memories are small: the params go to its SRAM (Arm DAI 0547, memory map).
_SPLIT = {
    "cortex-m55": (
        Region("flash", 0x1000_0000, 2**19, "flash", 0),
        Region("params", 0x1100_0000, 2**21, "flash", 0),
        Region("ram", 0x3000_0000, 2**19, "ram", 0),
    )
}


@dataclass(frozen=True)
class BareSizes:
    """Bytes of a bare engine; the harness is in none of them."""

    code: int  # executable and read-only, all that was linked beside the params
    params: int  # the whole blob
    state: int  # NAME_state: the arena, and the pointer to the params
    other_ram: int  # data and zero-initialised memory beside the state
    stack: int  # bound of NAME_infer, from the machine code


@dataclass(frozen=True, eq=False)
class BareImage:
    """A linked bare engine, checked: only the core's instructions, attributes right."""

    name: str
    board: Board  # the core's, with memory of its own
    data: bytes  # the ELF file
    elf: Elf
    sizes: BareSizes
    compiler: str  # name and version
    optimize: str


def compile_bare(
    sources: Mapping[str, bytes],
    board: Board,
    *,
    compiler: Compiler,
    optimize: str = OPTIMIZE,
    params_bytes: int,
    state_bytes: int,
) -> BareImage:
    """Build the bare engine of what `export_network` returned, for the core of `board`.

    params_bytes  sizes of the blob and of NAME_state: how much memory there must be
    optimize      of OPTIMIZATIONS; by default as firmware is built

    Raises MissingToolError where the compiler fails, BoardFitError for a network beyond all memory.
    """
    target = _with_memory(board, params_bytes, state_bytes)
    name = policy_name(sources)
    data = _link(_files(sources, name, board), target, compiler, name, optimize)
    elf = read_elf(data)
    problems = attribute_problems(elf, board.core, board.fpu)
    problems += forbidden_instructions(elf, board.core, board.fpu)
    assert not problems, f"{compiler.name} built for another core: {problems[:5]}"
    sizes = _sizes(elf, name)
    assert sizes.params == params_bytes, "the linker changed the params"
    label = f"{compiler.name} {compiler.version}"
    return BareImage(name, target, data, elf, sizes, label, optimize)


def _with_memory(board: Board, params_bytes: int, state_bytes: int) -> Board:
    """Return the board with memory for a network of any size, in the places of `_PLACES`."""
    regions: tuple[Region, ...] = _SPLIT.get(board.core, ())
    if not regions:
        code, ram = _PLACES[board.port]
        regions = (
            Region("flash", code, _room(params_bytes), "flash", 0),
            Region("ram", ram, _room(state_bytes), "ram", 0),
        )
    room = {region.name: region.bytes for region in regions}
    stored = room["params"] if "params" in room else room["flash"] - _CODE_BYTES
    if params_bytes > stored or 2 * state_bytes + _STACK_BYTES > room["ram"]:
        raise BoardFitError(
            f"The network has {params_bytes:,} bytes of parameters and {state_bytes:,} of activations: more "
            f"than there is memory to count it in on {board.core}."
        )
    return replace(board, regions=regions, runs_from_ram=False, code_region=None)


def _room(needed: int) -> int:
    """Return at least twice what is needed, a power of two: code, inputs and stack come on top."""
    return min(max(_LEAST_BYTES, 1 << (2 * needed).bit_length()), _MOST_BYTES)


def _files(sources: Mapping[str, bytes], name: str, board: Board) -> dict[str, bytes]:
    """Return what is compiled: the exported files at the top, the harness, and the compilers' own calls."""
    exported = {
        f"src/{path}": content
        for path, content in sources.items()
        if "/" not in path and path.endswith((".c", ".h", ".S"))
    }
    state = f'#include "{name}.h"\nextern {name}_state {STATE};\n{name}_state {STATE};\n'
    return {
        **exported,
        "bare_state.c": state.encode(),
        "memory.c": (_PORTS / "common" / "memory.c").read_bytes(),
        "start.S": (_PORTS / "bare" / f"{board.port}.S").read_bytes(),
    }


def _link(files: Mapping[str, bytes], board: Board, compiler: Compiler, name: str, optimize: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="edgeqrl-") as temporary:
        folder = Path(temporary)
        (folder / "src").mkdir()
        for path, content in files.items():
            (folder / path).write_bytes(content)
        (folder / "link.ld").write_text(_script(board, name))
        result = run_compiler(_command(files, board, compiler, name, optimize), folder)
        if result.returncode == 0:
            return (folder / "bare.elf").read_bytes()
    complaints = [line for line in result.stderr.splitlines() if "error" in line] or ["no message"]
    raise MissingToolError(
        f"{compiler.name} {compiler.version} cannot build the engine: {complaints[0][:300]}. Try another "
        "version, or another compiler with --compiler."
    )


def _command(
    files: Mapping[str, bytes], board: Board, compiler: Compiler, name: str, optimize: str
) -> list[str]:
    kept = [f"-Wl,-u,{symbol}" for symbol in (f"{name}_init", f"{name}_infer", STATE)]
    return [
        *compiler.argv,
        *compile_flags(compiler, board, optimize),
        f"-DEQRL_HAS_FPU={int(board.fpu != 'none')}",
        "-Isrc",
        *sorted(path for path in files if path.endswith((".c", ".S"))),
        *("-Wl,--gc-sections", "-Wl,-e,Reset_Handler", "-Wl,--build-id=none", "-Wl,-T,link.ld"),
        *kept,
        *compiler.link_flags,
        "-o",
        "bare.elf",
    ]


def _script(board: Board, name: str) -> str:
    """Render a script for GNU ld and LLVM lld: the harness, code, constants and params, each by itself."""
    names = {region.name for region in board.regions}
    memory = "\n".join(
        f"  {r.name.upper()} (rwx) : ORIGIN = {r.start:#010x}, LENGTH = {r.bytes}" for r in board.regions
    )
    return _TEMPLATE.format(memory=memory, name=name, params="PARAMS" if "params" in names else "FLASH")


_TEMPLATE = """/* Generated. */
ENTRY(Reset_Handler)
MEMORY {{
{memory}
}}
SECTIONS {{
  .harness : {{
    KEEP(*(.harness.vectors))
    KEEP(*(.harness.text))
    . = ALIGN(16);
  }} > FLASH
  .params : ALIGN(16) {{ *(.rodata.{name}_params) }} > {params}
  .text : {{ *(.text .text.*) }} > FLASH
  .rodata : {{ *(.rodata .rodata.* .srodata .srodata.*) }} > FLASH
  .data : {{ *(.data .data.* .sdata .sdata.*) }} > RAM AT > FLASH
  .bss (NOLOAD) : ALIGN(8) {{ *(.bss .bss.* .sbss .sbss.* COMMON) }} > RAM
  __free_start = (. + 15) & ~15;
  __stack_top = (ORIGIN(RAM) + LENGTH(RAM)) & ~15;
  .ARM.attributes 0 : {{ *(.ARM.attributes) }}
  .riscv.attributes 0 : {{ *(.riscv.attributes) }}
  /DISCARD/ : {{ *(.ARM.exidx*) *(.ARM.extab*) *(.comment) *(.note*) *(.debug*) *(.eh_frame*) }}
}}
"""


def _sizes(elf: Elf, name: str) -> BareSizes:
    """Add the sections up; those that are not known by name are code."""
    sizes = {section: size for section, (_, size) in elf.sections.items()}
    params, harness = sizes.pop(".params"), sizes.pop(".harness")
    data, zeroed = sizes.pop(".data", 0), sizes.pop(".bss")
    state = elf.symbols[STATE].size
    assert harness, "the harness is missing"
    return BareSizes(
        code=sum(sizes.values()) + data,  # data are stored with the code, too
        params=params,
        state=state,
        other_ram=data + zeroed - state,
        stack=stack_bound(elf, f"{name}_infer"),
    )
