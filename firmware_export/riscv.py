"""Decode as much of RV32IMAC and RV32IMC as a stack bound and an instruction-set check need.

Source: The RISC-V Instruction Set Manual, Volume I, Unprivileged Architecture: RV32/64G listings, the C and
Zicsr chapters; Volume II for MRET and WFI.
"""

from collections.abc import Iterator

from firmware_export.thumb import Flow, Instruction, signed

_SP, _RA = 2, 1
_AUIPC, _JALR, _JAL, _BRANCH, _AMO = 0x17, 0x67, 0x6F, 0x63, 0x2F
_PRIVILEGED = (0x00000073, 0x00100073, 0x30200073, 0x10500073)  # ECALL, EBREAK, MRET, WFI
_ATOMIC = (0, 1, 2, 3, 4, 8, 12, 16, 20, 24, 28)


def decode(content: bytes, start: int) -> Iterator[Instruction]:
    """Split code at `start` into instructions of 2 and 4 bytes."""
    offset = 0
    while offset + 2 <= len(content):
        size = 4 if content[offset] & 3 == 3 else 2
        yield Instruction(start + offset, size, int.from_bytes(content[offset : offset + size], "little"))
        offset += size


def flow(instruction: Instruction, before: Instruction | None = None) -> Flow:
    """Say where control goes after `instruction`; `before` is the one in front of it.

    A far call is a pair: AUIPC puts an address into a register, JALR jumps to it plus an offset.
    """
    word, address = instruction.word, instruction.address
    if instruction.size == 2:
        return _flow16(word, address)
    opcode, target_register = word & 0x7F, word >> 7 & 31
    if opcode == _BRANCH:
        return Flow("branch", address + _branch_offset(word), True)
    if opcode == _JAL:
        return _jump(target_register, address + _jal_offset(word))
    if opcode == _JALR:
        source = word >> 15 & 31
        if before and before.size == 4 and before.word & 0xFFF == _AUIPC | source << 7 and source:
            base = before.address + signed(before.word & 0xFFFFF000, 32)
            return _jump(target_register, base + signed(word >> 20, 12) & 0xFFFFFFFF)
        return _indirect(target_register, source)
    return Flow("stop") if word in (0x00100073, 0x30200073) else Flow("next")


def stack_change(instruction: Instruction) -> int | None:
    """Say how many bytes `instruction` adds to SP (negative: pushed), 0, or None if it cannot be known."""
    word = instruction.word
    if instruction.size == 2:
        return _stack16(word)
    if word >> 7 & 31 != _SP or word & 0x7F in (_BRANCH, 0x23, 0x0F):  # no destination register
        return 0
    is_addi = word & 0x707F == 0x13 and word >> 15 & 31 == _SP
    return signed(word >> 20, 12) if is_addi else None


def is_allowed(instruction: Instruction, core: str) -> bool:
    """Tell whether a core, with Zicsr and Zifencei, has the instruction; hints count as instructions.

    RV32IMC has all of RV32IMAC but the atomics.
    """
    is_atomic = instruction.size == 4 and instruction.word & 0x7F == _AMO
    return is_rv32imac(instruction) and not (is_atomic and core == "rv32imc")


def is_rv32imac(instruction: Instruction) -> bool:
    """Tell whether RV32IMAC with Zicsr and Zifencei has the instruction; hints count as instructions."""
    if instruction.size == 2:
        return _is_compressed(instruction.word)
    word = instruction.word
    opcode, function, upper = word & 0x7F, word >> 12 & 7, word >> 25
    if opcode in (0x37, _AUIPC, _JAL):
        return True
    if opcode == 0x13:  # with immediates
        return function not in (1, 5) or upper == 0 or (function == 5 and upper == 0x20)
    if opcode == 0x33:
        return upper in (0, 1) or (upper == 0x20 and function in (0, 5))
    if opcode == 0x73:
        return function in (1, 2, 3, 5, 6, 7) or word in _PRIVILEGED
    if opcode == _AMO:  # atomics of words; LR has no second source
        operation = word >> 27
        return function == 2 and operation in _ATOMIC and (operation != 2 or word >> 20 & 31 == 0)
    functions = {
        _JALR: (0,),
        _BRANCH: (0, 1, 4, 5, 6, 7),
        0x03: (0, 1, 2, 4, 5),
        0x23: (0, 1, 2),
        0x0F: (0, 1),
    }
    return function in functions.get(opcode, ())


def _flow16(word: int, address: int) -> Flow:
    quadrant, function = word & 3, word >> 13
    if quadrant == 1 and function in (1, 5):  # C.JAL, C.J
        return _jump(_RA if function == 1 else 0, address + _cj_offset(word))
    if quadrant == 1 and function >= 6:
        return Flow("branch", address + _cb_offset(word), True)
    if quadrant == 2 and function == 4 and word >> 2 & 31 == 0:
        source = word >> 7 & 31
        if source:
            return _indirect(_RA if word & 0x1000 else 0, source)
        return Flow("stop")  # C.EBREAK
    return Flow("stop") if word == 0 else Flow("next")


def _jump(link: int, target: int) -> Flow:
    if link == 0:
        return Flow("branch", target)
    return Flow("call", target) if link == _RA else Flow("indirect_call")


def _indirect(link: int, source: int) -> Flow:
    if link:
        return Flow("indirect_call")
    return Flow("return") if source == _RA else Flow("indirect_branch")


def _stack16(word: int) -> int | None:
    quadrant, function, register = word & 3, word >> 13, word >> 7 & 31
    if quadrant == 1 and function == 3 and register == _SP:  # C.ADDI16SP
        value = word >> 3 & 0x200 | word << 4 & 0x180 | word << 1 & 0x40 | word << 3 & 0x20 | word >> 2 & 0x10
        return signed(value, 10)
    if quadrant == 1 and function == 0 and register == _SP:  # C.ADDI
        return signed(word >> 7 & 0x20 | word >> 2 & 31, 6)
    writes = (quadrant == 1 and function == 2) or (quadrant == 2 and function in (0, 2))  # LI, SLLI, LWSP
    writes = writes or (quadrant == 2 and function == 4 and word >> 2 & 31 != 0)  # MV, ADD
    return None if writes and register == _SP else 0


def _is_compressed(word: int) -> bool:
    quadrant, function, register = word & 3, word >> 13, word >> 7 & 31
    if quadrant == 0:  # ADDI4SPN, LW, SW; 0 is the instruction that is illegal by definition, and padding
        return word == 0 or (function == 0 and word & 0x1FE0 != 0) or function in (2, 6)
    if quadrant == 1:
        if function == 3:  # LUI, ADDI16SP: not with 0
            return word & 0x107C != 0
        if function == 4:
            kind = word >> 10 & 3
            return not word & 0x1000 if kind in (0, 1, 3) else True
        return True
    if function == 0:
        return not word & 0x1000
    if function == 2:
        return register != 0
    if function == 4:
        return word & 0x1FFC != 0 and not (register == 0 and word & 0x1000 == 0 and word >> 2 & 31 == 0)
    return function == 6


def _branch_offset(word: int) -> int:
    value = word >> 19 & 0x1000 | word << 4 & 0x800 | word >> 20 & 0x7E0 | word >> 7 & 0x1E
    return signed(value, 13)


def _jal_offset(word: int) -> int:
    value = word >> 11 & 0x100000 | word & 0xFF000 | word >> 9 & 0x800 | word >> 20 & 0x7FE
    return signed(value, 21)


def _cj_offset(word: int) -> int:
    value = word >> 1 & 0x800 | word << 2 & 0x400 | word >> 1 & 0x300 | word << 1 & 0x80
    value |= word >> 1 & 0x40 | word << 3 & 0x20 | word >> 7 & 0x10 | word >> 2 & 0xE
    return signed(value, 12)


def _cb_offset(word: int) -> int:
    value = word >> 4 & 0x100 | word << 1 & 0xC0 | word << 3 & 0x20 | word >> 7 & 0x18 | word >> 2 & 6
    return signed(value, 9)
