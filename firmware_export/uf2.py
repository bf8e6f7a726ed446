"""UF2: the file format of USB mass-storage bootloaders (specification: github.com/microsoft/uf2)."""

import struct

from edgeqrl.errors import DataError

RP2040 = 0xE48BFF56  # family ids
RP2350 = 0xE48BFF59  # Arm, secure
BLOCK_BYTES = 512
PAYLOAD_BYTES = 256  # what bootloaders write at once; the RP2040 takes no other size
_HEADER = struct.Struct("<8I")
_MAGIC_START = (0x0A324655, 0x9E5D5157)
_MAGIC_END = 0x0AB16F30
_FLAG_FAMILY = 0x2000
_FLAG_NOT_MAIN_FLASH = 0x1
_IMAGE_DEFINITION = struct.pack("<5I", 0xFFFFDED3, 0x10210142, 0x000001FF, 0, 0xAB123579)
_DEFINITION_WITHIN = 4096


def write_uf2(image: bytes, start: int, family_id: int) -> bytes:
    """Wrap `image`, to be stored at `start`, as UF2. The last page is filled up with 0xFF."""
    if start % PAYLOAD_BYTES or not image:
        raise ValueError("a UF2 image begins on a page and is not empty")
    padded = image + b"\xff" * (-len(image) % PAYLOAD_BYTES)
    count = len(padded) // PAYLOAD_BYTES
    blocks = []
    for number in range(count):
        offset = number * PAYLOAD_BYTES
        header = _HEADER.pack(
            *_MAGIC_START, _FLAG_FAMILY, start + offset, PAYLOAD_BYTES, number, count, family_id
        )
        payload = padded[offset : offset + PAYLOAD_BYTES]
        blocks.append((header + payload).ljust(BLOCK_BYTES - 4, b"\0") + struct.pack("<I", _MAGIC_END))
    return b"".join(blocks)


def read_uf2(data: bytes, family_id: int) -> tuple[int, bytes]:
    """Return `(start, image)` of a UF2 file whose blocks are all there, contiguous and of this family.

    Raises DataError otherwise: such a file would write something else than it seems to.
    """
    if not data or len(data) % BLOCK_BYTES:
        raise DataError(f"Not a UF2 file: {len(data)} bytes are not a whole number of 512-byte blocks.")
    start, image = 0, bytearray()
    count = len(data) // BLOCK_BYTES
    for number in range(count):
        block = data[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
        magic0, magic1, flags, address, size, index, total, family = _HEADER.unpack_from(block)
        if (magic0, magic1, *struct.unpack_from("<I", block, BLOCK_BYTES - 4)) != (*_MAGIC_START, _MAGIC_END):
            raise DataError(f"UF2 block {number} has no valid magic numbers; the file is damaged.")
        if not flags & _FLAG_FAMILY or flags & _FLAG_NOT_MAIN_FLASH or family != family_id:
            raise DataError(f"UF2 block {number} is for another chip than family {family_id:#010x}.")
        start = address if number == 0 else start
        if (index, total, size) != (number, count, PAYLOAD_BYTES) or address != start + len(image):
            raise DataError(f"UF2 block {number} is out of order; the file is damaged or incomplete.")
        image += block[_HEADER.size : _HEADER.size + size]
    return start, bytes(image)


def require_image_definition(image: bytes) -> None:
    """Raise DataError unless the RP2350's boot ROM finds the image definition of an Arm program.

    It is a block of words in the first 4 KiB: start marker, item IMAGE_TYPE (executable, secure Arm, RP2350),
    last item, link to itself, end marker (RP2350 datasheet, Minimum viable image metadata).
    """
    place = image[:_DEFINITION_WITHIN].find(_IMAGE_DEFINITION)
    if place < 0 or place % 4:
        raise DataError("The image has no RP2350 image definition in its first 4 KiB. Build it again.")


def boot2_crc32(boot2: bytes) -> int:
    """Return the CRC-32 over 252 bytes that the RP2040's boot ROM expects behind them.

    Polynomial 0x04C11DB7, initially all ones, neither reflected nor inverted at the end (RP2040 datasheet,
    Flash second stage, Checksum).
    """
    if len(boot2) != 252:
        raise ValueError(f"boot2 is 252 bytes without its checksum, got {len(boot2)}")
    crc = 0xFFFFFFFF
    for byte in boot2:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return crc
