"""What the runtime asks of a C library on a core without long multiplication, division or normalisation."""

import re
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from firmware_export.emit import runtime_sources
from firmware_export.toolchain import Compiler, find_compilers
from tests.c_build import compile_objects, write_files
from tests.firmware import one_by_default

RUNTIME = runtime_sources()
KERNELS = sorted(path for path in RUNTIME if path.endswith(".c"))
COMPILERS = [compiler for compiler in find_compilers() if compiler.builds_for("cortex-m0plus")]
# Copies and fills, which a compiler may make of a loop, take a time that depends on sizes alone.
ALLOWED = re.compile(r"eqrl_\w+|mem(cpy|set|move)|__aeabi_mem(cpy|set|clr|move)[48]?")


@pytest.mark.parametrize("level", one_by_default(("-O2", "-Os", "-O3"), ("-O2",)))
@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda compiler: compiler.name)
def test_no_kernel_calls_a_helper_whose_time_depends_on_data(
    tmp_path: Path, compiler: Compiler, level: str
) -> None:
    write_files(tmp_path, RUNTIME)
    argv = [*compiler.argv, *compiler.core_flags("cortex-m0plus", "none"), "-std=c99", level]
    argv += ["-fno-sanitize=undefined"] if compiler.name == "zig" else []
    objects = compile_objects([*argv, "-ffreestanding", "-fno-unwind-tables"], KERNELS, tmp_path)
    wanted = {f"{path}: {name}" for path in objects for name in undefined_symbols(tmp_path / path)}
    assert not {name for name in wanted if not ALLOWED.fullmatch(name.partition(": ")[2])}


@pytest.mark.parametrize("level", one_by_default(("-O2", "-Os", "-O0"), ("-Os",)))
@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda compiler: compiler.name)
def test_all_code_of_a_step_can_be_placed(tmp_path: Path, compiler: Compiler, level: str) -> None:
    """Also what of the small functions a compiler does not inline; checking params is no part of a step."""
    write_files(tmp_path, RUNTIME)
    argv = [*compiler.argv, *compiler.core_flags("cortex-m4", "none"), "-std=c99", level, "-ffreestanding"]
    argv += ['-DEQRL_CODE=__attribute__((section(".itcm")))', "-Wall", "-Wextra", "-Werror"]
    argv += ["-fno-sanitize=undefined"] if compiler.name == "zig" else []
    for path in compile_objects(argv, [path for path in KERNELS if path != "eqrl_params.c"], tmp_path):
        places = function_sections(tmp_path / path)
        assert places
        assert set(places.values()) == {".itcm"}, f"{path}: {places}"


def function_sections(path: Path) -> dict[str, str]:
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        symbols = elf.get_section_by_name(".symtab").iter_symbols()
        functions = [
            s for s in symbols if s["st_info"]["type"] == "STT_FUNC" and s["st_shndx"] != "SHN_UNDEF"
        ]
        return {s.name: elf.get_section(s["st_shndx"]).name for s in functions}


def undefined_symbols(path: Path) -> set[str]:
    with path.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".symtab")
        return {s.name for s in section.iter_symbols() if s["st_shndx"] == "SHN_UNDEF" and s.name}
