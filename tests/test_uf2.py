import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeqrl.errors import DataError
from firmware_export.uf2 import boot2_crc32, read_uf2, write_uf2

FAMILY = 0xE48BFF56


def test_block_is_laid_out_as_the_specification_says() -> None:
    data = write_uf2(bytes(range(256)) + b"x", 0x10000000, FAMILY)
    assert len(data) == 1024
    second = data[512:]
    header = struct.unpack("<8I", second[:32])
    assert header == (0x0A324655, 0x9E5D5157, 0x2000, 0x10000100, 256, 1, 2, FAMILY)
    assert second[32:34] == b"x\xff"
    assert second[288:508] == bytes(220)
    assert struct.unpack("<I", second[508:]) == (0x0AB16F30,)


@given(st.binary(min_size=1, max_size=2000))
def test_reading_gives_back_what_was_written(image: bytes) -> None:
    start, found = read_uf2(write_uf2(image, 0x10000000, FAMILY), FAMILY)
    assert start == 0x10000000
    assert found == image.ljust(len(found), b"\xff")
    assert len(found) - len(image) < 256


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: b"", "0 bytes"),
        (lambda d: d[:-1], "not a whole number"),
        (lambda d: d[512:], "out of order"),
        (lambda d: d[:512], "out of order"),
        (lambda d: d[512:1024] + d[:512], "out of order"),
        (lambda d: b"X" + d[1:], "no valid magic"),
        (lambda d: d[:508] + bytes(4) + d[512:], "no valid magic"),
        (lambda d: d[:28] + bytes(4) + d[32:], "for another chip"),
        (lambda d: d[:8] + b"\x01\x20" + d[10:], "for another chip"),
        (lambda d: d[:16] + b"\x10" + d[17:], "out of order"),
    ],
)
def test_damaged_file_is_refused(damage, said: str) -> None:  # type: ignore[no-untyped-def]
    good = write_uf2(bytes(500), 0x10000000, FAMILY)
    with pytest.raises(DataError, match=said):
        read_uf2(damage(good), FAMILY)


@given(st.binary(min_size=252, max_size=252))
def test_boot2_crc_is_the_unreflected_crc_of_zlib(data: bytes) -> None:
    def mirrored(value: int, bits: int) -> int:
        return int(f"{value:0{bits}b}"[::-1], 2)

    reflected = zlib.crc32(bytes(mirrored(byte, 8) for byte in data)) ^ 0xFFFFFFFF
    assert boot2_crc32(data) == mirrored(reflected, 32)


def test_boot2_crc_wants_252_bytes() -> None:
    with pytest.raises(ValueError, match="252"):
        boot2_crc32(bytes(256))
