from dataclasses import replace
from pathlib import Path

import pytest

from edgeqrl.errors import DataError, DeviceError, OutputError
from firmware_export.flashers.uf2_volume import (
    find_volume,
    firmware_uf2,
    flash,
    flash_volume,
    read_board_id,
    require_flashable,
)
from firmware_export.uf2 import read_uf2, write_uf2
from tests.firmware import board, firmware

PICO = board("rpi-pico")
FAMILY = 0xE48BFF56


def fake_volume(root: Path, name: str, board_id: str = "RPI-RP2") -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "INFO_UF2.TXT").write_text(
        f"UF2 Bootloader v3.0\nModel: Raspberry Pi RP2\nBoard-ID: {board_id}\n"
    )
    return folder


def test_the_one_volume_of_the_board_is_found(tmp_path: Path) -> None:
    (tmp_path / "usb-stick").mkdir()
    fake_volume(tmp_path, "OTHER", "SAMD21")
    wanted = fake_volume(tmp_path, "RPI-RP2")
    assert find_volume(PICO, roots=[tmp_path, tmp_path / "absent"]) == wanted


def test_two_volumes_of_the_board_are_refused_and_listed(tmp_path: Path) -> None:
    fake_volume(tmp_path, "one")
    fake_volume(tmp_path, "two")
    with pytest.raises(DeviceError, match=r"More than one rpi-pico is there: .*one \(RPI-RP2\), .*two"):
        find_volume(PICO, roots=[tmp_path])


def test_no_volume_lists_what_is_there(tmp_path: Path) -> None:
    fake_volume(tmp_path, "OTHER", "SAMD21")
    with pytest.raises(DeviceError, match=r"no volume of a rpi-pico in boot mode; .*OTHER \(SAMD21\)"):
        find_volume(PICO, roots=[tmp_path])


def test_named_volume_must_be_the_right_board(tmp_path: Path) -> None:
    other = fake_volume(tmp_path, "OTHER", "RPI-RP2350")
    with pytest.raises(DeviceError, match="is not a rpi-pico"):
        find_volume(PICO, volume=other)
    with pytest.raises(DeviceError, match="UF2 volumes found: none"):
        find_volume(PICO, volume=tmp_path)


def test_board_without_uf2_is_refused() -> None:
    with pytest.raises(DeviceError, match="mps2-an386 has no UF2 bootloader"):
        find_volume(board("mps2-an386"))


def test_flashing_copies_the_whole_image(tmp_path: Path) -> None:
    volume = fake_volume(tmp_path, "RPI-RP2")
    said = flash(firmware("rpi-pico"), PICO, volume=volume)
    start, image = read_uf2((volume / "FIRMWARE.UF2").read_bytes(), FAMILY)
    assert start == 0x10000000
    assert image.startswith(firmware("rpi-pico").bin)
    assert said.startswith(f"Wrote {len(image) * 2:,} bytes to ")


def mount_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_export.flashers.uf2_volume.mount_roots", lambda: (root,))


def assert_says_what_would_be_written(said: str) -> None:
    built = firmware("rpi-pico")
    assert f"Would write {len(firmware_uf2(built, PICO)):,} bytes of UF2" in said
    assert f"{len(built.bin):,} bytes of firmware from address 0x10000000, family 0xe48bff56" in said
    assert "Raspberry Pi Pico (RP2040)" in said
    assert "nothing was written" in said


@pytest.mark.parametrize("is_named", [True, False])
def test_dry_run_says_which_volume_it_would_use_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_named: bool
) -> None:
    mount_at(tmp_path, monkeypatch)
    fake_volume(tmp_path, "OTHER", "SAMD21")
    volume = fake_volume(tmp_path, "RPI-RP2")
    said = flash(firmware("rpi-pico"), PICO, volume=volume if is_named else None, dry_run=True)
    assert_says_what_would_be_written(said)
    assert f"to {volume / 'FIRMWARE.UF2'};" in said
    assert [path.name for path in volume.iterdir()] == ["INFO_UF2.TXT"]


def test_dry_run_without_a_board_succeeds_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount_at(tmp_path, monkeypatch)
    said = flash(firmware("rpi-pico"), PICO, dry_run=True)
    assert_says_what_would_be_written(said)
    assert "No rpi-pico in boot mode was found; UF2 volumes found: none." in said
    other = fake_volume(tmp_path, "OTHER", "SAMD21")
    assert f"UF2 volumes found: {other} (SAMD21)." in flash(firmware("rpi-pico"), PICO, dry_run=True)
    with pytest.raises(DeviceError, match="There is no volume of a rpi-pico"):
        flash(firmware("rpi-pico"), PICO)


def test_dry_run_lists_several_boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount_at(tmp_path, monkeypatch)
    one, two = fake_volume(tmp_path, "one"), fake_volume(tmp_path, "two")
    fake_volume(tmp_path, "OTHER", "SAMD21")
    said = flash(firmware("rpi-pico"), PICO, dry_run=True)
    assert_says_what_would_be_written(said)
    assert f"More than one rpi-pico is there: {one} (RPI-RP2), {two} (RPI-RP2). Name one" in said


def test_dry_run_still_refuses_a_wrong_volume_and_a_wrong_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount_at(tmp_path, monkeypatch)
    fake_volume(tmp_path, "RPI-RP2")
    with pytest.raises(DeviceError, match="OTHER is not a rpi-pico"):
        flash(firmware("rpi-pico"), PICO, volume=fake_volume(tmp_path, "OTHER", "SAMD21"), dry_run=True)
    with pytest.raises(DeviceError, match="not all of that is flash"):
        flash(replace(firmware("rpi-pico"), start=0x20000000), PICO, dry_run=True)


@pytest.mark.parametrize("start", [0x0FFFFF00, 0x10000000 + 2 * 1024 * 1024, 0x20000000])
def test_image_outside_flash_is_refused(start: int) -> None:
    with pytest.raises(DeviceError, match="not all of that is flash"):
        require_flashable(write_uf2(bytes(256), start, FAMILY), PICO)


def test_image_that_ends_behind_flash_is_refused() -> None:
    with pytest.raises(DeviceError, match="not all of that is flash"):
        require_flashable(write_uf2(bytes(512), 0x10000000 + 2 * 1024 * 1024 - 256, FAMILY), PICO)


def test_image_in_a_reserved_region_is_refused() -> None:
    kept = tuple(replace(region, is_reserved=region.name == "boot2") for region in PICO.regions)
    with pytest.raises(DeviceError, match="not all of that is flash"):
        require_flashable(firmware_uf2(firmware("rpi-pico"), PICO), replace(PICO, regions=kept))


def test_image_of_another_chip_is_refused(tmp_path: Path) -> None:
    volume = fake_volume(tmp_path, "RPI-RP2")
    with pytest.raises(DataError, match="for another chip"):
        flash_volume(write_uf2(bytes(256), 0x10000000, 0xE48BFF59), PICO, volume)


def test_volume_that_went_away_is_said(tmp_path: Path) -> None:
    uf2 = firmware_uf2(firmware("rpi-pico"), PICO)
    with pytest.raises(DeviceError, match="no longer a rpi-pico"):
        flash_volume(uf2, PICO, tmp_path)


def test_volume_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    volume = fake_volume(tmp_path, "RPI-RP2")
    (volume / "FIRMWARE.UF2").mkdir()
    with pytest.raises(OutputError, match="Cannot write"):
        flash_volume(firmware_uf2(firmware("rpi-pico"), PICO), PICO, volume)


def test_board_id_of_a_hostile_info_file_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "INFO_UF2.TXT").write_bytes(b"\xff" * 100_000 + b"\nBoard-ID: RPI-RP2\n")
    assert read_board_id(tmp_path) is None
