"""Every core: the step answers as on the host, in one trace for all inputs, within its stack bound."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.backends.emulated import EmulatedPolicy
from edgeqrl.backends.host_c import HostC
from edgeqrl.errors import DeviceError, MissingToolError
from edgeqrl.network.integer_policy import IntegerPolicy
from firmware_export.board import CORES, Emulation
from firmware_export.build import Firmware, compile_firmware
from firmware_export.elf import CodeRange, Elf, read_elf
from firmware_export.emit import export_sources
from firmware_export.emulators import qemu, qemu_engine
from firmware_export.emulators.emulator import EmulatedFirmware
from firmware_export.emulators.unicorn_engine import UNICORN_CORES
from firmware_export.instruction_set import forbidden_instructions
from firmware_export.stack import stack_bound
from tests.c_policies import random_observations, random_policy
from tests.firmware import (
    ALL_BOARDS,
    QEMU_BOARDS,
    board,
    cross_compiler,
    firmware,
    gcc_of,
    require_qemu,
    three_cores,
)

HEADS = ("argmax", "masked", "affine")
ROWS = 120
UNICORN_BOARDS = [name for name in ALL_BOARDS if board(name).core in UNICORN_CORES]
# (board, engine); QEMU is a Debian package, and slow
MACHINES = [
    pytest.param(*case.values, "unicorn", id=f"{case.values[0]}-unicorn", marks=case.marks)
    for case in three_cores(UNICORN_BOARDS)
] + [pytest.param(name, "qemu", id=f"{name}-qemu", marks=pytest.mark.slow) for name in QEMU_BOARDS]


def random_firmware(board_name: str, compiler: str, seed: int) -> tuple[IntegerPolicy, Firmware]:
    rng = np.random.default_rng(seed)
    sizes = [int(size) for size in rng.integers(1, 24, rng.integers(2, 5))]
    policy = random_policy(rng, sizes, head=HEADS[seed % 3], lookups=0.5)
    built = compile_firmware(
        export_sources(policy, b""), board(board_name), compiler=cross_compiler(compiler)
    )
    return policy, built


def require_equal_and_bounded(board_name: str, engine: str, compiler: str, seed: int) -> None:
    if engine == "qemu":
        require_qemu(board_name)
    policy, built = random_firmware(board_name, compiler, seed)
    rng = np.random.default_rng(seed)
    observations = random_observations(rng, policy, ROWS)
    observations[0], observations[1], observations[2] = 0.0, np.nan, 1e-40
    masks = rng.random((ROWS, policy.network.tensors[policy.network.outputs[0]].size)) < 0.4
    expected, expected_flags = host(policy).step(observations, masks)
    with EmulatedPolicy(built, policy, board(board_name), engine=engine) as device:
        actions, flags = device.step(observations, masks)
        structs = device.structs(observations, masks)
        profiles = [device.emulated.profile(row) for row in structs[: 8 if engine == "unicorn" else 4]]
    np.testing.assert_array_equal(actions, expected)
    np.testing.assert_array_equal(flags, expected_flags)
    assert len({profile.trace_sha256 for profile in profiles}) == 1
    assert {profile.unaligned for profile in profiles} == {()}
    bound = stack_bound(read_elf(built.elf), f"{policy.name}_step")
    assert bound - 40 <= max(profile.stack_bytes for profile in profiles) <= bound


@lru_cache(maxsize=4)
def host(policy: IntegerPolicy) -> HostC:
    return HostC(policy)


def test_every_core_has_a_board_that_stands_for_it() -> None:
    assert {board(name).core for name in ALL_BOARDS} <= set(EMULATED_CORES) <= set(CORES)
    assert all(board(name).core == core for core, name in EMULATED_CORES.items())
    assert set(QEMU_BOARDS) == {name for name in ALL_BOARDS if board(name).emulation.qemu_machine}


@pytest.mark.parametrize(("board_name", "engine"), MACHINES)
def test_step_equals_the_host_in_one_trace_within_the_stack_bound(board_name: str, engine: str) -> None:
    require_equal_and_bounded(board_name, engine, "zig", seed=ALL_BOARDS.index(board_name))


@pytest.mark.slow
@pytest.mark.parametrize(("board_name", "engine"), MACHINES)
@pytest.mark.parametrize("seed", range(10, 12))
def test_many_random_policies_equal_the_host(board_name: str, engine: str, seed: int) -> None:
    for compiler in ("zig", gcc_of(board_name)):
        require_equal_and_bounded(board_name, engine, compiler, seed)


@pytest.mark.slow
@pytest.mark.parametrize("board_name", [name for name in QEMU_BOARDS if name in UNICORN_BOARDS])
def test_both_emulators_execute_the_same_instructions(board_name: str) -> None:
    """QEMU logs what an IT block skips, too: so the two agree to the last address without IT, else nearly."""
    require_qemu(board_name)
    built, target = firmware(board_name), board(board_name)
    counted = []
    for engine in ("unicorn", "qemu"):
        with EmulatedFirmware(built.elf, built.name, target, engine=engine) as device:
            counted.append(device.profile(np.zeros(device.observation_bytes, np.uint8)))
    has_it = target.core not in ("cortex-m0", "rv32imac", "rv32imc")
    assert counted[0].instructions <= counted[1].instructions <= counted[0].instructions * 1.02
    assert (counted[0].trace_sha256 == counted[1].trace_sha256) or has_it
    assert counted[0].stack_bytes == counted[1].stack_bytes


def add_ten(is_riscv: bool) -> bytes:
    """Return code that adds ten arguments up, those on the stack times powers of two."""
    if is_riscv:  # lw t0, 0(sp); lw t1, 4(sp); slli t0, 3; slli t1, 3; add all
        lines = ["00012283", "00412303", "00329293", "00331313"]
        lines += [f"{0x00050533 | register << 20:08x}" for register in (11, 12, 13, 14, 15, 16, 17, 5, 6)]
        return b"".join(int(line, 16).to_bytes(4, "little") for line in [*lines, "00008067"])
    # adds r0, r1; r2; r3; six times: ldr r1, [sp, #4 n]; lsls r1, r1, #n; adds r0, r1
    lines = ["1840", "1880", "18c0"]
    for index in range(6):
        lines += [f"{0x9900 + index:04x}", f"{index << 6 | 9:04x}", "1840"]
    return b"".join(int(line, 16).to_bytes(2, "little") for line in [*lines, "4770"])


@pytest.mark.parametrize(("board_name", "engine"), MACHINES)
def test_arguments_beyond_the_registers_lie_on_the_stack(board_name: str, engine: str) -> None:
    if engine == "qemu":
        require_qemu(board_name)
    built, target = firmware(board_name), board(board_name)
    is_riscv = target.core.startswith("rv32")
    factors = [1] * 8 + [8, 8] if is_riscv else [1, 1, 1, 1, 1, 2, 4, 8, 16, 32]
    arguments = [3, 1, 4, 1, 5, 9, 2, 6, 5, -35]
    with EmulatedFirmware(built.elf, built.name, target, engine=engine) as device:
        found = device.call_code(add_ten(is_riscv), *arguments)
    assert found == sum(a * b for a, b in zip(factors, arguments, strict=True))


def code(text: str, is_riscv: bool) -> bytes:
    """Return an instruction, written as halfwords in hex or as one RISC-V number, and a return."""
    if is_riscv:
        return int(text, 16).to_bytes(len(text) // 2, "little") + bytes.fromhex("8280")
    return b"".join(int(half, 16).to_bytes(2, "little") for half in [*text.split(), "4770"])


# What each core lacks. What its emulators accept all the same, the ELF scan alone refuses.
LACKING = {
    "udiv": ("fbb0 f0f1", ("cortex-m0", "cortex-m0plus")),
    "movw": ("f240 0007", ("cortex-m0", "cortex-m0plus")),
    "smuad": ("fb20 f001", ("cortex-m0", "cortex-m0plus", "cortex-m3")),
    "cbz": ("b108 bf00 bf00", ("cortex-m0", "cortex-m0plus")),
    "it": ("bf18 3001", ("cortex-m0", "cortex-m0plus")),
    "vadd.f32": ("ee30 0a00", ("cortex-m0", "cortex-m0plus", "cortex-m3")),
    "vadd.f64": ("ee30 0b00", ("cortex-m3", "cortex-m4", "cortex-m33")),
    "vrintz.f32": ("eeb6 0ac0", ("cortex-m3", "cortex-m4")),
    "tt": ("e840 f000", ("cortex-m0", "cortex-m3", "cortex-m4", "cortex-m7")),
    "vadd.i8 q": ("ef00 0840", ("cortex-m4", "cortex-m7", "cortex-m33")),
    "csel": ("ea50 8001", ("cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33")),
    "vld4": ("f960 0000", ("cortex-m0", "cortex-m33", "cortex-m55")),
    "setend": ("b650", ("cortex-m0", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55")),
    "fadd.s": ("00b57553", ("rv32imac", "rv32imc")),
    "sh1add": ("20b52533", ("rv32imac", "rv32imc")),
    "c.fld": ("2108", ("rv32imac", "rv32imc")),
}
ACCEPTED = {
    *((name, core) for name in ("cbz", "it") for core in ("cortex-m0", "cortex-m0plus")),
    ("smuad", "cortex-m3"),
    *(("setend", core) for core in LACKING["setend"][1]),
    ("c.fld", "rv32imac"),
    ("c.fld", "rv32imc"),
}


def require_refused(board_name: str, engine: str, names: list[str]) -> None:
    built, target = firmware(board_name), board(board_name)
    is_riscv = target.core.startswith("rv32")
    for name in names:
        text, cores = LACKING[name]
        content = code(text, is_riscv)
        image = Elf((), {}, (), (CodeRange(0x100, content),), {}, {}, {}, 0x100, is_riscv)
        assert target.core in cores
        assert forbidden_instructions(image, target.core, target.fpu), name
        with EmulatedFirmware(built.elf, built.name, target, engine=engine) as device:
            address = device.free_address + 512
            if (name, target.core) in ACCEPTED and not (name == "c.fld" and engine == "qemu"):
                device.call_code(content, address, 2)
                continue
            with pytest.raises(DeviceError, match="The emulated core stopped"):
                device.call_code(content, address, 2)


@pytest.mark.parametrize(("board_name", "engine"), MACHINES)
def test_what_a_core_lacks_is_trapped_or_known_to_pass_and_always_scanned(
    board_name: str, engine: str
) -> None:
    if engine == "qemu":
        require_qemu(board_name)
    core = board(board_name).core
    lacking = [name for name, (_, cores) in LACKING.items() if core in cores]
    assert len(lacking) >= 2
    require_refused(board_name, engine, lacking)


@pytest.mark.slow
@pytest.mark.parametrize("board_name", [name for name in QEMU_BOARDS if name != "riscv-virt"])
def test_unaligned_access_faults_in_qemu(board_name: str) -> None:
    """And yet all policies above ran there. QEMU's RISC-V allows them, and there unicorn's hook sees them."""
    require_qemu(board_name)
    built, target = firmware(board_name), board(board_name)
    load = bytes.fromhex("00687047")  # ldr r0, [r0]; bx lr
    with EmulatedFirmware(built.elf, built.name, target, engine="qemu") as device:
        device.call_code(load, device.free_address + 64)
        with pytest.raises(DeviceError, match=r"exception 3 at 0x"):
            device.call_code(load, device.free_address + 66)


@pytest.mark.parametrize("core", UNICORN_CORES)
def test_unaligned_access_faults_or_is_listed_in_unicorn(core: str) -> None:
    target = board(EMULATED_CORES[core])
    built = firmware(target.name)
    load = bytes.fromhex("08418280" if core.startswith("rv32") else "00687047")  # of a word
    with EmulatedFirmware(built.elf, built.name, target) as device:
        free = device.free_address
        assert device.profile_code(load, free + 512).unaligned == ()
        if core in ("cortex-m0", "cortex-m0plus"):
            with pytest.raises(DeviceError, match="The emulated core stopped"):
                device.profile_code(load, free + 514)
        else:
            assert device.profile_code(load, free + 514).unaligned == (free,)


def test_network_with_many_pointers_is_called_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    built = firmware("mps2-an386")
    with EmulatedFirmware(built.elf, built.name, board("mps2-an386")) as device:
        seen: dict[str, object] = {}
        monkeypatch.setattr(
            device._process, "request", lambda kind, header, payload: seen.update(header) or ({}, b"\0" * 9)
        )
        device.infer(np.zeros((1, 12), np.uint8), input_offsets=(0, 8), output_offsets=(0, 4), output_bytes=5)
    free = device.free_address
    assert seen["arguments"][1:] == (free, free + 8, free + 16, free + 20)


def test_row_that_exceeds_free_ram_is_refused_with_the_numbers() -> None:
    built = firmware("microbit")
    with (
        EmulatedFirmware(built.elf, built.name, board("microbit")) as device,
        pytest.raises(DeviceError, match=r"RAM of microbit has 15,\d+ free bytes: too few for one input"),
    ):
        device.infer(np.zeros((1, 16_000), np.uint8), output_bytes=1000)


@pytest.mark.slow
def test_core_without_a_model_in_unicorn_says_so_or_runs_in_qemu() -> None:
    require_qemu("mps3-an547")
    built = firmware("mps3-an547")
    with EmulatedFirmware(built.elf, built.name, board("mps3-an547")) as device:
        assert device.engine == "qemu"
    with pytest.raises(DeviceError, match="unicorn has no cortex-m55"):
        EmulatedFirmware(built.elf, built.name, board("mps3-an547"), engine="unicorn")
    with pytest.raises(DeviceError, match="QEMU has no model of rpi-pico"):
        EmulatedFirmware(firmware("rpi-pico").elf, built.name, board("rpi-pico"), engine="qemu")


@pytest.mark.slow
def test_killed_or_silent_qemu_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    require_qemu("mps2-an385")
    built, target = firmware("mps2-an385"), board("mps2-an385")
    monkeypatch.setattr(qemu_engine, "_TIMEOUT_S", 1.0)
    with EmulatedFirmware(built.elf, built.name, target, engine="qemu") as device:
        with pytest.raises(DeviceError, match=r"The emulator stopped answering \(timed out\)"):
            device.call_code(bytes.fromhex("fee7"))  # b .
        assert engine_of(device)._process.returncode is not None
    with EmulatedFirmware(built.elf, built.name, target, engine="qemu") as device:
        engine_of(device)._process.kill()
        with pytest.raises(DeviceError, match="The emulator stopped answering"):
            device.init()


@pytest.mark.slow
def test_qemu_that_does_not_start_is_quoted() -> None:
    require_qemu("mps2-an385")
    built = firmware("mps2-an385")
    target = replace(board("mps2-an385"), emulation=Emulation("flux-capacitor", "chip"))
    with pytest.raises(DeviceError, match=r"QEMU did not start \(.*machine"):
        EmulatedFirmware(built.elf, built.name, target, engine="qemu")


def test_missing_qemu_is_one_sentence_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    built = firmware("mps3-an547")
    monkeypatch.setattr("firmware_export.emulators.qemu.shutil.which", lambda name: None)
    with pytest.raises(MissingToolError, match="qemu-system-arm is not installed; get it with `sudo apt"):
        EmulatedFirmware(built.elf, built.name, board("mps3-an547"))
    with pytest.raises(MissingToolError, match="apt install qemu-system-misc"):
        qemu.qemu_command(board("riscv-virt"), Path("f.elf"))


def engine_of(device: EmulatedFirmware) -> qemu_engine.QemuEngine:
    engine = device._process
    assert isinstance(engine, qemu_engine.QemuEngine)
    return engine


def test_hooked_store_in_an_it_block_does_not_mislead_the_count() -> None:
    """With a hook on memory, unicorn would skip the loop's first instruction, and so never leave it."""
    # movs r2, #3; loop: subs r2, #1; cmp r2, #0; it ne; strbne r1, [r0]; bne loop; bx lr
    halves = ("2203", "3a01", "2a00", "bf18", "7001", "d1fa", "4770")
    loop = b"".join(int(half, 16).to_bytes(2, "little") for half in halves)
    built = firmware("mps2-an386")
    with EmulatedFirmware(built.elf, built.name, board("mps2-an386")) as device:
        found = device.profile_code(loop, device.free_address + 512)
    assert (found.instructions, found.unaligned) == (16, ())


@pytest.mark.parametrize(
    ("board_name", "engine"),
    [("rpi-pico", "unicorn"), pytest.param("mps2-an386", "qemu", marks=pytest.mark.slow)],
)
def test_stack_deeper_than_a_profile_watches_is_not_reported(board_name: str, engine: str) -> None:
    if engine == "qemu":
        require_qemu(board_name)
    # mov r2, sp; loop: push {r0}; subs r1, #1; bne loop; mov sp, r2; bx lr
    halves = ("466a", "b401", "3901", "d1fc", "4695", "4770")
    pushes = b"".join(int(half, 16).to_bytes(2, "little") for half in halves)
    built = firmware(board_name)
    with EmulatedFirmware(built.elf, built.name, board(board_name), engine=engine) as device:
        assert device.profile_code(pushes, 1, 1023).stack_bytes == 4092
        for words in (1024, 1500):
            with pytest.raises(DeviceError, match="used all 4,096 bytes of stack"):
                device.profile_code(pushes, 1, words)
