"""A device in Python, by docs/protocol.md, that acts by the NumPy reference; with faults on demand.

device = FakeDevice(policy)
device.receive(data)                     # -> what it sends
MemoryLink(device, ["drop", ""])         # a Link without a port: its first reply is lost, the second arrives
with serve_pty(device) as url: ...       # behind a real pty or TCP socket
"""

import os
import select
import socket
import struct
import threading
import tty
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import numpy as np

from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.network import structs
from edgeqrl.network.edges import is_integer
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.policy_step import PolicyStep, policy_values
from edgeqrl.network.reference import Reference

BANNER = b"edgeqrl robot self-test OK\r\n"
# What may happen to a reply. "late": it comes together with the next one; "bad crc" and "bad request": the
# device says that the request came damaged; "gone": the device hangs up.
FAULTS = ("drop", "corrupt", "truncate", "repeat", "late", "garbage", "banner", "bad request", "deaf")


class FakeDevice:
    def __init__(
        self,
        policy: IntegerPolicy,
        *,
        model: bytes = bytes(range(32)),
        contract: bytes = bytes(range(32, 64)),
        version: int = 2,
        max_payload: int = 256,
        tick_hz: int = 1_000_000,
        flags: int = 8,
        faults: Iterable[str] = (),
        wrong_step: int = -1,
    ) -> None:
        self.policy = policy
        self.model, self.contract, self.version, self.flags = model, contract, version, flags
        self.max_payload, self.tick_hz = max_payload, tick_hz
        self.faults = list(faults)  # one a request; "" or none: no fault
        self.wrong_step = wrong_step  # the step that answers something else
        self.executed: list[int] = []  # types
        self.num_repeated = 0
        self.steps = 0
        self.has_begun = False
        self.reference = NetworkPolicy(Reference(policy.network), policy, "twin")
        self.memory = policy.fresh_memory(1)
        self._kept = bytearray()
        self._last: tuple[bytes, bytes] | None = None  # request, reply
        self._held = b""

    def receive(self, data: bytes) -> bytes:
        """Take bytes and return the answer; b"" where the faults have it so."""
        self._kept += data
        sent = b""
        while (start := self._kept.find(b"\xa5\x5a")) >= 0:
            del self._kept[:start]
            if len(self._kept) < 8:
                break
            length, check = struct.unpack_from("<HH", self._kept, 4)
            if check != zlib.crc32(self._kept[:6]) & 0xFFFF:
                del self._kept[:1]
                continue
            if len(self._kept) < 12 + length:
                break
            frame = bytes(self._kept[: 12 + length])
            del self._kept[: 12 + length]
            sent += self._faulty(frame)
        return sent

    def _faulty(self, frame: bytes) -> bytes:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "deaf":
            return b""
        if fault == "bad request":
            return packed(0x80, frame[3], b"\x03\0\0\0")
        reply, self._held = self._held + self.answer(frame), b""
        if fault == "late":
            self._held = reply
        middle = len(reply) // 2
        return {
            "drop": b"",
            "late": b"",
            "corrupt": reply[:middle] + bytes([reply[middle] ^ 0x10]) + reply[middle + 1 :],
            "truncate": reply[:middle],
            "repeat": reply + reply,
            "garbage": b"\xa5\x5a\xa5\x5a\x83\0\xff\xff\0\0\xa5" + reply,
            "banner": BANNER + reply,
        }.get(fault, reply)

    def answer(self, frame: bytes) -> bytes:
        if zlib.crc32(frame[:-4]) != int.from_bytes(frame[-4:], "little"):
            return packed(0x80, frame[3], b"\x03\0\0\0")
        if self._last is not None and self._last[0] == frame:
            self.num_repeated += 1
            return self._last[1]
        self.executed.append(frame[2])
        run = {1: self.hello, 2: self.reset, 3: self.step, 4: self.batch, 5: self.stats, 6: self.selftest}
        result, content = run[frame[2]](frame[8:-4])
        reply = packed(frame[2] | 0x80, frame[3], bytes([result, 0, 0, 0]) + content)
        self._last = frame, reply
        return reply

    def hello(self, content: bytes) -> tuple[int, bytes]:
        policy = self.policy
        network = policy.network
        sizes = structs.observation_layout(policy).num_bytes, structs.action_layout(policy).num_bytes
        outputs = network.tensors[network.outputs[0]].num_bytes
        kinds = (is_integer(policy.action), policy.num_masks > 0, policy.has_memory)
        flags = self.flags | sum(1 << i for i, kind in enumerate(kinds) if kind) | policy.is_stochastic << 7
        words = self.version, flags, self.max_payload, *sizes, outputs, 3, 20_000, self.tick_hz
        values = sum(len(value.edge.gain) for value in policy.values)
        more = (64_000_000, 0, 0, policy.memory_bytes, values)
        name = policy.name.encode()
        text = bytes([len(name)]) + name + b"\x04fake"
        return 0, struct.pack("<14I", *words, *more) + self.model + self.contract + text

    def reset(self, content: bytes) -> tuple[int, bytes]:
        seeds = None
        if content[0]:
            if not self.policy.is_stochastic:
                return 11, b""
            seeds = np.frombuffer(content[4:], "<u8")
        self.policy.reset_memory(self.memory, seeds=seeds)
        self.has_begun = True
        return 0, b""

    def step(self, content: bytes) -> tuple[int, bytes]:
        if not self.has_begun:
            return 5, b""
        if content[0] & 1:
            return 6, b""
        answer, status, actions = self.act(np.frombuffer(content[4:], np.uint8)[None])
        self.memory = answer.memory
        more = b""
        if content[0] & 4:
            more += b"".join(
                v.astype("<f4").tobytes() for v in policy_values(self.policy, answer.outputs).values()
            )
        if content[0] & 2:
            more += answer.outputs[self.policy.network.outputs[0]].tobytes()
        return 0, status.tobytes() + struct.pack("<II", 0, 50) + actions.tobytes() + more

    def batch(self, content: bytes) -> tuple[int, bytes]:
        (count,) = struct.unpack_from("<I", content)
        if self.policy.has_memory or 8 + count * 8 > self.max_payload:
            return 11, b""
        rows = np.frombuffer(content[4:], np.uint8).reshape(count, -1)
        _, status, actions = self.act(rows)
        return 0, struct.pack("<I", 50 * count) + status.tobytes() + actions.tobytes()

    def stats(self, content: bytes) -> tuple[int, bytes]:
        return 0, struct.pack("<20I3H", *range(20), 7, 8, 65535)

    def selftest(self, content: bytes) -> tuple[int, bytes]:
        self.has_begun = False
        return 0, struct.pack("<III", 64, 5, 5)

    def act(self, rows: np.ndarray) -> tuple[PolicyStep, np.ndarray, np.ndarray]:
        """Return what the reference answers, status [N] and actions as structs [N, action_bytes]."""
        observations, masks = structs.read_observations(self.policy, rows)
        memory = np.repeat(self.memory, len(rows), axis=0)
        answer = self.reference.step(observations, memory, masks)
        actions = answer.actions.copy()
        if self.steps <= self.wrong_step < self.steps + len(rows):
            actions[self.wrong_step - self.steps] += 1
        self.steps += len(rows)
        return answer, answer.flags.astype("<i4"), structs.action_rows(self.policy, actions)


class MemoryLink:
    """A Link to a fake device in this process. Its time-outs take no time."""

    bytes_per_s = float("inf")

    def __init__(self, device: FakeDevice, stale: bytes = b"") -> None:
        self.device = device
        self.waiting = bytearray(stale)
        self.sent: list[bytes] = []
        self.is_closed = False

    def read(self, count: int, timeout_s: float) -> bytes:
        found = bytes(self.waiting[:count])
        del self.waiting[:count]
        return found

    def read_stale(self) -> bytes:
        return self.read(len(self.waiting), 0.0)

    def write(self, data: bytes) -> None:
        self.sent.append(data)
        self.waiting += self.device.receive(data)

    def close(self) -> None:
        self.is_closed = True


@contextmanager
def serve_pty(device: FakeDevice, hello: bytes = b"") -> Iterator[str]:
    """Run a fake device behind a pty; `hello` is what it says by itself at first."""
    controller, terminal = os.openpty()
    tty.setraw(terminal)
    os.write(controller, hello)
    with _served(device, controller):
        yield os.ttyname(terminal)
    os.close(terminal)
    os.close(controller)


@contextmanager
def serve_socket(device: FakeDevice, hello: bytes = b"") -> Iterator[str]:
    """Run a fake device behind a TCP socket, for one connection after another."""
    with socket.create_server(("127.0.0.1", 0)) as server, _stoppable() as stop:

        def run() -> None:
            while stop.wait_for(server.fileno()):
                connection, _ = server.accept()
                with connection, suppress(ConnectionError):
                    connection.sendall(hello)
                    _answer(device, connection.fileno(), stop)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"socket://127.0.0.1:{server.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def packed(type_: int, sequence: int, payload: bytes) -> bytes:
    """Write a frame by the rules, beside the code that is tested."""
    start = b"\xa5\x5a" + struct.pack("<BBH", type_, sequence, len(payload))
    content = start + struct.pack("<H", zlib.crc32(start) & 0xFFFF) + payload
    return content + struct.pack("<I", zlib.crc32(content))


class _Stop:
    """Wakes a thread that waits for bytes."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer

    def wait_for(self, descriptor: int) -> bool:
        """Return True when there are bytes, False when it is time to end."""
        ready, _, _ = select.select([descriptor, self._reader], [], [])
        return self._reader not in ready

    def set(self) -> None:
        os.write(self._writer, b"x")


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    reader, writer = os.pipe()
    try:
        yield _Stop(reader, writer)
    finally:
        os.close(reader)
        os.close(writer)


@contextmanager
def _served(device: FakeDevice, descriptor: int) -> Iterator[None]:
    with _stoppable() as stop:
        thread = threading.Thread(target=_answer, args=(device, descriptor, stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _answer(device: FakeDevice, descriptor: int, stop: _Stop) -> None:
    while stop.wait_for(descriptor):
        data = os.read(descriptor, 4096)
        if not data or (device.faults and device.faults[0] == "gone"):
            return
        reply = device.receive(data)
        while reply:
            reply = reply[os.write(descriptor, reply) :]
