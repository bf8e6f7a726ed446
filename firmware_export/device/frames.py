"""Frames of the device protocol in a stream of bytes, as docs/protocol.md has them. No port, no time."""

import re
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

SYNC = b"\xa5\x5a"
PROTOCOL_VERSION = 2
REPLY = 0x80  # bit of a reply's type; alone: to what could not be read as a request
HEADER_BYTES = 8
CRC_BYTES = 4
OVERHEAD_BYTES = HEADER_BYTES + CRC_BYTES  # of a frame around its payload
MAX_PAYLOAD_BYTES = 0xFFFF

_TEXT_BYTES = 400  # of what stood between the frames: kept for messages
_TEXT = re.compile(rb"[\x20-\x7e]{4,}")


class Request(IntEnum):
    """What the host may ask."""

    HELLO = 1
    RESET = 2
    STEP = 3
    BATCH = 4
    STATS = 5
    SELFTEST = 6


class Result(IntEnum):
    """The first byte of a reply."""

    OK = 0
    UNKNOWN_TYPE = 1
    BAD_LENGTH = 2
    BAD_CRC = 3
    TOO_LONG = 4
    NEEDS_RESET = 5
    NOT_ACTUATING = 6
    STEP_FAILED = 7
    SELFTEST_FAILED = 8
    BUSY = 9
    HALTED = 10
    BAD_ARGUMENT = 11


@dataclass(frozen=True)
class Frame:
    """One frame. `type` is a Request, or one with the bit REPLY."""

    type: int
    sequence: int
    payload: bytes = b""


def encode(frame: Frame) -> bytes:
    """Return the bytes of a frame."""
    if not (0 <= frame.type <= 0xFF and 0 <= frame.sequence <= 0xFF):
        raise ValueError(f"type and sequence are bytes, got {frame.type} and {frame.sequence}")
    if len(frame.payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a payload has at most {MAX_PAYLOAD_BYTES} bytes, got {len(frame.payload)}")
    start = SYNC + struct.pack("<BBH", frame.type, frame.sequence, len(frame.payload))
    content = start + struct.pack("<H", _check(start)) + frame.payload
    return content + struct.pack("<I", zlib.crc32(content))


class FrameDecoder:
    """Finds frames in a stream that comes in any pieces, with anything between the frames.

    A damaged frame is searched for others: what follows a lost byte is never lost with it.
    """

    def __init__(self) -> None:
        self.num_damaged = 0  # frames whose header was right and whose CRC was not
        self._kept = bytearray()
        self._text = bytearray()
        self._num_torn = 0  # bytes of a damaged frame among the first of those kept: no text

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes; return the frames that they complete."""
        self._kept += data
        frames = []
        while self._seek():
            size = self._size()
            if size is None or len(self._kept) < size:
                break
            content, crc = self._kept[: size - CRC_BYTES], self._kept[size - CRC_BYTES : size]
            if zlib.crc32(content) != int.from_bytes(crc, "little"):
                self.num_damaged += 1
                self._give_up(size)
                continue
            frames.append(Frame(content[2], content[3], bytes(content[HEADER_BYTES:])))
            self._drop(size)
        return frames

    def expire(self) -> list[Frame]:
        """Give an unfinished frame up, as after a time-out; return the frames that its bytes held."""
        frames: list[Frame] = []
        while self._kept:
            self._give_up(len(self._kept))
            frames += self.feed(b"")
        return frames

    @property
    def num_missing(self) -> int:
        """Return how many bytes must at least come before another frame is whole; never 0."""
        size = self._size() if len(self._kept) >= HEADER_BYTES else None
        return (size or OVERHEAD_BYTES) - len(self._kept)

    @property
    def text(self) -> str:
        """Return the last of what stood between frames, as far as it can be printed: a banner."""
        return " ".join(b" ".join(_TEXT.findall(self._text)).decode("ascii").split())

    def _seek(self) -> bool:
        """Move to the next header that is whole and right; say whether there is one."""
        while True:
            start = self._kept.find(SYNC)
            if start < 0:
                half = self._kept[-1:] == SYNC[:1]
                self._skip(len(self._kept) - half)
                return False
            self._skip(start)
            if len(self._kept) < HEADER_BYTES:
                return False
            if self._size() is not None:
                return True
            self._skip(1)

    def _size(self) -> int | None:
        """Return the bytes of the frame whose header lies first; None where it is no header."""
        start, (length, check) = self._kept[:6], struct.unpack_from("<HH", self._kept, 4)
        is_header = start[:2] == SYNC and check == _check(start)
        return length + OVERHEAD_BYTES if is_header else None

    def _skip(self, count: int) -> None:
        """Drop what belongs to no frame."""
        self._text += self._kept[min(self._num_torn, count) : count]
        del self._text[:-_TEXT_BYTES]
        self._drop(count)

    def _give_up(self, size: int) -> None:
        """Drop the first byte of a frame that is none; what follows is searched, and is no text."""
        self._num_torn = max(self._num_torn, size)
        self._drop(1)

    def _drop(self, count: int) -> None:
        self._num_torn = max(self._num_torn - count, 0)
        del self._kept[:count]


def _check(start: bytes | bytearray) -> int:
    return zlib.crc32(start) & 0xFFFF
