"""`edgeqrl diagnose`: why a quantized policy acts as it does."""

from pathlib import Path
from typing import Any

import click

from edgeqrl.cli.options import FOLDER, environment_from, environment_options, json_option


@click.command()
@click.argument("bundle", type=FOLDER)
@environment_options
@click.option("--episodes", type=int, default=32, show_default=True, help="Episodes of each policy.")
@click.option("--seed", type=int, default=40_000, show_default=True, help="First seed; no judgement's.")
@click.option(
    "--without",
    metavar="PARTS",
    default="",
    help="Leave out, for speed: coverage, states, robustness, blame; separated by commas.",
)
@json_option
def diagnose(bundle: Path, episodes: int, seed: int, without: str, as_json: bool, **options: Any) -> None:
    """Say what quantization costs the policy of BUNDLE, where and why, and what to try next.

    Looks at ranges, states, layers and disturbances, and gives no verdict. Needs no TensorFlow.
    """
    from edgeqrl.cli.diagnosis_view import naming_parts, print_diagnosis
    from edgeqrl.cli.show import StageProgress, print_json

    with StageProgress() as progress:
        show = naming_parts(progress)
        show("play", 0, 0)
        from edgeqrl.bundle import edit_bundle
        from edgeqrl.pipeline import environment_of
        from edgeqrl.stages.diagnosis import diagnose_bundle

        stated = environment_from(options)
        with edit_bundle(bundle) as edited:
            environment = stated or environment_of(edited)
            diagnosis = diagnose_bundle(
                edited,
                None if environment is None else environment.make,
                episodes=episodes,
                seed=seed,
                without=[part.strip() for part in without.split(",") if part.strip()],
                stated=None if stated is None else stated.to_json(),
                progress=show,
            )
    if as_json:
        print_json(diagnosis)
    else:
        print_diagnosis(str(bundle), diagnosis)
