"""What commands show of boards that get no firmware: those that run Linux, and those of a vendor's SDK."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeqrl.bundle import Bundle
    from edgeqrl.deployment import DeployResult
    from edgeqrl.stages import Progress, Settings
    from firmware_export.board import Board

Report = Mapping[str, Any]


def build_other(
    bundle: "Bundle", board: "Board", settings: "Settings", progress: "Progress"
) -> tuple[Report, str] | None:
    """Build for such a board; return facts and the same in words. None: the board gets firmware."""
    from edgeqrl.stages.linux import add_linux_package
    from edgeqrl.stages.target import add_library

    if board.kind == "mcu":
        return None
    if board.kind == "library":
        how = add_library(bundle, board, settings)
        return {"board": board.name, "how": how}, f"{bundle}/src is what {board.title} gets. {how}"
    package = add_linux_package(bundle, board, settings, progress=progress)
    facts: dict[str, Any] = {"board": board.name, "compiler": package.compiler}
    facts |= {"files": len(package.files), "bytes": package.num_bytes}
    return facts, (
        f"{bundle}/raspberry for {board.name} by {package.compiler}: {len(package.files)} files, "
        f"{package.num_bytes:,} B.\n"
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
