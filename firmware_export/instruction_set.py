"""Check that an image holds only instructions that its core has.

Emulators cannot be trusted with this: unicorn's M0 executes CBZ and IT, its M3 executes SMLAD. Encodings: Arm
v6-M (DDI 0419) chapter A5 for cortex-m0plus, v7-M (DDI 0403) chapter A5 with DSP and FPv4-SP for cortex-m4.
"""

from firmware_export.elf import Elf
from firmware_export.thumb import Instruction, decode, it_block_length

# Tag_CPU_arch of .ARM.attributes (Arm IHI 0045, public attributes): a v6-M image may be tagged v6-M (11) or
# v6S-M (12); v7E-M is 13.
_ARCHITECTURES = {"cortex-m0plus": (11, 12), "cortex-m4": (13,)}


def attribute_problems(elf: Elf, core: str, fpu: str) -> list[str]:
    """Say where .ARM.attributes disagree with the board: architecture, profile, float calling convention."""
    attributes = elf.attributes
    problems = []
    if attributes.get("TAG_CPU_ARCH") not in _ARCHITECTURES[core]:
        problems.append(f"Tag_CPU_arch is {attributes.get('TAG_CPU_ARCH')}")
    if attributes.get("TAG_CPU_ARCH_PROFILE") != ord("M"):
        problems.append(f"Tag_CPU_arch_profile is {attributes.get('TAG_CPU_ARCH_PROFILE')}")
    has_fpu = fpu != "none"
    if (attributes.get("TAG_ABI_VFP_ARGS", 0) == 1) != has_fpu:
        problems.append(f"Tag_ABI_VFP_args is {attributes.get('TAG_ABI_VFP_ARGS', 0)}")
    if (attributes.get("TAG_FP_ARCH", 0) == 6) != has_fpu:  # 6: VFPv4-D16
        problems.append(f"Tag_FP_arch is {attributes.get('TAG_FP_ARCH', 0)}")
    return problems


def forbidden_instructions(elf: Elf, core: str) -> list[str]:
    """List the instructions that `core` does not have, as "function+offset: halfwords"."""
    is_allowed = {"cortex-m0plus": _is_v6m, "cortex-m4": _is_v7em}[core]
    bad = [i for code in elf.code for i in decode(code.content, code.start) if not is_allowed(i)]
    return [f"{_place(elf, i.address)}: {i.word:0{2 * i.size}x}" for i in bad]


def _place(elf: Elf, address: int) -> str:
    before = [f for f in elf.functions if f.address <= address]
    return f"{before[-1].name}+{address - before[-1].address:#x}" if before else f"{address:#x}"


def _is_v6m(instruction: Instruction) -> bool:
    word = instruction.word
    if instruction.size == 2:
        is_cbz = word & 0xF500 == 0xB100
        return not (is_cbz or it_block_length(instruction)) and _is_16bit(word)
    high, low = word >> 16, word & 0xFFFF
    if high >> 11 == 0b11110 and low & 0xD000 == 0xD000:
        return True  # BL
    return _is_special_register_or_barrier(high, low) or _is_udf(high, low)


def _is_v7em(instruction: Instruction) -> bool:
    word = instruction.word
    if instruction.size == 2:
        return _is_16bit(word)
    high, low = word >> 16, word & 0xFFFF
    group = high >> 11 & 3
    if group == 2:
        return _is_branch_or_control(high, low) if low & 0x8000 else _is_immediate(high)
    if high & 0xEC00 == 0xEC00:  # coprocessor space: 0xECxx to 0xEFxx and 0xFCxx to 0xFFxx
        return _is_fpv4_sp(high, low)
    if group == 1:
        return _is_multiple_or_shifted(high, low)
    return _is_single_transfer_or_register(high, low)


def _is_16bit(word: int) -> bool:
    """Tell whether v7-M has this 16-bit encoding: not v8-M's BXNS, BLXNS, HLT, nor undefined ones."""
    if word & 0xFF00 == 0x4700:
        return word & 7 == 0
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


def _is_branch_or_control(high: int, low: int) -> bool:
    if low & 0x1000:
        return True  # BL, B.W
    if low & 0x4000:
        return False  # BLX to Arm code; v8.1-M loops
    if high >> 7 & 7 != 7:
        return True  # conditional B.W
    is_hint = high == 0xF3AF and low & 0xFF00 == 0x8000
    is_clrex = (high, low) == (0xF3BF, 0x8F2F)
    return is_hint or is_clrex or _is_special_register_or_barrier(high, low) or _is_udf(high, low)


def _is_immediate(high: int) -> bool:
    if not high & 0x200:
        return high >> 5 & 15 in (0, 1, 2, 3, 4, 8, 10, 11, 13, 14)
    operation = high >> 4 & 31
    return operation in (0, 4, 10, 12, 16, 18, 20, 22, 24, 26, 28)


def _is_multiple_or_shifted(high: int, low: int) -> bool:
    if high & 0x200:
        return high >> 5 & 15 in (0, 1, 2, 3, 4, 6, 8, 10, 11, 13, 14)
    if not high & 0x40:
        return high >> 7 & 3 in (1, 2)  # LDM, STM; the others are SRS and RFE of other profiles
    if high >> 4 == 0xE8C:
        return low >> 4 & 15 in (4, 5)  # STREXB, STREXH
    if high >> 4 == 0xE8D:
        return low >> 4 & 15 in (0, 1, 4, 5)  # TBB, TBH, LDREXB, LDREXH
    is_secure_gateway = (high, low) == (0xE97F, 0xE97F)
    is_test_target = high >> 4 == 0xE84 and low >> 12 == 15
    return not (is_secure_gateway or is_test_target)


def _is_single_transfer_or_register(high: int, low: int) -> bool:
    if high < 0xFA00:
        size, is_load, is_signed = high >> 5 & 3, high >> 4 & 1, high >> 8 & 1
        return size != 3 and not (is_signed and (size == 2 or not is_load))
    if high >= 0xFB00:
        return _is_multiply(high, low)
    if low >> 12 != 15:
        return False
    if not low & 0x80:
        is_shift = not high & 0x80 and low & 0x70 == 0
        return is_shift or bool(high & 0x80)  # parallel add and subtract
    if not high & 0x80:
        return high & 0x70 <= 0x50  # sign and zero extension
    return low & 0x40 == 0 and high & 0x70 <= 0x30 and (high & 0x70 < 0x20 or low & 0x30 == 0)


def _is_multiply(high: int, low: int) -> bool:
    if not high & 0x80:
        return low & 0xC0 == 0
    allowed = {0: (0,), 1: (15,), 2: (0,), 3: (15,), 4: (0, 8, 9, 10, 11, 12, 13), 5: (12, 13), 6: (0, 6)}
    return low >> 4 & 15 in allowed.get(high >> 4 & 7, ())


def _is_fpv4_sp(high: int, low: int) -> bool:
    """Tell whether the single-precision FPU has it: cp10, and of cp11 only moves, loads and stores."""
    if high >= 0xFC00 or high & 0xFF00 == 0xEF00:
        return False
    coprocessor = low >> 8 & 15
    is_transfer = high & 0xFE00 == 0xEC00 or low & 0x10
    return coprocessor == 10 or (coprocessor == 11 and bool(is_transfer))
