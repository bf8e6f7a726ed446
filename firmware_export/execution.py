"""What a recorded trace executed: instructions by class, by layer, and those that unicorn does not see."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from firmware_export import riscv, thumb
from firmware_export.elf import Elf, Symbol
from firmware_export.instruction_classes import CLASSES, class_of
from firmware_export.thumb import it_block_length

_STEP = 2  # bytes: no instruction begins between
_TAKEN, _NOT_TAKEN = CLASSES.index("branch_taken"), CLASSES.index("branch")

Addresses = NDArray[np.uint32]


class Execution:
    """The instructions of a trace uint32 [n], each with its class."""

    def __init__(self, elf: Elf, trace: Addresses) -> None:
        """Decode the image `elf` and put in what it skipped inside IT blocks, where the trace lacks it.

        Such instructions take a cycle and count, as QEMU counts them; unicorn reports only those that are
        carried out.
        """
        self._elf = elf
        self._decode()
        self.addresses = self._completed(trace)

    @cached_property
    def places(self) -> NDArray[np.intp]:
        """Return of each executed instruction its place in the tables by address."""
        return self._place(self.addresses)

    @cached_property
    def classes(self) -> NDArray[np.uint8]:
        """Return the index in CLASSES of each executed instruction."""
        found = self._class[self.places]
        following = np.append(self.addresses[1:], 0)
        is_taken = following != self.addresses + self._size[self.places]
        return np.where((found == _NOT_TAKEN) & is_taken, _TAKEN, found).astype(np.uint8)

    @property
    def registers(self) -> NDArray[np.uint8]:
        """Return of each executed instruction how many registers it loads or stores, if it does."""
        return np.asarray(self._registers[self.places])

    def class_counts(self) -> dict[str, int]:
        """Return how many instructions of each class were executed; classes without any are left out."""
        counts = np.bincount(self.classes, minlength=len(CLASSES))
        return {name: int(n) for name, n in zip(CLASSES, counts, strict=True) if n}

    def runs_outside(self, functions: Sequence[str]) -> "list[Run]":
        """Return what was called from `functions`, one run after another, their callees included."""
        is_outside = np.ones(len(self.addresses), bool)
        for symbol in (self._elf.symbols[name] for name in functions if name in self._elf.symbols):
            low, high = symbol.address, symbol.address + self._size_of(symbol)
            is_outside &= (self.addresses < low) | (self.addresses >= high)
        edges = np.flatnonzero(np.diff(np.concatenate(([0], is_outside.astype(np.int8), [0]))))
        return [
            Run(int(start), int(end), int(self.addresses[start]))
            for start, end in edges.reshape(-1, 2).tolist()
        ]

    def _size_of(self, symbol: Symbol) -> int:
        if symbol.size:
            return symbol.size
        starts = [function.address for function in self._elf.functions]
        following = starts[bisect_right(starts, symbol.address) :]
        return (following[0] if following else symbol.address + _STEP) - symbol.address

    def _decode(self) -> None:
        isa = riscv if self._elf.is_riscv else thumb
        codes = [list(isa.decode(code.content, code.start)) for code in self._elf.code]
        self._low = min(code.start for code in self._elf.code)
        high = max(code.start + len(code.content) for code in self._elf.code)
        shape = ((high - self._low) // _STEP + 1,)
        self._class = np.full(shape, 255, np.uint8)
        self._size = np.zeros(shape, np.uint8)
        self._registers = np.zeros(shape, np.uint8)
        self._is_conditional = np.zeros(shape, bool)  # inside an IT block
        for code in codes:
            left, before = 0, None
            for instruction in code:
                place = (instruction.address - self._low) // _STEP
                found = class_of(instruction, is_riscv=self._elf.is_riscv, before=before)
                self._class[place] = CLASSES.index(found.name)
                self._size[place], self._registers[place] = instruction.size, found.registers
                self._is_conditional[place] = left > 0
                left = max(0, left - 1)
                if not self._elf.is_riscv:
                    left = it_block_length(instruction) or left
                before = instruction

    def _place(self, addresses: Addresses) -> NDArray[np.intp]:
        places = (addresses.astype(np.int64) - self._low) // _STEP
        assert np.all((places >= 0) & (places < len(self._class))), "executed what is not in the image"
        assert np.all(self._class[places] < len(CLASSES)), "executed what is no instruction"
        return places.astype(np.intp)

    def _completed(self, trace: Addresses) -> Addresses:
        places = self._place(trace)
        expected = trace + self._size[places]
        after = np.minimum(places + self._size[places] // _STEP, len(self._size) - 1)
        is_gap = self._is_conditional[after[:-1]] & (trace[1:] != expected[:-1])
        at: list[int] = []
        skipped: list[int] = []
        for index in np.flatnonzero(is_gap).tolist():
            for address in self._skipped(int(expected[index]), int(trace[index + 1])):
                at.append(index + 1)
                skipped.append(address)
        return np.insert(trace, at, np.array(skipped, np.uint32)) if at else trace

    def _skipped(self, address: int, following: int) -> list[int]:
        """List the conditional instructions from `address` to the one that was executed next."""
        found = []
        place = (address - self._low) // _STEP
        while address != following and self._is_conditional[place]:
            found.append(address)
            address += int(self._size[place])
            place = (address - self._low) // _STEP
        assert address == following, "an IT block was left in its middle"
        return found


@dataclass(frozen=True)
class Run:
    """Executed instructions [start, end) of a trace, the first of which lies at `function`."""

    start: int
    end: int
    function: int


def count_layers(execution: Execution, name: str, calls: Sequence[Sequence[int]]) -> list[int]:
    """Return the instructions of each layer: those of its kernels, from entry to return.

    name   of the network: NAME_infer and NAME_infer_layers, which call the kernels, belong to no layer
    calls  of each layer, the addresses of its kernels in order
    """
    expected = [(layer, address) for layer, called in enumerate(calls) for address in called]
    counts = [0] * len(calls)
    left = iter(expected)
    due = next(left, None)
    for run in execution.runs_outside((f"{name}_infer", f"{name}_infer_layers")):
        if due is not None and run.function == due[1]:
            counts[due[0]] += run.end - run.start
            due = next(left, None)
    assert due is None, "a kernel was not called where the layers say so"
    return counts
