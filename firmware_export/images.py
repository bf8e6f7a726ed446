"""The files that flash tools take, made from one firmware: Intel HEX, UF2, ESP image. Each is checked."""

import io
import re
import subprocess
import tempfile
from pathlib import Path

from edgeqrl.errors import BoardFitError, MissingToolError
from firmware_export.board import Board
from firmware_export.build import Firmware
from firmware_export.flashers.programs import program_path
from firmware_export.flashers.ranges import require_writable
from firmware_export.uf2 import RP2040, RP2350, boot2_crc32, require_image_definition, write_uf2

NO_ESPTOOL = "An ESP image needs esptool; install it with `pip install 'edgeqrl[flash]'`."
_ESPTOOL_S = 120


def image_suffixes(board: Board) -> tuple[str, ...]:
    """Return what is made for a board: ELF and flat binary always, and all that its flash tools take."""
    wanted = {tool.image for tool in board.flash_tools} | ({"uf2"} if board.uf2 is not None else set())
    return ("elf", "bin", *(suffix for suffix in ("hex", "uf2", "esp") if suffix in wanted))


def firmware_images(firmware: Firmware, board: Board) -> dict[str, bytes]:
    """Return suffix -> bytes of the board's images.

    The same firmware gives the same bytes. Raises MissingToolError where a library or esptool is missing and
    DeviceError for an image that is not wholly in flash that may be written.
    """
    require_writable(firmware.start, firmware.start + len(firmware.bin), board)
    _require_boots(firmware, board)
    wanted = image_suffixes(board)
    images = {"elf": firmware.elf, "bin": firmware.bin}
    if "hex" in wanted:
        images["hex"] = hex_image(firmware.bin, firmware.start)
    if board.uf2 is not None:
        images["uf2"] = write_uf2(firmware.bin, firmware.start, board.uf2.family_id)
    if "esp" in wanted:
        images["esp"] = esp_image(firmware.elf, board)
    return images


def hex_image(image: bytes, start: int) -> bytes:
    """Return Intel HEX of a flat image, by the library that esptool and pyOCD use, too."""
    try:
        from intelhex import IntelHex
    except ImportError as error:
        raise MissingToolError(
            "An Intel HEX image needs intelhex; install it with `pip install 'edgeqrl[firmware]'`."
        ) from error
    content = IntelHex()
    content.frombytes(image, offset=start)
    text = io.StringIO()
    content.write_hex_file(text, write_start_addr=False, eolstyle="native")
    return text.getvalue().encode("ascii")


def read_hex(data: bytes) -> tuple[int, bytes]:
    """Return start and content of an Intel HEX file; gaps are 0xFF."""
    from intelhex import IntelHex

    content = IntelHex()
    content.padding = 0xFF
    content.loadhex(io.StringIO(data.decode("ascii")))
    return int(content.minaddr()), bytes(content.tobinstr())


def esp_image(elf: bytes, board: Board) -> bytes:
    """Return the image that an ESP32's boot ROM loads into RAM, made and then checked by esptool.

    esptool is GPL-2: it runs as a program of its own and is never imported.
    """
    chip = ["--chip", esp_chip(board)]
    flash = ["--flash-mode", "dio", "--flash-freq", "80m"]
    flash += ["--flash-size", f"{board.region('flash').bytes // 2**20}MB"]
    with tempfile.TemporaryDirectory(prefix="edgeqrl-") as temporary:
        folder = Path(temporary)
        (folder / "firmware.elf").write_bytes(elf)
        _esptool([*chip, "elf2image", *flash, "--output", "firmware.esp", "firmware.elf"], folder)
        require_loads(_esptool([*chip, "image-info", "firmware.esp"], folder), board)
        return (folder / "firmware.esp").read_bytes()


def require_loads(image_info: str, board: Board) -> None:
    """Raise unless the checksum is right and all of it is loaded into RAM that is not the ROM's own."""
    if not re.search(r"Checksum: 0x[0-9a-f]+ \(valid\)", image_info):
        raise MissingToolError(f"esptool does not accept its own image: {image_info[-300:]}. Update esptool.")
    free = [region for region in board.regions if region.kind == "ram" and not region.reserved]
    found = re.findall(r"(?m)^\s*\d+\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)\s+0x", image_info)
    segments = [(int(start, 16), int(start, 16) + int(size, 16)) for size, start in found]
    outside = [start for start, end in segments if not any(r.start <= start and end <= r.end for r in free)]
    if outside or not segments:
        places = ", ".join(f"{start:#010x}" for start in outside) or "nowhere"
        raise BoardFitError(f"The boot ROM of {board.name} cannot load an image to {places}. Build it again.")


def esp_chip(board: Board) -> str:
    """Return the name that esptool has for the board's chip: what its command says behind --chip."""
    for tool in board.flash_tools:
        if "--chip" in tool.argv:
            return tool.argv[tool.argv.index("--chip") + 1]
    raise ValueError(f"board {board.name} has no flash tool that names an ESP chip")


def _esptool(arguments: list[str], folder: Path) -> str:
    program = program_path("esptool")
    if program is None:
        raise MissingToolError(NO_ESPTOOL)
    try:
        result = subprocess.run(
            [program, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ESPTOOL_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MissingToolError(f"esptool did not end within {_ESPTOOL_S} s; reinstall it.") from error
    said = result.stdout + result.stderr
    words = " ".join(said.split())[-300:]
    if result.returncode:
        raise MissingToolError(f"esptool could not make the image: {words}. Update esptool.")
    return said


def _require_boots(firmware: Firmware, board: Board) -> None:
    """Check what a boot ROM looks for before it starts anything."""
    family = board.uf2.family_id if board.uf2 is not None else None
    if family == RP2040:
        second_stage = firmware.bin[:256]
        stored = int.from_bytes(second_stage[252:], "little")
        if len(second_stage) < 256 or boot2_crc32(second_stage[:252]) != stored:
            raise BoardFitError(
                f"The image for {board.name} does not begin with a second stage and its CRC. Build it again."
            )
    elif family == RP2350:
        require_image_definition(firmware.bin)
