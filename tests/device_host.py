"""The device core compiled for this host, under sanitizers: time, bytes and outputs are in our hands."""

import struct
import subprocess
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from edgeqrl.network.integer_policy import IntegerPolicy
from firmware_export.build import _glue, _port_files
from firmware_export.contract import ContractFacts, FailSafe
from firmware_export.emit import c_sources, export_sources, make_contract, make_golden
from tests.c_build import C_DIR, build, c_compiler, write_files
from tests.c_policies import random_observations, random_policy
from tests.device_policies import whole_observations
from tests.firmware import board

SANITIZE = ("-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
CORE = ("eqrl_frame.c", "eqrl_device.c", "eqrl_frame.h", "eqrl_device.h", "eqrl_port.h")
TICK_HZ = 1_000_000
PERIOD_TICKS, TIMEOUT_TICKS = 20_000, 40_000

HELLO, RESET, STEP, BATCH, STATS, SELFTEST = range(1, 7)
VERSION = struct.pack("<I", 2)  # what HELLO says; a device ignores it and tells its own
(
    OK,
    UNKNOWN_TYPE,
    BAD_LENGTH,
    BAD_CRC,
    TOO_LONG,
    NEEDS_RESET,
    NOT_ACTUATING,
    STEP_FAILED,
    SELFTEST_FAILED,
    BUSY,
    HALTED,
    BAD_ARGUMENT,
) = range(12)
_NAMES = """
    frames bad_crc bad_header bad_length timeouts repeated overruns steps driven guard_late
    guard_lost guard_range guard_not_finite guard_held guard_latched ticks_last ticks_min ticks_max
    stack_free_bytes uptime_ms
"""
STATS_NAMES = _NAMES.split()


def frame(kind: int, sequence: int, payload: bytes) -> bytes:
    """Return a frame, written from docs/protocol.md and nothing else."""
    head = struct.pack("<BBBBH", 0xA5, 0x5A, kind, sequence, len(payload))
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    return head + payload + struct.pack("<I", zlib.crc32(head + payload))


def replies(data: bytes) -> list[tuple[int, int, bytes]]:
    """Split a stream of whole frames into type, sequence and payload; each must be right to the bit."""
    found = []
    while data:
        length = int.from_bytes(data[4:6], "little")
        whole, data = data[: 12 + length], data[12 + length :]
        kind, sequence, payload = whole[2], whole[3], whole[8:-4]
        assert whole == frame(kind, sequence, payload)
        assert payload[1:4] == bytes(3)
        found.append((kind, sequence, payload))
    return found


def facts(fail_safe: FailSafe | None = None, *, has_times: bool = True, **more: object) -> ContractFacts:
    period = PERIOD_TICKS / TICK_HZ if has_times else None
    timeout = TIMEOUT_TICKS / TICK_HZ if has_times else None
    return ContractFacts(None, period, timeout, fail_safe=fail_safe, **more)  # type: ignore[arg-type]


def small_policy(head: str = "affine") -> IntegerPolicy:
    return random_policy(np.random.default_rng(8), (3, 5, 2), head=head, name="robot")


def write_device(
    folder: Path, policy: IntegerPolicy, stated: ContractFacts, changed: Mapping[str, bytes] | None = None
) -> list[str]:
    """Write the core, the policy and the host's port; return the C files, without one that has main."""
    rng = np.random.default_rng(6)
    plain = random_observations(rng, policy, 4) if policy.is_plain else whole_observations(rng, policy, 4)
    golden = make_golden(policy, plain)
    contract = make_contract(policy, b"", stated)
    files = export_sources(policy, b"", golden=golden, contract=contract)
    target = board("microbit")  # small buffers
    port = {path: data for path, data in _port_files(target).items() if path in CORE}
    files = {path: data for path, data in files.items() if "/" not in path} | port | (changed or {})
    files["eqrl_port_policy.h"] = _glue(policy.name, target, True)
    write_files(folder, files)
    for path in C_DIR.glob("*.[ch]"):
        (folder / path.name).write_bytes(path.read_bytes())
    return c_sources(files)


def build_device(
    folder: Path,
    policy: IntegerPolicy,
    stated: ContractFacts,
    *,
    program: str = "device_host.c",
    flags: Sequence[str] = ("-O1", *SANITIZE),
    compiler: str = "clang",
    changed: Mapping[str, bytes] | None = None,
) -> Path:
    """Compile a program of tests/c around a device; return its path."""
    units = write_device(folder, policy, stated, changed)
    argv = [*c_compiler(compiler), "-std=c99", "-Wall", "-Wextra", "-Werror", *flags]
    argv += ['-DEQRL_BOARD_NAME="host"', "-I."]
    build([*argv, *units, program, "-o", "program"], folder)
    return folder / "program"


class HostDevice:
    """A running device. `is_started` as main.c would; else as it is after power-on."""

    def __init__(self, program: Path, *, tick_hz: int = TICK_HZ, is_started: bool = True, flags: int = 0):
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._sequence = 0
        self.outcome = -1
        if is_started:
            self.outcome = int.from_bytes(
                self._command("s", struct.pack("<III", 16_000_000, tick_hz, flags)), "little"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert self._process.wait(10) == 0

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Send bytes; return the replies."""
        return replies(self._command("b", data))

    def exchange(self, data: bytes) -> bytes:
        return self._command("x", data)

    def ask(self, kind: int, payload: bytes, *, result: int = OK) -> bytes:
        """Send a request with a sequence of its own; return what follows the result, which is checked."""
        self._sequence = (self._sequence + 1) % 256
        ((found, sequence, reply),) = self.feed(frame(kind, self._sequence, payload))
        assert (found, sequence) == (kind | 0x80, self._sequence)
        assert reply[0] == result
        return reply[4:]

    def wait(self, ticks: int, *, polls: bool = True) -> None:
        self._command("t", struct.pack("<I", ticks))
        if polls:
            self.poll()

    def poll(self, overruns: int = 0) -> None:
        self._command("p", struct.pack("<I", overruns))

    def apply(self, due: int, observation: bytes) -> bool:
        """Let the application have an observation; False where the step failed."""
        return self._command("a", struct.pack("<i", due) + observation) == b"\1\0\0\0"

    def outputs(self) -> tuple[int, int, bytes]:
        """Return how often outputs were driven and stopped, and the last action."""
        found = self._command("q", b"")
        written, stopped, _ = struct.unpack_from("<III", found)
        return written, stopped, found[12:]

    def stats(self, flags: int = 0) -> dict[str, int]:
        reply = self.ask(STATS, struct.pack("<I", flags))
        return dict(zip(STATS_NAMES, struct.unpack_from("<20I", reply), strict=True))

    def _command(self, letter: str, data: bytes) -> bytes:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(letter.encode() + struct.pack("<I", len(data)) + data)
        stdin.flush()
        head = stdout.read(4)
        assert len(head) == 4, "the device died"
        return stdout.read(int.from_bytes(head, "little"))
