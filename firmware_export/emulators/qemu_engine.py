"""Calls functions of a booted firmware in QEMU, through its GDB stub: for cores and chips that unicorn lacks.

Answers the same requests as the unicorn worker. The firmware boots by its own start-up as far as main; then
functions are called there. On v7-M and later the core is told to trap unaligned accesses.
"""

import hashlib
import os
import re
import subprocess
import tempfile
import threading
import time
import weakref
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgeqrl.errors import DeviceError
from firmware_export.board import Board
from firmware_export.elf import Elf
from firmware_export.emulators.gdb import (
    GdbConnection,
    from_answers,
    reading,
    register_value,
    require_ok,
    setting,
    writing,
)
from firmware_export.emulators.qemu import qemu_command

_TIMEOUT_S = 120.0  # of one request
_SECONDS_TO_START = 20.0
_SECONDS_TO_EXIT = 5.0
_PAINT = 0xA5
_TRACE = re.compile(rb"Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]+)/")
_DROPPED = b"Stopped execution of TB chain before"  # what was logged last did not run; it is logged again
_CCR, _CCR_AT_RESET, _UNALIGN_TRP = 0xE000_ED14, 1 << 9, 1 << 3
_STORE_WORD = bytes.fromhex("01607047")  # str r1, [r0]; bx lr

Reply = tuple[dict[str, Any], bytes]


@dataclass(frozen=True)
class _Abi:
    """Register numbers of QEMU's GDB stub, and the calling convention."""

    arguments: tuple[int, ...]
    result: int
    sp: int
    link: int
    pc: int
    stack_alignment: int
    is_thumb: bool


_ARM = _Abi((0, 1, 2, 3), 0, 13, 14, 15, 8, is_thumb=True)
_RISCV = _Abi(tuple(range(10, 18)), 10, 2, 1, 32, 16, is_thumb=False)
_XPSR = 25


class QemuEngine:
    """One QEMU process with a booted firmware that waits at main."""

    def __init__(self, data: bytes, elf: Elf, board: Board) -> None:
        """Boot the ELF `data`; raises MissingToolError without QEMU, DeviceError if main is not reached."""
        self._abi = _RISCV if elf.is_riscv else _ARM
        self._main, self._fault = elf.address("main"), elf.address("eqrl_default_handler")
        self._stack_top = elf.address("__stack_top")
        ram = [region for region in board.regions if region.kind == "ram"]
        self._static = [
            (s.address, s.memory_bytes)
            for s in elf.segments
            if any(r.start <= s.address < r.end for r in ram)
        ]
        self._folder = tempfile.TemporaryDirectory(prefix="edgeqrl-")
        folder = Path(self._folder.name)
        self._log = (folder / "messages").open("w+b")
        (folder / "firmware.elf").write_bytes(data)
        argv = [*qemu_command(board, folder / "firmware.elf"), "-monitor", "none"]
        argv += ["-serial", "null", "-S"]
        argv += ["-gdb", f"unix:{folder}/gdb,server=on,wait=off"]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True
        )
        self._finalizer = weakref.finalize(self, _stop, self._process, self._log, self._folder)
        try:
            self._gdb = self._connect(str(folder / "gdb"))
            self._boot(traps_unaligned=board.port == "cortex_m" and board.core not in _ALWAYS_TRAP)
        except BaseException:
            self.close()
            raise

    def request(self, kind: str, header: Mapping[str, Any], payload: bytes) -> Reply:
        """Answer "call", "map", "profile" or "trace"; raises DeviceError on a fault, silence or death."""
        try:
            handlers = {"call": self._call, "map": self._map, "profile": self._profile, "trace": self._trace}
            return handlers[kind](header, payload)
        except (OSError, EOFError) as error:
            said = self._last_words()
            self.close()
            raise DeviceError(
                f"The emulator stopped answering ({said or error}); run the command again."
            ) from (error)
        except BaseException:
            self.close()  # an answer may be half read, or the core hangs in its fault handler
            raise

    def close(self) -> None:
        """End QEMU."""
        if hasattr(self, "_gdb"):
            self._gdb.close()
        self._finalizer()

    def _connect(self, path: str) -> GdbConnection:
        deadline = time.monotonic() + _SECONDS_TO_START
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(FileNotFoundError, ConnectionRefusedError):
                return GdbConnection(path, _TIMEOUT_S)
            time.sleep(0.01)
        raise DeviceError(
            f"QEMU did not start ({self._last_words() or 'no message'}); run the command again."
        )

    def _boot(self, *, traps_unaligned: bool) -> None:
        stops = [f"Z0,{address:x},2" for address in (self._main, self._fault)]
        *answers, _ = self._gdb.exchange([*stops, "c"])
        require_ok(answers)
        if self._gdb.read_register(self._abi.pc) != self._main:
            raise DeviceError(f"The firmware did not reach main in QEMU: {self._reason()}.")
        if traps_unaligned:
            place = self._stack_top - 64
            kept = self._gdb.read(place, len(_STORE_WORD))
            chunks = [[place, len(_STORE_WORD)]]
            arguments = [_CCR, _CCR_AT_RESET | _UNALIGN_TRP]
            self._call({"chunks": chunks, "function": place, "arguments": arguments}, _STORE_WORD)
            self._gdb.write(place, kept)

    def _call(self, header: Mapping[str, Any], payload: bytes) -> Reply:
        requests = _writing_chunks(header["chunks"], payload)
        *answers, _ = self._gdb.exchange([*requests, *self._calling(header)])
        require_ok(answers)
        return {"result": self._returned(*self._gdb.exchange(self._state()))}, b""

    def _map(self, header: Mapping[str, Any], payload: bytes) -> Reply:
        inputs, calling = header["inputs"], self._calling(header)
        in_bytes = sum(size for _, size in inputs)
        reading_outputs = [ask for address, size in header["outputs"] for ask in reading(address, size)]
        outputs, results = [], array("i")
        for row in range(header["count"]):
            content = payload[row * in_bytes : (row + 1) * in_bytes]
            *answers, _ = self._gdb.exchange([*_writing_chunks(inputs, content), *calling])
            require_ok(answers)
            pc, result, *parts = self._gdb.exchange([*self._state(), *reading_outputs])
            results.append(self._returned(pc, result))
            outputs.append(from_answers(parts))
        return {}, b"".join(outputs) + results.tobytes()

    def _profile(self, header: Mapping[str, Any], payload: bytes) -> Reply:
        found, addresses = self._traced(header, payload)
        found["trace_sha256"] = hashlib.sha256(addresses.tobytes()).hexdigest()
        return {**found, "unaligned": []}, b""  # an unaligned access would have faulted

    def _trace(self, header: Mapping[str, Any], payload: bytes) -> Reply:
        found, addresses = self._traced(header, payload)
        return found, addresses.tobytes()

    def _traced(self, header: Mapping[str, Any], payload: bytes) -> tuple[dict[str, Any], "array[int]"]:
        """Call with every executed address logged, on memory that is put back afterwards."""
        kept = [(address, self._gdb.read(address, size)) for address, size in self._static]
        depth = header["stack_bytes"]
        entry = self._entry_sp(header["arguments"])
        self._gdb.write(entry - depth, bytes([_PAINT]) * depth)
        trace = _Trace(Path(self._folder.name) / "trace")
        self._gdb.monitor(f"logfile {trace.path}")
        self._set_single_instructions("on")
        self._gdb.monitor("log exec,nochain")
        try:
            reply, _ = self._call(header, payload)
        finally:
            trace.open_for_sure()
            self._gdb.monitor("log none")
            self._gdb.monitor(f"logfile {self._folder.name}/none")
            self._set_single_instructions("off")
        addresses = trace.addresses(_SECONDS_TO_EXIT)
        painted = self._gdb.read(entry - depth, depth)
        for address, content in kept:
            self._gdb.write(address, content)
        untouched = len(painted) - len(painted.lstrip(bytes([_PAINT])))
        found = {"result": reply["result"], "instructions": len(addresses), "stack_bytes": depth - untouched}
        return found, addresses

    def _set_single_instructions(self, state: str) -> None:
        """Make QEMU translate, and so log, one instruction at a time; version 8.1 renamed the command."""
        if "unknown command" in self._gdb.monitor(f"one-insn-per-tb {state}"):
            self._gdb.monitor(f"singlestep {state}")

    def _calling(self, header: Mapping[str, Any]) -> list[str]:
        """Return the requests that begin a call, the last of which lets the core run."""
        abi, arguments = self._abi, header["arguments"]
        in_registers = zip(abi.arguments, arguments, strict=False)
        rest = b"".join(
            (value & 0xFFFFFFFF).to_bytes(4, "little") for value in arguments[len(abi.arguments) :]
        )
        sp = self._entry_sp(arguments)
        return [
            *(setting(register, value) for register, value in in_registers),
            *writing(sp, rest),
            setting(abi.sp, sp),
            setting(abi.link, self._main | abi.is_thumb),
            setting(abi.pc, header["function"]),
            "c",
        ]

    def _entry_sp(self, arguments: Sequence[int]) -> int:
        """Return SP at the entry: arguments beyond the registers lie there, aligned."""
        beyond = 4 * max(0, len(arguments) - len(self._abi.arguments))
        return self._stack_top - beyond & -self._abi.stack_alignment

    def _state(self) -> list[str]:
        return [f"p{self._abi.pc:x}", f"p{self._abi.result:x}"]

    def _returned(self, pc: str, result: str) -> int:
        if register_value(pc) != self._main:
            raise DeviceError(f"The emulated core stopped: {self._reason()}.")
        value = register_value(result)
        return value - 2**32 if value >> 31 else value

    def _reason(self) -> str:
        pc = self._gdb.read_register(self._abi.pc)
        if pc != self._fault:
            return f"at {pc:#x} instead of returning"
        if not self._abi.is_thumb:
            return "an exception"
        frame = self._gdb.read_register(self._abi.sp)
        where = int.from_bytes(self._gdb.read(frame + 24, 4), "little")
        return f"exception {self._gdb.read_register(_XPSR) & 511} at {where:#x}"

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""


_ALWAYS_TRAP = ("cortex-m0", "cortex-m0plus")


class _Trace:
    """Reads executed addresses from a pipe that QEMU writes its log to, while it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with suppress(FileNotFoundError):
            path.unlink()
        os.mkfifo(path)
        self._addresses = array("I")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def addresses(self, timeout_s: float) -> "array[int]":
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise OSError("QEMU does not end its log")
        return self._addresses

    def open_for_sure(self) -> None:
        """Let the reader go where QEMU never opened its end."""
        with suppress(OSError):
            os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))

    def _read(self) -> None:
        addresses = self._addresses
        with self.path.open("rb") as log:
            for line in log:
                found = _TRACE.match(line)
                if found:
                    addresses.append(int(found[1], 16))
                elif line.startswith(_DROPPED):
                    addresses.pop()


def _writing_chunks(chunks: Sequence[Sequence[int]], payload: bytes) -> list[str]:
    requests, offset = [], 0
    for address, size in chunks:
        requests += writing(address, payload[offset : offset + size])
        offset += size
    return requests


def _stop(process: subprocess.Popen[bytes], log: IO[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    process.kill()
    process.wait()
    log.close()
    folder.cleanup()
