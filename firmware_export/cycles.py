"""Estimate cycles from the executed instructions, by their classes. An estimate: no emulator counts cycles.

Code, weights and activations are in memory without wait states. What a manual gives as a range has its middle
here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from firmware_export.execution import Execution
from firmware_export.instruction_classes import CLASSES

_VECTOR_MEMORY = ("vector_load", "vector_store")


@dataclass(frozen=True)
class CycleModel:
    """Cycles of a core by class; those without an entry take one."""

    name: str
    cycles: Mapping[str, float]
    registers: Mapping[str, float] = field(default_factory=dict)  # more, for each register of a multiple
    overlaps_loads: bool = False  # one less for a load right behind a load
    overlaps_vectors: bool = False  # one less for a vector instruction right behind one of another kind


# DDI 0432C, table 3-1, and DDI 0484C, table 3-1: with the multiplier of one cycle.
_M0 = CycleModel(
    "Cortex-M0 TRM (DDI 0432C, 3.3), one-cycle multiplier, no wait states",
    {
        "load": 2,
        "store": 2,
        "load_multiple": 1,
        "store_multiple": 1,
        "branch_taken": 3,
        "call": 4,
        "return": 3,
    },
    {"load_multiple": 1, "store_multiple": 1, "return": 1},
)
_M0PLUS = CycleModel(
    "Cortex-M0+ TRM (DDI 0484C, 3.3), one-cycle multiplier, no wait states",
    {
        "load": 2,
        "store": 2,
        "load_multiple": 1,
        "store_multiple": 1,
        "branch_taken": 2,
        "call": 3,
        "return": 2,
    },
    {"load_multiple": 1, "store_multiple": 1, "return": 1},
)
# Branches take 1 + P, P from 1 to 3. A load takes two, one behind another load; a store goes to the write
# buffer.
_M3 = CycleModel(
    "Cortex-M3 TRM (DDI 0337I, 3.3), P = 2, no wait states",
    {
        **{"multiply_accumulate": 2, "long_multiply": 4, "long_accumulate": 5.5, "divide": 7},
        **{"load": 2, "load_multiple": 1, "store_multiple": 1},
        **{"branch_taken": 3, "call": 3, "return": 3},
    },
    {"load_multiple": 1, "store_multiple": 1, "return": 1},
    overlaps_loads=True,
)
_M4 = CycleModel(
    "Cortex-M4 TRM (100166, 3.3.1), P = 2, no wait states",
    {
        **{"divide": 7, "load": 2, "load_multiple": 1, "store_multiple": 1},
        **{"branch_taken": 3, "call": 3, "return": 3},
    },
    {"load_multiple": 1, "store_multiple": 1, "return": 1},
    overlaps_loads=True,
)
# Arm publishes no cycles of these three.
_M7 = CycleModel(
    "a guess from Cortex-M7's dual issue and branch prediction, no wait states",
    {
        **dict.fromkeys(("arithmetic", "store", "branch"), 0.6),
        **{"load": 0.8, "load_multiple": 0.5, "store_multiple": 0.5, "divide": 7, "return": 2},
    },
    {"load_multiple": 0.5, "store_multiple": 0.5, "return": 0.5},
)
_M33 = CycleModel(
    "a guess from Cortex-M33's three-stage pipeline, no wait states",
    {"divide": 7, "load_multiple": 0, "store_multiple": 0, "branch_taken": 2.5, "call": 2.5, "return": 2.5},
    {"load_multiple": 1, "store_multiple": 1, "return": 1},
)
_M55 = CycleModel(
    "a guess from Cortex-M55: two beats a cycle, loads beside arithmetic (DDI 0553, beats), no wait states",
    {
        **{
            "divide": 7,
            "load_multiple": 0,
            "store_multiple": 0,
            "branch_taken": 2.5,
            "call": 2.5,
            "return": 2.5,
        },
        # LE is remembered, and costs nothing from the second turn on.
        **{"loop_end": 0, **dict.fromkeys((*_VECTOR_MEMORY, "vector_arithmetic"), 2)},
    },
    {"load_multiple": 1, "store_multiple": 1, "return": 1},
    overlaps_vectors=True,
)
# Ibex documentation, pipeline details: two stages, one-cycle multiplier, no branch-target ALU.
_RV32 = CycleModel(
    "Ibex, two stages, one-cycle multiplier (its documentation, pipeline details), no wait states",
    {
        **{"long_multiply": 2, "divide": 37, "load": 2, "store": 2},
        **{"branch_taken": 3, "call": 2, "return": 2},
    },
)
CYCLE_MODELS: Mapping[str, CycleModel] = MappingProxyType(
    {
        "cortex-m0": _M0,
        "cortex-m0plus": _M0PLUS,
        "cortex-m3": _M3,
        "cortex-m4": _M4,
        "cortex-m7": _M7,
        "cortex-m33": _M33,
        "cortex-m55": _M55,
        "rv32imac": _RV32,
        "rv32imc": _RV32,
    }
)


def estimate_cycles(execution: Execution, core: str) -> int:
    """Estimate the cycles of what was executed, by the model of `core`."""
    model = CYCLE_MODELS[core]
    base = np.array([model.cycles.get(name, 1.0) for name in CLASSES])
    each = np.array([model.registers.get(name, 0.0) for name in CLASSES])
    classes = execution.classes
    total = float(base[classes].sum() + (each[classes] * execution.registers).sum())
    if model.overlaps_loads:
        total -= _followed(classes, ("load",), ("load",))
    if model.overlaps_vectors:
        total -= _followed(classes, _VECTOR_MEMORY, ("vector_arithmetic",))
        total -= _followed(classes, ("vector_arithmetic",), _VECTOR_MEMORY)
    return round(total)


def _followed(classes: NDArray[np.uint8], first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """Count how often an instruction of `second` comes right behind one of `first`."""
    a, b = (np.isin(classes, [CLASSES.index(name) for name in names]) for names in (first, second))
    return int(np.count_nonzero(a[:-1] & b[1:]))
