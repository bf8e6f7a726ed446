"""Bound the stack of a function from the machine code of the linked image.

Every path through a function is followed, its pushes and pops added up; calls add their callee's bound. What
cannot be followed (recursion, calls through pointers, frames of unknown size) is an error, never a guess.
"""

from types import ModuleType

from firmware_export import riscv, thumb
from firmware_export.elf import Elf, Symbol
from firmware_export.thumb import Instruction, it_block_length

_DEEPEST = 1 << 20  # a frame beyond this is a loop that pushes


class UnboundedStack(Exception):
    """The code does something whose stack cannot be bounded; our fault, not the user's."""


def stack_bound(elf: Elf, function: str) -> int:
    """Return the most bytes of stack that `function` and all it calls can use.

    Raises UnboundedStack on recursion, indirect calls or an SP that cannot be followed.
    """
    return _Bounds(elf).of(elf.symbols[function], ())


def reached(elf: Elf, function: str) -> list[Instruction]:
    """Return the instructions of `function` and of all that it calls; raises as `stack_bound` does."""
    bounds = _Bounds(elf)
    bounds.of(elf.symbols[function], ())
    return list(bounds.executed.values())


class _Bounds:
    def __init__(self, elf: Elf) -> None:
        self._functions = elf.functions
        self._starts = {symbol.address: symbol for symbol in elf.functions}
        self._isa: ModuleType = riscv if elf.is_riscv else thumb
        found = [i for code in elf.code for i in self._isa.decode(code.content, code.start)]
        self._instructions = {i.address: i for i in found}
        self._before = {i.address + i.size: i for i in found}
        self._segments = elf.segments
        self._words = {segment.address: segment.content for segment in elf.segments}
        self._known: dict[int, int] = {}
        self.executed: dict[int, Instruction] = {}  # on any path through what `of` was asked for

    def of(self, function: Symbol, callers: tuple[int, ...]) -> int:
        if function.address in callers:
            raise UnboundedStack(f"{function.name} calls itself")
        if function.address not in self._known:
            end = self._end(function)
            far = self._veneer(function)
            if far is not None:
                self._known[function.address] = self._through(far, function, callers)
                return self._known[function.address]
            frames = _Frames(function, end, self._isa, self._instructions, self._before, self._words)
            self.executed |= {address: self._instructions[address] for address in frames.visited}
            deepest = frames.deepest
            for target, depth in frames.calls.items():
                deepest = max(deepest, depth + self.of(self._callee(target), (*callers, function.address)))
            self._known[function.address] = deepest
        return self._known[function.address]

    def _veneer(self, function: Symbol) -> thumb.Veneer | None:
        """Return what a linker has put between two that are farther apart than a branch reaches, or None."""
        if self._isa is not thumb:
            return None
        home = next((s for s in self._segments if s.holds(function.address)), None)
        if home is None:
            return None
        return thumb.veneer(
            home.content[function.address - home.address :][: thumb.LONGEST_VENEER], function.address
        )

    def _through(self, far: thumb.Veneer, function: Symbol, callers: tuple[int, ...]) -> int:
        """Follow a veneer: what it pushes is popped again before its target runs."""
        instructions = [function.address + offset for offset in far.instructions]
        self.executed |= {address: self._instructions[address] for address in instructions}
        return max(far.stack_bytes, self.of(self._callee(far.target), (*callers, function.address)))

    def _end(self, function: Symbol) -> int:
        if function.size:
            return function.address + function.size
        return next(
            (f.address for f in self._functions if f.address > function.address), function.address + 2
        )

    def _callee(self, target: int) -> Symbol:
        if target not in self._starts:
            raise UnboundedStack(f"a call to {target:#x}, which is not the start of a function")
        return self._starts[target]


class _Frames:
    """Depths of SP inside one function: the deepest, and that at each call."""

    def __init__(
        self,
        function: Symbol,
        end: int,
        isa: ModuleType,
        instructions: dict[int, Instruction],
        before: dict[int, Instruction],
        words: dict[int, bytes],
    ) -> None:
        self._function = function
        self._end = end
        self._isa = isa
        self._instructions = instructions
        self._before = before
        self._words = words
        self._conditional = self._it_blocks() if isa is thumb else set()
        self._depths: dict[int, int] = {}
        self.calls: dict[int, int] = {}
        self.deepest = 0
        todo = [(function.address, 0)]
        while todo:
            todo += self._visit(*todo.pop())

    @property
    def visited(self) -> tuple[int, ...]:
        """Return the addresses on any path."""
        return tuple(self._depths)

    def _visit(self, address: int, depth: int) -> list[tuple[int, int]]:
        """Execute one instruction; return the places to go on, each with its depth."""
        if self._depths.get(address, -1) >= depth:
            return []
        self._depths[address] = depth
        instruction = self._instructions.get(address)
        if instruction is None:
            raise self._error(address, "runs into data")
        after = depth - self._change(instruction)
        if after > _DEEPEST:
            raise self._error(address, "pushes in a loop")
        self.deepest = max(self.deepest, after)
        step = self._isa.flow(instruction, self._before.get(address))
        is_conditional = address in self._conditional
        may_fall_through = step.is_conditional or is_conditional
        # Where an IT skips a pop, SP stays as deep as it was.
        following = [(address + instruction.size, max(depth, after) if is_conditional else after)]
        if step.kind in ("indirect_call", "indirect_branch"):
            raise self._error(address, "jumps through a pointer")
        if step.kind == "call" and self._function.address < step.target < self._end:
            # GCC for v6-M jumps with BL where B does not reach: LR is free then.
            return [(step.target, after), *self._inside(following)]
        if step.kind == "call":
            self.calls[step.target] = max(self.calls.get(step.target, 0), after)
            return self._inside(following)
        if step.kind == "branch":
            is_inside = self._function.address <= step.target < self._end
            if is_inside:
                return [(step.target, after), *(self._inside(following) if may_fall_through else [])]
            self.calls[step.target] = max(self.calls.get(step.target, 0), after)  # a tail call
        if step.kind == "next" or may_fall_through:
            return self._inside(following)
        return []

    def _inside(self, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Leave out what lies behind the function: after a call that never returns."""
        return [place for place in places if place[0] < self._end and place[0] in self._instructions]

    def _change(self, instruction: Instruction) -> int:
        change = self._isa.stack_change(instruction)
        if isinstance(change, int):
            return change
        if change == "register":
            return self._literal_before(instruction)
        if change == "restore" and self._is_frame_pointer(instruction.word >> 3 & 15):
            return 0  # an epilogue: SP was never lower than the frame pointer's depth
        raise self._error(instruction.address, "sets SP to an unknown value")

    def _literal_before(self, instruction: Instruction) -> int:
        """Find the constant that `add sp, rM` adds: loaded from a literal by `ldr rM, [pc, #n]` before it."""
        register = instruction.word >> 3 & 15
        address = instruction.address - 2
        while address >= self._function.address:
            candidate = self._instructions.get(address)
            if candidate and candidate.size == 2 and candidate.word & 0xFF00 == 0x4800 | register << 8:
                return self._word((address & ~3) + 4 + 4 * (candidate.word & 0xFF))
            address -= 2
        raise self._error(instruction.address, "adds an unknown value to SP")

    def _is_frame_pointer(self, register: int) -> bool:
        """Tell whether the only thing ever put into `register` is SP plus a constant."""
        body = [i for a, i in self._instructions.items() if self._function.address <= a < self._end]
        sets = [i.word for i in body if i.size == 2 and i.word & 0xFF00 == 0xA800 | register << 8]
        copies = [i.word for i in body if i.size == 2 and i.word & 0xFF7F == 0x4668 | register & 7]
        return bool(sets or copies) and register < 8

    def _word(self, address: int) -> int:
        for start, content in self._words.items():
            if start <= address and address + 4 <= start + len(content):
                return int.from_bytes(content[address - start : address - start + 4], "little", signed=True)
        raise self._error(address, "has no literal")

    def _it_blocks(self) -> set[int]:
        """Collect the addresses of instructions that an IT makes conditional."""
        found: set[int] = set()
        left = 0
        address = self._function.address
        while address < self._end:
            instruction = self._instructions.get(address)
            if instruction is None:
                address, left = address + 2, 0
                continue
            if left:
                found.add(address)
                left -= 1
            left = it_block_length(instruction) or left
            address += instruction.size
        return found

    def _error(self, address: int, text: str) -> UnboundedStack:
        return UnboundedStack(f"{self._function.name} at {address:#x} {text}")
