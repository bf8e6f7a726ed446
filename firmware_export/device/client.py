"""Device: what runs our firmware, asked by frames. One request is under way at a time.

A request that stays without a whole answer is sent again as it was: the device answers a repeated frame with
the stored reply and does not execute it twice.
"""

import struct
import time
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DeviceError
from firmware_export.device.answers import BatchReply, Hello, SelfTest, Stats, StepReply, read_hello
from firmware_export.device.frames import (
    OVERHEAD_BYTES,
    PROTOCOL_VERSION,
    REPLY,
    Frame,
    FrameDecoder,
    Request,
    Result,
    encode,
)
from firmware_export.device.link import DEFAULT_BAUD, Link, SerialLink

__all__ = ["NUM_STATS", "BatchReply", "Device", "Hello", "SelfTest", "Stats", "StepReply", "open_device"]

NUM_STATS = 20  # words of STATS before the saturation counters

_RESULT_BYTES = 4  # result and padding, which every reply begins with
_REFUSALS = {
    Result.UNKNOWN_TYPE: "does not know {request}; flash firmware of this version of edgeqrl",
    Result.BAD_LENGTH: "takes a {request} of another size; flash the firmware of this bundle",
    Result.TOO_LONG: "has no room for this {request}; flash the firmware of this bundle",
    Result.NEEDS_RESET: "wants a RESET before {request}: has another program or a reboot come between?",
    Result.NOT_ACTUATING: "never drives outputs: its contract states no fail-safe action",
    Result.STEP_FAILED: "failed in {request}, and has stopped; reset it, and run its self-test",
    Result.SELFTEST_FAILED: "fails its self-test; flash it again",
    Result.BUSY: "is driven by its own application and takes no {request} meanwhile",
    Result.HALTED: "has halted, since its policy did not start or failed its self-test; flash it again",
    Result.BAD_ARGUMENT: "refuses the argument of {request}",
}


class Device:
    """A device at the other end of a link. Close it, or use it as a context manager."""

    def __init__(self, link: Link, place: str, *, timeout_s: float = 1.0, retries: int = 4) -> None:
        """Begin with a fresh link; what came on it before is read past.

        place      what messages call the port
        timeout_s  how long the first answer may take beside its transmission; doubled for each retry
        """
        self.place = place
        self.num_frames = 0  # requests answered
        self.num_retries = 0
        self._link = link
        self._timeout_s, self._retries = timeout_s, retries
        self._decoder = FrameDecoder()
        self._sequence = 0
        self._hello: Hello | None = None
        self._step_s = 0.0  # the longest per row so far
        self._decoder.feed(link.read_stale())

    @property
    def text(self) -> str:
        """Return the last text that stood between frames: the banner of the boot."""
        return self._decoder.text

    @property
    def facts(self) -> Hello:
        """Return what the device said of itself; asks if nobody has."""
        return self._hello or self.hello()

    def hello(self) -> Hello:
        """Ask the device who it is; it may be booting. Raises DeviceError for another protocol."""
        patient = max(self._retries, 7)  # times the same short time-out
        payload, _ = self._ask(Request.HELLO, struct.pack("<I", PROTOCOL_VERSION), patient, backoff=1.0)
        if len(payload) < 4:
            raise self._malformed(Request.HELLO, payload)
        version = int.from_bytes(payload[:4], "little")
        if version != PROTOCOL_VERSION:
            raise DeviceError(
                f"The device at {self.place} speaks version {version} of the protocol, and this edgeqrl "
                f"speaks {PROTOCOL_VERSION}: build the bundle's firmware again, and flash it."
            )
        try:
            self._hello = read_hello(payload)
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise self._malformed(Request.HELLO, payload) from error
        return self._hello

    def require(self, model_sha256: bytes, contract_sha256: bytes | None = None) -> Hello:
        """Raise DeviceError unless the device runs this model, under this contract where one is given."""
        found = self.hello()
        expected = [("model", found.model_sha256, model_sha256)]
        if contract_sha256 is not None:
            expected.append(("contract", found.contract_sha256, contract_sha256))
        for what, theirs, ours in expected:
            if theirs != ours:
                said = f"{what} {theirs.hex()[:8]}…" if theirs else f"a {what} that it does not name"
                raise DeviceError(
                    f"The device at {self.place} runs {said}, the bundle has {ours.hex()[:8]}…: flash the "
                    "bundle first."
                )
        return found

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; a seed of 64 bits decides what a policy draws in it."""
        if seed is None:
            self._exactly(Request.RESET, bytes(4), 0)
        else:
            self._exactly(Request.RESET, struct.pack("<IQ", 1, seed), 0)

    def step(
        self, observation: bytes, *, drive: bool = False, outputs: bool = False, values: bool = False
    ) -> StepReply:
        """Step on one NAME_observation; `drive` lets the action reach the actuators, under the guard."""
        facts = self.facts
        request = struct.pack("<I", drive | outputs << 1 | values << 2) + observation
        value_bytes = 4 * facts.num_values * values
        size = 12 + facts.action_bytes + value_bytes + outputs * facts.output_bytes
        payload, seconds = self._exactly(Request.STEP, request, size)
        self._step_s = max(self._step_s, seconds)
        status, guard, ticks = struct.unpack_from("<iII", payload)
        end = 12 + facts.action_bytes
        found = struct.unpack_from(f"<{value_bytes // 4}f", payload, end)
        rest = payload[end + value_bytes :]
        return StepReply(status, guard, ticks, payload[12:end], rest, seconds, found)

    def batch(self, observations: NDArray[np.uint8]) -> BatchReply:
        """Step on the NAME_observations [N, observation_bytes], in as few frames as hold them."""
        count = self.rows_a_batch
        if count < 1:
            raise DeviceError(f"The device at {self.place} has no room for a batch.")
        replies = [self._one_batch(observations[:1])] if len(observations) else []  # tells how long one takes
        replies += [
            self._one_batch(observations[first : first + count])
            for first in range(1, len(observations), count)
        ]
        width = self.facts.action_bytes
        return BatchReply(
            sum(reply.ticks for reply in replies),
            np.concatenate([np.zeros(0, np.int32), *(reply.status for reply in replies)]),
            np.concatenate([np.zeros((0, width), np.uint8), *(reply.actions for reply in replies)]),
        )

    @property
    def rows_a_batch(self) -> int:
        """Return how many rows one BATCH takes: its request and its reply fit max_payload."""
        facts = self.facts
        fits_request = (facts.max_payload - 4) // max(facts.observation_bytes, 1)
        fits_reply = (facts.max_payload - 8) // (4 + facts.action_bytes)
        return min(fits_request, fits_reply)

    def stats(self, *, clear: bool = False) -> Stats:
        """Read the counters."""
        counters = self.facts.num_counters
        payload, _ = self._exactly(Request.STATS, struct.pack("<I", clear), 4 * NUM_STATS + 2 * counters)
        words: list[Any] = list(struct.unpack_from(f"<{NUM_STATS}I", payload))
        return Stats(*[*words, struct.unpack_from(f"<{counters}H", payload, 4 * NUM_STATS)])

    def selftest(self) -> SelfTest:
        """Run the boot self-test again; raises DeviceError where it fails. A RESET must follow."""
        payload, _ = self._exactly(Request.SELFTEST, b"", 12, patience=5.0)
        return SelfTest(*struct.unpack("<III", payload))

    def close(self) -> None:
        """Let the port go."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _one_batch(self, rows: NDArray[np.uint8]) -> BatchReply:
        width, count = self.facts.action_bytes, len(rows)
        request = struct.pack("<I", count) + np.ascontiguousarray(rows, np.uint8).tobytes()
        extra = 2.0 * count * self._step_s
        payload, seconds = self._exactly(
            Request.BATCH, request, 4 + count * (4 + width), patience=1.0 + extra / self._timeout_s
        )
        self._step_s = max(self._step_s, seconds / count)
        status = np.frombuffer(payload, "<i4", count, 4).astype(np.int32)
        actions = np.frombuffer(payload, np.uint8, offset=4 + 4 * count).reshape(count, width)
        return BatchReply(int.from_bytes(payload[:4], "little"), status, actions)

    def _exactly(
        self, request: Request, content: bytes, size: int, *, patience: float = 1.0
    ) -> tuple[bytes, float]:
        """Ask for a reply of which the size is known."""
        payload, seconds = self._ask(request, content, self._retries, patience=patience, reply_bytes=size)
        if len(payload) != size:
            raise self._malformed(request, payload)
        return payload, seconds

    def _ask(
        self,
        request: Request,
        content: bytes,
        retries: int,
        *,
        patience: float = 1.0,
        backoff: float = 2.0,
        reply_bytes: int = 256,
    ) -> tuple[bytes, float]:
        """Return what follows the result in the reply, and the seconds that it took; retries included."""
        frame = Frame(request, self._sequence, content)
        self._sequence = (self._sequence + 1) % 256
        data = encode(frame)
        on_the_way = (len(data) + reply_bytes + OVERHEAD_BYTES + _RESULT_BYTES) / self._link.bytes_per_s
        began = time.monotonic()
        for attempt in range(retries + 1):
            self.num_retries += attempt > 0
            timeout_s = patience * self._timeout_s * backoff**attempt + 2.0 * on_the_way
            self._link.write(data)
            reply = self._receive(frame, timeout_s)
            if reply is None:
                continue
            seconds = time.monotonic() - began
            result = reply.payload[0]
            if result == Result.BAD_CRC:
                continue
            self.num_frames += 1
            if result != Result.OK:
                raise self._refused(request, result)
            return reply.payload[_RESULT_BYTES:], seconds
        raise self._silent(request, retries, self._decoder.num_damaged)

    def _receive(self, frame: Frame, timeout_s: float) -> Frame | None:
        """Return the reply to a frame; None where the time is over, or where a reply came damaged."""
        decoder, damaged = self._decoder, self._decoder.num_damaged
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0.0:
            data = self._link.read(decoder.num_missing, left)
            frames = decoder.feed(data) if data else decoder.expire()
            for found in frames:
                if _answers(found, frame):
                    return found
            if not data or decoder.num_damaged > damaged:
                return None
        return next((found for found in decoder.expire() if _answers(found, frame)), None)

    def _refused(self, request: Request, result: int) -> DeviceError:
        known = result in Result._value2member_map_ and Result(result) in _REFUSALS
        reason = (
            _REFUSALS[Result(result)] if known else f"answers {{request}} with the unknown result {result}"
        )
        return DeviceError(
            f"The device at {self.place} {reason.format(request=request.name)}.{self._words()}"
        )

    def _malformed(self, request: Request, payload: bytes) -> DeviceError:
        return DeviceError(
            f"The device at {self.place} answers {request.name} with {len(payload)} bytes that do not belong "
            "there: flash the bundle again."
        )

    def _silent(self, request: Request, retries: int, damaged: int) -> DeviceError:
        how = "answers with damaged frames only" if damaged else "does not answer"
        cure = (
            "Is edgeqrl firmware on it, and are port and --baud right?"
            if request is Request.HELLO
            else "Reset it, and run the command again."
        )
        return DeviceError(
            f"The device at {self.place} {how} ({request.name}, asked {retries + 1} times). "
            f"{cure}{self._words()}"
        )

    def _words(self) -> str:
        return f" It said: '{self.text[-200:]}'." if self.text else ""


def open_device(
    url: str, baud: int = DEFAULT_BAUD, *, link: Callable[[str, int], Link] = SerialLink
) -> Device:
    """Open the device at a pyserial URL: /dev/ttyACM0, COM3, a pty, socket://HOST:PORT."""
    return Device(link(url, baud), url)


def _answers(found: Frame, frame: Frame) -> bool:
    """Tell whether a frame is the reply to a request; late replies to earlier ones are not."""
    types = (frame.type | REPLY, REPLY)
    return found.type in types and found.sequence == frame.sequence and len(found.payload) >= _RESULT_BYTES
