"""Decode as much of Thumb as a stack bound and an instruction-set check need.

Source: Arm v6-M (DDI 0419) and v7-M (DDI 0403) Architecture Reference Manuals, chapter A5, encodings; for the
low-overhead loops of v8.1-M, DDI 0553, chapter C2.
A 32-bit instruction is held as `first halfword << 16 | second halfword`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

FlowKind = Literal["next", "branch", "call", "return", "stop", "indirect_call", "indirect_branch"]


@dataclass(frozen=True)
class Instruction:
    """One instruction at an address; `size` is 2 or 4."""

    address: int
    size: int
    word: int


@dataclass(frozen=True)
class Flow:
    """Where control goes: `target` for branches and calls; conditional ones may also fall through."""

    kind: FlowKind
    target: int = 0
    is_conditional: bool = False


def signed(value: int, bits: int) -> int:
    """Return a number of `bits` bits, the highest of which is the sign."""
    return value - (1 << bits) if value >> (bits - 1) else value


def decode(content: bytes, start: int) -> Iterator[Instruction]:
    """Split code at `start` into instructions."""
    offset = 0
    while offset + 2 <= len(content):
        word, size = int.from_bytes(content[offset : offset + 2], "little"), 2
        if word >> 11 >= 0b11101:
            word = word << 16 | int.from_bytes(content[offset + 2 : offset + 4], "little")
            size = 4
        yield Instruction(start + offset, size, word)
        offset += size


def it_block_length(instruction: Instruction) -> int:
    """Count the instructions that an IT instruction makes conditional; 0 for every other."""
    if instruction.size != 2 or instruction.word & 0xFF00 != 0xBF00:
        return 0
    mask = instruction.word & 0xF
    return 0 if mask == 0 else 4 - ((mask & -mask).bit_length() - 1)


def uses_fpu(instruction: Instruction) -> bool:
    """Tell whether an instruction is one of the FPU or of Helium: compilers use no other coprocessor."""
    return instruction.size == 4 and instruction.word >> 16 & 0xEC00 == 0xEC00


def is_loop_instruction(high: int, low: int) -> bool:
    """Tell whether two halfwords are WLS, DLS, LE, their tail-predicated forms, LCTP or VCTP (v8.1-M)."""
    if high & 0xFFC0 != 0xF000 and high & 0xFFF0 != 0xF040:
        return False
    is_while_or_end = low & 0xF001 == 0xC001
    return is_while_or_end or low == 0xE001 or (low == 0xE801 and high & 0xFFC0 == 0xF000)


@dataclass(frozen=True)
class Veneer:
    """A linker's jump to code that no branch reaches."""

    target: int  # without bit 0
    stack_bytes: int  # in use on the way
    instructions: tuple[int, ...]  # offsets of them


LONGEST_VENEER = 16  # bytes, its literal included
# Halfwords -> bytes of stack, offset of the literal, offsets of the instructions.
_VENEERS = {
    (0xB401, 0x4802, 0x4684, 0xBC01, 0x4760): (4, 12, (0, 2, 4, 6, 8)),  # GNU ld, v6-M: by ip
    (0xB403, 0x4801, 0x9001, 0xBD01): (8, 8, (0, 2, 4, 6)),  # LLVM lld, v6-M: by the stack
    (0xF8DF, 0xF000): (0, 4, (0,)),  # ldr.w pc, [pc]
    (0xF85F, 0xF000): (0, 4, (0,)),
}


def veneer(content: bytes, address: int) -> Veneer | None:
    """Recognise a veneer in what begins at `address`: one that GNU ld or LLVM lld makes; else None."""
    words = [int.from_bytes(content[i : i + 2], "little") for i in range(0, len(content) - 1, 2)]
    for code, (stack, literal, instructions) in _VENEERS.items():
        if tuple(words[: len(code)]) == code and len(content) >= literal + 4 and address % 4 == 0:
            target = int.from_bytes(content[literal : literal + 4], "little")
            return Veneer(target & ~1, stack, instructions)
    if len(words) >= 5 and words[4] == 0x4760:  # movw ip, movt ip, bx ip: LLVM lld, v7-M and later
        halves = [_moved_to_ip(*words[i : i + 2]) for i in (0, 2)]
        if words[0] & 0xFBF0 == 0xF240 and words[2] & 0xFBF0 == 0xF2C0 and None not in halves:
            low, high = (half or 0 for half in halves)
            return Veneer((high << 16 | low) & ~1, 0, (0, 4, 8))
    return None


def _moved_to_ip(high: int, low: int) -> int | None:
    """Return the constant of a MOVW or MOVT whose destination is r12, or None."""
    if low & 0x8F00 != 0x0C00:
        return None
    return (high & 15) << 12 | (high >> 10 & 1) << 11 | (low >> 12 & 7) << 8 | low & 0xFF


def flow(instruction: Instruction, before: Instruction | None = None) -> Flow:
    """Say where control goes after `instruction`, outside of an IT block; `before` is not needed."""
    if instruction.size == 2:
        return _flow16(instruction.word, instruction.address)
    return _flow32(instruction.word, instruction.address)


def stack_change(instruction: Instruction) -> int | str | None:
    """Say what `instruction` does to SP: bytes added (negative: pushed), 0, or None if unknown.

    "register" stands for `add sp, rM` and "restore" for `mov sp, rM`: their callers must know rM.
    """
    if instruction.size == 2:
        return _stack16(instruction.word)
    return _stack32(instruction.word)


def _flow16(word: int, address: int) -> Flow:
    if word >> 12 == 0b1101 and (word >> 8) & 0xF < 14:
        return Flow("branch", address + 4 + 2 * signed(word & 0xFF, 8), True)
    if word >> 11 == 0b11100:
        return Flow("branch", address + 4 + 2 * signed(word & 0x7FF, 11))
    if word & 0xF500 == 0xB100:  # CBZ, CBNZ
        return Flow("branch", address + 4 + ((word >> 9 & 1) << 6 | (word >> 3 & 31) << 1), True)
    if word & 0xFF80 == 0x4700:
        return Flow("return") if word >> 3 & 15 == 14 else Flow("indirect_branch")
    if word & 0xFF80 == 0x4780:
        return Flow("indirect_call")
    if word & 0xFF00 == 0xBD00:
        return Flow("return")
    if word & 0xFF87 in (0x4687, 0x4487):  # MOV PC, ADD PC
        return Flow("indirect_branch")
    return Flow("stop") if word & 0xFF00 == 0xDE00 else Flow("next")  # UDF


def _flow32(word: int, address: int) -> Flow:
    high, low = word >> 16, word & 0xFFFF
    if high >> 11 == 0b11110 and low & 0x8000:
        return _branch32(high, low, address)
    if high & 0xFE50 == 0xE810 and low & 0x8000:  # LDM with PC
        return Flow("return") if high & 0xF == 13 else Flow("indirect_branch")
    if high & 0xFFF0 == 0xE8D0 and low & 0xFFE0 == 0xF000:  # TBB, TBH
        return Flow("indirect_branch")
    if high & 0xFF70 == 0xF850 and low >> 12 == 15:  # LDR PC
        return Flow("return") if (high, low) == (0xF85D, 0xFB04) else Flow("indirect_branch")
    return Flow("next")


def _branch32(high: int, low: int, address: int) -> Flow:
    sign = high >> 10 & 1
    if low & 0x1000:  # BL and B.W: 24 bits, I = NOT(J EOR S)
        first, second = 1 ^ (low >> 13 & 1) ^ sign, 1 ^ (low >> 11 & 1) ^ sign
        value = sign << 23 | first << 22 | second << 21 | (high & 0x3FF) << 11 | low & 0x7FF
        target = address + 4 + 2 * signed(value, 24)
        return Flow("call", target) if low & 0x4000 else Flow("branch", target)
    if low & 0x4000:
        if low & 0xF001 == 0xC001 and is_loop_instruction(high, low):  # LE backwards, WLS forwards
            offset = (low >> 1 & 0x3FF) << 2 | (low >> 11 & 1) << 1
            return Flow("branch", address + 4 + (-offset if high & 15 == 15 else offset), True)
        return Flow("next")
    if high >> 7 & 7 != 7:  # conditional B.W: 20 bits
        value = sign << 19 | (low >> 11 & 1) << 18 | (low >> 13 & 1) << 17 | (high & 0x3F) << 11 | low & 0x7FF
        return Flow("branch", address + 4 + 2 * signed(value, 20), True)
    return Flow("stop") if high & 0xFFF0 == 0xF7F0 and low & 0xF000 == 0xA000 else Flow("next")  # UDF.W


def _stack16(word: int) -> int | str:
    registers = (word & 0x1FF).bit_count()
    if word & 0xFE00 == 0xB400:
        return -4 * registers
    if word & 0xFE00 == 0xBC00:
        return 4 * registers
    if word & 0xFF00 == 0xB000:
        return (-4 if word & 0x80 else 4) * (word & 0x7F)
    if word & 0xFF87 == 0x4485:
        return "register"
    return "restore" if word & 0xFF87 == 0x4685 else 0


def _stack32(word: int) -> int | str | None:
    high, low = word >> 16, word & 0xFFFF
    if high in (0xE92D, 0xE8BD):  # STMDB sp!, LDMIA sp!
        return (-4 if high == 0xE92D else 4) * low.bit_count()
    if high & 0xFE8F == 0xF80D and low & 0x0900 == 0x0900:  # STR, LDR with write-back
        return (low & 0xFF) * (1 if low & 0x0200 else -1)
    if high & 0xFE6F == 0xE86D:  # STRD, LDRD with write-back
        return 4 * (low & 0xFF) * (1 if high & 0x80 else -1)
    if high & 0xFFBF in (0xED2D, 0xECBD) and low & 0xE00 == 0xA00:  # VPUSH, VPOP
        return (-4 if high & 0xFFBF == 0xED2D else 4) * (low & 0xFE if low & 0x100 else low & 0xFF)
    if high & 0xFBEF == 0xF1AD and low & 0x8F00 == 0x0D00:
        return -_modified_immediate(high, low)
    if high & 0xFBEF == 0xF10D and low & 0x8F00 == 0x0D00:
        return _modified_immediate(high, low)
    if high & 0xFBFF in (0xF2AD, 0xF20D) and low & 0x8F00 == 0x0D00:
        value = (high >> 10 & 1) << 11 | (low >> 12 & 7) << 8 | low & 0xFF
        return -value if high & 0x80 else value
    if high & 0xEE2F == 0xEC2D:  # other vector loads and stores with write-back
        return None
    return None if _writes_sp(high, low) else 0


def _writes_sp(high: int, low: int) -> bool:
    """Tell whether some other data-processing or load instruction has SP as its destination."""
    if (high >> 9 == 0b1110101 or high >> 11 == 0b11110) and not low & 0x8000:
        return low >> 8 & 0xF == 13
    if high & 0xFE50 == 0xE810:  # other LDM: SP cannot be in the list, but write-back to SP was seen above
        return bool(low & 0x2000)
    return high & 0xFE50 == 0xF850 and low >> 12 == 13  # LDR sp


def _modified_immediate(high: int, low: int) -> int:
    """Expand a Thumb modified immediate (ThumbExpandImm)."""
    value = (high >> 10 & 1) << 11 | (low >> 12 & 7) << 8 | low & 0xFF
    byte = value & 0xFF
    if value >> 10 == 0:
        return (byte, byte * 0x00010001, byte * 0x01000100, byte * 0x01010101)[value >> 8 & 3]
    rotation, unrotated = value >> 7, 0x80 | value & 0x7F
    return (unrotated >> rotation | unrotated << (32 - rotation)) & 0xFFFFFFFF
