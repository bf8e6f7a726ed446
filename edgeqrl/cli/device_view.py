"""What `validate --backend device` shows of the device: what it says of itself, and what was measured."""

from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]


def device_notes(report: Report) -> list[str]:
    """Return lines: who answered, by its own words."""
    device = report.get("device")
    if device is None:
        return []
    lines = [f"device at {device['port']} says it is {device['board']}"]
    if device["runs_slowly"]:
        lines.append("it runs slowly: a clock of it did not start")
    if device["was_reset_by_watchdog"]:
        lines.append("its last reset was by the watchdog")
    return lines


def device_facts(report: Report) -> list[tuple[str, str]]:
    """Return (label, value) of what was measured; the device's clock is whatever it is in an emulator."""
    device = report.get("device")
    if device is None:
        return []
    trip, step = device["round_trip_s"], device["step_s"]
    frames = f"{device['frames']:,} ({device['retries']:,} sent again)"
    facts = [("actions as host C", f"{device['equal_to_host_c']:,}"), ("frames", frames)]
    if trip is not None:
        facts.append(("round trip", _times(trip)))
    facts.append(("step, device clock", "no timer" if step is None else _times(step)))
    return facts


def _times(spread: Report) -> str:
    """Write median and p99 in one unit."""
    unit, factor = ("ms", 1e3) if spread["p99"] >= 1e-3 else ("us", 1e6)
    return f"{factor * spread['median']:.3g}, p99 {factor * spread['p99']:.3g} {unit}"
