import json
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from edgeqrl.cli.main import run
from edgeqrl.data import data_folder
from edgeqrl.errors import DataError, UsageError
from firmware_export.board import board_names, load_board
from firmware_export.build import _require_settings, compile_firmware
from firmware_export.linker_script import render_linker_script
from tests.firmware import BOARDS, EVERY_BOARD, board, sources

K = 1024
SCHEMA = Path(__file__).parent.parent / "docs" / "board.schema.json"
# What a schema cannot say.
BEYOND_A_SCHEMA = (
    "regions 'boot2' and 'flash' overlap",
    "region 'boot2': it must be aligned to 4",
    "'port_sources' names 'uart_rp3.c', which port cortex_m does not have; did you mean 'uart_rp2.c'\\?$",
    "port_settings: none of the 'port_sources' knows 'watchdog_s'; did you mean 'watchdog_ms'\\?$",
    "port_settings: none of the 'port_sources' knows 'clock_hz'",
    "port_settings: none of the 'port_sources' knows 'crystal_hz'",
    "'watchdog' must be 'watchdog' with these 'port_sources', not 'none'",
    "'watchdog' must be 'none' with these 'port_sources', not 'watchdog'",
    "'twin' names 'mps2-an383', which is no board; did you mean 'mps2-an38.'",
    "'twin' names 'stm32f4discovery', which has no 'qemu_machine' itself",
    "emulation: 'twin' names 'mps2-an386', whose core is cortex-m4, not cortex-m0plus",
)
SETTINGS = "[port_settings]\n{} = 8\n\n[emulation]"
GOOD = (data_folder("boards") / "rpi-pico.toml").read_text()


def schema_faults(text: str) -> list[str]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return ["no TOML"]
    validator = Draft202012Validator(json.loads(SCHEMA.read_text()))
    return [error.message for error in validator.iter_errors(table)]


def test_all_shipped_boards_load_under_their_own_name() -> None:
    assert set(board_names(data_folder("boards"))) >= set(BOARDS)
    for name in board_names(data_folder("boards")):
        assert board(name).name == name


@pytest.mark.parametrize("name", EVERY_BOARD)
def test_every_figure_has_its_source(name: str) -> None:
    found = board(name)
    assert {"core", "fpu", "clock_hz", "regions"} <= set(found.sources)
    assert found.kind != "mcu" or {"uart", "num_interrupts"} <= set(found.sources)
    assert all(found.source_of(region) for region in found.regions)


@pytest.mark.parametrize("name", EVERY_BOARD)
def test_published_schema_takes_every_board(name: str) -> None:
    assert schema_faults((data_folder("boards") / f"{name}.toml").read_text()) == []


@pytest.mark.parametrize(
    ("name", "start", "flash_bytes", "ram_bytes"),
    [
        ("crazyflie21", 0x08004000, 1008 * K, 128 * K),
        ("esp32", 0x3F400000, 4096 * K, 328 * K),
        ("esp32c3", 0x42000000, None, None),
        ("esp32s3", 0x3C000000, 8192 * K, 416 * K),
        ("microbit", 0, 256 * K, 16 * K),
        ("microbit-v2", 0, 512 * K, 128 * K),
        ("nano33ble", 0x10000, 983_040, 256 * K),
        ("netduinoplus2", 0x08000000, 1024 * K, 128 * K),
        ("nrf5340dk", 0, 1024 * K, 512 * K),
        ("nucleo-h743zi", 0x08000000, 2048 * K, 512 * K),
        ("rpi-pico", 0x10000100, 2048 * K, 264 * K),
        ("rpi-pico2", 0x10000000, 4096 * K, 520 * K),
        ("stm32f4discovery", 0x08000000, 1024 * K, 128 * K),
        ("stm32vldiscovery", 0x08000000, 128 * K, 8 * K),
        ("teensy41", 0x60002000, 7936 * K, None),
    ],
)
def test_an_image_has_this_memory(
    name: str, start: int, flash_bytes: int | None, ram_bytes: int | None
) -> None:
    """Figures of the datasheets; None where the port decides what an image gets."""
    found = board(name)
    assert found.region("flash").start == start
    assert flash_bytes in (None, found.flash_bytes)
    assert ram_bytes in (None, found.ram_bytes)


@pytest.mark.parametrize(
    ("name", "reserved"),
    [
        ("crazyflie21", {"bootloader": (0x08000000, 16 * K)}),
        ("nano33ble", {"bootloader": (0, 64 * K)}),
        ("teensy41", {"recovery": (0x607C0000, 256 * K)}),
    ],
)
def test_what_must_stay_is_reserved_and_not_available(
    name: str, reserved: dict[str, tuple[int, int]]
) -> None:
    found = board(name)
    kept = {r.name: (r.start, r.bytes) for r in found.regions if r.reserved and r.kind == "flash"}
    assert kept == reserved
    script = render_linker_script(found, runs_from_ram=False)
    assert not any(name.upper() in script for name in kept)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("esp32", "No compiler for xtensa-lx6 .* `edgeqrl export`"),
        ("rpi4", "runs Linux and gets no firmware"),
    ],
)
def test_board_without_firmware_is_refused_with_what_it_gets(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        compile_firmware({}, board(name))


def test_command_states_the_highest_level_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["boards", "--json"]) == 0
    found = {facts["name"]: facts for facts in json.loads(capsys.readouterr().out)}
    assert set(found) == set(EVERY_BOARD)
    assert {plan["level"] for plan in found["rpi-pico"]["emulated"]} == {"ISA", "chip"}
    assert {plan["level"] for plan in found["nano33ble"]["emulated"]} == {"ISA"}
    assert found["esp32"]["emulated"] == []
    for name in EVERY_BOARD:
        shown = [plan["level"] for plan in found[name]["emulated"]]
        assert ("chip" in shown) == (
            board(name).emulation.qemu_level == "chip" or board(name).emulation.rp2040js
        )


@pytest.mark.parametrize("columns", [80, 120])
def test_list_is_readable(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run(["boards"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    for name in EVERY_BOARD:
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert line.rstrip().endswith(("ISA", "CPU + UART", "chip", "no"))


def test_sheet_of_a_board_has_every_region_tool_and_source(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    for name in EVERY_BOARD:
        assert run(["boards", name]) == 0
        shown, found = capsys.readouterr().out, board(name)
        for region in found.regions:
            assert f"at {region.start:#010x}" in shown
            assert region.note is None or region.note[:40] in shown
        assert ("reserved: never written" in shown) == any(region.reserved for region in found.regions)
        assert all(tool.tool in shown for tool in found.flash_tools)
        assert found.serial is None or found.uart.pins in shown
        assert "not measured on the board" in shown


def test_twin_is_a_board_of_the_same_instruction_set_that_qemu_has() -> None:
    for found in map(board, EVERY_BOARD):
        if found.emulation.twin is not None:
            twin = board(found.emulation.twin)
            assert twin.emulation.qemu_machine
            assert twin.core.removesuffix("ac").rstrip("c") == found.core.rstrip("c")


def test_pico_has_its_memory() -> None:
    pico = board("rpi-pico")
    assert pico.flash_bytes == 2 * 1024 * 1024
    assert pico.ram_bytes == 264 * 1024
    assert pico.region("flash").start == 0x10000100
    assert pico.uf2 is not None
    assert pico.uf2.family_id == 0xE48BFF56


def test_uart_is_clocked_as_the_core_unless_told_otherwise() -> None:
    assert board("rpi-pico").uart.clock_hz == 125_000_000
    assert board("mps3-an547").uart.clock_hz == 25_000_000


def test_unknown_board_offers_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'rpi-pico'"):
        load_board("rpi-pica", data_folder("boards"))


def test_board_is_loaded_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace('name = "rpi-pico"', 'name = "mine"'))
    assert load_board(path, data_folder("boards")).name == "mine"


def test_to_json_is_plain_data() -> None:
    facts = json.loads(json.dumps(board("rpi-pico").to_json()))
    assert facts["ram_bytes"] == 270336
    assert facts["sources"]["clock_hz"]
    assert facts["regions"][0]["name"] == "boot2"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("schema_version = 2", "schema_version = 3", "'schema_version' must be 2"),
        ('core = "cortex-m0plus"\n', "", "'core' is missing"),
        (
            'core = "cortex-m0plus"',
            'core = "cortex-m9"',
            "must be one of cortex-m0, cortex-m0plus, .*, rv32imac",
        ),
        ('fpu = "none"', 'fpu = "fpv4-sp-d16"', "'fpu' must be one of none, not"),
        ('port = "cortex_m"', 'port = "riscv32"', "'port' must be one of cortex_m, not"),
        ("baud = 115_200", "baud = 115_200\nclock_hz = 0", r"'clock_hz' must lie in \[1, "),
        ("clock_hz = 125_000_000", 'clock_hz = "fast"', "'clock_hz' must be int, not str"),
        ("clock_hz = 125_000_000", "clock_hz = true", "'clock_hz' must be int, not bool"),
        ("clock_hz = 125_000_000", "clock_hz = 0", r"must lie in \[1, "),
        ("bytes = 256", "bytes = 512", "regions 'boot2' and 'flash' overlap"),
        ("bytes = 256", "bytes = 255", "region 'boot2': it must be aligned to 4"),
        ('name = "ram"\nkind = "ram"', 'name = "sram"\nkind = "ram"', "one named 'ram'"),
        ('name = "boot2"', 'name = "boot 2"', "'name' must match"),
        ('"watchdog_rp2.c"', '"../evil.c"', "'port_sources' must list files"),
        ("baud = 115_200", "baud = 115_200\nparity = 1", "unknown key 'parity'"),
        ('name = "rpi-pico"', 'name = "rpi-pico"\ncolour = 1', "unknown key 'colour'"),
        ('uart = "RP2040', 'cable = "RP2040', "'sources' must say where uart come from"),
        ("schema_version = 2", "schema_version = 1", "docs/boards.md says what version 1 lacks"),
        ('kind = "mcu"', 'kind = "fpga"', "'kind' must be one of mcu, library, linux, not 'fpga'"),
        ('kind = "mcu"', 'kind = "linux"', "'core' must be one of cortex-a53, "),
        ("wait_states = 256\n", "", "region 'boot2': 'wait_states' is missing"),
        ("wait_states = 256", "wait_states = -1", r"region 'boot2': 'wait_states' must lie in \[0, "),
        ("erase_bytes = 4_096\n", "", "region 'boot2': 'erase_bytes' is missing"),
        ("wait_states = 0", "wait_states = 0\nerase_bytes = 4", "region 'ram': unknown key 'erase_bytes'"),
        ('name = "ram"\n', 'name = "ram"\nreserved = true\n', "one named 'ram', not reserved"),
        (
            "wait_states = 0",
            'wait_states = 0\nreserved = "no"',
            "region 'ram': 'reserved' must be bool, not str",
        ),
        ("irq = 20", "irq = 480", r"uart: 'irq' must lie in \[0, 479\], not 480"),
        ('pins = "GPIO0 (TX), GPIO1 (RX)"', 'pins = ""', "uart: 'pins' must not be empty"),
        ("rp2040js = true", 'qemu_level = "chip"', "emulation: 'qemu_level' needs a 'qemu_machine'"),
        ("rp2040js = true", 'qemu_machine = "m"\nqemu_level = "all"', "'qemu_level' must be one of chip, "),
        ("rp2040js = true", "renode = true", "emulation: unknown key 'renode'"),
        ('watchdog = "', 'watchdog = "!', "'watchdog' must match"),
        ("schema_version = 2", "schema_version = ", "is not valid TOML"),
        ("baud = 115_200", "baud = 1_199", r"uart: 'baud' must lie in \[1200, "),
        ('"uart_rp2.c"', '"uart_rp3.c"', BEYOND_A_SCHEMA[2]),
        ("[emulation]", SETTINGS.format("watchdog_s"), BEYOND_A_SCHEMA[3]),
        ("[emulation]", SETTINGS.format("clock_hz"), BEYOND_A_SCHEMA[4]),
        ("[emulation]", SETTINGS.format("crystal_hz"), BEYOND_A_SCHEMA[5]),
        ('watchdog = "watchdog"', 'watchdog = "none"', BEYOND_A_SCHEMA[6]),
        ('"watchdog_rp2.c"', '"watchdog_none.c"', BEYOND_A_SCHEMA[7]),
        ("rp2040js = true", 'twin = "mps2-an383"', BEYOND_A_SCHEMA[8]),
        ("rp2040js = true", 'twin = "stm32f4discovery"', BEYOND_A_SCHEMA[9]),
        ("rp2040js = true", 'twin = "mps2-an386"', BEYOND_A_SCHEMA[10]),
    ],
)
def test_broken_board_file_is_refused_in_one_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    path = tmp_path / "broken.toml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(DataError, match=said):
        load_board(path, data_folder("boards"))
    if said not in BEYOND_A_SCHEMA:
        assert schema_faults(path.read_text()), "the published schema takes what the reader refuses"


def test_missing_board_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read board file"):
        load_board(tmp_path / "none.toml", data_folder("boards"))


def test_setting_that_its_sources_need_is_asked_for(tmp_path: Path) -> None:
    good = (data_folder("boards") / "stm32f4discovery.toml").read_text()
    for old, said in (
        ("crystal_hz = 8_000_000", r"of stm32f4discovery lacks crystal_hz in \[port_settings\]"),
        ("irq = 38", r"of stm32f4discovery lacks 'irq' in \[uart\]"),
    ):
        assert old in good
        path = tmp_path / "poor.toml"
        path.write_text(good.replace(old, ""))
        with pytest.raises(DataError, match=said):
            compile_firmware(sources(), load_board(path, data_folder("boards")))


@pytest.mark.parametrize("compiler", ["clang", "gcc"])
def test_compilers_name_what_is_missing(compiler: str) -> None:
    said = {
        "clang": "clock.c:12:23: error: use of undeclared identifier 'EQRL_CRYSTAL_HZ'",
        "gcc": "clock.c:12:23: error: \u2018EQRL_CRYSTAL_HZ\u2019 undeclared here (not in a function)",
    }
    with pytest.raises(DataError, match="lacks crystal_hz in"):
        _require_settings(said[compiler], board("stm32f4discovery"))
    _require_settings(said[compiler], board("rpi-pico"))  # its sources know no such setting: a fault of ours
