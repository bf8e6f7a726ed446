"""What a trace executed: classes of instructions, layers, cycles, and what unicorn does not report."""

from collections.abc import Sequence

import numpy as np
import pytest

from firmware_export.cycles import CYCLE_MODELS, estimate_cycles
from firmware_export.elf import CodeRange, Elf, Symbol
from firmware_export.emulators.bare_engine import BareEngine
from firmware_export.execution import Execution, count_layers
from firmware_export.instruction_classes import CLASSES, class_of
from firmware_export.thumb import Instruction
from tests.bare_engines import bare_image, row_and_places
from tests.firmware import require_tool

START = 0x1000
IT_CS, MOV, MOV_CS, LDR, B_BACK = 0xBF28, 0x4640, 0x46D8, 0x9A0A, 0xE7FC


def elf_of(halfwords: Sequence[int], symbols: Sequence[Symbol] = (), *, is_riscv: bool = False) -> Elf:
    content = b"".join(word.to_bytes(2, "little") for word in halfwords)
    return Elf(
        segments=(),
        symbols={symbol.name: symbol for symbol in symbols},
        functions=tuple(symbols),
        code=(CodeRange(START, content),),
        attributes={},
        sections={},
        section_offsets={},
        entry=START,
        is_riscv=is_riscv,
    )


def executed(halfwords: Sequence[int], offsets: Sequence[int], *, is_riscv: bool = False) -> Execution:
    trace = np.array([START + offset for offset in offsets], np.uint32)
    return Execution(elf_of(halfwords, is_riscv=is_riscv), trace)


# word, size, class, registers; as the manuals' encodings and GNU's disassembler have them
THUMB = [
    (0x4A05, 2, "load", 1),  # ldr r2, [pc, #20]
    (0x5CD1, 2, "load", 1),  # ldrb r1, [r2, r3]
    (0x50D1, 2, "store", 1),  # str r1, [r2, r3]
    (0x6811, 2, "load", 1),  # ldr r1, [r2]
    (0x7011, 2, "store", 1),  # strb r1, [r2]
    (0x9007, 2, "store", 1),  # str r0, [sp, #28]
    (0xB5F0, 2, "store_multiple", 5),  # push {r4-r7, lr}
    (0xBC70, 2, "load_multiple", 3),  # pop {r4-r6}
    (0xBDF0, 2, "return", 5),  # pop {r4-r7, pc}
    (0xC81E, 2, "load_multiple", 4),  # ldmia r0!, {r1-r4}
    (0xC01E, 2, "store_multiple", 4),  # stmia r0!, {r1-r4}
    (0x4348, 2, "multiply", 1),  # muls r0, r1
    (0x4770, 2, "return", 0),  # bx lr
    (0xD1FC, 2, "branch", 1),  # bne
    (0x1840, 2, "arithmetic", 1),  # adds
    (0xE8B2_00F0, 4, "load_multiple", 4),  # ldmia.w r2!, {r4-r7}
    (0xE8BD_8FF0, 4, "return", 9),  # ldmia.w sp!, {r4-r11, pc}
    (0xE9D2_1300, 4, "load_multiple", 2),  # ldrd r1, r3, [r2]
    (0xE8E2_1302, 4, "store_multiple", 2),  # strd r1, r3, [r2], #8
    (0xF853_002B, 4, "load", 1),  # ldr.w r0, [r3, fp, lsl #2]
    (0xF842_1B04, 4, "store", 1),  # str.w r1, [r2], #4
    (0xFB01_F002, 4, "multiply", 1),  # mul r0, r1, r2
    (0xFB01_3002, 4, "multiply_accumulate", 1),  # mla r0, r1, r2, r3
    (0xFB21_3002, 4, "multiply_accumulate", 1),  # smlad r0, r1, r2, r3
    (0xFB51_F012, 4, "long_multiply", 1),  # smmulr r0, r1, r2
    (0xFB82_0103, 4, "long_multiply", 1),  # smull r0, r1, r2, r3
    (0xFBC2_0103, 4, "long_accumulate", 1),  # smlal r0, r1, r2, r3
    (0xFB91_F0F2, 4, "divide", 1),  # sdiv r0, r1, r2
    (0xFA2F_F081, 4, "arithmetic", 1),  # sxtb16 r0, r1
    (0xF000_F810, 4, "call", 1),  # bl
    (0xED2D_8B04, 4, "store_multiple", 4),  # vpush {d8, d9}
    (0xECB2_1E08, 4, "vector_load", 1),  # vldrb.u8 q0, [r2], #8
    (0xEEF2_0E02, 4, "vector_arithmetic", 1),  # vmladava.s8 r0, q1, q1
    (0xF00F_C00B, 4, "loop_end", 1),  # le lr, back
    (0xF042_E001, 4, "arithmetic", 1),  # dls lr, r2
]
RISCV = [
    (0x0005_0583, 4, "load", 1),  # lb a1, 0(a0)
    (0x00B5_2023, 4, "store", 1),  # sw a1, 0(a0)
    (0x02B5_0533, 4, "multiply", 1),  # mul a0, a0, a1
    (0x02B5_1533, 4, "long_multiply", 1),  # mulh a0, a0, a1
    (0x02B5_4533, 4, "divide", 1),  # div a0, a0, a1
    (0x00B5_0533, 4, "arithmetic", 1),  # add a0, a0, a1
    (0xFE05_1EE3, 4, "branch", 1),  # bnez a0, back
    (0x4188, 2, "load", 1),  # c.lw a0, 0(a1)
    (0xC188, 2, "store", 1),  # c.sw a0, 0(a1)
    (0x8082, 2, "return", 0),  # ret
]


@pytest.mark.parametrize(("word", "size", "name", "registers"), THUMB)
def test_class_of_a_thumb_instruction(word: int, size: int, name: str, registers: int) -> None:
    found = class_of(Instruction(START, size, word), is_riscv=False)
    assert found.name == name
    assert name in ("branch", "call", "loop_end") or found.registers == registers


@pytest.mark.parametrize(("word", "size", "name", "registers"), RISCV)
def test_class_of_a_riscv_instruction(word: int, size: int, name: str, registers: int) -> None:
    found = class_of(Instruction(START, size, word), is_riscv=True)
    assert found.name == name
    assert name == "branch" or found.registers == registers


def test_instructions_that_an_it_block_skips_are_counted() -> None:
    code = [MOV, IT_CS, MOV_CS, LDR, B_BACK]
    without, complete = [0, 2, 6, 8], [0, 2, 4, 6, 8]
    assert (executed(code, without).addresses - START).tolist() == complete
    assert (executed(code, complete).addresses - START).tolist() == complete


def test_branches_that_are_taken_are_a_class_of_their_own() -> None:
    code = [0x3801, 0xD1FD, 0x4770]  # subs r0, #1; bne back; bx lr
    found = executed(code, [0, 2, 0, 2, 0, 2, 4])
    assert found.class_counts() == {"arithmetic": 3, "branch": 1, "branch_taken": 2, "return": 1}


def test_layers_are_what_their_kernels_execute_callees_included() -> None:
    nop = 0xBF00
    size = 8
    names = ["net_infer", "net_infer_layers", "eqrl_copy", "eqrl_dense", "helper"]
    symbols = [Symbol(name, START + size * i, size, True) for i, name in enumerate(names)]
    at = {name: size * i for i, name in enumerate(names)}
    trace: list[int] = []
    for name, count in [
        *(("net_infer", 2), ("eqrl_copy", 3), ("net_infer", 1), ("net_infer_layers", 2)),
        *(("eqrl_dense", 2), ("helper", 4), ("eqrl_dense", 1), ("net_infer_layers", 1), ("eqrl_dense", 3)),
        *(("net_infer_layers", 1), ("net_infer", 2)),
    ]:
        trace += [START + at[name] + 2 * i for i in range(count)]
    found = Execution(elf_of([nop] * (4 * len(names)), symbols), np.array(trace, np.uint32))
    dense = START + at["eqrl_dense"]
    assert count_layers(found, "net", [[dense], [dense]]) == [7, 3]
    with pytest.raises(AssertionError, match="was not called"):
        count_layers(found, "net", [[dense], [dense], [dense]])


def test_cycles_follow_the_manuals_tables() -> None:
    ldr, mul, pop, bx = 0x6811, 0x4348, 0xBC70, 0x4770  # pop of three
    code, offsets = [ldr, ldr, mul, pop, bx], [0, 2, 4, 6, 8]
    found = executed(code, offsets)
    assert estimate_cycles(found, "cortex-m0plus") == 2 + 2 + 1 + (1 + 3) + 2
    assert estimate_cycles(found, "cortex-m0") == 2 + 2 + 1 + (1 + 3) + 3
    assert estimate_cycles(found, "cortex-m4") == 2 + 1 + 1 + (1 + 3) + 3  # the second load overlaps
    mla = executed([0xFB01, 0x3002], [0])
    assert (estimate_cycles(mla, "cortex-m3"), estimate_cycles(mla, "cortex-m4")) == (2, 1)


def test_helium_overlaps_loads_with_arithmetic() -> None:
    load, mac = [0xECB2, 0x1E08], [0xEEF2, 0x0E02]
    assert estimate_cycles(executed([*load, *mac, *load, *mac], [0, 4, 8, 12]), "cortex-m55") == 5
    assert estimate_cycles(executed([*load, *load, *mac, *mac], [0, 4, 8, 12]), "cortex-m55") == 7


def test_every_model_of_cycles_names_itself_and_says_that_memory_does_not_wait() -> None:
    for model in CYCLE_MODELS.values():
        assert "no wait states" in model.name
        assert set(model.cycles) | set(model.registers) <= set(CLASSES)


@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m3", "cortex-m4", "rv32imc"])
def test_every_input_takes_the_same_instructions(core: str) -> None:
    image, network = bare_image("e_minatar", core)
    traces = []
    with BareEngine(image) as device:
        for seed in range(3):
            row, places = row_and_places(network, seed)
            traces.append(Execution(image.elf, device.trace(row, **places).addresses).addresses)
    for trace in traces[1:]:
        np.testing.assert_array_equal(trace, traces[0])


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4", "cortex-m7", "rv32imac"])
def test_unicorn_and_qemu_execute_the_same(core: str) -> None:
    require_tool("qemu-system-riscv32" if core.startswith("rv") else "qemu-system-arm")
    image, network = bare_image("e_minatar", core)
    row, places = row_and_places(network)
    traces = []
    for engine in ("unicorn", "qemu"):
        with BareEngine(image, engine=engine) as device:
            traces.append(Execution(image.elf, device.trace(row, **places).addresses).addresses)
    np.testing.assert_array_equal(*traces)
