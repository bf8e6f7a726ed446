import re
import subprocess
from pathlib import Path

import pytest

from firmware_export.elf import read_elf
from firmware_export.thumb import Flow, Instruction, decode, flow, it_block_length, stack_change
from tests.firmware import BOARDS, firmware, require_tool


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
@pytest.mark.parametrize("compiler", ["zig", "arm-none-eabi-gcc"])
@pytest.mark.parametrize("board", BOARDS)
def test_decoding_agrees_with_objdump(board: str, compiler: str, tmp_path: Path) -> None:
    objdump = require_tool("arm-none-eabi-objdump")
    (tmp_path / "f.elf").write_bytes(firmware(board, compiler).elf)
    text = subprocess.run(
        [objdump, "-d", tmp_path / "f.elf"], capture_output=True, text=True, check=True
    ).stdout
    pattern = r"^ *([0-9a-f]+):\t([0-9a-f]{4}(?: [0-9a-f]{4})?) *\t(\S+)\t?([^<\n]*)"
    listed = {int(m[1], 16): m for m in re.finditer(pattern, text, re.MULTILINE) if not m[3].startswith(".")}
    ours = {
        i.address: i
        for code in read_elf(firmware(board, compiler).elf).code
        for i in decode(code.content, code.start)
    }
    assert len(ours) > 400
    for address, found in ours.items():
        line = listed[address]
        assert found.size == len(line[2].replace(" ", "")) // 2
        name = line[3].removesuffix(".n").removesuffix(".w")
        step = flow(found)
        is_branch = re.fullmatch(r"b(l|eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?|cbn?z", name)
        assert (step.kind in ("branch", "call")) == bool(is_branch), line[0]
        if is_branch:
            assert step.target == int(line[4].split()[-1], 16), line[0]
