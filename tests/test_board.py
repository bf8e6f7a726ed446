from pathlib import Path

import pytest

from edgeqrl.data import data_folder
from edgeqrl.errors import DataError, UsageError
from firmware_export.board import board_names, load_board
from tests.firmware import BOARDS, board

GOOD = (data_folder("boards") / "rpi-pico.toml").read_text()


def test_all_shipped_boards_load_under_their_own_name() -> None:
    assert set(board_names(data_folder("boards"))) >= set(BOARDS)
    for name in board_names(data_folder("boards")):
        assert board(name).name == name


def test_every_figure_has_its_source() -> None:
    for name in board_names(data_folder("boards")):
        assert {"core", "fpu", "clock_hz", "regions", "uart"} <= set(board(name).sources)


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
    import json

    facts = json.loads(json.dumps(board("rpi-pico").to_json()))
    assert facts["ram_bytes"] == 270336
    assert facts["sources"]["clock_hz"]
    assert facts["regions"][0]["name"] == "boot2"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("schema_version = 1", "schema_version = 2", "'schema_version' must be 1"),
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
        ("bytes = 256", "bytes = 255", "must be aligned to 4"),
        ('name = "ram"\nkind = "ram"', 'name = "ram"\nkind = "flash"', "one named 'ram'"),
        ('name = "boot2"', 'name = "boot 2"', "'name' must match"),
        ('"uart_rp2040.c"', '"../evil.c"', "'port_sources' must list files"),
        ("baud = 115_200", "baud = 115_200\nparity = 1", "unknown key 'parity'"),
        ('name = "rpi-pico"', 'name = "rpi-pico"\ncolour = 1', "unknown key 'colour'"),
        ('uart = "RP2040', 'cable = "RP2040', "'sources' must say where uart come from"),
        ("schema_version = 1", "schema_version = ", "is not valid TOML"),
    ],
)
def test_broken_board_file_is_refused_in_one_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    path = tmp_path / "broken.toml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(DataError, match=said):
        load_board(path, data_folder("boards"))


def test_missing_board_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read board file"):
        load_board(tmp_path / "none.toml", data_folder("boards"))
