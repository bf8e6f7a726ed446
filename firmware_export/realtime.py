"""The real-time sheet of a firmware: what its step takes of time, stack and RAM, and what interrupts it.

Counted or read from the image itself, except for the time: no emulator here counts cycles, so that it is an
estimate and says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from firmware_export.board import Board
from firmware_export.build import Firmware
from firmware_export.elf import Elf, read_elf
from firmware_export.emulators.emulator import Profile
from firmware_export.fit import estimate_us, region_uses, timing_model
from firmware_export.stack import reached, stack_bound
from firmware_export.stack_parts import StackParts, handlers, stack_parts
from firmware_export.thumb import uses_fpu

_PARTS = {"state": "eqrl_port_state", "observation": "eqrl_port_observation", "action": "eqrl_port_action"}
_WATCHDOG_MS = (250, 30_000)  # EQRL_WATCHDOG_MS of eqrl_port.h, and the longest of main.c
# Words of an eqrl_contract.
_PERIOD_US, _TIMEOUT_US, _HOLD_STEPS = 7, 8, 10
_INTERRUPTS = (
    "NAME_step, NAME_reset and NAME_infer keep everything in the state they are given: call them from an "
    "interrupt or from the main loop, but for one state never from both. The handlers move bytes and wake "
    "the core; none calls the policy."
)


@dataclass(frozen=True)
class StepCount:
    """What the emulated core counted of NAME_step, for several observations."""

    instructions: int
    stack_bytes: int
    num_observations: int
    is_constant: bool  # all executed the same instructions in the same order


def count_steps(profiles: Sequence[Profile]) -> StepCount:
    """Sum up the profiles of NAME_step on different observations."""
    return StepCount(
        instructions=max(profile.instructions for profile in profiles),
        stack_bytes=max(profile.stack_bytes for profile in profiles),
        num_observations=len(profiles),
        is_constant=len({profile.trace_sha256 for profile in profiles}) == 1,
    )


def realtime_sheet(
    firmware: Firmware,
    board: Board,
    *,
    arena_bytes: int | None = None,
    control_period_s: float | None = None,
    count: StepCount | None = None,
) -> dict[str, Any]:
    """Return the sheet as JSON values; `count` None: nothing has been counted, and there is no time.

    arena_bytes  of the network's activations, in the state; None: not told
    """
    elf = read_elf(firmware.elf)
    step = f"{firmware.name}_step"
    parts = stack_parts(elf, board, firmware.name)
    return {
        "board": board.name,
        "step": {
            "instructions": None if count is None else count.instructions,
            "observations_counted": 0 if count is None else count.num_observations,
            "is_constant": None if count is None else count.is_constant,
        },
        "stack": {
            "step_bound_bytes": parts.step_bytes,
            "step_measured_bytes": None if count is None else count.stack_bytes,
            "loop_bound_bytes": parts.loop_bytes,
            "exceptions": {
                "frame_bytes": parts.frame_bytes,
                "frame_bytes_in_use": None if board.fpu == "none" else parts.fpu_frame_bytes,
                "handler_bound_bytes": parts.handler_bytes,
                "fault_bound_bytes": parts.fault_bytes,
                "faults_at_once": parts.num_faults,
                "total_bytes": parts.exception_bytes,
            },
            "firmware_bound_bytes": parts.total_bytes,
        },
        "ram": _ram(elf, firmware, board, arena_bytes),
        "interrupts": {"handlers": _handlers(elf), "safety": _INTERRUPTS.replace("NAME", firmware.name)},
        "regions": region_uses(firmware.sizes, board),
        "placement": asdict(firmware.placement),
        "fpu": _fpu(elf, board, step, parts),
        "time": None if count is None else _time(count.instructions, firmware, board),
        "control": _control(count, firmware, board, control_period_s),
        "watchdog": {
            "name": board.watchdog,
            "timeout_ms": None if board.watchdog == "none" else _watchdog_ms(elf, firmware.name, board),
        },
    }


def realtime_text(sheet: Mapping[str, Any]) -> str:
    """Return the sheet as a page of Markdown."""
    lines = [f"# Real-time sheet: {sheet['board']}", "", *(f"- {line}" for line in _lines(sheet)), ""]
    return "\n".join(lines)


def realtime_sentence(sheet: Mapping[str, Any]) -> str:
    """Return the line that decides: what a step takes of the control period."""
    time, control = sheet["time"], sheet["control"]
    stack = f"stack of a step at most {sheet['stack']['step_bound_bytes']:,} B"
    if time is None:
        return f"{stack}; its instructions are counted by `edgeqrl emulate`."
    text = f"{sheet['step']['instructions']:,} instructions a step, about {time['us']:,.0f} us; {stack}"
    if control["period_us"] is None:
        return f"{text}; no control period is known."
    return f"{text}; {control['left_percent']:.1f} % of the control period is left."


def stack_sentence(sheet: Mapping[str, Any]) -> str:
    """Return the line about the stack: the step, and apart from it what interrupts push and take."""
    stack = sheet["stack"]
    found = stack["exceptions"]
    in_use, handler = found["frame_bytes_in_use"], found["handler_bound_bytes"]
    frame = f"{found['frame_bytes']:,} B" + ("" if in_use is None else f" ({in_use:,} B with the FPU in use)")
    return (
        f"Stack: {stack['step_bound_bytes']:,} B of the step, {stack['loop_bound_bytes']:,} B of the loop "
        f"with it; apart from these an interrupt pushes {frame} and its handler takes {handler:,} B. With a "
        f"fault on top: {stack['firmware_bound_bytes']:,} B in all."
    )


def _lines(sheet: Mapping[str, Any]) -> list[str]:
    step, stack, ram, fpu = sheet["step"], sheet["stack"], sheet["ram"], sheet["fpu"]
    time, control, watchdog = sheet["time"], sheet["control"], sheet["watchdog"]
    counted = "not counted: run `edgeqrl emulate`"
    if step["instructions"] is not None:
        same = "the same for all of them" if step["is_constant"] else "NOT the same for all of them"
        counted = (
            f"{step['instructions']:,}, on the emulated core, for {step['observations_counted']} "
            f"observations: {same}. Interrupts come on top"
        )
    measured = stack["step_measured_bytes"]
    arena = ""
    if ram["arena_bytes"] is not None:
        arena = f" (of which {ram['arena_bytes']:,} B are the network's activations)"
    lines = [
        f"Instructions of a step: {counted}.",
        f"Stack of a step: at most {stack['step_bound_bytes']:,} B by the image's call graph"
        + ("." if measured is None else f", {measured:,} B measured."),
        f"Stack of the firmware's loop, the step in it: at most {stack['loop_bound_bytes']:,} B. What your "
        "eqrl_board_... functions take comes on top of that.",
        _exceptions_line(stack["exceptions"]),
        f"Stack in all: at most {stack['firmware_bound_bytes']:,} B; that must fit beside static RAM.",
        *_region_lines(sheet),
        f"Static RAM in `ram`: {ram['total_bytes']:,} B: state {ram['state_bytes']:,} B{arena}, observation "
        f"and requests {ram['observation_bytes']:,} B, action {ram['action_bytes']:,} B, device loop and its "
        f"buffers {ram['device_bytes']:,} B, code and constants in RAM {ram['code_bytes']:,} B; "
        f"{ram['free_bytes']:,} B stay free beside the stack.",
        f"Interrupts: {', '.join(_handler(h) for h in sheet['interrupts']['handlers']) or 'none'}.",
        sheet["interrupts"]["safety"],
        _fpu_line(fpu),
    ]
    if time is not None:
        lines.append(
            f"Time of a step: about {time['us']:,.0f} us, an estimate: {time['model']}, "
            f"{time['clock_hz'] / 1e6:g} MHz, code in {time['code_in']}, weights in {time['weights_in']}."
        )
    lines.append(_control_line(control))
    if watchdog["timeout_ms"] is None:
        return [*lines, "Watchdog: none. A loop that hangs leaves the outputs as they are."]
    return [
        *lines,
        f"Watchdog: {watchdog['name']}, {watchdog['timeout_ms']:,} ms, or four of the slowest steps that the "
        "self-test sees, if that is longer, rounded up to what the chip can: so long a loop that hangs "
        "leaves the outputs as they are.",
    ]


def _exceptions_line(found: Mapping[str, Any]) -> str:
    frame = f"{found['frame_bytes']:,} B"
    if found["frame_bytes_in_use"] is not None:
        frame += f", or {found['frame_bytes_in_use']:,} B where the FPU is in use,"
    count = {1: "one fault", 2: "two faults, of which one is the watchdog's,"}[found["faults_at_once"]]
    return (
        f"Stack of exceptions, apart: each pushes {frame} before its handler runs; the deepest handler of "
        f"an interrupt takes {found['handler_bound_bytes']:,} B, that of a fault "
        f"{found['fault_bound_bytes']:,} B. An interrupt and {count} on top of it: at most "
        f"{found['total_bytes']:,} B."
    )


def _region_lines(sheet: Mapping[str, Any]) -> list[str]:
    """Say what each region holds of the policy and how full it is."""
    lines = []
    for use in sheet["regions"]:
        parts = [what for what, region in sheet["placement"].items() if region == use["name"]]
        stack = f" and {use['stack_bytes']:,} B of stack" if use["stack_bytes"] else ""
        lines.append(
            f"Region `{use['name']}`: {use['bytes']:,} B{stack} of {use['available_bytes']:,} B"
            f"{', with ' + ' and '.join(parts) if parts else ''}."
        )
    return lines


def _handler(handler: Mapping[str, Any]) -> str:
    return f"{handler['name']} (stack {handler['stack_bytes']:,} B)"


def _fpu_line(fpu: Mapping[str, Any]) -> str:
    if fpu["frame_bytes_in_use"] is None:
        return f"FPU: none. An exception saves {fpu['frame_bytes']:,} B."
    used = "uses its registers" if fpu["step_uses_registers"] else "uses none of its registers"
    return (
        f"FPU: the step {used}. An exception saves {fpu['frame_bytes']:,} B, and makes room for "
        f"{fpu['frame_bytes_in_use']:,} B where the interrupted code has used the FPU (saved lazily)."
    )


def _control_line(control: Mapping[str, Any]) -> str:
    if control["period_us"] is None:
        return "Control period: not known, so that nothing was checked against it."
    if control["left_us"] is None:
        return f"Control period: {control['period_us']:,.0f} us."
    return (
        f"Control period: {control['period_us']:,.0f} us, of which about {control['left_us']:,.0f} us "
        f"({control['left_percent']:.1f} %) are left."
    )


def _ram(elf: Elf, firmware: Firmware, board: Board, arena_bytes: int | None) -> dict[str, int | None]:
    ram = board.region("ram")
    in_ram = {
        name: size for name, (start, size) in elf.sections.items() if ram.start <= start < ram.end and size
    }
    code = sum(size for name, size in in_ram.items() if name not in (".data", ".bss", ".eqrl_arena"))
    objects = {part: elf.symbols[symbol] for part, symbol in _PARTS.items()}
    parts = {part: found.size * (ram.start <= found.address < ram.end) for part, found in objects.items()}
    total = firmware.sizes.ram_bytes
    return {
        "total_bytes": total,
        "arena_bytes": arena_bytes,
        **{f"{part}_bytes": size for part, size in parts.items()},
        "device_bytes": total - code - sum(parts.values()),
        "code_bytes": code,
        "free_bytes": ram.bytes - total - firmware.sizes.stack_bytes,
    }


def _handlers(elf: Elf) -> list[dict[str, Any]]:
    return [
        {"name": handler.name, "stack_bytes": stack_bound(elf, handler.name)} for handler in handlers(elf)
    ]


def _fpu(elf: Elf, board: Board, step: str, parts: StackParts) -> dict[str, Any]:
    if board.fpu == "none":
        return {"step_uses_registers": False, "frame_bytes": parts.frame_bytes, "frame_bytes_in_use": None}
    return {
        "step_uses_registers": any(uses_fpu(instruction) for instruction in reached(elf, step)),
        "frame_bytes": parts.frame_bytes,
        "frame_bytes_in_use": parts.fpu_frame_bytes,
    }


def _time(instructions: int, firmware: Firmware, board: Board) -> dict[str, Any]:
    places = firmware.placement
    return {
        "us": estimate_us(instructions, board, placement=places),
        "model": timing_model(board, placement=places).name,
        "clock_hz": board.clock_hz,
        "code_in": places.code,
        "weights_in": places.weights,
        "wait_states": board.region(places.code).wait_states or 0,
    }


def _control(
    count: StepCount | None, firmware: Firmware, board: Board, period_s: float | None
) -> dict[str, float | None]:
    if period_s is None:
        return {"period_us": None, "left_us": None, "left_percent": None}
    period = round(period_s * 1e6, 3)
    if count is None:
        return {"period_us": period, "left_us": None, "left_percent": None}
    left = period - estimate_us(count.instructions, board, placement=firmware.placement)
    return {"period_us": period, "left_us": left, "left_percent": 100.0 * left / period}


def _watchdog_ms(elf: Elf, name: str, board: Board) -> int:
    """Return what main.c asks of it where steps are fast: as long as the contract lets an action be held."""
    period, timeout, steps = (
        elf.word(f"{name}_contract_facts", index) for index in (_PERIOD_US, _TIMEOUT_US, _HOLD_STEPS)
    )
    least, most = _WATCHDOG_MS
    hold = min((timeout + period * steps) // 1000 + 1, most)
    return max(dict(board.settings).get("watchdog_ms", least), hold)
