"""Parts of a firmware in regions of their own: what may go where, what lies where, and that it runs."""

import subprocess
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeqrl.backends.emulated import EmulatedPolicy
from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.diagnose.case import Case
from edgeqrl.errors import BoardFitError, DataError, UsageError
from edgeqrl.network.reference import Reference
from edgeqrl.stages.emulation import _require_regions
from firmware_export.board import Board, Region, load_board
from firmware_export.build import Firmware, compile_firmware
from firmware_export.device.client import Device
from firmware_export.elf import Symbol, read_elf
from firmware_export.emulators.memory_link import MemoryLink
from firmware_export.emulators.qemu import boot_in_qemu
from firmware_export.fit import estimate_us, timing_model
from firmware_export.linker_script import ALIGNMENT, render_linker_script
from firmware_export.placement import (
    Placement,
    parse_placement,
    place,
    possible_placement,
    require_placeable,
)
from firmware_export.realtime import realtime_sheet, realtime_text, stack_sentence
from firmware_export.stack import reached
from tests import test_ports_stm32, test_ports_teensy
from tests.c_policies import random_observations
from tests.firmware import (
    ALL_BOARDS,
    BOARDS_FOLDER,
    board,
    cross_compiler,
    policy,
    require_qemu,
    require_tool,
    sources,
)
from tests.ports import OK, boot_chip, rests
from tests.test_boot import RP2040JS

COMPILERS = ["zig", pytest.param("arm-none-eabi-gcc", marks=pytest.mark.slow)]
# Every region of a board beside flash and RAM, in each role that it may have; and RAM where flash is usual.
PLACED = [
    ("stm32f4discovery", "weights=ccm arena=ccm"),
    ("stm32f4discovery", "code=ram arena=ccm"),
    ("nucleo-h743zi", "code=itcm weights=dtcm arena=sram123"),
    ("nucleo-h743zi", "code=sram4 weights=itcm arena=dtcm"),
    ("teensy41", "code=itcm weights=dtcm arena=dtcm"),
    ("teensy41", "code=flash weights=flash"),
    ("rpi-pico", "code=flash"),
    ("rpi-pico", "weights=flash"),
    ("rpi-pico2", "code=flash weights=flash"),
    ("mps2-an386", "code=ram weights=ram"),
    ("mps2-an385", "code=ram"),
    ("microbit", "code=ram weights=ram"),
    ("riscv-virt", "code=ram weights=ram"),
]


@lru_cache(maxsize=32)
def built(name: str, text: str, compiler: str = "zig") -> Firmware:
    if board(name).port == "riscv32" and compiler != "zig":
        compiler = "riscv64-unknown-elf-gcc"
    placement = parse_placement(text.split())
    return compile_firmware(
        sources(), board(name), compiler=cross_compiler(compiler), with_selftest=True, placement=placement
    )


# What may be said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("weights", "--place 'weights' is not of the form WHAT=REGION, as weights=flash."),
        ("weights=", "--place 'weights=' is not of the form"),
        ("weight=ccm", "There is no part to place 'weight'; did you mean 'weights'?"),
        ("weights=ccm weights=ram", "--place puts weights into 'ccm' and into 'ram': give one."),
    ],
)
def test_what_is_not_understood_is_refused_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_placement(text.split())
    assert str(refused.value).startswith(said)


def test_the_same_said_twice_is_said_once() -> None:
    assert parse_placement(("code=ram", "arena=ccm", "code=ram")) == {"code": "ram", "arena": "ccm"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("stm32f4discovery", "weights=cmm", "--place weights=cmm: .* no region 'cmm'; did you mean 'ccm'?"),
        (
            "stm32f4discovery",
            "code=ccm",
            "'ccm' of stm32f4discovery cannot hold code .reached by the data bus",
        ),
        ("stm32f4discovery", "arena=flash", "'flash' of .* cannot hold arena .*; arena may go to ram or ccm"),
        ("crazyflie21", "weights=bootloader", "'bootloader' of crazyflie21 is reserved"),
        ("rpi-pico", "code=boot2", "'boot2' of rpi-pico cannot hold code .*code may go to flash or ram"),
        ("nucleo-h743zi", "arena=backup", "'backup' of nucleo-h743zi is reserved"),
        ("esp32c3", "weights=flash", "'flash' of esp32c3 cannot hold weights .*; weights may go to ram"),
        ("esp32", "weights=ram", "EQRL_CODE, EQRL_WEIGHTS and EQRL_ARENA"),
        ("rpi4", "weights=ram", "--place is for boards whose firmware is linked here"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(name: str, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        require_placeable(board(name), parse_placement([text]))
    assert str(refused.value)[-1] in ".?"
    assert "\n" not in str(refused.value)


def test_a_placement_without_a_board_is_refused() -> None:
    with pytest.raises(UsageError, match="--place goes with --board"):
        require_placeable(None, {"code": "ram"})
    require_placeable(None, {})


def test_parts_lie_with_the_image_unless_something_is_said() -> None:
    assert place(board("stm32f4discovery")) == Placement("flash", "flash", "ram")
    assert place(board("rpi-pico")) == Placement("ram", "ram", "ram")
    assert place(board("rpi-pico"), runs_from_ram=False) == Placement("flash", "flash", "ram")
    assert place(board("esp32c3")) == Placement("iram", "ram", "ram")
    assert place(board("teensy41"), {"weights": "dtcm"}) == Placement("ram", "dtcm", "ram")


def test_a_twin_takes_what_it_can() -> None:
    stated = {"code": "ram", "weights": "dtcm", "arena": "ram"}
    assert possible_placement(board("mps2-an500"), stated) == {"code": "ram", "arena": "ram"}


# What a board's file says


def own_board(folder: Path, old: str, new: str, name: str = "stm32f4discovery") -> Board:
    text = (BOARDS_FOLDER / f"{name}.toml").read_text()
    assert old in text
    path = folder / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return load_board(path, BOARDS_FOLDER)


def test_a_board_may_say_where_parts_go_and_the_command_line_overrides_it(tmp_path: Path) -> None:
    target = own_board(tmp_path, "[uart]", '[placement]\narena = "ccm"\nweights = "ccm"\n\n[uart]')
    assert place(target) == Placement("flash", "ccm", "ccm")
    assert place(target, {"weights": "flash"}) == Placement("flash", "flash", "ccm")
    state = read_elf(compile_firmware(sources(), target).elf).address("eqrl_port_state")
    assert 0x1000_0000 <= state < 0x1001_0000
    assert target.to_json()["placement"] == (("weights", "ccm"), ("arena", "ccm"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[uart]", '[placement]\ncode = "ccm"\n[uart]', "placement: 'ccm' of .* cannot hold code"),
        ("[uart]", '[placement]\ncode = "cmm"\n[uart]', "placement: .* has no region 'cmm'"),
        ("[uart]", '[placement]\nstack = "ccm"\n[uart]', "placement: unknown key 'stack'"),
        ("[uart]", '[placement]\ncode = ""\n[uart]', "placement: 'code' must not be empty"),
        ('["weights", "arena"]', '["weight"]', "'holds' may list code, weights, arena, each once"),
        ('["weights", "arena"]', '["arena", "arena"]', "'holds' may list code, weights, arena, each once"),
        ("program_bytes = 4\n", 'program_bytes = 4\nholds = ["arena"]\n', "'holds' may list code, weights,"),
        ("[[0x4002_3830, 0x0010_0000]]", "[[0x4002_3830]]", "'enable' must be pairs"),
        ("[[0x4002_3830, 0x0010_0000]]", "[[0x4002_3831, 1]]", "'enable' must be pairs"),
        ("program_bytes = 4\n", "program_bytes = 4\nenable = []\n", "unknown key 'enable'"),
    ],
)
def test_a_board_that_says_what_cannot_be_is_refused(old: str, new: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        own_board(tmp_path, old, new)


@pytest.mark.parametrize("name", ALL_BOARDS)
def test_regions_hold_nothing_that_the_start_up_code_cannot_bring_there(name: str) -> None:
    target = board(name)
    for region in target.regions:
        if region.kind == "flash" and region.name != "flash":
            assert region.holds == ()
        if region.reserved:
            assert region.holds == ()
    assert asdict(place(target)).keys() == {"code", "weights", "arena"}
    assert all(what in target.region(where).holds for what, where in asdict(place(target)).items())


# The linker script


def test_script_stores_copies_enables_and_clears() -> None:
    target = board("nucleo-h743zi")
    parts = place(target, {"code": "itcm", "weights": "dtcm", "arena": "sram123"})
    lines = [
        line.strip()
        for line in render_linker_script(target, runs_from_ram=False, placement=parts).splitlines()
    ]
    assert "ITCM (rwx) : ORIGIN = 0x00000020, LENGTH = 65504" in lines  # NULL is nobody's address
    assert {"} > ITCM AT > FLASH", "} > DTCM AT > FLASH", "} > SRAM123"} <= set(lines)
    tables = [line for line in lines if line.startswith(("LONG", "__"))]
    assert tables[:5] == [
        "__enable_table_start = .;",
        f"LONG({0xE000EF94}) LONG(1)",
        f"LONG({0xE000EF90}) LONG(1)",
        f"LONG({0x580244DC}) LONG({0xE0000000})",
        "__enable_table_end = .;",
    ]
    copied = [f"LONG(LOADADDR({s})) LONG(ADDR({s})) LONG(SIZEOF({s}))" for s in (".data", ".eqrl_code")]
    assert set(copied) <= set(tables)
    assert "LONG(ADDR(.eqrl_arena)) LONG(SIZEOF(.eqrl_arena))" in tables


def test_script_of_an_image_that_uses_no_other_memory_enables_none() -> None:
    script = render_linker_script(board("nucleo-h743zi"), runs_from_ram=False)
    between = script[script.index("__enable_table_start") : script.index("__enable_table_end")]
    assert "LONG" not in between


# The image


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(("name", "text"), PLACED)
def test_parts_lie_in_their_regions(name: str, text: str, compiler: str) -> None:
    made, target = built(name, text, compiler), board(name)
    elf, regions = (
        read_elf(made.elf),
        {what: target.region(where) for what, where in asdict(made.placement).items()},
    )
    assert asdict(made.placement).items() >= parse_placement(text.split()).items()
    code = regions["code"]
    for instruction in reached(elf, "robot_step"):  # no veneer leads out of it
        assert code.first <= instruction.address < code.end
    params, state = elf.symbols["robot_params"], elf.symbols["eqrl_port_state"]
    assert is_in(params, regions["weights"])
    assert is_in(state, regions["arena"])
    assert params.address % ALIGNMENT == 0
    assert (state.address + 4) % ALIGNMENT == 0  # the arena is behind a pointer
    flash = target.region("flash")
    lowest = min(region.start for region in target.regions if region.kind == "flash")
    for segment in (segment for segment in elf.segments if segment.content):
        assert lowest <= segment.load_address <= segment.load_address + len(segment.content) <= flash.end
        offset = segment.load_address - made.start
        if segment.address != segment.load_address:
            assert segment.load_address % 4 == segment.address % 4 == len(segment.content) % 4 == 0
        assert made.bin[offset : offset + len(segment.content)] == segment.content


def is_in(symbol: Symbol, region: Region) -> bool:
    return region.first <= symbol.address <= symbol.address + symbol.size <= region.end


@pytest.mark.parametrize(("name", "text"), PLACED)
def test_answers_are_the_references_wherever_parts_lie(name: str, text: str) -> None:
    rows, starts = random_observations(np.random.default_rng(3), policy(), 40), np.ones(40, np.bool_)
    reference = NetworkPolicy(Reference(policy().network), policy(), name="reference")
    expected, _ = reference.act(rows, None, episode_start=starts)
    with EmulatedPolicy(built(name, text), policy(), board(name)) as device:
        actions, _ = device.act(rows, None, episode_start=starts)
        np.testing.assert_array_equal(actions, expected)
        profile = device.profile(rows[0])
        assert Device(MemoryLink(device.emulated), name).selftest().rows > 0
    assert (
        0 < profile.stack_bytes <= realtime_sheet(built(name, text), board(name))["stack"]["step_bound_bytes"]
    )


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", ["stm32f4discovery", "nucleo-h743zi"])
def test_start_up_of_an_stm32_clocks_copies_and_clears(name: str, compiler: str) -> None:
    """All RAM holds rubbish at first; the boot self-test compares what weights and arena make of it."""
    text = next(text for found, text in PLACED if found == name)
    made, target, chip = built(name, text, compiler), board(name), test_ports_stm32.CHIPS[name]
    uart = target.uart.base
    found = boot_chip(
        made,
        target,
        {**chip.healthy, uart + chip.status_at: 1 << 7},
        uart=uart + chip.sends_at,
        blocks=chip.pages,
    )
    assert found.text == OK
    assert rests(found, made)
    used = {target.region(where) for where in asdict(made.placement).values()}
    enabled = [pair for region in target.regions if region in used for pair in region.enable]
    assert enabled
    at = [found.writes.index(pair) for pair in enabled]
    assert at == sorted(at)
    assert max(at) < min(i for i, (place_of, _) in enumerate(found.writes) if place_of in chip.healthy)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("text", [text for name, text in PLACED if name == "teensy41"])
def test_start_up_of_a_teensy_copies_and_clears(text: str, compiler: str) -> None:
    made = built("teensy41", text, compiler)
    found = boot_chip(
        made,
        board("teensy41"),
        test_ports_teensy.HEALTHY,
        uart=test_ports_teensy.UART_DATA,
        blocks=test_ports_teensy.BLOCKS,
        entry=int.from_bytes(made.bin[0x1004:0x1008], "little"),
    )
    assert found.text == OK
    assert ((0xE000EF90, 1) in found.writes) == ("itcm" in text)


QEMU = [
    ("mps2-an386", "code=ram weights=ram"),
    ("netduinoplus2", "code=ram weights=ram"),
    ("microbit", "code=ram weights=ram"),
    ("riscv-virt", "code=ram weights=ram"),
    ("mps3-an547", "code=isram weights=isram arena=isram"),
]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(("name", "text"), QEMU)
def test_whole_machines_start_and_pass_their_self_test(name: str, text: str, compiler: str) -> None:
    require_qemu(name)
    assert boot_in_qemu(built(name, text, compiler).elf, board(name)).endswith("self-test OK")


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["zig", "arm-none-eabi-gcc"])
@pytest.mark.parametrize("text", ["code=flash weights=flash", "weights=flash", "code=flash"])
def test_a_model_of_the_rp2040_executes_and_reads_in_place(text: str, compiler: str, tmp_path: Path) -> None:
    (tmp_path / "firmware.bin").write_bytes(built("rpi-pico", text, compiler).bin)
    module = RP2040JS / "dist" / "esm" / "index.js"
    script = Path(__file__).with_name("rp2040js_boot.mjs")
    command = [require_tool("node"), str(script), str(module), str(tmp_path / "firmware.bin")]
    found = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert found.stdout.decode() == OK


def test_helium_runs_from_another_memory_in_qemu() -> None:
    name, text = "mps3-an547", "code=isram weights=isram arena=isram"
    require_qemu(name)
    rows, starts = random_observations(np.random.default_rng(3), policy(), 10), np.ones(10, np.bool_)
    reference = NetworkPolicy(Reference(policy().network), policy(), name="reference")
    expected, _ = reference.act(rows, None, episode_start=starts)
    with EmulatedPolicy(built(name, text), policy(), board(name)) as device:
        first = device.profile(rows[0])
        actions, _ = device.act(rows, None, episode_start=starts)
        assert device.profile(rows[0]) == first  # what was profiled is put back
    np.testing.assert_array_equal(actions, expected)


def test_an_image_that_is_placed_apart_has_no_function_more() -> None:
    usual = compile_firmware(sources(), board("mps2-an386"), with_selftest=True)
    names = [
        {s.name for s in read_elf(made.elf).functions if "Thunk" not in s.name}
        for made in (usual, built("mps2-an386", "code=ram weights=ram"))
    ]
    assert names[0] == names[1]


# Does it fit, and how long does it take?


def shrunk(target: Board, name: str, size: int) -> Board:
    return replace(
        target, regions=tuple(replace(r, bytes=size) if r.name == name else r for r in target.regions)
    )


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(
    ("name", "what", "region"),
    [
        ("stm32f4discovery", "weights", "ccm"),
        ("nucleo-h743zi", "code", "itcm"),
        ("teensy41", "arena", "dtcm"),
    ],
)
def test_what_exceeds_a_region_is_refused_with_its_name_and_numbers(
    name: str, what: str, region: str, compiler: str
) -> None:
    target = shrunk(board(name), region, 64)
    there = target.region(region).end - target.region(region).first
    needed = {"weights": "576", "code": r"\d,\d\d\d", "arena": r"\d\d"}[what]
    if what == "arena":
        target, there = shrunk(target, region, 32), 32
    with pytest.raises(
        BoardFitError, match=rf"\({region}: {needed} bytes needed, {there} there\): .*--place"
    ):
        compile_firmware(sources(), target, compiler=cross_compiler(compiler), placement={what: region})


def test_sizes_are_those_of_the_sections() -> None:
    made = built("nucleo-h743zi", "code=itcm weights=dtcm arena=sram123")
    sections = read_elf(made.elf).sections
    parts = {"itcm": ".eqrl_code", "dtcm": ".eqrl_weights", "sram123": ".eqrl_arena"}
    assert made.sizes.regions == {region: sections[name][1] for region, name in parts.items()}
    assert made.sizes.ram_bytes == sections[".data"][1] + sections[".bss"][1]
    sheet = realtime_sheet(made, board("nucleo-h743zi"))
    ram = sheet["ram"]
    assert ram["state_bytes"] == 0
    assert (
        sum(ram[f"{p}_bytes"] for p in ("state", "observation", "action", "device", "code"))
        == ram["total_bytes"]
    )
    text = realtime_text(sheet)
    for region, what in (("itcm", "code"), ("dtcm", "weights"), ("sram123", "arena")):
        assert f"Region `{region}`: {made.sizes.regions[region]:,} B of " in text
        assert f"B, with {what}." in text


def test_what_is_placed_stays_there_where_the_rest_exceeds_ram() -> None:
    made = compile_firmware(
        sources(), shrunk(board("rpi-pico"), "ram", 8192), with_selftest=True, placement={"weights": "ram"}
    )
    assert not made.runs_from_ram
    assert made.placement == Placement("flash", "ram", "ram")


def test_estimate_goes_by_where_weights_and_code_lie() -> None:
    h7, pico = board("nucleo-h743zi"), board("rpi-pico")
    usual = timing_model(h7).cycles_per_instruction
    assert usual == pytest.approx(0.8 + 4 * 0.25 / 32)  # flash behind a cache: weights alone
    assert timing_model(h7, placement=place(h7, {"weights": "dtcm"})).cycles_per_instruction == 0.8
    slow = place(pico, {"weights": "flash"})
    assert timing_model(pico, placement=slow).cycles_per_instruction == pytest.approx(1.5 + 256 * 0.25 / 4)
    assert estimate_us(1000, pico, placement=slow) > 10 * estimate_us(1000, pico)
    uncached = {"code": "sram123"}
    assert timing_model(h7, placement=place(h7, uncached)).cycles_per_instruction == pytest.approx(usual)


# Exceptions apart from the step


@pytest.mark.parametrize(
    ("name", "frames", "faults"),
    [
        ("rpi-pico", (36, None), 1),
        ("stm32f4discovery", (36, 108), 1),
        ("rpi-pico2", (36, 172), 1),
        ("mps2-an386", (36, 108), 2),
        ("riscv-virt", (80, None), 1),
    ],
)
def test_stack_of_exceptions_is_stated_apart_and_the_sum_is_what_fits(
    name: str, frames: tuple[int, int | None], faults: int
) -> None:
    made = compile_firmware(sources(), board(name), with_selftest=True)
    sheet = realtime_sheet(made, board(name))
    stack, found = sheet["stack"], sheet["stack"]["exceptions"]
    assert (found["frame_bytes"], found["frame_bytes_in_use"]) == frames
    frame = frames[1] or frames[0]
    assert found["handler_bound_bytes"] == max(h["stack_bytes"] for h in sheet["interrupts"]["handlers"])
    assert found["faults_at_once"] == faults
    assert found["total_bytes"] == frame + found["handler_bound_bytes"] + faults * (
        found["fault_bound_bytes"] + frame
    )
    assert stack["step_bound_bytes"] < stack["loop_bound_bytes"]
    total = stack["loop_bound_bytes"] + found["total_bytes"]
    assert stack["firmware_bound_bytes"] == made.sizes.stack_bytes == total
    sentence = stack_sentence(sheet)
    assert f"{stack['step_bound_bytes']:,} B of the step" in sentence
    assert f"an interrupt pushes {frames[0]} B" in sentence
    assert (f"({frames[1]} B with the FPU in use)" in sentence) == (frames[1] is not None)
    assert "Stack of exceptions, apart: each pushes" in realtime_text(sheet)


# What a bundle remembers


def test_a_command_to_convert_again_places_as_before() -> None:
    manifest = {
        "name": "walker",
        "environment": {"env_id": "X-v0", "kwargs": {}, "wrappers": []},
        "artefacts": {"agent/agent.keras": {}},
        "board": "nucleo-h743zi",
        "placement": {"weights": "dtcm", "arena": "dtcm"},
    }
    command = Case.of_manifest("B", manifest, 20).convert()
    assert command is not None
    assert command.endswith("--board nucleo-h743zi --place weights=dtcm --place arena=dtcm")


def test_a_region_that_qemus_machine_lacks_is_told() -> None:
    bundle: Any = SimpleNamespace(facts={"placement": {"arena": "ccm"}})
    told = "QEMU's machine netduinoplus2 has no 'ccm', where --place has put arena"
    with pytest.raises(UsageError, match=told):
        _require_regions(bundle, "netduinoplus2")
    _require_regions(bundle, "mps2-an386")
