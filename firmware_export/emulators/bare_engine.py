"""A bare engine on an emulated core: its answers, and every instruction of one inference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DeviceError
from firmware_export.bare_image import STATE, BareImage
from firmware_export.emulators.emulator import open_engine
from firmware_export.emulators.unicorn_engine import UNICORN_CORES

_WATCHED_STACK_BYTES = 4096
_ALIGNMENT = 16  # of what is put into free RAM


@dataclass(frozen=True, eq=False)
class Trace:
    """One call of NAME_infer: the address of every executed instruction in order, uint32 [instructions]."""

    addresses: NDArray[np.uint32]
    stack_bytes: int  # measured by painting


class BareEngine:
    """A bare engine that passed its NAME_init. Close it, or use it as a context manager."""

    def __init__(self, image: BareImage, *, engine: str | None = None) -> None:
        """Start the emulator with `image`; `engine` as for EmulatedFirmware."""
        self._image = image
        elf, core = image.elf, image.board.core
        self._state = elf.address(STATE)
        self._free = elf.address("__free_start")
        self.engine = engine or ("unicorn" if core in UNICORN_CORES else "qemu")
        self._process = open_engine(self.engine, image.data, elf, image.board)
        try:
            header = {"function": self._function("init"), "arguments": (self._state, 0), "chunks": []}
            self._require_ok("init", int(self._process.request("call", header, b"")[0]["result"]))
        except BaseException:
            self.close()
            raise

    def infer(
        self,
        row: NDArray[np.uint8],
        *,
        input_offsets: Sequence[int],
        output_offsets: Sequence[int],
        output_bytes: int,
    ) -> NDArray[np.uint8]:
        """Call NAME_infer; return all outputs as bytes [output_bytes].

        `row` [in_bytes] holds all inputs, each at its offset; outputs lie in one block, each at its offset.
        """
        arguments, target = self._arguments(row, input_offsets, output_offsets)
        header = {
            "function": self._function("infer"),
            "arguments": arguments,
            "inputs": [[self._free, row.size]],
            "outputs": [[target, output_bytes]],
            "count": 1,
        }
        _, payload = self._process.request("map", header, row.tobytes())
        self._require_ok("infer", int(np.frombuffer(payload[output_bytes:], "<i4")[0]))
        return np.frombuffer(payload[:output_bytes], np.uint8)

    def trace(
        self, row: NDArray[np.uint8], *, input_offsets: Sequence[int], output_offsets: Sequence[int]
    ) -> Trace:
        """Record one NAME_infer on a copy of the machine; arguments as for `infer`."""
        arguments, _ = self._arguments(row, input_offsets, output_offsets)
        header: dict[str, Any] = {
            "function": self._function("infer"),
            "arguments": arguments,
            "chunks": [[self._free, row.size]],
            "stack_bytes": _WATCHED_STACK_BYTES,
        }
        found, payload = self._process.request("trace", header, row.tobytes())
        self._require_ok("infer", int(found["result"]))
        if found["stack_bytes"] >= _WATCHED_STACK_BYTES:
            raise DeviceError(f"An inference used more than {_WATCHED_STACK_BYTES:,} bytes of stack.")
        return Trace(np.frombuffer(payload, np.uint32), int(found["stack_bytes"]))

    def close(self) -> None:
        """End the emulator; does nothing the second time."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _arguments(
        self, row: NDArray[np.uint8], input_offsets: Sequence[int], output_offsets: Sequence[int]
    ) -> tuple[tuple[int, ...], int]:
        target = self._free + -(-row.size // _ALIGNMENT) * _ALIGNMENT
        pointers = [self._free + at for at in input_offsets] + [target + at for at in output_offsets]
        return (self._state, *pointers), target

    def _function(self, name: str) -> int:
        return self._image.elf.address(f"{self._image.name}_{name}")

    def _require_ok(self, function: str, status: int) -> None:
        if status < 0:
            core = self._image.board.core
            raise DeviceError(f"{self._image.name}_{function} returned {status} on the emulated {core}.")
