"""A whole conversion of an agent of the zoo by automatic choice, with its verdict."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.quantization.subjects import Row
from edgeqrl import pipeline
from edgeqrl.cli.show import StageProgress
from edgeqrl.contract import ContractOptions
from edgeqrl.search import SearchOptions
from edgeqrl.stages import Settings

BOARD = "mps2-an386"
PERIODS = {"zoo:breakout-ppo": 0.1}  # seconds a step, where the environment does not say
KEPT = (
    "verdict",
    "episodes",
    "criteria",
    "terms",
    "float_return",
    "quantized_return",
    "failures",
    "scheme",
    "choice",
)


def converted(name: str, **search: Any) -> Row:
    """Convert into a folder that goes away; return what the tables need of the report."""
    with tempfile.TemporaryDirectory() as folder, StageProgress() as progress:
        conversion = pipeline.convert(
            name,
            pipeline.zoo_environment(name),
            board=BOARD,
            output=Path(folder) / "bundle",
            contract=ContractOptions(control_period_s=PERIODS.get(name)),
            settings=Settings(search=SearchOptions(**search), emulated_episodes=1),
            progress=progress,
        )
    report = conversion.report
    sizes = {key: report["firmware"][key] for key in ("flash_bytes", "ram_bytes", "instructions")}
    return {key: report[key] for key in KEPT if key in report} | sizes
