from dataclasses import replace

import numpy as np
import pytest

from edgeqrl.backends.emulated import EmulatedPolicy
from firmware_export.elf import CodeRange, Elf, Segment, Symbol, read_elf
from firmware_export.stack import UnboundedStack, reached, stack_bound
from tests.c_policies import random_observations
from tests.firmware import BOARDS, board, firmware, policy

LOOP_END = "f00f c003"  # le lr, 4 bytes before itself


def image(**functions: str) -> Elf:
    """Lay functions, given as halfwords in hex, one after the other from 0x100."""
    content, symbols, address = b"", [], 0x100
    for name, text in functions.items():
        code = b"".join(int(half, 16).to_bytes(2, "little") for half in text.split())
        symbols.append(Symbol(name, address, len(code), True))
        content, address = content + code, address + len(code)
    segment = Segment(0x100, 0x100, content, len(content), False)
    by_name = {symbol.name: symbol for symbol in symbols}
    return Elf((segment,), by_name, tuple(symbols), (CodeRange(0x100, content),), {}, {}, {}, 0x100)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("4770", 0),  # bx lr
        ("b510 bd10", 8),  # push {r4, lr}; pop
        ("b500 b084 b004 bd00", 20),  # and sub sp, #16
        ("b500 d000 b084 b004 bd00", 20),  # one of two paths is deeper
        ("b500 d001 b004 bd00 b084 bd00", 20),  # code after an early return
        ("b500 bf08 bd00 b084 bd00", 20),  # a return inside an IT block falls through
        ("4b01 449d 4770 46c0 fe00 ffff", 512),  # ldr r3, =-512; add sp, r3
        ("b580 af00 46bd bd80", 8),  # frame pointer
        ("b500 f040 e001 b084 b004 " + LOOP_END + " bd00", 20),  # a low-overhead loop
        ("b510 f000 f801 bf00 b084 b004 bd10", 24),  # bl as a jump inside the function, as GCC does on v6-M
    ],
)
def test_deepest_path_counts(code: str, expected: int) -> None:
    assert stack_bound(image(f=code), "f") == expected


def test_callees_count_at_the_depth_of_their_call() -> None:
    # f: push {lr}; bl g; sub sp, #32; add sp, #32; pop {pc}    g: push {r4, lr}; pop
    assert stack_bound(image(f="b500 f000 f803 b088 b008 bd00", g="b510 bd10"), "f") == 36
    assert stack_bound(image(f="b500 b088 f000 f802 b008 bd00", g="b510 bd10"), "f") == 44


def test_tail_call_counts_after_the_frame_is_gone() -> None:
    # f: push {r4, lr}; pop.w {r4, lr}; b g
    assert stack_bound(image(f="b510 e8bd 4010 e7ff", g="b51f bd1f"), "f") == 24


@pytest.mark.parametrize(
    ("veneer", "pushed"),
    [
        ("f240 1c14 f2c0 0c00 4760 46c0 46c0 46c0", 0),  # movw, movt ip, #0x114; bx ip
        ("f85f f000 0115 0000 46c0 46c0 46c0 46c0", 0),  # ldr.w pc, [pc]
        ("b401 4802 4684 bc01 4760 46c0 0115 0000", 4),
        ("b403 4801 9001 bd01 0115 0000 46c0 46c0", 8),
    ],
)
def test_veneer_is_passed_through(veneer: str, pushed: int) -> None:
    """To g, which pushes seven registers, or none: what the veneer itself pushes is popped before."""
    elf = image(v=veneer, e="46c0 46c0", g="b53f bd3f")  # g: push {r0-r5, lr}; at 0x114
    assert elf.symbols["g"].address == 0x114
    assert stack_bound(elf, "v") == 28
    shallow = image(v=veneer, e="46c0 46c0", g="4770")
    assert stack_bound(shallow, "v") == pushed
    assert {i.address for i in reached(elf, "v")} >= {0x100, 0x114}


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        ({"f": "b500 f7ff fffd bd00"}, "calls itself"),
        ({"f": "f240 1c01 f2c0 0c00 4760"}, "calls itself"),  # a veneer to itself
        ({"f": "b500 4798 bd00"}, "jumps through a pointer"),
        ({"f": "b500 e7fd"}, "pushes in a loop"),
        ({"f": "46a5 4770"}, "sets SP to an unknown value"),
        ({"f": "ebad 0d00 4770"}, "sets SP to an unknown value"),
        ({"f": "449d 4770"}, "adds an unknown value"),
        ({"f": "ed2d 1f04 4770"}, "sets SP to an unknown value"),  # vstrw.32 q0, [sp, #-16]!
        ({"f": "f000 f802 4770", "g": "b500 bd00"}, "is not the start of a function"),
    ],
)
def test_what_cannot_be_bounded_is_an_error(functions: dict[str, str], said: str) -> None:
    with pytest.raises(UnboundedStack, match=said):
        stack_bound(image(**functions), "f")


def riscv_image(**functions: str) -> Elf:
    """The same of RISC-V instructions, each in hex as a number of 2 or 4 bytes."""
    built = image()
    content, symbols, address = b"", [], 0x100
    for name, text in functions.items():
        code = b"".join(int(word, 16).to_bytes(len(word) // 2, "little") for word in text.split())
        symbols.append(Symbol(name, address, len(code), True))
        content, address = content + code, address + len(code)
    code_range = (CodeRange(0x100, content),)
    by_name = {symbol.name: symbol for symbol in symbols}
    return replace(built, symbols=by_name, functions=tuple(symbols), code=code_range, is_riscv=True)


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        ({"f": "8082"}, 0),  # ret
        ({"f": "1141 0141 8082"}, 16),  # c.addi sp, -16; 16; ret
        ({"f": "7139 6121 8082"}, 64),  # c.addi16sp
        ({"f": "f8010113 08010113 8082"}, 128),  # addi sp, sp, -128
        ({"f": "c119 1141 0141 8082"}, 16),  # c.beqz a0, .+6
        ({"f": "1141 2019 0141 8082", "g": "7139 6121 8082"}, 80),  # c.jal .+6
        ({"f": "1141 008000ef 0141 8082", "g": "7139 6121 8082"}, 80),  # jal ra, .+8
    ],
)
def test_riscv_paths_and_calls_count(functions: dict[str, str], expected: int) -> None:
    assert stack_bound(riscv_image(**functions), "f") == expected


def test_riscv_far_call_is_followed() -> None:
    # f: c.addi sp, -16; auipc ra, 0; jalr ra, 12(ra); c.addi sp, 16; ret    g: 64 bytes
    elf = riscv_image(f="1141 00000097 00c080e7 0141 8082", g="7139 6121 8082")
    assert stack_bound(elf, "f") == 80


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1141 3ffd 0141 8082", "calls itself"),  # c.jal .-2... to the start of f
        ("9502 8082", "jumps through a pointer"),  # c.jalr a0
        ("8502", "jumps through a pointer"),  # c.jr a0
        ("1141 bffd", "pushes in a loop"),
        ("40a10133 8082", "sets SP to an unknown value"),  # sub sp, sp, a0
        ("812a 8082", "sets SP to an unknown value"),  # c.mv sp, a0
    ],
)
def test_riscv_code_that_cannot_be_bounded_is_an_error(code: str, said: str) -> None:
    with pytest.raises(UnboundedStack, match=said):
        stack_bound(riscv_image(f=code), "f")


@pytest.mark.parametrize("name", BOARDS)
def test_measured_stack_is_within_the_bound_and_near_it(name: str) -> None:
    built = firmware(name)
    bound = stack_bound(read_elf(built.elf), "robot_step")
    with EmulatedPolicy(built, policy(), board(name)) as device:
        observations = random_observations(np.random.default_rng(0), policy(), 3)
        measured = max(device.profile(observation).stack_bytes for observation in observations)
    assert bound - 32 <= measured <= bound < built.sizes.stack_bytes
