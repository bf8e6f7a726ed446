"""What each calibration source does to the return: the tables of docs/calibration-data.md.

    python -m benchmarks.quantization.calibration [--agent NAME ...] [--samples 5] [--episodes 50]
        [--kept FILE] [--page docs/calibration-data.md] [--known]

Every agent is quantized on samples of each source and size, by the bare converter and by the default scheme,
and plays the same seeds as its float self. Every finished row is written to --kept at once, and what that
file has already is not measured again: a stopped run goes on. --known measures nothing.
Needs pip install 'edgeqrl[keras,firmware,box2d,mujoco]'.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.quantization.pages import markdown
from benchmarks.quantization.subjects import CALIBRATION_SEED, Row, Subject, judging_seeds
from benchmarks.verdict_pages import fill_page
from edgeqrl import __version__
from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.calibration_sources import Collecting, collect
from edgeqrl.environments import spaces
from edgeqrl.errors import UsageError
from edgeqrl.network.reference import Reference
from edgeqrl.quantize.scheme import SCHEMES
from edgeqrl.quantize.tflite import Converter
from edgeqrl.random_policy import RandomPolicy
from edgeqrl.range_check import check_ranges
from edgeqrl.rollout import rollout
from edgeqrl.validate.statistics import bootstrap_interval

AGENTS = ("cartpole", "pendulum", "zoo:lunarlander-dqn", "zoo:halfcheetah-td3")
SOURCES = ("policy", "noise=0.1", "noise=0.5", "random", "space")
COMPARED = ("int8-bare", "int8")
RANDOM_SEED = 650_000_000  # of the episodes that say what random actions return
FEWEST = 5  # samples of which an interval says anything
MARGIN = 0.05  # of min(|float - random|, |float|): more is called ruined


@dataclass(frozen=True)
class Size:
    """How much of a source calibrates."""

    label: str
    states: int
    episodes: int  # of which they are taken
    is_drawn: (
        bool  # rows drawn at random, as a representative dataset usually is; else as `calibrate` chooses
    )


SIZES = (
    Size("5 states drawn", 5, 20, True),
    Size("500 states drawn", 500, 20, True),
    Size("1 episode", 2000, 1, False),
    Size("5 episodes", 2000, 5, False),
    Size("20 episodes", 2000, 20, False),
)


@dataclass(frozen=True)
class Job:
    """One calibration set, quantized by each of COMPARED."""

    agent: str
    source: str
    size: Size
    sample: int

    @property
    def key(self) -> str:
        return f"{self.agent} | {self.source} | {self.size.label} | {self.sample}"


def jobs(agents: Sequence[str], samples: int) -> Iterator[Job]:
    """Yield the samples in turn, so that a run that is stopped has some of everything."""
    for sample in range(samples):
        for agent in agents:
            for source in SOURCES:
                for size in SIZES:
                    # No episodes are played in the space: of its sizes the numbers of states are left.
                    if source != "space" or size.is_drawn or size is SIZES[-1]:
                        yield Job(agent, source, size, sample)


def sampled(job: Job, subject: Subject) -> CalibrationSet:
    """Return the calibration set of a job; its seeds are its sample's own."""
    make_env = subject.make_env
    how = Collecting(
        subject.float_policy,
        make_env,
        spaces(make_env).name,
        num_episodes=job.size.episodes,
        num_states=10**6 if job.size.is_drawn and job.source != "space" else job.size.states,
        seed=CALIBRATION_SEED + 1000 * job.sample,
    )
    whole = collect(job.source, how)
    if not job.size.is_drawn or job.source == "space":
        return whole
    count = min(job.size.states, len(whole))
    rows = np.sort(np.random.default_rng(job.sample).choice(len(whole), count, replace=False))
    return CalibrationSet(
        whole.rows(rows), whole.env_id, whole.seeds, whole.episode_returns, len(whole), source=whole.source
    )


def measure(job: Job, subject: Subject, converter: Converter, episodes: int) -> Row:
    """Return what both schemes lose on one calibration set, and whether it was warned of."""
    try:
        calibration = sampled(job, subject)
    except UsageError as error:  # a space without bounds
        return {"refused": str(error)}
    row: Row = {
        "num_observations": len(calibration),
        "warning": check_ranges(calibration, subject.float_policy, subject.make_env).warning,
        "margin": margin_of(subject, episodes),
        "episodes": episodes,
    }
    exact = subject.float_returns(judging_seeds(episodes))
    row["float_return"] = float(exact.mean())
    for scheme in COMPARED:
        policy = subject.quantized(SCHEMES[scheme], calibration, converter).integer_policy()
        integer = NetworkPolicy(Reference(policy.network), policy, name="reference")
        found = subject.returns_of(integer, judging_seeds(episodes))
        row[scheme] = {"lost": float((exact - found).mean()), "integer_return": float(found.mean())}
    return row


def margin_of(subject: Subject, episodes: int) -> float:
    """Return the loss above which a return is called ruined."""
    actor = RandomPolicy(spaces(subject.make_env).action_space)
    seeds = range(RANDOM_SEED, RANDOM_SEED + episodes)
    at_random = float(rollout(actor, subject.make_env, seeds).episode_returns.mean())
    exact = float(subject.float_returns(judging_seeds(episodes)).mean())
    return MARGIN * min(abs(exact - at_random), abs(exact))


def tables(rows: Sequence[Row], made: str) -> dict[str, str]:
    """Return Markdown by the marker of its place."""
    sound = [row for row in rows if "refused" not in row]
    return {
        "calibration sources": f"*{made}*\n\n" + "\n\n".join(_of_agents(rows)),
        "calibration warnings": f"*{made}*\n\n{_warnings(sound)}",
    }


def _of_agents(rows: Sequence[Row]) -> Iterator[str]:
    for agent in dict.fromkeys(row["agent"] for row in rows):
        mine = [row for row in rows if row["agent"] == agent]
        refused = next((row["refused"] for row in mine if "refused" in row), None)
        sound = [row for row in mine if "refused" not in row]
        lines = []
        for source in SOURCES:
            for size in SIZES:
                found = [row for row in sound if (row["source"], row["size"]) == (source, size.label)]
                if found:
                    lines.append([f"`{source}`", size.label, *_cells(found)])
        head = ["source", "size", *(f"`{name}` loses" for name in COMPARED), "ruined", "warned"]
        first = sound[0]
        title = (
            f"**{agent.removeprefix('zoo:')}**: float return {first['float_return']:.1f}, ruined above "
            f"{first['margin']:.1f} lost, {first['episodes']} episodes a sample."
        )
        yield f"{title}\n\n{markdown(head, lines)}" + (f"\n\n`space`: *{refused}*" if refused else "")


def _cells(found: Sequence[Row]) -> list[str]:
    """Return what each scheme loses (mean, interval over samples, worst), and the counts."""
    cells = []
    for scheme in COMPARED:
        lost = np.array([row[scheme]["lost"] for row in found])
        ends = ""
        if len(lost) >= FEWEST:
            interval = bootstrap_interval(lost, confidence=0.95, seed=0)
            ends = f" [{interval.low:z.1f}, {interval.high:z.1f}]"
        ends += f", worst {lost.max():z.1f}" if len(lost) > 1 else ""
        cells.append(f"{lost.mean():z.1f}{ends}")
    ruined = ", ".join(str(sum(_is_ruined(row, scheme) for row in found)) for scheme in COMPARED)
    warned = sum(row["warning"] is not None for row in found)
    return [*cells, f"{ruined} of {len(found)}", f"{warned} of {len(found)}"]


def _warnings(rows: Sequence[Row]) -> str:
    lines = []
    for scheme in COMPARED:
        ruined = [row for row in rows if _is_ruined(row, scheme)]
        sound = [row for row in rows if not _is_ruined(row, scheme)]
        counts = (
            f"{sum(row['warning'] is not None for row in some)} of {len(some)}" for some in (ruined, sound)
        )
        lines.append([f"`{scheme}`", *counts])
    return markdown(["scheme", "warned of sets that ruined it", "warned of sets that did not"], lines)


def _is_ruined(row: Row, scheme: str) -> bool:
    return bool(row[scheme]["lost"] > row["margin"])


def main() -> None:
    """Measure, then print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agent", action="append", help=f"by default {', '.join(AGENTS)}")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=50, help="pairs that each sample plays")
    parser.add_argument("--kept", type=Path, help="rows measured so far")
    parser.add_argument("--page", type=Path, help="a page with places for the tables")
    parser.add_argument("--known", action="store_true", help="measure nothing")
    chosen = parser.parse_args()
    rows: list[Row] = json.loads(chosen.kept.read_text()) if chosen.kept and chosen.kept.exists() else []
    wanted = list(jobs(chosen.agent or AGENTS, chosen.samples))
    if not chosen.known:
        _measure_all(wanted, rows, chosen.kept, chosen.episodes)
    options = [f"--agent {name}" for name in chosen.agent or ()]
    options += [f"--samples {chosen.samples}", f"--episodes {chosen.episodes}"]
    keys = {job.key for job in wanted}
    shown = [row for row in rows if row["key"] in keys]
    command = f"python -m benchmarks.quantization.calibration {' '.join(options)}"
    made = (
        f"Made by `{command}` on {date.today()}, edgeqrl {__version__}, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}; {len(shown)} of {len(wanted)} rows."
    )
    found = tables(shown, made)
    if chosen.page:
        fill_page(chosen.page, found)
    else:
        print("\n\n".join(found.values()))


def _measure_all(wanted: Sequence[Job], rows: list[Row], kept: Path | None, episodes: int) -> None:
    """Add a row for every job that has none."""
    known = {row["key"] for row in rows}
    subjects: dict[str, Subject] = {}
    with Converter() as converter:
        for number, job in enumerate(wanted):
            if job.key in known:
                continue
            began = time.monotonic()
            subject = subjects.setdefault(job.agent, Subject(job.agent))
            found = measure(job, subject, converter, episodes)
            named = {"agent": job.agent, "source": job.source, "size": job.size.label, "sample": job.sample}
            rows.append({"key": job.key, **named, **found})
            if kept:
                kept.write_text(json.dumps(rows, indent=1))
            told = found.get("refused") or [round(found[scheme]["lost"], 1) for scheme in COMPARED]
            seconds = time.monotonic() - began
            print(f"[{number + 1}/{len(wanted)}] {job.key}: {told} in {seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
