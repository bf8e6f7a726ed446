"""Render the linker script of a board from its regions. Knows boards, knows nothing of policies."""

from collections.abc import Iterable

from firmware_export.board import Board, Region
from firmware_export.placement import Placement, place, usual_code_region

RESERVED_STACK_BYTES = 256  # least room the linker insists on; the exact bound is checked after linking
ALIGNMENT = 16  # of weights and arena, for every core: what a load of Helium brings at once

_CODE, _WEIGHTS, _ARENA = ".eqrl_code", ".eqrl_weights", ".eqrl_arena"


def placement_macros(board: Board, placement: Placement, *, runs_from_ram: bool) -> dict[str, str]:
    """Return what EQRL_CODE, EQRL_WEIGHTS and EQRL_ARENA are for the sections of the linker script.

    Code that lies with the rest of the image needs none. Else each function gets a section of its own, by
    its line, so that what nobody calls is left out of the image as it is without.
    """
    macros = {
        "EQRL_WEIGHTS": f'__attribute__((section("{_WEIGHTS}")))',
        "EQRL_ARENA": f'__attribute__((section(".bss{_ARENA}")))',  # of no bytes in the object
    }
    if placement.code != usual_code_region(board, runs_from_ram):
        macros |= {
            "EQRL_CODE": "EQRL_PLACED(__LINE__)",
            "EQRL_PLACED(line)": f'__attribute__((section("{_CODE}." EQRL_PLACED_TEXT(line))))',
            "EQRL_PLACED_TEXT(line)": "#line",
        }
    return macros


def render_linker_script(board: Board, *, runs_from_ram: bool, placement: Placement | None = None) -> str:
    """Return a script for GNU ld and LLVM lld, same layout under both.

    With `runs_from_ram`, code and constants are stored in flash and copied to RAM by startup.S before main;
    otherwise they stay in flash. Code and constants are different output sections, so that everything in an
    executable section is an instruction or marked as data. Where the board has a `code_region`, a boot ROM
    puts all where it runs: nothing is copied, and as much of `ram` is left out as the code takes there.
    `placement` says where code, weights and arena of the policy go; None: where they usually do.
    """
    placement = placement or place(board, runs_from_ram=runs_from_ram)
    regions = [region for region in board.regions if not region.reserved]
    code = (board.code_region or "flash").upper()
    usual = "> RAM AT > FLASH" if runs_from_ram else "> FLASH"
    copied = [".text", ".rodata", ".data"] if runs_from_ram else [".data"]
    parts = {_CODE: board.region(placement.code), _WEIGHTS: board.region(placement.weights)}
    copied += [section for section, region in parts.items() if region.kind == "ram"]
    stored = " AT > FLASH"
    if board.code_region:
        usual, copied, stored = "> RAM", [], ""
    used = [region for region in regions if region.name in vars(placement).values()]
    return _TEMPLATE.format(
        board=board.name,
        memory="\n".join(_memory(region) for region in regions),
        boot2=_BOOT2 if any(region.name == "boot2" for region in regions) else "",
        code=code,
        place=usual,
        code_place=f"> {code}" if board.code_region else usual,
        data_place=f"> RAM{stored}",
        data_start=_BEHIND_CODE if board.code_region else ": ALIGN(16)",
        placed_code=_place_of(parts[_CODE], stored),
        weights=_place_of(parts[_WEIGHTS], stored),
        arena=f"> {placement.arena.upper()}",
        alignment=ALIGNMENT,
        enable_table=_rows(pair for region in used for pair in region.enable),
        copy_table=_rows((f"LOADADDR({name})", f"ADDR({name})", f"SIZEOF({name})") for name in copied),
        clear_table=_rows((f"ADDR({name})", f"SIZEOF({name})") for name in (_ARENA, ".bss")),
        stack=RESERVED_STACK_BYTES,
    )


def _place_of(region: Region, stored: str) -> str:
    """Say where a section is, and `stored` where what is in RAM comes from."""
    return f"> {region.name.upper()}{stored if region.kind == 'ram' else ''}"


def _rows(rows: Iterable[tuple[int | str, ...]]) -> str:
    return "\n".join("    " + " ".join(f"LONG({word})" for word in row) for row in rows)


def _memory(region: Region) -> str:
    access = "rx" if region.kind == "flash" else "rwx"
    length = region.end - region.first
    return f"  {region.name.upper()} ({access}) : ORIGIN = {region.first:#010x}, LENGTH = {length}"


_BOOT2 = """
  .boot2 : {
    KEEP(*(.boot2))
  } > BOOT2
"""

# What lies at the start of the code's region lies at the start of RAM, too: data begin behind it. 40 and 15:
# gaps between the five, and alignment.
_CODE_BYTES = "SIZEOF(.vectors) + SIZEOF(.startup) + SIZEOF(.copy_table) + SIZEOF(.text) + SIZEOF(.eqrl_code)"
_BEHIND_CODE = f"(ORIGIN(RAM) + (({_CODE_BYTES} + 40 + 15) & ~15)) :"

# ALIGN(4) inside and around each copied section keeps its load address and its size multiples of four.
_TEMPLATE = """/* Generated for board {board}. */
ENTRY(Reset_Handler)
MEMORY {{
{memory}
}}
SECTIONS {{{boot2}
  .vectors : {{
    KEEP(*(.vectors))
    . = ALIGN(4);
  }} > {code}

  .startup : ALIGN(4) {{
    KEEP(*(.startup))
    . = ALIGN(4);
  }} > {code}

  .copy_table : ALIGN(4) {{
    __enable_table_start = .;
{enable_table}
    __enable_table_end = .;
    __copy_table_start = .;
{copy_table}
    __copy_table_end = .;
    __clear_table_start = .;
{clear_table}
    __clear_table_end = .;
  }} > {code}

  .text : ALIGN(8) {{
    *(.text .text.*)
    . = ALIGN(8);
  }} {code_place}

  .eqrl_code : ALIGN(8) {{
    *(.eqrl_code .eqrl_code.*)
    . = ALIGN(8);
  }} {placed_code}

  .rodata {data_start} {{
    *(.rodata .rodata.* .srodata .srodata.*)
    . = ALIGN(8);
  }} {place}

  .eqrl_weights : ALIGN({alignment}) {{
    *(.eqrl_weights)
    . = ALIGN(8);
  }} {weights}

  .data : ALIGN(8) {{
    *(.data .data.* .sdata .sdata.*)
    . = ALIGN(8);
  }} {data_place}

  .eqrl_arena (NOLOAD) : ALIGN({alignment}) {{
    . += {alignment} - 4; /* a state begins with a pointer, and then its arena */
    *(.bss.eqrl_arena)
    . = ALIGN(8);
  }} {arena}

  .bss (NOLOAD) : ALIGN(8) {{
    *(.bss .bss.* .sbss .sbss.* COMMON)
    . = ALIGN(8);
    __free_start = .;
  }} > RAM

  __stack_top = (ORIGIN(RAM) + LENGTH(RAM)) & ~15;
  ASSERT(__free_start + {stack} <= __stack_top, "no room for the stack")

  .ARM.attributes 0 : {{ *(.ARM.attributes) }}
  .riscv.attributes 0 : {{ *(.riscv.attributes) }}
  /DISCARD/ : {{ *(.ARM.exidx*) *(.ARM.extab*) *(.comment) *(.note*) *(.debug*) *(.eh_frame*) }}
}}
"""
