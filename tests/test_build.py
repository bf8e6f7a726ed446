import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.errors import BoardFitError, MissingToolError, UsageError
from firmware_export import build, toolchain
from firmware_export.board import CORES, Board
from firmware_export.build import _command, _glue, _port_files, compile_firmware
from firmware_export.elf import read_elf
from firmware_export.emit import export_sources
from firmware_export.toolchain import (
    COMPILER_NAMES,
    Compiler,
    find_compiler,
    find_compilers,
    host_compiler,
    run_compiler,
)
from firmware_export.uf2 import boot2_crc32
from tests.c_policies import random_policy
from tests.firmware import (
    ALL_BOARDS,
    BOARDS,
    board,
    cross_compiler,
    firmware,
    gcc_of,
    one_a_core,
    one_by_default,
    sources,
)

# The others are loaded where they run: test_ports_riscv.py.
BOARDS_WITH_FLASH = tuple(name for name in ALL_BOARDS if board(name).code_region is None)
# Each source of a port, in one board that has it.
COMPILED_IN = {source: name for name in ALL_BOARDS for source in board(name).port_sources}
WARNINGS = (
    "-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-qual -Wstrict-prototypes "
    "-Wmissing-prototypes -Wundef -Werror"
)


def shrunk(target: Board, kind: str, size: int) -> Board:
    """Return a board with less of one memory."""
    regions = tuple(replace(r, bytes=size) if r.name == kind else r for r in target.regions)
    return replace(target, regions=regions)


@pytest.mark.parametrize("by_gcc", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["zig", "gcc"])
@pytest.mark.parametrize("name", [*BOARDS, "riscv-virt"])
def test_same_sources_give_the_same_bytes_and_no_path(
    name: str, by_gcc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = gcc_of(name) if by_gcc else "zig"
    first = firmware(name, compiler)
    monkeypatch.setattr(build, "run_compiler", run_compiler)  # in one call, as users do
    second = compile_firmware(sources(), board(name), compiler=cross_compiler(compiler), with_selftest=True)
    assert (first.elf, first.bin) == (second.elf, second.bin)
    for trace in (b"/tmp", b"/home", b"/root", b"ziglang", b"edgeqrl-", b".debug"):
        assert trace not in first.elf


@pytest.mark.parametrize("name", one_a_core(n for n in ALL_BOARDS if board(n).port == "cortex_m"))
def test_vector_table_is_what_the_core_reads(name: str) -> None:
    built, target = firmware(name), board(name)
    elf = read_elf(built.elf)
    offset = target.region("flash").start - built.start
    table = struct.unpack_from(f"<{16 + target.num_interrupts}I", built.bin, offset)
    ram = target.region("ram")
    assert elf.address("eqrl_vectors") == target.region("flash").start
    assert table[0] == ram.end == elf.address("__stack_top")
    assert table[1] == elf.address("Reset_Handler") | 1
    assert table[7:11] == (0, 0, 0, 0)
    assert table[13] == 0
    handlers = {15: "SysTick_Handler", 16 + (target.uart.irq or 0): "eqrl_port_uart_interrupt"}
    handlers |= {
        16 + value: "eqrl_port_timer_interrupt" for key, value in target.settings if key == "timer_irq"
    }
    for place in (2, 3, 4, 5, 6, 11, 12, 14, *range(15, len(table))):
        assert table[place] == elf.address(handlers.get(place, "eqrl_default_handler")) | 1, place
    assert elf.entry == table[1]


def test_riscv_begins_at_the_start_of_its_image() -> None:
    elf = read_elf(firmware("riscv-virt").elf)
    assert elf.entry == elf.address("Reset_Handler") == board("riscv-virt").region("flash").start
    assert elf.address("eqrl_default_handler") % 4 == 0  # mtvec


@pytest.mark.parametrize("name", one_a_core(BOARDS_WITH_FLASH))
def test_everything_lies_in_its_region(name: str) -> None:
    require_places(name, "zig")


@pytest.mark.slow
@pytest.mark.parametrize("name", BOARDS_WITH_FLASH)
def test_everything_lies_in_its_region_by_gcc(name: str) -> None:
    require_places(name, gcc_of(name))


def require_places(name: str, compiler: str) -> None:
    built, target = firmware(name, compiler), board(name)
    flash, ram = target.region("flash"), target.region("ram")
    lowest = min(region.start for region in target.regions if region.kind == "flash")
    for segment in read_elf(built.elf).segments:
        in_ram = ram.start <= segment.address < ram.end
        assert in_ram or lowest <= segment.address < flash.end
        if segment.content:
            assert lowest <= segment.load_address
            assert segment.load_address + len(segment.content) <= flash.end
            assert segment.load_address % 4 == len(segment.content) % 4 == 0 or not in_ram
    assert built.sizes.flash_bytes == len(built.bin)
    assert built.sizes.ram_bytes >= 4


def test_pico_runs_from_ram_and_boots_through_boot2() -> None:
    built = firmware("rpi-pico")
    assert built.runs_from_ram
    assert built.start == 0x10000000
    assert struct.unpack_from("<I", built.bin, 252)[0] == boot2_crc32(built.bin[:252])
    step = read_elf(built.elf).address("robot_step")
    assert 0x20000000 <= step < 0x20042000


def test_what_exceeds_ram_runs_from_flash() -> None:
    built = compile_firmware(sources(), shrunk(board("rpi-pico"), "ram", 2048))
    assert not built.runs_from_ram
    assert 0x10000100 <= read_elf(built.elf).address("robot_step") < 0x10200000


def test_what_exceeds_flash_is_refused_with_the_numbers() -> None:
    needed = len(firmware("mps2-an386").bin)
    there = needed // 8 * 4
    with pytest.raises(BoardFitError, match=rf"flash: {needed:,} bytes needed, {there:,} there"):
        compile_firmware(sources(), shrunk(board("mps2-an386"), "flash", there), with_selftest=True)


def test_what_exceeds_ram_is_refused_with_the_numbers() -> None:
    with pytest.raises(BoardFitError, match=r"RAM: [\d,]+ bytes and [\d,]+ of stack needed, 256 there"):
        compile_firmware(sources(), shrunk(board("mps2-an386"), "ram", 256), with_selftest=True)


def test_no_compiler_is_one_sentence_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "find_compilers", lambda: ())
    with pytest.raises(MissingToolError, match="pip install ziglang"):
        find_compiler()
    with pytest.raises(MissingToolError, match="apt install gcc-arm-none-eabi"):
        find_compiler("arm-none-eabi-gcc")
    with pytest.raises(UsageError, match="did you mean 'zig'"):
        find_compiler("zigg")


def test_compiler_that_cannot_be_run_is_said() -> None:
    gone = Compiler("arm-none-eabi-gcc", ("/nonexistent/gcc",), "0")
    with pytest.raises(MissingToolError, match="Cannot run the compiler '/nonexistent/gcc'"):
        compile_firmware(sources(), board("mps2-an386"), compiler=gone)


def test_no_host_compiler_is_one_sentence_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_makes_libraries", lambda argv: False)
    host_compiler.cache_clear()
    with pytest.raises(MissingToolError, match="pip install ziglang"):
        host_compiler()
    host_compiler.cache_clear()


def test_compiler_that_fails_is_quoted() -> None:
    broken = {**sources(), "robot.c": b"#error flux capacitor\n"}
    with pytest.raises(MissingToolError, match=r"zig .* cannot build the firmware: .*flux capacitor"):
        compile_firmware(broken, board("mps2-an386"))


def test_zig_is_found_first() -> None:
    assert find_compilers()[0].name == "zig"


@pytest.mark.parametrize("path", ["../evil.c", "/evil.c", "src/../../evil.c"])
def test_source_outside_the_build_folder_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a relative path"):
        compile_firmware({**sources(), path: b""}, board("mps2-an386"))


def test_sources_of_two_policies_are_refused() -> None:
    other = export_sources(random_policy(np.random.default_rng(1), name="other"), b"")
    with pytest.raises(ValueError, match=r"must hold one NAME_params\.c"):
        compile_firmware({**sources(), **other}, board("mps2-an386"))


def test_compiler_of_other_cores_is_refused_with_those_that_serve() -> None:
    gcc = Compiler("arm-none-eabi-gcc", ("arm-none-eabi-gcc",), "12")
    with pytest.raises(UsageError, match="does not build for rv32imac; use zig or riscv64-unknown-elf-gcc"):
        compile_firmware(sources(), board("riscv-virt"), compiler=gcc)


def test_every_core_and_fpu_has_flags_in_zig_and_in_a_gcc() -> None:
    zig, *gccs = (Compiler(name, (), "") for name in COMPILER_NAMES)
    for core, fpus in CORES.items():
        assert zig.builds_for(core)
        (gcc,) = (compiler for compiler in gccs if compiler.builds_for(core))
        for fpu in fpus:
            assert zig.core_flags(core, fpu)
            assert gcc.core_flags(core, fpu)


@pytest.mark.parametrize(
    ("name", "fpu"),
    [
        ("mps2-an386", "none"),
        ("mps2-an500", "fpv5-sp-d16"),
        pytest.param("mps2-an500", "none", marks=pytest.mark.slow),
        pytest.param("mps2-an505", "none", marks=pytest.mark.slow),
    ],
)
def test_fpu_may_be_left_out_or_smaller(name: str, fpu: str) -> None:
    """Building checks attributes and instructions."""
    for compiler in find_compilers():
        if compiler.builds_for(board(name).core):
            compile_firmware(sources(), replace(board(name), fpu=fpu), compiler=compiler)


@pytest.mark.parametrize("name", one_by_default(ALL_BOARDS, tuple(COMPILED_IN.values())))
def test_port_compiles_without_a_warning(name: str, tmp_path: Path) -> None:
    require_no_warning(name, "zig", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_BOARDS)
def test_port_compiles_without_a_warning_by_gcc(name: str, tmp_path: Path) -> None:
    require_no_warning(name, gcc_of(name), tmp_path)


def require_no_warning(name: str, compiler: str, folder: Path) -> None:
    target = board(name)
    files = {**_port_files(target), **sources(), "eqrl_port_policy.h": _glue("robot", target, True)}
    for path, content in files.items():
        if "/" not in path:
            (folder / path).write_bytes(content)
    ports = [path for path in _port_files(target) if path.endswith(".c")]
    command = _command(dict.fromkeys(ports, b""), target, cross_compiler(compiler), "robot")
    flags = [word for word in command[: command.index(min(ports))] if word != "-o"]
    for path in ports:
        result = run_compiler([*flags, *WARNINGS.split(), "-I.", "-c", path, "-o", "unit.o"], folder)
        assert result.returncode == 0, result.stderr
        assert not result.stderr, result.stderr
