"""Which Thumb encodings each Cortex-M has.

Sources, Arm Architecture Reference Manuals: v6-M (DDI 0419) chapter A5; v7-M (DDI 0403) chapter A5 with its
DSP extension and FPv4-SP, FPv5; v8-M and v8.1-M (DDI 0553) chapter C2 with Helium (MVE) and low-overhead
loops. A 32-bit instruction is taken as two halfwords, `high` and `low`.
"""

from dataclasses import dataclass

from firmware_export.thumb import Instruction, is_loop_instruction, it_block_length


@dataclass(frozen=True)
class ArmCore:
    """What a core has beyond v6-M, and the values of Tag_CPU_arch that its images carry."""

    tags: tuple[int, ...]
    has_thumb2: bool = True
    has_dsp: bool = True
    is_v8: bool = False
    has_mve: bool = False  # and the rest of v8.1-M


# Tag_CPU_arch (Arm IHI 0045, public attributes): 10 v7, 11 v6-M, 12 v6S-M, 13 v7E-M, 17 v8-M with the main
# extension, 21 v8.1-M with it
ARM_CORES = {
    "cortex-m0": ArmCore((11, 12), has_thumb2=False, has_dsp=False),
    "cortex-m0plus": ArmCore((11, 12), has_thumb2=False, has_dsp=False),
    "cortex-m3": ArmCore((10,), has_dsp=False),
    "cortex-m4": ArmCore((13,)),
    "cortex-m7": ArmCore((13,)),
    "cortex-m33": ArmCore((17,), is_v8=True),
    "cortex-m55": ArmCore((21,), is_v8=True, has_mve=True),
}


def is_allowed(instruction: Instruction, core: ArmCore, fpu: str) -> bool:
    """Tell whether a core with an FPU (one of a board file's `fpu`) has an instruction."""
    word = instruction.word
    if instruction.size == 2:
        is_thumb2 = word & 0xF500 == 0xB100 or it_block_length(instruction) > 0  # CBZ, CBNZ, IT
        return _is_16bit(word, core.is_v8) and (core.has_thumb2 or not is_thumb2)
    high, low = word >> 16, word & 0xFFFF
    if not core.has_thumb2:
        is_call = high >> 11 == 0b11110 and low & 0xD000 == 0xD000
        return is_call or _is_special_register_or_barrier(high, low) or _is_udf(high, low)
    group = high >> 11 & 3
    if group == 2:
        return _is_branch_or_control(high, low, core) if low & 0x8000 else _is_immediate(high, low, core)
    if high & 0xEC00 == 0xEC00:  # coprocessor space: 0xECxx to 0xEFxx and 0xFCxx to 0xFFxx
        return (core.has_mve and _is_mve(high, low)) or _is_fp(high, low, fpu)
    if group == 1:
        return _is_multiple_or_shifted(high, low, core)
    return _is_single_transfer_or_register(high, low, core)


def _is_16bit(word: int, is_v8: bool) -> bool:
    """Tell whether the encoding is defined: BXNS and BLXNS in v8-M only, HLT and SETEND in none."""
    if word & 0xFF00 == 0x4700:
        return word & 7 in ((0, 4) if is_v8 else (0,))
    if word & 0xFF00 == 0xB600:  # CPS only
        return word & 0xFFEC == 0xB660
    return not (word & 0xFFC0 == 0xBA80 or word & 0xFF00 == 0xB800)


def _is_special_register_or_barrier(high: int, low: int) -> bool:
    is_msr = high & 0xFFE0 == 0xF380 and low & 0xF000 == 0x8000
    is_mrs = high == 0xF3EF and low & 0xF000 == 0x8000
    is_barrier = high == 0xF3BF and low & 0xFFF0 in (0x8F40, 0x8F50, 0x8F60)
    return is_msr or is_mrs or is_barrier


def _is_udf(high: int, low: int) -> bool:
    return high & 0xFFF0 == 0xF7F0 and low & 0xF000 == 0xA000


def _is_branch_or_control(high: int, low: int, core: ArmCore) -> bool:
    if low & 0x1000:
        return True  # BL, B.W
    if low & 0x4000:  # v8.1-M loops; BLX to Arm code elsewhere
        return core.has_mve and is_loop_instruction(high, low)
    if high >> 7 & 7 != 7:
        return True  # conditional B.W
    is_hint = high == 0xF3AF and low & 0xFF00 == 0x8000
    is_clrex = (high, low) == (0xF3BF, 0x8F2F)
    return is_hint or is_clrex or _is_special_register_or_barrier(high, low) or _is_udf(high, low)


def _is_immediate(high: int, low: int, core: ArmCore) -> bool:
    if not high & 0x200:
        return high >> 5 & 15 in (0, 1, 2, 3, 4, 8, 10, 11, 13, 14)
    operation = high >> 4 & 31
    if operation in (18, 26) and low & 0x70C0 == 0:  # SSAT16, USAT16
        return core.has_dsp
    return operation in (0, 4, 10, 12, 16, 18, 20, 22, 24, 26, 28)


def _is_multiple_or_shifted(high: int, low: int, core: ArmCore) -> bool:
    if high & 0x200:
        operation = high >> 5 & 15
        if high & 0xFFF0 == 0xEA50 and (low & 0x8000 or low & 15 in (13, 15)):
            return core.has_mve  # CSEL and its kin, shifts of 64 bits
        if operation == 6:  # PKHBT, PKHTB
            return core.has_dsp and high & 0x10 == 0
        return operation in (0, 1, 2, 3, 4, 8, 10, 11, 13, 14)
    if not high & 0x40:
        if high == 0xE89F:  # CLRM
            return core.has_mve
        return high >> 7 & 3 in (1, 2)  # LDM, STM; the others are SRS and RFE of other profiles
    exclusive = (4, 5, 8, 9, 10, 12, 13, 14) if core.is_v8 else (4, 5)  # v8: acquire and release
    if high >> 4 == 0xE8C:
        return low >> 4 & 15 in exclusive
    if high >> 4 == 0xE8D:
        return low >> 4 & 15 in (0, 1, *exclusive)  # TBB, TBH
    is_secure_gateway = (high, low) == (0xE97F, 0xE97F)
    is_test_target = high >> 4 == 0xE84 and low >> 12 == 15
    return core.is_v8 or not (is_secure_gateway or is_test_target)


def _is_single_transfer_or_register(high: int, low: int, core: ArmCore) -> bool:
    if high < 0xFA00:
        size, is_load, is_signed = high >> 5 & 3, high >> 4 & 1, high >> 8 & 1
        return size != 3 and not (is_signed and (size == 2 or not is_load))
    if high >= 0xFB00:
        return _is_multiply(high, low, core)
    if low >> 12 != 15:
        return False
    operation, variant = high >> 4 & 7, low >> 4 & 3
    if not low & 0x80:
        is_shift = not high & 0x80 and low & 0x70 == 0
        is_parallel = high & 0x80 and operation in (0, 1, 2, 4, 5, 6) and variant != 3
        return is_shift or bool(core.has_dsp and is_parallel)
    if not high & 0x80:  # sign and zero extension: of bytes in pairs, or with an addition, DSP
        is_plain = operation in (0, 1, 4, 5) and high & 15 == 15
        return is_plain or (core.has_dsp and operation <= 5)
    if low & 0x40:
        return False
    is_reverse_or_clz = operation == 1 or (operation == 3 and variant == 0)
    return is_reverse_or_clz or (core.has_dsp and (operation == 0 or (operation == 2 and variant == 0)))


def _is_multiply(high: int, low: int, core: ArmCore) -> bool:
    operation, variant = high >> 4 & 7, low >> 4 & 15
    if not high & 0x80:
        if low & 0xC0:
            return False
        return core.has_dsp or (operation == 0 and variant <= 1)  # MUL, MLA, MLS
    plain = {0: (0,), 1: (15,), 2: (0,), 3: (15,), 4: (0,), 6: (0,)}
    dsp = {4: (8, 9, 10, 11, 12, 13), 5: (12, 13), 6: (6,)}
    return variant in plain.get(operation, ()) or (core.has_dsp and variant in dsp.get(operation, ()))


def _is_fp(high: int, low: int, fpu: str) -> bool:
    """Tell whether the FPU has it: cp10 is single precision, cp11 double; moves, loads, stores are in all."""
    if fpu == "none" or high & 0xFF00 == 0xEF00:
        return False
    is_v5, has_double = fpu.startswith("fpv5"), not fpu.endswith("-sp-d16")
    coprocessor = low >> 8 & 15
    if high >= 0xFC00:  # VSEL, VMAXNM, VMINNM, VRINTA and their kin
        is_defined = high & 0xFF00 == 0xFE00 and not low & 0x10
        return is_v5 and is_defined and (coprocessor == 10 or (coprocessor == 11 and has_double))
    if coprocessor == 11:
        is_transfer = high & 0xFE00 == 0xEC00 or (low & 0x7F == 0x10 and not high & 0xC0)
        return has_double or is_transfer
    if coprocessor == 10 and high & 0xFFB0 == 0xEEB0 and low & 0x50 == 0x40:
        if high & 15 == 6 or (high & 15 == 7 and not low & 0x80):  # VRINTR, VRINTZ, VRINTX
            return is_v5
        if high & 15 == 7:  # VCVT between single and double
            return has_double
    return coprocessor == 10


def _is_mve(high: int, low: int) -> bool:
    """Tell whether v8.1-M gives the encoding to Helium or to half-precision floats.

    In what Neon has, too, only the forms for Q registers 0 to 7. Coprocessors 14 and 15 are all Helium's, 9
    is the half-precision FPU, and 11 has moves between lanes and core registers.
    """
    if high & 0xEF00 == 0xEF00:
        return bool(low & 0x40) and not high & 0x40 and not low & 0x1000
    coprocessor = low >> 8 & 15
    if coprocessor == 11:
        return high & 0xFF00 == 0xEE00 and low & 0x1F == 0x10
    return coprocessor in (14, 15) or (coprocessor == 9 and high & 0xFF00 != 0xFC00)
