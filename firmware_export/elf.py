"""Read the little of an ELF file that a firmware needs: segments, symbols, code, build attributes."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from edgeqrl.errors import MissingToolError


@dataclass(frozen=True)
class Segment:
    """What one section occupies in memory. Sections, because a linker may put ELF headers into a segment."""

    address: int  # where it runs
    load_address: int  # where it is stored
    content: bytes
    memory_bytes: int  # at least len(content); the rest is zero
    is_writable: bool

    def holds(self, address: int) -> bool:
        """Tell whether content lies at an address."""
        return self.address <= address < self.address + len(self.content)


@dataclass(frozen=True)
class Symbol:
    """A function or an object; the address of a function has bit 0 cleared."""

    name: str
    address: int
    size: int
    is_function: bool


@dataclass(frozen=True)
class CodeRange:
    """Addresses [start, start + len(content)) that hold instructions and nothing else."""

    start: int
    content: bytes


@dataclass(frozen=True, eq=False)
class Elf:
    """A linked image of an Arm or RISC-V core."""

    segments: tuple[Segment, ...]
    symbols: Mapping[str, Symbol]  # global ones win over local ones of the same name
    functions: tuple[Symbol, ...]  # by address, one an address
    code: tuple[CodeRange, ...]
    attributes: Mapping[str, Any]  # .ARM.attributes or .riscv.attributes, file scope
    sections: Mapping[str, tuple[int, int]]  # name -> (address, size) of those in memory
    section_offsets: Mapping[str, int]  # name -> offset in the file
    entry: int
    is_riscv: bool = False

    def address(self, name: str) -> int:
        """Return the address of a symbol that must exist."""
        return self.symbols[name].address

    def word(self, name: str, index: int) -> int:
        """Return a 32-bit word of a constant object that must exist."""
        place = self.address(name) + 4 * index
        home = next(s for s in self.segments if s.address <= place < s.address + len(s.content))
        return int.from_bytes(home.content[place - home.address :][:4], "little")


def read_elf(data: bytes) -> Elf:
    """Parse an ELF file made by our own linker call; raises MissingToolError without pyelftools."""
    try:
        from elftools.elf.elffile import ELFFile
    except ImportError as error:
        raise MissingToolError(
            'Reading firmware needs pyelftools; install it with `pip install "edgeqrl[firmware]"`.'
        ) from error
    file = ELFFile(io.BytesIO(data))
    entries = list(file.get_section_by_name(".symtab").iter_symbols())
    symbols = _symbols(entries)
    sections = [section for section in file.iter_sections() if section["sh_flags"] & 2]  # SHF_ALLOC
    is_riscv = file.header["e_machine"] == "EM_RISCV"
    return Elf(
        segments=tuple(_segment(s, file) for s in sections if s["sh_size"]),
        symbols=symbols,
        functions=_functions(entries),
        code=_code(entries, sections, is_riscv),
        attributes=_attributes(file),
        sections={s.name: (s["sh_addr"], s["sh_size"]) for s in sections},
        section_offsets={s.name: s["sh_offset"] for s in sections},
        entry=file.header["e_entry"],
        is_riscv=is_riscv,
    )


def _segment(section: Any, file: Any) -> Segment:
    address, size = section["sh_addr"], section["sh_size"]
    parent = next(
        segment
        for segment in file.iter_segments("PT_LOAD")
        if segment["p_vaddr"] <= address and address + size <= segment["p_vaddr"] + segment["p_memsz"]
    )
    return Segment(
        address=address,
        load_address=parent["p_paddr"] + address - parent["p_vaddr"],
        content=b"" if section["sh_type"] == "SHT_NOBITS" else section.data(),
        memory_bytes=size,
        is_writable=bool(section["sh_flags"] & 1),
    )


def _symbols(entries: list[Any]) -> dict[str, Symbol]:
    symbols: dict[str, Symbol] = {}
    for entry in sorted(entries, key=lambda e: e["st_info"]["bind"] != "STB_LOCAL"):
        if entry.name and not entry.name.startswith("$") and entry["st_shndx"] != "SHN_UNDEF":
            symbols[entry.name] = _symbol(entry)
    return symbols


def _symbol(entry: Any) -> Symbol:
    is_function = entry["st_info"]["type"] == "STT_FUNC"
    address = entry["st_value"] & ~1 if is_function else entry["st_value"]
    return Symbol(entry.name, address, entry["st_size"], is_function)


def _functions(entries: list[Any]) -> tuple[Symbol, ...]:
    found: dict[int, Symbol] = {}
    for entry in entries:
        if entry["st_info"]["type"] == "STT_FUNC" and entry["st_shndx"] != "SHN_UNDEF":
            symbol = _symbol(entry)
            if symbol.address not in found or found[symbol.address].size < symbol.size:
                found[symbol.address] = symbol
    return tuple(found[address] for address in sorted(found))


def _code(entries: list[Any], sections: list[Any], is_riscv: bool) -> tuple[CodeRange, ...]:
    """Cut executable sections at their mapping symbols: $t begins Thumb code, $x RISC-V code, $d data.

    RISC-V compilers put no data into code, and older ones write no mapping symbols.
    """
    ranges: list[CodeRange] = []
    for section in sections:
        if not section["sh_flags"] & 4 or not section["sh_size"]:  # SHF_EXECINSTR
            continue
        start, end, content = section["sh_addr"], section["sh_addr"] + section["sh_size"], section.data()
        marks = {
            entry["st_value"] & ~1: entry.name[:2]
            for entry in entries
            if entry.name[:2] in ("$t", "$x", "$d", "$a") and start <= entry["st_value"] & ~1 < end
        }
        if is_riscv:
            marks.setdefault(start, "$x")
        bounds = [*sorted(marks), end]
        for low, high in pairwise(bounds):
            if marks[low] == ("$x" if is_riscv else "$t"):
                ranges.append(CodeRange(low, content[low - start : high - start]))
    return tuple(ranges)


def _attributes(file: Any) -> dict[str, Any]:
    section = file.get_section_by_name(".ARM.attributes") or file.get_section_by_name(".riscv.attributes")
    if section is None:
        return {}
    return {
        attribute.tag: attribute.value
        for vendor in section.iter_subsections()
        for scope in vendor.iter_subsubsections()
        for attribute in scope.iter_attributes()
        if attribute.tag != "TAG_FILE"
    }
