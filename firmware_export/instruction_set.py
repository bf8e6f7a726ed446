"""Check that an image holds only instructions that its core has.

Emulators cannot be trusted with this: the M0 of unicorn and QEMU executes CBZ and IT, their M3 SMLAD.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial

from firmware_export import riscv, thumb
from firmware_export.arm_instructions import ARM_CORES, is_allowed
from firmware_export.elf import Elf
from firmware_export.thumb import Instruction

# Values of Tag_FP_arch (Arm IHI 0045, public attributes): VFPv4-D16 and FPv5-D16, single precision or not.
_FP_ARCHITECTURES = {"none": 0, "fpv4-sp-d16": 6, "fpv5-sp-d16": 8, "fpv5-d16": 8}
_SINGLE_ONLY = 1  # Tag_ABI_HardFP_use
_MVE_WITH_FLOAT = 2  # Tag_MVE_arch
# The Z ones from zmmul on are parts of M, A and C.
_RV32IMC = frozenset(("i", "m", "c", "zicsr", "zifencei", "zmmul", "zca"))
_RISCV_EXTENSIONS = {"rv32imc": _RV32IMC, "rv32imac": _RV32IMC | {"a", "zaamo", "zalrsc"}}


def attribute_problems(elf: Elf, core: str, fpu: str) -> list[str]:
    """Say where the ELF's build attributes disagree with the board: architecture and calling convention."""
    if elf.is_riscv or core not in ARM_CORES:
        return _riscv_problems(elf, core)
    attributes = elf.attributes
    has_fpu = fpu != "none"
    known = ARM_CORES[core]
    expected = {
        "TAG_CPU_ARCH": known.tags,
        "TAG_CPU_ARCH_PROFILE": (ord("M"),),
        "TAG_ABI_VFP_ARGS": (int(has_fpu),),
        "TAG_FP_ARCH": (_FP_ARCHITECTURES[fpu],),
        "TAG_MVE_ARCH": (_MVE_WITH_FLOAT,) if known.has_mve else (0,),
        "TAG_ABI_HARDFP_USE": (_SINGLE_ONLY,) if "-sp-" in fpu else (0, 3),
    }
    found = {tag: attributes.get(tag, 0) for tag in expected}
    return [f"{tag} is {found[tag]}" for tag, values in expected.items() if found[tag] not in values]


def forbidden_instructions(elf: Elf, core: str, fpu: str) -> list[str]:
    """List the instructions that `core` with `fpu` does not have, as "function+offset: halfwords"."""
    decode: Callable[[bytes, int], Iterator[Instruction]] = riscv.decode
    has: Callable[[Instruction], bool] = partial(riscv.is_allowed, core=core)
    if core in ARM_CORES:
        decode, has = thumb.decode, partial(is_allowed, core=ARM_CORES[core], fpu=fpu)
    bad = [i for code in elf.code for i in decode(code.content, code.start) if not has(i)]
    return [f"{_place(elf, i.address)}: {i.word:0{2 * i.size}x}" for i in bad]


def _riscv_problems(elf: Elf, core: str) -> list[str]:
    text = str(elf.attributes.get("TAG_ARCH", ""))
    base, *others = text.split("_") if text else [""]
    names = {re.sub(r"\d+p\d+$", "", name) for name in others}
    names |= set(re.sub(r"\d+p\d+", "", base.removeprefix("rv32")))
    if not base.startswith("rv32") or not names <= _RISCV_EXTENSIONS.get(core, frozenset()):
        return [f"TAG_ARCH is '{text}'"]
    return []


def _place(elf: Elf, address: int) -> str:
    before = [f for f in elf.functions if f.address <= address]
    return f"{before[-1].name}+{address - before[-1].address:#x}" if before else f"{address:#x}"
