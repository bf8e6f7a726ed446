"""The agents that are measured, and one paired measurement of one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.calibrate import CalibrationSet, calibrate
from edgeqrl.environments import EnvironmentSpec, MakeEnv
from edgeqrl.quantize.learned import Learning
from edgeqrl.quantize.quantize import QuantizedPolicy, quantize
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.quantize.tflite import Converter
from edgeqrl.rollout import rollout
from edgeqrl.sources import Source, open_source
from edgeqrl.validate.statistics import bootstrap_interval
from edgeqrl.zoo import find_zoo_agent

ROOT = Path(__file__).resolve().parents[2]
JUDGING_SEED = 700_000_000  # fixed before anything was measured, and used for nothing else
CALIBRATION_SEED = 600_000_000
# The three agents that plain int8 breaks (Stable-Baselines3, and a Keras file of one of them).
AGENTS: Mapping[str, tuple[str, str]] = {
    "cartpole": ("tests/data/cartpole_q_near_100.keras", "CartPole-v1"),
    "pendulum": ("tests/data/sb3_pendulum_sac.zip", "Pendulum-v1"),
    "halfcheetah": ("benchmarks/quantization/agents/halfcheetah_sac.zip", "HalfCheetah-v5"),
}

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Subject:
    """An agent by its short name, or `zoo:NAME`."""

    name: str

    @cached_property
    def make_env(self) -> MakeEnv:
        """Return what makes its environment."""
        return self._spec.make

    @cached_property
    def agent(self) -> Any:
        """Return the agent, loaded."""
        path = self.name if self.name.startswith("zoo:") else str(ROOT / AGENTS[self.name][0])
        agent, _ = open_source(Source(path, self._spec), None)
        return agent

    @cached_property
    def float_policy(self) -> Any:
        """Return the agent as it was trained."""
        from edgeqrl.backends.keras import KerasPolicy

        return KerasPolicy(self.agent)

    def calibration(self, number: int, *, states: int = 2000, episodes: int = 20) -> CalibrationSet:
        """Return calibration sample `number`: states that edgeqrl chooses, extremes among them."""
        seed = CALIBRATION_SEED + 1000 * number
        return calibrate(
            self.float_policy,
            self.make_env,
            env_id=self._spec.env_id,
            num_episodes=episodes,
            num_states=states,
            seed=seed,
            agent_sha256=self.agent.source_sha256,
        )

    def random_states(self, number: int, *, states: int, episodes: int = 20) -> CalibrationSet:
        """Return that many states drawn from the same episodes, as a representative dataset usually is."""
        whole = self.calibration(number, states=10**6, episodes=episodes)
        rows = np.random.default_rng(number).choice(len(whole), min(states, len(whole)), replace=False)
        found = whole.rows(np.sort(rows))
        return CalibrationSet(found, whole.env_id, whole.seeds, whole.episode_returns, whole.num_rolled_out)

    def float_returns(self, seeds: range) -> NDArray[np.float64]:
        """Play the float policy on some of the judging seeds, once."""
        if seeds not in self._known_returns:
            self._known_returns[seeds] = self.returns_of(self.float_policy, seeds)
        return self._known_returns[seeds]

    def returns_of(self, policy: Any, seeds: range) -> NDArray[np.float64]:
        """Play a policy, an episode a seed."""
        return rollout(policy, self.make_env, seeds).episode_returns

    def quantized(
        self, scheme: Scheme, calibration: CalibrationSet, converter: Converter, *, seed: int = 0
    ) -> QuantizedPolicy:
        """Quantize; a learned scheme plays its own episodes."""
        learning = Learning(make_env=self.make_env, seed=seed)
        return quantize(self.agent, calibration, scheme=scheme, converter=converter, learning=learning)

    @cached_property
    def _known_returns(self) -> dict[range, NDArray[np.float64]]:
        return {}

    @property
    def _spec(self) -> EnvironmentSpec:
        if self.name.startswith("zoo:"):
            return EnvironmentSpec(find_zoo_agent(self.name.removeprefix("zoo:")).env_id)
        return EnvironmentSpec(AGENTS[self.name][1])


def played(subject: Subject, quantized: QuantizedPolicy, episodes: int, first: int = 0) -> Row:
    """Return float and integer returns on the same seeds, with 95 % intervals and the one-sided bound.

    first  of the judging seeds
    """
    policy = quantized.integer_policy()
    integer = HostCPolicy(policy)
    seeds = judging_seeds(episodes, first)
    exact = subject.float_returns(seeds)
    found = subject.returns_of(integer, seeds)
    gained = found - exact
    return {
        "episodes": episodes,
        "float_return": interval(exact),
        "integer_return": interval(found),
        "gained": interval(gained),
        "lower_bound": bootstrap_interval(gained, confidence=0.9, seed=0).low,  # one-sided 95 %
        "worst": float(gained.min()),
    }


def judging_seeds(episodes: int, first: int = 0) -> range:
    """Return the seeds of that many episodes; `first` of them are left out."""
    return range(JUDGING_SEED + first, JUDGING_SEED + first + episodes)


def interval(values: NDArray[np.float64]) -> list[float]:
    """Return mean and the ends of the 95 % interval."""
    found = bootstrap_interval(values, confidence=0.95, seed=0)
    return [found.mean, found.low, found.high]
