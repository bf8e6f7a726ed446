"""Which instructions each core has. Emulators accept more than chips do, so the ELF is scanned."""

import re
import subprocess
from pathlib import Path

import pytest

from edgeqrl.backends import EMULATED_CORES
from firmware_export.elf import CodeRange, Elf, read_elf
from firmware_export.instruction_set import attribute_problems, forbidden_instructions
from tests.firmware import ALL_BOARDS, board, firmware, gcc_of, require_tool, three_cores

# halfwords, name, the Cortex-M that have it
INSTRUCTIONS = [
    ("b510", "push", "0 3 4 7 33 55"),
    ("bdf0", "pop", "0 3 4 7 33 55"),
    ("ba00", "rev", "0 3 4 7 33 55"),
    ("b672", "cpsid i", "0 3 4 7 33 55"),
    ("bf30", "wfi", "0 3 4 7 33 55"),
    ("be00", "bkpt", "0 3 4 7 33 55"),
    ("4770", "bx lr", "0 3 4 7 33 55"),
    ("4774", "bxns lr", "33 55"),
    ("4784", "blxns r0", "33 55"),
    ("ba80", "hlt", ""),
    ("b650", "setend", ""),
    ("b108", "cbz", "3 4 7 33 55"),
    ("bb08", "cbnz", "3 4 7 33 55"),
    ("bf08", "it eq", "3 4 7 33 55"),
    ("f000 f800", "bl", "0 3 4 7 33 55"),
    ("f3bf 8f5f", "dmb", "0 3 4 7 33 55"),
    ("f3ef 8005", "mrs", "0 3 4 7 33 55"),
    ("f7f0 a000", "udf.w", "0 3 4 7 33 55"),
    ("f000 b800", "b.w", "3 4 7 33 55"),
    ("f000 8000", "beq.w", "3 4 7 33 55"),
    ("f000 e800", "blx (to Arm code)", ""),
    ("f040 e001", "dls (v8.1-M)", "55"),
    ("f240 0000", "movw", "3 4 7 33 55"),
    ("f2c0 0000", "movt", "3 4 7 33 55"),
    ("f8d0 0000", "ldr.w", "3 4 7 33 55"),
    ("f990 0000", "ldrsb.w", "3 4 7 33 55"),
    ("f9d0 0000", "undefined load", ""),
    ("f960 0000", "vld4 (Neon)", ""),
    ("e92d 4ff0", "push.w", "3 4 7 33 55"),
    ("e97f e97f", "sg (v8-M)", "33 55"),
    ("e840 f000", "tt (v8-M)", "33 55"),
    ("e8d0 0faf", "lda (v8-M)", "33 55"),
    ("e8d0 0f4f", "ldrexb", "3 4 7 33 55"),
    ("e8df f001", "tbb", "3 4 7 33 55"),
    ("ea4f 0000", "mov.w", "3 4 7 33 55"),
    ("eac0 0000", "pkhbt", "4 7 33 55"),
    ("fa0f f080", "sxth.w", "3 4 7 33 55"),
    ("fa90 f080", "rev.w", "3 4 7 33 55"),
    ("fab0 f080", "clz", "3 4 7 33 55"),
    ("fa2f f081", "sxtb16", "4 7 33 55"),
    ("fac0 f080", "crc32b (v8-A)", ""),
    ("fb10 f001", "smulbb", "4 7 33 55"),
    ("fb20 3001", "smlad", "4 7 33 55"),
    ("fb50 f011", "smmulr", "4 7 33 55"),
    ("fb80 0101", "smull", "3 4 7 33 55"),
    ("fbe0 0161", "umaal", "4 7 33 55"),
    ("fb90 f0f1", "sdiv", "3 4 7 33 55"),
    ("fbb0 f0f1", "udiv", "3 4 7 33 55"),
    ("ed90 0a00", "vldr s0", "4 7 33 55"),
    ("ed90 0b00", "vldr d0", "4 7 33 55"),
    ("ee30 0a00", "vadd.f32", "4 7 33 55"),
    ("ee30 0b00", "vadd.f64", "7 55"),
    ("ec41 0b10", "vmov d0, r0, r1", "4 7 33 55"),
    ("fe80 0a00", "vmaxnm.f32 (v8)", "7 33 55"),
    ("ef00 0840", "vadd.i8 q0 (MVE, Neon)", "55"),
    ("ed90 0e80", "vldrb (MVE)", "55"),
    ("ef00 0800", "vadd.i8 d0 (Neon)", ""),
    ("ef40 0840", "vadd.i8 q8 (Neon)", ""),
    ("f320 0005", "ssat16", "4 7 33 55"),
    ("f300 0005", "ssat", "3 4 7 33 55"),
    ("fa50 f081", "uxtab", "4 7 33 55"),
    ("fa5f f081", "uxtb.w", "3 4 7 33 55"),
    ("faa0 f081", "sel", "4 7 33 55"),
    ("fa80 f081", "qadd", "4 7 33 55"),
    ("fa80 f001", "sadd8", "4 7 33 55"),
    ("fb00 3001", "mla", "3 4 7 33 55"),
    ("fb00 3011", "mls", "3 4 7 33 55"),
    ("fb70 f001", "usad8", "4 7 33 55"),
    ("fbc0 0181", "smlalbb", "4 7 33 55"),
    ("eeb6 0a40", "vrintr.f32 (v8)", "7 33 55"),
    ("eeb7 0a40", "vrintx.f32 (v8)", "7 33 55"),
    ("eeb7 0ac0", "vcvt.f64.f32", "7 55"),
    ("fe00 0a00", "vseleq.f32 (v8)", "7 33 55"),
    ("fe00 0b00", "vseleq.f64 (v8)", "7 55"),
    ("ee30 0900", "vadd.f16", "55"),
    ("ee00 0b10", "vmov.32 d0[0], r0", "4 7 33 55"),
    ("ee40 0b10", "vmov.8 q0[0], r0 (MVE)", "7 55"),
    ("eea0 0b10", "vdup.32 (MVE, Neon)", "7 55"),
    ("f00f c007", "le", "55"),
    ("f01f c009", "letp", "55"),
    ("f041 c003", "wls", "55"),
    ("f002 e001", "dlstp.8", "55"),
    ("f000 e801", "vctp.8", "55"),
    ("f0c0 e001", "bf (v8.1-M, in no core)", ""),
    ("ecb0 1e10", "vldrb.u8 (MVE)", "55"),
    ("eef2 cf20", "vmladava.s8 (MVE)", "55"),
    ("fe71 0f4d", "vpst (MVE)", "55"),
    ("ec1a 0f06", "vmov q0[2], q0[0], r6, r10 (MVE)", "55"),
    ("ff20 0b42", "vqrdmulh.s32 q0 (MVE, Neon)", "55"),
    ("ef22 0540", "vrshl.s32 q0 (MVE, Neon)", "55"),
    ("ffb0 25c2", "vmvn q1 (MVE, Neon)", "55"),
    ("ee37 0e01", "vqmovnb.s32 (MVE)", "55"),
    ("eca3 0f04", "vstrb.32 (MVE)", "55"),
    ("ea50 8001", "csel", "55"),
    ("ea50 010f", "lsll", "55"),
    ("ea50 0001", "orrs.w", "3 4 7 33 55"),
    ("e89f 000c", "clrm", "55"),
    ("e8c0 1f8f", "stlb (v8-M)", "33 55"),
    ("f3af 8000", "nop.w", "3 4 7 33 55"),
    ("ee00 0010", "mcr p0", ""),
]
RISCV_INSTRUCTIONS = [
    ("00000537", "lui", True),
    ("00000517", "auipc", True),
    ("00000013", "nop", True),
    ("40155513", "srai", True),
    ("20151513", "slli with a bit too many", False),
    ("60051513", "clz (Zbb)", False),
    ("02b50533", "mul", True),
    ("02b57533", "remu", True),
    ("20b52533", "sh1add (Zba)", False),
    ("40b57533", "andn (Zbb)", False),
    ("0ab51533", "clmul (Zbc)", False),
    ("28b51533", "bset (Zbs)", False),
    ("0eb55533", "czero.eqz (Zicond)", False),
    ("00054503", "lbu", True),
    ("00053503", "ld (RV64)", False),
    ("00056503", "lwu (RV64)", False),
    ("00a53023", "sd (RV64)", False),
    ("00b5053b", "addw (RV64)", False),
    ("00b52063", "undefined branch", False),
    ("00052507", "flw", False),
    ("00b57553", "fadd.s", False),
    ("0005f557", "vsetvli", False),
    ("1005252f", "lr.w", True),
    ("00b5252f", "amoadd.w", True),
    ("00b5352f", "amoadd.d (RV64)", False),
    ("0000100f", "fence.i", True),
    ("34202573", "csrr a0, mcause", True),
    ("30200073", "mret", True),
    ("10200073", "sret", False),
    ("0000000b", "custom-0", False),
    ("0001", "c.nop", True),
    ("8082", "ret", True),
    ("4108", "c.lw", True),
    ("0000", "illegal by definition", True),
    ("0004", "c.addi4spn with 0", False),
    ("2108", "c.fld", False),
    ("6108", "c.flw, c.ld", False),
    ("8108", "c.lbu (Zcb)", False),
    ("9c09", "c.subw (RV64)", False),
    ("9101", "c.srli with a bit too many", False),
    ("6105", "c.addi16sp with 32", True),
    ("6101", "c.addi16sp with 0", False),
    ("6501", "c.lui with 0", False),
    ("4002", "c.lwsp to x0", False),
    ("2502", "c.fldsp", False),
    ("8002", "c.jr with x0", False),
    ("9002", "c.ebreak", True),
]
CORES = ("cortex-m0", "cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55")


def image(text: str) -> Elf:
    code = b"".join(int(half, 16).to_bytes(2, "little") for half in text.split())
    return Elf((), {}, (), (CodeRange(0x100, code),), {}, {}, {}, 0x100)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("row", INSTRUCTIONS, ids=[row[1] for row in INSTRUCTIONS])
def test_each_core_has_its_instructions_and_no_others(row: tuple[str, str, str], core: str) -> None:
    text, _, numbers = row
    number = core.removeprefix("cortex-m").removesuffix("plus")
    found = forbidden_instructions(image(text), core, board(EMULATED_CORES[core]).fpu)
    assert (found == []) == (number in numbers.split())


@pytest.mark.parametrize("row", RISCV_INSTRUCTIONS, ids=[row[1] for row in RISCV_INSTRUCTIONS])
def test_rv32imac_has_its_instructions_and_no_others(row: tuple[str, str, bool]) -> None:
    text, _, has = row
    code = int(text, 16).to_bytes(len(text) // 2, "little")
    elf = Elf((), {}, (), (CodeRange(0x100, code),), {}, {}, {}, 0x100, True)
    assert (forbidden_instructions(elf, "rv32imac", "none") == []) == has


def test_fpu_decides_which_floats_there_are() -> None:
    for fpu, has_single, has_double in (
        ("none", False, False),
        ("fpv5-sp-d16", True, False),
        ("fpv5-d16", True, True),
    ):
        assert (forbidden_instructions(image("ee30 0a00"), "cortex-m7", fpu) == []) == has_single
        assert (forbidden_instructions(image("ee30 0b00"), "cortex-m7", fpu) == []) == has_double


def test_forbidden_instruction_is_named_with_its_place() -> None:
    assert forbidden_instructions(image("4770 fb90 f0f1"), "cortex-m0plus", "none") == ["0x102: fb90f0f1"]


def test_image_of_the_larger_core_is_caught_on_the_smaller() -> None:
    elf = read_elf(firmware("mps2-an386").elf)
    assert forbidden_instructions(elf, "cortex-m4", "fpv4-sp-d16") == []
    assert len(forbidden_instructions(elf, "cortex-m0plus", "none")) > 20
    assert len(attribute_problems(elf, "cortex-m0plus", "none")) == 4
    assert len(attribute_problems(elf, "rv32imac", "none")) == 1


def test_image_of_another_family_is_caught() -> None:
    elf = read_elf(firmware("riscv-virt").elf)
    assert attribute_problems(elf, "rv32imac", "none") == []
    assert len(attribute_problems(elf, "cortex-m4", "fpv4-sp-d16")) == 1


@pytest.mark.parametrize("name", three_cores(ALL_BOARDS))
def test_attributes_say_the_boards_core(name: str) -> None:
    require_right_attributes(name, "zig")


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_BOARDS)
def test_attributes_of_the_other_compiler_say_the_boards_core(name: str) -> None:
    require_right_attributes(name, gcc_of(name))


def require_right_attributes(name: str, compiler: str) -> None:
    elf, target = read_elf(firmware(name, compiler).elf), board(name)
    assert attribute_problems(elf, target.core, target.fpu) == []
    for other in (other for other in map(board, ALL_BOARDS) if other.core != target.core):
        is_twin = {other.core, target.core} == {"cortex-m0", "cortex-m0plus"}
        is_part = (target.core, other.core) == ("rv32imc", "rv32imac")  # which has all of it, and atomics
        assert (attribute_problems(elf, other.core, other.fpu) == []) == (is_twin or is_part)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_BOARDS)
def test_disassembler_knows_every_instruction_of_an_image(name: str, tmp_path: Path) -> None:
    """A second opinion: objdump, told the core by the ELF's attributes, leaves nothing undefined.

    Of zig's ELF for v8.1-M it does not believe the attributes, and has to be told.
    """
    for compiler in ("zig", gcc_of(name)):
        prefix = compiler.removesuffix("gcc") if compiler != "zig" else gcc_of(name).removesuffix("gcc")
        objdump = require_tool(f"{prefix}objdump")
        (tmp_path / "f.elf").write_bytes(firmware(name, compiler).elf)
        machine = ["-m", "armv8.1-m.main"] if board(name).core == "cortex-m55" else []
        command = [objdump, "-d", *machine, str(tmp_path / "f.elf")]
        text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        assert len(text.splitlines()) > 400
        odd = [line for line in text.splitlines() if re.search("undef|unpred", line, re.IGNORECASE)]
        assert odd == []
