"""What an engine can run of a board's firmware, and what that proves: never more is claimed."""

from dataclasses import dataclass

from edgeqrl.errors import DeviceError, UsageError, require_name
from firmware_export.board import Board
from firmware_export.emulators.unicorn_engine import UNICORN_CORES

ENGINES = ("unicorn", "qemu", "rp2040js")
ISA = "ISA"  # the core's instructions, not the board around them
CPU_AND_UART = (
    "CPU + UART"  # the image boots, and is spoken to over its UART; the rest of the chip is not there
)
CHIP = "chip"  # the chip with those of its peripherals that the firmware uses

_QEMU_LEVELS = {"cpu+uart": CPU_AND_UART, "chip": CHIP}


@dataclass(frozen=True)
class EmulationPlan:
    """One engine with one board."""

    engine: str  # of ENGINES
    level: str  # ISA, CPU_AND_UART or CHIP
    machine: str  # what is modelled: a core, QEMU's machine, or a chip
    twin: str | None = None  # board for which the same sources are linked again, where the board has no model
    is_linux: bool = False

    @property
    def boots(self) -> bool:
        """Tell whether an image boots and answers over its UART; else the step alone is called."""
        return self.engine != "unicorn"

    @property
    def sentence(self) -> str:
        """Say what runs."""
        if self.is_linux:
            return f"the library's sources as a program for an emulated {self.machine}, in qemu-aarch64"
        if not self.boots:
            return f"the step in the very ELF that is flashed, called on an emulated {self.machine}"
        if self.twin is not None:
            return f"a twin linked for {self.twin} in QEMU's {self.machine}, over its UART: not this board"
        if self.engine == "qemu":
            return f"the image that is flashed, booted in QEMU's {self.machine}, over its UART"
        return f"the UF2 that is flashed, booted on a model of the {self.machine}, over its UART"


def plan_emulation(board: Board, engine: str | None = None) -> EmulationPlan:
    """Return what `engine` can run; by default unicorn where it has the core, else QEMU.

    Raises UsageError for an engine that is unknown or can run nothing of the board, DeviceError where no
    engine can.
    """
    plans = emulations(board)
    if engine is None:
        if not plans:
            raise DeviceError(f"No emulator here runs the {board.core} of {board.name}: only a board can.")
        return plans[0]
    require_name("engine", engine, ENGINES)
    found = next((plan for plan in plans if plan.engine == engine), None)
    if found is None:
        there = " or ".join(plan.engine for plan in plans) or "none"
        raise UsageError(f"{engine} can run nothing of {board.name}; engines that can: {there}.")
    return found


def emulations(board: Board) -> tuple[EmulationPlan, ...]:
    """List what every engine can run of a board, the default first."""
    if board.kind == "linux":
        return (EmulationPlan("qemu", ISA, board.core, is_linux=True),)
    emulation = board.emulation
    plans = []
    if board.core in UNICORN_CORES:
        plans.append(EmulationPlan("unicorn", ISA, board.core))
    if emulation.qemu_machine is not None:
        level = _QEMU_LEVELS[emulation.qemu_level or "cpu+uart"]
        plans.append(EmulationPlan("qemu", level, emulation.qemu_machine))
    elif emulation.twin is not None:
        plans.append(EmulationPlan("qemu", ISA, emulation.twin, emulation.twin))
    if emulation.rp2040js:
        plans.append(EmulationPlan("rp2040js", CHIP, "RP2040"))
    return tuple(plans)
