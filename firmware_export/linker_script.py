"""Render the linker script of a board from its regions. Knows boards, knows nothing of policies."""

from firmware_export.board import Board, Region

RESERVED_STACK_BYTES = 256  # least room the linker insists on; the exact bound is checked after linking


def render_linker_script(board: Board, *, runs_from_ram: bool) -> str:
    """Return a script for GNU ld and LLVM lld, same layout under both.

    With `runs_from_ram`, code and constants are stored in flash and copied to RAM by startup.S before main;
    otherwise they stay in flash. Code and constants are different output sections, so that everything in an
    executable section is an instruction or marked as data. Where the board has a `code_region`, a boot ROM
    puts all where it runs: nothing is copied, and as much of `ram` is left out as the code takes there.
    """
    regions = [region for region in board.regions if not region.reserved]
    code = (board.code_region or "flash").upper()
    place = "> RAM AT > FLASH" if runs_from_ram else "> FLASH"
    copied: tuple[str, ...] = (".text", ".rodata", ".data") if runs_from_ram else (".data",)
    if board.code_region:
        place, copied = "> RAM", ()
    rows = "\n".join(f"    LONG(LOADADDR({name})) LONG(ADDR({name})) LONG(SIZEOF({name}))" for name in copied)
    has_boot2 = any(region.name == "boot2" for region in regions)
    return _TEMPLATE.format(
        board=board.name,
        memory="\n".join(_memory(region) for region in regions),
        boot2=_BOOT2 if has_boot2 else "",
        code=code,
        place=place,
        code_place=f"> {code}" if board.code_region else place,
        data_place="> RAM" if board.code_region else "> RAM AT > FLASH",
        data_start=_BEHIND_CODE if board.code_region else ": ALIGN(16)",
        copy_table=rows,
        stack=RESERVED_STACK_BYTES,
    )


def _memory(region: Region) -> str:
    access = "rx" if region.kind == "flash" else "rwx"
    return f"  {region.name.upper()} ({access}) : ORIGIN = {region.start:#010x}, LENGTH = {region.bytes}"


_BOOT2 = """
  .boot2 : {
    KEEP(*(.boot2))
  } > BOOT2
"""

# What lies at the start of the code's region lies at the start of RAM, too: data begin behind it. 32 and 15:
# gaps between the four, and alignment.
_CODE_BYTES = "SIZEOF(.vectors) + SIZEOF(.startup) + SIZEOF(.copy_table) + SIZEOF(.text)"
_BEHIND_CODE = f"(ORIGIN(RAM) + (({_CODE_BYTES} + 32 + 15) & ~15)) :"

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
    __copy_table_start = .;
{copy_table}
    __copy_table_end = .;
  }} > {code}

  .text : ALIGN(8) {{
    *(.text .text.*)
    . = ALIGN(8);
  }} {code_place}


  .rodata {data_start} {{
    *(.rodata .rodata.* .srodata .srodata.*)
    . = ALIGN(8);
  }} {place}

  .data : ALIGN(8) {{
    *(.data .data.* .sdata .sdata.*)
    . = ALIGN(8);
  }} {data_place}

  .bss (NOLOAD) : ALIGN(8) {{
    __bss_start = .;
    *(.bss .bss.* .sbss .sbss.* COMMON)
    . = ALIGN(8);
    __bss_end = .;
  }} > RAM

  __free_start = __bss_end;
  __stack_top = (ORIGIN(RAM) + LENGTH(RAM)) & ~15;
  ASSERT(__free_start + {stack} <= __stack_top, "no room for the stack")

  .ARM.attributes 0 : {{ *(.ARM.attributes) }}
  .riscv.attributes 0 : {{ *(.riscv.attributes) }}
  /DISCARD/ : {{ *(.ARM.exidx*) *(.ARM.extab*) *(.comment) *(.note*) *(.debug*) *(.eh_frame*) }}
}}
"""
