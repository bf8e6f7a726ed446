"""The stage `diagnose`: what quantization costs, where and why. It gives no verdict."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl import stages
from edgeqrl.agents.heads import BoxHead, DiscreteHead, Head
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.bundle import Bundle
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.diagnose.advice import advise, findings
from edgeqrl.diagnose.blame import blame
from edgeqrl.diagnose.coverage import coverage
from edgeqrl.diagnose.robustness import robustness
from edgeqrl.diagnose.simulated import NetworkPair
from edgeqrl.diagnose.states import Steps, ask_both, play_both, worst_states
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

SCHEMA = "edgeqrl-diagnosis-1"
PARTS = ("coverage", "states", "robustness", "blame")
DEFAULT_EPISODES = 32
DEFAULT_SEED = 40_000

_NO_ENVIRONMENT = "Recorded observations tell no return; name an environment with --env."
_LEFT_OUT = "Left out, as --without says."


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
    """Diagnose a bundle by its two `.tflite` files; needs no TensorFlow.

    without  those of PARTS to leave out
    stated   the environment that the command line named, as EnvironmentSpec.to_json, for commands
    """
    from edgeqrl.backends import open_float_policy

    for part in without:
        require_name("part of a diagnosis", part, PARTS)
    stages.require_environment_fits(bundle, make_env)
    quantized = stages.read_quantized(bundle)
    policy = quantized.integer_policy(is_masked=bundle.fact("is_masked"))
    with open_float_policy(quantized.float_tflite, quantized.head) as float_policy:
        return add_diagnosis(
            bundle,
            float_policy,
            HostCPolicy(policy),
            quantized,
            policy,
            make_env=make_env,
            episodes=episodes,
            seed=seed,
            without=without,
            stated=stated,
            progress=progress,
        )


def add_diagnosis(
    bundle: Bundle,
    float_policy: Policy,
    quantized_policy: Policy,
    quantized: QuantizedPolicy,
    policy: IntegerPolicy,
    *,
    make_env: MakeEnv | None,
    episodes: int,
    seed: int,
    without: Collection[str] = (),
    stated: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Look at everything that may explain a loss of return, and say what to try next.

    What cannot be made is `{"unavailable": sentence}` in its place; the rest goes on.
    """
    calibration = stages.read_calibration(bundle)
    report = stages.read_report(bundle)
    seeds = _fresh_seeds(bundle, calibration, seed, episodes)
    environment = stated or bundle.facts.get("environment")
    diagnosis: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": None if environment is None else environment["env_id"],
        "backend": quantized_policy.name,
        "float_backend": float_policy.name,
    }
    progress("play", 0, 0)
    if make_env is None:
        steps = ask_both(float_policy, quantized_policy, calibration.observations)
        visited = steps.observations
        diagnosis["returns"] = {"unavailable": _NO_ENVIRONMENT}
    else:
        diagnosis |= {"episodes": episodes, "seeds": {"first": seed, "count": episodes}}
        record_diagnosis(bundle, seeds)
        steps, visited, diagnosis["returns"] = _play(
            float_policy, quantized_policy, make_env, seeds, progress
        )
    by_float = None if make_env is None else steps.observations
    made = _Sections(without, has_environment=make_env is not None)
    diagnosis["coverage"] = made.section(
        "coverage",
        lambda: coverage(policy, visited, by_float, progress=partial(progress, "coverage")),
        needs_environment=False,
    )
    diagnosis["states"] = made.section(
        "states",
        lambda: _worst_states(float_policy, quantized_policy, policy, quantized.head, steps),
        needs_environment=False,
    )
    diagnosis["robustness"] = made.section(
        "robustness",
        lambda: robustness(
            float_policy,
            quantized_policy,
            _stated(make_env),
            calibration.observations,
            seeds=seeds,
            progress=partial(progress, "robustness"),
        ),
    )
    diagnosis["blame"] = made.section(
        "blame",
        lambda: _blame(quantized, _stated(make_env), seeds, partial(progress, "blame")),
    )
    case = case_of(bundle, calibration, stated)
    diagnosis["findings"] = [found.to_json() for found in findings(case, report, diagnosis)]
    diagnosis["advice"] = advise(case, report, diagnosis).to_json()
    origin = [path for path in (stages.TFLITE, stages.FLOAT_TFLITE, stages.CALIBRATION) if bundle.has(path)]
    bundle.add(DIAGNOSIS, to_json_bytes(diagnosis), made_from=origin)
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


def _play(
    float_policy: Policy, quantized_policy: Policy, make_env: MakeEnv, seeds: range, progress: Progress
) -> tuple[Steps, NDArray[np.float32], dict[str, Any]]:
    """Return the float policy's steps, what the quantized one observed, and what both returned."""
    total = 2 * len(seeds)
    steps, in_float = play_both(
        float_policy,
        quantized_policy,
        make_env,
        seeds,
        progress=lambda done, _: progress("play", done, total),
    )
    played = rollout(
        quantized_policy,
        make_env,
        seeds,
        keep_observations=True,
        progress=lambda done, _: progress("play", len(seeds) + done, total),
    )
    assert played.observations is not None
    both = in_float.episode_returns, played.episode_returns
    named = {"float_return": both[0], "quantized_return": both[1], "return_drop": both[0] - both[1]}
    returns = {name: bootstrap_interval(found, seed=seeds[0]).to_json() for name, found in named.items()}
    return steps, np.concatenate(played.observations), returns


def _worst_states(
    float_policy: Policy, quantized_policy: Policy, policy: IntegerPolicy, head: Head, steps: Steps
) -> Any:
    if isinstance(head, BoxHead):
        return worst_states(steps, span=(np.array(head.high) - np.array(head.low)).reshape(head.shape))
    assert isinstance(head, DiscreteHead)
    return worst_states(
        steps,
        float_outputs=float_policy.outputs if isinstance(float_policy, ScoringPolicy) else None,
        quantized_outputs=quantized_policy.outputs if isinstance(quantized_policy, ScoringPolicy) else None,
        quantization_step=policy.network.tensors[policy.network.outputs[0]].scale,
        first_action=head.start,
    )


def _blame(
    quantized: QuantizedPolicy, make_env: MakeEnv, seeds: range, progress: Callable[[int, int], None]
) -> Any:
    pair = NetworkPair(quantized.float_tflite, quantized.tflite)
    return blame(pair, quantized.head, make_env, seeds=seeds, progress=progress)


class _Sections:
    """Makes the sections of a diagnosis, or says in a sentence why one cannot be made."""

    def __init__(self, without: Collection[str], *, has_environment: bool) -> None:
        self._without, self._has_environment = without, has_environment

    def section(
        self, name: str, make: Callable[[], Any], *, needs_environment: bool = True
    ) -> dict[str, Any]:
        """Return what `make().to_json()` gives."""
        if name in self._without:
            return {"unavailable": _LEFT_OUT}
        if needs_environment and not self._has_environment:
            return {"unavailable": _NO_ENVIRONMENT}
        try:
            found: dict[str, Any] = make().to_json()
        except (DataError, UnsupportedOperatorError, UsageError) as error:
            return {"unavailable": str(error)}
        return found


def _stated(make_env: MakeEnv | None) -> MakeEnv:
    assert make_env is not None
    return make_env
