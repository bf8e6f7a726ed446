"""Which instructions each core has. Emulators accept more than chips do, so the ELF is scanned."""

import pytest

from edgeqrl.errors import DeviceError
from firmware_export.elf import CodeRange, Elf, read_elf
from firmware_export.emulators.emulator import EmulatorProcess
from firmware_export.instruction_set import attribute_problems, forbidden_instructions
from tests.firmware import BOARDS, board, firmware

# halfwords, name, on Cortex-M0+, on Cortex-M4F
INSTRUCTIONS = [
    ("b510", "push", True, True),
    ("bdf0", "pop", True, True),
    ("ba00", "rev", True, True),
    ("b672", "cpsid i", True, True),
    ("bf30", "wfi", True, True),
    ("be00", "bkpt", True, True),
    ("4770", "bx lr", True, True),
    ("4774", "bxns lr", False, False),
    ("4784", "blxns r0", False, False),
    ("ba80", "hlt", False, False),
    ("b650", "setend", False, False),
    ("b108", "cbz", False, True),
    ("bb08", "cbnz", False, True),
    ("bf08", "it eq", False, True),
    ("f000 f800", "bl", True, True),
    ("f3bf 8f5f", "dmb", True, True),
    ("f3ef 8005", "mrs", True, True),
    ("f7f0 a000", "udf.w", True, True),
    ("f000 b800", "b.w", False, True),
    ("f000 8000", "beq.w", False, True),
    ("f000 e800", "blx (to Arm code)", False, False),
    ("f040 e001", "dls (v8.1-M)", False, False),
    ("f240 0000", "movw", False, True),
    ("f2c0 0000", "movt", False, True),
    ("f8d0 0000", "ldr.w", False, True),
    ("f990 0000", "ldrsb.w", False, True),
    ("f9d0 0000", "undefined load", False, False),
    ("f960 0000", "vld4 (Neon)", False, False),
    ("e92d 4ff0", "push.w", False, True),
    ("e97f e97f", "sg (v8-M)", False, False),
    ("e840 f000", "tt (v8-M)", False, False),
    ("e8d0 0faf", "lda (v8-M)", False, False),
    ("e8d0 0f4f", "ldrexb", False, True),
    ("e8df f001", "tbb", False, True),
    ("ea4f 0000", "mov.w", False, True),
    ("eac0 0000", "pkhbt", False, True),
    ("fa0f f080", "sxth.w", False, True),
    ("fa90 f080", "rev.w", False, True),
    ("fab0 f080", "clz", False, True),
    ("fa2f f081", "sxtb16", False, True),
    ("fac0 f080", "crc32b (v8-A)", False, False),
    ("fb10 f001", "smulbb", False, True),
    ("fb20 3001", "smlad", False, True),
    ("fb50 f011", "smmulr", False, True),
    ("fb80 0101", "smull", False, True),
    ("fbe0 0161", "umaal", False, True),
    ("fb90 f0f1", "sdiv", False, True),
    ("fbb0 f0f1", "udiv", False, True),
    ("ed90 0a00", "vldr s0", False, True),
    ("ed90 0b00", "vldr d0", False, True),
    ("ee30 0a00", "vadd.f32", False, True),
    ("ee30 0b00", "vadd.f64", False, False),
    ("ec41 0b10", "vmov d0, r0, r1", False, True),
    ("fe80 0a00", "vmaxnm.f32 (v8)", False, False),
    ("ef00 0840", "vadd.i8 (MVE, Neon)", False, False),
    ("ed90 0e80", "coprocessor 14", False, False),
]


def image(text: str) -> Elf:
    code = b"".join(int(half, 16).to_bytes(2, "little") for half in text.split())
    return Elf((), {}, (), (CodeRange(0x100, code),), {}, {}, {}, 0x100)


@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4"])
@pytest.mark.parametrize("row", INSTRUCTIONS, ids=[row[1] for row in INSTRUCTIONS])
def test_each_core_has_its_instructions_and_no_others(row: tuple[str, str, bool, bool], core: str) -> None:
    text, _, on_m0plus, on_m4 = row
    assert (forbidden_instructions(image(text), core) == []) == (
        on_m0plus if core == "cortex-m0plus" else on_m4
    )


def test_forbidden_instruction_is_named_with_its_place() -> None:
    assert forbidden_instructions(image("4770 fb90 f0f1"), "cortex-m0plus") == ["0x102: fb90f0f1"]


def test_image_of_the_larger_core_is_caught_on_the_smaller() -> None:
    elf = read_elf(firmware("mps2-an386").elf)
    assert forbidden_instructions(elf, "cortex-m4") == []
    assert len(forbidden_instructions(elf, "cortex-m0plus")) > 20
    assert len(attribute_problems(elf, "cortex-m0plus", "none")) == 3


@pytest.mark.parametrize("compiler", ["zig", pytest.param("arm-none-eabi-gcc", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", BOARDS)
def test_attributes_say_the_boards_core(name: str, compiler: str) -> None:
    elf, target = read_elf(firmware(name, compiler).elf), board(name)
    assert attribute_problems(elf, target.core, target.fpu) == []


def execute(core: str, text: str) -> int:
    """Run an instruction with r0 = 7, r1 = 2 and a return behind it on the emulated core."""
    code = b"".join(int(half, 16).to_bytes(2, "little") for half in [*text.split(), "4770"])
    process = EmulatorProcess()
    try:
        chunks = [[0x20000000, len(code)]]
        memory = [[0x20000000, 0x1000]]
        process.request(
            "load", {"core": core, "memory": memory, "chunks": chunks, "stack_top": 0x20001000}, code
        )
        header = {"function": 0x20000000, "arguments": [7, 2], "chunks": []}
        return int(process.request("call", header, b"")[0]["result"])
    finally:
        process.close()


def test_emulated_cores_are_the_ones_asked_for() -> None:
    assert execute("cortex-m0plus", "4348") == 14  # muls
    assert execute("cortex-m4", "fbb0 f0f1") == 3  # udiv
    assert execute("cortex-m4", "fb20 f001") == 14  # smuad: low halves
    for core, text in (
        ("cortex-m0plus", "fbb0 f0f1"),
        ("cortex-m0plus", "fb20 f001"),
        ("cortex-m4", "e840 f000"),
    ):
        with pytest.raises(DeviceError, match="The emulated core stopped"):
            execute(core, text)
