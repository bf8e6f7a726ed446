"""EmulatedFirmware: call the policy inside the very ELF that is flashed, on an emulated core.

The board's own memory map is used and the ELF's own state, observation and action objects. No peripheral is
there and nothing is timed: what is proven is that these instructions give these answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError, DeviceError, MissingToolError, require_name
from firmware_export.board import Board
from firmware_export.elf import Elf, read_elf
from firmware_export.emulators.qemu_engine import QemuEngine
from firmware_export.emulators.unicorn_engine import UNICORN_CORES, EmulatorProcess, memory_of, open_unicorn

_ROWS_A_REQUEST = 1024
_DEEPEST_STACK = 4096  # bytes that a profile paints at most
_ALIGNMENT = 16  # of what is put into free RAM
_OBSERVATION_BYTES = 5  # that word of eqrl_contract, in runtime/eqrl.h


class Engine(Protocol):
    """What runs the code: unicorn in a process of its own, or QEMU through its GDB stub."""

    def request(self, kind: str, header: Mapping[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Answer "call", "map", "profile" or "trace"; raises DeviceError on a fault, silence or death."""
        ...

    def close(self) -> None:
        """End it; does nothing the second time."""
        ...


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

    def __init__(self, elf: bytes, name: str, board: Board, *, engine: str | None = None) -> None:
        """Start the emulator's process, load the ELF of policy `name` and call NAME_init.

        engine  "unicorn" or "qemu"; None: unicorn where it has the core, for it is faster and needs no root

        Raises MissingToolError without the emulator, DataError if the ELF is none of ours, and DeviceError if
        the policy does not start or the emulator has no such core or board.
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
            self._observation_bytes = self._elf.word(f"{name}_contract_facts", _OBSERVATION_BYTES)
            self._free = self._elf.address("__free_start")
            self._stack_top = self._elf.address("__stack_top")
        except MissingToolError:
            raise
        except Exception as error:  # a damaged ELF can fail in any way at all
            raise DataError(f"The firmware's ELF is damaged: {error!r}. Build it again.") from error
        self.engine = engine or ("unicorn" if board.core in UNICORN_CORES else "qemu")
        self._process = open_engine(self.engine, elf, self._elf, board)
        try:
            status = self.init()
            if status < 0:
                raise DeviceError(f"{self._name}_init returned {status} on the emulated {self.core}.")
        except BaseException:
            self.close()
            raise

    @property
    def observation_bytes(self) -> int:
        """Return the size of NAME_observation, which the contract in the image states."""
        return self._observation_bytes

    @property
    def action_bytes(self) -> int:
        """Return the size of NAME_action."""
        return self._action.size

    def init(self, params: bytes | None = None) -> int:
        """Call NAME_init with the linked-in params or with a blob put into free RAM; return its status."""
        where = self._free if params is not None else 0
        chunks = [[where, len(params)]] if params is not None else []
        if params is not None:
            self._free += _aligned(len(params))
        return self._call("init", (self._state.address, where), chunks, params or b"")

    def step(self, observations: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Call NAME_step on structs: NAME_observation [N, size] in, [N, action_bytes] and status [N] out."""
        ends = (self._observation.address, self._action.address)
        return self._map("step", (self._state.address, *ends), observations, ends, self.action_bytes)

    def step_with_memory(
        self, observations: NDArray[np.uint8], memory: NDArray[np.uint8], memory_offset: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32]]:
        """Call NAME_step on structs and on NAME_memory [N, memory_bytes]; also return this after each step.

        memory_offset  of the memory in NAME_state
        """
        kept = [self._state.address + memory_offset, memory.shape[1]]
        observation, action = self._observation.address, self._action.address
        found, status = self._map_chunks(
            self._function("step"),
            (self._state.address, observation, action),
            np.concatenate((observations, memory), axis=1),
            inputs=[[observation, observations.shape[1]], kept],
            outputs=[[action, self.action_bytes], kept],
        )
        return found[:, : self.action_bytes], found[:, self.action_bytes :], status

    def call(self, function: str, *arguments: int) -> int:
        """Call NAME_function(state, arguments...) with integers; return its result as a signed number."""
        return self._call(function, (self._state.address, *arguments), [], b"")

    def read_state(self, offset: int, num_bytes: int) -> bytes:
        """Return bytes of NAME_state."""
        where = [self._state.address + offset, num_bytes]
        function, nothing = self._function("reset"), np.zeros((1, 0), np.uint8)
        found, _ = self._map_chunks(function, (0,), nothing, inputs=[], outputs=[where])  # NULL: does nothing
        return bytes(found[0])

    def infer(
        self,
        inputs: NDArray[np.uint8],
        *,
        input_offsets: Sequence[int] = (0,),
        output_offsets: Sequence[int] = (0,),
        output_bytes: int,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Call NAME_infer(state, inputs..., outputs...); return uint8 [N, output_bytes] and status [N].

        A row of `inputs` [N, in_bytes] holds all inputs, each at its offset; all outputs lie in one block,
        each at its offset. Raises DeviceError where the board's free RAM cannot hold a row.
        """
        arguments, ends = self._ends(inputs.shape[1], input_offsets, output_offsets, output_bytes)
        return self._map("infer", arguments, inputs, ends, output_bytes)

    def profile(
        self, observation: NDArray[np.uint8], memory: NDArray[np.uint8] | None = None, memory_offset: int = 0
    ) -> Profile:
        """Count one NAME_step on a NAME_observation [size], on a copy of the machine.

        memory  NAME_memory [memory_bytes] before the step, at `memory_offset` of NAME_state; None: as it is
        """
        payload = np.ascontiguousarray(observation, np.uint8).tobytes()
        assert len(payload) == self.observation_bytes
        arguments = (self._state.address, self._observation.address, self._action.address)
        chunks = [[self._observation.address, len(payload)]]
        if memory is not None:
            chunks.append([self._state.address + memory_offset, memory.size])
            payload += np.ascontiguousarray(memory, np.uint8).tobytes()
        return self._profile("step", arguments, chunks, payload)

    def count_instructions(self, observation: NDArray[np.uint8]) -> int:
        """Count the instructions of one NAME_step. They are not cycles."""
        return self.profile(observation).instructions

    def profile_infer(
        self,
        row: NDArray[np.uint8],
        *,
        input_offsets: Sequence[int] = (0,),
        output_offsets: Sequence[int] = (0,),
        output_bytes: int,
    ) -> Profile:
        """Count one NAME_infer on a row uint8 [in_bytes] as in `infer`, on a copy of the machine."""
        payload = np.ascontiguousarray(row, np.uint8).tobytes()
        arguments, ends = self._ends(len(payload), input_offsets, output_offsets, output_bytes)
        return self._profile("infer", arguments, [[ends[0], len(payload)]], payload)

    def exchange(self, request: bytes, capacity: int) -> bytes:
        """Give whole frames to the device in the ELF, by eqrl_device_exchange, and return its replies.

        capacity  bytes of the replies that are kept
        """
        source, target = self._free, self._free + _aligned(len(request))
        rows = np.frombuffer(request, np.uint8)[None]
        function = self._elf.address("eqrl_device_exchange")
        arguments = (source, len(request), target, capacity)
        replies, sizes = self._map_at(function, arguments, rows, (source, target), capacity)
        return replies[0, : sizes[0]].tobytes()

    @property
    def free_address(self) -> int:
        """Return where free RAM begins."""
        return self._free

    def call_code(self, code: bytes, *arguments: int) -> int:
        """Put machine code into free RAM, call it with integers and return its result as a signed number."""
        chunks = [[self._free, len(code)]]
        header = {"function": self._free, "arguments": arguments, "chunks": chunks}
        return int(self._process.request("call", header, code)[0]["result"])

    def profile_code(self, code: bytes, *arguments: int) -> Profile:
        """Count such a call, on a copy of the machine."""
        return self._profile_at(self._free, arguments, [[self._free, len(code)]], code)[0]

    def profile_function(self, function: str, *arguments: int | bytes) -> Profile:
        """Count a call of any function of the image, on a copy of the machine.

        Bytes among the arguments are put into free RAM, and their address is given.
        """
        given, chunks, place = [], [], self._free
        for argument in arguments:
            if isinstance(argument, bytes):
                chunks.append([place, len(argument)])
                given.append(place)
                place += _aligned(len(argument))
            else:
                given.append(argument)
        payload = b"".join(argument for argument in arguments if isinstance(argument, bytes))
        return self._profile_at(self._elf.address(function), given, chunks, payload)[0]

    def close(self) -> None:
        """End the emulator's process; does nothing the second time."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ends(
        self, in_bytes: int, input_offsets: Sequence[int], output_offsets: Sequence[int], output_bytes: int
    ) -> tuple[tuple[int, ...], tuple[int, int]]:
        """Return the arguments of NAME_infer, and where its row and its outputs lie in free RAM."""
        source = self._free
        target = source + _aligned(in_bytes)
        if target + _aligned(output_bytes) + _DEEPEST_STACK // 8 > self._stack_top:
            there = self._stack_top - self._free
            raise DeviceError(
                f"The RAM of {self._board.name} has {there:,} free bytes: too few for one input of "
                f"{in_bytes:,} and one output of {output_bytes:,} beside the policy; emulate a larger board."
            )
        pointers = [source + offset for offset in input_offsets] + [target + at for at in output_offsets]
        return (self._state.address, *pointers), (source, target)

    def _call(
        self, function: str, arguments: Sequence[int], chunks: Sequence[Sequence[int]], payload: bytes
    ) -> int:
        header = {"function": self._function(function), "arguments": arguments, "chunks": chunks}
        reply, _ = self._process.request("call", header, payload)
        return int(reply["result"])

    def _profile(
        self, function: str, arguments: Sequence[int], chunks: Sequence[Sequence[int]], payload: bytes
    ) -> Profile:
        profile, result = self._profile_at(self._function(function), arguments, chunks, payload)
        if result < 0:
            raise DeviceError(f"{self._name}_{function} returned {result} on the emulated {self.core}.")
        return profile

    def _profile_at(
        self, function: int, arguments: Sequence[int], chunks: Sequence[Sequence[int]], payload: bytes
    ) -> tuple[Profile, int]:
        header = {
            "function": function,
            "arguments": arguments,
            "chunks": chunks,
            "stack_bytes": min(_DEEPEST_STACK, (self._stack_top - self._free) // 2 & ~3),
        }
        reply, _ = self._process.request("profile", header, payload)
        if reply["stack_bytes"] >= header["stack_bytes"]:
            raise DeviceError(
                f"The call on the emulated {self.core} used all {header['stack_bytes']:,} bytes of stack "
                "that a profile watches, and perhaps more; profile a policy with a smaller stack."
            )
        unaligned = tuple(reply["unaligned"])
        counted = Profile(reply["instructions"], reply["stack_bytes"], reply["trace_sha256"], unaligned)
        return counted, reply["result"]

    def _map(
        self,
        function: str,
        arguments: Sequence[int],
        rows: NDArray[np.uint8],
        ends: tuple[int, int],
        output_bytes: int,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        return self._map_at(self._function(function), arguments, rows, ends, output_bytes)

    def _map_at(
        self,
        function: int,
        arguments: Sequence[int],
        rows: NDArray[np.uint8],
        ends: tuple[int, int],
        output_bytes: int,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        return self._map_chunks(
            function,
            arguments,
            rows,
            inputs=[[ends[0], rows.shape[1]]],
            outputs=[[ends[1], output_bytes]],
        )

    def _map_chunks(
        self,
        function: int,
        arguments: Sequence[int],
        rows: NDArray[np.uint8],
        *,
        inputs: list[list[int]],
        outputs: list[list[int]],
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Call for each row, written to the chunks `inputs`; return bytes of `outputs`, and results."""
        output_bytes = sum(size for _, size in outputs)
        found = np.empty((len(rows), output_bytes), np.uint8)
        status = np.empty(len(rows), np.int32)
        header = {"function": function, "arguments": arguments, "inputs": inputs, "outputs": outputs}
        for start in range(0, len(rows), _ROWS_A_REQUEST):
            part = np.ascontiguousarray(rows[start : start + _ROWS_A_REQUEST], np.uint8)
            _, payload = self._process.request("map", {**header, "count": len(part)}, part.tobytes())
            split = len(part) * output_bytes
            found[start : start + len(part)] = np.frombuffer(payload[:split], np.uint8).reshape(len(part), -1)
            status[start : start + len(part)] = np.frombuffer(payload[split:], "<i4")
        return found, status

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
    has_aliases: bool = True,
    counting: Sequence[int] = (),
    max_instructions: int = 5_000_000,
) -> Boot:
    """Run the flat binary `image`, stored at `start`, from `pc`, as after a reset: RAM holds rubbish.

    registers    what reads of these addresses give; others give what was last written
    peripherals  (start, size) of their pages
    uart         address whose writes are the text
    chunks       (address, bytes) that a boot ROM would have put into RAM
    has_aliases  registers have aliases that set and clear bits, as those of RP2040 have
    counting     registers that are greater at each read; SysTick's, which counts down from its reload value

    Ends when the core sleeps, or after `max_instructions`. Raises DeviceError on a fault.
    """
    rng, memories = np.random.default_rng(0), (r for r in board.regions if r.kind == "ram")
    rubbish = [(region.start, rng.bytes(region.bytes)) for region in memories]
    written = [*rubbish, (start, image), *chunks]
    header = {
        "core": board.core,
        "memory": memory_of(board),
        "chunks": [[address, len(content)] for address, content in written],
        "pc": pc,
        "sp": sp,
        "registers": [[address, value] for address, value in registers.items()],
        "peripherals": peripherals,
        "uart": uart,
        "has_aliases": has_aliases,
        "counting": list(counting),
        "max_instructions": max_instructions,
    }
    process = EmulatorProcess()
    try:
        reply, text = process.request("boot", header, b"".join(content for _, content in written))
    finally:
        process.close()
    writes = tuple((address, value) for address, value in reply["writes"])
    return Boot(text.decode("ascii", "replace"), writes, reply["pc"])


def open_engine(name: str, data: bytes, elf: Elf, board: Board) -> Engine:
    """Start "unicorn" or "qemu" with an ELF; raises MissingToolError, or DeviceError without such a core."""
    require_name("engine", name, ("unicorn", "qemu"))
    if name == "qemu":
        return QemuEngine(data, elf, board)
    if board.core not in UNICORN_CORES:
        raise DeviceError(f"unicorn has no {board.core}; emulate it in QEMU.")
    return open_unicorn(elf, board)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
