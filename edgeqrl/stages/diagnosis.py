"""The stage `diagnose`: what quantization costs, where and why. It gives no verdict."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeqrl import stages
from edgeqrl.agents.heads import BoxHead, DiscreteHead, ValueHead
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.bundle import Bundle
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.diagnose.advice import advise, findings
from edgeqrl.diagnose.blame import Blame, blame
from edgeqrl.diagnose.coverage import Coverage, coverage
from edgeqrl.diagnose.robustness import Robustness, robustness
from edgeqrl.diagnose.simulated import NetworkPair
from edgeqrl.diagnose.states import Steps, WorstStates, ask_both, play_both, worst_states
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import DataError, UnsupportedOperatorError, UsageError, require_name
from edgeqrl.files import to_json_bytes
from edgeqrl.interfaces import Policy, ScoringPolicy
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.quantize.quantize import QuantizedPolicy
from edgeqrl.rollout import rollout
from edgeqrl.stages import DIAGNOSIS, Progress, silent
from edgeqrl.stages.ledger import judged_seeds, record_diagnosis
from edgeqrl.stages.validation import case_of
from edgeqrl.validate.statistics import bootstrap_interval
from edgeqrl.validate.verdict import MOST_EPISODES, require_disjoint

SCHEMA = "edgeqrl-diagnosis-2"
PARTS = ("coverage", "states", "robustness", "blame")
DEFAULT_EPISODES = 32
DEFAULT_SEED = 40_000

_NO_ENVIRONMENT = "Recorded observations tell no return; name an environment with --env."
_LEFT_OUT = "Left out, as --without says."
_NO_ACTIONS = "A value network chooses no actions, so there is nothing to play; the report has its values."
_PLAYED = ("robustness", "blame")  # need an environment


def diagnose_bundle(
    bundle: Bundle,
    make_env: MakeEnv | None,
    *,
    episodes: int = DEFAULT_EPISODES,
    seed: int = DEFAULT_SEED,
    without: Collection[str] = (),
    stated: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Look at everything that may explain a loss of return, and say what to try next.

    It takes the bundle's two `.tflite` files; needs no TensorFlow.

    without  those of PARTS to leave out
    stated   the environment that the command line named, as EnvironmentSpec.to_json, for commands
    """
    for part in without:
        require_name("part of a diagnosis", part, PARTS)
    stages.require_environment_fits(bundle, make_env)
    quantized, calibration = stages.read_quantized(bundle), stages.read_calibration(bundle)
    seeds = _fresh_seeds(bundle, calibration, seed, episodes)
    environment = stated or bundle.facts.get("environment")
    policy = quantized.integer_policy(is_masked=bundle.fact("is_masked"))
    with stages.open_float_side(quantized) as float_policy:
        subject = _Subject(quantized, policy, float_policy, HostCPolicy(policy), make_env, seeds)
        diagnosis: dict[str, Any] = {
            "schema": SCHEMA,
            "environment": None if environment is None else environment["env_id"],
            "backend": subject.quantized_policy.name,
            "float_backend": float_policy.name,
            "activations": quantized.scheme.activations,
        }
        if subject.is_played:
            diagnosis |= {"episodes": episodes, "seeds": {"first": seed, "count": episodes}}
            record_diagnosis(bundle, seeds)
        diagnosis |= _diagnosed(subject, calibration, without, progress)
    case, report = case_of(bundle, calibration, stated), stages.read_report(bundle)
    diagnosis["findings"] = [found.to_json() for found in findings(case, report, diagnosis)]
    diagnosis["advice"] = advise(case, report, diagnosis).to_json()
    origin = [path for path in (stages.TFLITE, stages.FLOAT_TFLITE, stages.CALIBRATION) if bundle.has(path)]
    bundle.add(DIAGNOSIS, to_json_bytes(diagnosis), made_from=origin)
    return diagnosis


@dataclass(frozen=True, eq=False)
class _Subject:
    """The policy that is looked into, in float and quantized, and where it plays."""

    quantized: QuantizedPolicy
    policy: IntegerPolicy
    float_policy: Policy
    quantized_policy: Policy
    make_env: MakeEnv | None
    seeds: range

    @property
    def is_played(self) -> bool:
        """Tell whether there are episodes: for all but value networks, where an environment is named."""
        return self.make_env is not None and not isinstance(self.quantized.head, ValueHead)

    @property
    def hindrance(self) -> str | None:
        """Say why states, robustness and blame cannot be looked into; None where they can."""
        head, policy = self.quantized.head, self.policy
        if isinstance(head, ValueHead):
            return _NO_ACTIONS
        if policy.has_memory:
            return "Made for policies without memory: here an action also depends on the steps before it."
        first, *others = self.quantized.preprocessing.parts
        if others or first.source != "float32" or first.key:  # frames are memory
            return "Made for one observation of float32 numbers, scaled and clipped at most."
        has_one_choice = isinstance(head, DiscreteHead) and head.is_single
        if policy.values or not (has_one_choice or isinstance(head, BoxHead)):
            return "Made for networks of one output that chooses one discrete action or continuous ones."
        return None


class _Seen(NamedTuple):
    """What both policies did; what is None was not looked at."""

    returns: dict[str, Any]
    steps: Steps | None = None  # in the float policy's states
    visited: NDArray[np.float32] | None = None  # by the quantized one


def _diagnosed(
    subject: _Subject, calibration: CalibrationSet, without: Collection[str], progress: Progress
) -> dict[str, Any]:
    """Return what both policies returned, and each of PARTS.

    What cannot be made is `{"unavailable": sentence}` in its place; the rest goes on.
    """
    progress("play", 0, 0)
    seen = _seen(subject, calibration, progress)
    make: dict[str, Callable[[Callable[[int, int], None]], Any]] = {
        "coverage": lambda told: _coverage(subject, seen, told),
        "states": lambda _: _worst_states(subject, seen),
        "robustness": lambda told: _robustness(subject, calibration, told),
        "blame": lambda told: _blame(subject, told),
    }
    diagnosis = {"returns": seen.returns}
    for part in PARTS:
        why = _LEFT_OUT if part in without else subject.hindrance
        if why is None and part in _PLAYED and subject.make_env is None:
            why = _NO_ENVIRONMENT
        if why is None:
            try:
                diagnosis[part] = make[part](partial(progress, part)).to_json()
            except (DataError, UnsupportedOperatorError, UsageError) as error:
                why = str(error)
        if why is not None:
            diagnosis[part] = {"unavailable": why}
    return diagnosis


def _fresh_seeds(bundle: Bundle, calibration: CalibrationSet, seed: int, episodes: int) -> range:
    """Return the seeds; raise UsageError where they cannot be, or calibrated or judged already."""
    if episodes < 2:
        raise UsageError(f"--episodes must be at least 2, got {episodes}.")
    if not 0 <= seed <= stages.LAST_SEED:
        raise UsageError(f"--seed must be 0 to {stages.LAST_SEED:,}, got {seed}.")
    if episodes > MOST_EPISODES:
        raise UsageError(f"--episodes must be at most {MOST_EPISODES:,}, got {episodes}.")
    seeds = range(seed, seed + episodes)
    require_disjoint({"the diagnosis": [seeds], "calibration": calibration.seeds})
    require_disjoint({"the diagnosis": [seeds], "a judgement": judged_seeds(bundle)})
    return seeds


def _seen(subject: _Subject, calibration: CalibrationSet, progress: Progress) -> _Seen:
    """Let both policies play, or ask them on the recorded observations where there is no environment."""
    both = subject.float_policy, subject.quantized_policy
    make_env, seeds, is_examined = subject.make_env, subject.seeds, subject.hindrance is None
    if make_env is None:
        unknown = {"unavailable": _NO_ENVIRONMENT}
        if not is_examined:
            return _Seen(unknown)
        asked = ask_both(*both, np.asarray(calibration.observations))
        return _Seen(unknown, asked, asked.observations)
    if not subject.is_played:
        return _Seen({"unavailable": subject.hindrance})

    def told(done: int, _: int, before: int = 0) -> None:
        progress("play", before + done, 2 * len(seeds))

    steps: Steps | None = None
    if is_examined:
        steps, in_float = play_both(*both, make_env, seeds, progress=told)
    else:
        in_float = rollout(both[0], make_env, seeds, progress=told)
    after = partial(told, before=len(seeds))
    played = rollout(both[1], make_env, seeds, keep_observations=is_examined, progress=after)
    returns = _intervals(in_float.episode_returns, played.episode_returns, seeds)
    visited = None if played.observations is None else np.concatenate(played.observations)
    return _Seen(returns, steps, visited)


def _intervals(in_float: NDArray[np.float64], quantized: NDArray[np.float64], seeds: range) -> dict[str, Any]:
    named = {"float_return": in_float, "quantized_return": quantized, "return_drop": in_float - quantized}
    return {name: bootstrap_interval(found, seed=seeds[0]).to_json() for name, found in named.items()}


def _coverage(subject: _Subject, seen: _Seen, progress: Callable[[int, int], None]) -> Coverage:
    assert seen.visited is not None
    assert seen.steps is not None
    in_float = None if subject.make_env is None else seen.steps.observations
    return coverage(subject.policy, seen.visited, in_float, progress=progress)


def _worst_states(subject: _Subject, seen: _Seen) -> WorstStates:
    head, steps = subject.quantized.head, seen.steps
    assert steps is not None
    if isinstance(head, BoxHead):
        return worst_states(steps, span=(np.array(head.high) - np.array(head.low)).reshape(head.shape))
    assert isinstance(head, DiscreteHead)
    in_float, quantized = (
        policy.outputs if isinstance(policy, ScoringPolicy) else None
        for policy in (subject.float_policy, subject.quantized_policy)
    )
    network = subject.policy.network
    return worst_states(
        steps,
        float_outputs=in_float,
        quantized_outputs=quantized,
        quantization_step=network.tensors[network.outputs[0]].scale,
        first_action=head.starts[0],
    )


def _robustness(
    subject: _Subject, calibration: CalibrationSet, progress: Callable[[int, int], None]
) -> Robustness:
    assert subject.make_env is not None
    return robustness(
        subject.float_policy,
        subject.quantized_policy,
        subject.make_env,
        np.asarray(calibration.observations),
        seeds=subject.seeds,
        progress=progress,
    )


def _blame(subject: _Subject, progress: Callable[[int, int], None]) -> Blame:
    assert subject.make_env is not None
    (part,) = subject.quantized.preprocessing.parts
    pair = NetworkPair(subject.quantized.float_tflite, subject.quantized.tflite, part)
    return blame(pair, subject.quantized.head, subject.make_env, seeds=subject.seeds, progress=progress)
