import re
import subprocess
from pathlib import Path

import pytest

from firmware_export import riscv, thumb
from firmware_export.elf import read_elf
from firmware_export.thumb import Flow, Instruction, flow, it_block_length, stack_change
from tests.firmware import ALL_BOARDS, board, firmware, gcc_of, require_tool


def instruction(text: str) -> Instruction:
    """Make one of its halfwords in hex, at address 0x1000."""
    return Instruction(0x1000, len(text) // 2, int(text, 16))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4770", Flow("return")),  # bx lr
        ("bd10", Flow("return")),  # pop {r4, pc}
        ("e8bd8010", Flow("return")),  # pop.w {r4, pc}
        ("f85dfb04", Flow("return")),  # ldr pc, [sp], #4
        ("4718", Flow("indirect_branch")),  # bx r3
        ("4798", Flow("indirect_call")),  # blx r3
        ("469f", Flow("indirect_branch")),  # mov pc, r3
        ("e8dff001", Flow("indirect_branch")),  # tbb [pc, r1]
        ("d0fe", Flow("branch", 0x1000, True)),  # beq .
        ("e7fe", Flow("branch", 0x1000)),  # b .
        ("b108", Flow("branch", 0x1006, True)),  # cbz r0, .+6
        ("ba40", Flow("next")),  # rev16, not cbz
        ("de00", Flow("stop")),  # udf
        ("f7ffffff", Flow("call", 0x1002)),  # bl .+2
        ("f000f801", Flow("call", 0x1006)),  # bl .+6
        ("f7ffbffe", Flow("branch", 0x1000)),  # b.w .
        ("f43faffe", Flow("branch", 0x1000, True)),  # beq.w .
        ("f3bf8f4f", Flow("next")),  # dsb
        ("f3808808", Flow("next")),  # msr msp, r0
        ("f7f0a000", Flow("stop")),  # udf.w
        ("f00fc007", Flow("branch", 0xFF8, True)),  # le lr, .-8
        ("f01fc009", Flow("branch", 0xFF4, True)),  # letp lr, .-12
        ("f041c003", Flow("branch", 0x1008, True)),  # wls lr, r1, .+8
        ("f002e001", Flow("next")),  # dlstp.8 lr, r2
        ("f000e801", Flow("next")),  # vctp.8 r0
        ("4774", Flow("return")),  # bxns lr
        ("4784", Flow("indirect_call")),  # blxns r0
    ],
)
def test_flow(text: str, expected: Flow) -> None:
    assert flow(instruction(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("b510", -8),  # push {r4, lr}
        ("bdf0", 20),  # pop {r4-r7, pc}
        ("b082", -8),  # sub sp, #8
        ("b07f", 508),  # add sp, #508
        ("e92d4ff0", -36),  # push.w {r4-r11, lr}
        ("e8bd8ff0", 36),
        ("f84ded04", -4),  # str lr, [sp, #-4]!
        ("f85dfb04", 4),
        ("f8cd1004", 0),  # str.w r1, [sp, #4]
        ("e96d4502", -8),  # strd r4, r5, [sp, #-8]!
        ("e8fd4502", 8),  # ldrd r4, r5, [sp], #8
        ("ed2d8b04", -16),  # vpush {d8, d9}
        ("ed2d8a02", -8),  # vpush {s16, s17}
        ("ecbd8b04", 16),
        ("f5ad7d00", -512),  # sub.w sp, sp, #512
        ("f60d0d04", 2052),  # addw sp, sp, #2052
        ("44bd", "register"),  # add sp, r7
        ("46bd", "restore"),  # mov sp, r7
        ("ebad0d00", None),  # sub.w sp, sp, r0
        ("ac01", 0),  # add r4, sp, #4
        ("ecb01e10", 0),  # vldrb.u8 q0, [r0], #16
        ("ed2d1f04", None),  # vstrw.32 q0, [sp, #-16]!
        ("ed8d1f04", 0),  # vstrw.32 q0, [sp, #16]
        ("bf08", 0),
    ],
)
def test_stack_change(text: str, expected: object) -> None:
    assert stack_change(instruction(text)) == expected


@pytest.mark.parametrize(
    ("text", "length"), [("bf08", 1), ("bf1c", 2), ("bf01", 4), ("bf00", 0), ("bf30", 0)]
)
def test_it_block_length(text: str, length: int) -> None:
    assert it_block_length(instruction(text)) == length


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_BOARDS)
def test_decoding_agrees_with_objdump(name: str, tmp_path: Path) -> None:
    for compiler in ("zig", gcc_of(name)):
        require_same_decoding(name, compiler, tmp_path / f"{compiler}.elf")


def require_same_decoding(name: str, compiler: str, path: Path) -> None:
    """Compare sizes, branches and their targets of all instructions of an image with objdump's."""
    is_riscv = board(name).port == "riscv32"
    isa = riscv if is_riscv else thumb
    objdump = require_tool(gcc_of(name).removesuffix("gcc") + "objdump")
    machine = ["-m", "armv8.1-m.main"] if board(name).core == "cortex-m55" else []
    path.write_bytes(firmware(name, compiler).elf)
    options = ["-M", "no-aliases"] if is_riscv else []
    command = [objdump, "-d", *machine, *options, str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pattern = r"^ *([0-9a-f]+):\t([0-9a-f]{4}(?: ?[0-9a-f]{4})?) *\t(\S+)\t?([^<\n]*)"
    listed = {int(m[1], 16): m for m in re.finditer(pattern, text, re.MULTILINE) if not m[3].startswith(".")}
    code = read_elf(firmware(name, compiler).elf).code
    ours = [i for part in code for i in isa.decode(part.content, part.start) if i.word]
    assert len(ours) > 400
    arm_branch = r"bl?(eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?|cbn?z|le|letp|wls|wlstp\.\d+"
    branch = re.compile(r"(c\.)?(jal|j|b[a-z]+)" if is_riscv else arm_branch)
    for found in ours:
        line = listed[found.address]
        assert found.size == len(line[2].replace(" ", "")) // 2
        step = isa.flow(found, None)
        is_branch = bool(branch.fullmatch(line[3].removesuffix(".n").removesuffix(".w")))
        assert (step.kind in ("branch", "call")) == is_branch, line[0]
        if is_branch:
            assert step.target == int(re.split(r"[\s,]+", line[4].strip())[-1], 16), line[0]
