"""Runs Arm and RISC-V code in unicorn, in a process of its own: unicorn is GPL-2, nothing else imports it.

Self-contained, started by file name. Requests and replies are frames over stdin and stdout: the lengths of
a JSON header and of a binary payload (two little-endian uint32), then both. Counts, trace and stack are taken
on a second machine: a hook added after a machine's first run sees nothing, and each costs a hundredfold.
"""

import hashlib
import json
import struct
import sys
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import unicorn
from unicorn import arm_const as arm
from unicorn import riscv_const as riscv

_FRAME = struct.Struct("<II")
_PAGE = 4096
_PART = 2**16  # bytes that are copied at once
_RETURN_ADDRESS = 0x0F00_0000  # in the code region, so executable, and no board has memory there
_SYSTEM_CONTROL = 0xE000_E000
_SYSTICK_RELOAD, _SYSTICK_COUNT = 0xE000_E014, 0xE000_E018
_PAINT = 0xA5
_SET, _CLEAR = 0x2000, 0x3000  # RP2040: aliases of a register block

Header = dict[str, Any]
Chunks = list[list[int]]  # (address, bytes): the parts of a row, one after another


@dataclass(frozen=True)
class Abi:
    """A family of cores: its registers and its calling convention."""

    arguments: tuple[int, ...]
    result: int
    sp: int
    link: int
    pc: int
    stack_alignment: int
    thumb_bit: int


_ARM = Abi(
    arguments=(arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R1, arm.UC_ARM_REG_R2, arm.UC_ARM_REG_R3),
    result=arm.UC_ARM_REG_R0,
    sp=arm.UC_ARM_REG_SP,
    link=arm.UC_ARM_REG_LR,
    pc=arm.UC_ARM_REG_PC,
    stack_alignment=8,
    thumb_bit=1,
)
_RISCV = Abi(
    arguments=tuple(range(riscv.UC_RISCV_REG_A0, riscv.UC_RISCV_REG_A0 + 8)),
    result=riscv.UC_RISCV_REG_A0,
    sp=riscv.UC_RISCV_REG_SP,
    link=riscv.UC_RISCV_REG_RA,
    pc=riscv.UC_RISCV_REG_PC,
    stack_alignment=16,
    thumb_bit=0,
)
# Never UC_MODE_MCLASS: it turns every model into a Cortex-M33.
_THUMB = (unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB)
_RV32 = (unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV32)
_CORES = {
    "cortex-m0": (_ARM, *_THUMB, arm.UC_CPU_ARM_CORTEX_M0),
    "cortex-m0plus": (_ARM, *_THUMB, arm.UC_CPU_ARM_CORTEX_M0),
    "cortex-m3": (_ARM, *_THUMB, arm.UC_CPU_ARM_CORTEX_M3),
    "cortex-m4": (_ARM, *_THUMB, arm.UC_CPU_ARM_CORTEX_M4),
    "cortex-m7": (_ARM, *_THUMB, arm.UC_CPU_ARM_CORTEX_M7),
    "cortex-m33": (_ARM, *_THUMB, arm.UC_CPU_ARM_CORTEX_M33),
    "rv32imac": (_RISCV, *_RV32, riscv.UC_CPU_RISCV32_ANY),
    "rv32imc": (_RISCV, *_RV32, riscv.UC_CPU_RISCV32_ANY),
}


class Machine:
    """One core with its board's memory."""

    def __init__(self, core: str, memory: list[list[int]]) -> None:
        self.abi, architecture, mode, model = _CORES[core]
        self.uc = unicorn.Uc(architecture, mode, model)
        for start, size in memory:
            low = start & -_PAGE
            self.uc.mem_map(low, -(-(start + size - low) // _PAGE) * _PAGE)
        self.uc.mem_map(_RETURN_ADDRESS, _PAGE)
        self.uc.mem_map(_SYSTEM_CONTROL, _PAGE)
        self._entry: tuple[tuple[tuple[int, ...], int], Any] | None = None  # of the last map: its registers

    def write(self, chunks: list[list[int]], payload: bytes) -> None:
        """Write consecutive parts of `payload` to [address, size] chunks."""
        offset = 0
        for address, size in chunks:
            self.uc.mem_write(address, payload[offset : offset + size])
            offset += size

    def call(self, function: int, arguments: tuple[int, ...], stack_top: int) -> int:
        """Call a function with integer arguments and return its result as a signed number."""
        sp = self.entry_sp(arguments, stack_top)
        self._enter(arguments, sp)
        self.uc.mem_write(sp, self._stacked(arguments))
        return self._run(function)

    def map(
        self,
        function: int,
        arguments: tuple[int, ...],
        stack_top: int,
        rows: list[bytes],
        inputs: Chunks,
        outputs: Chunks,
    ) -> bytes:
        """Call for each of the rows, written to `inputs`; return what is in `outputs`, then int32 results.

        The registers at the entry are the same each time, so one copy of them serves all rows.
        """
        sp, stacked = self.entry_sp(arguments, stack_top), self._stacked(arguments)
        if self._entry is None or self._entry[0] != (arguments, sp):
            self._enter(arguments, sp)
            self._entry = ((arguments, sp), self.uc.context_save())
        registers = self._entry[1]
        write, read, restore, run = self.uc.mem_write, self.uc.mem_read, self.uc.context_restore, self._run
        sources, start = [], 0
        for address, size in inputs:
            sources.append((address, start, start + size))
            start += size
        found, results = [], array("i")
        for row in rows:
            for address, start, end in sources:
                write(address, row[start:end])
            if stacked:
                write(sp, stacked)  # the callee may have changed what was there
            restore(registers)
            results.append(run(function))
            found += [read(address, size) for address, size in outputs]
        return b"".join(found) + results.tobytes()

    def entry_sp(self, arguments: tuple[int, ...], stack_top: int) -> int:
        """Return SP at the entry of a call: arguments beyond the registers lie there, aligned."""
        return stack_top - len(self._stacked(arguments)) & -self.abi.stack_alignment

    def _stacked(self, arguments: tuple[int, ...]) -> bytes:
        beyond = arguments[len(self.abi.arguments) :]
        return b"".join((value & 0xFFFFFFFF).to_bytes(4, "little") for value in beyond)

    def _enter(self, arguments: tuple[int, ...], sp: int) -> None:
        uc, abi = self.uc, self.abi
        for register, value in zip(abi.arguments, arguments, strict=False):
            uc.reg_write(register, value)
        uc.reg_write(abi.sp, sp)
        uc.reg_write(abi.link, _RETURN_ADDRESS | abi.thumb_bit)

    def _run(self, function: int) -> int:
        uc, abi = self.uc, self.abi
        uc.emu_start(function | abi.thumb_bit, _RETURN_ADDRESS)
        if uc.reg_read(abi.pc) & ~1 != _RETURN_ADDRESS:
            raise RuntimeError(f"stopped at {uc.reg_read(abi.pc):#x} instead of returning")
        result: int = uc.reg_read(abi.result)
        return result - 2**32 if result >> 31 else result


class Worker:
    """Answers requests; holds the machine that plays."""

    def __init__(self) -> None:
        self._load: Header = {}
        self._machine: Machine | None = None

    def load(self, header: Header, payload: bytes) -> tuple[Header, bytes]:
        """Make the machine that plays and fill its memory."""
        self._load = header
        self._machine = Machine(header["core"], header["memory"])
        self._machine.write(header["chunks"], payload)
        return {}, b""

    def call(self, header: Header, payload: bytes) -> tuple[Header, bytes]:
        """Write chunks, call one function."""
        machine = self._playing()
        machine.write(header["chunks"], payload)
        return {
            "result": machine.call(header["function"], tuple(header["arguments"]), self._load["stack_top"])
        }, b""

    def map(self, header: Header, payload: bytes) -> tuple[Header, bytes]:
        """Write each row to `inputs`, call, read `outputs`; return these of all rows, then int32 results."""
        inputs, outputs = header["inputs"], header["outputs"]
        size = sum(part for _, part in inputs)
        rows = [payload[row * size : (row + 1) * size] for row in range(header["count"])]
        function, arguments = header["function"], tuple(header["arguments"])
        stack_top = self._load["stack_top"]
        return {}, self._playing().map(function, arguments, stack_top, rows, inputs, outputs)

    def profile(self, header: Header, payload: bytes) -> tuple[Header, bytes]:
        """Call one function on a copy of the machine, counting everything."""
        found, trace = self._traced(header, payload)
        found["trace_sha256"] = hashlib.sha256(trace.tobytes()).hexdigest()
        found["unaligned"] = self._unaligned(header, payload, trace)
        return found, b""

    def trace(self, header: Header, payload: bytes) -> tuple[Header, bytes]:
        """Call one function on a copy of the machine; return the executed addresses in order, too."""
        found, trace = self._traced(header, payload)
        return found, trace.tobytes()

    def _traced(self, header: Header, payload: bytes) -> tuple[Header, "array[int]"]:
        machine, sp = self._copy(header, payload)
        low = sp - header["stack_bytes"]
        machine.uc.mem_write(low, bytes([_PAINT]) * header["stack_bytes"])
        trace = array("I")
        machine.uc.hook_add(unicorn.UC_HOOK_CODE, lambda _uc, address, _size, _data: trace.append(address))
        result = machine.call(header["function"], tuple(header["arguments"]), self._load["stack_top"])
        painted = bytes(machine.uc.mem_read(low, header["stack_bytes"]))
        untouched = len(painted) - len(painted.lstrip(bytes([_PAINT])))
        stack_bytes = header["stack_bytes"] - untouched
        return {"result": result, "instructions": len(trace), "stack_bytes": stack_bytes}, trace

    def _unaligned(self, header: Header, payload: bytes, trace: "array[int]") -> list[int]:
        """List the instructions that access memory unaligned, by a second call with hooks on memory.

        After a hooked access in an IT block unicorn takes the next block's first instructions for conditional
        ones. So the call ends where it leaves `trace`; what lies behind is left to QEMU, which traps.
        """
        machine, _ = self._copy(header, payload)
        found, place = set[int](), [0]

        def follow(uc: Any, address: int, _size: int, _data: object) -> None:
            if place[0] >= len(trace) or trace[place[0]] != address:
                uc.emu_stop()
            place[0] += 1

        def check(_uc: object, _access: int, address: int, size: int, _value: int, _data: object) -> None:
            if address % size and place[0] <= len(trace):
                found.add(trace[place[0] - 1])

        machine.uc.hook_add(unicorn.UC_HOOK_CODE, follow)
        machine.uc.hook_add(unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE, check)
        with suppress(RuntimeError, unicorn.UcError):
            machine.call(header["function"], tuple(header["arguments"]), self._load["stack_top"])
        return sorted(found)

    def _copy(self, header: Header, payload: bytes) -> tuple[Machine, int]:
        """Return a copy of the machine that plays, with chunks written, and SP at the entry of the call."""
        playing = self._playing()
        machine = Machine(self._load["core"], self._load["memory"])
        for start, end, _ in playing.uc.mem_regions():
            for low in range(start, end + 1, _PART):
                content = bytes(playing.uc.mem_read(low, min(_PART, end + 1 - low)))
                if content != bytes(len(content)):  # new memory is zero, and that of a board is mostly unused
                    machine.uc.mem_write(low, content)
        machine.write(header["chunks"], payload)
        return machine, machine.entry_sp(tuple(header["arguments"]), self._load["stack_top"])

    def boot(self, header: Header, payload: bytes) -> tuple[Header, bytes]:
        """Start at `pc` with tables of register values for peripherals; return what the UART was sent."""
        machine = Machine(header["core"], header["memory"])
        machine.write(header["chunks"], payload)
        options = {key: header[key] for key in ("has_aliases", "counting")}
        peripherals = Peripherals(header["registers"], header["uart"], **options)
        for start, size in header["peripherals"]:
            if start == _SYSTEM_CONTROL:  # is memory until it is asked for
                machine.uc.mem_unmap(start, size)
            machine.uc.mmio_map(start, size, peripherals.read, start, peripherals.write, start)
        abi = machine.abi
        machine.uc.reg_write(abi.sp, header["sp"])
        start = header["pc"] | abi.thumb_bit
        machine.uc.emu_start(start, _RETURN_ADDRESS, count=header["max_instructions"])
        return {"pc": machine.uc.reg_read(abi.pc), "writes": peripherals.writes}, bytes(peripherals.sent)

    def _playing(self) -> Machine:
        if self._machine is None:
            raise RuntimeError("nothing is loaded")
        return self._machine


class Peripherals:
    """Registers that keep what was written, save those whose reads are given, and those that count them."""

    def __init__(self, fixed: list[list[int]], uart: int, *, has_aliases: bool, counting: list[int]) -> None:
        self._fixed = {row[0]: row[1] for row in fixed}
        self._counting = frozenset(counting)
        self._has_aliases = has_aliases
        self._values: dict[int, int] = {}
        self._uart = uart
        self.sent = bytearray()
        self.writes: list[list[int]] = []

    def read(self, _uc: object, offset: int, _size: int, base: int) -> int:
        """Answer a read of a register."""
        address = base + offset
        if address in self._counting:
            count = self._values.get(address, 0)
            reload = self._values.get(_SYSTICK_RELOAD, 0)
            is_down = address == _SYSTICK_COUNT
            self._values[address] = (count or reload + 1) - 1 if is_down else count + 1
        return self._fixed.get(address, self._values.get(address, 0))

    def write(self, _uc: object, offset: int, _size: int, value: int, base: int) -> None:
        """Keep a written value, or add it to the text."""
        address = base + offset
        if address == self._uart:
            self.sent.append(value & 0xFF)
            return
        self.writes.append([address, value])
        alias = address & 0x3000 if self._has_aliases and address < _SYSTEM_CONTROL else 0
        plain = address & ~0x3000 if alias in (_SET, _CLEAR) else address
        old = self._values.get(plain, 0)
        self._values[plain] = old | value if alias == _SET else old & ~value if alias == _CLEAR else value


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answer requests until the input ends."""
    worker = Worker()
    handlers: dict[str, Callable[[Header, bytes], tuple[Header, bytes]]] = {
        "load": worker.load,
        "call": worker.call,
        "map": worker.map,
        "profile": worker.profile,
        "trace": worker.trace,
        "boot": worker.boot,
    }
    while len(lengths := source.read(_FRAME.size)) == _FRAME.size:
        header_bytes, payload_bytes = _FRAME.unpack(lengths)
        header = json.loads(source.read(header_bytes))
        payload = source.read(payload_bytes)
        try:
            reply, content = handlers[header["request"]](header, payload)
        except (unicorn.UcError, RuntimeError, OverflowError) as error:
            reply, content = {"error": f"{error}"}, b""
        text = json.dumps(reply).encode()
        target.write(_FRAME.pack(len(text), len(content)) + text + content)
        target.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
