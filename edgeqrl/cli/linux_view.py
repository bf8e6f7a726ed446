"""What commands show of boards that get no firmware: those that run Linux, and those of a vendor's SDK."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeqrl.deployment import DeployResult
    from firmware_export.board import Board
    from firmware_export.linux.package import LinuxPackage

Report = Mapping[str, Any]


def built_text(bundle: Path, board: "Board", built: "LinuxPackage | str") -> tuple[Report, str]:
    """Return facts of what was built for such a board, and the same in words."""
    if isinstance(built, str):
        return {"board": board.name, "how": built}, f"{bundle}/src is what {board.title} gets. {built}"
    facts = {"board": board.name, "compiler": built.compiler}
    return facts | {"files": len(built.files), "bytes": built.num_bytes}, (
        f"{bundle}/raspberry for {board.name} by {built.compiler}: {len(built.files)} files, "
        f"{built.num_bytes:,} B.\n"
        f"Next: edgeqrl emulate {bundle}; edgeqrl flash {bundle} --host USER@HOST"
    )


def package_facts(report: Report) -> list[tuple[str, str]]:
    """Return (label, value) of what is deployed."""
    package, emulation = report.get("package"), report.get("emulation")
    if package is None:
        return []
    facts = [
        (f"for {package['board']}", f"{package['bytes']:,} B"),
        ("library, aarch64", f"{package['libraries']['aarch64']:,} B"),
        *contract_facts(report),
    ]
    played = "none" if emulation is None else f"{emulation['episodes']} as host C"
    return [*facts, ("emulated episodes", played)]


def contract_facts(report: Report) -> list[tuple[str, str]]:
    """Return (label, value) of the contract that decides what is driven."""
    contract = report.get("contract")
    if contract is None:
        return []
    period = contract["control_period_s"]
    return [
        ("control period", "unknown" if period is None else f"{1e3 * period:g} ms"),
        ("fail-safe", contract["fail_safe"] or "none"),
    ]


def library_line(report: Report) -> str | None:
    """Say how the vendor's SDK builds the sources, if that is what the board gets."""
    library = report.get("library")
    return None if library is None else f"{library['board']}: {library['how']}"


def deployed_text(done: "DeployResult") -> str:
    """Say what was deployed, or would be."""
    deployed, package = done.deployed, done.package
    if deployed is None:
        return done.plan
    test = deployed.self_test
    step = f", {test['step_us']:g} us a step" if "step_us" in test else ""
    lines = [
        f"{package.name} runs its self-test on {deployed.host} ({test.get('machine')}, backend "
        f"{test.get('backend')}{step}).",
        f"Release {deployed.release} is current in edgeqrl/{package.name}"
        + (f"; before: {deployed.before}." if deployed.before not in (None, deployed.release) else "."),
    ]
    unit = f"edgeqrl-{package.name}"
    lines.append(
        f"Service {unit} runs: systemctl --user status {unit}"
        if deployed.service
        else f"Start it there: cd edgeqrl/{package.name}/current && python3 run.py"
    )
    return "\n".join(lines)
