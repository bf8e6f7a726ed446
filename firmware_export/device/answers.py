"""What a device answers, as data: HELLO, STEP, BATCH, STATS and SELFTEST."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_WORDS = 14  # of HELLO, before the hashes

_NO_HASH = bytes(32)


@dataclass(frozen=True)
class Hello:
    """What a device says of itself."""

    version: int
    flags: int
    max_payload: int  # bytes, of a request and of a reply to BATCH
    observation_bytes: int
    action_bytes: int
    output_bytes: int  # 0: outputs are not to be had
    num_counters: int
    control_period_us: int  # 0: unknown
    tick_hz: int  # 0: no timer
    clock_hz: int
    params_sequence: int
    fail_safe: int  # kind
    memory_bytes: int  # 0: a step depends on its observation alone
    num_values: int  # float32s beside an action
    model_sha256: bytes  # b"" for none
    contract_sha256: bytes
    name: str  # of the policy
    board: str  # what the firmware was built for

    @property
    def is_discrete(self) -> bool:
        """Tell whether actions are integers."""
        return bool(self.flags & 1)

    @property
    def is_masked(self) -> bool:
        """Tell whether observations carry an action mask."""
        return bool(self.flags & 2)

    @property
    def has_memory(self) -> bool:
        """Tell whether a step depends on those before it, in its episode."""
        return bool(self.flags & 4)

    @property
    def has_selftest(self) -> bool:
        """Tell whether golden vectors are in the image."""
        return bool(self.flags & 8)

    @property
    def has_fail_safe(self) -> bool:
        """Tell whether the device may drive outputs."""
        return bool(self.flags & 16)

    @property
    def was_reset_by_watchdog(self) -> bool:
        """Tell whether the last reset was the watchdog's."""
        return bool(self.flags & 32)

    @property
    def runs_slowly(self) -> bool:
        """Tell whether a clock did not start."""
        return bool(self.flags & 64)

    @property
    def is_stochastic(self) -> bool:
        """Tell whether actions are drawn, so that a RESET takes a seed."""
        return bool(self.flags & 128)


@dataclass(frozen=True)
class StepReply:
    """The policy's answer to one observation, driven or not."""

    status: int  # of NAME_step
    guard: int  # flags
    ticks: int  # of the step, on the device's clock
    action: bytes  # NAME_action
    outputs: bytes  # of the network; b"" if not asked for
    round_trip_s: float  # from sending to the whole reply, on this host's clock
    values: tuple[float, ...] = ()  # float32s; () if not asked for


@dataclass(frozen=True, eq=False)
class BatchReply:
    """The policy's answers to N observations."""

    ticks: int  # of all steps
    status: NDArray[np.int32]  # [N]
    actions: NDArray[np.uint8]  # [N, action_bytes]


@dataclass(frozen=True)
class Stats:
    """Counters since boot, or since they were last cleared; in the order of the protocol."""

    frames: int
    bad_crc: int
    bad_header: int
    bad_length: int
    timeouts: int
    repeated: int
    overruns: int
    steps: int
    driven: int
    guard_late: int
    guard_lost: int
    guard_range: int
    guard_not_finite: int
    guard_held: int
    guard_latched: int
    ticks_last: int
    ticks_min: int
    ticks_max: int
    stack_free_bytes: int  # 0: unknown
    uptime_ms: int
    saturated: tuple[int, ...]  # one an input; 65535 stands for more


@dataclass(frozen=True)
class SelfTest:
    """A self-test that passed."""

    rows: int
    crc_found: int
    crc_expected: int


def read_hello(payload: bytes) -> Hello:
    """Read a HELLO's reply behind its result; raise struct.error, IndexError or UnicodeDecodeError."""
    words: list[Any] = list(struct.unpack_from(f"<{NUM_WORDS}I", payload))
    end = 4 * NUM_WORDS
    model, contract = payload[end : end + 32], payload[end + 32 : end + 64]
    if len(contract) != len(_NO_HASH):
        raise struct.error("the hashes are cut off")
    name, rest = _read_text(payload[end + 64 :])
    board, _ = _read_text(rest)
    hashes = [b"" if found == _NO_HASH else found for found in (model, contract)]
    return Hello(*[*words, *hashes, name, board])


def _read_text(data: bytes) -> tuple[str, bytes]:
    end = 1 + data[0]
    if len(data) < end:
        raise IndexError("the text is cut off")
    text = data[1:end].decode("ascii")
    if not text.isprintable():
        raise IndexError("the text cannot be printed")
    return text, data[end:]
