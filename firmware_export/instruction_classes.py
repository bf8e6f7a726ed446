"""Sort instructions into classes by which cores differ in cycles: loads, multiplications, branches, Helium.

Source: the encodings in DDI 0403 (v7-M) and DDI 0553 (v8.1-M), chapters A5 and C2; for RISC-V the opcode
listings of the unprivileged specification. An instruction that is none of the others is "arithmetic".
"""

from dataclasses import dataclass

from firmware_export import riscv, thumb
from firmware_export.thumb import Instruction, is_loop_instruction, uses_fpu

CLASSES = (
    "arithmetic",
    "multiply",  # 32 bits of result, two halves at once included
    "multiply_accumulate",
    "long_multiply",  # 64 bits of result, or their upper half
    "long_accumulate",
    "divide",
    "load",
    "store",
    "load_multiple",  # pops and pairs included
    "store_multiple",
    "branch",  # not taken
    "branch_taken",
    "loop_end",  # LE: v8.1-M's low-overhead loop
    "call",
    "return",
    "vector_load",
    "vector_store",
    "vector_arithmetic",
    "float",  # of the FPU, its moves included
)


@dataclass(frozen=True)
class InstructionClass:
    """What an instruction is, wherever it lies."""

    name: str  # of CLASSES; a branch counts as "branch_taken" where it is
    registers: int = 1  # that a load or store moves
    can_branch: bool = False


def class_of(
    instruction: Instruction, *, is_riscv: bool, before: Instruction | None = None
) -> InstructionClass:
    """Return the class of an instruction; `before` is the one in front of it."""
    isa = riscv if is_riscv else thumb
    flow = isa.flow(instruction, before).kind
    if not is_riscv and instruction.size == 4:
        high, low = instruction.word >> 16, instruction.word & 0xFFFF
        if is_loop_instruction(high, low):
            is_end = high & 0xF == 15 and low & 0xF001 == 0xC001
            return InstructionClass("loop_end" if is_end else "arithmetic", can_branch=flow == "branch")
    if flow in ("call", "indirect_call"):
        return InstructionClass("call")
    if flow in ("branch", "indirect_branch"):
        return InstructionClass("branch", can_branch=True)
    if flow == "return":
        return InstructionClass("return", _popped(instruction, is_riscv=is_riscv))
    if is_riscv:
        return InstructionClass(_riscv_class(instruction))
    if instruction.size == 2:
        return _class16(instruction.word)
    return _class32(instruction, instruction.word >> 16, instruction.word & 0xFFFF)


def _popped(instruction: Instruction, *, is_riscv: bool) -> int:
    """Return how many registers a return loads: POP {..., pc}; 0 of BX LR."""
    word = instruction.word
    if is_riscv or (instruction.size == 2 and word & 0xFE00 != 0xBC00):
        return 0
    if instruction.size == 2:
        return (word & 0x1FF).bit_count()
    return (word & 0xFFFF).bit_count() if word >> 16 == 0xE8BD else 1


def _class16(word: int) -> InstructionClass:
    if word >> 11 == 0b01001:
        return InstructionClass("load")
    if word >> 12 == 0b0101:
        return InstructionClass("load" if word >> 9 & 7 >= 3 else "store")
    if word >> 12 in (6, 7, 8, 9):
        return InstructionClass("load" if word & 0x0800 else "store")
    if word & 0xF600 == 0xB400:
        return _multiple((word & 0x1FF).bit_count(), is_load=bool(word & 0x0800))
    if word >> 12 == 0b1100:
        return _multiple((word & 0xFF).bit_count(), is_load=bool(word & 0x0800))
    return InstructionClass("multiply" if word & 0xFFC0 == 0x4340 else "arithmetic")


def _multiple(registers: int, *, is_load: bool) -> InstructionClass:
    return InstructionClass("load_multiple" if is_load else "store_multiple", registers)


def _class32(instruction: Instruction, high: int, low: int) -> InstructionClass:
    if uses_fpu(instruction):
        return _coprocessor(high, low)
    is_load = bool(high & 0x10)
    if high & 0xFE40 == 0xE800:
        return _multiple(low.bit_count(), is_load=is_load)
    if high & 0xFE40 == 0xE840 and high & 0x120:  # not the exclusive ones
        return _multiple(2, is_load=is_load)
    if high & 0xFE00 == 0xF800 or high & 0xFE40 == 0xE840:
        return InstructionClass("load" if is_load else "store")
    if high & 0xFF80 == 0xFB00:
        accumulates = low >> 12 != 15
        if high >> 4 & 7 in (5, 6):  # SMMUL, SMMLA, SMMLS: the upper half
            return InstructionClass("long_accumulate" if accumulates else "long_multiply")
        return InstructionClass("multiply_accumulate" if accumulates else "multiply")
    if high & 0xFF80 == 0xFB80:
        kinds = ("long_multiply", "divide", "long_multiply", "divide")
        operation = high >> 4 & 7
        return InstructionClass(kinds[operation] if operation < 4 else "long_accumulate")
    return InstructionClass("arithmetic")


def _coprocessor(high: int, low: int) -> InstructionClass:
    """Tell Helium from the FPU, whose coprocessors are 9 to 11: Helium's loads and stores have 14 and 15."""
    is_load, coprocessor = bool(high & 0x10), low >> 8 & 15
    if high & 0xEE00 == 0xEC00:
        if coprocessor in (14, 15):
            return InstructionClass("vector_load" if is_load else "vector_store")
        if high & 0xFFE0 == 0xEC40:
            return InstructionClass("float")  # two core registers from or to the FPU's, VMOV of Helium too
        registers = low & 0xFF if coprocessor == 10 else (low & 0xFF) // 2 * 2
        is_multiple = high & 0x0120 != 0x0100
        if is_multiple:
            return _multiple(max(1, registers), is_load=is_load)
        return InstructionClass("load" if is_load else "store")
    if coprocessor in (10, 11) and (high & 0xFF00 == 0xEE00) and low & 0x0010:
        return InstructionClass("float")  # VMOV between a core register and a lane or a single, VMRS
    if coprocessor in (9, 10, 11) and high & 0xFF00 in (0xEE00, 0xFE00):
        return InstructionClass("float")
    return InstructionClass("vector_arithmetic")


def _riscv_class(instruction: Instruction) -> str:
    word = instruction.word
    if instruction.size == 2:
        key = (word & 3, word >> 13)
        return {(0, 2): "load", (2, 2): "load", (0, 6): "store", (2, 6): "store"}.get(key, "arithmetic")
    opcode, function = word & 0x7F, word >> 12 & 7
    if opcode in (0x03, 0x23):
        return "load" if opcode == 0x03 else "store"
    if opcode == 0x33 and word >> 25 == 1:
        return "multiply" if function == 0 else "long_multiply" if function < 4 else "divide"
    return "arithmetic"
