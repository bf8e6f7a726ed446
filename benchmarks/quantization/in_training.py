"""Agents trained with fake quantization from the start, beside float ones: docs/quantization-in-training.md.

    python -m benchmarks.quantization.in_training [--seeds 1,2,3] [--trained FOLDER] [--episodes 100]
        [--kept FILE] [--page docs/quantization-in-training.md] [--known]

SAC trains HalfCheetah agents in float, with weights of 3 and of 2 bits, by the same settings and seeds.
Whatever FOLDER lacks is trained (minutes each on one core; a stopped training goes on), then quantized,
and plays the judging seeds; so does each float agent, quantized after training to as few bits. Every
finished row is written to --kept at once, and what that file has is not measured again. --known trains and
measures nothing. Needs pip install 'edgeqrl[keras,firmware,mujoco]'.
"""

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quantization.pages import markdown
from benchmarks.quantization.subjects import Row, Subject, interval, judging_seeds
from benchmarks.verdict_pages import fill_page
from edgeqrl import __version__
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.environments import EnvironmentSpec
from edgeqrl.quantize.scheme import SCHEMES, Scheme
from edgeqrl.quantize.tflite import Converter
from edgeqrl.sources import Source, open_source
from edgeqrl.validate.statistics import bootstrap_interval
from edgeqrl.zoo.training import sac

CONFIG = sac.CONFIGS["halfcheetah-sac-3bit"]
TRAINED_IN: tuple[int | None, ...] = (3, None, 2)
AFTER_TRAINING = ("int8", "w3a8", "w2a8")  # what a float agent is quantized to
MARGIN = 0.03  # of the float return: a lower bound above it is called on par


@dataclass(frozen=True, eq=False)
class Trained(Subject):
    """An agent of one training: `name` is its folder."""

    @cached_property
    def agent(self) -> Any:
        """Return the agent, loaded."""
        agent, _ = open_source(Source(str(Path(self.name) / "agent.keras"), self._spec), None)
        return agent

    @property
    def _spec(self) -> EnvironmentSpec:
        return EnvironmentSpec(CONFIG.env_id)


@dataclass(frozen=True)
class Training:
    """One seed in one precision."""

    seed: int
    bits: int | None

    @property
    def label(self) -> str:
        return "float" if self.bits is None else f"{self.bits} bits"

    def folder(self, trained: Path) -> Path:
        return trained / f"seed{self.seed}-{self.bits or 'float'}"

    def run(self, trained: Path) -> Path:
        """Train it where that was not done; return its folder."""
        folder = self.folder(trained)
        if not (folder / "card.json").exists():
            name = "halfcheetah-sac" + ("" if self.bits is None else f"-{self.bits}bit")
            config = replace(CONFIG, name=name, weight_bits=self.bits, training_seed=self.seed)
            sac.train(
                config, folder, lambda done, total, said: _tell(f"{folder.name} {done}/{total}: {said}")
            )
        return folder


def main() -> None:
    """Train and measure what is missing, then print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3", help="of training")
    parser.add_argument(
        "--trained", type=Path, default=Path("build/in_training"), help="folder of the agents"
    )
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--kept", type=Path, help="rows measured so far")
    parser.add_argument("--page", type=Path, help="a page with a place for the table")
    parser.add_argument("--known", action="store_true", help="train and measure nothing")
    chosen = parser.parse_args()
    rows: list[Row] = json.loads(chosen.kept.read_text()) if chosen.kept and chosen.kept.exists() else []
    if not chosen.known:
        trainings = [Training(int(seed), bits) for seed in chosen.seeds.split(",") for bits in TRAINED_IN]
        with Converter() as converter:
            for training in trainings:
                for row in measured(
                    training, chosen.trained, chosen.episodes, {r["key"] for r in rows}, converter
                ):
                    rows.append(row)
                    if chosen.kept:
                        chosen.kept.write_text(json.dumps(rows, indent=1))
    made = (
        f"*Made by `python -m benchmarks.quantization.in_training` on {date.today()}, edgeqrl {__version__}, "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}.*"
    )
    table = f"{made}\n\n{_table(rows)}"
    if chosen.page:
        fill_page(chosen.page, {"in training": table})
    else:
        print(table)


def measured(
    training: Training, trained: Path, episodes: int, known: set[str], converter: Converter
) -> Iterator[Row]:
    """Train if need be; yield a row for the agent as it was trained and for each of its integer forms."""
    schemes: Sequence[str | None] = (None, *AFTER_TRAINING) if training.bits is None else (None, "trained")
    keys = {scheme: f"seed {training.seed} | {training.label} | {scheme}" for scheme in schemes}
    if set(keys.values()) <= known:
        return
    subject = Trained(str(training.run(trained)))
    for scheme, key in keys.items():
        if key in known:
            continue
        returns = subject.float_returns(judging_seeds(episodes))
        if scheme is not None:
            chosen = Scheme() if scheme == "trained" else SCHEMES[scheme]
            quantized = subject.quantized(chosen, subject.calibration(0), converter)
            returns = subject.returns_of(HostCPolicy(quantized.integer_policy()), judging_seeds(episodes))
        _tell(f"{key}: {np.mean(returns):.1f}")
        yield {
            "key": key,
            "seed": training.seed,
            "trained": training.label,
            "scheme": scheme,
            "returns": [round(float(value), 3) for value in returns],
        }


def _table(rows: Sequence[Row]) -> str:
    """Show each row beside the float agent of its seed, by the same episodes."""
    if not rows:
        return "*Not measured.*"
    exact = {row["seed"]: np.array(row["returns"]) for row in rows if _is_float(row)}
    lines = []
    for row in sorted(
        rows, key=lambda row: (row["seed"], row["trained"] != "float", row["trained"] != "3 bits")
    ):
        returns = np.array(row["returns"])
        mean, low, high = interval(returns)
        cells = [
            str(row["seed"]),
            row["trained"],
            _PLAYS.get(row["scheme"], f"{row['scheme']}, after training"),
        ]
        cells.append(f"{mean:.0f} [{low:.0f}, {high:.0f}]")
        base = exact.get(row["seed"])
        if base is None or _is_float(row):
            lines.append([*cells, "", ""])
            continue
        gained = returns - base
        bound = bootstrap_interval(gained, confidence=0.9, seed=0).low  # one-sided 95 %
        is_on_par = bound >= -MARGIN * abs(float(base.mean()))
        lines.append([*cells, f"{gained.mean():+.0f} (≥ {bound:+.0f})", "on par" if is_on_par else "less"])
    head = ["seed", "trained in", "plays as", "return", "against float (95 % bound)", "within 3 %"]
    return markdown(head, lines)


_PLAYS = {None: "it was trained", "trained": "the chip does"}


def _is_float(row: Row) -> bool:
    return row["trained"] == "float" and row["scheme"] is None


def _tell(said: str) -> None:
    print(said, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
