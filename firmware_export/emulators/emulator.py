"""EmulatedFirmware: call the policy inside the very ELF that is flashed, on an emulated core.

The board's own memory map is used and the ELF's own state, observation and action objects. No peripheral is
there and nothing is timed: what is proven is that these instructions give these answers.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError, DeviceError, MissingToolError
from firmware_export.board import Board
from firmware_export.elf import read_elf

_WORKER = Path(__file__).with_name("unicorn_worker.py")
_FRAME = struct.Struct("<II")
_TIMEOUT_S = 120.0  # of one request; a worker that is silent for longer is ended
_ROWS_A_REQUEST = 1024
_SECONDS_TO_EXIT = 2.0


@dataclass(frozen=True)
class Profile:
    """One call, counted. Instructions are not cycles; the trace hashes every executed address in order."""

    instructions: int
    stack_bytes: int  # measured by painting
    trace_sha256: str
    unaligned: tuple[int, ...]  # addresses of instructions that accessed memory unaligned


@dataclass(frozen=True)
class Boot:
    """What a boot with register tables for peripherals did."""

    text: str  # sent on the UART
    writes: tuple[tuple[int, int], ...]  # (address, value), in order, to other registers
    stopped_at: int


class EmulatedFirmware:
    """A firmware's policy on an emulated core. Close it, or use it as a context manager."""

    def __init__(self, elf: bytes, name: str, board: Board) -> None:
        """Start the emulator's process, load the ELF of policy `name` and call NAME_init.

        Raises MissingToolError without unicorn, DataError if the ELF is none of ours, and DeviceError if the
        policy does not start.
        """
        self.core = board.core
        self._name = name
        self._board = board
        try:
            self._elf = read_elf(elf)
            symbols = self._elf.symbols
            self._state = symbols["eqrl_port_state"]
            self._observation = symbols["eqrl_port_observation"]
            self._action = symbols["eqrl_port_action"]
            self._free = self._elf.address("__free_start")
            self._stack_top = self._elf.address("__stack_top")
        except MissingToolError:
            raise
        except Exception as error:  # a damaged ELF can fail in any way at all
            raise DataError(f"The firmware's ELF is damaged: {error!r}. Build it again.") from error
        self._process = EmulatorProcess()
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    @property
    def observation_bytes(self) -> int:
        """Return the size of NAME_observation."""
        return self._observation.size

    @property
    def action_bytes(self) -> int:
        """Return the size of NAME_action."""
        return self._action.size

    def init(self, params: bytes | None = None) -> int:
        """Call NAME_init with the linked-in params or with a blob put into free RAM; return its status."""
        where = self._free if params is not None else 0
        chunks = [[where, len(params)]] if params is not None else []
        if params is not None:
            self._free += -(-len(params) // 16) * 16
        return self._call("init", (self._state.address, where), chunks, params or b"")

    def step(self, observations: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Call NAME_step on structs: [N, observation_bytes] in, [N, action_bytes] and status [N] out."""
        ends = (self._observation.address, self._action.address)
        return self._map("step", observations, ends, self.action_bytes)

    def infer(self, inputs: NDArray[np.int8], num_outputs: int) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
        """Call NAME_infer on int8 [N, num_inputs]; return int8 [N, num_outputs] and status [N]."""
        rows = np.ascontiguousarray(inputs, np.int8).reshape(len(inputs), -1).view(np.uint8)
        ends = (self._free, self._free + -(-rows.shape[1] // 4) * 4)
        outputs, status = self._map("infer", rows, ends, num_outputs)
        return outputs.view(np.int8), status

    def profile(self, observation: NDArray[np.uint8]) -> Profile:
        """Count one NAME_step on a struct [observation_bytes], on a copy of the machine."""
        payload = np.ascontiguousarray(observation, np.uint8).tobytes()
        assert len(payload) == self.observation_bytes
        arguments = (self._state.address, self._observation.address, self._action.address)
        chunks = [[self._observation.address, len(payload)]]
        return self._profile("step", arguments, chunks, payload)

    def count_instructions(self, observation: NDArray[np.uint8]) -> int:
        """Count the instructions of one NAME_step. They are not cycles."""
        return self.profile(observation).instructions

    def profile_infer(self, values: NDArray[np.int8]) -> Profile:
        """Count one NAME_infer on int8 [num_inputs], on a copy of the machine."""
        payload = np.ascontiguousarray(values, np.int8).tobytes()
        output = self._free + -(-len(payload) // 4) * 4
        arguments = (self._state.address, self._free, output)
        return self._profile("infer", arguments, [[self._free, len(payload)]], payload)

    def close(self) -> None:
        """End the emulator's process; does nothing the second time."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        chunks = [[s.address, len(s.content)] for s in self._elf.segments if s.content]
        content = b"".join(s.content for s in self._elf.segments)
        header = {
            "core": self.core,
            "memory": _memory(self._board),
            "chunks": chunks,
            "stack_top": self._stack_top,
        }
        self._process.request("load", header, content)
        status = self.init()
        if status < 0:
            raise DeviceError(f"{self._name}_init returned {status} on the emulated {self.core}.")

    def _call(
        self, function: str, arguments: Sequence[int], chunks: Sequence[Sequence[int]], payload: bytes
    ) -> int:
        header = {"function": self._function(function), "arguments": arguments, "chunks": chunks}
        reply, _ = self._process.request("call", header, payload)
        return int(reply["result"])

    def _profile(
        self, function: str, arguments: Sequence[int], chunks: Sequence[Sequence[int]], payload: bytes
    ) -> Profile:
        header = {
            "function": self._function(function),
            "arguments": arguments,
            "chunks": chunks,
            "stack_bytes": min(4096, (self._stack_top - self._free) // 2 & ~3),
        }
        reply, _ = self._process.request("profile", header, payload)
        if reply["result"] < 0:
            raise DeviceError(
                f"{self._name}_{function} returned {reply['result']} on the emulated {self.core}."
            )
        unaligned = tuple(reply["unaligned"])
        return Profile(reply["instructions"], reply["stack_bytes"], reply["trace_sha256"], unaligned)

    def _map(
        self, function: str, rows: NDArray[np.uint8], ends: tuple[int, int], output_bytes: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        outputs = np.empty((len(rows), output_bytes), np.uint8)
        status = np.empty(len(rows), np.int32)
        header = {
            "function": self._function(function),
            "state": self._state.address,
            "input": ends[0],
            "output": ends[1],
            "input_bytes": rows.shape[1],
            "output_bytes": output_bytes,
        }
        for start in range(0, len(rows), _ROWS_A_REQUEST):
            part = np.ascontiguousarray(rows[start : start + _ROWS_A_REQUEST], np.uint8)
            _, payload = self._process.request("map", {**header, "count": len(part)}, part.tobytes())
            split = len(part) * output_bytes
            outputs[start : start + len(part)] = np.frombuffer(payload[:split], np.uint8).reshape(
                len(part), -1
            )
            status[start : start + len(part)] = np.frombuffer(payload[split:], "<i4")
        return outputs, status

    def _function(self, name: str) -> int:
        return self._elf.address(f"{self._name}_{name}")


def boot(
    image: bytes,
    start: int,
    board: Board,
    *,
    pc: int,
    sp: int,
    registers: Mapping[int, int],
    peripherals: Sequence[tuple[int, int]],
    uart: int,
    chunks: Sequence[tuple[int, bytes]] = (),
    max_instructions: int = 5_000_000,
) -> Boot:
    """Run the flat binary `image`, stored at `start`, from `pc`, as after a reset: RAM holds rubbish.

    registers    what reads of these addresses give; others give what was last written
    peripherals  (start, size) of their pages
    uart         address whose writes are the text
    chunks       (address, bytes) that a boot ROM would have put into RAM

    Ends when the core sleeps, or after `max_instructions`. Raises DeviceError on a fault.
    """
    ram = board.region("ram")
    rubbish = np.random.default_rng(0).bytes(ram.bytes)
    written = [(ram.start, rubbish), (start, image), *chunks]
    header = {
        "core": board.core,
        "memory": _memory(board),
        "chunks": [[address, len(content)] for address, content in written],
        "pc": pc,
        "sp": sp,
        "registers": [[address, value] for address, value in registers.items()],
        "peripherals": peripherals,
        "uart": uart,
        "max_instructions": max_instructions,
    }
    process = EmulatorProcess()
    try:
        reply, text = process.request("boot", header, b"".join(content for _, content in written))
    finally:
        process.close()
    writes = tuple((address, value) for address, value in reply["writes"])
    return Boot(text.decode("ascii", "replace"), writes, reply["pc"])


class EmulatorProcess:
    """The worker's process, its frames, and its end."""

    def __init__(self) -> None:
        if find_spec("unicorn") is None:
            raise MissingToolError(
                'Emulation needs unicorn; install it with `pip install "edgeqrl[firmware]"`.'
            )
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _stop
        # -P: nothing in the user's folder or beside the worker may be imported by accident.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=dict(os.environ),
            start_new_session=True,  # Ctrl-C reaches the parent, and the parent ends the child
        )
        self._finalizer = weakref.finalize(self, _stop, self._process, self._log)

    def request(self, kind: str, header: Mapping[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Send one request and return the reply; raises DeviceError on a fault, silence or death."""
        watchdog = threading.Timer(_TIMEOUT_S, self._process.kill)
        watchdog.start()
        try:
            reply, content = self._exchange(kind, header, payload)
        except (OSError, EOFError) as error:
            self._process.kill()
            raise DeviceError(
                f"The emulator stopped answering{self._last_words()}; run the command again."
            ) from error
        except BaseException:
            self.close()  # a reply may be half read
            raise
        finally:
            watchdog.cancel()
        if "error" in reply:
            raise DeviceError(f"The emulated core stopped: {reply['error']}.")
        return reply, content

    def close(self) -> None:
        """End the process."""
        self._finalizer()

    def _exchange(self, kind: str, header: Mapping[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        source, target = self._process.stdout, self._process.stdin
        assert source is not None
        assert target is not None
        text = json.dumps({"request": kind, **header}).encode()
        target.write(_FRAME.pack(len(text), len(payload)) + text + payload)
        target.flush()
        lengths = _read(source, _FRAME.size)
        header_bytes, payload_bytes = _FRAME.unpack(lengths)
        return json.loads(_read(source, header_bytes)), _read(source, payload_bytes)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return f" ({lines[-1]})" if lines else ""


def _read(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise EOFError
    return data


def _stop(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """End a worker: it stops when its input ends; one that does not is killed."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    try:
        process.wait(_SECONDS_TO_EXIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()


def _memory(board: Board) -> list[list[int]]:
    """Return (start, bytes) of the memory that exists, adjacent regions joined: emulators map whole pages."""
    joined: list[list[int]] = []
    for region in sorted(board.regions, key=lambda region: region.start):
        if joined and sum(joined[-1]) == region.start:
            joined[-1][1] += region.bytes
        else:
            joined.append([region.start, region.bytes])
    return joined
