"""What is missing is said before anything is made, and nothing is asked for that is not used."""

import importlib.util
from dataclasses import replace

import pytest

from edgeqrl.data import data_folder
from edgeqrl.errors import DeviceError, MissingToolError
from edgeqrl.requirements import require_tools
from firmware_export.board import board_names
from firmware_export.emulators.plan import emulations
from firmware_export.images import image_suffixes
from tests.firmware import board

MCUS = [name for name in board_names(data_folder("boards")) if board(name).kind == "mcu"]


@pytest.fixture(autouse=True)
def compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every compiler is there."""
    for name in ("find_compiler", "linux_compiler", "host_compiler"):
        monkeypatch.setattr(f"edgeqrl.requirements.{name}", lambda *_: None)


def lose(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let these libraries and programs be missing, and all others be there."""
    spec = importlib.util.find_spec("json")
    modules = {name: None if name in names else spec for name in ("unicorn", "elftools", "intelhex")}
    monkeypatch.setattr("edgeqrl.requirements.find_spec", modules.__getitem__)
    monkeypatch.setattr(
        "edgeqrl.requirements.program_path", lambda name: None if name in names else f"/bin/{name}"
    )
    monkeypatch.setattr("shutil.which", lambda name: None if name in names else f"/bin/{name}")


def used_by(name: str) -> set[str]:
    """Return what a conversion for the board uses: the emulator that comes first, and its images' makers."""
    found = {"elftools"}
    qemu = "qemu-system-riscv32" if board(name).port == "riscv32" else "qemu-system-arm"
    found.add("unicorn" if emulations(board(name))[0].engine == "unicorn" else qemu)
    tools = {tool.image for tool in board(name).flash_tools}
    return found | ({"intelhex"} if "hex" in tools else set()) | ({"esptool"} if "esp" in tools else set())


@pytest.mark.parametrize("name", MCUS)
def test_each_thing_that_is_used_is_asked_for_and_no_other(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {"elftools", "unicorn", "intelhex", "esptool", "qemu-system-arm", "qemu-system-riscv32"}
    used = used_by(name)
    lose(monkeypatch, *(everything - used))
    require_tools(board(name), None)
    for missing in used:
        lose(monkeypatch, missing)
        with pytest.raises(MissingToolError, match=rf"{missing}.*(pip|apt) install"):
            require_tools(board(name), None)


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("mps3-an547", {"elftools", "qemu-system-arm"}),
        ("mps2-an386", {"elftools", "unicorn"}),
        ("esp32c3", {"elftools", "unicorn", "esptool"}),
        ("microbit", {"elftools", "unicorn", "intelhex"}),
    ],
)
def test_what_is_used_is_known_of_these(name: str, used: set[str]) -> None:
    assert used_by(name) == used


@pytest.mark.parametrize("name", ["esp32", "rpi4", None])
def test_without_firmware_none_of_it_is_asked_for(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, "elftools", "unicorn", "intelhex", "esptool", "qemu-system-arm")
    require_tools(board(name) if name else None, None)


def test_board_that_no_emulator_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch)
    found = board("mps3-an547")
    with pytest.raises(DeviceError, match="No emulator here runs the cortex-m55"):
        require_tools(replace(found, emulation=replace(found.emulation, qemu_machine=None)), None)


def test_images_are_listed_as_they_are_made() -> None:
    assert image_suffixes(board("mps2-an386")) == ("elf", "bin")
    assert image_suffixes(board("esp32c3")) == ("elf", "bin", "esp")
    assert "uf2" in image_suffixes(board("rpi-pico"))
