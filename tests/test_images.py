"""Images: each is what its tool takes, the same every time, and nowhere that it may not be."""

from dataclasses import replace

import pytest

from edgeqrl.data import data_folder
from edgeqrl.errors import BoardFitError, DataError, DeviceError, MissingToolError
from firmware_export.board import board_names, load_board
from firmware_export.build import Firmware
from firmware_export.elf import read_elf
from firmware_export.images import firmware_images, hex_image, image_suffixes, read_hex, require_loads
from firmware_export.uf2 import RP2040, RP2350, read_uf2, require_image_definition
from tests.firmware import board, firmware, one_by_default
from tests.flash_fakes import some_firmware

FLASHED = [
    name
    for name in board_names(data_folder("boards"))
    if (found := load_board(name, data_folder("boards"))).kind == "mcu" and found.flash_tools
]
KINDS = {image_suffixes(board(name)): name for name in FLASHED}
DEFINITION = bytes.fromhex("d3deffff42012110ff0100000000000079 3512ab".replace(" ", ""))


@pytest.mark.parametrize("name", one_by_default(FLASHED, tuple(KINDS.values())))
def test_images_are_those_of_the_tools_and_the_same_every_time(name: str) -> None:
    built, target = firmware(name), board(name)
    images = firmware_images(built, target)
    assert set(images) >= {"elf", "bin", *(tool.image for tool in target.flash_tools)}
    assert tuple(images) == image_suffixes(target)
    assert images == firmware_images(built, target)
    assert images["elf"] == built.elf
    assert images["bin"] == built.bin
    if "hex" in images:
        start, content = read_hex(images["hex"])
        assert (start, content) == (built.start, built.bin)
    if target.uf2 is not None:
        start, content = read_uf2(images["uf2"], target.uf2.family_id)
        assert start == built.start
        assert content == built.bin.ljust(len(content), b"\xff")


def test_hex_crosses_64_kib_and_has_no_start_address() -> None:
    content = bytes(range(256)) * 300
    text = hex_image(content, 0x1000_0000).decode()
    assert text.splitlines()[0] == ":020000041000EA"  # extended linear address 0x1000
    assert ":020000041001E9" in text.splitlines()
    assert text.splitlines()[-1] == ":00000001FF"
    assert not [line for line in text.splitlines() if line[7:9] in ("03", "05")]
    assert read_hex(text.encode()) == (0x1000_0000, content)


def test_image_that_is_not_in_flash_is_refused() -> None:
    pico = board("rpi-pico")
    with pytest.raises(DeviceError, match="not all of that is flash"):
        firmware_images(replace(firmware("rpi-pico"), start=0x2000_0000), pico)
    kept = tuple(replace(region, reserved=region.name == "boot2") for region in pico.regions)
    with pytest.raises(DeviceError, match="0x10000000 to 0x100000ff is reserved: boot2"):
        firmware_images(firmware("rpi-pico"), replace(pico, regions=kept))


def test_rp2040_image_begins_with_a_second_stage_and_its_crc() -> None:
    assert board("rpi-pico").uf2.family_id == RP2040  # type: ignore[union-attr]
    built = firmware("rpi-pico")
    damaged = bytes([built.bin[0] ^ 1]) + built.bin[1:]
    with pytest.raises(BoardFitError, match="second stage and its CRC"):
        firmware_images(replace(built, bin=damaged), board("rpi-pico"))


def test_rp2350_image_has_its_definition_in_the_first_4_kib() -> None:
    pico2 = board("rpi-pico2")
    assert pico2.uf2.family_id == RP2350  # type: ignore[union-attr]
    built = firmware("rpi-pico2")
    assert DEFINITION in built.bin[:4096]
    with pytest.raises(DataError, match="no RP2350 image definition"):
        firmware_images(replace(built, bin=built.bin.replace(DEFINITION, bytes(20))), pico2)


@pytest.mark.parametrize(("place", "is_found"), [(0, True), (4076, True), (4080, False), (2, False)])
def test_image_definition_is_looked_for_where_the_rom_does(place: int, is_found: bool) -> None:
    image = bytes(place) + DEFINITION + bytes(5000)
    if is_found:
        require_image_definition(image)
    else:
        with pytest.raises(DataError, match="image definition"):
            require_image_definition(image)


# ESP: esptool makes it, and says itself whether it is right


def test_esp_image_holds_what_the_elf_loads() -> None:
    built = firmware("esp32c3")
    image = firmware_images(built, board("esp32c3"))["esp"]
    assert image[0] == 0xE9
    assert int.from_bytes(image[12:14], "little") == 5  # chip id of the ESP32-C3
    elf = read_elf(built.elf)
    assert int.from_bytes(image[4:8], "little") == elf.entry
    for segment in elf.segments:
        assert segment.content in image


def test_esp_image_that_the_rom_cannot_load_is_refused() -> None:
    info = "Segment 0\n      0  0x004f0  {}  0x00000018  DRAM\nChecksum: 0xfa (valid)\n"
    require_loads(info.format("0x3fc82a30"), board("esp32c3"))
    for address in ("0x42000000", "0x3fcdc700", "0x3fcdc600"):
        with pytest.raises(BoardFitError, match=address):
            require_loads(info.format(address), board("esp32c3"))
    with pytest.raises(BoardFitError, match="nowhere"):
        require_loads("Checksum: 0xfa (valid)", board("esp32c3"))
    with pytest.raises(MissingToolError, match="does not accept"):
        require_loads("Checksum: 0xfa (invalid - calculated 0xfb)", board("esp32c3"))


def test_missing_esptool_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_export.images.program_path", lambda name: None)
    with pytest.raises(MissingToolError, match=r"pip install 'edgeqrl\[flash\]'"):
        firmware_images(some_esp(), board("esp32c3"))


def test_esptool_that_fails_is_quoted() -> None:
    with pytest.raises(MissingToolError, match=r"esptool could not make the image: .*ELF"):
        firmware_images(some_esp(), board("esp32c3"))


def some_esp() -> Firmware:
    return some_firmware(board("esp32c3"))
