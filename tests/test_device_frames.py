"""Frames of the device protocol: bytes as documented, and a decoder that loses no whole frame."""

import itertools
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_export.device.frames import SYNC, Frame, FrameDecoder, Request, encode
from tests.fake_device import packed

FRAMES = st.builds(Frame, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40))
# Whatever stands between frames; a header in it that is right by chance would hold the next frame back.
GARBAGE = st.binary(max_size=20) | st.sampled_from(
    [b"", SYNC, SYNC[:1], SYNC + SYNC[:1], b"edgeqrl robot self-test OK\r\n"]
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(ends)]


def decoded(parts: list[bytes]) -> list[Frame]:
    decoder = FrameDecoder()
    found = [frame for part in parts for frame in decoder.feed(part)]
    return found + decoder.expire()


@pytest.mark.parametrize(
    ("frame", "start"),
    [
        (Frame(Request.HELLO, 0, b"\2\0\0\0"), "a55a01000400"),
        (Frame(Request.RESET, 255, bytes(4)), "a55a02ff0400"),
        (Frame(Request.SELFTEST, 7), "a55a06070000"),
        (Frame(Request.BATCH | 0x80, 1, bytes(300)), "a55a84012c01"),
    ],
)
def test_bytes_are_as_documented(frame: Frame, start: str) -> None:
    data = encode(frame)
    assert data.hex().startswith(start)
    assert int.from_bytes(data[6:8], "little") == zlib.crc32(data[:6]) & 0xFFFF
    assert data[8:-4] == frame.payload
    assert int.from_bytes(data[-4:], "little") == zlib.crc32(data[:-4])
    assert data == packed(frame.type, frame.sequence, frame.payload)


@pytest.mark.parametrize(
    "frame", [Frame(256, 0), Frame(-1, 0), Frame(0, 256), Frame(0, -1), Frame(1, 1, bytes(65536))]
)
def test_what_does_not_fit_a_frame_is_refused(frame: Frame) -> None:
    with pytest.raises(ValueError, match="bytes"):
        encode(frame)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(GARBAGE, FRAMES), max_size=6), GARBAGE, st.lists(st.integers(0, 400), max_size=8))
def test_frames_come_out_of_any_pieces_with_anything_between(
    parts: list[tuple[bytes, Frame]], after: bytes, cuts: list[int]
) -> None:
    data = b"".join(garbage + encode(frame) for garbage, frame in parts) + after
    assert decoded(pieces(data, cuts)) == [frame for _, frame in parts]


@settings(max_examples=150, deadline=None)
@given(FRAMES, FRAMES, st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_frame_is_no_frame_and_takes_none_with_it(
    first: Frame, second: Frame, place: int, flips: int
) -> None:
    data = bytearray(encode(first))
    data[place % len(data)] ^= flips
    found = decoded([bytes(data) + encode(second)])
    assert found == ([first, second] if flips == 0 else [second])


@settings(max_examples=150, deadline=None)
@given(FRAMES, FRAMES, st.integers(0, 10**6))
def test_a_lost_byte_costs_one_frame(first: Frame, second: Frame, place: int) -> None:
    data = bytearray(encode(first))
    del data[place % len(data)]
    assert decoded([bytes(data), encode(second)]) == [second]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(GARBAGE, FRAMES), min_size=1, max_size=4), st.integers(0, 400))
def test_missing_bytes_never_reach_beyond_the_next_frame(parts: list[tuple[bytes, Frame]], cut: int) -> None:
    data = b"".join(garbage + encode(frame) for garbage, frame in parts)
    decoder = FrameDecoder()
    found = decoder.feed(data[:cut])
    rest = data[cut:]
    while rest:
        count = decoder.num_missing
        assert 1 <= count <= len(rest)  # a reader that waits for so many bytes is never kept waiting
        found += decoder.feed(rest[:count])
        rest = rest[count:]
    assert found == [frame for _, frame in parts]


def test_text_between_frames_is_kept_for_messages() -> None:
    decoder = FrameDecoder()
    decoder.feed(b"edgeqrl robot self-test FAILED\r\n\x00" + encode(Frame(1, 2)) + b"more\n")
    assert decoder.text == "edgeqrl robot self-test FAILED more"
    decoder.feed(b"x" * 10**5)
    assert len(decoder.text) <= 400


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(st.lists(st.tuples(GARBAGE, FRAMES), max_size=12), GARBAGE, st.lists(st.integers(0, 800), max_size=20))
def test_frames_come_out_of_any_pieces_at_length(
    parts: list[tuple[bytes, Frame]], after: bytes, cuts: list[int]
) -> None:
    test_frames_come_out_of_any_pieces_with_anything_between.hypothesis.inner_test(  # type: ignore[attr-defined]
        parts, after, cuts
    )
