"""Commands around the main road: zoo, doctor."""

import os
from pathlib import Path

import click

from edgeqrl.cli.options import FOLDER, json_option


@click.group()
def zoo() -> None:
    """Trained agents that ship with edgeqrl."""


@zoo.command("list")
@json_option
def zoo_list(as_json: bool) -> None:
    """List the agents with their measured float returns."""
    from edgeqrl.cli.show import print_json, print_table
    from edgeqrl.zoo import zoo_agents

    agents = zoo_agents()
    if as_json:
        print_json([dict(agent.card) for agent in agents])
        return
    rows = []
    for agent in agents:
        found = agent.card["float_return"]
        interval = f"{found['mean']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"
        rows.append([f"zoo:{agent.name}", agent.env_id, interval])
    print_table("Zoo", ["agent", "environment", "float return, 100 episodes"], rows, right=(2,))


@zoo.command("train")
@click.argument("name")
@click.option("-o", "--output", type=FOLDER, help="Folder for agent and card; default: build/zoo/NAME.")
def zoo_train(name: str, output: Path | None) -> None:
    """Train an agent of the zoo again, from scratch."""
    from edgeqrl.cli.show import StageProgress
    from edgeqrl.zoo import train

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA tells of every compilation otherwise
    with StageProgress() as progress:
        place = train(
            name,
            output or Path("build/zoo") / name,
            lambda done, total, message: progress("train", done, total, message),
        )
    click.echo(f"The agent and its card are in {place.parent}.")


@zoo.command("calibrate")
@click.argument("name")
@click.option(
    "-o", "--output", type=FOLDER, default=Path("build/calib_data"), show_default=True, help="Folder."
)
def zoo_calibrate(name: str, output: Path) -> None:
    """Roll an agent of the zoo out again, and keep its calibration set."""
    from edgeqrl.cli.show import StageProgress

    with StageProgress() as progress:
        progress("load", 0, 0)
        from edgeqrl.pipeline import calibrate_zoo_agent

        place = calibrate_zoo_agent(name, output, progress=progress)
    click.echo(f"The calibration set is in {place}.")


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Say which tools are there, what each is for, and how to get the rest."""
    from edgeqrl.cli.show import print_json, print_table
    from edgeqrl.doctor import examine

    found = examine()
    if as_json:
        print_json([tool.to_json() for tool in found])
    else:
        rows = [[tool.name, tool.version or "missing", tool.purpose] for tool in found]
        print_table("edgeqrl doctor", ["tool", "found", "what for"], rows)
        for tool in found:  # below the table, where a command stays whole
            if tool.cure:
                click.echo(f"{tool.name}: {tool.cure}")
    return 0
