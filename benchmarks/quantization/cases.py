"""The cases: what is measured, and what it must reach. Seeds and sizes were fixed before measuring."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.quantization.subjects import Row, Subject, played
from benchmarks.quantization.verdicts import BOARD, converted
from edgeqrl.quantize.scheme import BITS, RANGES, SCHEMES, Scheme
from edgeqrl.quantize.tflite import Converter
from edgeqrl.zoo import ZooAgent, zoo_agents

Measure = Callable[[Subject, Converter], Row]

NUM_SAMPLES = 10
_PLAIN = {name: SCHEMES[name] for name in ("int8-bare", "int8")}
LEARNED = {name: replace(SCHEMES[name], learned=True) for name in ("w4a8", "w3a8", "w2a8")}


@dataclass(frozen=True)
class Job:
    """One row: of which case and agent, what is done, and how."""

    case: str
    agent: str
    label: str
    measure: Measure

    @property
    def key(self) -> str:
        """Name the row, in a file of kept ones."""
        return f"{self.case} | {self.agent} | {self.label}"


@dataclass(frozen=True)
class Case:
    """Some rows with one claim."""

    name: str
    claim: str  # what must be reached, or the aim
    jobs: Callable[[], Iterator[Job]]
    is_reached: Callable[[Sequence[Row]], bool] | None = None  # of all its rows; None: it claims nothing


def _loses_at_most(most: float) -> Callable[[Sequence[Row]], bool]:
    """Tell whether int8 loses no more on any sample."""
    return lambda rows: all(-row["gained"][0] <= most for row in rows if row["label"].startswith("int8 "))


def _loses_less_than(share: float, label: str) -> Callable[[Sequence[Row]], bool]:
    """Tell whether the one-sided bound of integer - float is at least that share of the float return."""
    return lambda rows: any(
        row["lower_bound"] >= -share * abs(row["float_return"][0]) for row in rows if row["label"] == label
    )


def _gains(least: float, preset: str) -> Callable[[Sequence[Row]], bool]:
    """Tell whether the mean of integer - float is at least that, learned or not."""
    return lambda rows: any(
        row["gained"][0] >= least for row in rows if row["label"] in (preset, f"{preset} learned")
    )


def _pass(share: float) -> Callable[[Sequence[Row]], bool]:
    """Tell whether that share of the verdicts is PASS."""
    return lambda rows: sum(row["verdict"] == "PASS" for row in rows) >= share * len(rows)


def _samples(case: str, agent: str, episodes: int, *, few: int | None = None) -> Iterator[Job]:
    """Ten samples of 500 states: random ones for the bare converter, those that edgeqrl chooses for int8."""
    rollouts = few or 20

    def bare(number: int) -> Measure:
        def measure(subject: Subject, converter: Converter) -> Row:
            states = subject.random_states(number, states=500, episodes=rollouts)
            return played(subject, subject.quantized(SCHEMES["int8-bare"], states, converter), episodes)

        return measure

    def ours(number: int) -> Measure:
        def measure(subject: Subject, converter: Converter) -> Row:
            states = subject.calibration(number, states=500, episodes=rollouts)
            return played(subject, subject.quantized(SCHEMES["int8"], states, converter), episodes)

        return measure

    for number in range(NUM_SAMPLES):
        yield Job(case, agent, f"int8-bare {number}", bare(number))
        yield Job(case, agent, f"int8 {number}", ours(number))


def _schemes(
    case: str, agent: str, schemes: dict[str, Scheme], episodes: int, first: int = 0
) -> Iterator[Job]:
    def job(label: str, scheme: Scheme) -> Job:
        def measure(subject: Subject, converter: Converter) -> Row:
            made = subject.quantized(scheme, subject.calibration(0), converter)
            row = played(subject, made, episodes, first)
            return {**row, "tflite_bytes": len(made.tflite), "scheme": made.scheme.to_json()}

        return Job(case, agent, label, measure)

    return (job(label, scheme) for label, scheme in schemes.items())


def _low_bits(case: str, agent: str, preset: str, episodes: int) -> Iterator[Job]:
    bare = replace(SCHEMES["int8-bare"], weight_bits=SCHEMES[preset].weight_bits)
    schemes = {
        f"{preset} bare": bare,
        preset: SCHEMES[preset],
        f"{preset} learned": LEARNED[preset],
    }
    return _schemes(case, agent, schemes, episodes)


def _zoo() -> list[ZooAgent]:
    """Return the agents that may be quantized in any way: not what was trained as it is to be quantized."""
    return [agent for agent in zoo_agents() if "fake quantization" not in agent.card["algorithm"]]


def _textbook() -> Iterator[Job]:
    for agent in _zoo():
        schemes = {f"{bits} bits": SCHEMES[f"textbook-{bits}"] for bits in reversed(BITS)}
        yield from _schemes("textbook", f"zoo:{agent.name}", schemes, 50)


def _ranges() -> Iterator[Job]:
    schemes = {method: replace(SCHEMES["int8"], ranges=method) for method in RANGES}
    for agent in _zoo():
        yield from _schemes("ranges", f"zoo:{agent.name}", schemes, 50)


def _chosen(case: str, **options: Any) -> Iterator[Job]:
    for agent in _zoo():
        name = f"zoo:{agent.name}"

        def measure(subject: Subject, converter: Converter, name: str = name) -> Row:
            return converted(name, **options)

        yield Job(case, name, "auto", measure)


CASES = {
    case.name: case
    for case in (
        Case(
            "cartpole-int8",
            "CartPole DQN (Q near 100), int8: 500 on each of 10 calibration samples",
            lambda: _samples("cartpole-int8", "cartpole", 100),
            _loses_at_most(0.0),
        ),
        Case(
            "pendulum-int8",
            "Pendulum SAC, int8: at most 1 lost on each of 10 samples of 500 states",
            lambda: _samples("pendulum-int8", "pendulum", 1000),
            _loses_at_most(1.0),
        ),
        Case(
            "pendulum-few",
            "the same, the 500 states from 3 episodes instead of 20",
            lambda: _samples("pendulum-few", "pendulum", 1000, few=3),
            _loses_at_most(1.0),
        ),
        Case(
            "halfcheetah-int8",
            "HalfCheetah SAC, int8: one-sided 95 % bound of integer - float at least -3 % of float",
            lambda: _schemes("halfcheetah-int8", "halfcheetah", _PLAIN, 1000),
            _loses_less_than(0.03, "int8"),
        ),
        Case(
            "halfcheetah-int8-long",
            "the same, 4,000 other episodes: 1,000 did not settle it",
            lambda: _schemes("halfcheetah-int8-long", "halfcheetah", _PLAIN, 4000, first=1000),
            _loses_less_than(0.03, "int8"),
        ),
        Case(
            "zoo-auto",
            f"every agent of the zoo, but the one that learned its bits, by --scheme auto for {BOARD}: PASS",
            lambda: _chosen("zoo-auto"),
            _pass(1.0),
        ),
        Case(
            "halfcheetah-w4",
            "aim: HalfCheetah SAC with 4-bit weights: that bound at least -5 %",
            lambda: _low_bits("halfcheetah-w4", "halfcheetah", "w4a8", 400),
            _loses_less_than(0.05, "w4a8 learned"),
        ),
        Case(
            "pendulum-w3",
            "aim: Pendulum SAC with 3-bit weights: at most 2 lost",
            lambda: _low_bits("pendulum-w3", "pendulum", "w3a8", 200),
            _gains(-2.0, "w3a8"),
        ),
        Case(
            "cartpole-w4",
            "aim: CartPole DQN with 4-bit weights: at least 495",
            lambda: _low_bits("cartpole-w4", "cartpole", "w4a8", 200),
            _gains(-5.0, "w4a8"),
        ),
        Case(
            "zoo-4-bits",
            f"aim: half of the zoo by auto with weights of 4 bits at most, for {BOARD}: PASS",
            lambda: _chosen("zoo-4-bits", most_weight_bits=4),
            _pass(0.5),
        ),
        Case("textbook", "the textbook form, k bits, on every agent of the zoo", _textbook),
        Case("ranges", "int8 by each range estimator, on every agent of the zoo", _ranges),
    )
}
